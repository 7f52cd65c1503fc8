//! Retry and resumption.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::status::{OperandId, SeamldrStatus, Status, StatusCode};
use tdx_host::cpu::CpuSlot;
use tdx_host::seamcall::{BUSY_TRIES, ENTROPY_TRIES, KeyConfigured, SeamcallCause};
use tdx_host::sync::RawLock;
use tdx_host::traits::SeamcallFault;
use tdx_host::{Errno, HostError, HostState};

use crate::fake::{Bench, Fake, GIB, Outcome, on};

#[test]
fn a_call_without_entropy_is_tried_ten_times() {
    for (failures, works) in [(9, true), (10, false)] {
        let bench = Bench::up(Fake::new(1));
        let before = bench.fake.calls_of(SeamcallLeaf::SYS_RD) as u64;
        bench.fake.script(SeamcallLeaf::SYS_RD, before, failures, StatusCode::RND_NO_ENTROPY);
        let port = bench.host.port(&*bench.fake);
        let result = on(0, |pin| port.sys_rd(pin, sys::MINOR_VERSION));
        if works {
            assert_eq!(result, Ok(5));
        } else {
            assert!(result.unwrap_err().is(StatusCode::RND_NO_ENTROPY));
        }
        let calls = bench.fake.calls_of(SeamcallLeaf::SYS_RD) as u64 - before;
        assert_eq!(calls, u64::from(ENTROPY_TRIES));
    }
}

#[test]
fn a_repeated_call_has_the_registers_of_its_start() {
    let bench = Bench::up(Fake::new(1));
    let before = bench.fake.state().calls.len();
    let made = bench.fake.calls_of(SeamcallLeaf::SYS_RD) as u64;
    // The fake clears RDX on failure, as real leaves do.
    bench.fake.script(SeamcallLeaf::SYS_RD, made, 3, StatusCode::SYS_BUSY);
    let port = bench.host.port(&*bench.fake);
    assert_eq!(on(0, |pin| port.sys_rd(pin, sys::MINOR_VERSION)), Ok(5));
    let calls = &bench.fake.state().calls[before..];
    assert_eq!(calls.len(), 4);
    assert!(calls.iter().all(|(_, _, registers)| registers.rdx == sys::MINOR_VERSION.0));
}

#[test]
fn busy_is_tried_again_but_not_for_ever() {
    let busy = [StatusCode::SYS_BUSY.plain(), StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX)];
    for status in busy {
        let bench = Bench::up(Fake::new(1));
        let made = bench.fake.calls_of(SeamcallLeaf::SYS_TDMR_INIT) as u64;
        bench.fake.script(SeamcallLeaf::SYS_TDMR_INIT, made, u64::MAX, status);
        let port = bench.host.port(&*bench.fake);
        let error = on(0, |pin| port.sys_tdmr_init(pin, tdx_abi::PhysAddr::new(0))).unwrap_err();
        assert_eq!(error.status(), Some(status));
        let calls = bench.fake.calls_of(SeamcallLeaf::SYS_TDMR_INIT) as u64 - made;
        assert_eq!(calls, u64::from(BUSY_TRIES));
    }
}

#[test]
fn an_interrupted_call_goes_on_with_the_registers_as_returned() {
    let bench = Bench::up(Fake::new(1));
    let word = LeafWord::module(SeamcallLeaf::SYS_DISABLE, 0);
    bench.fake.script_word(word, 0, 5, StatusCode::INTERRUPTED_RESUMABLE, 0x77);
    let port = bench.host.port(&*bench.fake);
    assert_eq!(on(0, |pin| port.sys_disable(pin)), Ok(()));
    let state = bench.fake.state();
    let calls: Vec<u64> =
        state.calls.iter().filter(|call| call.1 == word).map(|(_, _, registers)| registers.rcx).collect();
    assert_eq!(calls, [0, 0x77, 0x77, 0x77, 0x77, 0x77]);
}

