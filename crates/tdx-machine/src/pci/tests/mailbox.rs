//! Data objects through the mailbox of a device.

use parking_lot::Mutex;
use pcie::config::{ExtendedId, find_extended};
use pcie::doe::{DoeError, DoeRegisters, Driver, Object, ObjectType, Step};

use super::*;
use crate::{PowerOn, SeamFault};

const GET_VERSION: Object<'_> = Object { object_type: ObjectType::SPDM, payload: &[0x10, 0x84, 0, 0] };
/// Code of VERSION.
const VERSION: u8 = 0x04;

struct Mailbox<'a> {
    machine: &'a Machine,
    function: FunctionId,
    at: u16,
}

impl DoeRegisters for Mailbox<'_> {
    fn read32(&mut self, offset: u16) -> u32 {
        self.machine.config_read(self.function, self.at + offset, Width::Dword)
    }

    fn write32(&mut self, offset: u16, value: u32) {
        self.machine.config_write(self.function, self.at + offset, Width::Dword, value);
    }
}

/// Gives GET_VERSION to a device; the code of its answer.
fn ask(machine: &Machine, driver: &mut Driver) -> Result<u8, DoeError> {
    // Where the mailbox is was found out before anything went wrong.
    let at = find_extended(&Config(machine, DEVICE), ExtendedId::DOE).map_or(0x200, |found| found.offset);
    let mut mailbox = Mailbox { machine, function: DEVICE, at };
    let mut response = [0; 64];
    let mut exchange = driver.exchange(GET_VERSION, &mut response);
    loop {
        match exchange.step(&mut mailbox, machine.now()) {
            Ok(Step::Wait(time)) => machine.advance(time),
            Ok(Step::Done(_)) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(response[1])
}

fn has_identity(machine: &Machine) -> bool {
    machine.with_endpoint(DEVICE, |device| device.has_identity()).expect("a device")
}

#[test]
fn a_device_gets_its_identity_with_the_first_object_and_keeps_it() {
    let machine = machine();
    assert!(!has_identity(&machine));
    let root = || machine.with_endpoint(DEVICE, |device| device.root().to_vec()).expect("a device");
    assert!(root().is_empty());
    assert_eq!(ask(&machine, &mut Driver::new()), Ok(VERSION));
    assert!(has_identity(&machine));
    let first = root();
    machine.power_cycle();
    assert_eq!(root(), first);
    let other = machine.with_endpoint(at(0x16, 0), |device| device.has_identity());
    assert_eq!(other, Some(false));
}

#[derive(Default)]
struct Seen(Mutex<Vec<(FunctionId, &'static str, Travel, u8)>>);

impl DeviceObserver for Seen {
    fn request(&self, function: FunctionId, kind: Travel, payload: &[u8]) {
        self.0.lock().push((function, "request", kind, payload[1]));
    }

    fn response(&self, function: FunctionId, kind: Travel, payload: &[u8]) {
        self.0.lock().push((function, "response", kind, payload[1]));
    }
}

#[test]
fn an_observer_sees_what_is_asked_and_answered() {
    let machine = machine();
    let seen = Arc::new(Seen::default());
    let observer: Arc<dyn DeviceObserver> = Arc::clone(&seen) as _;
    machine.observe_devices(Some(observer));
    assert_eq!(ask(&machine, &mut Driver::new()), Ok(VERSION));
    machine.observe_devices(None);
    assert_eq!(ask(&machine, &mut Driver::new()), Ok(VERSION));
    let expected = [(DEVICE, "request", Travel::Clear, 0x84), (DEVICE, "response", Travel::Clear, VERSION)];
    assert_eq!(*seen.0.lock(), expected);
}

#[test]
fn things_happen_to_a_device_in_front_of_the_answer_that_was_chosen() {
    for what in [DeviceMove::Remove, DeviceMove::KillMailbox, DeviceMove::ResetLink, DeviceMove::PowerLoss] {
        let machine = machine();
        machine.schedule_device(DEVICE, 2, what).expect("a device");
        let mut driver = Driver::new();
        assert_eq!(ask(&machine, &mut driver), Ok(VERSION), "{what:?}");
        assert_eq!(ask(&machine, &mut driver), Ok(VERSION), "{what:?}");
        assert!(ask(&machine, &mut driver).is_err(), "{what:?}");
        let again = ask(&machine, &mut driver);
        match what {
            DeviceMove::Remove => {
                assert!(again.is_err());
                machine.replug(DEVICE);
                driver.revive();
                assert_eq!(ask(&machine, &mut driver), Ok(VERSION));
            }
            DeviceMove::KillMailbox => {
                assert!(again.is_err(), "an abort does not help");
                machine.reset_link(PORT);
                driver.revive();
                assert_eq!(ask(&machine, &mut driver), Ok(VERSION), "a reset does");
            }
            DeviceMove::ResetLink => {
                assert_eq!(again, Ok(VERSION));
                assert_eq!(machine.link(PORT).map(|link| link.losses), Some(1));
            }
            DeviceMove::PowerLoss => {
                assert!(machine.log().contains(&Event::PowerCut));
                let lp = crate::LpIndex(0);
                machine.set_cr4_vmxe(lp, true);
                let call = machine.seamcall(lp, &mut tdx_abi::Registers::default());
                assert!(matches!(call, Err(SeamFault::InvalidOpcode | SeamFault::VmFailInvalid)));
            }
        }
    }
}

/// Answers everything with one payload.
struct Parrot(Arc<Mutex<u32>>);

impl OutsideDsm for Parrot {
    fn exchange(&mut self, kind: Travel, payload: &[u8]) -> Result<(Travel, Vec<u8>), OutsideError> {
        *self.0.lock() += 1;
        let asked = *self.0.lock();
        match asked {
            1 => Ok((kind, vec![payload[0], 0x77, 0, 0])),
            2 => Err(OutsideError::Silent),
            _ => Err(OutsideError::Gone("hung up".to_owned())),
        }
    }
}

fn with_outside() -> crate::PlatformSpec {
    let mut spec = presets::find("default").expect("a preset").spec().expect("valid");
    spec.endpoints[0].dsm = Some(crate::spec::DsmSpec { socket: "127.0.0.1:2323".to_owned() });
    spec
}

#[test]
fn a_security_manager_outside_answers_in_place_of_the_modelled_one() {
    let asked = Arc::new(Mutex::new(0));
    let mut dialled = Vec::new();
    let power = PowerOn::new(with_outside()).dial(|socket| {
        dialled.push(socket.to_owned());
        Ok(Box::new(Parrot(Arc::clone(&asked))))
    });
    let machine = power.switch_on().expect("valid");
    assert_eq!(dialled, ["127.0.0.1:2323"]);
    let mut driver = Driver::new();
    assert_eq!(ask(&machine, &mut driver), Ok(0x77));
    assert_eq!(ask(&machine, &mut driver), Err(DoeError::Timeout), "silence");
    assert_eq!(ask(&machine, &mut driver), Err(DoeError::Error), "it is gone");
    assert_eq!(*asked.lock(), 3);
    assert!(!has_identity(&machine), "nobody asks the modelled one");
}

#[test]
fn a_security_manager_that_cannot_be_reached_keeps_the_machine_off() {
    let refused = |power: PowerOn<'_>| power.switch_on().err().map(|error| error.to_string());
    let message = refused(PowerOn::new(with_outside())).expect("nobody dials");
    assert!(message.contains("127.0.0.1:2323") && message.contains("0000:14:01.0"), "{message}");
    let power = PowerOn::new(with_outside()).dial(|_| Err("connection refused".to_owned()));
    assert!(refused(power).is_some_and(|message| message.contains("connection refused")));
}
