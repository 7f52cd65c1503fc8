extern crate std;

use super::*;
use crate::msr::MsrIndex;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::{format, string::ToString};

#[test]
fn the_codes_that_users_posted_are_named_with_their_detail() {
    for (raw, text) in [
        (0xc000050500000000, "TDX_SYS_NOT_READY (0xc000050500000000)"),
        (0xc000090000000000, "TDX_INCORRECT_CPUID_VALUE (0xc000090000000000)"),
        (0xc000092100000122, "TDX_INCORRECT_MSR_VALUE (0xc000092100000122): MSR 0x122 IA32_TSX_CTRL"),
        (0xc000030000000001, "TDX_PAGE_METADATA_INCORRECT (0xc000030000000001): operand RCX"),
        (0xc000010000000045, "TDX_OPERAND_INVALID (0xc000010000000045): operand CPUID_CONFIG"),
        (0xc0000c0000000000, "TDX_METADATA_FIELD_ID_INCORRECT (0xc0000c0000000000)"),
    ] {
        assert_eq!(Status::from_raw(raw).to_string(), text);
    }
}

#[test]
fn every_code_round_trips_and_is_described() {
    for &code in StatusCode::ALL {
        let info = code.info().expect("described");
        assert_eq!(info.code, code);
        assert_eq!(Some(info.name), code.name());
        assert_eq!(code.plain().code(), code, "{}", info.name);
        assert_eq!(Status::from_raw(code.plain().raw()), code.plain());
        assert!(code.with_detail(0x1234).is(code), "{}", info.name);
        assert!(info.class().name().is_some(), "{}", info.name);
        for text in [info.meaning, info.advice] {
            assert!(text.ends_with('.'), "{}: {text}", info.name);
        }
    }
    assert_eq!(StatusCode::ALL.len(), STATUS.len());
}

#[test]
fn names_are_unique_but_for_those_that_1_0_gave_another_number() {
    let mut names = BTreeSet::new();
    for info in STATUS.iter().filter(|info| info.since != StatusInfo::ONLY_1_0) {
        assert!(names.insert(info.name), "{} stands twice", info.name);
        assert_eq!(StatusCode::from_name(info.name), Some(info.code));
    }
    assert_eq!(StatusCode::from_name("sys_busy"), Some(StatusCode::SYS_BUSY));
    assert_eq!(StatusCode::from_name("TD_FATAL"), Some(StatusCode::TD_FATAL));
    assert_eq!(StatusCode::from_name("TDX_NO_SUCH"), None);
}

#[test]
fn one_number_with_two_meanings_knows_both() {
    let info = StatusCode::LIMIT_CPUID_MAXVAL_SET.info().expect("described");
    assert_eq!(info.also.first().map(|also| also.name), Some("TDX_BOOT_NT4_SET"));
    assert_eq!(StatusCode::BOOT_NT4_SET, StatusCode::LIMIT_CPUID_MAXVAL_SET);
    assert_eq!(StatusCode::from_name("BOOT_NT4_SET"), Some(StatusCode::BOOT_NT4_SET));
}

#[test]
fn an_unknown_status_prints_its_number() {
    assert_eq!(Status::from_raw(0xc000_3f00_0000_0001).to_string(), "0xc0003f0000000001");
    assert_eq!(format!("{}", StatusClass(0x3f)), "class 0x3f");
    assert_eq!(format!("{}", OperandId(0x999)), "0x999");
    assert_eq!(Status::from_raw(0xc000_3f00_0000_0001).operand(), None);
}

#[test]
fn flag_bits_are_60_to_63() {
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::TDR);
    assert!(busy.is_error() && busy.is_recoverable_error() && !busy.is_non_recoverable());
    let invalid = StatusCode::OPERAND_INVALID.plain();
    assert!(invalid.is_error() && invalid.is_non_recoverable() && !invalid.is_recoverable_error());
    assert!(StatusCode::TD_FATAL.plain().is_fatal() && !invalid.is_fatal());
    assert!(StatusCode::CROSS_TD_TRAP.plain().host_recoverability_hint());
    assert!(!StatusCode::CROSS_TD_FAULT.plain().host_recoverability_hint());
    assert!(!Status::SUCCESS.is_error() && !Status::SUCCESS.is_recoverable_error());
    assert!(!StatusCode::TDMR_ALREADY_INITIALIZED.plain().is_error());
}

#[test]
fn only_codes_with_an_operand_have_one() {
    assert_eq!(
        StatusCode::OPERAND_BUSY.with_operand(OperandId::SEPT_TREE).operand(),
        Some(OperandId::SEPT_TREE)
    );
    assert_eq!(StatusCode::INCORRECT_MSR_VALUE.with_detail(1).operand(), None);
    // An operand id has 16 bits.
    assert_eq!(StatusCode::OPERAND_BUSY.with_detail(0x1_0001).operand(), None);
    assert_eq!(Status::SUCCESS.operand(), None);
}

