//! The listening side: HTTP/2 connections, and the discovery services on them.
//!
//! [`XdsServer::serve`] runs a listener by itself; [`XdsServer::serve_connection`] takes a connection that somebody else
//! accepted, over TLS for example; [`XdsServer::routes`] gives the services to a tonic server that has more of them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;

use super::grpc::{Method, SERVICES, Status};
use super::meters::Meters;
use super::shape::Shapes;
use super::status::Streams;
use super::stream::XdsBody;

/// Limits and times of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The longest request that is read. A reconnecting proxy lists all that it has: about 90 bytes per resource.
    pub max_request_bytes: usize,
    /// How often an idle connection is asked whether it lives.
    pub keep_alive: Duration,
    /// How long an answer to that may take.
    pub keep_alive_timeout: Duration,
    /// How many streams one connection may have.
    pub max_streams: u32,
    /// How long streams get to end when the server stops.
    pub grace: Duration,
}

/// The xDS server. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct XdsServer {
    core: Arc<Core>,
}

/// One discovery service, for a tonic server. `N` numbers the services.
#[derive(Clone)]
pub struct Discovery<const N: usize> {
    server: XdsServer,
}

/// What all streams share.
pub(crate) struct Core {
    pub(crate) shapes: Arc<dyn Shapes>,
    pub(crate) options: Options,
    pub(crate) streams: Arc<Streams>,
    pub(crate) meters: Meters,
    pub(crate) stopping: AtomicBool,
}

#[derive(Clone)]
struct Spawn;

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            max_request_bytes: 32 * 1024 * 1024,
            keep_alive: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
            max_streams: 128,
            grace: Duration::from_secs(2),
        }
    }
}

// === impl XdsServer ===

impl XdsServer {
    /// Makes a server that serves `shapes`. Install a metrics recorder before, or nothing is measured.
    pub fn new(shapes: Arc<dyn Shapes>, options: Options) -> Self {
        let (streams, meters) = (Arc::default(), Meters::new());
        Self { core: Arc::new(Core { shapes, options, streams, meters, stopping: AtomicBool::new(false) }) }
    }

    /// Every connected stream.
    pub fn streams(&self) -> Arc<Streams> {
        Arc::clone(&self.core.streams)
    }

    /// Accepts HTTP/2 connections in plaintext until `stop` is cancelled, and returns when their streams have ended.
    ///
    /// # Errors
    /// None after the listener is bound: a connection that cannot be accepted is logged, and the next one is.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    // Answers are written whole; waiting for more would only delay them.
                    let _ = socket.set_nodelay(true);
                    let (server, stop) = (self.clone(), stop.clone());
                    connections.spawn(async move { server.serve_connection(socket, Some(peer), stop).await });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give connections time to close.
                    tracing::warn!(%error, "cannot accept an xDS connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        self.stop();
        connections.close();
        let _ = tokio::time::timeout(self.core.options.grace, connections.wait()).await;
        Ok(())
    }

    /// Serves one connection that is already established, until it or the server ends.
    pub async fn serve_connection<I>(&self, io: I, peer: Option<SocketAddr>, stop: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let options = &self.core.options;
        let server = self.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let response = server.respond(request, peer);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http2::Builder::new(Spawn)
            .timer(TokioTimer::new())
            .keep_alive_interval(options.keep_alive)
            .keep_alive_timeout(options.keep_alive_timeout)
            .max_concurrent_streams(options.max_streams)
            .max_header_list_size(16 * 1024)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(?peer, %error, "an xDS connection ended");
        }
    }

    /// Ends every stream with `UNAVAILABLE`, so that clients go to another replica at once.
    pub fn stop(&self) {
        self.core.stopping.store(true, Ordering::Release);
        self.core.streams.wake_all();
    }

    /// The services, for a tonic server that serves others beside them.
    pub fn routes(&self) -> tonic::service::Routes {
        tonic::service::Routes::new(Discovery::<0> { server: self.clone() })
            .add_service(Discovery::<1> { server: self.clone() })
            .add_service(Discovery::<2> { server: self.clone() })
            .add_service(Discovery::<3> { server: self.clone() })
            .add_service(Discovery::<4> { server: self.clone() })
            .add_service(Discovery::<5> { server: self.clone() })
    }

    fn respond<B>(&self, request: Request<B>, peer: Option<SocketAddr>) -> Response<XdsBody<B>> {
        let grpc =
            request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if !grpc {
            let mut response = Response::new(XdsBody::ended());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let refused = match Method::from_path(request.uri().path()) {
            Method::Stream(variant, only) => {
                let body = XdsBody::new(Arc::clone(&self.core), request.into_body(), variant, only, peer);
                return answered(Response::new(body));
            }
            Method::Fetch => Status::unimplemented(
                "fetching once is not offered; use the streaming method of the same service (api_type GRPC or DELTA_GRPC)",
            ),
            Method::Unknown => Status::unimplemented(format!("{} is not served here", request.uri().path())),
        };
        let mut response = answered(Response::new(XdsBody::ended()));
        response.headers_mut().extend(refused.headers());
        response
    }
}

fn answered<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

// === impl Discovery ===

impl<const N: usize> NamedService for Discovery<N> {
    const NAME: &'static str = SERVICES[N];
}

impl<const N: usize, B> tower::Service<Request<B>> for Discovery<N>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Response = Response<XdsBody<B>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer =
            request.extensions().get::<tonic::transport::server::TcpConnectInfo>().and_then(|info| info.remote_addr());
        std::future::ready(Ok(self.server.respond(request, peer)))
    }
}
