//! Arguments of the plugin: `-plugin libtdx_qemu.so,key=value,…`.

use std::path::PathBuf;

use tdx_machine::fault;
use tdx_module::profile;

use crate::near::nearest;

/// Most private KeyIDs: half of what 15 KeyID bits number.
pub const MAX_PRIVATE_KEYIDS: u32 = 1 << 14;
/// Most updates that the log of the P-SEAMLDR has places for.
const MAX_UPDATES: u32 = 1 << 16;

const PLATFORM: &str = "platform";
const PROFILE: &str = "profile";
const PRIVATE_KEYIDS: &str = "private_keyids";
const MODULE: &str = "module";
const FAULT: &str = "fault";
const TRACE: &str = "trace";
const SEED: &str = "seed";
const REMAINING_UPDATES: &str = "remaining_updates";
const SEAMLDR: &str = "seamldr";

/// Every key.
pub const KEYS: [&str; 9] =
    [PLATFORM, PROFILE, PRIVATE_KEYIDS, MODULE, FAULT, TRACE, SEED, REMAINING_UPDATES, SEAMLDR];

/// What `help` among the arguments prints: a line for each option.
pub fn help() -> String {
    let line = |key| format!("  {:<38} {}\n", format!("{key}={}", value_of(key)), meaning(key));
    format!("Options of libtdx_qemu.so:\n{}", KEYS.map(line).concat())
}

/// What the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Platform file, or the name of a preset.
    pub platform: Option<String>,
    /// Release profile of the module; not with a platform.
    pub profile: Option<String>,
    /// Number of private KeyIDs; not with a platform.
    pub private_keyids: Option<u32>,
    /// Image of the module that is installed at power-on.
    pub module: Option<PathBuf>,
    /// Faults by their names in the catalogue.
    pub faults: Vec<String>,
    /// File that gets a line for each SEAMCALL.
    pub trace: Option<PathBuf>,
    /// What chance follows.
    pub seed: u64,
    /// Updates that the P-SEAMLDR still takes after power-on.
    pub remaining_updates: Option<u32>,
    /// Version of the P-SEAMLDR.
    pub seamldr: Option<String>,
}

/// Why the arguments are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such key.
    #[error("`{key}` is no option{}; options are {}", meant(*nearest), KEYS.join(", "))]
    UnknownKey {
        /// What was written.
        key: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A key without a value. QEMU completes it to `key=on`.
    #[error("`{key}` needs a value: {key}={what}")]
    NoValue {
        /// The key.
        key: &'static str,
        /// What the value is.
        what: &'static str,
    },
    /// A key that is given twice.
    #[error("`{key}` is given twice; only `fault` may be repeated")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// A value that is no number, or one that is out of range.
    #[error("`{key}={value}`: allowed are whole numbers from 0 to {max}")]
    BadNumber {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// Greatest number.
        max: u64,
    },
    /// Not the name of a release profile.
    #[error("`profile={name}`: no such release{}; releases are {}", meant(*nearest), profiles().collect::<Vec<_>>().join(", "))]
    UnknownProfile {
        /// What was written.
        name: String,
        /// The release that was probably meant.
        nearest: Option<&'static str>,
    },
    /// Not the name of a fault.
    #[error("`fault={name}`: no such fault{}; `tdxhost explain fault` lists them", meant(*nearest))]
    UnknownFault {
        /// What was written.
        name: String,
        /// The fault that was probably meant.
        nearest: Option<&'static str>,
    },
    /// Not a version.
    #[error("`seamldr={version}`: allowed is major.minor.update, such as 2.0.00")]
    BadVersion {
        /// What was written.
        version: String,
    },
    /// The platform says it already.
    #[error("`{key}` together with `platform`: the platform says it already; leave one of them out")]
    WithPlatform {
        /// The key.
        key: &'static str,
    },
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}

fn profiles() -> impl Iterator<Item = &'static str> {
    profile::all().map(|profile| profile.name)
}

