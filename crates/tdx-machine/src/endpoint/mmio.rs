//! The registers behind BAR 0 of a function.
//!
//! | page | content |
//! |---|---|
//! | 0 | identification, for everybody in every state |
//! | 1 | control: scratch registers and the DMA engine |
//! | 2 | memory of the TEE interface, reachable in RUN and wiped behind it |
//! | 3, 4 | MSI-X table and pending bits |
//! | 5 … | nothing: reads 0 |

use super::dma::{Dma, DmaCommand, DmaStatus, Engine, Permit};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// The same as a size of an array.
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE);
/// First word of the identification page: `TDXE`.
pub const MAGIC: u32 = 0x4558_4454;
/// Second word of it.
pub const LAYOUT_VERSION: u32 = 1;
/// Vectors of the MSI-X table.
pub const MSIX_VECTORS: u16 = 16;

/// Page numbers in BAR 0.
pub(super) mod page {
    pub(in crate::endpoint) const IDENTIFICATION: u64 = 0;
    pub(in crate::endpoint) const CONTROL: u64 = 1;
    pub(in crate::endpoint) const TEE: u64 = 2;
    pub(in crate::endpoint) const MSIX_TABLE: u64 = 3;
    pub(in crate::endpoint) const MSIX_PBA: u64 = 4;
    /// Pages with a use.
    pub(in crate::endpoint) const USED: u64 = 5;
}

/// Offsets of the registers in BAR 0. All are eight bytes wide but where it says four.
pub mod reg {
    /// [`super::MAGIC`]; 4 bytes.
    pub const MAGIC: u64 = 0x0000;
    /// [`super::LAYOUT_VERSION`]; 4 bytes.
    pub const VERSION: u64 = 0x0004;
    /// Routing id of the function; 4 bytes.
    pub const ROUTING_ID: u64 = 0x0008;
    /// State of the interface, as `DEVICE_INTERFACE_STATE` has it; 4 bytes.
    pub const STATE: u64 = 0x000c;
    /// Eight scratch registers.
    pub const SCRATCH: u64 = 0x1000;
    /// Source of a copy or a checksum.
    pub const DMA_SOURCE: u64 = 0x1040;
    /// Destination of a copy or a fill.
    pub const DMA_DESTINATION: u64 = 0x1048;
    /// Bytes.
    pub const DMA_LENGTH: u64 = 0x1050;
    /// What memory is filled with.
    pub const DMA_PATTERN: u64 = 0x1058;
    /// A write carries a [`super::DmaCommand`] out; 4 bytes, reads 0.
    pub const DMA_COMMAND: u64 = 0x1060;
    /// How the last command ended, a [`super::DmaStatus`]; 4 bytes, read only.
    pub const DMA_STATUS: u64 = 0x1064;
    /// The last checksum; read only.
    pub const DMA_RESULT: u64 = 0x1068;
    /// First byte of the memory of the TEE interface, one page.
    pub const TEE_MEMORY: u64 = 0x2000;
    /// First byte of the MSI-X table.
    pub const MSIX_TABLE: u64 = 0x3000;
}

/// One access to BAR 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Offset in the BAR.
    pub offset: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// The request has the T bit: a TEE sent it over a selective IDE stream.
    pub tee: bool,
}

/// Why an access is answered as an unsupported request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MmioFault {
    /// There is no such function, or it is not enabled.
    #[error("there is no such function")]
    NoFunction,
    /// Memory Space Enable is 0.
    #[error("memory space is not enabled")]
    Disabled,
    /// The access is not aligned, or of a size that no register has.
    #[error("an access of {size} bytes at {offset:#x} is not aligned")]
    Misaligned {
        /// Where.
        offset: u64,
        /// How large.
        size: u8,
    },
    /// The access lies behind the BAR.
    #[error("offset {offset:#x} lies behind the BAR of {size:#x} bytes")]
    Outside {
        /// Where.
        offset: u64,
        /// Size of the BAR.
        size: u64,
    },
    /// A request without the T bit reaches a page of an interface that is locked, running or in error.
    #[error(
        "offset {offset:#x} belongs to a TEE interface: the request has no T bit, or the interface does not run"
    )]
    TeeOnly {
        /// Where.
        offset: u64,
    },
    /// A request with the T bit reaches an interface that does not run.
    #[error("offset {offset:#x} is reached with the T bit, and the interface does not run")]
    NotRunning {
        /// Where.
        offset: u64,
    },
}

