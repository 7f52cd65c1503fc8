//! Codes of requests, responses and errors. DSP0274, "SPDM request codes", "SPDM response codes",
//! "Error code and error data".

use open_enum::open_enum;

open_enum! {
    /// Request code, the second byte of a request.
    pub struct RequestCode(u8) {
        /// Digests of all chains.
        GET_DIGESTS = 0x81 => "GET_DIGESTS",
        /// A portion of a chain.
        GET_CERTIFICATE = 0x82 => "GET_CERTIFICATE",
        /// A signature over what was read.
        CHALLENGE = 0x83 => "CHALLENGE",
        /// The versions that are spoken.
        GET_VERSION = 0x84 => "GET_VERSION",
        /// A part of a large request.
        CHUNK_SEND = 0x85 => "CHUNK_SEND",
        /// A part of a large response.
        CHUNK_GET = 0x86 => "CHUNK_GET",
        /// 1.3, not built.
        GET_ENDPOINT_INFO = 0x87 => "GET_ENDPOINT_INFO",
        /// 1.4, not built.
        SLOT_MANAGEMENT = 0x88 => "SLOT_MANAGEMENT",
        /// Measurements.
        GET_MEASUREMENTS = 0xe0 => "GET_MEASUREMENTS",
        /// Capabilities of both sides.
        GET_CAPABILITIES = 0xe1 => "GET_CAPABILITIES",
        /// 1.3, not built.
        GET_SUPPORTED_EVENT_TYPES = 0xe2 => "GET_SUPPORTED_EVENT_TYPES",
        /// Algorithms to choose from.
        NEGOTIATE_ALGORITHMS = 0xe3 => "NEGOTIATE_ALGORITHMS",
        /// Opens a session.
        KEY_EXCHANGE = 0xe4 => "KEY_EXCHANGE",
        /// Ends the handshake of a session.
        FINISH = 0xe5 => "FINISH",
        /// Pre-shared keys, not built.
        PSK_EXCHANGE = 0xe6 => "PSK_EXCHANGE",
        /// Pre-shared keys, not built.
        PSK_FINISH = 0xe7 => "PSK_FINISH",
        /// Keeps a session alive.
        HEARTBEAT = 0xe8 => "HEARTBEAT",
        /// New keys for a session.
        KEY_UPDATE = 0xe9 => "KEY_UPDATE",
        /// Requests of the responder, not built.
        GET_ENCAPSULATED_REQUEST = 0xea => "GET_ENCAPSULATED_REQUEST",
        /// Requests of the responder, not built.
        DELIVER_ENCAPSULATED_RESPONSE = 0xeb => "DELIVER_ENCAPSULATED_RESPONSE",
        /// Ends a session.
        END_SESSION = 0xec => "END_SESSION",
        /// Provisioning, not built.
        GET_CSR = 0xed => "GET_CSR",
        /// Provisioning, not built.
        SET_CERTIFICATE = 0xee => "SET_CERTIFICATE",
        /// 1.3, not built.
        GET_MEASUREMENT_EXTENSION_LOG = 0xef => "GET_MEASUREMENT_EXTENSION_LOG",
        /// 1.3, not built.
        SUBSCRIBE_EVENT_TYPES = 0xf0 => "SUBSCRIBE_EVENT_TYPES",
        /// 1.3, not built.
        SEND_EVENT = 0xf1 => "SEND_EVENT",
        /// 1.3, not built.
        GET_KEY_PAIR_INFO = 0xfc => "GET_KEY_PAIR_INFO",
        /// 1.3, not built.
        SET_KEY_PAIR_INFO = 0xfd => "SET_KEY_PAIR_INFO",
        /// Another protocol inside SPDM.
        VENDOR_DEFINED = 0xfe => "VENDOR_DEFINED_REQUEST",
        /// Asks again for a response that was not ready.
        RESPOND_IF_READY = 0xff => "RESPOND_IF_READY",
    }
}

impl RequestCode {
    /// Whether the code is one of a request: requests have bit 7 set.
    pub const fn is_request(code: u8) -> bool {
        code & 0x80 != 0
    }

    /// The code of the response that grants the request: bit 7 makes the difference.
    pub const fn response(self) -> ResponseCode {
        ResponseCode(self.0 & 0x7f)
    }
}

