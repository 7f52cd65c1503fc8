//! Everything that can stand in the way of TDX Connect: each with a name, a sentence, the one to blame and
//! what to try.

use core::fmt;

use tdx_abi::PhysAddr;
use tdx_abi::metadata::FieldId;

use crate::error::{ERRORS, ErrorInfo, HostError, failures};
use crate::seamcall::SeamcallError;
use crate::traits::MemoryFault;

/// Words that keep any of the failures.
pub(super) const WORDS: usize = 8;

/// A value of a failure as words.
trait Words: Sized {
    fn put(self, place: &mut dyn FnMut(u64));
    fn get(next: &mut dyn FnMut() -> u64) -> Self;
}

impl Words for u64 {
    fn put(self, place: &mut dyn FnMut(u64)) {
        place(self);
    }
    fn get(next: &mut dyn FnMut() -> u64) -> Self {
        next()
    }
}

impl Words for u32 {
    fn put(self, place: &mut dyn FnMut(u64)) {
        place(u64::from(self));
    }
    fn get(next: &mut dyn FnMut() -> u64) -> Self {
        Self::try_from(next()).unwrap_or(Self::MAX)
    }
}

impl Words for PhysAddr {
    fn put(self, place: &mut dyn FnMut(u64)) {
        place(self.as_u64());
    }
    fn get(next: &mut dyn FnMut() -> u64) -> Self {
        Self::new(next())
    }
}

impl Words for FieldId {
    fn put(self, place: &mut dyn FnMut(u64)) {
        place(self.0);
    }
    fn get(next: &mut dyn FnMut() -> u64) -> Self {
        Self(next())
    }
}

impl Words for SeamcallError {
    fn put(self, place: &mut dyn FnMut(u64)) {
        self.to_words().into_iter().for_each(place);
    }
    fn get(next: &mut dyn FnMut() -> u64) -> Self {
        Self::from_words(core::array::from_fn(|_| next()))
    }
}

impl Words for KeypError {
    fn put(self, place: &mut dyn FnMut(u64)) {
        place(self as u64);
    }
    fn get(next: &mut dyn FnMut() -> u64) -> Self {
        let number = next();
        Self::ALL.into_iter().find(|error| *error as u64 == number).unwrap_or(Self::Malformed)
    }
}

/// The name of a failure of the host as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostFailure(u64);

impl HostFailure {
    /// Its row; `None` only for one of a table that is no more.
    pub fn info(self) -> Option<&'static ErrorInfo> {
        usize::try_from(self.0).ok().and_then(|row| ERRORS.get(row))
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().map_or("unknown", |info| info.name))
    }
}

impl Words for HostFailure {
    fn put(self, place: &mut dyn FnMut(u64)) {
        place(self.0);
    }
    fn get(next: &mut dyn FnMut() -> u64) -> Self {
        Self(next())
    }
}

impl From<HostError> for ConnectError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::NoMemory { bytes } => Self::NoMemory { bytes },
            HostError::MemoryAccessFailed {
                fault: MemoryFault::MachineCheck(address) | MemoryFault::NotMemory(address),
            } => Self::MemoryAccess { address },
            HostError::ModuleGone => Self::ModuleGone,
            other => {
                let row = ERRORS.iter().position(|info| info.name == other.name());
                Self::HostFailed { reason: HostFailure(row.map_or(u64::MAX, |row| row as u64)) }
            }
        }
    }
}

/// What is wrong with the KEYP table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KeypError {
    /// A length leaves the table, or a unit is shorter than its fields.
    #[error("a unit does not fit into the table")]
    Malformed = 0,
    /// Some root ports of a unit are below a host bridge and others are not.
    #[error("a unit has root ports below more than one host bridge, or outside of any")]
    PartialMatch = 1,
    /// Two units for one host bridge.
    #[error("two units are for one host bridge")]
    DoubleMatch = 2,
    /// The registers of a unit read as all ones.
    #[error("the registers of a unit do not answer")]
    NoAnswer = 3,
}

