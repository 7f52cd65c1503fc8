//! The trace: a JSON line for each SEAMCALL and for each event.

mod rows;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tdx_abi::leaf::LeafWord;
use tdx_abi::status::{SeamldrStatus, Status};
use tdx_abi::{PhysRange, Registers};
use tdx_machine::fault::CallLeaf;
use tdx_machine::{LpIndex, Machine, SeamFault};

pub use rows::{Refusal, rows_of};

use crate::exec::named;
use crate::host::Report;

/// The file of the trace cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("trace file {}: {reason}", path.display())]
pub struct TraceError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: std::io::Error,
}

/// Where the lines go.
struct Sink {
    /// Not buffered: each line is written whole and at once, for readers that follow it, and so that
    /// none is cut off however QEMU ends.
    out: Box<dyn Write + Send>,
    path: PathBuf,
    /// SEAMCALLs so far.
    calls: u64,
    /// Lines that wait for that of the power-on.
    early: Option<String>,
}

impl Sink {
    fn new(out: Box<dyn Write + Send>, path: PathBuf) -> Self {
        Self { out, path, calls: 0, early: Some(String::new()) }
    }
}

/// The trace, on or off.
pub(crate) struct Trace {
    /// Asked at every SEAMCALL, without the lock.
    on: AtomicBool,
    sink: Option<Mutex<Sink>>,
    report: Report,
}

impl Trace {
    /// Makes the file, if one is asked for.
    pub(crate) fn new(path: Option<&Path>, report: Report) -> Result<Self, TraceError> {
        let Some(path) = path else { return Ok(Self::to(None, report)) };
        let file = File::create(path).map_err(|reason| TraceError { path: path.to_owned(), reason })?;
        Ok(Self::to(Some(Sink::new(Box::new(file), path.to_owned())), report))
    }

    fn to(sink: Option<Sink>, report: Report) -> Self {
        Self { on: AtomicBool::new(sink.is_some()), sink: sink.map(Mutex::new), report }
    }

    /// True if lines are written.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// The machine was switched on: the first line, whatever else there was before all of it was known.
    pub(crate) fn power_on(&self, machine: &Machine, exact_flags: bool) {
        let mut line = power("power-on", machine);
        line.insert("exact_flags".to_owned(), exact_flags.into());
        let line = Value::Object(line);
        self.with(|sink| {
            let early = sink.early.take().unwrap_or_default();
            sink.out.write_all(format!("{line}\n{early}").as_bytes())
        });
    }

    /// Power was cycled.
    pub(crate) fn reset(&self, machine: &Machine) {
        let line = power("reset", machine);
        self.write(|_| line);
    }

    /// Something that a reader of the trace should know.
    pub(crate) fn note(&self, text: &str) {
        self.write(|_| object(json!({ "event": "note", "text": text })));
    }

    /// A SEAMCALL.
    pub(crate) fn call(
        &self,
        machine: &Machine,
        lp: LpIndex,
        before: &Registers,
        after: &Registers,
        result: Result<(), SeamFault>,
    ) {
        let word = LeafWord::from_raw(before.rax);
        let mut line = object(json!({
            "lp": lp.0,
            "leaf": CallLeaf::of(before.rax).to_string(),
            "version": word.version(),
            "in": Value::Object(written(before, |_, value| value != 0)),
        }));
        let refusal = match result {
            Ok(()) => {
                line.insert("result".to_owned(), name(word, after.rax).into());
                line.insert("raw".to_owned(), hex(after.rax));
                (after.rax != 0).then_some(Refusal::Status(after.rax))
            }
            Err(fault) => {
                let (text, refusal) = match fault {
                    SeamFault::InvalidOpcode => ("#UD", None),
                    SeamFault::GeneralProtection => ("#GP", None),
                    SeamFault::VmFailInvalid => ("VMfailInvalid", Some(Refusal::VmFailInvalid)),
                };
                line.insert("result".to_owned(), text.into());
                refusal
            }
        };
        let old = named(before);
        let out = written(after, |index, value| old.get(index).is_some_and(|(_, before)| *before != value));
        line.insert("out".to_owned(), Value::Object(out));
        if let Some(refusal) = refusal {
            let generation = machine.seam().module.map(|module| module.profile.generation);
            line.insert("rows".to_owned(), rows_of(before.rax, refusal, generation).into());
        }
        self.write(|sink| {
            sink.calls += 1;
            let mut numbered = object(json!({ "n": sink.calls }));
            numbered.append(&mut line);
            numbered
        });
    }

    fn write(&self, line: impl FnOnce(&mut Sink) -> Map<String, Value>) {
        self.with(|sink| {
            let line = format!("{}\n", Value::Object(line(sink)));
            match &mut sink.early {
                Some(early) => {
                    early.push_str(&line);
                    Ok(())
                }
                None => sink.out.write_all(line.as_bytes()),
            }
        });
    }

    /// After the first failure the trace is off.
    fn with(&self, action: impl FnOnce(&mut Sink) -> std::io::Result<()>) {
        let Some(sink) = self.sink.as_ref().filter(|_| self.is_on()) else { return };
        let mut sink = sink.lock();
        if let Err(reason) = action(&mut sink)
            && self.on.swap(false, Ordering::Relaxed)
        {
            (self.report)(&format!("trace file {}: {reason}; the trace ends here", sink.path.display()));
        }
    }
}

/// What every power event says.
fn power(event: &str, machine: &Machine) -> Map<String, Value> {
    let seam = machine.seam();
    let module = seam
        .module
        .map(|module| json!({ "profile": module.profile.name, "version": module.version.to_string() }));
    let range = |range: &PhysRange| json!([range.start().as_u64(), range.size()]);
    object(json!({
        "event": event,
        "platform": machine.spec().name,
        "vcpus": machine.lps().len(),
        "cmrs": machine.cmrs().iter().map(range).collect::<Vec<_>>(),
        "module": module,
        "seamldr": seam.loader.config.version.to_string(),
        "remaining_updates": seam.loader.config.updates_left(),
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn hex(value: u64) -> Value {
    format!("{value:#x}").into()
}

/// Registers by name.
fn written(regs: &Registers, wanted: impl Fn(usize, u64) -> bool) -> Map<String, Value> {
    named(regs)
        .into_iter()
        .enumerate()
        .filter(|(index, (_, value))| wanted(*index, *value))
        .map(|(_, (gpr, value))| (gpr.name().to_owned(), hex(value)))
        .collect()
}

/// Name of what the call returned; its number if it has none.
fn name(call: LeafWord, rax: u64) -> String {
    let name = if call.is_seamldr() {
        SeamldrStatus(rax).name()
    } else {
        Status::from_raw(rax).info().map(|info| info.name)
    };
    name.map_or_else(|| format!("{rax:#x}"), ToOwned::to_owned)
}

#[cfg(test)]
mod tests;
