//! A runtime update through the kernel's firmware upload.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tdx_linux_guest::plan::{Attributes, Outcome};

use super::{super::files, Finding, attributes, ended_as};

/// The upload that the `tdx_host` driver registers.
const UPLOAD: &str = "/sys/class/firmware/tdx_module";

/// `status` is no file that poll(2) wakes on, so it is read again after this.
const INTERVAL: Duration = Duration::from_millis(2);

/// sysfs takes one page per write in any case.
const CHUNK: usize = 4096;

/// The files of one upload.
#[derive(Debug)]
struct Upload(PathBuf);

/// How far an image came.
#[derive(Debug, PartialEq, Eq)]
enum Begun {
    /// The kernel has it and works on it.
    Working,
    /// A file refused.
    Refused(Outcome),
}

fn refused(error: &io::Error) -> Begun {
    Begun::Refused(Outcome::Refused(format!("errno:{}", files::errno_name(error))))
}

impl Upload {
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn hand_over(&self, image: &[u8]) -> io::Result<()> {
        files::write(self.file("loading"), b"1")?;
        self.fill(image)?;
        files::write(self.file("loading"), b"0")
    }

    fn fill(&self, image: &[u8]) -> io::Result<()> {
        let mut data: File = OpenOptions::new().write(true).open(self.file("data"))?;
        image.chunks(CHUNK).try_for_each(|chunk| data.write_all(chunk))
    }

    fn begin(&self, image: &[u8]) -> Begun {
        match self.hand_over(image) {
            Ok(()) => Begun::Working,
            Err(error) => refused(&error),
        }
    }

    fn status(&self) -> Result<String> {
        files::read_line(self.file("status")).context("status cannot be read")
    }

    /// Waits until the kernel is through and reads how it ended.
    fn finish(&self, limit: Duration) -> Result<Outcome> {
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            if status == "idle" {
                break;
            }
            ensure!(begun.elapsed() < limit, "the upload is still {status} after {} s", limit.as_secs());
            thread::sleep(INTERVAL);
        }
        let error = files::read_line(self.file("error")).context("error cannot be read")?;
        Ok(if error.is_empty() { Outcome::Done } else { Outcome::Refused(error) })
    }

    fn remaining(&self) -> Result<u64> {
        let text = files::read_line(self.file("remaining_size")).context("remaining_size cannot be read")?;
        text.parse().with_context(|| format!("remaining_size is {text:?}"))
    }
}

/// An update from its image to its end.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

/// Uploads an image and waits for the kernel. An error is something that no upload should do.
pub(super) fn upload(image: &str, time_limit: u64) -> Result<Ended> {
    upload_to(&Upload(PathBuf::from(UPLOAD)), Path::new(image), Duration::from_secs(time_limit))
}

fn upload_to(upload: &Upload, image: &Path, limit: Duration) -> Result<Ended> {
    let image = std::fs::read(image).with_context(|| format!("{} cannot be read", image.display()))?;
    let begun = Instant::now();
    let outcome = match upload.begin(&image) {
        Begun::Refused(outcome) => outcome,
        Begun::Working => {
            let outcome = upload.finish(limit)?;
            // The driver takes an image as a whole: nothing of it is left, or all of it.
            let remaining = upload.remaining()?;
            let expected = if outcome == Outcome::Done { 0 } else { image.len() as u64 };
            ensure!(
                remaining == expected,
                "it ended with {outcome}, but remaining_size is {remaining}, not {expected}"
            );
            outcome
        }
    };
    Ok(Ended { outcome, took: begun.elapsed() })
}

/// The step `update`.
pub(super) fn update(image: &str, expect: &Outcome, then: &Attributes, time_limit: u64) -> Result<Finding> {
    let ended = upload(image, time_limit)?;
    ended_as(expect, &ended.outcome)?;
    let attributes = attributes::compare(then)?;
    let microseconds = u64::try_from(ended.took.as_micros()).unwrap_or(u64::MAX);
    let mut detail = format!("the upload of {image} ended with {}", ended.outcome);
    if !attributes.is_empty() {
        detail = format!("{detail}; {attributes}");
    }
    Ok(Finding::new(detail).with("us", microseconds))
}

/// The step `give-up-update`.
pub(super) fn give_up(image: &str) -> Result<Finding> {
    let upload = Upload(PathBuf::from(UPLOAD));
    let image = std::fs::read(image).with_context(|| format!("{image} cannot be read"))?;
    let before = attributes::read_all();
    match files::write(upload.file("cancel"), b"1") {
        Err(error) if files::errno_name(&error) == "ENODEV" => {}
        Err(error) => bail!("cancel of an idle upload answers {}, not ENODEV", files::errno_name(&error)),
        Ok(()) => bail!("an idle upload was cancelled"),
    }
    files::write(upload.file("loading"), b"1").context("loading does not take 1")?;
    upload.fill(&image).context("data does not take the image")?;
    files::write(upload.file("loading"), b"-1").context("loading does not take -1")?;
    let status = upload.status()?;
    ensure!(status == "idle", "an upload that was given up is {status}");
    let after = attributes::read_all();
    ensure!(
        before == after,
        "an upload that was given up changed the attributes from {before:?} to {after:?}"
    );
    Ok(Finding::new("an upload that was given up left the module alone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(files: &[(&str, &str)]) -> (tempfile::TempDir, Upload) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let upload = Upload(folder.path().to_owned());
        (folder, upload)
    }

    const IDLE: [(&str, &str); 4] = [("loading", ""), ("data", ""), ("status", "idle\n"), ("error", "")];

    #[test]
    fn an_upload_that_ends_without_error_and_remainder_is_done() {
        let (folder, upload) = upload(&IDLE);
        std::fs::write(folder.path().join("remaining_size"), "0\n").unwrap();
        let image = folder.path().join("image");
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        std::fs::write(&image, &bytes).unwrap();
        let ended = upload_to(&upload, &image, Duration::ZERO).unwrap();
        assert_eq!(ended.outcome, Outcome::Done);
        assert_eq!(std::fs::read(folder.path().join("data")).unwrap(), bytes);
        assert_eq!(std::fs::read_to_string(folder.path().join("loading")).unwrap(), "0");
    }

    #[test]
    fn an_upload_that_ends_with_an_error_keeps_its_words() {
        let (folder, upload) = upload(&IDLE);
        std::fs::write(folder.path().join("error"), "transferring:firmware-invalid\n").unwrap();
        std::fs::write(folder.path().join("remaining_size"), "3\n").unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, "abc").unwrap();
        let ended = upload_to(&upload, &image, Duration::ZERO).unwrap();
        assert_eq!(ended.outcome, Outcome::Refused("transferring:firmware-invalid".into()));
    }

    #[test]
    fn a_remainder_that_contradicts_the_end_is_an_error() {
        let (folder, upload) = upload(&IDLE);
        std::fs::write(folder.path().join("remaining_size"), "3\n").unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, "abc").unwrap();
        let error = upload_to(&upload, &image, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("remaining_size is 3, not 0"), "{error}");
    }

    #[test]
    fn an_upload_that_does_not_end_is_given_up_with_its_status() {
        let (folder, upload) = upload(&IDLE);
        std::fs::write(folder.path().join("status"), "transferring\n").unwrap();
        let error = upload.finish(Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "the upload is still transferring after 0 s");
    }

    #[test]
    fn a_file_that_refuses_is_named_by_its_error() {
        let (_folder, upload) = upload(&[]);
        assert_eq!(upload.begin(b"x"), Begun::Refused(Outcome::Refused("errno:ENOENT".into())));
    }
}
