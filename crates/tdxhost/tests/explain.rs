//! `explain`: words of a command line in, sentences out.

use std::collections::BTreeSet;

use proptest::prelude::*;
use tdx_abi::leaf::{SeamcallLeaf, SeamldrLeaf, TdcallLeaf, VmcallLeaf};
use tdx_abi::metadata::{self, Context, SYS_FIELDS, TD_FIELDS, VP_FIELDS};
use tdx_abi::status::{Blame, SeamldrStatus, Status, StatusCode, VmcallStatus};
use tdx_host::error::ERRORS;
use tdxhost::explain::{
    CallRegisters, ExplainArgs, Explanation, Interface, explain_error, explain_field_id, explain_seamcall,
    explain_words,
};
use tdxhost::text::Output;
use tdxhost::update::checks::RULES;
use tdxhost::update::{reasons::REASONS, words::WORDS};

fn args(line: &str) -> ExplainArgs {
    let mut args = ExplainArgs::default();
    for word in line.split_whitespace() {
        match word {
            "--guest" => args.guest = true,
            "--vmcall" => args.vmcall = true,
            "--seamldr" => args.seamldr = true,
            word => args.words.push(word.to_owned()),
        }
    }
    args
}

fn explain(line: &str) -> Explanation {
    explain_words(&args(line)).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn text(explanation: &Explanation) -> String {
    let mut bytes = Vec::new();
    explanation.print(&mut Output::plain(&mut bytes)).expect("a vector takes everything");
    // Wrapped lines are joined, so that tests do not depend on where lines break.
    String::from_utf8(bytes).expect("text").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_codes_that_users_posted_become_sentences() {
    for (line, parts) in [
        (
            "0x22 0xc0000505_00000000",
            &["TDX_SYS_NOT_READY", "TDH.SYS.RD", "TDX 1.0 generation", "firmware", "Update the BIOS"][..],
        ),
        (
            "0x21 0xc0000900_00000000",
            &["TDX_INCORRECT_CPUID_VALUE", "TDH.SYS.INIT", "old module or BIOS", "firmware"],
        ),
        (
            "33 0xc0000921_00000122",
            &[
                "TDX_INCORRECT_MSR_VALUE",
                "MSR 0x122 IA32_TSX_CTRL",
                "TSX",
                "1.0.03 or later",
                "tsx=on",
                "firmware",
            ],
        ),
        (
            "0x1c 0xc0000300_00000001",
            &["TDX_PAGE_METADATA_INCORRECT", "TDH.PHYMEM.PAGE.RECLAIM", "operand RCX", "caller"],
        ),
        (
            "0xc0000100_00000045",
            &["TDX_OPERAND_INVALID", "operand CPUID_CONFIG (69)", "TD_PARAMS", "caller", "VMM"],
        ),
        (
            "0x22 0xc0000c00_00000000",
            &["TDX_METADATA_FIELD_ID_INCORRECT", "TDH.SYS.RD", "newer than the module"],
        ),
    ] {
        let text = text(&explain(line));
        for part in parts {
            assert!(text.contains(part), "{line}: `{part}` is missing from: {text}");
        }
    }
}

#[test]
fn every_status_code_has_an_explanation_with_and_without_a_leaf() {
    for &code in StatusCode::ALL {
        for leaf in ["", "TDH.SYS.INIT ", "0x22 ", "--guest 4 "] {
            let line = format!("{leaf}{:#x}", code.plain().raw());
            let explanation = explain(&line);
            assert!(explanation.known, "{line}");
            assert_eq!(explanation.name.as_deref(), code.name(), "{line}");
            assert!(!explanation.meaning.is_empty() && !explanation.advice.is_empty(), "{line}");
            assert!(explanation.fault.is_some(), "{line}");
        }
    }
}

#[test]
fn every_code_of_the_loader_and_of_the_ghci_has_an_explanation() {
    for &code in SeamldrStatus::ALL {
        // Success has nothing of the loader in it: its word is that of the module.
        let explanation = explain(&format!("--seamldr 1 {:#x}", code.0));
        assert_eq!((explanation.interface, explanation.known), (Interface::Seamldr, true), "{code}");
        assert!(explanation.fault.is_some() && !explanation.advice.is_empty(), "{code}");
    }
    for &code in VmcallStatus::ALL {
        let explanation = explain(&format!("--vmcall GetQuote {:#x}", code.0));
        assert_eq!((explanation.interface, explanation.known), (Interface::Vmcall, true), "{code}");
        assert_eq!(explanation.leaf.and_then(|leaf| leaf.name), Some("GetQuote"));
    }
}

#[test]
fn every_leaf_is_found_by_its_name_and_by_its_number() {
    for &leaf in SeamcallLeaf::ALL {
        let name = leaf.name().expect("listed");
        let by_name = explain(name);
        assert_eq!(by_name.name.as_deref(), Some(name));
        // 0 alone reads as RAX: success.
        if leaf.0 != 0 {
            assert_eq!(explain(&leaf.0.to_string()), by_name);
        }
        let (_, short) = name.split_once('.').expect("an interface");
        assert_eq!(explain(&format!("{short} 0")).leaf, explain(&format!("{:#x} 0", leaf.0)).leaf);
    }
    for &leaf in SeamldrLeaf::ALL {
        let found = explain(&format!("--seamldr {} 0x8000000000000000", leaf.0)).leaf.expect("a leaf");
        assert_eq!(found.name, leaf.name());
        assert_eq!(
            explain(&format!("{:#x} 0x8000000000000000", 1 << 63 | u64::from(leaf.0))).leaf,
            Some(found)
        );
    }
    for &leaf in TdcallLeaf::ALL {
        let name = leaf.name().expect("listed");
        assert_eq!(explain(&format!("--guest {name} 0")).leaf.and_then(|leaf| leaf.name), Some(name));
    }
    for &leaf in VmcallLeaf::ALL {
        let name = leaf.name().expect("listed");
        assert_eq!(explain(&format!("--vmcall {name} 0")).leaf.map(|leaf| leaf.number), Some(leaf.0));
        assert_eq!(explain(&format!("--vmcall {:#x}", leaf.0)).name.as_deref(), Some(name));
    }
}

#[test]
fn names_may_be_written_as_linux_writes_them() {
    for (line, name) in [
        ("TDH_SYS_RD 0", "TDH.SYS.RD"),
        ("tdh_phymem_cache_wb 0", "TDH.PHYMEM.CACHE.WB"),
        ("P_SEAMLDR_INFO 0", "SEAMLDR.INFO"),
        ("sys.lp.init 0", "TDH.SYS.LP.INIT"),
        ("0x10016 0", "TDH.VP.INIT"),
    ] {
        assert_eq!(explain(line).leaf.and_then(|leaf| leaf.name), Some(name), "{line}");
    }
    assert_eq!(explain("0x10016 0").leaf.map(|leaf| leaf.version), Some(1));
    assert_eq!(explain("sys_busy").name.as_deref(), Some("TDX_SYS_BUSY"));
}

#[test]
fn a_small_number_alone_is_a_leaf_and_a_large_one_a_status() {
    assert!(explain("33").headline.starts_with("TDH.SYS.INIT"));
    assert!(explain("0xc000050500000000").headline.starts_with("TDX_SYS_NOT_READY"));
    assert!(explain("0").headline.starts_with("TDX_SUCCESS"));
    // Class and code 0 with the error bit are the loader's.
    let loader = explain("0x8000000000020001");
    assert_eq!((loader.interface, loader.name.as_deref()), (Interface::Seamldr, Some("EBADHASH")));
    // The loader's own documents leave the error bit out.
    assert_eq!(explain("--seamldr INSTALL 0x20001").name.as_deref(), Some("EBADHASH"));
}

#[test]
fn software_codes_tell_what_linux_makes_of_them() {
    for (code, errno, blame) in [
        ("0x8000FF00FFFF0000", "-ENODEV", "platform"),
        ("0x8000FF000000000D", "-EOPNOTSUPP", "firmware"),
        ("0x8000FF0000000006", "-EACCES", "caller"),
    ] {
        let explanation = explain(code);
        assert!(text(&explanation).contains(errno), "{code}");
        assert_eq!(explanation.fault.map(|fault| fault.who), Some(blame), "{code}");
    }
    // The wrapper makes them for calls to the loader too.
    assert_eq!(
        explain("--seamldr INFO 0x8000FF00FFFF0000").name.as_deref(),
        Some("TDX_SEAMCALL_VMFAILINVALID")
    );
    assert!(text(&explain("33 0x8000FF00FFFF0000")).contains("has not loaded a TDX module"));
}

#[test]
fn cpuid_registers_name_leaf_mask_and_expected_value() {
    let all = explain("33 0xc000090000000000 0x1_00000007 0x00000010_00000000 0 0x00000010_00000000 0");
    assert!(text(&all).contains("CPUID leaf 0x7, subleaf 0x1: EBX & 0x10 should be 0x10"), "{}", text(&all));
    let differ = explain("35 0xc000090200000000 1 0x2 0x00000004_00000000");
    assert!(text(&differ).contains("CPUID leaf 0x1, subleaf 0x0: EAX & 0x2, EDX & 0x4"), "{}", text(&differ));
    assert!(text(&explain("33 0xc000090000000000")).contains("not given"));
    assert!(text(&explain("33 0xc000090000000000 0 0 0")).contains("did not pass on"));
}

#[test]
fn details_are_put_into_words() {
    for (line, part) in [
        ("45 0xc0000a2000000302", "TDMR 2, reserved area 3"),
        ("45 0xc0000a1200050102", "TDMR 2, PAMT of 2 MiB pages, collides with TDMR 5"),
        ("45 0xc0000a0200000001", "TDMR 1"),
        ("35 0xc000090600000008", "package 8"),
        ("33 0xc000091200000201", "SMRR 1, CMR 2"),
        ("33 0xc000090800000015", "CPUID leaf 0x15"),
        ("0 77", "exit reason 77 TDCALL"),
        ("0x22 0xc0000c0000000000 0 0x9100000100000008", "MAX_TDMRS"),
        ("0x22 0xc0000c0000000000 0 0xffffffffffffffff", "the id asked for is lost"),
        ("MNG.RD 0xc0000c0000000000 0 0x8000000000000001", "FATAL"),
        ("0x1c 0xc000030000000001 3 0x1000 0", "page type PT_REG, owner TDR 0x1000"),
        ("SEAMLDR.INSTALL 0x8000000000020000 0 0", "the old module is still there"),
        ("SEAMLDR.INSTALL 0x8000000000020001 0 1", "all TDs are lost"),
    ] {
        let text = text(&explain(line));
        assert!(text.contains(part), "{line}: `{part}` is missing from: {text}");
    }
    assert!(!text(&explain("34 0")).contains("exit reason"), "a plain success has no exit reason");
}

#[test]
fn unknown_numbers_are_taken_apart() {
    let unknown = explain("0xc000120a00000005");
    assert!(!unknown.known && unknown.name.is_none());
    let text = text(&unknown);
    for part in ["unknown status", "class 0x12", "code 0xa", "0x5 in bits 31:0"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(self::text(&explain("0xc0ff050500000000")).contains("no status at all"));
    assert!(!explain("9999 0xc000050500000000").headline.is_empty());
    assert!(!explain("--seamldr 1 0x8000000000044444").known);
    assert!(!explain("--vmcall 0x8000000000000099").known);
    assert!(!explain("--guest 9999").known);
}

#[test]
fn fields_are_found_by_name_and_id() {
    for info in SYS_FIELDS.iter().chain(TD_FIELDS).chain(VP_FIELDS) {
        let explanation = explain_field_id(info.id);
        assert!(explanation.known, "{}", info.name);
        assert!(text(&explanation).contains("encoding"), "{}", info.name);
    }
    let field = explain("field 0x9000000300000081");
    assert_eq!(field.name.as_deref(), Some("CMR_BASE"));
    assert!(text(&field).contains("element 1 of 32, 8 bytes each"));
    assert_eq!(explain("field max_tdmrs"), explain("field 0x9100000100000008"));
    // A short id, and a list header, name the same field.
    assert_eq!(explain("field 0x9100000000000008").name.as_deref(), Some("MAX_TDMRS"));
    assert!(text(&explain("field 0xffffffffffffffff")).contains("no further field"));
    assert!(text(&explain("field 0x9100000181000008")).contains("reserved bit"));
}

#[test]
fn an_unknown_field_is_decoded_by_its_encoding() {
    let field = explain("field 0x9100000100000999");
    assert!(!field.known);
    for part in ["class 17", "field code 0x999", "2 bytes", "context 0 (SYS)"] {
        assert!(text(&field).contains(part), "{part}");
    }
    // Identifiers for MNG.RD may leave the context out.
    let short =
        |info: &&tdx_abi::metadata::FieldInfo| metadata::lookup(info.id.with_context(Context::SYS)).is_none();
    let info = TD_FIELDS.iter().find(short).expect("a class that only TDs have");
    let field = explain_field_id(info.id.with_context(Context::SYS));
    assert!(text(&field).contains(&format!("{}, read from a TD", info.name)), "{}", text(&field));
}

#[test]
fn every_error_name_has_an_explanation() {
    for info in ERRORS {
        let explanation = explain_error(info.name).expect("a name of the table");
        assert_eq!(explanation.name.as_deref(), Some(info.name));
        assert!(explanation.advice.iter().any(|advice| advice == info.advice), "{}", info.name);
    }
    let error = explain_words(&args("error no-such-error")).expect_err("no error").to_string();
    assert!(error.contains("no-such-error") && error.contains("`tdxhost explain error`"), "{error}");
}

#[test]
fn malformed_words_are_refused_in_one_line() {
    for line in [
        "",
        "0xzz",
        "33 c000",
        "33 0xc000092100000122x",
        "--guest 1 2z",
        "--vmcall nonsense 0",
        "nonsense",
        "12monkeys",
        "field",
        "field 1 2",
        "field nonsense",
        "error no-tdx no-vmx",
        "33 0 1 2 3 4 5 6 7",
        "--vmcall 1 2 3",
        "0x1ffffffffffffffff",
    ] {
        let error = explain_words(&args(line)).expect_err(line).to_string();
        assert!(!error.is_empty() && !error.contains('\n'), "{line}: {error}");
    }
}

#[test]
fn the_document_has_the_facts_of_the_text() {
    let explanation = explain("33 0xc000090000000000 7 0x2 0 0x2 0");
    let mut bytes = Vec::new();
    explanation.print(&mut Output::json(&mut bytes)).expect("a vector takes everything");
    let document: serde_json::Value = serde_json::from_slice(&bytes).expect("a JSON document");
    assert_eq!(document["name"], "TDX_INCORRECT_CPUID_VALUE");
    assert_eq!(document["value"], "0xc000090000000000");
    assert_eq!(document["leaf"]["number"], 33);
    assert_eq!(document["bits"]["class_name"], "platform");
    assert_eq!(document["fault"]["who"], "firmware");
    let text = text(&explanation);
    for fact in document["facts"].as_array().expect("facts") {
        let fact = fact["text"].as_str().expect("text");
        assert!(text.contains(fact), "{fact}");
    }
}

#[test]
fn information_is_nobodys_fault() {
    for &code in StatusCode::ALL {
        let status = code.plain();
        if code.info().is_some_and(|info| info.blame == Blame::Nobody) && !status.is_error() {
            let explanation = explain(&format!("TDH.VP.ENTER {:#x}", status.raw()));
            assert_eq!(explanation.fault.map(|fault| fault.who), Some("nobody"), "{status}");
        }
    }
}

proptest! {
    #[test]
    fn any_words_are_explained_or_refused(words in prop::collection::vec("\\PC{0,24}", 0..9), flags in 0_u8..4) {
        let args = ExplainArgs {
            words,
            guest: flags == 1,
            vmcall: flags == 2,
            seamldr: flags == 3,
            ..ExplainArgs::default()
        };
        if let Err(error) = explain_words(&args) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_status_keeps_its_number(rax: u64, leaf: u64, registers in prop::array::uniform6(any::<u64>())) {
        let leaf = tdx_abi::leaf::LeafWord::from_raw(leaf);
        let explanation = explain_seamcall(Some(leaf), rax, &CallRegisters::in_order(&registers));
        let word = format!("{rax:#018x}");
        prop_assert!(explanation.headline.contains(&word), "{}", explanation.headline);
        prop_assert_eq!(explanation.known, explanation.name.is_some());
        if !leaf.is_seamldr() {
            prop_assert_eq!(explanation.known, Status::from_raw(rax).info().is_some());
        }
    }

    #[test]
    fn any_field_id_is_decoded(raw: u64) {
        let explanation = explain_field_id(tdx_abi::metadata::FieldId::from_raw(raw));
        prop_assert!(!explanation.headline.is_empty());
    }
}

fn refusal(line: &str) -> String {
    let error = explain_words(&args(line)).expect_err(line).to_string();
    assert!(!error.contains('\n'), "{error:?}");
    error
}

#[test]
fn pasted_words_are_taken_as_they_come() {
    let plain = explain("33 0xc000092100000122");
    for pasted in
        ["33 0xc000092100000122", "33: 0xc000092100000122,", " TDH_SYS_INIT:\t0xc0000921_00000122; "]
    {
        let args = ExplainArgs { words: vec![pasted.to_owned()], ..ExplainArgs::default() };
        assert_eq!(explain_words(&args).as_ref(), Ok(&plain), "{pasted:?}");
    }
}

#[test]
fn a_status_is_taken_by_name_after_a_leaf() {
    let explanation = explain("TDH.SYS.RD TDX_SYS_NOT_READY");
    assert_eq!(explanation, explain("34 0xc000050500000000"));
}

#[test]
fn a_status_given_by_name_has_no_detail() {
    assert!(explain("TDX_OPERAND_BUSY").facts.iter().all(|fact| fact.what != "detail"));
    assert!(explain("0x8000020000000000").facts.iter().any(|fact| fact.what == "detail"));
}

#[test]
fn a_refusal_says_what_to_try() {
    for (line, hint) in [
        ("c000092100000122", "hexadecimal needs 0x in front: 0xc000092100000122"),
        ("33 c000092100000122", "hexadecimal needs 0x in front: 0xc000092100000122"),
        ("-19", "tdxhost explain --dmesg -"),
        ("33 -5", "tdxhost explain --dmesg -"),
        ("virt/tdx: SEAMCALL failed", "tdxhost explain --dmesg -"),
        ("\u{1f680}", "neither a number nor the name of a SEAMCALL leaf or status"),
        ("field nonsense", "neither a number nor the name of a metadata field"),
        ("field", "takes one word"),
        ("error no-tdx no-vmx", "takes one word"),
        ("error no-txd", "did you mean `no-tdx`?"),
        ("error nonsense", "`tdxhost explain error` lists them"),
    ] {
        let refusal = refusal(line);
        assert!(refusal.contains(hint), "{line}: {refusal}");
    }
}

#[test]
fn error_names_are_listed_and_found_in_any_spelling() {
    let list = explain("error");
    for (fact, info) in list.facts.iter().zip(ERRORS) {
        assert_eq!((fact.what, fact.text.as_str()), (info.name, info.template));
    }
    let names: BTreeSet<&str> = list.facts.iter().map(|fact| fact.what).collect();
    assert_eq!(names.len(), list.facts.len(), "a name stands there twice");
    let of_images = tdx_image::reasons().chain(REASONS).map(|reason| reason.name);
    for name in of_images.chain(WORDS.iter().map(|word| word.name)) {
        let explanation = explain(&format!("error {name}"));
        assert!(names.contains(name) && explanation.name.as_deref() == Some(name), "{name}");
        assert!(!explanation.meaning.is_empty() && !explanation.advice.is_empty(), "{name}");
    }
    // Names are longer than the other labels: a space stays before the sentence.
    assert!(text(&list).contains("hotplug-outside-tdx-memory {range} cannot go online"));
    assert_eq!(explain("error NO_TDX"), explain("error no-tdx"));
}

#[test]
fn reasons_against_images_and_words_of_the_upload_are_explained() {
    let reason = explain("error image-checksum-wrong");
    assert_eq!(reason.interface, Interface::Image);
    assert!(text(&reason).contains("Linux itself does not look at the checksum"));
    // As the kernel writes it, state first.
    let word = explain("error transferring:firmware-invalid");
    assert_eq!((word.interface, word.headline.as_str()), (Interface::Upload, "firmware-invalid"));
    assert!(refusal("error seamldr-to-old").contains("did you mean `seamldr-too-old`?"));
    // What could not be looked at is shown by the name of its check.
    for rule in RULES {
        let check = explain(&format!("error {}", rule.id));
        assert_eq!((check.interface, check.name.as_deref()), (Interface::Image, Some(rule.id)));
        assert!(text(&check).contains("A check before an update"), "{}", rule.id);
    }
}

#[test]
fn an_unknown_leaf_says_how_numbers_are_written() {
    let text = text(&explain("9999"));
    assert!(text.contains("decimal unless written 0x") && !text.contains("give RAX"), "{text}");
}

#[test]
fn sub_functions_are_numbered_as_the_ghci_does() {
    assert_eq!(explain("--vmcall MapGPA").headline, "MapGPA (sub-function 0x10001)");
    assert_eq!(explain("--vmcall 0x7777").headline, "unknown sub-function 0x7777");
    assert!(explain("--vmcall GetQuote 1").headline.ends_with("from GetQuote (sub-function 0x10002)"));
}
