//! The fields of responses.

use serde_json::{Map, Value, json};
use spdm::msg::{
    ContentChange, ErrorCode, ErrorData, ErrorResponse, MeasurementBlocks, MeasurementValue, MutualAuth,
    RequestCode, Response,
};

use super::decoder::Channel;
use super::names::{
    ASYM, DMTF, HASH, MEASUREMENT_HASH, OTHER_PARAMS, RESPONDER_FLAGS, bits, hex, hex_or_null, number, slots,
    versions,
};
use super::requests::{key_update, opaque, tables, vendor_defined};
use super::{Secrets, undecoded};

/// Adds the fields of `response` to `fields`.
pub(super) fn describe(
    response: &Response<'_>,
    channel: &mut Channel,
    secrets: Secrets,
    fields: &mut Map<String, Value>,
) {
    let described = match response {
        Response::HeartbeatAck(_) | Response::EndSessionAck(_) => json!({}),
        Response::Version(response) => json!({ "versions": versions(response.versions.iter()) }),
        Response::Capabilities(response) => json!({
            "ct exponent": response.ct_exponent,
            "flags": bits(u32::from(response.flags), RESPONDER_FLAGS),
            "data transfer size": response.data_transfer_size,
            "max message size": response.max_message_size,
        }),
        Response::Algorithms(response) => json!({
            "measurement specification": bits(response.measurement_spec, DMTF),
            "other parameters": bits(u8::from(response.other_params), OTHER_PARAMS),
            "measurement hash": bits(response.measurement_hash, MEASUREMENT_HASH),
            "asymmetric": bits(response.base_asym, ASYM),
            "hash": bits(response.base_hash, HASH),
            "measurement extension log": bits(response.mel_spec, DMTF),
            "tables": tables(&response.tables),
        }),
        Response::Digests(response) => {
            let digests = response.slots().map(|(slot, digest)| (slot.to_string(), hex(digest)));
            json!({
                "supported slots": slots(response.supported),
                "provisioned slots": slots(response.provisioned),
                "digests": digests.collect::<Map<_, _>>(),
            })
        }
        Response::Certificate(response) => json!({
            "slot": response.slot.number(),
            "model": response.model,
            "portion length": response.portion.len(),
            "remainder length": response.remainder,
            "portion": hex(response.portion),
        }),
        Response::ChallengeAuth(response) => json!({
            "slot": response.slot.number(),
            "slots": slots(response.slot_mask),
            "chain hash": hex(response.chain_hash),
            "nonce": hex(&response.nonce),
            "measurement summary": hex_or_null(response.summary),
            "opaque": opaque(response.opaque),
            "context": hex_or_null(response.context.as_ref().map(|context| &context[..])),
            "signature": hex(response.signature),
        }),
        Response::Measurements(response) => json!({
            "total": response.total,
            "slot": response.slot.number(),
            "content": match response.content {
                ContentChange::NotWatched => "not watched",
                ContentChange::Changed => "changed",
                ContentChange::Unchanged => "unchanged",
            },
            "blocks": blocks(response.record),
            "nonce": hex(&response.nonce),
            "opaque": opaque(response.opaque),
            "context": hex_or_null(response.context.as_ref().map(|context| &context[..])),
            "signature": hex_or_null(response.signature),
        }),
        Response::KeyExchangeRsp(response) => json!({
            "heartbeat period": response.heartbeat,
            "responder session id": number(response.session),
            "mutual authentication": match response.mutual_auth {
                MutualAuth::None => "none",
                MutualAuth::Plain => "asked",
                MutualAuth::Encapsulated => "asked, encapsulated",
                MutualAuth::WithDigests => "asked, with digests",
            },
            "requester slot": response.requester_slot,
            "random": hex(&response.random),
            "exchange": hex(response.exchange),
            "measurement summary": hex_or_null(response.summary),
            "opaque": opaque(response.opaque),
            "signature": hex(response.signature),
            "verify data": hex_or_null(response.verify_data),
        }),
        Response::FinishRsp(response) => json!({ "verify data": hex_or_null(response.verify_data) }),
        Response::KeyUpdateAck(response) => key_update(response.operation, response.tag),
        Response::VendorDefined(response) => vendor_defined(response, channel, secrets),
        Response::Error(response) => error(response),
        Response::ChunkSendAck(response) => json!({
            "handle": response.handle,
            "sequence": response.sequence,
            "early error": response.early_error,
        }),
        Response::ChunkResponse(response) => json!({
            "handle": response.handle,
            "sequence": response.sequence,
            "last": response.last,
            "large message size": response.large_size,
            "chunk": secrets.show(response.chunk),
        }),
    };
    if let Value::Object(described) = described {
        fields.extend(described);
    }
}

fn blocks(record: &[u8]) -> Value {
    let described = MeasurementBlocks::new(record).map(|block| match block {
        Ok(block) => {
            let (form, bytes) = match block.value {
                MeasurementValue::Raw(bytes) => ("raw", bytes),
                MeasurementValue::Digest(bytes) => ("digest", bytes),
            };
            json!({ "index": block.index, "kind": block.kind.to_string(), form: hex(bytes) })
        }
        Err(error) => undecoded(record, &error),
    });
    described.collect::<Vec<_>>().into()
}

fn error(response: &ErrorResponse<'_>) -> Value {
    let data = match response.code {
        ErrorCode::UNSUPPORTED_REQUEST => RequestCode(response.data).to_string().into(),
        _ => Value::from(response.data),
    };
    let mut described = Map::new();
    described.insert("code".into(), response.code.to_string().into());
    described.insert("data".into(), data);
    match response.extended {
        ErrorData::None => {}
        ErrorData::NotReady(not_ready) => {
            let extended = json!({
                "exponent": not_ready.exponent,
                "request": not_ready.request.to_string(),
                "token": not_ready.token,
                "multiplier": not_ready.multiplier,
            });
            described.insert("not ready".into(), extended);
        }
        ErrorData::LargeResponse(handle) => drop(described.insert("handle".into(), handle.into())),
        ErrorData::TooLarge(size) => drop(described.insert("actual size".into(), size.into())),
        ErrorData::Vendor(bytes) => drop(described.insert("vendor".into(), hex(bytes))),
    }
    described.into()
}
