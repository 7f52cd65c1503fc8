//! Devices, links and events over the API.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tdx_host::tsm::TsmError;
use tdxhost::api::{self, ACTIONS, EVENT_STREAM, Problem};

use crate::api::{Served, contract};
use crate::fake::FakeHost;
use crate::fake_pci::{id, refused};
use crate::schema;

const DEVICE: &str = "/v1/devices/0000:18:00.0";

fn post(served: &Served, route: &str, body: &Value) -> Result<Value, Problem> {
    api::post(served.path(), route, body).unwrap()
}

fn failed(served: &Served, route: &str, body: &Value) -> (u16, String, String) {
    let problem = post(served, route, body).unwrap_err();
    let contract = contract();
    let value = serde_json::to_value(&problem).unwrap();
    assert_eq!(schema::check(&contract, &contract["components"]["schemas"]["Problem"], &value), Ok(()));
    let (name, errno) = problem.error.map_or_else(Default::default, |error| (error.error.name, error.errno));
    (problem.status, name, errno)
}

#[test]
fn a_device_is_connected_refreshed_and_disconnected() {
    let host = FakeHost::with_pci();
    let served = Served::new(host);
    let contract = contract();
    let fits =
        |value: &Value| schema::check(&contract, &contract["components"]["schemas"]["Function"], value);
    assert_eq!(served.get(DEVICE)["tsm"], Value::Null);
    let connected = post(&served, &format!("{DEVICE}/connect"), &json!({"tsm": "tsm0"})).unwrap();
    assert_eq!(fits(&connected), Ok(()));
    assert_eq!((&connected["tsm"], &connected["dsm"]), (&json!("tsm0"), &json!("0000:18:00.0")));
    assert_eq!(served.get("/v1/tsm")["connected"], 1);
    assert_eq!(served.get("/v1/devices/0000:18:00.1")["tsm"], "tsm0");
    for what in ["session", "stream", "evidence"] {
        let refreshed = post(&served, &format!("{DEVICE}/refresh"), &json!({ "what": what })).unwrap();
        assert_eq!(fits(&refreshed), Ok(()));
    }
    let link = &served.get("/v1/links")["links"][0];
    assert_eq!((&link["secure"], &link["root_port"]["port"]), (&json!(true), &json!("0000:17:01.0")));
    served.every_answer_fits();
    let gone = post(&served, &format!("{DEVICE}/disconnect"), &json!({})).unwrap();
    assert_eq!(gone["tsm"], Value::Null);
    assert_eq!(served.get("/v1/links"), json!({"links": []}));
}

#[test]
fn a_device_is_told_with_its_registers_and_features() {
    let device = Served::new(FakeHost::with_pci()).get(DEVICE);
    assert_eq!(
        device,
        json!({
            "address": "0000:18:00.0", "bridge": "pci0000:17", "root_port": "0000:17:01.0", "physical": null,
            "vendor": "0x8086", "device": "0x1234", "class": "0x018000", "express": true, "ide": true,
            "tee": true, "dsm_capable": true, "dsm": null, "tsm": null, "bound": false,
            "doe_features": ["0001:00", "0001:01", "0001:02"], "streams": [], "last_error": null,
        })
    );
}

