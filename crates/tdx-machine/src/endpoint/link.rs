//! The device's end of its link: packets that arrive, and those that it sends.

#[cfg(test)]
mod tests;

use pcie::FunctionId;
use pcie::cap::{Aer, UncorrectableErrors};
use spdm::ide_km::{PortIndex, StreamId};

use super::function::Kind;
use super::{Dma, DmaAccess, DmaFault, Endpoint, MmioAccess};
use crate::ide::{
    BadTlp, ByteEnables, CompletionStatus, MaxPayload, OpenError, Packet, Port, Routes, Tlp, TlpHeader, route,
};

/// The port that the link is at.
pub(crate) const LINK: PortIndex = PortIndex(0);
/// Most bytes of one request, which crosses no border of as many.
const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;

/// The other end of the link, as the device reaches it.
pub trait Upstream {
    /// A packet leaves the device. What comes back at once, in order.
    fn send(&mut self, packet: Packet) -> Vec<Packet>;
}

/// Nobody is there.
impl Upstream for () {
    fn send(&mut self, _: Packet) -> Vec<Packet> {
        Vec::new()
    }
}

impl Endpoint {
    /// Takes what arrived over the link; what the device sends back, in order. Requests of its own that a
    /// write leads to go to `upstream` before this returns.
    pub fn arrive(&mut self, packet: Packet, upstream: &mut dyn Upstream) -> Vec<Packet> {
        let arrived = match packet {
            Packet::Clear(tlp) => in_the_clear(tlp).map(|tlp| (None, vec![tlp])),
            Packet::FailMessage(stream) => {
                self.fail_message(LINK, stream);
                return Vec::new();
            }
            Packet::Sealed(sealed) => {
                let stream = sealed.stream();
                self.receive(LINK, sealed).map(|tlps| (Some(stream), tlps))
            }
        };
        let (stream, tlps) = match arrived {
            Ok(arrived) => arrived,
            Err(error) => {
                self.report(&error);
                return error.lost_stream().map(Packet::FailMessage).into_iter().collect();
            }
        };
        let mut answers = Vec::new();
        for tlp in tlps {
            answers.extend(self.take(&tlp, stream, upstream));
        }
        answers
    }

    /// Notes in the error registers of function 0 what came.
    pub(super) fn report(&mut self, error: &OpenError) {
        let Some(bit) = error.uncorrectable_error() else { return };
        if let Some(function) = self.dsm.hardware.functions.first_mut() {
            // The registers are there: the capability was found.
            let _ = Aer::report(&mut function.config, UncorrectableErrors::from_bits(1 << bit));
        }
    }

    /// Carries a request out that came over a stream, or in the clear.
    fn take(&mut self, tlp: &Tlp, stream: Option<StreamId>, upstream: &mut dyn Upstream) -> Option<Packet> {
        let tee = tlp.trusted;
        match tlp.header {
            TlpHeader::Write { address, enables, .. } => {
                // A request that is not supported and wants no answer is dropped.
                self.write_bytes(address, enables, &tlp.payload, tee, upstream);
                None
            }
            TlpHeader::Read { requester, tag, address, dwords } => {
                let data = self.read_dwords(address, dwords, tee);
                let completer = self.function_at(address).map_or_else(|| self.first(), |(id, _)| id).bdf;
                let status = if data.is_some() {
                    CompletionStatus::Success
                } else {
                    CompletionStatus::UnsupportedRequest
                };
                let header = TlpHeader::Completion {
                    completer,
                    requester,
                    tag,
                    status,
                    byte_count: dwords.saturating_mul(4),
                    lower_address: (address & 0x7c) as u8,
                };
                let payload = data.unwrap_or_default();
                let link = self.dsm.hardware.links.first_mut();
                carried(link, stream, Tlp { trusted: tee, header, payload })
            }
            // Nobody waits for one: those who do look at what comes back to them.
            TlpHeader::Completion { .. } => None,
        }
    }

    /// Which requests belong to which stream of the link.
    fn routes(&self) -> Routes {
        let functions = &self.dsm.hardware.functions;
        let of_link = |kind| kind == Kind::Physical { port: Some(LINK.0) };
        let port = functions.iter().find(|function| of_link(function.kind));
        port.map_or_else(Routes::default, |port| Routes::of(&port.config))
    }

    fn first(&self) -> FunctionId {
        self.spec.pci.address.0
    }

