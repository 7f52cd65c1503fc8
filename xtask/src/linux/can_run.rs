//! Whether the checks can run here at all, without beginning any of it.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use super::Arguments;
use super::cache::lack_of_space;
use super::debian::{self, BACKPORTS, Debian, Wanted};
use super::kernel;
use super::qemu::Qemu;

/// How long a mirror may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the checks cannot run, if so.
pub(super) fn obstacle(folder: &Path, arguments: &Arguments) -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some("the guest and its kernel are built for x86-64, which this machine is not".to_owned());
    }
    let own_qemu = match &arguments.qemu {
        Some(program) => Qemu::named(program).map_err(|error| format!("{error:#}")),
        None => Qemu::of_the_system().ok_or_else(String::new),
    };
    if let (Some(_), Err(reason)) = (&arguments.qemu, &own_qemu) {
        return Some(reason.clone());
    }
    let wanted = Wanted { qemu: own_qemu.is_err(), kernel: arguments.kernel.is_none() };
    if !wanted.qemu && !wanted.kernel {
        return None;
    }
    if let Some(reason) = debian::obstacle() {
        return Some(reason.to_owned());
    }
    let packages = Debian::is_ready(folder, &arguments.mirror, wanted);
    if packages && (!wanted.kernel || kernel::is_built(folder)) {
        return None;
    }
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) && wanted.kernel {
        return Some("nothing is prepared and one core takes too long to build a kernel".to_owned());
    }
    if let Some(reason) = lack_of_space(folder) {
        return Some(reason);
    }
    if packages { None } else { unreachable_mirror(&arguments.mirror) }
}

/// Why a mirror's backports cannot be had, if so. Through a proxy, apt finds out.
fn unreachable_mirror(mirror: &str) -> Option<String> {
    if ["http_proxy", "HTTP_PROXY"].iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    // Only plain HTTP is spoken here; apt finds out about the others.
    let (host, path) = host_and_path(mirror)?;
    let ask = || -> std::io::Result<String> {
        let no_address = || std::io::Error::other("it has no address");
        let address = (host, 80).to_socket_addrs()?.next().ok_or_else(no_address)?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let file = format!("{path}/dists/{BACKPORTS}/Release");
        write!(stream, "HEAD {file} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    match ask() {
        Err(error) => Some(format!("nothing is prepared and the mirror {mirror} cannot be reached: {error}")),
        Ok(answer) if !is_success(&answer) => Some(format!(
            "nothing is prepared and the mirror {mirror} has no {BACKPORTS}: {}",
            answer.lines().next().unwrap_or_default()
        )),
        Ok(_) => None,
    }
}

/// Host and path of an address in plain HTTP at its usual port.
fn host_and_path(mirror: &str) -> Option<(&str, String)> {
    let rest = mirror.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let path = if path.is_empty() { String::new() } else { format!("/{path}") };
    (!host.is_empty() && !host.contains(':')).then_some((host, path))
}

fn is_success(answer: &str) -> bool {
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    status.starts_with('2') || status.starts_with('3')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrors_address_is_taken_apart() {
        for (mirror, parts) in [
            (debian::MIRROR, Some(("deb.debian.org", "/debian".to_owned()))),
            ("http://mirror/", Some(("mirror", String::new()))),
            ("http://mirror", Some(("mirror", String::new()))),
            ("http://mirror/a/b/", Some(("mirror", "/a/b".to_owned()))),
            ("http://mirror:8080/debian", None),
            ("https://mirror/debian", None),
            ("file:///srv/debian", None),
        ] {
            assert_eq!(host_and_path(mirror), parts, "{mirror}");
        }
    }

    #[test]
    fn an_answer_is_good_or_leads_elsewhere_or_is_bad() {
        assert!(is_success("HTTP/1.1 200 OK\r\n"));
        assert!(is_success("HTTP/1.1 302 Found\r\n"));
        assert!(!is_success("HTTP/1.1 404 Not Found\r\n"));
        assert!(!is_success(""));
    }
}
