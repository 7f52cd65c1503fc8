//! The device file: everything that makes one modelled endpoint differ from another.

mod error;
mod name;
mod validate;

use pcie::FunctionId;
use serde::{Deserialize, Serialize};
use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo};
use spdm::ids::Version;

pub use error::{EndpointSpecError, EndpointSpecIssue};
pub use name::Named;

use super::fault::DeviceFault;
use crate::spec::{Hex, Size};

/// A device as a TOML file describes it. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// Short name.
    pub name: String,
    /// One line on what this device is good for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<DeviceFault>,
    /// Where it sits and what it says it is.
    #[serde(default)]
    pub pci: PciSpec,
    /// SPDM: versions, algorithms, sizes.
    #[serde(default)]
    pub spdm: SpdmSpec,
    /// IDE: streams and ports.
    #[serde(default)]
    pub ide: IdeSpec,
    /// TDISP.
    #[serde(default)]
    pub tdisp: TdispSpec,
    /// Physical functions. Two, of which the first has four virtual ones, if left out.
    #[serde(default = "default_functions", rename = "function")]
    pub functions: Vec<FunctionSpec>,
    /// Measurement blocks. Some of every kind if left out.
    #[serde(default = "default_measurements", rename = "measurement")]
    pub measurements: Vec<MeasurementSpec>,
}

fn default_functions() -> Vec<FunctionSpec> {
    let memory = FunctionSpec::default_memory();
    vec![
        FunctionSpec { number: 0, virtual_functions: 4, memory },
        FunctionSpec { number: 1, virtual_functions: 0, memory },
    ]
}

/// Where the device sits and what it says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PciSpec {
    /// Function 0, such as `0000:3b:00.0`.
    pub address: Named<FunctionId>,
    /// Vendor id.
    pub vendor_id: Hex,
    /// Device id.
    pub device_id: Hex,
    /// Base class, subclass and programming interface in bits 23:0.
    pub class: Hex,
    /// Revision.
    pub revision: u8,
    /// It says that it has TEE interfaces (TEE-IO).
    pub tee_io: bool,
    /// Function 0 has a mailbox for data objects.
    pub mailbox: bool,
    /// At power-on the device is as firmware and a driver leave it: windows have addresses, memory and
    /// bus mastering are on, virtual functions are there. A socket has no configuration space to do it.
    pub configured: bool,
    /// Where the first window lies then.
    pub window: Hex,
}

impl Default for PciSpec {
    fn default() -> Self {
        let bdf = pcie::Bdf::from_routing_id(0x3b00);
        Self {
            address: Named(FunctionId::new(pcie::Segment(0), bdf)),
            vendor_id: Hex(0x1234),
            device_id: Hex(0x7d10),
            // Processing accelerator.
            class: Hex(0x12_0000),
            revision: 1,
            tee_io: true,
            mailbox: true,
            configured: true,
            window: Hex(0x20_0000_0000),
        }
    }
}

/// What the device's responder speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpdmSpec {
    /// Versions, `1.2` and `1.3`.
    pub versions: Vec<Named<Version>>,
    /// Hashes, `sha-256` and `sha-384`.
    pub hashes: Vec<Named<HashAlgo>>,
    /// Algorithm of the device's key, `ecdsa-p256` or `ecdsa-p384`.
    pub signature: Named<AsymAlgo>,
    /// Groups of the key agreement, `secp256r1` and `secp384r1`.
    pub groups: Vec<Named<DheGroup>>,
    /// Ciphers, `aes-128-gcm` and `aes-256-gcm`.
    pub ciphers: Vec<Named<AeadAlgo>>,
    /// Hash of measurements.
    pub measurement_hash: Named<HashAlgo>,
    /// Certificate slots with a chain, 0 to 7.
    pub slots: Vec<u8>,
    /// Largest message in one data object, in bytes.
    pub data_transfer_size: u32,
    /// Largest message, in one data object or in chunks, in bytes.
    pub max_message_size: u32,
    /// Seconds within which a heartbeat is due in a session; 0: none. A session ends after twice as many.
    pub heartbeat: u8,
    /// Sessions at the same time.
    pub sessions: u8,
    /// The time for a signature is at most 2 to this power microseconds.
    pub ct_exponent: u8,
}

