//! Devices of the software machine, connected through the module.

mod bad;
mod changes;

use std::sync::Arc;
use std::time::Duration;

use pcie::config::Width;
use pcie::ide::StreamState;
use pcie::{Bdf, FunctionId, Segment};
use tdx_host::traits::{PciBus, UeventAction};
use tdx_host::tsm::{Content, Refresh};
use tdx_host::{Blame, Errno};
use tdx_machine::pci::{LinkAttack, LinkDirection, LinkMove};
use tdx_machine::{Machine, MmioWidth, PlatformSpec, presets};
use tdx_platform::{BridgeView, CpuMode, DeviceEvent, FunctionView, HostOptions, Platform, TdxHost};

/// Two physical functions, four virtual ones.
const MANY: FunctionId = at(0x15);
const SINGLE: FunctionId = at(0x16);
/// No IDE, no TEE-IO, no mailbox.
const PLAIN: FunctionId = at(0x82);

const fn at(bus: u8) -> FunctionId {
    match Bdf::new(bus, 0, 0) {
        Some(bdf) => FunctionId::new(Segment(0), bdf),
        None => panic!("no such place"),
    }
}

/// The default machine, up.
fn up() -> TdxHost {
    up_with(1, |_| {})
}

/// The default machine with another seed, bent, up.
fn up_with(seed: u64, bend: impl FnOnce(&mut PlatformSpec)) -> TdxHost {
    let mut spec = presets::find("default").unwrap().spec().unwrap();
    bend(&mut spec);
    let machine = Machine::power_on(spec, seed).unwrap();
    let platform = Arc::new(Platform::new(Arc::new(machine), CpuMode::Sequential));
    let host = TdxHost::new(platform, HostOptions::default());
    host.bring_up(&()).unwrap();
    host
}

fn machine(host: &TdxHost) -> &Machine {
    host.platform().machine()
}

/// What a connect takes and a disconnect gives back.
#[derive(Debug, PartialEq, Eq)]
struct Stock {
    free: u64,
    leaked: u64,
    bridges: Vec<BridgeView>,
    links: usize,
}

fn stock(host: &TdxHost) -> Stock {
    let pages = host.platform().page_accounts();
    Stock { free: pages.free, leaked: pages.leaked, bridges: host.bridges(), links: host.links().len() }
}

fn view(host: &TdxHost, function: FunctionId) -> FunctionView {
    host.function(function).unwrap()
}

#[test]
fn a_device_is_connected_and_disconnected() {
    let host = up();
    assert_eq!(host.tsm().unwrap().name, "tsm0");
    let before = stock(&host);
    for device in [MANY, SINGLE] {
        host.connect(device, "tsm0\n").unwrap();
        let [link] = &host.links()[..] else { panic!("one link") };
        assert_eq!((link.device, link.name.as_str()), (device, "stream0.0.0"));
        for end in [&link.root_port, &link.endpoint] {
            assert_eq!((end.state, end.enabled, end.fail_message), (StreamState::SECURE, true, false));
        }
        let bridge = &host.bridges()[0];
        assert_eq!(bridge.available_secure_streams, Some(3));
        assert_eq!(bridge.streams, [("stream0.0.0".to_owned(), device)]);
        assert_eq!(view(&host, device).streams, ["stream0.0.0"]);
        assert_eq!(host.tsm().unwrap().connected, 1);
        assert!(host.dev_info(device).unwrap().len() > 1000);
        for what in Refresh::ALL {
            host.refresh(device, what).unwrap();
        }
        let [link] = &host.links()[..] else { panic!("one link") };
        assert_eq!((link.key_set, link.key_refreshes, link.session_key_updates), (1, 1, 1));
        host.disconnect(device, "tsm0").unwrap();
        assert_eq!(stock(&host), before, "{device}");
    }
}

#[test]
fn interrupts_locks_and_a_lack_of_entropy_do_not_stop_a_connect() {
    for seed in 1..=6 {
        // One look in three, one lock in five, one random number in four.
        let host = up_with(seed, |spec| {
            (spec.chaos.interrupt, spec.chaos.busy, spec.chaos.no_entropy) = (3, 5, 4);
        });
        let before = stock(&host);
        for device in [MANY, SINGLE] {
            host.connect(device, "tsm0").unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            for what in Refresh::ALL {
                host.refresh(device, what).unwrap_or_else(|error| panic!("seed {seed}, {what:?}: {error}"));
            }
            host.disconnect(device, "tsm0").unwrap();
        }
        assert_eq!(stock(&host), before, "seed {seed}");
    }
}

