//! Fields of a SIGSTRUCT: what each generation of P-SEAMLDR refuses, and what the accessors say.

use proptest::prelude::*;
use tdx_abi::seamldr::Version;
use tdx_image::cpus::{CPUS, code_name};
use tdx_image::sigstruct::{SIGNED_SIZE, SIGSTRUCT_SIZE};
use tdx_image::{Date, Sigstruct, SigstructError, SigstructRules, Svn};
use zerocopy::IntoBytes;

use crate::{assert_all_reached, parts, put};

use SigstructRules::{Loader1_0, Loader1_5, Loader1_5_02, Loader2_0};

type Change = fn(&mut Sigstruct);

/// Changes that every generation refuses, in the order of the checks.
const ALL_GENERATIONS: &[(Change, SigstructError)] = &[
    (|s| s.reserved_028[0] = 1, SigstructError::ReservedNotZero { offset: 0x28 }),
    (|s| s.header_type.set(7), SigstructError::HeaderType { value: 7 }),
    (|s| s.header_length.set(0xE0), SigstructError::HeaderLength { value: 0xE0 }),
    (|s| s.header_version.set(0x10001), SigstructError::HeaderVersion { value: 0x10001 }),
    (|s| s.key_size.set(0x61), SigstructError::KeySize { value: 0x61 }),
    (|s| s.exponent_size.set(2), SigstructError::ExponentSize { value: 2 }),
    (|s| s.modulus_size.set(0x40), SigstructError::ModulusSize { value: 0x40 }),
    (|s| s.vendor.set(0x8087), SigstructError::Vendor { value: 0x8087 }),
    (|s| s.module_type.set(1), SigstructError::ModuleType { value: 1 }),
    (|s| s.attributes.set(1 << 63), SigstructError::Attributes { value: 1 << 63 }),
    (|s| s.size.set(0x201), SigstructError::Size { value: 0x201 }),
    (|s| s.cpu_count.set(256), SigstructError::CpuCount { value: 256 }),
    (|s| s.exponent.set(3), SigstructError::Exponent { value: 3 }),
];

/// Changes that 1.5 and later refuse, in the order of the checks.
const SINCE_1_5: &[(Change, SigstructError)] = &[
    (|s| s.min_update_handoff_version.set(1), SigstructError::HandoffVersions { min_update: 1, module: 0 }),
    (|s| s.gdt_idt_offset.set(0x2010), SigstructError::GdtIdtMisaligned { offset: 0x2010 }),
    (
        |s| s.fault_wrapper_offset.set(0),
        SigstructError::ExceptionOffsets { gdt_idt: 0x2000, fault_wrapper: 0 },
    ),
    (|s| s.gdt_idt_offset.set(0), SigstructError::ExceptionOffsets { gdt_idt: 0, fault_wrapper: 0x1160 }),
];

/// A SIGSTRUCT that every generation takes, 1.0 included: no hand-off, no GDT.
fn plain() -> Sigstruct {
    let (mut sigstruct, _) = parts();
    sigstruct.handoff_pages_less_1.set(0);
    sigstruct.gdt_idt_offset.set(0);
    sigstruct.fault_wrapper_offset.set(0);
    *sigstruct
}

#[test]
fn each_field_has_its_own_refusal() {
    let mut reached = Vec::new();
    for &(change, expected) in ALL_GENERATIONS {
        for rules in SigstructRules::ALL {
            let mut sigstruct = plain();
            assert_eq!(sigstruct.check(rules), Ok(()), "{rules:?}");
            change(&mut sigstruct);
            assert_eq!(sigstruct.check(rules), Err(expected), "{rules:?}");
        }
        reached.push(expected.name());
    }
    for &(change, expected) in SINCE_1_5 {
        for rules in [Loader1_5, Loader1_5_02, Loader2_0] {
            let (mut sigstruct, _) = parts();
            assert_eq!(sigstruct.check(rules), Ok(()), "{rules:?}");
            change(&mut sigstruct);
            assert_eq!(sigstruct.check(rules), Err(expected), "{rules:?}");
        }
        reached.push(expected.name());
    }
    for (gdt_idt, fault_wrapper, expected) in OFFSETS {
        let (mut sigstruct, _) = parts();
        sigstruct.gdt_idt_offset.set(*gdt_idt);
        sigstruct.fault_wrapper_offset.set(*fault_wrapper);
        let result = sigstruct.check_offsets(5);
        assert_eq!(result.err(), *expected, "{gdt_idt:#x} {fault_wrapper:#x}");
        reached.extend(result.err().map(|error| error.name()));
    }
    assert_all_reached(SigstructError::REASONS, &reached);
}

