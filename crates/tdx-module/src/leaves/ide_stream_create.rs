//! TDH.IDE.STREAM.CREATE: gives a device a selective stream of the root port above it.

use pcie::BusAddress;
use pcie::ide::{AddressAssociation, RidAssociation, StreamControl};
use tdx_abi::connect::ids::{RootPortBlock, SpdmId};
use tdx_abi::connect::pages::HpaArray;
use tdx_abi::connect::stream::{STREAM_CTRL_SETTABLE, STREAM_ID_LIMIT, StreamInfo};
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PhysAddr, Registers};

use crate::call::{Call, Exit, invalid};
use crate::connect::Owner;
use crate::connect::key_unit::{KeyUnit, SLOTS, SlotSet};
use crate::connect::root_port::RootPort;
use crate::connect::session::{Session, SessionState};
use crate::connect::stream::{Stream, StreamFacts, StreamHardware, StreamKey, address_overlap, rid_overlap};

/// Bits of the first register of an RID association and of an address association.
const RID_1: u64 = 0x00FF_FF00;
const RID_2: u64 = 0xFFFF_FF01;
const ADDRESS_1: u64 = 0xFFFF_FF01;
const DWORD: u64 = 0xFFFF_FFFF;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    let info = StreamInfo(regs.rcx);
    // TDH.IDE.STREAM.CREATE-1
    if info.reserved() != 0 || !info.is_selective() {
        return Err(invalid(OperandId::RCX));
    }
    // TDH.IDE.STREAM.CREATE-2
    let no_session = StatusCode::SPDM_INVALID_STATE;
    let session = connect.sessions.get(SpdmId(regs.rdx)).ok_or(no_session)?;
    if session.state() != SessionState::Connected {
        return Err(no_session.into());
    }
    // TDH.IDE.STREAM.CREATE-3
    if regs.r9 & !STREAM_CTRL_SETTABLE != 0 {
        return Err(invalid(OperandId::R9));
    }
    let control = StreamControl::from_bits(dword(regs.r9, OperandId::R9)?);
    let rid = rid(&session, regs)?;
    let addresses = addresses(regs)?;
    // TDH.IDE.STREAM.CREATE-4
    let wanted = usize::from(connect.sizes.ide_mt_pages);
    HpaArray::from_raw(regs.r8)
        .filter(|array| array.count() == wanted)
        .ok_or_else(|| invalid(OperandId::R8))?;
    let pages = call.page_array(regs.r8, OperandId::R8)?;
    let request = Request { session: &session, devfn: info.devfn(), control, rid, addresses, pages };
    let facts = request.plan(call)?;
    // TDH.IDE.STREAM.CREATE-14
    call.claim(&facts.pages, Owner::Stream(session.id, facts.key.id))
        .map_err(|_| StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::R8))?;
    request.create(call, &facts).inspect_err(|_| call.release(&facts.pages))?;
    regs.rcx = facts.key.id.into();
    regs.rdx = facts.block.0.into();
    Ok(Status::SUCCESS)
}

fn dword(raw: u64, operand: OperandId) -> Result<u32, Exit> {
    u32::try_from(raw).map_err(|_| invalid(operand))
}

/// R10 and R11: functions from the first to the last, that of the session among them. Their segment is 0
/// where the link is not in flit mode; else it is the session's.
fn rid(session: &Session, regs: &Registers) -> Result<RidAssociation, Exit> {
    // TDH.IDE.STREAM.CREATE-13
    let checked = |raw: u64, known: u64, operand| {
        if raw & !known == 0 { dword(raw, operand) } else { Err(invalid(operand)) }
    };
    let one = checked(regs.r10, RID_1, OperandId::R10)?;
    let two = checked(regs.r11, RID_2, OperandId::R11)?;
    RidAssociation::decode([one, two])
        .filter(|rid| rid.contains(session.function.bdf()))
        .filter(|rid| [0, session.function.function().segment.0].contains(&rid.segment().into()))
        .ok_or_else(|| invalid(OperandId::R11))
}

/// R12 to R14; all of them 0 for a device whose memory is outside of the stream.
fn addresses(regs: &Registers) -> Result<Option<AddressAssociation>, Exit> {
    // TDH.IDE.STREAM.CREATE-13
    if [regs.r12, regs.r13, regs.r14] == [0; 3] {
        return Ok(None);
    }
    for (operand, raw, known) in [
        (OperandId::R12, regs.r12, ADDRESS_1),
        (OperandId::R13, regs.r13, DWORD),
        (OperandId::R14, regs.r14, DWORD),
    ] {
        if raw & !known != 0 {
            return Err(invalid(operand));
        }
    }
    let registers = [
        dword(regs.r12, OperandId::R12)?,
        dword(regs.r13, OperandId::R13)?,
        dword(regs.r14, OperandId::R14)?,
    ];
    let in_order = |association: &AddressAssociation| {
        let (first, last): (BusAddress, BusAddress) = (association.first(), association.last());
        first <= last
    };
    AddressAssociation::decode(registers).filter(in_order).map(Some).ok_or_else(|| invalid(OperandId::R12))
}

/// What a caller wants.
struct Request<'a> {
    session: &'a Session,
    /// Device and function number of the root port.
    devfn: u8,
    control: StreamControl,
    rid: RidAssociation,
    addresses: Option<AddressAssociation>,
    pages: Vec<PhysAddr>,
}

