//! The API over a socket, against its contract.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tdxhost::api::{
    ACTIONS, ApiError, ApiServer, ClientError, EVENT_STREAM, OPENAPI, ROUTES, ServiceFacts, SocketError,
};
use tdxhost::sysfs::Errno;
use tdxhost::{api, status};
use tempfile::TempDir;

use crate::fake::{FIXED, FakeHost, UPDATABLE};
use crate::schema;

pub(crate) struct Served {
    server: ApiServer,
    _directory: TempDir,
}

impl Served {
    pub(crate) fn new(host: Arc<FakeHost>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = start(&directory.path().join("api"), host).unwrap();
        Self { server, _directory: directory }
    }

    pub(crate) fn get(&self, route: &str) -> Value {
        api::get(self.server.path(), &[route]).unwrap().remove(0).unwrap()
    }

    /// What `tdxhost status` prints.
    pub(crate) fn status_text(&self) -> String {
        status_text(self, false)
    }

    /// Every answer is as the contract says.
    pub(crate) fn every_answer_fits(&self) {
        let contract = contract();
        for route in ROUTES.into_iter().filter(|&route| route != EVENT_STREAM) {
            let (code, head, body) = self.request("GET", &concrete(route));
            let schema = documented_schema(&contract, route, code);
            let body: Value = serde_json::from_str(&body).unwrap();
            let checked = schema::check(&contract, &schema, &body);
            assert_eq!(checked, Ok(()), "{route} {code}");
            let kind = if code == 200 { "application/json" } else { "application/problem+json" };
            assert!(head.contains(&format!("content-type: {kind}\r\n")), "{route}: {head}");
        }
    }

    /// The socket file.
    pub(crate) fn path(&self) -> &Path {
        self.server.path()
    }

    /// Status, head and body of any request.
    pub(crate) fn request(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut stream = UnixStream::connect(self.server.path()).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: tdxhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_ascii_lowercase(), body.to_owned())
    }
}

/// A path with an address, where it has a place for one.
fn concrete(route: &str) -> String {
    route.replace("{address}", "0000:18:00.0")
}

fn start(path: &Path, host: Arc<FakeHost>) -> Result<ApiServer, ApiError> {
    let service = || ServiceFacts {
        version: "0.0.0".to_owned(),
        pid: 1,
        uptime_seconds: 1.5,
        mount: Some(PathBuf::from("/mnt")),
        sysfs_layout: "7.3".to_owned(),
    };
    ApiServer::start(path, host, Arc::new(service))
}

pub(crate) fn contract() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

fn documented_schema(contract: &Value, route: &str, code: u16) -> Value {
    let content = &contract["paths"][route]["get"]["responses"][code.to_string()]["content"];
    let kind = if code == 200 { "application/json" } else { "application/problem+json" };
    content[kind]["schema"].clone()
}

