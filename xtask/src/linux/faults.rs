//! Boots with a fault: what is broken, and what Linux 7.3 says of it. The sentences are those of
//! `arch/x86/virt/vmx/tdx/tdx.c` and `seamcall_internal.h`.

use anyhow::{Context, Result};
use tdx_linux_guest::plan::{Attributes, Expected, Outcome, Step};

use super::boots::{Boot, on_two_packages, update_to};
use super::images::{self, PROFILE};
use super::trace::Refusal;

/// Where the fault is set.
enum Place {
    /// In the platform, by its name in the catalogue.
    Platform,
    /// In the platform, which has two packages: the fault is on the second.
    SecondPackage,
    /// In the platform, together with another fault.
    With(&'static str),
    /// In the virtual CPU, by a property of QEMU's.
    Cpu(&'static str),
}

/// The SEAMCALLs that Linux makes before it gives up.
enum Calls {
    None,
    Accepted,
    /// The last of them gets this answer.
    Refused(Refusal),
}

/// A fault that keeps Linux from bringing the module up.
struct BringUp {
    /// Its name in the catalogue.
    name: &'static str,
    place: Place,
    /// A part of what the driver says.
    says: &'static str,
    /// What else is in the kernel's log.
    logs: &'static str,
    calls: Calls,
}

/// What every failed step of a bring-up ends with.
const FAILED: &str = "TDX-Module initialization failed (-5)";

/// What the driver says before the first SEAMCALL. Of one that faults it says nothing.
const BEGUN: &str = "BIOS enabled: private KeyID range [32, 64)";

const BRING_UP: &[BringUp] = &[
    BringUp {
        name: "msr-0x87-faults",
        place: Place::Platform,
        says: "TDX not supported by the host platform",
        logs: "",
        calls: Calls::None,
    },
    BringUp {
        name: "keyids-zero",
        place: Place::Platform,
        says: "TDX not supported by the host platform",
        logs: "",
        calls: Calls::None,
    },
    BringUp {
        name: "keyids-one",
        place: Place::Platform,
        says: "initialization failed: too few private KeyIDs available.",
        logs: "virt/tdx: BIOS enabled: private KeyID range [32, 33)",
        calls: Calls::None,
    },
    BringUp { name: "no-vmx", place: Place::Cpu(",-vmx"), says: BEGUN, logs: "", calls: Calls::None },
    BringUp {
        name: "no-xsave",
        place: Place::Cpu(",-xsave"),
        says: "XSAVE is required for TDX",
        logs: "",
        calls: Calls::None,
    },
    BringUp {
        name: "seamrr-disabled",
        place: Place::Platform,
        says: BEGUN,
        logs: "",
        calls: Calls::Refused(Refusal::of("TDH.SYS.INIT", "#GP")),
    },
    BringUp {
        name: "seamrr-unlocked",
        place: Place::Platform,
        says: BEGUN,
        logs: "",
        calls: Calls::Refused(Refusal::of("TDH.SYS.INIT", "#GP")),
    },
    BringUp {
        name: "module-missing",
        place: Place::Platform,
        says: "module not loaded",
        logs: "",
        calls: Calls::Refused(Refusal::of("TDH.SYS.INIT", "VMfailInvalid")),
    },
    BringUp {
        name: "module-1.0",
        place: Place::Platform,
        says: FAILED,
        logs: "virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc0000505",
        calls: Calls::Refused(Refusal::of("TDH.SYS.RD", "SYS_NOT_READY")),
    },
    BringUp {
        name: "tsx-ctrl-disabled",
        place: Place::With("module-1.0"),
        says: "SEAMCALL (0x0000000000000021) failed: 0xc000092100000122",
        logs: "",
        calls: Calls::Refused(Refusal::of("TDH.SYS.INIT", "INCORRECT_MSR_VALUE")),
    },
    BringUp {
        name: "no-rbp-mod-missing",
        place: Place::Platform,
        says: "frame pointer (RBP) clobber bug present, upgrade TDX module",
        logs: "virt/tdx: TDX-Module initialization failed (-22)",
        calls: Calls::Accepted,
    },
    BringUp {
        name: "lp-missing",
        place: Place::Platform,
        says: FAILED,
        logs: "virt/tdx: SEAMCALL (0x000000000000002d) failed: 0xc0000",
        calls: Calls::Refused(Refusal::of("TDH.SYS.CONFIG", "SYS_CONFIG_NOT_PENDING")),
    },
    BringUp {
        name: "ram-outside-cmrs",
        place: Place::Platform,
        says: FAILED,
        logs: "virt/tdx: SEAMCALL (0x000000000000002d) failed: 0xc0000",
        calls: Calls::Refused(Refusal::of("TDH.SYS.CONFIG", "TDMR_OUTSIDE_CMRS")),
    },
    BringUp {
        name: "key-config-entropy",
        place: Place::Platform,
        says: FAILED,
        logs: "virt/tdx: SEAMCALL (0x000000000000001f) failed: 0x8000080",
        calls: Calls::Refused(Refusal::of("TDH.SYS.KEY.CONFIG", "KEY_GENERATION_FAILED")),
    },
    BringUp {
        name: "key-config-entropy-forever",
        place: Place::Platform,
        says: FAILED,
        logs: "virt/tdx: SEAMCALL (0x000000000000001f) failed: 0x8000080",
        calls: Calls::Refused(Refusal::of("TDH.SYS.KEY.CONFIG", "KEY_GENERATION_FAILED")),
    },
    BringUp {
        name: "tdmr-init-fails",
        place: Place::Platform,
        says: FAILED,
        logs: "virt/tdx: SEAMCALL (0x0000000000000024) failed: 0x8000020",
        calls: Calls::Refused(Refusal::of("TDH.SYS.TDMR.INIT", "OPERAND_BUSY")),
    },
    BringUp {
        name: "cpuid-mismatch",
        place: Place::SecondPackage,
        says: "SEAMCALL (0x0000000000000023) failed: 0xc0000",
        logs: "",
        calls: Calls::Refused(Refusal::of("TDH.SYS.LP.INIT", "INCONSISTENT_CPUID_FIELD")),
    },
    BringUp {
        name: "cpuid-incorrect",
        place: Place::SecondPackage,
        says: "SEAMCALL (0x0000000000000023) failed: 0xc0000",
        logs: "",
        calls: Calls::Refused(Refusal::of("TDH.SYS.LP.INIT", "INCONSISTENT_CPUID_FIELD")),
    },
    BringUp {
        name: "msr-mismatch",
        place: Place::SecondPackage,
        says: "SEAMCALL (0x0000000000000023) failed: 0xc0000",
        logs: "",
        calls: Calls::Refused(Refusal::of("TDH.SYS.LP.INIT", "INCONSISTENT_MSR")),
    },
    BringUp {
        name: "no-movdir64b",
        place: Place::Cpu(",-movdir64b"),
        says: "MOVDIR64B is required for TDX",
        logs: "",
        calls: Calls::None,
    },
    BringUp {
        name: "no-selfsnoop",
        place: Place::Cpu(",-ss"),
        says: "Self-snoop is required for TDX",
        logs: "",
        calls: Calls::None,
    },
];

/// A fault of an update.
struct Update {
    name: &'static str,
    /// The answer of INSTALL. None: Linux does not ask for what is wrong, and the update goes well.
    refusal: Option<&'static str>,
    /// Whether a module is left to which TDH.SYS.DISABLE comes.
    left: bool,
}

const UPDATE: &[Update] = &[
    Update { name: "no-entropy-for-install", refusal: Some("ENOENTROPY"), left: true },
    Update { name: "no-entropy-for-log", refusal: Some("ENOENTROPY"), left: false },
    Update { name: "seamcall-fails", refusal: Some("EUNSPECERR"), left: false },
    Update { name: "td-build-in-progress", refusal: None, left: true },
    Update { name: "interrupted-migrations", refusal: None, left: true },
];

/// A boot for every fault.
pub(super) fn all() -> Result<Vec<Boot>> {
    let bring_up = BRING_UP.iter().map(bring_up);
    bring_up.chain(UPDATE.iter().map(update)).collect()
}

fn about(name: &str) -> Result<String> {
    let info = tdx_machine::fault::CATALOGUE.iter().find(|info| info.name == name);
    Ok(info.with_context(|| format!("the catalogue has no fault {name}"))?.description.to_owned())
}

fn bring_up(fault: &BringUp) -> Result<Boot> {
    let mut steps = vec![Step::NotInitialised { text: fault.says.to_owned() }];
    if !fault.logs.is_empty() {
        steps.push(Step::DmesgHas { text: fault.logs.to_owned() });
    }
    steps.push(Step::Taint { allow: 0 });
    let mut boot = Boot::new(&format!("fault-{}", fault.name), &about(fault.name)?, 2, steps);
    boot = match fault.place {
        Place::Platform => boot.option(format!("fault={}", fault.name)),
        Place::With(other) => boot.option(format!("fault={other}")).option(format!("fault={}", fault.name)),
        Place::SecondPackage => on_two_packages(boot, Some(fault.name))?,
        Place::Cpu(property) => {
            property.clone_into(&mut boot.machine.cpu);
            boot
        }
    };
    match fault.calls {
        Calls::None => boot.calls = false,
        Calls::Accepted => {}
        Calls::Refused(refusal) => boot.refusals.push(refusal),
    }
    Ok(boot)
}

fn update(fault: &Update) -> Result<Boot> {
    let version = images::version(PROFILE, 1)?;
    let (expect, then) = match fault.refusal {
        None => (Outcome::Done, Attributes::from([("version", Expected::from(version.as_str()))])),
        Some(_) => (
            Outcome::Refused("transferring:firmware-invalid".to_owned()),
            Attributes::from([("version", Expected::from("errno:ENXIO"))]),
        ),
    };
    let steps = vec![
        Step::Initialised {},
        update_to("/images/first", expect, then.clone()),
        Step::Healthy { expect: then, offline: 0 },
        Step::Taint { allow: 0 },
    ];
    let boot = Boot::new(&format!("fault-{}", fault.name), &about(fault.name)?, 2, steps)
        .option(format!("fault={}", fault.name))
        .guest_file("/images/first", images::built(PROFILE, 1)?);
    let boot = match fault.refusal {
        None => boot.accepted("TDH.SYS.UPDATE", 1),
        Some(answer) => boot.refused(&[Refusal::of("SEAMLDR.INSTALL", answer)]),
    };
    Ok(if fault.left {
        boot.accepted("TDH.SYS.DISABLE", 1)
    } else {
        boot.refused(&[Refusal::of("TDH.SYS.DISABLE", "VMfailInvalid")])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_machine::fault::{Breaks, CATALOGUE};

    /// Faults that this kernel, or a virtual machine, cannot have.
    const NOT_HERE: &[(&str, &str)] = &[
        ("too-many-tdmrs", "the memory map is QEMU's"),
        ("too-many-reserved-areas", "the memory map is QEMU's"),
        ("no-contiguous-pamt", "memory is allocated by Linux"),
        ("vmxe-already-set", "the firmware of QEMU clears CR4 before a kernel looks"),
        ("hibernation-possible", "the configuration has no hibernation"),
    ];

    #[test]
    fn every_fault_of_the_catalogue_has_a_boot_or_a_reason() {
        // This kernel knows nothing of TDX Connect.
        for info in CATALOGUE.iter().filter(|info| info.breaks != Breaks::Connect) {
            let boots = BRING_UP.iter().map(|fault| fault.name).chain(UPDATE.iter().map(|fault| fault.name));
            let times = boots.filter(|name| *name == info.name).count();
            let reasons = NOT_HERE.iter().filter(|(name, _)| *name == info.name).count();
            assert_eq!(times + reasons, 1, "{}", info.name);
        }
        for (name, reason) in NOT_HERE {
            assert!(CATALOGUE.iter().any(|info| info.name == *name) && !reason.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_fault_of_one_package_has_a_platform_that_reads_back() {
        let boots = all().unwrap();
        let boot = boots.iter().find(|boot| boot.name == "fault-cpuid-mismatch").unwrap();
        let text = std::str::from_utf8(&boot.plugin_files[0].1).unwrap();
        let spec = tdx_machine::PlatformSpec::from_toml(text).unwrap();
        assert_eq!(spec.cpu.lp_count(), Some(2));
        assert_eq!(spec.faults.len(), 1);
    }
}
