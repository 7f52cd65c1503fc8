//! Random histories of hosts, devices and somebody on the link: whatever happens, no key is used twice, no
//! stream is secure with an end that has no keys, and every page comes back.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use pcie::FunctionId;
use pcie::ide::StreamState;
use proptest::prelude::*;
use spdm::ids::SessionId;
use spdm::key_schedule::Direction;
use tdx_abi::PhysAddr;
use tdx_host::UpdateOptions;
use tdx_host::tsm::Refresh;
use tdx_image::{HeaderVersion, build};
use tdx_machine::endpoint::DeviceFault;
use tdx_machine::endpoint::mmio::reg;
use tdx_machine::pci::{DeviceMove, DeviceObserver, LinkAttack, LinkDirection, LinkMove};
use tdx_machine::{Machine, presets};
use tdx_module::io::MmioWidth;
use tdx_platform::{CpuMode, DeviceEvent, HostOptions, PageAccounts, Platform, TdxHost};
use tdxhost::update::build::spec_for;

/// IDE keys that went to devices.
#[derive(Default)]
struct Keys {
    seen: Mutex<HashSet<[u8; 32]>>,
    again: Mutex<Vec<FunctionId>>,
}

impl DeviceObserver for Keys {
    fn secured(
        &self,
        function: FunctionId,
        direction: Direction,
        _session: SessionId,
        _sequence: u64,
        text: &[u8],
    ) {
        // VENDOR_DEFINED_REQUEST with KEY_PROG of IDE_KM: its key is 19 bytes in.
        let is_key = direction == Direction::Request
            && text.get(1) == Some(&0xFE)
            && text.get(11..13) == Some(&[0, 2]);
        let Some(key) = text.get(19..51).filter(|_| is_key) else { return };
        let key: [u8; 32] = key.try_into().expect("32 bytes");
        if !self.seen.lock().unwrap().insert(key) {
            self.again.lock().unwrap().push(function);
        }
    }
}

/// Something that happens. Devices are counted modulo their number.
#[derive(Clone, Debug)]
enum Move {
    Connect(usize),
    Disconnect(usize),
    Refresh(usize, Refresh),
    Unplug(usize),
    Plug(usize),
    Faulty(usize, usize),
    Sound(usize),
    Tamper(usize, LinkDirection, u8),
    Use(usize),
    Strike(usize, u64, DeviceMove),
    Update,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let device = 0usize..4;
    let what = prop::sample::select(Refresh::ALL.to_vec());
    let direction = prop::sample::select(vec![LinkDirection::Down, LinkDirection::Up]);
    let strike =
        prop::sample::select(vec![DeviceMove::Remove, DeviceMove::KillMailbox, DeviceMove::ResetLink]);
    let one = prop_oneof![
        5 => device.clone().prop_map(Move::Connect),
        2 => device.clone().prop_map(Move::Disconnect),
        2 => (device.clone(), what).prop_map(|(device, what)| Move::Refresh(device, what)),
        1 => device.clone().prop_map(Move::Unplug),
        2 => device.clone().prop_map(Move::Plug),
        1 => (device.clone(), any::<usize>()).prop_map(|(device, fault)| Move::Faulty(device, fault)),
        2 => device.clone().prop_map(Move::Sound),
        2 => (device.clone(), direction, any::<u8>()).prop_map(|(device, way, how)| Move::Tamper(device, way, how)),
        3 => device.clone().prop_map(Move::Use),
        2 => (device, 0u64..40, strike).prop_map(|(device, after, what)| Move::Strike(device, after, what)),
        1 => Just(Move::Update),
    ];
    prop::collection::vec(one, 1..14)
}

struct World {
    host: TdxHost,
    devices: Vec<FunctionId>,
    keys: Arc<Keys>,
    fresh: PageAccounts,
    updates: u16,
}

impl World {
    fn new(seed: u64) -> Self {
        let spec = presets::find("default").expect("a preset").spec().expect("a sound preset");
        let machine = Arc::new(Machine::power_on(spec, seed).expect("a machine"));
        let host =
            TdxHost::new(Arc::new(Platform::new(machine, CpuMode::Sequential)), HostOptions::default());
        host.bring_up(&()).expect("a module");
        let keys = Arc::new(Keys::default());
        host.platform().machine().observe_devices(Some(Arc::clone(&keys) as Arc<dyn DeviceObserver>));
        let functions = host.functions();
        let devices = functions.iter().filter(|view| view.dsm_capable() && view.ide);
        let devices: Vec<_> = devices.map(|view| view.pci.id).collect();
        assert!(devices.len() >= 2, "the default platform has devices");
        let fresh = host.platform().page_accounts();
        Self { host, devices, keys, fresh, updates: 0 }
    }

    fn machine(&self) -> &Machine {
        self.host.platform().machine()
    }

    fn device(&self, number: usize) -> FunctionId {
        self.devices[number % self.devices.len()]
    }

    fn root_port(&self, device: FunctionId) -> FunctionId {
        // That of a device that was pulled out is where its bus is.
        let link = self.machine().pci_plan().ports.iter().find(|port| {
            port.id.segment == device.segment
                && (port.secondary..=port.subordinate).contains(&device.bdf.bus())
        });
        link.expect("a port above").id
    }

