//! A root port: its registers, and its end of the link.

use pcie::cap::{Aer, Express, MaxPayload, PortType, Slot, UncorrectableErrors};
use pcie::config::{BuildError, Command, ConfigBuilder, ConfigSpace, FunctionIds, Width, offset};
use pcie::ide::{Capability, Ide, IdeCapability, StreamState, set_failed, set_state};
use pcie::{Bdf, FunctionId};
use spdm::ide_km::{StreamId, SubStream};

use super::memory::HostMemory;
use crate::endpoint::link::{carried, in_the_clear};
use crate::event::{Event, EventLog, StreamEnd};
use crate::ide::{
    Aggregation, Association, CompletionStatus, OpenError, Packet, Port, Routes, Stream, StreamSettings, Tlp,
    TlpHeader,
};
use crate::spec::PortPlan;

/// Secondary bus reset in the bridge control register.
const SECONDARY_BUS_RESET: u32 = 1 << 6;
/// Completion timeout, an uncorrectable error.
const COMPLETION_TIMEOUT: u32 = 1 << 14;
/// Completion that nobody waits for, an uncorrectable error.
const UNEXPECTED_COMPLETION: u32 = 1 << 16;
/// Request that is not supported, an uncorrectable error.
const UNSUPPORTED_REQUEST: u32 = 1 << 20;
/// Address bits of a window's base and limit registers; the rest of a limit reads as ones.
const WINDOW: u64 = (1 << 20) - 1;

/// A root port.
pub(super) struct RootPort {
    pub(super) id: FunctionId,
    pub(super) config: ConfigSpace,
    /// The other form of its IDE registers: where the keys are.
    pub(super) ide: Port,
    /// Completions that have arrived, and the stream of each.
    completions: Vec<(Option<StreamId>, Tlp)>,
    next_tag: u8,
}

impl RootPort {
    /// As firmware leaves it: with its buses and its window, switched on.
    pub(super) fn new(plan: &PortPlan, several: bool) -> Result<Self, BuildError> {
        let mut builder = ConfigBuilder::bridge(FunctionIds {
            vendor: 0x8086,
            device: 0x0dd0,
            revision: 1,
            // Bridge, PCI to PCI.
            class: [0x06, 0x04, 0x00],
            subsystem_vendor: 0x8086,
            subsystem: 0,
        });
        if several {
            builder = builder.multi_function();
        }
        builder.capability(&Express {
            port_type: PortType::ROOT_PORT,
            max_payload: MaxPayload::MAX,
            function_reset: false,
            tee_io: plan.selective_streams > 0,
            link_speed: 6,
            link_width: 16,
        })?;
        builder.extended(&Aer)?;
        if plan.selective_streams > 0 {
            let blocks = vec![1; plan.selective_streams.into()];
            builder.extended(&IdeCapability {
                features: Capability::new().with_aggregation(true).with_tee_limited(true),
                link_streams: 0,
                selective_streams: &blocks,
            })?;
        }
        let ide = Port::new(crate::ide::MaxPayload::MAX);
        let mut port =
            Self { id: plan.id, config: builder.build(), ide, completions: Vec::new(), next_tag: 0 };
        port.configure(plan);
        Ok(port)
    }

    fn configure(&mut self, plan: &PortPlan) {
        let buses = [plan.id.bdf.bus(), plan.secondary, plan.subordinate, 0];
        self.write(offset::BUSES, Width::Dword, u32::from_le_bytes(buses));
        let upper = |address: u64| (address >> 32) as u32;
        let field = |address: u64| (address >> 16 & 0xfff0) as u32;
        // Without a window the base lies above the limit.
        let (base, limit) = if plan.window.is_empty() {
            (WINDOW + 1, 0)
        } else {
            (plan.window.start().as_u64(), plan.window.end().as_u64() - 1)
        };
        self.write(offset::PREFETCHABLE, Width::Dword, field(limit) << 16 | field(base));
        self.write(offset::PREFETCHABLE_UPPER, Width::Dword, upper(base));
        self.write(offset::PREFETCHABLE_UPPER + 4, Width::Dword, upper(limit));
        // Nothing below needs memory under 4 GiB.
        self.write(offset::MEMORY, Width::Dword, 0x0000_0010);
        let on = Command::new().with_memory_space(true).with_bus_master(true);
        self.write(offset::COMMAND, Width::Word, on.into_bits().into());
    }

    /// Writes as firmware does; a model's own offsets are right.
    fn write(&mut self, at: u16, width: Width, value: u32) {
        let written = self.config.write(at, width, value);
        debug_assert!(written.is_ok(), "{written:?}");
    }

