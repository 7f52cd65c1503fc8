//! The fields of TDISP.

use serde_json::{Map, Value, json};
use spdm::tdisp::{Body, InterfaceId, Message, MmioRange, Report, Vdm};

use super::names::{INTERFACE_INFO, LOCK_FLAGS, RANGE_ATTRIBUTES, bits, hex, number};
use super::{Secrets, undecoded};

/// Portions of an interface report, which are put together.
#[derive(Debug, Default)]
pub(super) struct Portions {
    /// Interface and offset of the portion that was asked for.
    asked: Option<(InterfaceId, u16)>,
    bytes: Vec<u8>,
}

impl Portions {
    /// Adds a portion; the report, once it is whole.
    fn add(&mut self, interface: InterfaceId, bytes: &[u8], remainder: u16) -> Option<Vec<u8>> {
        let (asked, offset) = self.asked.take()?;
        if offset == 0 {
            self.bytes.clear();
        }
        if asked != interface || usize::from(offset) != self.bytes.len() {
            return None;
        }
        self.bytes.extend(bytes);
        (remainder == 0).then(|| std::mem::take(&mut self.bytes))
    }
}

/// Describes a message behind its protocol id.
pub(super) fn describe(bytes: &[u8], portions: &mut Portions, secrets: Secrets) -> Value {
    let message = match Message::read(bytes) {
        Ok(message) => message,
        // It may hold a nonce.
        Err(error) => {
            let shown = secrets.show(bytes);
            return json!({ "protocol": "TDISP", "error": error.to_string(), "bytes": shown });
        }
    };
    let mut described = Map::new();
    described.insert("protocol".into(), "TDISP".into());
    described.insert("name".into(), message.body.message_type().to_string().into());
    described.insert("interface".into(), message.interface.to_string().into());
    if let Value::Object(fields) = body(&message, portions, secrets) {
        described.extend(fields);
    }
    described.into()
}

fn body(message: &Message<'_>, portions: &mut Portions, secrets: Secrets) -> Value {
    match &message.body {
        Body::GetVersion
        | Body::GetState
        | Body::Started
        | Body::Stop
        | Body::Stopped
        | Body::P2pBound
        | Body::P2pUnbound
        | Body::MmioAttributeSet => json!({}),
        Body::Version(list) => {
            let versions = list.0.iter().map(|version| format!("{}.{}", version >> 4, version & 0xf));
            json!({ "versions": versions.collect::<Vec<_>>() })
        }
        Body::GetCapabilities(request) => json!({ "TSM capabilities": number(request.tsm_capabilities) }),
        Body::Capabilities(response) => json!({
            "DSM capabilities": number(response.dsm_capabilities),
            "requests": format!("{:#x}", response.requests.0),
            "lock flags": bits(response.lock_flags.0, LOCK_FLAGS),
            "address width": response.address_width,
            "requests of this interface": response.requests_this,
            "requests of all interfaces": response.requests_all,
        }),
        Body::Lock(request) => json!({
            "flags": bits(request.flags.0, LOCK_FLAGS),
            "default stream": request.default_stream.0,
            "MMIO reporting offset": number(request.mmio_reporting_offset),
            "P2P address mask": number(request.bind_p2p_address_mask),
        }),
        Body::Locked(response) => json!({ "nonce": secrets.show(response.nonce.bytes()) }),
        Body::GetReport(request) => {
            portions.asked = Some((message.interface, request.offset));
            json!({ "offset": request.offset, "length": request.length })
        }
        Body::Report(response) => {
            let whole = portions.add(message.interface, response.bytes, response.remainder);
            let mut fields = json!({
                "portion length": response.bytes.len(),
                "remainder length": response.remainder,
                "portion": hex(response.bytes),
            });
            if let Some(whole) = whole {
                fields["report"] = report(&whole);
            }
            fields
        }
        Body::State(response) => json!({ "state": response.state.to_string() }),
        Body::Start(request) => json!({ "nonce": secrets.show(request.nonce.bytes()) }),
        Body::BindP2p(request) | Body::UnbindP2p(request) => json!({ "stream": request.stream.0 }),
        Body::SetMmioAttribute(request) => json!({ "range": range(&request.range) }),
        Body::Vdm(message) | Body::VdmResponse(message) => vdm(message),
        Body::Error(response) => json!({
            "code": response.code.to_string(),
            "data": number(response.data),
            "extended": response.extended.as_ref().map(vdm),
        }),
    }
}

fn vdm(message: &Vdm<'_>) -> Value {
    json!({
        "registry": message.registry.to_string(),
        "vendor": hex(message.vendor),
        "data": hex(message.data),
    })
}

fn range(range: &MmioRange) -> Value {
    json!({
        "first page": number(range.first_page),
        "pages": range.pages,
        "attributes": bits(range.attributes.0, RANGE_ATTRIBUTES),
        "id": range.id,
    })
}

fn report(bytes: &[u8]) -> Value {
    match Report::parse(bytes) {
        Ok(report) => json!({
            "info": bits(report.info.0, INTERFACE_INFO),
            "MSI-X control": number(report.msix_control),
            "LNR control": number(report.lnr_control),
            "TPH control": number(report.tph_control),
            "ranges": report.ranges.iter().map(range).collect::<Vec<_>>(),
            "device specific": hex(&report.device_specific),
        }),
        Err(error) => undecoded(bytes, &error),
    }
}
