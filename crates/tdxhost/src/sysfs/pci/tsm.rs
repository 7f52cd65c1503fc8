//! `authenticated` and the group `tsm` of a PCI function.

use tdx_host::tsm::{self, Content, TsmAttribute, TsmError};
use tdx_platform::FunctionView;

use super::attribute;
use super::function::Device;
use crate::sysfs::Errno;
use crate::sysfs::tree::{Attribute, Directory, Entry};

/// The files of one registration of a TSM on one device.
#[derive(Clone)]
struct Managed {
    device: Device,
    /// The registration.
    tsm: u64,
}

impl Managed {
    /// The device as it is now, as long as it and the TSM are those of the file.
    fn get(&self) -> Result<FunctionView, Errno> {
        let tsm = self.device.host.tsm().ok_or(Errno::ENODEV)?;
        if tsm.instance == self.tsm { self.device.get() } else { Err(Errno::ENODEV) }
    }

    fn file(&self, row: &'static TsmAttribute) -> Entry {
        Entry::file(row.name, TsmFile { managed: self.clone(), row })
    }
}

/// The entries `authenticated` and `tsm`, where the function has them.
pub(super) fn entries(device: &Device, function: &FunctionView) -> Vec<Entry> {
    let authenticated = attribute(Content::Authenticated);
    let shown = authenticated.filter(|row| row.visible.on(&function.facts));
    let (Some(row), Some(tsm)) = (shown, device.host.tsm()) else { return Vec::new() };
    let managed = Managed { device: device.clone(), tsm: tsm.instance };
    vec![managed.file(row), Entry::directory("tsm", Group { managed })]
}

/// The directory `tsm`.
struct Group {
    managed: Managed,
}

impl Directory for Group {
    fn entries(&self) -> Vec<Entry> {
        let Ok(function) = self.managed.get() else { return Vec::new() };
        let rows = function.attributes().filter(|row| row.directory == tsm::Directory::FunctionTsm);
        rows.map(|row| self.managed.file(row)).collect()
    }

    fn subdirectories(&self) -> usize {
        0
    }
}

/// One of the files.
struct TsmFile {
    managed: Managed,
    row: &'static TsmAttribute,
}

fn errno(error: TsmError) -> Errno {
    Errno::from_raw(error.errno().0)
}

impl Attribute for TsmFile {
    fn mode(&self) -> u16 {
        self.row.mode
    }

    fn read(&self) -> Result<String, Errno> {
        let function = self.managed.get()?;
        let text = match self.row.content {
            Content::Authenticated | Content::Connect => function.tsm,
            Content::Bound => function.tsm.filter(|_| function.bound),
            Content::Dsm => function.dsm.map(|dsm| dsm.to_string()),
            _ => return Err(Errno::EIO),
        };
        Ok(format!("{}\n", text.unwrap_or_default()))
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        self.managed.get()?;
        let device = &self.managed.device;
        // To Linux a text ends at the first zero. Bytes that are no text are in no name.
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        match self.row.content {
            Content::Connect => device.host.connect(device.id, &text).map_err(errno),
            Content::Disconnect => device.host.disconnect(device.id, &text).map_err(errno),
            _ => Err(Errno::EIO),
        }
    }

    fn is_live(&self) -> bool {
        self.managed.get().is_ok_and(|function| self.row.visible.on(&function.facts))
    }
}
