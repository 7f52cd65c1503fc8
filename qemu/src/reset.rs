//! Resets of the guest, which QEMU does not report: they show in where a vCPU begins to execute.

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

impl Entrance {
    /// Judges what was seen there. The power-on looks like a reset.
    pub(crate) fn judge(self, sight: Sight) -> Option<Restart> {
        match self {
            _ if !sight.real_mode => None,
            Self::Reset => (sight.vcpu == BOOT_VCPU).then_some(Restart::Machine),
            // A start-up IPI loads CS with the page and IP with 0. The boot vCPU runs firmware at
            // such addresses, and gets no IPI.
            Self::Startup => {
                let started = sight.vcpu != BOOT_VCPU && sight.ip == 0 && sight.cs.is_multiple_of(PAGE >> 4);
                started.then_some(Restart::Vcpu)
            }
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
    fn the_boot_vcpu_at_the_reset_vector_is_a_reset() {
        let at_vector = |vcpu| Sight { cs: 0xF000, ip: 0xFFF0, ..sight(vcpu) };
        assert_eq!(Entrance::Reset.judge(at_vector(0)), Some(Restart::Machine));
        assert_eq!(Entrance::Reset.judge(at_vector(1)), None);
    }

    #[test]
    fn code_of_the_kernel_at_the_same_address_is_no_reset() {
        assert_eq!(Entrance::Reset.judge(Sight { real_mode: false, ..sight(0) }), None);
        assert_eq!(Entrance::Startup.judge(Sight { real_mode: false, ..sight(1) }), None);
    }

    #[test]
    fn a_start_up_ipi_starts_at_offset_0_of_its_page_and_never_the_boot_vcpu() {
        assert_eq!(Entrance::Startup.judge(sight(3)), Some(Restart::Vcpu));
        assert_eq!(Entrance::Startup.judge(sight(0)), None);
        assert_eq!(Entrance::Startup.judge(Sight { ip: 0x1000, ..sight(3) }), None);
        assert_eq!(Entrance::Startup.judge(Sight { cs: 0x9A10, ..sight(3) }), None);
    }
}
