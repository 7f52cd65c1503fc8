//! The server of the emulators' socket protocol: commands of one client after another, and what a
//! device security manager (DSM) says to their data objects.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pcie::doe::{
    DiscoveryRequest, DiscoveryResponse, Header, Object, ObjectError, ObjectType, SupportedTypes,
};
use spdm::Kind;

use super::record::{Recorder, Sender};
use super::socket::{Command, Limits, Link, SERVER_HELLO, SocketError, Stream, Tcp};

/// A device security manager, behind its mailbox.
pub trait Dsm {
    /// Answers the payload of one data object; `None`: silence. What is told to `recorder` stays
    /// with its files.
    fn exchange(&mut self, kind: Kind, payload: &[u8], recorder: &mut Recorder) -> Option<(Kind, Vec<u8>)>;

    /// The client is gone without a [`Command::CONTINUE`]: sessions end.
    fn disconnected(&mut self, recorder: &mut Recorder);
}

/// Why a connection ended.
#[derive(Debug)]
pub enum ConnectionEnd {
    /// The client goes and leaves the device as it is.
    Continue,
    /// The client wants the server to end.
    Shutdown,
    /// The client closed the connection without a word.
    Closed,
    /// We were told to stop.
    Stopped,
    /// A command that nobody defined.
    UnknownCommand(Command),
    /// The payload of a command is no data object.
    Object(ObjectError),
    /// A data object of a type that the mailbox does not take.
    ObjectType(ObjectType),
    /// The stream failed, or what came on it was no frame.
    Socket(SocketError),
}

impl ConnectionEnd {
    /// Whether the client kept to the protocol until the end.
    pub const fn is_orderly(&self) -> bool {
        matches!(self, Self::Continue | Self::Shutdown | Self::Closed | Self::Stopped)
    }

    /// A short word for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Shutdown => "shutdown",
            Self::Closed => "closed",
            Self::Stopped => "stopped",
            Self::UnknownCommand(_) => "unknown-command",
            Self::Object(_) => "bad-object",
            Self::ObjectType(_) => "object-type",
            Self::Socket(SocketError::Silent(_)) => "silent",
            Self::Socket(SocketError::Stalled { .. }) => "stalled",
            Self::Socket(SocketError::Cut { .. } | SocketError::Closed) => "cut",
            Self::Socket(SocketError::Transport(_)) => "wrong-transport",
            Self::Socket(SocketError::TooLong { .. }) => "too-long",
            Self::Socket(SocketError::WrongAnswer { .. }) => "wrong-answer",
            Self::Socket(SocketError::Io { .. }) => "socket",
        }
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("the client went and the device keeps its state"),
            Self::Shutdown => f.write_str("the client asked for a shutdown"),
            Self::Closed => f.write_str("the client closed the connection"),
            Self::Stopped => f.write_str("stopped by a signal"),
            Self::UnknownCommand(command) => write!(f, "command {command} is not known"),
            Self::Object(error) => write!(f, "no data object came: {error}"),
            Self::ObjectType(found) => {
                write!(
                    f,
                    "a data object is of {found}, and the mailbox takes discovery, SPDM and secured SPDM"
                )
            }
            Self::Socket(error) => error.fmt(f),
        }
    }
}

/// What passed on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames of the client.
    pub frames: u64,
    /// SPDM messages of the client, in the clear and secured.
    pub messages: u64,
    /// Of these, how many were met with silence.
    pub unanswered: u64,
    /// Bytes of the client, headers of frames included.
    pub received: u64,
    /// Bytes to the client, headers of frames included.
    pub sent: u64,
}

/// One connection, looked back upon.
#[derive(Debug)]
pub struct ConnectionReport {
    /// The client.
    pub peer: SocketAddr,
    /// What passed.
    pub tally: Tally,
    /// How long it lasted.
    pub elapsed: Duration,
    /// Why it ended.
    pub end: ConnectionEnd,
}

/// Why serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeEnd {
    /// A client asked for it.
    Shutdown,
    /// [`Stop::stop`].
    Stopped,
}

