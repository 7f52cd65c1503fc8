//! Rules that a device file must keep, beside its format.

use std::fmt::Display;

use super::{EndpointSpec, EndpointSpecIssue, FunctionSpec, MeasurementKind, Named, name::Text};

/// Least value of `DataTransferSize`: DSP0274, `MinDataTransferSize` of 1.2.
const MIN_TRANSFER: u32 = 42;
/// Largest payload of a data object.
const MAX_TRANSFER: u32 = (1 << 20) - 8;
/// Most that is taken for one message in chunks.
const MAX_MESSAGE: u32 = 1 << 20;
/// Bytes of a `MEASUREMENTS` response beside its record: header, nonce, context, opaque data, signature.
const MEASUREMENTS_OVERHEAD: usize = 8 + 32 + 2 + 8 + 96;
/// Header of a measurement block and of the DMTF value in it.
const BLOCK_HEADER: usize = 4 + 3;
/// Smallest BAR: eight pages.
const MIN_MEMORY: u64 = 32 << 10;
const MAX_MEMORY: u64 = 4 << 30;
/// What the other extended capabilities of function 0 leave.
const IDE_ROOM: usize = 0xd00;
/// Routing ids that one device number has without ARI.
const FUNCTIONS_PER_DEVICE: u32 = 8;

pub(super) fn check(spec: &EndpointSpec) -> Result<(), EndpointSpecIssue> {
    let width = spec.tdisp.address_width;
    if !(32..=64).contains(&width) {
        return Err(EndpointSpecIssue::AddressWidth { width });
    }
    pci(spec)?;
    spdm(spec)?;
    ide(spec)?;
    functions(spec)?;
    measurements(spec)
}

fn pci(spec: &EndpointSpec) -> Result<(), EndpointSpecIssue> {
    let pci = &spec.pci;
    for (key, value, bits) in [
        ("vendor_id", pci.vendor_id.0, 16),
        ("device_id", pci.device_id.0, 16),
        ("class", pci.class.0, 24),
        ("window", pci.window.0, spec.tdisp.address_width.min(63)),
    ] {
        if value >> bits != 0 {
            return Err(EndpointSpecIssue::TooWide { key, value, bits });
        }
    }
    if matches!(pci.vendor_id.0, 0 | 0xffff) {
        return Err(EndpointSpecIssue::NoVendor { value: pci.vendor_id.0 });
    }
    let address = pci.address.0;
    if address.bdf.function() != 0 {
        return Err(EndpointSpecIssue::NotFunctionZero { address });
    }
    if address.segment.0 > 0xff {
        return Err(EndpointSpecIssue::SegmentTooLarge { address });
    }
    Ok(())
}

fn some_and_each_once<T: Text + PartialEq>(
    key: &'static str,
    values: &[Named<T>],
) -> Result<(), EndpointSpecIssue> {
    if values.is_empty() {
        return Err(EndpointSpecIssue::Empty { key });
    }
    match twice(values) {
        Some(value) => Err(EndpointSpecIssue::Twice { key, value: value.to_string() }),
        None => Ok(()),
    }
}

fn twice<T: PartialEq>(values: &[T]) -> Option<&T> {
    values.iter().enumerate().find(|(at, value)| values[..*at].contains(value)).map(|(_, value)| value)
}

fn spdm(spec: &EndpointSpec) -> Result<(), EndpointSpecIssue> {
    let spdm = &spec.spdm;
    some_and_each_once("versions", &spdm.versions)?;
    some_and_each_once("hashes", &spdm.hashes)?;
    some_and_each_once("groups", &spdm.groups)?;
    some_and_each_once("ciphers", &spdm.ciphers)?;
    if let Some(&slot) = spdm.slots.iter().find(|&&slot| slot > 7) {
        return Err(EndpointSpecIssue::BadSlot { slot });
    }
    if let Some(slot) = twice(&spdm.slots) {
        let value: &dyn Display = slot;
        return Err(EndpointSpecIssue::Twice { key: "slots", value: value.to_string() });
    }
    if !spdm.slots.contains(&0) {
        return Err(EndpointSpecIssue::NoSlotZero);
    }
    let size = spdm.data_transfer_size;
    if !(MIN_TRANSFER..=MAX_TRANSFER).contains(&size) {
        return Err(EndpointSpecIssue::TransferSize { size, least: MIN_TRANSFER, most: MAX_TRANSFER });
    }
    let message = spdm.max_message_size;
    if !(size..=MAX_MESSAGE).contains(&message) {
        return Err(EndpointSpecIssue::MessageSize { size: message, least: size, most: MAX_MESSAGE });
    }
    if !(1..=32).contains(&spdm.sessions) {
        return Err(EndpointSpecIssue::Sessions { count: spdm.sessions });
    }
    if spdm.ct_exponent > 31 {
        return Err(EndpointSpecIssue::CtExponent { exponent: spdm.ct_exponent });
    }
    Ok(())
}

