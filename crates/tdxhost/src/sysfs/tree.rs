//! Directories, attribute files and links, asked anew at each look.

use std::borrow::Cow;
use std::sync::Arc;

use super::Errno;

/// Size that `stat` shows for every text file: one page, as sysfs does.
pub const ATTRIBUTE_SIZE: u64 = 4096;

/// A file whose text is made when it is read.
pub trait Attribute: Send + Sync {
    /// Permission bits, such as `0o444`.
    fn mode(&self) -> u16;

    /// The whole text, newline included.
    fn read(&self) -> Result<String, Errno>;

    /// Takes one write. Read-only attributes keep this default: opening them for writing is
    /// refused already, by their mode.
    fn write(&self, _bytes: &[u8]) -> Result<(), Errno> {
        Err(Errno::EIO)
    }

    /// Whether the object that the file belongs to is still there. Reads and writes through files
    /// opened earlier fail with `ENODEV` once this is false.
    fn is_live(&self) -> bool {
        true
    }
}

/// A file of bytes that are read and written at offsets.
pub trait BinaryAttribute: Send + Sync {
    /// Permission bits, such as `0o644`.
    fn mode(&self) -> u16;

    /// Up to `size` bytes from `offset` on; none at the end.
    fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>, Errno>;

    /// Takes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// Size in bytes that `stat` shows; 0 for a file that grows and shrinks.
    fn size(&self) -> u64 {
        0
    }

    /// As [`Attribute::is_live`].
    fn is_live(&self) -> bool;
}

/// A directory whose entries may differ from one look to the next.
pub trait Directory: Send + Sync {
    /// The entries that exist now.
    fn entries(&self) -> Vec<Entry>;

    /// What stands at `name` now. Directories that may be large find it without making every entry.
    fn lookup(&self, name: &str) -> Option<Node> {
        self.entries().into_iter().find(|entry| entry.name == name).map(|entry| entry.node)
    }

    /// How many of the entries are directories, for the count of links that `stat` shows.
    fn subdirectories(&self) -> usize {
        self.entries().iter().filter(|entry| matches!(entry.node, Node::Directory(_))).count()
    }
}

/// A name in a directory.
#[derive(Clone)]
pub struct Entry {
    /// Name without slashes.
    pub name: Cow<'static, str>,
    /// What the name stands for.
    pub node: Node,
}

impl Entry {
    /// A directory by name.
    pub fn directory(name: impl Into<Cow<'static, str>>, directory: impl Directory + 'static) -> Self {
        Self { name: name.into(), node: Node::Directory(Arc::new(directory)) }
    }

    /// An attribute file by name.
    pub fn file(name: impl Into<Cow<'static, str>>, attribute: impl Attribute + 'static) -> Self {
        Self { name: name.into(), node: Node::File(Arc::new(attribute)) }
    }

    /// A binary file by name.
    pub fn binary(name: impl Into<Cow<'static, str>>, attribute: impl BinaryAttribute + 'static) -> Self {
        Self { name: name.into(), node: Node::Binary(Arc::new(attribute)) }
    }

    /// A symbolic link by name.
    pub fn symlink(name: impl Into<Cow<'static, str>>, target: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), node: Node::Symlink(target.into()) }
    }
}

/// What stands at a path.
#[derive(Clone)]
pub enum Node {
    /// Mode 0755.
    Directory(Arc<dyn Directory>),
    /// Mode as the attribute says.
    File(Arc<dyn Attribute>),
    /// Mode as the attribute says; `stat` shows no size.
    Binary(Arc<dyn BinaryAttribute>),
    /// Mode 0777; the target is relative to the directory of the link.
    Symlink(Cow<'static, str>),
}

impl Node {
    /// Permission bits that `stat` shows.
    pub fn mode(&self) -> u16 {
        match self {
            Self::Directory(_) => 0o755,
            Self::File(attribute) => attribute.mode(),
            Self::Binary(attribute) => attribute.mode(),
            Self::Symlink(_) => 0o777,
        }
    }
}

/// A root directory with look-up by path.
#[derive(Clone)]
pub struct Tree {
    root: Arc<dyn Directory>,
}

impl Tree {
    /// A tree under `root`.
    pub fn new(root: impl Directory + 'static) -> Self {
        Self { root: Arc::new(root) }
    }

    /// What stands at `path` now; components are separated by `/`, the root is the empty path.
    pub fn resolve(&self, path: &str) -> Option<Node> {
        let mut node = Node::Directory(Arc::clone(&self.root));
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Node::Directory(directory) = node else {
                return None;
            };
            node = directory.lookup(name)?;
        }
        Some(node)
    }

    /// Every path with its node, depth first: directories before what they hold.
    pub fn walk(&self) -> Vec<(String, Node)> {
        let mut found = Vec::new();
        let mut pending = vec![(String::new(), Arc::clone(&self.root))];
        while let Some((prefix, directory)) = pending.pop() {
            for entry in directory.entries() {
                let path = if prefix.is_empty() {
                    entry.name.into_owned()
                } else {
                    format!("{prefix}/{}", entry.name)
                };
                if let Node::Directory(below) = &entry.node {
                    pending.push((path.clone(), Arc::clone(below)));
                }
                found.push((path, entry.node));
            }
        }
        found.sort_by(|left, right| left.0.cmp(&right.0));
        found
    }
}
