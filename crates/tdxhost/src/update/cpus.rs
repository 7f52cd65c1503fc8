//! What can be found out about CPUs without asking one: `/proc/cpuinfo`, sysfs, ACPI's MADT.

use std::collections::BTreeSet;

/// Most CPUs that a list may name: Linux goes up to 8,192.
const CPU_LIMIT: u32 = 1 << 16;

/// Reads the kernel's list format (`0-3,8`); `None` if the text is something else.
pub fn parse_cpu_list(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    let text = text.trim();
    if text.is_empty() {
        return Some(cpus);
    }
    for run in text.split(',') {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        if first > last || last >= CPU_LIMIT {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// CPUID.1:EAX of a display family, a display model and a stepping.
pub const fn signature(family: u32, model: u32, stepping: u32) -> u32 {
    let (base, extended) = if family >= 0xF { (0xF, family - 0xF) } else { (family, 0) };
    (extended & 0xFF) << 20 | (model >> 4 & 0xF) << 16 | base << 8 | (model & 0xF) << 4 | stepping & 0xF
}

/// Display family and model of CPUID.1:EAX.
pub const fn family_and_model(signature: u32) -> (u32, u32) {
    let base = signature >> 8 & 0xF;
    let family = if base == 0xF { base + (signature >> 20 & 0xFF) } else { base };
    (family, signature >> 12 & 0xF0 | signature >> 4 & 0xF)
}

/// CPUID.1:EAX (stepping 0) of `devices/system/cpu/modalias`:
/// `cpu:type:x86,ven0000fam0006mod008F:feature:…`. `None` for other vendors than Intel.
pub fn modalias_signature(text: &str) -> Option<u32> {
    let rest = text.trim().strip_prefix("cpu:type:x86,ven0000fam")?;
    let (family, rest) = rest.split_once("mod")?;
    let (model, _) = rest.split_once(':')?;
    let hex = |digits: &str| u32::from_str_radix(digits, 16).ok();
    Some(signature(hex(family)?, hex(model)?, 0))
}

/// APIC ids of the online CPUs in `/proc/cpuinfo`.
pub fn cpuinfo_apic_ids(text: &str) -> BTreeSet<u32> {
    values(text, "apicid").filter_map(|value| value.parse().ok()).collect()
}

/// True if the kernel lists `bug` for the CPUs of `/proc/cpuinfo`.
pub fn cpuinfo_has_bug(text: &str, bug: &str) -> bool {
    values(text, "bugs").any(|bugs| bugs.split_whitespace().any(|one| one == bug))
}

fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(move |(name, value)| if name.trim() == key { Some(value.trim()) } else { None })
}

/// Bytes of the MADT before its entries: the ACPI header, the local APIC address, flags.
const MADT_HEADER: usize = 44;

/// x2APIC ids of the enabled processors in an ACPI MADT, which firmware writes and the kernel shows as
/// `firmware/acpi/tables/APIC`; `None` if the bytes are no MADT.
///
/// It names CPUs that are offline or left out by a boot option as well: those that MCHECK counted.
pub fn madt_x2apic_ids(table: &[u8]) -> Option<BTreeSet<u32>> {
    if table.get(..4)? != b"APIC" {
        return None;
    }
    let mut rest = table.get(MADT_HEADER..)?;
    let mut ids = BTreeSet::new();
    while let [kind, length, ..] = *rest {
        let length = usize::from(length);
        let entry = rest.get(..length).filter(|entry| entry.len() >= 2)?;
        rest = rest.get(length..)?;
        let word = |at: usize| entry.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        // Local APIC: id at 3, flags at 4. Local x2APIC: id at 4, flags at 8. Flag 0: enabled.
        let (id, flags, none) = match kind {
            0 => (u32::from(*entry.get(3)?), word(4)?, 0xFF),
            9 => (word(4)?, word(8)?, u32::MAX),
            _ => continue,
        };
        if flags & 1 != 0 && id != none {
            ids.insert(id);
        }
    }
    if ids.is_empty() { None } else { Some(ids) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_lists_are_read_and_nonsense_is_not() {
        let cpus = |list: &[u32]| Some(list.iter().copied().collect::<BTreeSet<_>>());
        assert_eq!(parse_cpu_list("0-3,8\n"), cpus(&[0, 1, 2, 3, 8]));
        assert_eq!(parse_cpu_list("\n"), cpus(&[]));
        for text in ["x", "3-1", "0-", "0-4000000000", "-1", "0,,1"] {
            assert_eq!(parse_cpu_list(text), None, "{text}");
        }
    }

    #[test]
    fn signatures_have_the_places_of_cpuid() {
        assert_eq!(signature(6, 0x8F, 8), 0x806F8);
        assert_eq!(signature(6, 0xAD, 1), 0xA06D1);
        assert_eq!(signature(19, 0x01, 0), 0x400F10);
        for (family, model) in [(6, 0x8F), (6, 0xAD), (19, 0x01)] {
            assert_eq!(family_and_model(signature(family, model, 7)), (family, model));
        }
        assert_eq!(
            modalias_signature("cpu:type:x86,ven0000fam0006mod00CF:feature:,0000,0001\n"),
            Some(0xC06F0)
        );
        assert_eq!(modalias_signature("cpu:type:x86,ven0002fam0019mod0001:feature:,0000"), None);
        assert_eq!(modalias_signature("cpu:type:aarch64:feature:,0000"), None);
    }

    #[test]
    fn cpuinfo_names_every_online_cpu_and_the_bugs() {
        let text = "processor\t: 0\napicid\t\t: 0\ninitial apicid\t: 0\nbugs\t\t: spectre_v1 tdx_pw_mce\n\n\
                    processor\t: 1\napicid\t\t: 1026\ninitial apicid\t: 1026\nbugs\t\t: spectre_v1\n";
        assert_eq!(cpuinfo_apic_ids(text), BTreeSet::from([0, 1026]));
        assert!(cpuinfo_has_bug(text, "tdx_pw_mce"));
        assert!(!cpuinfo_has_bug(text, "seamret_invd_vmcs"));
    }

    fn madt(entries: &[&[u8]]) -> Vec<u8> {
        let mut table = b"APIC".to_vec();
        table.resize(MADT_HEADER, 0);
        table.extend(entries.concat());
        table
    }

    #[test]
    fn the_madt_gives_the_enabled_processors_once() {
        let table = madt(&[
            &[0, 8, 0, 5, 1, 0, 0, 0],
            // Disabled, and a placeholder.
            &[0, 8, 1, 6, 0, 0, 0, 0],
            &[0, 8, 1, 0xFF, 1, 0, 0, 0],
            // I/O APIC.
            &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[9, 16, 0, 0, 2, 4, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            // The same processor in both forms.
            &[9, 16, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        ]);
        assert_eq!(madt_x2apic_ids(&table), Some(BTreeSet::from([5, 0x402])));
        assert_eq!(madt_x2apic_ids(&table[..table.len() - 1]), None, "cut in an entry");
        assert_eq!(madt_x2apic_ids(b"FACP"), None);
        assert_eq!(madt_x2apic_ids(&madt(&[&[0, 0]])), None, "an entry without a length");
        assert_eq!(madt_x2apic_ids(&madt(&[])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_madt_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut table = madt(&[]);
            table.extend(bytes);
            if let Some(ids) = madt_x2apic_ids(&table) {
                prop_assert!(!ids.is_empty());
            }
        }

        #[test]
        fn cpu_lists_go_there_and_back(cpus in proptest::collection::btree_set(0_u32..5000, 0..60)) {
            let text = crate::sysfs::cpu_list(cpus.iter().copied());
            prop_assert_eq!(parse_cpu_list(&text), Some(cpus));
        }
    }
}