    /// Whether a bus is below the port, as its registers say.
    pub(super) fn has_bus(&self, bus: u8) -> bool {
        let [_, secondary, subordinate, _] = self.config.read32(offset::BUSES).unwrap_or(0).to_le_bytes();
        secondary != 0 && (secondary..=subordinate).contains(&bus)
    }

    /// Whether an address is below the port, as its registers say.
    pub(super) fn has_address(&self, address: u64) -> bool {
        let dword = |at| u64::from(self.config.read32(at).unwrap_or(0));
        let window = dword(offset::PREFETCHABLE);
        let base = dword(offset::PREFETCHABLE_UPPER) << 32 | (window & 0xfff0) << 16;
        let limit = dword(offset::PREFETCHABLE_UPPER + 4) << 32 | (window >> 16 & 0xfff0) << 16 | WINDOW;
        self.config.command().memory_space() && (base..=limit).contains(&address)
    }

    /// Software holds what is below in reset.
    pub(super) fn resets_bus(&self) -> bool {
        self.config
            .read16(offset::BRIDGE_CONTROL)
            .is_ok_and(|control| u32::from(control) & SECONDARY_BUS_RESET != 0)
    }

    /// What the port's registers say of the slot.
    pub(super) fn set_slot(&mut self, slot: Slot) {
        // The capability is there.
        let _ = Express::set_slot(&mut self.config, slot);
    }

    /// Clears what is only news.
    pub(super) fn forget_news(&mut self) {
        if let Some((control, _)) = Express::control(&self.config) {
            self.write(control + 0x12, Width::Word, 0xffff);
        }
    }

    pub(super) fn routes(&self) -> Routes {
        Routes::of(&self.config)
    }

    /// The streams are those of the registers. A stream is there from the moment that its control register
    /// is written with its id, while it is enabled or its RID association is valid.
    pub(super) fn streams_from_registers(&mut self) {
        let Some(ide) = Ide::find(&self.config) else { return };
        let mut there = Vec::new();
        for block in ide.streams().filter(|block| block.selective) {
            let control = ide.stream_control(&block);
            let functions = ide.rid_association(&block);
            if !control.enable() && functions.is_none() {
                continue;
            }
            let id = StreamId(control.stream_id());
            if there.contains(&id) {
                continue;
            }
            there.push(id);
            let association = functions.map_or(Association::NOBODY, |functions| Association {
                senders: functions.first().routing_id()..=functions.last().routing_id(),
            });
            if self.ide.stream(id).is_none() {
                self.ide.add(StreamSettings { id, association });
            } else {
                self.ide.associate(id, association);
            }
            if let Some(stream) = self.ide.stream_mut(id) {
                stream.set_enabled(control.enable());
                for (sub_stream, bits) in [
                    (SubStream::NonPosted, control.aggregate_non_posted()),
                    (SubStream::Posted, control.aggregate_posted()),
                    (SubStream::Completion, control.aggregate_completions()),
                ] {
                    stream.set_aggregation(sub_stream, Aggregation::from_bits(bits.into()));
                }
            }
        }
        let gone: Vec<_> = self.ide.streams().map(Stream::id).filter(|id| !there.contains(id)).collect();
        for id in gone {
            self.ide.remove(id);
        }
        self.registers_from_streams();
    }

    /// Says in the status registers what the streams are in.
    pub(super) fn registers_from_streams(&mut self) {
        let Some(ide) = Ide::find(&self.config) else { return };
        let blocks: Vec<_> = ide
            .streams()
            .filter(|block| block.selective)
            .map(|block| (block, ide.stream_control(&block)))
            .collect();
        for (block, control) in blocks {
            let status = self.ide.status(StreamId(control.stream_id())).filter(|_| control.enable());
            // The registers are there: they were found a moment ago.
            let _ = match status {
                // A message of before stays until software clears it.
                Some(status) if status.state == crate::ide::StreamState::Secure => {
                    set_state(&mut self.config, &block, StreamState::SECURE)
                }
                Some(status) if status.fail_message => set_failed(&mut self.config, &block),
                _ => set_state(&mut self.config, &block, StreamState::INSECURE),
            };
        }
    }

    /// Software has written a dword: fail messages that it cleared are forgotten.
    pub(super) fn status_written(&mut self, at: u16) {
        let Some(ide) = Ide::find(&self.config) else { return };
        let cleared: Vec<_> = ide
            .streams()
            .filter(|block| block.selective && block.status() == at)
            .filter(|block| !ide.stream_status(block).fail_message())
            .map(|block| StreamId(ide.stream_control(&block).stream_id()))
            .collect();
        for id in cleared {
            if let Some(stream) = self.ide.stream_mut(id) {
                stream.clear_fail_message();
            }
        }
    }