#[test]
fn functions_show_what_linux_shows() {
    let host = up();
    let shown = |function: FunctionId| -> Vec<Content> {
        view(&host, function).attributes().map(|attribute| attribute.content).collect()
    };
    let all = [Content::Authenticated, Content::Connect, Content::Disconnect, Content::Bound, Content::Dsm];
    assert_eq!(shown(MANY), all);
    assert_eq!(shown(PLAIN), []);
    let port = view(&host, MANY).pci.root_port.unwrap();
    assert_eq!(shown(port), []);
    let second = FunctionId::new(MANY.segment, MANY.bdf.checked_add(1).unwrap());
    assert_eq!(shown(second), []);
    assert_eq!(view(&host, MANY).doe_features.len(), 3);
    host.connect(MANY, "tsm0").unwrap();
    assert_eq!(shown(second), [Content::Authenticated, Content::Bound, Content::Dsm]);
    let managed = view(&host, second);
    assert_eq!((managed.dsm, managed.tsm.as_deref()), (Some(MANY), Some("tsm0")));
    host.disconnect(MANY, "tsm0\n").unwrap();
    assert_eq!(shown(second), []);
    assert_eq!(view(&host, second).dsm, None);
    host.connect_exit();
    assert_eq!((shown(MANY), host.tsm()), (Vec::new(), None));
    let hidden = host.bridges().iter().all(|bridge| bridge.available_secure_streams.is_none());
    assert!(hidden, "no stream can be made any more");
}

#[test]
fn only_devices_that_can_be_connected_are_asked() {
    let host = up();
    let nobody = at(0x17);
    for (device, text, name, errno) in [
        (nobody, "tsm0", "no-such-function", Errno::ENOENT),
        (PLAIN, "tsm0", "not-a-dsm", Errno::ENOENT),
        (SINGLE, "tsm1", "no-such-tsm", Errno::ENXIO),
        (SINGLE, "0", "bad-tsm-name", Errno::EINVAL),
    ] {
        let error = host.connect(device, text).unwrap_err();
        assert_eq!((error.name(), error.errno()), (name, errno), "{device} {text}");
    }
    assert_eq!(host.disconnect(nobody, "tsm0").unwrap_err().name(), "no-such-function");
    assert_eq!(host.refresh(PLAIN, Refresh::Evidence).unwrap_err().name(), "not-a-dsm");
    assert_eq!(host.dev_info(SINGLE).unwrap_err().name(), "not-connected");
}

#[test]
fn user_space_hears_of_tsms_and_devices() {
    let host = up();
    host.connect(SINGLE, "tsm0").unwrap();
    host.disconnect(SINGLE, "tsm0").unwrap();
    host.connect_exit();
    host.connect_init().unwrap();
    let all = host.uevents_after(0);
    let heard: Vec<_> = all.iter().map(|record| (record.action, record.devpath.as_str())).collect();
    let tsm = "/devices/faux/tdx_host/tsm/tsm0";
    let device = "/devices/pci0000:14/0000:14:02.0/0000:16:00.0";
    assert_eq!(
        heard,
        [
            (UeventAction::Add, tsm),
            (UeventAction::Change, tsm),
            (UeventAction::Change, device),
            (UeventAction::Change, device),
            (UeventAction::Remove, tsm),
            (UeventAction::Add, tsm),
            (UeventAction::Change, tsm),
        ]
    );
    assert!(all.iter().zip(1..).all(|(record, seq)| record.seq == seq));
    assert_eq!(all[2].extra.as_deref(), Some("TSM_STATE=connected"));
    assert_eq!(host.uevents_after(5).len(), 2);
    assert_eq!(host.tsm().unwrap().instance, 2);
}

