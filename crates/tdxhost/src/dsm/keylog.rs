//! Secrets of sessions, one per line, to decrypt a capture with.
//!
//! Only a modelled device tells its secrets. A line is a label, the session id and the secret in
//! hexadecimal; `SPDM_DHE_SECRET` is what `spdm_dump --dhe_secret` takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use spdm::ids::SessionId;
use spdm::observe::SessionSecrets;
use spdm::secured::Phase;

/// First line of every file.
const HEADING: &str =
    "# Secrets of SPDM sessions with a simulated device: they protect nothing and must not be reused.\n";

/// A key log that is written line by line.
#[derive(Debug)]
pub struct KeyLog<W> {
    out: W,
    /// How often each session has updated its keys.
    generations: BTreeMap<SessionId, u32>,
}

impl<W: Write> KeyLog<W> {
    /// Writes the heading.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(HEADING.as_bytes())?;
        out.flush()?;
        Ok(Self { out, generations: BTreeMap::new() })
    }

    /// Appends the secrets of a session that has new ones.
    pub fn secrets(&mut self, secrets: &SessionSecrets<'_>) -> io::Result<()> {
        let mut lines = String::new();
        let mut line = |label: &str, secret: &[u8]| {
            // Writing to a string does not fail.
            let _ = write!(lines, "{label} {} ", secrets.session);
            for byte in secret {
                let _ = write!(lines, "{byte:02x}");
            }
            lines.push('\n');
        };
        if let Some(dhe) = secrets.dhe {
            line("SPDM_DHE_SECRET", dhe);
        }
        if secrets.phase == Phase::Handshake {
            self.generations.remove(&secrets.session);
            line("SPDM_REQUEST_HANDSHAKE_SECRET", secrets.request);
            line("SPDM_RESPONSE_HANDSHAKE_SECRET", secrets.response);
        } else {
            let next = self.generations.entry(secrets.session).or_insert(0);
            let generation = *next;
            *next = next.saturating_add(1);
            line(&format!("SPDM_REQUEST_DATA_SECRET_{generation}"), secrets.request);
            line(&format!("SPDM_RESPONSE_DATA_SECRET_{generation}"), secrets.response);
            if let Some(export) = secrets.export_master.filter(|_| generation == 0) {
                line("SPDM_EXPORT_MASTER_SECRET", export);
            }
        }
        self.out.write_all(lines.as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use spdm::algo::{AeadAlgo, HashAlgo};
    use spdm::crypto::Digest;
    use spdm::ids::Version;

    use super::*;

    fn secrets(phase: Phase, transcript: &Digest) -> SessionSecrets<'_> {
        let handshake = phase == Phase::Handshake;
        SessionSecrets {
            session: SessionId(0xffff_0001),
            version: Version::V1_2,
            hash: HashAlgo::Sha384,
            aead: AeadAlgo::Aes256Gcm,
            phase,
            transcript,
            dhe: handshake.then_some(&[0xd0, 0x0d]),
            request: &[1, 2],
            response: &[3, 4],
            export_master: (!handshake).then_some(&[5]),
        }
    }

    #[test]
    fn each_secret_has_its_line_and_an_update_the_next_number() {
        let transcript = Digest::new(&[0; 48]).unwrap();
        let mut file = Vec::new();
        let mut log = KeyLog::new(&mut file).unwrap();
        log.secrets(&secrets(Phase::Handshake, &transcript)).unwrap();
        log.secrets(&secrets(Phase::Data, &transcript)).unwrap();
        log.secrets(&secrets(Phase::Data, &transcript)).unwrap();
        let text = String::from_utf8(file).unwrap();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert!(text.starts_with("# Secrets of SPDM sessions with a simulated device"));
        assert_eq!(
            lines,
            [
                "SPDM_DHE_SECRET 0xffff0001 d00d",
                "SPDM_REQUEST_HANDSHAKE_SECRET 0xffff0001 0102",
                "SPDM_RESPONSE_HANDSHAKE_SECRET 0xffff0001 0304",
                "SPDM_REQUEST_DATA_SECRET_0 0xffff0001 0102",
                "SPDM_RESPONSE_DATA_SECRET_0 0xffff0001 0304",
                "SPDM_EXPORT_MASTER_SECRET 0xffff0001 05",
                "SPDM_REQUEST_DATA_SECRET_1 0xffff0001 0102",
                "SPDM_RESPONSE_DATA_SECRET_1 0xffff0001 0304",
            ]
        );
    }

    #[test]
    fn a_session_id_that_is_used_again_counts_from_0_again() {
        let transcript = Digest::new(&[0; 48]).unwrap();
        let mut file = Vec::new();
        let mut log = KeyLog::new(&mut file).unwrap();
        for _ in 0..2 {
            log.secrets(&secrets(Phase::Handshake, &transcript)).unwrap();
            log.secrets(&secrets(Phase::Data, &transcript)).unwrap();
        }
        let text = String::from_utf8(file).unwrap();
        assert_eq!(text.matches("REQUEST_DATA_SECRET_0").count(), 2);
        assert!(!text.contains("SECRET_1"));
    }
}