/// Why there is nothing to serve on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}{}", advice(.cause))]
    Bind {
        /// The address.
        address: String,
        /// The operating system's reason.
        cause: io::Error,
    },
    /// No further connection is given to us.
    #[error("cannot take a connection on {address}: {cause}")]
    Accept {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        cause: io::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => {
            "; another program listens there: choose another port, or port 0 for a free one"
        }
        ErrorKind::AddrNotAvailable => "; no interface of this machine has that address: try 127.0.0.1",
        ErrorKind::InvalidInput => "; an address is HOST:PORT, such as 127.0.0.1:2323",
        ErrorKind::PermissionDenied => "; ports below 1024 are for root: choose a higher one",
        _ => "",
    }
}

#[derive(Debug)]
struct StopState {
    asked: AtomicBool,
    /// The connection that is served.
    current: Mutex<Option<TcpStream>>,
    address: SocketAddr,
}

/// Ends the serving from another thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<StopState>);

impl Stop {
    /// Ends the connection that is served and takes no further one.
    pub fn stop(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        if let Some(stream) = self.0.current.lock().as_ref() {
            // Fails only if the client has closed it.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // Who waits for a connection is woken by one. If there is no room for it, others wait already.
        let _ = TcpStream::connect_timeout(&reachable(self.0.address), Duration::from_secs(1));
    }

    fn asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }
}

/// An address at which a listener of `address` is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A socket on which clients are served one after another.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    limits: Limits,
    stop: Stop,
}

impl Server {
    /// Listens on `address`, such as `127.0.0.1:2323`; port 0 takes a free one.
    pub fn bind(address: &str, limits: Limits) -> Result<Self, ListenError> {
        let refused = |cause| ListenError::Bind { address: address.to_owned(), cause };
        let listener = TcpListener::bind(address).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let state = StopState { asked: AtomicBool::new(false), current: Mutex::new(None), address };
        Ok(Self { listener, limits, stop: Stop(Arc::new(state)) })
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.stop.0.address
    }

    /// What ends [`serve`](Self::serve).
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves clients until one asks for a shutdown, or until it is told to stop. `report` hears of
    /// every connection when it has ended.
    pub fn serve(
        &self,
        dsm: &mut dyn Dsm,
        recorder: &mut Recorder,
        report: &mut dyn FnMut(&ConnectionReport),
    ) -> Result<ServeEnd, ListenError> {
        loop {
            let accepted = self.listener.accept();
            if self.stop.asked() {
                return Ok(ServeEnd::Stopped);
            }
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                // The client went before it was its turn.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) =>
                {
                    continue;
                }
                Err(cause) => return Err(ListenError::Accept { address: self.address(), cause }),
            };
            let started = Instant::now();
            let mut tally = Tally::default();
            let end = self.connection(stream, dsm, recorder, &mut tally);
            if !matches!(end, ConnectionEnd::Continue | ConnectionEnd::Shutdown) {
                dsm.disconnected(recorder);
            }
            let shutdown = matches!(end, ConnectionEnd::Shutdown);
            report(&ConnectionReport { peer, tally, elapsed: started.elapsed(), end });
            if self.stop.asked() {
                return Ok(ServeEnd::Stopped);
            }
            if shutdown {
                return Ok(ServeEnd::Shutdown);
            }
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
        dsm: &mut dyn Dsm,
        recorder: &mut Recorder,
        tally: &mut Tally,
    ) -> ConnectionEnd {
        *self.stop.0.current.lock() = stream.try_clone().ok();
        let end = match Tcp::new(stream) {
            // It may have come between the look in front of this and the line above.
            Ok(_) if self.stop.asked() => ConnectionEnd::Stopped,
            Ok(tcp) => {
                let mut link = Link::new(tcp, self.limits);
                let end = serve_commands(&mut link, dsm, recorder, tally);
                link.stream().close();
                end
            }
            Err(error) => ConnectionEnd::Socket(error),
        };
        *self.stop.0.current.lock() = None;
        // A stop looks like a client that went.
        if self.stop.asked() && !matches!(end, ConnectionEnd::Shutdown) {
            ConnectionEnd::Stopped
        } else {
            end
        }
    }
}

