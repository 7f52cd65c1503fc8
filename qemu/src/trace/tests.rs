//! Lines of the trace, as a reader gets them.

use std::io;
use std::sync::Arc;

use serde_json::Value;
use tdx_abi::leaf::{SeamcallLeaf, SeamldrLeaf};

use super::*;
use crate::cpu::{Gpr, Vcpu};
use crate::decode::{Decoded, Operation};
use crate::exec::execute;
use crate::host::Host;
use crate::testing::{FakeVcpu, Memory, host, try_host};

const REGION: u64 = 0x10_0000;

/// A vCPU in VMX operation.
fn in_vmx(host: &Host, memory: &Memory) -> FakeVcpu {
    memory.write_u32(REGION, 0x13);
    host.machine.set_cr4_vmxe(LpIndex(0), true);
    host.machine.vmxon(LpIndex(0), tdx_abi::PhysAddr::new(REGION)).expect("in VMX operation");
    FakeVcpu::new(0, memory)
}

fn seamcall(host: &Host, vcpu: &mut FakeVcpu, rax: u64, rcx: u64) {
    vcpu.gprs = [0; 16];
    vcpu.set(Gpr::Rax, rax).set(Gpr::Rcx, rcx).set(Gpr::Rsp, 0x5555);
    execute(host, &Decoded { length: 4, operation: Operation::Seamcall }, vcpu);
}

/// Runs something on a traced host and returns the lines.
fn traced(arguments: &[&str], run: impl FnOnce(&Host, &Memory)) -> Vec<Value> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let trace = format!("trace={}", file.path().display());
    let (host, memory) = host(&[arguments, &[trace.as_str()]].concat(), 2);
    host.started(true);
    run(&host, &memory);
    let text = std::fs::read_to_string(file.path()).expect("written");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

#[test]
fn power_on_and_reset_describe_the_machine() {
    let lines =
        traced(&["profile=1.5.06", "remaining_updates=4", "fault=module-missing"], |host, _| host.reset());
    let [on, note, reset] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((&on["event"], &reset["event"]), (&json!("power-on"), &json!("reset")));
    assert_eq!(
        (&on["platform"], &on["vcpus"], &on["exact_flags"], &on["module"]),
        (&json!("guest"), &json!(2), &json!(true), &Value::Null)
    );
    assert_eq!(
        (&on["seamldr"], &on["remaining_updates"]),
        (&json!("2.0.00"), &json!(5)),
        "no module took a place"
    );
    assert_eq!(on["cmrs"], json!([[1 << 20, crate::testing::RAM - (1 << 20)]]));
    assert!(note["text"].as_str().is_some_and(|text| text.starts_with("fault module-missing: ")), "{note}");
    let lines = traced(&["profile=1.5.06", "remaining_updates=4"], |_, _| {});
    assert_eq!(lines[0]["remaining_updates"], 4);
    assert_eq!(lines[0]["module"]["profile"], "1.5.06");
    assert!(lines[0]["module"]["version"].as_str().is_some_and(|version| version.starts_with("1.5.")));
}

#[test]
fn a_call_is_traced_with_what_went_in_and_what_changed() {
    let lines = traced(&[], |host, memory| {
        let mut vcpu = in_vmx(host, memory);
        seamcall(host, &mut vcpu, LeafWord::module(SeamcallLeaf::SYS_INIT, 0).raw(), 0);
        seamcall(host, &mut vcpu, LeafWord::seamldr(SeamldrLeaf::INFO).raw(), 0x8000);
    });
    assert_eq!(
        lines[1],
        json!({
            "n": 1, "lp": 0, "leaf": "TDH.SYS.INIT", "version": 0, "in": { "rax": "0x21" },
            "result": "TDX_SUCCESS", "raw": "0x0", "out": { "rax": "0x0" },
        })
    );
    assert_eq!(
        (&lines[2]["n"], &lines[2]["leaf"], &lines[2]["result"], &lines[2]["in"]["rcx"]),
        (&json!(2), &json!("SEAMLDR.INFO"), &json!("SUCCESS"), &json!("0x8000"))
    );
    assert_eq!(lines[2].get("rows"), None);
}

