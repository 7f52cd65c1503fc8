extern crate std;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::address::{Bdf, BusAddress};
use crate::config::{BuildError, CapabilityError, ConfigBuilder, FunctionIds};

fn builder() -> ConfigBuilder {
    ConfigBuilder::endpoint(FunctionIds {
        vendor: 0x8086,
        device: 1,
        revision: 0,
        class: [2, 0, 0],
        subsystem_vendor: 0,
        subsystem: 0,
    })
}

fn features() -> Capability {
    Capability::new().with_ide_km(true).with_aggregation(true).with_tee_limited(true)
}

/// Two link streams, and two selective ones with one and three address association blocks.
const TWO_OF_EACH: IdeCapability<'_> =
    IdeCapability { features: Capability::new(), link_streams: 2, selective_streams: &[1, 3] };

fn built(capability: &IdeCapability<'_>) -> ConfigSpace {
    let mut builder = builder();
    builder.extended(capability).unwrap();
    builder.build()
}

#[test]
fn blocks_follow_each_other_link_streams_first() {
    let space = built(&TWO_OF_EACH);
    let ide = Ide::find(&space).unwrap();
    let blocks: Vec<_> = ide
        .streams()
        .map(|block| (block.selective, block.index, block.offset, block.address_blocks))
        .collect();
    assert_eq!(
        blocks,
        [(false, 0, 0x10c, 0), (false, 1, 0x114, 0), (true, 0, 0x11c, 1), (true, 1, 0x13c, 3)]
    );
    assert_eq!(ide.size(), 0xc + 2 * 8 + (20 + 12) + (20 + 36));
    let stream = ide.selective(1).unwrap();
    assert_eq!((stream.control(), stream.status(), stream.rid()), (0x140, 0x144, Some(0x148)));
    assert_eq!((stream.address(0), stream.address(2), stream.address(3)), (Some(0x150), Some(0x168), None));
    assert_eq!(ide.selective(2), None);
}

#[test]
fn the_capability_register_counts_the_streams_that_there_are() {
    for (link_streams, selective, register) in [
        (0, &[1][..], Capability::new().with_selective(true)),
        (1, &[], Capability::new().with_link(true)),
        (
            8,
            &[0; 3],
            Capability::new()
                .with_link(true)
                .with_link_classes(7)
                .with_selective(true)
                .with_selective_streams(2),
        ),
    ] {
        let capability =
            IdeCapability { features: Capability::new(), link_streams, selective_streams: selective };
        let space = built(&capability);
        let ide = Ide::find(&space).unwrap();
        assert_eq!(ide.capability(), register);
        assert_eq!(ide.streams().count(), usize::from(link_streams) + selective.len());
    }
}

