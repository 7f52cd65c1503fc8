//! The way that goes well: connect, refresh, lose, disconnect.

use std::time::Duration;

use pcie::cap::{Aer, UncorrectableErrors};
use pcie::ide::{RidAssociation, StreamControl};
use tdx_abi::leaf::SeamcallLeaf;
use tdx_host::Errno;
use tdx_host::link::{KeySet, Stream, Wire};
use tdx_host::traits::LogLevel;
use tdx_host::tsm::{DEFAULT_KEY_REFRESH, Dsm, Loss, Refresh, TsmError};

use super::Link;
use crate::fake::Leaks;
use crate::fake::pcie::{DEVICE, PORT, Shape, at};

#[test]
fn a_device_is_connected_step_by_step_and_disconnected_in_reverse() {
    let mut link = Link::new();
    let before = link.fake().state().flushed.len();
    link.connect().unwrap();
    assert_eq!(link.dsm.tsm(), Some(0));
    let stream = link.dsm.stream().unwrap();
    assert_eq!((stream.place().to_string(), stream.id()), ("stream0.0.0".to_owned(), 7));
    assert_eq!(link.tsm.bridges()[0].available(), Some(1));
    {
        let state = link.fake().state();
        let registers = state.io.pcie.stream_registers(DEVICE, 0);
        let control = StreamControl::from_bits(registers[0]);
        assert_eq!((control.enable(), control.default(), control.stream_id()), (true, true, 7));
        assert_eq!((control.config(), control.tee_limited()), (true, true));
        let port = RidAssociation::new(PORT.bdf, PORT.bdf, 0).unwrap();
        assert_eq!(registers[2..], [port.encode()[0], port.encode()[1], 0, 0, 0]);
        // The port's own block is the module's to write.
        assert_eq!(state.io.pcie.stream_registers(PORT, 0), [0xff00_0000, 2, 0, 0, 0, 0, 0]);
        let create = &state.io.links.last_create;
        let device = RidAssociation::new(DEVICE.bdf, DEVICE.bdf, 0).unwrap().encode();
        assert_eq!([create.rcx, create.r9], [0x118, 0]);
        assert_eq!([create.r10, create.r11], device.map(u64::from));
        assert_eq!([create.r12, create.r13, create.r14], [0x0ff0_0001, 0x10, 0x10]);
        // Pages of the session and of the stream, and none of them was in a cache.
        let flushed = state.flushed[before..].iter().map(|range| range.size() / 4096).sum::<u64>();
        assert_eq!(flushed, 2 + 1);
    }
    link.disconnect().unwrap();
    link.assert_undone("disconnected");
    let state = link.fake().state();
    let order = [
        SeamcallLeaf::SPDM_CREATE,
        SeamcallLeaf::SPDM_CONNECT,
        SeamcallLeaf::IDE_STREAM_CREATE,
        SeamcallLeaf::IDE_STREAM_KM,
        SeamcallLeaf::IDE_STREAM_BLOCK,
        SeamcallLeaf::IDE_STREAM_DELETE,
        SeamcallLeaf::SPDM_DISCONNECT,
        SeamcallLeaf::SPDM_DELETE,
    ];
    assert_eq!(state.io.links.order, order);
}

#[test]
fn user_space_is_told_what_comes_and_goes() {
    let mut link = Link::new();
    link.connect().unwrap();
    link.disconnect().unwrap();
    link.connect().unwrap();
    link.tsm.lose(&link.bench.host, &*link.bench.fake, &mut link.dsm, Loss::Stream);
    let number = link.tsm.stop_connecting().unwrap();
    link.tsm.unregister(&*link.bench.fake, &link.class, number);
    let device = "change /devices/pci0000:00/0000:00:03.0/0000:01:00.0 pci TSM_STATE=";
    assert_eq!(
        link.fake().state().io.uevents,
        [
            "add /devices/faux/tdx_host/tsm/tsm0 tsm",
            "change /devices/faux/tdx_host/tsm/tsm0 tsm",
            &format!("{device}connected"),
            &format!("{device}disconnected"),
            &format!("{device}connected"),
            &format!("{device}lost"),
            "remove /devices/faux/tdx_host/tsm/tsm0 tsm",
        ]
    );
    assert_eq!((link.tsm.number(), link.tsm.bridges()[0].available()), (None, None));
    assert_eq!(link.class.take(), Some(0), "its number is free again");
}

