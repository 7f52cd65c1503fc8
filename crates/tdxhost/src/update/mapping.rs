//! What is published about releases: Intel's `mapping_file.json`, or the table that is built in.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;
use tdx_module::profile;

use super::version::{VersionError, as_text, as_texts, version};
use crate::text::{NumberError, Word, number};

/// Name of the file in Intel's repository.
pub const MAPPING_FILE: &str = "mapping_file.json";
/// Bytes of a mapping file that are read; the published one has 6 KB.
const SIZE_LIMIT: u64 = 4 << 20;

const BUILT_IN: &str = include_str!("../../spec/module_releases.toml");

/// Where facts of releases come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappingSource {
    /// The newest published table, as this program carries it.
    BuiltIn,
    /// A file of the user.
    File(PathBuf),
}

impl fmt::Display for MappingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the built-in table"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Serialize for MappingSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::BuiltIn => serializer.serialize_str("built-in"),
            Self::File(path) => serializer.collect_str(&path.display()),
        }
    }
}

/// Facts of one release that neither its image nor a running module tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Release {
    /// Version.
    #[serde(serialize_with = "as_text")]
    pub version: Version,
    /// Oldest running module of the same line whose TDs survive the update to this one.
    #[serde(serialize_with = "as_text")]
    pub min_module_version_for_td_preserving: Version,
    /// Oldest P-SEAMLDR of each line that loads it.
    #[serde(serialize_with = "as_texts")]
    pub min_seamldr_versions: Vec<Version>,
    /// Running modules from which the step changes nothing that can be seen; absent in texts up to early
    /// 2026.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "strict")]
    pub strict_compat_versions: Option<Vec<Version>>,
    /// TDX_FEATURES0 as the release reports it.
    #[serde(serialize_with = "word")]
    pub tdx_feature0: Features0,
    /// Keys that this program does not know, with their values.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub unknown: Map<String, Value>,
}

// serde hands out references.
#[allow(clippy::ref_option)]
fn strict<S: Serializer>(versions: &Option<Vec<Version>>, serializer: S) -> Result<S::Ok, S::Error> {
    as_texts(versions.as_deref().unwrap_or_default(), serializer)
}

// serde hands out references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn word<S: Serializer>(features: &Features0, serializer: S) -> Result<S::Ok, S::Error> {
    Word(features.bits()).serialize(serializer)
}

impl Release {
    /// True if the table says that the step from `running` changes nothing that can be seen.
    pub fn is_strictly_compatible_with(&self, running: Version) -> bool {
        self.strict_compat_versions.as_ref().is_some_and(|versions| versions.contains(&running))
    }
}

/// Facts of releases, by version.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// Where they come from.
    pub source: MappingSource,
    /// The releases, in the order of the source.
    pub releases: Vec<Release>,
    /// Keys beside the releases that this program does not know, with their values.
    pub unknown: Map<String, Value>,
}

/// Why a mapping file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// It cannot be read.
    #[error("{path}: {cause}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// It is larger than any mapping file.
    #[error("{path}: more than {SIZE_LIMIT} bytes are no mapping file", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no JSON document of the form.
    #[error("{path}: {cause}", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        cause: serde_json::Error,
    },
    /// A version is malformed.
    #[error("{path}: release {release}: {key}: {cause}", path = .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Version of the release, as written.
        release: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        cause: VersionError,
    },
    /// The feature word is malformed.
    #[error("{path}: release {release}: tdx_feature0: {cause}", path = .path.display())]
    Features {
        /// The file.
        path: PathBuf,
        /// Version of the release.
        release: String,
        /// What is wrong.
        cause: NumberError,
    },
    /// Two entries for one release.
    #[error("{path}: release {release} stands there twice", path = .path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The version.
        release: Version,
    },
}

#[derive(Deserialize)]
struct RawMapping {
    // Copyright, a title, a version number that never changed.
    #[serde(rename = "Header", default)]
    _header: serde::de::IgnoredAny,
    tdx_module_releases: Vec<RawRelease>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Deserialize)]
struct RawRelease {
    version: String,
    min_module_version_for_td_preserving: String,
    min_seamldr_versions: Vec<String>,
    #[serde(default)]
    strict_compat_versions: Option<Vec<String>>,
    tdx_feature0: String,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    release: Vec<TableRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableRow {
    version: String,
    preserves_tds_from: String,
    seamldr: Vec<String>,
    strict: Vec<String>,
}

impl Mapping {
    /// The newest published table.
    pub fn built_in() -> anyhow::Result<Self> {
        let table: Table = toml::from_str(BUILT_IN)?;
        let releases = table.release.iter().map(TableRow::release).collect::<Result<_, _>>()?;
        Ok(Self { source: MappingSource::BuiltIn, releases, unknown: Map::new() })
    }