fn ide(spec: &EndpointSpec) -> Result<(), EndpointSpecIssue> {
    let ide = &spec.ide;
    for (key, value, least, most) in [
        ("selective_streams", ide.selective_streams, 1, 255),
        ("link_streams", u16::from(ide.link_streams), 0, 8),
        ("address_blocks", u16::from(ide.address_blocks), 0, 15),
        ("ports", u16::from(ide.ports), 0, 8),
    ] {
        if !(least..=most).contains(&value) {
            return Err(EndpointSpecIssue::Ide { key, value, least, most });
        }
    }
    let streams = usize::from(ide.selective_streams);
    let size = 12 + usize::from(ide.link_streams) * 8 + streams * (20 + 12 * usize::from(ide.address_blocks));
    if size > IDE_ROOM {
        let streams = ide.selective_streams;
        return Err(EndpointSpecIssue::IdeTooLarge { streams, size, room: IDE_ROOM });
    }
    Ok(())
}

fn functions(spec: &EndpointSpec) -> Result<(), EndpointSpecIssue> {
    let numbers: Vec<u8> = spec.functions.iter().map(|function| function.number).collect();
    if let Some(&number) = numbers.iter().find(|&&number| number > 7) {
        return Err(EndpointSpecIssue::BadFunction { number });
    }
    if let Some(&number) = twice(&numbers) {
        return Err(EndpointSpecIssue::DuplicateFunction { number });
    }
    if !numbers.contains(&0) {
        return Err(EndpointSpecIssue::NoFunctionZero);
    }
    let ports = spec.ide.ports;
    if usize::from(ports) > numbers.len() {
        return Err(EndpointSpecIssue::PortWithoutFunction { ports, functions: numbers.len() });
    }
    for function in &spec.functions {
        let size = function.memory.0;
        if !size.is_power_of_two() || !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
            return Err(EndpointSpecIssue::BadMemory { number: function.number, size });
        }
    }
    let windows = spec.functions.iter().map(FunctionSpec::windows).fold(0, u64::saturating_add);
    // Each is aligned to its size, so that gaps take as much again at most.
    let end = windows.saturating_mul(2).saturating_add(spec.pci.window.0);
    if end >> (spec.tdisp.address_width - 1) > 1 {
        return Err(EndpointSpecIssue::Windows { end, width: spec.tdisp.address_width });
    }
    let count = spec.functions.iter().map(|function| u32::from(function.virtual_functions)).sum();
    let address = spec.pci.address.0;
    // They follow behind the eight routing ids of the physical functions.
    let room = u32::from(u8::MAX) + 1 - u32::from(address.bdf.devfn()) - FUNCTIONS_PER_DEVICE;
    if count > room {
        return Err(EndpointSpecIssue::TooManyVirtual { count, address });
    }
    Ok(())
}

fn measurements(spec: &EndpointSpec) -> Result<(), EndpointSpecIssue> {
    let indices: Vec<u8> = spec.measurements.iter().map(|block| block.index).collect();
    if let Some(&index) = twice(&indices) {
        return Err(EndpointSpecIssue::DuplicateIndex { index });
    }
    let mut together = 0_usize;
    for block in &spec.measurements {
        let (index, kind) = (block.index, block.kind);
        let fits = match index {
            0 | 255 => return Err(EndpointSpecIssue::BadIndex { index }),
            253 => matches!(kind, MeasurementKind::Manifest | MeasurementKind::StructuredManifest),
            254 => kind == MeasurementKind::DeviceMode,
            _ => kind != MeasurementKind::DeviceMode,
        };
        if !fits {
            return Err(EndpointSpecIssue::ReservedIndex { index });
        }
        let value = block.value().ok_or(EndpointSpecIssue::BadValue { index })?;
        let expected = match kind {
            MeasurementKind::DeviceMode => Some(16),
            MeasurementKind::SecurityVersion => Some(8),
            _ => None,
        };
        if let Some(size) = expected.filter(|&size| size != value.len()) {
            return Err(EndpointSpecIssue::WrongSize { index, kind, size });
        }
        let most = usize::from(u16::MAX) - BLOCK_HEADER;
        if value.len() > most {
            return Err(EndpointSpecIssue::LargeValue { index, size: value.len(), most });
        }
        let reported = if block.is_raw() { value.len() } else { spec.spdm.measurement_hash.0.size() };
        together += BLOCK_HEADER + reported;
    }
    let most = (spec.spdm.max_message_size as usize).saturating_sub(MEASUREMENTS_OVERHEAD);
    if together > most {
        return Err(EndpointSpecIssue::TooManyMeasurements { size: together, most });
    }
    Ok(())
}
