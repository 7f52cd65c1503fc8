//! What a host asks of its module and of its devices, all of it in the order in which it happens.
//!
//! A line of the trace is one of these. `time` is in seconds since 1970.
//!
//! | has | is |
//! |---|---|
//! | `call` | a SEAMCALL: `cpu`, `version` unless 0, registers `in` that are not 0, `status`, registers `out` that differ from before; or the `fault` that it met |
//! | `device` | a message to or from a device, as [`trace`](crate::dsm::trace) tells it; what is protected follows in plaintext where the device is modelled |
//! | `case` | a case of a scenario begins, on another machine |

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use parking_lot::Mutex;
use pcie::FunctionId;
use pcie::doe::{Object, ObjectType};
use serde_json::{Map, Value};
use spdm::Kind;
use spdm::ids::SessionId;
use spdm::key_schedule::Direction;
use tdx_abi::Registers;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::status::{SeamldrStatus, Status};
use tdx_host::traits::{CpuNumber, SeamcallFault};
use tdx_machine::pci::DeviceObserver;
use tdx_platform::CallObserver;

use crate::dsm::pcap::Pcap;
use crate::dsm::record::{RecordError, Sender, create, failure, now};
use crate::dsm::trace::{Lines, Secrets, write_line};

/// What is kept of a run.
#[derive(Args, Clone, Debug, Default)]
pub struct TranscriptArgs {
    /// Write every SEAMCALL and every message of devices to FILE, one line of JSON each
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the data objects of all devices to FILE, for Wireshark and spdm_dump
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

impl TranscriptArgs {
    /// What keeps it; `None` if nothing is to be kept.
    pub fn open(&self) -> Result<Option<Arc<Transcript>>, RecordError> {
        if self.trace.is_none() && self.pcap.is_none() {
            return Ok(None);
        }
        let trace = self.trace.as_deref().map(|path| Kept::create("the trace", path, Ok)).transpose()?;
        let pcap =
            self.pcap.as_deref().map(|path| Kept::create("the capture", path, Pcap::new)).transpose()?;
        let state = State { trace, pcap, devices: BTreeMap::new(), failed: None };
        Ok(Some(Arc::new(Transcript(Mutex::new(state)))))
    }
}

struct Kept<T> {
    path: PathBuf,
    file: T,
}

impl<T> Kept<T> {
    fn create(
        what: &'static str,
        path: &Path,
        begin: impl FnOnce(File) -> std::io::Result<T>,
    ) -> Result<Self, RecordError> {
        Ok(Self { path: path.to_owned(), file: create(what, path, 0o644, begin)? })
    }
}

/// Keeps what it was asked to keep. The first file that cannot be written ends all keeping, and
/// [`finish`](Self::finish) tells of it.
pub struct Transcript(Mutex<State>);

struct State {
    trace: Option<Kept<File>>,
    pcap: Option<Kept<Pcap<File>>>,
    /// What each device has agreed on with the module.
    devices: BTreeMap<FunctionId, Lines>,
    failed: Option<RecordError>,
}

impl Transcript {
    /// A case begins, on a machine of its own.
    pub fn case(&self, name: &str) {
        let mut state = self.0.lock();
        state.devices.clear();
        let mut line = timed();
        line.insert("case".into(), name.into());
        state.line(line);
    }

    /// Whether everything was kept.
    pub fn finish(&self) -> Result<(), RecordError> {
        self.0.lock().failed.take().map_or(Ok(()), Err)
    }

    fn object(&self, function: FunctionId, sender: Sender, kind: Kind, payload: &[u8]) {
        let mut state = self.0.lock();
        let time = now();
        state.packet(kind, payload);
        state.of_device(function, |lines| lines.message(time, sender, kind, payload));
    }
}

impl State {
    fn packet(&mut self, kind: Kind, payload: &[u8]) {
        let Some(Kept { path, file }) = &mut self.pcap else { return };
        let object_type = match kind {
            Kind::Clear => ObjectType::SPDM,
            Kind::Secured => ObjectType::SECURED_SPDM,
        };
        let mut bytes = vec![0; payload.len().next_multiple_of(4) + 8];
        // What a mailbox took or gave is no longer than an object can be.
        let Ok(length) = (Object { object_type, payload }).write(&mut bytes) else { return };
        let object = bytes.get(..length).unwrap_or_default();
        self.failed = failure("the capture", path, file.object(now(), object));
        self.give_up_after_a_failure();
    }

    fn of_device(&mut self, function: FunctionId, say: impl FnOnce(&mut Lines) -> Map<String, Value>) {
        if self.trace.is_none() {
            return;
        }
        let said = say(self.devices.entry(function).or_insert_with(|| Lines::new(Secrets::Hidden)));
        let mut line = timed();
        line.insert("device".into(), function.to_string().into());
        // Its own time takes the place of that.
        line.extend(said);
        self.line(line);
    }

    fn line(&mut self, line: Map<String, Value>) {
        let Some(Kept { path, file }) = &mut self.trace else { return };
        self.failed = failure("the trace", path, write_line(file, line));
        self.give_up_after_a_failure();
    }

    fn give_up_after_a_failure(&mut self) {
        if self.failed.is_some() {
            (self.trace, self.pcap) = (None, None);
        }
    }
}

impl DeviceObserver for Transcript {
    fn request(&self, function: FunctionId, kind: Kind, payload: &[u8]) {
        self.object(function, Sender::Requester, kind, payload);
    }

    fn response(&self, function: FunctionId, kind: Kind, payload: &[u8]) {
        self.object(function, Sender::Responder, kind, payload);
    }

