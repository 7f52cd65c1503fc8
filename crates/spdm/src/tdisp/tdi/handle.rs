//! What each request does.

use alloc::vec::Vec;

use super::super::header::RawHeader;
use super::super::{
    Body, DsmCapabilities, ErrorCode, ErrorResponse, GetCapabilities, GetReport, InterfaceState, LockFlags,
    LockInterface, LockResponse, MessageType, MmioRange, Nonce, P2pStream, RangeAttributes, ReportPortion,
    SetMmioAttribute, StartInterface, TDISP_1_0, TdiState, Vdm, VersionList,
};
use super::{Binding, Locked, Tdi, TdiPlatform, TdiSet, VdmRefused};
use crate::ids::SessionId;
use crate::wire::{DecodeError, Reader};

/// Why a request is refused, as `TDISP_ERROR` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: ErrorCode,
    data: u32,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, data: 0 }
    }
}

impl From<DecodeError> for Refusal {
    fn from(_: DecodeError) -> Self {
        ErrorCode::INVALID_REQUEST.into()
    }
}

impl From<Refusal> for Body<'_> {
    fn from(Refusal { code, data }: Refusal) -> Self {
        Body::Error(ErrorResponse { code, data, extended: None })
    }
}

/// What follows the header of a request: how many bytes, and whether more may follow.
const fn body_size(request: MessageType) -> (usize, bool) {
    match request {
        MessageType::GET_TDISP_CAPABILITIES => (GetCapabilities::SIZE, false),
        MessageType::LOCK_INTERFACE_REQUEST => (LockInterface::SIZE, false),
        MessageType::GET_DEVICE_INTERFACE_REPORT => (GetReport::SIZE, false),
        MessageType::START_INTERFACE_REQUEST => (StartInterface::SIZE, false),
        MessageType::BIND_P2P_STREAM_REQUEST | MessageType::UNBIND_P2P_STREAM_REQUEST => {
            (P2pStream::SIZE, false)
        }
        MessageType::SET_MMIO_ATTRIBUTE_REQUEST => (SetMmioAttribute::SIZE, false),
        MessageType::VDM_REQUEST => (Vdm::MIN_SIZE, true),
        _ => (0, false),
    }
}

