//! A machine of two packages with two LPs each on which every check passes, with a knob for each
//! fact.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pcie::FunctionId;
use tdx_abi::msr::MsrIndex;
use tdx_abi::{KeyId, PhysAddr, PhysRange, Registers};
use tdx_module::io::{ConnectHardware, LinkStatus, MmioWidth, UnitFacts};
use tdx_module::{
    CmrEntry, CpuidRegs, Hardware, KeyAlgorithm, LockName, LpIdentity, LpIndex, MachineCheck, McheckInfo,
    NoAnswer, PackageIndex, PconfigError, RandomUse, SeamNote, SeamSoftware,
};

use super::fake_io::IoFacts;

pub(crate) const LPS: u32 = 4;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const SEAMRR: u64 = 0x8800_0000;
/// CMRs: the second and third touch.
pub(crate) const CMRS: [(u64, u64); 3] = [(0x10_0000, 0x7FF0_0000), (4 * GIB, 4 * GIB), (8 * GIB, 4 * GIB)];

/// CPUID values that matter; every other leaf reads as zeros.
const CPUID: &[((u32, u32), [u32; 4])] = &[
    ((0x0, 0), [0x23, 0x756e6547, 0x6c65746e, 0x49656e69]),
    ((0x1, 0), [0xA06D1, 0x800, 0x47faa217, 0x1fa9fbff]),
    ((0x4, 0), [0x0, 0x3f, 0x0, 0x0]),
    ((0x4, 1), [0x0, 0x3f, 0x0, 0x0]),
    ((0x4, 2), [0x0, 0x3f, 0x0, 0x0]),
    ((0x4, 3), [0x60 | 1 << 14, 0x3f, 0x0, 0x0]),
    ((0x7, 0), [0x2, 0x219424c3, 0x99000000, 0xfc080400]),
    ((0x7, 2), [0x0, 0x0, 0x0, 0x17]),
    ((0xa, 0), [0x805, 0x0, 0x0, 0x8004]),
    ((0xd, 0), [0x602e7, 0x0, 0x0, 0x0]),
    ((0xd, 1), [0xf, 0x0, 0x1900, 0x0]),
    ((0x14, 0), [0x1, 0x0, 0x0, 0x0]),
    ((0x15, 0), [0x1, 0x50, 0x17d7840, 0x0]),
    ((0x1f, 0), [0x1, 0x2, 0x100, 0x0]),
    ((0x1f, 1), [0x1, 0x2, 0x201, 0x0]),
    ((0x8000_0000, 0), [0x8000_0008, 0x0, 0x0, 0x0]),
    ((0x8000_0001, 0), [0x0, 0x0, 0x121, 0x2c100800]),
    ((0x8000_0006, 0), [0x0, 0x0, 0x40, 0x0]),
    ((0x8000_0007, 0), [0x0, 0x0, 0x0, 0x100]),
    ((0x8000_0008, 0), [0x3034, 0x200, 0x0, 0x0]),
];

/// 31 shared and 32 private KeyIDs; SMRR2 is locked but not in use.
const MSRS: &[(u32, u64)] = &[
    (0x3B, 0),
    (0x87, 32 << 32 | 31),
    (0x98, 8),
    (0x99, 8),
    (0xBC, 1),
    (0xBD, 1),
    (0xCF, 0x20),
    (0xFE, 1 << 11 | 1 << 13 | 1 << 14),
    (0x10A, 0x20_FD6B | 1 << 7),
    (0x122, 0),
    (0x1A0, 1 << 7),
    (0x1F2, 0x9000_0006),
    (0x1F3, 0xFF80_0000 | 1 << 11 | 1 << 10),
    (0x1F6, 0),
    (0x1F7, 1 << 10),
    (0x345, 1 << 13 | 1 << 12),
    (0x480, 1 << 60 | 1 << 55 | 1 << 54 | 1024 << 32),
    (0x485, 4 << 16 | 1 << 29 | 1 << 14 | 1 << 7 | 1 << 6 | 1 << 5),
    (0x486, 0x8000_0021),
    (0x487, 0xFFFF_FFFF),
    (0x488, 0x2000),
    (0x489, 0xFFFF_FFFF),
    (0x48B, 0xFFFF_FFFF << 32),
    (0x48C, 0x101_0633_4041),
    (0x48D, 0xFFFF_FFFF << 32 | 0x16),
    (0x48E, 0xFFFF_FFFF << 32),
    (0x48F, 0xFFFF_FFFF << 32),
    (0x490, 0xFFFF_FFFF << 32),
    (0x492, u64::MAX),
    (0x981, 0xF),
    (0x982, 0xF << 48 | 6 << 32 | 3),
];

