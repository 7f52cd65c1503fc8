//! Devices that are connected, refused and lost.

mod connect;
mod failures;
mod numbers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tdx_host::BringUpOptions;
use tdx_host::doe::Mailbox;
use tdx_host::link::{BridgeStreams, PortStreams};
use tdx_host::sync::RawLock;
use tdx_host::tsm::{Dsm, FunctionFacts, Refresh, Tsm, TsmClass, TsmError};

use crate::fake::pcie::{DEVICE, PORT, Pcie, Shape, pcie_bridge};
use crate::fake::{Bench, Fake, Leaks};

/// A lock that counts, and knows whether it is held.
#[derive(Clone, Debug, Default)]
struct Counted(Arc<[AtomicU64; 2]>);

impl Counted {
    fn times(&self) -> u64 {
        self.0[0].load(Ordering::SeqCst)
    }

    fn is_held(&self) -> bool {
        self.0[1].load(Ordering::SeqCst) != 0
    }
}

impl RawLock for Counted {
    fn lock(&self) {
        self.0[0].fetch_add(1, Ordering::SeqCst);
        assert_eq!(self.0[1].swap(1, Ordering::SeqCst), 0, "one thread takes it twice");
    }

    fn unlock(&self) {
        self.0[1].store(0, Ordering::SeqCst);
    }
}

/// A host with a registered TSM and a device.
struct Link {
    bench: Bench,
    class: TsmClass,
    lock: Counted,
    tsm: Tsm<Counted, Vec<BridgeStreams>, Vec<PortStreams>>,
    dsm: Dsm<Leaks>,
    /// Bytes that were free before anything was connected.
    free: u64,
}

impl Link {
    fn new() -> Self {
        Self::of(Shape::default())
    }

    fn of(shape: Shape<'_>) -> Self {
        Self::with(shape, |_| {})
    }

    /// `bend` comes before anybody looks at the hardware.
    fn with(shape: Shape<'_>, bend: impl FnOnce(&mut Pcie)) -> Self {
        let fake = Fake::with_connect(4);
        {
            let mut state = fake.state();
            state.io.pcie = Pcie::new(shape);
            state.io.functions = Pcie::functions().to_vec();
            bend(&mut state.io.pcie);
            (state.io.links.stream_id, state.io.links.information_bytes) = (7, 5000);
        }
        let mut bench = Bench::new(fake);
        bench.bring_up_with(&BringUpOptions::default()).unwrap();
        let fake = &*bench.fake;
        let bridges = vec![BridgeStreams::new(pcie_bridge())];
        bridges[0].set_streams(2);
        let ports = vec![PortStreams::scan(fake, PORT, &bridges[0])];
        let facts = FunctionFacts::read(fake, Pcie::functions()[1]);
        let mut mailbox = None;
        Mailbox::all(fake, DEVICE, |mut found| {
            found.discover(fake).unwrap();
            mailbox = Some(found);
        });
        let mailbox = mailbox.filter(|found| found.takes(pcie::doe::ObjectType::SPDM));
        let endpoint = PortStreams::scan(fake, DEVICE, &bridges[0]);
        let (lock, class) = (Counted::default(), TsmClass::new());
        let tsm = Tsm::new(lock.clone(), bridges, ports);
        assert_eq!(tsm.register(fake, &class), Some(0));
        let free = fake.free_bytes();
        Self { dsm: Dsm::new(facts, mailbox, endpoint), class, lock, tsm, free, bench }
    }

    fn fake(&self) -> &Fake {
        &self.bench.fake
    }

    fn connect_as(&mut self, text: &str) -> Result<(), TsmError> {
        self.tsm.connect(&self.bench.host, &*self.bench.fake, &mut self.dsm, text)
    }

    fn connect(&mut self) -> Result<(), TsmError> {
        self.connect_as("tsm0\n")
    }

    fn disconnect(&mut self) -> Result<(), TsmError> {
        self.tsm.disconnect(&self.bench.host, &*self.bench.fake, &mut self.dsm, "tsm0\n")
    }

    fn refresh(&mut self, what: Refresh) -> Result<(), TsmError> {
        self.tsm.refresh(&self.bench.host, &*self.bench.fake, &mut self.dsm, what)
    }

    /// Nothing is left of a connection: pages, numbers, registers, the module's objects.
    fn assert_undone(&self, what: &str) {
        assert_eq!(self.dsm.tsm(), None, "{what}");
        assert_eq!(self.fake().leaked_pages(), 0, "{what}: pages lost");
        assert_eq!(self.fake().free_bytes(), self.free, "{what}: pages missing");
        assert_eq!(self.tsm.bridges()[0].available(), Some(2), "{what}: streams of the bridge");
        assert_eq!(self.tsm.root_ports()[0].in_use(), 0, "{what}: blocks of the root port");
        assert!(!self.lock.is_held(), "{what}");
        let state = self.fake().state();
        assert!(state.io.links.is_empty(), "{what}: {:?}", state.io.links);
        if state.io.pcie.spaces.contains_key(&DEVICE) {
            let registers = state.io.pcie.stream_registers(DEVICE, 0);
            // A block that was never used has the id of blocks that are never enabled.
            assert!([0, 0xff00_0000].contains(&registers[0]), "{what}: {registers:x?}");
            assert!(registers[1..].iter().all(|register| *register == 0), "{what}: {registers:x?}");
        }
    }
}
