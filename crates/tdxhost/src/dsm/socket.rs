//! The socket protocol of the SPDM emulators: frames of one command each over a stream.
//!
//! A frame is three big-endian 32-bit words (command, transport, size of the payload) and the
//! payload. The requester is the client. With PCI DOE as transport the payload of
//! [`Command::NORMAL`] is a whole data object.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Size of the three words in front of a payload, in bytes.
pub const HEADER_SIZE: usize = 12;
/// What the client of a [`Command::TEST`] sends, with the zero at its end.
pub const CLIENT_HELLO: &[u8] = b"Client Hello!\0";
/// What the server answers to it.
pub const SERVER_HELLO: &[u8] = b"Server Hello!\0";
/// Port that the emulators use for PCI DOE.
pub const DEFAULT_PORT: u16 = 2323;

/// What a frame asks for, or answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u32);

impl Command {
    /// A data object.
    pub const NORMAL: Self = Self(0x0001);
    /// The responder is to begin an encapsulated key update; the payload is a session id.
    pub const ENCAP_KEY_UPDATE: Self = Self(0x8001);
    /// The client goes, the server keeps its state and takes the next connection.
    pub const CONTINUE: Self = Self(0xfffd);
    /// The client goes and the server ends.
    pub const SHUTDOWN: Self = Self(0xfffe);
    /// The answer to a command that the server does not know.
    pub const UNKNOWN: Self = Self(0xffff);
    /// Are you there?
    pub const TEST: Self = Self(0xdead);

    /// The name of a known command.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::NORMAL => Some("normal"),
            Self::ENCAP_KEY_UPDATE => Some("encapsulated-key-update"),
            Self::CONTINUE => Some("continue"),
            Self::SHUTDOWN => Some("shutdown"),
            Self::UNKNOWN => Some("unknown"),
            Self::TEST => Some("test"),
            _ => None,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the payloads of a connection belong to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransportType(pub u32);

impl TransportType {
    /// Bare SPDM messages.
    pub const NONE: Self = Self(0);
    /// MCTP packets.
    pub const MCTP: Self = Self(1);
    /// PCI DOE data objects: the one that is spoken here.
    pub const PCI_DOE: Self = Self(2);
    /// SPDM over TCP.
    pub const TCP: Self = Self(3);
}

impl fmt::Display for TransportType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("none (0)"),
            Self::MCTP => f.write_str("MCTP (1)"),
            Self::PCI_DOE => f.write_str("PCI DOE (2)"),
            Self::TCP => f.write_str("TCP (3)"),
            Self(other) => write!(f, "{other:#x}"),
        }
    }
}

impl fmt::Debug for TransportType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One frame of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it asks for, or answers.
    pub command: Command,
    /// What belongs to it.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Size on the stream in bytes, header included.
    pub const fn size(&self) -> usize {
        HEADER_SIZE + self.payload.len()
    }
}

/// How much and how long is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload in bytes.
    pub max_payload: usize,
    /// Longest silence in front of a frame.
    pub idle: Duration,
    /// Longest time from a frame's first byte to its last, and for the writing of one.
    pub frame: Duration,
}

impl Limits {
    /// Size of the largest data object: 2^18 dwords.
    pub const MAX_OBJECT: usize = 1 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_payload: Self::MAX_OBJECT, idle: Duration::from_secs(30), frame: Duration::from_secs(5) }
    }
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Nothing came for too long.
    #[error("no frame came for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// A frame began and did not end.
    #[error("a frame stopped after {got} of {needed} bytes and did not go on for {:.1} s", .waited.as_secs_f64())]
    Stalled {
        /// Bytes that came.
        got: usize,
        /// Bytes that the frame has, as far as is known.
        needed: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// The stream ended inside a frame.
    #[error("the connection was closed after {got} of {needed} bytes of a frame")]
    Cut {
        /// Bytes that came.
        got: usize,
        /// Bytes that the frame has, as far as is known.
        needed: usize,
    },
    /// The stream ended where an answer was due.
    #[error("the connection was closed before an answer came")]
    Closed,
    /// The frame belongs to another transport.
    #[error("a frame says transport {0}, not PCI DOE (2); start the other side with PCI DOE as transport")]
    Transport(TransportType),
    /// The payload is longer than the limit.
    #[error("a frame says it has {size} bytes of payload, and {limit} is the most that is taken")]
    TooLong {
        /// What the header says.
        size: u32,
        /// What is taken.
        limit: usize,
    },
    /// The answer to a command is one to another.
    #[error("command {sent} was answered with command {received}")]
    WrongAnswer {
        /// What was sent.
        sent: Command,
        /// What came.
        received: Command,
    },
    /// The operating system refused.
    #[error("cannot {what}: {cause}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Its reason.
        cause: io::Error,
    },
}

