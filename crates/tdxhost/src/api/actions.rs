//! What clients are told of PCI functions, and may do to them: connect, disconnect, refresh.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use pcie::FunctionId;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
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

pub(super) async fn devices(State(served): State<Served>) -> Response {
    let told = aside(&served, |host| {
        let views = host.functions().into_iter().filter_map(|place| host.function(place.id));
        Ok(FunctionsFacts { devices: views.map(|view| FunctionFacts::of(&**host, view)).collect() })
    });
    answer(told.await)
}

pub(super) async fn device(State(served): State<Served>, address: Address) -> Response {
    answer(aside(&served, |host| function(&**host, identify(address)?)).await)
}

pub(super) async fn links(State(served): State<Served>) -> Response {
    let told = aside(&served, |host| {
        Ok(LinksFacts { links: host.links().into_iter().map(LinkFacts::from).collect() })
    });
    answer(told.await)
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

/// The address in a path, if the path is text.
pub(super) type Address = Result<Path<String>, PathRejection>;

/// The body, if it is not too long.
pub(super) type Body = Result<Bytes, BytesRejection>;

pub(super) async fn connect(served: State<Served>, address: Address, body: Body) -> Response {
    act(served, address, body, |host, id, ConnectRequest { tsm }| host.connect(id, &named(host, tsm))).await
}

pub(super) async fn disconnect(served: State<Served>, address: Address, body: Body) -> Response {
    act(served, address, body, |host, id, ConnectRequest { tsm }| host.disconnect(id, &named(host, tsm)))
        .await
}

pub(super) async fn refresh(served: State<Served>, address: Address, body: Body) -> Response {
    act(served, address, body, |host, id, RefreshRequest { what }| host.refresh(id, what.into())).await
}

/// The TSM that is meant: the one that is there unless another is named.
fn named(host: &dyn HostSource, tsm: Option<String>) -> String {
    tsm.or_else(|| host.tsm().map(|tsm| tsm.name)).unwrap_or_else(|| "tsm0".to_owned())
}

/// Acts on a function, and answers with what it is then.
async fn act<T: DeserializeOwned + Send + 'static>(
    State(served): State<Served>,
    address: Address,
    body: Body,
    action: fn(&dyn HostSource, FunctionId, T) -> Result<(), TsmError>,
) -> Response {
    let acted = aside(&served, move |host| {
        let request = request(&body?)?;
        let id = identify(address)?;
        action(&**host, id, request).map_err(|error| Problem::from(&error))?;
        function(&**host, id)
    });
    answer(acted.await)
}

/// The object in a body; an empty one is an object without members.
fn request<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let members = if body.is_empty() { Ok(Map::new()) } else { serde_json::from_slice(body) };
    members.and_then(|members| serde_json::from_value(Value::Object(members))).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not as documented: {error}"))
    })
}

/// Asks the host where it holds up nobody: a device, and whoever reads its registers meanwhile, may take seconds.
pub(super) async fn aside<T: Send + 'static>(
    served: &Served,
    work: impl FnOnce(&Arc<dyn HostSource>) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let host = Arc::clone(&served.host);
    tokio::task::spawn_blocking(move || work(&host)).await.unwrap_or_else(|_| {
        // The panic has been printed.
        Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the host failed; its standard error says why".to_owned(),
        ))
    })
}

pub(super) fn answer<T: serde::Serialize>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(facts) => Json(facts).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The function that a path names, whether it is there or not.
fn identify(address: Address) -> Result<FunctionId, Problem> {
    let Path(address) = address?;
    address.parse().map_err(|error| {
        Problem::new(StatusCode::NOT_FOUND, format!("`{address}` is no address of a function: {error}"))
    })
}

fn function(host: &dyn HostSource, device: FunctionId) -> Result<FunctionFacts, Problem> {
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