impl Default for SpdmSpec {
    fn default() -> Self {
        Self {
            versions: Version::SPOKEN.map(Named).to_vec(),
            hashes: HashAlgo::ALL.map(Named).to_vec(),
            signature: Named(AsymAlgo::EcdsaP384),
            groups: DheGroup::ALL.map(Named).to_vec(),
            ciphers: AeadAlgo::ALL.map(Named).to_vec(),
            measurement_hash: Named(HashAlgo::Sha384),
            slots: vec![0],
            data_transfer_size: 4096,
            max_message_size: 65536,
            heartbeat: 32,
            sessions: 4,
            ct_exponent: 20,
        }
    }
}

/// Integrity and data encryption (IDE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdeSpec {
    /// Selective streams, 1 to 255.
    pub selective_streams: u16,
    /// Link streams, 0 to 8.
    pub link_streams: u8,
    /// Address association blocks of each selective stream, 0 to 15.
    pub address_blocks: u8,
    /// Ports with an IDE capability, 0 to 8. Port 0 is that of function 0; each further one belongs to
    /// the next physical function.
    pub ports: u8,
    /// Keys may start with any invocation field, not only with 1. The emulator of spdm-rs swaps its
    /// dwords.
    pub any_ifv: bool,
}

impl Default for IdeSpec {
    fn default() -> Self {
        Self { selective_streams: 4, link_streams: 0, address_blocks: 1, ports: 2, any_ifv: false }
    }
}

/// TEE device interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TdispSpec {
    /// Address bits that the device can send.
    pub address_width: u8,
    /// Requests that one interface can have outstanding.
    pub requests_this: u8,
    /// Requests that the device can have outstanding.
    pub requests_all: u8,
    /// A stream serves for a lock only with keys that no stopped interface had. No specification wants
    /// that, and hosts need not expect it; Intel's validator does.
    pub fresh_keys: bool,
}

impl Default for TdispSpec {
    fn default() -> Self {
        Self { address_width: 52, requests_this: 1, requests_all: 1, fresh_keys: false }
    }
}

/// A physical function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// Function number, 0 to 7. A device has function 0.
    pub number: u8,
    /// Virtual functions.
    #[serde(default)]
    pub virtual_functions: u16,
    /// Size of BAR 0, and of each virtual function's.
    #[serde(default = "FunctionSpec::default_memory")]
    pub memory: Size,
}

impl FunctionSpec {
    /// Bytes of BAR 0 and of those of all virtual functions.
    pub const fn windows(&self) -> u64 {
        self.memory.0.saturating_mul(1 + self.virtual_functions as u64)
    }

    fn default_memory() -> Size {
        Size(64 << 10)
    }
}

/// What a measurement block is about. The values are those of `DMTFSpecMeasurementValueType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeasurementKind {
    /// Immutable ROM, 0.
    Rom,
    /// Mutable firmware, 1.
    Firmware,
    /// Hardware configuration such as straps, 2.
    HardwareConfig,
    /// Firmware configuration, 3.
    FirmwareConfig,
    /// Measurement manifest in free form, 4. Index 253 is its place.
    Manifest,
    /// Device mode, 5: 16 bytes, raw. Index 254 is its place.
    DeviceMode,
    /// Version of mutable firmware, 6; raw.
    Version,
    /// Security version number of mutable firmware, 7: 8 bytes, raw.
    SecurityVersion,
    /// Measurement that is extended by a hash, 8. SPDM 1.3.
    HashExtend,
    /// Information, 9. SPDM 1.3.
    Information,
    /// Measurement manifest in a structured form, 10. SPDM 1.3.
    StructuredManifest,
}

impl MeasurementKind {
    /// The value on the wire.
    pub const fn value(self) -> u8 {
        match self {
            Self::Rom => 0,
            Self::Firmware => 1,
            Self::HardwareConfig => 2,
            Self::FirmwareConfig => 3,
            Self::Manifest => 4,
            Self::DeviceMode => 5,
            Self::Version => 6,
            Self::SecurityVersion => 7,
            Self::HashExtend => 8,
            Self::Information => 9,
            Self::StructuredManifest => 10,
        }
    }