open_enum! {
    /// Response code, the second byte of a response.
    pub struct ResponseCode(u8) {
        /// Digests of all chains.
        DIGESTS = 0x01 => "DIGESTS",
        /// A portion of a chain.
        CERTIFICATE = 0x02 => "CERTIFICATE",
        /// A signature over what was read.
        CHALLENGE_AUTH = 0x03 => "CHALLENGE_AUTH",
        /// The versions that are spoken.
        VERSION = 0x04 => "VERSION",
        /// Answer to a part of a large request.
        CHUNK_SEND_ACK = 0x05 => "CHUNK_SEND_ACK",
        /// A part of a large response.
        CHUNK_RESPONSE = 0x06 => "CHUNK_RESPONSE",
        /// 1.3, not built.
        ENDPOINT_INFO = 0x07 => "ENDPOINT_INFO",
        /// 1.4, not built.
        SLOT_MANAGEMENT_RESP = 0x08 => "SLOT_MANAGEMENT_RESP",
        /// Measurements.
        MEASUREMENTS = 0x60 => "MEASUREMENTS",
        /// Capabilities of both sides.
        CAPABILITIES = 0x61 => "CAPABILITIES",
        /// 1.3, not built.
        SUPPORTED_EVENT_TYPES = 0x62 => "SUPPORTED_EVENT_TYPES",
        /// The algorithms that were chosen.
        ALGORITHMS = 0x63 => "ALGORITHMS",
        /// Opens a session.
        KEY_EXCHANGE_RSP = 0x64 => "KEY_EXCHANGE_RSP",
        /// Ends the handshake of a session.
        FINISH_RSP = 0x65 => "FINISH_RSP",
        /// Pre-shared keys, not built.
        PSK_EXCHANGE_RSP = 0x66 => "PSK_EXCHANGE_RSP",
        /// Pre-shared keys, not built.
        PSK_FINISH_RSP = 0x67 => "PSK_FINISH_RSP",
        /// Keeps a session alive.
        HEARTBEAT_ACK = 0x68 => "HEARTBEAT_ACK",
        /// New keys for a session.
        KEY_UPDATE_ACK = 0x69 => "KEY_UPDATE_ACK",
        /// Requests of the responder, not built.
        ENCAPSULATED_REQUEST = 0x6a => "ENCAPSULATED_REQUEST",
        /// Requests of the responder, not built.
        ENCAPSULATED_RESPONSE_ACK = 0x6b => "ENCAPSULATED_RESPONSE_ACK",
        /// Ends a session.
        END_SESSION_ACK = 0x6c => "END_SESSION_ACK",
        /// Provisioning, not built.
        CSR = 0x6d => "CSR",
        /// Provisioning, not built.
        SET_CERTIFICATE_RSP = 0x6e => "SET_CERTIFICATE_RSP",
        /// 1.3, not built.
        MEASUREMENT_EXTENSION_LOG = 0x6f => "MEASUREMENT_EXTENSION_LOG",
        /// 1.3, not built.
        SUBSCRIBE_EVENT_TYPES_ACK = 0x70 => "SUBSCRIBE_EVENT_TYPES_ACK",
        /// 1.3, not built.
        EVENT_ACK = 0x71 => "EVENT_ACK",
        /// 1.3, not built.
        KEY_PAIR_INFO = 0x7c => "KEY_PAIR_INFO",
        /// 1.3, not built.
        SET_KEY_PAIR_INFO_ACK = 0x7d => "SET_KEY_PAIR_INFO_ACK",
        /// Another protocol inside SPDM.
        VENDOR_DEFINED = 0x7e => "VENDOR_DEFINED_RESPONSE",
        /// The request was not granted.
        ERROR = 0x7f => "ERROR",
    }
}

open_enum! {
    /// Error code, first parameter of `ERROR`.
    pub struct ErrorCode(u8) {
        /// A field of the request is wrong.
        INVALID_REQUEST = 0x01 => "InvalidRequest",
        /// Ask again later.
        BUSY = 0x03 => "Busy",
        /// The request does not belong here now.
        UNEXPECTED_REQUEST = 0x04 => "UnexpectedRequest",
        /// Something else.
        UNSPECIFIED = 0x05 => "Unspecified",
        /// A secured message was not decrypted; data is 0.
        DECRYPT_ERROR = 0x06 => "DecryptError",
        /// The request code in the data is not supported.
        UNSUPPORTED_REQUEST = 0x07 => "UnsupportedRequest",
        /// Another request is worked on.
        REQUEST_IN_FLIGHT = 0x08 => "RequestInFlight",
        /// The response to an encapsulated request has another code.
        INVALID_RESPONSE_CODE = 0x09 => "InvalidResponseCode",
        /// No more sessions.
        SESSION_LIMIT_EXCEEDED = 0x0a => "SessionLimitExceeded",
        /// The request is only answered inside a session.
        SESSION_REQUIRED = 0x0b => "SessionRequired",
        /// The device waits for a reset.
        RESET_REQUIRED = 0x0c => "ResetRequired",
        /// The response is larger than the requester takes.
        RESPONSE_TOO_LARGE = 0x0d => "ResponseTooLarge",
        /// The request is larger than the responder takes.
        REQUEST_TOO_LARGE = 0x0e => "RequestTooLarge",
        /// The response comes in chunks; its handle is in the extended data.
        LARGE_RESPONSE = 0x0f => "LargeResponse",
        /// A message was lost.
        MESSAGE_LOST = 0x10 => "MessageLost",
        /// 1.3: a policy forbids it.
        INVALID_POLICY = 0x11 => "InvalidPolicy",
        /// 1.4.
        DATA_TOO_LARGE = 0x12 => "DataTooLarge",
        /// The version is not spoken.
        VERSION_MISMATCH = 0x41 => "VersionMismatch",
        /// Ask again with `RESPOND_IF_READY`, as the extended data say.
        RESPONSE_NOT_READY = 0x42 => "ResponseNotReady",
        /// The connection starts again with `GET_VERSION`.
        REQUEST_RESYNCH = 0x43 => "RequestResynch",
        /// 1.3: it did not work.
        OPERATION_FAILED = 0x44 => "OperationFailed",
        /// 1.3.
        NO_PENDING_REQUESTS = 0x45 => "NoPendingRequests",
        /// 1.4.
        REQUEST_SESSION_TERMINATED = 0x46 => "RequestSessionTerminated",
        /// 1.4.
        INVALID_STATE = 0x47 => "InvalidState",
        /// Of a vendor or standards body, in the extended data.
        VENDOR_DEFINED = 0xff => "VendorDefined",
    }
}
