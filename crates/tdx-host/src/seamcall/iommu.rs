//! TDH.IOMMU leaves.

use tdx_abi::connect::ids::TdxIommuId;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::{PhysAddr, Registers};

use super::{Resume, SeamPort, SeamcallError};
use crate::traits::{CpuPin, Seam};

impl<S: Seam + ?Sized> SeamPort<'_, S> {
    /// TDH.IOMMU.SETUP: takes the unit whose registers are at `reg_base` into trusted mode, with the pages of
    /// the IOMMU_MT in `root`.
    pub fn iommu_setup(
        &self,
        pin: &CpuPin<'_>,
        reg_base: PhysAddr,
        root: PhysAddr,
    ) -> Result<TdxIommuId, SeamcallError> {
        let input = || Registers { rcx: reg_base.as_u64(), rdx: root.as_u64(), ..Registers::default() };
        let leaf = LeafWord::module(SeamcallLeaf::IOMMU_SETUP, 0);
        self.call_plain_resumed(pin, leaf, Resume::Same, input).map(|out| TdxIommuId(out.rcx))
    }

    /// TDH.IOMMU.CLEAR: takes a unit out of trusted mode; the module writes the pages that it gives back to
    /// the page `root`.
    pub fn iommu_clear(
        &self,
        pin: &CpuPin<'_>,
        unit: TdxIommuId,
        root: PhysAddr,
    ) -> Result<(), SeamcallError> {
        let input = || Registers { rcx: unit.0, rdx: root.as_u64(), ..Registers::default() };
        let leaf = LeafWord::module(SeamcallLeaf::IOMMU_CLEAR, 0);
        self.call_plain_resumed(pin, leaf, Resume::Same, input).map(|_| ())
    }
}
