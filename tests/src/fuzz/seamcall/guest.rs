//! Bodies for what a virtual machine gives a platform: its memory, its memory map, and the image that
//! it boots from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::{KeyId, PhysAddr, PhysRange, Registers};
use tdx_image::{HeaderVersion, Image};
use tdx_machine::spec::ErrataSpec;
use tdx_machine::{LpIndex, Machine, MemoryFootprint, PlatformSpec, PowerOn, Ram, SpecError, SpecIssue};
use tdx_module::{MODELLED_LEAVES, ModuleState};

use super::bench::{self, Bench, PAMT, SCRATCH, Stage, TDMR_ARRAY, TDMR_INFO};
use super::{lp, nearly_good};
use crate::fuzz::bytes::Choices;
use crate::fuzz::image::{good, spoil};

const LINE: usize = 64;
const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;
/// Steps of one run at most.
const STEPS: usize = 128;

type Pages = BTreeMap<u64, [u8; PAGE_BYTES]>;

/// The memory of a guest: everywhere, zeros where nobody has written.
#[derive(Default)]
struct Sparse(Mutex<Pages>);

impl Sparse {
    /// Goes through the bytes of an access: page, place in it, place in the access.
    fn each(&self, pa: PhysAddr, len: usize, mut act: impl FnMut(&mut u8, usize)) {
        let mut pages = self.0.lock().expect("nobody panics here");
        for (at, place) in (pa.as_u64()..).zip(0..len) {
            let page = pages.entry(at / PAGE).or_insert([0; PAGE_BYTES]);
            act(&mut page[usize::try_from(at % PAGE).expect("in a page")], place);
        }
    }
}

/// How the machine, and the guest itself, come to it.
struct Access(Arc<Sparse>);

