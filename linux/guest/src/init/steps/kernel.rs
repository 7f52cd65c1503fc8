//! What the kernel says about itself.

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use tdx_linux_guest::{
    plan::Attributes,
    symbols::{address_of, kaslr_displacement},
};

use super::{
    super::{files, log},
    Finding, World, attributes, cpus,
};

/// Linux's line when the module is up.
const INITIALIZED: &str = "virt/tdx: TDX-Module initialized";

/// The step `initialised`.
pub(super) fn initialised(world: &World) -> Result<Finding> {
    let log = log::read()?;
    let Some(record) = log.iter().find(|record| record.text.contains(INITIALIZED)) else {
        let said: Vec<&str> =
            log.iter().map(|r| r.text.as_str()).filter(|text| text.contains("tdx")).collect();
        bail!("the kernel does not say {INITIALIZED:?}, but {said:?}");
    };
    match world.tdx_host {
        Some(Ok(())) | None => {}
        Some(Err(errno)) => bail!("the module is initialized, but tdx-host.ko does not load: {errno}"),
    }
    Ok(Finding::new(format!("the kernel says {INITIALIZED:?}")).with("us", record.us))
}

/// The step `not-initialised`.
pub(super) fn not_initialised(text: &str, world: &World) -> Result<Finding> {
    let log = log::read()?;
    if let Some(record) = log.iter().find(|record| record.text.contains(INITIALIZED)) {
        bail!("the kernel says {:?}", record.text);
    }
    let Some(record) = log.iter().find(|record| record.text.contains(text)) else {
        let said: Vec<&str> =
            log.iter().map(|r| r.text.as_str()).filter(|text| text.contains("tdx")).collect();
        bail!("no line of the kernel's log has {text:?}; of TDX it says {said:?}");
    };
    match world.tdx_host {
        Some(Err(Errno::ENODEV)) | None => {}
        Some(Err(errno)) => bail!("tdx-host.ko does not load: {errno}, not ENODEV"),
        Some(Ok(())) => bail!("tdx-host.ko loads without a module"),
    }
    Ok(Finding::new(format!("the kernel says {:?}", record.text)))
}

/// The step `dmesg-has`.
pub(super) fn dmesg_has(text: &str) -> Result<Finding> {
    let log = log::read()?;
    let found = log.iter().find(|record| record.text.contains(text));
    let record = found.with_context(|| format!("no line of the kernel's log has {text:?}"))?;
    Ok(Finding::new(format!("the kernel says {:?}", record.text)))
}

/// The step `dmesg-lacks`.
pub(super) fn dmesg_lacks(text: &str) -> Result<Finding> {
    match log::read()?.iter().find(|record| record.text.contains(text)) {
        Some(record) => bail!("the kernel says {:?}", record.text),
        None => Ok(Finding::new(format!("no line of the kernel's log has {text:?}"))),
    }
}

/// The step `dmesg-time`.
pub(super) fn dmesg_time(text: &str) -> Result<Finding> {
    let log = log::read()?;
    let found = log.iter().find(|record| record.text.contains(text));
    let record = found.with_context(|| format!("no line of the kernel's log has {text:?}"))?;
    Ok(Finding::new(format!("{:?} after {} us", record.text, record.us)).with("us", record.us))
}

/// The step `taint`.
pub(super) fn taint(allow: u64, world: &mut World) -> Result<Finding> {
    let text = files::line_of("/proc/sys/kernel/tainted")?;
    let tainted: u64 = text.parse().with_context(|| format!("tainted is {text:?}"))?;
    let alarms = log::alarms()?;
    world.alarms_seen = alarms.len();
    if let Some(first) = alarms.first() {
        bail!("{} lines of the kernel's log are alarms, the first is {first:?}", alarms.len());
    }
    ensure!(tainted & !allow == 0, "the kernel is tainted: {tainted:#x}, of which {allow:#x} may be set");
    Ok(Finding::new(format!("no warning in the kernel's log, tainted is {tainted:#x}")))
}

/// The step `kaslr`.
pub(super) fn kaslr(expect: bool) -> Result<Finding> {
    let kallsyms = std::fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms cannot be read")?;
    let text = address_of(&kallsyms, "_text").context("/proc/kallsyms has no _text")?;
    let path = "/sys/kernel/boot_params/data";
    let params = std::fs::read(path).with_context(|| format!("{path} cannot be read"))?;
    let displacement = kaslr_displacement(&params, text, expect).map_err(anyhow::Error::msg)?;
    let how = if expect { "at a random address" } else { "where it was linked, without KASLR" };
    Ok(Finding::new(format!("the kernel runs {how}, _text is at {text:#x}"))
        .with("displacement", displacement))
}

/// The step `healthy`.
pub(super) fn healthy(expect: &Attributes, offline: u32, world: &mut World) -> Result<Finding> {
    let first = attributes::read_all();
    let second = attributes::read_all();
    ensure!(first == second, "the attributes read {first:?} and then {second:?}");
    attributes::compare(expect)?;
    let (online, present) = (cpus::online()?.len() as u64, cpus::present()?.len() as u64);
    let expected = present.saturating_sub(u64::from(offline));
    ensure!(online == expected, "{online} of {present} CPUs are online, not {expected}");
    let alarms = log::alarms()?;
    let known = std::mem::replace(&mut world.alarms_seen, alarms.len());
    if let Some(new) = alarms.get(known..).and_then(<[_]>::first) {
        bail!("the kernel's log has a new alarm: {new:?}");
    }
    let shown: Vec<String> = first.iter().map(|(name, value)| format!("{name} is {value}")).collect();
    Ok(Finding::new(format!(
        "{online} CPUs are online, {}",
        if shown.is_empty() { "there are no attributes".to_owned() } else { shown.join(", ") }
    )))
}
