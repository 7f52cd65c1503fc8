//! PCI functions, the TSM and its links on a software host.

use pcie::FunctionId;
use pcie::config::Width;
use tdx_host::traits::{PciBus as _, PciFunction};
use tdx_host::tsm::TsmError;
use tdx_platform::{BridgeView, FunctionView, TsmView};

use super::SoftwareHost;
use crate::sysfs::PciView;

impl PciView for SoftwareHost {
    fn tsm(&self) -> Option<TsmView> {
        self.host.tsm()
    }

    fn bridges(&self) -> Vec<BridgeView> {
        self.host.bridges()
    }

    fn functions(&self) -> Vec<PciFunction> {
        // As they were enumerated: hardware that is asked answers behind a device that is slow to answer.
        self.host.functions().into_iter().map(|function| function.pci).collect()
    }

    fn function(&self, id: FunctionId) -> Option<FunctionView> {
        self.host.function(id)
    }

    fn config_read(&self, id: FunctionId, offset: u16, width: Width) -> u32 {
        self.host.platform().config_read(id, offset, width)
    }

    fn config_write(&self, id: FunctionId, offset: u16, width: Width, value: u32) {
        self.host.platform().config_write(id, offset, width, value);
    }

    fn connect(&self, id: FunctionId, text: &str) -> Result<(), TsmError> {
        self.host.connect(id, text)
    }

    fn disconnect(&self, id: FunctionId, text: &str) -> Result<(), TsmError> {
        self.host.disconnect(id, text)
    }
}
