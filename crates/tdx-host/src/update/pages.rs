//! What P-SEAMLDR reads: SEAMLDR_PARAMS, the SIGSTRUCT and the module, written before the lockstep.

use core::mem::offset_of;

use tdx_abi::seamldr::{SCENARIO_UPDATE, SeamldrParams};
use tdx_abi::{PAGE_SIZE, PhysAddr};
use tdx_image::Image;
use zerocopy::IntoBytes;

use crate::error::HostError;
use crate::traits::{AllocRequest, NodeId, OwnedPages, Pages};

/// Pieces that the pages may lie in. One serves if memory is not fragmented.
const MAX_PIECES: usize = 32;
const PARAMS_PAGE: u64 = 0;
const SIGSTRUCT_PAGE: u64 = 1;
const FIRST_MODULE_PAGE: u64 = 2;

/// The pages of one installation. They hold no secret and are freed as they are.
pub(super) struct InstallPages<P: Pages + ?Sized> {
    pieces: [Option<OwnedPages<P::Leaks>>; MAX_PIECES],
}

impl<P: Pages + ?Sized> InstallPages<P> {
    /// Allocates the pages near `node` and fills them for an update to `image`.
    pub(super) fn new(platform: &P, node: NodeId, image: &Image<'_>) -> Result<Self, HostError> {
        let count = FIRST_MODULE_PAGE + u64::from(image.module_pages());
        let mut pages = Self { pieces: [const { None }; MAX_PIECES] };
        let filled = pages.allocate(platform, node, count).and_then(|()| pages.fill(platform, image));
        match filled {
            Ok(()) => Ok(pages),
            Err(error) => {
                pages.free(platform);
                Err(error)
            }
        }
    }

    /// SEAMLDR_PARAMS, the operand of SEAMLDR.INSTALL.
    pub(super) fn params(&self) -> PhysAddr {
        self.address(PARAMS_PAGE).unwrap_or_default()
    }

    pub(super) fn free(self, platform: &P) {
        self.pieces.into_iter().flatten().for_each(|piece| platform.free(piece));
    }

    /// Takes pieces as large as there are.
    fn allocate(&mut self, platform: &P, node: NodeId, count: u64) -> Result<(), HostError> {
        let mut missing = count;
        let mut size = count;
        for place in &mut self.pieces {
            while place.is_none() && missing > 0 {
                size = size.min(missing);
                let bytes = size * PAGE_SIZE;
                *place =
                    platform.alloc_contiguous(AllocRequest { bytes, align: PAGE_SIZE, node, avoid: &[] });
                match place {
                    Some(_) => missing -= size,
                    None if size > 1 => size = size.div_ceil(2),
                    None => return Err(HostError::NoMemory { bytes: missing * PAGE_SIZE }),
                }
            }
        }
        if missing == 0 { Ok(()) } else { Err(HostError::NoMemory { bytes: missing * PAGE_SIZE }) }
    }

    /// The piece that holds page `index`, and the page's offset in it.
    fn piece(&self, index: u64) -> Option<(&OwnedPages<P::Leaks>, u64)> {
        let mut offset = index * PAGE_SIZE;
        for piece in self.pieces.iter().flatten() {
            let size = piece.range().size();
            if offset < size {
                return Some((piece, offset));
            }
            offset -= size;
        }
        None
    }

    fn address(&self, index: u64) -> Option<PhysAddr> {
        self.piece(index).and_then(|(piece, offset)| piece.start().checked_add(offset))
    }

    /// Writes at `offset` into page `index`; the bytes stay inside the page.
    fn write(&self, platform: &P, index: u64, offset: usize, bytes: &[u8]) -> Result<(), HostError> {
        let missing = HostError::NoMemory { bytes: PAGE_SIZE };
        let (piece, start) = self.piece(index).ok_or(missing)?;
        Ok(platform.write(piece, start + offset as u64, bytes)?)
    }

    /// Writes a page that begins with `bytes` and is zero behind them.
    fn write_page(&self, platform: &P, index: u64, bytes: &[u8]) -> Result<(), HostError> {
        self.write(platform, index, 0, bytes)?;
        let zeroes = [0; 256];
        for at in (bytes.len()..PAGE_BYTES).step_by(zeroes.len()) {
            let length = zeroes.len().min(PAGE_BYTES - at);
            self.write(platform, index, at, zeroes.get(..length).unwrap_or_default())?;
        }
        Ok(())
    }

    fn fill(&self, platform: &P, image: &Image<'_>) -> Result<(), HostError> {
        self.write_page(platform, SIGSTRUCT_PAGE, image.sigstruct().as_bytes())?;
        let mut count = 0u64;
        for (index, page) in (FIRST_MODULE_PAGE..).zip(image.module().chunks(PAGE_BYTES)) {
            self.write_page(platform, index, page)?;
            count += 1;
        }
        // By fields: a whole SEAMLDR_PARAMS is too much for a kernel's stack.
        self.write_page(platform, PARAMS_PAGE, &[])?;
        let field = |offset, value: u64| self.write(platform, PARAMS_PAGE, offset, &value.to_le_bytes());
        let address = |index| self.address(index).map_or(0, PhysAddr::as_u64);
        let scenario = SCENARIO_UPDATE.to_le_bytes();
        self.write(platform, PARAMS_PAGE, offset_of!(SeamldrParams, scenario), &scenario)?;
        field(offset_of!(SeamldrParams, sigstruct_pa), address(SIGSTRUCT_PAGE))?;
        field(offset_of!(SeamldrParams, num_module_pages), count)?;
        let mut at = offset_of!(SeamldrParams, module_pages);
        for index in FIRST_MODULE_PAGE..FIRST_MODULE_PAGE + count {
            field(at, address(index))?;
            at += size_of::<u64>();
        }
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation)] // 4096.
const PAGE_BYTES: usize = PAGE_SIZE as usize;
