//! The names of all faults, and what a requester that is careful makes of each.

use spdm::msg::RequestCode;

use super::{At, Choice, DeviceFault as Fault, Echo, ReportLie, Signed};

/// An entry of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFaultInfo {
    /// Name in files and on the command line.
    pub name: &'static str,
    /// One line: what the device does.
    pub description: &'static str,
    /// How a careful requester names it: what its error begins with, one of these.
    pub detected: &'static [&'static str],
}

const fn entry(
    name: &'static str,
    description: &'static str,
    detected: &'static [&'static str],
) -> DeviceFaultInfo {
    DeviceFaultInfo { name, description, detected }
}

/// Every fault by name: who the device is, objects, negotiation, `IDE_KM`, TDISP.
pub const CATALOGUE: &[DeviceFaultInfo] = &[
    entry("expired-chain", "the leaf certificate has expired", &["Chain(Expired"]),
    entry("not-yet-valid-chain", "the leaf certificate is not valid yet", &["Chain(NotYetValid"]),
    entry("wrong-root-chain", "the chain is one of another authority", &["Chain(UnknownRoot"]),
    entry("bad-chain-signature", "the signature in the leaf certificate is wrong", &["Chain(Signature"]),
    entry("chain-changes", "the second portion of the chain is not that of DIGESTS", &["ChainDigest"]),
    entry(
        "chain-size-changes",
        "the second portion of the chain says another size than the first",
        &["Portion"],
    ),
    entry("wrong-slot", "CERTIFICATE names another slot than was asked for", &["WrongSlot"]),
    entry("bad-signature", "a signature is one over other bytes", &["BadSignature"]),
    entry("bad-verify-data", "the HMAC of KEY_EXCHANGE_RSP is wrong", &["BadVerifyData"]),
    entry(
        "bad-exchange",
        "the public value in KEY_EXCHANGE_RSP is no point of the curve, and signed",
        &["BadExchange"],
    ),
    entry("measurements-change", "measurements differ each time they are read", &["MeasurementsChanged"]),
    entry(
        "summary-lies",
        "the measurement summary in KEY_EXCHANGE_RSP is not that of the measurements, and signed",
        &["SummaryMismatch"],
    ),
    entry("wrong-context", "the requester's context (1.3) is not repeated, and signed", &["Echo"]),
    entry("silent", "no answer comes", &["Transport"]),
    entry("doe-error", "the mailbox reports an error", &["Transport"]),
    entry(
        "replayed",
        "the answer that the request got on the connection before",
        &["BadSignature", "Echo", "WrongSession"],
    ),
    entry(
        "reordered",
        "the answer comes once more in place of the next one, and all that follow one too late",
        &["Unexpected", "WrongKind", "Open", "Portion", "Echo"],
    ),
    entry("truncated", "the last four bytes of the object are missing", &["Decode", "Open"]),
    entry("trailing-bytes", "four more bytes follow in the object", &["Decode", "Open"]),
    entry("oversized", "64 KiB of zeros follow in the object", &["AnswerTooLarge", "Open"]),
    entry("wrong-kind", "a secured message comes as one in the clear, or the reverse", &["WrongKind"]),
    entry("wrong-session", "the secured message names another session", &["WrongSession"]),
    entry("bad-tag", "the tag of the secured message is wrong", &["Open"]),
    entry(
        "sequence-overflow",
        "the keys of the device may protect no more messages: it drops the session",
        &["SessionLost"],
    ),
    entry("wrong-answer", "another message than the answer", &["Unexpected"]),
    entry("wrong-version", "the answer is one of SPDM 1.1", &["Decode"]),
    entry("refused", "ERROR with Unspecified", &["Refused"]),
    entry("busy-forever", "ERROR with Busy, each time", &["Busy"]),
    entry("not-ready-forever", "ERROR with ResponseNotReady, each time", &["NeverReady"]),
    entry(
        "wrong-chunk",
        "CERTIFICATE is announced in chunks, and the first chunk is another one",
        &["Chunk"],
    ),
    entry("unoffered-algorithm", "ALGORITHMS chooses what was not offered", &["Selection"]),
    entry("many-algorithms", "ALGORITHMS chooses two where one is to be chosen", &["Decode"]),
    entry(
        "algorithm-downgrade",
        "somebody between takes SHA-384, secp384r1 and AES-256-GCM out of the offer",
        &["BadSignature"],
    ),
    entry("version-rollback", "somebody between takes the highest version out of VERSION", &["BadSignature"]),
    entry("no-common-version", "VERSION has nothing but 1.1", &["NoCommonVersion"]),
    entry(
        "capabilities-stripped",
        "somebody between takes HBEAT_CAP and KEY_UPD_CAP out of CAPABILITIES",
        &["BadSignature"],
    ),
    entry(
        "capabilities-inconsistent",
        "CAPABILITIES has KEY_EX_CAP without ENCRYPT_CAP and MAC_CAP",
        &["Decode"],
    ),
    entry("unasked-mutual-auth", "KEY_EXCHANGE_RSP asks for mutual authentication", &["UnaskedMutualAuth"]),
    entry(
        "unasked-basic-mutual-auth",
        "CHALLENGE_AUTH asks for basic mutual authentication",
        &["UnaskedMutualAuth"],
    ),
    entry(
        "encapsulated-request",
        "an encapsulated GET_DIGESTS in place of the answer",
        &["UnaskedMutualAuth"],
    ),
    entry("psk-exchange", "PSK_EXCHANGE_RSP answers KEY_EXCHANGE", &["UnaskedPsk"]),
    entry("psk-finish", "PSK_FINISH_RSP answers FINISH", &["UnaskedPsk"]),
    entry(
        "unasked-heartbeat",
        "KEY_EXCHANGE_RSP has a heartbeat period for a requester without HBEAT_CAP",
        &["UnaskedHeartbeat"],
    ),
    entry("garbage-opaque", "the opaque data of KEY_EXCHANGE_RSP are none, and signed", &["Opaque"]),
    entry(
        "unoffered-secured-version",
        "KEY_EXCHANGE_RSP chooses secured messages 1.0, which nobody offered",
        &["Opaque"],
    ),
    entry("wrong-update-tag", "KEY_UPDATE_ACK has another tag than the request", &["Echo"]),
    entry("wrong-vendor", "the vendor-defined answer is one of another vendor", &["WrongVendor"]),
    entry("wrong-port", "QUERY_RESP is about another port", &["WrongPort"]),
    entry("wrong-key-echoed", "KP_ACK is about another key than KEY_PROG", &["WrongKeyEchoed"]),
    entry("wrong-go-echoed", "K_GOSTOP_ACK is about another key than K_SET_GO", &["WrongKeyEchoed"]),
    entry("key-refused", "KP_ACK has the status of a failure", &["Refused"]),
    entry("go-refused", "K_SET_GO is answered with ERROR", &["Refused"]),
    entry(
        "wrong-protocol",
        "the answer says that it belongs to the other protocol of the PCI-SIG",
        &["Protocol"],
    ),
    entry("wrong-message", "another message of the same protocol in place of the answer", &["Unexpected"]),
    entry("wrong-interface", "the answer is about another interface", &["WrongInterface"]),
    entry("tdisp-refused", "TDISP_ERROR with unspecified", &["Refused"]),
    entry("wrong-tdisp-version", "the answer is one of TDISP 2.0", &["Decode"]),
    entry("wrong-nonce-length", "the nonce of LOCK_INTERFACE_RESPONSE does not have 32 bytes", &["Decode"]),
    entry("unknown-state", "DEVICE_INTERFACE_STATE has a state that does not exist", &["State", "Decode"]),
    entry(
        "report-size-changes",
        "the report has another size from its second portion on",
        &["ReportChanged"],
    ),
    entry(
        "lying-report",
        "the MMIO ranges of the report are not those of the function, or malformed",
        &["MalformedReport", "Outside", "Overlap", "NoWindow"],
    ),
];