    /// The function whose window has that address, and the offset in it.
    fn function_at(&self, address: u64) -> Option<(FunctionId, u64)> {
        self.dsm.hardware.functions.iter().enumerate().filter(|(_, function)| function.present).find_map(
            |(index, function)| {
                let offset = address.checked_sub(self.dsm.hardware.window(index)?)?;
                (offset < function.memory).then_some((function.id, offset))
            },
        )
    }

    fn read_dwords(&self, address: u64, dwords: u16, tee: bool) -> Option<Vec<u8>> {
        let (function, start) = self.function_at(address)?;
        let mut bytes = Vec::with_capacity(usize::from(dwords) * 4);
        for (offset, size) in pieces(start, u64::from(dwords) * 4) {
            let value = self.mmio_read(function, MmioAccess { offset, size, tee }).ok()?;
            bytes.extend(value.to_le_bytes().into_iter().take(size.into()));
        }
        Some(bytes)
    }

    fn write_bytes(
        &mut self,
        address: u64,
        enables: ByteEnables,
        payload: &[u8],
        tee: bool,
        upstream: &mut dyn Upstream,
    ) {
        let written = (u64::from(enables.skip), payload.len() as u64 - u64::from(enables.cut));
        let Some((function, start)) = self.function_at(address) else { return };
        for (offset, size) in pieces(start + written.0, written.1 - written.0) {
            let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
            let bytes = payload.iter().skip(from).take(size.into());
            let value = bytes.rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            // As above: a posted request has no answer.
            let _ = self.write_register(function, MmioAccess { offset, size, tee }, value, upstream);
        }
    }

    /// Writes a register behind BAR 0 of a function; what its DMA engine asks for goes over the link.
    fn write_register(
        &mut self,
        function: FunctionId,
        access: MmioAccess,
        value: u64,
        upstream: &mut dyn Upstream,
    ) -> Result<(), super::MmioFault> {
        let index = self.decodes(function)?;
        let permit = self.dsm.hardware.permit(index);
        let routes = self.routes();
        let hardware = &mut self.dsm.hardware;
        let function = hardware.functions.get_mut(index).ok_or(super::MmioFault::NoFunction)?;
        let view = function.view();
        let mut requests = Requests {
            link: hardware.links.first_mut(),
            routes: &routes,
            upstream,
            tag: 0,
            failures: Vec::new(),
        };
        let written = function.mmio.write(access, value, view, permit, &mut requests);
        let failures = requests.failures;
        for (stream, error) in failures {
            self.dsm.stream_failed(LINK, stream);
            if let Some(error) = error {
                self.report(&error);
            } else {
                self.dsm.hardware.set_stream_failed(LINK, stream);
            }
        }
        written
    }
}

/// A TLP that arrived without protection: never trusted, and from anybody, who may send what is none.
pub(crate) fn in_the_clear(tlp: Tlp) -> Result<Tlp, OpenError> {
    tlp.check(MaxPayload::MAX)?;
    Ok(Tlp { trusted: false, ..tlp })
}

/// Puts a request into the stream of a port that it belongs to; in the clear if it belongs to none.
pub(crate) fn packet(link: Option<&mut Port>, routes: &Routes, tlp: Tlp) -> Option<Packet> {
    let stream = link.as_ref().and_then(|link| route(routes, link, &tlp));
    carried(link, stream, tlp)
}

/// Puts a TLP into a stream, or sends it in the clear. A trusted one does not travel in the clear.
pub(crate) fn carried(link: Option<&mut Port>, stream: Option<StreamId>, tlp: Tlp) -> Option<Packet> {
    match stream {
        Some(stream) => link?.seal(stream, tlp).ok().map(Packet::Sealed),
        None if tlp.trusted => None,
        None => Some(Packet::Clear(tlp)),
    }
}

/// Aligned accesses of at most eight bytes that cover `length` bytes from `offset` on.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, u8)> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let size = [8u8, 4, 2, 1]
            .into_iter()
            .find(|&size| at.is_multiple_of(size.into()) && at + u64::from(size) <= end)?;
        let piece = (at, size);
        at += u64::from(size);
        Some(piece)
    })
}

/// The memory requests of a DMA engine as TLPs.
struct Requests<'a> {
    link: Option<&'a mut Port>,
    routes: &'a Routes,
    upstream: &'a mut dyn Upstream,
    tag: u8,
    /// Streams that have failed: here with the reason, at the other end without.
    failures: Vec<(StreamId, Option<OpenError>)>,
}

