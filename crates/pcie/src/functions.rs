//! The functions of a device under one DSM: physical functions, and the virtual ones that their SR-IOV
//! registers say are there.
//!
//! The DSM of a device answers in function 0. It manages every physical function of the device and their
//! virtual functions; what those are is read from the registers each time, because a host changes it.

use crate::address::Bdf;
use crate::cap::SrIovRegisters;

/// A physical function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalFunction {
    /// Where it is.
    pub bdf: Bdf,
    /// Its SR-IOV registers, if it has them.
    pub virtual_functions: Option<SrIovRegisters>,
}

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// A physical function.
    Physical,
    /// Virtual function `index`, counted from 0, of a physical one.
    Virtual {
        /// The physical function.
        physical: Bdf,
        /// Its number.
        index: u16,
    },
}

/// Why functions are no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FunctionsError {
    /// There is none.
    #[error("a device has at least one function")]
    Empty,
    /// The first one is not number 0.
    #[error("{0} is not function 0, in which the DSM answers")]
    NotFunction0(Bdf),
    /// A physical function belongs to another device.
    #[error("{function} is no function of the device of {first}")]
    OtherDevice {
        /// Function 0.
        first: Bdf,
        /// The function.
        function: Bdf,
    },
    /// A function is there twice.
    #[error("{0} is there twice")]
    Twice(Bdf),
    /// A virtual function would lie beyond the last bus.
    #[error("virtual function {index} of {physical} lies beyond the last bus")]
    BeyondLastBus {
        /// The physical function.
        physical: Bdf,
        /// Number of the virtual one.
        index: u16,
    },
}

/// The functions of one device, which one DSM manages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFunctions<'a> {
    physical: &'a [PhysicalFunction],
}

impl<'a> DeviceFunctions<'a> {
    /// The device of these physical functions, function 0 first. With `ari` their numbers have 8 bits.
    pub fn new(physical: &'a [PhysicalFunction], ari: bool) -> Result<Self, FunctionsError> {
        let first = physical.first().ok_or(FunctionsError::Empty)?.bdf;
        let device_bits: u16 = if ari { 0xff00 } else { 0xfff8 };
        if first.routing_id() & !device_bits != 0 {
            return Err(FunctionsError::NotFunction0(first));
        }
        let device = Self { physical };
        for (place, function) in physical.iter().enumerate() {
            if (function.bdf.routing_id() ^ first.routing_id()) & device_bits != 0 {
                return Err(FunctionsError::OtherDevice { first, function: function.bdf });
            }
            if physical.iter().take(place).any(|other| other.bdf == function.bdf) {
                return Err(FunctionsError::Twice(function.bdf));
            }
            device.check_virtual(place, function)?;
        }
        Ok(device)
    }

    /// The virtual functions of the physical one at `place`: inside the segment, and none of the others.
    fn check_virtual(&self, place: usize, function: &PhysicalFunction) -> Result<(), FunctionsError> {
        let physical = function.bdf;
        let Some(registers) = function.virtual_functions else { return Ok(()) };
        let Some(last) = registers.count().checked_sub(1) else { return Ok(()) };
        if registers.virtual_function(physical, last).is_none() {
            let beyond = (0..=last).find(|&index| registers.virtual_function(physical, index).is_none());
            return Err(FunctionsError::BeyondLastBus { physical, index: beyond.unwrap_or(last) });
        }
        if registers.stride == 0 && last > 0 || registers.first_offset == 0 {
            return Err(FunctionsError::Twice(registers.virtual_function(physical, 0).unwrap_or(physical)));
        }
        for bdf in virtual_functions(function) {
            let is_physical = self.physical.iter().any(|other| other.bdf == bdf);
            let before = self.physical.iter().take(place);
            if is_physical || before.copied().any(|other| virtual_index(&other, bdf).is_some()) {
                return Err(FunctionsError::Twice(bdf));
            }
        }
        Ok(())
    }

    /// The function in which the DSM answers.
    pub fn dsm(&self) -> Bdf {
        self.physical.first().map_or(Bdf::default(), |function| function.bdf)
    }

    /// The physical functions.
    pub const fn physical(&self) -> &'a [PhysicalFunction] {
        self.physical
    }

    /// Every function that is there now: each physical one, followed by its virtual ones.
    pub fn iter(&self) -> impl Iterator<Item = (Bdf, FunctionKind)> + use<'a> {
        self.physical.iter().flat_map(|function| {
            let physical = function.bdf;
            let own = core::iter::once((physical, FunctionKind::Physical));
            let kinds = (0..).map(move |index| FunctionKind::Virtual { physical, index });
            own.chain(virtual_functions(function).zip(kinds))
        })
    }

    /// What `function` is; `None` if it is not there, or no function of this device.
    pub fn kind(&self, function: Bdf) -> Option<FunctionKind> {
        self.physical.iter().find_map(|own| {
            if own.bdf == function {
                return Some(FunctionKind::Physical);
            }
            let index = virtual_index(own, function)?;
            Some(FunctionKind::Virtual { physical: own.bdf, index })
        })
    }

    /// The highest routing id of the device, as the RID association of its streams wants it.
    pub fn last(&self) -> Bdf {
        self.iter().map(|(bdf, _)| bdf).max().unwrap_or_else(|| self.dsm())
    }
}

fn virtual_functions(function: &PhysicalFunction) -> impl Iterator<Item = Bdf> + use<> {
    let PhysicalFunction { bdf, virtual_functions } = *function;
    let count = virtual_functions.map_or(0, |registers| registers.count());
    (0..count).map_while(move |index| {
        virtual_functions.and_then(|registers| registers.virtual_function(bdf, index))
    })
}

