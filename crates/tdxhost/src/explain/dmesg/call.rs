//! SEAMCALLs in log lines, in every shape that kernels and hypervisors print.
//!
//! - `SEAMCALL (0x0000000000000021) failed: 0xc000…`, registers in the lines after it (Linux 6.8 to 7.3)
//! - the same with ` RCX 0x… RDX 0x… R8 0x…` behind it (KVM before it was merged)
//! - `SEAMCALL TDH_MNG_INIT failed: 0xc000…, rcx 0x…` (KVM since 6.16)
//! - `SEAMCALL failed: CPU 94: leaf 33, error 0xc000….` and `additional output: rcx 0x0, …` (before 6.8)
//! - `TDH.MNG.INIT failed with status: 0xc000…` (other hypervisors)

use tdx_abi::leaf::LeafWord;

use crate::explain::registers::CallRegisters;
use crate::explain::words::named_seamcall;

/// A failed SEAMCALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) leaf: Option<LeafWord>,
    pub(super) result: CallResult,
    pub(super) cpu: Option<u64>,
    pub(super) registers: CallRegisters,
}

/// What the line says the call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallResult {
    /// RAX.
    Status(u64),
    /// A negative error number of the kernel.
    Errno(u64),
}

/// What the next number is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Unsaid,
    Cpu,
    Leaf,
    Result,
    Register,
}

enum Number {
    Plain(u64),
    Negative(u64),
}

/// The words of a line: letters, digits and what joins them in names and numbers.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))
        .map(|word| word.trim_end_matches(['.', '-']).trim_start_matches('.'))
        .filter(|word| !word.is_empty())
}

fn parse_number(word: &str) -> Option<Number> {
    if let Some(digits) = word.strip_prefix('-') {
        return digits.parse().ok().map(Number::Negative);
    }
    if let Some(digits) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok().map(Number::Plain);
    }
    // A word of RAX as some tools print it.
    if word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return u64::from_str_radix(word, 16).ok().map(Number::Plain);
    }
    word.parse().ok().map(Number::Plain)
}

/// A leaf by a name with its parts, so that plain words such as `info` are none.
fn named_leaf(word: &str) -> Option<LeafWord> {
    if word.contains(['.', '_']) { named_seamcall(word, false) } else { None }
}

/// The call that a line reports.
pub(super) fn parse(line: &str) -> Option<Call> {
    let mut said = false;
    let mut failed = false;
    let mut next = Next::Unsaid;
    let mut leaf = None;
    let mut result = None;
    let mut cpu = None;
    let mut registers = CallRegisters::default();
    let mut register = String::new();
    for word in words(line) {
        if !said {
            // What stands in front is a time, a host or a module name.
            if word.eq_ignore_ascii_case("seamcall") {
                said = true;
            } else if let Some(named) = named_leaf(word) {
                said = true;
                leaf = Some(named);
            }
            continue;
        }
        if let Some(number) = parse_number(word) {
            match (next, number) {
                (Next::Cpu, Number::Plain(value)) => cpu = Some(value),
                (Next::Leaf, Number::Plain(value)) => leaf = Some(LeafWord::from_raw(value)),
                (Next::Register, Number::Plain(value)) => {
                    if let Some(slot) = registers.slot(&register) {
                        *slot = Some(value);
                    }
                }
                (Next::Unsaid, Number::Plain(value)) if leaf.is_none() && !failed => {
                    leaf = Some(LeafWord::from_raw(value));
                }
                (Next::Result, Number::Negative(value)) => result = result.or(Some(CallResult::Errno(value))),
                // No status fits 32 bits: smaller numbers count or name something.
                (Next::Result, Number::Plain(value)) if value >> 32 != 0 => {
                    result = result.or(Some(CallResult::Status(value)));
                }
                _ => {}
            }
            next = Next::Unsaid;
            continue;
        }
        match word.to_ascii_lowercase().as_str() {
            "cpu" => next = Next::Cpu,
            "leaf" => next = Next::Leaf,
            "failed" | "fail" | "failure" | "error" | "err" | "status" | "returned" | "returns" | "rax" => {
                failed = true;
                next = Next::Result;
            }
            name if registers.slot(name).is_some() => {
                name.clone_into(&mut register);
                next = Next::Register;
            }
            _ => {
                if leaf.is_none() {
                    leaf = named_leaf(word);
                }
            }
        }
    }
    result.map(|result| Call { leaf, result, cpu, registers })
}

