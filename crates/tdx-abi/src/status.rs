//! Completion status: what a call returns in RAX.

mod detail;
#[cfg(test)]
mod tests;

pub use crate::generated::exit_reason::ExitReason;
pub use crate::generated::operand::OperandId;
pub use crate::generated::status::{SeamldrStatus, StatusCode, VmcallStatus};
pub use detail::{Detail, DetailKind};

use crate::generated::operand::MEANINGS;
use crate::generated::status::{CLASSES, SEAMLDR, STATUS, VMCALL};
use crate::leaf::Basis;
use core::fmt;

/// Who can change something about a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller passed something wrong or called at the wrong time.
    Caller,
    /// The object that the call names is in another state than needed.
    Object,
    /// The machine: CPU, memory or devices.
    Platform,
    /// BIOS, microcode or a loaded image.
    Firmware,
    /// Nobody: information, or a passing condition.
    Nobody,
}

/// What is known of a status code.
#[derive(Clone, Copy, Debug)]
pub struct StatusInfo {
    /// The code.
    pub code: StatusCode,
    /// Its name, such as "TDX_SYS_BUSY".
    pub name: &'static str,
    /// One sentence on what happened.
    pub meaning: &'static str,
    /// Who can change something.
    pub blame: Blame,
    /// One sentence on what to try.
    pub advice: &'static str,
    /// What bits 31:0 hold.
    pub detail: DetailKind,
    /// First release line known to have the code.
    pub since: &'static str,
    /// How well the number is known.
    pub basis: Basis,
    /// Name in the interface of 2023, if it differs.
    pub legacy_name: Option<&'static str>,
    /// Other meanings of the same number.
    pub also: &'static [StatusAlias],
}

impl StatusInfo {
    /// The class of the code.
    pub const fn class(&self) -> StatusClass {
        Status(self.code.0).class()
    }
}

/// Another meaning of the number of a status code.
#[derive(Clone, Copy, Debug)]
pub struct StatusAlias {
    /// Name there.
    pub name: &'static str,
    /// Releases that mean it.
    pub since: &'static str,
    /// Meaning there.
    pub meaning: &'static str,
}

/// What is known of a code without a detail.
#[derive(Clone, Copy, Debug)]
pub struct CodeInfo<C: 'static> {
    /// The code.
    pub code: C,
    /// Its name.
    pub name: &'static str,
    /// One sentence on what happened.
    pub meaning: &'static str,
    /// Who can change something.
    pub blame: Blame,
    /// One sentence on what to try.
    pub advice: &'static str,
}

/// Class of a status: bits 47:40.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct StatusClass(pub u8);

impl StatusClass {
    /// Made by the host's own SEAMCALL wrapper, never by the module.
    pub const SOFTWARE: Self = Self(0xFF);

    /// What the codes of the class are about.
    pub fn name(self) -> Option<&'static str> {
        CLASSES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }
}

impl fmt::Display for StatusClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "class {:#x}", self.0),
        }
    }
}

/// A completion status word: RAX as a call to the TDX module left it.
///
/// Bits 31:0 detail, 39:32 code within the class, 47:40 class, 59:48 reserved, 60 host
/// recoverability hint, 61 fatal, 62 non-recoverable, 63 error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Status(u64);

impl Status {
    /// The call did what it was asked for.
    pub const SUCCESS: Self = Self(0);

    const DETAIL: u64 = 0xFFFF_FFFF;

    /// Any value of RAX.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The value of RAX.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The code: the word with the detail cleared. In the software class the low half tells codes
    /// apart, so that there the code is the whole word.
    pub const fn code(self) -> StatusCode {
        if self.class().0 == StatusClass::SOFTWARE.0 {
            StatusCode(self.0)
        } else {
            StatusCode(self.0 & !Self::DETAIL)
        }
    }

    /// Bits 47:40.
    pub const fn class(self) -> StatusClass {
        let [_, _, _, _, _, class, _, _] = self.0.to_le_bytes();
        StatusClass(class)
    }

    /// Bit 63: the call did not do what it was asked for.
    pub const fn is_error(self) -> bool {
        self.0 >> 63 & 1 != 0
    }

