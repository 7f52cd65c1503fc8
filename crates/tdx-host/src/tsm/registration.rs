//! TSMs as devices of a class: numbers, coming and going.

use super::Tsm;
use super::events::{tsm_changed, tsm_event};
use crate::link::BridgeStreams;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::traits::{UeventAction, Uevents};

/// No TSM is registered.
pub(super) const NOBODY: u32 = u32::MAX;

/// Numbers of all TSMs of a system.
#[derive(Debug, Default)]
pub struct TsmClass(AtomicU64);

impl TsmClass {
    /// None is given out.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The lowest free number.
    pub fn take(&self) -> Option<u32> {
        (0..u64::BITS).find(|&number| {
            let bit = 1 << number;
            self.0.fetch_or(bit, Ordering::AcqRel) & bit == 0
        })
    }

    /// Gives a number back.
    pub fn give_back(&self, number: u32) {
        if number < u64::BITS {
            self.0.fetch_and(!(1 << number), Ordering::AcqRel);
        }
    }
}

impl<E, B: AsRef<[BridgeStreams]>, R> Tsm<E, B, R> {
    /// Registers the TSM: TDX Connect works, and every bridge knows its streams. Its number; `None` if it is
    /// registered or no number is left.
    pub fn register<P: Uevents + ?Sized>(&self, platform: &P, class: &TsmClass) -> Option<u32> {
        if self.number().is_some() {
            return None;
        }
        let number = class.take()?;
        self.instance.fetch_add(1, Ordering::AcqRel);
        tsm_event(platform, UeventAction::Add, number);
        self.number.store(number, Ordering::Release);
        // From here on devices can be connected, which is what user space waits for.
        tsm_changed(platform, number);
        Some(number)
    }

    /// Takes the TSM away: nothing is connected any more. To be called behind
    /// [`Self::stop_connecting`] and the disconnecting of every DSM.
    pub fn unregister<P: Uevents + ?Sized>(&self, platform: &P, class: &TsmClass, number: u32) {
        for bridge in self.bridges.as_ref() {
            bridge.set_streams(0);
        }
        tsm_event(platform, UeventAction::Remove, number);
        class.give_back(number);
    }

    /// From here on no device can be connected; the number that the TSM had.
    pub fn stop_connecting(&self) -> Option<u32> {
        let number = self.number.swap(NOBODY, Ordering::AcqRel);
        (number != NOBODY).then_some(number)
    }

    /// Its number, while it is registered.
    pub fn number(&self) -> Option<u32> {
        let number = self.number.load(Ordering::Acquire);
        (number != NOBODY).then_some(number)
    }

    /// Counts registrations.
    pub fn instance(&self) -> u64 {
        self.instance.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_given_out() {
        let class = TsmClass::new();
        assert_eq!([class.take(), class.take(), class.take()], [Some(0), Some(1), Some(2)]);
        class.give_back(1);
        assert_eq!([class.take(), class.take()], [Some(1), Some(3)]);
        assert_eq!((4..64).filter_map(|_| class.take()).count(), 60);
        assert_eq!(class.take(), None);
        class.give_back(u32::MAX);
    }
}
