//! What clients may do to PCI functions: connect, disconnect, refresh.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use pcie::FunctionId;
use serde::de::DeserializeOwned;
use tdx_host::tsm::TsmError;

use super::connect::{
    ConnectRequest, EventsFacts, FunctionFacts, FunctionsFacts, LinkFacts, LinksFacts, RefreshRequest,
    TsmFacts,
};
use super::events;
use super::facts::HostSource;
use super::problem::Problem;
use super::routes::Served;

pub(super) async fn tsm(State(served): State<Served>) -> Json<TsmFacts> {
    Json(TsmFacts::of(&*served.host))
}

pub(super) async fn devices(State(served): State<Served>) -> Json<FunctionsFacts> {
    let host = &*served.host;
    let views = host.functions().into_iter().filter_map(|place| host.function(place.id));
    Json(FunctionsFacts { devices: views.map(|view| FunctionFacts::of(host, view)).collect() })
}

pub(super) async fn device(State(served): State<Served>, Path(address): Path<String>) -> Response {
    answer(function(&*served.host, &address))
}

pub(super) async fn links(State(served): State<Served>) -> Json<LinksFacts> {
    Json(LinksFacts { links: served.host.links().into_iter().map(LinkFacts::from).collect() })
}

pub(super) async fn events(State(served): State<Served>, uri: Uri) -> Response {
    answer(after(&uri).map(|after| EventsFacts::after(&*served.host, after)))
}

pub(super) async fn event_stream(State(served): State<Served>, uri: Uri) -> Response {
    match after(&uri) {
        Ok(after) => events::stream(served.host, after),
        Err(problem) => problem.into_response(),
    }
}

pub(super) async fn connect(served: State<Served>, address: Path<String>, body: Bytes) -> Response {
    act(served, address, body, |host, id, ConnectRequest { tsm }| host.connect(id, &named(host, tsm))).await
}

pub(super) async fn disconnect(served: State<Served>, address: Path<String>, body: Bytes) -> Response {
    act(served, address, body, |host, id, ConnectRequest { tsm }| host.disconnect(id, &named(host, tsm)))
        .await
}

pub(super) async fn refresh(served: State<Served>, address: Path<String>, body: Bytes) -> Response {
    act(served, address, body, |host, id, RefreshRequest { what }| host.refresh(id, what.into())).await
}

/// The TSM that is meant: the one that is there unless another is named.
fn named(host: &dyn HostSource, tsm: Option<String>) -> String {
    tsm.or_else(|| host.tsm().map(|tsm| tsm.name)).unwrap_or_else(|| "tsm0".to_owned())
}

/// Acts on a function, and answers with what it is then. A device may take seconds: nobody else waits.
async fn act<T: DeserializeOwned + Send + 'static>(
    State(served): State<Served>,
    Path(address): Path<String>,
    body: Bytes,
    action: fn(&dyn HostSource, FunctionId, T) -> Result<(), TsmError>,
) -> Response {
    // An empty body is an object without members.
    let text = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    let request = match serde_json::from_slice::<T>(&text) {
        Ok(request) => request,
        Err(error) => {
            return Problem::new(StatusCode::BAD_REQUEST, format!("the body is not as documented: {error}"))
                .into_response();
        }
    };
    let host = Arc::clone(&served.host);
    let acted = tokio::task::spawn_blocking(move || {
        let id = identify(&address)?;
        action(&*host, id, request).map_err(|error| Problem::from(&error))?;
        function(&*host, &address)
    });
    answer(acted.await.unwrap_or_else(|_| {
        // The panic has been printed.
        Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the host failed; its standard error says why".to_owned(),
        ))
    }))
}

fn answer<T: serde::Serialize>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(facts) => Json(facts).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The function that a path names, whether it is there or not.
fn identify(address: &str) -> Result<FunctionId, Problem> {
    address.parse().map_err(|error| {
        Problem::new(StatusCode::NOT_FOUND, format!("`{address}` is no address of a function: {error}"))
    })
}

fn function(host: &dyn HostSource, address: &str) -> Result<FunctionFacts, Problem> {
    let device = identify(address)?;
    let view = host.function(device).ok_or_else(|| Problem::from(&TsmError::NoSuchFunction { device }))?;
    Ok(FunctionFacts::of(host, view))
}

/// `after=N` of the query; 0 without one.
fn after(uri: &Uri) -> Result<u64, Problem> {
    match uri.query() {
        None => Ok(0),
        Some(query) => query.strip_prefix("after=").and_then(|number| number.parse().ok()).ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                format!("`{query}` is not after=N, with the number of an event"),
            )
        }),
    }
}
