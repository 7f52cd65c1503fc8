//! Builds images that the software machine runs, signed with the project's test key.
//!
//! The module is a small valid ELF64 file with relocations; there is no code in it that does anything, the
//! machine plays a profile instead. Which one stands in its [record](crate::record). The same specification
//! gives the same bytes.

mod module;

use std::boxed::Box;
use std::string::String;
use std::sync::LazyLock;
use std::vec;
use std::vec::Vec;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA384, RsaKeyPair};
use tdx_abi::seamldr::{MAX_MODULE_PAGES, Version};
use zerocopy::FromZeros;

use crate::container::{HeaderVersion, ImageError, encode, encoded_len};
use crate::reason::reason_enum;
use crate::record::MAX_PROFILE_LEN;
use crate::sigstruct::{
    Date, EXPONENT, MAX_CPUS, MODULE_TYPE_DEBUG, MODULUS_SIZE, Sigstruct, Svn, fixed_fields,
};
use crate::verify::{seamhash, signed_bytes};

/// The test key: RSA-3072, PKCS#8. Public on purpose, worth nothing on a real machine (`keys/README.md`).
const TEST_KEY: &[u8] = include_bytes!("../keys/tdxhost-test-key.pk8");
/// Its modulus as a SIGSTRUCT stores it.
const TEST_KEY_MODULUS: &[u8; MODULUS_SIZE] = include_bytes!("../keys/tdxhost-test-key.modulus");

static KEY: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::from_pkcs8(TEST_KEY).expect("the committed test key is an RSA key"));

/// Fewest pages of a built module.
pub const MIN_PAGES: u32 = module::MIN_PAGES;

reason_enum! {
    /// Why a specification gives no module.
    pub enum BuildError {
        /// Too few or too many pages.
        Pages {
            /// Pages asked for.
            pages: u32,
        } = "build-pages",
            "a module of {pages} pages cannot be built: 5 to 496 are possible",
            "leave the number of pages out, or choose one in between";
        /// More CPUs than the table has room for.
        Cpus {
            /// CPUs asked for.
            count: usize,
        } = "build-cpus",
            "{count} CPUs do not fit into the SIGSTRUCT's table of 255",
            "name each family and model once: the stepping does not count";
        /// The profile's name cannot be recorded.
        Profile {
            /// Bytes of the name.
            len: usize,
        } = "build-profile",
            "a profile name of {len} bytes cannot be recorded: at most 64 printable ASCII characters, no spaces",
            "take the name of a profile as `module list` or the platform file shows it";
        /// No hand-off page, or more than the SIGSTRUCT can count.
        HandoffPages {
            /// Pages asked for.
            pages: u32,
        } = "build-handoff-pages",
            "{pages} hand-off pages cannot be written to a SIGSTRUCT: 1 to 65536 are possible",
            "leave the number of hand-off pages out";
    }
}

/// What is asked of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleSpec {
    /// Version in the record, and from major version 2 on in the SIGSTRUCT as well.
    pub version: Version,
    /// Profile that the software module plays; empty: the one of the version.
    pub profile: String,
    /// Security version. With major 0 (TDX 1.0) the SIGSTRUCT gets no hand-off fields and no offsets of GDT,
    /// IDT and exception entries: a loader of TDX 1.0 wants them to be zero.
    pub svn: Svn,
    /// CPUID.1.EAX of the CPUs that the module runs on.
    pub cpus: Vec<u32>,
    /// Build date.
    pub date: Date,
    /// Hand-off version that the module writes.
    pub module_handoff_version: u16,
    /// Lowest hand-off version that the module takes over.
    pub min_update_handoff_version: u16,
    /// Whether the module hands off in its own version only.
    pub no_downgrade: bool,
    /// Pages of the hand-off area, at least 1.
    pub handoff_pages: u32,
    /// Pages of the module.
    pub pages: u32,
    /// Whether the module is for debug-unlocked machines only.
    pub debug: bool,
    /// Gives the module a relocation that writes behind its end, which P-SEAMLDR refuses.
    pub relocation_outside: bool,
    /// Pages that the memory pool of the module's extensions needs, if not those of the profile.
    pub pool_pages: Option<u32>,
}

