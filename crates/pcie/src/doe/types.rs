use super::{DiscoveryResponse, ObjectType, VendorId};

/// The types that a mailbox takes, discovery first, as it answers a discovery with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupportedTypes {
    types: [ObjectType; Self::MAX],
    count: u8,
}

/// More types than a mailbox lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} types of data objects are more than a mailbox lists")]
pub struct TooManyTypes(pub usize);

impl SupportedTypes {
    /// Types of one mailbox at most, discovery included.
    pub const MAX: usize = 16;
    /// What a mailbox for SPDM takes: SPDM in the clear and secured.
    pub const SPDM: Self = {
        let mut types = [ObjectType::DISCOVERY; Self::MAX];
        types[1] = ObjectType::SPDM;
        types[2] = ObjectType::SECURED_SPDM;
        Self { types, count: 3 }
    };

    /// Discovery, which every mailbox takes, and then `types`.
    pub fn new(types: &[ObjectType]) -> Result<Self, TooManyTypes> {
        let mut supported = Self { types: [ObjectType::DISCOVERY; Self::MAX], count: 1 };
        let count = types.len().saturating_add(1);
        let places = supported.types.iter_mut().skip(1);
        if places.len() < types.len() {
            return Err(TooManyTypes(count));
        }
        places.zip(types).for_each(|(place, &object_type)| *place = object_type);
        supported.count = u8::try_from(count).map_err(|_| TooManyTypes(count))?;
        Ok(supported)
    }

    /// The types in the order of a discovery.
    pub fn as_slice(&self) -> &[ObjectType] {
        self.types.get(..usize::from(self.count)).unwrap_or(&self.types)
    }

    /// Whether the type is in the list.
    pub fn contains(&self, object_type: ObjectType) -> bool {
        self.as_slice().contains(&object_type)
    }

    /// The answer to a discovery of `index`; behind the last one it names no vendor.
    pub fn discover(&self, index: u8) -> DiscoveryResponse {
        let nobody = ObjectType { vendor: VendorId::NONE, kind: 0xff };
        let object_type = self.as_slice().get(usize::from(index)).copied().unwrap_or(nobody);
        let next = index.checked_add(1).filter(|&next| next < self.count).unwrap_or(0);
        DiscoveryResponse { object_type, next }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    #[test]
    fn discovery_lists_every_type_and_ends_with_index_0() {
        let types = SupportedTypes::new(&[ObjectType::SPDM, ObjectType::SECURED_SPDM]).unwrap();
        assert_eq!(types, SupportedTypes::SPDM);
        let expected = [(ObjectType::DISCOVERY, 1), (ObjectType::SPDM, 2), (ObjectType::SECURED_SPDM, 0)];
        for (index, (object_type, next)) in (0..).zip(expected) {
            assert_eq!(types.discover(index), DiscoveryResponse { object_type, next });
        }
    }

    #[test]
    fn an_index_behind_the_last_type_names_no_vendor_and_ends() {
        for index in [3, 4, 255] {
            let response = SupportedTypes::SPDM.discover(index);
            assert_eq!((response.object_type.vendor, response.next), (VendorId::NONE, 0));
        }
    }

    #[test]
    fn more_types_than_a_mailbox_lists_are_refused() {
        let types = vec![ObjectType::SPDM; 16];
        assert_eq!(SupportedTypes::new(&types[..15]).unwrap().as_slice().len(), 16);
        assert_eq!(SupportedTypes::new(&types), Err(TooManyTypes(17)));
    }
}
