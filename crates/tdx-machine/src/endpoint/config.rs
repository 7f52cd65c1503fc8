//! Configuration space: reads, writes, and what writes lead to.

use std::time::Duration;

use pcie::FunctionId;
use pcie::cap::{DeviceControl, Express, SrIovRegisters};
use pcie::config::{
    AccessError, CONFIG_SIZE, CapabilityId, Change, Command, ExtendedId, Width, find, find_extended, offset,
};
use pcie::doe::{DOE_SIZE, MailboxEvent, ObjectType};
use pcie::ide::{Ide, StreamControl};
use spdm::Kind as Travel;
use spdm::ide_km::{PortIndex, StreamId};
use spdm::tdisp::TdiEvent;

use super::function::Kind;
use super::{Answered, Endpoint, MailboxObserver};

/// Base address registers of a type 0 header, 6 dwords.
const BARS: std::ops::Range<u16> = offset::BAR..offset::BAR + 24;
/// Size of the SR-IOV capability.
const SR_IOV_SIZE: u16 = 0x40;

impl Endpoint {
    /// Reads configuration space. Where no function is, all bits are 1.
    pub fn config_read(&self, function: FunctionId, at: u16, width: Width) -> Result<u32, AccessError> {
        let Some(index) = self.dsm.hardware.find(function) else { return Ok(width.mask()) };
        if let Some(register) = self.mailbox_register(index, at) {
            return self.mailbox.read(register, width);
        }
        let function = self.dsm.hardware.functions.get(index);
        function.map_or(Ok(width.mask()), |function| function.config.read(at, width))
    }

    /// Writes configuration space. What follows from it has happened when this returns: interfaces that
    /// must not go on are in ERROR, and a data object that was written is answered.
    pub fn config_write(
        &mut self,
        function: FunctionId,
        at: u16,
        width: Width,
        value: u32,
        now: Duration,
        observer: &mut dyn MailboxObserver,
    ) -> Result<(), AccessError> {
        let Some(index) = self.dsm.hardware.find(function) else { return Ok(()) };
        if let Some(register) = self.mailbox_register(index, at) {
            self.mailbox.write(register, width, value)?;
            self.serve_mailbox(now, observer);
            return Ok(());
        }
        let Some(written) = self.dsm.hardware.functions.get_mut(index) else { return Ok(()) };
        let resets = asks_for_reset(&written.config, at, width, value);
        let change = written.config.write(at, width, value)?;
        if resets {
            self.function_reset(index);
        } else if change.before != change.after {
            self.changed(index, change);
        }
        Ok(())
    }

    /// Function-level reset.
    fn function_reset(&mut self, index: usize) {
        let Some(function) = self.dsm.hardware.functions.get(index) else { return };
        let (interface, kind) = (function.interface, function.kind);
        self.dsm.event(TdiEvent::FunctionReset(interface));
        if let Kind::Physical { port } = kind {
            self.virtual_functions(index, 0);
            if let Some(port) = port.map(PortIndex) {
                self.streams_off(port);
            }
            if index == 0 {
                self.mailbox.reset();
            }
        }
        if let Some(function) = self.dsm.hardware.functions.get_mut(index) {
            function.reset();
        }
    }

    /// All streams of a port are switched off.
    fn streams_off(&mut self, port: PortIndex) {
        for stream in self.dsm.hardware.streams(port) {
            self.dsm.stream_failed(port, stream);
            self.dsm.hardware.forget_end_of(port, stream);
        }
    }

