//! Bits 31:0 of a status word.

use super::{ExitReason, OperandId};
use crate::msr::MsrIndex;
use core::fmt;

/// What bits 31:0 of the words with a code hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetailKind {
    /// Nothing.
    None,
    /// Operand id.
    Operand,
    /// MSR index.
    Msr,
    /// CPUID leaf.
    CpuidLeaf,
    /// VMX exit reason.
    ExitReason,
    /// Byte 0: TDMR index.
    Tdmr,
    /// Byte 0: TDMR index, byte 1: reserved area index.
    TdmrReserved,
    /// Byte 0: TDMR index, byte 1: page size.
    TdmrPamt,
    /// As [`Self::TdmrPamt`], byte 2: TDMR index that the PAMT collides with.
    TdmrPamtOverlap,
    /// Package number.
    Package,
    /// SMRR index.
    Smrr,
    /// Byte 0: SMRR index, byte 1: CMR index.
    SmrrCmr,
    /// The limit that was exceeded.
    Limit,
    /// Mapping level found.
    Level,
    /// Bits 31:16 VM index, 15:0 level.
    VmLevel,
    /// VMCS field encoding.
    VmcsField,
    /// x2APIC id.
    X2apicId,
    /// Which of the two PAMT pages.
    PamtPage,
    /// Bits 15:0 reason, 31:16 how many.
    UpdateSensitive,
}

/// A decoded detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are described with `DetailKind`.
pub enum Detail {
    /// The code has no detail, and none is there.
    None,
    /// The code has no known detail, but bits are set.
    Raw(u32),
    /// Operand or resource.
    Operand(OperandId),
    /// MSR.
    Msr(MsrIndex),
    /// CPUID leaf.
    CpuidLeaf(u32),
    /// VMX exit reason.
    ExitReason { reason: ExitReason, bus_lock: bool },
    /// TDMR.
    Tdmr { index: u8 },
    /// Reserved area of a TDMR.
    TdmrReserved { index: u8, area: u8 },
    /// PAMT of a TDMR.
    TdmrPamt { index: u8, size: u8 },
    /// PAMT of a TDMR that collides with another TDMR.
    TdmrPamtOverlap { index: u8, size: u8, other: u8 },
    /// Package.
    Package(u32),
    /// SMRR.
    Smrr { index: u32 },
    /// SMRR and CMR.
    SmrrCmr { smrr: u8, cmr: u8 },
    /// Exceeded limit.
    Limit(u32),
    /// Mapping level.
    Level(u32),
    /// VM and mapping level.
    VmLevel { vm: u16, level: u16 },
    /// VMCS field.
    VmcsField(u32),
    /// x2APIC id.
    X2apicId(u32),
    /// PAMT page.
    PamtPage(u32),
    /// Why an update would harm, and how many of those there are.
    UpdateSensitive { reason: u16, count: u16 },
}

impl Detail {
    /// Decodes `raw` as `kind` says.
    pub fn decode(kind: DetailKind, raw: u32) -> Self {
        let [a, b, c, d] = raw.to_le_bytes();
        let low = u16::from_le_bytes([a, b]);
        let high = u16::from_le_bytes([c, d]);
        match kind {
            // Operand ids fit 16 bits; anything above is not one.
            DetailKind::Operand if high == 0 => Self::Operand(OperandId(low)),
            DetailKind::None if raw == 0 => Self::None,
            DetailKind::None | DetailKind::Operand => Self::Raw(raw),
            DetailKind::Msr => Self::Msr(MsrIndex(raw)),
            DetailKind::CpuidLeaf => Self::CpuidLeaf(raw),
            DetailKind::ExitReason => {
                Self::ExitReason { reason: ExitReason(low), bus_lock: raw >> 26 & 1 != 0 }
            }
            DetailKind::Tdmr => Self::Tdmr { index: a },
            DetailKind::TdmrReserved => Self::TdmrReserved { index: a, area: b },
            DetailKind::TdmrPamt => Self::TdmrPamt { index: a, size: b },
            DetailKind::TdmrPamtOverlap => Self::TdmrPamtOverlap { index: a, size: b, other: c },
            DetailKind::Package => Self::Package(raw),
            DetailKind::Smrr => Self::Smrr { index: raw },
            DetailKind::SmrrCmr => Self::SmrrCmr { smrr: a, cmr: b },
            DetailKind::Limit => Self::Limit(raw),
            DetailKind::Level => Self::Level(raw),
            DetailKind::VmLevel => Self::VmLevel { vm: high, level: low },
            DetailKind::VmcsField => Self::VmcsField(raw),
            DetailKind::X2apicId => Self::X2apicId(raw),
            DetailKind::PamtPage => Self::PamtPage(raw),
            DetailKind::UpdateSensitive => Self::UpdateSensitive { reason: low, count: high },
        }
    }
}

/// Name of a PAMT page size or of a mapping level.
fn page_size(level: u32) -> &'static str {
    match level {
        0 => "4 KiB",
        1 => "2 MiB",
        2 => "1 GiB",
        3 => "512 GiB",
        4 => "256 TiB",
        _ => "unknown size",
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::None => Ok(()),
            Self::Raw(raw) => write!(f, "detail {raw:#x}"),
            Self::Operand(operand) => write!(f, "operand {operand}"),
            Self::Msr(msr) => match msr.info() {
                Some(info) => write!(f, "MSR {:#x} {}", msr.0, info.name),
                None => write!(f, "MSR {:#x}", msr.0),
            },
            Self::CpuidLeaf(leaf) => write!(f, "CPUID leaf {leaf:#x}"),
            Self::ExitReason { reason, bus_lock } => {
                write!(f, "exit reason {}", reason.0)?;
                if let Some(name) = reason.name() {
                    write!(f, " {name}")?;
                }
                f.write_str(if bus_lock { " after a bus lock" } else { "" })
            }
            Self::Tdmr { index } => write!(f, "TDMR {index}"),
            Self::TdmrReserved { index, area } => {
                write!(f, "TDMR {index}, reserved area {area}")
            }
            Self::TdmrPamt { index, size } => {
                write!(f, "TDMR {index}, PAMT of {} pages", page_size(size.into()))
            }
            Self::TdmrPamtOverlap { index, size, other } => write!(
                f,
                "TDMR {index}, PAMT of {} pages, collides with TDMR {other}",
                page_size(size.into())
            ),
            Self::Package(package) => write!(f, "package {package}"),
            Self::Smrr { index } => write!(f, "SMRR {index}"),
            Self::SmrrCmr { smrr, cmr } => write!(f, "SMRR {smrr}, CMR {cmr}"),
            Self::Limit(limit) => write!(f, "limit {limit}"),
            Self::Level(level) => write!(f, "level {level} ({})", page_size(level)),
            Self::VmLevel { vm, level } => {
                write!(f, "VM {vm}, level {level} ({})", page_size(level.into()))
            }
            Self::VmcsField(encoding) => write!(f, "VMCS field {encoding:#x}"),
            Self::X2apicId(id) => write!(f, "x2APIC id {id}"),
            Self::PamtPage(page) => write!(f, "PAMT page {page} of the pair"),
            Self::UpdateSensitive { reason: 0, count } => write!(f, "{count} TD builds in progress"),
            Self::UpdateSensitive { reason: 1, count } => {
                write!(f, "{count} interrupted migration calls")
            }
            Self::UpdateSensitive { reason, count } => write!(f, "reason {reason}, {count} times"),
        }
    }
}
