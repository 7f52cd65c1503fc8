//! A platform on the memory and the processors of a virtual machine.

use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};

use super::{E820Kind, E820Spec, Hex, MemorySpec, NodeSpec, PlatformSpec, RangeSpec, SpecError, SpecIssue};
use super::{X2apicSpec, validate};
use crate::firmware::layout;

/// Where convertible memory begins.
const CMR_START: PhysAddr = PhysAddr::new(1 << 20);
/// Where the SEAM range is looked for: above a small guest's memory, below the configuration space.
const FIRST: u64 = 0x7800_0000;
const FOUR_GIB: u64 = 4 << 30;

impl PlatformSpec {
    /// This platform with other memory and processors: those of a virtual machine whose RAM lies at
    /// `ram`, and without devices. Everything that lists memory or processors is replaced: memory map, nodes, CMRs (all
    /// of the RAM from 1 MiB up in whole pages), topology, x2APIC ids; what belongs to packages that
    /// the machine does not have goes. The SEAM range moves if RAM lies where it was.
    pub fn with_guest(
        mut self,
        ram: &[PhysRange],
        packages: u32,
        cores: u32,
        threads: u32,
    ) -> Result<Self, SpecError> {
        let ram = joined(ram);
        self.cpu.packages = packages;
        self.cpu.cores = cores;
        self.cpu.threads = threads;
        self.cpu.x2apic = X2apicSpec::default();
        self.packages.retain(|package| package.index < packages);
        self.host_bridges.retain(|bridge| bridge.package < packages);
        // Devices are the virtual machine's own, wherever its addresses are.
        for bridge in &mut self.host_bridges {
            bridge.window = None;
        }
        self.root_ports.clear();
        self.endpoints.clear();
        self.key_units.clear();
        for unit in &mut self.iommus {
            unit.bus = None;
        }
        self.memory = MemorySpec::default();
        let usable = |range: &PhysRange| E820Spec {
            start: Hex(range.start().as_u64()),
            end: Hex(range.end().as_u64()),
            kind: E820Kind::Usable,
        };
        self.e820 = ram.iter().map(usable).collect();
        // Before anything goes through its processors one by one.
        let nodes = 0..packages.min(validate::MAX_PACKAGES);
        self.nodes = nodes.map(|id| NodeSpec { id, package: Some(id), ranges: Vec::new() }).collect();
        if let Some(node) = self.nodes.first_mut() {
            node.ranges = ram.iter().copied().map(RangeSpec::from).collect();
        }
        let has_tdx = self.cpu.kind.has_tdx();
        self.cmrs = ram.iter().filter(|_| has_tdx).filter_map(convertible).map(RangeSpec::from).collect();
        // An empty list would have one generated.
        let fits = if has_tdx && !ram.is_empty() && self.cmrs.is_empty() {
            Err(SpecIssue::NothingConvertible)
        } else {
            self.find_seamrr(&ram)
        };
        if let Err(issue) = fits {
            return Err(SpecError::Invalid { platform: self.name, issue });
        }
        self.validate()?;
        Ok(self)
    }

    /// Moves the SEAM range out of RAM, so that SMRAM has a place below 4 GiB too.
    fn find_seamrr(&mut self, ram: &[PhysRange]) -> Result<(), SpecIssue> {
        let size = self.seamrr.size.0;
        if !size.is_power_of_two() || size < validate::SEAMRR_GRANULE {
            return Err(SpecIssue::SeamrrSize { size });
        }
        let top = ram.last().map_or(0, |range| range.end().as_u64()).max(FOUR_GIB);
        let low = (FIRST.div_ceil(size)..FOUR_GIB / size).map(|window| window * size);
        let above = top.checked_next_multiple_of(size);
        for base in [self.seamrr.base.0].into_iter().chain(low).chain(above) {
            self.seamrr.base = Hex(base);
            let range = self.seamrr.range();
            if !range.is_empty()
                && !ram.iter().any(|piece| piece.overlaps(range))
                && layout::find_smram(self).is_some()
            {
                return Ok(());
            }
        }
        Err(SpecIssue::NoRoomForFirmware)
    }
}

