//! Integrity and data encryption (IDE): the extended capability of a port and its streams.
//!
//! Source: PCI Express 6.0, 6.33 and 7.9.26.

mod association;
mod capability;
mod registers;
#[cfg(test)]
mod tests;

pub use association::{AddressAssociation, AssociationError, RidAssociation};
pub use capability::IdeCapability;
pub use registers::{Capability, Control, StreamControl, StreamState, StreamStatus};

use core::ops::Range;

use crate::config::{
    AccessError, CONFIG_SIZE, ConfigSpace, ExtendedId, ReadConfig, Width, find_extended, register,
};

/// Bytes of the block of a link stream.
pub const LINK_BLOCK: u16 = 8;
/// Bytes of the block of a selective stream, without its address association blocks.
pub const SELECTIVE_BLOCK: u16 = 20;
/// Bytes of an address association block.
pub const ADDRESS_BLOCK: u16 = 12;

/// Offsets of the registers: the first three in the extended capability, the others in their block.
pub mod offset {
    /// [`Capability`](super::Capability).
    pub const CAPABILITY: u16 = 0x04;
    /// [`Control`](super::Control).
    pub const CONTROL: u16 = 0x08;
    /// Blocks of the link streams, then of the selective streams.
    pub const STREAMS: u16 = 0x0c;
    /// [`StreamControl`](super::StreamControl) of a link stream.
    pub const LINK_CONTROL: u16 = 0x00;
    /// [`StreamStatus`](super::StreamStatus) of a link stream.
    pub const LINK_STATUS: u16 = 0x04;
    /// Number of address association blocks of a selective stream, 3:0.
    pub const SELECTIVE_CAPABILITY: u16 = 0x00;
    /// [`StreamControl`](super::StreamControl) of a selective stream.
    pub const SELECTIVE_CONTROL: u16 = 0x04;
    /// [`StreamStatus`](super::StreamStatus) of a selective stream.
    pub const SELECTIVE_STATUS: u16 = 0x08;
    /// First register of the [`RidAssociation`](super::RidAssociation).
    pub const RID_1: u16 = 0x0c;
    /// Second register of the [`RidAssociation`](super::RidAssociation).
    pub const RID_2: u16 = 0x10;
}

/// Where the registers of a stream are: of a link stream by its number among the link streams, of a
/// selective one by its number among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamBlock {
    /// Selective, not link.
    pub selective: bool,
    /// Its number among its kind.
    pub index: u8,
    /// Offset of the block in the configuration space.
    pub offset: u16,
    /// Address association blocks behind it.
    pub address_blocks: u8,
}

impl StreamBlock {
    /// Offset of the control register.
    pub const fn control(&self) -> u16 {
        self.offset + if self.selective { offset::SELECTIVE_CONTROL } else { offset::LINK_CONTROL }
    }

    /// Offset of the status register.
    pub const fn status(&self) -> u16 {
        self.offset + if self.selective { offset::SELECTIVE_STATUS } else { offset::LINK_STATUS }
    }

    /// Offset of the first RID association register; `None` for a link stream.
    pub const fn rid(&self) -> Option<u16> {
        if self.selective { Some(self.offset + offset::RID_1) } else { None }
    }

    /// Offset of address association block `index`; `None` if there is none.
    pub const fn address(&self, index: u8) -> Option<u16> {
        if index >= self.address_blocks {
            return None;
        }
        Some(self.offset + SELECTIVE_BLOCK + index as u16 * ADDRESS_BLOCK)
    }

    /// Offsets of all of its registers, address associations included.
    pub const fn registers(&self) -> Range<u16> {
        self.offset..self.offset.saturating_add(self.size())
    }

    const fn size(self) -> u16 {
        if self.selective { SELECTIVE_BLOCK + self.address_blocks as u16 * ADDRESS_BLOCK } else { LINK_BLOCK }
    }
}

/// The IDE extended capability in a configuration space.
#[derive(Clone, Copy, Debug)]
pub struct Ide<'a, C: ?Sized> {
    config: &'a C,
    at: u16,
}

impl<'a, C: ReadConfig + ?Sized> Ide<'a, C> {
    /// The capability of a port, if it has it.
    pub fn find(config: &'a C) -> Option<Self> {
        find_extended(config, ExtendedId::IDE).map(|found| Self { config, at: found.offset })
    }

    /// Where it begins.
    pub const fn offset(&self) -> u16 {
        self.at
    }

    /// The capability register.
    pub fn capability(&self) -> Capability {
        Capability::from_bits(register(self.config, self.at, offset::CAPABILITY))
    }

