//! Devices of a served machine: connected from the shell and over the API, and let go at the end.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tdxhost::api;

use crate::mount::can_mount;
use crate::process::Places;

const DEVICE: &str = "0000:15:00.0";

fn get(socket: &Path, route: &str) -> Value {
    api::get(socket, &[route]).unwrap().remove(0).unwrap()
}

#[test]
fn a_device_of_a_served_machine_is_connected_from_the_shell() {
    if !can_mount() {
        return;
    }
    let places = Places::new();
    let server = places.serve_mounted("default", &[]);
    let device = places.point().join("bus/pci/devices").join(DEVICE);
    let shell = |script: &str| {
        let output = Command::new("sh").args(["-c", script]).current_dir(&device).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        fs::read_link(places.point().join("class/tsm/tsm0")).unwrap(),
        Path::new("../../devices/faux/tdx_host/tsm/tsm0")
    );
    assert_eq!(shell("ls tsm; cat tsm/connect"), "bound\nconnect\ndisconnect\ndsm\n\n");
    assert_eq!(
        shell("echo tsm0 > tsm/connect; cat tsm/connect authenticated tsm/dsm"),
        format!("tsm0\ntsm0\n{DEVICE}\n")
    );
    let streams = shell("cd ../..; for stream in stream*; do readlink $stream; done");
    assert_eq!(streams, format!("0000:14:01.0/{DEVICE}\n"));
    assert_eq!(shell("echo tsm0 > tsm/disconnect; cat tsm/connect; ls -d ../../stream* || true"), "\n");
    shell("echo tsm0 > tsm/connect");
    let (status, _, err) = server.end(Signal::SIGTERM);
    assert_eq!((status.code(), err.as_str()), (Some(0), ""));
}

#[test]
fn a_device_of_a_served_machine_is_connected_over_the_api_and_its_events_are_told() {
    let places = Places::new();
    let server = places.serve("default", &[]);
    let socket = places.socket();
    let tsm = get(&socket, "/v1/tsm");
    assert_eq!((&tsm["connect"], &tsm["name"], &tsm["connected"]), (&json!("on"), &json!("tsm0"), &json!(0)));
    let events = get(&socket, "/v1/events");
    let told: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (&event["action"], &event["devpath"]))
        .collect();
    let path = json!("/devices/faux/tdx_host/tsm/tsm0");
    assert_eq!(told, [(&json!("add"), &path), (&json!("change"), &path)]);
    let post = |address: &str, what: &str| {
        api::post(&socket, &format!("/v1/devices/{address}/{what}"), &json!({})).unwrap()
    };
    let device = post(DEVICE, "connect").unwrap();
    assert_eq!((&device["tsm"], &device["dsm"]), (&json!("tsm0"), &json!(DEVICE)));
    let links = get(&socket, "/v1/links");
    assert_eq!((&links["links"][0]["secure"], &links["links"][0]["device"]), (&json!(true), &json!(DEVICE)));
    let plain = post("0000:82:00.0", "connect").unwrap_err();
    assert_eq!(
        (plain.status, plain.error.map(|error| error.error.name)),
        (404, Some("not-a-dsm".to_owned()))
    );
    assert_eq!(post(DEVICE, "disconnect").unwrap()["tsm"], Value::Null);
    assert_eq!(server.end(Signal::SIGTERM).0.code(), Some(0));
}
