use std::time::Duration;

use pcie::config::Width;
use pcie::ide::{Ide, StreamControl, StreamState};
use spdm::ide_km::{IdeKey, IdePort, Ifv, KeySet, KeySlot};

use super::*;
use crate::endpoint::EndpointSpec;
use crate::ide::{Association, MaxPayload, StreamSettings};

const STREAM: StreamId = StreamId(5);

/// A device with a secure stream, and the root port's end of it.
fn with_stream() -> (Endpoint, Port) {
    let spec = EndpointSpec::default();
    let mut device = Endpoint::without_identity(&spec, 1, Duration::ZERO).unwrap();
    let first = device.first();
    let control =
        Ide::find(&device.dsm.hardware.functions[0].config).unwrap().selective(0).unwrap().control();
    let on = StreamControl::new().with_stream_id(STREAM.0).with_enable(true).with_default(true);
    device.config_write(first, control, Width::Dword, on.into_bits(), Duration::ZERO, &mut ()).unwrap();
    let mut port = Port::new(MaxPayload::MAX);
    port.add(StreamSettings { id: STREAM, association: Association::EVERYBODY }).set_enabled(true);
    for slot in KeySlot::of_set(KeySet::K0) {
        let key = IdeKey::new([u8::try_from(slot.index()).unwrap() ^ 0xa5; 32]);
        let hardware = &mut device.dsm.hardware;
        hardware.program(LINK, STREAM, slot, &key, Ifv::INITIAL).unwrap();
        hardware.go(LINK, STREAM, slot).unwrap();
        let theirs = slot.at_the_other_end();
        port.program(STREAM, theirs, &key, Ifv::INITIAL).unwrap();
        port.go(STREAM, theirs).unwrap();
    }
    device.dsm.hardware.set_stream(LINK, STREAM, true);
    (device, port)
}

fn state(device: &Endpoint) -> StreamState {
    let ide = Ide::find(&device.dsm.hardware.functions[0].config).unwrap();
    ide.stream_status(&ide.selective(0).unwrap()).state()
}

fn read_of_the_first_dword(device: &Endpoint) -> Tlp {
    let address = device.spec.pci.window.0;
    let requester = pcie::Bdf::from_routing_id(0x1408);
    Tlp {
        trusted: false,
        header: TlpHeader::Read { requester, tag: 0, address, dwords: 1 },
        payload: Vec::new(),
    }
}

#[test]
fn a_stream_whose_counter_is_used_up_is_lost_and_the_other_end_is_told() {
    for (limit, expected) in [(2, StreamState::SECURE), (1, StreamState::INSECURE)] {
        let (mut device, mut port) = with_stream();
        assert_eq!(state(&device), StreamState::SECURE);
        device.dsm.hardware.end_of(LINK, STREAM).unwrap().set_counter_limit(limit);
        let sealed = port.seal(STREAM, read_of_the_first_dword(&device)).unwrap();
        let back = device.arrive(Packet::Sealed(sealed), &mut ());
        assert_eq!(state(&device), expected, "{limit}");
        let told = back == [Packet::FailMessage(STREAM)];
        assert_eq!((told, back.len()), (expected == StreamState::INSECURE, 1), "{limit}");
    }
}