/// The registers of a line that holds nothing else, as it follows a failed SEAMCALL.
pub(super) fn parse_registers(line: &str) -> Option<CallRegisters> {
    let mut registers = CallRegisters::default();
    let mut register: Option<&str> = None;
    for word in words(line) {
        if let Some(name) = register.take() {
            if let Some(Number::Plain(value)) = parse_number(word) {
                if let Some(slot) = registers.slot(name) {
                    *slot = Some(value);
                }
                continue;
            }
            return None;
        }
        if registers.slot(word).is_some() {
            register = Some(word);
            continue;
        }
        // Dumps of an oops have registers that SEAMCALL does not print.
        let lower = word.to_ascii_lowercase();
        let other =
            ["rax", "rbx", "rsi", "rdi", "rbp", "rsp", "rip", "r12", "r13", "r14", "r15", "cs", "dr0"];
        if other.contains(&lower.as_str()) {
            return None;
        }
    }
    (!registers.is_empty()).then_some(registers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_abi::leaf::{SeamcallLeaf, SeamldrLeaf};

    fn status(line: &str) -> (Option<LeafWord>, CallResult) {
        let call = parse(line).expect("a call");
        (call.leaf, call.result)
    }

    #[test]
    fn every_shape_gives_leaf_and_status() {
        let init = Some(LeafWord::module(SeamcallLeaf::SYS_INIT, 0));
        let tsx = CallResult::Status(0xc000_0921_0000_0122);
        for line in [
            "[    7.59] tdx: SEAMCALL failed: CPU 94: leaf 33, error 0xc000092100000122.",
            "virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000092100000122",
            "SEAMCALL (33) failed: 0xc000092100000122",
            "SEAMCALL leaf 33 returned error 0xc000092100000122",
            "kvm_intel: SEAMCALL TDH_SYS_INIT failed: 0xc000092100000122",
            "SEAMCALL[TDH.SYS.INIT] failed with status c000092100000122",
            "vmkernel: cpu25:2100108) TDH.SYS.INIT failed with status: 0xc000092100000122",
        ] {
            assert_eq!(status(line), (init, tsx), "{line}");
        }
    }

    #[test]
    fn registers_of_the_same_line_belong_to_the_call() {
        let call = parse(
            "[  261.2] SEAMCALL (0x000000000000001c) failed: 0xc000030000000001 RCX 0x1 RDX 0x2 R8 0x3 R9 \
             0x4 R10 0x5 R11 0x6",
        )
        .expect("a call");
        assert_eq!(call.registers, CallRegisters::in_order(&[1, 2, 3, 4, 5, 6]));
        let call = parse("SEAMCALL TDH_MNG_INIT failed: 0xc000010000000045, rcx 0x7").expect("a call");
        assert_eq!(call.registers.rcx, Some(7));
        assert_eq!(call.leaf, Some(LeafWord::module(SeamcallLeaf::MNG_INIT, 0)));
    }

    #[test]
    fn cpu_numbers_and_error_numbers_are_no_status() {
        let call = parse("SEAMCALL failed: CPU 94: leaf 33, error 0xc000092100000122.").expect("a call");
        assert_eq!(call.cpu, Some(94));
        assert_eq!(status("SEAMCALL (33) failed: -5").1, CallResult::Errno(5));
    }

    #[test]
    fn calls_to_the_loader_keep_bit_63() {
        let (leaf, result) = status("seamldr: SEAMCALL (0x8000000000000001) failed: 0x8000000000020001");
        assert_eq!(leaf, Some(LeafWord::seamldr(SeamldrLeaf::INSTALL)));
        assert_eq!(result, CallResult::Status(0x8000_0000_0002_0001));
    }

    #[test]
    fn a_line_without_a_result_is_no_call() {
        for line in [
            "SEAMCALL failed: CPU 3 is not in VMX operation.",
            "usb 1-1: error -71",
            "",
            "SEAMCALL",
            "tdh_x failed",
            "tdh_mng_key_freeid() failed. HKID 35 is leaked.",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn register_lines_are_told_from_dumps_of_an_oops() {
        assert_eq!(
            parse_registers("virt/tdx: RCX 0x0000000000000000 RDX 0x9100000100000008 R08 0x0000000000000000"),
            Some(CallRegisters::in_order(&[0, 0x9100_0001_0000_0008, 0]))
        );
        assert_eq!(
            parse_registers("tdx: additional output: rcx 0x0, rdx 0x1, r8 0x2, r9 0x3, r10 0x4, r11 0x5."),
            Some(CallRegisters::in_order(&[0, 1, 2, 3, 4, 5]))
        );
        for line in [
            "RDX: 0000000000000000 RSI: ffff RDI: 1",
            "R10: 0000000000000001 R11: 0000000000000246 R12: 0000000000000000",
            "RAX: 0000000000000000 RBX: 0 RCX: 0000000000000000",
            "nothing here",
            "rcx",
        ] {
            assert_eq!(parse_registers(line), None, "{line}");
        }
    }
}
