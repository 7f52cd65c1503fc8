//! Registers that a call returned beside RAX, and what some statuses say in them.

use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::metadata::FieldId;
use tdx_abi::pamt::PageType;
use tdx_abi::status::{OperandId, Status, StatusCode};

use super::explanation::Explanation;
use super::field;

/// The registers that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the hardware's own.
pub struct CallRegisters {
    pub rcx: Option<u64>,
    pub rdx: Option<u64>,
    pub r8: Option<u64>,
    pub r9: Option<u64>,
    pub r10: Option<u64>,
    pub r11: Option<u64>,
}

impl CallRegisters {
    /// Registers in the order in which kernels print them: RCX RDX R8 R9 R10 R11.
    pub fn in_order(values: &[u64]) -> Self {
        let at = |index| values.get(index).copied();
        Self { rcx: at(0), rdx: at(1), r8: at(2), r9: at(3), r10: at(4), r11: at(5) }
    }

    /// The slot of a register by its name, in either case, `r08` like `r8`.
    pub fn slot(&mut self, name: &str) -> Option<&mut Option<u64>> {
        let slot = match name.to_ascii_lowercase().as_str() {
            "rcx" => &mut self.rcx,
            "rdx" => &mut self.rdx,
            "r8" | "r08" => &mut self.r8,
            "r9" | "r09" => &mut self.r9,
            "r10" => &mut self.r10,
            "r11" => &mut self.r11,
            _ => return None,
        };
        Some(slot)
    }

    /// True if none is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What `other` knows is taken over.
    pub fn merge(&mut self, other: Self) {
        self.rcx = other.rcx.or(self.rcx);
        self.rdx = other.rdx.or(self.rdx);
        self.r8 = other.r8.or(self.r8);
        self.r9 = other.r9.or(self.r9);
        self.r10 = other.r10.or(self.r10);
        self.r11 = other.r11.or(self.r11);
    }
}

/// Adds what the registers say beside `status` of `leaf`.
pub(super) fn explain(
    explanation: &mut Explanation,
    leaf: Option<SeamcallLeaf>,
    status: Status,
    registers: &CallRegisters,
) {
    match status.code() {
        StatusCode::INCORRECT_CPUID_VALUE | StatusCode::INCONSISTENT_CPUID_FIELD => {
            cpuid(explanation, status, registers);
        }
        StatusCode::OPERAND_INVALID if status.operand() == Some(OperandId::CPUID_CONFIG) => {
            if let Some(rcx) = registers.rcx {
                explanation.fact("registers", format!("RCX: the entry of {}", cpuid_leaf(rcx)));
            }
        }
        code if is_metadata(code) || is_metadata_leaf(leaf) => metadata(explanation, leaf, registers),
        StatusCode::PAGE_METADATA_INCORRECT if leaf == Some(SeamcallLeaf::PHYMEM_PAGE_RECLAIM) => {
            page(explanation, registers);
        }
        _ => {}
    }
}

/// CPUID leaf in bits 31:0, subleaf in bits 63:32.
fn cpuid_leaf(rcx: u64) -> String {
    let (leaf, subleaf) = halves(rcx);
    if subleaf == u32::MAX {
        return format!("CPUID leaf {leaf:#x}");
    }
    format!("CPUID leaf {leaf:#x}, subleaf {subleaf:#x}")
}

/// Bits 31:0 and 63:32.
fn halves(value: u64) -> (u32, u32) {
    // Both parts are cut to 32 bits on purpose.
    #[allow(clippy::cast_possible_truncation)]
    (value as u32, (value >> 32) as u32)
}