/// A stream of bytes that does not wait for ever.
pub trait Stream {
    /// Reads what is there, at least one byte; 0 at the end of the stream. Waits at most `wait`,
    /// then fails with [`ErrorKind::WouldBlock`] or [`ErrorKind::TimedOut`].
    fn receive(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize>;

    /// Writes all of `bytes` at once.
    fn send(&mut self, bytes: &[u8], wait: Duration) -> io::Result<()>;
}

/// A TCP connection without Nagle's delay.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    /// The time-outs that the socket has, to set them only when they change.
    read: Option<Duration>,
    write: Option<Duration>,
}

impl Tcp {
    /// Takes a connection over.
    pub fn new(stream: TcpStream) -> Result<Self, SocketError> {
        stream.set_nodelay(true).map_err(|cause| SocketError::Io { what: "set TCP_NODELAY", cause })?;
        Ok(Self { stream, read: None, write: None })
    }

    /// The connection itself.
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Ends the connection in both directions. What was written still arrives.
    pub fn close(&self) {
        // Fails only if the other side has closed it.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Stream for Tcp {
    fn receive(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        if self.read != Some(wait) {
            self.stream.set_read_timeout(Some(wait))?;
            self.read = Some(wait);
        }
        self.stream.read(buffer)
    }

    fn send(&mut self, bytes: &[u8], wait: Duration) -> io::Result<()> {
        if self.write != Some(wait) {
            self.stream.set_write_timeout(Some(wait))?;
            self.write = Some(wait);
        }
        self.stream.write_all(bytes)
    }
}

/// Frames over a stream.
#[derive(Debug)]
pub struct Link<S> {
    stream: S,
    limits: Limits,
    /// Bytes of the stream, of which the first `filled` came and the first `taken` were handed out.
    inbox: Vec<u8>,
    filled: usize,
    taken: usize,
    outbox: Vec<u8>,
}

impl<S: Stream> Link<S> {
    /// Room for the frames of a usual session.
    const FIRST_ROOM: usize = 8 << 10;

    /// Frames over `stream`.
    pub fn new(stream: S, limits: Limits) -> Self {
        Self { stream, limits, inbox: vec![0; Self::FIRST_ROOM], filled: 0, taken: 0, outbox: Vec::new() }
    }

    /// The stream below.
    pub const fn stream(&self) -> &S {
        &self.stream
    }

    /// The next frame; `None` if the other side has closed the stream between two frames.
    pub fn receive(&mut self) -> Result<Option<Frame<'_>>, SocketError> {
        self.inbox.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;

        let mut needed = HEADER_SIZE;
        let command;
        let mut began = None;
        loop {
            if let Some(header) = self.inbox.get(..self.filled).and_then(<[u8]>::first_chunk) {
                let (announced, size) = self.check(header)?;
                needed = HEADER_SIZE + size;
                if self.filled >= needed {
                    command = announced;
                    break;
                }
                if self.inbox.len() < needed {
                    self.inbox.resize(needed, 0);
                }
            }
            let wait = match (self.filled, began) {
                (0, _) => self.limits.idle,
                (_, None) => {
                    began = Some(Instant::now());
                    self.limits.frame
                }
                (_, Some(began)) => self.limits.frame.saturating_sub(began.elapsed()),
            };
            match self.fill(wait) {
                Ok(0) if self.filled == 0 => return Ok(None),
                Ok(0) => return Err(SocketError::Cut { got: self.filled, needed }),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A socket says the one or the other, as its operating system likes.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(self.waited_in_vain(needed));
                }
                Err(error) if self.filled == 0 && is_gone(&error) => return Ok(None),
                Err(cause) => return Err(SocketError::Io { what: "read a frame", cause }),
            }
        }
        self.taken = needed;
        let payload = self.inbox.get(HEADER_SIZE..needed).unwrap_or_default();
        Ok(Some(Frame { command, payload }))
    }

    /// Sends a frame with one write.
    pub fn send(&mut self, command: Command, payload: &[u8]) -> Result<(), SocketError> {
        let too_long = |size| SocketError::TooLong { size, limit: self.limits.max_payload };
        let size = u32::try_from(payload.len()).map_err(|_| too_long(u32::MAX))?;
        if payload.len() > self.limits.max_payload {
            return Err(too_long(size));
        }
        self.outbox.clear();
        for word in [command.0, TransportType::PCI_DOE.0, size] {
            self.outbox.extend_from_slice(&word.to_be_bytes());
        }
        self.outbox.extend_from_slice(payload);
        self.stream
            .send(&self.outbox, self.limits.frame)
            .map_err(|cause| SocketError::Io { what: "send a frame", cause })
    }

    /// Sends a frame and waits for the answer, which must be one to the same command.
    pub fn exchange(&mut self, command: Command, payload: &[u8]) -> Result<&[u8], SocketError> {
        self.send(command, payload)?;
        match self.receive()? {
            None => Err(SocketError::Closed),
            Some(frame) if frame.command == command => Ok(frame.payload),
            Some(frame) => Err(SocketError::WrongAnswer { sent: command, received: frame.command }),
        }
    }

    /// Command of the frame and size of its payload.
    fn check(&self, header: &[u8; HEADER_SIZE]) -> Result<(Command, usize), SocketError> {
        let &[c0, c1, c2, c3, t0, t1, t2, t3, s0, s1, s2, s3] = header;
        let transport = TransportType(u32::from_be_bytes([t0, t1, t2, t3]));
        if transport != TransportType::PCI_DOE {
            return Err(SocketError::Transport(transport));
        }
        let size = u32::from_be_bytes([s0, s1, s2, s3]);
        let limit = self.limits.max_payload;
        let taken = usize::try_from(size).ok().filter(|&size| size <= limit);
        let payload = taken.ok_or(SocketError::TooLong { size, limit })?;
        Ok((Command(u32::from_be_bytes([c0, c1, c2, c3])), payload))
    }

    fn fill(&mut self, wait: Duration) -> io::Result<usize> {
        if wait.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let room = self.inbox.get_mut(self.filled..).unwrap_or_default();
        self.stream.receive(room, wait)
    }

    const fn waited_in_vain(&self, needed: usize) -> SocketError {
        if self.filled == 0 {
            SocketError::Silent(self.limits.idle)
        } else {
            SocketError::Stalled { got: self.filled, needed, waited: self.limits.frame }
        }
    }
}

