use crate::address::{Bdf, BusAddress};

/// Why an association has no registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssociationError {
    /// The last one lies below the first one.
    #[error("the association ends at {last:#x}, below its start {first:#x}")]
    Inverted {
        /// First routing id or address.
        first: u64,
        /// Last one.
        last: u64,
    },
    /// Addresses are associated by the MiB.
    #[error("addresses {first:#x} to {last:#x} are not whole MiB")]
    Granularity {
        /// First address.
        first: u64,
        /// Last one.
        last: u64,
    },
}

/// The functions whose TLPs belong to a selective stream: RID association registers 1 and 2.
///
/// Register 1: last routing id 23:8. Register 2: valid 0, first routing id 23:8, segment 31:24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RidAssociation {
    first: Bdf,
    last: Bdf,
    segment: u8,
}

impl RidAssociation {
    /// From `first` to `last`, both included. The segment counts in flit mode only and is 0 else.
    pub const fn new(first: Bdf, last: Bdf, segment: u8) -> Result<Self, AssociationError> {
        let (from, to) = (first.routing_id(), last.routing_id());
        if to < from {
            return Err(AssociationError::Inverted { first: from as u64, last: to as u64 });
        }
        Ok(Self { first, last, segment })
    }

    /// From the lower one of two functions to the other, both included.
    pub fn between(one: Bdf, other: Bdf, segment: u8) -> Self {
        Self { first: one.min(other), last: one.max(other), segment }
    }

    /// Reads the registers; `None` if they are not valid.
    pub const fn decode(registers: [u32; 2]) -> Option<Self> {
        let [one, two] = registers;
        if two & 1 == 0 {
            return None;
        }
        let last = Bdf::from_routing_id((one >> 8 & 0xffff) as u16);
        let first = Bdf::from_routing_id((two >> 8 & 0xffff) as u16);
        Some(Self { first, last, segment: (two >> 24) as u8 })
    }

    /// The registers.
    pub const fn encode(self) -> [u32; 2] {
        let (first, last) = (self.first.routing_id() as u32, self.last.routing_id() as u32);
        [last << 8, (self.segment as u32) << 24 | first << 8 | 1]
    }

    /// First function.
    pub const fn first(self) -> Bdf {
        self.first
    }

    /// Last function.
    pub const fn last(self) -> Bdf {
        self.last
    }

    /// Segment, as the register has it.
    pub const fn segment(self) -> u8 {
        self.segment
    }

    /// Whether TLPs of `function` belong to the stream. Nothing does when registers were written with the
    /// last one below the first one.
    pub fn contains(self, function: Bdf) -> bool {
        (self.first..=self.last).contains(&function)
    }
}

const MIB: u64 = 1 << 20;

/// Addresses whose requests belong to a selective stream: an address association block of three
/// registers.
///
/// Register 1: valid 0, bits 31:20 of the first address in 19:8 and of the last one in 31:20. Register 2:
/// upper half of the last address. Register 3: upper half of the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressAssociation {
    /// In MiB.
    first: u64,
    last: u64,
}

impl AddressAssociation {
    /// From `first` to `last`, both included: whole MiB.
    pub const fn new(first: BusAddress, last: BusAddress) -> Result<Self, AssociationError> {
        let (first, last) = (first.0, last.0);
        if last < first {
            return Err(AssociationError::Inverted { first, last });
        }
        if !first.is_multiple_of(MIB) || last % MIB != MIB - 1 {
            return Err(AssociationError::Granularity { first, last });
        }
        Ok(Self { first: first / MIB, last: last / MIB })
    }

    /// Reads the registers; `None` if they are not valid.
    pub const fn decode(registers: [u32; 3]) -> Option<Self> {
        let [one, two, three] = registers;
        if one & 1 == 0 {
            return None;
        }
        let first = (three as u64) << 12 | (one >> 8 & 0xfff) as u64;
        Some(Self { first, last: (two as u64) << 12 | (one >> 20) as u64 })
    }

    /// The registers.
    pub fn encode(self) -> [u32; 3] {
        let (first, last) = ((self.first & 0xfff) as u32, (self.last & 0xfff) as u32);
        let upper = |mib: u64| (mib >> 12 & 0xffff_ffff) as u32;
        [last << 20 | first << 8 | 1, upper(self.last), upper(self.first)]
    }

    /// First address.
    pub const fn first(self) -> BusAddress {
        BusAddress(self.first * MIB)
    }

    /// Last address.
    pub const fn last(self) -> BusAddress {
        BusAddress(self.last * MIB + (MIB - 1))
    }

