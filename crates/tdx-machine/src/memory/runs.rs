//! Tags of whole ranges of lines, one entry for each run of equal tags.

use std::collections::BTreeMap;

use super::line::LineTag;

/// Runs of lines of one 1 GiB block that were initialised whole and not touched since.
///
/// The run that grew last stays outside the map: a module initialises PAMT in ascending order, so
/// nearly every call only moves the end of that run.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// First line to (line behind the last, tag).
    closed: BTreeMap<u32, (u32, LineTag)>,
    open: Option<OpenRun>,
}

#[derive(Clone, Copy, Debug)]
struct OpenRun {
    start: u32,
    end: u32,
    /// First line of the next closed run.
    limit: u32,
    tag: LineTag,
}

impl Runs {
    /// Gives the lines `start..end` the tag.
    pub(super) fn set(&mut self, start: u32, end: u32, tag: LineTag) {
        if let Some(open) = &mut self.open
            && open.end == start
            && end <= open.limit
            && open.tag == tag
        {
            open.end = end;
            return;
        }
        self.close();
        self.carve(start, end);
        let mut first = start;
        if let Some((&before, &(before_end, before_tag))) = self.closed.range(..start).next_back()
            && before_end == start
            && before_tag == tag
        {
            self.closed.remove(&before);
            first = before;
        }
        let limit = self.closed.range(end..).next().map_or(u32::MAX, |(&next, _)| next);
        self.open = Some(OpenRun { start: first, end, limit, tag });
    }

    /// Forgets the lines `start..end`: they are ordinary zeros again.
    pub(super) fn clear(&mut self, start: u32, end: u32) {
        if self.is_empty() {
            return;
        }
        self.close();
        self.carve(start, end);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.closed.is_empty()
    }

    /// Tag of a line; `None` if no run holds it.
    pub(super) fn tag_at(&self, line: u32) -> Option<LineTag> {
        if let Some(open) = self.open
            && open.start <= line
            && line < open.end
        {
            return Some(open.tag);
        }
        let (_, &(end, tag)) = self.closed.range(..=line).next_back()?;
        (line < end).then_some(tag)
    }

    /// True if a run holds one of the lines `start..end`.
    pub(super) fn overlaps(&self, start: u32, end: u32) -> bool {
        self.open.is_some_and(|open| open.start < end && start < open.end)
            || self.closed.range(..end).next_back().is_some_and(|(_, &(last, _))| start < last)
    }

    /// Number of entries kept.
    pub(super) fn len(&self) -> usize {
        self.closed.len() + usize::from(self.open.is_some())
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let mut end = open.end;
        if let Some(&(next_end, next_tag)) = self.closed.get(&end)
            && next_tag == open.tag
        {
            self.closed.remove(&end);
            end = next_end;
        }
        self.closed.insert(open.start, (end, open.tag));
    }

    fn carve(&mut self, start: u32, end: u32) {
        if let Some((&before, &(before_end, tag))) = self.closed.range(..start).next_back()
            && before_end > start
        {
            self.closed.insert(before, (start, tag));
            if before_end > end {
                self.closed.insert(end, (before_end, tag));
                return;
            }
        }
        while let Some((&first, &(last, tag))) = self.closed.range(start..end).next() {
            self.closed.remove(&first);
            if last > end {
                self.closed.insert(end, (last, tag));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::KeyStamp;
    use super::*;
    use proptest::prelude::*;
    use tdx_abi::KeyId;

    fn tag(key: u16) -> LineTag {
        LineTag::written(KeyStamp { key: KeyId::new(key), generation: 1 }, true)
    }

    #[test]
    fn adjacent_runs_of_one_tag_become_one_entry() {
        let mut runs = Runs::default();
        for step in 0..1000 {
            runs.set(step * 256, (step + 1) * 256, tag(32));
        }
        assert_eq!(runs.len(), 1);
        runs.set(500_000, 500_256, tag(32));
        runs.set(256_000, 500_000, tag(32));
        runs.clear(0, 0);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs.tag_at(500_255), Some(tag(32)));
        assert_eq!(runs.tag_at(500_256), None);
    }

    proptest! {
        #[test]
        fn runs_agree_with_an_array(steps in prop::collection::vec((0u32..64, 0u32..32, 0u16..3), 1..60)) {
            let mut runs = Runs::default();
            let mut model = vec![None; 128];
            for (start, len, key) in steps {
                let end = start + len;
                if len == 0 {
                    continue;
                }
                let value = (key != 0).then(|| tag(key));
                match value {
                    Some(value) => runs.set(start, end, value),
                    None => runs.clear(start, end),
                }
                for slot in &mut model[start as usize..end as usize] {
                    *slot = value;
                }
                for (line, expected) in (0u32..).zip(&model) {
                    prop_assert_eq!(runs.tag_at(line), *expected);
                    let beside = line.saturating_sub(3)..line + 1;
                    let any = model[beside.start as usize..beside.end as usize].iter().any(Option::is_some);
                    prop_assert_eq!(runs.overlaps(beside.start, beside.end), any);
                }
            }
        }
    }
}