    /// A dword of the configuration space has a new value.
    fn changed(&mut self, index: usize, change: Change) {
        let Some(function) = self.dsm.hardware.functions.get(index) else { return };
        let (interface, kind) = (function.interface, function.kind);
        let (config, at) = (&function.config, change.offset);
        let capability = |id, size: u16| find(config, id).is_some_and(|found| within(at, found.offset, size));
        let extended =
            |id, size: u16| find_extended(config, id).is_some_and(|found| within(at, found.offset, size));

        if at == offset::COMMAND {
            let command = |dword: u32| Command::from_bits((dword & 0xffff) as u16);
            let (before, after) = (command(change.before), command(change.after));
            if before.bus_master() && !after.bus_master() {
                self.dsm.event(TdiEvent::BusMasterCleared(interface));
            }
            if before.memory_space() && !after.memory_space() {
                self.dsm.event(TdiEvent::MemorySpaceCleared(interface));
            }
        } else if BARS.contains(&at) {
            self.dsm.event(TdiEvent::ConfigWrite(interface));
        } else if capability(CapabilityId::MSIX, 4) {
            self.dsm.event(TdiEvent::MsixWrite(interface));
        } else if capability(CapabilityId::EXPRESS, Express::DEVICE_CONTROL + 4) {
            // The status in bits 31:16 is nobody's setting.
            if (change.before ^ change.after) & 0xffff != 0 {
                self.dsm.event(TdiEvent::ConfigWrite(interface));
            }
        } else if extended(ExtendedId::SR_IOV, SR_IOV_SIZE) {
            let count = SrIovRegisters::find(config).map_or(0, |registers| registers.count());
            let memory = function.virtual_window();
            self.sr_iov_changed(index, count, memory.is_some(), at);
        } else if let Kind::Physical { port: Some(port) } = kind {
            let stream = Ide::find(config).and_then(|ide| {
                let block = ide.streams().find(|block| block.registers().contains(&at))?;
                Some((block, ide.stream_control(&block)))
            });
            match stream {
                Some((block, _)) if at == block.control() => self.stream_changed(PortIndex(port), change),
                // Other TLPs than before belong to the stream, or to none.
                Some((block, control)) if at != block.status() && control.enable() => {
                    self.dsm.event(TdiEvent::StreamLost(StreamId(control.stream_id())));
                }
                _ => {}
            }
        }
    }

    /// SR-IOV registers have changed: functions come and go, and their windows move.
    fn sr_iov_changed(&mut self, index: usize, count: u16, memory: bool, at: u16) {
        let base = self.dsm.hardware.functions.get(index);
        let base = base.and_then(|function| find_extended(&function.config, ExtendedId::SR_IOV));
        let bars = base.is_some_and(|found| at >= found.offset + super::function::VF_BARS);
        self.virtual_functions(index, count);
        if bars || !memory {
            let of_this = |kind| matches!(kind, Kind::Virtual { parent, .. } if parent == index);
            let functions = &self.dsm.hardware.functions;
            let present = functions.iter().filter(|function| function.present && of_this(function.kind));
            let interfaces: Vec<_> = present.map(|function| function.interface).collect();
            for interface in interfaces {
                self.dsm.event(if bars {
                    TdiEvent::ConfigWrite(interface)
                } else {
                    TdiEvent::MemorySpaceCleared(interface)
                });
            }
        }
    }

    /// So many virtual functions of a physical one are there from now on.
    pub(super) fn virtual_functions(&mut self, physical: usize, count: u16) {
        for index in 0..self.dsm.hardware.functions.len() {
            let Some(function) = self.dsm.hardware.functions.get_mut(index) else { return };
            let Kind::Virtual { parent, index: number } = function.kind else { continue };
            let present = number < count;
            if parent != physical || function.present == present {
                continue;
            }
            let interface = function.interface;
            if present {
                function.present = true;
                function.reset();
                self.dsm.tdis.add(interface);
            } else {
                let dsm = &mut self.dsm;
                let mut platform = super::hardware::Platform { keys: &dsm.keys, hardware: &mut dsm.hardware };
                // It is one of the set as long as it is present.
                let _ = dsm.tdis.remove(interface, &mut platform);
                if let Some(function) = self.dsm.hardware.functions.get_mut(index) {
                    function.present = false;
                    function.state = spdm::tdisp::TdiState::UNLOCKED;
                    function.reset();
                }
            }
        }
    }

