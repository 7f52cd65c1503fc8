//! What a machine is switched on with.

use crate::board::Board;
use crate::machine::Machine;
use crate::memory::Ram;
use crate::spec::{PlatformSpec, SpecError};

/// A machine that is about to be switched on.
pub struct PowerOn {
    spec: PlatformSpec,
    seed: u64,
    ram: Option<Box<dyn Ram>>,
}

impl PowerOn {
    /// The machine of a platform file, with memory of its own and seed 0.
    pub fn new(spec: PlatformSpec) -> Self {
        Self { spec, seed: 0, ram: None }
    }

    /// Chance follows this seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Memory belongs to somebody else, whose content it is: with KeyID 0 the bytes as they are,
    /// with any other KeyID ciphertext. Power cycles leave it alone.
    #[must_use]
    pub fn over(self, ram: Box<dyn Ram>) -> Self {
        Self { ram: Some(ram), ..self }
    }

    /// Switches it on.
    pub fn switch_on(self) -> Result<Machine, SpecError> {
        Ok(Machine::start(Board::new(self.spec, self.seed, self.ram)?))
    }
}
