extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::address::BusAddress;

const IDS: FunctionIds = FunctionIds {
    vendor: 0x8086,
    device: 0x1234,
    revision: 7,
    class: [0x12, 0x34, 0x56],
    subsystem_vendor: 0xabcd,
    subsystem: 0x5678,
};

/// A capability of any size, with one register at its end.
#[derive(Clone, Copy, Debug)]
struct Sized(u16);

impl PciCapability for Sized {
    const ID: CapabilityId = CapabilityId::VENDOR;

    fn size(&self) -> u16 {
        self.0
    }

    fn check(&self) -> Result<(), CapabilityError> {
        Ok(())
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        layout.register(0, 0x1234_ffff, 0x00ff_ffff, 0);
    }
}

impl ExtendedCapability for Sized {
    const ID: ExtendedId = ExtendedId::VENDOR;
    const REPEATS: bool = true;

    fn version(&self) -> u8 {
        1
    }

    fn size(&self) -> u16 {
        self.0
    }

    fn check(&self) -> Result<(), CapabilityError> {
        Ok(())
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        layout.register(0, u32::MAX, u32::MAX, 0);
    }
}

/// A capability that a function has once, and that may lay out a register at any offset.
#[derive(Clone, Copy, Debug)]
struct Single(u16);

impl ExtendedCapability for Single {
    const ID: ExtendedId = ExtendedId::ARI;

    fn version(&self) -> u8 {
        1
    }

    fn size(&self) -> u16 {
        8
    }

    fn check(&self) -> Result<(), CapabilityError> {
        match self.0 {
            0xffff => Err(CapabilityError::Field { field: "register", value: 0xffff }),
            _ => Ok(()),
        }
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        layout.read_only(self.0, 0x5555_5555);
    }
}

fn endpoint() -> ConfigBuilder {
    ConfigBuilder::endpoint(IDS)
}

#[test]
fn a_header_says_who_the_function_is() {
    let space = endpoint().multi_function().build();
    assert_eq!(space.read32(offset::IDS), Ok(0x1234_8086));
    assert_eq!(space.read32(offset::CLASS), Ok(0x1234_5607));
    assert_eq!(space.read8(offset::HEADER_TYPE + 2), Ok(0x80));
    assert_eq!(space.read32(offset::SUBSYSTEM), Ok(0x5678_abcd));
    assert_eq!(space.header_type(), HeaderType::ENDPOINT);
    assert_eq!(capabilities(&space).count(), 0);
    assert_eq!(extended_capabilities(&space).count(), 0);
}

#[test]
fn software_enables_memory_and_bus_mastering_and_no_ports() {
    let mut space = endpoint().build();
    assert_eq!(space.command(), Command::new());
    let change = space.write(offset::COMMAND, Width::Word, 0xffff).unwrap();
    assert_eq!(change.before, 0);
    let command = space.command();
    assert!(command.memory_space() && command.bus_master() && !command.io_space());
    assert_eq!(space.write(offset::IDS, Width::Dword, 0).map(|change| change.after), Ok(0x1234_8086));
}

#[test]
fn a_virtual_function_has_no_ids_no_windows_and_no_memory_enable() {
    let mut builder = ConfigBuilder::virtual_function(IDS);
    assert_eq!(builder.bar(0, Bar::memory64(4096)), Err(BuildError::Bar(BarError::Taken(0))));
    let mut space = builder.build();
    assert_eq!(space.read32(offset::IDS), Ok(u32::MAX));
    space.write(offset::COMMAND, Width::Word, 0xffff).unwrap();
    assert_eq!(space.command(), Command::new().with_bus_master(true));
    assert_eq!((0..6).filter_map(|index| space.bar(index)).count(), 0);
}

#[test]
fn a_bridge_has_buses_and_windows_to_set() {
    let mut space = ConfigBuilder::bridge(IDS).multi_function().build();
    assert_eq!(space.header_type(), HeaderType::BRIDGE);
    space.write(offset::BUSES, Width::Dword, 0xffff_3b00).unwrap();
    assert_eq!(space.read32(offset::BUSES), Ok(0x00ff_3b00));
    space.write(offset::PREFETCHABLE, Width::Dword, u32::MAX).unwrap();
    assert_eq!(space.read32(offset::PREFETCHABLE), Ok(0xfff1_fff1));
}