#[test]
fn streams_run_out_below_a_root_port_and_come_back() {
    let host = up();
    let before = stock(&host);
    for _ in 0..5 {
        for device in [MANY, SINGLE] {
            host.connect(device, "tsm0").unwrap();
        }
        assert_eq!(host.bridges()[0].available_secure_streams, Some(2));
        let error = host.connect(MANY, "tsm0").unwrap_err();
        assert_eq!((error.name(), error.errno()), ("already-connected", Errno::EBUSY));
        for device in [MANY, SINGLE] {
            host.disconnect(device, "tsm0").unwrap();
        }
        assert_eq!(stock(&host), before);
    }
}

#[test]
fn going_down_disconnects_everything_first() {
    let host = up();
    host.connect(MANY, "tsm0").unwrap();
    host.connect(SINGLE, "tsm0").unwrap();
    host.shutdown().unwrap();
    assert!(host.links().is_empty() && host.tsm().is_none());
    let pages = host.platform().page_accounts();
    let regions = machine(&host).lps().len() as u64 * 4096;
    assert_eq!((pages.held, pages.leaked), (regions, 0));
    let error = host.connect(SINGLE, "tsm0").unwrap_err();
    assert_eq!((error.name(), error.blame()), ("no-such-tsm", Blame::Caller));
}

#[test]
fn keys_of_links_are_made_anew_while_traffic_runs() {
    let host = up();
    host.connect(SINGLE, "tsm0").unwrap();
    host.set_key_refresh(Some(Duration::from_secs(60)));
    // A scratch register.
    let bar = enable_memory(&host, SINGLE).checked_add(0x1000).unwrap();
    let start = host.platform().now();
    host.tick(start);
    for (refreshes, minutes) in (1..).zip(2..6) {
        let value = 0x1234_0000 + u64::from(minutes);
        machine(&host).mmio_write(bar, MmioWidth::Dword, value);
        machine(&host).advance(Duration::from_secs(60));
        host.tick(start + Duration::from_secs(61) * minutes);
        assert_eq!(host.links()[0].key_refreshes, refreshes);
        assert_eq!(machine(&host).mmio_read(bar, MmioWidth::Dword), value);
    }
    let port = view(&host, SINGLE).pci.root_port.unwrap();
    let traffic = machine(&host).link_traffic(port).unwrap();
    // The device's end is limited to TEE traffic, which its answers to a host are not.
    assert!(traffic.sealed[0] >= 8 && traffic.clear[0] == 0, "{traffic:?}");
}

/// The first window of a device, which answers from now on.
fn enable_memory(host: &TdxHost, device: FunctionId) -> tdx_abi::PhysAddr {
    let platform = host.platform();
    let command = platform.config_read(device, 4, Width::Word);
    platform.config_write(device, 4, Width::Word, command | 6);
    let [low, high] = [0x10, 0x14].map(|at| u64::from(platform.config_read(device, at, Width::Dword)));
    tdx_abi::PhysAddr::new(high << 32 | low & !0xf)
}

#[test]
fn tampering_with_a_link_ends_its_connection() {
    let host = up();
    let before = stock(&host);
    for (action, read) in [
        (LinkMove::Flip { bit: 99 }, 1),
        (LinkMove::Drop, 2),
        (LinkMove::Replay, 1),
        (LinkMove::Flip { bit: 200 }, 1),
    ] {
        host.connect(SINGLE, "tsm0").unwrap();
        let bar = enable_memory(&host, SINGLE);
        let port = view(&host, SINGLE).pci.root_port.unwrap();
        host.tick(host.platform().now());
        assert_eq!(host.links().len(), 1);
        let attack = LinkAttack { direction: LinkDirection::Down, after: 0, action: action.clone() };
        machine(&host).attack_link(port, attack).unwrap();
        // One that is missing shows in the next one.
        for _ in 0..read {
            machine(&host).mmio_read(bar, MmioWidth::Dword);
        }
        host.tick(host.platform().now());
        assert!(host.links().is_empty(), "{action:?}");
        assert_eq!(view(&host, SINGLE).last_error.unwrap().name(), "stream-lost");
        let told = host.uevents_after(0).into_iter().next_back().unwrap().extra;
        assert_eq!(told.as_deref(), Some("TSM_STATE=lost"));
        assert_eq!(stock(&host), before);
    }
    host.connect(SINGLE, "tsm0").unwrap();
    host.device_event(DeviceEvent::StreamLost(SINGLE));
    assert!(host.links().is_empty());
}
