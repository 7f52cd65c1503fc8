use std::vec;

use super::*;
use crate::config::AccessError;

#[test]
fn a_request_is_shown_to_the_owner_and_its_response_to_the_host() {
    let mut mailbox = mailbox();
    send(&mut mailbox, &REQUEST);
    assert!(mailbox.status().busy());
    assert_eq!(events(&mut mailbox), [MailboxEvent::Request]);
    let request = mailbox.request().unwrap();
    assert_eq!((request.object_type, request.payload), (ObjectType::SPDM, &[0x10, 0x84, 0, 0][..]));
    mailbox.respond(&[1, 2, 3, 4, 5]).unwrap();
    assert_eq!(mailbox.status(), Status::new().with_ready(true));
    assert_eq!(receive(&mut mailbox), [0x0001_0001, 4, 0x0403_0201, 5]);
    assert_eq!(mailbox.status(), Status::new());
    assert_eq!(mailbox.request(), None);
}

#[test]
fn a_dword_is_read_as_often_as_one_likes_until_it_is_acknowledged() {
    let mut mailbox = mailbox();
    send(&mut mailbox, &REQUEST);
    mailbox.take_event();
    mailbox.respond(&[]).unwrap();
    for _ in 0..3 {
        assert_eq!(read(&mailbox, offset::READ_MAILBOX), 0x0001_0001);
    }
    write(&mut mailbox, offset::READ_MAILBOX, 0xffff_ffff);
    assert_eq!(read(&mailbox, offset::READ_MAILBOX), 2);
}

#[test]
fn discovery_is_answered_without_the_owner_in_both_versions() {
    for version in [0, 2] {
        let mut mailbox = mailbox();
        let mut index = 0;
        let mut types = Vec::new();
        loop {
            send(&mut mailbox, &[1, 3, version << 8 | index]);
            let response = receive(&mut mailbox);
            assert_eq!(response[..2], [1, 3]);
            let response = DiscoveryResponse::decode(response[2]);
            types.push(response.object_type);
            if response.next == 0 {
                break;
            }
            index = response.next.into();
        }
        assert_eq!(types, SupportedTypes::SPDM.as_slice());
        assert_eq!(events(&mut mailbox), []);
    }
}

#[test]
fn a_discovery_of_another_length_or_with_reserved_bits_is_dropped() {
    for (dwords, discard) in [
        (&[1, 2][..], Discard::Length { expected: ObjectLength::from_dwords(3).unwrap(), found: 2 }),
        (&[1, 4, 0, 0], Discard::Length { expected: ObjectLength::from_dwords(3).unwrap(), found: 4 }),
        (&[1, 3, 0x1_0000], Discard::Malformed(ObjectError::Reserved { dword: 2, bits: 0x1_0000 })),
    ] {
        let mut mailbox = mailbox();
        send(&mut mailbox, dwords);
        assert_eq!(mailbox.status(), Status::new());
        assert_eq!(events(&mut mailbox), [MailboxEvent::Discarded(discard)]);
    }
}

#[test]
fn an_object_that_is_not_taken_is_dropped_without_a_word_and_the_next_one_is_taken() {
    let length = |dwords| ObjectLength::from_dwords(dwords).unwrap();
    for (dwords, discard) in [
        (&[][..], Discard::Malformed(ObjectError::NoHeader(0))),
        (&[0x0001_0001], Discard::Malformed(ObjectError::NoHeader(4))),
        (&[0x0001_0001, 1], Discard::Malformed(ObjectError::TooShort(1))),
        (&[0x0101_0001, 2], Discard::Malformed(ObjectError::Reserved { dword: 0, bits: 0x0100_0000 })),
        (&[0x0001_0001, 3], Discard::Length { expected: length(3), found: 2 }),
        (&[0x0001_0001, 3, 0, 0], Discard::Length { expected: length(3), found: 4 }),
        (&[0x0001_0001, 0], Discard::Length { expected: length(1 << 18), found: 2 }),
        (&[0x0003_0001, 2], Discard::Unsupported(ObjectType::SPDM_CONNECTION)),
        (&[0x0001_8086, 2], Discard::Unsupported(ObjectType { vendor: VendorId(0x8086), kind: 1 })),
    ] {
        let mut mailbox = mailbox();
        send(&mut mailbox, dwords);
        assert_eq!(mailbox.status(), Status::new(), "{dwords:x?}");
        assert_eq!(events(&mut mailbox), [MailboxEvent::Discarded(discard)]);
        send(&mut mailbox, &REQUEST);
        assert_eq!(events(&mut mailbox), [MailboxEvent::Request]);
    }
}

