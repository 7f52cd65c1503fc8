//! The DMA engine of a function: copies, fills and sums up memory that others own.

use std::fmt;

use pcie::FunctionId;

/// Bytes that one command may touch at most.
pub const MAX_LENGTH: u64 = 16 << 20;
/// Bytes of one request to memory at most.
const CHUNK: usize = 4096;
const CHUNK_BYTES: u64 = CHUNK as u64;

/// Where memory requests of the device arrive.
pub trait Dma {
    /// Reads memory.
    fn read(&mut self, access: &DmaAccess, buffer: &mut [u8]) -> Result<(), DmaFault>;
    /// Writes memory.
    fn write(&mut self, access: &DmaAccess, bytes: &[u8]) -> Result<(), DmaFault>;
}

/// No memory: every request is a fault.
impl Dma for () {
    fn read(&mut self, _: &DmaAccess, _: &mut [u8]) -> Result<(), DmaFault> {
        Err(DmaFault)
    }

    fn write(&mut self, _: &DmaAccess, _: &[u8]) -> Result<(), DmaFault> {
        Err(DmaFault)
    }
}

/// Who asks for which memory, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaAccess {
    /// The function.
    pub requester: FunctionId,
    /// First byte, as the device addresses it.
    pub address: u64,
    /// The request has the T bit: it is one of a TEE device interface in RUN.
    pub tee: bool,
}

/// The memory behind an address cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory request was refused")]
pub struct DmaFault;

/// What the engine is told to do, register DMA_COMMAND.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DmaCommand(pub u32);

impl DmaCommand {
    /// Copies LENGTH bytes from SOURCE to DESTINATION, as if through a buffer of that size.
    pub const COPY: Self = Self(1);
    /// Fills LENGTH bytes at DESTINATION with copies of PATTERN.
    pub const FILL: Self = Self(2);
    /// CRC-32 (ISO-HDLC) of LENGTH bytes at SOURCE, to RESULT.
    pub const CHECKSUM: Self = Self(3);
}

/// How the last command ended, register DMA_STATUS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DmaStatus(pub u32);

impl DmaStatus {
    /// No command yet.
    pub const IDLE: Self = Self(0);
    /// Done.
    pub const DONE: Self = Self(1);
    /// A memory request was refused.
    pub const FAULT: Self = Self(2);
    /// The length is 0 or above [`MAX_LENGTH`].
    pub const LENGTH: Self = Self(3);
    /// No such command.
    pub const COMMAND: Self = Self(4);
    /// Bus mastering is off, or the interface may not send requests in its state.
    pub const FORBIDDEN: Self = Self(5);
    /// The bytes end behind what the device can address.
    pub const ADDRESS: Self = Self(6);
}

impl fmt::Debug for DmaCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for DmaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What the engine may do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    pub(super) requester: FunctionId,
    pub(super) tee: bool,
    /// Bits of an address that the device has.
    pub(super) address_width: u8,
}

/// The registers of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Engine {
    pub(super) source: u64,
    pub(super) destination: u64,
    pub(super) length: u64,
    pub(super) pattern: u64,
    pub(super) status: DmaStatus,
    pub(super) result: u64,
}

impl Engine {
    pub(super) const fn new() -> Self {
        Self { source: 0, destination: 0, length: 0, pattern: 0, status: DmaStatus::IDLE, result: 0 }
    }

    /// Carries a command out; without a permit nothing is sent.
    pub(super) fn run(&mut self, command: DmaCommand, permit: Option<Permit>, dma: &mut dyn Dma) {
        self.status = match permit {
            None => DmaStatus::FORBIDDEN,
            Some(permit) => self.try_run(command, permit, dma).err().unwrap_or(DmaStatus::DONE),
        };
    }

