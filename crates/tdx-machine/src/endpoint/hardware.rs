//! What the security manager of the device manages: functions, and the streams of its ports.

use std::sync::Arc;

use pcie::FunctionId;
use pcie::ide::{Ide, StreamBlock, StreamControl, StreamState, set_failed, set_state};
use spdm::crypto::{Crypto, CryptoError};
use spdm::ide_km::{
    IdeKey, IdePort, Ifv, KeyGeneration, KeyManager, KeyRefused, KeySlot, PortIndex, PortLocation,
    StreamChange, StreamId,
};
use spdm::ids::SessionId;
use spdm::tdisp::{InterfaceId, LockInterface, NotConfigured, Report, TdiPlatform, TdiState};

use super::dma::Permit;
use super::function::{Function, Kind};
use super::spec::IdeSpec;
use crate::ide::{Association, MaxPayload, Port, Stream, StreamSettings};

/// Functions and ports.
pub(super) struct Hardware {
    pub(super) functions: Vec<Function>,
    pub(super) address_width: u8,
    /// The ports' ends of their links, by port index.
    pub(super) links: Vec<Port>,
    any_ifv: bool,
    crypto: Arc<dyn Crypto>,
    /// What became of streams and was not told the interfaces yet.
    changes: Vec<(StreamId, StreamChange)>,
}

impl Hardware {
    pub(super) fn new(
        functions: Vec<Function>,
        address_width: u8,
        ide: IdeSpec,
        crypto: Arc<dyn Crypto>,
    ) -> Self {
        let links = (0..ide.ports).map(|_| Port::new(MaxPayload::MAX)).collect();
        Self { functions, address_width, links, any_ifv: ide.any_ifv, crypto, changes: Vec::new() }
    }

    /// The function there, if it is present.
    pub(super) fn find(&self, id: FunctionId) -> Option<usize> {
        self.functions.iter().position(|function| function.id == id && function.present)
    }

    pub(super) fn of_interface(&self, interface: InterfaceId) -> Option<usize> {
        self.functions.iter().position(|function| function.interface == interface && function.present)
    }

    pub(super) fn take_changes(&mut self) -> Vec<(StreamId, StreamChange)> {
        std::mem::take(&mut self.changes)
    }

    /// Where the function's window lies, if it answers accesses to memory.
    pub(super) fn window(&self, index: usize) -> Option<u64> {
        let function = self.functions.get(index)?;
        match function.kind {
            Kind::Physical { .. } => {
                let bar = function.config.bar(0).filter(|_| function.config.command().memory_space())?;
                Some(bar.address.0).filter(|&address| address != 0)
            }
            Kind::Virtual { parent, index } => {
                let start = self.functions.get(parent)?.virtual_window()?;
                start.checked_add(function.memory.checked_mul(index.into())?)
            }
        }
    }

    /// As what the function's engine may send requests, if it may.
    pub(super) fn permit(&self, index: usize) -> Option<Permit> {
        let function = self.functions.get(index)?;
        let tee = match function.state {
            TdiState::UNLOCKED => false,
            TdiState::RUN => true,
            _ => return None,
        };
        let requester = function.config.command().bus_master().then_some(function.id)?;
        Some(Permit { requester, tee, address_width: self.address_width })
    }

    fn port(&self, port: PortIndex) -> Option<&Function> {
        self.functions.iter().find(|function| function.kind == Kind::Physical { port: Some(port.0) })
    }

    fn port_mut(&mut self, port: PortIndex) -> Option<&mut Function> {
        self.functions.iter_mut().find(|function| function.kind == Kind::Physical { port: Some(port.0) })
    }

    /// The device's end of a stream. It comes into being with its first key, as its registers are then.
    pub(super) fn end_of(&mut self, port: PortIndex, stream: StreamId) -> Option<&mut Stream> {
        let enabled = self.is_enabled(port, stream);
        let link = self.links.get_mut(usize::from(port.0))?;
        if link.stream(stream).is_none() {
            let settings = StreamSettings { id: stream, association: Association::EVERYBODY };
            link.add(settings).set_enabled(enabled);
        }
        link.stream_mut(stream)
    }

    /// The stream is switched off: its end and all that it knew is gone.
    pub(super) fn forget_end_of(&mut self, port: PortIndex, stream: StreamId) {
        if let Some(link) = self.links.get_mut(usize::from(port.0)) {
            link.remove(stream);
        }
    }

    /// No port knows a stream any more.
    pub(super) fn reset_links(&mut self) {
        for link in &mut self.links {
            *link = Port::new(MaxPayload::MAX);
        }
    }

    /// Whether a stream with that id is enabled in the registers of a port.
    pub(super) fn is_enabled(&self, port: PortIndex, stream: StreamId) -> bool {
        let ide = self.port(port).and_then(|function| Ide::find(&function.config));
        ide.is_some_and(|ide| ide.enabled(stream.0).is_some())
    }

    /// Says in the registers of a stream what it is in. Only an enabled one can be secure.
    pub(super) fn set_stream(&mut self, port: PortIndex, stream: StreamId, secure: bool) {
        let blocks = self.blocks(port, stream);
        let Some(function) = self.port_mut(port) else { return };
        for (block, control) in blocks {
            let secure = secure && control.enable();
            let state = if secure { StreamState::SECURE } else { StreamState::INSECURE };
            // The registers are there: they were found a moment ago.
            let _ = set_state(&mut function.config, &block, state);
        }
    }

