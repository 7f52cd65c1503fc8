//! Resets of the guest, which QEMU does not report: they show in where a vCPU begins to execute.

use std::sync::atomic::{AtomicBool, Ordering};

/// Where a processor begins after a reset.
const RESET_VECTOR: u64 = 0xFFFF_FFF0;
/// Below it, the pages at which a start-up IPI can start a processor.
const STARTUP_END: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;
/// The vCPU that begins at the reset vector; the others wait for a start-up IPI.
const BOOT_VCPU: u32 = 0;

/// How a vCPU may have come to an instruction, as its address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// The reset vector.
    Reset,
    /// A page that a start-up IPI can name.
    Startup,
}

impl Entrance {
    /// What the first instruction of a block may be; almost always nothing.
    pub(crate) fn at(address: u64) -> Option<Self> {
        if address == RESET_VECTOR {
            Some(Self::Reset)
        } else if address < STARTUP_END && address.is_multiple_of(PAGE) {
            Some(Self::Startup)
        } else {
            None
        }
    }
}

/// What a vCPU shows at an entrance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) vcpu: u32,
    pub(crate) real_mode: bool,
    /// The selector of CS.
    pub(crate) cs: u64,
    /// The instruction pointer.
    pub(crate) ip: u64,
}

/// What happened to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// The whole machine was reset.
    Machine,
    /// One vCPU was started by INIT and a start-up IPI.
    Vcpu,
}

/// Tells resets from the power-on before them.
#[derive(Debug, Default)]
pub(crate) struct Resets {
    powered_on: AtomicBool,
}

impl Resets {
    /// Judges what was seen at an entrance.
    pub(crate) fn judge(&self, entrance: Entrance, sight: Sight) -> Option<Restart> {
        if !sight.real_mode {
            return None;
        }
        match entrance {
            Entrance::Reset if sight.vcpu == BOOT_VCPU => {
                self.powered_on.swap(true, Ordering::Relaxed).then_some(Restart::Machine)
            }
            // A start-up IPI loads CS with the page and IP with 0. The boot vCPU runs firmware at
            // such addresses, and gets no IPI.
            Entrance::Startup
                if sight.vcpu != BOOT_VCPU && sight.ip == 0 && sight.cs.is_multiple_of(PAGE >> 4) =>
            {
                Some(Restart::Vcpu)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(vcpu: u32) -> Sight {
        Sight { vcpu, real_mode: true, cs: 0x9A00, ip: 0 }
    }

    #[test]
    fn only_the_reset_vector_and_low_pages_are_entrances() {
        for (address, entrance) in [
            (0xFFFF_FFF0, Some(Entrance::Reset)),
            (0x9_A000, Some(Entrance::Startup)),
            (0, Some(Entrance::Startup)),
            (0x9_A010, None),
            (0x10_0000, None),
            (0xffff_ffff_8100_0000, None),
        ] {
            assert_eq!(Entrance::at(address), entrance, "{address:#x}");
        }
    }

    #[test]
    fn the_first_time_at_the_reset_vector_is_the_power_on() {
        let resets = Resets::default();
        let at_vector = Sight { cs: 0xF000, ip: 0xFFF0, ..sight(0) };
        assert_eq!(resets.judge(Entrance::Reset, at_vector), None);
        assert_eq!(resets.judge(Entrance::Reset, at_vector), Some(Restart::Machine));
        assert_eq!(resets.judge(Entrance::Reset, at_vector), Some(Restart::Machine));
    }

    #[test]
    fn code_of_the_kernel_at_the_same_address_is_no_reset() {
        let resets = Resets::default();
        let protected = Sight { real_mode: false, ..sight(0) };
        for _ in 0..2 {
            assert_eq!(resets.judge(Entrance::Reset, protected), None);
        }
        assert_eq!(resets.judge(Entrance::Startup, Sight { real_mode: false, ..sight(1) }), None);
    }

    #[test]
    fn a_start_up_ipi_starts_at_offset_0_of_its_page_and_never_the_boot_vcpu() {
        let resets = Resets::default();
        assert_eq!(resets.judge(Entrance::Startup, sight(3)), Some(Restart::Vcpu));
        assert_eq!(resets.judge(Entrance::Startup, sight(0)), None);
        assert_eq!(resets.judge(Entrance::Startup, Sight { ip: 0x1000, ..sight(3) }), None);
        assert_eq!(resets.judge(Entrance::Startup, Sight { cs: 0x9A10, ..sight(3) }), None);
    }
}