#[test]
fn a_window_is_sized_by_writing_ones_and_placed_by_writing_its_address() {
    let mut builder = endpoint();
    builder.bar(0, Bar::memory64(1 << 16)).unwrap();
    builder.bar(2, Bar::memory32(4096)).unwrap();
    builder.bar(4, Bar::memory64(1 << 33)).unwrap();
    let mut space = builder.build();
    for at in (offset::BAR..offset::BAR + 24).step_by(4) {
        space.write(at, Width::Dword, u32::MAX).unwrap();
    }
    let registers: Vec<_> =
        (offset::BAR..offset::BAR + 24).step_by(4).map(|at| space.read32(at).unwrap()).collect();
    assert_eq!(registers, [0xffff_000c, 0xffff_ffff, 0xffff_f000, 0, 0xc, 0xffff_fffe]);
    space.write(offset::BAR, Width::Dword, 0x1234_5678).unwrap();
    space.write(offset::BAR + 4, Width::Dword, 0x20).unwrap();
    let view = space.bar(0).unwrap();
    assert_eq!(view, BarView { bar: Bar::memory64(1 << 16), address: BusAddress(0x20_1234_0000) });
    assert_eq!(space.bar(2).unwrap().bar, Bar::memory32(4096));
    assert_eq!(space.bar(4).unwrap().bar, Bar::memory64(1 << 33));
    for index in [1, 3, 5, 6, 255] {
        assert_eq!(space.bar(index), None, "{index}");
    }
}

#[test]
fn windows_that_no_register_can_say_are_refused() {
    for (index, bar, error) in [
        (6, Bar::memory32(4096), BarError::Index(6)),
        (5, Bar::memory64(4096), BarError::Index(5)),
        (255, Bar::memory64(4096), BarError::Index(255)),
        (2, Bar::memory32(4096), BarError::Taken(2)),
        (1, Bar::memory64(4096), BarError::Taken(2)),
        (3, Bar::memory32(4096), BarError::Taken(3)),
        (0, Bar::memory32(64), BarError::Size { index: 0, size: 64 }),
        (0, Bar::memory32(3 << 12), BarError::Size { index: 0, size: 3 << 12 }),
        (0, Bar::memory32(1 << 32), BarError::Size { index: 0, size: 1 << 32 }),
        (0, Bar::memory32(0), BarError::Size { index: 0, size: 0 }),
    ] {
        let mut builder = endpoint();
        builder.bar(2, Bar::memory64(4096)).unwrap();
        assert_eq!(builder.bar(index, bar), Err(BuildError::Bar(error)));
        assert!(builder.bar(0, Bar::memory32(1 << 31)).is_ok(), "what was refused took nothing");
    }
    assert_eq!(
        ConfigBuilder::bridge(IDS).bar(2, Bar::memory32(4096)),
        Err(BuildError::Bar(BarError::Index(2)))
    );
}

#[test]
fn capabilities_are_chained_in_the_order_in_which_they_came() {
    let mut builder = endpoint();
    assert_eq!(builder.capability_at(0x80, &Sized(12)), Ok(0x80));
    assert_eq!(builder.extended(&Sized(0x20)), Ok(0x100));
    assert_eq!(builder.extended_at(0x200, &Sized(8)), Ok(0x200));
    assert_eq!(builder.extended(&Single(4)), Ok(0x120));
    let space = builder.build();
    let found: Vec<_> = capabilities(&space).map(Result::unwrap).collect();
    assert_eq!(found, [Capability { id: CapabilityId::VENDOR, offset: 0x80 }]);
    let found: Vec<_> = extended_capabilities(&space).map(|found| found.unwrap().offset).collect();
    assert_eq!(found, [0x100, 0x200, 0x120]);
    assert_eq!(find_extended(&space, ExtendedId::ARI).map(|found| found.offset), Some(0x120));
    assert_eq!(find_extended(&space, ExtendedId::IDE), None);
}

#[test]
fn the_header_of_a_capability_belongs_to_the_chain() {
    let mut builder = endpoint();
    builder.capability(&Sized(8)).unwrap();
    builder.extended(&Sized(8)).unwrap();
    let mut space = builder.build();
    assert_eq!(space.read32(0x40), Ok(0x1234_0009));
    assert_eq!(space.read32(0x100), Ok(0x0001_000b));
    space.write(0x40, Width::Dword, 0).unwrap();
    space.write(0x100, Width::Dword, 0).unwrap();
    assert_eq!(space.read32(0x40), Ok(0x1200_0009));
    assert_eq!(space.read32(0x100), Ok(0x0001_000b));
}

