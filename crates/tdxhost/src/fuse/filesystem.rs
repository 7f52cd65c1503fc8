//! FUSE requests answered from the tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::unistd::{getegid, geteuid};
use parking_lot::Mutex;

use super::inodes::{Inodes, join};
use crate::sysfs::{ATTRIBUTE_SIZE, Attribute, BinaryAttribute, Directory, Errno, Node, Tree};

/// Nothing is kept by the kernel: files come and go with the host's state.
const TTL: Duration = Duration::ZERO;
/// Numbers are never given to another path, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// Bytes that one write of an attribute takes at most.
const PAGE: usize = 4096;

/// Any of the three read, or write, permission bits.
const ANY_READ: u16 = 0o444;
const ANY_WRITE: u16 = 0o222;

/// The file system over one tree.
pub(super) struct SysfsFilesystem {
    tree: Tree,
    inodes: Inodes,
    open: Mutex<OpenTable>,
    uid: u32,
    gid: u32,
    mounted: SystemTime,
}

#[derive(Default)]
struct OpenTable {
    next: u64,
    open: HashMap<u64, Arc<Open>>,
}

/// A file or directory that somebody holds open.
enum Open {
    File {
        number: INodeNo,
        attribute: Arc<dyn Attribute>,
        /// Text of the last read from the start: further reads continue it, they do not ask again.
        text: Mutex<Option<String>>,
    },
    Binary {
        number: INodeNo,
        attribute: Arc<dyn BinaryAttribute>,
        /// Where the next write of a file that was opened for appending goes. sysfs knows no end to append
        /// to: each opening writes from the start.
        appending: Option<Mutex<u64>>,
    },
    /// The entries at the time of opening: a listing is of one moment.
    Directory(Vec<(INodeNo, FileType, String)>),
}

impl Open {
    /// The file with this number, if it is that one.
    fn node(&self, number: INodeNo) -> Option<Node> {
        match self {
            Self::File { number: of, attribute, .. } if *of == number => {
                Some(Node::File(Arc::clone(attribute)))
            }
            Self::Binary { number: of, attribute, .. } if *of == number => {
                Some(Node::Binary(Arc::clone(attribute)))
            }
            _ => None,
        }
    }

    fn is_live(&self) -> bool {
        match self {
            Self::File { attribute, .. } => attribute.is_live(),
            Self::Binary { attribute, .. } => attribute.is_live(),
            Self::Directory(_) => true,
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        if !self.is_live() {
            return Err(Errno::ENODEV);
        }
        let bytes = match self {
            // As sysfs does: the writer is told how much was taken.
            Self::File { .. } => bytes.get(..PAGE).unwrap_or(bytes),
            Self::Binary { .. } | Self::Directory(_) => bytes,
        };
        let written = u32::try_from(bytes.len()).map_err(|_| Errno::EINVAL)?;
        match self {
            Self::File { attribute, .. } => attribute.write(bytes)?,
            Self::Binary { attribute, appending: None, .. } => attribute.write_at(offset, bytes)?,
            Self::Binary { attribute, appending: Some(place), .. } => {
                let mut place = place.lock();
                attribute.write_at(*place, bytes)?;
                *place = place.saturating_add(written.into());
            }
            Self::Directory(_) => return Err(Errno::EISDIR),
        }
        Ok(written)
    }
}

impl SysfsFilesystem {
    pub(super) fn new(tree: Tree) -> Self {
        Self {
            tree,
            inodes: Inodes::new(),
            open: Mutex::default(),
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            mounted: SystemTime::now(),
        }
    }

    fn path(&self, number: INodeNo) -> Result<Arc<str>, Errno> {
        self.inodes.path(number).ok_or(Errno::ENOENT)
    }

    fn node(&self, number: INodeNo) -> Result<Node, Errno> {
        self.tree.resolve(&self.path(number)?).ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let path = join(&self.path(parent)?, name);
        let node = self.tree.resolve(&path).ok_or(Errno::ENOENT)?;
        Ok(self.attributes(self.inodes.number(&path), &node))
    }

    /// Attributes of a node, or of a file that has vanished but is still open somewhere.
    fn stat(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        match self.node(number) {
            Ok(node) => Ok(self.attributes(number, &node)),
            Err(errno) => {
                let table = self.open.lock();
                let open = table.open.values().find_map(|open| open.node(number));
                drop(table);
                Ok(self.attributes(number, &open.ok_or(errno)?))
            }
        }
    }