/// Facts of one LP, or of all LPs (`None`).
type PerLp<K, V> = BTreeMap<(Option<u32>, K), V>;

/// Everything that a test can change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(crate) mcheck: &'static McheckInfo,
    pub(crate) packages: Vec<u32>,
    pub(crate) x2apic_ids: Vec<u32>,
    msrs: PerLp<u32, Option<u64>>,
    cpuid: PerLp<(u32, u32), [u32; 4]>,
    pub(crate) seamops: BTreeMap<u32, u64>,
    pub(crate) entropy: Option<u64>,
    /// By which the random number grows with each draw.
    pub(crate) random_step: u64,
    /// Uses of random numbers for which the loader gets none.
    pub(crate) no_random_for: Vec<RandomUse>,
    pub(crate) pconfig: Option<PconfigError>,
    pub(crate) contended: Vec<LockName>,
    pub(crate) interrupt: bool,
    /// An interrupt comes at the look that follows so many others, and only there.
    pub(crate) interrupt_after: Option<u32>,
    pub(crate) io: IoFacts,
    pub(crate) cache_parts: u32,
    /// Words of memory; all others are 0.
    pub(crate) memory: BTreeMap<u64, u64>,
    pub(crate) poison: Option<u64>,
}

impl Default for Facts {
    fn default() -> Self {
        let mut cmrs = [CmrEntry::default(); 32];
        for (entry, (base, size)) in cmrs.iter_mut().zip(CMRS) {
            *entry = CmrEntry { base, size };
        }
        let mut package_fms = [0; 8];
        package_fms[..2].copy_from_slice(&[0xA06D1, 0xA06D0]);
        let mcheck = McheckInfo {
            total_lps: LPS,
            packages: 2,
            package_fms,
            seamrr: PhysRange::from_size(PhysAddr::new(SEAMRR), 0x800_0000).expect("a range"),
            cmrs,
            without_integrity: false,
            smrr2_unsupported: false,
        };
        Self {
            mcheck: Box::leak(Box::new(mcheck)),
            packages: vec![0, 0, 1, 1],
            x2apic_ids: (0..LPS).collect(),
            msrs: MSRS.iter().map(|&(msr, value)| ((None, msr), Some(value))).collect(),
            cpuid: CPUID.iter().map(|&(leaf, regs)| ((None, leaf), regs)).collect(),
            seamops: (0..LPS).map(|lp| (lp, 0x7F)).collect(),
            entropy: Some(0x1234_5678_9ABC_DEF0),
            random_step: 0,
            no_random_for: Vec::new(),
            pconfig: None,
            contended: Vec::new(),
            interrupt: false,
            interrupt_after: None,
            io: IoFacts::default(),
            cache_parts: 2,
            memory: BTreeMap::new(),
            poison: None,
        }
    }
}

impl Facts {
    pub(crate) fn mcheck(&mut self, change: impl FnOnce(&mut McheckInfo)) {
        let mut mcheck = self.mcheck.clone();
        change(&mut mcheck);
        self.mcheck = Box::leak(Box::new(mcheck));
    }

    fn msr_on(&self, lp: u32, msr: u32) -> Option<u64> {
        let own = self.msrs.get(&(Some(lp), msr));
        own.or_else(|| self.msrs.get(&(None, msr))).copied().flatten()
    }

    /// Sets an MSR on all LPs.
    pub(crate) fn set_msr(&mut self, msr: u32, value: u64) {
        self.msrs.insert((None, msr), Some(value));
    }

    /// Takes an MSR away from all LPs.
    pub(crate) fn remove_msr(&mut self, msr: u32) {
        self.msrs.insert((None, msr), None);
    }

    /// Flips bits of an MSR on one LP, or on all.
    pub(crate) fn flip_msr(&mut self, lp: Option<u32>, msr: u32, bits: u64) {
        let value = self.msr_on(lp.unwrap_or(0), msr).unwrap_or(0);
        self.msrs.insert((lp, msr), Some(value ^ bits));
    }

    fn cpuid_on(&self, lp: u32, leaf: u32, subleaf: u32) -> [u32; 4] {
        let own = self.cpuid.get(&(Some(lp), (leaf, subleaf)));
        own.or_else(|| self.cpuid.get(&(None, (leaf, subleaf)))).copied().unwrap_or_default()
    }

    /// Changes a CPUID leaf on one LP, or on all.
    pub(crate) fn cpuid(&mut self, lp: Option<u32>, leaf: (u32, u32), change: impl FnOnce(&mut [u32; 4])) {
        let mut regs = self.cpuid_on(lp.unwrap_or(0), leaf.0, leaf.1);
        change(&mut regs);
        self.cpuid.insert((lp, leaf), regs);
    }
}

