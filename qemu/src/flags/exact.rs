//! Flags through functions of QEMU that are no interface: `helper_write_eflags` on the vCPU's
//! environment. They are used only where a trial shows that they do what this module takes them for.
#![allow(unsafe_code)]

use std::ffi::c_void;

use crate::api::{Lookup, OnVcpu, process_symbol};
use crate::cpu::{Flags, Gpr, Vcpu};
use crate::vcpu::QemuVcpu;

const CF: u64 = 1;
const ZF: u64 = 1 << 6;
/// OF, SF, ZF, AF, PF and CF: those that instructions of VMX define.
const ARITHMETIC: u64 = 0x8D5;
/// The direction flag, which QEMU keeps apart and sets along with the arithmetic ones.
const DF: u64 = 1 << 10;

/// Vector of #GP.
const GENERAL_PROTECTION: i32 = 13;

/// The object of a vCPU is larger than what is looked at; a larger one is not searched further.
const SEARCHED: usize = 64 << 10;

type WriteEflags = unsafe extern "C" fn(*mut c_void, u64, u32);
type ReadEflags = unsafe extern "C" fn(*mut c_void) -> u64;
type RaiseException = unsafe extern "C" fn(*mut c_void, i32, i32) -> !;

/// The environment of a vCPU, which begins with its sixteen registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Environment(usize);

impl Environment {
    /// Reads a register of the vCPU whose callback runs: a tenth of the time that the interface
    /// takes.
    pub(crate) fn gpr(self, _inside: OnVcpu<'_>, gpr: Gpr) -> u64 {
        // SAFETY: found by comparing the sixteen registers that it begins with; on the vCPU's
        // thread, inside a callback, QEMU keeps registers nowhere else.
        unsafe { (self.0 as *const u64).add(gpr as usize).read() }
    }

    /// Reads all sixteen at once.
    pub(crate) fn gprs(self, _inside: OnVcpu<'_>) -> [u64; 16] {
        // SAFETY: as above.
        unsafe { (self.0 as *const [u64; 16]).read() }
    }

    /// Writes a register of the vCPU whose callback runs.
    pub(crate) fn set_gpr(self, _inside: OnVcpu<'_>, gpr: Gpr, value: u64) {
        // SAFETY: as above, and tried out by `is_written_through`.
        unsafe { (self.0 as *mut u64).add(gpr as usize).write(value) }
    }

    /// True if what is written here is what the interface reads.
    fn is_written_through(self, vcpu: &QemuVcpu<'_>) -> bool {
        Gpr::ALL.into_iter().all(|gpr| {
            let value = vcpu.gpr(gpr);
            self.set_gpr(vcpu.inside(), gpr, !value);
            let seen = vcpu.gpr(gpr);
            self.set_gpr(vcpu.inside(), gpr, value);
            seen == !value && vcpu.gpr(gpr) == value
        })
    }
}

/// The functions, and where the environment lies in the object of a vCPU.
#[derive(Debug)]
pub(crate) struct Helpers {
    write: WriteEflags,
    read: ReadEflags,
    raise: Option<RaiseException>,
    /// Of the environment in the object of a vCPU, in bytes.
    offset: usize,
    /// Of the instruction pointer in the environment, in bytes.
    rip: Option<usize>,
}

impl Helpers {
    /// Looks for everything and tries it out on the calling thread's vCPU, whose arithmetic flags
    /// are lost by it.
    pub(crate) fn try_out(vcpu: &QemuVcpu<'_>) -> Option<Self> {
        let object = Object::current(process_symbol)?;
        let (words, gprs) = (object.words(), vcpu.gprs());
        let offset = only_match(&words, &gprs)? * size_of::<u64>();
        let behind = words.get(offset / size_of::<u64>()..)?;
        let rip = only_value(behind, gprs.len()..64, vcpu.read(vcpu.registers().rip));
        let helpers = Self::resolve(process_symbol, offset, rip.map(|word| word * size_of::<u64>()))?;
        // SAFETY: the environment was found in this vCPU's object, by its registers.
        unsafe { helpers.keeps_its_word(Environment(object.start + offset)) }.then_some(helpers)
    }

    fn resolve(lookup: Lookup, offset: usize, rip: Option<usize>) -> Option<Self> {
        let write = lookup(c"helper_write_eflags");
        let read = lookup(c"helper_read_eflags");
        let raise = lookup(c"raise_exception_err");
        if write.is_null() || read.is_null() {
            return None;
        }
        // SAFETY: QEMU's own functions of these names; `keeps_its_word` and the search for the
        // registers show that they take an environment.
        let (write, read) = unsafe {
            (
                std::mem::transmute::<*mut c_void, WriteEflags>(write),
                std::mem::transmute::<*mut c_void, ReadEflags>(read),
            )
        };
        let raise = (!raise.is_null()).then(|| {
            // SAFETY: as above.
            unsafe { std::mem::transmute::<*mut c_void, RaiseException>(raise) }
        });
        Some(Self { write, read, raise, offset, rip })
    }