#[test]
fn an_object_may_fill_the_mailbox_and_not_exceed_it() {
    let mut mailbox = mailbox();
    let mut object = vec![0; 16];
    object[..2].copy_from_slice(&[0x0001_0001, 16]);
    send(&mut mailbox, &object);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Request]);
    mailbox.discard().unwrap();
    object[1] = 17;
    object.push(0);
    send(&mut mailbox, &object);
    assert!(mailbox.status().error());
    assert_eq!(events(&mut mailbox), [MailboxEvent::Failed(Fault::Overflow(16))]);
}

#[test]
fn a_response_that_does_not_fit_is_refused_and_the_request_stays_open() {
    let mut mailbox = mailbox();
    send(&mut mailbox, &REQUEST);
    mailbox.take_event();
    assert_eq!(mailbox.respond(&[0; 57]), Err(RespondError::NoRoom { needed: 17, room: 16 }));
    let too_long = RespondError::Object(ObjectError::TooLong((1 << 20) + 4));
    assert_eq!(mailbox.respond(&vec![0; (1 << 20) - 4]), Err(too_long));
    assert!(mailbox.status().busy());
    assert_eq!(mailbox.respond(&[0; 56]), Ok(()));
}

#[test]
fn a_write_while_busy_sets_the_error_bit_and_closes_the_request() {
    let mut mailbox = mailbox();
    send(&mut mailbox, &REQUEST);
    mailbox.take_event();
    write(&mut mailbox, offset::WRITE_MAILBOX, 1);
    assert_eq!(mailbox.status(), Status::new().with_error(true));
    assert_eq!(mailbox.respond(&[]), Err(RespondError::NoRequest));
    assert_eq!(events(&mut mailbox), [MailboxEvent::Failed(Fault::WrittenWhileBusy)]);
}

#[test]
fn a_write_before_the_response_was_read_sets_the_error_bit() {
    let mut mailbox = mailbox();
    send(&mut mailbox, &REQUEST);
    mailbox.take_event();
    mailbox.respond(&[]).unwrap();
    write(&mut mailbox, offset::WRITE_MAILBOX, 1);
    assert_eq!(mailbox.status(), Status::new().with_error(true));
    assert_eq!(read(&mailbox, offset::READ_MAILBOX), 0);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Failed(Fault::WrittenBeforeRead)]);
}

#[test]
fn reading_without_an_object_gives_0_and_advancing_sets_the_error_bit() {
    let mut mailbox = mailbox();
    assert_eq!(read(&mailbox, offset::READ_MAILBOX), 0);
    assert_eq!(mailbox.status(), Status::new());
    write(&mut mailbox, offset::READ_MAILBOX, 0);
    assert_eq!(mailbox.status(), Status::new().with_error(true));
    assert_eq!(events(&mut mailbox), [MailboxEvent::Failed(Fault::Underflow)]);
}

#[test]
fn only_an_abort_ends_an_error() {
    let mut mailbox = mailbox();
    mailbox.break_down();
    assert_eq!(events(&mut mailbox), [MailboxEvent::Failed(Fault::Device)]);
    send(&mut mailbox, &REQUEST);
    write(&mut mailbox, offset::READ_MAILBOX, 0);
    write(&mut mailbox, offset::STATUS, 0xffff_ffff);
    assert_eq!(mailbox.status(), Status::new().with_error(true));
    assert_eq!(events(&mut mailbox), []);
    write(&mut mailbox, offset::CONTROL, ABORT);
    assert_eq!(mailbox.status(), Status::new());
    send(&mut mailbox, &REQUEST);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Aborted, MailboxEvent::Request]);
}

