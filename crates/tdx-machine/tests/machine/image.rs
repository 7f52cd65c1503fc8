//! The module that the firmware loads from an update image.

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::seamldr::{SeamldrInfo, Version};
use tdx_abi::status::StatusCode;
use tdx_abi::{KeyId, PhysAddr, Registers};
use tdx_image::build::{self, ModuleSpec};
use tdx_image::verify::VerifyError;
use tdx_image::{HeaderVersion, Image, ImageError, Sigstruct, SigstructError};
use tdx_machine::spec::{Generation, UnknownRelease};
use tdx_machine::{Event, Fault, LoadError, LpIndex, Machine, PlatformSpec, PowerOn, SpecIssue, presets};
use zerocopy::FromBytes;

use crate::common::{call, enter_vmx, quiet};

const INFO: PhysAddr = PhysAddr::new(0x30_0000);

fn spec() -> PlatformSpec {
    quiet(presets::find("tiny").expect("a preset").spec().expect("valid"))
}

/// Another release than the one of the platform file.
fn module() -> ModuleSpec {
    let mut module = ModuleSpec::new(Version::new(2, 0, 14), "2.0.14");
    module.svn.minor = 9;
    module
}

fn file(module: &ModuleSpec) -> Vec<u8> {
    build::image(module, HeaderVersion::V0x200).expect("a sound specification")
}

fn switch_on(spec: PlatformSpec, file: Vec<u8>) -> Machine {
    let machine = PowerOn::new(spec).seed(1).module_image(file).switch_on().expect("valid");
    enter_vmx(&machine);
    machine
}

fn refusal(spec: PlatformSpec, file: Vec<u8>) -> LoadError {
    let Err(error) = PowerOn::new(spec).module_image(file).switch_on() else { panic!("not refused") };
    let text = error.to_string();
    assert!(!text.contains('\n') && text.starts_with("platform `tiny`: the image of the module"), "{text}");
    match error.issue() {
        Some(SpecIssue::ModuleImage(error)) => LoadError::clone(error),
        other => panic!("{other:?}"),
    }
}

fn info(machine: &Machine) -> SeamldrInfo {
    let rax = LeafWord::seamldr(SeamldrLeaf::INFO).raw();
    let mut regs = Registers { rax, rcx: INFO.as_u64(), ..Registers::default() };
    machine.seamcall(LpIndex(0), &mut regs).expect("an answer");
    let mut bytes = [0; size_of::<SeamldrInfo>()];
    machine.read(INFO, KeyId::TME, &mut bytes).expect("RAM");
    SeamldrInfo::read_from_bytes(&bytes).expect("256 bytes")
}

#[test]
fn an_image_in_either_container_is_the_module_that_was_booted_with() {
    for header in [HeaderVersion::V0x100, HeaderVersion::V0x200] {
        let file = build::image(&module(), header).expect("a sound specification");
        let seamhash = *Image::parse(&file).expect("an image").sigstruct().seamhash();
        let mut spec = spec();
        spec.module.present = false;
        let machine = switch_on(spec.clone(), file);
        for power_on in 0..2 {
            let loaded = machine.seam().module.expect("a module");
            assert_eq!((loaded.profile.name, loaded.version), ("2.0.14", Version::new(2, 0, 14)));
            let info = info(&machine);
            assert_eq!((info.tcb_svn.get(), info.mrseam), (0x0309, seamhash), "power-on {power_on}");
            assert_eq!(info.num_remaining_updates.get(), spec.seamldr.remaining_updates);
            assert_eq!(call(&machine, LpIndex(0), SeamcallLeaf::SYS_INIT), StatusCode::SUCCESS.plain());
            machine.power_cycle();
            enter_vmx(&machine);
        }
    }
}

#[test]
fn faults_of_the_module_slot_come_before_the_image() {
    let mut missing = spec();
    missing.faults = vec![Fault::ModuleMissing];
    assert!(switch_on(missing, file(&module())).seam().module.is_none());
    let machine = switch_on(spec(), file(&module()));
    machine.inject(Fault::Module10).expect("possible");
    machine.power_cycle();
    assert_eq!(machine.seam().module.expect("a module").profile.name, "1.0");
    machine.power_cycle();
    assert_eq!(machine.seam().module.expect("a module").profile.name, "2.0.14");
    let mut none = spec();
    none.module.present = false;
    none.faults = vec![Fault::Module10];
    let empty = PowerOn::new(none.clone()).switch_on().expect("valid");
    assert!(empty.seam().module.is_none(), "no module, no old one either");
    assert_eq!(switch_on(none, file(&module())).seam().module.expect("a module").profile.name, "1.0");
}

#[test]
fn what_the_platform_asks_beside_the_release_holds_for_the_image() {
    let enabled = |switch: bool| {
        let mut spec = spec();
        spec.module.switches.insert("TDH.SYS.DISABLE-1".to_owned(), switch);
        let machine = switch_on(spec, file(&module()));
        assert_eq!(call(&machine, LpIndex(0), SeamcallLeaf::SYS_INIT), StatusCode::SUCCESS.plain());
        call(&machine, LpIndex(0), SeamcallLeaf::SYS_DISABLE) != StatusCode::SYS_NOT_READY.plain()
    };
    assert!(enabled(true) && !enabled(false));
}

/// An image that Intel did not sign, on a machine that takes everything for a release of Intel's.
fn unchecked(svn_major: u8, svn_minor: u8) -> (PlatformSpec, Vec<u8>) {
    let mut spec = spec();
    spec.seamldr.signature_checks = false;
    spec.seamldr.trust_test_key = false;
    let mut module = module();
    module.svn.major = svn_major;
    module.svn.minor = svn_minor;
    (spec, file(&module))
}

