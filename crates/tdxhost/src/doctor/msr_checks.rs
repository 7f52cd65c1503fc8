//! Checks of the model specific registers that firmware sets up, on every package.

use tdx_abi::KeyIdPartitioning;
use tdx_abi::msr::MsrIndex;

use super::check::Check;
use super::facts::{Facts, Unseen};

struct MsrCheck {
    id: &'static str,
    msr: MsrIndex,
    expected: &'static str,
    /// The value in words, and whether it is right.
    judge: fn(u64) -> (String, bool),
    /// What to do about a wrong value.
    wrong: &'static str,
    /// What to do if the CPU does not have the MSR.
    absent: &'static str,
}

const NO_TDX: &str =
    "The CPU has no TDX, or the BIOS keeps memory encryption off: turn on TME, TME-MT and TDX there.";

const CHECKS: [MsrCheck; 5] = [
    MsrCheck {
        id: "msr-tme-activate",
        msr: MsrIndex::IA32_TME_ACTIVATE,
        expected: "bit 1 of MSR 0x982 (IA32_TME_ACTIVATE) = 1: memory encryption is on",
        judge: |value| (format!("bit 1 = {}", value >> 1 & 1), value >> 1 & 1 == 1),
        wrong: "Turn on memory encryption (TME) and multi-tenant encryption (TME-MT) in the BIOS, bypass \
                off.",
        absent: NO_TDX,
    },
    MsrCheck {
        id: "msr-seamrr",
        msr: MsrIndex::IA32_SEAMRR_PHYS_MASK,
        expected: "bits 11 and 10 of MSR 0x1401 (SEAMRR mask) = 1: the range for the TDX module is enabled \
                   and locked",
        judge: |value| {
            let (enabled, locked) = (value >> 11 & 1, value >> 10 & 1);
            (format!("bit 11 = {enabled}, bit 10 = {locked}"), enabled == 1 && locked == 1)
        },
        wrong: "Turn on TDX in the BIOS. If it is on, the BIOS refused it: fill the memory channels \
                symmetrically, leave no memory in other modes (mirroring, persistent memory), update the \
                BIOS.",
        absent: NO_TDX,
    },
    MsrCheck {
        id: "msr-keyid-partitioning",
        msr: MsrIndex::IA32_MKTME_KEYID_PARTITIONING,
        expected: "bits 63:32 of MSR 0x87 at least 2: one private KeyID for the module, the others for TDs",
        judge: keyids,
        wrong: "Raise the BIOS option that splits KeyIDs between TME-MT and TDX (`TME-MT/TDX key split`).",
        absent: NO_TDX,
    },
    MsrCheck {
        id: "msr-mcheck",
        msr: MsrIndex::MSR_MCHECK_STATUS,
        expected: "MSR 0xa0 (SGX and MCHECK status) = 0: the platform passed its check",
        judge: |value| (format!("{value:#x}"), value == 0),
        wrong: "MCHECK refused the platform; the value is its error code. Fill memory channels \
                symmetrically, run the same CPUs with the same microcode in all sockets, update the BIOS, \
                and give the code to the vendor.",
        absent: "The CPU does not report MCHECK: it has neither SGX nor TDX, or the BIOS keeps both off.",
    },
    MsrCheck {
        id: "msr-production",
        msr: MsrIndex::MSR_PLATFORM_INFO,
        expected: "bit 27 of MSR 0xce (PLATFORM_INFO) = 0: a production part",
        judge: |value| (format!("bit 27 = {}", value >> 27 & 1), value >> 27 & 1 == 0),
        wrong: "This is a pre-production CPU: published modules and attestation do not fit it. Use a \
                production part.",
        absent: "The CPU does not have the register; a TDX CPU has.",
    },
];

/// The registers that the checks read, for whoever takes a [`Snapshot`](super::Snapshot).
pub const MSRS: [MsrIndex; 5] = [CHECKS[0].msr, CHECKS[1].msr, CHECKS[2].msr, CHECKS[3].msr, CHECKS[4].msr];

/// Registers that a served machine tells: those of the checks, and the one that tells of the SEAMRET erratum.
pub const TOLD_MSRS: [MsrIndex; 6] = {
    let [a, b, c, d, e] = MSRS;
    [a, b, c, d, e, MsrIndex::IA32_VMX_BASIC]
};

fn keyids(value: u64) -> (String, bool) {
    let split = KeyIdPartitioning::from_msr(value);
    let range = match (split.first_private(), split.last_private()) {
        (Some(first), Some(last)) => format!(" ({first} to {last})"),
        _ => String::new(),
    };
    (format!("{} private KeyIDs{range}", split.tdx_count()), split.tdx_count() >= 2)
}

/// All checks of registers.
pub(super) fn all(facts: &dyn Facts) -> Vec<Check> {
    let packages = facts.packages();
    CHECKS.iter().map(|check| one(facts, check, packages.as_ref())).collect()
}

fn one(facts: &dyn Facts, check: &MsrCheck, packages: Result<&Vec<u32>, &Unseen>) -> Check {
    let packages = match packages {
        Ok(packages) if !packages.is_empty() => packages,
        Ok(_) => {
            return Check::unknown(
                check.id,
                check.expected,
                "no package with an online CPU was found",
                "Look at /sys/devices/system/cpu.",
            );
        }
        Err(unseen) => {
            return Check::unknown(
                check.id,
                check.expected,
                unseen.to_string(),
                "Look at /sys/devices/system/cpu.",
            );
        }
    };
    let mut seen = Vec::new();
    let (mut wrong, mut absent) = (false, false);
    let mut unseen = None;
    for &package in packages {
        match facts.rdmsr(package, check.msr) {
            Ok(value) => {
                let (words, right) = (check.judge)(value);
                wrong |= !right;
                seen.push((package, words));
            }
            Err(error @ Unseen::NoMsr(_)) => {
                absent = true;
                seen.push((package, error.to_string()));
            }
            Err(error) => {
                seen.push((package, error.to_string()));
                unseen.get_or_insert(error);
            }
        }
    }
    let differ = seen.windows(2).any(|pair| matches!(pair, [(_, a), (_, b)] if a != b));
    let text = in_words(&seen, differ);
    if absent {
        return Check::failed(check.id, check.expected, text, check.absent);
    }
    if wrong {
        return Check::failed(check.id, check.expected, text, check.wrong);
    }
    if let Some(error) = unseen {
        return Check::unknown(check.id, check.expected, text, how_to_see(&error));
    }
    // The module refuses packages that differ, even if each value alone would do.
    if differ {
        return Check::failed(
            check.id,
            check.expected,
            text,
            "The packages differ; the BIOS must set up all of them alike. Update the BIOS.",
        );
    }
    Check::ok(check.id, check.expected, text)
}

fn in_words(seen: &[(u32, String)], differ: bool) -> String {
    match seen {
        [(_, words), ..] if !differ && seen.len() > 1 => format!("{words} on all {} packages", seen.len()),
        [(_, words)] => words.clone(),
        _ => seen
            .iter()
            .map(|(package, words)| format!("package {package}: {words}"))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

fn how_to_see(unseen: &Unseen) -> &'static str {
    match unseen {
        Unseen::NoMsrDriver(_) => "Run `modprobe msr` as root and try again.",
        Unseen::Denied(_) => {
            "Run this as root; with Secure Boot the kernel's lockdown may refuse MSRs even to root."
        }
        _ => "Run `modprobe msr` and then this command as root.",
    }
}