/// Where a second LP comes in while the first is inside the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Rdmsr(MsrIndex),
    Read(u64),
    Write(u64),
    ProgramKey,
    Initialise,
    Random,
    MmioRead(u64),
    MmioWrite(u64),
    Contended(LockName),
}

/// A call of another LP from inside a call.
#[derive(Debug)]
struct Intruder {
    moment: Moment,
    software: Arc<SeamSoftware>,
    lp: LpIndex,
    regs: Registers,
}

/// What the other LP got.
pub(crate) type Intrusion = Result<Registers, NoAnswer>;

#[derive(Debug, Default)]
pub(crate) struct FakeHardware {
    facts: Mutex<Facts>,
    intruder: Mutex<Option<Intruder>>,
    intrusion: Mutex<Option<Intrusion>>,
    /// What the module initialised, in order.
    initialised: Mutex<Vec<(PhysRange, KeyId)>>,
    /// Keys that were programmed, by LP.
    programmed: Mutex<Vec<(LpIndex, KeyId, KeyAlgorithm)>>,
    /// Parts of caches that were written back, by LP.
    written_back: Mutex<Vec<(LpIndex, u32)>>,
    notes: Mutex<Vec<SeamNote>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeHardware {
    pub(crate) fn facts(&self) -> Facts {
        locked(&self.facts).clone()
    }

    pub(crate) fn restore(&self, facts: Facts) {
        *locked(&self.facts) = facts;
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut locked(&self.facts));
    }

    pub(crate) fn initialised(&self) -> Vec<(PhysRange, KeyId)> {
        locked(&self.initialised).clone()
    }

    pub(crate) fn programmed(&self) -> Vec<(LpIndex, KeyId, KeyAlgorithm)> {
        locked(&self.programmed).clone()
    }

    pub(crate) fn written_back(&self) -> Vec<(LpIndex, u32)> {
        locked(&self.written_back).clone()
    }

    pub(crate) fn notes(&self) -> Vec<SeamNote> {
        locked(&self.notes).clone()
    }

    /// Lets `lp` call once, when another LP is at `moment` inside the module.
    pub(crate) fn intrude(&self, moment: Moment, software: &Arc<SeamSoftware>, lp: LpIndex, regs: Registers) {
        *locked(&self.intruder) = Some(Intruder { moment, software: Arc::clone(software), lp, regs });
    }

    /// What the intruder got; panics if it never ran.
    pub(crate) fn intrusion(&self) -> Intrusion {
        locked(&self.intrusion).take().expect("the moment came")
    }

    fn at(&self, moment: Moment) {
        let intruder = {
            let mut slot = locked(&self.intruder);
            if slot.as_ref().is_none_or(|intruder| intruder.moment != moment) {
                return;
            }
            slot.take()
        };
        if let Some(Intruder { software, lp, mut regs, .. }) = intruder {
            let result = software.seamcall(self, lp, &mut regs).map(|()| regs);
            *locked(&self.intrusion) = Some(result);
        }
    }

    pub(crate) fn word(&self, pa: u64) -> u64 {
        locked(&self.facts).memory.get(&pa).copied().unwrap_or(0)
    }

    pub(crate) fn bytes(&self, pa: u64, len: usize) -> Vec<u8> {
        (0..len).step_by(8).flat_map(|offset| self.word(pa + offset as u64).to_le_bytes()).collect()
    }
}

impl Hardware for FakeHardware {
    fn mcheck(&self) -> &McheckInfo {
        locked(&self.facts).mcheck
    }

    fn lp(&self, lp: LpIndex) -> Option<LpIdentity> {
        let facts = locked(&self.facts);
        let package = *facts.packages.get(lp.0 as usize)?;
        Some(LpIdentity { package: PackageIndex(package), x2apic_id: *facts.x2apic_ids.get(lp.0 as usize)? })
    }

    fn rdmsr(&self, lp: LpIndex, msr: MsrIndex) -> Option<u64> {
        self.at(Moment::Rdmsr(msr));
        locked(&self.facts).msr_on(lp.0, msr.0)
    }

    fn cpuid(&self, lp: LpIndex, leaf: u32, subleaf: u32) -> CpuidRegs {
        let facts = locked(&self.facts);
        let [eax, ebx, ecx, mut edx] = facts.cpuid_on(lp.0, leaf, subleaf);
        if leaf == 0x1F {
            edx = facts.x2apic_ids.get(lp.0 as usize).copied().unwrap_or(lp.0);
        }
        CpuidRegs { eax, ebx, ecx, edx }
    }

    fn seamops_capabilities(&self, lp: LpIndex) -> u64 {
        locked(&self.facts).seamops.get(&lp.0).copied().unwrap_or(0)
    }