    /// The control register of a stream has a new value.
    fn stream_changed(&mut self, port: PortIndex, change: Change) {
        let (before, after) =
            (StreamControl::from_bits(change.before), StreamControl::from_bits(change.after));
        let same_stream = before.stream_id() == after.stream_id();
        if before.enable() && !(after.enable() && same_stream) {
            self.dsm.stream_failed(port, StreamId(before.stream_id()));
            self.dsm.hardware.forget_end_of(port, StreamId(before.stream_id()));
        } else if before.enable() {
            // What an enabled stream does with its TLPs is part of what was locked.
            self.dsm.event(TdiEvent::StreamLost(StreamId(before.stream_id())));
        }
        let stream = StreamId(after.stream_id());
        if !after.enable() {
            return;
        }
        if let Some(end) = self.dsm.hardware.end_of(port, stream) {
            end.set_enabled(true);
        }
        if self.dsm.keys.keyed(stream).is_some() {
            self.dsm.hardware.set_stream(port, stream, true);
        }
    }

    /// From that exchange on the next object is not answered, once: whoever asked for that
    /// [hears of it](Self::take_stop).
    pub(crate) fn stop_at(&mut self, exchange: Option<u64>) {
        self.stop_at = exchange;
    }

    /// Whether an object was left unanswered since the last time.
    pub(crate) fn take_stop(&mut self) -> bool {
        std::mem::take(&mut self.stopped)
    }

    /// Data objects that the mailbox has answered, or dropped, so far.
    pub const fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// The mailbox fails from now on whatever it is given, until the device is reset.
    pub fn kill_mailbox(&mut self) {
        self.mailbox_dead = true;
        self.mailbox.break_down();
    }

    /// The register of the mailbox at an offset of function 0, counted from its capability.
    fn mailbox_register(&self, index: usize, at: u16) -> Option<u16> {
        let base = self.doe.filter(|_| index == 0)?;
        // The header belongs to the chain.
        at.checked_sub(base).filter(|register| (4..DOE_SIZE).contains(register))
    }

    /// Answers the data object that was written, if there is one.
    fn serve_mailbox(&mut self, now: Duration, observer: &mut dyn MailboxObserver) {
        if self.mailbox_dead {
            self.mailbox.break_down();
        }
        while let Some(event) = self.mailbox.take_event() {
            if event != MailboxEvent::Request {
                continue;
            }
            let Some(object) = self.mailbox.request() else { continue };
            let kind =
                if object.object_type == ObjectType::SECURED_SPDM { Travel::Secured } else { Travel::Clear };
            let payload = object.payload.to_vec();
            observer.request(kind, &payload);
            if self.stop_at.is_some_and(|at| self.exchanges >= at) {
                // Nobody answers: the mailbox stays busy.
                (self.stop_at, self.stopped) = (None, true);
                return;
            }
            self.exchanges += 1;
            let answered = self.answer(kind, &payload, now, observer);
            if let Answered::Object(kind, payload) = &answered {
                observer.response(*kind, payload);
            }
            let answered = match answered {
                Answered::Object(Travel::Clear, answer) => self.mailbox.respond_as(ObjectType::SPDM, &answer),
                Answered::Object(Travel::Secured, answer) => {
                    self.mailbox.respond_as(ObjectType::SECURED_SPDM, &answer)
                }
                Answered::Silence => self.mailbox.discard(),
                Answered::DoeError => self.mailbox.fail(),
            };
            if answered.is_err() {
                // The request is open, so that only the room can be too small.
                let _ = self.mailbox.fail();
            }
        }
    }
}

const fn within(at: u16, start: u16, size: u16) -> bool {
    at >= start && at < start.saturating_add(size)
}

/// Whether the write sets the bit that resets the function.
fn asks_for_reset(config: &pcie::config::ConfigSpace, at: u16, width: Width, value: u32) -> bool {
    let Some((control, _)) = Express::control(config) else { return false };
    let bit = DeviceControl::new().with_function_reset(true).into_bits();
    if at > control.saturating_add(1) || at.saturating_add(width.bytes()) <= control || at >= CONFIG_SIZE {
        return false;
    }
    // Bits of the write, moved to where the register begins.
    let moved = if at >= control { u64::from(value & width.mask()) << (8 * (at - control)) } else { 0 };
    at >= control && moved & u64::from(bit) != 0
}
