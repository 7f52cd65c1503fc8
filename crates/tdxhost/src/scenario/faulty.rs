//! A step that tries a device with many faults, one after the other.

use pcie::FunctionId;
use serde::Deserialize;
use serde_json::json;
use tdx_machine::endpoint::DeviceFault;

use super::device::{RefreshName, TSM, device};
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
