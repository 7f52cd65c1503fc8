//! Stamps: what a finished step of the preparation was made from. A step whose inputs are the same is not
//! done again; one that was broken off has no stamp.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The inputs of one step, as text: the stamp file shows them to whoever asks why a step was done again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inputs(String);

impl Inputs {
    /// One input by name.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name} = {value:?}");
        self
    }

    /// Content, by length and hash.
    pub(super) fn with_content(self, name: &str, content: &[u8]) -> Self {
        self.with(name, &format!("{} bytes, {:016x}", content.len(), hash(content)))
    }
}

/// FNV-1a of 64 bits: tells versions of a file apart, guards against nobody.
fn hash(content: &[u8]) -> u64 {
    content
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The stamp of one step.
#[derive(Clone, Debug)]
pub(super) struct Stamp(PathBuf);

impl Stamp {
    /// The stamp `name` of a cache.
    pub(super) fn new(cache: &Path, name: &str) -> Self {
        Self(cache.join("stamps").join(name))
    }

    /// Whether the step was finished with these inputs.
    pub(super) fn holds(&self, inputs: &Inputs) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| text == inputs.0)
    }

    /// The step begins: whatever is there from before is not to be trusted until it ends.
    pub(super) fn begin(&self) -> Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }

    /// The step is finished.
    pub(super) fn finish(&self, inputs: &Inputs) -> Result<()> {
        let write = || -> std::io::Result<()> {
            if let Some(folder) = self.0.parent() {
                fs::create_dir_all(folder)?;
            }
            let part = self.0.with_extension("part");
            fs::write(&part, &inputs.0)?;
            fs::rename(part, &self.0)
        };
        write().with_context(|| format!("write {}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_for_the_inputs_that_it_was_finished_with_and_no_others() {
        let cache = tempfile::tempdir().unwrap();
        let stamp = Stamp::new(cache.path(), "kernel");
        let inputs = Inputs::default().with("source", "7.3.4-1").with_content("fragment", b"CONFIG_SMP=y\n");
        assert!(!stamp.holds(&inputs), "nothing was done yet");
        stamp.finish(&inputs).unwrap();
        assert!(stamp.holds(&inputs));
        for other in [
            Inputs::default().with("source", "7.3.5-1").with_content("fragment", b"CONFIG_SMP=y\n"),
            Inputs::default().with("source", "7.3.4-1").with_content("fragment", b"CONFIG_SMP=n\n"),
            Inputs::default().with("source", "7.3.4-1"),
        ] {
            assert!(!stamp.holds(&other), "{other:?}");
        }
    }

    #[test]
    fn a_step_that_was_begun_and_not_finished_is_not_taken_for_done() {
        let cache = tempfile::tempdir().unwrap();
        let stamp = Stamp::new(cache.path(), "kernel");
        let inputs = Inputs::default().with("source", "7.3.4-1");
        stamp.begin().unwrap();
        stamp.finish(&inputs).unwrap();
        stamp.begin().unwrap();
        assert!(!stamp.holds(&inputs));
    }

    #[test]
    fn inputs_cannot_be_mistaken_for_each_other() {
        let two = Inputs::default().with("a", "1").with("b", "2");
        assert_ne!(two, Inputs::default().with("a", "1\nb = 2"));
    }
}
