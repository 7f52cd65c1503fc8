//! Everything that can go wrong with a connect, at each of its steps: undone exactly, and possible again.

use std::time::Duration;

use pcie::cap::UncorrectableErrors;
use pcie::doe::ObjectType;
use tdx_abi::connect::refusal::{Refusal, RefusalReason};
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::status::{OperandId, SeamldrStatus, StatusCode};
use tdx_host::tsm::{Loss, Refresh, TSM_ERRORS, TsmError};
use tdx_host::{Blame, Errno, Lifecycle};

use super::Link;
use crate::fake::pcie::{DEVICE, PORT, Shape, Trouble};
use crate::fake::{Access, BendFake};
use crate::update::update;

/// After a failure everything is as it was, and the next connect works.
fn undone_and_possible(link: &mut Link, what: &str) {
    link.assert_undone(what);
    {
        let mut state = link.bench.fake.state();
        state.io.links.failing = None;
        state.io.pcie.trouble = None;
        state.allocations_left = u64::MAX;
        state.poisoned = None;
    }
    link.connect().unwrap_or_else(|error| panic!("{what}: the next connect: {error}"));
    assert_eq!(link.dsm.last_error(), None);
    link.disconnect().unwrap();
    link.assert_undone(what);
}

/// Calls that a connect makes.
const CALLS: u64 = 8;
/// Messages of a connect.
const MESSAGES: u64 = 4;

#[test]
fn a_call_that_fails_at_any_step_is_undone() {
    let mut link = Link::new();
    link.connect().unwrap();
    assert_eq!(link.fake().state().io.links.calls, CALLS);
    let refusal = Refusal { reason: RefusalReason::BAD_SIGNATURE, request: 0xE4 }.detail();
    let statuses = [
        (StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX), "device-call-failed", Blame::Module),
        (StatusCode::SYS_STATE_INCORRECT.plain(), "device-call-failed", Blame::Module),
        (StatusCode::SPDM_AUTH_FAILED.with_detail(refusal), "device-not-authentic", Blame::Device),
        (StatusCode::SPDM_INVALID_MESSAGE.with_detail(refusal), "device-refused", Blame::Device),
        (
            StatusCode::IDE_STREAM_IDEKM_INVALID_RESPONSE.with_detail(refusal),
            "device-keys-refused",
            Blame::Device,
        ),
        (StatusCode::IDE_STREAM_IDEKM_KEYS_NOT_READY.plain(), "root-port-keys-not-ready", Blame::Platform),
    ];
    for call in 0..CALLS {
        for (status, name, blame) in statuses {
            let mut link = Link::new();
            link.fake().state().io.links.failing = Some((call, status));
            let error = link.connect().unwrap_err();
            let what = format!("call {call} with {status}: {error}");
            assert_eq!((error.name(), error.blame(), error.errno()), (name, blame, Errno::EFAULT), "{what}");
            assert_eq!(link.dsm.last_error(), Some(error));
            let sentence = error.to_string();
            assert!(sentence.starts_with("0000:01:00.0"), "{sentence}");
            assert!(sentence.contains(&format!("{:#x}", status.raw())), "{sentence}");
            assert_eq!(sentence.contains("bad signature"), refusal == status.detail(), "{sentence}");
            undone_and_possible(&mut link, &what);
        }
    }
}

#[test]
fn a_call_that_is_interrupted_goes_on_with_its_operands() {
    for leaf in [SeamcallLeaf::SPDM_CONNECT, SeamcallLeaf::IDE_STREAM_KM] {
        let mut link = Link::new();
        link.fake().script(leaf, 0, 3, StatusCode::INTERRUPTED_RESUMABLE);
        link.connect().unwrap();
        let state = link.fake().state();
        let calls: Vec<_> = state.calls.iter().filter(|call| call.1.leaf() == leaf.0).collect();
        assert!(calls.len() > 3);
        assert!(calls.iter().all(|call| call.2 == calls[0].2), "{leaf:?}");
    }
}