#[test]
fn streams_that_no_capability_has_are_refused() {
    let refused = |link_streams, selective_streams: &[u8]| {
        let capability = IdeCapability { features: features(), link_streams, selective_streams };
        match builder().extended(&capability) {
            Err(BuildError::Capability { error: CapabilityError::Field { field, value }, .. }) => {
                (field, value)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(9, &[1]), ("number of link streams", 9));
    assert_eq!(refused(0, &[]), ("number of streams", 0));
    assert_eq!(refused(0, &[1, 16]), ("number of address association blocks", 16));
    let many = vec![0; 257];
    let capability = IdeCapability { features: features(), link_streams: 0, selective_streams: &many };
    let size = 4096;
    assert_eq!(builder().extended(&capability), Err(BuildError::NoRoom { id: ExtendedId::IDE.0, size }));
    assert_eq!(refused_by_check(&many), ("number of selective streams", 257));
}

/// What `check` says of streams that find no room anyway.
fn refused_by_check(selective_streams: &[u8]) -> (&'static str, u64) {
    use crate::config::ExtendedCapability;
    let capability = IdeCapability { features: features(), link_streams: 0, selective_streams };
    match capability.check() {
        Err(CapabilityError::Field { field, value }) => (field, value),
        other => panic!("{other:?}"),
    }
}

#[test]
fn software_writes_what_the_features_allow() {
    let all = u32::MAX;
    let selective = StreamControl::new()
        .with_enable(true)
        .with_algorithm(0x1f)
        .with_traffic_class(7)
        .with_stream_id(0xff);
    for (features, link, expected) in [
        (Capability::new(), false, selective.with_default(true)),
        (Capability::new(), true, selective),
        (
            features().with_pcrc(true).with_selective_config(true).with_partial_header_encryption(true),
            false,
            StreamControl::from_bits(all & !2),
        ),
        (
            features().with_pcrc(true).with_selective_config(true).with_partial_header_encryption(true),
            true,
            StreamControl::from_bits(all & !2).with_config(false).with_default(false).with_tee_limited(false),
        ),
    ] {
        let capability = IdeCapability { features, link_streams: u8::from(link), selective_streams: &[0] };
        let mut space = built(&capability);
        let stream = Ide::find(&space).unwrap().streams().next().unwrap();
        assert_eq!(stream.selective, !link);
        space.write(stream.control(), Width::Dword, all).unwrap();
        assert_eq!(Ide::find(&space).unwrap().stream_control(&stream), expected);
    }
}

#[test]
fn associations_are_written_and_read_where_they_belong() {
    let mut space = built(&TWO_OF_EACH);
    let ide = Ide::find(&space).unwrap();
    let (stream, other, link) =
        (ide.selective(1).unwrap(), ide.selective(0).unwrap(), ide.streams().next().unwrap());
    assert_eq!((ide.rid_association(&stream), ide.address_association(&stream, 2)), (None, None));
    let rid = RidAssociation::new(Bdf::from_routing_id(0x100), Bdf::from_routing_id(0x110), 0).unwrap();
    let address =
        AddressAssociation::new(BusAddress(1 << 40), BusAddress((1 << 40) + (1 << 24) - 1)).unwrap();
    for (at, register) in (0..).step_by(4).zip(rid.encode()) {
        space.write(stream.rid().unwrap() + at, Width::Dword, register).unwrap();
    }
    for (at, register) in (0..).step_by(4).zip(address.encode()) {
        space.write(stream.address(2).unwrap() + at, Width::Dword, register).unwrap();
    }
    let ide = Ide::find(&space).unwrap();
    assert_eq!(ide.rid_association(&stream), Some(rid));
    assert_eq!(ide.address_association(&stream, 2), Some(address));
    assert_eq!(ide.address_association(&stream, 1), None);
    assert_eq!(ide.address_association(&stream, 3), None);
    assert_eq!(ide.rid_association(&other), None);
    assert_eq!(ide.rid_association(&link), None);
}

#[test]
fn a_stream_is_found_by_its_id_when_it_is_enabled() {
    let mut space = built(&TWO_OF_EACH);
    let stream = Ide::find(&space).unwrap().selective(0).unwrap();
    let control = StreamControl::new().with_stream_id(9);
    space.write(stream.control(), Width::Dword, control.into_bits()).unwrap();
    assert_eq!(Ide::find(&space).unwrap().enabled(9), None);
    space.write(stream.control(), Width::Dword, control.with_enable(true).into_bits()).unwrap();
    assert_eq!(Ide::find(&space).unwrap().enabled(9), Some(stream));
    assert_eq!(Ide::find(&space).unwrap().enabled(0), None);
}

#[test]
fn the_device_changes_the_state_and_software_clears_the_fail_message() {
    let mut space = built(&TWO_OF_EACH);
    let stream = Ide::find(&space).unwrap().selective(0).unwrap();
    let status = |space: &ConfigSpace| Ide::find(space).unwrap().stream_status(&stream);
    set_state(&mut space, &stream, StreamState::SECURE).unwrap();
    assert_eq!(status(&space), StreamStatus::new().with_state(StreamState::SECURE));
    space.write(stream.status(), Width::Dword, 0).unwrap();
    assert_eq!(status(&space).state(), StreamState::SECURE, "software cannot change it");
    set_failed(&mut space, &stream).unwrap();
    let failed = StreamStatus::new().with_fail_message(true);
    assert_eq!(status(&space), failed);
    set_state(&mut space, &stream, StreamState::SECURE).unwrap();
    assert_eq!(status(&space), failed.with_state(StreamState::SECURE));
    space.write(stream.status(), Width::Dword, failed.into_bits()).unwrap();
    assert_eq!(status(&space), StreamStatus::new().with_state(StreamState::SECURE));
}

#[test]
fn the_image_is_what_the_registers_read() {
    let mut space = built(&TWO_OF_EACH);
    space.write(0x108, Width::Dword, u32::MAX).unwrap();
    let ide = Ide::find(&space).unwrap();
    let image: Vec<_> = ide.image().collect();
    let expected: Vec<_> =
        (0x104..0x100 + ide.size()).step_by(4).map(|at| space.read32(at).unwrap()).collect();
    assert_eq!(image, expected);
    assert_eq!(image[1], 0, "flow-through is not supported");
}

#[test]
fn flow_through_is_enabled_where_it_is_supported() {
    let features = Capability::new().with_flow_through(true);
    let mut space = built(&IdeCapability { features, link_streams: 1, selective_streams: &[] });
    space.write(0x108, Width::Dword, u32::MAX).unwrap();
    assert_eq!(Ide::find(&space).unwrap().control(), Control::new().with_flow_through(true));
}

proptest! {
    #[test]
    fn a_capability_that_is_built_has_the_streams_that_were_asked_for(
        features: u32, link_streams in 0u8..9, selective in prop::collection::vec(0u8..16, 0..40),
    ) {
        let capability = IdeCapability { features: Capability::from_bits(features), link_streams, selective_streams: &selective };
        let mut builder = builder();
        if builder.extended(&capability).is_ok() {
            let space = builder.build();
            let ide = Ide::find(&space).unwrap();
            let found: Vec<_> = ide.streams().filter(|block| block.selective).map(|block| block.address_blocks).collect();
            prop_assert_eq!(found, selective);
            prop_assert_eq!(ide.streams().filter(|block| !block.selective).count(), usize::from(link_streams));
        }
    }

    #[test]
    fn streams_in_any_bytes_lie_inside_the_space(bytes in prop::collection::vec(any::<u8>(), 4096), at in 0x40u16..0x400) {
        let mut bytes = bytes;
        let at = at * 4;
        if at != 0x100 {
            bytes[0x100..0x104].copy_from_slice(&(u32::from(at) << 20 | 0x1_0001).to_le_bytes());
        }
        bytes[usize::from(at)..][..4].copy_from_slice(&0x1_0030_u32.to_le_bytes());
        let space = ConfigSpace::from_image(&bytes);
        let ide = Ide::find(&space).unwrap();
        prop_assert_eq!(ide.offset(), at);
        for stream in ide.streams() {
            prop_assert!(stream.offset > at && stream.offset + stream.size() <= CONFIG_SIZE);
            ide.stream_control(&stream);
            ide.rid_association(&stream);
            let associations = (0..16).filter(|&index| stream.address(index).is_some()).count();
            prop_assert_eq!(associations, usize::from(stream.address_blocks));
        }
        prop_assert!(ide.image().count() <= 1024);
    }
}
