//! The ACPI table KEYP: key configuration units and the root ports whose keys they hold.
//!
//! Read whenever Connect is set up, not only while booting; whatever the table holds, it is judged and not
//! trusted.

use pcie::{Bdf, FunctionId, Segment};
use tdx_abi::PhysAddr;

use super::BridgeStreams;
use crate::connect::{ConnectError, KeypError};
use crate::traits::HostBridge;

/// Header of an ACPI table, and a reserved word.
const FIRST_UNIT: usize = 40;
/// Of the table, where its length is.
const LENGTH: usize = 4;
/// Bytes of a unit before its root ports.
const UNIT_BYTES: usize = 16;
const ROOT_PORT_BYTES: usize = 4;
/// A unit of this type is a key configuration unit.
const KEY_UNIT: u8 = 0;
/// Its streams are those of PCIe and CXL.io.
const PROTOCOL_PCIE: u8 = 1;
/// TDs may use it.
const TVM_USABLE: u8 = 1;

/// Streams of a unit minus one, in the first register.
const STREAMS: u32 = 0x1FF;
/// Most streams of a host bridge: 255 is no stream id.
const MAX_STREAMS: u16 = 255;

/// A key configuration unit of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUnit<'a> {
    /// Where in the table it is, in bytes.
    pub offset: usize,
    /// What runs over its streams: 1 PCIe and CXL.io, 2 CXL.mem and CXL.cache.
    pub protocol: u8,
    /// TDs may use it.
    pub tvm_usable: bool,
    /// Its registers.
    pub register_base: PhysAddr,
    root_ports: &'a [u8],
}

impl KeyUnit<'_> {
    /// The root ports whose keys it holds.
    pub fn root_ports(&self) -> impl Iterator<Item = FunctionId> + '_ {
        self.root_ports.chunks_exact(ROOT_PORT_BYTES).filter_map(|port| {
            let &[low, high, bus, devfn] = port else { return None };
            let bdf = Bdf::from_routing_id(u16::from_be_bytes([bus, devfn]));
            Some(FunctionId::new(Segment(u16::from_le_bytes([low, high])), bdf))
        })
    }
}

/// The units of a table. An entry that does not fit ends it.
#[derive(Clone, Debug)]
pub struct KeyUnits<'a> {
    table: &'a [u8],
    at: usize,
}

impl<'a> KeyUnits<'a> {
    /// The units of `table`, of which the header says how long it is.
    pub fn new(table: &'a [u8]) -> Result<Self, KeypError> {
        let length = table.get(LENGTH..LENGTH + size_of::<u32>()).and_then(|bytes| bytes.try_into().ok());
        let length = length.map(u32::from_le_bytes).and_then(|length| usize::try_from(length).ok());
        let table = length.filter(|length| *length >= FIRST_UNIT).and_then(|length| table.get(..length));
        table.map(|table| Self { table, at: FIRST_UNIT }).ok_or(KeypError::Malformed)
    }

    /// The entry at the current place, with its type, and its bytes.
    fn entry(&self) -> Option<(u8, KeyUnit<'a>, usize)> {
        let rest = self.table.get(self.at..)?;
        let (head, body) = rest.split_first_chunk::<UNIT_BYTES>()?;
        let &[kind, _, length_low, length_high, protocol, _, ports, flags, register @ ..] = head;
        let length = usize::from(u16::from_le_bytes([length_low, length_high]));
        let body = body.get(..length.checked_sub(UNIT_BYTES)?)?;
        let unit = KeyUnit {
            offset: self.at,
            protocol,
            tvm_usable: flags & TVM_USABLE != 0,
            register_base: PhysAddr::new(u64::from_le_bytes(register)),
            root_ports: body.get(..usize::from(ports) * ROOT_PORT_BYTES)?,
        };
        Some((kind, unit, length))
    }
}

impl<'a> Iterator for KeyUnits<'a> {
    type Item = Result<KeyUnit<'a>, (KeypError, usize)>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.table.len() {
            let at = self.at;
            let Some((kind, unit, length)) = self.entry() else {
                self.at = self.table.len();
                return Some(Err((KeypError::Malformed, at)));
            };
            self.at += length;
            if kind == KEY_UNIT {
                return Some(Ok(unit));
            }
        }
        None
    }
}

/// Gives each of `bridges` the streams of its unit; `read` reads a unit's first register.
///
/// After an error the numbers of streams mean nothing.
pub fn streams_of(
    table: &[u8],
    bridges: &mut [Option<BridgeStreams>],
    read: &dyn Fn(PhysAddr) -> u32,
) -> Result<(), ConnectError> {
    let refused = |(reason, offset): (KeypError, usize)| ConnectError::Keyp {
        reason,
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
    };
    for unit in KeyUnits::new(table).map_err(|reason| refused((reason, LENGTH)))? {
        let unit = unit.map_err(refused)?;
        if unit.protocol != PROTOCOL_PCIE || !unit.tvm_usable {
            continue;
        }
        let all = unit.root_ports().count();
        for place in bridges.iter_mut().flatten() {
            let inside = unit.root_ports().filter(|port| is_below(*port, place.bridge)).count();
            // Of a bridge are all of a unit's root ports or none.
            if !matches!(inside, inside if inside == 0 || inside == all) {
                return Err(refused((KeypError::PartialMatch, unit.offset)));
            }
            if inside == 0 {
                continue;
            }
            if place.streams != 0 {
                return Err(refused((KeypError::DoubleMatch, unit.offset)));
            }
            place.streams = match read(unit.register_base) {
                u32::MAX => return Err(refused((KeypError::NoAnswer, unit.offset))),
                capability => {
                    u16::try_from((capability & STREAMS) + 1).map_or(MAX_STREAMS, |n| n.min(MAX_STREAMS))
                }
            };
        }
    }
    Ok(())
}

fn is_below(port: FunctionId, bridge: HostBridge) -> bool {
    port.segment == bridge.segment && (bridge.bus..=bridge.last_bus).contains(&port.bdf.bus())
}
