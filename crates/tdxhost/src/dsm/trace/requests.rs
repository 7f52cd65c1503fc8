//! The fields of requests.

use serde_json::{Map, Value, json};
use spdm::msg::{
    AlgorithmTable, AlgorithmTables, KeyOperation, MeasurementOperation, OpaqueData, Request, SummaryHash,
    VendorDefined, algorithms::ExtendedAlgorithms,
};

use super::decoder::{Channel, vendor};
use super::names::{
    AEAD, ASYM, DHE, DMTF, HASH, KEY_SCHEDULE, OTHER_PARAMS, REQUESTER_FLAGS, bits, hex, hex_or_null, number,
    versions,
};
use super::{Secrets, undecoded};

/// Adds the fields of `request` to `fields`.
pub(super) fn describe(
    request: &Request<'_>,
    channel: &mut Channel,
    secrets: Secrets,
    fields: &mut Map<String, Value>,
) {
    let described = match request {
        Request::GetVersion(_) | Request::GetDigests(_) | Request::Heartbeat(_) => json!({}),
        Request::GetCapabilities(request) => json!({
            "wants algorithms": request.wants_algorithms,
            "ct exponent": request.ct_exponent,
            "flags": bits(u32::from(request.flags), REQUESTER_FLAGS),
            "data transfer size": request.data_transfer_size,
            "max message size": request.max_message_size,
        }),
        Request::NegotiateAlgorithms(request) => json!({
            "measurement specification": bits(request.measurement_spec, DMTF),
            "other parameters": bits(u8::from(request.other_params), OTHER_PARAMS),
            "asymmetric": bits(request.base_asym, ASYM),
            "hash": bits(request.base_hash, HASH),
            "measurement extension log": bits(request.mel_spec, DMTF),
            "extended asymmetric": extended(&request.extended_asym),
            "extended hash": extended(&request.extended_hash),
            "tables": tables(&request.tables),
        }),
        Request::GetCertificate(request) => json!({
            "slot": request.slot.number(),
            "slot size": request.slot_size,
            "offset": request.offset,
            "length": request.length,
        }),
        Request::Challenge(request) => json!({
            "slot": request.slot.number(),
            "summary": summary(request.summary),
            "nonce": hex(&request.nonce),
            "context": hex_or_null(request.context.as_ref().map(|context| &context[..])),
        }),
        Request::GetMeasurements(request) => json!({
            "signature": request.signature.map(|signature| json!({
                "slot": signature.slot.number(),
                "nonce": hex(&signature.nonce),
            })),
            "raw": request.raw,
            "new": request.new,
            "operation": match request.operation {
                MeasurementOperation::Total => "total".into(),
                MeasurementOperation::Index(index) => Value::from(index),
                MeasurementOperation::All => "all".into(),
            },
            "context": hex_or_null(request.context.as_ref().map(|context| &context[..])),
        }),
        Request::KeyExchange(request) => json!({
            "summary": summary(request.summary),
            "slot": request.slot.number(),
            "requester session id": number(request.session),
            "survives update": request.policy.survives_update(),
            "all events": request.policy.all_events(),
            "random": hex(&request.random),
            "exchange": hex(request.exchange),
            "opaque": opaque(request.opaque),
        }),
        Request::Finish(request) => json!({ "verify data": hex(request.verify_data) }),
        Request::KeyUpdate(request) => key_update(request.operation, request.tag),
        Request::EndSession(request) => json!({ "clear negotiated": request.clear_negotiated }),
        Request::VendorDefined(request) => vendor_defined(request, channel, secrets),
        Request::RespondIfReady(request) => {
            json!({ "request": request.request.to_string(), "token": request.token })
        }
        Request::ChunkSend(request) => json!({
            "handle": request.handle,
            "sequence": request.sequence,
            "last": request.last,
            "large message size": request.large_size,
            "chunk": secrets.show(request.chunk),
        }),
        Request::ChunkGet(request) => json!({ "handle": request.handle, "sequence": request.sequence }),
    };
    if let Value::Object(described) = described {
        fields.extend(described);
    }
}

pub(super) fn key_update(operation: KeyOperation, tag: u8) -> Value {
    let operation = match operation {
        KeyOperation::UpdateKey => "UpdateKey",
        KeyOperation::UpdateAllKeys => "UpdateAllKeys",
        KeyOperation::VerifyNewKey => "VerifyNewKey",
    };
    json!({ "operation": operation, "tag": tag })
}

pub(super) fn vendor_defined(message: &VendorDefined<'_>, channel: &mut Channel, secrets: Secrets) -> Value {
    json!({
        "standard": message.standard_id.to_string(),
        "vendor": hex(message.vendor_id),
        "payload": vendor(message, channel, secrets),
    })
}

fn summary(summary: SummaryHash) -> &'static str {
    match summary {
        SummaryHash::None => "none",
        SummaryHash::Tcb => "TCB",
        SummaryHash::All => "all",
    }
}

fn extended(algorithms: &ExtendedAlgorithms<'_>) -> Value {
    let entries = algorithms.iter().map(|(registry, id)| json!({ "registry": registry, "id": number(id) }));
    entries.collect::<Vec<_>>().into()
}

pub(super) fn tables(tables: &AlgorithmTables<'_>) -> Value {
    let table = |table: Option<AlgorithmTable<'_>>, names: &[&str]| {
        table.map(|table| {
            let algorithms = bits(table.algorithms, names);
            match table.extended.count() {
                0 => algorithms,
                _ => json!({ "algorithms": algorithms, "extended": extended(&table.extended) }),
            }
        })
    };
    json!({
        "DHE": table(tables.dhe, DHE),
        "AEAD": table(tables.aead, AEAD),
        "requester's asymmetric": table(tables.requester_asym, ASYM),
        "key schedule": table(tables.key_schedule, KEY_SCHEDULE),
    })
}

/// Opaque data: of the general format, or bytes.
pub(super) fn opaque(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    let data = match OpaqueData::parse(bytes) {
        Ok(data) => data,
        Err(error) => return undecoded(bytes, &error),
    };
    if let Ok(Some(supported)) = data.supported_versions() {
        return json!({ "secured message versions": versions(supported.iter()) });
    }
    if let Ok(Some(selected)) = data.selected_version() {
        return json!({ "secured message version": selected.to_string() });
    }
    let elements = data.elements().map(|element| {
        json!({
            "registry": element.registry.to_string(),
            "vendor": hex(element.vendor_id),
            "data": hex(element.data),
        })
    });
    elements.collect::<Vec<_>>().into()
}
