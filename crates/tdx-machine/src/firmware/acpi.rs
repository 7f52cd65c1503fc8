//! ACPI tables that a host reads: DMAR (IOMMU units), KEYP (key configuration units) and SRAT (NUMA).

use pcie::Segment;
use tdx_abi::PhysRange;
use tdx_abi::addr::PAGE_SIZE;

use super::io::{self, KeypRow};
use super::{LogicalProcessor, NodeId};
use crate::spec::{FunctionSpec, PciPlan, PlatformSpec};

const HEADER: usize = 36;

/// Writes a table header: signature, revision, length, checksum, and the makers' names.
fn finish(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut table = Vec::with_capacity(HEADER + body.len());
    table.extend_from_slice(&signature);
    table.extend_from_slice(&length.to_le_bytes());
    table.extend_from_slice(&[revision, 0]);
    table.extend_from_slice(b"TDXHST");
    table.extend_from_slice(b"SOFTMACH");
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(b"TDXH");
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(body);
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    // All bytes of a table add up to 0.
    if let Some(checksum) = table.get_mut(9) {
        *checksum = sum.wrapping_neg();
    }
    table
}

/// The DMA remapping table.
pub(super) fn dmar(spec: &PlatformSpec, plan: &PciPlan) -> Vec<u8> {
    let width = spec.cpu.kind.maxpa().saturating_sub(spec.keyids.bits);
    let mut body = vec![width.saturating_sub(1), 0x01];
    body.extend_from_slice(&[0; 10]);
    for unit in &spec.iommus {
        // A unit that names a host bridge has all of its root ports.
        let bridge = unit.bus.and_then(|bus| plan.bridge(Segment(unit.segment), bus));
        let ports = plan.ports.iter().filter(|port| plan.bridges.get(port.bridge) == bridge);
        let ports = ports.filter(|_| bridge.is_some()).map(|port| FunctionSpec {
            bus: port.id.bdf.bus(),
            device: port.id.bdf.device(),
            function: port.id.bdf.function(),
            bridge: true,
        });
        let scopes: Vec<u8> = unit.scope.iter().copied().chain(ports).flat_map(device_scope).collect();
        let length = u16::try_from(16 + scopes.len()).unwrap_or(u16::MAX);
        body.extend_from_slice(&0u16.to_le_bytes());
        body.extend_from_slice(&length.to_le_bytes());
        let pages = io::vtd_registers(unit).size() / PAGE_SIZE;
        // The size is a power of two of pages.
        let size = u8::try_from(pages.checked_ilog2().unwrap_or(0)).unwrap_or(0);
        body.extend_from_slice(&[u8::from(unit.include_all), size]);
        body.extend_from_slice(&unit.segment.to_le_bytes());
        body.extend_from_slice(&unit.reg_base.0.to_le_bytes());
        body.extend_from_slice(&scopes);
    }
    finish(*b"DMAR", 1, &body)
}

fn device_scope(function: FunctionSpec) -> [u8; 8] {
    let kind = if function.bridge { 2 } else { 1 };
    [kind, 8, 0, 0, 0, function.bus, function.device, function.function]
}

/// The key programming table: 16 bytes for each unit, and 4 for each of its root ports.
pub(super) fn keyp(rows: &[KeypRow]) -> Vec<u8> {
    /// Type of a key configuration unit.
    const KEY_UNIT: u8 = 0;
    /// PCIe and CXL.io.
    const PROTOCOL: u8 = 1;
    const VERSION: u8 = 1;
    /// Guests of TDX may use it.
    const TVM_USABLE: u8 = 1;
    let mut body = vec![0; 4];
    for row in rows {
        // The count has 8 bits; a host bridge has at most 256 functions on its root bus.
        let ports: Vec<_> = row.root_ports.iter().take(u8::MAX.into()).collect();
        let length = u16::try_from(16 + 4 * ports.len()).unwrap_or(u16::MAX);
        body.extend_from_slice(&[KEY_UNIT, 0]);
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&[
            PROTOCOL,
            VERSION,
            u8::try_from(ports.len()).unwrap_or(u8::MAX),
            TVM_USABLE,
        ]);
        body.extend_from_slice(&row.registers.as_u64().to_le_bytes());
        for port in ports {
            body.extend_from_slice(&port.segment.0.to_le_bytes());
            body.extend_from_slice(&[port.bdf.bus(), port.bdf.devfn()]);
        }
    }
    finish(*b"KEYP", 1, &body)
}

/// The system resource affinity table.
pub(super) fn srat(nodes: &[(PhysRange, NodeId)], lps: &[LogicalProcessor]) -> Vec<u8> {
    const ENABLED: u32 = 1;
    let mut body = Vec::with_capacity(12 + 24 * lps.len() + 40 * nodes.len());
    body.extend_from_slice(&1u32.to_le_bytes());
    body.extend_from_slice(&[0; 8]);
    for lp in lps {
        body.extend_from_slice(&[2, 24, 0, 0]);
        for word in [lp.node.0, lp.x2apic_id, ENABLED, 0, 0] {
            body.extend_from_slice(&word.to_le_bytes());
        }
    }
    for (range, node) in nodes {
        body.extend_from_slice(&[1, 40]);
        body.extend_from_slice(&node.0.to_le_bytes());
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&range.start().as_u64().to_le_bytes());
        body.extend_from_slice(&range.size().to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&ENABLED.to_le_bytes());
        body.extend_from_slice(&[0; 8]);
    }
    finish(*b"SRAT", 3, &body)
}
