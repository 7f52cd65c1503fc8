//! Uevents as a stream: one line of JSON each, for as long as somebody reads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde_json::json;
use tokio::sync::mpsc;

use super::connect::EventsFacts;
use super::facts::HostSource;

/// How long an event may wait until it is sent.
const PERIOD: Duration = Duration::from_millis(20);

/// Lines that may wait for a slow reader; more stay in the host's own bounded log.
const AHEAD: usize = 64;

/// The events of `host` behind number `after`, and those to come.
pub(super) fn stream(host: Arc<dyn HostSource>, after: u64) -> Response {
    let (sender, lines) = mpsc::channel(AHEAD);
    tokio::spawn(follow(host, after, sender));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(lines))).into_response()
}

/// Sends lines until the reader has gone.
async fn follow(host: Arc<dyn HostSource>, mut after: u64, sender: mpsc::Sender<Bytes>) {
    loop {
        let news = EventsFacts::after(&*host, after);
        after = news.last;
        let lost = (news.lost > 0).then(|| json!({ "lost": news.lost }).to_string());
        let events = news.events.iter().filter_map(|event| serde_json::to_string(event).ok());
        for line in lost.into_iter().chain(events) {
            if sender.send(Bytes::from(line + "\n")).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// The body: each line a chunk of its own, so that it goes out at once.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
