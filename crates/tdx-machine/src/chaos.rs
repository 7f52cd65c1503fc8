//! The one source of chance: interrupts, entropy failures and locks found busy.
//!
//! A decision is a hash of the seed, the LP and the number of decisions that LP has asked for, so
//! that the same seed gives the same run however threads are scheduled.

use std::sync::atomic::{AtomicU64, Ordering};

use tdx_module::hardware::LockName;

use crate::spec::ChaosSpec;

/// Bijective mixing of 64 bits (the finaliser of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What may go wrong by chance.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chance {
    Interrupt,
    Entropy,
    Busy(LockName),
}

impl Chance {
    fn stream(self) -> u64 {
        match self {
            Self::Interrupt => 1,
            Self::Entropy => 2,
            Self::Busy(LockName::Global) => 3,
            Self::Busy(LockName::Tdmr) => 4,
            Self::Busy(LockName::KeyTable) => 5,
            Self::Busy(LockName::Seamldr) => 6,
            Self::Busy(LockName::Extension) => 7,
            Self::Busy(LockName::Iommu) => 8,
            Self::Busy(LockName::Spdm) => 9,
            Self::Busy(LockName::Stream) => 10,
        }
    }
}

/// Decisions one LP has asked for.
#[derive(Debug, Default)]
pub(crate) struct Draws(AtomicU64);

impl Draws {
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Seed and rates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chaos {
    seed: u64,
    /// Probabilities as thresholds of a 64-bit number.
    interrupt: u64,
    entropy: u64,
    busy: u64,
}

impl Chaos {
    pub(crate) fn new(seed: u64, rates: &ChaosSpec) -> Self {
        let threshold = |per_million: u32| (u64::MAX / 1_000_000) * u64::from(per_million.min(1_000_000));
        Self {
            seed: mix(seed),
            interrupt: threshold(rates.interrupt),
            entropy: threshold(rates.no_entropy),
            busy: threshold(rates.busy),
        }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// True if `chance` strikes this time.
    pub(crate) fn strikes(&self, chance: Chance, lp: u32, draws: &Draws) -> bool {
        let threshold = match chance {
            Chance::Interrupt => self.interrupt,
            Chance::Entropy => self.entropy,
            Chance::Busy(_) => self.busy,
        };
        threshold != 0 && self.draw(chance.stream(), lp, draws) < threshold
    }

    /// A pseudo-random number.
    pub(crate) fn number(&self, lp: u32, draws: &Draws) -> u64 {
        self.draw(0, lp, draws)
    }

    fn draw(&self, stream: u64, lp: u32, draws: &Draws) -> u64 {
        // No read-modify-write: one LP asks for one thing at a time.
        let count = draws.0.load(Ordering::Relaxed);
        draws.0.store(count.wrapping_add(1), Ordering::Relaxed);
        mix(self.seed ^ mix(u64::from(lp) << 32 | stream) ^ count.wrapping_mul(0xD134_2543_DE82_EF95))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_million: u32) -> ChaosSpec {
        ChaosSpec {
            interrupt: per_million,
            no_entropy: per_million,
            busy: per_million,
            ..ChaosSpec::default()
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_decisions_on_each_lp() {
        let run = |seed| {
            let chaos = Chaos::new(seed, &rates(300_000));
            let draws = [Draws::default(), Draws::default()];
            (0..200)
                .map(|step| chaos.strikes(Chance::Interrupt, step % 2, &draws[step as usize % 2]))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn a_rate_of_zero_never_strikes_and_a_full_one_always_does() {
        let draws = Draws::default();
        let (never, always) = (Chaos::new(1, &rates(0)), Chaos::new(1, &rates(1_000_000)));
        assert!((0..1000).all(|_| !never.strikes(Chance::Entropy, 0, &draws)));
        assert!((0..1000).all(|_| always.strikes(Chance::Busy(LockName::Tdmr), 0, &draws)));
    }

    #[test]
    fn a_rate_strikes_about_as_often_as_it_says() {
        let draws = Draws::default();
        let chaos = Chaos::new(3, &rates(10_000));
        let hits = (0..100_000).filter(|_| chaos.strikes(Chance::Interrupt, 5, &draws)).count();
        assert!((800..1200).contains(&hits), "{hits} of 100000 at one percent");
    }
}