#[test]
fn the_contract_documents_the_routes_and_no_others() {
    let contract = contract();
    assert_eq!(contract["openapi"], "3.1.0");
    let mut documented: Vec<&str> =
        contract["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut served: Vec<&str> = ROUTES.into_iter().chain(ACTIONS).collect();
    documented.sort_unstable();
    served.sort_unstable();
    assert_eq!(documented, served);
    for (routes, method) in [(&ROUTES[..], "get"), (&ACTIONS[..], "post")] {
        for route in routes {
            let methods: Vec<_> = contract["paths"][route].as_object().unwrap().keys().collect();
            assert_eq!(methods, [method], "{route}");
        }
    }
}

#[test]
fn every_answer_has_exactly_the_documented_fields() {
    let unreadable = FakeHost::with_device(&[("version", 0o444, Err(Errno::EIO))]);
    for host in
        [FakeHost::with_device(&UPDATABLE), FakeHost::with_device(&FIXED), unreadable, FakeHost::failed()]
    {
        Served::new(host).every_answer_fits();
    }
}

#[test]
fn answers_that_leave_the_contract_are_noticed() {
    let contract = contract();
    let check =
        |name: &str, value: &Value| schema::check(&contract, &contract["components"]["schemas"][name], value);
    let line = json!({"level": "info", "text": "x"});
    assert_eq!(check("LogLine", &line), Ok(()));
    for wrong in [
        json!({"level": "info"}),
        json!({"level": "info", "text": "x", "more": 1}),
        json!({"level": "loud", "text": "x"}),
        json!({"level": "info", "text": 1}),
        json!([]),
    ] {
        assert!(check("LogLine", &wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_contract_is_served_as_it_is_checked_in() {
    let served = Served::new(FakeHost::with_device(&FIXED));
    let (code, _, body) = served.request("GET", "/v1/openapi.json");
    assert_eq!((code, body.as_str()), (200, OPENAPI));
}

#[test]
fn the_device_shows_modes_values_and_failed_reads() {
    let host = FakeHost::with_device(&[
        ("version", 0o444, Ok("1.5.06")),
        ("seamldr_version", 0o400, Err(Errno::EIO)),
    ]);
    let device = Served::new(host).get("/v1/device");
    assert_eq!(
        device,
        json!({"exists": true, "upload": null, "attributes": [
            {"name": "version", "mode": "0444", "value": "1.5.06", "errno": null},
            {"name": "seamldr_version", "mode": "0400", "value": null, "errno": "EIO"},
        ]})
    );
}

#[test]
fn the_hardware_comes_with_the_files_that_any_user_may_read() {
    let hardware = Served::new(FakeHost::with_device(&UPDATABLE)).get("/v1/hardware");
    assert_eq!(
        hardware["files"],
        json!({
            "/sys/devices/faux/tdx_host/firmware/tdx_module/error": "",
            "/sys/devices/faux/tdx_host/firmware/tdx_module/loading": "0\n",
            "/sys/devices/faux/tdx_host/firmware/tdx_module/remaining_size": "0\n",
            "/sys/devices/faux/tdx_host/firmware/tdx_module/status": "idle\n",
            "/sys/devices/faux/tdx_host/version": "1.5.06\n",
            "/sys/devices/system/cpu/modalias": "cpu:type:x86,ven0000fam0006mod008F:feature:,\n",
            "/sys/devices/system/cpu/online": "0,2-3\n",
            "/sys/devices/system/cpu/present": "0-3\n",
        })
    );
}

#[test]
fn a_failed_host_is_served_with_its_error_and_without_a_device() {
    let served = Served::new(FakeHost::failed());
    let status = served.get("/v1/status");
    assert_eq!(status["state"], "failed");
    assert_eq!(status["error"]["name"], "seam-disabled");
    assert_eq!(status["device"], false);
    assert_eq!(status["module_version"], Value::Null);
    let (code, _, body) = served.request("GET", "/v1/module");
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 404);
    assert_eq!(problem["detail"], "no TDX module is loaded on this platform");
}

#[test]
fn everything_simulated_says_so() {
    let served = Served::new(FakeHost::with_device(&UPDATABLE));
    for route in ["/v1/status", "/v1/platform", "/v1/module"] {
        assert_eq!(served.get(route)["simulated"], true, "{route}");
    }
}

#[test]
fn unknown_paths_and_other_methods_are_problems() {
    let contract = contract();
    let served = Served::new(FakeHost::with_device(&FIXED));
    let mut requests = vec![("GET", "/", 404), ("GET", "/v1/nothing", 404), ("POST", "/v2", 404)];
    for route in ROUTES {
        requests.extend(["POST", "PUT", "DELETE", "PATCH"].map(|method| (method, route, 405)));
    }
    for (method, path, expected) in requests {
        let (code, head, body) = served.request(method, &concrete(path));
        assert_eq!(code, expected, "{method} {path}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert_eq!(head.contains("allow: get, head"), expected == 405, "{head}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["status"], expected);
        let schema = &contract["components"]["schemas"]["Problem"];
        assert_eq!(schema::check(&contract, schema, &problem), Ok(()));
    }
}

#[test]
fn head_answers_without_a_body() {
    let served = Served::new(FakeHost::with_device(&FIXED));
    let (code, _, body) = served.request("HEAD", "/v1/status");
    assert_eq!((code, body.as_str()), (200, ""));
}

#[test]
fn a_second_server_is_refused_and_the_first_one_goes_on() {
    let served = Served::new(FakeHost::with_device(&FIXED));
    let second = start(served.server.path(), FakeHost::failed());
    assert!(matches!(second, Err(ApiError::Socket(SocketError::Taken(_)))));
    assert_eq!(served.get("/v1/status")["state"], "ready");
}

#[test]
fn a_client_that_says_nothing_does_not_keep_the_server_alive() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api");
    let server = start(&path, FakeHost::with_device(&FIXED)).unwrap();
    let mut silent = UnixStream::connect(&path).unwrap();
    write!(silent, "GET /v1/status HTTP/1.1\r\n").unwrap();
    drop(server);
    assert!(!path.exists());
}

#[test]
fn the_client_says_who_does_not_listen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api");
    let nobody = api::get(&path, &["/v1/status"]).unwrap_err();
    assert!(matches!(nobody, ClientError::NobodyListens(_)), "{nobody}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = api::get(&path, &["/v1/status"]).unwrap_err();
    assert!(stale.to_string().starts_with("nothing listens on "), "{stale}");
}

#[test]
fn the_client_notices_a_server_of_another_kind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail ready\r\n").unwrap();
    });
    let error = api::get(&path, &["/v1/status"]).unwrap_err();
    assert!(matches!(error, ClientError::Foreign { .. }), "{error}");
    other.join().unwrap();
}

fn status_text(served: &Served, json: bool) -> String {
    let args = status::StatusArgs { api: Some(served.server.path().to_owned()), json };
    let mut out = Vec::new();
    status::report(&args, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn status_is_a_short_summary_of_a_host_that_is_ready() {
    let served = Served::new(FakeHost::with_device(&UPDATABLE));
    let expected = "\
platform  fake (simulated, seed 7): 1 package, 4 logical processors, 4 GiB
host      ready
module    1.5.06 (ready): 4 of 4 processors, 1 of 1 packages, 1 TDMRs, 4108 KB of PAMT
device    tdx_host: version 1.5.06, seamldr_version 1.5.02, num_remaining_updates 63
cpus      0,2-3 online of 0-3
sysfs     /mnt (layout 7.3)
service   tdxhost 0.0.0, pid 1, up 2 s
";
    assert_eq!(status_text(&served, false), expected);
}

#[test]
fn status_tells_why_a_host_has_no_tdx_and_what_to_do() {
    let text = status_text(&Served::new(FakeHost::failed()), false);
    for line in [
        "host      no TDX: seam-disabled: SEAMRR is not enabled",
        "          enable TDX in the firmware setup",
        "module    none",
        "device    none",
    ] {
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}

#[test]
fn status_as_json_is_the_document_of_the_api() {
    let served = Served::new(FakeHost::with_device(&UPDATABLE));
    let document: Value = serde_json::from_str(&status_text(&served, true)).unwrap();
    assert_eq!(document, served.get("/v1/status"));
}
