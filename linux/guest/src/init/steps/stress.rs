//! Reading attributes while an update replaces what they show.

use std::{
    collections::BTreeMap,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, ensure};
use tdx_linux_guest::plan::{Attributes, Outcome};

use super::{Finding, attributes, ended_as, upload};

/// The values that one reader saw, each run of the same value once, and how often it read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Seen {
    values: BTreeMap<&'static str, Vec<String>>,
    reads: u64,
}

impl Seen {
    fn add(&mut self, name: &'static str, value: Option<String>) {
        let value = value.unwrap_or_else(|| "absent".to_owned());
        let values = self.values.entry(name).or_default();
        if values.last() != Some(&value) {
            values.push(value);
        }
        self.reads = self.reads.saturating_add(1);
    }

    fn read_all(&mut self) {
        for name in attributes::NAMES {
            self.add(name, attributes::read(name));
        }
    }
}

type Shown = BTreeMap<&'static str, String>;

/// Fails unless a reader saw the old value and then at most once the new one, and nothing else.
fn judge(seen: &Seen, before: &Shown, after: &Shown) -> Result<()> {
    for (name, values) in &seen.values {
        let value_of = |shown: &Shown| shown.get(name).cloned().unwrap_or_else(|| "absent".to_owned());
        let allowed = [value_of(before), value_of(after)];
        let fits = match values.as_slice() {
            [only] => allowed.contains(only),
            [first, second] => [first, second] == [&allowed[0], &allowed[1]],
            _ => false,
        };
        ensure!(
            fits,
            "{name} was read as {}, not as {} or {}",
            values.join(", then "),
            allowed[0],
            allowed[1]
        );
    }
    Ok(())
}

/// The step `stress`.
pub(super) fn run(
    image: &str,
    readers: u32,
    expect: &Outcome,
    then: &Attributes,
    time_limit: u64,
) -> Result<Finding> {
    ensure!(readers > 0, "nobody reads");
    let before = attributes::read_all();
    ensure!(!before.is_empty(), "there are no attributes to read");
    let ended = AtomicBool::new(false);
    // The update begins when every reader has read once, so that each sees the old values.
    let all_have_read = Barrier::new(usize::try_from(readers)?.saturating_add(1));
    let (update, seen) = thread::scope(|scope| {
        let handles: Vec<_> = (0..readers)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Seen::default();
                    seen.read_all();
                    all_have_read.wait();
                    while !ended.load(Ordering::Relaxed) {
                        seen.read_all();
                    }
                    // One more, which happens after the update and must see its result.
                    seen.read_all();
                    seen
                })
            })
            .collect();
        all_have_read.wait();
        let update = upload::upload(image, time_limit);
        ended.store(true, Ordering::Relaxed);
        let seen: Vec<_> = handles.into_iter().map(thread::ScopedJoinHandle::join).collect();
        (update, seen)
    });
    let update = update?;
    ended_as(expect, &update.outcome)?;
    let after = attributes::read_all();
    let mut reads: u64 = 0;
    for seen in seen {
        let seen = seen.map_err(|_| anyhow::anyhow!("a reader panicked"))?;
        judge(&seen, &before, &after)?;
        reads = reads.saturating_add(seen.reads);
    }
    let attributes = attributes::compare(then)?;
    let mut detail = format!("{readers} readers saw the old and the new values only, in {reads} reads");
    if !attributes.is_empty() {
        detail = format!("{detail}; {attributes}");
    }
    Ok(Finding::new(detail).with("reads", reads))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(values: &[&str]) -> Seen {
        let mut seen = Seen::default();
        for value in values {
            seen.add("version", Some((*value).to_owned()));
        }
        seen
    }

    #[test]
    fn readers_see_the_old_value_and_then_the_new_one() {
        let (old, new) = (Shown::from([("version", "1".into())]), Shown::from([("version", "2".into())]));
        for good in [&["1", "1"][..], &["2"], &["1", "1", "2", "2"]] {
            assert!(judge(&seen(good), &old, &new).is_ok(), "{good:?}");
        }
        for bad in [&["1", "2", "1"][..], &["2", "1"], &["1", "12", "2"], &["1", "errno:ENXIO"]] {
            assert!(judge(&seen(bad), &old, &new).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_that_comes_or_goes_is_a_value_like_others() {
        let (old, new) = (Shown::new(), Shown::from([("version", "2".into())]));
        let mut seen = Seen::default();
        seen.add("version", None);
        seen.add("version", Some("2".into()));
        assert!(judge(&seen, &old, &new).is_ok());
        assert!(judge(&seen, &new, &new).is_err());
        assert_eq!(seen.reads, 2);
    }
}
