//! Everything that can go wrong with a device that is connected, as rows of one table.

use pcie::doe::DoeError;
use pcie::ide::StreamState;
use pcie::{FunctionId, Segment};
use tdx_abi::connect::refusal::Refusal;

use crate::error::{ErrorInfo, HostError, failures};
use crate::seamcall::SeamcallError;
use crate::traits::{HostBridge, MemoryFault};

failures! {
    /// A failure of a TSM: which device, what, and why.
    pub enum TsmError;
    /// Every failure, in the order in which a connect meets them.
    pub const TSM_ERRORS;
    /// There is no such function.
    NoSuchFunction {
        /// Its address.
        device: FunctionId,
    } = "no-such-function", Caller, ENOENT,
        "{device}: there is no such function",
        "list the functions that are there; one that was removed comes back with a rescan";
    /// The function does not answer for a device.
    NotADsm {
        /// Its address.
        device: FunctionId,
    } = "not-a-dsm", Caller, ENOENT,
        "{device} is not function 0 of a device with IDE or TEE-IO, so that it has nothing to connect",
        "connect function 0 of the device: its DSM answers for the other functions";
    /// What was written is no name of a TSM.
    BadTsmName {
        /// Of what was to be connected.
        device: FunctionId,
    } = "bad-tsm-name", Caller, EINVAL,
        "{device}: a TSM is named `tsm` and a number",
        "write the name of a directory in /sys/class/tsm, such as tsm0";
    /// The device is connected.
    AlreadyConnected {
        /// The device.
        device: FunctionId,
        /// Number of its TSM.
        tsm: u32,
    } = "already-connected", Caller, EBUSY,
        "{device} is connected to tsm{tsm}",
        "disconnect it first; a refresh of keys or evidence needs no new connection";
    /// No such TSM.
    NoSuchTsm {
        /// Of what was to be connected.
        device: FunctionId,
        /// The number that was asked for.
        tsm: u32,
    } = "no-such-tsm", Caller, ENXIO,
        "{device}: there is no tsm{tsm} that manages links",
        "a TSM is there only while TDX Connect works: look into /sys/class/tsm and at the Connect state of the host";
    /// The TSM is broken.
    TsmBroken {
        /// Of what was to be connected.
        device: FunctionId,
        /// Pages that the module kept.
        pages: u64,
    } = "tsm-broken", Module, ENXIO,
        "{device}: the TSM takes no more devices, the module kept {pages} pages that it should have given back",
        "a bug of the TDX module: install a fixed one and reset the machine";
    /// The device is not connected.
    NotConnected {
        /// The device.
        device: FunctionId,
    } = "not-connected", Caller, ENXIO,
        "{device} is not connected",
        "connect it first";
    /// The device is connected to another TSM.
    OtherTsm {
        /// The device.
        device: FunctionId,
        /// Number of its TSM.
        tsm: u32,
    } = "other-tsm", Caller, EINVAL,
        "{device} is connected to tsm{tsm}, and to no other",
        "write the name that tsm/connect shows";
    /// No mailbox takes SPDM.
    NoSpdmMailbox {
        /// The device.
        device: FunctionId,
    } = "no-spdm-mailbox", Device, ENXIO,
        "{device} has no DOE mailbox that takes SPDM (CMA)",
        "the device cannot be authenticated this way; update its firmware if it should be";
    /// No pages for messages.
    NoMessagePages {
        /// The device.
        device: FunctionId,
    } = "no-message-pages", Host, ENXIO,
        "{device}: no memory for the pages of its messages",
        "free memory and connect again";
    /// The mailbox takes no secured messages.
    MailboxNotSecured {
        /// The device.
        device: FunctionId,
    } = "mailbox-not-secured", Device, EINVAL,
        "{device}: the DOE mailbox that takes SPDM takes no secured SPDM messages",
        "one mailbox has to take both; update the device's firmware";
    /// The function has no id for the module.
    SegmentTooLarge {
        /// The device.
        device: FunctionId,
        /// Its segment.
        segment: Segment,
    } = "segment-too-large", Platform, EINVAL,
        "{device}: segment {segment} has no place in a function id",
        "only segments up to 00ff can be used: look for a BIOS setting that numbers them";
    /// The module says nothing about page counts.
    NoConnectMetadata {
        /// The device.
        device: FunctionId,
    } = "no-connect-metadata", Host, EFAULT,
        "{device}: the module's metadata of TDX Connect were not read",
        "TDX Connect is off: look at the Connect state of the host";
    /// No memory.
    NoMemory {
        /// The device.
        device: FunctionId,
        /// 4 KiB pages that were wanted.
        pages: usize,
    } = "device-no-memory", Host, ENOMEM,
        "{device}: no {pages} pages of memory to be had",
        "free memory and connect again";
    /// The host's own access to its pages failed.
    PageAccess {
        /// The device.
        device: FunctionId,
        /// How.
        fault: MemoryFault,
    } = "message-page-access", Platform, EFAULT,
        "{device}: {fault} while its pages were read or written",
        "failing memory: look at the machine check log and replace the module it names";
    /// The host cannot call the module.
    HostFailed {
        /// The device.
        device: FunctionId,
        /// Why.
        error: HostError,
    } = "device-host-failed", Host, EFAULT,
        "{device}: {error}",
        "see the failure that is named; the connection was undone as far as it had got";
    /// The host is going down.
    GoingDown {
        /// The device.
        device: FunctionId,
    } = "device-going-down", Caller, ESHUTDOWN,
        "{device}: the host is going down",
        "connect again after the next boot";
    /// An update that failed left the module shut down.
    ModuleDown {
        /// The device.
        device: FunctionId,
    } = "device-module-down", Caller, EBUSY,
        "{device}: an update that failed left the TDX module shut down, its connection can be neither made nor ended",
        "install a module, then try again";
    /// A call failed.
    CallFailed {
        /// The device.
        device: FunctionId,
        /// The call.
        error: SeamcallError,
    } = "device-call-failed", Module, EFAULT,
        "{device}: {error}",
        "look the status up; if it is none that the state explains, it is a bug of the module or of this host";
    /// The module cannot be satisfied with the device's answers.
    DeviceRefused {
        /// The device.
        device: FunctionId,
        /// The call.
        error: SeamcallError,
        /// What was wrong.
        refusal: Refusal,
    } = "device-refused", Device, EFAULT,
        "{device}: {error}: {refusal}",
        "the device breaks the SPDM protocol: update its firmware; a trace of the exchange shows the answer";
    /// The device is not who it says.
    NotAuthentic {
        /// The device.
        device: FunctionId,
        /// The call.
        error: SeamcallError,
        /// What did not verify.
        refusal: Refusal,
    } = "device-not-authentic", Device, EFAULT,
        "{device} could not be authenticated: {error}: {refusal}",
        "somebody stands between, or the device has the wrong certificate or key: do not use it before that is known";
    /// The device does not take keys for its link.
    KeysRefused {
        /// The device.
        device: FunctionId,
        /// The call.
        error: SeamcallError,
        /// What it answered.
        refusal: Refusal,
    } = "device-keys-refused", Device, EFAULT,
        "{device} did not take the keys of its link: {error}: {refusal}",
        "the device breaks the IDE_KM protocol or refused the stream: update its firmware";
    /// The root port is not ready.
    KeysNotReady {
        /// The device.
        device: FunctionId,
        /// The call.
        error: SeamcallError,
    } = "root-port-keys-not-ready", Platform, EFAULT,
        "{device}: its root port does not say that it has the keys: {error}",
        "reset the port and connect again; if it stays, the platform's key unit fails";
    /// The module asks for a message that is none.
    BadRequest {
        /// The device.
        device: FunctionId,
        /// Bytes, as the module told.
        bytes: u64,
    } = "bad-message-request", Module, EFAULT,
        "{device}: the module wants a message of {bytes} bytes sent that is no data object for SPDM",
        "a bug of the TDX module: install another one";
    /// The module goes round in circles.
    NoEnd {
        /// The device.
        device: FunctionId,
        /// Messages that went both ways.
        messages: u32,
    } = "device-no-end", Device, EFAULT,
        "{device}: no end after {messages} messages",
        "the device keeps the module asking: update its firmware";
    /// More device information than there is room for.
    BadInformation {
        /// The device.
        device: FunctionId,
        /// Bytes, as the module told.
        bytes: u64,
    } = "bad-device-information", Module, EFAULT,
        "{device}: the module tells of {bytes} bytes of device information, more than it was given room for",
        "a bug of the TDX module: install another one";
    /// An exchange failed.
    ExchangeFailed {
        /// The device.
        device: FunctionId,
        /// How.
        error: DoeError,
    } = "doe-exchange-failed", Device, EIO,
        "{device}: its DOE mailbox: {error}",
        "connect again; reset the device if it stays silent";
    /// The mailbox is dead.
    MailboxDead {
        /// The device.
        device: FunctionId,
    } = "doe-mailbox-dead", Device, EIO,
        "{device}: its DOE mailbox did not come back from an abort and is dead until the device is reset",
        "reset the device, then connect again";
    /// The device is not there any more.
    DeviceGone {
        /// The device.
        device: FunctionId,
    } = "device-gone-away", Device, EIO,
        "{device} does not answer any more",
        "somebody took it out or its link is down: put it back and rescan";
    /// No selective IDE at one end.
    NoIde {
        /// The device.
        device: FunctionId,
        /// The function without it.
        port: FunctionId,
    } = "no-selective-ide", Device, ENOMEM,
        "{device}: {port} has no register block for a selective IDE stream",
        "device and root port both need selective IDE: use another slot or another device";
    /// No root port above.
    NoRootPort {
        /// The device.
        device: FunctionId,
    } = "no-root-port", Device, ENOMEM,
        "{device} is no endpoint below a root port, and links are secured between those",
        "endpoints inside the root complex and behind switches cannot be connected";
    /// The bridge has no stream left.
    NoStreamOnBridge {
        /// The device.
        device: FunctionId,
        /// The bridge.
        bridge: HostBridge,
        /// Streams that it has.
        streams: u16,
    } = "no-stream-on-bridge", Platform, ENOMEM,
        "{device}: none of the {streams} secure streams of {bridge} is left",
        "disconnect another device below that host bridge, or move this one";
    /// The root port has no stream left.
    NoStreamOnRootPort {
        /// The device.
        device: FunctionId,
        /// The port.
        port: FunctionId,
    } = "no-stream-on-root-port", Platform, ENOMEM,
        "{device}: root port {port} has no selective stream left",
        "disconnect another function below that port";
    /// The endpoint has no stream left.
    NoStreamOnEndpoint {
        /// The device.
        device: FunctionId,
    } = "no-stream-on-endpoint", Device, ENOMEM,
        "{device} has no selective stream left",
        "somebody else left a stream enabled there: reset the device";
    /// There are not exactly one addresses to associate.
    NoAddressWindow {
        /// The device.
        device: FunctionId,
        /// The port above it.
        port: FunctionId,
    } = "no-address-window", Platform, EFAULT,
        "{device}: the prefetchable window of {port} above it gives no address association of whole MiB",
        "the device's memory has to lie in a 64-bit prefetchable window: look for `Above 4G Decoding` in the BIOS setup";
    /// A stream id that nobody may have.
    BadStreamId {
        /// The device.
        device: FunctionId,
        /// The id.
        stream: u64,
    } = "bad-stream-id", Module, ENXIO,
        "{device}: the module gave out stream id {stream}, which no register holds",
        "a bug of the TDX module: install another one";
    /// The stream id is taken.
    StreamIdInUse {
        /// The device.
        device: FunctionId,
        /// The bridge.
        bridge: HostBridge,
        /// The id.
        stream: u8,
    } = "stream-id-in-use", Platform, EBUSY,
        "{device}: stream id {stream} of {bridge} is in use",
        "a stream that firmware left enabled holds it: disconnect that one";
    /// The module uses another register block of the root port, and that is taken.
    RootPortBlockInUse {
        /// The device.
        device: FunctionId,
        /// The port.
        port: FunctionId,
        /// The block.
        block: u8,
    } = "root-port-block-in-use", Platform, EBUSY,
        "{device}: the module took register block {block} of {port}, which is in use",
        "a stream that firmware left enabled holds it: disconnect that one";
    /// The stream did not become secure.
    NotSecure {
        /// The device.
        device: FunctionId,
        /// What it is in.
        state: StreamState,
    } = "stream-not-secure", Device, ENXIO,
        "{device}: its stream is {state} after it was enabled",
        "keys of both ends do not fit or the link failed: connect again, then reset the device";
    /// The stream of a connected device failed.
    StreamLost {
        /// The device.
        device: FunctionId,
    } = "stream-lost", Device, EIO,
        "{device} was disconnected: its stream is not secure any more, an integrity check failed or its link went down",
        "connect it again; if it stays, somebody tampers with the link or the slot is bad";
    /// The session of a connected device failed.
    SessionLost {
        /// The device.
        device: FunctionId,
    } = "session-lost", Device, EIO,
        "{device} was disconnected: an exchange that failed has cost the module its session with it or the keys of its stream",
        "connect it again; update the device's firmware if it stays";
    /// The module gave fewer pages back than it took.
    PagesMissing {
        /// The device.
        device: FunctionId,
        /// Pages that it kept.
        pages: usize,
    } = "pages-missing", Module, EFAULT,
        "{device}: the module kept {pages} pages of an object that it deleted; they are never used again",
        "a bug of the TDX module: no more devices are connected; install a fixed one and reset the machine";
}

/// The row of a name; `None` if no failure of a TSM has it.
pub fn find(name: &str) -> Option<&'static ErrorInfo> {
    TSM_ERRORS.iter().find(|info| info.name == name)
}
