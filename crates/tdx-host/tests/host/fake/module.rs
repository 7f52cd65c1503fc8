//! The module of the fake, and the way to it.

use tdx_abi::Registers;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_host::traits::{CpuPin, Seam, SeamcallFault};

use super::{Event, Fake, GIB, Outcome, Scripted, State, spdm};

impl State {
    pub(crate) fn word(&self, at: u64) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|i| self.bytes.get(&(at + i as u64)).copied().unwrap_or(0)))
    }

    fn scripted(&self, word: LeafWord) -> Option<Scripted> {
        let made = self.made.get(&word.raw()).copied().unwrap_or(0) - 1;
        let fits = |s: &&Scripted| s.leaf == word && (s.from..s.from.saturating_add(s.times)).contains(&made);
        self.script.iter().find(fits).copied()
    }

    /// The work of a call that is not scripted.
    fn work(&mut self, cpu: u32, word: LeafWord, registers: &mut Registers) -> Result<Status, SeamcallFault> {
        if word == LeafWord::seamldr(SeamldrLeaf::INSTALL) {
            return Ok(Status::from_raw(self.install(cpu, registers).0));
        }
        if word.is_seamldr() {
            assert_eq!(word, LeafWord::seamldr(SeamldrLeaf::INFO));
            let at = registers.rcx;
            let [minor, major] = self.loader.version;
            let remaining = u8::try_from(self.loader.remaining).unwrap();
            self.bytes.extend([(at + 16, 1), (at + 18, minor), (at + 20, major), (at + 22, 2)]);
            let [svn_minor, svn_major] = self.loader.svn;
            self.bytes.extend([(at + 28, remaining), (at + 40, svn_minor), (at + 41, svn_major)]);
            self.bytes.insert(at + 168, self.loader.features);
            return Ok(StatusCode::SUCCESS.plain());
        }
        if !self.loader.reachable {
            return Err(SeamcallFault::VmFailInvalid);
        }
        if self.loader.shut_down {
            return Ok(StatusCode::SYS_SHUTDOWN.plain());
        }
        Ok(self.module(cpu, word, registers))
    }

    /// A call that reaches the module.
    fn module(&mut self, cpu: u32, word: LeafWord, registers: &mut Registers) -> Status {
        match SeamcallLeaf(word.leaf()) {
            SeamcallLeaf::SYS_RD => {
                let value = self.fields.get(&registers.rdx).copied();
                registers.r8 = value.unwrap_or(0);
                if value.is_none() {
                    return StatusCode::METADATA_FIELD_ID_INCORRECT.plain();
                }
            }
            SeamcallLeaf::SYS_CONFIG => {
                for i in 0..registers.rdx {
                    let info = self.word(registers.rcx + 8 * i);
                    self.tdmrs.insert(self.word(info), (self.word(info + 8), 0));
                }
            }
            SeamcallLeaf::SYS_TDMR_INIT => {
                let step = self.step;
                let Some((size, done)) = self.tdmrs.get_mut(&registers.rcx) else {
                    return StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX);
                };
                *done = (*done + step).min(*size);
                registers.rdx = registers.rcx + (*done & !(GIB - 1));
            }
            SeamcallLeaf::EXT_MEM_ADD => return self.add_pool_pages(registers),
            SeamcallLeaf::EXT_INIT => return self.init_extensions(),
            SeamcallLeaf::IOMMU_SETUP => return self.set_unit_up(registers),
            SeamcallLeaf::IOMMU_CLEAR => return self.clear_unit(registers),
            leaf if spdm::LEAVES.contains(&leaf) => return self.link_leaf(leaf, registers),
            SeamcallLeaf::SYS_SHUTDOWN => {
                self.loader.handoff = Some(registers.rcx);
                self.loader.shut_down = true;
            }
            SeamcallLeaf::SYS_LP_INIT => {
                if let Some(lps) = &mut self.loader.fresh {
                    lps.insert(cpu);
                }
            }
            SeamcallLeaf::SYS_UPDATE => match &self.loader.fresh {
                Some(lps) if lps.len() == self.online.len() => self.loader.fresh = None,
                _ => return StatusCode::SYS_STATE_INCORRECT.plain(),
            },
            _ => {}
        }
        StatusCode::SUCCESS.plain()
    }
}

impl Seam for Fake {
    fn seamcall(&self, pin: &CpuPin<'_>, registers: &mut Registers) -> Result<(), SeamcallFault> {
        let word = LeafWord::from_raw(registers.rax);
        let mut state = self.state();
        if !state.in_vmx[pin.cpu().0 as usize] {
            return Err(SeamcallFault::InvalidOpcode);
        }
        state.calls.push((pin.cpu(), word, *registers));
        state.events.push(Event::Seamcall(word));
        *state.made.entry(word.raw()).or_default() += 1;
        if state.crash_at == Some(word) {
            state.crash_at = None;
            drop(state);
            if let Some(crash) = self.on_crash.lock().unwrap().take() {
                crash();
            }
            state = self.state();
        }
        let status = match state.scripted(word) {
            Some(Scripted { outcome: Outcome::Fault(fault), .. }) => return Err(fault),
            Some(Scripted { outcome: Outcome::Status(status), rcx, rdx, .. }) => {
                // Like real leaves: outputs are cleared before anything is checked.
                (registers.rcx, registers.rdx) = (rcx, rdx);
                status
            }
            None => state.work(pin.cpu().0, word, registers)?,
        };
        registers.rax = status.raw();
        Ok(())
    }
}
