//! What a machine is switched on with.

use crate::board::Board;
use crate::endpoint::OutsideDsm;
use crate::machine::Machine;
use crate::memory::Ram;
use crate::pci::Dial;
use crate::seam;
use crate::spec::{PlatformSpec, SpecError};

/// A machine that is about to be switched on.
pub struct PowerOn<'a> {
    spec: PlatformSpec,
    seed: u64,
    ram: Option<Box<dyn Ram>>,
    module_image: Option<Vec<u8>>,
    dial: Option<Box<Dial<'a>>>,
}

impl<'a> PowerOn<'a> {
    /// The machine of a platform file, with memory of its own and seed 0.
    pub fn new(spec: PlatformSpec) -> Self {
        Self { spec, seed: 0, ram: None, module_image: None, dial: None }
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

    /// The firmware loads the module of this update image, whatever module the platform file has,
    /// and even if it has none: a file that is named is meant. (What injects a fault means that
    /// more: `module-missing` and `module-1.0` come first.) It is played as the release that
    /// SEAMLDR.INSTALL would choose for it, and refused as SEAMLDR.INSTALL would refuse it. After a
    /// power cycle the same module is loaded again.
    #[must_use]
    pub fn module_image(self, file: impl Into<Vec<u8>>) -> Self {
        Self { module_image: Some(file.into()), ..self }
    }

    /// Device security managers outside, which the platform file names by a socket, are reached so.
    #[must_use]
    pub fn dial(self, dial: impl FnMut(&str) -> Result<Box<dyn OutsideDsm>, String> + 'a) -> Self {
        Self { dial: Some(Box::new(dial)), ..self }
    }

    /// Switches it on.
    pub fn switch_on(mut self) -> Result<Machine, SpecError> {
        let board = Board::new(self.spec, self.seed, self.ram, self.dial.as_deref_mut())?;
        if let Some(file) = self.module_image {
            let refused = |issue| SpecError::Invalid { platform: board.spec().name.clone(), issue };
            board.set_module(seam::from_image(&board, &file).map_err(refused)?);
        }
        Ok(Machine::start(board))
    }
}
