//! Is a connection still what it was? Answered by the registers of both ends.

use pcie::FunctionId;
use pcie::cap::{Aer, UncorrectableErrors};
use pcie::config::{ExtendedId, find_extended};
use pcie::ide::{Ide, StreamState};

use super::{Config, Dsm, Loss};
use crate::link::TsmPlatform;
use crate::traits::{LogLevel, PciBus};

/// Uncorrectable error status register of AER.
const UNCORRECTABLE_STATUS: u16 = 0x04;

/// How the connection of `dsm` was lost, if it was: the device is not there, or the stream is not secure at
/// one end. Errors of IDE that a port has noted are told in the log and cleared.
pub(super) fn examine<P: TsmPlatform + ?Sized>(platform: &P, dsm: &Dsm<P::Leaks>) -> Option<Loss> {
    let place = *dsm.stream()?.place();
    if !Config::new(platform, place.endpoint).is_there() {
        return Some(Loss::Removed);
    }
    let ends = [(place.root_port, place.root_port_block), (place.endpoint, place.endpoint_block)];
    // Both are looked at, so that both tell what they have noted.
    let secure = ends.map(|(port, block)| {
        tell_errors(platform, port);
        is_secure(platform, port, block)
    });
    (secure != [true; 2]).then_some(Loss::Stream)
}

fn is_secure<P: PciBus + ?Sized>(bus: &P, port: FunctionId, block: u8) -> bool {
    let config = Config::new(bus, port);
    let Some(ide) = Ide::find(&config) else { return false };
    let Some(stream) = ide.selective(block) else { return false };
    // A fail message alone may be from before this stream.
    ide.stream_status(&stream).state() == StreamState::SECURE
}

/// Tells and clears the errors of IDE that AER has noted.
fn tell_errors<P: TsmPlatform + ?Sized>(platform: &P, port: FunctionId) {
    let config = Config::new(platform, port);
    let Some(errors) = Aer::uncorrectable(&config) else { return };
    let of_ide = UncorrectableErrors::new()
        .with_ide_check_failed(errors.ide_check_failed())
        .with_misrouted_ide_tlp(errors.misrouted_ide_tlp())
        .with_pcrc_check_failed(errors.pcrc_check_failed());
    if of_ide == UncorrectableErrors::new() {
        return;
    }
    for (noted, what) in [
        (of_ide.ide_check_failed(), "IDE check failed"),
        (of_ide.misrouted_ide_tlp(), "misrouted IDE TLP"),
        (of_ide.pcrc_check_failed(), "PCRC check failed"),
    ] {
        if noted {
            platform.log(LogLevel::Error, format_args!("{port}: AER: {what}"));
        }
    }
    if let Some(aer) = find_extended(&config, ExtendedId::AER) {
        config.write(aer.offset.saturating_add(UNCORRECTABLE_STATUS), of_ide.into_bits());
    }
}
