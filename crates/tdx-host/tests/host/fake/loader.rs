//! P-SEAMLDR of the fake.

use std::collections::{BTreeMap, BTreeSet};

use tdx_abi::Registers;
use tdx_abi::metadata::sys;
use tdx_abi::status::SeamldrStatus;

use super::State;

/// P-SEAMLDR and the module behind it, as far as an update sees them.
#[derive(Debug)]
pub(crate) struct Loader {
    /// Version that SEAMLDR_INFO tells, and its feature word.
    pub(crate) version: [u8; 2],
    pub(crate) features: u8,
    pub(crate) remaining: u32,
    /// SVN of the loaded module, minor byte first.
    pub(crate) svn: [u8; 2],
    /// How the next sessions end: status and RDX of the last CPU's call. Empty: well.
    pub(crate) ends: Vec<(SeamldrStatus, u64)>,
    /// CPUs that called in the running session.
    pub(crate) session: BTreeSet<u32>,
    /// SEAM_READY.
    pub(crate) reachable: bool,
    pub(crate) shut_down: bool,
    /// RCX of TDH.SYS.SHUTDOWN.
    pub(crate) handoff: Option<u64>,
    /// A module was installed and has not taken over; the CPUs that ran TDH.SYS.LP.INIT.
    pub(crate) fresh: Option<BTreeSet<u32>>,
    /// Module pages that were installed last, by content, and their SIGSTRUCT.
    pub(crate) installed: Vec<u8>,
    pub(crate) sigstruct: Vec<u8>,
    /// Fields that an installed module has other values of.
    pub(crate) next_fields: BTreeMap<u64, u64>,
}

impl Loader {
    /// P-SEAMLDR 1.5 with a module of SVN 1.5 behind it.
    pub(super) fn new() -> Self {
        Self {
            version: [5, 1],
            features: 0,
            remaining: 59,
            svn: [5, 1],
            ends: Vec::new(),
            session: BTreeSet::new(),
            reachable: true,
            shut_down: false,
            handoff: None,
            fresh: None,
            installed: Vec::new(),
            sigstruct: Vec::new(),
            next_fields: [(sys::UPDATE_VERSION.0, 8), (sys::BUILD_NUM.0, 790)].into(),
        }
    }
}

impl State {
    fn copy(&self, at: u64, len: u64) -> impl Iterator<Item = u8> {
        (at..at + len).map(|at| self.bytes.get(&at).copied().unwrap_or(0))
    }

    /// SEAMLDR.INSTALL on a machine of as many CPUs as there are.
    pub(super) fn install(&mut self, cpu: u32, registers: &mut Registers) -> SeamldrStatus {
        registers.rdx = 0;
        self.loader.reachable = false;
        if !self.loader.session.insert(cpu) {
            return SeamldrStatus::EBADCALL;
        }
        if self.loader.session.len() < self.online.len() {
            return SeamldrStatus::SUCCESS;
        }
        self.loader.session.clear();
        if !self.loader.ends.is_empty() {
            let (status, rdx) = self.loader.ends.remove(0);
            registers.rdx = rdx;
            self.loader.reachable = rdx == 0;
            return status;
        }
        // SEAMLDR_PARAMS: version, scenario, SIGSTRUCT, number of pages, pages.
        let params = registers.rcx;
        assert_eq!(self.word(params), 1 << 32, "version 0, scenario UPDATE");
        assert!(self.copy(params + 16, 104).all(|byte| byte == 0));
        self.loader.sigstruct = self.copy(self.word(params + 8), 4096).collect();
        let pages = (0..self.word(params + 120)).map(|i| self.word(params + 128 + 8 * i));
        self.loader.installed = pages.flat_map(|page| self.copy(page, 4096).collect::<Vec<_>>()).collect();
        self.loader.remaining -= 1;
        self.loader.reachable = true;
        self.loader.shut_down = false;
        self.loader.fresh = Some(BTreeSet::new());
        self.fields.append(&mut self.loader.next_fields.clone());
        SeamldrStatus::SUCCESS
    }
}