#[test]
fn a_device_in_trouble_at_any_message_is_undone() {
    for message in 0..MESSAGES {
        for (trouble, name, errno) in [
            (Trouble::Silent, "doe-exchange-failed", Errno::EIO),
            (Trouble::Dead, "doe-mailbox-dead", Errno::EIO),
            (Trouble::Gone, "device-gone-away", Errno::EIO),
            (
                Trouble::Wrong,
                if message < 2 { "device-refused" } else { "device-keys-refused" },
                Errno::EFAULT,
            ),
        ] {
            let mut link = Link::new();
            link.fake().state().io.pcie.trouble = Some((message, trouble));
            let error = link.connect().unwrap_err();
            let what = format!("{trouble:?} at message {message}: {error}");
            assert_eq!((error.name(), error.errno()), (name, errno), "{what}");
            assert_eq!(error.blame(), Blame::Device, "{what}");
            let gone = trouble == Trouble::Gone;
            {
                // What can be seen of the device again, when it is back.
                let mut state = link.fake().state();
                state.io.pcie.gone = false;
                if gone {
                    state.io.pcie.write_all_streams_off();
                }
            }
            if trouble == Trouble::Dead && link.fake().state().io.pcie.bus_resets == 0 {
                link.assert_undone(&what);
                // It is aborted anew each time, in vain until the device is reset.
                link.fake().state().io.pcie.trouble = None;
                assert_eq!(link.connect().unwrap_err().name(), "doe-mailbox-dead");
                link.assert_undone(&what);
                link.fake().state().io.pcie.reset_mailbox();
                undone_and_possible(&mut link, &what);
                continue;
            }
            undone_and_possible(&mut link, &what);
        }
    }
}

#[test]
fn memory_that_runs_out_at_any_step_is_given_back() {
    // Message pages and two lists, session, information, stream.
    for (left, name, errno) in [
        (0, "no-message-pages", Errno::ENXIO),
        (1, "no-message-pages", Errno::ENXIO),
        (2, "no-message-pages", Errno::ENXIO),
        (3, "device-no-memory", Errno::ENOMEM),
        (4, "device-no-memory", Errno::ENOMEM),
        (5, "device-no-memory", Errno::ENOMEM),
    ] {
        let mut link = Link::new();
        link.fake().state().allocations_left = left;
        let error = link.connect().unwrap_err();
        assert_eq!((error.name(), error.errno()), (name, errno), "{left}");
        undone_and_possible(&mut link, name);
    }
    let mut link = Link::new();
    link.fake().state().allocations_left = 6;
    link.connect().unwrap();
}

#[test]
fn memory_that_fails_is_told() {
    for access in [Access::Read, Access::Write] {
        let mut link = Link::new();
        link.fake().state().poisoned = Some(access);
        let error = link.connect().unwrap_err();
        assert_eq!((error.name(), error.errno()), ("message-page-access", Errno::EFAULT));
        link.fake().state().poisoned = None;
        // Lists of released pages could not be read either: those pages are lost, and counted so.
        assert_eq!(link.dsm.tsm(), None);
    }
}

#[test]
fn a_request_that_is_no_object_for_the_device_is_not_sent() {
    let bend: [(&str, BendFake); 5] = [
        ("too short", |fake| fake.state().io.links.request_bytes = Some(7)),
        ("too long", |fake| fake.state().io.links.request_bytes = Some(4097)),
        ("of another length", |fake| fake.state().io.links.request_bytes = Some(16)),
        ("huge", |fake| fake.state().io.links.request_bytes = Some(u64::MAX)),
        ("discovery", |fake| fake.state().io.links.request_type = Some(ObjectType::DISCOVERY)),
    ];
    for (what, bend) in bend {
        let mut link = Link::new();
        bend(link.fake());
        let error = link.connect().unwrap_err();
        assert_eq!((error.name(), error.errno()), ("bad-message-request", Errno::EFAULT), "{what}");
        assert_eq!(link.fake().state().io.pcie.exchanges, 0, "{what}");
        link.fake().state().io.links.request_bytes = None;
        link.fake().state().io.links.request_type = None;
        undone_and_possible(&mut link, what);
    }
}

#[test]
fn more_device_information_than_there_is_room_for_ends_the_session() {
    let mut link = Link::new();
    link.fake().state().io.links.information_bytes = 16 * 4096 + 1;
    let error = link.connect().unwrap_err();
    assert_eq!((error.name(), error.errno()), ("bad-device-information", Errno::EFAULT));
    link.fake().state().io.links.information_bytes = 16 * 4096;
    undone_and_possible(&mut link, "information");
}

#[test]
fn a_stream_that_does_not_get_secure_is_taken_down() {
    let mut link = Link::new();
    link.fake().state().io.pcie.insecure = true;
    let error = link.connect().unwrap_err();
    assert_eq!((error.name(), error.errno()), ("stream-not-secure", Errno::ENXIO));
    assert_eq!(error.to_string(), "0000:01:00.0: its stream is insecure after it was enabled");
    // The keys were there, so that the device is told to forget them.
    let order = link.fake().state().io.links.order.clone();
    let km = SeamcallLeaf::IDE_STREAM_KM;
    assert_eq!(order[3..5], [km, SeamcallLeaf::IDE_STREAM_BLOCK]);
    link.fake().state().io.pcie.insecure = false;
    undone_and_possible(&mut link, "insecure");
}

