//! Connecting, disconnecting, and what happens to a connection in between.

use core::time::Duration;

use tdx_abi::status::StatusCode;

use super::dsm::Link;
use super::events::{LinkState, device_event};
use super::health::examine;
use super::{Dsm, Refresh, Tsm, TsmError, is_name, parse_name};
use crate::cpu::CpuSlot;
use crate::host::{HostState, Lifecycle};
use crate::link::{
    BridgeStreams, Caller, Ending, Pools, PortStreams, Session, Stream, TsmPlatform, Wire, walk_functions,
};
use crate::sync::RawLock;
use crate::traits::{LeakCounter, LogLevel};

/// How a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The device is not there any more.
    Removed,
    /// The stream is not secure any more; the device may answer still.
    Stream,
    /// The module does not go on with the session or with the keys of the stream.
    Session,
}

impl<E, B, R> Tsm<E, B, R>
where
    E: RawLock + Sync,
    B: AsRef<[BridgeStreams]>,
    R: AsRef<[PortStreams]>,
{
    /// Connects a device as a write of `text` to `tsm/connect` does. After an error everything is as it was.
    ///
    /// Nothing but the embedder's lock of `dsm` is held while the device is waited for. An update of the
    /// module may come in between, and is waited for too.
    pub fn connect<C, K, P>(
        &self,
        host: &HostState<C, K>,
        platform: &P,
        dsm: &mut Dsm<P::Leaks>,
        text: &str,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + ?Sized,
    {
        let device = dsm.function();
        let tsm = parse_name(text).ok_or(TsmError::BadTsmName { device })?;
        if let Some(tsm) = dsm.tsm() {
            return Err(TsmError::AlreadyConnected { device, tsm });
        }
        if self.number() != Some(tsm) {
            return Err(TsmError::NoSuchTsm { device, tsm });
        }
        let result = self.connect_to(host, platform, dsm, tsm);
        dsm.last_error = result.err();
        match result {
            Ok(()) => {
                if let Some(stream) = dsm.stream() {
                    let place = stream.place();
                    let line = format_args!("{device} is connected to tsm{tsm}, {place} is secure");
                    platform.log(LogLevel::Info, line);
                }
                device_event(platform, &dsm.facts().function, LinkState::Connected);
            }
            Err(error) => platform.log(LogLevel::Error, format_args!("not connected: {error}")),
        }
        result
    }

    fn connect_to<C, K, P>(
        &self,
        host: &HostState<C, K>,
        platform: &P,
        dsm: &mut Dsm<P::Leaks>,
        tsm: u32,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + ?Sized,
    {
        let device = dsm.function();
        if is_down(host) {
            return Err(TsmError::ModuleDown { device });
        }
        let pages = self.pages_kept();
        if pages != 0 {
            return Err(TsmError::TsmBroken { device, pages });
        }
        if dsm.wire.is_none() {
            return Err(TsmError::NoSpdmMailbox { device });
        }
        let caller = self.caller(host, platform, device)?;
        if !dsm.takes_secured() {
            return Err(TsmError::MailboxNotSecured { device });
        }
        let (bridge, root_port) = self.ports_above(dsm)?;
        let Dsm { wire, endpoint, .. } = dsm;
        let wire = wire.as_mut().ok_or(TsmError::NoSpdmMailbox { device })?;
        if wire.mailbox().is_dead() {
            // It may have been reset since: the first exchange begins with an abort and finds out.
            wire.mailbox_mut().revive();
        }
        wire.open(&caller)?;
        match open(&caller, wire, &Pools { bridge, root_port, endpoint }) {
            Ok((session, stream)) => {
                dsm.link = Some(Link { tsm, session, stream, keys_since: None });
                Ok(())
            }
            Err(error) => {
                wire.close(platform);
                Err(error)
            }
        }
    }

    /// Disconnects a device as a write of `text` to `tsm/disconnect` does. Once begun it does not fail: what
    /// goes wrong is told in the log. While the module is down it is not begun, as the one that takes over has
    /// the connection still.
    pub fn disconnect<C, K, P>(
        &self,
        host: &HostState<C, K>,
        platform: &P,
        dsm: &mut Dsm<P::Leaks>,
        text: &str,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + ?Sized,
    {
        let device = dsm.function();
        let tsm = dsm.tsm().ok_or(TsmError::NotConnected { device })?;
        if !is_name(text, tsm) {
            return Err(TsmError::OtherTsm { device, tsm });
        }
        if is_down(host) {
            return Err(TsmError::ModuleDown { device });
        }
        self.release(host, platform, dsm);
        Ok(())
    }

    /// Disconnects a device, if it is connected: its TSM leaves, or its driver does.
    pub fn release<C, K, P>(&self, host: &HostState<C, K>, platform: &P, dsm: &mut Dsm<P::Leaks>)
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + ?Sized,
    {
        if self.close(host, platform, dsm, Ending::Orderly, Ending::Orderly) {
            dsm.last_error = None;
            platform.log(LogLevel::Info, format_args!("{} is disconnected", dsm.function()));
            device_event(platform, &dsm.facts().function, LinkState::Disconnected);
        }
    }

    /// Takes note of a connection that is lost: takes it down as far as that can be done. While the module is
    /// down only a device that was taken out is given up; the others are looked after later.
    pub fn lose<C, K, P>(&self, host: &HostState<C, K>, platform: &P, dsm: &mut Dsm<P::Leaks>, how: Loss)
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + ?Sized,
    {
        let device = dsm.function();
        if how != Loss::Removed && is_down(host) {
            return;
        }
        let (error, of_session) = match how {
            Loss::Removed => (TsmError::DeviceGone { device }, Ending::Gone),
            // The session does not go over the stream, and the device is asked to end it.
            Loss::Stream => (TsmError::StreamLost { device }, Ending::Orderly),
            Loss::Session => (TsmError::SessionLost { device }, Ending::Orderly),
        };
        if self.close(host, platform, dsm, Ending::Gone, of_session) {
            dsm.last_error = Some(error);
            platform.log(LogLevel::Error, format_args!("connection lost: {error}"));
            device_event(platform, &dsm.facts().function, LinkState::Lost);
        }
    }

    /// Makes keys or device information anew while the device stays connected. After an error everything
    /// goes on with what there was, unless the module says that there is nothing to go on with: then the
    /// connection is lost.
    pub fn refresh<C, K, P>(
        &self,
        host: &HostState<C, K>,
        platform: &P,
        dsm: &mut Dsm<P::Leaks>,
        what: Refresh,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + ?Sized,
    {
        let device = dsm.function();
        let caller = self.caller(host, platform, device);
        let not_connected = TsmError::NotConnected { device };
        let link = dsm.link.as_mut().ok_or(not_connected)?;
        let wire = dsm.wire.as_mut().ok_or(not_connected)?;
        let result = caller.and_then(|caller| match what {
            Refresh::SessionKeys => wire.update_keys(&caller, link.session.id()),
            Refresh::StreamKeys => link.stream.refresh(&caller, wire),
            Refresh::Evidence => link.session.recollect(&caller, wire),
        });
        if what == Refresh::StreamKeys && result.is_ok() {
            link.keys_since = None;
        }
        if result.is_err_and(|error| ends_connection(&error)) {
            self.lose(host, platform, dsm, Loss::Session);
            return Err(TsmError::SessionLost { device });
        }
        dsm.last_error = result.err();
        if let Err(error) = result {
            platform.log(LogLevel::Warning, format_args!("{} not made anew: {error}", what.name()));
        }
        result
    }

    /// Takes a connection down that was lost without a word, and makes the keys of its stream anew if it is
    /// time. What fails is tried again when it is looked after next: the old keys last much longer than the
    /// time between two sets.
    pub fn look_after<C, K, P>(
        &self,
        host: &HostState<C, K>,
        platform: &P,
        dsm: &mut Dsm<P::Leaks>,
        now: Duration,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + ?Sized,
    {
        if is_down(host) {
            return Ok(());
        }
        if let Some(how) = examine(platform, dsm) {
            self.lose(host, platform, dsm, how);
            return Ok(());
        }
        let (Some(link), Some(every)) = (dsm.link.as_mut(), self.key_refresh()) else { return Ok(()) };
        let since = *link.keys_since.get_or_insert(now);
        if now.saturating_sub(since) < every {
            return Ok(());
        }
        self.refresh(host, platform, dsm, Refresh::StreamKeys)?;
        if let Some(link) = dsm.link.as_mut() {
            link.keys_since = Some(now);
        }
        Ok(())
    }

    /// Shows the functions that the DSM could answer for, its own left out: those for which a connected DSM
    /// with the TEE-IO bit is asked. Whether a function is one for it, the DSM alone knows.
    pub fn dependents<P: TsmPlatform + ?Sized>(
        &self,
        platform: &P,
        dsm: &Dsm<P::Leaks>,
        mut each: impl FnMut(pcie::FunctionId),
    ) {
        let own = dsm.function();
        if dsm.link.is_some() && dsm.facts().has_tee {
            walk_functions(platform, own, |function| {
                if function != own {
                    each(function);
                }
            });
        }
    }

    /// Takes a connection down, stream first; false if there was none.
    fn close<C, K, P>(
        &self,
        host: &HostState<C, K>,
        platform: &P,
        dsm: &mut Dsm<P::Leaks>,
        of_stream: Ending,
        of_session: Ending,
    ) -> bool
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + ?Sized,
    {
        let device = dsm.function();
        let (Ok(caller), Ok((bridge, root_port))) =
            (self.caller(host, platform, device), self.ports_above(dsm))
        else {
            return false;
        };
        let Dsm { wire: Some(wire), link, endpoint, .. } = dsm else { return false };
        let Some(Link { session, stream, .. }) = link.take() else { return false };
        let pools = Pools { bridge, root_port, endpoint };
        stream.close(&caller, wire, &pools, of_stream);
        session.close(&caller, wire, root_port.port(), of_session);
        wire.close(platform);
        true
    }

    fn caller<'a, C, K, P>(
        &'a self,
        host: &'a HostState<C, K>,
        platform: &'a P,
        device: pcie::FunctionId,
    ) -> Result<Caller<'a, C, K, P, E>, TsmError>
    where
        C: AsRef<[CpuSlot]>,
        P: ?Sized,
    {
        // They are the same for every module of this boot, and told while one is being replaced too.
        let sizes = host.last_sysinfo().and_then(|info| info.connect_sizes());
        let sizes = sizes.ok_or(TsmError::NoConnectMetadata { device })?;
        Ok(Caller { host, platform, extension: &self.extension, kept: &self.kept, sizes, device })
    }

    /// Streams of the bridge and of the root port above a device.
    fn ports_above<L: LeakCounter>(&self, dsm: &Dsm<L>) -> Result<(&BridgeStreams, &PortStreams), TsmError> {
        let function = &dsm.facts().function;
        let bridge = self.bridges().iter().find(|bridge| bridge.bridge() == function.bridge);
        let port = self.root_ports().iter().find(|port| Some(port.port()) == function.root_port);
        bridge.zip(port).ok_or(TsmError::NoRootPort { device: function.id })
    }
}

/// An update that failed left the module shut down. Its sessions and streams wait for the next module.
fn is_down<C: AsRef<[CpuSlot]>, K>(host: &HostState<C, K>) -> bool {
    host.lifecycle() == Lifecycle::Down
}

/// True if the module has lost the session, or the keys of the stream, for which it was asked.
fn ends_connection(error: &TsmError) -> bool {
    let states = [StatusCode::SPDM_INVALID_STATE, StatusCode::IDE_STREAM_INVALID_STATE];
    matches!(error, TsmError::CallFailed { error, .. } if states.iter().any(|state| error.is(*state)))
}

/// What a device is connected by.
type Opened<L> = (Session<L>, Stream<L>);

/// The session, then the stream.
fn open<C, K, P, E>(
    caller: &Caller<'_, C, K, P, E>,
    wire: &mut Wire<P::Leaks>,
    pools: &Pools<'_>,
) -> Result<Opened<P::Leaks>, TsmError>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: Sync,
    P: TsmPlatform + ?Sized,
    E: RawLock + Sync,
{
    let port = pools.root_port.port();
    let session = Session::open(caller, wire, port)?;
    match Stream::open(caller, wire, session.id(), pools) {
        Ok(stream) => Ok((session, stream)),
        Err(error) => {
            session.close(caller, wire, port, Ending::Orderly);
            Err(error)
        }
    }
}
