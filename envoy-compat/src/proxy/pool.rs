//! Connections to upstream hosts, owned by one worker.
//!
//! HTTP/1.1: a stack, the most recently used connection first, so that the others can go idle and be closed.
//! HTTP/2: a few shared connections, a new one when all are at their stream limit.

use super::body::RequestBody;
use super::h1;
use super::upstream::{Host, LiveCluster, Shared, give, take};
use super::worker::Worker;
use crate::model::Cluster;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

/// All pools of a worker.
#[derive(Default)]
pub(super) struct Pools {
    by_host: RefCell<FxHashMap<u64, Rc<HostPool>>>,
}

/// Connections to one host.
pub(super) struct HostPool {
    pub host: Arc<Host>,
    idle: RefCell<Vec<(Box<h1::Connection>, Instant)>>,
    h2: RefCell<Vec<Rc<H2Connection>>>,
    /// Only one HTTP/2 connection is made at a time; the others wait and share it.
    making_h2: tokio::sync::Mutex<()>,
    /// How often that failed, and why the last time: those who waited for it share the failure as well.
    failed_h2: Cell<u64>,
    failure_h2: RefCell<Option<ConnectError>>,
    /// An HTTP/1.1 connection came back or was closed.
    released: Notify,
    open: Cell<u32>,
    idle_timeout: Cell<Option<Duration>>,
    max_requests: Cell<u32>,
}

pub(super) struct H2Connection {
    sender: http2::SendRequest<RequestBody>,
    streams: Cell<u32>,
    served: Cell<u32>,
    last: Cell<Instant>,
}

/// Counts a connection while it exists.
pub(super) struct ConnectionGuard {
    /// Not the cluster: a connection outlives many configurations.
    shared: Arc<Shared>,
    pool: Option<Rc<HostPool>>,
    worker: usize,
    limit: u32,
}

/// Counts an HTTP/2 stream while it exists.
pub(super) struct StreamGuard(Rc<H2Connection>);

/// Where to send a request.
pub(super) enum Ready {
    H1 { conn: Box<h1::Connection>, reused: bool },
    H2 { sender: http2::SendRequest<RequestBody>, guard: StreamGuard },
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// A circuit breaker is open.
    Overflow,
    /// `connect_timeout`.
    Timeout,
    /// The system's answer.
    Io(io::Error),
    /// The HTTP/2 handshake failed.
    Handshake(String),
}

/// Runs hyper's futures on the worker's own thread.
#[derive(Clone, Copy)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

// === impl Pools ===

impl Pools {
    /// The pool of `host`.
    pub fn of(&self, host: &Arc<Host>, cluster: &Cluster) -> Rc<HostPool> {
        let mut pools = self.by_host.borrow_mut();
        let pool = pools.entry(host.id).or_insert_with(|| Rc::new(HostPool::new(host.clone())));
        pool.idle_timeout.set(cluster.idle_timeout);
        pool.max_requests.set(cluster.max_requests_per_connection);
        pool.clone()
    }

    /// Closes what is broken, too long idle, or belongs to hosts that are gone.
    pub fn sweep(&self) {
        self.by_host.borrow_mut().retain(|_, pool| {
            pool.sweep();
            let used = pool.open.get() > 0 || !pool.idle.borrow().is_empty() || !pool.h2.borrow().is_empty();
            used || Rc::strong_count(pool) > 1
        });
    }

    /// Closes all idle connections. Connections hold their pool, so this also breaks the circle when a worker ends.
    pub fn clear(&self) {
        for pool in self.by_host.take().into_values() {
            let idle = pool.idle.take();
            drop((idle, pool.h2.take()));
        }
    }
}

// === impl HostPool ===