#[test]
fn software_codes_differ_in_their_low_half() {
    for (code, raw) in [
        (StatusCode::SEAMCALL_VMFAILINVALID, 0x8000_FF00_FFFF_0000_u64),
        (StatusCode::SEAMCALL_GP, 0x8000_FF00_0000_000D),
        (StatusCode::SEAMCALL_UD, 0x8000_FF00_0000_0006),
    ] {
        let status = Status::from_raw(raw);
        assert_eq!(status.code(), code);
        assert_eq!(status.class(), StatusClass::SOFTWARE);
        assert_eq!(code.with_detail(7).raw(), raw);
    }
    assert!(!Status::from_raw(0x8000_FF00_0000_0006).is(StatusCode::SEAMCALL_GP));
    assert_eq!(Status::from_raw(0x8000_FF00_0000_0003).to_string(), "0x8000ff0000000003");
}

#[test]
fn classes_follow_the_middle_byte() {
    for (code, class) in [
        (StatusCode::SUCCESS, "general"),
        (StatusCode::OPERAND_INVALID, "operand"),
        (StatusCode::SYS_NOT_READY, "module state"),
        (StatusCode::INCORRECT_MSR_VALUE, "platform"),
        (StatusCode::IDE_STREAM_NOT_FREE, "TDX Connect"),
    ] {
        assert_eq!(code.plain().class().to_string(), class);
    }
}

#[test]
fn details_are_decoded_as_their_code_says() {
    for (status, detail, text) in [
        (
            StatusCode::INVALID_RESERVED_IN_TDMR.with_detail(0x0302),
            Detail::TdmrReserved { index: 2, area: 3 },
            "TDMR 2, reserved area 3",
        ),
        (
            StatusCode::PAMT_OVERLAP.with_detail(0x05_0102),
            Detail::TdmrPamtOverlap { index: 2, size: 1, other: 5 },
            "TDMR 2, PAMT of 2 MiB pages, collides with TDMR 5",
        ),
        (
            Status::from_raw(77),
            Detail::ExitReason { reason: ExitReason::TDCALL, bus_lock: false },
            "exit reason 77 TDCALL",
        ),
        (
            Status::from_raw(0x0400_000C),
            Detail::ExitReason { reason: ExitReason::HLT, bus_lock: true },
            "exit reason 12 HLT after a bus lock",
        ),
        (
            StatusCode::L2_SEPT_WALK_FAILED.with_detail(0x1_0002),
            Detail::VmLevel { vm: 1, level: 2 },
            "VM 1, level 2 (1 GiB)",
        ),
        (StatusCode::INCONSISTENT_MSR.with_detail(0x4321), Detail::Msr(MsrIndex(0x4321)), "MSR 0x4321"),
        (
            StatusCode::UPDATE_COMPATIBILITY_SENSITIVE.with_detail(0x2_0000),
            Detail::UpdateSensitive { reason: 0, count: 2 },
            "2 TD builds in progress",
        ),
        (StatusCode::INVALID_PKG_ID.with_detail(9), Detail::Package(9), "package 9"),
        (StatusCode::SYS_BUSY.plain(), Detail::None, ""),
        (StatusCode::SYS_BUSY.with_detail(5), Detail::Raw(5), "detail 0x5"),
    ] {
        assert_eq!(status.decoded_detail(), detail);
        assert_eq!(detail.to_string(), text);
    }
}

#[test]
fn loader_and_host_codes_are_described() {
    for &code in SeamldrStatus::ALL {
        assert_eq!(code.info().map(|info| info.name), code.name());
    }
    for &code in VmcallStatus::ALL {
        assert_eq!(code.info().map(|info| info.name), code.name());
    }
    assert_eq!(SeamldrStatus::EUNSPECERR.0, 0x8000_0000_0001_0003);
    assert!(SeamldrStatus(0x8000_0000_0000_0099).info().is_none());
    assert_eq!(format!("{}", SeamldrStatus(0x99)), "0x99");
}

#[test]
fn every_operand_is_described() {
    assert_eq!(OperandId::CPUID_CONFIG.0, 69);
    for &operand in OperandId::ALL {
        assert!(operand.meaning().is_some(), "{operand}");
    }
}

proptest! {
    #[test]
    fn a_status_is_its_code_and_its_detail(raw: u64) {
        let status = Status::from_raw(raw);
        prop_assert_eq!(status.code().with_detail(status.detail()), status);
        prop_assert_eq!(Status::from_raw(status.raw()), status);
        prop_assert!(!status.to_string().is_empty());
    }

    #[test]
    fn details_of_known_codes_come_back(index in 0..StatusCode::ALL.len(), detail: u32) {
        let code = StatusCode::ALL[index];
        let status = code.with_detail(detail);
        prop_assert!(status.is(code));
        if status.class() != StatusClass::SOFTWARE {
            prop_assert_eq!(status.detail(), detail);
        }
    }
}
