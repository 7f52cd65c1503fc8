//! Registers that only SEAM mode may write.

use parking_lot::RwLock;
use pcie::FunctionId;
use tdx_abi::PhysRange;

/// Who accesses a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An LP outside SEAM mode.
    Host,
    /// An LP in SEAM mode.
    Seam,
}

/// Bytes of a function's configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConfigBytes {
    function: FunctionId,
    start: u16,
    /// First byte behind.
    end: u16,
}

impl ConfigBytes {
    fn new(function: FunctionId, offset: u16, length: u16) -> Self {
        Self { function, start: offset, end: offset.saturating_add(length) }
    }

    fn overlaps(self, other: Self) -> bool {
        self.function == other.function && self.start < other.end && other.start < self.end
    }
}

/// What SEAM mode keeps for itself. Nothing at power-on.
#[derive(Debug, Default)]
pub(crate) struct Protection {
    memory: RwLock<Vec<PhysRange>>,
    config: RwLock<Vec<ConfigBytes>>,
}

impl Protection {
    /// Protects memory-mapped registers or gives them back. What is protected twice is free after
    /// giving it back once: there is one module, which knows what it protects.
    pub(crate) fn protect(&self, range: PhysRange, protected: bool) {
        let mut ranges = self.memory.write();
        // What lies beside a part that is given back stays protected.
        let rest: Vec<_> = ranges
            .drain(..)
            .flat_map(|old| {
                let before = PhysRange::new(old.start(), old.end().min(range.start()));
                let behind = PhysRange::new(old.start().max(range.end()), old.end());
                [before, behind]
            })
            .flatten()
            .filter(|piece| !piece.is_empty())
            .collect();
        *ranges = rest;
        if protected {
            ranges.push(range);
        }
    }

    /// Protects configuration space or gives it back.
    pub(crate) fn protect_config(&self, function: FunctionId, offset: u16, length: u16, protected: bool) {
        let bytes = ConfigBytes::new(function, offset, length);
        let mut all = self.config.write();
        let rest: Vec<_> = all
            .drain(..)
            .flat_map(|old| {
                let beside = [(old.start, old.end.min(bytes.start)), (old.start.max(bytes.end), old.end)];
                let pieces = beside.map(|(start, end)| ConfigBytes { start, end, ..old });
                if old.function == function { pieces.to_vec() } else { vec![old] }
            })
            .filter(|piece| piece.start < piece.end)
            .collect();
        *all = rest;
        if protected {
            all.push(bytes);
        }
    }

    /// Whether a write outside SEAM mode to any byte of a range is dropped.
    pub(crate) fn covers(&self, range: PhysRange) -> bool {
        self.memory.read().iter().any(|protected| protected.overlaps(range))
    }

    /// The same for configuration space.
    pub(crate) fn covers_config(&self, function: FunctionId, offset: u16, length: u16) -> bool {
        let bytes = ConfigBytes::new(function, offset, length);
        self.config.read().iter().any(|protected| protected.overlaps(bytes))
    }

    /// Power is cycled.
    pub(crate) fn reset(&self) {
        self.memory.write().clear();
        self.config.write().clear();
    }
}

#[cfg(test)]
mod tests {
    use pcie::{Bdf, Segment};
    use tdx_abi::PhysAddr;

    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).expect("ascending")
    }

    #[test]
    fn a_part_that_is_given_back_is_free_and_the_rest_is_not() {
        let protection = Protection::default();
        protection.protect(range(0x1000, 0x4000), true);
        protection.protect(range(0x2000, 0x3000), false);
        for (start, end, expected) in [
            (0xff8, 0x1000, false),
            (0xff8, 0x1001, true),
            (0x1ff8, 0x2000, true),
            (0x2000, 0x3000, false),
            (0x2ffc, 0x3004, true),
            (0x3ff8, 0x4000, true),
            (0x4000, 0x4008, false),
        ] {
            assert_eq!(protection.covers(range(start, end)), expected, "{start:#x}");
        }
        protection.reset();
        assert!(!protection.covers(range(0, u64::MAX)));
    }

    #[test]
    fn protection_twice_ends_with_giving_back_once() {
        let protection = Protection::default();
        protection.protect(range(0x1000, 0x2000), true);
        protection.protect(range(0x1000, 0x2000), true);
        protection.protect(range(0x1000, 0x2000), false);
        assert!(!protection.covers(range(0x1000, 0x2000)));
    }

    #[test]
    fn configuration_space_is_protected_by_function_and_byte() {
        let function = |bus| FunctionId::new(Segment(1), Bdf::new(bus, 1, 0).expect("a function"));
        let protection = Protection::default();
        protection.protect_config(function(3), 0x200, 32, true);
        for (bus, offset, expected) in
            [(3, 0x1fc, false), (3, 0x1fd, true), (3, 0x21c, true), (3, 0x220, false), (4, 0x200, false)]
        {
            assert_eq!(protection.covers_config(function(bus), offset, 4), expected, "{bus} {offset:#x}");
        }
        protection.protect_config(function(4), 0x200, 32, false);
        assert!(protection.covers_config(function(3), 0x200, 4));
        protection.protect_config(function(3), 0x204, 4, false);
        assert!(protection.covers_config(function(3), 0x200, 4));
        assert!(!protection.covers_config(function(3), 0x204, 4));
        assert!(protection.covers_config(function(3), 0x208, 24));
        protection.reset();
        assert!(!protection.covers_config(function(3), 0, u16::MAX));
    }
}