#[test]
fn a_module_that_keeps_pages_breaks_the_tsm() {
    let mut link = Link::new();
    link.connect().unwrap();
    link.fake().state().io.links.kept = 1;
    link.disconnect().unwrap();
    // One of the stream, one of the session.
    assert_eq!((link.tsm.pages_kept(), link.fake().leaked_pages()), (2, 2));
    assert_eq!(link.free - link.fake().free_bytes(), 2 * 4096);
    let state = link.fake().state();
    let missing = TsmError::PagesMissing { device: DEVICE, pages: 1 };
    assert_eq!((missing.name(), missing.blame()), ("pages-missing", Blame::Module));
    let told = state.lines.iter().filter(|(_, line)| line.ends_with(&missing.to_string()));
    assert_eq!(told.count(), 2, "{:?}", state.lines);
    drop(state);
    link.fake().state().io.links.kept = 0;
    let error = link.connect().unwrap_err();
    assert_eq!((error.name(), error.errno(), error.blame()), ("tsm-broken", Errno::ENXIO, Blame::Module));
    assert!(error.to_string().contains("kept 2 pages"));
}

#[test]
fn objects_that_are_not_deleted_keep_their_pages() {
    for (leaf, pages) in [
        (SeamcallLeaf::IDE_STREAM_DELETE, 1 + 2),
        (SeamcallLeaf::IDE_STREAM_BLOCK, 1 + 2),
        (SeamcallLeaf::SPDM_DELETE, 2),
    ] {
        let mut link = Link::new();
        link.connect().unwrap();
        link.fake().script(leaf, 0, 1, StatusCode::SYS_STATE_INCORRECT);
        link.disconnect().unwrap();
        assert_eq!((link.dsm.tsm(), link.fake().leaked_pages()), (None, pages), "{leaf:?}");
        assert_eq!(link.tsm.bridges()[0].available(), Some(2), "{leaf:?}: numbers are the host's own");
    }
}

#[test]
fn a_host_that_goes_down_calls_nobody() {
    let mut link = Link::new();
    link.bench.host.crash();
    let error = link.connect().unwrap_err();
    assert_eq!((error.name(), error.errno()), ("device-going-down", Errno::ESHUTDOWN));
    assert_eq!(link.fake().state().io.links.calls, 0);
}

#[test]
fn a_mailbox_has_to_take_both_kinds_of_messages() {
    for (types, name, errno) in [
        (&[][..], "no-spdm-mailbox", Errno::ENXIO),
        (&[ObjectType::SECURED_SPDM], "no-spdm-mailbox", Errno::ENXIO),
        (&[ObjectType::SPDM], "mailbox-not-secured", Errno::EINVAL),
    ] {
        let mut link = Link::of(Shape { types, ..Shape::default() });
        let error = link.connect().unwrap_err();
        assert_eq!((error.name(), error.errno()), (name, errno));
        link.assert_undone(name);
    }
}

#[test]
fn names_are_unique_and_every_failure_has_a_sentence_and_an_advice() {
    let mut names: Vec<_> = TSM_ERRORS.iter().map(|info| info.name).collect();
    names.extend(tdx_host::ERRORS.iter().map(|info| info.name));
    names.extend(tdx_host::CONNECT_ERRORS.iter().map(|info| info.name));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for info in TSM_ERRORS {
        assert_eq!(tdx_host::tsm::error::find(info.name), Some(info));
        for text in [info.template, info.advice] {
            assert!(!text.is_empty() && !text.contains('\n') && !text.ends_with('.'), "{}", info.name);
        }
        assert!(info.errno.name().is_some(), "{}", info.name);
    }
}

#[test]
fn every_failure_is_named_by_a_test() {
    let tests =
        [include_str!("connect.rs"), include_str!("failures.rs"), include_str!("numbers.rs")].concat();
    let missing: Vec<_> = TSM_ERRORS
        .iter()
        .map(|info| info.name)
        .filter(|name| !tests.contains(&format!("\"{name}\"")))
        .collect();
    // Those of the embedder, which knows the functions, are tested there.
    assert_eq!(missing, [concat!("no-such", "-function"), concat!("not-a", "-dsm")]);
}

