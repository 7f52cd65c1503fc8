//! What TDX Connect and the module extensions pass through registers and memory.
//!
//! | module | holds |
//! |---|---|
//! | [`pages`] | lists of pages as operands: [`HpaArray`](pages::HpaArray), the release operand, entries of an IOMMU_MT |
//! | [`ids`] | ids that the module gives out, operations of TDH.SPDM.MNG and TDH.IDE.STREAM.KM |
//! | [`stream`] | `stream_info` and the bits of `stream_ctrl` that a caller may set |
//! | [`spdm`] | the configuration page of TDH.SPDM.CONNECT |
//! | [`refusal`] | the detail by which a software module says why it refused a device (assumed) |
//! | [`dev_info`] | the records of a device information blob (assumed) |

pub mod dev_info;
pub mod ids;
pub mod pages;
pub mod refusal;
pub mod spdm;
pub mod stream;

/// Operand "no page": all ones.
pub const NO_PAGE: u64 = u64::MAX;

/// Bytes of a message page: one DOE data object from offset 0.
pub const MESSAGE_PAGE: usize = 4096;

/// Smallest data object: the two header dwords.
pub const MIN_OBJECT: u64 = 8;