    /// The mapping file of a directory of images; the built-in table where it has none.
    pub fn of_directory(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(MAPPING_FILE);
        match Self::from_file(&path) {
            Err(MappingError::Unreadable { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Self::built_in()
            }
            result => Ok(result?),
        }
    }

    /// The mapping file beside an image, or where Intel's repository has it; else the built-in table.
    pub fn for_image(image: &Path) -> anyhow::Result<Self> {
        let beside = image.parent().filter(|parent| !parent.as_os_str().is_empty());
        let beside = beside.unwrap_or(Path::new("."));
        let repository = beside.parent().filter(|parent| parent.ends_with("joined_files"));
        match repository.and_then(Path::parent) {
            Some(root) if root.join(MAPPING_FILE).is_file() => Self::of_directory(root),
            _ => Self::of_directory(beside),
        }
    }

    /// Reads a mapping file.
    pub fn from_file(path: &Path) -> Result<Self, MappingError> {
        let unreadable = |cause| MappingError::Unreadable { path: path.to_owned(), cause };
        let file = fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > SIZE_LIMIT) {
            return Err(MappingError::TooLarge { path: path.to_owned() });
        }
        Self::from_json(&bytes, path)
    }

    /// The mapping file with the content `bytes`; `path` is for messages.
    pub fn from_json(bytes: &[u8], path: &Path) -> Result<Self, MappingError> {
        let raw: RawMapping = serde_json::from_slice(bytes)
            .map_err(|cause| MappingError::Malformed { path: path.to_owned(), cause })?;
        let mut releases: Vec<Release> = Vec::with_capacity(raw.tdx_module_releases.len());
        for release in raw.tdx_module_releases {
            let release = release.release(path)?;
            if releases.iter().any(|earlier| earlier.version == release.version) {
                return Err(MappingError::Twice { path: path.to_owned(), release: release.version });
            }
            releases.push(release);
        }
        Ok(Self { source: MappingSource::File(path.to_owned()), releases, unknown: raw.unknown })
    }

    /// The release with this version.
    pub fn find(&self, version: Version) -> Option<&Release> {
        self.releases.iter().find(|release| release.version == version)
    }

    /// Where this table contradicts `newest`: earlier texts were corrected after publication.
    pub fn differences(&self, newest: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for release in &self.releases {
            let Some(right) = newest.find(release.version) else { continue };
            let mut differs = |key: &str, here: String, there: String| {
                if here != there {
                    let version = release.version;
                    found.push(format!(
                        "{version}: {key} is {here} here, {there} in the newest published table"
                    ));
                }
            };
            let hex = |features: Features0| format!("{:#x}", features.bits());
            differs("tdx_feature0", hex(release.tdx_feature0), hex(right.tdx_feature0));
            differs(
                "min_seamldr_versions",
                listed(&release.min_seamldr_versions),
                listed(&right.min_seamldr_versions),
            );
            differs(
                "min_module_version_for_td_preserving",
                release.min_module_version_for_td_preserving.to_string(),
                right.min_module_version_for_td_preserving.to_string(),
            );
        }
        found
    }
}

/// Versions in words.
pub(super) fn listed(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "none".to_owned();
    }
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl RawRelease {
    fn release(self, path: &Path) -> Result<Release, MappingError> {
        let at = |key: &'static str, text: &str| {
            version(text).map_err(|cause| MappingError::Version {
                path: path.to_owned(),
                release: self.version.clone(),
                key,
                cause,
            })
        };
        let all = |key: &'static str, texts: &[String]| -> Result<Vec<Version>, MappingError> {
            texts.iter().map(|text| at(key, text)).collect()
        };
        let features = number(&self.tdx_feature0).map_err(|cause| MappingError::Features {
            path: path.to_owned(),
            release: self.version.clone(),
            cause,
        })?;
        Ok(Release {
            version: at("version", &self.version)?,
            min_module_version_for_td_preserving: at(
                "min_module_version_for_td_preserving",
                &self.min_module_version_for_td_preserving,
            )?,
            min_seamldr_versions: all("min_seamldr_versions", &self.min_seamldr_versions)?,
            strict_compat_versions: match &self.strict_compat_versions {
                Some(versions) => Some(all("strict_compat_versions", versions)?),
                None => None,
            },
            tdx_feature0: Features0::from_bits(features),
            unknown: self.unknown,
        })
    }
}