#[test]
fn failures_come_with_status_name_errno_and_reason() {
    let host = FakeHost::with_pci();
    let served = Served::new(host.clone());
    let (connect, disconnect) = (format!("{DEVICE}/connect"), format!("{DEVICE}/disconnect"));
    let named = |status, name: &str, errno: &str| (status, name.to_owned(), errno.to_owned());
    assert_eq!(failed(&served, &connect, &json!({"tsm": "x"})), named(422, "bad-tsm-name", "EINVAL"));
    assert_eq!(failed(&served, &connect, &json!({"tsm": "tsm1"})), named(409, "no-such-tsm", "ENXIO"));
    assert_eq!(failed(&served, &disconnect, &json!({})), named(409, "not-connected", "ENXIO"));
    let nobody = "/v1/devices/0000:99:00.0/connect";
    assert_eq!(failed(&served, nobody, &json!({})), named(404, "no-such-function", "ENOENT"));
    assert_eq!(failed(&served, "/v1/devices/first/connect", &json!({})), named(404, "", ""));
    let refresh = format!("{DEVICE}/refresh");
    for wrong in [json!({}), json!({"what": "all"}), json!({"what": "session", "more": 1})] {
        assert_eq!(failed(&served, &refresh, &wrong), named(400, "", ""));
    }
    assert_eq!(failed(&served, &connect, &json!({"name": "tsm0"})), named(400, "", ""));

    let device = id("0000:18:00.0");
    host.pci.fail_next(TsmError::PagesMissing { device, pages: 1 });
    assert_eq!(failed(&served, &connect, &json!({})), named(500, "pages-missing", "EFAULT"));
    host.pci.fail_next(TsmError::MailboxDead { device });
    assert_eq!(failed(&served, &connect, &json!({})), named(502, "doe-mailbox-dead", "EIO"));
    let last = &served.get(DEVICE)["last_error"];
    assert_eq!(
        (&last["name"], &last["errno"], &last["blame"]),
        (&json!("doe-mailbox-dead"), &json!("EIO"), &json!("device"))
    );
    assert!(last["advice"].as_str().is_some_and(|advice| advice.contains("reset the device")));
    served.every_answer_fits();
    assert!(post(&served, &connect, &json!({})).is_ok());
    assert_eq!(failed(&served, &connect, &json!({})), named(409, "already-connected", "EBUSY"));
    assert_eq!(served.get(DEVICE)["last_error"], Value::Null);
}

#[test]
fn actions_take_post_alone_and_say_so() {
    let contract = contract();
    let served = Served::new(FakeHost::with_pci());
    for path in ACTIONS {
        let path = path.replace("{address}", "0000:18:00.0");
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let (code, head, body) = served.request(method, &path);
            assert_eq!(code, 405, "{method} {path}");
            assert!(head.contains("allow: post\r\n"), "{head}");
            if method != "HEAD" {
                let problem: Value = serde_json::from_str(&body).unwrap();
                assert_eq!(
                    schema::check(&contract, &contract["components"]["schemas"]["Problem"], &problem),
                    Ok(())
                );
            }
        }
    }
}