impl Requests<'_> {
    /// Sends a request. What came back as it went, over the same stream or in the clear: what did not is no
    /// answer.
    fn send(&mut self, tlp: Tlp) -> Result<Vec<Tlp>, DmaFault> {
        let packet = packet(self.link.as_deref_mut(), self.routes, tlp).ok_or(DmaFault)?;
        let over = packet.stream();
        let back = self.upstream.send(packet);
        let mut tlps = Vec::new();
        for packet in back {
            match packet {
                Packet::Clear(tlp) => tlps.extend(in_the_clear(tlp).ok().filter(|_| over.is_none())),
                Packet::FailMessage(stream) => {
                    if let Some(link) = self.link.as_deref_mut() {
                        link.fail_message(stream);
                    }
                    self.failures.push((stream, None));
                }
                Packet::Sealed(sealed) => {
                    let stream = sealed.stream();
                    let Some(link) = self.link.as_deref_mut() else { continue };
                    match link.open(sealed) {
                        Ok(opened) if over == Some(stream) => tlps.extend(opened),
                        Ok(_) => {}
                        Err(error) => {
                            if let Some(lost) = error.lost_stream() {
                                self.upstream.send(Packet::FailMessage(lost));
                                self.failures.push((lost, Some(error)));
                            }
                        }
                    }
                }
            }
        }
        Ok(tlps)
    }

    fn read_page(&mut self, access: &DmaAccess, buffer: &mut [u8]) -> Result<(), DmaFault> {
        let address = access.address & !3;
        let skip = usize::from((access.address & 3) as u8);
        let dwords = (skip + buffer.len()).div_ceil(4);
        let tag = self.tag;
        self.tag = self.tag.wrapping_add(1);
        let requester = access.requester.bdf;
        let dwords = u16::try_from(dwords).map_err(|_| DmaFault)?;
        let header = TlpHeader::Read { requester, tag, address, dwords };
        let answers = self.send(Tlp { trusted: access.tee, header, payload: Vec::new() })?;
        let mine = |tlp: &&Tlp| {
            matches!(tlp.header, TlpHeader::Completion { requester: to, tag: of, .. } if to == requester && of == tag)
                && tlp.trusted == access.tee
        };
        let answer = answers.iter().find(mine).ok_or(DmaFault)?;
        let bytes = answer.payload.get(skip..).and_then(|rest| rest.get(..buffer.len())).ok_or(DmaFault)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_page(&mut self, access: &DmaAccess, bytes: &[u8]) -> Result<(), DmaFault> {
        let tlp = write_tlp(access, bytes).map_err(|_| DmaFault)?;
        // What a write leads to is told by nobody; a stream that fails is.
        let failures = self.failures.len();
        self.send(tlp)?;
        if self.failures.len() == failures { Ok(()) } else { Err(DmaFault) }
    }
}

/// The write of bytes inside a page.
fn write_tlp(access: &DmaAccess, bytes: &[u8]) -> Result<Tlp, BadTlp> {
    let skip = (access.address & 3) as u8;
    let mut payload = vec![0; skip.into()];
    payload.extend_from_slice(bytes);
    let whole = payload.len().next_multiple_of(4);
    let cut = u8::try_from(whole - payload.len()).map_err(|_| BadTlp::Payload(bytes.len()))?;
    payload.resize(whole, 0);
    let enables = ByteEnables { skip, cut };
    let header = TlpHeader::Write { requester: access.requester.bdf, address: access.address & !3, enables };
    Ok(Tlp { trusted: access.tee, header, payload })
}

/// Lengths of the parts of `length` bytes from `address` on that cross no page.
fn pages(address: u64, length: usize) -> impl Iterator<Item = usize> {
    let mut left = length;
    let mut room = usize::try_from(PAGE - address % PAGE).unwrap_or(1);
    std::iter::from_fn(move || {
        let part = left.min(room);
        left -= part;
        room = PAGE_BYTES;
        (part > 0).then_some(part)
    })
}

impl Dma for Requests<'_> {
    fn read(&mut self, access: &DmaAccess, buffer: &mut [u8]) -> Result<(), DmaFault> {
        let mut rest = buffer;
        let mut at = *access;
        for part in pages(access.address, rest.len()) {
            let (now, later) = rest.split_at_mut_checked(part).ok_or(DmaFault)?;
            self.read_page(&at, now)?;
            at.address = at.address.wrapping_add(part as u64);
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, access: &DmaAccess, bytes: &[u8]) -> Result<(), DmaFault> {
        let mut rest = bytes;
        let mut at = *access;
        for part in pages(access.address, bytes.len()) {
            let (now, later) = rest.split_at_checked(part).ok_or(DmaFault)?;
            self.write_page(&at, now)?;
            at.address = at.address.wrapping_add(part as u64);
            rest = later;
        }
        Ok(())
    }
}
