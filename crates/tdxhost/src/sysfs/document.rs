//! `docs/sysfs.md`: every file with its place in each layout, from the tables that the tree itself is made of.

use std::fmt::Write as _;

use tdx_host::ErrorInfo;
use tdx_host::device::{self, AttributeGroup};
use tdx_host::tsm::{Directory, TSM_ATTRIBUTES, TSM_ERRORS, TsmAttribute};

use super::layout::Layout;
use super::pci::config;
use super::pci::function::Register;
use super::upload;

const LAYOUTS: [Layout; 3] = [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03];

const HEAD: &str = "\
# Files of a TDX host

Written by `cargo xtask sysfs` from the tables that the files are made of. `tdxhost serve --mount DIR` shows them
below DIR; `--sysfs-layout` chooses among the kernels that tools were written for: Linux 7.3 (`7.3`, the default),
the postings of 2025-09 to 2026-05 (`2025-09`) and that of 2025-03 (`2025-03`). A dash means that there is no such
file. Every text ends with a newline. Files of something that went away answer -ENODEV to whoever has them open.
";

/// The whole document.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    host_device(&mut text);
    firmware_upload(&mut text);
    tsm(&mut text);
    functions(&mut text);
    errors(&mut text);
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn row<'a>(text: &mut String, cells: impl IntoIterator<Item = &'a str>) {
    text.push('|');
    for cell in cells {
        text.push(' ');
        text.push_str(cell);
        text.push_str(" |");
    }
    text.push('\n');
}

fn table(text: &mut String, title: &str, columns: &[&str]) {
    text.push('\n');
    line(text, title);
    text.push('\n');
    row(text, columns.iter().copied());
    row(text, columns.iter().map(|_| "---"));
}

fn octal(mode: u16) -> String {
    format!("{mode:04o}")
}

fn place(path: &str, mode: u16) -> String {
    format!("`{path}` {}", octal(mode))
}

/// The attribute in every layout, with its mode there.
fn places(attribute: &device::Attribute) -> [String; 3] {
    LAYOUTS.map(|layout| {
        layout.attribute(attribute).map_or_else(|| "-".to_owned(), |(path, mode)| place(&path, mode))
    })
}

fn host_device(text: &mut String) {
    table(text, "## The device", &["7.3", "2025-09", "2025-03", "There", "Reads"]);
    for attribute in &device::ATTRIBUTES {
        let [newest, middle, oldest] = places(attribute);
        let visible = match attribute.group {
            AttributeGroup::Base => "the module is initialised",
            AttributeGroup::Update => {
                "the module can be replaced under running TDs and the CPU keeps its VMCS over SEAMRET; \
                 in `2025-03` always, with -ENXIO and `0`"
            }
        };
        let reads = match attribute.name {
            "num_remaining_updates" => "updates that P-SEAMLDR still takes, decimal",
            _ => "`major.minor.update`; the update has two digits in `7.3`",
        };
        row(text, [&*newest, &middle, &oldest, visible, reads]);
    }
    let names = |layout: Layout| format!("`{}`", layout.device_path());
    let _ = writeln!(
        text,
        "\nThe module's directory is {} in `7.3` and `2025-09`, and {} in `2025-03`; `bus/faux/devices/tdx_host` \
         leads to the former. After a failed update `version` is -EBUSY while another update may help, and -ENODEV once none can. \
         `devices/system/cpu/{{present,online,modalias}}` (0444) are those of every kernel.",
        names(Layout::Linux7_3),
        names(Layout::Posting2025_03),
    );
}

