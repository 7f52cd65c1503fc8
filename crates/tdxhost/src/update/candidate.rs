//! Image files as the rules see them.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tdx_abi::seamldr::Version;
use tdx_image::elf::{RelocationError, check_relocations};
use tdx_image::record::ModuleRecord;
use tdx_image::verify::{self, Signer, VerifyError};
use tdx_image::{
    Checksum, HeaderVersion, Image, ImageError, Linux73Refusal, Sigstruct, SigstructError, SigstructRules,
};
use tdx_module::profile::{self, Profile, Svn};

use super::version::version;

/// Largest file that is read as an image: what Linux's upload files take.
pub const SIZE_LIMIT: u64 = 64 << 20;

/// Why an image, or a part of it, will not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Stable name in kebab case.
    pub name: &'static str,
    /// The sentence.
    pub sentence: String,
    /// What to try; empty where the place that the refusal stands in says it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub advice: &'static str,
}

impl Refusal {
    /// A refusal.
    pub fn new(name: &'static str, sentence: impl fmt::Display) -> Self {
        Self { name, sentence: sentence.to_string(), advice: "" }
    }

    /// Name, sentence and what to try, in one line.
    pub fn with_remedy(&self) -> String {
        if self.advice.is_empty() { self.to_string() } else { format!("{self}; {}", self.advice) }
    }

    /// The refusal with what to try.
    #[must_use]
    pub fn with_advice(self, advice: &'static str) -> Self {
        Self { advice, ..self }
    }
}

/// An error of `tdx-image` is a refusal: it has a name and advice.
macro_rules! refusal_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::new(error.name(), error).with_advice(error.advice())
            }
        }
    )*};
}

refusal_from!(ImageError, VerifyError, SigstructError, RelocationError, Linux73Refusal);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.sentence)
    }
}

/// How the version of an image is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionSource {
    /// Its SEAMHASH is that of a published release.
    Seamhash,
    /// The image was built by this program, which put the version into it.
    Record,
    /// The file's name says so, and nothing else.
    FileName,
}

impl VersionSource {
    /// The source in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Seamhash => "its SEAMHASH is that of the published release",
            Self::Record => "recorded in the image, which tdxhost built",
            Self::FileName => "the file's name says so, nothing else does",
        }
    }
}

/// A version, and how it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The version.
    pub version: Version,
    /// How it is known.
    pub source: VersionSource,
    /// The file's name says another one.
    pub name_says: Option<Version>,
}

/// What the rules need of a well-formed image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// Header of the file.
    pub header: HeaderVersion,
    /// State of its checksum.
    pub checksum: Checksum,
    /// SVN of the SIGSTRUCT.
    pub svn: Svn,
    /// Signed for debugging.
    pub debug: bool,
    /// CPUID.1:EAX values of the SIGSTRUCT, steppings included.
    pub cpus: Vec<u32>,
    /// Whose signature it carries; or why signature or hash are wrong.
    pub signer: Result<Signer, Refusal>,
    /// What P-SEAMLDR 1.5 says to the fields of the SIGSTRUCT.
    pub fields_1_5: Result<(), Refusal>,
    /// What P-SEAMLDR 2.0 says to them.
    pub fields_2_0: Result<(), Refusal>,
    /// What P-SEAMLDR would find in the module when the old one is gone.
    pub relocations: Result<(), Refusal>,
}

/// A file that may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The file.
    pub file: PathBuf,
    /// What it holds, or why it is no image.
    pub image: Result<ImageFacts, Refusal>,
    /// Its version, where known.
    pub identity: Option<Identity>,
}

impl Candidate {
    /// Reads a file. Its bytes come along: what is uploaded later is what was looked at.
    pub fn load(path: &Path) -> io::Result<(Self, Vec<u8>)> {
        let bytes = read_image(path)?;
        Ok((Self::of_bytes(path, &bytes), bytes))
    }

    /// The candidate whose bytes nobody knows.
    pub fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self { file: path.to_owned(), image: Err(Refusal::new("unreadable", error)), identity: None }
    }

    /// The candidate with the content `bytes`.
    pub fn of_bytes(path: &Path, bytes: &[u8]) -> Self {
        let named = version_of_name(path);
        let (image, known) = match Image::parse(bytes) {
            Err(error) => (Err(error.into()), None),
            Ok(image) => {
                let signer = verify::image(&image).map(|verified| verified.signer);
                (Ok(ImageFacts::new(&image, signer.map_err(Refusal::from))), known_version(&image))
            }
        };
        let identity = match known {
            Some((version, source)) => {
                Some(Identity { version, source, name_says: named.filter(|&named| named != version) })
            }
            None => {
                named.map(|version| Identity { version, source: VersionSource::FileName, name_says: None })
            }
        };
        Self { file: path.to_owned(), image, identity }
    }

    /// Version, where known.
    pub fn version(&self) -> Option<Version> {
        self.identity.map(|identity| identity.version)
    }
}

