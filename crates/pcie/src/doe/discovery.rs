use super::{ObjectError, ObjectType};

/// DOE discovery, request: index in bits 7:0, version in 15:8 of one dword.
///
/// A host puts 2 into the version when the extended capability has at least version 2, else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoveryRequest {
    /// Which entry of the device's list, from 0.
    pub index: u8,
    /// Version of the protocol.
    pub version: u8,
}

impl DiscoveryRequest {
    /// The dword.
    pub const fn encode(self) -> u32 {
        (self.version as u32) << 8 | self.index as u32
    }

    /// Reads the dword; reserved bits must be 0.
    pub const fn decode(dword: u32) -> Result<Self, ObjectError> {
        let [index, version, ..] = dword.to_le_bytes();
        if dword >> 16 != 0 {
            return Err(ObjectError::Reserved { dword: 2, bits: dword & 0xffff_0000 });
        }
        Ok(Self { index, version })
    }
}

/// DOE discovery, response: vendor in bits 15:0, type in 23:16, next index in 31:24 of one dword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoveryResponse {
    /// A type that the mailbox takes.
    pub object_type: ObjectType,
    /// Index of the next entry; 0 behind the last.
    pub next: u8,
}

impl DiscoveryResponse {
    /// The dword.
    pub const fn encode(self) -> u32 {
        (self.next as u32) << 24 | self.object_type.to_bits()
    }

    /// Reads the dword. Every value is a response.
    pub const fn decode(dword: u32) -> Self {
        Self { object_type: ObjectType::from_bits(dword), next: dword.to_le_bytes()[3] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_index_and_version() {
        let request = DiscoveryRequest { index: 3, version: 2 };
        assert_eq!(request.encode(), 0x203);
        assert_eq!(DiscoveryRequest::decode(0x203), Ok(request));
        let error = ObjectError::Reserved { dword: 2, bits: 0x0001_0000 };
        assert_eq!(DiscoveryRequest::decode(0x1_0003), Err(error));
    }

    #[test]
    fn a_response_has_type_and_next_index() {
        let response = DiscoveryResponse { object_type: ObjectType::SECURED_SPDM, next: 7 };
        assert_eq!(response.encode(), 0x0702_0001);
        assert_eq!(DiscoveryResponse::decode(0x0702_0001), response);
    }
}
