//! Why a device file is refused.

use pcie::FunctionId;

use super::MeasurementKind;
use crate::spec::syntax_reason;

/// Why a device file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointSpecError {
    /// Not TOML, an unknown key, or a value of the wrong form.
    #[error("device file{}: {reason}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Syntax {
        /// Line, 1-based.
        line: Option<usize>,
        /// What is wrong, with the key and what is allowed.
        reason: String,
    },
    /// Well formed but not a device.
    #[error("device `{device}`: {issue}")]
    Invalid {
        /// Name of the device.
        device: String,
        /// What is wrong.
        issue: Box<EndpointSpecIssue>,
    },
    /// The device could not be written as TOML.
    #[error("device file could not be written: {reason}")]
    Write {
        /// What is wrong.
        reason: String,
    },
}

impl EndpointSpecError {
    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let (line, reason) = syntax_reason(text, error);
        Self::Syntax { line, reason }
    }

    /// What is wrong with a well-formed file.
    pub fn issue(&self) -> Option<&EndpointSpecIssue> {
        match self {
            Self::Invalid { issue, .. } => Some(issue),
            Self::Syntax { .. } | Self::Write { .. } => None,
        }
    }
}

/// What is wrong with a well-formed device file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The message of each variant says it, its fields are the numbers in it.
pub enum EndpointSpecIssue {
    #[error("`pci.{key}` is {value:#x}, which does not fit {bits} bits")]
    TooWide { key: &'static str, value: u64, bits: u8 },
    #[error("`pci.vendor_id` is {value:#x}, which says that there is no device")]
    NoVendor { value: u64 },
    #[error("`pci.address` is {address}; it must be that of function 0")]
    NotFunctionZero { address: FunctionId },
    #[error("`pci.address` {address} has a segment above 0xff, for which a TDISP function id has no room")]
    SegmentTooLarge { address: FunctionId },
    #[error("`spdm.{key}` is empty")]
    Empty { key: &'static str },
    #[error("`spdm.{key}` names {value} twice")]
    Twice { key: &'static str, value: String },
    #[error("`spdm.slots` has slot {slot}; slots are 0 to 7")]
    BadSlot { slot: u8 },
    #[error("`spdm.slots` must have slot 0")]
    NoSlotZero,
    #[error("`spdm.data_transfer_size` is {size}; allowed are {least} to {most}")]
    TransferSize { size: u32, least: u32, most: u32 },
    #[error("`spdm.max_message_size` is {size}; allowed are the data transfer size, {least}, to {most}")]
    MessageSize { size: u32, least: u32, most: u32 },
    #[error("`spdm.sessions` is {count}; allowed are 1 to 32")]
    Sessions { count: u8 },
    #[error("`spdm.ct_exponent` is {exponent}; allowed are 0 to 31")]
    CtExponent { exponent: u8 },
    #[error("`ide.{key}` is {value}; allowed are {least} to {most}")]
    Ide { key: &'static str, value: u16, least: u16, most: u16 },
    #[error(
        "the IDE registers of {streams} streams take {size} bytes, {room} are left of configuration space"
    )]
    IdeTooLarge { streams: u16, size: usize, room: usize },
    #[error("`ide.ports` is {ports}; each needs a `[[function]]`, and there are {functions}")]
    PortWithoutFunction { ports: u8, functions: usize },
    #[error("`tdisp.address_width` is {width}; allowed are 32 to 64")]
    AddressWidth { width: u8 },
    #[error("no `[[function]]` has number 0")]
    NoFunctionZero,
    #[error("function {number} is given twice")]
    DuplicateFunction { number: u8 },
    #[error("function number {number}; functions go to 7")]
    BadFunction { number: u8 },
    #[error("the memory of function {number} is {size} bytes; it must be a power of two of 32 KiB to 4 GiB")]
    BadMemory { number: u8, size: u64 },
    #[error("the windows of all functions end up to {end:#x}, beyond `tdisp.address_width` {width}")]
    Windows { end: u64, width: u8 },
    #[error("{count} virtual functions do not fit behind {address} on its bus")]
    TooManyVirtual { count: u32, address: FunctionId },
    #[error("measurement index {index}; indices are 1 to 254")]
    BadIndex { index: u8 },
    #[error("measurement {index} is given twice")]
    DuplicateIndex { index: u8 },
    #[error("measurement {index} needs `text` or `hex`, one of them, and `hex` has two digits a byte")]
    BadValue { index: u8 },
    #[error("measurement {index} has {size} bytes; at most {most} are possible")]
    LargeValue { index: u8, size: usize, most: usize },
    #[error("measurement {index} is a {kind:?}, which has {size} bytes")]
    WrongSize { index: u8, kind: MeasurementKind, size: usize },
    #[error("measurement {index}: index 253 is for manifests, 254 for the device mode")]
    ReservedIndex { index: u8 },
    #[error("the measurements have {size} bytes together; at most {most} fit `spdm.max_message_size`")]
    TooManyMeasurements { size: usize, most: usize },
}