const SIGNED: [Signed; 3] = [Signed::ChallengeAuth, Signed::Measurements, Signed::KeyExchangeRsp];
const CHOICES: [Choice; 5] =
    [Choice::Signature, Choice::Hash, Choice::Group, Choice::Cipher, Choice::OtherParams];
const ECHOES: [Echo; 5] = [Echo::Stream, Echo::KeySet, Echo::Direction, Echo::SubStream, Echo::Port];
const LIES: [ReportLie; 7] = [
    ReportLie::Outside,
    ReportLie::Elsewhere,
    ReportLie::Overlap,
    ReportLie::NoBar,
    ReportLie::Empty,
    ReportLie::Count,
    ReportLie::Attributes,
];
/// Requests in the clear whose answers are never the same.
const FRESH: [At; 3] = [
    At::Spdm(RequestCode::CHALLENGE),
    At::Spdm(RequestCode::GET_MEASUREMENTS),
    At::Spdm(RequestCode::KEY_EXCHANGE),
];

/// Nothing is asked behind it that could be answered late.
const LAST: Fault = Fault::Reordered { at: At::Spdm(RequestCode::END_SESSION) };

fn both(fault: impl FnMut(At) -> Fault) -> Vec<Fault> {
    At::CLEAR.into_iter().chain(At::SECURED).map(fault).collect()
}