    /// Whether requests to `address` belong to the stream.
    pub fn contains(self, address: BusAddress) -> bool {
        (self.first..=self.last).contains(&(address.0 / MIB))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    #[test]
    fn routing_ids_are_at_their_places() {
        let association = RidAssociation::new(bdf("3b:00.0"), bdf("3b:01.7"), 2).unwrap();
        assert_eq!(association.encode(), [0x003b_0f00, 0x023b_0001]);
        assert_eq!(RidAssociation::decode([0x003b_0f00, 0x023b_0001]), Some(association));
        assert_eq!(RidAssociation::decode([0x003b_0f00, 0x023b_0000]), None);
    }

    #[test]
    fn functions_from_the_first_to_the_last_belong_to_the_stream() {
        let association = RidAssociation::new(bdf("3b:00.1"), bdf("3b:01.0"), 0).unwrap();
        for (function, belongs) in
            [("3b:00.0", false), ("3b:00.1", true), ("3b:01.0", true), ("3b:01.1", false)]
        {
            assert_eq!(association.contains(bdf(function)), belongs, "{function}");
        }
        assert!(RidAssociation::new(bdf("3b:00.1"), bdf("3b:00.1"), 0).is_ok());
        let inverted = AssociationError::Inverted { first: 0x3b01, last: 0x3b00 };
        assert_eq!(RidAssociation::new(bdf("3b:00.1"), bdf("3b:00.0"), 0), Err(inverted));
    }

    #[test]
    fn two_functions_are_put_in_order() {
        let (one, other) = (bdf("3b:00.0"), bdf("3b:01.7"));
        for association in [RidAssociation::between(one, other, 2), RidAssociation::between(other, one, 2)] {
            assert_eq!(Ok(association), RidAssociation::new(one, other, 2));
        }
        assert_eq!(Ok(RidAssociation::between(one, one, 0)), RidAssociation::new(one, one, 0));
    }

    #[test]
    fn nothing_belongs_to_registers_that_are_inverted() {
        let association = RidAssociation::decode([0, 0x0000_0101]).unwrap();
        assert!(!association.contains(Bdf::from_routing_id(0)));
        assert!(!association.contains(Bdf::from_routing_id(1)));
    }

    #[test]
    fn addresses_are_at_their_places() {
        let first = BusAddress(0x0000_0020_1230_0000);
        let last = BusAddress(0x0000_0021_456f_ffff);
        let association = AddressAssociation::new(first, last).unwrap();
        assert_eq!(association.encode(), [0x4561_2301, 0x21, 0x20]);
        assert_eq!(AddressAssociation::decode([0x4561_2301, 0x21, 0x20]), Some(association));
        assert_eq!(AddressAssociation::decode([0x4561_2300, 0x21, 0x20]), None);
        assert_eq!((association.first(), association.last()), (first, last));
    }

    #[test]
    fn addresses_are_whole_mebibytes_in_order() {
        let mib = |count: u64| BusAddress(count << 20);
        let end = |count: u64| BusAddress((count << 20) - 1);
        let association = AddressAssociation::new(mib(2), end(3)).unwrap();
        for (address, belongs) in [(end(2), false), (mib(2), true), (end(3), true), (mib(3), false)] {
            assert_eq!(association.contains(address), belongs, "{address}");
        }
        assert!(AddressAssociation::new(mib(0), BusAddress(u64::MAX)).is_ok());
        for (first, last) in
            [(BusAddress((2 << 20) + 1), end(3)), (mib(2), mib(3)), (mib(2), BusAddress((3 << 20) - 2))]
        {
            let error = AssociationError::Granularity { first: first.0, last: last.0 };
            assert_eq!(AddressAssociation::new(first, last), Err(error));
        }
        let inverted = AssociationError::Inverted { first: 2 << 20, last: (1 << 20) - 1 };
        assert_eq!(AddressAssociation::new(mib(2), end(1)), Err(inverted));
    }

    proptest! {
        #[test]
        fn registers_that_are_valid_are_written_as_they_were_read(rid: [u32; 2], address: [u32; 3]) {
            let rid = [rid[0] & 0x00ff_ff00, rid[1] & 0xffff_ff01];
            let address = [address[0] & 0xffff_ff01, address[1], address[2]];
            if let Some(association) = RidAssociation::decode(rid) {
                prop_assert_eq!(association.encode(), rid);
            }
            if let Some(association) = AddressAssociation::decode(address) {
                prop_assert_eq!(association.encode(), address);
                prop_assert!(association.last().0 % MIB == MIB - 1);
            }
        }
    }
}