#[test]
fn a_leaf_says_what_it_is_resumed_with() {
    let fake = Fake::with_connect(0);
    let bench = Bench::up(fake);
    let port = bench.host.port(&*bench.fake);
    let rcx_of = |leaf: SeamcallLeaf| -> Vec<(u64, u64)> {
        let state = bench.fake.state();
        let of_leaf = state.calls.iter().filter(|call| call.1 == LeafWord::module(leaf, 0));
        of_leaf.map(|(_, _, registers)| (registers.rcx, registers.rdx)).collect()
    };
    // Whatever comes back in RCX stays out of the operands.
    let (unit, root) = (tdx_abi::PhysAddr::new(0xFED9_0000), tdx_abi::PhysAddr::new(0x100_0000));
    let word = LeafWord::module(SeamcallLeaf::IOMMU_SETUP, 0);
    bench.fake.script_word(word, 0, 2, StatusCode::INTERRUPTED_RESUMABLE, 0x77);
    bench.fake.script_word(word, 2, 1, StatusCode::OPERAND_BUSY, 0x78);
    bench.fake.script_word(word, 3, 1, StatusCode::IOMMU_ECMD_ERROR, 0x79);
    let error = on(0, |pin| port.iommu_setup(pin, unit, root)).unwrap_err();
    assert!(error.is(StatusCode::IOMMU_ECMD_ERROR));
    assert_eq!(rcx_of(SeamcallLeaf::IOMMU_SETUP), [(unit.as_u64(), root.as_u64()); 4]);
    // A list goes on where the module says, also when it is busy in between.
    let list = tdx_abi::hpa_list::HpaListInfo::of(root, 3).unwrap();
    let word = LeafWord::module(SeamcallLeaf::EXT_MEM_ADD, 0);
    let (first, second) = (list.with_first_entry(1).into_bits(), list.with_first_entry(2).into_bits());
    bench.fake.script_word(word, 0, 1, StatusCode::INTERRUPTED_RESUMABLE, first);
    bench.fake.script_word(word, 1, 1, StatusCode::OPERAND_BUSY, 0);
    bench.fake.script_word(word, 2, 1, StatusCode::INTERRUPTED_RESUMABLE, second);
    bench.fake.script_word(word, 3, 1, StatusCode::SYS_BUSY, 0x99);
    bench.fake.script_word(word, 4, 1, StatusCode::PAGE_METADATA_INCORRECT, 0);
    let error = on(0, |pin| port.ext_mem_add(pin, list)).unwrap_err();
    assert!(error.is(StatusCode::PAGE_METADATA_INCORRECT));
    let rcx: Vec<u64> = rcx_of(SeamcallLeaf::EXT_MEM_ADD).into_iter().map(|(rcx, _)| rcx).collect();
    assert_eq!(rcx, [list.into_bits(), first, first, second, second]);
}

#[test]
fn no_other_status_is_tried_again() {
    let bench = Bench::up(Fake::new(1));
    let made = bench.fake.calls_of(SeamcallLeaf::SYS_RD) as u64;
    let unknown = Status::from_raw(0x8000_7777_0000_0000);
    bench.fake.script(SeamcallLeaf::SYS_RD, made, u64::MAX, unknown);
    let port = bench.host.port(&*bench.fake);
    let error = on(0, |pin| port.sys_rd(pin, sys::MINOR_VERSION)).unwrap_err();
    assert_eq!(error.status(), Some(unknown));
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_RD) as u64, made + 1);
}

#[test]
fn information_is_told_apart_from_success() {
    let bench = Bench::up(Fake::new(1));
    let port = bench.host.port(&*bench.fake);
    bench.fake.script(SeamcallLeaf::SYS_KEY_CONFIG, 1, 1, StatusCode::KEY_CONFIGURED);
    assert_eq!(on(0, |pin| port.sys_key_config(pin)), Ok(KeyConfigured::Before));
    assert_eq!(on(0, |pin| port.sys_key_config(pin)), Ok(KeyConfigured::Now));
    let made = bench.fake.calls_of(SeamcallLeaf::SYS_TDMR_INIT) as u64;
    bench.fake.script(SeamcallLeaf::SYS_TDMR_INIT, made, 1, StatusCode::TDMR_ALREADY_INITIALIZED);
    let base = tdx_abi::PhysAddr::new(0);
    assert_eq!(on(0, |pin| port.sys_tdmr_init(pin, base)), Ok(None));
    assert_eq!(on(0, |pin| port.sys_tdmr_init(pin, base)), Ok(Some(tdx_abi::PhysAddr::new(2 * GIB))));
    // A leaf that has no such information refuses it.
    bench.fake.script(SeamcallLeaf::SYS_DISABLE, 0, 1, StatusCode::KEY_CONFIGURED);
    let error = on(0, |pin| port.sys_disable(pin)).unwrap_err();
    assert!(error.is(StatusCode::KEY_CONFIGURED));
}