fn virtual_index(function: &PhysicalFunction, bdf: Bdf) -> Option<u16> {
    function.virtual_functions?.index_of(function.bdf, bdf)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    const fn registers(number: u16, first_offset: u16, stride: u16) -> SrIovRegisters {
        SrIovRegisters {
            enabled: true,
            memory_enabled: false,
            total: 0xffff,
            number,
            first_offset,
            stride,
            device: 0,
        }
    }

    fn plain(text: &str) -> PhysicalFunction {
        PhysicalFunction { bdf: bdf(text), virtual_functions: None }
    }

    fn with(text: &str, registers: SrIovRegisters) -> PhysicalFunction {
        PhysicalFunction { bdf: bdf(text), virtual_functions: Some(registers) }
    }

    #[test]
    fn physical_functions_and_their_virtual_ones_are_under_one_dsm() {
        let functions =
            [with("3b:00.0", registers(2, 8, 2)), with("3b:00.1", registers(2, 8, 2)), plain("3b:00.4")];
        let device = DeviceFunctions::new(&functions, false).unwrap();
        let found: Vec<_> = device.iter().map(|(bdf, _)| bdf).collect();
        let expected = ["3b:00.0", "3b:01.0", "3b:01.2", "3b:00.1", "3b:01.1", "3b:01.3", "3b:00.4"].map(bdf);
        assert_eq!(found, expected);
        assert_eq!((device.dsm(), device.last()), (bdf("3b:00.0"), bdf("3b:01.3")));
        let virtual_function = FunctionKind::Virtual { physical: bdf("3b:00.1"), index: 1 };
        assert_eq!(device.kind(bdf("3b:01.3")), Some(virtual_function));
        assert_eq!(device.kind(bdf("3b:00.4")), Some(FunctionKind::Physical));
        for stranger in ["3b:00.2", "3b:01.4", "3c:00.0"] {
            assert_eq!(device.kind(bdf(stranger)), None, "{stranger}");
        }
    }

    #[test]
    fn virtual_functions_that_are_not_enabled_are_not_there() {
        let off = SrIovRegisters { enabled: false, ..registers(2, 8, 2) };
        let functions = [with("3b:00.0", off)];
        let device = DeviceFunctions::new(&functions, false).unwrap();
        assert_eq!(device.iter().collect::<Vec<_>>(), [(bdf("3b:00.0"), FunctionKind::Physical)]);
        assert_eq!(device.kind(bdf("3b:01.0")), None);
    }

    #[test]
    fn function_numbers_have_8_bits_with_ari() {
        let functions = [plain("3b:00.0"), plain("3b:01.1")];
        assert!(DeviceFunctions::new(&functions, true).is_ok());
        let error = FunctionsError::OtherDevice { first: bdf("3b:00.0"), function: bdf("3b:01.1") };
        assert_eq!(DeviceFunctions::new(&functions, false), Err(error));
        let functions = [plain("3b:01.0")];
        assert!(DeviceFunctions::new(&functions, false).is_ok());
        assert_eq!(DeviceFunctions::new(&functions, true), Err(FunctionsError::NotFunction0(bdf("3b:01.0"))));
    }

    #[test]
    fn functions_that_are_no_device_are_refused() {
        let zero = "3b:00.0";
        for (functions, error) in [
            (vec![], FunctionsError::Empty),
            (vec![plain("3b:00.1")], FunctionsError::NotFunction0(bdf("3b:00.1"))),
            (
                vec![plain(zero), plain("3c:00.1")],
                FunctionsError::OtherDevice { first: bdf(zero), function: bdf("3c:00.1") },
            ),
            (vec![plain(zero), plain(zero)], FunctionsError::Twice(bdf(zero))),
            (vec![with(zero, registers(1, 1, 1)), plain("3b:00.1")], FunctionsError::Twice(bdf("3b:00.1"))),
            (
                vec![with(zero, registers(2, 8, 1)), with("3b:00.1", registers(1, 8, 1))],
                FunctionsError::Twice(bdf("3b:01.1")),
            ),
            (vec![with(zero, registers(2, 8, 0))], FunctionsError::Twice(bdf("3b:01.0"))),
            (vec![with(zero, registers(1, 0, 1))], FunctionsError::Twice(bdf(zero))),
            (
                vec![with("ff:00.0", registers(3, 0xfe, 1))],
                FunctionsError::BeyondLastBus { physical: bdf("ff:00.0"), index: 2 },
            ),
        ] {
            assert_eq!(DeviceFunctions::new(&functions, false), Err(error));
        }
        assert!(DeviceFunctions::new(&[with("ff:00.0", registers(2, 0xfe, 1))], false).is_ok());
    }

    proptest! {
        #[test]
        fn every_function_that_is_there_is_known_once(
            list in prop::collection::vec((0u8..8, prop::option::of((0u16..40, 0u16..300, 0u16..9))), 1..4), bus: u8,
        ) {
            let functions: Vec<_> = list
                .iter()
                .enumerate()
                .map(|(place, &(number, sriov))| PhysicalFunction {
                    bdf: Bdf::from_ari(bus, if place == 0 { 0 } else { number }),
                    virtual_functions: sriov.map(|(number, offset, stride)| registers(number, offset, stride)),
                })
                .collect();
            if let Ok(device) = DeviceFunctions::new(&functions, false) {
                let mut all: Vec<_> = device.iter().collect();
                for &(bdf, kind) in &all {
                    prop_assert_eq!(device.kind(bdf), Some(kind));
                    prop_assert!(bdf <= device.last());
                }
                let count = all.len();
                all.sort_by_key(|&(bdf, _)| bdf);
                all.dedup_by_key(|&mut (bdf, _)| bdf);
                prop_assert_eq!(all.len(), count);
            }
        }
    }
}