/// Who gets through to the pages behind the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// CONFIG_UNLOCKED: whoever is no TEE.
    Unlocked,
    /// CONFIG_LOCKED and ERROR: nobody.
    Shut,
    /// RUN: the TEE.
    Running,
}

/// What a function's registers show of the rest of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) gate: Gate,
    /// Value of `DEVICE_INTERFACE_STATE`.
    pub(super) state: u8,
    pub(super) routing_id: u16,
    pub(super) bar_size: u64,
}

/// The registers of one function.
#[derive(Clone)]
pub(super) struct Mmio {
    scratch: [u64; 8],
    engine: Engine,
    tee_memory: Box<[u8; PAGE_BYTES]>,
    msix_table: [u8; MSIX_VECTORS as usize * 16],
}

impl Mmio {
    pub(super) fn new() -> Self {
        Self {
            scratch: [0; 8],
            engine: Engine::new(),
            tee_memory: Box::new([0; PAGE_BYTES]),
            msix_table: masked_vectors(),
        }
    }

    /// A reset: everything is as at power-on.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// The interface left RUN: nothing of its TEE may stay.
    pub(super) fn wipe(&mut self) {
        self.scratch = [0; 8];
        self.engine = Engine::new();
        self.tee_memory.fill(0);
    }

    /// Reads a register; unused bytes are 0.
    pub(super) fn read(&self, access: MmioAccess, view: View) -> Result<u64, MmioFault> {
        check(access, view)?;
        let MmioAccess { offset, size, .. } = access;
        let inside = offset % PAGE;
        Ok(match offset / PAGE {
            page::TEE => load(self.tee_memory.as_slice(), inside, size),
            page::MSIX_TABLE => load(&self.msix_table, inside, size),
            page::IDENTIFICATION | page::CONTROL => {
                let register = self.register(offset & !7, view).to_le_bytes();
                load(&register, offset & 7, size)
            }
            _ => 0,
        })
    }