#[test]
fn what_is_written_is_judged_in_the_order_of_linux() {
    let mut link = Link::new();
    let refused = |error: TsmError| (error.name(), error.errno());
    let cases = [
        ("tsm1\n", ("no-such-tsm", Errno::ENXIO)),
        ("tsm-1", ("no-such-tsm", Errno::ENXIO)),
        ("tpm0", ("bad-tsm-name", Errno::EINVAL)),
        ("", ("bad-tsm-name", Errno::EINVAL)),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(link.connect_as(text).unwrap_err()), expected, "{text:?}");
        link.assert_undone(text);
    }
    assert_eq!(refused(link.disconnect().unwrap_err()), ("not-connected", Errno::ENXIO));
    assert_eq!(refused(link.refresh(Refresh::Evidence).unwrap_err()), ("not-connected", Errno::ENXIO));
    link.connect().unwrap();
    // The name is looked at first, then whether the device is free, then whether there is such a TSM.
    for (text, expected) in [
        ("tpm0", ("bad-tsm-name", Errno::EINVAL)),
        ("tsm0", ("already-connected", Errno::EBUSY)),
        ("tsm1", ("already-connected", Errno::EBUSY)),
    ] {
        assert_eq!(refused(link.connect_as(text).unwrap_err()), expected, "{text:?}");
    }
    let other = link.tsm.disconnect(&link.bench.host, &*link.bench.fake, &mut link.dsm, "tsm1");
    assert_eq!(refused(other.unwrap_err()), ("other-tsm", Errno::EINVAL));
    assert_eq!(link.dsm.tsm(), Some(0), "still connected");
    link.disconnect().unwrap();
    link.tsm.stop_connecting();
    assert_eq!(refused(link.connect().unwrap_err()), ("no-such-tsm", Errno::ENXIO));
}

#[test]
fn neither_the_extension_nor_an_update_waits_for_a_device() {
    let mut link = Link::new();
    let lock = link.lock.clone();
    link.fake().state().io.pcie.watch =
        Some(Box::new(move || assert!(!lock.is_held(), "held over an exchange")));
    link.connect().unwrap();
    // CONNECT wants two messages, so that the lock is taken three times; KM does not take it.
    assert_eq!(link.lock.times(), 3);
    link.disconnect().unwrap();
    assert_eq!(link.lock.times(), 6);
}

