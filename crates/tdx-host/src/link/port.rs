//! The root port above a device as the way to reset it.

use core::time::Duration;

use pcie::FunctionId;
use pcie::config::{ReadConfig, offset};

use crate::traits::PciBus;
use crate::tsm::Config;

/// Bridge control register, in the dword of the interrupt registers: secondary bus reset.
const BUS_RESET: u32 = 1 << 22;
/// How long a reset has to last.
const RESET_TIME: Duration = Duration::from_millis(2);
/// Before this nobody may be asked.
const SETTLE_TIME: Duration = Duration::from_millis(100);
/// How long a function may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Registers of a function that software has set, as far as a reset clears them.
const KEPT: [u16; 8] = [
    offset::BAR,
    offset::BAR + 0x04,
    offset::BAR + 0x08,
    offset::BAR + 0x0c,
    offset::BAR + 0x10,
    offset::BAR + 0x14,
    offset::INTERRUPT,
    // Last: memory is answered for only where it was before.
    offset::COMMAND,
];

/// Resets everything below `port` and puts the registers of `device` back; false if the device does not
/// come back.
pub(super) fn reset_below<P: PciBus + ?Sized>(bus: &P, port: FunctionId, device: FunctionId) -> bool {
    let (config, function) = (Config::new(bus, port), Config::new(bus, device));
    let was_there = function.is_there();
    let kept = KEPT.map(|at| (at, function.dword(at)));
    let control = config.dword(offset::INTERRUPT);
    config.write(offset::INTERRUPT, control | BUS_RESET);
    bus.wait(RESET_TIME);
    config.write(offset::INTERRUPT, control & !BUS_RESET);
    bus.wait(SETTLE_TIME);
    let until = bus.now().saturating_add(PATIENCE);
    while !function.is_there() {
        if bus.now() >= until {
            return false;
        }
        bus.wait(LOOK);
    }
    if was_there {
        for (at, value) in kept {
            // The status register above the command clears by ones.
            let value = if at == offset::COMMAND { value & 0xffff } else { value };
            function.write(at, value);
        }
    }
    true
}
