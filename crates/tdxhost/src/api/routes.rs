//! The routes, one per kind of facts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};

use super::facts::{
    CpusFacts, DeviceAttributeFacts, DeviceFacts, HostSource, LogFacts, ServiceFacts, StatusFacts,
};
use super::problem::Problem;
use super::update::UploadFacts;
use crate::doctor::Snapshot;
use crate::sysfs::{HostView, Layout, Node, sysfs};

/// The contract, as it is checked in.
pub const OPENAPI: &str = include_str!("../../api/openapi.json");

/// Every path that the API answers.
pub const ROUTES: [&str; 9] = [
    "/v1/status",
    "/v1/platform",
    "/v1/host",
    "/v1/module",
    "/v1/cpus",
    "/v1/device",
    "/v1/hardware",
    "/v1/log",
    "/v1/openapi.json",
];

/// What the routes answer from.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) host: Arc<dyn HostSource>,
    pub(super) service: Arc<dyn Fn() -> ServiceFacts + Send + Sync>,
}

pub(super) fn router(served: Served) -> Router {
    ROUTES
        .into_iter()
        .fold(Router::new(), |router, path| router.route(path, handler(path)))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(served)
}

fn handler(path: &'static str) -> MethodRouter<Served> {
    match path {
        "/v1/platform" => get(async |State(served): State<Served>| Json(served.host.platform())),
        "/v1/host" => get(async |State(served): State<Served>| Json(served.host.host())),
        "/v1/module" => get(module),
        "/v1/cpus" => get(async |State(served): State<Served>| Json(cpus(&*served.host))),
        "/v1/device" => get(async |State(served): State<Served>| Json(device(&*served.host))),
        "/v1/hardware" => get(async |State(served): State<Served>| Json(hardware(&served.host))),
        "/v1/log" => get(async |State(served): State<Served>| Json(LogFacts { lines: served.host.log() })),
        "/v1/openapi.json" => get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI)),
        _ => get(async |State(served): State<Served>| Json(status(&served))),
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
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is no {}; the paths are {}", uri.path(), ROUTES.join(", ")),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} {} is not possible: the API is read-only (GET, HEAD)", uri.path()),
    );
    ([(header::ALLOW, "GET, HEAD")], problem).into_response()
}
