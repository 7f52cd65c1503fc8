//! How faults are played: around the responder and the device behind it.

use std::borrow::Cow;
use std::collections::HashMap;

use spdm::Kind;
use spdm::ids::SessionId;
use spdm::msg::{RequestCode, VendorDefined};
use spdm::responder::{Delay, Device, MeasuredValue, Measurement, SessionEnd, Stage, VendorError};

use super::{At, DeviceFault, SignatureFault, bend, tdisp};

/// Bytes of an oversized answer.
const OVERSIZED: usize = 0x1_0000;

/// What comes back for a data object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A data object.
    Object(Kind, Vec<u8>),
    /// Nothing.
    Silence,
    /// The mailbox reports an error.
    DoeError,
}

impl Answered {
    /// The data object, if there is one.
    pub fn object(self) -> Option<(Kind, Vec<u8>)> {
        match self {
            Self::Object(kind, payload) => Some((kind, payload)),
            Self::Silence | Self::DoeError => None,
        }
    }
}

/// The faults of a device, and what has to be remembered to play them.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<DeviceFault>,
    signatures: SignatureFault,
    /// The request that is answered.
    request: Option<At>,
    /// Offset of the portion of a chain, or of a report, that is asked for.
    portion: u16,
    /// Readings of the measurements so far.
    readings: u64,
    /// The answers of this connection and of the one before, while one is to be replayed.
    answers: HashMap<At, (Kind, Vec<u8>)>,
    earlier: HashMap<At, (Kind, Vec<u8>)>,
    /// The answer that is late.
    late: Option<(Kind, Vec<u8>)>,
}

impl Faults {
    /// These faults.
    pub fn new(list: &[DeviceFault]) -> Self {
        let mut faults = Self::default();
        faults.set(list);
        faults
    }

    /// Other faults from now on.
    pub fn set(&mut self, list: &[DeviceFault]) {
        list.clone_into(&mut self.list);
        self.signatures.set(list);
        self.late = None;
        self.answers.clear();
        self.earlier.clear();
    }

    /// The faults.
    pub fn list(&self) -> &[DeviceFault] {
        &self.list
    }

    /// Which signatures the device's signers are to spoil.
    pub(in crate::endpoint) fn signatures(&self) -> SignatureFault {
        self.signatures.clone()
    }

    /// A data object comes in: how it gets to the responder.
    pub fn request<'p>(&mut self, kind: Kind, payload: &'p [u8]) -> Cow<'p, [u8]> {
        self.request = None;
        let (Kind::Clear, Some(&code)) = (kind, payload.get(1)) else { return Cow::Borrowed(payload) };
        let request = At::Spdm(RequestCode(code));
        self.request = Some(request);
        self.portion = match payload.get(4..6) {
            Some(&[low, high]) if request == At::GET_CERTIFICATE => u16::from_le_bytes([low, high]),
            _ => 0,
        };
        if request == At::GET_VERSION {
            self.earlier = std::mem::take(&mut self.answers);
            self.late = None;
        }
        let downgraded = self.list.contains(&DeviceFault::AlgorithmDowngrade);
        if downgraded && request == At::NEGOTIATE_ALGORITHMS {
            let mut offer = payload.to_vec();
            bend::downgrade(&mut offer);
            return Cow::Owned(offer);
        }
        Cow::Borrowed(payload)
    }

    /// The device as the responder sees it.
    pub fn device<'a>(&'a mut self, device: &'a mut dyn Device) -> Faulty<'a> {
        Faulty { device, faults: self }
    }

    /// The answer of the responder: how it leaves the device.
    pub fn answer(&mut self, answer: Option<(Kind, Vec<u8>)>) -> Answered {
        let Some(request) = self.request else { return answer.map_or(Answered::Silence, object) };
        let Some(mut answer) = answer else { return Answered::Silence };
        let mut reordered = false;
        for index in 0..self.list.len() {
            let Some(&fault) = self.list.get(index) else { break };
            if !fault.at().is_some_and(|at| at.covers(request)) {
                continue;
            }
            match fault {
                DeviceFault::Silent { .. } => return Answered::Silence,
                DeviceFault::DoeError { .. } => return Answered::DoeError,
                DeviceFault::Replayed { .. } => {
                    self.answers.insert(request, answer.clone());
                    if let Some(earlier) = self.earlier.get(&request) {
                        answer.clone_from(earlier);
                    }
                }
                DeviceFault::Reordered { .. } => reordered = true,
                fault => bend_object(fault, &mut answer),
            }
        }
        if reordered && self.late.is_none() {
            self.late = Some(answer.clone());
        } else if let Some(late) = &mut self.late {
            std::mem::swap(late, &mut answer);
        }
        object(answer)
    }

    /// Messages that a key of the device may protect.
    pub(in crate::endpoint) fn sequence_limit(&self) -> Option<u64> {
        self.list.iter().find_map(|fault| match fault {
            DeviceFault::SequenceOverflow { limit } => Some(*limit),
            _ => None,
        })
    }

    fn has(&self, wanted: impl Fn(&DeviceFault) -> bool) -> bool {
        self.list.iter().any(wanted)
    }
}