fn secured(fault: impl FnMut(At) -> Fault) -> Vec<Fault> {
    At::SECURED.into_iter().map(fault).collect()
}

fn tdisp(fault: impl FnMut(At) -> Fault) -> Vec<Fault> {
    At::TDISP.into_iter().map(fault).collect()
}

fn vendor(fault: impl FnMut(At) -> Fault) -> Vec<Fault> {
    At::SECURED.into_iter().filter(|at| at.carrier() == RequestCode::VENDOR_DEFINED).map(fault).collect()
}

/// Requests as SPDM knows them: those of the other protocols are one.
fn carried() -> impl Iterator<Item = At> {
    let own = At::SECURED.into_iter().filter(|at| at.carrier() != RequestCode::VENDOR_DEFINED);
    At::CLEAR.into_iter().chain(own).chain([At::Spdm(RequestCode::VENDOR_DEFINED)])
}

impl Fault {
    /// Every fault in all of its forms, in the order of the [`CATALOGUE`].
    pub fn every() -> Vec<Self> {
        [
            vec![Fault::ExpiredChain],
            vec![Fault::NotYetValidChain],
            vec![Fault::WrongRootChain],
            vec![Fault::BadChainSignature],
            vec![Fault::ChainChanges],
            vec![Fault::ChainSizeChanges],
            vec![Fault::WrongSlot],
            SIGNED.map(|at| Fault::BadSignature { at }).to_vec(),
            vec![Fault::BadVerifyData],
            vec![Fault::BadExchange],
            vec![Fault::MeasurementsChange],
            vec![Fault::SummaryLies],
            [Signed::ChallengeAuth, Signed::Measurements].map(|at| Fault::WrongContext { at }).to_vec(),
            both(|at| Fault::Silent { at }),
            both(|at| Fault::DoeError { at }),
            FRESH.into_iter().chain(At::SECURED).map(|at| Fault::Replayed { at }).collect(),
            both(|at| Fault::Reordered { at }).into_iter().filter(|fault| *fault != LAST).collect(),
            both(|at| Fault::Truncated { at }),
            both(|at| Fault::TrailingBytes { at }),
            both(|at| Fault::Oversized { at }),
            both(|at| Fault::WrongKind { at }),
            secured(|at| Fault::WrongSession { at }),
            secured(|at| Fault::BadTag { at }),
            vec![Fault::SequenceOverflow { limit: 3 }],
            both(|at| Fault::WrongAnswer { at }),
            both(|at| Fault::WrongVersion { at }),
            both(|at| Fault::Refused { at }),
            carried().skip(1).map(|at| Fault::BusyForever { at }).collect(),
            carried().skip(3).map(|at| Fault::NotReadyForever { at }).collect(),
            vec![Fault::WrongChunk],
            CHOICES.map(|choice| Fault::UnofferedAlgorithm { choice }).to_vec(),
            CHOICES.map(|choice| Fault::ManyAlgorithms { choice }).to_vec(),
            vec![Fault::AlgorithmDowngrade],
            vec![Fault::VersionRollback],
            vec![Fault::NoCommonVersion],
            vec![Fault::CapabilitiesStripped],
            vec![Fault::CapabilitiesInconsistent],
            vec![Fault::UnaskedMutualAuth],
            vec![Fault::UnaskedBasicMutualAuth],
            both(|at| Fault::EncapsulatedRequest { at }),
            vec![Fault::PskExchange],
            vec![Fault::PskFinish],
            vec![Fault::UnaskedHeartbeat],
            vec![Fault::GarbageOpaque],
            vec![Fault::UnofferedSecuredVersion],
            vec![Fault::WrongUpdateTag],
            vec![Fault::WrongVendor],
            vec![Fault::WrongPort],
            ECHOES.map(|echo| Fault::WrongKeyEchoed { echo }).to_vec(),
            ECHOES.map(|echo| Fault::WrongGoEchoed { echo }).to_vec(),
            [1, 2, 3, 4, 0x80].map(|status| Fault::KeyRefused { status }).to_vec(),
            vec![Fault::GoRefused],
            vendor(|at| Fault::WrongProtocol { at }),
            vendor(|at| Fault::WrongMessage { at }),
            tdisp(|at| Fault::WrongInterface { at }),
            tdisp(|at| Fault::TdispRefused { at }),
            tdisp(|at| Fault::WrongTdispVersion { at }),
            [0, 31, 33, 64].map(|bytes| Fault::WrongNonceLength { bytes }).to_vec(),
            vec![Fault::UnknownState],
            vec![Fault::ReportSizeChanges],
            LIES.map(|lie| Fault::LyingReport { lie }).to_vec(),
        ]
        .concat()
    }

