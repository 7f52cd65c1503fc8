//! Who uses which stream: places and ids of host bridges, register blocks of ports.

use pcie::FunctionId;
use pcie::ide::{Ide, StreamControl};

use crate::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use crate::traits::{HostBridge, Log, LogLevel, PciBus};
use crate::tsm::Config;

/// Stream id of register blocks that are never enabled.
const NEVER_ENABLED: u8 = 255;

/// 256 numbers, taken or free.
#[derive(Debug, Default)]
struct Numbers([AtomicU64; 4]);

impl Numbers {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 4])
    }

    fn place(&self, number: u8) -> (&AtomicU64, u64) {
        // Two bits select one of four.
        (&self.0[usize::from(number >> 6)], 1 << (number & 63))
    }

    /// Takes a number; false if it is taken.
    fn take(&self, number: u8) -> bool {
        let (word, bit) = self.place(number);
        word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Takes the lowest free number below `limit`.
    fn take_lowest(&self, limit: u16) -> Option<u8> {
        (0..=u8::MAX).take_while(|&number| u16::from(number) < limit).find(|&number| self.take(number))
    }

    fn give_back(&self, number: u8) {
        let (word, bit) = self.place(number);
        word.fetch_and(!bit, Ordering::AcqRel);
    }

    fn taken_below(&self, limit: u16) -> u16 {
        let is_taken = |&number: &u8| {
            let (word, bit) = self.place(number);
            u16::from(number) < limit && word.load(Ordering::Acquire) & bit != 0
        };
        u16::try_from((0..=u8::MAX).filter(is_taken).count()).unwrap_or(u16::MAX)
    }
}

/// The secure streams of a host bridge.
#[derive(Debug)]
pub struct BridgeStreams {
    bridge: HostBridge,
    streams: AtomicU16,
    places: Numbers,
    ids: Numbers,
}

impl BridgeStreams {
    /// A bridge without streams: [`Self::set_streams`] says how many it has.
    pub fn new(bridge: HostBridge) -> Self {
        let ids = Numbers::new();
        ids.take(NEVER_ENABLED);
        Self { bridge, streams: AtomicU16::new(0), places: Numbers::new(), ids }
    }

    /// Which bridge.
    pub const fn bridge(&self) -> HostBridge {
        self.bridge
    }

    /// It has so many streams, at most 256. While none is in use.
    pub fn set_streams(&self, streams: u16) {
        self.streams.store(streams.min(256), Ordering::Release);
    }

    /// Streams that it has.
    pub fn streams(&self) -> u16 {
        self.streams.load(Ordering::Acquire)
    }

    /// Streams that are left; `None` if it has none at all.
    pub fn available(&self) -> Option<u16> {
        let streams = self.streams();
        (streams != 0).then(|| streams.saturating_sub(self.places.taken_below(streams)))
    }

    pub(super) fn take_place(&self) -> Option<u8> {
        self.places.take_lowest(self.streams())
    }

    pub(super) fn give_place_back(&self, place: u8) {
        self.places.give_back(place);
    }

    pub(super) fn take_id(&self, id: u8) -> bool {
        self.ids.take(id)
    }

    pub(super) fn give_id_back(&self, id: u8) {
        self.ids.give_back(id);
    }
}

/// The selective stream register blocks of a port.
#[derive(Debug)]
pub struct PortStreams {
    port: FunctionId,
    blocks: u16,
    taken: Numbers,
}

