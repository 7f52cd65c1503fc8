//! A host with a device: pages for messages, and the loop that carries them.

use spdm::ide_km::KeySet;
use tdx_abi::connect::NO_PAGE;
use tdx_abi::connect::ids::{KmOperation, MngOperation};
use tdx_abi::connect::pages::HpaArray;
use tdx_abi::connect::spdm::SpdmConfigInfo;
use tdx_abi::connect::stream::StreamInfo;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{PAGE_SIZE, PhysAddr, Registers};
use tdx_module::ModuleConfig;
use tdx_module::io::LinkStatus;
use zerocopy::IntoBytes;

use super::connect::{OBJECTS, opted_in_with};
use super::device::{FUNCTION, Responding};
use super::fake_io::{KEY_UNITS, function};
use super::{Bench, Facts, config, with_leaf};

pub(crate) const ANSWER: u64 = 0x40_0000;
pub(crate) const REQUEST: u64 = 0x41_0000;
pub(crate) const CONFIG: u64 = 0x42_0000;
/// Root page of the array for device information, and its first page.
pub(crate) const INFO_ROOT: u64 = 0x43_0000;
pub(crate) const INFO: u64 = 0x44_0000;
pub(crate) const INFO_PAGES: usize = 16;
/// Root page of an array that a leaf takes, and one for what is given back.
pub(crate) const ARRAY: u64 = 0x46_0000;
pub(crate) const RELEASED: u64 = 0x47_0000;
/// Pages of sessions and of streams.
pub(crate) const SESSION_PAGES: u64 = OBJECTS;
pub(crate) const STREAM_PAGES: u64 = OBJECTS + 0x10_0000;

/// Registers of the IDE capability of the fake root ports, and of their streams.
pub(crate) const IDE: u16 = 0x100;
pub(crate) const BLOCK: u16 = 0x10C;
pub(crate) const BLOCK_SIZE: u16 = 32;
pub(crate) const BLOCKS: u16 = 3;
/// Offset of a stream's control register in its block.
pub(crate) const BLOCK_CONTROL: u16 = 4;
/// Registers of the first stream of the key unit below unit 0.
pub(crate) const KEY_STREAM: u64 = KEY_UNITS[0] + 4;

pub(crate) fn regs(rcx: u64) -> Registers {
    Registers { rcx, ..Registers::default() }
}

impl Facts {
    pub(crate) fn put_bytes(&mut self, at: u64, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.memory.insert(at + 8 * index as u64, u64::from_le_bytes(word));
        }
    }

    /// Clears a page and writes to its start.
    pub(crate) fn put_message(&mut self, page: u64, bytes: &[u8]) {
        self.put_page(page, &[]);
        self.put_bytes(page, bytes);
    }

    /// A root port of unit 0 with the buses below it and an IDE capability.
    pub(crate) fn put_root_port(&mut self, device: u8, bus: u32) {
        let port = function(0, 0x10, device);
        let mut put = |offset, value| {
            self.io.config.insert((port, offset), value);
        };
        put(0x00, 0x0DB0_8086);
        put(0x0C, 1 << 16);
        put(0x18, 0x10 | bus << 8 | bus << 16);
        put(IDE, 1 << 16 | 0x30);
        put(IDE + 4, 1 << 1 | 1 << 5 | 1 << 6 | (u32::from(BLOCKS) - 1) << 16);
        put(IDE + 8, 0);
        for block in 0..BLOCKS {
            let at = BLOCK + BLOCK_SIZE * block;
            put(at, 1);
            (4..BLOCK_SIZE).step_by(4).for_each(|offset| put(at + offset, 0));
        }
        let controls = (0..BLOCKS).map(|block| (port, BLOCK + BLOCK_SIZE * block + BLOCK_CONTROL));
        self.io.stream_controls.extend(controls);
        self.io.links.insert(port, LinkStatus { up: true, losses: 0 });
    }
}

/// What a host asks for by default: both extensions of a session.
pub(crate) fn config_info() -> SpdmConfigInfo {
    SpdmConfigInfo { capabilities: 0x6000.into(), ..SpdmConfigInfo::LINUX }
}

/// Units in TDX mode, and two root ports below the first.
pub(crate) fn bridged() -> Bench {
    bridged_with(config("connect"))
}

pub(crate) fn bridged_with(module: ModuleConfig) -> Bench {
    let bench = opted_in_with(module);
    bench.fill_pool();
    bench.ok(0, SeamcallLeaf::EXT_INIT, Registers::default());
    for unit in 0..2 {
        bench.ok(0, SeamcallLeaf::IOMMU_SETUP, bench.table_of(unit));
    }
    bench.hw.set(|facts| {
        facts.random_step = 0x9E37_79B9_7F4A_7C15;
        facts.put_root_port(0, 0x11);
        facts.put_root_port(1, 0x12);
        let info: Vec<u64> = (0..INFO_PAGES as u64).map(|page| INFO + page * PAGE_SIZE).collect();
        facts.put_page(INFO_ROOT, &info);
        facts.put_message(CONFIG, config_info().as_bytes());
    });
    bench
}