impl ImageFacts {
    fn new(image: &Image<'_>, signer: Result<Signer, Refusal>) -> Self {
        let sigstruct = image.sigstruct();
        Self {
            header: image.header(),
            checksum: image.checksum(),
            svn: svn(sigstruct),
            debug: sigstruct.is_debug(),
            cpus: sigstruct.cpus().collect(),
            signer,
            fields_1_5: fields(image, SigstructRules::Loader1_5_02),
            fields_2_0: fields(image, SigstructRules::Loader2_0),
            relocations: check_relocations(image.module()).map_err(Refusal::from),
        }
    }
}

/// What a P-SEAMLDR says to the fields of the SIGSTRUCT.
pub fn fields(image: &Image<'_>, rules: SigstructRules) -> Result<(), Refusal> {
    let sigstruct = image.sigstruct();
    let result = sigstruct.check(rules).and_then(|()| sigstruct.check_offsets(image.module_pages()));
    result.map_err(Refusal::from)
}

/// SVN of a SIGSTRUCT.
pub fn svn(sigstruct: &Sigstruct) -> Svn {
    let svn = sigstruct.svn();
    Svn { major: svn.major, minor: svn.minor }
}

/// The published release whose image has this SHA-384.
pub fn release_of_hash(seamhash: &[u8; 48]) -> Option<&'static Profile> {
    profile::all().find(|profile| profile.seamhash == *seamhash && profile.seamhash != [0; 48])
}

/// Version by the hash of the bytes that are there, else by the record in them.
fn known_version(image: &Image<'_>) -> Option<(Version, VersionSource)> {
    let hash = verify::seamhash(image.module());
    let published = release_of_hash(&hash).map(|profile| (profile.version, VersionSource::Seamhash));
    published
        .or_else(|| ModuleRecord::find(image.module()).map(|record| (record.version, VersionSource::Record)))
}

/// `1.5.06` of `tdx_module_1.5.06.blob`.
fn version_of_name(path: &Path) -> Option<Version> {
    let name = path.file_stem()?.to_str()?;
    let from = name.find(|c: char| c.is_ascii_digit())?;
    let text = name.get(from..)?;
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    version(text.get(..end)?.trim_end_matches('.')).ok()
}

/// The bytes of an image file.
pub fn read_image(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > SIZE_LIMIT) {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 64 MiB, which no upload file takes",
        ));
    }
    Ok(bytes)
}

/// The images of a directory: of Intel's repository (`joined_files/1.5/tdx_module_1.5.06.blob`), of a part
/// of it, or a flat directory of images.
pub fn of_directory(directory: &Path) -> io::Result<Vec<Candidate>> {
    let joined = directory.join("joined_files");
    let root = if joined.is_dir() { joined.as_path() } else { directory };
    let mut files = Vec::new();
    for path in entries(root)? {
        if path.is_dir() {
            if is_line(&path) {
                files.extend(entries(&path)?.into_iter().filter(|path| path.is_file()));
            }
        } else if path.is_file() {
            files.push(path);
        }
    }
    let mut candidates = Vec::new();
    for file in files {
        let named_so = file.extension().is_some_and(|extension| extension == "blob");
        // One file that cannot be read must not hide the others.
        if named_so || has_signature_word(&file).unwrap_or(true) {
            candidates.push(
                Candidate::load(&file)
                    .map_or_else(|error| Candidate::unreadable(&file, &error), |(candidate, _)| candidate),
            );
        }
    }
    Ok(candidates)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}

/// True for a directory named like `1.5`.
fn is_line(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split_once('.'))
        .is_some_and(|(major, minor)| major.parse::<u16>().is_ok() && minor.parse::<u16>().is_ok())
}

/// True if the file says of itself that it is an image, in either header.
fn has_signature_word(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    fs::File::open(path)?.take(16).read_to_end(&mut start)?;
    Ok([4..12, 8..16].into_iter().any(|place| start.get(place) == Some(b"TDX-BLOB")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_may_hold_a_version() {
        let named = |name: &str| version_of_name(Path::new(name));
        assert_eq!(named("joined_files/1.5/tdx_module_1.5.06.blob"), Some(Version::new(1, 5, 6)));
        assert_eq!(named("2.0.8.img"), Some(Version::new(2, 0, 8)));
        assert_eq!(named("tdx_module_1.5.28-test.blob"), Some(Version::new(1, 5, 28)));
        assert_eq!(named("module.blob"), None);
        assert_eq!(named("module-1.5.blob"), None);
    }
}
