//! What this process needs before it can mount: found out beforehand, so that the answer is a
//! sentence and not an error number.

use std::env;
use std::io;
use std::path::Path;

use nix::unistd::geteuid;

/// Set-user-id programs that mount for users other than root, newest first.
pub(super) const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

const DEVICE: &str = "/dev/fuse";

/// Facts that decide whether a mount can work.
#[derive(Debug)]
pub(super) struct Privileges {
    root: bool,
    device: Result<(), io::ErrorKind>,
    helper: bool,
    user_allow_other: bool,
}

impl Privileges {
    pub(super) fn of_this_process() -> Self {
        let device = std::fs::OpenOptions::new().read(true).write(true).open(DEVICE);
        let path = env::var_os("PATH").unwrap_or_default();
        Self {
            root: geteuid().is_root(),
            device: device.map(drop).map_err(|error| error.kind()),
            helper: env::split_paths(&path)
                .any(|directory| HELPERS.iter().any(|helper| directory.join(helper).is_file())),
            user_allow_other: std::fs::read_to_string(Path::new("/etc/fuse.conf"))
                .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other")),
        }
    }

    /// What keeps this process from mounting, and what to do about it.
    pub(super) fn missing(&self) -> Option<String> {
        match self.device {
            Err(io::ErrorKind::NotFound) => {
                Some(format!("{DEVICE} does not exist; load the kernel module fuse"))
            }
            Err(io::ErrorKind::PermissionDenied) => Some(format!(
                "{DEVICE} may not be opened by this user; run as root or allow the user to open it"
            )),
            Err(kind) => Some(format!("{DEVICE} cannot be opened ({kind})")),
            Ok(()) if !self.root && !self.helper => Some(format!(
                "{} is missing, which users other than root need; install fuse3 or run as root",
                HELPERS[0]
            )),
            Ok(()) => None,
        }
    }

    /// Whether other users may be let in: root may always, others if the administrator allows it.
    pub(super) fn may_let_others_in(&self) -> bool {
        self.root || self.user_allow_other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(device: Result<(), io::ErrorKind>, helper: bool) -> Privileges {
        Privileges { root: false, device, helper, user_allow_other: false }
    }

    #[test]
    fn root_needs_the_device_only() {
        let root = Privileges { root: true, ..user(Ok(()), false) };
        assert_eq!(root.missing(), None);
        assert!(root.may_let_others_in());
    }

    #[test]
    fn a_user_without_the_helper_is_told_its_name_and_package() {
        let missing = user(Ok(()), false).missing().unwrap();
        assert!(missing.contains("fusermount3") && missing.contains("install fuse3"), "{missing}");
        assert_eq!(user(Ok(()), true).missing(), None);
        assert!(!user(Ok(()), true).may_let_others_in());
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_named() {
        for (kind, word) in [
            (io::ErrorKind::NotFound, "load the kernel module"),
            (io::ErrorKind::PermissionDenied, "may not be opened by this user"),
            (io::ErrorKind::ResourceBusy, "cannot be opened"),
        ] {
            let missing = user(Err(kind), true).missing().unwrap();
            assert!(missing.contains("/dev/fuse") && missing.contains(word), "{missing}");
        }
    }
}
