//! A downstream connection: from `accept` to the filter chain that serves it.

use super::control::{Control, Serving};
use super::http::handle;
use super::live::{LiveFilter, LiveHttp, LiveListener};
use super::pool::LocalExecutor;
use super::sniff::{self, Sniffed};
use super::stats::{HttpStats, ListenerStats, Sharded};
use super::stream::Stream;
use super::tcp;
use super::worker::{Held, Worker};
use crate::model::{Codec, ConnectionFacts, HttpConnectionManager, ListenerFilter};
use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

/// An HTTP connection, shared by its requests. It lasts until the last of them has ended, upgraded ones included.
pub(super) struct Downstream {
    pub worker: Rc<Worker>,
    pub control: Rc<Control>,
    pub facts: Rc<ConnectionFacts>,
    pub h2: bool,
    serving: Rc<RefCell<Serving>>,
    stats: Arc<Sharded<HttpStats>>,
    _place: Place,
}

/// Counts a connection, at its listener and at its worker, while it exists.
struct Place {
    worker: Rc<Worker>,
    control: Rc<Control>,
    stats: Arc<Sharded<ListenerStats>>,
    connections: Arc<AtomicU32>,
}

/// Takes a new connection: finds its listener, counts it, and starts to serve it.
pub(super) fn accepted(
    worker: &Rc<Worker>,
    live: &Rc<Held>,
    bound: &Arc<LiveListener>,
    tcp: TcpStream,
    peer: SocketAddr,
) {
    let local = tcp.local_addr().unwrap_or(bound.config.address);
    let mut destination = plain(local);
    if bound.config.use_original_dst || bound.config.has(ListenerFilter::OriginalDst) {
        destination = original_destination(&tcp, local).map_or(destination, plain);
    }
    let listener = match bound.config.use_original_dst.then(|| live.for_destination(destination)).flatten() {
        Some(other) => other,
        None => bound,
    };
    let Some(place) = Place::new(worker, listener) else { return };
    spawn_local(serve(place, live.clone(), listener.clone(), tcp, destination, plain(peer)));
}

/// Serves one connection until it ends.
async fn serve(
    place: Place,
    live: Rc<Held>,
    listener: Arc<LiveListener>,
    mut tcp: TcpStream,
    destination: SocketAddr,
    source: SocketAddr,
) {
    let (worker, control) = (place.worker.clone(), place.control.clone());
    let mut buffer = BytesMut::new();
    let filters = run_listener_filters(&worker, &listener, &mut tcp, &mut buffer);
    let Some(sniffed) = control.unless_closed(filters).await.flatten() else { return };
    let facts = Rc::new(ConnectionFacts {
        destination,
        source,
        server_name: sniffed.server_name,
        tls: sniffed.tls,
        protocols: sniffed.protocols,
    });
    // The first bytes may have come long after the connection.
    let now = worker.live();
    let newer = now.listeners.get(&control.listener).cloned();
    let (live, listener) = match newer {
        Some(newer) => {
            // Arguments live as long as the task, unless they are given up.
            drop((live, listener));
            (now, newer)
        }
        None => {
            drop(now);
            control.drain();
            (live, listener)
        }
    };
    let Some(chain) = listener.chain(&facts).cloned() else {
        listener.stats.at(worker.id).no_filter_chain_match.inc();
        return;
    };
    match &chain.filter {
        LiveFilter::Tcp(filter) => {
            drop(listener);
            control.carry_bytes(worker.core.drain_time);
            let mut stream = Stream::new(tcp, Bytes::new());
            tcp::serve(&worker, live, filter, &control, &facts, &mut stream, buffer.freeze()).await;
        }
        LiveFilter::Http(http) => {
            let http = http.clone();
            drop(chain);
            control.limit(http.config.idle_timeout, http.config.drain_timeout);
            // From here on the configuration is followed, not kept, also while the client is silent.
            let serving = Serving { live, listener, http: http.clone(), facts: facts.clone() };
            let serving = control.serve_with(serving);
            let h2 = match http.config.codec {
                Codec::Http1 => false,
                Codec::Http2 => true,
                Codec::Auto => match control.unless_closed(sniff::is_http2(&mut tcp, &mut buffer)).await {
                    Some(Ok(h2)) => h2,
                    Some(Err(_)) | None => return,
                },
            };
            let stats = http.stats.clone();
            let conn = Rc::new(Downstream { worker, control, facts, h2, serving, stats, _place: place });
            serve_http(conn, http.config.clone(), Stream::new(tcp, buffer.freeze())).await;
        }
    }
}