    /// Whether the value itself is reported; a digest would say nothing.
    pub const fn is_raw_only(self) -> bool {
        matches!(self, Self::DeviceMode | Self::Version | Self::SecurityVersion)
    }
}

/// A measurement block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasurementSpec {
    /// Index, 1 to 254.
    pub index: u8,
    /// What it is about.
    pub kind: MeasurementKind,
    /// The value itself is reported, not its digest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// The value as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The value as hexadecimal digits, two for each byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
}

impl MeasurementSpec {
    /// The value; `None` if it is given in no form, in two, or malformed.
    pub fn value(&self) -> Option<Vec<u8>> {
        match (&self.text, &self.hex) {
            (Some(text), None) => Some(text.as_bytes().to_vec()),
            (None, Some(hex)) => bytes_of(hex),
            _ => None,
        }
    }

    /// Whether the value itself is reported.
    pub const fn is_raw(&self) -> bool {
        self.raw || self.kind.is_raw_only()
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = hex
        .chars()
        .filter(|c| !matches!(c, ' ' | '_' | '\n'))
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn default_measurements() -> Vec<MeasurementSpec> {
    let text = |index, kind, text: &str| MeasurementSpec {
        index,
        kind,
        raw: false,
        text: Some(text.to_owned()),
        hex: None,
    };
    let hex = |index, kind, hex: &str| MeasurementSpec {
        index,
        kind,
        raw: false,
        text: None,
        hex: Some(hex.to_owned()),
    };
    vec![
        text(1, MeasurementKind::Rom, "tdxhost simulated boot ROM"),
        text(2, MeasurementKind::Firmware, "tdxhost simulated firmware"),
        text(3, MeasurementKind::HardwareConfig, "straps: none"),
        text(4, MeasurementKind::FirmwareConfig, "configuration: default"),
        text(5, MeasurementKind::Version, "1.0.0"),
        hex(6, MeasurementKind::SecurityVersion, "01 00 00 00 00 00 00 00"),
        MeasurementSpec { raw: true, ..text(253, MeasurementKind::Manifest, "tdxhost simulated manifest") },
        // Operational modes: normal is supported and in force; device modes: none.
        hex(254, MeasurementKind::DeviceMode, "04000000 04000000 00000000 00000000"),
    ]
}

impl Default for EndpointSpec {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            description: String::new(),
            faults: Vec::new(),
            pci: PciSpec::default(),
            spdm: SpdmSpec::default(),
            ide: IdeSpec::default(),
            tdisp: TdispSpec::default(),
            functions: default_functions(),
            measurements: default_measurements(),
        }
    }
}

impl EndpointSpec {
    /// Reads and checks a device file.
    pub fn from_toml(text: &str) -> Result<Self, EndpointSpecError> {
        let spec: Self = toml::from_str(text).map_err(|error| EndpointSpecError::syntax(text, &error))?;
        spec.validate()?;
        Ok(spec)
    }

    /// Physical functions by number.
    fn ascending(&self) -> Vec<FunctionSpec> {
        let mut functions = self.functions.clone();
        functions.sort_by_key(|function| function.number);
        functions
    }

    /// To what the first window has to be aligned, so that those behind it have the least gaps.
    pub(crate) fn alignment(&self) -> u64 {
        self.functions.iter().map(|function| function.memory.0).max().unwrap_or(1)
    }

    /// The first address behind the windows, if the first one begins at `start`.
    pub(crate) fn windows_end(&self, start: u64) -> Option<u64> {
        self.ascending().iter().try_fold(start, |next, function| {
            let size = function.memory.0;
            let own = next.checked_next_multiple_of(size)?.checked_add(size)?;
            if function.virtual_functions == 0 {
                return Some(own);
            }
            let all = size.checked_mul(function.virtual_functions.into())?;
            own.checked_next_multiple_of(size)?.checked_add(all)
        })
    }

    /// Whether this is a device that can be built.
    pub fn validate(&self) -> Result<(), EndpointSpecError> {
        validate::check(self)
            .map_err(|issue| EndpointSpecError::Invalid { device: self.name.clone(), issue: Box::new(issue) })
    }

    /// The file of this device.
    pub fn to_toml(&self) -> Result<String, EndpointSpecError> {
        toml::to_string(self).map_err(|error| EndpointSpecError::Write { reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests;