    fn attributes(&self, number: INodeNo, node: &Node) -> FileAttr {
        let (size, links) = match node {
            Node::Directory(directory) => (0, 2 + subdirectories(&**directory)),
            Node::File(_) => (ATTRIBUTE_SIZE, 1),
            Node::Binary(attribute) => (attribute.size(), 1),
            Node::Symlink(target) => (target.len() as u64, 1),
        };
        FileAttr {
            ino: number,
            size,
            blocks: 0,
            atime: self.mounted,
            mtime: self.mounted,
            ctime: self.mounted,
            crtime: self.mounted,
            kind: kind(node),
            perm: node.mode(),
            nlink: links,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn keep(&self, open: Open) -> FileHandle {
        let mut table = self.open.lock();
        table.next += 1;
        let handle = table.next;
        table.open.insert(handle, Arc::new(open));
        FileHandle(handle)
    }

    fn held(&self, handle: FileHandle) -> Result<Arc<Open>, Errno> {
        self.open.lock().open.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn open_file(&self, number: INodeNo, flags: OpenFlags) -> Result<FileHandle, Errno> {
        let node = self.node(number)?;
        let mode = node.mode();
        let open = match node {
            Node::File(attribute) => Open::File { number, attribute, text: Mutex::default() },
            Node::Binary(attribute) => {
                let appending = (flags.0 & libc::O_APPEND != 0).then(Mutex::default);
                Open::Binary { number, attribute, appending }
            }
            Node::Directory(_) => return Err(Errno::EISDIR),
            Node::Symlink(_) => return Err(Errno::ELOOP),
        };
        // The kernel lets root past the mode; sysfs refuses an access that nobody has.
        let (reads, writes) = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => (true, false),
            OpenAccMode::O_WRONLY => (false, true),
            OpenAccMode::O_RDWR => (true, true),
        };
        if (reads && mode & ANY_READ == 0) || (writes && mode & ANY_WRITE == 0) {
            return Err(Errno::EACCES);
        }
        Ok(self.keep(open))
    }

    fn open_directory(&self, number: INodeNo) -> Result<FileHandle, Errno> {
        let path = self.path(number)?;
        let Some(Node::Directory(directory)) = self.tree.resolve(&path) else {
            return Err(Errno::ENOENT);
        };
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let mut listed = vec![
            (number, FileType::Directory, ".".to_owned()),
            (self.inodes.number(parent), FileType::Directory, "..".to_owned()),
        ];
        listed.extend(directory.entries().into_iter().map(|entry| {
            let number = self.inodes.number(&join(&path, &entry.name));
            (number, kind(&entry.node), entry.name.into_owned())
        }));
        Ok(self.keep(Open::Directory(listed)))
    }

    fn read_file(&self, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let open = self.held(handle)?;
        if !open.is_live() {
            return Err(Errno::ENODEV);
        }
        let size = size as usize;
        match &*open {
            Open::File { attribute, text, .. } => {
                let mut text = text.lock();
                if offset == 0 || text.is_none() {
                    *text = Some(attribute.read()?);
                }
                let bytes = text.as_deref().unwrap_or_default().as_bytes();
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(size).min(bytes.len());
                Ok(bytes.get(start..end).unwrap_or_default().to_vec())
            }
            Open::Binary { attribute, .. } => attribute.read_at(offset, size),
            Open::Directory(_) => Err(Errno::EISDIR),
        }
    }

    /// `echo > file` truncates before it writes: allowed where writing is, and without effect.
    fn set_attributes(&self, number: INodeNo, change: Change) -> Result<FileAttr, Errno> {
        let attributes = self.stat(number)?;
        match change {
            Change::Owner => Err(Errno::EPERM),
            Change::Size if attributes.perm & ANY_WRITE == 0 => Err(Errno::EACCES),
            Change::Size | Change::Times => Ok(attributes),
        }
    }
}

/// What a `setattr` asks for, the most demanding first.
#[derive(Clone, Copy)]
enum Change {
    Owner,
    Size,
    Times,
}

fn subdirectories(directory: &dyn Directory) -> u32 {
    u32::try_from(directory.subdirectories()).unwrap_or(u32::MAX).min(u32::MAX - 2)
}

fn kind(node: &Node) -> FileType {
    match node {
        Node::Directory(_) => FileType::Directory,
        Node::File(_) | Node::Binary(_) => FileType::RegularFile,
        Node::Symlink(_) => FileType::Symlink,
    }
}

fn wire(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno as i32)
}

impl Filesystem for SysfsFilesystem {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.child(parent, name) {
            Ok(attributes) => reply.entry(&TTL, &attributes, GENERATION),
            Err(errno) => reply.error(wire(errno)),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.stat(ino) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(wire(errno)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = if mode.is_some() || uid.is_some() || gid.is_some() {
            Change::Owner
        } else if size.is_some() {
            Change::Size
        } else {
            Change::Times
        };
        match self.set_attributes(ino, change) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(wire(errno)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino) {
            Ok(Node::Symlink(target)) => reply.data(target.as_bytes()),
            Ok(_) => reply.error(wire(Errno::EINVAL)),
            Err(errno) => reply.error(wire(errno)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(ino, flags) {
            // Without direct I/O the kernel would cut the text at the size that stat shows.
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(wire(errno)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_file(fh, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(wire(errno)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let open = match self.held(fh) {
            Ok(open) => open,
            Err(errno) => return reply.error(wire(errno)),
        };
        let answer = |written: Result<u32, Errno>, reply: ReplyWrite| match written {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(wire(errno)),
        };
        match &*open {
            // What it sets off may take as long as a device takes to answer: nobody else waits for that.
            Open::File { .. } => {
                let data = data.to_vec();
                let work = move || answer(open.write(offset, &data), reply);
                // Without a thread the reply is dropped, which is EIO.
                let _ = thread::Builder::new().name("write".to_owned()).spawn(work);
            }
            Open::Binary { .. } | Open::Directory(_) => answer(open.write(offset, data), reply),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.open.lock().open.remove(&fh.0);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.open_directory(ino) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(wire(errno)),
        }
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let open = match self.held(fh) {
            Ok(open) => open,
            Err(errno) => return reply.error(wire(errno)),
        };
        let Open::Directory(listed) = &*open else {
            return reply.error(wire(Errno::ENOTDIR));
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (number, kind, name)) in (1..).zip(listed).skip(skip) {
            if reply.add(*number, next, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.open.lock().open.remove(&fh.0);
        reply.ok();
    }

    // Nobody makes, removes or renames anything in sysfs; the numbers are those that Linux gives.

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(wire(Errno::EACCES));
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(wire(Errno::EPERM));
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(wire(Errno::EPERM));
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(wire(Errno::EPERM));
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(wire(Errno::EPERM));
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(wire(Errno::EPERM));
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        reply.error(wire(Errno::EPERM));
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(wire(Errno::EPERM));
    }
}
