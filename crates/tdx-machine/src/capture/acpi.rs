//! Reads SRAT and DMAR tables.

use std::collections::BTreeMap;

use tdx_abi::{PhysAddr, PhysRange};

use super::builder::Unit;
use crate::spec::FunctionSpec;

/// Bytes of a table header.
const HEADER: usize = 36;

/// Little-endian numbers of a byte string; `None` behind its end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

/// What an SRAT tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Affinity {
    pub(super) nodes: BTreeMap<u32, Vec<PhysRange>>,
    pub(super) lps: u32,
}

/// Reads a system resource affinity table; entries it does not know are skipped.
pub(super) fn srat(table: &[u8]) -> Affinity {
    const ENABLED: u32 = 1;
    const HOTPLUG: u32 = 2;
    let mut out = Affinity::default();
    let mut rest = table.get(HEADER + 12..).unwrap_or_default();
    while let [kind, length, ..] = *rest {
        let Some((entry, behind)) = rest.split_at_checked(usize::from(length)).filter(|_| length >= 2) else {
            break;
        };
        let bytes = Bytes(entry);
        match kind {
            0 if bytes.u32(4).is_some_and(|flags| flags & ENABLED != 0) => out.lps += 1,
            2 if bytes.u32(12).is_some_and(|flags| flags & ENABLED != 0) => out.lps += 1,
            1 => {
                if let (Some(node), Some(base), Some(size), Some(flags)) =
                    (bytes.u32(2), bytes.u64(8), bytes.u64(16), bytes.u32(28))
                    && flags & (ENABLED | HOTPLUG) == ENABLED
                    && let Some(range) = PhysRange::from_size(PhysAddr::new(base), size)
                {
                    out.nodes.entry(node).or_default().push(range);
                }
            }
            _ => {}
        }
        rest = behind;
    }
    out
}

/// Reads the units of a DMA remapping table.
pub(super) fn dmar(table: &[u8]) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut rest = table.get(HEADER + 12..).unwrap_or_default();
    while let (Some(kind), Some(length)) = (Bytes(rest).u16(0), Bytes(rest).u16(2)) {
        let Some((entry, behind)) = rest.split_at_checked(usize::from(length)).filter(|_| length >= 4) else {
            break;
        };
        let bytes = Bytes(entry);
        if kind == 0
            && let (Some([flags, _]), Some(segment), Some(reg_base)) =
                (bytes.array(4), bytes.u16(6), bytes.u64(8))
        {
            let scope = scopes(entry.get(16..).unwrap_or_default());
            units.push(Unit { segment, reg_base, include_all: flags & 1 != 0, scope });
        }
        rest = behind;
    }
    units
}

/// PCI endpoints and bridges of a device scope list; longer paths keep their first step.
fn scopes(mut rest: &[u8]) -> Vec<FunctionSpec> {
    let mut out = Vec::new();
    while let [kind, length, ..] = *rest {
        let Some((entry, behind)) = rest.split_at_checked(usize::from(length)).filter(|_| length >= 6) else {
            break;
        };
        if let (1 | 2, [_, _, _, _, _, bus, device, function, ..]) = (kind, entry) {
            out.push(FunctionSpec { bus: *bus, device: *device, function: *function, bridge: kind == 2 });
        }
        rest = behind;
    }
    out
}
