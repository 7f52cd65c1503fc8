//! The server: one thread with its own runtime, until it is told to stop.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::facts::{HostSource, ServiceFacts};
use super::routes::{Served, router};
use super::socket::{Socket, SocketError};

/// How long answers that are under way may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The socket could not be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The system gave no thread or event queue.
    #[error("cannot start the API server: {0}")]
    Start(io::Error),
}

/// A running server. Dropping it stops it and removes the socket file.
#[derive(Debug)]
pub struct ApiServer {
    socket: Socket,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Listens on the socket file `path` and answers from `host`.
    ///
    /// `service` is asked at each `/v1/status`, so that it can tell what changes.
    pub fn start(
        path: &Path,
        host: Arc<dyn HostSource>,
        service: Arc<dyn Fn() -> ServiceFacts + Send + Sync>,
    ) -> Result<Self, ApiError> {
        let (socket, listener) = Socket::listen(path)?;
        listener.set_nonblocking(true).map_err(ApiError::Start)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ApiError::Start)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::from_std(listener).map_err(ApiError::Start)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let app = router(Served { host, service });
        let thread = std::thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let (draining, drained) = oneshot::channel::<()>();
                    let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
                        // A sender that is dropped stops the server as well.
                        let _ = stopped.await;
                        let _ = draining.send(());
                    });
                    let out_of_time = async move {
                        let _ = drained.await;
                        tokio::time::sleep(GRACE).await;
                    };
                    tokio::select! {
                        // Accepting is retried inside; serving ends only by the signal above.
                        _ = serving => {}
                        () = out_of_time => {}
                    }
                });
            })
            .map_err(ApiError::Start)?;
        Ok(Self { socket, stop: Some(stop), thread: Some(thread) })
    }

    /// The socket file.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been printed already.
            let _ = thread.join();
        }
    }
}
