//! Which generation of the kernel's files a tree has.
//!
//! Four things moved on their own between 2025-03 and Linux 7.3: the module's version, the two attributes of
//! P-SEAMLDR, the upload directory and the image header. Each is looked for where it ever was; the
//! combination gives the layout its name.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tdx_image::HeaderVersion;

/// A known combination of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Layout {
    /// Linux 7.3.
    #[serde(rename = "7.3")]
    Linux7_3,
    /// Postings of 2025-09 to 2026-05; from 2026-02 on they upload through `tdx_module`.
    #[serde(rename = "2025-09")]
    Posting2025_09,
    /// Posting of 2025-03.
    #[serde(rename = "2025-03")]
    Posting2025_03,
    /// What one text of Intel's selection script of 2026 expects, and no kernel has.
    #[serde(rename = "2026-intermediate")]
    Intermediate,
}

impl Layout {
    /// Name, as `tdxhost serve --sysfs-layout` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux7_3 => "7.3",
            Self::Posting2025_09 => "2025-09",
            Self::Posting2025_03 => "2025-03",
            Self::Intermediate => "2026-intermediate",
        }
    }
}

const FAUX: &str = "devices/faux/tdx_host";
const VIRTUAL: &str = "devices/virtual/tdx";

/// Name of the upload directory since 2026-02.
const TDX_MODULE: &str = "tdx_module";
/// Its name before.
const SEAMLDR_UPLOAD: &str = "seamldr_upload";

/// Files of one tree; those that do not exist are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// `version` of the module.
    pub version: Option<PathBuf>,
    /// Version of P-SEAMLDR.
    pub seamldr_version: Option<PathBuf>,
    /// Number of updates that are left.
    pub remaining_updates: Option<PathBuf>,
    /// Directory of the firmware upload files.
    pub upload: Option<PathBuf>,
    /// The combination; `None` without any of the files.
    pub layout: Option<Layout>,
}

impl Places {
    /// Looks at the tree below `sysfs`.
    pub fn find(sysfs: &Path) -> Self {
        let first = |places: &[String]| {
            places.iter().map(|place| sysfs.join(place)).find(|path| path.symlink_metadata().is_ok())
        };
        let version = first(&[format!("{FAUX}/version"), format!("{VIRTUAL}/tdx_tsm/version")]);
        let seamldr = [
            format!("{FAUX}/seamldr_version"),
            format!("{FAUX}/seamldr/version"),
            format!("{VIRTUAL}/seamldr/version"),
        ];
        let updates = [
            format!("{FAUX}/num_remaining_updates"),
            format!("{FAUX}/seamldr/num_remaining_updates"),
            format!("{VIRTUAL}/seamldr/num_remaining_updates"),
        ];
        let upload = first(&[
            format!("class/firmware/{TDX_MODULE}"),
            format!("{FAUX}/firmware/{TDX_MODULE}"),
            format!("class/firmware/{SEAMLDR_UPLOAD}"),
            format!("{FAUX}/firmware/{SEAMLDR_UPLOAD}"),
        ]);
        let mut places = Self {
            version,
            seamldr_version: first(&seamldr),
            remaining_updates: first(&updates),
            upload,
            layout: None,
        };
        places.layout = places.combination(sysfs);
        places
    }

    fn combination(&self, sysfs: &Path) -> Option<Layout> {
        let at = |place: &Option<PathBuf>, path: &str| {
            place.as_deref().is_some_and(|place| place == sysfs.join(path))
        };
        let flat_version = at(&self.seamldr_version, &format!("{FAUX}/seamldr_version"));
        let flat_updates = at(&self.remaining_updates, &format!("{FAUX}/num_remaining_updates"));
        let nested = at(&self.seamldr_version, &format!("{FAUX}/seamldr/version"));
        if at(&self.version, &format!("{VIRTUAL}/tdx_tsm/version"))
            || at(&self.seamldr_version, &format!("{VIRTUAL}/seamldr/version"))
        {
            return Some(Layout::Posting2025_03);
        }
        match (nested, flat_version, flat_updates) {
            (true, _, true) => Some(Layout::Intermediate),
            (true, _, false) => Some(Layout::Posting2025_09),
            (false, ..) if self.uploads_through(SEAMLDR_UPLOAD) => Some(Layout::Posting2025_09),
            (false, ..) if self.version.is_some() || flat_version || flat_updates => Some(Layout::Linux7_3),
            (false, ..) if self.upload.is_some() => Some(Layout::Linux7_3),
            _ => None,
        }
    }