    fn read(&self, pa: PhysAddr, _key: KeyId, bytes: &mut [u8]) -> Result<(), MachineCheck> {
        self.at(Moment::Read(pa.as_u64()));
        let facts = locked(&self.facts);
        let end = pa.as_u64() + bytes.len() as u64;
        if let Some(poison) = facts.poison.filter(|poison| (pa.as_u64()..end).contains(poison)) {
            return Err(MachineCheck { pa: PhysAddr::new(poison) });
        }
        for (index, chunk) in bytes.chunks_mut(8).enumerate() {
            let word = facts.memory.get(&(pa.as_u64() + 8 * index as u64)).copied().unwrap_or(0);
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }

    fn write(&self, pa: PhysAddr, _key: KeyId, bytes: &[u8]) {
        self.at(Moment::Write(pa.as_u64()));
        let mut facts = locked(&self.facts);
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let word = u64::from_le_bytes(chunk.try_into().expect("whole words"));
            facts.memory.insert(pa.as_u64() + 8 * index as u64, word);
        }
    }

    fn initialise(&self, range: PhysRange, key: KeyId) {
        self.at(Moment::Initialise);
        locked(&self.initialised).push((range, key));
    }

    fn random(&self, _lp: LpIndex) -> Option<u64> {
        self.at(Moment::Random);
        let mut facts = locked(&self.facts);
        let drawn = facts.entropy;
        facts.entropy = drawn.map(|random| random.wrapping_add(facts.random_step));
        drawn
    }

    fn random_for(&self, lp: LpIndex, purpose: RandomUse) -> Option<u64> {
        if locked(&self.facts).no_random_for.contains(&purpose) {
            return None;
        }
        self.random(lp)
    }

    fn note(&self, _lp: LpIndex, note: SeamNote) {
        locked(&self.notes).push(note);
    }

    fn program_random_key(
        &self,
        lp: LpIndex,
        key: KeyId,
        algorithm: KeyAlgorithm,
    ) -> Result<(), PconfigError> {
        self.at(Moment::ProgramKey);
        if let Some(error) = locked(&self.facts).pconfig {
            return Err(error);
        }
        locked(&self.programmed).push((lp, key, algorithm));
        Ok(())
    }

    fn cache_parts(&self, _lp: LpIndex) -> u32 {
        locked(&self.facts).cache_parts
    }

    fn write_back_part(&self, lp: LpIndex, part: u32) {
        locked(&self.written_back).push((lp, part));
    }

    fn contended(&self, _lp: LpIndex, lock: LockName) -> bool {
        self.at(Moment::Contended(lock));
        locked(&self.facts).contended.contains(&lock)
    }

    fn interrupt_pending(&self, _lp: LpIndex) -> bool {
        let mut facts = locked(&self.facts);
        let now = facts.interrupt_after == Some(0);
        facts.interrupt_after = facts.interrupt_after.and_then(|looks| looks.checked_sub(1));
        now || facts.interrupt
    }

    fn connect(&self) -> Option<&dyn ConnectHardware> {
        Some(self)
    }
}

impl ConnectHardware for FakeHardware {
    fn units(&self) -> &[UnitFacts] {
        locked(&self.facts).io.units
    }

    fn mmio_read(&self, pa: PhysAddr, width: MmioWidth) -> u64 {
        self.at(Moment::MmioRead(pa.as_u64()));
        locked(&self.facts).io.read(pa.as_u64(), width)
    }

    fn mmio_write(&self, pa: PhysAddr, width: MmioWidth, value: u64) {
        self.at(Moment::MmioWrite(pa.as_u64()));
        locked(&self.facts).io.write(pa.as_u64(), width, value);
    }

    fn config_read(&self, function: FunctionId, offset: u16) -> u32 {
        locked(&self.facts).io.config.get(&(function, offset)).copied().unwrap_or(u32::MAX)
    }

    fn config_write(&self, function: FunctionId, offset: u16, value: u32) {
        locked(&self.facts).io.write_config(function, offset, value);
    }

    fn protect(&self, range: PhysRange, protected: bool) {
        let io = &mut locked(&self.facts).io;
        if protected {
            io.protected.insert(range);
        } else {
            io.protected.remove(&range);
        }
    }

    fn protect_config(&self, function: FunctionId, offset: u16, length: u16, protected: bool) {
        let io = &mut locked(&self.facts).io;
        if protected {
            io.protected_config.insert((function, offset, length));
        } else {
            io.protected_config.remove(&(function, offset, length));
        }
    }

    fn link(&self, root_port: FunctionId) -> Option<LinkStatus> {
        locked(&self.facts).io.links.get(&root_port).copied()
    }
}
