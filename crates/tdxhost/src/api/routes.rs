//! The routes: one per kind of facts, and one per action.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};

use super::actions;
use super::facts::{
    CpusFacts, DeviceAttributeFacts, DeviceFacts, HostSource, LogFacts, ServiceFacts, StatusFacts,
};
use super::problem::Problem;
use super::update::UploadFacts;
use crate::doctor::Snapshot;
use crate::sysfs::{HostView, Layout, Node, sysfs};

/// The contract, as it is checked in.
pub const OPENAPI: &str = include_str!("../../api/openapi.json");

/// Every path that tells something.
pub const ROUTES: [&str; 15] = [
    "/v1/status",
    "/v1/platform",
    "/v1/host",
    "/v1/module",
    "/v1/cpus",
    "/v1/device",
    "/v1/tsm",
    "/v1/devices",
    "/v1/devices/{address}",
    "/v1/links",
    "/v1/events",
    EVENT_STREAM,
    "/v1/hardware",
    "/v1/log",
    "/v1/openapi.json",
];

/// The path whose answer has no end.
pub const EVENT_STREAM: &str = "/v1/events/stream";

/// Every path that does something.
pub const ACTIONS: [&str; 3] =
    ["/v1/devices/{address}/connect", "/v1/devices/{address}/disconnect", "/v1/devices/{address}/refresh"];

/// What the routes answer from.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) host: Arc<dyn HostSource>,
    pub(super) service: Arc<dyn Fn() -> ServiceFacts + Send + Sync>,
}

pub(super) fn router(served: Served) -> Router {
    let router = Router::new().fallback(not_found);
    let router =
        ROUTES.into_iter().fold(router, |router, path| router.route(path, told(path).fallback(only_read)));
    let router =
        ACTIONS.into_iter().fold(router, |router, path| router.route(path, done(path).fallback(only_posted)));
    router.with_state(served)
}

fn told(path: &'static str) -> MethodRouter<Served> {
    match path {
        "/v1/platform" => get(async |State(served): State<Served>| Json(served.host.platform())),
        "/v1/host" => get(async |State(served): State<Served>| Json(served.host.host())),
        "/v1/module" => get(module),
        "/v1/cpus" => get(async |State(served): State<Served>| Json(cpus(&*served.host))),
        "/v1/device" => get(async |State(served): State<Served>| {
            actions::answer(actions::aside(&served, |host| Ok(device(&**host))).await)
        }),
        "/v1/tsm" => get(actions::tsm),
        "/v1/devices" => get(actions::devices),
        "/v1/devices/{address}" => get(actions::device),
        "/v1/links" => get(actions::links),
        "/v1/events" => get(actions::events),
        EVENT_STREAM => get(actions::event_stream),
        "/v1/hardware" => get(async |State(served): State<Served>| {
            actions::answer(actions::aside(&served, |host| Ok(hardware(host))).await)
        }),
        "/v1/log" => get(async |State(served): State<Served>| Json(LogFacts { lines: served.host.log() })),
        "/v1/openapi.json" => get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI)),
        _ => get(async |State(served): State<Served>| Json(status(&served))),
    }
}

fn done(path: &'static str) -> MethodRouter<Served> {
    match path {
        "/v1/devices/{address}/connect" => post(actions::connect),
        "/v1/devices/{address}/disconnect" => post(actions::disconnect),
        _ => post(actions::refresh),
    }
}

async fn module(State(served): State<Served>) -> Response {
    match served.host.module() {
        Some(facts) => Json(facts).into_response(),
        None => Problem::new(StatusCode::NOT_FOUND, "no TDX module is loaded on this platform".to_owned())
            .into_response(),
    }
}

fn status(served: &Served) -> StatusFacts {
    let host = served.host.host();
    StatusFacts {
        simulated: true,
        platform: served.host.platform().name,
        state: host.state,
        error: host.error,
        device: served.host.device().is_some(),
        module_version: served.host.read_attribute("version").ok(),
        service: (served.service)(),
    }
}

fn cpus(host: &dyn HostSource) -> CpusFacts {
    CpusFacts { present: host.cpus_present(), online: host.cpus_online(), cpus: host.cpus() }
}

fn device(host: &dyn HostSource) -> DeviceFacts {
    let attributes = host
        .attributes()
        .into_iter()
        .map(|offered| {
            let (value, errno) = match host.read_attribute(&offered.name) {
                Ok(value) => (Some(value), None),
                Err(errno) => (None, Some(format!("{errno:?}"))),
            };
            DeviceAttributeFacts { name: offered.name, mode: format!("{:04o}", offered.mode), value, errno }
        })
        .collect();
    let upload = host.upload().and_then(UploadFacts::of);
    DeviceFacts { exists: host.device().is_some(), attributes, upload }
}

/// The hardware, and the files that any user of the host may read, by their full path.
fn hardware(host: &Arc<dyn HostSource>) -> Snapshot {
    const OTHERS_READ: u16 = 0o004;
    let view: Arc<dyn HostView> = host.clone();
    let mut snapshot = host.hardware();
    for (path, node) in sysfs(&view, Layout::Linux7_3).walk() {
        let Node::File(attribute) = node else { continue };
        if attribute.mode() & OTHERS_READ != 0
            && let Ok(text) = attribute.read()
        {
            snapshot.files.insert(format!("/sys/{path}"), text);
        }
    }
    snapshot
}

async fn not_found(uri: Uri) -> Problem {
    let paths: Vec<&str> = ROUTES.into_iter().chain(ACTIONS).collect();
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is no {}; the paths are {}", uri.path(), paths.join(", ")),
    )
}

async fn only_read(method: Method, uri: Uri) -> Response {
    let detail = format!("{method} {} is not possible: the path can only be read (GET, HEAD)", uri.path());
    ([(header::ALLOW, "GET, HEAD")], Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)).into_response()
}

async fn only_posted(method: Method, uri: Uri) -> Response {
    let detail = format!("{method} {} is not possible: the path does something (POST)", uri.path());
    ([(header::ALLOW, "POST")], Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)).into_response()
}
