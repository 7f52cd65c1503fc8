//! Everything that the plugin keeps.

use tdx_machine::Machine;

/// The machine below the guest, with what the plugin itself remembers.
pub struct Host {
    /// The machine.
    pub machine: Machine,
}
