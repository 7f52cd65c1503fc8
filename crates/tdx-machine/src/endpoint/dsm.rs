//! The device security manager behind the responder: measurements, IDE_KM and TDISP.

use spdm::ide_km::{self, KeyManager, PortIndex, StreamChange, StreamId};
use spdm::ids::SessionId;
use spdm::msg::vendor::PCI_SIG_VENDOR;
use spdm::msg::{MeasurementKind as WireKind, StandardId, VendorDefined};
use spdm::responder::{Device, MeasuredValue, Measurement, SessionEnd, VendorError};
use spdm::tdisp::{self, TdiEvent, TdiSet};

use super::hardware::{Hardware, Platform};
use super::spec::{MeasurementKind, MeasurementSpec};

/// The security manager and all that it manages.
pub(super) struct Dsm {
    pub(super) measurements: Vec<Measurement>,
    pub(super) keys: KeyManager,
    pub(super) tdis: TdiSet,
    pub(super) hardware: Hardware,
}

impl Dsm {
    /// Tells the interfaces what happened.
    pub(super) fn event(&mut self, event: TdiEvent) {
        self.tdis.event(event, &mut Platform { keys: &self.keys, hardware: &mut self.hardware });
    }

    /// Tells the interfaces what became of streams.
    pub(super) fn settle_streams(&mut self) {
        for (stream, change) in self.hardware.take_changes() {
            match change {
                StreamChange::Keyed(_) => {}
                StreamChange::Lost => self.event(TdiEvent::StreamLost(stream)),
                StreamChange::ForeignSession => self.event(TdiEvent::KeysOutsideSession(stream)),
            }
        }
    }

    /// A stream is not secure any more: its keys are wiped.
    pub(super) fn stream_failed(&mut self, port: PortIndex, stream: StreamId) {
        self.keys.stream_failed(port, stream, &mut self.hardware);
        self.hardware.set_stream(port, stream, false);
        self.settle_streams();
    }

    /// Everything is as after power-on, but for the configuration spaces.
    pub(super) fn reset(&mut self) {
        self.keys.reset(&mut self.hardware);
        self.hardware.reset_links();
        // Nobody is left to be told.
        self.hardware.take_changes();
        self.event(TdiEvent::ConventionalReset);
    }
}

impl Device for Dsm {
    fn measurements(&mut self) -> Vec<Measurement> {
        self.measurements.clone()
    }

    fn vendor(
        &mut self,
        session: SessionId,
        request: &VendorDefined<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), VendorError> {
        if request.standard_id != StandardId::PCI_SIG || request.vendor_id != PCI_SIG_VENDOR {
            return Err(VendorError::Unsupported);
        }
        match request.payload.first() {
            Some(&ide_km::PROTOCOL) => {
                let handled = self.keys.handle(session, request.payload, &mut self.hardware, out);
                self.settle_streams();
                handled.map_err(|_| VendorError::Invalid)
            }
            Some(&tdisp::PROTOCOL) => {
                let mut platform = Platform { keys: &self.keys, hardware: &mut self.hardware };
                let handled = self.tdis.handle(session, request.payload, &mut platform, out);
                handled.map_err(|_| VendorError::Invalid)
            }
            Some(_) => Err(VendorError::Unsupported),
            None => Err(VendorError::Invalid),
        }
    }

    fn session_ended(&mut self, session: SessionId, _why: SessionEnd) {
        self.event(TdiEvent::SessionEnded(session));
        self.keys.session_ended(session, &mut self.hardware);
        self.settle_streams();
    }
}

/// The measurements of a device file, by rising index.
pub(super) fn measurements(blocks: &[MeasurementSpec]) -> Vec<Measurement> {
    let mut measured: Vec<_> = blocks
        .iter()
        .map(|block| {
            let bytes = block.value().unwrap_or_default();
            Measurement {
                index: block.index,
                kind: WireKind(block.kind.value()),
                tcb: is_tcb(block.kind),
                value: if block.is_raw() { MeasuredValue::Raw(bytes) } else { MeasuredValue::Either(bytes) },
            }
        })
        .collect();
    measured.sort_by_key(|block| block.index);
    measured
}

/// Whether it is what must be trusted, or only says something about it.
const fn is_tcb(kind: MeasurementKind) -> bool {
    !matches!(
        kind,
        MeasurementKind::Manifest
            | MeasurementKind::StructuredManifest
            | MeasurementKind::DeviceMode
            | MeasurementKind::Information
    )
}