impl TdiSet {
    /// The positive answer, or why there is none. What the answer borrows goes to `portion`.
    pub(super) fn answer<'a>(
        &mut self,
        session: SessionId,
        raw: &RawHeader,
        mut reader: Reader<'a>,
        platform: &mut dyn TdiPlatform,
        portion: &'a mut Vec<u8>,
    ) -> Result<Body<'a>, Refusal> {
        let request = raw.header.message;
        if !request.is_request() || !self.config.requests().contains(request) {
            return Err(Refusal { code: ErrorCode::UNSUPPORTED_REQUEST, data: request.0.into() });
        }
        let (size, more) = body_size(request);
        if reader.left() < size || (reader.left() > size && !more) {
            return Err(ErrorCode::INVALID_REQUEST.into());
        }
        if raw.header.version != TDISP_1_0 {
            return Err(ErrorCode::VERSION_MISMATCH.into());
        }
        let interface = raw.header.interface;
        let index =
            self.tdis.iter().position(|tdi| tdi.interface == interface && raw.interface_reserved == 0);
        let index = index.ok_or(ErrorCode::INVALID_INTERFACE)?;
        if raw.reserved != 0 {
            return Err(ErrorCode::INVALID_REQUEST.into());
        }
        let config = self.config;
        let tdi = self.tdis.get_mut(index).ok_or(ErrorCode::INVALID_INTERFACE)?;
        match Body::read(request, &mut reader) {
            Ok(Body::GetVersion) => Ok(Body::Version(VersionList(&[TDISP_1_0]))),
            Ok(Body::GetCapabilities(_)) => {
                let capabilities: DsmCapabilities = config.capabilities();
                Ok(Body::Capabilities(capabilities))
            }
            Ok(Body::GetState) => Ok(Body::State(InterfaceState { state: tdi.state })),
            Ok(Body::Stop) => {
                tdi.of_session(session)?;
                self.stop(index, platform);
                Ok(Body::Stopped)
            }
            // The state comes before the fields.
            lock if request == MessageType::LOCK_INTERFACE_REQUEST => {
                tdi.only_in(&[TdiState::UNLOCKED])?;
                let Body::Lock(lock) = lock? else { return Err(ErrorCode::UNSPECIFIED.into()) };
                self.lock(index, session, lock, platform).map(Body::Locked)
            }
            Ok(Body::Start(StartInterface { nonce })) => {
                tdi.only_in(&[TdiState::LOCKED])?;
                tdi.of_session(session)?;
                tdi.start(&nonce, platform)?;
                Ok(Body::Started)
            }
            Ok(Body::GetReport(wanted)) => {
                let locked = tdi.locked(&[TdiState::LOCKED, TdiState::RUN], session)?;
                let remainder = locked.portion(wanted, config.max_portion, portion)?;
                Ok(Body::Report(ReportPortion { remainder, bytes: portion }))
            }
            Ok(Body::BindP2p(P2pStream { stream })) => {
                let interface = tdi.interface;
                let Binding { lock, p2p_streams, .. } = &mut tdi.locked(&[TdiState::RUN], session)?.binding;
                let allowed = lock.flags.contains(LockFlags::BIND_P2P)
                    && stream != lock.default_stream
                    && !p2p_streams.contains(&stream)
                    && platform.keyed(interface, stream, session).is_some();
                if !allowed {
                    return Err(ErrorCode::INVALID_REQUEST.into());
                }
                p2p_streams.push(stream);
                Ok(Body::P2pBound)
            }
            Ok(Body::UnbindP2p(P2pStream { stream })) => {
                let streams = &mut tdi.locked(&[TdiState::RUN], session)?.binding.p2p_streams;
                let bound = streams.iter().position(|&bound| bound == stream);
                streams.swap_remove(bound.ok_or(ErrorCode::INVALID_REQUEST)?);
                Ok(Body::P2pUnbound)
            }
            Ok(Body::SetMmioAttribute(SetMmioAttribute { range })) => {
                let interface = tdi.interface;
                let real = tdi.locked(&[TdiState::RUN], session)?.real_range(range)?;
                let non_tee = range.attributes.contains(RangeAttributes::NON_TEE);
                let set = platform.set_mmio_attribute(interface, real, non_tee);
                set.map_err(|_| ErrorCode::INVALID_REQUEST)?;
                Ok(Body::MmioAttributeSet)
            }
            Ok(Body::Vdm(vdm)) => {
                platform.vdm(tdi.interface, &vdm, portion).map_err(|refused| match refused {
                    VdmRefused::Vendor => {
                        Refusal { code: ErrorCode::UNSUPPORTED_REQUEST, data: request.0.into() }
                    }
                    VdmRefused::Malformed => ErrorCode::INVALID_REQUEST.into(),
                    VdmRefused::State => ErrorCode::INVALID_INTERFACE_STATE.into(),
                })?;
                Ok(Body::VdmResponse(Vdm { data: portion, ..vdm }))
            }
            Ok(_) => Err(ErrorCode::UNSPECIFIED.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn lock(
        &mut self,
        index: usize,
        session: SessionId,
        lock: LockInterface,
        platform: &mut dyn TdiPlatform,
    ) -> Result<LockResponse, Refusal> {
        let tdi = self.tdis.get_mut(index).ok_or(ErrorCode::INVALID_INTERFACE)?;
        let interface = tdi.interface;
        // Pages are reported by their addresses: an offset that is no multiple of a page would hide them.
        if !self.config.lock_flags.contains(lock.flags)
            || !lock.mmio_reporting_offset.is_multiple_of(MmioRange::PAGE)
        {
            return Err(ErrorCode::INVALID_REQUEST.into());
        }
        // Keys that another session brought protect that session's traffic, not this one's.
        let keyed = platform.keyed(interface, lock.default_stream, session);
        let generation = keyed.ok_or(ErrorCode::INVALID_REQUEST)?;
        let spent =
            self.spent.iter().any(|&(stream, spent)| stream == lock.default_stream && generation <= spent);
        if self.config.fresh_keys && spent {
            return Err(ErrorCode::INVALID_REQUEST.into());
        }
        platform.check(interface, &lock).map_err(|_| ErrorCode::INVALID_DEVICE_CONFIGURATION)?;
        let report = platform.report(interface, &lock).shifted(lock.mmio_reporting_offset);
        let bytes = report.to_bytes().map_err(|_| ErrorCode::INVALID_DEVICE_CONFIGURATION)?;
        let mut random = [0; Nonce::SIZE];
        platform.random(&mut random).map_err(|_| ErrorCode::INSUFFICIENT_ENTROPY)?;
        let nonce = Nonce::new(random);
        zeroize::Zeroize::zeroize(&mut random);
        let binding = Binding { session, lock, p2p_streams: Vec::new() };
        let response = LockResponse { nonce: nonce.clone() };
        tdi.locked =
            Some(Locked { binding, nonce: Some(nonce), report: bytes, ranges: report.ranges, generation });
        tdi.enter(TdiState::LOCKED, platform);
        Ok(response)
    }

    fn stop(&mut self, index: usize, platform: &mut dyn TdiPlatform) {
        let Some(tdi) = self.tdis.get_mut(index) else { return };
        if let Some(Locked { binding, generation, .. }) = &tdi.locked {
            let stream = binding.lock.default_stream;
            let keyed = platform.keyed(tdi.interface, stream, binding.session);
            let generation = keyed.unwrap_or(*generation);
            self.spent.retain(|&(other, _)| other != stream);
            self.spent.push((stream, generation));
        }
        tdi.enter(TdiState::UNLOCKED, platform);
    }
}

impl Tdi {
    fn only_in(&self, states: &[TdiState]) -> Result<(), Refusal> {
        if states.contains(&self.state) { Ok(()) } else { Err(ErrorCode::INVALID_INTERFACE_STATE.into()) }
    }

    /// What one session has locked is not for another one.
    fn of_session(&self, session: SessionId) -> Result<(), Refusal> {
        match &self.locked {
            Some(locked) if locked.binding.session != session => Err(ErrorCode::INVALID_REQUEST.into()),
            _ => Ok(()),
        }
    }

    fn locked(&mut self, states: &[TdiState], session: SessionId) -> Result<&mut Locked, Refusal> {
        self.only_in(states)?;
        self.of_session(session)?;
        self.locked.as_mut().ok_or(ErrorCode::INVALID_INTERFACE_STATE.into())
    }

    /// A wrong nonce changes nothing; the right one works once.
    fn start(&mut self, nonce: &Nonce, platform: &mut dyn TdiPlatform) -> Result<(), Refusal> {
        let expected = &mut self.locked.as_mut().ok_or(ErrorCode::INVALID_INTERFACE_STATE)?.nonce;
        if expected.as_ref() != Some(nonce) {
            return Err(ErrorCode::INVALID_NONCE.into());
        }
        *expected = None;
        self.enter(TdiState::RUN, platform);
        Ok(())
    }
}

impl Locked {
    /// Copies a portion of the report and tells how much is left behind it.
    fn portion(&self, wanted: GetReport, max: u16, out: &mut Vec<u8>) -> Result<u16, Refusal> {
        let behind = self.report.get(wanted.offset.into()..).filter(|behind| !behind.is_empty());
        let behind = behind.filter(|_| wanted.length != 0).ok_or(ErrorCode::INVALID_REQUEST)?;
        let length = behind.len().min(wanted.length.min(max).into());
        let (portion, remainder) = behind.split_at_checked(length).ok_or(ErrorCode::UNSPECIFIED)?;
        out.extend_from_slice(portion);
        u16::try_from(remainder.len()).map_err(|_| ErrorCode::UNSPECIFIED.into())
    }

    /// The range that `SET_MMIO_ATTRIBUTE` is about, with real addresses: within one that may be updated.
    fn real_range(&self, range: MmioRange) -> Result<MmioRange, Refusal> {
        // Of the attributes only the one that is set may be there.
        let only_non_tee = range.attributes.0 & !RangeAttributes::NON_TEE.0 == 0;
        let aligned = range.first_page.is_multiple_of(MmioRange::PAGE) && range.pages != 0;
        let updatable = self.ranges.iter().any(|reported| {
            reported.attributes.contains(RangeAttributes::UPDATABLE) && reported.covers(&range)
        });
        if !(only_non_tee && aligned && updatable) {
            return Err(ErrorCode::INVALID_REQUEST.into());
        }
        let first_page = range.first_page.wrapping_sub(self.binding.lock.mmio_reporting_offset);
        Ok(MmioRange { first_page, ..range })
    }
}
