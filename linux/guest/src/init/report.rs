//! The answers' way out: the second serial port.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
};

use tdx_linux_guest::plan::{Answer, Done, Line};

/// The second port, and the console where a machine has one port only.
const PORTS: [&str; 2] = ["/dev/ttyS1", "/dev/console"];

/// Where the lines go.
pub(super) struct Report {
    port: Option<File>,
}

impl Report {
    pub(super) fn open() -> Self {
        let port = PORTS.iter().find_map(|port| {
            let mut port = OpenOptions::new().write(true).open(port).ok()?;
            // A port without a UART behind it opens, but does not write. The line end also parts the first answer from
            // what firmware may have sent.
            port.write_all(b"\n").ok()?;
            Some(port)
        });
        if port.is_none() {
            say!("init: neither {} nor {} takes the answers", PORTS[0], PORTS[1]);
        }
        Self { port }
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        say!(
            "init: {} {} {}: {}",
            if answer.ok { "ok    " } else { "FAILED" },
            answer.step,
            answer.name,
            answer.detail
        );
        self.line(&Line::Answer(answer.clone()));
    }

    pub(super) fn done(&mut self) {
        self.line(&Line::Done(Done { done: true, error: None }));
    }

    /// The plan cannot be run to its end.
    pub(super) fn give_up(&mut self, why: &str) {
        say!("init: {why}");
        self.line(&Line::Done(Done { done: false, error: Some(why.to_owned()) }));
    }

    /// Waits until everything has left the port.
    pub(super) fn drain(&self) {
        if let Some(port) = &self.port {
            // A console that is no terminal has nothing to wait for.
            let _ = nix::sys::termios::tcdrain(port);
        }
    }

    fn line(&mut self, line: &Line) {
        let Some(port) = &mut self.port else { return };
        match serde_json::to_string(line) {
            Ok(mut json) => {
                json.push('\n');
                if let Err(error) = port.write_all(json.as_bytes()) {
                    say!("init: an answer is lost: {error}");
                }
            }
            Err(error) => say!("init: an answer is lost: {error}"),
        }
        self.drain();
    }
}