    fn uploads_through(&self, name: &str) -> bool {
        self.upload.as_deref().is_some_and(|upload| upload.ends_with(name))
    }

    /// The image header that this kernel takes; `None` without files to tell by.
    ///
    /// The last posting before 7.3 (2026-05-20) may have had nested attributes together with 0x200: there
    /// a user has to say so.
    pub fn header(&self) -> Option<HeaderVersion> {
        match self.layout? {
            Layout::Linux7_3 => Some(HeaderVersion::V0x200),
            Layout::Posting2025_09 | Layout::Posting2025_03 | Layout::Intermediate => {
                Some(HeaderVersion::V0x100)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[&str]) -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let places = Places::find(root.path());
        (root, places)
    }

    #[test]
    fn every_generation_is_known_by_its_places() {
        let cases: [(&[&str], Layout, HeaderVersion); 7] = [
            (
                &[
                    "devices/faux/tdx_host/version",
                    "devices/faux/tdx_host/seamldr_version",
                    "devices/faux/tdx_host/num_remaining_updates",
                    "class/firmware/tdx_module/loading",
                ],
                Layout::Linux7_3,
                HeaderVersion::V0x200,
            ),
            // A module or a CPU without updates: nothing but the version.
            (&["devices/faux/tdx_host/version"], Layout::Linux7_3, HeaderVersion::V0x200),
            (
                &[
                    "devices/faux/tdx_host/version",
                    "devices/faux/tdx_host/seamldr/version",
                    "devices/faux/tdx_host/seamldr/num_remaining_updates",
                    "class/firmware/seamldr_upload/loading",
                ],
                Layout::Posting2025_09,
                HeaderVersion::V0x100,
            ),
            (
                &[
                    "devices/faux/tdx_host/version",
                    "devices/faux/tdx_host/seamldr/version",
                    "devices/faux/tdx_host/seamldr/num_remaining_updates",
                    "class/firmware/tdx_module/loading",
                ],
                Layout::Posting2025_09,
                HeaderVersion::V0x100,
            ),
            (
                &["devices/faux/tdx_host/version", "class/firmware/seamldr_upload/loading"],
                Layout::Posting2025_09,
                HeaderVersion::V0x100,
            ),
            (
                &[
                    "devices/virtual/tdx/tdx_tsm/version",
                    "devices/virtual/tdx/seamldr/version",
                    "devices/virtual/tdx/seamldr/num_remaining_updates",
                    "class/firmware/seamldr_upload/loading",
                ],
                Layout::Posting2025_03,
                HeaderVersion::V0x100,
            ),
            (
                &[
                    "devices/faux/tdx_host/version",
                    "devices/faux/tdx_host/num_remaining_updates",
                    "devices/faux/tdx_host/seamldr/version",
                    "class/firmware/seamldr_upload/loading",
                ],
                Layout::Intermediate,
                HeaderVersion::V0x100,
            ),
        ];
        for (files, layout, header) in cases {
            let (root, places) = tree(files);
            assert_eq!((places.layout, places.header()), (Some(layout), Some(header)), "{files:?}");
            let found = [&places.version, &places.seamldr_version, &places.remaining_updates];
            let there = files.iter().filter(|file| !file.ends_with("loading")).count();
            assert_eq!(found.iter().filter(|place| place.is_some()).count(), there, "{files:?}");
            for path in found.into_iter().flatten() {
                assert!(path.starts_with(root.path()) && path.is_file(), "{files:?}");
            }
        }
    }

    #[test]
    fn a_tree_without_the_files_has_no_layout() {
        let (_root, places) = tree(&["devices/system/cpu/online"]);
        assert_eq!(places, Places::default());
        assert_eq!(places.header(), None);
    }
}