impl HostPool {
    fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            idle: RefCell::default(),
            h2: RefCell::default(),
            making_h2: tokio::sync::Mutex::new(()),
            failed_h2: Cell::new(0),
            failure_h2: RefCell::default(),
            released: Notify::new(),
            open: Cell::new(0),
            idle_timeout: Cell::new(None),
            max_requests: Cell::new(0),
        }
    }

    /// Takes an idle HTTP/1.1 connection back.
    pub fn put(&self, conn: Box<h1::Connection>) {
        let limit = self.max_requests.get();
        if (limit == 0 || conn.served < limit) && !self.host.gone.load(Ordering::Relaxed) {
            self.idle.borrow_mut().push((conn, Instant::now()));
        }
        self.released.notify_one();
    }

    /// Takes the connection of a stream out of the pool; streams under way go on.
    pub fn forget(&self, guard: &StreamGuard) {
        self.h2.borrow_mut().retain(|conn| !Rc::ptr_eq(conn, &guard.0));
    }

    fn take_idle(&self) -> Option<Box<h1::Connection>> {
        loop {
            let (conn, _) = self.idle.borrow_mut().pop()?;
            if conn.is_usable() {
                return Some(conn);
            }
        }
    }

    fn sweep(&self) {
        let gone = self.host.gone.load(Ordering::Relaxed);
        let timeout = self.idle_timeout.get();
        let keep = |since: Instant| !gone && timeout.is_none_or(|timeout| since.elapsed() < timeout);
        let removed: Vec<_> = {
            let mut idle = self.idle.borrow_mut();
            idle.extract_if(.., |(conn, since)| !keep(*since) || !conn.is_usable()).collect()
        };
        // Closing may wake others: not while the list is borrowed.
        drop(removed);
        self.h2
            .borrow_mut()
            .retain(|conn| !conn.sender.is_closed() && (conn.streams.get() > 0 || keep(conn.last.get())));
    }

    /// A connection for one HTTP/1.1 request. `fresh`: not one from the stack.
    pub async fn h1(
        self: &Rc<Self>,
        worker: &Worker,
        cluster: &Arc<LiveCluster>,
        mut fresh: bool,
    ) -> Result<Ready, ConnectError> {
        loop {
            if !fresh && let Some(conn) = self.take_idle() {
                return Ok(Ready::H1 { conn, reused: true });
            }
            let limits = *cluster.limits();
            // Every worker may have one connection to every host, as in Envoy; otherwise nobody could ever wait.
            let allowed = take(&cluster.shared.connections, limits.max_connections);
            if allowed || self.open.get() == 0 {
                if !allowed {
                    cluster.shared.connections.fetch_add(1, Ordering::Relaxed);
                }
                let tcp = self.connect(worker, cluster).await?;
                cluster.shared.stats.at(worker.id).upstream_cx_http1_total.inc();
                return Ok(Ready::H1 { conn: h1::Connection::new(tcp.0, tcp.1), reused: false });
            }
            if fresh && let Some((idle, _)) = { self.idle.borrow_mut().pop() } {
                // Nobody would release a connection while all of them are idle: one makes room for the fresh one.
                drop(idle);
                continue;
            }
            let stats = cluster.shared.stats.at(worker.id);
            stats.upstream_cx_overflow.inc();
            if !take(&cluster.shared.pending, limits.max_pending) {
                stats.upstream_rq_pending_overflow.inc();
                return Err(ConnectError::Overflow);
            }
            stats.upstream_rq_pending_active.inc();
            let waiting = Waiting { cluster, worker: worker.id, limit: limits.max_pending };
            self.released.notified().await;
            drop(waiting);
            // What is released now was in use a moment ago; ignoring it would lose the wake-up for good.
            fresh = false;
        }
    }

    /// A stream of an HTTP/2 connection.
    pub async fn h2(self: &Rc<Self>, worker: &Worker, cluster: &Arc<LiveCluster>) -> Result<Ready, ConnectError> {
        if let Some(ready) = self.shared_h2(cluster) {
            return Ok(ready);
        }
        let failed = self.failed_h2.get();
        let _making = self.making_h2.lock().await;
        if let Some(ready) = self.shared_h2(cluster) {
            return Ok(ready);
        }
        // Each of those who waited would otherwise wait for a timeout of its own, one after the other.
        if self.failed_h2.get() != failed
            && let Some(failure) = &*self.failure_h2.borrow()
        {
            return Err(failure.again());
        }
        let limits = cluster.limits();
        if !take(&cluster.shared.connections, limits.max_connections) {
            if self.h2.borrow().iter().any(|conn| !conn.sender.is_closed()) {
                cluster.shared.stats.at(worker.id).upstream_cx_overflow.inc();
                return Err(ConnectError::Overflow);
            }
            cluster.shared.connections.fetch_add(1, Ordering::Relaxed);
        }
        let made = self.make_h2(worker, cluster).await;
        if let Err(failure) = &made {
            self.failed_h2.set(self.failed_h2.get() + 1);
            *self.failure_h2.borrow_mut() = Some(failure.again());
        }
        Ok(made?.ready())
    }

    /// An HTTP/2 connection, shared from now on.
    async fn make_h2(
        self: &Rc<Self>,
        worker: &Worker,
        cluster: &Arc<LiveCluster>,
    ) -> Result<Rc<H2Connection>, ConnectError> {
        let (tcp, guard) = self.connect(worker, cluster).await?;
        cluster.shared.stats.at(worker.id).upstream_cx_http2_total.inc();
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(256 * 1024)
            .initial_max_send_streams(cluster.config.max_concurrent_streams as usize);
        let handshake = builder.handshake::<_, RequestBody>(TokioIo::new(tcp));
        let (sender, connection) = match tokio::time::timeout(cluster.config.connect_timeout, handshake).await {
            Ok(done) => done.map_err(|error| ConnectError::Handshake(error.to_string()))?,
            Err(_) => return Err(ConnectError::Timeout),
        };
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an upstream HTTP/2 connection ended");
            }
            drop(guard);
        });
        let conn = Rc::new(H2Connection {
            sender,
            streams: Cell::new(0),
            served: Cell::new(0),
            last: Cell::new(Instant::now()),
        });
        self.h2.borrow_mut().push(conn.clone());
        Ok(conn)
    }

    fn shared_h2(&self, cluster: &LiveCluster) -> Option<Ready> {
        let most = cluster.config.max_concurrent_streams;
        let limit = cluster.config.max_requests_per_connection;
        let mut all = self.h2.borrow_mut();
        all.retain(|conn| !conn.sender.is_closed() && (limit == 0 || conn.served.get() < limit));
        all.iter().find(|conn| conn.streams.get() < most).map(|conn| conn.ready())
    }

    /// A TCP connection that counts as one of the cluster's. The caller has taken the connection limit's unit.
    pub async fn connect(
        self: &Rc<Self>,
        worker: &Worker,
        cluster: &Arc<LiveCluster>,
    ) -> Result<(TcpStream, ConnectionGuard), ConnectError> {
        self.open.set(self.open.get() + 1);
        let stats = cluster.shared.stats.at(worker.id);
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        let limit = cluster.limits().max_connections;
        // From here on, dropping the guard undoes the counts, whatever happens.
        let guard =
            ConnectionGuard { shared: cluster.shared.clone(), pool: Some(self.clone()), worker: worker.id, limit };
        match tokio::time::timeout(cluster.config.connect_timeout, dial(&self.host, &cluster.config)).await {
            Ok(Ok(tcp)) => Ok((tcp, guard)),
            Ok(Err(error)) => {
                stats.upstream_cx_connect_fail.inc();
                Err(ConnectError::Io(error))
            }
            Err(_) => {
                stats.upstream_cx_connect_fail.inc();
                stats.upstream_cx_connect_timeout.inc();
                Err(ConnectError::Timeout)
            }
        }
    }
}

