//! Pages that a caller hands over with each call, and the messages in them.
//!
//! The out page gets one complete data object, zeros behind it. What stands in the in page is read once
//! and believed in nothing.

use pcie::doe::{Header, Object, ObjectType};
use spdm::Kind;
use spdm::requester::Outgoing;
use tdx_abi::connect::MESSAGE_PAGE;
use tdx_abi::connect::refusal::{Refusal, RefusalReason};
use tdx_abi::status::OperandId;
use tdx_abi::{KeyId, PhysAddr};

use crate::call::{Call, Exit};

impl Call<'_> {
    /// The pages of an output array: each of them the host's.
    pub(crate) fn host_array(&self, raw: u64, operand: OperandId) -> Result<Vec<PhysAddr>, Exit> {
        let pages = self.page_array(raw, operand)?;
        pages.into_iter().map(|page| self.host_page(page.as_u64(), operand)).collect()
    }
}

/// The two message pages of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessagePages {
    answer: PhysAddr,
    request: PhysAddr,
}

/// An object that came from the device.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) kind: Kind,
    /// The padding is still on it.
    pub(crate) payload: Vec<u8>,
}

/// The in page holds no data object of SPDM.
const BAD_OBJECT: Refusal = Refusal { reason: RefusalReason::BAD_OBJECT, request: 0 };

impl MessagePages {
    /// The in page and the out page.
    pub(crate) fn new(
        call: &Call<'_>,
        answer: (OperandId, u64),
        request: (OperandId, u64),
    ) -> Result<Self, Exit> {
        Ok(Self {
            answer: call.host_page(answer.1, answer.0)?,
            request: call.host_page(request.1, request.0)?,
        })
    }

    /// What the in page holds.
    pub(crate) fn take(self, call: &Call<'_>) -> Result<Result<Incoming, Refusal>, Exit> {
        let mut header = [0; Header::BYTES];
        call.hw.read(self.answer, KeyId::TME, &mut header)?;
        let Ok(header) = Header::from_bytes(header) else { return Ok(Err(BAD_OBJECT)) };
        let kind = match header.object_type {
            ObjectType::SPDM => Kind::Clear,
            ObjectType::SECURED_SPDM => Kind::Secured,
            _ => return Ok(Err(BAD_OBJECT)),
        };
        let size = header.length.payload_bytes();
        if size > MESSAGE_PAGE - Header::BYTES {
            return Ok(Err(BAD_OBJECT));
        }
        let mut payload = vec![0; size];
        if let Some(start) = self.answer.checked_add(Header::BYTES as u64).filter(|_| !payload.is_empty()) {
            call.hw.read(start, KeyId::TME, &mut payload)?;
        }
        Ok(Ok(Incoming { kind, payload }))
    }

    /// Puts an object into the out page and says how many bytes it has; `None` if it does not fit.
    pub(crate) fn post(self, call: &Call<'_>, out: &Outgoing) -> Option<u64> {
        let object_type = match out.kind {
            Kind::Clear => ObjectType::SPDM,
            Kind::Secured => ObjectType::SECURED_SPDM,
        };
        let mut page = [0; MESSAGE_PAGE];
        let size = Object { object_type, payload: &out.payload }.write(&mut page).ok()?;
        call.hw.write(self.request, KeyId::TME, &page);
        u64::try_from(size).ok()
    }
}