/// Ranges in ascending order, those that touch as one.
fn joined(ranges: &[PhysRange]) -> Vec<PhysRange> {
    let mut sorted: Vec<_> = ranges.iter().copied().filter(|range| !range.is_empty()).collect();
    sorted.sort_unstable();
    let mut joined: Vec<PhysRange> = Vec::new();
    for range in sorted {
        let whole = joined
            .last()
            .filter(|last| range.start() <= last.end())
            .and_then(|last| PhysRange::new(last.start(), last.end().max(range.end())));
        match (joined.last_mut(), whole) {
            (Some(last), Some(whole)) => *last = whole,
            _ => joined.push(range),
        }
    }
    joined
}

/// Whole pages from 1 MiB up.
fn convertible(ram: &PhysRange) -> Option<PhysRange> {
    let start = ram.start().max(CMR_START).align_up(PAGE_SIZE)?;
    PhysRange::new(start, ram.end().align_down(PAGE_SIZE)).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::layout::Layout;
    use crate::presets;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).expect("a range")
    }

    fn platform(name: &str) -> PlatformSpec {
        presets::find(name).expect("a preset").spec().expect("valid")
    }

    fn layout(spec: &PlatformSpec) -> Layout {
        Layout::new(spec, &[], [0; 8])
    }

    #[test]
    fn every_guest_gets_its_memory_its_cmrs_and_its_processors() {
        for (ram, cmrs) in [
            (vec![range(0, 64 * MIB)], vec![range(MIB, 64 * MIB)]),
            (vec![range(0, 512 * MIB)], vec![range(MIB, 512 * MIB)]),
            (
                vec![range(0, 2 * GIB), range(4 * GIB, 2050 * GIB)],
                vec![range(MIB, 2 * GIB), range(4 * GIB, 2050 * GIB)],
            ),
            // Less than a page at each end, and less than a page in all.
            (
                vec![range(0, GIB + 1), range(2 * GIB - 1, 2 * GIB + 5), range(5 * GIB - 1, 6 * GIB + 4095)],
                vec![range(MIB, GIB), range(5 * GIB, 6 * GIB)],
            ),
            (vec![range(0, 2 * GIB)], vec![range(MIB, 2 * GIB)]),
            (vec![range(0, 0xB000_0000)], vec![range(MIB, 0xB000_0000)]),
            (
                vec![range(0, 2 * GIB), range(4 * GIB, 30 * GIB)],
                vec![range(MIB, 2 * GIB), range(4 * GIB, 30 * GIB)],
            ),
            // As the RAM map of a machine with firmware has it: in pieces, and not in whole pages.
            (
                vec![range(4 * GIB, 5 * GIB), range(0, 0xA_0000), range(0xC_0000, 2 * GIB - 1)],
                vec![range(MIB, 2 * GIB - 4096), range(4 * GIB, 5 * GIB)],
            ),
        ] {
            for name in ["default", "tiny", "gnr-2s-connect", "gnr-8s", "spr-2s", "canonical-tdx-25"] {
                let spec = platform(name).with_guest(&ram, 1, 4, 1).unwrap_or_else(|error| panic!("{error}"));
                let layout = layout(&spec);
                assert_eq!((layout.cmrs.as_slice(), layout.lps.len()), (cmrs.as_slice(), 4), "{name}");
                assert!(ram.iter().all(|range| layout.is_backed(*range)), "{name}");
                let smram = range(0, 32 * MIB).size();
                let smram =
                    PhysRange::from_size(PhysAddr::new(layout::smram(&spec)), smram).expect("a range");
                for (taken, other) in [(spec.seamrr.range(), smram), (smram, spec.seamrr.range())] {
                    assert!(!taken.overlaps(other) && !ram.iter().any(|ram| ram.overlaps(taken)), "{name}");
                }
                PlatformSpec::from_toml(&spec.to_toml().expect("TOML")).expect("reads back");
            }
        }
    }

    #[test]
    fn the_seam_range_stays_where_it_is_unless_ram_lies_there() {
        for (ram, base) in [
            (vec![range(0, 512 * MIB)], 0x7800_0000),
            (vec![range(0, 2 * GIB)], 0x8000_0000),
            (vec![range(0, 0xB000_0000), range(4 * GIB, 8 * GIB)], 0xB000_0000),
            // Room for SMRAM only.
            (vec![range(0, 4 * GIB - 32 * MIB), range(4 * GIB, 5 * GIB + MIB)], 5 * GIB + 64 * MIB),
        ] {
            let spec = platform("default").with_guest(&ram, 1, 1, 1).expect("valid");
            assert_eq!(spec.seamrr.base, Hex(base));
        }
    }

    #[test]
    fn processors_follow_the_guest_and_the_rest_of_the_platform_stays() {
        let mut before = platform("gnr-2s-connect");
        before.cpu.x2apic = X2apicSpec { package_stride: Some(512), package_bases: vec![512, 0] };
        before.packages =
            [0, 1].map(|index| crate::spec::PackageSpec { index, ..Default::default() }).to_vec();
        let spec = before.clone().with_guest(&[range(0, GIB)], 2, 3, 2).expect("valid");
        let layout = layout(&spec);
        assert_eq!((layout.lps.len(), layout.mcheck.packages), (12, 2));
        let ids: Vec<_> = layout.lps.iter().map(|lp| lp.x2apic_id).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13], "as a virtual machine numbers them");
        assert_eq!(layout.numa.len(), 1, "all memory is of the first node");
        assert_eq!((&spec.keyids, &spec.module), (&before.keyids, &before.module));
        let one = before.with_guest(&[range(0, GIB)], 1, 1, 1).expect("valid");
        assert_eq!(one.packages.len(), 1);
        assert!(one.host_bridges.iter().all(|bridge| bridge.package == 0));
    }

    #[test]
    fn a_guest_on_a_cpu_without_tdx_has_no_convertible_memory() {
        let spec = platform("laptop-no-tdx").with_guest(&[range(0, 2 * GIB)], 1, 2, 1).expect("valid");
        let layout = layout(&spec);
        assert_eq!((layout.cmrs.len(), layout.lps.len()), (0, 2));
        assert!(layout.is_backed(range(0, 2 * GIB)));
    }

    #[test]
    fn a_machine_that_cannot_be_is_refused_with_its_reason() {
        let refused = |ram: &[PhysRange], packages, cores| {
            platform("default").with_guest(ram, packages, cores, 1).expect_err("refused").issue().cloned()
        };
        let ram = [range(0, GIB)];
        assert_eq!(refused(&[], 1, 1), Some(SpecIssue::NoMemory));
        for nothing in [range(0, MIB + 4095), range(GIB - 1, GIB + 4095)] {
            assert_eq!(refused(&[nothing], 1, 1), Some(SpecIssue::NothingConvertible));
        }
        assert_eq!(refused(&ram, 0, 1), Some(SpecIssue::PackageCount { packages: 0 }));
        assert_eq!(refused(&ram, u32::MAX, 1), Some(SpecIssue::PackageCount { packages: u32::MAX }));
        assert_eq!(refused(&ram, 1, 513), Some(SpecIssue::CoreCount { cores: 513 }));
        assert_eq!(refused(&[range(0, 4 * GIB)], 1, 1), Some(SpecIssue::NoRoomForFirmware));
        for size in [0, 16 * MIB, 33 * MIB, u64::MAX] {
            let mut spec = platform("default");
            spec.seamrr.size = crate::spec::Size(size);
            let error = spec.with_guest(&ram, 1, 1, 1).expect_err("refused");
            assert_eq!(error.issue(), Some(&SpecIssue::SeamrrSize { size }));
        }
        let islands: Vec<_> =
            (1..40).map(|number| range(number * 64 * MIB, number * 64 * MIB + MIB)).collect();
        assert_eq!(refused(&islands, 1, 1), Some(SpecIssue::TooManyCmrs { count: 39 }));
        let high = refused(&[range(0, GIB), range(1 << 50, (1 << 50) + GIB)], 1, 1);
        assert!(matches!(high, Some(SpecIssue::BeyondAddressWidth { .. })), "{high:?}");
    }
}