impl Options {
    /// Reads the arguments as QEMU passes them on, each `key=value`.
    pub fn parse<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let mut seed = None;
        for argument in arguments {
            let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
            let known = KEYS.into_iter().find(|known| *known == key);
            let Some(key) = known else {
                return Err(OptionError::UnknownKey { key: key.to_owned(), nearest: nearest(key, KEYS) });
            };
            if value.is_empty() || value == "on" {
                return Err(OptionError::NoValue { key, what: value_of(key) });
            }
            match key {
                PLATFORM => once(&mut options.platform, key, value.to_owned())?,
                PROFILE => once(&mut options.profile, key, known_profile(value)?)?,
                PRIVATE_KEYIDS => {
                    once(&mut options.private_keyids, key, number32(key, value, MAX_PRIVATE_KEYIDS)?)?;
                }
                MODULE => once(&mut options.module, key, PathBuf::from(value))?,
                FAULT => options.faults.push(known_fault(value)?),
                TRACE => once(&mut options.trace, key, PathBuf::from(value))?,
                SEED => once(&mut seed, key, number(key, value, u64::MAX)?)?,
                REMAINING_UPDATES => {
                    once(&mut options.remaining_updates, key, number32(key, value, MAX_UPDATES)?)?;
                }
                _ => once(&mut options.seamldr, key, known_version(value)?)?,
            }
        }
        options.seed = seed.unwrap_or(0);
        if options.platform.is_some() {
            for (key, given) in
                [(PROFILE, options.profile.is_some()), (PRIVATE_KEYIDS, options.private_keyids.is_some())]
            {
                if given {
                    return Err(OptionError::WithPlatform { key });
                }
            }
        }
        Ok(options)
    }
}

fn value_of(key: &str) -> &'static str {
    match key {
        PLATFORM => "FILE or the name of a preset",
        PROFILE => "RELEASE",
        MODULE => "IMAGE",
        FAULT => "NAME",
        TRACE => "FILE",
        SEAMLDR => "MAJOR.MINOR.UPDATE",
        _ => "NUMBER",
    }
}

fn meaning(key: &str) -> &'static str {
    match key {
        PLATFORM => "the platform below the guest: `tdxhost platform list` shows the presets",
        PROFILE => "the release that the module plays (default: connect); not with platform",
        PRIVATE_KEYIDS => "KeyIDs for TDX (default: 32); not with platform",
        MODULE => "an image of the module, installed at power-on",
        FAULT => "a fault of the catalogue, repeatable: `tdxhost explain fault` lists them",
        TRACE => "a line of JSON for each SEAMCALL",
        SEED => "what chance follows (default: 0)",
        REMAINING_UPDATES => "updates that the P-SEAMLDR still takes (default: 15)",
        _ => "version of the P-SEAMLDR (default: 2.0.00)",
    }
}

fn once<T>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), OptionError> {
    if slot.replace(value).is_some() { Err(OptionError::Twice { key }) } else { Ok(()) }
}

fn number(key: &'static str, value: &str, max: u64) -> Result<u64, OptionError> {
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    parsed
        .ok()
        .filter(|&number| number <= max && !value.contains('+'))
        .ok_or_else(|| OptionError::BadNumber { key, value: value.to_owned(), max })
}

fn number32(key: &'static str, value: &str, max: u32) -> Result<u32, OptionError> {
    let wide = number(key, value, u64::from(max))?;
    u32::try_from(wide).map_err(|_| OptionError::BadNumber { key, value: value.to_owned(), max: max.into() })
}

fn known_profile(name: &str) -> Result<String, OptionError> {
    match profile::find(name) {
        Some(profile) => Ok(profile.name.to_owned()),
        None => {
            Err(OptionError::UnknownProfile { name: name.to_owned(), nearest: nearest(name, profiles()) })
        }
    }
}

fn known_fault(name: &str) -> Result<String, OptionError> {
    let names = || fault::CATALOGUE.iter().map(|info| info.name);
    if names().any(|known| known == name) {
        return Ok(name.to_owned());
    }
    Err(OptionError::UnknownFault { name: name.to_owned(), nearest: nearest(name, names()) })
}