#[test]
fn an_abort_forgets_what_was_written_asked_or_answered() {
    for stage in 0..3 {
        let mut mailbox = mailbox();
        write(&mut mailbox, offset::WRITE_MAILBOX, REQUEST[0]);
        if stage > 0 {
            send(&mut mailbox, &REQUEST[1..]);
            mailbox.take_event();
        }
        if stage > 1 {
            mailbox.respond(&[]).unwrap();
        }
        write(&mut mailbox, offset::CONTROL, ABORT | GO);
        assert_eq!(mailbox.status(), Status::new());
        assert_eq!(events(&mut mailbox), [MailboxEvent::Aborted]);
        assert_eq!(mailbox.respond(&[]), Err(RespondError::NoRequest));
        send(&mut mailbox, &REQUEST);
        assert_eq!(events(&mut mailbox), [MailboxEvent::Request], "stage {stage}");
    }
}

#[test]
fn an_answer_to_an_aborted_request_does_not_become_the_answer_to_the_next_one() {
    let mut mailbox = mailbox();
    send(&mut mailbox, &REQUEST);
    assert_eq!(mailbox.take_event(), Some(MailboxEvent::Request));
    write(&mut mailbox, offset::CONTROL, ABORT);
    send(&mut mailbox, &REQUEST);
    for end in [Mailbox::fail, Mailbox::discard] {
        assert_eq!(end(&mut mailbox), Err(RespondError::NoRequest));
    }
    assert_eq!(mailbox.respond(b"old"), Err(RespondError::NoRequest));
    assert_eq!(events(&mut mailbox), [MailboxEvent::Aborted, MailboxEvent::Request]);
    assert_eq!(mailbox.respond(b"new"), Ok(()));
}

#[test]
fn go_does_nothing_while_busy_or_ready() {
    let mut mailbox = mailbox();
    send(&mut mailbox, &REQUEST);
    write(&mut mailbox, offset::CONTROL, GO);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Request]);
    mailbox.respond(&[]).unwrap();
    write(&mut mailbox, offset::CONTROL, GO);
    assert_eq!(events(&mut mailbox), []);
    assert_eq!(receive(&mut mailbox), [0x0001_0001, 2]);
}

#[test]
fn the_owner_ends_a_request_with_an_error_or_without_a_word() {
    let mut mailbox = mailbox();
    send(&mut mailbox, &REQUEST);
    mailbox.take_event();
    mailbox.fail().unwrap();
    assert_eq!(mailbox.status(), Status::new().with_error(true));
    write(&mut mailbox, offset::CONTROL, ABORT);
    send(&mut mailbox, &REQUEST);
    events(&mut mailbox);
    mailbox.discard().unwrap();
    assert_eq!(mailbox.status(), Status::new());
}

#[test]
fn a_mailbox_that_is_held_is_busy_and_takes_nothing_until_it_is_let_go() {
    let mut mailbox = mailbox();
    mailbox.hold(true);
    assert_eq!(mailbox.status(), Status::new().with_busy(true));
    write(&mut mailbox, offset::CONTROL, GO);
    assert_eq!(events(&mut mailbox), []);
    write(&mut mailbox, offset::WRITE_MAILBOX, REQUEST[0]);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Failed(Fault::WrittenWhileBusy)]);
    write(&mut mailbox, offset::CONTROL, ABORT);
    assert!(mailbox.status().busy(), "an abort does not change what the owner wants");
    mailbox.hold(false);
    send(&mut mailbox, &REQUEST);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Aborted, MailboxEvent::Request]);
}