impl ModuleSpec {
    /// A production module of a version with the SVN line, CPUs and sizes of Intel's of its time.
    pub fn new(version: Version, profile: &str) -> Self {
        let is_2 = version.major >= 2;
        let line = match (version.major, version.minor) {
            (0, _) | (1, 0..5) => 0,
            (1, _) => 1,
            _ => 3,
        };
        Self {
            version,
            profile: profile.into(),
            svn: Svn { major: line, minor: u8::try_from(version.update).unwrap_or(u8::MAX) },
            cpus: if is_2 { vec![0xA06D0, 0xA06E0] } else { vec![0x806F8, 0xC06F0, 0xA06F0] },
            date: Date(0x2026_0101),
            module_handoff_version: 0,
            min_update_handoff_version: 0,
            no_downgrade: false,
            handoff_pages: if is_2 { 25 } else { 14 },
            pages: 32,
            debug: false,
            relocation_outside: false,
            pool_pages: None,
        }
    }

    fn check(&self) -> Result<(), BuildError> {
        let pages = self.pages;
        if pages < MIN_PAGES || u64::from(pages) > MAX_MODULE_PAGES as u64 {
            return Err(BuildError::Pages { pages });
        }
        let count = self.cpus.len();
        if count > MAX_CPUS {
            return Err(BuildError::Cpus { count });
        }
        let len = self.profile.len();
        if len > MAX_PROFILE_LEN || !self.profile.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BuildError::Profile { len });
        }
        Ok(())
    }

    /// Whether the SIGSTRUCT is one of TDX 1.5 or later.
    const fn has_handoff_fields(&self) -> bool {
        self.svn.major != 0
    }

    fn handoff_pages_less_1(&self) -> Result<u16, BuildError> {
        let pages = self.handoff_pages;
        let less_1 = pages.checked_sub(1).and_then(|less_1| u16::try_from(less_1).ok());
        less_1.ok_or(BuildError::HandoffPages { pages })
    }
}

/// The SIGSTRUCT, signed, and the pages of a module.
pub fn module(spec: &ModuleSpec) -> Result<(Box<Sigstruct>, Vec<u8>), BuildError> {
    spec.check()?;
    let mut sigstruct = Box::new(Sigstruct::new_zeroed());
    fixed_fields(&mut sigstruct);
    let handoff_pages_less_1 = spec.handoff_pages_less_1()?;
    if spec.debug {
        sigstruct.module_type.set(MODULE_TYPE_DEBUG);
    }
    sigstruct.date.set(spec.date.0);
    sigstruct.minor_svn = spec.svn.minor;
    sigstruct.major_svn = spec.svn.major;
    if spec.has_handoff_fields() {
        sigstruct.handoff_pages_less_1.set(handoff_pages_less_1);
        sigstruct.module_handoff_version.set(spec.module_handoff_version);
        sigstruct.min_update_handoff_version.set(spec.min_update_handoff_version);
        sigstruct.no_downgrade = u8::from(spec.no_downgrade);
    }
    if let (2.., Ok(major), Ok(minor)) =
        (spec.version.major, u8::try_from(spec.version.major), u8::try_from(spec.version.minor))
    {
        sigstruct.version_major = major;
        sigstruct.version_minor = minor;
        sigstruct.version_update.set(spec.version.update);
    }
    for (count, (entry, cpu)) in (1_u32..).zip(sigstruct.cpu_table.iter_mut().zip(&spec.cpus)) {
        entry.set(*cpu);
        sigstruct.cpu_count.set(count);
    }
    let pages = module::pages(spec, &mut sigstruct);
    seal(&mut sigstruct, &pages);
    Ok((sigstruct, pages))
}

/// A whole image.
pub fn image(spec: &ModuleSpec, header: HeaderVersion) -> Result<Vec<u8>, BuildError> {
    let (sigstruct, pages) = module(spec)?;
    Ok(wrap(header, &sigstruct, &pages).expect("a built module is whole pages within the limit"))
}

/// [`encode`] to a buffer of the right size.
pub fn wrap(header: HeaderVersion, sigstruct: &Sigstruct, module: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut out = vec![0; encoded_len(header, module.len())?];
    encode(header, sigstruct, module, &mut out)?;
    Ok(out)
}

/// Makes a SIGSTRUCT that of a module: sets its hash and signs it with the test key.
pub fn seal(sigstruct: &mut Sigstruct, module: &[u8]) {
    sigstruct.seamhash = seamhash(module);
    resign(sigstruct);
}

/// Signs a SIGSTRUCT with the test key, whatever it says.
pub fn resign(sigstruct: &mut Sigstruct) {
    sigstruct.modulus = *TEST_KEY_MODULUS;
    sigstruct.exponent.set(EXPONENT);
    let mut signature = [0; MODULUS_SIZE];
    // PKCS#1 v1.5 takes no random numbers: the generator is not asked.
    KEY.sign(&RSA_PKCS1_SHA384, &SystemRandom::new(), &signed_bytes(sigstruct), &mut signature)
        .expect("an RSA-3072 key signs any message");
    signature.reverse();
    sigstruct.signature = signature;
}
