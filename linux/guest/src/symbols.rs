//! Where the kernel runs: its symbols, its boot parameters, its CPU lists.

/// `_text` of an x86-64 kernel that was not moved: `__START_KERNEL_map` plus CONFIG_PHYSICAL_START (16 MiB).
pub const LINK_ADDRESS: u64 = 0xffff_ffff_8100_0000;

/// A kernel is moved in steps of CONFIG_PHYSICAL_ALIGN, which is at least this.
pub const ALIGNMENT: u64 = 0x20_0000;

/// Byte of `struct boot_params` that holds `hdr.loadflags`.
pub const LOADFLAGS: usize = 0x211;

/// `KASLR_FLAG` of `hdr.loadflags`: the boot code chose the address at random.
pub const KASLR_FLAG: u8 = 1 << 1;

/// The address of a symbol of the kernel image in the text of `/proc/kallsyms`. Symbols of modules carry
/// `[module]` behind their name and are passed over.
pub fn address_of(kallsyms: &str, symbol: &str) -> Option<u64> {
    kallsyms.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next()?;
        let _kind = words.next()?;
        let name = words.next()?;
        (name == symbol && words.next().is_none()).then(|| u64::from_str_radix(address, 16).ok())?
    })
}

/// Why `boot_params` and `_text` do not show what was expected of KASLR; the displacement in bytes otherwise.
pub fn kaslr_displacement(boot_params: &[u8], text: u64, expect: bool) -> Result<u64, String> {
    let flags = *boot_params.get(LOADFLAGS).ok_or("the boot parameters end before loadflags")?;
    let displacement =
        text.checked_sub(LINK_ADDRESS).filter(|displacement| displacement % ALIGNMENT == 0).ok_or_else(
            || format!("_text is at {text:#x}, which is no place for a kernel linked at {LINK_ADDRESS:#x}"),
        )?;
    match (flags & KASLR_FLAG != 0, expect) {
        (true, true) => Ok(displacement),
        (false, false) if displacement == 0 => Ok(0),
        (false, false) => Err(format!("the kernel was moved by {displacement:#x} without KASLR")),
        (false, true) => Err("the boot code did not randomise the kernel's address".to_owned()),
        (true, false) => Err("the boot code randomised the kernel's address".to_owned()),
    }
}

/// Numbers of a CPU list such as `0-3,7`. None: not such a list.
pub fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Vec::new());
    }
    let mut cpus = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // The bound keeps a nonsensical range from filling the memory; Linux's own limit is 8192.
        if last < first || last > 0xffff {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KALLSYMS: &str = "0000000000000000 A fixed_percpu_data\nffffffff9c000000 T _text\n\
                            ffffffff9c0000a0 t secondary_startup_64\nffffffffc0201000 t _text\t[bench]\n";

    fn boot_params(flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[LOADFLAGS] = flags;
        bytes
    }

    #[test]
    fn a_symbol_of_the_kernel_is_found_and_one_of_a_module_is_not() {
        assert_eq!(address_of(KALLSYMS, "_text"), Some(0xffff_ffff_9c00_0000));
        assert_eq!(address_of(KALLSYMS, "_end"), None);
        assert_eq!(address_of("ffffffffc0201000 t _text\t[bench]\n", "_text"), None);
        assert_eq!(address_of("nonsense\n", "nonsense"), None);
    }

    #[test]
    fn kaslr_is_what_the_boot_code_says_and_the_symbols_confirm() {
        let on = boot_params(1 | KASLR_FLAG);
        let off = boot_params(1);
        let moved = LINK_ADDRESS + 0x1b00_0000;
        assert_eq!(kaslr_displacement(&on, moved, true), Ok(0x1b00_0000));
        // One kernel in some hundred stays where it was linked, by chance.
        assert_eq!(kaslr_displacement(&on, LINK_ADDRESS, true), Ok(0));
        assert_eq!(kaslr_displacement(&off, LINK_ADDRESS, false), Ok(0));
        for (params, text, expect, why) in [
            (&off, LINK_ADDRESS, true, "did not randomise"),
            (&on, moved, false, "randomised"),
            (&off, moved, false, "without KASLR"),
            (&on, moved + 1, true, "no place"),
            (&on, 0, true, "no place"),
        ] {
            let error = kaslr_displacement(params, text, expect).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(kaslr_displacement(&[0; LOADFLAGS], moved, true).unwrap_err().contains("end before"));
    }

    #[test]
    fn cpu_lists_are_ranges_and_single_cpus() {
        assert_eq!(cpu_list("0-3,7\n"), Some(vec![0, 1, 2, 3, 7]));
        assert_eq!(cpu_list("0\n"), Some(vec![0]));
        assert_eq!(cpu_list("\n"), Some(vec![]));
        for bad in ["3-1", "a", "0-", "0,,1", "0-4294967295"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_cpu_list_or_none(text in "[0-9,\\- a]{0,40}") {
            let _ = cpu_list(&text);
        }

        #[test]
        fn any_text_is_searched_for_symbols(text in "\\PC*") {
            let _ = address_of(&text, "_text");
        }
    }
}