#[test]
fn an_interrupt_is_sent_when_something_is_ready_or_wrong_and_once_until_its_status_is_cleared() {
    let mut mailbox = mailbox();
    write(&mut mailbox, offset::CONTROL, ENABLE);
    assert_eq!(read(&mailbox, offset::CONTROL), ENABLE);
    let discovery = |mailbox: &mut Mailbox<_>| {
        for dword in [1, 3, 0] {
            write(mailbox, offset::WRITE_MAILBOX, dword);
        }
        write(mailbox, offset::CONTROL, GO | ENABLE);
        receive(mailbox).len()
    };
    assert_eq!(discovery(&mut mailbox), 3);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Interrupt]);
    assert!(mailbox.status().interrupt_status());
    assert_eq!(discovery(&mut mailbox), 3);
    assert_eq!(events(&mut mailbox), []);
    write(&mut mailbox, offset::STATUS, 1);
    assert!(mailbox.status().interrupt_status(), "only its own bit clears it");
    write(&mut mailbox, offset::STATUS, 2);
    assert!(!mailbox.status().interrupt_status());
    write(&mut mailbox, offset::READ_MAILBOX, 0);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Failed(Fault::Underflow), MailboxEvent::Interrupt]);
}

#[test]
fn no_interrupt_is_sent_while_it_is_not_enabled_or_not_supported() {
    let silent = Mailbox::new([0; 16], SupportedTypes::SPDM, Capability::new());
    for (mut mailbox, enable, reads) in [(mailbox(), 0, 0), (silent, ENABLE, 0)] {
        write(&mut mailbox, offset::CONTROL, enable);
        assert_eq!(read(&mailbox, offset::CONTROL), reads);
        mailbox.break_down();
        assert_eq!(events(&mut mailbox), [MailboxEvent::Failed(Fault::Device)]);
        assert!(!mailbox.status().interrupt_status());
    }
}

#[test]
fn a_narrow_write_of_control_leaves_the_other_bytes_alone() {
    let mut mailbox = mailbox();
    mailbox.write(offset::CONTROL, Width::Byte, ENABLE).unwrap();
    for dword in REQUEST {
        write(&mut mailbox, offset::WRITE_MAILBOX, dword);
    }
    mailbox.write(offset::CONTROL + 3, Width::Byte, 0x80).unwrap();
    assert!(mailbox.status().busy());
    assert_eq!(mailbox.read(offset::CONTROL, Width::Byte), Ok(ENABLE));
    assert_eq!(mailbox.read(offset::STATUS, Width::Word), Ok(1));
}

#[test]
fn a_narrow_write_of_a_data_mailbox_does_nothing() {
    let mut mailbox = mailbox();
    mailbox.write(offset::WRITE_MAILBOX, Width::Word, 0x1234).unwrap();
    mailbox.write(offset::READ_MAILBOX, Width::Byte, 0).unwrap();
    assert_eq!(mailbox.status(), Status::new());
    send(&mut mailbox, &REQUEST);
    assert_eq!(events(&mut mailbox), [MailboxEvent::Request]);
}

#[test]
fn accesses_outside_the_registers_are_refused_and_read_only_ones_do_nothing() {
    let mut mailbox = mailbox();
    let outside = AccessError::Outside { offset: DOE_SIZE, size: DOE_SIZE };
    assert_eq!(mailbox.read(DOE_SIZE, Width::Dword), Err(outside));
    assert_eq!(mailbox.write(DOE_SIZE, Width::Dword, 0), Err(outside));
    let misaligned = AccessError::Misaligned { offset: 9, width: Width::Word };
    assert_eq!(mailbox.read(9, Width::Word), Err(misaligned));
    write(&mut mailbox, offset::CAPABILITY, 0);
    assert_eq!(read(&mailbox, offset::CAPABILITY), 5 << 1 | 1);
    assert_eq!(read(&mailbox, 0), 0);
    assert_eq!(read(&mailbox, offset::WRITE_MAILBOX), 0);
}

#[test]
fn a_reset_forgets_everything() {
    let mut mailbox = mailbox();
    mailbox.hold(true);
    write(&mut mailbox, offset::CONTROL, ENABLE);
    mailbox.break_down();
    mailbox.reset();
    assert_eq!(mailbox.status(), Status::new());
    assert_eq!(read(&mailbox, offset::CONTROL), 0);
    assert_eq!(events(&mut mailbox), []);
}