    /// The environment of the calling thread's vCPU, if it is where it was on the first one.
    pub(crate) fn environment(&self, vcpu: &QemuVcpu<'_>) -> Option<Environment> {
        let object = Object::current(process_symbol)?;
        let gprs = vcpu.gprs();
        let there = object.words().get(self.offset / size_of::<u64>()..)?.starts_with(&gprs);
        let environment = Environment(object.start + self.offset);
        (there && environment.is_written_through(vcpu)).then_some(environment)
    }

    /// Writes CF and ZF, clears the other arithmetic flags and leaves the rest.
    pub(crate) fn write(&self, environment: Environment, flags: Flags) {
        let value = if flags.cf { CF } else { 0 } | if flags.zf { ZF } else { 0 };
        // SAFETY: the environment is that of the calling thread's vCPU; QEMU stores its registers
        // in it before a callback and loads them behind it.
        unsafe { self.write_arithmetic(environment, value) }
    }

    /// True if every pattern that is written is what QEMU then computes for the guest.
    ///
    /// # Safety
    ///
    /// As [`write_arithmetic`](Self::write_arithmetic).
    unsafe fn keeps_its_word(&self, environment: Environment) -> bool {
        [ARITHMETIC, 0, CF, ZF, CF | ZF, 0].into_iter().all(|pattern| {
            // SAFETY: by contract.
            unsafe {
                self.write_arithmetic(environment, pattern);
                (self.read)(environment.0 as *mut c_void) & ARITHMETIC == pattern
            }
        })
    }

    /// # Safety
    ///
    /// The environment is that of the calling thread's vCPU, inside a callback that may write
    /// registers.
    unsafe fn write_arithmetic(&self, environment: Environment, flags: u64) {
        let environment = environment.0 as *mut c_void;
        // SAFETY: by contract. A mask of 0 leaves all flags alone that are not arithmetic.
        unsafe {
            let direction = (self.read)(environment) & DF;
            (self.write)(environment, flags | direction, 0);
        }
    }

    /// What raises #GP with error code 0 at `rip` on this vCPU, if this build of QEMU can, and if its
    /// instruction pointer, which the interface says is `now`, is where it was on the first one.
    pub(crate) fn general_protection(&self, environment: Environment, now: u64, rip: u64) -> Option<Raise> {
        let (function, rip_at) = (self.raise?, environment.0 + self.rip?);
        // SAFETY: in the object of this vCPU, a few words behind its registers.
        let there = unsafe { (rip_at as *const u64).read() } == now;
        there.then_some(Raise { function, environment: environment.0, rip_at, rip })
    }
}

/// An exception that is about to be raised. Plain data: raising it leaves by a long jump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raise {
    function: RaiseException,
    environment: usize,
    rip_at: usize,
    rip: u64,
}

impl Raise {
    /// Raises the exception. Does not return, and nothing on the stack of the caller is dropped.
    ///
    /// # Safety
    ///
    /// On the thread and in the callback that this was made in, with no destructor left to run.
    pub(crate) unsafe fn now(self) -> ! {
        // SAFETY: the place of the instruction pointer was found by its value, in the environment
        // of this vCPU; QEMU reads it there when it delivers the exception.
        unsafe {
            (self.rip_at as *mut u64).write(self.rip);
            (self.function)(self.environment as *mut c_void, GENERAL_PROTECTION, 0)
        }
    }
}

/// The object of the calling thread's vCPU, in words.
struct Object {
    start: usize,
    words: usize,
}

impl Object {
    fn current(lookup: Lookup) -> Option<Self> {
        // A variable of each thread: the look-up answers with the address of this thread's.
        let current_cpu = lookup(c"current_cpu").cast::<*mut c_void>();
        if current_cpu.is_null() {
            return None;
        }
        // SAFETY: QEMU's own variable of that name, a pointer.
        let object = unsafe { current_cpu.read() };
        if object.is_null() {
            return None;
        }
        // SAFETY: the variable points to the start of an object, which QEMU has from malloc.
        let size = unsafe { libc::malloc_usable_size(object) };
        Some(Self { start: object as usize, words: size.min(SEARCHED) / size_of::<u64>() })
    }

    /// What is in it now. Only this thread, which is in a callback, writes the registers; what other
    /// threads write meanwhile is not looked for.
    fn words(&self) -> Vec<u64> {
        let start = self.start as *const u64;
        // SAFETY: within the allocation. Volatile, one word at a time: others may change under it.
        (0..self.words).map(|word| unsafe { start.add(word).read_volatile() }).collect()
    }
}

