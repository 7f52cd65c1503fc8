//! What a machine is switched on with.

use crate::board::Board;
use crate::machine::Machine;
use crate::memory::Ram;
use crate::seam;
use crate::spec::{PlatformSpec, SpecError};

/// A machine that is about to be switched on.
pub struct PowerOn {
    spec: PlatformSpec,
    seed: u64,
    ram: Option<Box<dyn Ram>>,
    module_image: Option<Vec<u8>>,
}

impl PowerOn {
    /// The machine of a platform file, with memory of its own and seed 0.
    pub fn new(spec: PlatformSpec) -> Self {
        Self { spec, seed: 0, ram: None, module_image: None }
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

    /// The firmware loads the module of this update image, whatever module the platform file has.
    /// It is played as the release that SEAMLDR.INSTALL would choose for it, and refused as
    /// SEAMLDR.INSTALL would refuse it. After a power cycle the same image is loaded again.
    #[must_use]
    pub fn module_image(self, file: impl Into<Vec<u8>>) -> Self {
        Self { module_image: Some(file.into()), ..self }
    }

    /// Switches it on.
    pub fn switch_on(self) -> Result<Machine, SpecError> {
        let platform = self.spec.name.clone();
        let board = Board::new(self.spec, self.seed, self.ram, self.module_image)?;
        seam::check_image(&board).map_err(|issue| SpecError::Invalid { platform, issue })?;
        Ok(Machine::start(board))
    }
}