#[test]
fn a_refresh_that_fails_leaves_the_connection() {
    for what in Refresh::ALL {
        let mut link = Link::new();
        link.connect().unwrap();
        let exchanges = link.fake().state().io.pcie.exchanges;
        link.fake().state().io.pcie.trouble = Some((exchanges, Trouble::Silent));
        let error = link.refresh(what).unwrap_err();
        assert_eq!((error.name(), link.dsm.tsm()), ("doe-exchange-failed", Some(0)), "{what:?}");
        assert_eq!(link.dsm.last_error(), Some(error));
        link.fake().state().io.pcie.trouble = None;
        link.refresh(what).unwrap();
        assert_eq!(link.dsm.last_error(), None);
        link.disconnect().unwrap();
        link.assert_undone(what.name());
    }
}

#[test]
fn a_connection_that_the_module_does_not_go_on_with_is_taken_down() {
    for (what, leaf, status) in [
        (Refresh::SessionKeys, SeamcallLeaf::SPDM_MNG, StatusCode::SPDM_INVALID_STATE),
        (Refresh::Evidence, SeamcallLeaf::SPDM_MNG, StatusCode::SPDM_INVALID_STATE),
        (Refresh::StreamKeys, SeamcallLeaf::IDE_STREAM_KM, StatusCode::IDE_STREAM_INVALID_STATE),
    ] {
        let mut link = Link::new();
        link.connect().unwrap();
        let made = link.fake().calls_of(leaf) as u64;
        link.fake().script(leaf, made, 1, status);
        let error = link.refresh(what).unwrap_err();
        assert_eq!((error.name(), error.errno()), ("session-lost", Errno::EIO), "{what:?}");
        assert_eq!(link.dsm.last_error(), Some(error));
        link.assert_undone(what.name());
        let told = link.fake().state().io.uevents.last().cloned().unwrap();
        assert!(told.ends_with("TSM_STATE=lost"), "{told}");
        link.fake().clear_script();
        undone_and_possible(&mut link, what.name());
    }
}

#[test]
fn a_module_that_an_update_brought_is_told_too_that_no_answer_comes() {
    let mut link = Link::new();
    link.fake().state().io.pcie.trouble = Some((0, Trouble::Silent));
    // It knows nothing of the message that got no answer, and begins anew.
    let leaf = LeafWord::module(SeamcallLeaf::SPDM_CONNECT, 0);
    link.fake().script_word(leaf, 1, 1, StatusCode::SPDM_REQUEST, 16);
    assert_eq!(link.connect().unwrap_err().name(), "doe-exchange-failed");
    assert_eq!(link.fake().calls_of(SeamcallLeaf::SPDM_CONNECT), 3);
    link.fake().clear_script();
    undone_and_possible(&mut link, "begun anew");
}

#[test]
fn what_the_next_module_will_have_is_not_given_up_while_none_runs() {
    let mut link = Link::new();
    link.connect().unwrap();
    link.fake().state().loader.ends.push((SeamldrStatus::EBADSIG, 0));
    update(&link.bench).unwrap_err();
    assert_eq!(link.bench.host.lifecycle(), Lifecycle::Down);
    let down = |result: Result<(), TsmError>| {
        let error = result.unwrap_err();
        assert_eq!((error.name(), error.errno()), ("device-module-down", Errno::EBUSY));
    };
    down(link.disconnect());
    down(link.refresh(Refresh::StreamKeys));
    link.fake().state().io.pcie.fail_stream(PORT, UncorrectableErrors::new());
    {
        let Link { tsm, bench, dsm, .. } = &mut link;
        tsm.look_after(&bench.host, &*bench.fake, dsm, Duration::ZERO).unwrap();
        tsm.lose(&bench.host, &*bench.fake, dsm, Loss::Stream);
    }
    assert_eq!(link.dsm.tsm(), Some(0));
    update(&link.bench).unwrap();
    {
        let Link { tsm, bench, dsm, .. } = &mut link;
        tsm.look_after(&bench.host, &*bench.fake, dsm, Duration::ZERO).unwrap();
    }
    link.assert_undone("looked after by the next module");
    link.connect().unwrap();
    link.disconnect().unwrap();

    link.fake().state().loader.ends.push((SeamldrStatus::EBADSIG, 0));
    update(&link.bench).unwrap_err();
    down(link.connect());
    link.assert_undone("not begun");
}

#[test]
fn a_sentence_says_which_device_and_why() {
    let mut link = Link::new();
    link.fake().state().io.pcie.trouble = Some((1, Trouble::Silent));
    let error = link.connect().unwrap_err();
    assert_eq!(error.to_string(), "0000:01:00.0: its DOE mailbox: no response within a second");
    assert!(matches!(error, TsmError::ExchangeFailed { .. }));
}