impl KeypError {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Malformed, Self::PartialMatch, Self::DoubleMatch, Self::NoAnswer];
}

macro_rules! connect_errors {
    ($(
        $(#[$meta:meta])*
        $variant:ident $({ $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })?
            = $name:literal, $blame:ident, $errno:ident,
            $sentence:literal,
            $advice:literal;
    )*) => {
        failures! {
            /// A failure of TDX Connect as a whole. TDX without it goes on.
            pub enum ConnectError;
            /// Every failure of TDX Connect as a whole.
            pub const CONNECT_ERRORS;
            $(
                $(#[$meta])*
                $variant $({ $($(#[$field_meta])* $field: $type,)* })?
                    = $name, $blame, $errno, $sentence, $advice;
            )*
        }

        impl ConnectError {
            fn put(self, place: &mut dyn FnMut(u64)) {
                match self {
                    $(Self::$variant $({ $($field,)* })? => { $($(Words::put($field, &mut *place);)*)? })*
                }
            }

            /// The failure of [`Self::to_words`].
            pub(super) fn from_words(words: [u64; WORDS]) -> Self {
                let mut rest = words.into_iter();
                let mut next = || rest.next().unwrap_or(0);
                let name = usize::try_from(next()).ok().and_then(|row| CONNECT_ERRORS.get(row));
                match name.map_or("", |info| info.name) {
                    $($name => Self::$variant $({ $($field: Words::get(&mut next),)* })?,)*
                    _ => Self::NotTried,
                }
            }
        }
    };
}

connect_errors! {
    /// The module is not up.
    NotTried = "connect-not-tried", Caller, ENODEV,
        "the TDX module is not initialised, and TDX Connect comes behind it",
        "bring the module up first";
    /// Everything is ready for the IOMMUs.
    NotStarted = "connect-not-started", Caller, ENODEV,
        "the module offers TDX Connect, and no IOMMU was taken into trusted mode yet",
        "load the tdx_host driver, which does it";
    /// The user wants it off.
    Disabled = "connect-disabled", Caller, EOPNOTSUPP,
        "TDX Connect was switched off by an option of this boot",
        "boot without the option";
    /// The module has none.
    NotOffered = "connect-not-offered", Module, EOPNOTSUPP,
        "the module lacks TDXCONNECT (TDX_FEATURES0 bit 6)",
        "load a module with TDX Connect at boot";
    /// The module has an interface from before the final one.
    TooOld {
        /// TDH.SYS.CONFIG version 1.
        error: SeamcallError,
    } = "connect-too-old", Module, EOPNOTSUPP,
        "the module is too old for Connect: it does not take the feature as it is asked for today ({error})",
        "load a newer module at boot; TDX without Connect works with this one";
    /// Private memory could be poisoned without notice.
    PartialWriteErratum = "connect-erratum", Platform, ENXIO,
        "this CPU has the partial-write machine check erratum, under which the module's extensions get no memory",
        "TDX Connect needs a CPU without the erratum";
    /// A field that Connect needs is missing.
    MetadataMissing {
        /// Which.
        field: FieldId,
        /// TDH.SYS.RD.
        error: SeamcallError,
    } = "connect-metadata-missing", Module, EIO,
        "the module does not tell {field}, which TDX Connect needs: {error}",
        "the module is at fault: replace it";
    /// A field has a value that cannot be.
    MetadataInvalid {
        /// Which.
        field: FieldId,
        /// Its value.
        value: u64,
    } = "connect-metadata-invalid", Module, EINVAL,
        "the module tells {value} for {field}, which cannot be",
        "the module is at fault: replace it";
    /// No memory for the extensions.
    NoMemory {
        /// Bytes that were not to be had.
        bytes: u64,
    } = "connect-no-memory", Host, ENOMEM,
        "no {bytes} bytes of memory are left, or only in too many pieces, for what TDX Connect gives to the module",
        "switch TDX Connect on early in the boot, while memory is whole";
    /// The module does not take its memory.
    PoolRefused {
        /// TDH.EXT.MEM.ADD, or the reading of what it needs.
        error: SeamcallError,
    } = "connect-pool-refused", Module, EIO,
        "the module does not take memory for its extensions: {error}",
        "the module is at fault: replace it; what it took already stays its own until the reset";
    /// The module takes memory and wants no less.
    PoolStuck {
        /// Pages that it wants.
        pages: u32,
    } = "connect-pool-stuck", Module, EIO,
        "the module took memory for its extensions and still wants {pages} pages, no fewer than before",
        "the module is at fault: replace it";
    /// The extensions do not start.
    ExtensionFailed {
        /// TDH.EXT.INIT.
        error: SeamcallError,
    } = "connect-extension-failed", Module, EIO,
        "the module's extensions do not start: {error}",
        "the module is at fault: replace it; TDX without Connect works";
    /// An access to memory failed.
    MemoryAccess {
        /// Where.
        address: PhysAddr,
    } = "connect-memory-access", Platform, EIO,
        "a page for TDX Connect at {address} cannot be written",
        "look for memory errors in the machine's log";
    /// A unit does not go into trusted mode.
    UnitFailed {
        /// Base of its registers.
        reg_base: PhysAddr,
        /// TDH.IOMMU.SETUP.
        error: SeamcallError,
    } = "connect-unit-failed", Platform, EIO,
        "the IOMMU at {reg_base} does not go into trusted mode: {error}",
        "IOMMUs must be in scalable mode with translation and queued invalidation on; remove `intel_iommu=off` and `intel_iommu=sm_off`, and update the BIOS";
    /// More units than there is room for.
    TooManyUnits {
        /// Room.
        limit: u32,
    } = "connect-too-many-units", Host, ENOSPC,
        "the machine has more than {limit} IOMMUs or host bridges, which is all that there is room for",
        "raise the limit of this build";
    /// No unit has trusted mode.
    NoUnits = "connect-no-units", Platform, ENODEV,
        "no IOMMU of the machine has trusted mode",
        "switch on TDX Connect in the BIOS setup; a platform without it cannot connect devices";
    /// Domain ids of the module's half are in use.
    DomainIdsInUse {
        /// Base of the unit's registers.
        reg_base: PhysAddr,
        /// The first of them.
        first: u32,
    } = "connect-domain-ids-in-use", Host, EBUSY,
        "domain id {first:#x} of the IOMMU at {reg_base} is in use, and the upper half of them is the module's",
        "switch TDX Connect on early in the boot, before so many domains exist";
    /// The KEYP table is no good.
    Keyp {
        /// What is wrong.
        reason: KeypError,
        /// Where in the table, in bytes.
        offset: u32,
    } = "connect-keyp", Platform, EINVAL,
        "the ACPI table KEYP cannot be right: {reason} (byte {offset})",
        "a firmware fault: update the BIOS";
    /// No stream can be made anywhere.
    NoStreams = "connect-no-streams", Platform, ENODEV,
        "no host bridge has a key configuration unit that TDs may use, by the ACPI table KEYP",
        "switch on TDX Connect and IDE in the BIOS setup";
    /// It works already.
    AlreadyOn = "connect-already-on", Caller, EBUSY,
        "TDX Connect works already",
        "take it down first";
    /// The module did not give back what it took.
    PagesKept {
        /// Pages that are missing.
        pages: u32,
    } = "connect-pages-kept", Module, EIO,
        "the module kept {pages} pages that it should have given back; nobody will use them again",
        "the module is at fault: replace it at the next boot";
    /// It was taken down in order.
    Stopped = "connect-stopped", Caller, ENODEV,
        "TDX Connect was taken down: its IOMMUs are out of trusted mode",
        "load the tdx_host driver again";
    /// A call outside of Connect failed on its way.
    HostFailed {
        /// Its failure.
        reason: HostFailure,
    } = "connect-host-failed", Host, EIO,
        "the host could not do its part: {reason}",
        "see what is said of that failure";
    /// An update brought a module that wants more memory.
    PoolTooSmall {
        /// Pages that it wants in addition.
        pages: u32,
    } = "connect-pool-too-small", Module, ENOMEM,
        "the new module wants {pages} pages more for its extensions, and none can be added behind an update",
        "connected devices are lost; reboot to have TDX Connect with this module";
    /// An update brought a module without the feature.
    FeatureLost = "connect-feature-lost", Module, EOPNOTSUPP,
        "the new module did not take TDX Connect over",
        "connected devices are lost; reboot with a module that has it, TDX without Connect works";
    /// An update left no module.
    ModuleGone = "connect-module-gone", Module, ENODEV,
        "the TDX module is gone, and connected devices with it",
        "power-cycle the machine";
}

impl ConnectError {
    /// The row's place and the values.
    pub(super) fn to_words(self) -> [u64; WORDS] {
        let row = CONNECT_ERRORS.iter().position(|info| info.name == self.name());
        let mut words = [0; WORDS];
        let mut places = words.iter_mut();
        let mut place = |word| {
            if let Some(place) = places.next() {
                *place = word;
            }
        };
        place(row.unwrap_or(0) as u64);
        self.put(&mut place);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seamcall::SeamcallCause;
    use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
    use tdx_abi::metadata::sys;
    use tdx_abi::status::StatusCode;

    #[test]
    fn words_keep_every_failure() {
        let error = SeamcallError {
            leaf: LeafWord::module(SeamcallLeaf::IOMMU_SETUP, 0),
            cause: SeamcallCause::Status(StatusCode::IOMMU_ECMD_ERROR.plain()),
            rcx: 5,
            rdx: 6,
        };
        let reg_base = PhysAddr::new(0xFED9_0000);
        let field = sys::EXT_REQUIRED;
        let all = [
            ConnectError::NotTried,
            ConnectError::NotStarted,
            ConnectError::Disabled,
            ConnectError::NotOffered,
            ConnectError::TooOld { error },
            ConnectError::PartialWriteErratum,
            ConnectError::MetadataMissing { field, error },
            ConnectError::MetadataInvalid { field, value: 9 },
            ConnectError::NoMemory { bytes: 4096 },
            ConnectError::PoolRefused { error },
            ConnectError::PoolStuck { pages: 3 },
            ConnectError::ExtensionFailed { error },
            ConnectError::MemoryAccess { address: reg_base },
            ConnectError::UnitFailed { reg_base, error },
            ConnectError::TooManyUnits { limit: 4 },
            ConnectError::NoUnits,
            ConnectError::DomainIdsInUse { reg_base, first: 0x8000 },
            ConnectError::Keyp { reason: KeypError::DoubleMatch, offset: 40 },
            ConnectError::NoStreams,
            ConnectError::AlreadyOn,
            ConnectError::PagesKept { pages: 2 },
            ConnectError::Stopped,
            ConnectError::from(HostError::NoCpuOnline),
            ConnectError::PoolTooSmall { pages: 12 },
            ConnectError::FeatureLost,
            ConnectError::ModuleGone,
        ];
        assert_eq!(all.len(), CONNECT_ERRORS.len());
        for (failure, row) in all.into_iter().zip(CONNECT_ERRORS) {
            assert_eq!(failure.name(), row.name);
            assert_eq!(ConnectError::from_words(failure.to_words()), failure);
        }
    }

    #[test]
    fn every_failure_has_one_sentence_and_an_advice() {
        for info in CONNECT_ERRORS {
            for text in [info.template, info.advice] {
                assert!(!text.is_empty() && !text.contains('\n') && !text.ends_with('.'), "{}", info.name);
            }
            assert!(info.errno.name().is_some() && info.name.starts_with("connect-"), "{}", info.name);
        }
    }

    #[test]
    fn keyp_failures_are_numbered_in_their_order() {
        for (number, error) in (0..).zip(KeypError::ALL) {
            assert_eq!(error as u64, number);
        }
    }
}
