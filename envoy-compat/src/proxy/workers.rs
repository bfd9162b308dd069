//! What the rest of the sidecar sees of the data path: start it, give it configuration, read its numbers, stop it.

use super::live::{BindKey, Live, Registry};
use super::log::Sinks;
use super::resolve::Resolver;
use super::stats::StatsSnapshot;
use super::upstream::Resolved;
use super::worker::{self, Command};
use crate::model::{Health, Locality, Snapshot, TrafficDirection};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// Connections that wait for `accept`.
pub(super) const BACKLOG: i32 = 4096;

/// How the data path is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Worker threads; at least 1.
    pub concurrency: usize,
    /// `%HOSTNAME%` of access logs.
    pub hostname: String,
    /// How long a line of the access log may wait in memory.
    pub log_flush: Duration,
    /// How long TCP connections and tunnels of a removed listener may go on.
    pub drain_time: Duration,
}

/// A running data path. Dropping it stops the workers at once; call [`Workers::drain`] before.
pub struct Workers {
    core: Arc<Core>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// The outcome of [`Workers::apply`].
#[derive(Debug, Default)]
pub struct Applied {
    /// Listeners that do not listen, and why. Everything else is in effect.
    pub errors: Vec<BindError>,
    /// Where each bound listener listens (ports of 0 replaced).
    pub bound: Vec<(Arc<str>, SocketAddr)>,
}

/// A listener's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot listen on {address}: {source}; free the address or change the listener")]
pub struct BindError {
    /// The listener.
    pub listener: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// The system's reason.
    #[source]
    pub source: io::Error,
}

/// An endpoint as the data path sees it, for the admin interface.
#[derive(Clone, Debug, PartialEq)]
pub struct HostStatus {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// The name it was resolved from.
    pub hostname: Option<Arc<str>>,
    /// Where it is.
    pub locality: Locality,
    /// Its priority.
    pub priority: u32,
    /// Its weight.
    pub weight: u32,
    /// As told by the control plane.
    pub health: Health,
    /// Ejected by outlier detection.
    pub ejected: bool,
    /// Requests at this moment.
    pub active: u32,
    /// Requests ever.
    pub total: u64,
    /// Failed requests ever.
    pub errors: u64,
}

/// Shared by all threads.
pub(super) struct Core {
    pub live: ArcSwap<Live>,
    /// Grows with every change of `live`.
    pub version: AtomicU64,
    pub sinks: Sinks,
    pub hostname: Box<str>,
    pub log_flush: Duration,
    /// Downstream connections, all workers.
    pub connections: AtomicU32,
    /// Those of them that are not the workload's own.
    pub inbound: AtomicU32,
    pub drain_time: Duration,
    /// Changes only while `builder` is locked.
    draining: AtomicBool,
    commands: Vec<UnboundedSender<Command>>,
    builder: Mutex<Builder>,
}

#[derive(Default)]
struct Builder {
    registry: Registry,
    bound: FxHashMap<BindKey, SocketAddr>,
    resolved: Resolved,
    resolver: Option<Resolver>,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 1,
            hostname: "-".into(),
            log_flush: Duration::from_millis(250),
            drain_time: Duration::from_secs(45),
        }
    }
}

// === impl Workers ===

impl Workers {
    /// Starts the threads; nothing listens until [`Workers::apply`]. Errs if a thread or its runtime cannot be made.
    pub fn start(options: Options) -> io::Result<Self> {
        let concurrency = options.concurrency.max(1);
        let (commands, queues): (Vec<_>, Vec<_>) =
            (0..concurrency).map(|_| tokio::sync::mpsc::unbounded_channel()).unzip();
        let core = Arc::new(Core {
            live: ArcSwap::default(),
            version: AtomicU64::new(0),
            sinks: Sinks::start()?,
            hostname: options.hostname.into(),
            log_flush: options.log_flush,
            connections: AtomicU32::new(0),
            inbound: AtomicU32::new(0),
            drain_time: options.drain_time,
            draining: AtomicBool::new(false),
            commands,
            builder: Mutex::default(),
        });
        let mut threads = Vec::new();
        for (id, queue) in queues.into_iter().enumerate() {
            threads.push(worker::spawn(id, core.clone(), queue)?);
        }
        let resolver = Resolver::start(Arc::downgrade(&core))?;
        core.builder.lock().resolver = Some(resolver);
        Ok(Self { core, threads })
    }