#[test]
fn capabilities_that_cannot_be_there_are_refused_by_name() {
    let (id, ext) = (CapabilityId::VENDOR.0.into(), ExtendedId::VENDOR.0);
    for (offset, size, error) in [
        (0x42, 8, BuildError::Misaligned { id, offset: 0x42, size: 8 }),
        (0x40, 6, BuildError::Misaligned { id, offset: 0x40, size: 6 }),
        (0x40, 0, BuildError::Misaligned { id, offset: 0x40, size: 0 }),
        (0x3c, 8, BuildError::Outside { id, offset: 0x3c, size: 8 }),
        (0xfc, 8, BuildError::Outside { id, offset: 0xfc, size: 8 }),
        (0xfffc, 8, BuildError::Outside { id, offset: 0xfffc, size: 8 }),
    ] {
        assert_eq!(endpoint().capability_at(offset, &Sized(size)), Err(error));
    }
    let mut builder = endpoint();
    assert_eq!(builder.extended_at(0x110, &Sized(8)), Err(BuildError::NotFirst(0x110)));
    builder.extended_at(0x100, &Sized(0x20)).unwrap();
    for (offset, size, error) in [
        (0x11c, 8, BuildError::Overlap { id: ext, offset: 0x11c, size: 8, taken: 0x11c }),
        (0x40, 8, BuildError::Outside { id: ext, offset: 0x40, size: 8 }),
        (0xffc, 8, BuildError::Outside { id: ext, offset: 0xffc, size: 8 }),
        (0x122, 8, BuildError::Misaligned { id: ext, offset: 0x122, size: 8 }),
    ] {
        assert_eq!(builder.extended_at(offset, &Sized(size)), Err(error));
    }
    assert_eq!(builder.extended_at(0x120, &Sized(8)), Ok(0x120), "it ends where the next one begins");
}

#[test]
fn a_capability_that_reaches_into_the_next_one_is_refused() {
    let mut builder = endpoint();
    builder.extended(&Sized(8)).unwrap();
    builder.extended_at(0x140, &Sized(8)).unwrap();
    let (id, taken) = (ExtendedId::VENDOR.0, 0x140);
    let error = BuildError::Overlap { id, offset: 0x120, size: 0x24, taken };
    assert_eq!(builder.extended_at(0x120, &Sized(0x24)), Err(error));
    assert_eq!(builder.extended_at(0x120, &Sized(0x20)), Ok(0x120));
}

#[test]
fn a_capability_is_there_once_unless_it_may_repeat() {
    let mut builder = endpoint();
    builder.extended(&Single(4)).unwrap();
    assert_eq!(builder.extended(&Single(4)), Err(BuildError::Duplicate(ExtendedId::ARI.0)));
    assert!(builder.extended(&Sized(4)).is_ok() && builder.extended(&Sized(4)).is_ok());
    builder.capability(&Sized(4)).unwrap();
    assert_eq!(builder.capability(&Sized(4)), Err(BuildError::Duplicate(CapabilityId::VENDOR.0.into())));
}

#[test]
fn a_space_that_is_full_takes_no_more() {
    let mut builder = endpoint();
    let (id, ext) = (CapabilityId::VENDOR.0.into(), ExtendedId::VENDOR.0);
    assert_eq!(builder.capability(&Sized(0xc4)), Err(BuildError::NoRoom { id, size: 0xc4 }));
    assert_eq!(builder.capability(&Sized(0xc0)), Ok(0x40));
    builder.extended(&Sized(0xef8)).unwrap();
    assert_eq!(builder.extended(&Sized(12)), Err(BuildError::NoRoom { id: ext, size: 12 }));
    assert_eq!(builder.extended(&Sized(8)), Ok(0xff8));
    assert_eq!(builder.extended(&Sized(0xffff)), Err(BuildError::NoRoom { id: ext, size: 0xffff }));
}

#[test]
fn a_capability_that_contradicts_itself_or_its_size_is_refused() {
    let id = ExtendedId::ARI.0;
    let error = CapabilityError::Field { field: "register", value: 0xffff };
    assert_eq!(endpoint().extended(&Single(0xffff)), Err(BuildError::Capability { id, error }));
    for register in [8, 5] {
        assert_eq!(endpoint().extended(&Single(register)), Err(BuildError::Overrun { id, register }));
    }
    assert!(endpoint().extended(&Single(4)).is_ok());
}

/// An image with dwords at offsets, and zeros else.
fn image(dwords: &[(usize, u32)]) -> ConfigSpace {
    let mut bytes = [0; 4096];
    for (offset, dword) in dwords {
        bytes[*offset..offset + 4].copy_from_slice(&dword.to_le_bytes());
    }
    ConfigSpace::from_image(&bytes)
}

#[test]
fn a_chain_that_comes_back_ends_with_an_error() {
    let space = image(&[
        (4, 1 << 20),
        (0x34, 0x40),
        (0x40, 0x5005),
        (0x50, 0x4011),
        (0x100, 0x2001_0010),
        (0x200, 0x2001_0030),
    ]);
    let found: Vec<_> = capabilities(&space).collect();
    let ok = |id, offset| Ok(Capability { id, offset });
    assert_eq!(
        found,
        [ok(CapabilityId::MSI, 0x40), ok(CapabilityId::MSIX, 0x50), Err(ChainError::Loop(0x40))]
    );
    let found: Vec<_> = extended_capabilities(&space).skip(1).collect();
    let ide = Extended { id: ExtendedId::IDE, version: 1, offset: 0x200 };
    assert_eq!(found, [Ok(ide), Err(ChainError::Loop(0x200))]);
    assert_eq!(find(&space, CapabilityId::MSIX).map(|found| found.offset), Some(0x50));
    assert_eq!(find(&space, CapabilityId::EXPRESS), None);
}

