//! An HTTP server in the test's own process that says what reached it.
//!
//! It speaks HTTP/1.1 and HTTP/2 without TLS. A request is answered with JSON:
//! `{"served_by", "method", "path", "version", "authority", "headers": {name: value}, "body"}`; a repeated header's values are
//! joined with commas. The response header `x-served-by` says the same name.
//!
//! - `Upgrade` requests are accepted, and what then arrives is sent back.
//! - `content-type: application/grpc`: the messages are sent back as they arrive, with `grpc-status` in trailers, so that
//!   every method is an echo: unary or streamed.
//! - Request headers `x-echo-status`, `x-echo-delay-ms`, `x-echo-body-bytes` and `x-echo-grpc-status` change one answer;
//!   [`Backend::set_status`], [`Backend::set_delay`] and [`Backend::fail_next`] change all or the next.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::{port, tcp};

/// How many requests are remembered.
const REMEMBERED: usize = 10_000;

type Body = BoxBody<Bytes, hyper::Error>;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// `Host`, or `:authority`.
    pub authority: String,
    /// Its version.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
}

/// A running backend. Dropping it closes its listener and all connections.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    name: String,
    status: AtomicU16,
    delay_ms: AtomicU64,
    failing: Mutex<(u64, u16)>,
    hits: AtomicU64,
    connections: AtomicU64,
    seen: Mutex<VecDeque<Seen>>,
}

// === impl Backend ===

impl Backend {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(name: &str) -> Self {
        Self::start_at(name, port::free()).await
    }

    /// Starts one at this address.
    ///
    /// # Panics
    /// When it cannot listen there.
    pub async fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener =
            TcpListener::bind(address).await.unwrap_or_else(|e| panic!("{name} cannot listen on {address}: {e}"));
        let state = Arc::new(State {
            name: name.to_owned(),
            status: AtomicU16::new(200),
            delay_ms: AtomicU64::new(0),
            failing: Mutex::new((0, 200)),
            hits: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            seen: Mutex::new(VecDeque::new()),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, server }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// How many requests arrived.
    pub fn hits(&self) -> u64 {
        self.state.hits.load(Ordering::Relaxed)
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// The requests that arrived since the last call, oldest first; of very many, the latest.
    pub fn take_seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).drain(..).collect()
    }

    /// The status of all answers from now on.
    pub fn set_status(&self, status: u16) {
        self.state.status.store(status, Ordering::Relaxed);
    }

    /// Waits this long before every answer from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.state.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Answers the next `count` requests with `status`.
    pub fn fail_next(&self, count: u64, status: u16) {
        *lock(&self.state.failing) = (count, status);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // The set aborts the connections when this task is dropped.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                state.connections.fetch_add(1, Ordering::Relaxed);
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&state), request));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let seen = Seen {
        method: request.method().clone(),
        path: request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        authority: authority(&request),
        version: request.version(),
        headers: request.headers().clone(),
    };
    state.remember(&seen);
    let status = number(&seen.headers, "x-echo-status").unwrap_or_else(|| state.next_status());
    let delay = number(&seen.headers, "x-echo-delay-ms").unwrap_or_else(|| state.delay_ms.load(Ordering::Relaxed));
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let mut response = if seen.headers.contains_key(UPGRADE) {
        upgrade(request)
    } else if is_grpc(&seen.headers) {
        grpc(&seen, request)
    } else {
        echo(&state, &seen, request).await
    };
    if let Ok(status) = StatusCode::from_u16(status)
        && response.status() == StatusCode::OK
    {
        *response.status_mut() = status;
    }
    if let Ok(name) = HeaderValue::from_str(&state.name) {
        response.headers_mut().insert("x-served-by", name);
    }
    Ok(response)
}