/// Of a module of 5 pages; the exception entries have 512 bytes.
const OFFSETS: &[(u32, u32, Option<SigstructError>)] = &[
    (0, 0, None),
    (0x4000, 0x4E00, None),
    (0x5000, 0x4E00, Some(SigstructError::GdtIdtOutside { offset: 0x5000, len: 0x5000 })),
    (0x4000, 0x4E01, Some(SigstructError::FaultWrapperOutside { offset: 0x4E01, len: 0x5000 })),
    (u32::MAX, u32::MAX, Some(SigstructError::GdtIdtOutside { offset: u32::MAX, len: 0x5000 })),
];

#[test]
fn of_two_wrong_fields_the_loader_tells_the_first() {
    let mut sigstruct = *parts().0;
    for &(change, expected) in SINCE_1_5.iter().take(3).rev().chain(ALL_GENERATIONS.iter().rev()) {
        change(&mut sigstruct);
        assert_eq!(sigstruct.check(Loader1_5_02), Err(expected));
    }
}

#[test]
fn debug_bit_and_255_cpus_are_accepted() {
    for rules in SigstructRules::ALL {
        let mut sigstruct = plain();
        sigstruct.module_type.set(1 << 31);
        sigstruct.cpu_count.set(255);
        assert_eq!(sigstruct.check(rules), Ok(()));
        assert!(sigstruct.is_debug());
        assert_eq!(sigstruct.cpus().count(), 255);
    }
}

/// First and last byte of each reserved area, and who refuses it.
const RESERVED: &[(u32, &[SigstructRules])] = &[
    (0x028, &SigstructRules::ALL),
    (0x07F, &SigstructRules::ALL),
    (0x3D2, &SigstructRules::ALL),
    (0x3D7, &SigstructRules::ALL),
    (0x3D8, &[Loader1_0]),
    (0x3DC, &[Loader1_0]),
    (0x3DD, &SigstructRules::ALL),
    (0x3DE, &[Loader1_0]),
    (0x3E8, &[Loader1_0, Loader1_5, Loader1_5_02]),
    (0x3EF, &[Loader1_0, Loader1_5, Loader1_5_02]),
    (0x3F0, &SigstructRules::ALL),
    (0x3FF, &SigstructRules::ALL),
];

#[test]
fn reserved_bytes_differ_by_generation() {
    for &(offset, refusing) in RESERVED {
        for rules in SigstructRules::ALL {
            let mut sigstruct = plain();
            sigstruct.as_mut_bytes()[offset as usize] = 1;
            let refused = sigstruct.check(rules) == Err(SigstructError::ReservedNotZero { offset });
            assert_eq!(refused, refusing.contains(&rules), "{offset:#x}, {rules:?}");
        }
    }
}

#[test]
fn a_module_with_hand_off_fields_is_not_for_a_loader_of_tdx_1_0() {
    let (sigstruct, _) = parts();
    assert_eq!(sigstruct.check(Loader1_0), Err(SigstructError::ReservedNotZero { offset: 0x3DE }));
}

#[test]
fn cpus_are_compared_without_their_stepping() {
    let (mut sigstruct, _) = parts();
    assert!(sigstruct.covers_cpu(0x806F8) && sigstruct.covers_cpu(0x806F4) && sigstruct.covers_cpu(0xC06F2));
    assert!(!sigstruct.covers_cpu(0xA06D1));
    // Entries behind the count do not count, and a count beyond the table ends at the table.
    sigstruct.cpu_count.set(1);
    assert_eq!(sigstruct.cpus().collect::<Vec<_>>(), [0x806F8]);
    assert!(!sigstruct.covers_cpu(0xC06F2));
    sigstruct.cpu_count.set(u32::MAX);
    assert_eq!(sigstruct.cpus().count(), 255);
    sigstruct.cpu_count.set(0);
    assert!(!sigstruct.covers_cpu(0x806F8));
}

#[test]
fn every_cpu_has_the_model_of_its_signature_and_is_found_by_any_stepping() {
    for cpu in CPUS {
        assert_eq!(code_name(cpu.cpuid1_eax | 7), Some(cpu));
        let raw = cpu.cpuid1_eax;
        let family = ((raw >> 8) & 0xF) + if (raw >> 8) & 0xF == 0xF { (raw >> 20) & 0xFF } else { 0 };
        let model = ((raw >> 4) & 0xF) | ((raw >> 12) & 0xF0);
        assert_eq!((u32::from(cpu.family), u32::from(cpu.model)), (family, model), "{}", cpu.code_name);
    }
    assert_eq!(code_name(0x806F8).map(|cpu| cpu.code_name), Some("Sapphire Rapids"));
    assert_eq!(code_name(0xA06D1).and_then(|cpu| cpu.seamldr_line), Some((2, 0)));
    assert_eq!(code_name(0x906E0), None);
}

