//! The stream over the link between a root port and a device.

use pcie::FunctionId;
use pcie::config::ReadConfig;
use pcie::ide::{Ide, RidAssociation, StreamBlock, StreamControl, StreamState, StreamStatus, offset};
use tdx_abi::connect::ids::{KmOperation, SpdmId};
use tdx_abi::connect::stream::StreamInfo;
use tdx_abi::status::StatusCode;

use super::caller::{Caller, Slot, TsmPlatform, answered};
use super::place::{Place, functions_of, memory_of, segment_of};
use super::pool::Pools;
use super::session::Ending;
use super::wire::Wire;
use crate::cpu::CpuSlot;
use crate::page_list::DonatedList;
use crate::seamcall::{CreatedStream, StreamRequest};
use crate::sync::RawLock;
use crate::traits::{LeakCounter, Pages, PciBus};
use crate::tsm::{Config, TsmError};

/// Key set of a stream, 0 or 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySet(pub u8);

impl KeySet {
    const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Done {
    /// The module has its object.
    Created,
    /// Its id is taken.
    Registered,
    /// The device's registers are written.
    SetUp,
    /// Both ends have keys.
    Keyed,
    /// The device's end is enabled.
    Enabled,
}

/// A selective stream: register blocks of both ends, and the module's object.
#[derive(Debug)]
#[must_use = "a stream that is not closed keeps its pages and its numbers"]
pub struct Stream<L: LeakCounter> {
    place: Place,
    session: SpdmId,
    /// Numbers as the module told them; checked once it is registered.
    told: CreatedStream,
    pages: DonatedList<L>,
    done: Done,
    key_set: KeySet,
    refreshes: u64,
}

impl<L: LeakCounter> Stream<L> {
    /// Where it is.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// Stream id.
    pub const fn id(&self) -> u8 {
        // It was checked before the stream was registered.
        self.told.stream_id.to_le_bytes()[0]
    }

    /// Key set in use.
    pub const fn key_set(&self) -> KeySet {
        self.key_set
    }

    /// Times that its keys were made anew.
    pub const fn refreshes(&self) -> u64 {
        self.refreshes
    }

    /// 4 KiB pages that it takes.
    pub fn page_count(&self) -> usize {
        self.pages.count()
    }

    /// Takes register blocks on both ends, lets the module program the root port and keys, and enables the
    /// device's end: the stream is secure.
    pub(crate) fn open<C, K, P, E>(
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
        session: SpdmId,
        pools: &Pools<'_>,
    ) -> Result<Self, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let mut stream = Self::create(caller, wire, session, pools)?;
        match stream.secure(caller, wire, pools) {
            Ok(()) => Ok(stream),
            Err(error) => {
                stream.close(caller, wire, pools, Ending::Orderly);
                Err(error)
            }
        }
    }