async fn dial(host: &Host, cluster: &Cluster) -> io::Result<TcpStream> {
    let socket = if host.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(source) = cluster.source_address.filter(|source| source.is_ipv4() == host.address.is_ipv4()) {
        socket.bind(source)?;
    }
    if let Some((time, interval, probes)) = cluster.tcp_keepalive {
        let keepalive = socket2::TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes);
        socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    }
    socket.connect(host.address).await
}

struct Waiting<'a> {
    cluster: &'a LiveCluster,
    worker: usize,
    limit: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        give(&self.cluster.shared.pending, self.limit);
        self.cluster.shared.stats.at(self.worker).upstream_rq_pending_active.dec();
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// The same failure for somebody else.
    fn again(&self) -> Self {
        match self {
            Self::Overflow => Self::Overflow,
            Self::Timeout => Self::Timeout,
            Self::Io(error) => Self::Io(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            Self::Handshake(text) => Self::Handshake(text.clone()),
        }
    }
}

// === impl H2Connection ===

impl H2Connection {
    fn ready(self: &Rc<Self>) -> Ready {
        self.streams.set(self.streams.get() + 1);
        self.served.set(self.served.get() + 1);
        Ready::H2 { sender: self.sender.clone(), guard: StreamGuard(self.clone()) }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.last.set(Instant::now());
    }
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    /// Counts bytes to the upstream.
    pub fn sent(&self, bytes: usize) {
        self.shared.stats.at(self.worker).upstream_cx_tx_bytes_total.add(bytes as u64);
    }

    /// Counts bytes from the upstream.
    pub fn received(&self, bytes: usize) {
        self.shared.stats.at(self.worker).upstream_cx_rx_bytes_total.add(bytes as u64);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let stats = self.shared.stats.at(self.worker);
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        give(&self.shared.connections, self.limit);
        if let Some(pool) = self.pool.take() {
            pool.open.set(pool.open.get() - 1);
            pool.released.notify_one();
        }
    }
}
