//! TDH.IDE.STREAM.KM: brings keys to both ends of a stream, or has the device forget them.

use std::sync::Arc;

use tdx_abi::Registers;
use tdx_abi::connect::ids::{KmOperation, SpdmId};
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit, invalid};
use crate::connect::keys::KeyPlan;
use crate::connect::marshal::MessagePages;
use crate::connect::session::{Body, SessionState, Task};
use crate::connect::stream::{Stream, StreamState};
use crate::connect::work::{Bench, Plan, Turn, Work};

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    let operation = KmOperation(regs.r8);
    // TDH.IDE.STREAM.KM-1
    if !matches!(operation, KmOperation::SETUP | KmOperation::REFRESH | KmOperation::STOP) {
        return Err(invalid(OperandId::R8));
    }
    // TDH.IDE.STREAM.KM-2
    let unknown = StatusCode::IDE_STREAM_INVALID_STATE;
    let session = connect.sessions.get(SpdmId(regs.rcx)).ok_or(unknown)?;
    let stream = call.stream(&session, regs.rdx)?.ok_or(unknown)?;
    check_state(&stream, operation)?;
    // TDH.IDE.STREAM.KM-13
    let pages = MessagePages::new(call, (OperandId::R9, regs.r9), (OperandId::R10, regs.r10))?;
    // What the next row looks at is behind the lock: who holds it answers for the row.
    let mut body = session.try_lock().ok_or(StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX))?;
    check_outstanding(&body, stream.facts.key.id, operation)?;
    // TDH.IDE.STREAM.KM-12
    call.check_session_lock(OperandId::RCX)?;
    let _stream = call.lock_stream(&stream, OperandId::RDX)?;
    check_state(&stream, operation)?;
    if session.state() != SessionState::Connected || !body.has_session() {
        return Err(unknown.into());
    }
    let turn = manage_keys(call, &mut body, &stream, operation, pages)?;
    Ok(match turn {
        // TDH.IDE.STREAM.KM-7
        Turn::Send(size) => {
            regs.rcx = size;
            StatusCode::SPDM_REQUEST.plain()
        }
        // TDH.IDE.STREAM.KM-10
        Turn::Refresh => StatusCode::SPDM_SESSION_KEY_REQUIRE_REFRESH.plain(),
        // TDH.IDE.STREAM.KM-11
        Turn::Interrupted => StatusCode::INTERRUPTED_RESUMABLE.plain(),
        Turn::Finished => Status::SUCCESS,
    })
}

fn check_state(stream: &Stream, operation: KmOperation) -> Result<(), Exit> {
    let fits = match stream.state() {
        StreamState::Configured => operation == KmOperation::SETUP,
        StreamState::Secure => {
            operation == KmOperation::STOP || operation == KmOperation::REFRESH && !stream.is_torn()
        }
        // TDH.IDE.STREAM.KM-3
        StreamState::Blocked => return Err(StatusCode::IDE_STREAM_BLOCKED.into()),
    };
    if fits { Ok(()) } else { Err(StatusCode::IDE_STREAM_INVALID_STATE.into()) }
}

/// The device has one message at a time.
fn check_outstanding(body: &Body, id: u8, operation: KmOperation) -> Result<(), Exit> {
    let task = Task::Keys(id);
    let Some(other) = body.in_flight() else { return Ok(()) };
    if other != task {
        return Err(StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX).into());
    }
    // TDH.IDE.STREAM.KM-5
    if is_of(body, task, operation) { Ok(()) } else { Err(StatusCode::IDE_STREAM_IDEKM_OUTREQ.into()) }
}

fn is_of(body: &Body, task: Task, operation: KmOperation) -> bool {
    body.works
        .get(&task)
        .is_some_and(|work| matches!(&work.plan, Plan::Keys(plan) if plan.operation == operation))
}

fn manage_keys(
    call: &Call<'_>,
    body: &mut Body,
    stream: &Arc<Stream>,
    operation: KmOperation,
    pages: MessagePages,
) -> Result<Turn, Exit> {
    let task = Task::Keys(stream.facts.key.id);
    if !is_of(body, task, operation) {
        // Another operation was left between two messages: nobody goes on with it.
        if let Some(Work { plan: Plan::Keys(plan), .. }) = body.works.remove(&task) {
            plan.abort(call);
            // A stream whose STOP was left has no keys to refresh.
            check_state(stream, operation)?;
        }
        let plan = KeyPlan::new(Arc::clone(stream), operation);
        // TDH.IDE.STREAM.KM-9
        plan.begin(call)?;
        body.works.insert(task, Work::new(Plan::Keys(Box::new(plan))));
    }
    let entropy = Arc::clone(&body.entropy);
    let bench = Bench { call, pages, entropy: &entropy, minds_keys: true };
    let ended = |work: &Work| {
        if let Plan::Keys(plan) = &work.plan {
            plan.abort(call);
        }
    };
    // TDH.IDE.STREAM.KM-6, TDH.IDE.STREAM.KM-8, TDH.IDE.STREAM.KM-9
    let turn = body.run(task, &bench, ended)?.ok_or(StatusCode::IDE_STREAM_INVALID_STATE)?;
    if turn == Turn::Finished
        && let Some(Work { plan: Plan::Keys(plan), .. }) = body.works.remove(&task)
    {
        plan.finish();
    }
    Ok(turn)
}
