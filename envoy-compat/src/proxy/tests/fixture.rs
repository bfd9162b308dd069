//! Upstreams, clients and a builder of snapshots.

use crate::model::*;
use crate::proxy::{Applied, Options, StatsSnapshot, Workers};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// A request as an upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: Arc<http::request::Parts>,
    pub body: Bytes,
}

/// An HTTP server that does what the path says.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub failures: Arc<AtomicU32>,
    pub connections: Arc<AtomicU32>,
}

impl Upstream {
    /// `h2`: with prior knowledge, else HTTP/1.1.
    pub async fn start(name: &'static str, h2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            failures: Arc::default(),
            connections: Arc::default(),
        };
        let shared = this.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(name, shared.clone(), request));
                    if h2 {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = builder.serve_connection(TokioIo::new(tcp), service).await;
                    } else {
                        let builder = hyper::server::conn::http1::Builder::new();
                        let _ = builder.serve_connection(TokioIo::new(tcp), service).with_upgrades().await;
                    }
                });
            }
        });
        this
    }

    /// The header `name` of the last request.
    pub fn last(&self, name: &str) -> Option<String> {
        let seen = self.seen.lock();
        seen.last()?.head.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    pub fn count(&self) -> usize {
        self.seen.lock().len()
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn text(status: u16, body: impl Into<Bytes>) -> Answer {
    Response::builder().status(status).body(Full::new(body.into()).boxed()).unwrap()
}

async fn answer(
    name: &'static str,
    shared: Upstream,
    mut request: Request<Incoming>,
) -> Result<Answer, std::io::Error> {
    let path = request.uri().path().to_owned();
    if path == "/upgrade" {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let (mut reader, mut writer) = tokio::io::split(&mut io);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        return Ok(response.body(Full::default().boxed()).unwrap());
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    shared.seen.lock().push(Seen { head: Arc::new(head), body: body.clone() });
    if shared.failures.load(Ordering::SeqCst) > 0 {
        shared.failures.fetch_sub(1, Ordering::SeqCst);
        if path == "/reset" {
            return Err(std::io::Error::other("reset on purpose"));
        }
        return Ok(text(503, "failed on purpose"));
    }
    Ok(match path.as_str() {
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            text(200, name)
        }
        "/endless" => {
            let stream = futures_util::stream::unfold(0, |at| async move {
                if at > 0 {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                }
                Some((Ok(Frame::data(Bytes::from_static(b"part"))), at + 1))
            });
            Response::new(StreamBody::new(stream).boxed())
        }
        "/echo" => text(200, body),
        "/trailers" => {
            let trailers: HeaderMap = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
            let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
            let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
            response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            response
        }
        "/hop" => Response::builder()
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .body(Full::default().boxed())
            .unwrap(),
        status if status.starts_with("/status/") => text(status[8..].parse().unwrap(), name),
        _ => text(200, name),
    })
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A connection of a client.
pub enum Client {
    H1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    H2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub async fn h1(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self::H1(sender)
    }

    pub async fn h2(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        Self::H2(sender)
    }

    pub async fn try_send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
        let response = match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::H2(sender) => sender.send_request(request).await?,
        };
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        let body = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body, trailers })
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        self.try_send(request).await.unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Reply {
        let request = match self {
            Self::H1(_) => Request::get(path).header("host", "shop"),
            Self::H2(_) => Request::get(format!("http://shop{path}")),
        };
        self.send(request.body(Full::default()).unwrap()).await
    }
}

pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "shop").body(Full::new(body.into())).unwrap()
}

/// A snapshot under construction, and the proxy that runs it.
pub struct Proxy {
    pub workers: Workers,
    pub snapshot: Snapshot,
    pub bound: Vec<(Arc<str>, SocketAddr)>,
    pub log: tempfile::NamedTempFile,
}

impl Proxy {
    /// One worker, no listener.
    pub fn start() -> Self {
        Self::with_workers(1)
    }

