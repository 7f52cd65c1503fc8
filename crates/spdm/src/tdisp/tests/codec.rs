use super::*;
use crate::wire::DecodeError;

/// Every message with its bytes behind the header as the tables of the protocol have them.
fn all() -> Vec<(Body<'static>, MessageType, Vec<u8>)> {
    let range = MmioRange { first_page: 0x1234_5000, pages: 3, attributes: RangeAttributes::NON_TEE, id: 2 };
    let range_bytes = vec![0, 0x50, 0x34, 0x12, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 2, 0];
    let lock = LockInterface {
        flags: LockFlags(0x15),
        default_stream: StreamId(7),
        mmio_reporting_offset: 0x1122_3344_5566_7788,
        bind_p2p_address_mask: 0x8000_0000_0000_0001,
    };
    let mut lock_bytes = vec![0x15, 0, 7, 0];
    lock_bytes.extend([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 1, 0, 0, 0, 0, 0, 0, 0x80]);
    let capabilities = DsmCapabilities {
        dsm_capabilities: 0,
        requests: RequestSet::MANDATORY,
        lock_flags: LockFlags(7),
        address_width: 52,
        requests_this: 1,
        requests_all: 2,
    };
    let mut capabilities_bytes = vec![0, 0, 0, 0, 0xfe];
    capabilities_bytes.extend([0; 15]);
    capabilities_bytes.extend([7, 0, 0, 0, 0, 52, 1, 2]);
    let nonce = Nonce::new([0x5a; 32]);
    let vdm = Vdm { registry: RegistryId::PCI_SIG, vendor: &[0x86, 0x80], data: b"data" };
    let vdm_bytes = [&[0, 2, 0x86, 0x80][..], b"data"].concat();
    let error = ErrorResponse { code: ErrorCode::UNSUPPORTED_REQUEST, data: 0x8b, extended: None };
    let extended = ErrorResponse { code: ErrorCode(0xff), data: 1, extended: Some(vdm) };
    let peer = P2pStream { stream: StreamId(9) };
    vec![
        (Body::GetVersion, MessageType(0x81), vec![]),
        (Body::Version(VersionList(&[0x10])), MessageType(0x01), vec![1, 0x10]),
        (Body::GetCapabilities(GetCapabilities { tsm_capabilities: 0 }), MessageType(0x82), vec![0; 4]),
        (Body::Capabilities(capabilities), MessageType(0x02), capabilities_bytes),
        (Body::Lock(lock), MessageType(0x83), lock_bytes),
        (Body::Locked(LockResponse { nonce: nonce.clone() }), MessageType(0x03), vec![0x5a; 32]),
        (get_report(0x0102, 0x0304), MessageType(0x84), vec![2, 1, 4, 3]),
        (
            Body::Report(ReportPortion { remainder: 0x0102, bytes: b"abc" }),
            MessageType(0x04),
            vec![3, 0, 2, 1, b'a', b'b', b'c'],
        ),
        (Body::GetState, MessageType(0x85), vec![]),
        (Body::State(InterfaceState { state: TdiState::RUN }), MessageType(0x05), vec![2]),
        (start(&nonce), MessageType(0x86), vec![0x5a; 32]),
        (Body::Started, MessageType(0x06), vec![]),
        (Body::Stop, MessageType(0x87), vec![]),
        (Body::Stopped, MessageType(0x07), vec![]),
        (Body::BindP2p(peer), MessageType(0x88), vec![9]),
        (Body::P2pBound, MessageType(0x08), vec![]),
        (Body::UnbindP2p(peer), MessageType(0x89), vec![9]),
        (Body::P2pUnbound, MessageType(0x09), vec![]),
        (Body::SetMmioAttribute(SetMmioAttribute { range }), MessageType(0x8a), range_bytes),
        (Body::MmioAttributeSet, MessageType(0x0a), vec![]),
        (Body::Vdm(vdm), MessageType(0x8b), vdm_bytes.clone()),
        (Body::VdmResponse(vdm), MessageType(0x0b), vdm_bytes.clone()),
        (Body::Error(error), MessageType(0x7f), vec![7, 0, 0, 0, 0x8b, 0, 0, 0]),
        (Body::Error(extended), MessageType(0x7f), [&[0xff, 0, 0, 0, 1, 0, 0, 0][..], &vdm_bytes].concat()),
    ]
}

fn header(message: MessageType) -> [u8; 16] {
    [0x10, message.0, 0, 0, 0x00, 0x3b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[test]
fn every_message_has_the_bytes_of_the_tables() {
    let mut types: Vec<MessageType> = Vec::new();
    for (body, message, bytes) in all() {
        let bytes = [&header(message)[..], &bytes].concat();
        assert_eq!(payload(PF, body.clone())[1..], bytes, "{message}");
        assert_eq!(Message::read(&bytes), Ok(Message { interface: PF, body }));
        types.push(message);
    }
    types.sort_unstable();
    types.dedup();
    assert_eq!(types, MessageType::ALL, "every type is here");
}

#[test]
fn a_message_that_ends_early_or_late_is_refused() {
    for (body, message, bytes) in all() {
        let bytes = [&header(message)[..], &bytes].concat();
        // What takes all bytes that are left cannot tell, behind its fixed part.
        let open_from = match &body {
            Body::Vdm(_) | Body::VdmResponse(_) => 16 + 4,
            Body::Error(_) => 16 + 8,
            _ => usize::MAX,
        };
        let open =
            |end: usize| end >= open_from && !(matches!(body, Body::Error(_)) && (25..28).contains(&end));
        for end in 0..bytes.len() {
            assert_eq!(Message::read(&bytes[..end]).is_ok(), open(end), "{message} to {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        let vdm = matches!(body, Body::Vdm(_) | Body::VdmResponse(_))
            || matches!(body, Body::Error(error) if error.extended.is_some());
        assert_eq!(Message::read(&longer).is_ok(), vdm, "{message}");
    }
}

#[test]
fn reserved_fields_of_headers_and_bodies_must_be_zero() {
    for at in [2, 3, 8, 15] {
        let mut bytes = header(MessageType::GET_DEVICE_INTERFACE_STATE);
        bytes[at] = 1;
        assert!(matches!(Message::read(&bytes), Err(DecodeError::Reserved { .. })), "header byte {at}");
    }
    for (message, at) in
        [(MessageType::LOCK_INTERFACE_REQUEST, 16 + 3), (MessageType::TDISP_CAPABILITIES, 16 + 22)]
    {
        let (_, _, bytes) = all().into_iter().find(|row| row.1 == message).unwrap();
        let mut bytes = [&header(message)[..], &bytes].concat();
        bytes[at] = 1;
        assert_eq!(
            Message::read(&bytes),
            Err(DecodeError::Reserved { field: "reserved", value: 1 }),
            "{message}"
        );
    }
}

#[test]
fn another_version_and_an_unknown_type_are_named() {
    let mut bytes = header(MessageType::GET_TDISP_VERSION);
    bytes[0] = 0x11;
    assert_eq!(Message::read(&bytes), Err(DecodeError::Value { field: "TDISP version", value: 0x11 }));
    assert_eq!(Message::read(&header(MessageType(0x8c))), Err(DecodeError::UnknownCode(0x8c)));
    let no_version = [&header(MessageType::TDISP_VERSION)[..], &[0]].concat();
    assert_eq!(Message::read(&no_version), Err(DecodeError::Value { field: "version count", value: 0 }));
}

#[test]
fn a_nonce_does_not_print_itself() {
    assert_eq!(alloc::format!("{:?}", Nonce::new([1; 32])), "Nonce(..)");
}
