//! One sidecar, from its configuration to its last connection.
//!
//! [`Sidecar::start`] joins the client of the control plane, the data path and the admin interface. Control work runs on the
//! caller's runtime, traffic on threads of its own. Nothing is global but the log, so that many sidecars live in one process.

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin, LogControl};
use crate::bootstrap::ServerAddress;
use crate::node::{NodeConfig, NodeError};
use crate::proxy::{Options, Workers};
use crate::xds::client::{AddressError, Client, Published, Shared};

/// How often a listener that could not listen tries again.
const REBIND: Duration = Duration::from_secs(1);

/// Everything that a sidecar starts with.
#[derive(Clone)]
pub struct SidecarConfig {
    /// Who it is.
    pub node: NodeConfig,
    /// The control plane.
    pub server: ServerAddress,
    /// Where the admin interface listens; port 0 picks one.
    pub admin_addr: SocketAddr,
    /// Worker threads; 0 is one per core.
    pub concurrency: usize,
    /// How long connections are given when the sidecar stops.
    pub drain_time: Duration,
    /// How long a line of an access log may wait in memory.
    pub log_flush: Duration,
    /// Changes the log's level on `/logging`.
    pub log: Option<LogControl>,
}

/// Starts sidecars.
#[derive(Debug, Clone, Copy)]
pub struct Sidecar;

/// A running sidecar. Dropping it stops it at once; [`SidecarHandle::drain_and_stop`] lets requests finish.
pub struct SidecarHandle {
    admin_addr: SocketAddr,
    admin: Arc<Admin>,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    drain_time: Duration,
}

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its identity cannot be sent.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The control plane's address cannot be dialled.
    #[error(transparent)]
    Server(#[from] AddressError),
    /// The admin address is taken or not ours.
    #[error("the admin interface cannot listen on {address}: {source}; choose another --admin-addr")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// No threads for the workers.
    #[error("the workers cannot be started: {0}; lower --concurrency or raise the limit of processes")]
    Workers(std::io::Error),
}

// === impl SidecarConfig ===

impl SidecarConfig {
    /// One worker, the admin interface on a free loopback port, 45 seconds to drain.
    pub fn new(node: NodeConfig, server: ServerAddress) -> Self {
        Self {
            node,
            server,
            admin_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            concurrency: 1,
            drain_time: Duration::from_secs(45),
            log_flush: Duration::from_millis(250),
            log: None,
        }
    }
}

// === impl Sidecar ===

impl Sidecar {
    /// Starts a sidecar and returns at once; it serves as soon as the control plane has told it what. Has to be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the identity or an address is unusable, or the system has no threads left. A control plane that cannot be reached is
    /// not an error: it is waited for.
    pub fn start(config: SidecarConfig) -> Result<SidecarHandle, StartError> {
        let SidecarConfig { node, server, admin_addr, concurrency, drain_time, log_flush, log } = config;
        node.validate()?;
        let concurrency = match concurrency {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            given => given,
        };
        let refused = |source| StartError::Admin { address: admin_addr, source };
        let socket = std::net::TcpListener::bind(admin_addr).map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        let listener = tokio::net::TcpListener::from_std(socket).map_err(refused)?;
        let admin_addr = listener.local_addr().map_err(refused)?;

        let shared = Arc::new(Shared::default());
        let (publish, published) = watch::channel(Published::default());
        let client = Client::new(
            &server,
            node.to_proto(),
            shared.clone(),
            Box::new(move |next| {
                // Nobody listens only when the sidecar is on its way out.
                let _ = publish.send(next);
            }),
        )?;
        let workers = Workers::start(Options { concurrency, hostname: node.name.clone(), log_flush, drain_time })
            .map_err(StartError::Workers)?;
        let stop = CancellationToken::new();
        let admin = Arc::new(Admin {
            server: server.to_string(),
            node,
            concurrency,
            drain_time,
            started: Instant::now(),
            shared,
            workers: Arc::new(workers),
            bound: Mutex::default(),
            unbound: Mutex::default(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            quit: CancellationToken::new(),
            log,
        });
        let (is_ready, ready) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(client.run(stop.clone()));
        tasks.spawn(apply(admin.clone(), published, is_ready, stop.clone()));
        let service = axum::serve(listener, admin::router(admin.clone()));
        let stopped = stop.clone();
        tasks.spawn(async move {
            let ended = tokio::select! {
                ended = async { service.await } => ended,
                () = stopped.cancelled() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::error!("the admin interface ended: {error}");
            }
        });
        Ok(SidecarHandle { admin_addr, admin, ready, stop, tasks, drain_time })
    }
}

/// Puts every published configuration into use, the newest one if there are several, and tries again while a listener cannot
/// listen.
async fn apply(
    admin: Arc<Admin>,
    mut published: watch::Receiver<Published>,
    is_ready: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut retry = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(REBIND), if retry => {}
        }
        // A listener that was drained has to stay closed.
        if admin.draining.load(Ordering::Relaxed) {
            return;
        }
        let Published { snapshot, initialized } = published.borrow_and_update().clone();
        let applied = admin.workers.apply(snapshot);
        let unbound: Vec<(Arc<str>, String)> =
            applied.errors.iter().map(|error| (error.listener.clone(), describe(error))).collect();
        *admin.bound.lock() = applied.bound;
        let before = std::mem::replace(&mut *admin.unbound.lock(), unbound.clone());
        for (_, error) in unbound.iter().filter(|problem| !before.contains(problem)) {
            tracing::error!("{error}; trying again every {} s", REBIND.as_secs());
        }
        retry = !unbound.is_empty();
        if initialized && !admin.ready.swap(true, Ordering::Relaxed) {
            tracing::info!(node = %admin.node.id(), "the first whole configuration is in use");
            let _ = is_ready.send(true);
        }
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    error.to_string()
}

// === impl SidecarHandle ===

impl SidecarHandle {
    /// Where the admin interface listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Where each listener listens now, by name; ports of 0 are replaced by the ones that were picked.
    pub fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.admin.bound.lock().clone()
    }

    /// Waits until the first whole configuration is in use. Returns `false` when the sidecar stops before.
    pub async fn ready(&self) -> bool {
        self.ready.clone().wait_for(|ready| *ready).await.is_ok()
    }

    /// Waits until somebody asks the sidecar to stop (`/quitquitquit`).
    pub async fn asked_to_stop(&self) {
        self.admin.quit.cancelled().await;
    }

    /// What the data path counts.
    pub fn stats(&self) -> crate::proxy::StatsSnapshot {
        self.admin.workers.stats()
    }

    /// Stops listening, lets requests finish within the drain time, then stops everything. Returns the number of connections
    /// that were cut.
    pub async fn drain_and_stop(mut self) -> u32 {
        self.admin.draining.store(true, Ordering::Relaxed);
        let open = self.admin.workers.drain(self.drain_time).await;
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut self.tasks);
        while tasks.join_next().await.is_some() {}
        // Ends the workers' threads, which is waited for; not on a thread that others need.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
        open
    }
}

impl Drop for SidecarHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