    /// A fault by its name, in its first form. `None` for an unknown name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::every().into_iter().find(|fault| fault.name() == name)
    }

    /// Name in files and on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ExpiredChain => "expired-chain",
            Self::NotYetValidChain => "not-yet-valid-chain",
            Self::WrongRootChain => "wrong-root-chain",
            Self::BadChainSignature => "bad-chain-signature",
            Self::ChainChanges => "chain-changes",
            Self::ChainSizeChanges => "chain-size-changes",
            Self::WrongSlot => "wrong-slot",
            Self::BadSignature { .. } => "bad-signature",
            Self::BadVerifyData => "bad-verify-data",
            Self::BadExchange => "bad-exchange",
            Self::MeasurementsChange => "measurements-change",
            Self::SummaryLies => "summary-lies",
            Self::WrongContext { .. } => "wrong-context",
            Self::Silent { .. } => "silent",
            Self::DoeError { .. } => "doe-error",
            Self::Replayed { .. } => "replayed",
            Self::Reordered { .. } => "reordered",
            Self::Truncated { .. } => "truncated",
            Self::TrailingBytes { .. } => "trailing-bytes",
            Self::Oversized { .. } => "oversized",
            Self::WrongKind { .. } => "wrong-kind",
            Self::WrongSession { .. } => "wrong-session",
            Self::BadTag { .. } => "bad-tag",
            Self::SequenceOverflow { .. } => "sequence-overflow",
            Self::WrongAnswer { .. } => "wrong-answer",
            Self::WrongVersion { .. } => "wrong-version",
            Self::Refused { .. } => "refused",
            Self::BusyForever { .. } => "busy-forever",
            Self::NotReadyForever { .. } => "not-ready-forever",
            Self::WrongChunk => "wrong-chunk",
            Self::UnofferedAlgorithm { .. } => "unoffered-algorithm",
            Self::ManyAlgorithms { .. } => "many-algorithms",
            Self::AlgorithmDowngrade => "algorithm-downgrade",
            Self::VersionRollback => "version-rollback",
            Self::NoCommonVersion => "no-common-version",
            Self::CapabilitiesStripped => "capabilities-stripped",
            Self::CapabilitiesInconsistent => "capabilities-inconsistent",
            Self::UnaskedMutualAuth => "unasked-mutual-auth",
            Self::UnaskedBasicMutualAuth => "unasked-basic-mutual-auth",
            Self::EncapsulatedRequest { .. } => "encapsulated-request",
            Self::PskExchange => "psk-exchange",
            Self::PskFinish => "psk-finish",
            Self::UnaskedHeartbeat => "unasked-heartbeat",
            Self::GarbageOpaque => "garbage-opaque",
            Self::UnofferedSecuredVersion => "unoffered-secured-version",
            Self::WrongUpdateTag => "wrong-update-tag",
            Self::WrongVendor => "wrong-vendor",
            Self::WrongPort => "wrong-port",
            Self::WrongKeyEchoed { .. } => "wrong-key-echoed",
            Self::WrongGoEchoed { .. } => "wrong-go-echoed",
            Self::KeyRefused { .. } => "key-refused",
            Self::GoRefused => "go-refused",
            Self::WrongProtocol { .. } => "wrong-protocol",
            Self::WrongMessage { .. } => "wrong-message",
            Self::WrongInterface { .. } => "wrong-interface",
            Self::TdispRefused { .. } => "tdisp-refused",
            Self::WrongTdispVersion { .. } => "wrong-tdisp-version",
            Self::WrongNonceLength { .. } => "wrong-nonce-length",
            Self::UnknownState => "unknown-state",
            Self::ReportSizeChanges => "report-size-changes",
            Self::LyingReport { .. } => "lying-report",
        }
    }

    /// The catalogue entry.
    pub fn info(&self) -> &'static DeviceFaultInfo {
        let name = self.name();
        // Every name is in the catalogue; a test says so.
        CATALOGUE.iter().find(|info| info.name == name).unwrap_or(&CATALOGUE[0])
    }
}