/// Serves the commands of one client until the connection has to end.
pub fn serve_commands<S: Stream>(
    link: &mut Link<S>,
    dsm: &mut dyn Dsm,
    recorder: &mut Recorder,
    tally: &mut Tally,
) -> ConnectionEnd {
    let mut answer = Vec::new();
    loop {
        let frame = match link.receive() {
            Ok(Some(frame)) => frame,
            Ok(None) => return ConnectionEnd::Closed,
            Err(error) => return ConnectionEnd::Socket(error),
        };
        tally.frames += 1;
        tally.received += frame.size() as u64;
        answer.clear();
        let command = frame.command;
        let end = match command {
            Command::NORMAL => match answer_object(frame.payload, dsm, recorder, tally, &mut answer) {
                Ok(true) => None,
                Ok(false) => continue,
                Err(end) => return end,
            },
            Command::TEST => {
                answer.extend_from_slice(SERVER_HELLO);
                None
            }
            // Nothing begins: a requester that asks for encapsulated requests hears that there are none.
            Command::ENCAP_KEY_UPDATE => None,
            Command::CONTINUE => Some(ConnectionEnd::Continue),
            Command::SHUTDOWN => Some(ConnectionEnd::Shutdown),
            unknown => Some(ConnectionEnd::UnknownCommand(unknown)),
        };
        let answered = match end {
            Some(ConnectionEnd::UnknownCommand(_)) => Command::UNKNOWN,
            _ => command,
        };
        let sent = link.send(answered, &answer);
        match (end, sent) {
            // Who leaves need not wait for the answer.
            (Some(end), _) => {
                tally.sent += (super::socket::HEADER_SIZE + answer.len()) as u64;
                return end;
            }
            (None, Err(error)) => return ConnectionEnd::Socket(error),
            (None, Ok(())) => tally.sent += (super::socket::HEADER_SIZE + answer.len()) as u64,
        }
    }
}

/// Answers one data object; whether there is an answer.
fn answer_object(
    bytes: &[u8],
    dsm: &mut dyn Dsm,
    recorder: &mut Recorder,
    tally: &mut Tally,
    answer: &mut Vec<u8>,
) -> Result<bool, ConnectionEnd> {
    let object = Object::parse(bytes).map_err(ConnectionEnd::Object)?;
    recorder.object(Sender::Requester, bytes);
    let kind = match object.object_type {
        ObjectType::DISCOVERY => {
            let response = discover(object.payload).map_err(ConnectionEnd::Object)?;
            let payload = response.encode().to_le_bytes();
            write_object(ObjectType::DISCOVERY, &payload, answer).map_err(ConnectionEnd::Object)?;
            recorder.object(Sender::Responder, answer);
            return Ok(true);
        }
        ObjectType::SPDM => Kind::Clear,
        ObjectType::SECURED_SPDM => Kind::Secured,
        other => return Err(ConnectionEnd::ObjectType(other)),
    };
    tally.messages += 1;
    let Some((kind, payload)) = dsm.exchange(kind, object.payload, recorder) else {
        tally.unanswered += 1;
        return Ok(false);
    };
    write_object(object_type(kind), &payload, answer).map_err(ConnectionEnd::Object)?;
    recorder.object(Sender::Responder, answer);
    Ok(true)
}

/// The type of the data object in which such a message travels.
pub const fn object_type(kind: Kind) -> ObjectType {
    match kind {
        Kind::Clear => ObjectType::SPDM,
        Kind::Secured => ObjectType::SECURED_SPDM,
    }
}

/// Makes `out` the data object around `payload`.
pub fn write_object(object_type: ObjectType, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ObjectError> {
    let object = Object { object_type, payload };
    out.resize(object.header()?.length.bytes(), 0);
    object.write(out).map(|_| ())
}

fn discover(payload: &[u8]) -> Result<DiscoveryResponse, ObjectError> {
    let dword = payload.try_into().map_err(|_| ObjectError::Length {
        expected: Header::BYTES + 4,
        found: Header::BYTES + payload.len(),
    })?;
    let request = DiscoveryRequest::decode(u32::from_le_bytes(dword))?;
    Ok(SupportedTypes::SPDM.discover(request.index))
}

#[cfg(test)]
mod tests;