fn cpuid(explanation: &mut Explanation, status: Status, registers: &CallRegisters) {
    let (Some(rcx), Some(rdx), Some(r8)) = (registers.rcx, registers.rdx, registers.r8) else {
        explanation.fact(
            "registers",
            "not given; RCX would tell CPUID leaf and subleaf, RDX and R8 the bits that matter, R9 and R10 \
             what they should be",
        );
        return;
    };
    let (mask_a, mask_b) = halves(rdx);
    let (mask_c, mask_d) = halves(r8);
    let masks = [("EAX", mask_a), ("EBX", mask_b), ("ECX", mask_c), ("EDX", mask_d)];
    let expected = match (registers.r9, registers.r10) {
        (Some(r9), Some(r10)) if status.is(StatusCode::INCORRECT_CPUID_VALUE) => {
            let ((a, b), (c, d)) = (halves(r9), halves(r10));
            Some([a, b, c, d])
        }
        _ => None,
    };
    if rcx == 0 && rdx == 0 && r8 == 0 {
        explanation.fact("registers", "all 0: the kernel did not pass on what the module returned");
        return;
    }
    let checked: Vec<String> = masks
        .iter()
        .enumerate()
        .filter(|(_, (_, mask))| *mask != 0)
        .map(|(index, (name, mask))| match expected.and_then(|values| values.get(index).copied()) {
            Some(value) => format!("{name} & {mask:#x} should be {:#x}", value & mask),
            None => format!("{name} & {mask:#x}"),
        })
        .collect();
    let checked = if checked.is_empty() { "no bits named".to_owned() } else { checked.join(", ") };
    explanation.fact("registers", format!("{}: {checked}", cpuid_leaf(rcx)));
}

fn is_metadata(code: StatusCode) -> bool {
    code.plain().class().0 == StatusCode::METADATA_FIELD_ID_INCORRECT.plain().class().0
}

fn is_metadata_leaf(leaf: Option<SeamcallLeaf>) -> bool {
    const LEAVES: [SeamcallLeaf; 5] = [
        SeamcallLeaf::SYS_RD,
        SeamcallLeaf::MNG_RD,
        SeamcallLeaf::MNG_WR,
        SeamcallLeaf::VP_RD,
        SeamcallLeaf::VP_WR,
    ];
    leaf.is_some_and(|leaf| LEAVES.contains(&leaf))
}

fn metadata(explanation: &mut Explanation, leaf: Option<SeamcallLeaf>, registers: &CallRegisters) {
    let Some(rdx) = registers.rdx else { return };
    let id = FieldId::from_raw(rdx);
    if id.is_null() {
        explanation
            .fact("field", "RDX is all ones, as the module leaves it on an error: the id asked for is lost");
        return;
    }
    // A call for one element finds the field by its own context, whatever the id says.
    let id = match leaf {
        Some(SeamcallLeaf::MNG_RD | SeamcallLeaf::MNG_WR) => id.with_context(tdx_abi::metadata::Context::TD),
        Some(SeamcallLeaf::VP_RD | SeamcallLeaf::VP_WR) => id.with_context(tdx_abi::metadata::Context::VP),
        _ => id,
    };
    explanation.fact("field", field::in_words(id));
}

fn page(explanation: &mut Explanation, registers: &CallRegisters) {
    if let (Some(kind), Some(owner), Some(level)) = (registers.rcx, registers.rdx, registers.r8) {
        let Ok(kind) = u8::try_from(kind) else { return };
        explanation
            .fact("registers", format!("page type {}, owner TDR {owner:#x}, level {level}", PageType(kind)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_named_as_kernels_print_them() {
        let mut registers = CallRegisters::default();
        for (name, value) in [("RCX", 1), ("rdx", 2), ("R08", 3), ("r9", 4), ("R10", 5), ("r11", 6)] {
            *registers.slot(name).expect("a register") = Some(value);
        }
        assert_eq!(registers, CallRegisters::in_order(&[1, 2, 3, 4, 5, 6]));
        assert!(registers.slot("rax").is_none());
    }

    #[test]
    fn merging_keeps_what_only_one_side_knows() {
        let mut first = CallRegisters::in_order(&[1, 2]);
        first.merge(CallRegisters { rdx: Some(7), r9: Some(9), ..CallRegisters::default() });
        assert_eq!((first.rcx, first.rdx, first.r9), (Some(1), Some(7), Some(9)));
        assert!(!first.is_empty() && CallRegisters::default().is_empty());
    }
}
