//! TDH.EXT leaves: memory and start of the module's extensions.

use tdx_abi::Registers;
use tdx_abi::hpa_list::HpaListInfo;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};

use super::{Resume, SeamPort, SeamcallError};
use crate::traits::{CpuPin, Seam};

impl<S: Seam + ?Sized> SeamPort<'_, S> {
    /// TDH.EXT.MEM.ADD: gives the pages of a list to the module for good.
    pub fn ext_mem_add(&self, pin: &CpuPin<'_>, list: HpaListInfo) -> Result<(), SeamcallError> {
        let input = || Registers { rcx: list.into_bits(), ..Registers::default() };
        let leaf = LeafWord::module(SeamcallLeaf::EXT_MEM_ADD, 0);
        self.call_plain_resumed(pin, leaf, Resume::CarryRcx, input).map(|_| ())
    }

    /// TDH.EXT.INIT: starts the extensions, once behind TDH.SYS.CONFIG and once behind each update.
    pub fn ext_init(&self, pin: &CpuPin<'_>) -> Result<(), SeamcallError> {
        let leaf = LeafWord::module(SeamcallLeaf::EXT_INIT, 0);
        self.call_plain_resumed(pin, leaf, Resume::Same, Registers::default).map(|_| ())
    }
}