impl Request<'_> {
    /// Finds room for the stream.
    fn plan(&self, call: &Call<'_>) -> Result<StreamFacts, Exit> {
        let (connect, io) = (call.connect()?, call.io()?);
        let unit = call.unit_of(self.session)?;
        let port = RootPort::on_root_bus(io, unit.facts(), self.devfn);
        // TDH.IDE.STREAM.CREATE-12
        let capability = port.selective_ide().ok_or(StatusCode::IDE_STREAM_NOT_SUPPORTED)?;
        // TDH.IDE.STREAM.CREATE-5
        let unfit = StatusCode::IOMMU_RP_INVALID_CONFIGURATION;
        let mut key_units = (0..).zip(&unit.facts().key_units);
        let (key_unit, facts) =
            key_units.find(|(_, facts)| facts.root_ports.contains(&port.function())).ok_or(unfit)?;
        let registers = KeyUnit::new(io, facts).ok_or(unfit)?;
        let blocks = port.blocks();
        let fits = port.leads_to(self.session.function.function())
            && capability.algorithms() == 0
            && (capability.pcrc() || !self.control.pcrc())
            && !blocks.is_empty();
        if !fits {
            return Err(unfit.into());
        }
        let streams = connect.sessions.streams.of_unit(unit.index());
        let of_port = || streams.iter().filter(|stream| stream.facts.port == port.function());
        // TDH.IDE.STREAM.CREATE-6
        if of_port().any(|stream| rid_overlap(stream, self.rid)) {
            return Err(StatusCode::IDE_STREAM_RID_OVERLAP.into());
        }
        // TDH.IDE.STREAM.CREATE-7
        if let Some(addresses) = self.addresses
            && of_port().any(|stream| address_overlap(stream, addresses))
        {
            return Err(StatusCode::IDE_STREAM_ADDR_OVERLAP.into());
        }
        let of_key_unit = || streams.iter().filter(|stream| stream.facts.key_unit == key_unit);
        // Ids in the blocks of all ports of the key unit, whoever wrote them: it finds a port by its id.
        let written: Vec<u8> = facts
            .root_ports
            .iter()
            .map(|&port| RootPort::new(io, port))
            .flat_map(|port| port.blocks().into_iter().map(move |block| port.control(block).stream_id()))
            .collect();
        // TDH.IDE.STREAM.CREATE-8. Blocks that nobody has set have id 0: it is not given out.
        let id = (1..STREAM_ID_LIMIT)
            .filter_map(|id| u8::try_from(id).ok())
            .filter(|id| !written.contains(id))
            .find(|id| streams.iter().all(|stream| stream.facts.key.id != *id))
            .ok_or(StatusCode::IDE_STREAM_NOT_FREE)?;
        let number = (0..registers.streams)
            .find(|number| of_key_unit().all(|stream| stream.facts.number != *number))
            .ok_or(StatusCode::IDE_STREAM_NOT_FREE)?;
        // TDH.IDE.STREAM.CREATE-9
        let no_slots = StatusCode::IDE_STREAM_KEY_ID_ALREADY_USED;
        let taken = |slots: fn(&SlotSet) -> &[u16; SLOTS]| {
            of_key_unit().flat_map(move |stream| *slots(&stream.facts.slots)).collect::<Vec<u16>>()
        };
        let slots = SlotSet {
            tx: free_slots(registers.tx_slots, &taken(|slots| &slots.tx)).ok_or(no_slots)?,
            rx: free_slots(registers.rx_slots, &taken(|slots| &slots.rx)).ok_or(no_slots)?,
        };
        let block = blocks
            .iter()
            .find(|block| of_port().all(|stream| stream.facts.block.0 != block.index))
            .ok_or(StatusCode::IDE_STREAM_IDE_ID_ALREADY_USED)?;
        // TDH.IDE.STREAM.CREATE-10
        if port.control(*block).enable() {
            return Err(StatusCode::IOMMU_RP_IDE_MUST_BE_DISABLED.into());
        }
        Ok(StreamFacts {
            key: StreamKey { unit: unit.index(), id },
            session: self.session.id,
            port: port.function(),
            block: RootPortBlock(block.index),
            key_unit,
            number,
            slots,
            rid: self.rid,
            addresses: self.addresses,
            control: self.control.with_stream_id(id),
            pages: self.pages.clone(),
        })
    }

    fn create(&self, call: &Call<'_>, facts: &StreamFacts) -> Result<(), Exit> {
        let (connect, unit) = (call.connect()?, call.unit_of(self.session)?);
        // TDH.IDE.STREAM.CREATE-11
        let _unit = call.lock_unit(unit, OperandId::RCX)?;
        call.check_session_lock(OperandId::RDX)?;
        let body = self.session.try_lock().ok_or(StatusCode::OPERAND_BUSY.with_operand(OperandId::RDX))?;
        // Another LP may have been here between the first look and the locks: a session that was deleted
        // has an empty body.
        if self.session.state() != SessionState::Connected || !body.has_session() {
            return Err(StatusCode::SPDM_INVALID_STATE.into());
        }
        if self.plan(call)? != *facts {
            return Err(StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX).into());
        }
        let hardware = StreamHardware::of(call, facts)?.ok_or(StatusCode::IOMMU_RP_INVALID_CONFIGURATION)?;
        hardware.port.protect(hardware.block, true);
        hardware.port.program(hardware.block, facts.rid, facts.addresses, facts.control);
        hardware.keys.set_enabled(facts.key.id, false);
        connect.sessions.streams.insert(&Stream::new(facts.clone()));
        unit.add_stream();
        Ok(())
    }
}

/// The lowest slots that no stream has.
fn free_slots(count: u16, taken: &[u16]) -> Option<[u16; SLOTS]> {
    let free: Vec<u16> = (0..count).filter(|slot| !taken.contains(slot)).take(SLOTS).collect();
    free.try_into().ok()
}
