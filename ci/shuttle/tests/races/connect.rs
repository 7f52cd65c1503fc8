//! Calls of TDX Connect against updates and the host's end.

use std::sync::atomic::{AtomicU32, Ordering as Plain};

use shuttle::sync::Arc;
use shuttle::thread;
use tdx_abi::seamldr::Version;
use tdx_host::sync::Spin;
use tdx_host::update::UpdateOptions;
use tdx_host::{HostError, Lifecycle};
use tdx_image::Image;
use tdx_races::{Host, Options, Platform, explore, image};

const NEXT: Version = Version::new(1, 5, 13);

/// An update beside two users of Connect on two CPUs.
fn beside_connect(gated: bool) {
    let platform = Arc::new(Platform::new(2, Options::default()));
    let host: Arc<Host<Spin>> = Arc::new(platform.host(Spin::default()));
    let users: Vec<_> = (0..2)
        .map(|cpu| {
            let (platform, host) = (Arc::clone(&platform), Arc::clone(&host));
            thread::spawn(move || [(); 2].map(|()| platform.use_connect(&host, cpu, gated)))
        })
        .collect();
    let image = Image::parse(image(NEXT)).expect("a sound image");
    let updated = host.update(&*platform, &image, &UpdateOptions::default(), &());
    for user in users {
        assert_eq!(user.join().unwrap(), [Ok(()); 2], "whoever waits at the gate gets in");
    }
    assert_eq!(updated.map(|report| report.to), Ok(NEXT));
    assert_eq!(host.lifecycle(), Lifecycle::Ready);
    platform.no_violations();
}

#[test]
fn no_call_of_connect_is_cut_in_two_by_an_update() {
    explore(3000, || beside_connect(true));
}

#[test]
#[should_panic(expected = "in the middle of a call of Connect")]
fn a_gate_that_is_left_out_is_noticed() {
    explore(3000, || beside_connect(false));
}

static TURNED_AWAY: AtomicU32 = AtomicU32::new(0);

#[test]
fn nobody_waits_at_the_gate_of_a_host_that_crashed() {
    explore(3000, || {
        let platform = Arc::new(Platform::new(2, Options::default()));
        let host: Arc<Host<Spin>> = Arc::new(platform.host(Spin::default()));
        let user = {
            let (platform, host) = (Arc::clone(&platform), Arc::clone(&host));
            thread::spawn(move || platform.use_connect(&host, 0, true))
        };
        let updater = {
            let (platform, host) = (Arc::clone(&platform), Arc::clone(&host));
            thread::spawn(move || {
                let image = Image::parse(image(NEXT)).expect("a sound image");
                host.update(&*platform, &image, &UpdateOptions::default(), &()).map(|_| ())
            })
        };
        platform.crash(&host);
        let ended = [user.join().unwrap(), updater.join().unwrap()];
        for result in ended {
            if result == Err(HostError::GoingDown) {
                TURNED_AWAY.fetch_add(1, Plain::Relaxed);
            }
        }
        assert_eq!(host.lifecycle(), Lifecycle::Crashed);
        platform.no_violations();
    });
    assert!(TURNED_AWAY.load(Plain::Relaxed) > 0);
}