#[test]
fn a_chain_that_leads_outside_its_part_ends_with_an_error() {
    let space = image(&[(4, 1 << 20), (0x34, 0x3c), (0x100, 0x0fc1_0001)]);
    assert_eq!(capabilities(&space).collect::<Vec<_>>(), [Err(ChainError::Outside(0x3c))]);
    let found: Vec<_> = extended_capabilities(&space).skip(1).collect();
    assert_eq!(found, [Err(ChainError::Outside(0xfc))]);
}

#[test]
fn reserved_bits_of_a_pointer_do_not_count() {
    let space =
        image(&[(4, 1 << 20), (0x34, 0x43), (0x40, 0x0005), (0x100, 0x2031_0001), (0x200, 0x0001_0030)]);
    assert_eq!(capabilities(&space).count(), 1);
    assert_eq!(extended_capabilities(&space).map(|found| found.unwrap().offset).last(), Some(0x200));
}

#[test]
fn a_function_that_is_not_there_has_one_error_per_chain() {
    let space = ConfigSpace::from_image(&[]);
    assert_eq!(capabilities(&space).collect::<Vec<_>>(), [Err(ChainError::Gone(0xfc))]);
    assert_eq!(extended_capabilities(&space).collect::<Vec<_>>(), [Err(ChainError::Gone(0x100))]);
}

#[test]
fn null_capabilities_are_walked_through() {
    let space = image(&[
        (4, 1 << 20),
        (0x34, 0x40),
        (0x40, 0x5000),
        (0x50, 0x11),
        (0x100, 0x2000_0000),
        (0x200, 0x0001_0030),
    ]);
    assert_eq!(capabilities(&space).count(), 1);
    assert_eq!(extended_capabilities(&space).count(), 1);
}

#[test]
fn without_the_status_bit_there_is_no_chain() {
    let space = image(&[(0x34, 0x40), (0x40, 0x05)]);
    assert_eq!(capabilities(&space).count(), 0);
}

/// Bytes with chains that have a chance to go on.
fn chained() -> impl Strategy<Value = Vec<u8>> {
    let pointers = prop::collection::vec((0usize..1024, any::<u32>()), 0..40);
    (prop::collection::vec(any::<u8>(), 4096), pointers).prop_map(|(mut bytes, pointers)| {
        bytes[6] |= 0x10;
        for (dword, value) in pointers {
            bytes[dword * 4..][..4].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    })
}

proptest! {
    #[test]
    fn walks_over_any_bytes_end_and_never_see_a_place_twice(bytes in chained(), cut in 0usize..4097) {
        let space = ConfigSpace::from_image(&bytes[..cut]);
        let found: Vec<_> = capabilities(&space).collect();
        prop_assert!(found.len() <= 49);
        let mut places: Vec<_> = found.iter().flatten().map(|found| found.offset).collect();
        prop_assert!(places.iter().all(|place| (0x40..0x100).contains(place)));
        // An error ends the walk.
        prop_assert!(found.iter().rev().skip(1).all(Result::is_ok));
        let extended: Vec<_> = extended_capabilities(&space).collect();
        prop_assert!(extended.len() <= 961);
        prop_assert!(extended.iter().rev().skip(1).all(Result::is_ok));
        places.extend(extended.iter().flatten().map(|found| found.offset));
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        prop_assert_eq!(places.len(), count);
    }

    #[test]
    fn a_builder_makes_spaces_that_a_walk_finds_everything_in(
        wanted in prop::collection::vec((prop::option::of(0x100u16..0x1100), 0u16..0x200), 0..24),
    ) {
        let mut builder = endpoint();
        let mut there: Vec<(u16, u16)> = Vec::new();
        for (offset, size) in wanted {
            let capability = Sized(size);
            let placed = match offset {
                Some(offset) => builder.extended_at(offset, &capability),
                None => builder.extended(&capability),
            };
            if let Ok(offset) = placed {
                prop_assert!(offset.is_multiple_of(4) && offset >= 0x100 && size > 0 && offset + size <= 0x1000);
                prop_assert!(there.iter().all(|&(other, length)| offset + size <= other || other + length <= offset));
                there.push((offset, size));
            }
        }
        let space = builder.build();
        let found: Vec<_> = extended_capabilities(&space).map(|found| found.unwrap().offset).collect();
        prop_assert_eq!(found, there.iter().map(|&(offset, _)| offset).collect::<Vec<_>>());
    }
}