    /// Says in the registers of a stream that the other end found a TLP that was not sound.
    pub(super) fn set_stream_failed(&mut self, port: PortIndex, stream: StreamId) {
        let blocks = self.blocks(port, stream);
        let Some(function) = self.port_mut(port) else { return };
        for (block, _) in blocks.into_iter().filter(|(_, control)| control.enable()) {
            // As above.
            let _ = set_failed(&mut function.config, &block);
        }
    }

    /// The registers of a port that have this stream.
    fn blocks(&self, port: PortIndex, stream: StreamId) -> Vec<(StreamBlock, StreamControl)> {
        let Some(ide) = self.port(port).and_then(|function| Ide::find(&function.config)) else {
            return Vec::new();
        };
        let all = ide.streams().map(|block| (block, ide.stream_control(&block)));
        all.filter(|(_, control)| control.stream_id() == stream.0).collect()
    }

    /// Ids of all streams of a port, as their registers have them.
    pub(super) fn streams(&self, port: PortIndex) -> Vec<StreamId> {
        let ide = self.port(port).and_then(|function| Ide::find(&function.config));
        let ids = ide
            .map(|ide| ide.streams().map(|block| StreamId(ide.stream_control(&block).stream_id())).collect());
        ids.unwrap_or_default()
    }
}

impl IdePort for Hardware {
    fn max_port(&self) -> PortIndex {
        PortIndex(u8::try_from(self.links.len().saturating_sub(1)).unwrap_or(u8::MAX))
    }

    fn location(&self, port: PortIndex) -> PortLocation {
        let id = self.port(port).map_or_else(FunctionId::default, |function| function.id);
        let [segment, _] = id.segment.0.to_le_bytes();
        PortLocation { segment, bus: id.bdf.bus(), device_function: id.bdf.devfn() }
    }

    fn registers(&self, port: PortIndex, out: &mut Vec<u32>) {
        let ide = self.port(port).and_then(|function| Ide::find(&function.config));
        out.extend(ide.into_iter().flat_map(|ide| ide.image()));
    }

    fn has_stream(&self, port: PortIndex, stream: StreamId) -> bool {
        self.streams(port).contains(&stream)
    }

    fn takes_ifv(&self, ifv: Ifv) -> bool {
        self.any_ifv || ifv == Ifv::INITIAL
    }

    fn program(
        &mut self,
        port: PortIndex,
        stream: StreamId,
        slot: KeySlot,
        key: &IdeKey,
        ifv: Ifv,
    ) -> Result<(), KeyRefused> {
        self.end_of(port, stream).ok_or(KeyRefused)?.program(slot, key, ifv)
    }

    fn go(&mut self, port: PortIndex, stream: StreamId, slot: KeySlot) -> Result<(), KeyRefused> {
        self.end_of(port, stream).ok_or(KeyRefused)?.go(slot)
    }

    fn stop(&mut self, port: PortIndex, stream: StreamId, slot: KeySlot) {
        if let Some(end) = self.end_of(port, stream) {
            end.stop(slot);
        }
    }

    fn changed(&mut self, port: PortIndex, stream: StreamId, change: StreamChange) {
        match change {
            StreamChange::Keyed(_) => self.set_stream(port, stream, true),
            StreamChange::Lost => self.set_stream(port, stream, false),
            StreamChange::ForeignSession => {}
        }
        self.changes.push((stream, change));
    }
}

/// The device as its interfaces see it.
pub(super) struct Platform<'a> {
    pub(super) keys: &'a KeyManager,
    pub(super) hardware: &'a mut Hardware,
}

impl TdiPlatform for Platform<'_> {
    fn keyed(&self, interface: InterfaceId, stream: StreamId, session: SessionId) -> Option<KeyGeneration> {
        self.hardware.of_interface(interface)?;
        self.keys.keyed_in(stream, session)
    }

    fn random(&mut self, out: &mut [u8; 32]) -> Result<(), CryptoError> {
        self.hardware.crypto.random(out)
    }

    fn check(&mut self, interface: InterfaceId, _lock: &LockInterface) -> Result<(), NotConfigured> {
        let index = self.hardware.of_interface(interface).ok_or(NotConfigured)?;
        self.hardware.window(index).map(drop).ok_or(NotConfigured)
    }

    fn report(&mut self, interface: InterfaceId, lock: &LockInterface) -> Report {
        let Some(index) = self.hardware.of_interface(interface) else { return Report::default() };
        let window = self.hardware.window(index).unwrap_or_default();
        self.hardware
            .functions
            .get(index)
            .map_or_else(Report::default, |function| function.report(window, lock))
    }

    fn entered(&mut self, interface: InterfaceId, from: TdiState, to: TdiState) {
        let found = self.hardware.of_interface(interface);
        let Some(function) = found.and_then(|index| self.hardware.functions.get_mut(index)) else { return };
        function.state = to;
        let was_trusted = from == TdiState::LOCKED || from == TdiState::RUN;
        if was_trusted && (to == TdiState::UNLOCKED || to == TdiState::ERROR) {
            function.mmio.wipe();
        }
    }
}