impl TableRow {
    fn release(&self) -> anyhow::Result<Release> {
        let all = |texts: &[String]| texts.iter().map(|text| version(text)).collect::<Result<Vec<_>, _>>();
        let profile = profile::find(&self.version)
            .ok_or_else(|| anyhow::anyhow!("release {} has no profile", self.version))?;
        Ok(Release {
            version: version(&self.version)?,
            min_module_version_for_td_preserving: version(&self.preserves_tds_from)?,
            min_seamldr_versions: all(&self.seamldr)?,
            strict_compat_versions: Some(all(&self.strict)?),
            tdx_feature0: profile.features0,
            unknown: Map::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Mapping, MappingError> {
        Mapping::from_json(text.as_bytes(), Path::new("mapping_file.json"))
    }

    fn one(more: &str) -> String {
        format!(
            r#"{{"tdx_module_releases": [{{"version": "1.5.13",
            "min_module_version_for_td_preserving": "1.5.01", "min_seamldr_versions": ["1.5.00", "2.0.00"],
            "tdx_feature0": "0x226F1F0FBF"{more}}}]}}"#
        )
    }

    #[test]
    fn the_built_in_table_has_the_twenty_published_releases() {
        let table = Mapping::built_in().unwrap();
        assert_eq!(table.releases.len(), 20);
        let split = |version| table.find(version).unwrap().min_seamldr_versions.clone();
        assert_eq!(split(Version::new(1, 5, 24)), [Version::new(1, 5, 0)]);
        assert_eq!(split(Version::new(1, 5, 25)), [Version::new(2, 0, 0)]);
        for release in &table.releases {
            let floor = release.min_module_version_for_td_preserving;
            assert!(super::super::version::same_line(floor, release.version), "{release:?}");
            assert!(floor <= release.version && !release.min_seamldr_versions.is_empty(), "{release:?}");
            let strict = release.strict_compat_versions.as_ref().unwrap();
            assert!(strict.iter().all(|earlier| *earlier < release.version), "{release:?}");
        }
        let newest = table.find(Version::new(2, 0, 18)).unwrap();
        assert_eq!(newest.tdx_feature0.bits(), 0x15AD9326F3F1FBF);
    }

    #[test]
    fn strict_compatibility_is_optional_and_unknown_keys_are_kept() {
        let without = parse(&one("")).unwrap();
        assert_eq!(without.releases[0].strict_compat_versions, None);
        let more = r#", "strict_compat_versions": ["1.5.6"], "colour": {"a": 1}"#;
        let mapping = parse(&one(more)).unwrap();
        let release = &mapping.releases[0];
        assert_eq!(release.strict_compat_versions, Some(vec![Version::new(1, 5, 6)]));
        assert!(release.is_strictly_compatible_with(Version::new(1, 5, 6)));
        assert!(!release.is_strictly_compatible_with(Version::new(1, 5, 9)));
        assert_eq!(release.unknown["colour"]["a"], 1);
        let shown = serde_json::to_value(release).unwrap();
        assert_eq!(shown["unknown"]["colour"]["a"], 1);
        assert_eq!(shown["strict_compat_versions"][0], "1.5.06");
        let top = parse(r#"{"Header": {"Version": "1.0"}, "tdx_module_releases": [], "later": 2}"#).unwrap();
        assert_eq!((top.unknown.len(), &top.unknown["later"]), (1, &Value::from(2)));
    }

    #[test]
    fn a_malformed_file_is_refused_in_one_line() {
        let wrong_floor = one("").replace("\"1.5.01\"", "\"1.5\"");
        let wrong_loader = one("").replace("\"2.0.00\"", "\"x\"");
        let wrong_word = one("").replace("0x226F1F0FBF", "226F1F0FBF");
        let entry = one("");
        let entry = entry.split_once('[').unwrap().1.rsplit_once(']').unwrap().0;
        let twice = format!(r#"{{"tdx_module_releases": [{entry}, {entry}]}}"#);
        for (text, expected) in [
            ("", "mapping_file.json: EOF while parsing a value at line 1 column 0"),
            ("{}", "mapping_file.json: missing field `tdx_module_releases` at line 1 column 2"),
            (
                r#"{"tdx_module_releases": [{"version": "1.5.01"}]}"#,
                "mapping_file.json: missing field `min_module_version_for_td_preserving` at line 1 column 46",
            ),
            (
                &wrong_floor,
                "mapping_file.json: release 1.5.13: min_module_version_for_td_preserving: `1.5` is no version: \
                 it is written major.minor.update, such as 1.5.06",
            ),
            (
                &wrong_loader,
                "mapping_file.json: release 1.5.13: min_seamldr_versions: `x` is no version: it is written \
                 major.minor.update, such as 1.5.06",
            ),
            (
                &wrong_word,
                "mapping_file.json: release 1.5.13: tdx_feature0: `226F1F0FBF` is no number: write it in \
                 decimal, or in hexadecimal with 0x in front",
            ),
            (&twice, "mapping_file.json: release 1.5.13 stands there twice"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert_eq!(error, expected);
            assert_eq!(error.lines().count(), 1);
        }
    }

    #[test]
    fn what_was_corrected_later_is_found() {
        let newest = Mapping::built_in().unwrap();
        assert!(newest.differences(&newest).is_empty());
        let old = one("").replace("0x226F1F0FBF", "0x61F0FBF").replace(", \"2.0.00\"", "");
        assert_eq!(
            parse(&old).unwrap().differences(&newest),
            [
                "1.5.13: tdx_feature0 is 0x61f0fbf here, 0x226f1f0fbf in the newest published table",
                "1.5.13: min_seamldr_versions is 1.5.00 here, 1.5.00, 2.0.00 in the newest published table",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_table_or_refused_in_one_line(text in ".{0,200}", at in 0_usize..300) {
            let mut bytes = one("").into_bytes();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + 3).min(one("").len()), text.bytes().take(5));
            for bytes in [text.as_bytes(), &bytes] {
                if let Err(error) = Mapping::from_json(bytes, Path::new("mapping_file.json")) {
                    prop_assert_eq!(error.to_string().lines().count(), 1);
                }
            }
        }
    }
}