#[test]
fn accessors_read_the_fields_at_the_offsets_of_the_layout() {
    let mut bytes = [0; SIGSTRUCT_SIZE];
    put(&mut bytes, 0x00C, 0x8000_0000_u32.to_le_bytes());
    put(&mut bytes, 0x014, 0x2025_0219_u32.to_le_bytes());
    put(&mut bytes, 0x384, [0xAB; 48]);
    put(&mut bytes, 0x3B4, [11, 1]);
    put(&mut bytes, 0x3BE, 0x3_8E24_u32.to_le_bytes());
    put(&mut bytes, 0x3C2, [1, 2]);
    put(&mut bytes, 0x3C4, 127_u16.to_le_bytes());
    put(&mut bytes, 0x3C6, 21_u16.to_le_bytes());
    put(&mut bytes, 0x3D8, 3_u16.to_le_bytes());
    put(&mut bytes, 0x3DA, 2_u16.to_le_bytes());
    bytes[0x3DC] = 1;
    put(&mut bytes, 0x3DE, 13_u16.to_le_bytes());
    put(&mut bytes, 0x3E0, 0x5_C000_u32.to_le_bytes());
    put(&mut bytes, 0x3E4, 0x3_8F84_u32.to_le_bytes());
    put(&mut bytes, 0x3E8, [4, 0, 0, 2, 0x5B, 3, 8]);
    put(&mut bytes, 0x400, 1_u32.to_le_bytes());
    put(&mut bytes, 0x404, 0xA06D0_u32.to_le_bytes());
    let sigstruct = Sigstruct::read(&bytes);
    assert!(sigstruct.is_debug());
    assert_eq!(sigstruct.date(), Date(0x2025_0219));
    assert_eq!(sigstruct.date().to_string(), "2025-02-19");
    assert_eq!(sigstruct.seamhash(), &[0xAB; 48]);
    assert_eq!(sigstruct.svn(), Svn { major: 1, minor: 11 });
    assert_eq!((sigstruct.svn().to_string().as_str(), sigstruct.svn().raw()), ("1.11", 0x10B));
    assert_eq!(sigstruct.entry_offset(), 0x3_8E24);
    assert_eq!((sigstruct.stack_pages(), sigstruct.tls_pages()), (2, 3));
    assert_eq!((sigstruct.keyhole_pages(), sigstruct.global_data_pages()), (128, 22));
    assert_eq!((sigstruct.module_handoff_version(), sigstruct.min_update_handoff_version()), (3, 2));
    assert!(sigstruct.no_downgrade());
    assert_eq!(sigstruct.handoff_pages(), 14);
    assert_eq!((sigstruct.gdt_idt_offset(), sigstruct.fault_wrapper_offset()), (0x5_C000, 0x3_8F84));
    assert_eq!(sigstruct.recorded_version(), Some(Version::new(2, 0, 4)));
    assert_eq!(sigstruct.recorded_build(), Some(0x35B));
    assert_eq!(sigstruct.cpus().collect::<Vec<_>>(), [0xA06D0]);
    assert!(format!("{sigstruct:?}").contains("major: 1, minor: 11"));
}

#[test]
fn the_signature_covers_all_but_modulus_exponent_and_itself() {
    let mut bytes = [0; SIGSTRUCT_SIZE];
    bytes[0x80..0x384].fill(1);
    let parts = Sigstruct::read(&bytes).signed_parts();
    assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), SIGNED_SIZE);
    assert!(parts.into_iter().flatten().all(|&byte| byte == 0));
}

proptest! {
    #[test]
    fn any_sigstruct_is_read_and_checked(bytes in proptest::collection::vec(any::<u8>(), SIGSTRUCT_SIZE)) {
        let sigstruct = Sigstruct::read(bytes.as_slice().try_into().expect("2048 bytes"));
        prop_assert_eq!(sigstruct.as_bytes(), bytes.as_slice());
        for rules in SigstructRules::ALL {
            prop_assert!(sigstruct.check(rules).is_err());
        }
        prop_assert!(sigstruct.cpus().count() <= 255);
    }
}