/// Whether the other side ended the connection the hard way.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::TcpListener;

    use super::*;

    /// A stream of prepared pieces, which keeps what is written.
    #[derive(Default)]
    struct Pieces {
        incoming: VecDeque<io::Result<Vec<u8>>>,
        written: Vec<Vec<u8>>,
        waits: Vec<Duration>,
    }

    impl Stream for Pieces {
        fn receive(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
            self.waits.push(wait);
            let mut piece = self.incoming.pop_front().unwrap_or(Ok(Vec::new()))?;
            let count = piece.len().min(buffer.len());
            buffer[..count].copy_from_slice(&piece[..count]);
            if count < piece.len() {
                self.incoming.push_front(Ok(piece.split_off(count)));
            }
            Ok(count)
        }

        fn send(&mut self, bytes: &[u8], _wait: Duration) -> io::Result<()> {
            self.written.push(bytes.to_vec());
            Ok(())
        }
    }

    fn frame(command: u32, transport: u32, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap();
        let header = [command, transport, size].map(u32::to_be_bytes).concat();
        [&header, payload].concat()
    }

    fn link(pieces: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Link<Pieces> {
        Link::new(Pieces { incoming: pieces.into_iter().collect(), ..Pieces::default() }, Limits::default())
    }

    #[test]
    fn frames_come_out_whole_however_the_stream_cuts_them() {
        let bytes = [frame(1, 2, &[7; 20]), frame(0xdead, 2, CLIENT_HELLO), frame(0xfffd, 2, &[])].concat();
        for size in [1, 2, 5, 12, 13, 33, bytes.len()] {
            let mut link = link(bytes.chunks(size).map(|piece| Ok(piece.to_vec())));
            let first = Frame { command: Command::NORMAL, payload: &[7; 20] };
            assert_eq!(link.receive().unwrap(), Some(first), "in pieces of {size}");
            let second = Frame { command: Command::TEST, payload: CLIENT_HELLO };
            assert_eq!(link.receive().unwrap(), Some(second), "in pieces of {size}");
            assert_eq!(link.receive().unwrap(), Some(Frame { command: Command::CONTINUE, payload: &[] }));
            assert_eq!(link.receive().unwrap(), None);
        }
    }

    #[test]
    fn a_frame_larger_than_the_first_room_arrives() {
        let payload = vec![0x5a; 3 * Link::<Pieces>::FIRST_ROOM];
        let mut link = link([Ok(frame(1, 2, &payload))]);
        assert_eq!(link.receive().unwrap().unwrap().payload, payload);
    }

    #[test]
    fn a_frame_leaves_with_one_write() {
        let mut link = link([]);
        link.send(Command::TEST, SERVER_HELLO).unwrap();
        assert_eq!(link.stream().written, [frame(0xdead, 2, b"Server Hello!\0")]);
    }

    #[test]
    fn another_transport_is_refused_before_its_payload_is_read() {
        for transport in [0, 1, 3, 0x0200_0000] {
            let mut link = link([Ok(frame(1, transport, &[0; 8])[..HEADER_SIZE].to_vec())]);
            let refused = link.receive();
            assert!(matches!(refused, Err(SocketError::Transport(TransportType(t))) if t == transport));
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_before_room_is_made_for_it() {
        let mut header = frame(1, 2, &[]);
        header[8..].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut receiving = link([Ok(header.clone())]);
        assert!(matches!(
            receiving.receive(),
            Err(SocketError::TooLong { size: u32::MAX, limit: 0x10_0000 })
        ));
        assert_eq!(receiving.inbox.len(), Link::<Pieces>::FIRST_ROOM);

        let mut sending = link([]);
        let refused = sending.send(Command::NORMAL, &vec![0; Limits::MAX_OBJECT + 1]);
        assert!(matches!(refused, Err(SocketError::TooLong { size: 0x10_0001, .. })));
        assert!(sending.stream().written.is_empty());
    }

    #[test]
    fn the_end_of_the_stream_inside_a_frame_is_told_from_one_between_frames() {
        let mut header_only = link([Ok(frame(1, 2, &[1; 8])[..5].to_vec())]);
        assert!(matches!(header_only.receive(), Err(SocketError::Cut { got: 5, needed: 12 })));
        let mut payload_cut = link([Ok(frame(1, 2, &[1; 8])[..15].to_vec())]);
        assert!(matches!(payload_cut.receive(), Err(SocketError::Cut { got: 15, needed: 20 })));
        assert!(matches!(link([]).receive(), Ok(None)));
        let reset = || Err(ErrorKind::ConnectionReset.into());
        assert!(matches!(link([reset()]).receive(), Ok(None)));
        assert!(matches!(link([Ok(vec![0]), reset()]).receive(), Err(SocketError::Io { .. })));
    }

    #[test]
    fn silence_in_front_of_a_frame_and_inside_one_have_their_own_limits_and_names() {
        let late = || Err(ErrorKind::WouldBlock.into());
        let mut silent = link([late()]);
        assert!(
            matches!(silent.receive(), Err(SocketError::Silent(waited)) if waited == Limits::default().idle)
        );
        assert_eq!(silent.stream().waits, [Limits::default().idle]);

        let mut stalled = link([Ok(frame(1, 2, &[1; 8])[..14].to_vec()), late()]);
        let error = stalled.receive().unwrap_err();
        assert!(matches!(error, SocketError::Stalled { got: 14, needed: 20, .. }));
        assert_eq!(stalled.stream().waits, [Limits::default().idle, Limits::default().frame]);
        assert_eq!(error.to_string(), "a frame stopped after 14 of 20 bytes and did not go on for 5.0 s");
    }

    #[test]
    fn bytes_that_trickle_do_not_make_the_time_for_a_frame_longer() {
        let limits = Limits { frame: Duration::from_nanos(1), ..Limits::default() };
        let trickle = (0..20).map(|_| Ok(vec![0]));
        let mut link = Link::new(Pieces { incoming: trickle.collect(), ..Pieces::default() }, limits);
        // The first wait inside the frame is granted, the next has used it up.
        assert!(matches!(link.receive(), Err(SocketError::Stalled { got: 2, .. })));
    }

    #[test]
    fn an_interrupted_read_is_tried_again() {
        let mut link = link([Err(ErrorKind::Interrupted.into()), Ok(frame(0xfffe, 2, &[]))]);
        assert_eq!(link.receive().unwrap().unwrap().command, Command::SHUTDOWN);
    }

    #[test]
    fn an_answer_must_be_one_to_the_command() {
        let mut right = link([Ok(frame(0xdead, 2, SERVER_HELLO))]);
        assert_eq!(right.exchange(Command::TEST, CLIENT_HELLO).unwrap(), SERVER_HELLO);
        let mut other = link([Ok(frame(0xffff, 2, &[]))]);
        let error = other.exchange(Command::TEST, CLIENT_HELLO).unwrap_err();
        assert_eq!(error.to_string(), "command test was answered with command unknown");
        assert!(matches!(link([]).exchange(Command::TEST, &[]), Err(SocketError::Closed)));
    }

    #[test]
    fn a_connection_has_no_delay_and_its_time_outs_hold() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let limits = Limits { idle: Duration::from_millis(5), ..Limits::default() };
        let mut link = Link::new(Tcp::new(stream).unwrap(), limits);
        assert!(link.stream().stream().nodelay().unwrap());
        assert!(matches!(link.receive(), Err(SocketError::Silent(_))));
    }
}