/// Operands of SPDM.CREATE for pages from `first` on.
pub(crate) fn create_regs(bench: &Bench, function: u32, first: u64) -> Registers {
    bench.hw.set(|facts| facts.put_page(ARRAY, &[first, first + PAGE_SIZE]));
    Registers { rcx: function.into(), rdx: array(ARRAY, 2), ..Registers::default() }
}

pub(crate) fn array(root: u64, count: usize) -> u64 {
    HpaArray::of(PhysAddr::new(root), count).expect("an array").raw()
}

/// A session object.
pub(crate) fn created(bench: &Bench) -> u64 {
    let regs = create_regs(bench, FUNCTION, SESSION_PAGES);
    bench.ok(0, SeamcallLeaf::SPDM_CREATE, regs).rcx
}

pub(crate) fn connect_regs(id: u64) -> Registers {
    let r10 = array(INFO_ROOT, INFO_PAGES);
    Registers { rcx: id, rdx: CONFIG, r8: ANSWER, r9: REQUEST, r10, ..Registers::default() }
}

pub(crate) fn mng_regs(id: u64, operation: MngOperation) -> Registers {
    let r11 = match operation {
        MngOperation::DEV_INFO_RECOLLECTION => array(INFO_ROOT, INFO_PAGES),
        _ => NO_PAGE,
    };
    Registers {
        rcx: id,
        rdx: operation.0,
        r8: NO_PAGE,
        r9: ANSWER,
        r10: REQUEST,
        r11,
        ..Registers::default()
    }
}

pub(crate) fn disconnect_regs(id: u64) -> Registers {
    Registers { rcx: id, rdx: ANSWER, r8: REQUEST, ..Registers::default() }
}

/// Operands of IDE.STREAM.CREATE for the first root port; its page is number `page`.
pub(crate) fn stream_regs(id: u64, page: u64) -> Registers {
    Registers {
        rcx: StreamInfo::selective(0).0,
        rdx: id,
        r8: array(STREAM_PAGES + page * PAGE_SIZE, 1),
        r10: 0x1107 << 8,
        r11: 0x1100 << 8 | 1,
        r12: 0x0010_0001,
        r13: 0x20,
        r14: 0x20,
        ..Registers::default()
    }
}

pub(crate) fn km_regs(id: u64, stream: u64, operation: KmOperation) -> Registers {
    Registers { rcx: id, rdx: stream, r8: operation.0, r9: ANSWER, r10: REQUEST, ..Registers::default() }
}

/// Gets the number of the exchange and the answer.
pub(crate) type Tamper = Box<dyn FnMut(usize, &mut Vec<u8>)>;

/// A bench with a device below the first root port.
pub(crate) struct Host {
    pub(crate) bench: Bench,
    pub(crate) device: Responding,
    /// Changes answers on their way.
    pub(crate) tamper: Tamper,
    /// Every call is made on the next LP.
    pub(crate) wanders: bool,
    pub(crate) lp: u32,
    pub(crate) interruptions: u32,
}

pub(crate) fn status(regs: Registers) -> Status {
    Status::from_raw(regs.rax)
}

impl Host {
    pub(crate) fn new(bench: Bench, device: Responding) -> Self {
        Self { bench, device, tamper: Box::new(|_, _| {}), wanders: false, lp: 0, interruptions: 0 }
    }

    /// A host with a session object, and the object.
    pub(crate) fn created() -> (Self, u64) {
        let host = Self::new(bridged(), Responding::new());
        let id = created(&host.bench);
        (host, id)
    }

    /// The same, connected.
    pub(crate) fn connected() -> (Self, u64) {
        let (mut host, id) = Self::created();
        assert_eq!(status(host.connect(id)), Status::SUCCESS);
        (host, id)
    }

    /// The same with a stream that has no keys yet.
    pub(crate) fn configured() -> (Self, u64, u64) {
        let (host, id) = Self::connected();
        let stream = host.bench.ok(0, SeamcallLeaf::IDE_STREAM_CREATE, stream_regs(id, 0)).rcx;
        (host, id, stream)
    }

    /// The same with keys.
    pub(crate) fn secure() -> (Self, u64, u64) {
        let (mut host, id, stream) = Self::configured();
        assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
        (host, id, stream)
    }

    /// One call.
    pub(crate) fn call(&mut self, leaf: SeamcallLeaf, regs: Registers) -> Registers {
        if self.wanders {
            self.lp = (self.lp + 1) % super::LPS;
        }
        self.bench.raw(self.lp, with_leaf(leaf, 0, regs)).expect("an answer")
    }