fn object((kind, payload): (Kind, Vec<u8>)) -> Answered {
    Answered::Object(kind, payload)
}

/// Bends an object on its way.
fn bend_object(fault: DeviceFault, (kind, payload): &mut (Kind, Vec<u8>)) {
    let first = |payload: &mut Vec<u8>| payload.first_mut().map_or((), |byte| *byte ^= 1);
    match (fault, *kind) {
        (DeviceFault::Truncated { .. }, _) => payload.truncate(payload.len().saturating_sub(4)),
        (DeviceFault::TrailingBytes { .. }, _) => payload.extend([0xa5; 4]),
        (DeviceFault::Oversized { .. }, _) => payload.resize(payload.len() + OVERSIZED, 0),
        (DeviceFault::WrongKind { .. }, Kind::Clear) => *kind = Kind::Secured,
        (DeviceFault::WrongKind { .. }, Kind::Secured) => *kind = Kind::Clear,
        // The session id comes first.
        (DeviceFault::WrongSession { .. }, Kind::Secured) => first(payload),
        (DeviceFault::BadTag { .. }, Kind::Secured) => {
            if let Some(last) = payload.last_mut() {
                *last ^= 1;
            }
        }
        _ => {}
    }
}

/// A device with faults.
pub struct Faulty<'a> {
    device: &'a mut dyn Device,
    faults: &'a mut Faults,
}

impl Device for Faulty<'_> {
    fn measurements(&mut self) -> Vec<Measurement> {
        let mut measurements = self.device.measurements();
        self.faults.readings += 1;
        if self.faults.has(|fault| *fault == DeviceFault::MeasurementsChange)
            && let Some(Measurement {
                value: MeasuredValue::Raw(bytes) | MeasuredValue::Either(bytes) | MeasuredValue::Digest(bytes),
                ..
            }) = measurements.first_mut()
        {
            bytes.extend(self.faults.readings.to_le_bytes());
        }
        measurements
    }

    fn vendor(
        &mut self,
        session: SessionId,
        request: &VendorDefined<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), VendorError> {
        let Some(at) = tdisp::request(request.payload) else {
            return self.device.vendor(session, request, out);
        };
        self.faults.request = Some(at);
        if at == At::K_SET_GO && self.faults.has(|fault| *fault == DeviceFault::GoRefused) {
            return Err(VendorError::Invalid);
        }
        self.device.vendor(session, request, out)?;
        let offset = tdisp::report_offset(request.payload);
        for fault in &self.faults.list {
            tdisp::bend(*fault, at, offset, out);
        }
        Ok(())
    }

    fn session_started(&mut self, session: SessionId) {
        self.device.session_started(session);
    }

    fn session_ended(&mut self, session: SessionId, why: SessionEnd) {
        self.device.session_ended(session, why);
    }

    fn not_ready(&mut self, request: RequestCode) -> Option<Delay> {
        let never = self.faults.has(
            |fault| matches!(fault, DeviceFault::NotReadyForever { at } if at.covers(At::Spdm(request))),
        );
        if never { Some(Delay { exponent: 0, multiplier: 0xff }) } else { self.device.not_ready(request) }
    }

    fn busy(&mut self, request: RequestCode) -> bool {
        // The first that is known of a request inside a session.
        self.faults.request.get_or_insert(At::Spdm(request));
        let always = self
            .faults
            .has(|fault| matches!(fault, DeviceFault::BusyForever { at } if at.covers(At::Spdm(request))));
        always || self.device.busy(request)
    }

    fn shape(&mut self, stage: Stage, response: &mut Vec<u8>) {
        self.device.shape(stage, response);
        let Some(request) = self.faults.request else { return };
        for fault in &self.faults.list {
            match stage {
                Stage::BeforeSignature(code) => bend::before_signature(*fault, code, response),
                Stage::BeforeSeal(_) => bend::complete(*fault, request, self.faults.portion, response),
            }
        }
    }
}
