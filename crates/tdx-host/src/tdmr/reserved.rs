//! Reserved areas of one TDMR.

use tdx_abi::PhysRange;
use tdx_abi::tdmr::MAX_RESERVED_AREAS;

/// Areas of a TDMR that stay with the host, ascending and disjoint.
///
/// Counts on when full, so that an error can say how many were needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReservedList {
    areas: [PhysRange; MAX_RESERVED_AREAS],
    needed: usize,
}

impl ReservedList {
    /// The areas that found room.
    pub fn areas(&self) -> &[PhysRange] {
        self.areas.get(..self.needed.min(MAX_RESERVED_AREAS)).unwrap_or_default()
    }

    /// How many were needed.
    pub const fn needed(&self) -> usize {
        self.needed
    }

    /// Adds an area as one of its own.
    pub(super) fn push(&mut self, area: PhysRange) {
        if let Some(place) = self.areas.get_mut(self.needed) {
            *place = area;
        }
        self.needed += 1;
    }

    /// Brings the areas into ascending order.
    pub(super) fn sort(&mut self) {
        let used = self.needed.min(MAX_RESERVED_AREAS);
        if let Some(areas) = self.areas.get_mut(..used) {
            areas.sort_unstable();
        }
    }

    /// The areas of `one` and `other`, both ascending, where those that touch become one.
    pub(super) fn merged(
        one: impl Iterator<Item = PhysRange>,
        other: impl Iterator<Item = PhysRange>,
    ) -> Self {
        let mut list = Self::default();
        let (mut one, mut other) = (one.peekable(), other.peekable());
        let mut open: Option<PhysRange> = None;
        loop {
            let next = match (one.peek(), other.peek()) {
                (Some(a), Some(b)) if a <= b => one.next(),
                (_, Some(_)) => other.next(),
                (Some(_), None) => one.next(),
                (None, None) => break,
            };
            let Some(next) = next else { break };
            open = match open {
                Some(last) if next.start() <= last.end() => {
                    PhysRange::new(last.start(), last.end().max(next.end()))
                }
                Some(last) => {
                    list.push(last);
                    Some(next)
                }
                None => Some(next),
            };
        }
        if let Some(last) = open {
            list.push(last);
        }
        list
    }
}
