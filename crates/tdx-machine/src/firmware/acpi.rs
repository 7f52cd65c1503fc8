//! ACPI tables that a host reads: DMAR (IOMMU units) and SRAT (NUMA).

use tdx_abi::PhysRange;

use super::{LogicalProcessor, NodeId};
use crate::spec::{FunctionSpec, PlatformSpec};

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
pub(super) fn dmar(spec: &PlatformSpec) -> Vec<u8> {
    let width = spec.cpu.kind.maxpa().saturating_sub(spec.keyids.bits);
    let mut body = vec![width.saturating_sub(1), 0x01];
    body.extend_from_slice(&[0; 10]);
    for unit in &spec.iommus {
        let scopes: Vec<u8> = unit.scope.iter().copied().flat_map(device_scope).collect();
        let length = u16::try_from(16 + scopes.len()).unwrap_or(u16::MAX);
        body.extend_from_slice(&0u16.to_le_bytes());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&[u8::from(unit.include_all), 0]);
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
