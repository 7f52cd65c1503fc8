//! Offsets and bits of the registers of a VT-d unit. Source: VT-d specification; the trusted set is
//! that of the published module sources.

/// Capability, 64 bits.
pub(crate) const CAP: u16 = 0x08;
/// Extended capability, 64 bits.
pub(crate) const ECAP: u16 = 0x10;
/// Global command, 32 bits.
pub(crate) const GCMD: u16 = 0x18;
/// Global status, 32 bits.
#[cfg(test)]
pub(crate) const GSTS: u16 = 0x1C;
/// Root table address, 64 bits.
pub(crate) const RTADDR: u16 = 0x20;
/// Protected memory enable, 32 bits.
pub(crate) const PMEN: u16 = 0x64;
/// Head of the invalidation queue, 64 bits.
pub(crate) const IQH: u16 = 0x80;
/// Tail of the invalidation queue, 64 bits.
pub(crate) const IQT: u16 = 0x88;
/// Address of the invalidation queue, 64 bits.
pub(crate) const IQA: u16 = 0x90;
/// What the next `SET_TDX_MODE` makes of the unit, 64 bits. This and the four that follow answer SEAM
/// mode alone.
pub(crate) const TDX_MODE: u16 = 0x220;
/// Root table of trusted devices, 64 bits.
pub(crate) const T_RTADDR: u16 = 0x228;
/// Head of the trusted invalidation queue, 64 bits.
pub(crate) const T_IQH: u16 = 0x230;
/// Tail of the trusted invalidation queue, 64 bits.
pub(crate) const T_IQT: u16 = 0x238;
/// Address of the trusted invalidation queue, 64 bits.
pub(crate) const T_IQA: u16 = 0x240;
/// Enhanced command, 64 bits.
pub(crate) const ECMD: u16 = 0x400;
/// Response to an enhanced command, 64 bits.
pub(crate) const ECRSP: u16 = 0x410;
/// Enhanced status, 64 bits.
pub(crate) const ESTS0: u16 = 0x420;
/// Which enhanced commands 0 to 63 there are, 64 bits.
pub(crate) const ECCAP: u16 = 0x430;
/// The same for commands 192 to 255.
pub(crate) const ECCAP3: u16 = ECCAP + 3 * 8;

/// Domain ids in [`CAP`], bits 2:0: 4 + 2 · this bits wide.
pub(crate) const CAP_ND_16_BITS: u64 = 6;

/// Scalable mode in [`ECAP`].
pub(crate) const ECAP_SMTS: u64 = 1 << 43;
/// TDX mode in [`ECAP`].
pub(crate) const ECAP_TDXC: u64 = 1 << 50;

/// Translation, in [`GCMD`] and [`GSTS`].
pub(crate) const TRANSLATION: u32 = 1 << 31;
/// Root table pointer: set it, in [`GCMD`]; it was set, in [`GSTS`].
pub(crate) const ROOT_TABLE: u32 = 1 << 30;
/// Fault log pointer.
pub(crate) const FAULT_LOG: u32 = 1 << 29;
/// Advanced fault logging.
pub(crate) const ADVANCED_FAULT_LOG: u32 = 1 << 28;
/// Queued invalidation.
pub(crate) const QUEUE: u32 = 1 << 26;
/// Interrupt remapping.
pub(crate) const INTERRUPT_REMAPPING: u32 = 1 << 25;
/// Interrupt remapping table pointer.
pub(crate) const INTERRUPT_TABLE: u32 = 1 << 24;
/// Compatibility format interrupts.
pub(crate) const COMPATIBILITY_INTERRUPTS: u32 = 1 << 23;
/// Bits of [`GCMD`] that switch something on or off.
pub(crate) const SWITCHES: u32 =
    TRANSLATION | ADVANCED_FAULT_LOG | QUEUE | INTERRUPT_REMAPPING | COMPATIBILITY_INTERRUPTS;
/// Bits of [`GCMD`] that take a pointer over; the write buffer flush (27) leaves nothing to see.
pub(crate) const POINTERS: u32 = ROOT_TABLE | FAULT_LOG | INTERRUPT_TABLE;

/// Translation table mode in [`RTADDR`].
pub(crate) const TTM: u64 = 0b11 << 10;
/// Scalable mode.
pub(crate) const TTM_SCALABLE: u64 = 0b01 << 10;
/// Bits of [`RTADDR`] that are not reserved.
pub(crate) const RTADDR_BITS: u64 = !0xFFF | TTM;

/// Protection is on, in [`PMEN`].
pub(crate) const PMEN_ENABLE: u32 = 1 << 31;
/// Protection is in force, in [`PMEN`].
pub(crate) const PMEN_STATUS: u32 = 1;

/// Bits of [`IQA`] that are not reserved: base, descriptor width, size.
pub(crate) const IQA_BITS: u64 = !0xFFF | IQA_WIDE | 0b111;
/// Descriptors have 256 bits, in [`IQA`].
pub(crate) const IQA_WIDE: u64 = 1 << 11;
/// Index of a descriptor of 256 bits in head and tail.
pub(crate) const INDEX_WIDE: u64 = 0x7_FFE0;
/// Index of a descriptor of 128 bits.
pub(crate) const INDEX_NARROW: u64 = 0x7_FFF0;

/// Bits of [`TDX_MODE`]: the mode, and how many address bits hold private KeyIDs.
pub(crate) const TDX_MODE_BITS: u64 = 0b1_1111;
/// TDX mode is wanted.
pub(crate) const TDX_MODE_ON: u64 = 1;

/// The command in [`ECMD`].
pub(crate) const ECMD_COMMAND: u32 = 0xFF;
/// Command: enter or leave TDX mode as [`TDX_MODE`] says.
pub(crate) const SET_TDX_MODE: u8 = 1;
/// Command: performance counters to their defaults.
pub(crate) const RESET_PERFMON: u8 = 242;

/// A command runs, in [`ECRSP`].
pub(crate) const ECRSP_IN_PROGRESS: u64 = 1;
/// Place of the status in [`ECRSP`].
pub(crate) const ECRSP_STATUS_SHIFT: u32 = 1;
/// Status: there is no such command.
pub(crate) const STATUS_UNKNOWN: u8 = 1;
/// Status: the unit is in no state for the command.
pub(crate) const STATUS_ABORTED: u8 = 2;
/// Bits of a status.
pub(crate) const STATUS_BITS: u8 = 0x7F;

/// TDX mode, in [`ESTS0`].
pub(crate) const ESTS0_TMS: u64 = 1 << 1;
