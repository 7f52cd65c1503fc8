//! The kernel's log, as `/dev/kmsg` gives it record by record.

/// One record of `/dev/kmsg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Facility and level: `8 * facility + level`.
    pub priority: u32,
    /// Microseconds since the kernel started.
    pub us: u64,
    /// The text, its continuation lines and dictionary left out.
    pub text: String,
}

impl Record {
    /// Reads `priority,sequence,microseconds,flags[,…];text`, followed by lines of a dictionary that begin with a
    /// blank. None: not such a record.
    pub fn parse(record: &str) -> Option<Self> {
        let (head, rest) = record.split_once(';')?;
        let mut fields = head.split(',');
        let priority = fields.next()?.parse().ok()?;
        let _sequence: u64 = fields.next()?.parse().ok()?;
        let us = fields.next()?.parse().ok()?;
        let text = rest.split_once("\n ").map_or(rest, |(text, _dictionary)| text);
        Some(Self { priority, us, text: text.trim_end_matches('\n').to_owned() })
    }
}

/// What a kernel prints when something is wrong with it. Firmware bugs that it reports about the machine
/// (`[Firmware Bug]`, `ACPI BIOS Warning`) are not among them.
const ALARMS: [&str; 17] = [
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Call Trace:",
    "Oops:",
    "general protection fault",
    "invalid opcode:",
    "unchecked MSR access error",
    "unable to handle",
    "Kernel panic",
    "detected stall",
    "soft lockup",
    "hung_task:",
    "INFO: task",
    "blocked for more than",
    "Machine check",
    "mce: [Hardware Error]",
];

/// Whether a line of the log says that the kernel itself is in trouble.
pub fn is_alarm(text: &str) -> bool {
    ALARMS.iter().any(|alarm| text.contains(alarm))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_split_into_priority_time_and_text() {
        let record = "6,339,1534021,-;virt/tdx: TDX-Module initialized\n";
        assert_eq!(
            Record::parse(record),
            Some(Record { priority: 6, us: 1_534_021, text: "virt/tdx: TDX-Module initialized".into() })
        );
    }

    #[test]
    fn semicolons_belong_to_the_text_and_the_dictionary_does_not() {
        let record = "4,1,2,-,caller=T1;a; b\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:00.0\n";
        assert_eq!(Record::parse(record).unwrap().text, "a; b");
    }

    #[test]
    fn what_is_no_record_is_none() {
        for bad in ["", "6,339,1534021,-", "six,1,2,-;text", "6,1;text", "6,1,x,-;text"] {
            assert_eq!(Record::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn alarms_are_the_kernels_own() {
        for line in [
            "WARNING: arch/x86/virt/vmx/tdx/tdx.c:1812 at tdx_module_run_update+0x1/0x2, CPU#0: kworker/0:1/9",
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "Call Trace:",
            "Oops: invalid opcode: 0000 [#1] SMP",
            "Oops: general protection fault, probably for non-canonical address",
            "kernel BUG at mm/slub.c:553!",
            "Kernel panic - not syncing: Attempted to kill init!",
            "unchecked MSR access error: RDMSR from 0x1401 at rIP: 0xffffffff81000000",
            "unable to handle page fault for address: ffffc90000000000",
            "mce: [Hardware Error]: Machine check events logged",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s!",
            "INFO: task init:1 blocked for more than 60 seconds.",
        ] {
            assert!(is_alarm(line), "{line}");
        }
        for line in [
            "[Firmware Bug]: TSC doesn't count with P0 frequency!",
            "ACPI BIOS Warning (bug): 32/64X length mismatch in FADT",
            "bench: loading out-of-tree module taints kernel.",
            "virt/tdx: TDX-Module initialized",
        ] {
            assert!(!is_alarm(line), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_record_or_none(text in "\\PC*") {
            let _ = Record::parse(&text);
        }

        #[test]
        fn a_written_record_is_read_back(priority in 0_u32..200, us: u64, text in "[^\n]*") {
            let record = Record::parse(&format!("{priority},7,{us},-;{text}\n"));
            prop_assert_eq!(record, Some(Record { priority, us, text }));
        }
    }
}