#[test]
fn a_refusal_names_the_rows_of_the_table_that_may_have_refused() {
    let lines = traced(&[], |host, memory| {
        let mut vcpu = in_vmx(host, memory);
        seamcall(host, &mut vcpu, LeafWord::module(SeamcallLeaf::SYS_LP_INIT, 0).raw(), 0);
        seamcall(host, &mut vcpu, LeafWord::module(SeamcallLeaf::SYS_INIT, 0).raw(), 5);
        seamcall(host, &mut vcpu, LeafWord::seamldr(SeamldrLeaf::INFO).raw(), 3);
        seamcall(host, &mut vcpu, LeafWord::module(SeamcallLeaf(0x7FFF), 0).raw(), 0);
    });
    assert_eq!(lines[1]["result"], "TDX_SYS_LP_INIT_NOT_PENDING");
    assert_eq!(
        (&lines[2]["result"], &lines[2]["rows"]),
        (&json!("TDX_OPERAND_INVALID"), &json!(["TDH.SYS.INIT-3"]))
    );
    assert_eq!(lines[3]["result"], "EBADPARAM");
    assert_eq!(lines[4]["leaf"], "0x7fff");
    for line in &lines[1..] {
        assert!(line["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "{line}");
    }
}

#[test]
fn what_never_reached_the_software_is_traced_by_its_fault() {
    let call = LeafWord::module(SeamcallLeaf::SYS_INIT, 0).raw();
    let lines = traced(&[], |host, memory| seamcall(host, &mut FakeVcpu::new(0, memory), call, 0));
    assert_eq!((&lines[1]["result"], lines[1].get("raw"), lines[1].get("rows")), (&json!("#UD"), None, None));
    let lines =
        traced(&["fault=seamrr-disabled"], |host, memory| seamcall(host, &mut in_vmx(host, memory), call, 0));
    assert_eq!(lines[2]["result"], "#GP");
    let lines =
        traced(&["fault=module-missing"], |host, memory| seamcall(host, &mut in_vmx(host, memory), call, 0));
    assert_eq!((&lines[2]["result"], &lines[2]["out"]), (&json!("VMfailInvalid"), &json!({})));
}

#[test]
fn complaints_are_traced_too() {
    let lines = traced(&[], |host, memory| {
        host.observe.cpuid(
            LpIndex(0),
            0x8000_0008,
            0,
            tdx_machine::CpuidRegs { eax: 40, ..Default::default() },
        );
        let mut vcpu = FakeVcpu::new(0, memory);
        vcpu.set_gpr(Gpr::Rcx, 0x87);
        execute(host, &Decoded { length: 2, operation: Operation::Rdmsr }, &mut vcpu);
    });
    assert_eq!(lines[1]["event"], "note");
    assert!(lines[1]["text"].as_str().is_some_and(|text| text.contains("phys-bits=46")), "{lines:?}");
}

/// A disk that is full.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn after_a_write_that_failed_the_trace_is_off_and_said_so_once() {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    fn say(line: &str) {
        SAID.lock().push(line.to_owned());
    }
    let trace = Trace::to(Some(Sink::new(Box::new(Full), "t.jsonl".into())), say);
    let (host, _) = host(&[], 1);
    assert!(trace.is_on());
    trace.power_on(&host.machine, true);
    trace.note("one");
    assert!(!trace.is_on());
    let said = SAID.lock();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("trace file t.jsonl: ") && said[0].ends_with("; the trace ends here"),
        "{said:?}"
    );
}

#[test]
fn a_line_is_in_the_file_at_once_and_the_power_on_comes_first() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (host, _) = host(&[&format!("trace={}", file.path().display())], 1);
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(file.path()).expect("written");
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("whole")["event"].clone())
            .collect()
    };
    host.trace.note("early");
    assert!(events().is_empty());
    host.started(true);
    assert_eq!(events(), ["power-on", "note"]);
    host.trace.note("late");
    assert_eq!(events(), ["power-on", "note", "note"]);
}

#[test]
fn lines_of_many_threads_stay_whole_and_are_numbered_without_a_gap() {
    let lines = traced(&[], |host, memory| {
        in_vmx(host, memory);
        let host = Arc::new(host);
        std::thread::scope(|scope| {
            for lp in 0..2 {
                let host = Arc::clone(&host);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let mut vcpu = FakeVcpu::new(lp, memory);
                        seamcall(&host, &mut vcpu, LeafWord::module(SeamcallLeaf::SYS_INIT, 0).raw(), 1);
                    }
                });
            }
        });
    });
    let numbers: Vec<_> = lines[1..].iter().map(|line| line["n"].as_u64()).collect();
    assert_eq!(numbers, (1..=100).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_trace_that_cannot_be_made_is_refused() {
    let error = try_host(&["trace=/nowhere/t.jsonl"], 1).err().expect("refused").to_string();
    assert!(error.starts_with("trace file /nowhere/t.jsonl: ") && !error.contains('\n'), "{error}");
}