    /// Calls until a message is there, or the end.
    pub(crate) fn resume(&mut self, leaf: SeamcallLeaf, regs: Registers) -> Registers {
        for _ in 0..1000 {
            let after = self.call(leaf, regs);
            if status(after) != StatusCode::INTERRUPTED_RESUMABLE.plain() {
                return after;
            }
            self.interruptions += 1;
        }
        panic!("no end");
    }

    fn read(&self, at: u64, size: u64) -> Vec<u8> {
        let size = usize::try_from(size).expect("a size");
        let mut bytes = self.bench.hw.bytes(at, size.next_multiple_of(8));
        bytes.truncate(size);
        bytes
    }

    /// The message in the out page.
    pub(crate) fn request(&self, size: u64) -> Vec<u8> {
        assert!((8..=4096).contains(&size), "{size}");
        self.read(REQUEST, size)
    }

    /// Carries the message in the out page to the device, and its answer into the in page.
    pub(crate) fn exchange(&mut self, size: u64) {
        let object = self.request(size);
        let number = self.device.exchanges;
        let mut answer = self.device.answer(&object);
        (self.tamper)(number, &mut answer);
        self.bench.hw.set(|facts| facts.put_message(ANSWER, &answer));
    }

    /// Calls and carries messages until the end.
    pub(crate) fn drive(&mut self, leaf: SeamcallLeaf, regs: Registers) -> Registers {
        for _ in 0..1000 {
            let after = self.resume(leaf, regs);
            if status(after) != StatusCode::SPDM_REQUEST.plain() {
                return after;
            }
            self.exchange(after.rcx);
        }
        panic!("no end");
    }

    /// As far as the message number `messages` in the out page.
    pub(crate) fn drive_to(&mut self, leaf: SeamcallLeaf, regs: Registers, messages: usize) -> Registers {
        let mut after = self.resume(leaf, regs);
        for _ in 1..messages {
            assert_eq!(status(after), StatusCode::SPDM_REQUEST.plain());
            self.exchange(after.rcx);
            after = self.resume(leaf, regs);
        }
        after
    }

    pub(crate) fn connect(&mut self, id: u64) -> Registers {
        self.drive(SeamcallLeaf::SPDM_CONNECT, connect_regs(id))
    }

    pub(crate) fn disconnect(&mut self, id: u64) -> Registers {
        self.drive(SeamcallLeaf::SPDM_DISCONNECT, disconnect_regs(id))
    }

    pub(crate) fn mng(&mut self, id: u64, operation: MngOperation) -> Registers {
        self.drive(SeamcallLeaf::SPDM_MNG, mng_regs(id, operation))
    }

    pub(crate) fn km(&mut self, id: u64, stream: u64, operation: KmOperation) -> Registers {
        self.drive(SeamcallLeaf::IDE_STREAM_KM, km_regs(id, stream, operation))
    }

    pub(crate) fn block(&mut self, id: u64, stream: u64) -> Registers {
        self.call(SeamcallLeaf::IDE_STREAM_BLOCK, Registers { rdx: stream, ..regs(id) })
    }

    pub(crate) fn delete_stream(&mut self, id: u64, stream: u64) -> Registers {
        self.call(SeamcallLeaf::IDE_STREAM_DELETE, Registers { rdx: stream, ..regs(id) })
    }

    pub(crate) fn delete(&mut self, id: u64) -> Registers {
        self.call(SeamcallLeaf::SPDM_DELETE, Registers { rdx: RELEASED, ..regs(id) })
    }

    /// Device information as the host got it.
    pub(crate) fn dev_info(&self, size: u64) -> Vec<u8> {
        self.read(INFO, size)
    }

    /// A dword of the first root port's configuration space.
    pub(crate) fn port_register(&self, offset: u16) -> u32 {
        self.bench.hw.facts().io.config[&(function(0, 0x10, 0), offset)]
    }

    /// A register of the key unit's first stream.
    pub(crate) fn key_register(&self, offset: u64) -> u32 {
        u32::try_from(self.bench.hw.facts().io.register(KEY_STREAM + offset)).expect("a dword")
    }

    /// Both ends of the first stream are enabled, at the root port and at its key unit.
    pub(crate) fn is_enabled(&self) -> bool {
        let (port, unit) = (self.port_register(BLOCK + BLOCK_CONTROL) & 1, self.key_register(0) & 1);
        assert_eq!(port, unit, "port and key unit go together");
        port == 1
    }

    /// The set that the root port sends with.
    pub(crate) fn sends_with(&self) -> Option<KeySet> {
        match self.key_register(4) & 3 {
            1 => Some(KeySet::K0),
            2 => Some(KeySet::K1),
            _ => None,
        }
    }

    /// The link lost its device once more.
    pub(crate) fn lose_link(&mut self) {
        self.device.reset();
        self.bench.hw.set(|facts| {
            facts.io.links.get_mut(&function(0, 0x10, 0)).expect("a link").losses += 1;
        });
    }
}