    pub fn with_workers(concurrency: usize) -> Self {
        let log_flush = Duration::from_millis(5);
        let drain_time = Duration::from_millis(200);
        let workers = Workers::start(Options { concurrency, log_flush, drain_time, ..Options::default() }).unwrap();
        Self { workers, snapshot: Snapshot::default(), bound: Vec::new(), log: tempfile::NamedTempFile::new().unwrap() }
    }

    /// A proxy with an HTTP listener that has one route, to cluster `c` of these addresses.
    pub fn simple(addresses: &[SocketAddr]) -> Self {
        let mut proxy = Self::start();
        proxy.cluster("c", addresses, |_| ());
        proxy.routes(vec![Route::new(RouteMatch::prefix("/"), Forward::to("c").into())]);
        proxy.http(|_| ());
        proxy.apply();
        proxy
    }

    pub fn cluster(&mut self, name: &str, addresses: &[SocketAddr], change: impl FnOnce(&mut Cluster)) {
        let mut cluster = Cluster::new(name, Discovery::Eds);
        change(&mut cluster);
        let endpoints = Arc::new(Endpoints::of(addresses.iter().copied()));
        self.snapshot.clusters.insert(name.into(), ClusterEntry { cluster: Arc::new(cluster), endpoints });
    }

    pub fn routes(&mut self, routes: Vec<Route>) {
        self.host(VirtualHost::new("shop", ["*"], routes));
    }

    pub fn host(&mut self, host: VirtualHost) {
        self.snapshot.routes.insert("r".into(), Arc::new(RouteTable::new("r", vec![host]).unwrap()));
    }

    /// Listener `http`, with fault and CORS filters.
    pub fn http(&mut self, change: impl FnOnce(&mut HttpConnectionManager)) {
        let mut http = HttpConnectionManager::new("in", RouteSource::Rds("r".into()));
        http.filters.insert(0, HttpFilter::Fault(Arc::default()));
        http.filters.insert(1, HttpFilter::Cors);
        http.upgrades = vec!["websocket".into()];
        http.access_logs = vec![AccessLog::text(AccessLogSink::File(self.log.path().into()))];
        change(&mut http);
        self.listen("http", NetworkFilter::Http(Arc::new(http)), |_| ());
    }

    pub fn listen(&mut self, name: &str, filter: NetworkFilter, change: impl FnOnce(&mut Listener)) {
        let mut listener = Listener::new(name, "127.0.0.1:0".parse().unwrap(), filter);
        listener.stat_name = name.into();
        change(&mut listener);
        self.snapshot.listeners.retain(|other| &*other.name != name);
        self.snapshot.listeners.push(Arc::new(listener));
    }

    pub fn apply(&mut self) -> Applied {
        let applied = self.workers.apply(Arc::new(self.snapshot.clone()));
        self.bound = applied.bound.clone();
        applied
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        self.bound.iter().find(|(name, _)| &**name == listener).unwrap().1
    }

    pub async fn client(&self) -> Client {
        Client::h1(self.address("http")).await
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.workers.stats().get(name).unwrap_or_else(|| panic!("no statistic {name}"))
    }

    /// Waits until the statistics say so.
    pub async fn until(&self, wanted: impl Fn(&StatsSnapshot) -> bool) {
        eventually(|| wanted(&self.workers.stats())).await;
    }

    /// Waits for `lines` lines in the access log.
    pub async fn log_lines(&self, lines: usize) -> Vec<String> {
        let read = || std::fs::read_to_string(self.log.path()).unwrap();
        eventually(|| read().lines().count() >= lines).await;
        read().lines().map(str::to_owned).collect()
    }
}

pub async fn eventually(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "the condition never became true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An address that nobody listens on.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub fn forward(change: impl FnOnce(&mut Forward)) -> Vec<Route> {
    let mut forward = Forward::to("c");
    change(&mut forward);
    vec![Route::new(RouteMatch::prefix("/"), forward.into())]
}

pub fn retry(on: &str, retries: u32) -> Option<Arc<RetryPolicy>> {
    let base_interval = Duration::from_millis(1);
    Some(Arc::new(RetryPolicy { on: RetryOn::parse(on).0, retries, base_interval, ..RetryPolicy::default() }))
}