    /// The control register.
    pub fn control(&self) -> Control {
        Control::from_bits(register(self.config, self.at, offset::CONTROL))
    }

    /// The streams, link streams first, as far as their blocks lie inside the space.
    pub fn streams(&self) -> Streams<'a, C> {
        let capability = self.capability();
        let link = if capability.link() { u16::from(capability.link_classes()) + 1 } else { 0 };
        let selective =
            if capability.selective() { u16::from(capability.selective_streams()) + 1 } else { 0 };
        Streams {
            config: self.config,
            at: self.at + offset::STREAMS,
            link,
            index: 0,
            count: link + selective,
        }
    }

    /// The selective stream with a number among the selective streams.
    pub fn selective(&self, index: u8) -> Option<StreamBlock> {
        self.streams().find(|stream| stream.selective && stream.index == index)
    }

    /// The stream that is enabled with this id.
    pub fn enabled(&self, stream_id: u8) -> Option<StreamBlock> {
        self.streams().find(|stream| {
            let control = self.stream_control(stream);
            control.enable() && control.stream_id() == stream_id
        })
    }

    /// Control register of a stream.
    pub fn stream_control(&self, stream: &StreamBlock) -> StreamControl {
        StreamControl::from_bits(register(self.config, stream.control(), 0))
    }

    /// Status register of a stream.
    pub fn stream_status(&self, stream: &StreamBlock) -> StreamStatus {
        StreamStatus::from_bits(register(self.config, stream.status(), 0))
    }

    /// RID association of a selective stream, if it is valid.
    pub fn rid_association(&self, stream: &StreamBlock) -> Option<RidAssociation> {
        let at = stream.rid()?;
        RidAssociation::decode([0, 4].map(|next| register(self.config, at, next)))
    }

    /// Address association `index` of a selective stream, if it is there and valid.
    pub fn address_association(&self, stream: &StreamBlock, index: u8) -> Option<AddressAssociation> {
        let at = stream.address(index)?;
        AddressAssociation::decode([0, 4, 8].map(|next| register(self.config, at, next)))
    }

    /// Bytes of the capability with all of its blocks, as far as they lie inside the space.
    pub fn size(&self) -> u16 {
        let streams = self.streams().fold(0, |size, stream| size + stream.size());
        offset::STREAMS + streams
    }

    /// The dwords from the capability register on, as the QUERY_RESP of IDE_KM carries them.
    pub fn image(&self) -> impl Iterator<Item = u32> + use<'a, C> {
        let (config, at) = (self.config, self.at);
        (offset::CAPABILITY..self.size()).step_by(4).map(move |next| register(config, at, next))
    }
}

/// The streams of a port.
#[derive(Clone, Debug)]
pub struct Streams<'a, C: ?Sized> {
    config: &'a C,
    at: u16,
    link: u16,
    /// Counts link and selective streams.
    index: u16,
    count: u16,
}

impl<C: ReadConfig + ?Sized> Iterator for Streams<'_, C> {
    type Item = StreamBlock;

    fn next(&mut self) -> Option<StreamBlock> {
        if self.index >= self.count || self.at >= CONFIG_SIZE {
            return None;
        }
        let selective = self.index >= self.link;
        let number = if selective { self.index - self.link } else { self.index };
        let blocks = if selective { register(self.config, self.at, offset::SELECTIVE_CAPABILITY) } else { 0 };
        let block = StreamBlock {
            selective,
            index: (number & 0xff) as u8,
            offset: self.at,
            address_blocks: (blocks & 0xf) as u8,
        };
        self.at += block.size();
        self.index += 1;
        (self.at <= CONFIG_SIZE).then_some(block)
    }
}

/// Sets what a stream is in, by the device itself; the fail message stays as it is.
pub fn set_state(
    config: &mut ConfigSpace,
    stream: &StreamBlock,
    state: StreamState,
) -> Result<(), AccessError> {
    let status = StreamStatus::from_bits(config.read32(stream.status())?).with_state(state);
    config.set(stream.status(), Width::Dword, status.into_bits()).map(drop)
}

/// The other side has said that an integrity check failed: the stream is insecure, and says why.
pub fn set_failed(config: &mut ConfigSpace, stream: &StreamBlock) -> Result<(), AccessError> {
    let status = StreamStatus::new().with_state(StreamState::INSECURE).with_fail_message(true);
    config.set(stream.status(), Width::Dword, status.into_bits()).map(drop)
}