impl PortStreams {
    /// Counts the blocks of `port`. Those that are enabled already are taken, with their stream ids; the
    /// others get the id of blocks that are never enabled.
    ///
    /// A port has none if two streams that are enabled claim the same id.
    pub fn scan<P>(platform: &P, port: FunctionId, bridge: &BridgeStreams) -> Self
    where
        P: PciBus + Log + ?Sized,
    {
        let mut found = Self { port, blocks: 0, taken: Numbers::new() };
        let config = Config::new(platform, port);
        let Some(ide) = Ide::find(&config).filter(|ide| ide.capability().selective()) else { return found };
        let selective = || ide.streams().filter(|stream| stream.selective);
        // Streams with another number of address blocks than the first are of no use.
        let first = selective().next().map_or(0, |stream| stream.address_blocks);
        let blocks = selective().take_while(|stream| stream.address_blocks == first).count();
        for stream in ide.streams() {
            let control = ide.stream_control(&stream);
            if !control.enable() {
                continue;
            }
            let id = control.stream_id();
            let block_free = !stream.selective || found.taken.take(stream.index);
            if !block_free || !bridge.take_id(id) {
                platform.log(
                    LogLevel::Warning,
                    format_args!("{port}: stream id {id} is enabled twice below {}", bridge.bridge()),
                );
                return found;
            }
        }
        for stream in ide.streams().filter(|stream| !ide.stream_control(stream).enable()) {
            let control = StreamControl::with_stream_id(ide.stream_control(&stream), NEVER_ENABLED);
            config.write(stream.control(), control.into_bits());
        }
        found.blocks = u16::try_from(blocks).unwrap_or(u16::MAX).min(256);
        found
    }

    /// Which port.
    pub const fn port(&self) -> FunctionId {
        self.port
    }

    /// Blocks that it has.
    pub const fn blocks(&self) -> u16 {
        self.blocks
    }

    /// Blocks that are in use.
    pub fn in_use(&self) -> u16 {
        self.taken.taken_below(self.blocks)
    }

    pub(super) fn take_block(&self) -> Option<u8> {
        self.taken.take_lowest(self.blocks)
    }

    /// Gives `from` for `to`; false if `to` is taken or not there.
    pub(super) fn exchange_block(&self, from: u8, to: u8) -> bool {
        if from == to {
            return true;
        }
        if u16::from(to) >= self.blocks || !self.taken.take(to) {
            return false;
        }
        self.taken.give_back(from);
        true
    }

    pub(super) fn give_block_back(&self, block: u8) {
        self.taken.give_back(block);
    }
}

/// Where the stream of one device takes its numbers from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pools<'a> {
    pub(crate) bridge: &'a BridgeStreams,
    pub(crate) root_port: &'a PortStreams,
    pub(crate) endpoint: &'a PortStreams,
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcie::Segment;

    fn bridge() -> BridgeStreams {
        BridgeStreams::new(HostBridge { segment: Segment(0), bus: 0, last_bus: 9 })
    }

    #[test]
    fn a_bridge_gives_out_its_lowest_free_place() {
        let bridge = bridge();
        assert_eq!((bridge.available(), bridge.take_place()), (None, None));
        bridge.set_streams(2);
        assert_eq!([bridge.take_place(), bridge.take_place(), bridge.take_place()], [Some(0), Some(1), None]);
        assert_eq!(bridge.available(), Some(0));
        bridge.give_place_back(0);
        assert_eq!((bridge.available(), bridge.take_place()), (Some(1), Some(0)));
        bridge.set_streams(1000);
        assert_eq!((bridge.streams(), bridge.available()), (256, Some(254)));
    }

    #[test]
    fn the_id_of_blocks_that_are_never_enabled_is_nobodys() {
        let bridge = bridge();
        assert!(!bridge.take_id(255));
        assert!(bridge.take_id(0) && bridge.take_id(254));
        assert!(!bridge.take_id(254));
        bridge.give_id_back(254);
        assert!(bridge.take_id(254));
    }

    #[test]
    fn a_port_changes_one_block_for_another_that_is_free() {
        let port = PortStreams { port: FunctionId::default(), blocks: 3, taken: Numbers::new() };
        assert_eq!((port.take_block(), port.take_block()), (Some(0), Some(1)));
        assert!(port.exchange_block(0, 0));
        assert!(!port.exchange_block(0, 1), "in use");
        assert!(!port.exchange_block(0, 3), "not there");
        assert!(port.exchange_block(0, 2));
        assert_eq!((port.in_use(), port.take_block(), port.take_block()), (2, Some(0), None));
    }
}