    /// Makes `snapshot` the configuration of all workers.
    ///
    /// Requests that have begun keep what they began with. Connections stay open; their next request follows the new
    /// configuration. Listeners that are gone stop to listen, and their connections are drained. Once
    /// [`Workers::drain`] was called, no listener is bound any more.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Applied {
        let mut builder = self.core.builder.lock();
        let builder = &mut *builder;
        if let Some(resolver) = &builder.resolver {
            resolver.watch(&snapshot);
        }
        let mut applied = Applied::default();
        let mut wanted: FxHashMap<BindKey, Arc<str>> = FxHashMap::default();
        for listener in snapshot.listeners.iter().filter(|listener| listener.bind_to_port) {
            for key in BindKey::all(listener) {
                if let Some(owner) = wanted.get(&key) {
                    let source = io::Error::new(io::ErrorKind::AddrInUse, format!("listener {owner} has this address"));
                    applied.errors.push(BindError { listener: listener.name.clone(), address: key.address, source });
                } else {
                    wanted.insert(key, listener.name.clone());
                }
            }
        }
        let draining = self.core.draining.load(Ordering::Relaxed);
        let mut fresh = Vec::new();
        for (key, owner) in &wanted {
            if let Some(actual) = builder.bound.get(key) {
                applied.bound.push((owner.clone(), *actual));
                continue;
            }
            if draining {
                continue;
            }
            let transparent = snapshot.listeners.iter().any(|listener| listener.name == *owner && listener.transparent);
            match bind(key.address, self.core.commands.len(), transparent) {
                Ok((actual, sockets)) => {
                    applied.bound.push((owner.clone(), actual));
                    builder.bound.insert(key.clone(), actual);
                    fresh.push((key.clone(), sockets));
                }
                Err(source) => {
                    applied.errors.push(BindError { listener: owner.clone(), address: key.address, source });
                }
            }
        }
        let last = self.core.live.load_full();
        builder.publish(&self.core, snapshot, false);
        // Sockets are handed over after the snapshot, so that their first connection finds its listener.
        for (key, sockets) in fresh {
            for (queue, socket) in self.core.commands.iter().zip(sockets) {
                // A worker that is gone cannot serve; the others do.
                let _ = queue.send(Command::Listen { key: key.clone(), socket });
            }
        }
        builder.bound.retain(|key, _| {
            let keep = wanted.contains_key(key);
            if !keep {
                self.core.tell(|| Command::Unlisten { key: key.clone(), last: last.clone() });
            }
            keep
        });
        self.core.tell(|| Command::Changed);
        applied
    }

    /// Stops listening, lets requests finish, and returns when no connection is left or `limit` has passed.
    /// Returns the number of connections that were still open.
    ///
    /// A workload needs its own connections to finish what it was asked: when there are inbound listeners, the
    /// outbound ones are stopped after the last inbound connection has ended.
    pub async fn drain(&self, limit: Duration) -> u32 {
        let start = Instant::now();
        {
            let mut builder = self.core.builder.lock();
            self.core.draining.store(true, Ordering::Relaxed);
            builder.bound.clear();
        }
        let workload = {
            let live = self.core.live.load();
            live.listeners.values().any(|listener| listener.config.direction == TrafficDirection::Inbound)
        };
        if workload {
            self.drain_some(start, limit, false).await;
        }
        self.drain_some(start, limit, true).await
    }

    async fn drain_some(&self, start: Instant, limit: Duration, all: bool) -> u32 {
        let left = limit.saturating_sub(start.elapsed());
        let (done, mut stopped) = tokio::sync::mpsc::channel(1);
        self.core.tell(|| Command::Drain { limit: left, all, done: done.clone() });
        drop(done);
        // Only when nothing more is accepted does a count of 0 mean something. Nothing is ever sent.
        let _ = tokio::time::timeout(left, stopped.recv()).await;
        let counter = if all { &self.core.connections } else { &self.core.inbound };
        loop {
            let open = counter.load(Ordering::Relaxed);
            if open == 0 || start.elapsed() >= limit {
                return open;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All statistics now.
    pub fn stats(&self) -> StatsSnapshot {
        let mut stats = StatsSnapshot::default();
        let live = self.core.live.load();
        self.core.builder.lock().registry.collect(&live, &mut stats);
        stats.counters.push(("access_log_file.lines_dropped".into(), self.core.sinks.dropped()));
        stats.gauges.push(("server.total_connections".into(), self.core.connections.load(Ordering::Relaxed).into()));
        stats.gauges.push(("server.concurrency".into(), self.core.commands.len() as u64));
        stats
    }

    /// All endpoints now.
    pub fn hosts(&self) -> Vec<HostStatus> {
        let live = self.core.live.load();
        let mut all = Vec::new();
        for (name, cluster) in &live.clusters {
            let configured: FxHashMap<SocketAddr, _> = cluster
                .endpoints
                .iter()
                .filter_map(|(group, endpoint)| match endpoint.address {
                    crate::model::EndpointAddress::Socket(address) => Some((address, (group, endpoint))),
                    crate::model::EndpointAddress::Name { .. } => None,
                })
                .collect();
            for host in &cluster.hosts {
                let known = configured.get(&host.address);
                all.push(HostStatus {
                    cluster: name.clone(),
                    address: host.address,
                    hostname: host.hostname.clone(),
                    locality: known.map(|(group, _)| group.locality.clone()).unwrap_or_default(),
                    priority: known.map_or(0, |(group, _)| group.priority),
                    weight: known.map_or(1, |(_, endpoint)| endpoint.weight),
                    health: known.map_or(Health::Healthy, |(_, endpoint)| endpoint.health),
                    ejected: cluster.is_ejected(host),
                    active: host.active.load(Ordering::Relaxed),
                    total: host.total.load(Ordering::Relaxed),
                    errors: host.errors.load(Ordering::Relaxed),
                });
            }
        }
        all
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.core.tell(|| Command::Stop);
        for thread in self.threads.drain(..) {
            // A worker that panicked has nothing left to wait for.
            let _ = thread.join();
        }
    }
}

// === impl Core ===

impl Core {
    fn tell(&self, command: impl Fn() -> Command) {
        for queue in &self.commands {
            // A worker that is gone needs no news.
            let _ = queue.send(command());
        }
    }

    /// New addresses of names.
    pub fn resolved(&self, resolved: Resolved) {
        let mut builder = self.builder.lock();
        builder.resolved = resolved;
        let snapshot = self.live.load().snapshot.clone();
        builder.publish(self, snapshot, true);
        self.tell(|| Command::Changed);
    }
}

// === impl Builder ===

impl Builder {
    fn publish(&mut self, core: &Core, snapshot: Arc<Snapshot>, resolved_changed: bool) {
        let old = core.live.load_full();
        let workers = core.commands.len();
        let live =
            Live::build(snapshot, &old, &mut self.registry, &self.resolved, resolved_changed, &core.sinks, workers);
        core.live.store(Arc::new(live));
        core.version.fetch_add(1, Ordering::Release);
    }
}

/// One listening socket per worker; the kernel spreads connections over them.
fn bind(address: SocketAddr, workers: usize, transparent: bool) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if workers > 1 && address.port() != 0 {
        // With SO_REUSEPORT a second process of the same user could share the port unnoticed: ask without it first.
        socket(address, false, transparent)?;
    }
    let first = socket(address, workers > 1, transparent)?;
    first.listen(BACKLOG)?;
    let actual = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![TcpListener::from(first)];
    for _ in 1..workers {
        let next = socket(actual, true, transparent)?;
        next.listen(BACKLOG)?;
        sockets.push(next.into());
    }
    Ok((actual, sockets))
}

fn socket(address: SocketAddr, share: bool, transparent: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit this.
    socket.set_tcp_nodelay(true)?;
    if transparent {
        match address {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