/// Where `wanted` stands in `words`, if in one place only.
fn only_match(words: &[u64], wanted: &[u64; 16]) -> Option<usize> {
    if wanted.iter().all(|&word| word == 0) {
        return None;
    }
    let mut found = words.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted);
    let (position, _) = found.next()?;
    found.next().is_none().then_some(position)
}

/// Which of the words in `range` is `value`, if only one.
fn only_value(words: &[u64], range: std::ops::Range<usize>, value: u64) -> Option<usize> {
    let mut found = range.filter(|&word| words.get(word) == Some(&value));
    let position = found.next()?;
    (value != 0 && found.next().is_none()).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPRS: [u64; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

    #[test]
    fn the_registers_are_found_only_where_they_stand_once() {
        let mut words = vec![0; 100];
        assert_eq!(only_match(&words, &GPRS), None);
        assert_eq!(only_match(&words, &[0; 16]), None, "zeros are everywhere");
        words[40..56].copy_from_slice(&GPRS);
        assert_eq!(only_match(&words, &GPRS), Some(40));
        words[60..76].copy_from_slice(&GPRS);
        assert_eq!(only_match(&words, &GPRS), None);
    }

    #[test]
    fn the_instruction_pointer_is_found_only_where_its_value_stands_once() {
        let mut words = vec![0; 64];
        words[32] = 0xffff_ffff_8100_0000;
        assert_eq!(only_value(&words, 16..64, 0xffff_ffff_8100_0000), Some(32));
        assert_eq!(only_value(&words, 33..64, 0xffff_ffff_8100_0000), None);
        assert_eq!(only_value(&words, 16..64, 0), None);
        words[50] = 0xffff_ffff_8100_0000;
        assert_eq!(only_value(&words, 16..64, 0xffff_ffff_8100_0000), None);
    }

    /// An environment of two words: flags as they are to be, and what the functions make of them.
    fn trial(write: WriteEflags) -> bool {
        unsafe extern "C" fn read(environment: *mut c_void) -> u64 {
            // SAFETY: the array below.
            unsafe { environment.cast::<u64>().read() }
        }
        let mut environment = [DF | 2; 2];
        let helpers = Helpers { write, read, raise: None, offset: 0, rip: None };
        let at = Environment(environment.as_mut_ptr() as usize);
        // SAFETY: both functions take a pointer to one word.
        let kept = unsafe { helpers.keeps_its_word(at) };
        kept && environment[0] & DF != 0
    }

    #[test]
    fn functions_that_write_the_flags_pass_the_trial_and_keep_the_direction() {
        unsafe extern "C" fn write(environment: *mut c_void, flags: u64, _mask: u32) {
            // SAFETY: the array of the trial.
            unsafe { environment.cast::<u64>().write(flags | 2) }
        }
        assert!(trial(write));
    }

    #[test]
    fn functions_that_lose_a_flag_or_do_nothing_fail_the_trial() {
        unsafe extern "C" fn loses_zf(environment: *mut c_void, flags: u64, _mask: u32) {
            // SAFETY: the array of the trial.
            unsafe { environment.cast::<u64>().write(flags & !ZF) }
        }
        unsafe extern "C" fn nothing(_environment: *mut c_void, _flags: u64, _mask: u32) {}
        assert!(!trial(loses_zf));
        assert!(!trial(nothing));
    }

    #[test]
    fn an_exception_is_raised_only_where_the_instruction_pointer_is_found_again() {
        unsafe extern "C" fn write(_: *mut c_void, _: u64, _: u32) {}
        unsafe extern "C" fn read(_: *mut c_void) -> u64 {
            0
        }
        unsafe extern "C" fn raise(_: *mut c_void, _: i32, _: i32) -> ! {
            std::process::abort()
        }
        let environment = [0, 0x1000_u64];
        let at = Environment(environment.as_ptr() as usize);
        let helpers = Helpers { write, read, raise: Some(raise), offset: 0, rip: Some(8) };
        assert!(helpers.general_protection(at, 0x1000, 0x1010).is_some_and(|raise| raise.rip == 0x1010));
        assert!(helpers.general_protection(at, 0x2000, 0x2010).is_none());
        assert!(Helpers { rip: None, ..helpers }.general_protection(at, 0x1000, 0x1010).is_none());
    }

    #[test]
    fn nothing_is_resolved_where_a_symbol_is_missing() {
        assert!(Helpers::resolve(|_| std::ptr::null_mut(), 0, None).is_none());
        assert!(Object::current(|_| std::ptr::null_mut()).is_none());
    }
}