    fn report(&mut self, errors: u32) {
        // The registers are there.
        let _ = Aer::report(&mut self.config, UncorrectableErrors::from_bits(errors));
    }

    /// What has arrived in answer to a read of the host that went over a stream, or in the clear. It comes
    /// back as it went: any other completion is nobody's.
    pub(super) fn answer(&mut self, over: Option<StreamId>, tag: u8) -> Option<Tlp> {
        let mine = |(stream, tlp): &(Option<StreamId>, Tlp)| {
            let TlpHeader::Completion { requester, tag: of, .. } = tlp.header else { return false };
            (*stream, requester, of, tlp.trusted) == (over, self.id.bdf, tag, false)
        };
        let found = self.completions.iter().position(mine);
        let answer = found.map(|at| self.completions.swap_remove(at).1);
        if answer.is_none() {
            self.report(COMPLETION_TIMEOUT);
        }
        self.forget_completions();
        answer
    }

    /// Nobody waits for a completion any more.
    pub(super) fn forget_completions(&mut self) {
        if !std::mem::take(&mut self.completions).is_empty() {
            self.report(UNEXPECTED_COMPLETION);
        }
    }

    /// The tag of the next request of the host.
    pub(super) fn tag(&mut self) -> u8 {
        self.next_tag = self.next_tag.wrapping_add(1);
        self.next_tag
    }

    /// Takes what arrived over the link; what the port sends back.
    pub(super) fn arrive(
        &mut self,
        packet: Packet,
        memory: &dyn HostMemory,
        events: &EventLog,
    ) -> Vec<Packet> {
        let arrived = match packet {
            Packet::Clear(tlp) => in_the_clear(tlp).map(|tlp| (None, vec![tlp])),
            Packet::FailMessage(stream) => {
                self.ide.fail_message(stream);
                self.registers_from_streams();
                events.push(Event::StreamFailed { port: self.id, stream, noticed_by: StreamEnd::Device });
                return Vec::new();
            }
            Packet::Sealed(sealed) => {
                let stream = sealed.stream();
                self.ide.open(sealed).map(|tlps| (Some(stream), tlps))
            }
        };
        match arrived {
            Ok((stream, tlps)) => tlps.into_iter().filter_map(|tlp| self.take(tlp, stream, memory)).collect(),
            Err(error) => self.refuse(error, events).into_iter().collect(),
        }
    }

    fn refuse(&mut self, error: OpenError, events: &EventLog) -> Option<Packet> {
        if let Some(bit) = error.uncorrectable_error() {
            self.report(1 << bit);
        }
        let stream = error.lost_stream()?;
        self.registers_from_streams();
        events.push(Event::StreamFailed { port: self.id, stream, noticed_by: StreamEnd::RootPort });
        Some(Packet::FailMessage(stream))
    }

    /// Carries out what came over a stream, or in the clear.
    fn take(&mut self, tlp: Tlp, stream: Option<StreamId>, memory: &dyn HostMemory) -> Option<Packet> {
        let may_pass = self.config.command().bus_master();
        match tlp.header {
            TlpHeader::Completion { .. } => {
                self.completions.push((stream, tlp));
                None
            }
            TlpHeader::Write { address, enables, .. } => {
                let (from, to) =
                    (usize::from(enables.skip), tlp.payload.len().saturating_sub(enables.cut.into()));
                let bytes = tlp.payload.get(from..to).unwrap_or_default();
                let at = address + u64::from(enables.skip);
                if !may_pass || memory.write(tlp.trusted, at, bytes).is_none() {
                    self.report(UNSUPPORTED_REQUEST);
                }
                None
            }
            TlpHeader::Read { requester, tag, address, dwords } => {
                let mut payload = vec![0; usize::from(dwords) * 4];
                let read = may_pass.then(|| memory.read(tlp.trusted, address, &mut payload)).flatten();
                if read.is_none() {
                    self.report(UNSUPPORTED_REQUEST);
                    payload.clear();
                }
                let status = match read {
                    Some(()) => CompletionStatus::Success,
                    None => CompletionStatus::UnsupportedRequest,
                };
                let answer = self.completion(requester, tag, status, address, dwords, payload, tlp.trusted);
                carried(Some(&mut self.ide), stream, answer)
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // Fields of one header.
    fn completion(
        &self,
        requester: Bdf,
        tag: u8,
        status: CompletionStatus,
        address: u64,
        dwords: u16,
        payload: Vec<u8>,
        trusted: bool,
    ) -> Tlp {
        let header = TlpHeader::Completion {
            completer: self.id.bdf,
            requester,
            tag,
            status,
            byte_count: dwords.saturating_mul(4),
            lower_address: (address & 0x7c) as u8,
        };
        Tlp { trusted, header, payload }
    }
}
