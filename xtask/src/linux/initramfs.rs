//! The guest's first file system: the program that checks, a shell, kernel modules; and for each boot its plan.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tdx_linux_guest::plan::{PLAN_PATH, Plan, TDX_HOST_MODULE};

use super::cpio::Archive;
use super::kernel::Kernel;

/// Where the plan's default is.
const BENCH_MODULE: &str = "/bench.ko";

/// What every boot has.
pub(super) fn common(program: &Path, busybox: Option<&[u8]>, kernel: &Kernel) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut archive = Archive::default();
    for folder in ["/bin", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr"]
    {
        archive.directory(folder)?;
    }
    archive.character_device("/dev/console", 5, 1)?;
    archive.character_device("/dev/null", 1, 3)?;
    archive.file("/init", true, &read(program)?)?;
    if let Some(busybox) = busybox {
        archive.file("/bin/busybox", true, busybox)?;
        archive.link("/bin/sh", "busybox")?;
    }
    if let Some(module) = &kernel.tdx_host {
        archive.file(TDX_HOST_MODULE, false, &read(module)?)?;
    }
    if let Ok(module) = &kernel.bench {
        archive.file(BENCH_MODULE, false, &read(module)?)?;
    }
    Ok(archive.finish()?)
}

/// What one boot has besides.
pub(super) fn of_boot(plan: &Plan, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file(PLAN_PATH, false, &serde_json::to_vec(plan).context("write a plan")?)?;
    let mut folders: Vec<&str> =
        files.iter().filter_map(|(path, _)| Some(path.rsplit_once('/')?.0)).collect();
    folders.sort_unstable();
    folders.dedup();
    for folder in folders.into_iter().filter(|folder| !folder.is_empty()) {
        archive.directory(folder)?;
    }
    for (path, content) in files {
        archive.file(path, false, content)?;
    }
    Ok(archive.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_linux_guest::plan::{End, Step};

    fn holds(archive: &[u8], text: &str) -> bool {
        archive.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[test]
    fn the_common_part_holds_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let mut kernel = Kernel {
            image: file("bzImage", ""),
            tdx_host: Some(file("tdx-host.ko", "the driver")),
            bench: Ok(file("bench.ko", "the bench")),
            release: "7.3.4".into(),
        };
        let program = file("guest", "the program");
        let all = common(&program, Some(b"the shell"), &kernel).unwrap();
        for text in
            ["init\0", "the program", "bin/busybox", "the shell", "lib/tdx-host.ko", "bench.ko", "the bench"]
        {
            assert!(holds(&all, text), "{text}");
        }
        kernel.tdx_host = None;
        kernel.bench = Err("none".into());
        let few = common(&program, None, &kernel).unwrap();
        for text in ["busybox", "tdx-host.ko", "bench.ko"] {
            assert!(!holds(&few, text), "{text}");
        }
        assert!(common(Path::new("/nowhere/guest"), None, &kernel).is_err());
    }

    #[test]
    fn a_boots_part_holds_its_plan_and_its_files_below_their_folders() {
        let plan = Plan { steps: vec![Step::Taint { allow: 0 }], end: End::PowerOff };
        let files = [("/images/a".to_owned(), b"AAA".to_vec()), ("/images/b".to_owned(), b"BBB".to_vec())];
        let archive = of_boot(&plan, &files).unwrap();
        for text in
            ["plan.json\0", r#"{"step":"taint""#, "images\0", "images/a\0", "AAA", "images/b\0", "BBB"]
        {
            assert!(holds(&archive, text), "{text}");
        }
    }
}
