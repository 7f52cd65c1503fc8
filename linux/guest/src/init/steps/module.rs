//! Loading and unloading kernel modules.

use std::{ffi::CString, fs::File, path::Path};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    kmod::{DeleteModuleFlags, ModuleInitFlags},
};
use tdx_linux_guest::plan::{Outcome, TDX_HOST_MODULE};

use super::{Finding, ended_as};

/// Loads a module; the inner result is the kernel's.
pub(super) fn insert(path: &str, params: &str) -> Result<Result<(), Errno>> {
    let params = CString::new(params).context("module parameters with a zero byte")?;
    let file = File::open(path).with_context(|| format!("{path} cannot be opened"))?;
    Ok(nix::kmod::finit_module(&file, &params, ModuleInitFlags::empty()))
}

/// Unloads a module by its name.
pub(super) fn remove(name: &str) -> Result<()> {
    let name_c = CString::new(name).context("a module's name with a zero byte")?;
    nix::kmod::delete_module(&name_c, DeleteModuleFlags::O_NONBLOCK)
        .with_context(|| format!("{name} cannot be unloaded"))
}

/// Loads the `tdx_host` driver. None: the initramfs has no such file.
pub(in super::super) fn load_tdx_host() -> Option<Result<(), Errno>> {
    if !Path::new(TDX_HOST_MODULE).exists() {
        return None;
    }
    match insert(TDX_HOST_MODULE, "").unwrap_or(Err(Errno::EIO)) {
        // A kernel with the driver built in.
        Err(Errno::EEXIST) => Some(Ok(())),
        result => Some(result),
    }
}

/// The step `load-module`.
pub(super) fn load(path: &str, params: &str, expect: &Outcome) -> Result<Finding> {
    let ended = match insert(path, params)? {
        Ok(()) => Outcome::Done,
        Err(errno) => Outcome::Refused(format!("errno:{errno:?}")),
    };
    ended_as(expect, &ended)?;
    Ok(Finding::new(format!("loading {path} ended with {ended}")))
}
