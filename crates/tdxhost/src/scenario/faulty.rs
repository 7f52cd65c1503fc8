//! Steps that try a device over and over: with one fault after the other, or interrupted at one data object
//! after the other.

use pcie::FunctionId;
use serde::Deserialize;
use serde_json::json;
use tdx_host::tsm::Refresh;
use tdx_machine::endpoint::DeviceFault;

use super::device::{During, DuringWhat, RefreshName, TSM, device};
use super::rig::{Rig, RigError};
use super::run::Yield;

/// Connect a device once with each of some faults.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FaultyStep {
    /// Its address.
    pub device: String,
    /// The faults.
    pub faults: Vec<DeviceFault>,
    /// A connection goes well before the one that is meant, with the same fault.
    #[serde(default)]
    pub again: bool,
    /// The connection goes well, and what is meant is that something is made anew behind it.
    pub refresh: Option<RefreshName>,
    /// Name of the error in which each must end.
    pub expect: Option<String>,
}

/// Connect a device once for each data object that it is given, and let something happen at that one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct InterruptedStep {
    /// Its address.
    pub device: String,
    /// What happens.
    pub what: DuringWhat,
    /// Data objects that a connection takes at least; more where the module lacks entropy on its way.
    pub exchanges: u64,
    /// Name of the error in which each must end.
    pub expect: Option<String>,
}

/// What a connection that is over has to leave as it was.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    connected: Vec<FunctionId>,
    module_objects: Option<(u32, u32)>,
    available_streams: Option<u64>,
    leaked_pages: Option<u64>,
}

impl Rig {
    /// Connects a device with each of the faults. Ends in what the last of them ended in.
    pub fn connect_faulty(&self, step: &FaultyStep, product: &mut Yield) -> Result<(), RigError> {
        let (host, id) = (self.host()?, device(&step.device)?);
        let before = self.left()?;
        let nothing_left = |what: &dyn std::fmt::Debug| {
            let left = self.left()?;
            let message = || format!("{what:?}: {left:?} is left, before there was {before:?}");
            if left == before { Ok(()) } else { Err(RigError::Mismatch(message())) }
        };
        let mut last = Ok(());
        for fault in &step.faults {
            self.device_faults(&step.device, std::slice::from_ref(fault))?;
            let ended = self.connect_with_fault(id, step);
            let name = ended.as_ref().err().map(RigError::name);
            if name != step.expect.as_deref() {
                let (found, wanted) = (name.unwrap_or("ok"), step.expect.as_deref().unwrap_or("ok"));
                return Err(RigError::Mismatch(format!("{fault:?} ended in {found}, expected {wanted}")));
            }
            if self.connected_devices()?.contains(&id) {
                host.disconnect(id, TSM)?;
            }
            nothing_left(fault)?;
            last = ended;
        }
        self.device_faults(&step.device, &[])?;
        host.connect(id, TSM)?;
        host.disconnect(id, TSM)?;
        nothing_left(&"the sound device")?;
        product.facts.insert("faults".to_owned(), json!(step.faults.len()));
        last
    }

    /// Connects a device, interrupted at each of its data objects. Ends in what the last of them ended in.
    pub fn connect_interrupted(
        &mut self,
        step: &InterruptedStep,
        product: &mut Yield,
    ) -> Result<(), RigError> {
        let id = device(&step.device)?;
        let mut last = Ok(());
        for exchange in 0.. {
            let before = self.left()?;
            let ended = self.connect_during(id, TSM, &self.interruption(exchange, step.what)?);
            let never_happened = match &ended {
                Ok(()) => step.expect.is_some(),
                Err(error) => matches!(error, RigError::NotThatFar { .. }),
            };
            if never_happened && exchange >= step.exchanges {
                product.facts.insert("exchanges".to_owned(), json!(exchange));
                break;
            }
            let name = ended.as_ref().err().map(RigError::name);
            if name != step.expect.as_deref() {
                let (found, wanted) = (name.unwrap_or("ok"), step.expect.as_deref().unwrap_or("ok"));
                let message = format!("at data object {exchange} it ended in {found}, expected {wanted}");
                return Err(RigError::Mismatch(message));
            }
            self.recover(step)?;
            if ended.is_ok() {
                self.use_and_disconnect(id, &step.device)?;
            }
            self.host()?.connect(id, TSM)?;
            self.use_and_disconnect(id, &step.device)?;
            let left = self.left()?;
            if left != before {
                let message =
                    format!("at data object {exchange}: {left:?} is left, before there was {before:?}");
                return Err(RigError::Mismatch(message));
            }
            if step.what == DuringWhat::Update {
                // The loader takes no end of updates.
                self.start_again()?;
            }
            last = ended;
        }
        // What was to happen still waits for its moment.
        self.start_again()?;
        last
    }

    fn interruption(&self, exchange: u64, what: DuringWhat) -> Result<During, RigError> {
        let update = if what == DuringWhat::Update { Some(Box::new(self.next_release()?)) } else { None };
        Ok(During { exchange, what, update })
    }

    /// What has to be done before the device can be connected again.
    fn recover(&mut self, step: &InterruptedStep) -> Result<(), RigError> {
        match step.what {
            DuringWhat::Remove => self.plug(&step.device),
            // Another one is put in.
            DuringWhat::DeadMailbox => self.unplug(&step.device).and_then(|()| self.plug(&step.device)),
            DuringWhat::PowerLoss => self.start_again(),
            DuringWhat::LinkReset | DuringWhat::Update => Ok(()),
        }
    }

    fn start_again(&mut self) -> Result<(), RigError> {
        self.power_cycle()?;
        self.bring_up(&[], &[], &mut Yield::default())
    }

    fn use_and_disconnect(&self, id: FunctionId, name: &str) -> Result<(), RigError> {
        let host = self.host()?;
        self.traffic(name, 4, true, &mut Yield::default())?;
        for what in Refresh::ALL {
            host.refresh(id, what)?;
        }
        self.traffic(name, 4, true, &mut Yield::default())?;
        Ok(host.disconnect(id, TSM)?)
    }

    fn connect_with_fault(&self, id: FunctionId, step: &FaultyStep) -> Result<(), RigError> {
        let host = self.host()?;
        if step.again {
            host.connect(id, TSM)?;
            host.disconnect(id, TSM)?;
        }
        host.connect(id, TSM)?;
        if let Some(what) = step.refresh {
            host.refresh(id, what.into())?;
        }
        Ok(())
    }

    fn left(&self) -> Result<Left, RigError> {
        Ok(Left {
            connected: self.connected_devices()?,
            module_objects: self.module_objects(),
            available_streams: self.available_streams(),
            leaked_pages: self.leaked_pages(),
        })
    }
}