    /// Writes a register; a write to the command register sends memory requests to `dma`.
    pub(super) fn write(
        &mut self,
        access: MmioAccess,
        value: u64,
        view: View,
        permit: Option<Permit>,
        dma: &mut dyn Dma,
    ) -> Result<(), MmioFault> {
        check(access, view)?;
        let MmioAccess { offset, size, .. } = access;
        let inside = offset % PAGE;
        match offset / PAGE {
            page::TEE => store(self.tee_memory.as_mut_slice(), inside, size, value),
            page::MSIX_TABLE => store(&mut self.msix_table, inside, size, value),
            page::CONTROL if offset == reg::DMA_COMMAND => {
                let [a, b, c, d, ..] = value.to_le_bytes();
                self.engine.run(DmaCommand(u32::from_le_bytes([a, b, c, d])), permit, dma);
            }
            page::CONTROL => {
                if let Some(register) = self.writable(offset & !7) {
                    let mut bytes = register.to_le_bytes();
                    store(&mut bytes, offset & 7, size, value);
                    *register = u64::from_le_bytes(bytes);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// How the engine's last command ended.
    pub(super) const fn dma_status(&self) -> DmaStatus {
        self.engine.status
    }

    fn register(&self, offset: u64, view: View) -> u64 {
        let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        match offset {
            reg::MAGIC => pair(MAGIC, LAYOUT_VERSION),
            reg::ROUTING_ID => pair(view.routing_id.into(), view.state.into()),
            reg::DMA_SOURCE => self.engine.source,
            reg::DMA_DESTINATION => self.engine.destination,
            reg::DMA_LENGTH => self.engine.length,
            reg::DMA_PATTERN => self.engine.pattern,
            reg::DMA_COMMAND => pair(0, self.engine.status.0),
            reg::DMA_RESULT => self.engine.result,
            _ => scratch_index(offset).and_then(|index| self.scratch.get(index)).copied().unwrap_or(0),
        }
    }

    fn writable(&mut self, offset: u64) -> Option<&mut u64> {
        match offset {
            reg::DMA_SOURCE => Some(&mut self.engine.source),
            reg::DMA_DESTINATION => Some(&mut self.engine.destination),
            reg::DMA_LENGTH => Some(&mut self.engine.length),
            reg::DMA_PATTERN => Some(&mut self.engine.pattern),
            _ => scratch_index(offset).and_then(|index| self.scratch.get_mut(index)),
        }
    }
}

/// All vectors masked, as after a reset.
fn masked_vectors() -> [u8; MSIX_VECTORS as usize * 16] {
    std::array::from_fn(|at| u8::from(at % 16 == 12))
}

fn scratch_index(offset: u64) -> Option<usize> {
    usize::try_from(offset.checked_sub(reg::SCRATCH)? / 8).ok()
}

fn check(access: MmioAccess, view: View) -> Result<(), MmioFault> {
    let MmioAccess { offset, size, tee } = access;
    if !matches!(size, 1 | 2 | 4 | 8) || !offset.is_multiple_of(u64::from(size)) {
        return Err(MmioFault::Misaligned { offset, size });
    }
    if offset >= view.bar_size {
        return Err(MmioFault::Outside { offset, size: view.bar_size });
    }
    let page = offset / PAGE;
    match (view.gate, tee) {
        _ if page == page::IDENTIFICATION => Ok(()),
        (Gate::Running, true) => Ok(()),
        (_, true) => Err(MmioFault::NotRunning { offset }),
        (Gate::Unlocked, false) if page != page::TEE => Ok(()),
        (_, false) => Err(MmioFault::TeeOnly { offset }),
    }
}

/// The bytes at `offset` as a little-endian number; 0 behind the end.
fn load(bytes: &[u8], offset: u64, size: u8) -> u64 {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let taken = bytes.iter().skip(from).take(usize::from(size));
    taken.rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn store(bytes: &mut [u8], offset: u64, size: u8, value: u64) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let places = bytes.iter_mut().skip(from).take(usize::from(size));
    places.zip(value.to_le_bytes()).for_each(|(place, byte)| *place = byte);
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View { gate: Gate::Unlocked, state: 0, routing_id: 0x3b01, bar_size: 0x1_0000 };

    fn at(offset: u64, size: u8) -> MmioAccess {
        MmioAccess { offset, size, tee: false }
    }

    fn write(mmio: &mut Mmio, access: MmioAccess, value: u64, gate: Gate) -> Result<(), MmioFault> {
        mmio.write(access, value, View { gate, ..VIEW }, None, &mut ())
    }

    #[test]
    fn the_first_page_says_what_and_where_the_function_is() {
        let mmio = Mmio::new();
        assert_eq!(mmio.read(at(reg::MAGIC, 4), VIEW), Ok(MAGIC.into()));
        assert_eq!(mmio.read(at(reg::VERSION, 4), VIEW), Ok(1));
        assert_eq!(mmio.read(at(reg::ROUTING_ID, 4), VIEW), Ok(0x3b01));
        assert_eq!(mmio.read(at(reg::STATE, 4), View { state: 2, ..VIEW }), Ok(2));
        assert_eq!(mmio.read(at(reg::STATE + 4, 8), VIEW), Ok(0));
    }

    #[test]
    fn registers_take_parts_and_keep_the_rest() {
        let mut mmio = Mmio::new();
        for (offset, size, value) in
            [(0x1008, 8, 0x1122_3344_5566_7788), (0x100c, 4, 0xaabb_ccdd), (0x1009, 1, 0xee)]
        {
            write(&mut mmio, at(offset, size), value, Gate::Unlocked).unwrap();
        }
        assert_eq!(mmio.read(at(0x1008, 8), VIEW), Ok(0xaabb_ccdd_5566_ee88));
        assert_eq!(mmio.read(at(0x100a, 2), VIEW), Ok(0x5566));
        write(&mut mmio, at(reg::DMA_RESULT, 8), 1, Gate::Unlocked).unwrap();
        assert_eq!(mmio.read(at(reg::DMA_RESULT, 8), VIEW), Ok(0), "read only");
        write(&mut mmio, at(reg::DMA_STATUS, 4), 1, Gate::Unlocked).unwrap();
        assert_eq!(mmio.read(at(reg::DMA_STATUS, 4), VIEW), Ok(0), "read only");
        write(&mut mmio, at(0x9000, 8), 1, Gate::Unlocked).unwrap();
        assert_eq!(mmio.read(at(0x9000, 8), VIEW), Ok(0), "nothing there");
    }

    #[test]
    fn accesses_are_aligned_and_inside_the_bar() {
        let mmio = Mmio::new();
        for (offset, size) in [(1, 2), (4, 8), (0, 3), (0, 0), (0, 16)] {
            let fault = Err(MmioFault::Misaligned { offset, size });
            assert_eq!(mmio.read(at(offset, size), VIEW), fault);
        }
        let fault = Err(MmioFault::Outside { offset: 0x1_0000, size: 0x1_0000 });
        assert_eq!(mmio.read(at(0x1_0000, 4), VIEW), fault);
    }

    #[test]
    fn each_state_lets_through_whom_it_is_for() {
        let mut mmio = Mmio::new();
        for (gate, tee, page, through) in [
            (Gate::Unlocked, false, page::CONTROL, true),
            (Gate::Unlocked, false, page::TEE, false),
            (Gate::Unlocked, true, page::CONTROL, false),
            (Gate::Shut, false, page::CONTROL, false),
            (Gate::Shut, true, page::CONTROL, false),
            (Gate::Shut, false, page::IDENTIFICATION, true),
            (Gate::Running, false, page::CONTROL, false),
            (Gate::Running, false, page::MSIX_TABLE, false),
            (Gate::Running, true, page::CONTROL, true),
            (Gate::Running, true, page::TEE, true),
            (Gate::Running, false, page::IDENTIFICATION, true),
        ] {
            let access = MmioAccess { offset: page * PAGE, size: 8, tee };
            let view = View { gate, ..VIEW };
            assert_eq!(mmio.read(access, view).is_ok(), through, "{gate:?} {tee} page {page}");
            assert_eq!(write(&mut mmio, access, 0, gate).is_ok(), through, "{gate:?} {tee} page {page}");
        }
    }

    #[test]
    fn a_wipe_leaves_nothing_of_the_tee() {
        let mut mmio = Mmio::new();
        for offset in [0x1000, reg::DMA_PATTERN, reg::TEE_MEMORY, reg::TEE_MEMORY + 0xff8] {
            let access = MmioAccess { offset, size: 8, tee: true };
            write(&mut mmio, access, 0x5ec7e7, Gate::Running).unwrap();
            let view = View { gate: Gate::Running, ..VIEW };
            assert_eq!(mmio.read(access, view), Ok(0x5ec7e7));
            mmio.wipe();
            assert_eq!(mmio.read(access, view), Ok(0), "{offset:#x}");
        }
    }

    #[test]
    fn vectors_are_masked_after_a_reset() {
        let mut mmio = Mmio::new();
        let control = at(reg::MSIX_TABLE + 12, 4);
        assert_eq!(mmio.read(control, VIEW), Ok(1));
        write(&mut mmio, control, 0, Gate::Unlocked).unwrap();
        assert_eq!(mmio.read(control, VIEW), Ok(0));
        mmio.reset();
        assert_eq!(mmio.read(control, VIEW), Ok(1));
    }

    #[test]
    fn a_command_without_permission_is_not_carried_out() {
        let mut mmio = Mmio::new();
        write(&mut mmio, at(reg::DMA_LENGTH, 8), 8, Gate::Unlocked).unwrap();
        write(&mut mmio, at(reg::DMA_COMMAND, 4), DmaCommand::FILL.0.into(), Gate::Unlocked).unwrap();
        assert_eq!(mmio.dma_status(), DmaStatus::FORBIDDEN);
        assert_eq!(mmio.read(at(reg::DMA_STATUS, 4), VIEW), Ok(5));
    }
}
