extern crate std;

mod driver;
mod mailbox;
mod model;

use std::vec::Vec;

use super::*;
use crate::config::Width;

/// A mailbox of 16 dwords for SPDM, with interrupts as message 5.
fn mailbox() -> Mailbox<[u32; 16]> {
    let capability = Capability::new().with_interrupt_support(true).with_interrupt_message(5);
    Mailbox::new([0; 16], SupportedTypes::SPDM, capability)
}

fn read<B: AsRef<[u32]> + AsMut<[u32]>>(mailbox: &Mailbox<B>, offset: u16) -> u32 {
    mailbox.read(offset, Width::Dword).unwrap()
}

fn write<B: AsRef<[u32]> + AsMut<[u32]>>(mailbox: &mut Mailbox<B>, offset: u16, value: u32) {
    mailbox.write(offset, Width::Dword, value).unwrap();
}

const ABORT: u32 = 1;
const ENABLE: u32 = 2;
const GO: u32 = 1 << 31;

/// Writes dwords and says go.
fn send<B: AsRef<[u32]> + AsMut<[u32]>>(mailbox: &mut Mailbox<B>, dwords: &[u32]) {
    for &dword in dwords {
        write(mailbox, offset::WRITE_MAILBOX, dword);
    }
    write(mailbox, offset::CONTROL, GO);
}

/// Reads until the mailbox has nothing more.
fn receive<B: AsRef<[u32]> + AsMut<[u32]>>(mailbox: &mut Mailbox<B>) -> Vec<u32> {
    let mut dwords = Vec::new();
    while mailbox.status().ready() {
        dwords.push(read(mailbox, offset::READ_MAILBOX));
        write(mailbox, offset::READ_MAILBOX, 0);
    }
    dwords
}

fn events<B: AsRef<[u32]> + AsMut<[u32]>>(mailbox: &mut Mailbox<B>) -> Vec<MailboxEvent> {
    std::iter::from_fn(|| mailbox.take_event()).collect()
}

/// An SPDM object of one dword of payload.
const REQUEST: [u32; 3] = [0x0001_0001, 3, 0x8410];
