//! The attributes of the `tdx_host` device.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Result, ensure};
use tdx_linux_guest::plan::{Attributes, Expected};

use super::{super::files, Finding};

/// The device's folder.
pub(super) const DEVICE: &str = "/sys/devices/faux/tdx_host";

/// The attributes that Linux 7.3 can show.
pub(super) const NAMES: [&str; 3] = ["version", "seamldr_version", "num_remaining_updates"];

/// An attribute's text, `errno:NAME` when reading it fails; None: there is no such file.
fn shown(read: io::Result<String>) -> Option<String> {
    match read {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("errno:{}", files::errno_name(&error))),
    }
}

/// One attribute as it is.
pub(super) fn read(name: &str) -> Option<String> {
    // A plan names files of the device and nothing beyond.
    if name.contains('/') || name.starts_with('.') {
        return None;
    }
    shown(files::read_line(Path::new(DEVICE).join(name)))
}

/// All that Linux 7.3 has and this boot shows.
pub(in super::super) fn read_all() -> BTreeMap<&'static str, String> {
    NAMES.into_iter().filter_map(|name| Some((name, read(name)?))).collect()
}

/// What differs from the expectation, as one sentence; None: nothing.
fn difference(name: &str, is: Option<&str>, expected: &Expected) -> Option<String> {
    let (wanted, fits) = match expected {
        Expected::Absent(()) => ("absent".to_owned(), is.is_none()),
        Expected::Text(text) => (text.clone(), is == Some(text)),
        Expected::Number(number) => (number.to_string(), is == Some(number.to_string().as_str())),
    };
    (!fits).then(|| format!("{name} is {}, not {wanted}", is.unwrap_or("absent")))
}

/// Fails unless every named attribute is as expected; the sentence says what they are.
pub(super) fn compare(expect: &Attributes) -> Result<String> {
    let mut wrong = Vec::new();
    let mut right = Vec::new();
    for (name, expected) in &expect.0 {
        let is = read(name);
        match difference(name, is.as_deref(), expected) {
            Some(difference) => wrong.push(difference),
            None => right.push(format!("{name} is {}", is.as_deref().unwrap_or("absent"))),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(right.join(", "))
}

/// The step `attributes`.
pub(super) fn check(expect: &Attributes) -> Result<Finding> {
    // A driver that is not bound has none, which a plan says by expecting them absent.
    let present = fs::metadata(DEVICE).is_ok();
    let detail = compare(expect)?;
    Ok(Finding::new(if present { detail } else { format!("no tdx_host device: {detail}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_compared_as_text_number_or_absence() {
        for (is, expected) in [
            (Some("1.5.24"), Expected::from("1.5.24")),
            (Some("15"), Expected::from(15)),
            (Some("errno:ENXIO"), Expected::from("errno:ENXIO")),
            (None, Expected::Absent(())),
        ] {
            assert_eq!(difference("a", is, &expected), None);
        }
        for (is, expected, sentence) in [
            (Some("1.5.23"), Expected::from("1.5.24"), "a is 1.5.23, not 1.5.24"),
            (Some("015"), Expected::from(15), "a is 015, not 15"),
            (None, Expected::from(15), "a is absent, not 15"),
            (Some("1.5.24"), Expected::Absent(()), "a is 1.5.24, not absent"),
            (Some("errno:EIO"), Expected::from("1.5.24"), "a is errno:EIO, not 1.5.24"),
        ] {
            assert_eq!(difference("a", is, &expected).as_deref(), Some(sentence));
        }
    }

    #[test]
    fn a_missing_file_is_absent_and_a_refusal_has_its_name() {
        assert_eq!(shown(Err(io::Error::from_raw_os_error(2))), None);
        assert_eq!(shown(Err(io::Error::from_raw_os_error(6))).as_deref(), Some("errno:ENXIO"));
        assert_eq!(shown(Ok("7".into())).as_deref(), Some("7"));
    }

    #[test]
    fn names_do_not_lead_out_of_the_device() {
        for name in ["../../../kernel/version", "/etc/hostname", ".", ".."] {
            assert_eq!(read(name), None, "{name}");
        }
    }
}