    /// What comes of it is checked by the invariants, not here: all of it may fail.
    fn act(&mut self, step: &Move) {
        match *step {
            Move::Connect(number) => drop(self.host.connect(self.device(number), "tsm0")),
            Move::Disconnect(number) => drop(self.host.disconnect(self.device(number), "tsm0")),
            Move::Refresh(number, what) => drop(self.host.refresh(self.device(number), what)),
            Move::Unplug(number) => {
                let device = self.device(number);
                self.machine().remove_device(device);
                self.host.device_event(DeviceEvent::Removed(device));
            }
            Move::Plug(number) => {
                self.plug(self.device(number));
            }
            Move::Faulty(number, fault) => {
                let every = DeviceFault::every();
                drop(self.machine().set_device_faults(self.device(number), &[every[fault % every.len()]]));
            }
            Move::Sound(number) => drop(self.machine().set_device_faults(self.device(number), &[])),
            Move::Tamper(number, direction, how) => {
                let action = match how % 4 {
                    0 => LinkMove::Drop,
                    1 => LinkMove::Replay,
                    2 => LinkMove::Reorder,
                    _ => LinkMove::Flip { bit: u32::from(how) },
                };
                let device = self.device(number);
                let attack = LinkAttack { direction, after: 0, action };
                self.machine().attack_link(self.root_port(device), attack).expect("a port");
                self.use_device(device);
                self.tell_lost_streams();
            }
            Move::Use(number) => {
                self.use_device(self.device(number));
                self.tell_lost_streams();
            }
            Move::Strike(number, after, what) => {
                let device = self.device(number);
                drop(self.machine().schedule_device(device, after, what));
            }
            Move::Update => {
                self.updates += 1;
                let version = tdx_abi::seamldr::Version::new(2, 1, self.updates);
                let spec = spec_for(version, Some("connect")).expect("an image");
                let image = build::image(&spec, HeaderVersion::V0x200).expect("an image");
                self.host.update(&image, &UpdateOptions::default(), &()).expect("an update");
            }
        }
    }

    /// Puts a device back, if it is out. The slot's interrupts tell of both.
    fn plug(&self, device: FunctionId) {
        if self.machine().pci_functions().iter().all(|function| function.id != device) {
            self.host.device_event(DeviceEvent::Removed(device));
            self.machine().replug(device);
            self.host.device_event(DeviceEvent::Added(device));
        }
    }

    /// What the interrupt of a port tells after an integrity failure.
    fn tell_lost_streams(&self) {
        for link in self.host.links() {
            let lost = [link.root_port, link.endpoint].iter().any(|end| end.state != StreamState::SECURE);
            if lost {
                self.host.device_event(DeviceEvent::StreamLost(link.device));
            }
        }
    }

    /// Writes a register of the device and reads it back, and whether it came back.
    fn use_device(&self, device: FunctionId) -> bool {
        let window = self.machine().with_endpoint(device, |endpoint| {
            endpoint.functions().find(|function| function.id == device).and_then(|function| function.window)
        });
        let Some(window) = window.flatten() else { return false };
        let register = PhysAddr::new(window + reg::SCRATCH);
        self.machine().mmio_write(register, MmioWidth::Qword, 0x1234_5678_9ABC_DEF0);
        self.machine().mmio_read(register, MmioWidth::Qword) == 0x1234_5678_9ABC_DEF0
    }

    fn check(&self, after: &Move) {
        assert_eq!(*self.keys.again.lock().unwrap(), [], "a key was used twice after {after:?}");
        for link in self.host.links() {
            let (port, id) = (link.root_port.port, spdm::ide_km::StreamId(link.stream_id));
            if link.root_port.state == StreamState::SECURE {
                let keyed = self.machine().with_root_port(port, |port| {
                    port.stream(id).is_some_and(tdx_machine::ide::Stream::is_keyed)
                });
                assert_eq!(keyed, Some(true), "{link:?} after {after:?}");
            }
        }
        let pages = self.host.platform().page_accounts();
        assert_eq!(pages.leaked, self.fresh.leaked, "after {after:?}");
    }

    /// Puts everything right, and takes it down again: nothing may be left.
    fn settle(&self) {
        for &device in &self.devices {
            self.machine().set_device_faults(device, &[]).expect("a device");
            let _ = self.host.disconnect(device, "tsm0");
            self.plug(device);
            // What was planned for it does not happen any more, whatever was wrong with it is over, and who
            // sits on the link has had what he waited for.
            let never = self.machine().schedule_device(device, u64::MAX, DeviceMove::ResetLink);
            never.expect("a device");
            self.machine().reset_link(self.root_port(device));
            for _ in 0..32 {
                self.use_device(device);
            }
        }
        for &device in &self.devices {
            let connected = self.host.connect(device, "tsm0");
            connected.unwrap_or_else(|error| panic!("{device} does not connect: {error}"));
            let before = self.machine().link_traffic(self.root_port(device)).expect("a port");
            assert!(self.use_device(device), "{device} has lost a value");
            let after = self.machine().link_traffic(self.root_port(device)).expect("a port");
            assert_eq!(after.clear, before.clear, "{device} is used in the clear");
            self.host.disconnect(device, "tsm0").expect("a device that is connected");
        }
        assert_eq!(self.host.links(), []);
        let module = self.machine().seam().module.expect("a module");
        for unit in &module.connect.expect("Connect").units {
            assert_eq!((unit.sessions, unit.streams), (0, 0), "unit {}", unit.id);
        }
        assert_eq!(self.host.platform().page_accounts(), self.fresh);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_history_reuses_a_key_or_keeps_a_page(seed in any::<u64>(), moves in moves()) {
        let mut world = World::new(seed);
        for step in &moves {
            world.act(step);
            world.check(step);
        }
        world.settle();
    }
}