fn known_version(version: &str) -> Result<String, OptionError> {
    let parts: Vec<_> = version.split('.').map(str::parse::<u16>).collect();
    if parts.len() == 3 && parts.iter().all(Result::is_ok) {
        Ok(version.to_owned())
    } else {
        Err(OptionError::BadVersion { version: version.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> String {
        Options::parse(arguments.iter().copied()).expect_err("refused").to_string()
    }

    #[test]
    fn without_arguments_everything_is_at_its_default() {
        assert_eq!(Options::parse([]), Ok(Options::default()));
    }

    #[test]
    fn every_key_lands_in_its_place() {
        let options = Options::parse([
            "profile=1.5.06",
            "private_keyids=16",
            "module=/m.bin",
            "fault=module-missing",
            "fault=keyids-zero",
            "trace=t.jsonl",
            "seed=0x2a",
            "remaining_updates=3",
            "seamldr=1.5.02",
        ]);
        let expected = Options {
            platform: None,
            profile: Some("1.5.06".to_owned()),
            private_keyids: Some(16),
            module: Some("/m.bin".into()),
            faults: vec!["module-missing".to_owned(), "keyids-zero".to_owned()],
            trace: Some("t.jsonl".into()),
            seed: 42,
            remaining_updates: Some(3),
            seamldr: Some("1.5.02".to_owned()),
        };
        assert_eq!(options, Ok(expected));
        assert_eq!(
            Options::parse(["platform=a=b.toml"]).map(|options| options.platform),
            Ok(Some("a=b.toml".to_owned()))
        );
    }

    #[test]
    fn help_has_a_line_for_every_option_with_the_defaults_that_hold() {
        let help = help();
        for key in KEYS {
            let wanted = format!("  {key}=");
            assert_eq!(help.lines().filter(|line| line.starts_with(&wanted)).count(), 1, "{key}\n{help}");
        }
        let module = tdx_machine::spec::ModuleSpec::default();
        let loader = tdx_machine::spec::SeamldrSpec::default();
        for default in [
            module.profile,
            tdx_machine::spec::KeyIdSpec::default().tdx.to_string(),
            loader.remaining_updates.to_string(),
            loader.version,
        ] {
            assert!(help.contains(&format!("(default: {default})")), "{default}\n{help}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let text = refusal(&["platfrom=x"]);
        assert!(
            text.starts_with("`platfrom` is no option, did you mean `platform`?; options are "),
            "{text}"
        );
        let text = refusal(&["zzzzzzzz=1"]);
        assert!(text.starts_with("`zzzzzzzz` is no option; options are platform, profile,"), "{text}");
    }

    #[test]
    fn bad_values_are_refused_in_one_line_that_says_what_is_allowed() {
        for (arguments, text) in [
            (&["trace=on"][..], "`trace` needs a value: trace=FILE"),
            (&["seed"], "`seed` needs a value: seed=NUMBER"),
            (&["seed=1", "seed=1"], "`seed` is given twice; only `fault` may be repeated"),
            (&["seed=-1"], "`seed=-1`: allowed are whole numbers from 0 to 18446744073709551615"),
            (&["private_keyids=16385"], "`private_keyids=16385`: allowed are whole numbers from 0 to 16384"),
            (
                &["private_keyids=0x100000020"],
                "`private_keyids=0x100000020`: allowed are whole numbers from 0 to 16384",
            ),
            (
                &["remaining_updates=many"],
                "`remaining_updates=many`: allowed are whole numbers from 0 to 65536",
            ),
            (
                &["fault=module-mising"],
                "`fault=module-mising`: no such fault, did you mean `module-missing`?; `tdxhost explain fault` lists them",
            ),
            (&["seamldr=2.0"], "`seamldr=2.0`: allowed is major.minor.update, such as 2.0.00"),
            (&["seamldr=2.0.x"], "`seamldr=2.0.x`: allowed is major.minor.update, such as 2.0.00"),
            (
                &["profile=connect", "platform=tiny"],
                "`profile` together with `platform`: the platform says it already; leave one of them out",
            ),
            (
                &["platform=tiny", "private_keyids=4"],
                "`private_keyids` together with `platform`: the platform says it already; leave one of them out",
            ),
        ] {
            assert_eq!(refusal(arguments), text);
        }
        let text = refusal(&["profile=1.5.60"]);
        assert!(text.starts_with("`profile=1.5.60`: no such release, did you mean `1.5."), "{text}");
    }
}