#[test]
fn events_are_told_from_a_number_on_and_so_is_a_loss() {
    let host = FakeHost::with_pci();
    let served = Served::new(host.clone());
    let seqs = |facts: &Value| -> Vec<u64> {
        facts["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    let all = served.get("/v1/events");
    assert_eq!((seqs(&all), &all["lost"], &all["last"]), (vec![1, 2], &json!(0), &json!(2)));
    assert_eq!(all["events"][1]["action"], "change");
    let none = served.get("/v1/events?after=2");
    assert_eq!((seqs(&none), &none["lost"], &none["last"]), (vec![], &json!(0), &json!(2)));
    for _ in 0..2 {
        host.pci.unregister_tsm();
        host.pci.register_tsm();
    }
    // Eight events, of which four are kept.
    let some = served.get("/v1/events?after=1");
    assert_eq!((seqs(&some), &some["lost"], &some["last"]), (vec![5, 6, 7, 8], &json!(3), &json!(8)));
    // A number that nobody gave out is of another boot: its reader knows nothing of this one.
    let anew = served.get("/v1/events?after=9");
    assert_eq!((seqs(&anew), &anew["lost"], &anew["last"]), (vec![5, 6, 7, 8], &json!(4), &json!(8)));
    for query in ["before=1", "after=-1", "after=x", "after=1&after=2"] {
        for path in ["/v1/events", EVENT_STREAM] {
            assert_eq!(served.request("GET", &format!("{path}?{query}")).0, 400, "{query}");
        }
    }
}

#[test]
fn the_event_stream_tells_what_was_and_what_comes() {
    let contract = contract();
    let host = FakeHost::with_pci();
    for _ in 0..2 {
        host.pci.unregister_tsm();
        host.pci.register_tsm();
    }
    let served = Served::new(host.clone());
    let mut stream = UnixStream::connect(served.path()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {EVENT_STREAM}?after=3 HTTP/1.1\r\nHost: tdxhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head.iter().any(|line| line == "content-type: application/x-ndjson"), "{head:?}");
    // Sizes of chunks and empty lines between them are not JSON objects.
    let mut told = lines.filter(|line| line.starts_with('{')).map(|line| {
        let value: Value = serde_json::from_str(&line).unwrap();
        let content = &contract["paths"][EVENT_STREAM]["get"]["responses"]["200"]["content"];
        let schema = &content["application/x-ndjson"]["schema"];
        assert_eq!(schema::check(&contract, schema, &value), Ok(()));
        value
    });
    assert_eq!(told.next().unwrap(), json!({"lost": 1}));
    let seqs: Vec<_> = told.by_ref().take(4).map(|event| event["seq"].clone()).collect();
    assert_eq!(seqs, [5, 6, 7, 8]);
    post(&served, &format!("{DEVICE}/connect"), &json!({})).unwrap();
    let event = told.next().unwrap();
    assert_eq!((&event["seq"], &event["subsystem"]), (&json!(9), &json!("pci")));
}

#[test]
fn a_refusal_has_its_reason_beside_the_status_of_the_call() {
    let host = FakeHost::with_pci();
    let served = Served::new(host.clone());
    let device = id("0000:18:00.0");
    host.pci.fail_next(refused(device));
    let problem = post(&served, &format!("{DEVICE}/connect"), &json!({})).unwrap_err();
    let error = problem.error.unwrap();
    assert_eq!((problem.status, error.error.name.as_str()), (502, "device-not-authentic"));
    assert_eq!(error.reason.as_deref(), Some("bad signature"));
    assert_eq!(error.error.status.as_deref(), Some("0xc0000f3c0000e408"));
}

#[test]
fn what_is_no_address_or_no_body_is_a_problem_too() {
    let contract = contract();
    let served = Served::new(FakeHost::with_pci());
    let problem = |code: u16, answer: (u16, String, String)| {
        let (status, head, body) = answer;
        assert_eq!(status, code, "{body}");
        assert!(head.contains("content-type: application/problem+json\r\n"), "{head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(schema::check(&contract, &contract["components"]["schemas"]["Problem"], &body), Ok(()));
    };
    problem(400, served.request("GET", "/v1/devices/%ff"));
    problem(400, served.request("POST", "/v1/devices/%ff/connect"));
    for (code, body) in [
        (400, "[]".to_owned()),
        (400, "[\"tsm0\"]".to_owned()),
        (400, "null".to_owned()),
        (413, " ".repeat(3 << 20)),
    ] {
        let mut stream = UnixStream::connect(served.path()).unwrap();
        write!(
            stream,
            "POST {DEVICE}/connect HTTP/1.1\r\nHost: tdxhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        // It need not be read to the end to be refused.
        let _ = stream.write_all(body.as_bytes());
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let head: String =
            lines.by_ref().take_while(|line| !line.is_empty()).map(|line| line + "\r\n").collect();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        problem(code, (status, head.to_ascii_lowercase(), lines.next().unwrap()));
    }
    assert_eq!(served.get(DEVICE)["tsm"], Value::Null);
}

#[test]
fn a_silent_device_holds_up_nobody_but_those_who_ask_for_it() {
    let host = FakeHost::with_pci();
    let served = Served::new(host.clone());
    let silence = host.pci.silence();
    thread::scope(|scope| {
        let routes = ["/v1/devices", DEVICE, "/v1/hardware"];
        let waiting = routes.map(|route| scope.spawn(|| served.get(route)));
        host.pci.until_waited_for(routes.len());
        assert_eq!(served.get("/v1/tsm")["connected"], 0);
        drop(silence);
        assert!(waiting.into_iter().all(|answer| answer.join().unwrap().is_object()));
    });
}