impl Ram for Access {
    fn read(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool {
        self.0.each(pa, bytes.len(), |byte, place| bytes[place] = *byte);
        true
    }

    fn write(&self, pa: PhysAddr, bytes: &[u8]) -> bool {
        self.0.each(pa, bytes.len(), |byte, place| *byte = bytes[place]);
        true
    }
}

/// Whatever a guest stores behind the model's back, and whatever is called: the machine over its
/// memory answers as one with memory of its own does that is told of each store.
pub fn guest_memory(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut spec = super::spec(&mut choices);
    spec.keyids.integrity = choices.flag();
    spec.errata = Some(ErrataSpec { pw_mce: choices.flag(), seamret_invd_vmcs: false });
    let ram = Arc::new(Sparse::default());
    let over = PowerOn::new(spec.clone()).seed(1).over(Box::new(Access(Arc::clone(&ram))));
    let guest = Bench::of(over.switch_on().expect("a valid machine"));
    let own = Bench::on(spec, 1);
    let stage = choices.of(&[Stage::Ready, Stage::Loaded, Stage::LpsInitialised, Stage::Configured]);
    guest.advance(stage);
    own.advance(stage);
    for _ in 0..STEPS {
        if choices.is_empty() {
            break;
        }
        match choices.below(4) {
            0 | 1 => {
                let (pa, content) = (line(&mut choices), content(&own, &mut choices));
                assert!(Access(Arc::clone(&ram)).write(pa, &content));
                own.machine().write(pa, KeyId::TME, &content).expect("RAM");
            }
            2 => {
                let pa = line(&mut choices);
                let [left, right] = [&guest, &own].map(|bench| seen(bench.machine(), pa));
                assert_eq!(left, right, "{pa}");
            }
            _ => {
                let lp = lp(&mut choices);
                let regs = nearly_good(&own, choices.of(MODELLED_LEAVES), &mut choices);
                let regs = without_mktme(own.machine(), regs);
                let [left, right] = [&guest, &own].map(|bench| bench.raw_call(lp, regs));
                assert_eq!(left, right, "{regs:?}");
            }
        }
    }
    assert_eq!(guest.machine().log(), own.machine().log());
    let machine = guest.machine();
    machine.power_cycle();
    assert_eq!(machine.memory_footprint(), MemoryFootprint::default());
    assert_eq!(machine.seam().module.map(|module| module.state), Some(ModuleState::SysInitPending));
}

/// A line that some leaf reads or writes.
fn line(choices: &mut Choices<'_>) -> PhysAddr {
    let area = choices.of(&[TDMR_INFO, TDMR_ARRAY, SCRATCH, PAMT, PAMT]);
    // Sixteen KiB of PAMT are filled by one step of TDH.SYS.TDMR.INIT.
    PhysAddr::new(area + (choices.below(512) * LINE) as u64)
}

/// A line of words, most of which are the operands of some leaf.
fn content(bench: &Bench, choices: &mut Choices<'_>) -> [u8; LINE] {
    let mut line = [0; LINE];
    for word in line.chunks_exact_mut(8).take(1 + choices.below(8)) {
        word.copy_from_slice(&super::operand(bench, choices).to_le_bytes());
    }
    line
}

/// What two keys make of each other's lines is not the same in both memories: operands come with
/// KeyID 0 or a private one, which is refused.
fn without_mktme(machine: &Machine, mut regs: Registers) -> Registers {
    let layout = machine.address_layout();
    for operand in [&mut regs.rcx, &mut regs.rdx, &mut regs.r8] {
        if let Some((pa, key)) = layout.split(*operand)
            && !machine.spec().keyids.partitioning().is_private(key)
        {
            *operand = pa.as_u64();
        }
    }
    regs
}

/// What the host gets of a line, or that it is poisoned.
fn seen(machine: &Machine, pa: PhysAddr) -> Result<[u8; LINE], tdx_machine::MemFault> {
    let mut bytes = [0; LINE];
    machine.read(pa, KeyId::TME, &mut bytes).map(|()| bytes)
}

fn one_line(error: &SpecError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}

/// Any memory map and any number of processors: refused in a line, or a platform whose firmware is
/// out of the way of memory and on which the module starts.
pub fn guest_platform(data: &[u8]) {
    let mut choices = Choices::new(data);
    let ram: Vec<PhysRange> = (0..choices.below(6)).filter_map(|_| ram_range(&mut choices)).collect();
    let [packages, cores, threads] = [0; 3].map(|_| u32::from(choices.of(&[1u8, 1, 2, 0, 3, 9])));
    let spec = match bench::tiny().with_guest(&ram, packages, cores, threads) {
        Ok(spec) => spec,
        Err(error) => return one_line(&error),
    };
    let again = PlatformSpec::from_toml(&spec.to_toml().expect("it can be written"));
    assert_eq!(again.as_ref(), Ok(&spec));
    assert!(ram.iter().all(|range| !range.overlaps(spec.seamrr.range())), "{:?}", spec.seamrr);
    let machine = PowerOn::new(spec).over(Box::new(Access(Arc::default()))).switch_on().expect("valid");
    assert_eq!(machine.lp_count(), (packages * cores * threads) as usize);
    for cmr in machine.cmrs() {
        assert!(cmr.start().is_aligned(PAGE) && cmr.end().is_aligned(PAGE), "{cmr}");
        // Ranges that touch are one, so that a CMR may span several.
        for pa in [cmr.start().as_u64(), cmr.end().as_u64() - PAGE] {
            let page = PhysRange::from_size(PhysAddr::new(pa), PAGE).expect("a page");
            assert!(ram.iter().any(|range| range.overlaps(page)), "{cmr}");
        }
    }
    if machine.cmrs().is_empty() {
        return;
    }
    let vmxon_is_ram = PhysRange::from_size(PhysAddr::new(0x10_0000), PAGE)
        .is_some_and(|page| machine.cmrs().iter().any(|cmr| cmr.covers(page)));
    if vmxon_is_ram {
        let bench = Bench::without_tdmrs(machine);
        bench.advance(Stage::LpsInitialised);
    }
}

fn ram_range(choices: &mut Choices<'_>) -> Option<PhysRange> {
    let border = |choices: &mut Choices<'_>| match choices.below(8) {
        0 => 0,
        1 => 0x10_0000,
        2 => 0x8000_0000,
        3 => 1 << 32,
        4 => choices.word(),
        5 => choices.word() >> 24,
        6 => (choices.below(128) as u64) << 25,
        _ => (choices.below(4096) as u64) << 30,
    };
    let (start, end) = (border(choices), border(choices).wrapping_add(choices.below(3) as u64));
    PhysRange::new(PhysAddr::new(start), PhysAddr::new(end))
}

/// An image to boot from: refused in a line that gives the reason, or a module that starts, after a
/// power cycle as well.
pub fn boot_image(data: &[u8]) {
    boots_or_not(data.to_vec(), bench::tiny());
    let mut choices = Choices::new(data);
    let mut spec = bench::tiny();
    spec.seamldr.signature_checks = choices.flag();
    spec.seamldr.trust_test_key = choices.flag();
    spec.seamldr.debug_unlocked = choices.flag();
    spec.module.present = choices.flag();
    let mut bytes = good(choices.of(&HeaderVersion::ALL)).to_vec();
    spoil(&mut bytes, &mut choices);
    boots_or_not(bytes, spec);
}

fn boots_or_not(bytes: Vec<u8>, spec: PlatformSpec) {
    let is_image = Image::parse(&bytes).is_ok();
    let machine = match PowerOn::new(spec).module_image(bytes).switch_on() {
        Ok(machine) => machine,
        Err(error) => {
            assert!(matches!(error.issue(), Some(SpecIssue::ModuleImage(_))), "{error}");
            return one_line(&error);
        }
    };
    assert!(is_image, "what is no image was loaded");
    let bench = Bench::of(machine);
    for _ in 0..2 {
        assert!(bench.machine().seam().module.is_some(), "the image is loaded");
        bench.must(LpIndex(0), SeamcallLeaf::SYS_INIT, Registers::default());
        bench.machine().power_cycle();
        bench.machine().lps().iter().for_each(|lp| bench.enter_vmx(lp.index));
    }
}