    /// Bit 62: the same call cannot succeed.
    pub const fn is_non_recoverable(self) -> bool {
        self.0 >> 62 & 1 != 0
    }

    /// Bit 61: the TD is dead.
    pub const fn is_fatal(self) -> bool {
        self.0 >> 61 & 1 != 0
    }

    /// Bit 60: the instruction completed as a trap; VP.ENTER may be called with the same hint.
    pub const fn host_recoverability_hint(self) -> bool {
        self.0 >> 60 & 1 != 0
    }

    /// An error after which the same call may succeed.
    pub const fn is_recoverable_error(self) -> bool {
        self.is_error() && !self.is_non_recoverable()
    }

    /// Bits 31:0, whatever they mean.
    pub const fn detail(self) -> u32 {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Bits 31:0 as the code defines them.
    pub fn decoded_detail(self) -> Detail {
        let kind = self.info().map_or(DetailKind::None, |info| info.detail);
        Detail::decode(kind, self.detail())
    }

    /// The operand that the status names, if its detail is an operand.
    pub fn operand(self) -> Option<OperandId> {
        match self.decoded_detail() {
            Detail::Operand(operand) => Some(operand),
            _ => None,
        }
    }

    /// True if the code is `code`, whatever the detail.
    pub const fn is(self, code: StatusCode) -> bool {
        self.code().0 == code.0
    }

    /// What is known of the code.
    pub fn info(self) -> Option<&'static StatusInfo> {
        self.code().info()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(info) = self.info() else {
            return write!(f, "{:#018x}", self.0);
        };
        write!(f, "{} ({:#018x})", info.name, self.0)?;
        match self.decoded_detail() {
            Detail::None => Ok(()),
            detail => write!(f, ": {detail}"),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StatusCode {
    /// The status with this detail. A software code has no detail and is returned as it is.
    pub const fn with_detail(self, detail: u32) -> Status {
        if self.plain().class().0 == StatusClass::SOFTWARE.0 {
            return self.plain();
        }
        Status(self.0 & !Status::DETAIL | detail as u64)
    }

    /// The status that names this operand.
    pub fn with_operand(self, operand: OperandId) -> Status {
        self.with_detail(u32::from(operand.0))
    }

    /// The status without a detail.
    pub const fn plain(self) -> Status {
        Status(self.0)
    }

    /// What is known of the code.
    pub fn info(self) -> Option<&'static StatusInfo> {
        let index = STATUS.binary_search_by_key(&self, |info| info.code).ok()?;
        STATUS.get(index)
    }

    /// The code with this name, without regard to case, with or without "TDX_". Where releases
    /// use a name for different numbers, the newest one is found.
    pub fn from_name(name: &str) -> Option<Self> {
        const PREFIX: &str = "TDX_";
        let same = |known: &str| {
            known.eq_ignore_ascii_case(name)
                || known.get(PREFIX.len()..).is_some_and(|rest| rest.eq_ignore_ascii_case(name))
        };
        let named = |info: &&StatusInfo| {
            same(info.name)
                || info.legacy_name.is_some_and(same)
                || info.also.iter().any(|also| same(also.name))
        };
        STATUS
            .iter()
            .filter(named)
            .find(|info| info.since != StatusInfo::ONLY_1_0)
            .or_else(|| STATUS.iter().find(named))
            .map(|info| info.code)
    }
}

impl StatusInfo {
    /// `since` of a code that ended with release line 1.0.
    pub const ONLY_1_0: &'static str = "1.0 only";
}

impl OperandId {
    /// What the operand is, in words.
    pub fn meaning(self) -> Option<&'static str> {
        MEANINGS.iter().find(|(id, _)| *id == self).map(|(_, meaning)| *meaning)
    }
}

impl SeamldrStatus {
    /// What is known of the code.
    pub fn info(self) -> Option<&'static CodeInfo<Self>> {
        SEAMLDR.iter().find(|info| info.code == self)
    }
}

impl VmcallStatus {
    /// What is known of the code.
    pub fn info(self) -> Option<&'static CodeInfo<Self>> {
        VMCALL.iter().find(|info| info.code == self)
    }
}
