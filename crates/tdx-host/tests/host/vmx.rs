//! VMX operation, shared by several clients.

use tdx_abi::msr::MsrIndex;
use tdx_host::HostError;
use tdx_host::traits::{CpuNumber, VmxFault};

use crate::fake::{Bench, BendFake, Fake, on};

#[test]
fn the_first_reference_turns_vmx_on_and_the_last_off() {
    let bench = Bench::new(Fake::new(1));
    let clients = bench.host.vmx_clients();
    let (one, two) = (clients.register().unwrap(), clients.register().unwrap());
    let vmx = bench.host.vmx(&*bench.fake);
    on(0, |pin| {
        assert_eq!(vmx.get(pin, one), Ok(()));
        assert_eq!(vmx.get(pin, two), Ok(()));
        assert_eq!(vmx.get(pin, two), Ok(()));
        assert!(bench.fake.state().in_vmx[0]);
        assert_eq!(vmx.put(pin, one), Ok(()));
        assert_eq!(vmx.put(pin, two), Ok(()));
        assert!(bench.fake.state().in_vmx[0]);
        assert_eq!(vmx.put(pin, two), Ok(()));
        assert!(!bench.fake.state().in_vmx[0] && !bench.fake.state().vmxe[0]);
    });
    assert!(!bench.fake.state().in_vmx[1]);
}

#[test]
fn a_put_without_a_get_is_refused_even_if_another_client_holds_a_reference() {
    let bench = Bench::new(Fake::new(1));
    let clients = bench.host.vmx_clients();
    let (one, two) = (clients.register().unwrap(), clients.register().unwrap());
    let vmx = bench.host.vmx(&*bench.fake);
    on(0, |pin| {
        vmx.get(pin, one).unwrap();
        let error = vmx.put(pin, two).unwrap_err();
        assert_eq!(error.name(), "unbalanced-vmx-put");
        assert_eq!(error, HostError::UnbalancedVmxPut { cpu: CpuNumber(0), client: 2 });
        assert!(bench.fake.state().in_vmx[0]);
    });
    on(1, |pin| assert_eq!(vmx.put(pin, one).unwrap_err().name(), "unbalanced-vmx-put"));
}

#[test]
fn vmx_that_somebody_else_turned_on_is_busy() {
    let bench = Bench::new(Fake::new(1));
    let client = bench.host.vmx_clients().register().unwrap();
    let vmx = bench.host.vmx(&*bench.fake);
    bench.fake.state().vmxe[1] = true;
    on(0, |pin| assert_eq!(vmx.get(pin, client), Ok(())));
    on(1, |pin| {
        assert_eq!(vmx.get(pin, client), Err(HostError::VmxeInUse { cpu: CpuNumber(1) }));
        assert_eq!(vmx.put(pin, client).unwrap_err().name(), "unbalanced-vmx-put");
    });
    assert!(bench.fake.state().vmxe[1], "somebody else's VMX stays as it is");
}

#[test]
fn a_failed_vmxon_leaves_vmxe_clear() {
    let bench = Bench::new(Fake::new(1));
    let client = bench.host.vmx_clients().register().unwrap();
    let vmx = bench.host.vmx(&*bench.fake);
    let fault = VmxFault::GeneralProtection;
    bench.fake.state().vmxon_fault = Some(fault);
    on(0, |pin| {
        let failed = HostError::VmxonFailed { cpu: CpuNumber(0), fault, feature_control: 5 };
        assert_eq!(vmx.get(pin, client), Err(failed));
    });
    assert!(!bench.fake.state().vmxe[0]);
    bench.fake.state().vmxon_fault = None;
    on(0, |pin| assert_eq!(vmx.get(pin, client), Ok(())));
}

#[test]
fn a_cpu_that_cannot_be_driven_is_refused_by_name() {
    let cases: [(BendFake, &str); 3] = [
        (|fake| fake.state().cpuid.get_mut(&1).unwrap().ecx &= !(1 << 5), "no-vmx"),
        (|fake| _ = fake.state().msrs.insert(MsrIndex::IA32_VMX_BASIC.0, None), "vmx-basic-unreadable"),
        (|fake| _ = fake.state().msrs.insert(0x480, Some(0x1001 << 32)), "vmcs-too-large"),
    ];
    for (bend, name) in cases {
        let bench = Bench::new(Fake::new(1));
        bend(&bench.fake);
        let client = bench.host.vmx_clients().register().unwrap();
        let vmx = bench.host.vmx(&*bench.fake);
        assert_eq!(on(0, |pin| vmx.get(pin, client)).unwrap_err().name(), name);
    }
}

#[test]
fn client_numbers_run_out_and_come_back() {
    let bench = Bench::new(Fake::new(1));
    let clients = bench.host.vmx_clients();
    let all: Vec<_> = (0..7).map(|_| clients.register().unwrap()).collect();
    assert_eq!(clients.register(), Err(HostError::TooManyVmxClients));
    clients.unregister(bench.host.cpus(), all[3]).unwrap();
    assert_eq!(clients.register(), Ok(all[3]));
}

#[test]
fn a_client_that_holds_references_keeps_its_number() {
    let bench = Bench::new(Fake::new(1));
    let (clients, vmx) = (bench.host.vmx_clients(), bench.host.vmx(&*bench.fake));
    let client = clients.register().unwrap();
    on(1, |pin| vmx.get(pin, client)).unwrap();
    let busy = clients.unregister(bench.host.cpus(), client).unwrap_err();
    assert_eq!((busy.name(), busy.errno().name()), ("vmx-client-busy", Some("EBUSY")));
    assert_ne!(clients.register().unwrap(), client);
    on(1, |pin| vmx.put(pin, client)).unwrap();
    clients.unregister(bench.host.cpus(), client).unwrap();
    assert_eq!(clients.register(), Ok(client));
}

#[test]
fn a_crash_ends_vmx_even_before_it_is_noted() {
    let bench = Bench::new(Fake::new(1));
    // As if the crash came between VMXON and its note on CPU 0, and between CR4 and VMXON on CPU 1.
    bench.fake.state().vmxe = vec![true; 2];
    bench.fake.state().in_vmx[0] = true;
    bench.host.crash_everywhere(&*bench.fake);
    assert_eq!(bench.fake.cpus_in_vmx(), 0);
    assert_eq!(bench.fake.state().vmxe, [false; 2]);
}

#[test]
fn references_do_not_wrap() {
    let bench = Bench::new(Fake::new(1));
    let client = bench.host.vmx_clients().register().unwrap();
    let vmx = bench.host.vmx(&*bench.fake);
    on(0, |pin| {
        for _ in 0..u16::MAX {
            vmx.get(pin, client).unwrap();
        }
        assert_eq!(vmx.get(pin, client).unwrap_err().name(), "too-many-vmx-references");
        assert_eq!(vmx.references(pin, client), u16::MAX);
    });
}

#[test]
fn references_of_clients_outlive_offline_and_online() {
    let bench = Bench::new(Fake::new(1));
    let client = bench.host.vmx_clients().register().unwrap();
    let vmx = bench.host.vmx(&*bench.fake);
    on(1, |pin| {
        vmx.get(pin, client).unwrap();
        vmx.cpu_goes_offline(pin).unwrap();
        assert!(!bench.fake.state().in_vmx[1]);
        vmx.cpu_came_online(pin).unwrap();
        assert!(bench.fake.state().in_vmx[1]);
        vmx.put(pin, client).unwrap();
        assert!(!bench.fake.state().in_vmx[1]);
        vmx.cpu_came_online(pin).unwrap();
        assert!(!bench.fake.state().in_vmx[1]);
    });
}
