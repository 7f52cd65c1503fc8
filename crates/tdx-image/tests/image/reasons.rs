//! The table of reasons.

use std::collections::BTreeSet;

use tdx_image::{ImageError, find_reason, reasons};

#[test]
fn names_are_unique_and_kebab_case_and_every_reason_advises() {
    let mut names = BTreeSet::new();
    for reason in reasons() {
        assert!(names.insert(reason.name), "{} twice", reason.name);
        let kebab = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(reason.name.bytes().all(kebab), "{}", reason.name);
        assert!(!reason.advice.is_empty() && !reason.template.contains('\n'), "{}", reason.name);
        assert_eq!(find_reason(reason.name), Some(reason));
    }
    assert_eq!(find_reason("no-such-reason"), None);
}

#[test]
fn a_message_is_its_template_with_values() {
    let error = ImageError::LengthMismatch { stated: 8192, actual: 8191 };
    let reason = find_reason(error.name()).expect("in the table");
    assert_eq!(reason.template, "the header tells {stated} bytes, but the file has {actual}");
    assert_eq!(error.to_string(), "the header tells 8192 bytes, but the file has 8191");
    assert_eq!(error.advice(), reason.advice);
}