fn firmware_upload(text: &mut String) {
    let title = "## Firmware upload";
    table(text, title, &["File", "Mode", "Reads", "Writes"]);
    let mut rows: Vec<(&str, u16, &str, &str)> = upload::File::ALL
        .into_iter()
        .map(|file| (file.name(), file.mode(), file.reads().unwrap_or("-"), file.writes().unwrap_or("-")))
        .collect();
    let (name, mode) = upload::DATA;
    rows.push((
        name,
        mode,
        "bytes of the image",
        "bytes of the image, at any offset; -EBUSY: an update runs",
    ));
    rows.sort_unstable();
    for (name, mode, reads, writes) in rows {
        row(text, [&*format!("`{name}`"), &octal(mode), reads, writes]);
    }
    let paths = LAYOUTS.map(|layout| format!("`{}` in `{}`", layout.upload_path(), layout.name()));
    let _ = writeln!(
        text,
        "\nThe directory is {}, a link to the directory below the device. It is there with the attributes of an \
         update. Links `device` and `subsystem` lead back. What the words of `error` stand for: \
         `tdxhost explain error WORD`.",
        paths.join(", ")
    );
}

fn attribute_rows(text: &mut String, directory: Directory) {
    for attribute in TSM_ATTRIBUTES.iter().filter(|attribute| attribute.directory == directory) {
        let TsmAttribute { name, mode, visible, reads, writes, .. } = attribute;
        let mode = if *mode == 0 { "link".to_owned() } else { octal(*mode) };
        row(
            text,
            [&*format!("`{name}`"), &mode, visible.words(), reads.unwrap_or("-"), writes.unwrap_or("-")],
        );
    }
}

const COLUMNS: [&str; 5] = ["File", "Mode", "There", "Reads", "Writes"];

fn tsm(text: &mut String) {
    table(text, "## The TSM: `class/tsm/tsmN`", &COLUMNS);
    attribute_rows(text, Directory::Tsm);
    let paths = LAYOUTS.map(|layout| format!("`{}/tsm/tsmN` in `{}`", layout.device_path(), layout.name()));
    let _ = writeln!(
        text,
        "\nA link to {}. It is there while TDX Connect works. Links `device` and `subsystem` lead back. The kernels \
         of the older layouts knew no TSM: there it is where their device would have registered it.",
        paths.join(", ")
    );
}

fn functions(text: &mut String) {
    text.push_str("\nWhat follows has the same place in every layout.\n");
    table(text, "## Host bridges: `devices/pciDDDD:BB`", &COLUMNS);
    attribute_rows(text, Directory::HostBridge);
    let title =
        "## PCI functions: `bus/pci/devices/DDDD:BB:DD.F`, links to `devices/pciDDDD:BB/[PORT/]DDDD:BB:DD.F`";
    table(text, title, &COLUMNS);
    attribute_rows(text, Directory::Function);
    for register in Register::ALL {
        let name = format!("`{}`", register.name());
        row(text, [&*name, &octal(Register::MODE), "always", register.reads(), "-"]);
    }
    let name = format!("`{}`", config::NAME);
    let space = "the configuration space, 4096 bytes, 256 without PCI Express";
    row(
        text,
        [
            &*name,
            &octal(config::MODE),
            "always",
            space,
            "registers, aligned as they are; -EFBIG: behind the end",
        ],
    );
    row(text, ["`subsystem`", "link", "always", "link to `bus/pci`", "-"]);
    text.push_str(
        "\nLinux lets users other than root read the first 64 bytes of `config` alone; here the mode decides.\n",
    );
    table(text, "## `tsm/` of a function", &COLUMNS);
    attribute_rows(text, Directory::FunctionTsm);
    table(text, "## `doe_features/` of a function", &COLUMNS);
    attribute_rows(text, Directory::DoeFeatures);
}

fn errors(text: &mut String) {
    let title = "## What a write to `tsm/connect` or `tsm/disconnect` fails with";
    table(text, title, &["errno", "Name in API and log", "Blame", "Sentence"]);
    let mut rows: Vec<&ErrorInfo> = TSM_ERRORS.iter().collect();
    rows.sort_by_key(|info| (info.errno.name(), info.name));
    for info in rows {
        let name = format!("`{}`", info.name);
        row(text, [&*info.errno.to_string(), &name, info.blame.name(), info.template]);
    }
    text.push_str("\n`tdxhost explain error NAME` says what to try.\n");
}