/// `None`: the connection is to be closed.
async fn run_listener_filters(
    worker: &Worker,
    listener: &LiveListener,
    tcp: &mut TcpStream,
    buffer: &mut BytesMut,
) -> Option<Sniffed> {
    let tls = listener.config.has(ListenerFilter::TlsInspector);
    let http = listener.config.has(ListenerFilter::HttpInspector);
    if !tls && !http {
        return Some(Sniffed::default());
    }
    let stats = listener.stats.at(worker.id);
    let inspect = sniff::inspect(tcp, buffer, tls, http);
    let looked = match listener.config.listener_filters_timeout {
        None => Ok(inspect.await),
        Some(limit) => tokio::time::timeout(limit, inspect).await,
    };
    match looked {
        Ok(Ok(sniffed)) => Some(sniffed),
        Ok(Err(_)) => {
            stats.downstream_listener_filter_error.inc();
            None
        }
        Err(_) => {
            stats.downstream_pre_cx_timeout.inc();
            listener.config.continue_on_timeout.then(Sniffed::default)
        }
    }
}

async fn serve_http(conn: Rc<Downstream>, config: Arc<HttpConnectionManager>, stream: Stream) {
    let control = conn.control.clone();
    let h2 = conn.h2;
    let all = conn.stats.clone();
    let stats = all.at(conn.worker.id);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| handle(conn.clone(), request));
    if h2 {
        stats.downstream_cx_http2_total.inc();
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .max_concurrent_streams(config.max_concurrent_streams)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_header_list_size(config.max_request_headers as u32);
        let mut serving = pin!(builder.serve_connection(io, service));
        if control.draining.get() {
            serving.as_mut().graceful_shutdown();
        }
        loop {
            tokio::select! {
                biased;
                _ = serving.as_mut() => break,
                () = control.wake.notified() => serving.as_mut().graceful_shutdown(),
            }
        }
    } else {
        stats.downstream_cx_http1_total.inc();
        let mut builder = http1::Builder::new();
        builder.header_read_timeout(None).max_headers(256);
        if let Some(limit) = config.request_headers_timeout {
            builder.timer(TokioTimer::new()).header_read_timeout(limit);
        }
        let mut serving = pin!(builder.serve_connection(io, service).with_upgrades());
        loop {
            tokio::select! {
                biased;
                _ = serving.as_mut() => break,
                () = control.wake.notified() => {
                    // Draining alone waits for the next response, which says `connection: close`: a client that is
                    // about to send a request must not meet a closed socket.
                    if control.close.get() {
                        serving.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
}

// === impl Downstream ===

impl Downstream {
    /// The connection manager and the configuration now: after a change, the chain is chosen again. When the listener is
    /// gone or has no such chain any more, the last ones serve the rest of the connection's life.
    pub fn serving(&self) -> (Arc<LiveHttp>, Rc<Held>) {
        self.control.follow(&self.worker.live());
        let serving = self.serving.borrow();
        (serving.http.clone(), serving.live.clone())
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        let stats = self.stats.at(self.worker.id);
        if self.control.draining.get() {
            stats.downstream_cx_drain_close.inc();
        } else if self.control.close.get() {
            stats.downstream_cx_idle_timeout.inc();
        }
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
    }
}

// === impl Place ===

impl Place {
    /// `None`: the listener has too many connections.
    fn new(worker: &Rc<Worker>, listener: &LiveListener) -> Option<Self> {
        let place = Self {
            worker: worker.clone(),
            control: worker.register(&listener.config),
            stats: listener.stats.clone(),
            connections: listener.connections.clone(),
        };
        let open = place.connections.fetch_add(1, Ordering::Relaxed);
        let stats = place.stats.at(worker.id);
        stats.downstream_cx_active.inc();
        if listener.config.max_connections.is_some_and(|most| open >= most) {
            stats.downstream_cx_overflow.inc();
            return None;
        }
        stats.downstream_cx_total.inc();
        Some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        let stats = self.stats.at(self.worker.id);
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        self.worker.forget(&self.control);
    }
}

/// The address before iptables redirected the connection (`SO_ORIGINAL_DST`); with TPROXY it is the local address.
fn original_destination(tcp: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = socket2::SockRef::from(tcp);
    let address = match local.ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    address.ok().and_then(|address| address.as_socket())
}

/// An IPv4 address in IPv6 clothes becomes IPv4 again.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
