//! Asking a running server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::facts::StatusFacts;
use super::problem::Problem;
use crate::doctor::{BringUpFailure, Facts, Simulated, Snapshot};

/// A server that takes longer than this to answer is not answering.
const PATIENCE: Duration = Duration::from_secs(10);

/// As [`PATIENCE`], where a device has to answer first: each of its answers may take a second, and it may ask
/// for more time.
const PATIENCE_WITH_DEVICES: Duration = Duration::from_secs(300);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No server is there.
    #[error("nothing listens on {0}; start one with: tdxhost serve --platform NAME")]
    NobodyListens(PathBuf),
    /// The socket cannot be used.
    #[error("cannot connect to {path}: {cause}")]
    Connect {
        /// The socket file.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// The server answered with a problem.
    #[error("the server answered {} {}: {}", .0.status, .0.title, .0.detail)]
    Problem(Problem),
    /// What listens there does not speak this API.
    #[error("what listens on {path} is not a tdxhost server: {reason}")]
    Foreign {
        /// The socket file.
        path: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The server is there and does not answer.
    #[error("the server on {0} does not answer")]
    Timeout(PathBuf),
}

/// The JSON documents at `routes`, asked of the server on the socket file `path`, in one
/// connection.
pub fn get(path: &Path, routes: &[&str]) -> Result<Vec<Result<Value, Problem>>, ClientError> {
    let requests: Vec<_> =
        routes.iter().map(|route| Asked { method: Method::GET, route, body: String::new() }).collect();
    talk(path, &requests, PATIENCE)
}

/// What the server on the socket file `path` answers when `body` is sent to an action.
pub fn post(path: &Path, route: &str, body: &impl Serialize) -> Result<Result<Value, Problem>, ClientError> {
    let foreign = |reason: String| ClientError::Foreign { path: path.to_owned(), reason };
    let body = serde_json::to_string(body).map_err(|error| foreign(error.to_string()))?;
    let answers = talk(path, &[Asked { method: Method::POST, route, body }], PATIENCE_WITH_DEVICES)?;
    answers.into_iter().next().ok_or_else(|| foreign("no answer came".to_owned()))
}

/// One request.
struct Asked<'a> {
    method: Method,
    route: &'a str,
    body: String,
}

fn talk(
    path: &Path,
    requests: &[Asked<'_>],
    patience: Duration,
) -> Result<Vec<Result<Value, Problem>>, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|cause| ClientError::Connect { path: path.to_owned(), cause })?;
    runtime.block_on(async {
        tokio::time::timeout(patience, ask(path, requests))
            .await
            .unwrap_or_else(|_| Err(ClientError::Timeout(path.to_owned())))
    })
}

/// The facts of the host behind the socket file `path`, for `tdxhost doctor --api`.
pub fn hardware(path: &Path) -> anyhow::Result<Box<dyn Facts>> {
    let routes = ["/v1/hardware", "/v1/status"];
    let mut answers = get(path, &routes)?.into_iter();
    let snapshot: Snapshot = facts(answers.next(), routes[0])?;
    let status: StatusFacts = facts(answers.next(), routes[1])?;
    let failure = status.error.map(|error| BringUpFailure {
        seen: format!("{}: {}", error.name, error.message),
        advice: error.advice,
    });
    Ok(Box::new(Simulated { snapshot, failure }))
}

/// An answer of the server as the facts that it stands for.
pub fn facts<T: DeserializeOwned>(answer: Option<Result<Value, Problem>>, route: &str) -> anyhow::Result<T> {
    let answer = answer.with_context(|| format!("the server did not answer {route}"))?;
    let value = answer.map_err(ClientError::Problem)?;
    serde_json::from_value(value)
        .with_context(|| format!("the server's answer to {route} is of another version"))
}

async fn ask(path: &Path, requests: &[Asked<'_>]) -> Result<Vec<Result<Value, Problem>>, ClientError> {
    let foreign = |reason: String| ClientError::Foreign { path: path.to_owned(), reason };
    let stream = UnixStream::connect(path).await.map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NobodyListens(path.to_owned())
        }
        _ => ClientError::Connect { path: path.to_owned(), cause },
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| foreign(error.to_string()))?;
    // It ends with the sender, and its errors come out of the requests.
    let connection = tokio::spawn(connection);

    let mut answers = Vec::with_capacity(requests.len());
    for asked in requests {
        let request = Request::builder()
            .method(&asked.method)
            .uri(asked.route)
            .header("host", "tdxhost")
            .body(Full::new(Bytes::from(asked.body.clone())))
            .map_err(|error| foreign(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| foreign(error.to_string()))?;
        let status = response.status();
        let body =
            response.into_body().collect().await.map_err(|error| foreign(error.to_string()))?.to_bytes();
        let answer = if status.is_success() {
            serde_json::from_slice(&body).map(Ok)
        } else {
            serde_json::from_slice(&body).map(Err)
        };
        answers.push(answer.map_err(|error| foreign(error.to_string()))?);
    }
    drop(sender);
    connection.abort();
    Ok(answers)
}
