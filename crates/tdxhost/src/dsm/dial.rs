//! The way to a responder: a connection, or why there is none.

use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// Nobody is reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}: {cause}{}", advice(.cause.kind()))]
pub struct DialError {
    /// Who was to be reached.
    pub address: String,
    /// The operating system's reason.
    pub cause: io::Error,
}

fn advice(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::ConnectionRefused => "; start a responder there".to_owned(),
        ErrorKind::TimedOut => "; give it more time with --timeout".to_owned(),
        ErrorKind::InvalidInput => "; an address is HOST:PORT, such as 127.0.0.1:2323".to_owned(),
        _ => String::new(),
    }
}

/// Connects to `address`, a name or a number with a port; each address that the name has is given `wait`.
pub fn dial(address: &str, wait: Duration) -> Result<TcpStream, DialError> {
    let failed = |cause| DialError { address: address.to_owned(), cause };
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&candidate, wait) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_reached_and_every_other_end_has_its_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(dial(&address, Duration::from_secs(5)).is_ok());
        drop(listener);
        for (address, advice) in [
            (&*address, "; start a responder there"),
            ("127.0.0.1", "; an address is HOST:PORT, such as 127.0.0.1:2323"),
            ("127.0.0.1:65536", "; an address is HOST:PORT, such as 127.0.0.1:2323"),
        ] {
            let error = dial(address, Duration::from_secs(5)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot connect to {address}: ")), "{error}");
            assert!(error.contains(advice), "{error}");
        }
    }
}