#[test]
fn an_unknown_release_is_played_as_the_nearest_and_the_log_says_so() {
    let (spec, file) = unchecked(3, 200);
    let machine = switch_on(spec.clone(), file.clone());
    let note = |event: &Event| matches!(event, Event::NearestRelease { profile: "2.0.18", .. });
    for events in [1, 2] {
        assert_eq!(machine.seam().module.expect("a module").profile.name, "2.0.18");
        let log = machine.log();
        assert_eq!((log.len(), log.iter().filter(|event| note(event)).count()), (events, 1), "{log:?}");
        machine.power_cycle();
    }
    let mut strict = spec;
    strict.seamldr.unknown_release = UnknownRelease::Refuse;
    assert!(matches!(refusal(strict, file), LoadError::UnknownRelease { .. }));
    let (spec, file) = unchecked(9, 1);
    assert!(matches!(refusal(spec, file), LoadError::UnknownRelease { .. }));
}

#[test]
fn a_bad_image_is_refused_with_its_reason() {
    let good = file(&module());
    assert!(matches!(
        refusal(spec(), good[..5000].to_vec()),
        LoadError::Container(ImageError::LengthMismatch { .. })
    ));
    let changed = |change: fn(&mut ModuleSpec)| {
        let mut module = module();
        change(&mut module);
        file(&module)
    };
    let with = |change: fn(&mut PlatformSpec)| {
        let mut spec = spec();
        change(&mut spec);
        spec
    };
    // The container's checksum is left out, so that only the content is wrong.
    let tampered = |at: usize| {
        let image = Image::parse(&good).expect("an image");
        let (mut sigstruct, mut module) = (*image.sigstruct(), image.module().to_vec());
        if at == 0 {
            sigstruct.signature[7] ^= 1;
        } else {
            module[at] ^= 1;
        }
        build::wrap(HeaderVersion::V0x200, &sigstruct, &module).expect("an image")
    };
    assert_eq!(refusal(spec(), tampered(0)), LoadError::Signature(VerifyError::Signature));
    let hash = refusal(spec(), tampered(4000));
    assert!(matches!(hash, LoadError::Signature(VerifyError::ModuleHash { .. })), "{hash:?}");
    assert_eq!(refusal(with(|spec| spec.seamldr.trust_test_key = false), good.clone()), LoadError::TestKey);
    let image = Image::parse(&good).expect("an image");
    let mut foreign = *image.sigstruct();
    foreign.modulus[9] ^= 1;
    let foreign = build::wrap(HeaderVersion::V0x200, &foreign, image.module()).expect("an image");
    let signer = refusal(spec(), foreign);
    assert!(matches!(signer, LoadError::Signature(VerifyError::UnknownSigner { .. })), "{signer:?}");
    assert_eq!(refusal(spec(), changed(|module| module.debug = true)), LoadError::Debug);
    let debug = with(|spec| spec.seamldr.debug_unlocked = true);
    assert!(switch_on(debug, changed(|module| module.debug = true)).seam().module.is_some());
    assert_eq!(refusal(spec(), changed(|module| module.cpus.clear())), LoadError::NoCpu);
    let cpu = refusal(spec(), changed(|module| module.cpus = vec![0x806F8]));
    assert!(matches!(cpu, LoadError::OtherCpu { .. }), "{cpu:?}");
    let relocation = refusal(spec(), changed(|module| module.relocation_outside = true));
    assert!(matches!(relocation, LoadError::Relocation(_)), "{relocation:?}");
    let unknown = refusal(spec(), changed(|module| module.profile = "unknown".to_owned()));
    assert_eq!(unknown, LoadError::UnknownProfile { profile: "unknown".to_owned() });
    let sealed = |change: fn(&mut Sigstruct, &mut Vec<u8>)| {
        let (mut sigstruct, mut pages) = build::module(&module()).expect("a sound specification");
        change(&mut sigstruct, &mut pages);
        build::seal(&mut sigstruct, &pages);
        build::wrap(HeaderVersion::V0x200, &sigstruct, &pages).expect("an image")
    };
    let nameless = sealed(|_, pages| {
        let at = pages.windows(7).position(|bytes| bytes == b"tdxhost").expect("the owner of the note");
        pages[at] = b'T';
    });
    assert_eq!(refusal(spec(), nameless), LoadError::NoRecord);
    let vendor = sealed(|sigstruct, _| sigstruct.vendor.set(1));
    assert_eq!(refusal(spec(), vendor), LoadError::Sigstruct(SigstructError::Vendor { value: 1 }));
    let outside = refusal(spec(), sealed(|_, pages| pages.truncate(4096)));
    assert!(matches!(outside, LoadError::Sigstruct(_)), "{outside:?}");
    let room = refusal(spec(), changed(|module| module.handoff_pages = 65536));
    assert!(matches!(room, LoadError::NoRoom { .. }), "{room:?}");
    let old = || {
        let cpus = module().cpus;
        file(&ModuleSpec { cpus, ..ModuleSpec::new(Version::new(1, 0, 4), "1.0") })
    };
    let old_below_new = with(|spec| spec.seamldr.generation = Some(Generation::V1_5_02));
    let refused = refusal(old_below_new, old());
    assert_eq!(refused, LoadError::Tdx1_0);
}

#[test]
fn a_cpu_without_tdx_loads_no_image() {
    let spec = presets::find("laptop-no-tdx").expect("a preset").spec().expect("valid");
    let Err(error) = PowerOn::new(spec).module_image(file(&module())).switch_on() else { panic!("loaded") };
    assert_eq!(error.issue(), Some(&SpecIssue::ModuleWithoutTdx));
}