async fn echo(state: &State, seen: &Seen, request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    if let Some(bytes) = number::<usize>(&seen.headers, "x-echo-body-bytes") {
        return Response::new(full(Bytes::from(vec![b'x'; bytes])));
    }
    let mut headers = serde_json::Map::new();
    for name in seen.headers.keys() {
        let values: Vec<_> =
            seen.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect();
        headers.insert(name.to_string(), Value::String(values.join(",")));
    }
    let text = json!({
        "served_by": state.name,
        "method": seen.method.as_str(),
        "path": seen.path,
        "version": format!("{:?}", seen.version),
        "authority": seen.authority,
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let mut response = Response::new(full(Bytes::from(text.to_string())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn grpc(seen: &Seen, request: Request<Incoming>) -> Response<Body> {
    let status = seen.headers.get("x-echo-grpc-status").cloned().unwrap_or_else(|| HeaderValue::from_static("0"));
    let trailers = async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status);
        Some(Ok(trailers))
    };
    let mut response = Response::new(BodyExt::boxed(request.into_body().with_trailers(trailers)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn upgrade(request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = request.headers().get(UPGRADE) {
        response.headers_mut().insert(UPGRADE, protocol.clone());
    }
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            tcp::echo(TokioIo::new(upgraded)).await;
        }
    });
    response
}

// === impl State ===

impl State {
    fn remember(&self, request: &Seen) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        let mut seen = lock(&self.seen);
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(request.clone());
    }

    fn next_status(&self) -> u16 {
        let mut failing = lock(&self.failing);
        if failing.0 > 0 {
            failing.0 -= 1;
            return failing.1;
        }
        self.status.load(Ordering::Relaxed)
    }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn authority(request: &Request<Incoming>) -> String {
    let host = request.headers().get(HOST).map(|h| String::from_utf8_lossy(h.as_bytes()).into_owned());
    host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn it_says_who_it_is_and_what_reached_it_in_both_versions() {
        let backend = Backend::start("reviews-v1").await;
        let reply =
            client::get(backend.addr(), "reviews:9080", "/a?b=c").header("x-user", "jason").send().await.unwrap();
        assert_eq!((reply.status, reply.served_by()), (200, "reviews-v1"));
        let json = reply.json();
        assert_eq!(json["path"], "/a?b=c");
        assert_eq!(json["authority"], "reviews:9080");
        assert_eq!(json["headers"]["x-user"], "jason");
        assert_eq!(json["version"], "HTTP/1.1");
        let reply = client::post(backend.addr(), "reviews:9080", "/", "hello").http2().send().await.unwrap();
        let json = reply.json();
        assert_eq!((&json["version"], &json["body"]), (&"HTTP/2.0".into(), &"hello".into()));
        assert_eq!(json["authority"], "reviews:9080");
        assert_eq!(backend.hits(), 2);
        assert_eq!(backend.take_seen()[0].path, "/a?b=c");
    }

    #[tokio::test]
    async fn it_fails_as_often_as_told() {
        let backend = Backend::start("ratings").await;
        backend.fail_next(1, 503);
        let mut statuses = Vec::new();
        for _ in 0..2 {
            statuses.push(client::get(backend.addr(), "ratings", "/").send().await.unwrap().status);
        }
        assert_eq!(statuses, [503, 200]);
        backend.set_status(418);
        assert_eq!(client::get(backend.addr(), "ratings", "/").send().await.unwrap().status, 418);
    }

    #[tokio::test]
    async fn grpc_messages_come_back_with_a_status_in_trailers() {
        let backend = Backend::start("grpc").await;
        let message: &[u8] = b"\0\0\0\0\x03abc";
        let reply = client::post(backend.addr(), "grpc", "/echo.Echo/Say", message)
            .header("content-type", "application/grpc")
            .header("x-echo-grpc-status", "7")
            .http2()
            .send()
            .await
            .unwrap();
        assert_eq!(&reply.body[..], message);
        assert_eq!(reply.trailers.get("grpc-status").unwrap(), "7");
    }

    #[tokio::test]
    async fn an_upgraded_connection_echoes() {
        let backend = Backend::start("socket").await;
        let (reply, mut stream) =
            client::get(backend.addr(), "socket", "/chat").upgrade("websocket").await.expect("upgraded");
        assert_eq!((reply.status, reply.header("upgrade")), (101, Some("websocket")));
        stream.write_all(b"ping").await.unwrap();
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"ping");
    }

    #[tokio::test]
    async fn a_dropped_backend_no_longer_accepts_connections() {
        let backend = Backend::start("gone").await;
        let address = backend.addr();
        drop(backend);
        crate::eventually(Duration::from_secs(5), "nobody listens", async || {
            matches!(client::get(address, "gone", "/").send().await, Err(client::Failure::Connect(_)))
        })
        .await;
    }
}