    fn create<C, K, P, E>(
        caller: &Caller<'_, C, K, P, E>,
        wire: &Wire<L>,
        session: SpdmId,
        pools: &Pools<'_>,
    ) -> Result<Self, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let place = Place::take(caller.device, pools)?;
        Self::create_at(caller, wire, session, place).inspect_err(|_| place.give_back(pools))
    }

    fn create_at<C, K, P, E>(
        caller: &Caller<'_, C, K, P, E>,
        wire: &Wire<L>,
        session: SpdmId,
        place: Place,
    ) -> Result<Self, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let (device, root_port) = (caller.device, place.root_port);
        let functions = functions_of(caller.platform, device, root_port);
        let memory = memory_of(caller.platform, device, root_port)?;
        let count = usize::from(caller.sizes.ide_mt);
        let root = wire.objects(caller)?;
        let (pages, array) = caller.give(root, count)?;
        let info = StreamInfo::selective(root_port.bdf.devfn());
        let request = StreamRequest { info, session, pages: array, functions, memory };
        let created = caller.call(|port, pin| {
            let CreatedStream { stream_id, root_port_block } = port.ide_stream_create(pin, request)?;
            Ok([stream_id, root_port_block])
        });
        match created {
            Ok([id, root_port_block]) => Ok(Self {
                place,
                session,
                told: CreatedStream { stream_id: id, root_port_block },
                pages,
                done: Done::Created,
                key_set: KeySet(0),
                refreshes: 0,
            }),
            Err(failure) => {
                caller.take_untouched(pages);
                Err(caller.failed(failure))
            }
        }
    }

    /// Everything behind the module's object.
    fn secure<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
        pools: &Pools<'_>,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        self.register(caller.device, pools)?;
        let device = caller.device;
        let no_block = TsmError::NoIde { device, port: self.place.endpoint };
        let end = Endpoint::find(caller.platform, &self.place).ok_or(no_block)?;
        let partner = self.place.root_port.bdf;
        let segment = segment_of(caller.platform, self.place.endpoint);
        end.set_up(RidAssociation::between(partner, partner, segment), self.id());
        self.done = Done::SetUp;
        self.manage_keys(caller, wire, KmOperation::SETUP)?;
        self.done = Done::Keyed;
        end.enable(self.id());
        self.done = Done::Enabled;
        match end.state() {
            StreamState::SECURE => Ok(()),
            state => Err(TsmError::NotSecure { device, state }),
        }
    }

    /// Takes the numbers that the module chose.
    fn register(&mut self, device: FunctionId, pools: &Pools<'_>) -> Result<(), TsmError> {
        let CreatedStream { stream_id, root_port_block } = self.told;
        let stream = u8::try_from(stream_id);
        let stream = stream.map_err(|_| TsmError::BadStreamId { device, stream: stream_id })?;
        let block = u8::try_from(root_port_block);
        let block = block.map_err(|_| TsmError::BadStreamId { device, stream: root_port_block })?;
        let (bridge, port) = (self.place.bridge, self.place.root_port);
        if !pools.root_port.exchange_block(self.place.root_port_block, block) {
            return Err(TsmError::RootPortBlockInUse { device, port, block });
        }
        self.place.root_port_block = block;
        if !pools.bridge.take_id(stream) {
            return Err(TsmError::StreamIdInUse { device, bridge, stream });
        }
        self.done = Done::Registered;
        Ok(())
    }

    fn manage_keys<C, K, P, E>(
        &self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
        operation: KmOperation,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let messages = wire.message_pages(caller)?;
        let (session, id) = (self.session, self.told.stream_id);
        // An ordinary leaf: the lock of the extension is for others.
        wire.run(caller, session, Slot::Free, &|port, pin| {
            port.ide_stream_km(pin, session, id, operation, messages)
        })
        .map(drop)
    }

    /// Makes the keys of both ends anew while traffic runs. After an error the old ones are in use.
    pub(crate) fn refresh<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        self.manage_keys(caller, wire, KmOperation::REFRESH)?;
        self.key_set = self.key_set.other();
        self.refreshes += 1;
        Ok(())
    }

    /// Ends the stream at both ends, takes its pages back and gives its numbers back. Never fails towards
    /// the caller: what goes wrong is told in the log, and pages that do not come back are counted as lost.
    pub(crate) fn close<C, K, P, E>(
        self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
        pools: &Pools<'_>,
        ending: Ending,
    ) where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let end = Endpoint::find(caller.platform, &self.place).filter(|_| self.done >= Done::SetUp);
        if let Some(end) = end.as_ref().filter(|_| self.done >= Done::Enabled) {
            end.disable();
        }
        if self.done >= Done::Keyed
            && ending == Ending::Orderly
            && let Err(error) = self.manage_keys(caller, wire, KmOperation::STOP)
        {
            caller.warn("the device was not told to forget the keys of its link", &error);
        }
        let (place, registered, id) = (self.place, self.done >= Done::Registered, self.id());
        if let Some(end) = end {
            end.tear_down();
        }
        self.delete(caller, wire);
        if registered {
            pools.bridge.give_id_back(id);
        }
        place.give_back(pools);
    }

    fn delete<C, K, P, E>(self, caller: &Caller<'_, C, K, P, E>, wire: &Wire<L>)
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let (session, id, lost) = (self.session, self.told.stream_id, self.pages.count());
        let taken = wire.objects(caller).and_then(|root| {
            let release = root.release(caller.platform, &self.pages);
            let release = release.map_err(|error| caller.host_failed(error, lost))?;
            Ok((root, release))
        });
        let (root, release) = match taken {
            Ok(taken) => taken,
            Err(error) => return caller.warn("a stream cannot be deleted, its pages are lost", &error),
        };
        let blocked = caller.call(|port, pin| port.ide_stream_block(pin, session, id).map(|()| [0, 0]));
        let deleted = match blocked {
            // It was, since an integrity check failed.
            Err(failure) if !answered(&failure, StatusCode::IDE_STREAM_BLOCKED) => Err(failure),
            _ => {
                caller.call(|port, pin| port.ide_stream_delete(pin, session, id, release).map(|rcx| [rcx, 0]))
            }
        };
        caller.take_deleted("stream", self.pages, root, deleted);
    }
}

/// The register block of the device's end. That of the root port is the module's.
struct Endpoint<'a, P: ?Sized> {
    config: Config<'a, P>,
    block: StreamBlock,
    /// Configuration requests and TEE limits, as far as the device knows them.
    control: StreamControl,
}

impl<'a, P: PciBus + ?Sized> Endpoint<'a, P> {
    fn find(bus: &'a P, place: &Place) -> Option<Self> {
        let config = Config::new(bus, place.endpoint);
        let ide = Ide::find(&config)?;
        let block = ide.selective(place.endpoint_block)?;
        let capability = ide.capability();
        // The default stream, because some devices work only so.
        let control = StreamControl::new()
            .with_default(true)
            .with_config(capability.selective_config())
            .with_tee_limited(capability.tee_limited());
        Some(Self { config, block, control })
    }

    fn write(&self, register: u16, value: u32) {
        self.config.write(self.block.offset.saturating_add(register), value);
    }

    /// No addresses are associated: requests of the root port go by its routing id.
    fn clear_addresses(&self) {
        for at in (0..self.block.address_blocks).filter_map(|index| self.block.address(index)) {
            for register in [at, at.saturating_add(4), at.saturating_add(8)] {
                self.config.write(register, 0);
            }
        }
    }

    /// Associates the root port. The id is there before keys come, as some devices want it.
    fn set_up(&self, functions: RidAssociation, id: u8) {
        let [rid_1, rid_2] = functions.encode();
        self.write(offset::RID_1, rid_1);
        self.write(offset::RID_2, rid_2);
        self.clear_addresses();
        self.write(offset::SELECTIVE_CONTROL, self.control.with_stream_id(id).into_bits());
    }

    fn enable(&self, id: u8) {
        let control = self.control.with_stream_id(id).with_enable(true);
        self.write(offset::SELECTIVE_CONTROL, control.into_bits());
    }

    fn state(&self) -> StreamState {
        StreamStatus::from_bits(self.config.dword(self.block.status())).state()
    }

    fn disable(&self) {
        self.write(offset::SELECTIVE_CONTROL, 0);
    }

    fn tear_down(&self) {
        self.disable();
        self.clear_addresses();
        self.write(offset::RID_2, 0);
        self.write(offset::RID_1, 0);
        // What the other end had to say was about this stream.
        let told = StreamStatus::new().with_fail_message(true);
        self.write(offset::SELECTIVE_STATUS, told.into_bits());
    }
}