    fn secured(
        &self,
        function: FunctionId,
        direction: Direction,
        session: SessionId,
        sequence: u64,
        text: &[u8],
    ) {
        let mut state = self.0.lock();
        let time = now();
        state.of_device(function, |lines| lines.secured(time, direction, session, sequence, text));
    }
}

impl CallObserver for Transcript {
    fn called(&self, cpu: CpuNumber, before: &Registers, after: Result<&Registers, SeamcallFault>) {
        let mut state = self.0.lock();
        if state.trace.is_none() {
            return;
        }
        let mut line = timed();
        line.extend(call(cpu, before, after));
        state.line(line);
    }
}

fn timed() -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("time".into(), now().as_secs_f64().into());
    line
}

/// A SEAMCALL in words.
fn call(cpu: CpuNumber, before: &Registers, after: Result<&Registers, SeamcallFault>) -> Map<String, Value> {
    let mut line = Map::new();
    let word = LeafWord::from_raw(before.rax);
    let leaf = if word.is_seamldr() {
        SeamldrLeaf(word.leaf()).to_string()
    } else {
        SeamcallLeaf(word.leaf()).to_string()
    };
    line.insert("cpu".into(), cpu.0.into());
    line.insert("call".into(), leaf.into());
    if word.version() != 0 {
        line.insert("version".into(), word.version().into());
    }
    let given = operands(before).into_iter().filter(|&(_, value)| value != 0);
    line.insert("in".into(), given.map(shown).collect());
    match after {
        Ok(after) => {
            let status = if word.is_seamldr() {
                SeamldrStatus(after.rax).to_string()
            } else {
                let status = Status::from_raw(after.rax);
                // What the detail of a success means, calls that enter a TD know alone.
                let plain = status == Status::SUCCESS;
                plain
                    .then(|| status.info())
                    .flatten()
                    .map_or_else(|| status.to_string(), |info| info.name.into())
            };
            line.insert("status".into(), status.into());
            let both = operands(after).into_iter().zip(operands(before));
            let changed = both.filter(|((_, after), (_, before))| after != before);
            line.insert("out".into(), changed.map(|(after, _)| shown(after)).collect());
        }
        Err(fault) => {
            line.insert("fault".into(), fault.to_string().into());
        }
    }
    line
}

fn shown((name, value): (&str, u64)) -> (String, Value) {
    (name.to_owned(), format!("{value:#x}").into())
}

/// Registers that leaves use, by name.
const fn operands(registers: &Registers) -> [(&'static str, u64); 14] {
    let Registers { rax: _, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = *registers;
    [
        ("rcx", rcx),
        ("rdx", rdx),
        ("rbx", rbx),
        ("rbp", rbp),
        ("rsi", rsi),
        ("rdi", rdi),
        ("r8", r8),
        ("r9", r9),
        ("r10", r10),
        ("r11", r11),
        ("r12", r12),
        ("r13", r13),
        ("r14", r14),
        ("r15", r15),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_shows_what_it_was_given_and_what_it_changed() {
        let before = Registers {
            rax: LeafWord::module(SeamcallLeaf::SYS_CONFIG, 1).raw(),
            rcx: 0x1000,
            rdx: 2,
            ..Registers::default()
        };
        let after = Registers { rax: Status::SUCCESS.raw(), rdx: 3, ..before };
        let told = Value::Object(call(CpuNumber(7), &before, Ok(&after)));
        assert_eq!(
            told,
            json!({
                "cpu": 7,
                "call": "TDH.SYS.CONFIG",
                "version": 1,
                "in": { "rcx": "0x1000", "rdx": "0x2" },
                "status": "TDX_SUCCESS",
                "out": { "rdx": "0x3" },
            })
        );
    }

    #[test]
    fn a_call_that_reached_no_software_shows_the_fault() {
        let before = Registers { rax: LeafWord::seamldr(SeamldrLeaf::INFO).raw(), ..Registers::default() };
        let told = Value::Object(call(CpuNumber(0), &before, Err(SeamcallFault::VmFailInvalid)));
        assert_eq!(told.get("call"), Some(&json!("SEAMLDR.INFO")));
        assert_eq!(told.get("fault"), Some(&json!(SeamcallFault::VmFailInvalid.to_string())));
        assert_eq!(told.get("status"), None);
    }

    #[test]
    fn nothing_asked_for_is_nothing_kept_and_a_file_that_cannot_be_is_told() {
        assert!(TranscriptArgs::default().open().unwrap().is_none());
        let nowhere = Some(PathBuf::from("/nonexistent/trace"));
        for args in [
            TranscriptArgs { trace: nowhere.clone(), pcap: None },
            TranscriptArgs { trace: None, pcap: nowhere },
        ] {
            let error = args.open().err().unwrap().to_string();
            assert!(error.contains("/nonexistent/trace"), "{error}");
        }
    }

    #[test]
    fn messages_and_objects_are_kept_by_device() {
        let folder = tempfile::tempdir().unwrap();
        let (trace, pcap) = (folder.path().join("trace"), folder.path().join("pcap"));
        let args = TranscriptArgs { trace: Some(trace.clone()), pcap: Some(pcap.clone()) };
        let transcript = args.open().unwrap().unwrap();
        transcript.case("one");
        let device: FunctionId = "0000:15:00.0".parse().unwrap();
        transcript.request(device, Kind::Clear, &[0x10, 0x84, 0, 0]);
        transcript.finish().unwrap();
        let text = std::fs::read_to_string(trace).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["case"], "one");
        assert_eq!(lines[1]["device"], "0000:15:00.0");
        assert_eq!(lines[1]["from"], "requester");
        assert_eq!(lines[1]["message"]["name"], "GET_VERSION");
        // File header, packet header, object header, payload.
        assert_eq!(std::fs::metadata(pcap).unwrap().len(), 24 + 16 + 8 + 4);
    }
}
