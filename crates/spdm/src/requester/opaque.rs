//! Opaque data: sound, and nothing chosen that was not offered.

use super::{Connection, OpaqueFault, RequesterConfig, RequesterError};
use crate::msg::{OpaqueData, ResponseCode, VersionList, VersionNumber};

impl Connection {
    /// Opaque data in which nothing is asked for.
    pub(super) fn check_opaque(&self, found: ResponseCode, bytes: &[u8]) -> Result<(), RequesterError> {
        let refuse = |fault| RequesterError::Opaque { found, fault };
        match (bytes.is_empty(), self.opaque) {
            (true, _) => Ok(()),
            (false, true) => {
                OpaqueData::parse(bytes).map_err(|error| refuse(OpaqueFault::Decode(error))).map(drop)
            }
            (false, false) => Err(refuse(OpaqueFault::NoFormat)),
        }
    }
}

impl RequesterConfig {
    /// The versions of secured messages as `KEY_EXCHANGE` offers them.
    pub(super) fn secured_list(&self) -> Result<VersionList, RequesterError> {
        let mut list = VersionList::default();
        for version in &self.secured_versions {
            list.push(*version)
                .map_err(|_| RequesterError::Configuration("a list of different secured versions"))?;
        }
        Ok(list)
    }

    /// The version of secured messages that `KEY_EXCHANGE_RSP` selects.
    pub(super) fn selected(&self, bytes: &[u8]) -> Result<VersionNumber, RequesterError> {
        let refuse = |fault| RequesterError::Opaque { found: ResponseCode::KEY_EXCHANGE_RSP, fault };
        let malformed = |error| refuse(OpaqueFault::Decode(error));
        if bytes.is_empty() {
            return Err(refuse(OpaqueFault::NoSelection));
        }
        let data = OpaqueData::parse(bytes).map_err(malformed)?;
        let selected = data.selected_version().map_err(malformed)?.ok_or(refuse(OpaqueFault::NoSelection))?;
        // Update and alpha numbers do not make another version.
        let offered = |version: &&VersionNumber| version.version() == selected.version();
        if !self.secured_versions.iter().any(|version| offered(&version)) {
            return Err(refuse(OpaqueFault::NotOffered(selected.0)));
        }
        Ok(selected)
    }
}
