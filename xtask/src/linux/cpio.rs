//! Archives in the "newc" format of cpio, as Linux unpacks them for its initial file system.

/// Directories' mode bits.
const DIRECTORY: u32 = 0o040_000;
/// Regular files' mode bits.
const FILE: u32 = 0o100_000;
/// Symbolic links' mode bits.
const LINK: u32 = 0o120_000;
/// Character devices' mode bits.
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Name of the member that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that is being written. Every member belongs to root and is as old as the epoch, so that the same
/// members give the same bytes.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    members: u32,
}

/// A member that an archive cannot hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} is {len} bytes long: a member of an initial file system has less than 4 GiB")]
pub(super) struct TooLong {
    path: String,
    len: usize,
}

impl Archive {
    /// A directory. Those above it must be there already.
    pub(super) fn directory(&mut self, path: &str) -> Result<(), TooLong> {
        self.member(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// A regular file.
    pub(super) fn file(&mut self, path: &str, executable: bool, content: &[u8]) -> Result<(), TooLong> {
        let mode = if executable { 0o755 } else { 0o644 };
        self.member(path, FILE | mode, (0, 0), content)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<(), TooLong> {
        self.member(path, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device.
    pub(super) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<(), TooLong> {
        self.member(path, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// The whole archive. Another one may follow it: Linux unpacks them one after the other.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, TooLong> {
        self.member(TRAILER, 0, (0, 0), &[])?;
        // A block of 512 bytes, as cpio(1) writes.
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        Ok(self.bytes)
    }

    fn member(
        &mut self,
        path: &str,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) -> Result<(), TooLong> {
        let name = path.trim_start_matches('/');
        let too_long = |len| TooLong { path: path.to_owned(), len };
        let size = u32::try_from(content.len()).map_err(|_| too_long(content.len()))?;
        let name_size = u32::try_from(name.len() + 1).map_err(|_| too_long(name.len()))?;
        // Inode numbers tell hard links; every member has its own, the trailer has none.
        let inode = if mode == 0 { 0 } else { self.members + 1 };
        self.members += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        self.bytes.extend_from_slice(b"070701");
        for field in [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, device and content.
    type Member = (String, u32, (u32, u32), Vec<u8>);

    /// Each member, by another reading of the format.
    fn members(archive: &[u8]) -> Vec<Member> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let header = std::str::from_utf8(&archive[at..at + 110]).unwrap();
            assert_eq!(&header[..6], "070701");
            let field =
                |index: usize| u32::from_str_radix(&header[6 + 8 * index..14 + 8 * index], 16).unwrap();
            let (name_size, size) = (field(11) as usize, field(6) as usize);
            let name = std::str::from_utf8(&archive[at + 110..at + 110 + name_size - 1]).unwrap();
            assert_eq!(archive[at + 110 + name_size - 1], 0, "{name}");
            if name == TRAILER {
                return found;
            }
            let start = (at + 110 + name_size).next_multiple_of(4);
            let content = archive[start..start + size].to_vec();
            found.push((name.to_owned(), field(1), (field(9), field(10)), content));
            at = (start + size).next_multiple_of(4);
        }
    }

    #[test]
    fn every_member_comes_back() {
        let mut archive = Archive::default();
        archive.directory("/dev").unwrap();
        archive.character_device("/dev/console", 5, 1).unwrap();
        archive.file("/init", true, b"#!/bin/sh\n").unwrap();
        archive.file("/plan.json", false, b"{}").unwrap();
        archive.link("/bin", "usr/bin").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(
            members(&bytes),
            [
                ("dev".into(), 0o040_755, (0, 0), vec![]),
                ("dev/console".into(), 0o020_600, (5, 1), vec![]),
                ("init".into(), 0o100_755, (0, 0), b"#!/bin/sh\n".to_vec()),
                ("plan.json".into(), 0o100_644, (0, 0), b"{}".to_vec()),
                ("bin".into(), 0o120_777, (0, 0), b"usr/bin".to_vec()),
            ]
        );
    }

    #[test]
    fn the_same_members_give_the_same_bytes_and_two_archives_can_stand_in_a_row() {
        let archive = |content: &[u8]| {
            let mut archive = Archive::default();
            archive.file("/a", false, content).unwrap();
            archive.finish().unwrap()
        };
        assert_eq!(archive(b"abc"), archive(b"abc"));
        assert_ne!(archive(b"abc"), archive(b"abd"));
        let mut both = archive(b"abc");
        let second = both.len();
        both.extend(archive(b"defg"));
        assert_eq!(members(&both)[0].3, b"abc");
        assert_eq!(members(&both[second..])[0].3, b"defg");
    }

    #[test]
    fn inode_numbers_differ_so_that_nothing_is_taken_for_a_hard_link() {
        let mut archive = Archive::default();
        archive.file("/a", false, b"1").unwrap();
        archive.file("/b", false, b"2").unwrap();
        let bytes = archive.finish().unwrap();
        let second = 110 + 2 + 4;
        assert_eq!(&bytes[6..14], b"00000001");
        assert_eq!(&bytes[second + 6..second + 14], b"00000002");
    }
}
