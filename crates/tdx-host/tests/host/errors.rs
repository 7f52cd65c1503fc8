//! The table of failures.

use std::collections::BTreeSet;

use tdx_host::error::find;
use tdx_host::traits::CpuNumber;
use tdx_host::{Blame, ERRORS, Errno, HostError};

#[test]
fn names_are_unique_and_in_kebab_case() {
    let names: BTreeSet<_> = ERRORS.iter().map(|info| info.name).collect();
    assert_eq!(names.len(), ERRORS.len());
    for name in names {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        assert_eq!(find(name).unwrap().name, name);
    }
    assert_eq!(find("nothing"), None);
}

#[test]
fn every_failure_has_one_sentence_and_an_advice() {
    for info in ERRORS {
        for text in [info.template, info.advice] {
            assert!(!text.is_empty() && !text.contains('\n') && !text.ends_with('.'), "{}", info.name);
        }
        assert!(info.errno.name().is_some(), "{}", info.name);
    }
}

#[test]
fn a_failure_prints_its_values_in_the_place_of_the_template() {
    let error = HostError::VmxeInUse { cpu: CpuNumber(7) };
    assert_eq!(error.to_string(), "CR4.VMXE is set on CPU 7: somebody else runs VMX there");
    assert_eq!(error.info().template, "CR4.VMXE is set on {cpu}: somebody else runs VMX there");
    assert_eq!((error.name(), error.blame(), error.errno()), ("vmxe-in-use", Blame::Host, Errno::EBUSY));
    assert!(error.advice().contains("hypervisor"));
    assert_eq!(Errno::EBUSY.to_string(), "-EBUSY");
    assert_eq!(Errno(77).to_string(), "-77");
}

#[test]
fn the_one_to_blame_has_a_word() {
    let words: BTreeSet<_> = ERRORS.iter().map(|info| info.blame.name()).collect();
    assert_eq!(words, BTreeSet::from(["caller", "host", "module", "platform"]));
}

#[test]
fn every_failure_is_named_by_a_test() {
    let tests = [
        include_str!("bring_up.rs"),
        include_str!("device.rs"),
        include_str!("life.rs"),
        include_str!("memory.rs"),
        include_str!("page_list.rs"),
        include_str!("seamcall.rs"),
        include_str!("tdmr.rs"),
        include_str!("update.rs"),
        include_str!("update_failed.rs"),
        include_str!("update_refused.rs"),
        include_str!("vmx.rs"),
        include_str!("../../src/keyid.rs"),
    ];
    // A test names a failure by its name or by its variant.
    let squeezed = tests.concat().to_lowercase();
    let missing: Vec<_> = ERRORS
        .iter()
        .map(|info| info.name)
        .filter(|name| {
            let variant = format!("hosterror::{}", name.replace('-', ""));
            !squeezed.contains(&format!("\"{name}\"")) && !squeezed.contains(&variant)
        })
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}