    fn try_run(&mut self, command: DmaCommand, permit: Permit, dma: &mut dyn Dma) -> Result<(), DmaStatus> {
        if !(1..=MAX_LENGTH).contains(&self.length) {
            return Err(DmaStatus::LENGTH);
        }
        let mut buffer = [0; CHUNK];
        match command {
            DmaCommand::COPY => {
                let (source, destination) = (self.source, self.destination);
                self.reaches(source, permit)?;
                self.reaches(destination, permit)?;
                // A destination behind the source inside its bytes must not overwrite what is still to be read.
                let backwards = source < destination && destination - source < self.length;
                for (offset, size) in chunks(self.length, backwards) {
                    let bytes = &mut buffer[..size];
                    dma.read(&permit.at(source + offset), bytes).map_err(|DmaFault| DmaStatus::FAULT)?;
                    dma.write(&permit.at(destination + offset), bytes)
                        .map_err(|DmaFault| DmaStatus::FAULT)?;
                }
            }
            DmaCommand::FILL => {
                self.reaches(self.destination, permit)?;
                let pattern = self.pattern.to_le_bytes();
                buffer.as_chunks_mut().0.fill(pattern);
                for (offset, size) in chunks(self.length, false) {
                    dma.write(&permit.at(self.destination + offset), &buffer[..size])
                        .map_err(|DmaFault| DmaStatus::FAULT)?;
                }
            }
            DmaCommand::CHECKSUM => {
                self.reaches(self.source, permit)?;
                let mut crc = Crc32::new();
                for (offset, size) in chunks(self.length, false) {
                    let bytes = &mut buffer[..size];
                    dma.read(&permit.at(self.source + offset), bytes).map_err(|DmaFault| DmaStatus::FAULT)?;
                    crc.update(bytes);
                }
                self.result = crc.value().into();
            }
            _ => return Err(DmaStatus::COMMAND),
        }
        Ok(())
    }

    /// Whether all bytes from `address` on have an address.
    fn reaches(&self, address: u64, permit: Permit) -> Result<(), DmaStatus> {
        let last = address.checked_add(self.length - 1).ok_or(DmaStatus::ADDRESS)?;
        let beyond = u32::from(permit.address_width) < u64::BITS && last >> permit.address_width != 0;
        if beyond { Err(DmaStatus::ADDRESS) } else { Ok(()) }
    }
}

impl Permit {
    const fn at(self, address: u64) -> DmaAccess {
        DmaAccess { requester: self.requester, address, tee: self.tee }
    }
}

/// Offsets and sizes of the chunks of `length` bytes.
fn chunks(length: u64, backwards: bool) -> impl Iterator<Item = (u64, usize)> {
    let count = length.div_ceil(CHUNK_BYTES);
    (0..count).map(move |at| {
        let offset = CHUNK_BYTES * if backwards { count - 1 - at } else { at };
        // At most CHUNK, which is a usize.
        (offset, usize::try_from((length - offset).min(CHUNK_BYTES)).unwrap_or(CHUNK))
    })
}

/// CRC-32 of ISO-HDLC, as of zip and Ethernet.
struct Crc32(u32);

