//! P-SEAMLDR leaves.

use crate::sync::hint;

use tdx_abi::leaf::{LeafWord, SeamldrLeaf};
use tdx_abi::status::SeamldrStatus;
use tdx_abi::{PhysAddr, Registers};

use super::{ENTROPY_TRIES, SeamPort, SeamcallCause, SeamcallError};
use crate::traits::{CpuPin, Seam};

impl<S: Seam + ?Sized> SeamPort<'_, S> {
    /// SEAMLDR.INFO: writes SEAMLDR_INFO to `buffer`, 256-byte aligned.
    ///
    /// P-SEAMLDR takes one CPU at a time: [`crate::seamldr::Seamldr`] serialises its callers.
    pub(crate) fn seamldr_info(&self, pin: &CpuPin<'_>, buffer: PhysAddr) -> Result<(), SeamcallError> {
        let leaf = LeafWord::seamldr(SeamldrLeaf::INFO);
        let mut tries = 1;
        loop {
            let mut registers = Registers { rcx: buffer.as_u64(), ..Registers::default() };
            let cause = match self.once(pin, leaf, &mut registers) {
                Ok(0) => return Ok(()),
                Ok(word) => SeamcallCause::Loader(SeamldrStatus(word)),
                Err(cause) => cause,
            };
            let no_entropy = cause == SeamcallCause::Loader(SeamldrStatus::ENOENTROPY);
            if !no_entropy || tries == ENTROPY_TRIES {
                return Err(SeamcallError { leaf, cause, rcx: registers.rcx, rdx: registers.rdx });
            }
            tries += 1;
            hint::spin_loop();
        }
    }

    /// SEAMLDR.INSTALL: counts this CPU in; the last CPU of the machine installs what `params`, page aligned,
    /// tells. One call, no policy: a repeated one would be another CPU's.
    ///
    /// RDX of a failure is 0 if the old module is still there.
    pub(crate) fn seamldr_install(&self, pin: &CpuPin<'_>, params: PhysAddr) -> Result<(), SeamcallError> {
        let leaf = LeafWord::seamldr(SeamldrLeaf::INSTALL);
        let mut registers = Registers { rcx: params.as_u64(), ..Registers::default() };
        let cause = match self.once(pin, leaf, &mut registers) {
            Ok(0) => return Ok(()),
            Ok(word) => SeamcallCause::Loader(SeamldrStatus(word)),
            Err(cause) => cause,
        };
        Err(SeamcallError { leaf, cause, rcx: registers.rcx, rdx: registers.rdx })
    }
}
