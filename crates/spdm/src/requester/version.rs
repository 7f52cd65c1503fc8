//! `GET_VERSION`: what both sides speak. Begins a connection.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{Next, Requester, RequesterError, Step};
use crate::ids::Version;
use crate::msg::{GetVersion, VersionResponse};

impl Requester {
    pub(super) fn get_version(&mut self) -> Result<(Step, Vec<u8>), RequesterError> {
        self.config.check()?;
        let request = exchange::bytes(|writer| GetVersion.write(writer))?;
        self.reset();
        Ok((Step::Version, request))
    }

    pub(super) fn on_version(
        &mut self,
        request: &[u8],
        message: &Message<'_>,
    ) -> Result<Next, RequesterError> {
        let (response, exact) = message.read(VersionResponse::read)?;
        self.transcript.append_vca(request);
        self.transcript.append_vca(exact);
        let spoken = |version: &Version| response.versions.has(*version);
        let highest = self.config.versions.iter().copied().filter(spoken).max();
        self.version =
            highest.ok_or_else(|| RequesterError::NoCommonVersion(self.config.versions.clone()))?;
        self.get_capabilities()
    }
}