impl Crc32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index: u32 = 0;
        while index < 256 {
            let mut value = index;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 0 { value >> 1 } else { value >> 1 ^ 0xedb8_8320 };
                bit += 1;
            }
            table[index as usize] = value;
            index += 1;
        }
        table
    };

    const fn new() -> Self {
        Self(u32::MAX)
    }

    fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = self.0 >> 8 ^ Self::TABLE[usize::from(low ^ byte)];
        }
    }

    const fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory from address 0 on, which notes who asked.
    struct Memory {
        bytes: Vec<u8>,
        accesses: Vec<DmaAccess>,
    }

    impl Memory {
        fn new(size: usize) -> Self {
            let bytes = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            Self { bytes, accesses: Vec::new() }
        }

        fn at(&mut self, access: &DmaAccess, size: usize) -> Result<&mut [u8], DmaFault> {
            self.accesses.push(*access);
            let start = usize::try_from(access.address).map_err(|_| DmaFault)?;
            self.bytes.get_mut(start..).and_then(|rest| rest.get_mut(..size)).ok_or(DmaFault)
        }
    }

    impl Dma for Memory {
        fn read(&mut self, access: &DmaAccess, buffer: &mut [u8]) -> Result<(), DmaFault> {
            buffer.copy_from_slice(self.at(access, buffer.len())?);
            Ok(())
        }

        fn write(&mut self, access: &DmaAccess, bytes: &[u8]) -> Result<(), DmaFault> {
            self.at(access, bytes.len())?.copy_from_slice(bytes);
            Ok(())
        }
    }

    const PERMIT: Permit = Permit {
        requester: FunctionId { segment: pcie::Segment(0), bdf: pcie::Bdf::from_routing_id(0x3b00) },
        tee: true,
        address_width: 52,
    };

    fn engine(source: u64, destination: u64, length: u64) -> Engine {
        Engine { source, destination, length, pattern: 0x0706_0504_0302_0100, ..Engine::new() }
    }

    #[test]
    fn a_copy_may_overlap_in_both_directions() {
        for (source, destination, length) in [(0, 20_000, 9_000), (0, 100, 9_000), (100, 0, 9_000), (5, 5, 9)]
        {
            let mut memory = Memory::new(30_000);
            let mut expected = memory.bytes.clone();
            expected.copy_within(source..source + length, destination);
            let mut engine = engine(source as u64, destination as u64, length as u64);
            engine.run(DmaCommand::COPY, Some(PERMIT), &mut memory);
            assert_eq!(engine.status, DmaStatus::DONE);
            assert!(memory.bytes == expected, "{source} to {destination}");
        }
    }

    #[test]
    fn a_fill_repeats_its_pattern_to_the_last_byte() {
        let mut memory = Memory::new(10_000);
        let mut engine = engine(0, 3, 4_099);
        engine.run(DmaCommand::FILL, Some(PERMIT), &mut memory);
        assert_eq!(engine.status, DmaStatus::DONE);
        let filled = &memory.bytes[3..3 + 4_099];
        assert!(filled.iter().enumerate().all(|(at, &byte)| usize::from(byte) == at % 8));
        assert_eq!(memory.bytes[3 + 4_099], u8::try_from((3 + 4_099) % 251).unwrap());
    }

    #[test]
    fn a_checksum_is_the_crc_of_zip() {
        let mut memory = Memory { bytes: b"123456789".to_vec(), accesses: Vec::new() };
        let mut engine = engine(0, 0, 9);
        engine.run(DmaCommand::CHECKSUM, Some(PERMIT), &mut memory);
        assert_eq!((engine.status, engine.result), (DmaStatus::DONE, 0xcbf4_3926));
    }

    #[test]
    fn every_request_says_who_asks_and_whether_as_a_tee_interface() {
        for tee in [false, true] {
            let mut memory = Memory::new(64);
            engine(0, 32, 8).run(DmaCommand::COPY, Some(Permit { tee, ..PERMIT }), &mut memory);
            assert_eq!(
                memory.accesses,
                [PERMIT.at(0), PERMIT.at(32)].map(|access| DmaAccess { tee, ..access })
            );
        }
    }

    #[test]
    fn what_cannot_be_done_has_its_status_and_touches_nothing() {
        for (engine, command, status) in [
            (engine(0, 8, 0), DmaCommand::COPY, DmaStatus::LENGTH),
            (engine(0, 8, MAX_LENGTH + 1), DmaCommand::COPY, DmaStatus::LENGTH),
            (engine(0, 8, 8), DmaCommand(0), DmaStatus::COMMAND),
            (engine(0, 8, 8), DmaCommand(4), DmaStatus::COMMAND),
            (engine(u64::MAX, 8, 2), DmaCommand::CHECKSUM, DmaStatus::ADDRESS),
            (engine((1 << 52) - 1, 8, 2), DmaCommand::COPY, DmaStatus::ADDRESS),
            (engine(0, 1 << 52, 1), DmaCommand::FILL, DmaStatus::ADDRESS),
        ] {
            let mut memory = Memory::new(64);
            let mut run = engine;
            run.run(command, Some(PERMIT), &mut memory);
            assert_eq!(run.status, status, "{engine:?}");
            assert!(memory.accesses.is_empty(), "{engine:?}");
        }
        let mut memory = Memory::new(64);
        let mut forbidden = engine(0, 8, 8);
        forbidden.run(DmaCommand::COPY, None, &mut memory);
        assert_eq!(forbidden.status, DmaStatus::FORBIDDEN);
        assert!(memory.accesses.is_empty());
    }

    #[test]
    fn memory_that_refuses_ends_the_command() {
        let mut memory = Memory::new(64);
        let mut engine = engine(0, 60, 8);
        engine.run(DmaCommand::COPY, Some(PERMIT), &mut memory);
        assert_eq!(engine.status, DmaStatus::FAULT);
        engine.run(DmaCommand::FILL, Some(PERMIT), &mut ());
        assert_eq!(engine.status, DmaStatus::FAULT);
        engine.run(DmaCommand::CHECKSUM, Some(PERMIT), &mut ());
        assert_eq!(engine.status, DmaStatus::FAULT);
    }
}