#[test]
fn the_loader_is_asked_again_when_it_has_no_entropy() {
    let word = LeafWord::seamldr(SeamldrLeaf::INFO);
    for (failures, works) in [(9, true), (10, false)] {
        let bench = Bench::up(Fake::new(1));
        let status = Status::from_raw(SeamldrStatus::ENOENTROPY.0);
        bench.fake.script_word(word, 0, failures, status, 0);
        let info = bench.host.seamldr().info(&*bench.fake, &bench.host.port(&*bench.fake));
        match info {
            Ok(info) => assert!(works && info.num_remaining_updates.get() == 59),
            Err(HostError::SeamldrInfoFailed { error }) => {
                assert!(!works);
                assert_eq!(error.cause, SeamcallCause::Loader(SeamldrStatus::ENOENTROPY));
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(bench.fake.leaked_pages(), 0);
    }
}

#[test]
fn errors_map_to_numbers_as_in_linux() {
    let causes = [
        (Outcome::Fault(SeamcallFault::VmFailInvalid), Errno::ENODEV),
        (Outcome::Fault(SeamcallFault::GeneralProtection), Errno::EOPNOTSUPP),
        (Outcome::Fault(SeamcallFault::InvalidOpcode), Errno::EACCES),
        (Outcome::Status(StatusCode::SYS_SHUTDOWN.plain()), Errno::EIO),
    ];
    for (outcome, errno) in causes {
        let bench = Bench::up(Fake::new(1));
        let made = bench.fake.calls_of(SeamcallLeaf::SYS_RD) as u64;
        bench.fake.script(SeamcallLeaf::SYS_RD, made, 1, outcome);
        let port = bench.host.port(&*bench.fake);
        let error = on(0, |pin| port.sys_rd(pin, sys::MINOR_VERSION)).unwrap_err();
        assert_eq!(error.errno(), errno);
    }
}

/// A lock that tells whether it is held.
#[derive(Clone, Default)]
struct Watched(Arc<AtomicBool>);

impl RawLock for Watched {
    fn lock(&self) {
        assert!(!self.0.swap(true, Ordering::SeqCst));
    }
    fn unlock(&self) {
        assert!(self.0.swap(false, Ordering::SeqCst));
    }
}

#[test]
fn the_loader_is_called_under_its_lock() {
    let fake = Fake::new(1);
    fake.state().in_vmx[0] = true;
    let lock = Watched::default();
    let host = HostState::new(vec![CpuSlot::new(), CpuSlot::new()], lock.clone());
    let held = Arc::clone(&lock.0);
    fake.in_call(LeafWord::seamldr(SeamldrLeaf::INFO), move || assert!(held.load(Ordering::SeqCst)));
    assert!(host.seamldr().info(&fake, &host.port(&fake)).is_ok());
    assert!(!lock.0.load(Ordering::SeqCst), "given back");
}

#[test]
fn the_caches_are_marked_before_the_call() {
    let bench = Bench::up(Fake::new(1));
    on(1, |pin| bench.host.cpu_goes_offline(&*bench.fake, pin)).unwrap();
    on(1, |pin| bench.host.cpu_came_online(&*bench.fake, pin)).unwrap();
    assert!(!bench.host.cpus()[1].cache_incoherent());
    let host = Arc::clone(&bench.host);
    let word = LeafWord::module(SeamcallLeaf::SYS_RD, 0);
    bench.fake.in_call(word, move || assert!(host.cpus()[1].cache_incoherent()));
    let port = bench.host.port(&*bench.fake);
    assert_eq!(on(1, |pin| port.sys_rd(pin, sys::MINOR_VERSION)), Ok(5));
}

#[test]
fn every_call_marks_the_caches_of_its_cpu() {
    let bench = Bench::new(Fake::new(1));
    assert!(bench.host.cpus().iter().all(|slot| !slot.cache_incoherent()));
    let port = bench.host.port(&*bench.fake);
    // Even a call that does not get there.
    let error = on(1, |pin| port.sys_rd(pin, sys::MINOR_VERSION)).unwrap_err();
    assert_eq!(error.cause, SeamcallCause::Fault(SeamcallFault::InvalidOpcode));
    assert!(!bench.host.cpus()[0].cache_incoherent());
    assert!(bench.host.cpus()[1].cache_incoherent());
}
