//! `tdxhost module inspect`: what an image says of itself, and whether that is true.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tdx_image::verify::{self, Signer};
use tdx_image::{Checksum, SigstructRules, cpus, linux73};
use tdx_module::profile::Svn;

use super::convert::{parsed, read};
use crate::text::{Format, Output, Tone};
use crate::update::Refusal;
use crate::update::candidate::{Candidate, VersionSource, fields, svn};

/// Arguments of `tdxhost module inspect`.
#[derive(Args, Clone, Debug)]
pub(super) struct InspectArgs {
    /// Image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Result of a check: `null` if it is as it should be.
type Verdict = Option<Refusal>;

#[derive(Serialize)]
struct Document {
    file: PathBuf,
    header: String,
    checksum: &'static str,
    bytes: u64,
    module_bytes: u64,
    module_pages: u32,
    version: Option<String>,
    version_source: Option<VersionSource>,
    /// Version in the file's name, if it is another one.
    file_name_says: Option<String>,
    /// Profile that a software machine plays, for images that this program built.
    profile: Option<String>,
    signer: Option<&'static str>,
    signature: Verdict,
    date: String,
    svn: SvnFacts,
    debug: bool,
    /// What a quote shows as MRSEAM once the module runs.
    seamhash: String,
    cpus: Vec<CpuFacts>,
    entry_offset: u32,
    stack_pages: u32,
    tls_pages: u32,
    keyhole_pages: u32,
    global_data_pages: u32,
    handoff: HandoffFacts,
    linux_7_3: Verdict,
    seamldr_1_5: Verdict,
    seamldr_2_0: Verdict,
}

#[derive(Serialize)]
struct SvnFacts {
    major: u8,
    minor: u8,
}

#[derive(Serialize)]
struct CpuFacts {
    cpuid_1_eax: String,
    code_name: Option<&'static str>,
    sold_as: Option<&'static str>,
}

#[derive(Serialize)]
struct HandoffFacts {
    module_version: u16,
    min_update_version: u16,
    no_downgrade: bool,
    pages: u32,
}

pub(super) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let document = look(args)?;
    let mut out = io::stdout().lock();
    let mut output = Output::of_command(&mut out, args.json);
    match output.format {
        Format::Json => output.document(&document)?,
        Format::Text => document.print(&mut output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn look(args: &InspectArgs) -> anyhow::Result<Document> {
    let bytes = read(&args.file)?;
    let image = parsed(&args.file, &bytes)?;
    let candidate = Candidate::of_bytes(&args.file, &bytes);
    let sigstruct = image.sigstruct();
    let Svn { major, minor } = svn(sigstruct);
    let fields = |rules| fields(&image, rules).err();
    let identity = candidate.identity;
    let record = tdx_image::record::ModuleRecord::find(image.module());
    Ok(Document {
        file: args.file.clone(),
        header: image.header().to_string(),
        checksum: match image.checksum() {
            Checksum::Good => "good",
            Checksum::Absent => "absent",
            Checksum::Wrong { .. } => "wrong",
        },
        bytes: image.len(),
        module_bytes: u64::from(image.module_pages()) * tdx_abi::PAGE_SIZE,
        module_pages: image.module_pages(),
        version: identity.map(|identity| identity.version.to_string()),
        version_source: identity.map(|identity| identity.source),
        file_name_says: identity.and_then(|identity| identity.name_says).map(|named| named.to_string()),
        profile: record.map(|record| record.profile.to_owned()),
        signer: verify::signer(sigstruct).map(signer_name),
        signature: verify::image(&image).err().map(Refusal::from),
        date: sigstruct.date().to_string(),
        svn: SvnFacts { major, minor },
        debug: sigstruct.is_debug(),
        seamhash: hex(sigstruct.seamhash()),
        cpus: sigstruct
            .cpus()
            .map(|cpu| {
                let model = cpus::code_name(cpu);
                CpuFacts {
                    cpuid_1_eax: format!("{cpu:#x}"),
                    code_name: model.map(|model| model.code_name),
                    sold_as: model.and_then(|model| model.sold_as),
                }
            })
            .collect(),
        entry_offset: sigstruct.entry_offset(),
        stack_pages: sigstruct.stack_pages(),
        tls_pages: sigstruct.tls_pages(),
        keyhole_pages: sigstruct.keyhole_pages(),
        global_data_pages: sigstruct.global_data_pages(),
        handoff: HandoffFacts {
            module_version: sigstruct.module_handoff_version(),
            min_update_version: sigstruct.min_update_handoff_version(),
            no_downgrade: sigstruct.no_downgrade(),
            pages: sigstruct.handoff_pages(),
        },
        linux_7_3: linux73(&bytes).err().map(Refusal::from),
        seamldr_1_5: fields(SigstructRules::Loader1_5_02),
        seamldr_2_0: fields(SigstructRules::Loader2_0),
    })
}

/// A signer as the documents name it.
pub(super) const fn signer_name(signer: Signer) -> &'static str {
    match signer {
        Signer::Intel => "Intel",
        Signer::TdxhostTestKey => "tdxhost test key",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Document {
    fn print(&self, output: &mut Output<'_>) -> io::Result<()> {
        let heading = output.paint.paint(Tone::Strong, &self.file.display().to_string());
        writeln!(output.out, "{heading}")?;
        output.paragraph("  version     ", &self.version_in_words())?;
        if let Some(profile) = self.profile.as_ref().filter(|profile| !profile.is_empty()) {
            output.paragraph("  profile     ", &format!("{profile}, which a software machine plays"))?;
        }
        output.paragraph("  header      ", &format!("{}, checksum {}", self.header, self.checksum))?;
        output.paragraph(
            "  size        ",
            &format!("{} bytes; module {} bytes, {} pages", self.bytes, self.module_bytes, self.module_pages),
        )?;
        verdict(output, "signature", &self.signature, ("", &self.signed_by()))?;
        let kind = if self.debug { "signed for debugging" } else { "production" };
        output.paragraph("  date        ", &format!("{}, {kind}", self.date))?;
        output.paragraph("  SVN         ", &format!("{}.{}", self.svn.major, self.svn.minor))?;
        output.paragraph("  MRSEAM      ", &self.seamhash)?;
        if self.cpus.is_empty() {
            output.paragraph("  CPUs        ", "none listed")?;
        }
        for (number, cpu) in self.cpus.iter().enumerate() {
            let label = if number == 0 { "  CPUs        " } else { "              " };
            output.paragraph(label, &cpu.in_words())?;
        }
        let handoff = &self.handoff;
        output.paragraph(
            "  hand-off    ",
            &format!(
                "version {}, takes over from {}{}, {} pages",
                handoff.module_version,
                handoff.min_update_version,
                if handoff.no_downgrade { ", hands over in its own version only" } else { "" },
                handoff.pages
            ),
        )?;
        verdict(output, "Linux 7.3", &self.linux_7_3, ("", "takes the file as it is"))?;
        verdict(output, "P-SEAMLDR", &self.seamldr_1_5, ("1.5 ", "accepts the SIGSTRUCT fields"))?;
        verdict(output, "", &self.seamldr_2_0, ("2.0 ", "accepts the SIGSTRUCT fields"))
    }

    fn version_in_words(&self) -> String {
        let (Some(version), Some(source)) = (&self.version, self.version_source) else {
            return "unknown: neither hash, record nor file name tells".to_owned();
        };
        let mut text = format!("{version} ({})", source.describe());
        if let Some(named) = &self.file_name_says {
            // Writing to a String cannot fail.
            let _ = write!(text, "; the file's name says {named}");
        }
        text
    }

    fn signed_by(&self) -> String {
        format!("by {}; signature and hash right", self.signer.unwrap_or("an unknown key"))
    }
}

impl CpuFacts {
    fn in_words(&self) -> String {
        let name = self.code_name.unwrap_or("unknown");
        match self.sold_as {
            Some(sold_as) => format!("{} {name}: {sold_as}", self.cpuid_1_eax),
            None => format!("{} {name}", self.cpuid_1_eax),
        }
    }
}

/// `who` judged; `good` is what is said where nothing is wrong.
fn verdict(
    output: &mut Output<'_>,
    label: &str,
    verdict: &Verdict,
    (who, good): (&str, &str),
) -> io::Result<()> {
    let label = format!("  {label:<12}");
    match verdict {
        None => output.paragraph(&label, &format!("{who}{good}")),
        Some(refusal) => output.paragraph(&label, &format!("{who}REFUSED: {}", refusal.with_remedy())),
    }
}
