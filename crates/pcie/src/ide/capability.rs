use super::registers::{Capability, StreamControl};
use super::{ADDRESS_BLOCK, LINK_BLOCK, SELECTIVE_BLOCK, offset};
use crate::config::{CONFIG_SIZE, CapabilityError, ExtendedCapability, ExtendedId, Layout};

/// IDE extended capability, to be put into a configuration space: 12 bytes, 8 for each link stream, and
/// 20 and 12 more per address association block for each selective stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdeCapability<'a> {
    /// What the port can do. The streams, their numbers included, are what the next two fields say.
    pub features: Capability,
    /// Link streams, one per traffic class, at most 8.
    pub link_streams: u8,
    /// Address association blocks of each selective stream, at most 15 in each of at most 256.
    pub selective_streams: &'a [u8],
}

impl IdeCapability<'_> {
    /// The capability register.
    pub fn register(&self) -> Capability {
        let selective = self.selective_streams.len().saturating_sub(1);
        self.features
            .with_link(self.link_streams != 0)
            .with_link_classes(self.link_streams.saturating_sub(1) & 7)
            .with_selective(!self.selective_streams.is_empty())
            .with_selective_streams(u8::try_from(selective).unwrap_or(u8::MAX))
    }

    /// The bits of a stream control register that software may write.
    fn writable_control(&self, selective: bool) -> StreamControl {
        let features = self.features;
        let aggregation = if features.aggregation() { 3 } else { 0 };
        StreamControl::new()
            .with_enable(true)
            .with_aggregate_non_posted(aggregation)
            .with_aggregate_posted(aggregation)
            .with_aggregate_completions(aggregation)
            .with_pcrc(features.pcrc())
            .with_config(selective && features.selective_config())
            .with_partial_header_encryption(if features.partial_header_encryption() { 0xf } else { 0 })
            .with_algorithm(0x1f)
            .with_traffic_class(7)
            .with_default(selective)
            .with_tee_limited(selective && features.tee_limited())
            .with_stream_id(0xff)
    }
}

/// Status: the fail message is cleared by a 1.
const FAIL_MESSAGE: u32 = 1 << 31;

impl ExtendedCapability for IdeCapability<'_> {
    const ID: ExtendedId = ExtendedId::IDE;

    fn version(&self) -> u8 {
        1
    }

    fn size(&self) -> u16 {
        let link = u16::from(self.link_streams) * LINK_BLOCK;
        let blocks = self.selective_streams.iter();
        let selective = blocks.map(|&blocks| SELECTIVE_BLOCK + u16::from(blocks) * ADDRESS_BLOCK);
        // What does not fit a space at all saturates, and is refused by whoever looks for room.
        selective.fold(offset::STREAMS + link, u16::saturating_add).min(CONFIG_SIZE)
    }

    fn check(&self) -> Result<(), CapabilityError> {
        let field = |field, value| Err(CapabilityError::Field { field, value });
        if self.link_streams > 8 {
            return field("number of link streams", self.link_streams.into());
        }
        if self.selective_streams.len() > 256 {
            return field("number of selective streams", self.selective_streams.len() as u64);
        }
        if self.link_streams == 0 && self.selective_streams.is_empty() {
            return field("number of streams", 0);
        }
        match self.selective_streams.iter().find(|&&blocks| blocks > 0xf) {
            Some(&blocks) => field("number of address association blocks", blocks.into()),
            None => Ok(()),
        }
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        layout.read_only(offset::CAPABILITY, self.register().into_bits());
        let flow_through = super::Control::new().with_flow_through(self.features.flow_through());
        layout.register(offset::CONTROL, 0, flow_through.into_bits(), 0);
        let mut at = offset::STREAMS;
        for _ in 0..self.link_streams {
            layout.register(at, 0, self.writable_control(false).into_bits(), 0);
            layout.register(at + offset::LINK_STATUS, 0, 0, FAIL_MESSAGE);
            at += LINK_BLOCK;
        }
        for &blocks in self.selective_streams {
            layout.read_only(at, blocks.into());
            layout.register(at + offset::SELECTIVE_CONTROL, 0, self.writable_control(true).into_bits(), 0);
            layout.register(at + offset::SELECTIVE_STATUS, 0, 0, FAIL_MESSAGE);
            layout.register(at + offset::RID_1, 0, 0x00ff_ff00, 0);
            layout.register(at + offset::RID_2, 0, 0xffff_ff01, 0);
            at += SELECTIVE_BLOCK;
            for _ in 0..blocks {
                layout.register(at, 0, 0xffff_ff01, 0);
                layout.register(at + 4, 0, u32::MAX, 0);
                layout.register(at + 8, 0, u32::MAX, 0);
                at += ADDRESS_BLOCK;
            }
        }
    }
}