#[test]
fn device_information_is_what_the_module_wrote_and_is_collected_anew() {
    let mut link = Link::new();
    link.connect().unwrap();
    let read = |link: &Link| {
        let session = link.dsm.session().unwrap();
        let mut bytes = vec![0; 8192];
        let count = session.read_information(&*link.bench.fake, 0, &mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    };
    let first = read(&link);
    assert_eq!((first.len(), first.iter().all(|byte| *byte == first[0])), (5000, true));
    link.fake().state().io.links.information_bytes = 8192;
    link.refresh(Refresh::Evidence).unwrap();
    let second = read(&link);
    assert_eq!(second.len(), 8192);
    assert_ne!(first[0], second[0]);
    // A failed collection leaves what there was.
    link.fake().state().io.links.information_bytes = 16 * 4096 + 1;
    let error = link.refresh(Refresh::Evidence).unwrap_err();
    assert_eq!(error.name(), "bad-device-information");
    assert_eq!((read(&link), link.dsm.last_error()), (second, Some(error)));
    link.disconnect().unwrap();
    link.assert_undone("disconnected");
}

#[test]
fn keys_are_made_anew_on_request_and_when_they_are_used_up() {
    let mut link = Link::new();
    link.connect().unwrap();
    link.refresh(Refresh::SessionKeys).unwrap();
    assert_eq!(link.dsm.wire().unwrap().key_updates(), 1);
    link.refresh(Refresh::StreamKeys).unwrap();
    assert_eq!(
        (link.dsm.stream().unwrap().key_set(), link.dsm.stream().unwrap().refreshes()),
        (KeySet(1), 1)
    );
    link.fake().state().io.links.keys_used_up = 2;
    link.refresh(Refresh::StreamKeys).unwrap();
    assert_eq!(
        (link.dsm.stream().unwrap().key_set(), link.dsm.stream().unwrap().refreshes()),
        (KeySet(0), 2)
    );
    assert_eq!(link.dsm.wire().unwrap().key_updates(), 3);
    assert_eq!(link.fake().state().io.links.key_updates, 3);
    // Keys that are used up at once, again and again, are the module's fault and end the operation.
    link.fake().state().io.links.keys_used_up = 1000;
    assert_eq!(link.refresh(Refresh::StreamKeys).unwrap_err().name(), "device-no-end");
    assert_eq!(link.dsm.stream().unwrap().key_set(), KeySet(0), "the old keys are in use");
    link.fake().state().io.links.keys_used_up = 0;
    link.disconnect().unwrap();
    link.assert_undone("disconnected");
}

#[test]
fn keys_of_a_stream_are_made_anew_when_it_is_time() {
    let mut link = Link::new();
    let minute = Duration::from_secs(60);
    let look = |link: &mut Link, now: Duration| {
        let Link { tsm, bench, dsm, .. } = link;
        let result = tsm.look_after(&bench.host, &*bench.fake, dsm, now);
        (result.map_err(|error| error.name()), dsm.stream().map(Stream::refreshes))
    };
    assert_eq!(look(&mut link, minute), (Ok(()), None));
    link.connect().unwrap();
    // Without a word, after an hour.
    assert_eq!(link.tsm.key_refresh(), Some(DEFAULT_KEY_REFRESH));
    assert_eq!(look(&mut link, minute), (Ok(()), Some(0)), "begins to count");
    assert_eq!(look(&mut link, minute * 60), (Ok(()), Some(0)));
    link.tsm.set_key_refresh(None);
    assert_eq!(look(&mut link, minute * 600), (Ok(()), Some(0)), "never");
    link.disconnect().unwrap();
    link.connect().unwrap();
    link.tsm.set_key_refresh(Some(minute));
    assert_eq!(link.tsm.key_refresh(), Some(minute));
    assert_eq!(look(&mut link, minute), (Ok(()), Some(0)), "begins to count");
    assert_eq!(look(&mut link, Duration::from_secs(119)), (Ok(()), Some(0)));
    assert_eq!(look(&mut link, minute * 2), (Ok(()), Some(1)));
    assert_eq!(look(&mut link, minute * 2), (Ok(()), Some(1)));
    assert_eq!(look(&mut link, minute), (Ok(()), Some(1)), "a clock that goes back");
    // One that fails is tried again at the next look.
    let exchanges = link.fake().state().io.pcie.exchanges;
    link.fake().state().io.pcie.trouble = Some((exchanges, crate::fake::pcie::Trouble::Wrong));
    assert_eq!(look(&mut link, minute * 3), (Err("device-keys-refused"), Some(1)));
    link.fake().state().io.pcie.trouble = None;
    assert_eq!(look(&mut link, minute * 3), (Ok(()), Some(2)));
    // Made anew on request: the time begins again, with the next look.
    link.refresh(Refresh::StreamKeys).unwrap();
    assert_eq!(look(&mut link, minute * 4), (Ok(()), Some(3)));
    assert_eq!(look(&mut link, minute * 5), (Ok(()), Some(4)));
    link.disconnect().unwrap();
}

#[test]
fn a_lost_connection_is_taken_down_as_far_as_it_can_be() {
    for (how, name, leaves) in [
        (Loss::Removed, "device-gone-away", &[][..]),
        (Loss::Stream, "stream-lost", &[SeamcallLeaf::SPDM_DISCONNECT]),
    ] {
        let mut link = Link::new();
        link.connect().unwrap();
        let device = (how == Loss::Removed).then(|| {
            let mut state = link.fake().state();
            state.io.pcie.gone = true;
            state.io.pcie.spaces.remove(&DEVICE)
        });
        link.fake().state().io.links.order.clear();
        let before = link.fake().state().io.clock;
        link.tsm.lose(&link.bench.host, &*link.bench.fake, &mut link.dsm, how);
        link.assert_undone(name);
        assert_eq!(link.dsm.last_error().unwrap().name(), name);
        let order = link.fake().state().io.links.order.clone();
        let stream = [SeamcallLeaf::IDE_STREAM_BLOCK, SeamcallLeaf::IDE_STREAM_DELETE];
        assert_eq!(order, [&stream, leaves, &[SeamcallLeaf::SPDM_DELETE]].concat(), "{name}");
        if let Some(device) = device {
            assert_eq!(link.fake().state().io.clock, before, "nobody waits for a device that is not there");
            let mut state = link.fake().state();
            state.io.pcie.gone = false;
            state.io.pcie.spaces.insert(DEVICE, device.unwrap());
        }
        link.connect().unwrap();
        assert_eq!(link.dsm.last_error(), None);
        link.disconnect().unwrap();
        link.assert_undone("after a loss");
        // Nothing more is lost.
        let told = link.fake().state().io.uevents.len();
        link.tsm.lose(&link.bench.host, &*link.bench.fake, &mut link.dsm, how);
        assert_eq!(link.fake().state().io.uevents.len(), told);
    }
}

#[test]
fn a_stream_that_is_not_secure_any_more_is_noticed_at_either_end() {
    let look = |link: &mut Link| {
        let Link { tsm, bench, dsm, .. } = link;
        tsm.look_after(&bench.host, &*bench.fake, dsm, Duration::ZERO).unwrap();
        (dsm.tsm(), dsm.last_error().map(|error| error.name()))
    };
    let errors = UncorrectableErrors::new();
    for (errors, told) in [
        (errors, &[][..]),
        (errors.with_ide_check_failed(true).with_others(1 << 4), &["IDE check failed"]),
        (errors.with_misrouted_ide_tlp(true), &["misrouted IDE TLP"]),
        (errors.with_pcrc_check_failed(true), &["PCRC check failed"]),
    ] {
        for end in [PORT, DEVICE] {
            let mut link = Link::new();
            link.connect().unwrap();
            assert_eq!(look(&mut link), (Some(0), None));
            link.fake().state().io.pcie.fail_stream(end, errors);
            assert_eq!(look(&mut link), (None, Some("stream-lost")), "{end}");
            link.assert_undone("insecure");
            let mut state = link.fake().state();
            let lines: Vec<_> = state
                .lines
                .iter()
                .filter_map(|(_, line)| line.strip_prefix(&format!("{end}: AER: ")))
                .collect();
            assert_eq!(lines, told);
            let left = Aer::uncorrectable(&state.io.pcie.spaces[&end]).unwrap();
            assert_eq!(left, UncorrectableErrors::new().with_others(errors.others()), "others are not ours");
            state.io.pcie.gone = true;
        }
    }
    let mut link = Link::new();
    link.connect().unwrap();
    link.fake().state().io.pcie.gone = true;
    assert_eq!(look(&mut link), (None, Some("device-gone-away")));
}

#[test]
fn a_device_that_does_not_end_its_session_is_reset() {
    let mut link = Link::new();
    link.connect().unwrap();
    let exchanges = {
        let mut state = link.fake().state();
        state.io.links.deaf = true;
        state.io.pcie.exchanges
    };
    // KM STOP goes through, END_SESSION does not.
    link.fake().state().io.pcie.trouble = Some((exchanges + 2, crate::fake::pcie::Trouble::Dead));
    link.disconnect().unwrap();
    link.assert_undone("reset");
    let mut state = link.fake().state();
    assert_eq!(state.io.pcie.bus_resets, 1);
    let warned = |line: &(LogLevel, String)| line.0 == LogLevel::Warning && line.1.contains("session ends");
    assert!(state.lines.iter().any(warned), "{:?}", state.lines);
    state.io.pcie.trouble = None;
    drop(state);
    link.connect().unwrap();
}

#[test]
fn the_stream_covers_virtual_functions_which_the_dsm_manages_too() {
    let mut link = Link::of(Shape { virtual_functions: 3, ..Shape::default() });
    let dependents = |link: &Link| {
        let mut found = Vec::new();
        link.tsm.dependents(&*link.bench.fake, &link.dsm, |function| found.push(function));
        found
    };
    assert_eq!(dependents(&link), []);
    link.connect().unwrap();
    let last = at(1, 1, 2);
    let rids = RidAssociation::new(DEVICE.bdf, last.bdf, 0).unwrap().encode();
    let create = link.fake().state().io.links.last_create;
    assert_eq!([create.r10, create.r11], rids.map(u64::from));
    assert_eq!(dependents(&link), [at(1, 1, 0), at(1, 1, 1), last]);
    let mut plain = Link::of(Shape { virtual_functions: 3, tee: false, ..Shape::default() });
    plain.connect().unwrap();
    assert_eq!(dependents(&plain), [], "without TEE-IO nothing is asked of the others");
}

#[test]
fn a_connected_device_takes_little_memory() {
    let mut link = Link::new();
    link.connect().unwrap();
    // 3 for messages, 2 for lists, 2 of the session, 1 of the stream, 16 for device information.
    assert_eq!((link.dsm.page_count(), Wire::<Leaks>::PAGES), (24, 5));
    let taken = link.free - link.fake().free_bytes();
    assert_eq!(taken, 24 * 4096);
    assert!(taken + size_of::<Dsm<Leaks>>() as u64 <= 256 * 1024, "{}", size_of::<Dsm<Leaks>>());
    assert!(size_of::<Dsm<Leaks>>() <= 16 * 1024, "{}", size_of::<Dsm<Leaks>>());
}
