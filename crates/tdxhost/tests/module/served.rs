//! Updates of a served machine: its files over FUSE, its reasons over the API. These mount, so they need root
//! and /dev/fuse.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{BINARY, Folder, bad, document, good};

/// Four LPs of Sapphire Rapids with 1.5.06.
const PLATFORM: &str = r#"
name = "update"
description = "a small machine whose module can be updated"
synthetic = true
cpu = { kind = "sapphire-rapids", packages = 1, cores = 2, threads = 2 }
memory = { size = "4 GiB" }
keyids = { bits = 6, mktme = 31, tdx = 32 }
module = { profile = "1.5.06" }
seamldr = { version = "1.5.02", remaining_updates = 3 }
errata = { pw_mce = true, seamret_invd_vmcs = false }
"#;

fn can_mount() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    let able = root && OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    assert!(able || std::env::var_os("TDXHOST_REQUIRE_FUSE").is_none(), "mounting needs root and /dev/fuse");
    if !able {
        eprintln!("left out: mounting needs root and /dev/fuse");
    }
    able
}

/// A served machine; it ends with the value.
struct Served {
    child: Child,
    folder: Folder,
}

impl Served {
    fn start(platform: &str, layout: &str) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let folder = Folder::new();
        folder.write("platform.toml", platform.as_bytes());
        fs::create_dir(folder.path("sys")).unwrap();
        let mut child = Command::new(BINARY)
            .args(["serve", "--sysfs-layout", layout, "--platform", &folder.text("platform.toml")])
            .args(["--mount", &folder.text("sys"), "--api", &folder.text("api")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready: "), "{ready}");
        Some(Self { child, folder })
    }
}

/// The command that updates the machine.
fn update<'a>(image: &'a str, sysfs: &'a str, api: &'a str) -> [&'a str; 7] {
    ["module", "update", image, "--sysfs", sysfs, "--api", api]
}

impl Drop for Served {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_served_machine_is_updated_in_every_layout_and_counts_down() {
    for layout in ["7.3", "2025-09", "2025-03"] {
        let Some(served) = Served::start(PLATFORM, layout) else { return };
        let (sysfs, api) = (served.folder.text("sys"), served.folder.text("api"));
        let image = served.folder.build("x.blob", &["--version", "1.5.16"]);
        let (value, ok) = document(&[&update(&image, &sysfs, &api)[..], &["--json"]].concat());
        assert!(ok, "{value}");
        let made = &value["updates"][0];
        assert_eq!(made["host"]["layout"], layout);
        assert_eq!(made["uploaded_header"], if layout == "7.3" { "0x200" } else { "0x100" });
        assert!(made["checks"].as_array().unwrap().iter().all(|check| check["state"] == "ok"), "{made}");
        assert_eq!((&made["from"], &made["after"]["module"]), (&"1.5.06".into(), &"1.5.16".into()));
        assert_eq!(
            made["host"]["remaining_updates"].as_u64().unwrap() - 1,
            made["after"]["remaining_updates"].as_u64().unwrap(),
            "{layout}"
        );
        // Back is refused before anything is touched.
        let older = served.folder.build("older.blob", &["--version", "1.5.13"]);
        let (_, message) = bad(&update(&older, &sysfs, &api));
        assert_eq!(
            message,
            "refused before anything was touched: version-older: 1.5.13 is older than the running 1.5.16; \
             image-svn-older: SVN 1.10 is lower than the running 1.11"
        );
    }
}

#[test]
fn the_machine_tells_what_linux_throws_away() {
    let Some(served) = Served::start(PLATFORM, "7.3") else { return };
    let (sysfs, api) = (served.folder.text("sys"), served.folder.text("api"));
    let older = served.folder.build("older.blob", &["--version", "1.5.05"]);
    let insist = ["--ignore", "version-older", "--ignore", "image-svn-older"];
    let (text, message) = bad(&[&update(&older, &sysfs, &api)[..], &insist].concat());
    assert!(
        message.starts_with("image-svn-older: ") && message.contains("(the kernel says firmware-invalid"),
        "{message}"
    );
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("1.5.06 is still shown: it was refused before"), "{text}");

    let broken = served.folder.build("broken.blob", &["--version", "1.5.16", "--relocation-outside"]);
    let insist = ["--ignore", "module-relocation-target-outside", "--json"];
    let (value, ok) = document(&[&update(&broken, &sysfs, &api)[..], &insist].concat());
    assert!(!ok);
    let error = &value["updates"][0]["error"];
    assert_eq!(error["name"], "install-failed");
    assert!(error["kernel"].as_str().unwrap().ends_with(":firmware-invalid"), "{error}");
    assert!(error["grounds"].to_string().contains("It failed in phase install"), "{error}");

    // From there on no update is tried, whether the machine is asked or its files alone.
    let (_, message) = bad(&["module", "update", &broken, "--sysfs", &sysfs]);
    assert!(message.contains("module-gone: "), "{message}");
    let (_, message) = bad(&["module", "plan", "--images", &served.folder.text(""), "--sysfs", &sysfs]);
    assert!(
        message.contains("an update that failed left no module")
            && message.ends_with("; power-cycle the machine"),
        "{message}"
    );
    let good_image = served.folder.build("good.blob", &["--version", "1.5.16"]);
    let (_, message) = bad(&update(&good_image, &sysfs, &api));
    assert!(message.contains("module-gone: "), "{message}");
}

#[test]
fn a_cpu_that_loses_the_vmcs_is_named_where_linux_shows_nothing() {
    let platform = PLATFORM.replace("seamret_invd_vmcs = false", "seamret_invd_vmcs = true");
    let Some(served) = Served::start(&platform, "7.3") else { return };
    let (sysfs, api) = (served.folder.text("sys"), served.folder.text("api"));
    let image = served.folder.build("x.blob", &["--version", "1.5.16"]);
    let (_, message) = bad(&update(&image, &sysfs, &api));
    assert!(message.contains("update-not-offered: ") && message.contains("seamret-invd-vmcs: "), "{message}");
}

#[test]
fn a_plan_of_a_served_machine_knows_its_cpu() {
    let Some(served) = Served::start(PLATFORM, "7.3") else { return };
    let (sysfs, api) = (served.folder.text("sys"), served.folder.text("api"));
    let forest = ["--version", "1.5.25", "--cpu", "0xa06f0"];
    served.folder.build("images/b.blob", &forest);
    served.folder.build("images/a.blob", &["--version", "1.5.24", "--cpu", "0x806f0"]);
    let images = served.folder.text("images");
    let text = good(&["module", "plan", "--images", &images, "--sysfs", &sysfs, "--api", &api]);
    assert!(text.contains("step 1  1.5.06 → 1.5.24") && !text.contains("unchecked"), "{text}");
    // Without it, the tree tells the model: the CPU of this computer is not taken for that of the machine.
    let text = good(&["module", "plan", "--images", &images, "--sysfs", &sysfs]);
    assert!(text.contains("CPU         Sapphire Rapids (0x806f0)"), "{text}");
    assert!(text.contains("step 1  1.5.06 → 1.5.24"), "{text}");
    let text = good(&["module", "update", "--images", &images, "--sysfs", &sysfs, "--api", &api]);
    assert!(text.ends_with("updates left\n") && text.contains("updated to 1.5.24"), "{text}");
}
