//! TDX Connect of one boot: IOMMUs into trusted mode and out of it.

use tdx_host::{BridgeStreams, ConnectError, ConnectReport, ConnectState};

use crate::host::TdxHost;

impl TdxHost {
    /// Whether TDX Connect works, and if not, why.
    pub fn connect_status(&self) -> ConnectState {
        self.state().connect_state()
    }

    /// Takes the IOMMUs into trusted mode, so that devices can be connected. Done with the device's
    /// appearance, if the options do not speak against it; may be tried again after a failure.
    pub fn connect_init(&self) -> Result<ConnectReport, ConnectError> {
        let _alone = self.connect_walk.lock();
        let mut memory = self.memory();
        let report = self.state().connect_init(self.platform(), &mut memory.connect)?;
        let streams: Vec<_> =
            memory.connect.bridges().map(|bridge| (bridge.bridge, bridge.streams)).collect();
        drop(memory);
        self.tsm_register(&streams);
        // An update may have ended Connect since, and found no TSM to take away.
        match self.connect_status().reason() {
            None => Ok(report),
            Some(reason) => {
                self.tsm_unregister();
                Err(reason)
            }
        }
    }

    /// Disconnects every device and takes the IOMMUs out of trusted mode.
    pub fn connect_exit(&self) {
        let _alone = self.connect_walk.lock();
        self.tsm_unregister();
        self.state().connect_exit(self.platform(), &mut self.memory().connect);
    }

    /// Host bridges and the streams that can be made below them; none unless Connect works.
    pub fn connect_bridges(&self) -> Vec<BridgeStreams> {
        self.memory().connect.bridges().collect()
    }

    /// What the tdx_host driver does when it is loaded: the device is there, whether Connect works or not.
    pub(crate) fn start_connect(&self) {
        let ready = self.connect_status() == ConnectState::Off(ConnectError::NotStarted);
        if ready && self.options().connect {
            // The reason is in the state and in the log.
            let _ = self.connect_init();
        }
    }
}
