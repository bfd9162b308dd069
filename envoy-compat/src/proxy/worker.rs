//! One worker: a thread with its own runtime, sockets, pools and buffers. Nothing of it is shared with other workers
//! except the configuration and a few atomic counters.

use super::connection;
use super::control::Control;
use super::live::{BindKey, Live};
use super::log;
use super::pool::Pools;
use super::workers::{BACKLOG, Core};
use crate::model::{Listener, TrafficDirection};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_millis(500);

/// What the control side tells a worker.
pub(super) enum Command {
    Listen {
        key: BindKey,
        socket: TcpListener,
    },
    /// `last`: a configuration with the listener, for clients that are connected already.
    Unlisten {
        key: BindKey,
        last: Arc<Live>,
    },
    Changed,
    /// `all`: what is outbound, too. `done` is dropped when nothing more is accepted.
    Drain {
        limit: Duration,
        all: bool,
        done: Sender<()>,
    },
    Stop,
}

/// State of a worker; all its tasks hold it.
pub(super) struct Worker {
    pub id: usize,
    pub core: Arc<Core>,
    pub pools: Pools,
    live: RefCell<Rc<Held>>,
    version: Cell<u64>,
    random: Cell<u64>,
    buffers: RefCell<Vec<Vec<u8>>>,
    log_waiting: Cell<bool>,
    log_wake: Notify,
    connections: RefCell<FxHashMap<u64, Rc<Control>>>,
    next_connection: Cell<u64>,
    /// The shutdown has begun: how long it may take, and whether it concerns what is outbound, too.
    draining: Cell<Option<(Duration, bool)>>,
}

/// Ends an accept loop.
struct Stop {
    /// What those who are connected already are served with.
    live: Rc<Held>,
    /// Dropped when they are being served.
    _done: Option<Sender<()>>,
}

/// The configuration as a worker holds it: requests share it without touching a counter that other workers use.
pub(super) struct Held(Arc<Live>);

impl std::ops::Deref for Held {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.0
    }
}

/// Starts the thread of a worker.
pub(super) fn spawn(
    id: usize,
    core: Arc<Core>,
    commands: UnboundedReceiver<Command>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("xebec-worker-{id}")).spawn(move || {
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            let worker = Rc::new(Worker::new(id, core));
            worker.run(commands).await;
            worker.flush_logs();
            worker.pools.clear();
        });
    })
}

// === impl Worker ===

impl Worker {
    fn new(id: usize, core: Arc<Core>) -> Self {
        let live = core.live.load_full();
        Self {
            id,
            core,
            pools: Pools::default(),
            live: RefCell::new(Rc::new(Held(live))),
            version: Cell::new(0),
            random: Cell::new(rand::random::<u64>() | 1),
            buffers: RefCell::default(),
            log_waiting: Cell::new(false),
            log_wake: Notify::new(),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            draining: Cell::new(None),
        }
    }

    async fn run(self: &Rc<Self>, mut commands: UnboundedReceiver<Command>) {
        let sweeper = self.clone();
        spawn_local(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                sweeper.sweep();
            }
        });
        let flusher = self.clone();
        spawn_local(async move {
            loop {
                flusher.log_wake.notified().await;
                tokio::time::sleep(flusher.core.log_flush).await;
                flusher.flush_logs();
            }
        });
        let mut accepting: FxHashMap<BindKey, oneshot::Sender<Stop>> = FxHashMap::default();
        while let Some(command) = commands.recv().await {
            match command {
                Command::Listen { key, socket } => match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => {
                        let (stop, stopped) = oneshot::channel();
                        spawn_local(accept(self.clone(), key.clone(), socket, stopped));
                        accepting.insert(key, stop);
                    }
                    Err(error) => {
                        tracing::error!(address = %key.address, %error, "a worker cannot use a listening socket")
                    }
                },
                Command::Unlisten { key, last } => {
                    if let Some(stop) = accepting.remove(&key) {
                        // An accept loop that has ended needs no stop.
                        let _ = stop.send(Stop { live: Rc::new(Held(last)), _done: None });
                    }
                }
                Command::Changed => self.after_change(),
                Command::Drain { limit, all, done } => {
                    self.draining.set(Some((limit, all)));
                    let live = self.live();
                    let outbound =
                        |key: &BindKey| live.by_bind.get(key).is_some_and(|bound| is_outbound(&bound.config));
                    for (_, stop) in accepting.extract_if(|key, _| all || !outbound(key)) {
                        let _ = stop.send(Stop { live: live.clone(), _done: Some(done.clone()) });
                    }
                    for control in self.connections.borrow().values().filter(|control| all || !control.outbound) {
                        control.shut_down(limit);
                    }
                }
                Command::Stop => return,
            }
        }
    }

    /// The configuration now. A request takes it once and keeps it.
    pub fn live(&self) -> Rc<Held> {
        let version = self.core.version.load(Ordering::Acquire);
        if version != self.version.get() {
            // The version is read first: a newer configuration than it says does no harm.
            *self.live.borrow_mut() = Rc::new(Held(self.core.live.load_full()));
            self.version.set(version);
        }
        self.live.borrow().clone()
    }

    /// A random number, good enough for choices (SplitMix64).
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Appends a line to a sink's buffer.
    pub fn log(&self, sink: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() <= sink {
            buffers.resize_with(sink + 1, Vec::new);
        }
        let buffer = &mut buffers[sink];
        write(buffer);
        if log::is_full(buffer) {
            let capacity = buffer.capacity();
            self.core.sinks.send(sink, std::mem::replace(buffer, Vec::with_capacity(capacity)));
        } else if !self.log_waiting.replace(true) {
            self.log_wake.notify_one();
        }
    }

    fn flush_logs(&self) {
        self.log_waiting.set(false);
        for (sink, buffer) in self.buffers.borrow_mut().iter_mut().enumerate() {
            if !buffer.is_empty() {
                self.core.sinks.send(sink, std::mem::take(buffer));
            }
        }
    }

    /// Registers a connection; it is in the list until [`Worker::forget`].
    pub fn register(&self, listener: &Listener) -> Rc<Control> {
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        let outbound = is_outbound(listener);
        let control = Rc::new(Control::new(id, listener.name.clone(), outbound, self.core.drain_time));
        if let Some((limit, all)) = self.draining.get()
            && (all || !outbound)
        {
            control.shut_down(limit);
        }
        self.connections.borrow_mut().insert(id, control.clone());
        self.core.connections.fetch_add(1, Ordering::Relaxed);
        if !outbound {
            self.core.inbound.fetch_add(1, Ordering::Relaxed);
        }
        control
    }

    /// Takes a connection off the list.
    pub fn forget(&self, control: &Control) {
        self.connections.borrow_mut().remove(&control.id);
        self.core.connections.fetch_sub(1, Ordering::Relaxed);
        if !control.outbound {
            self.core.inbound.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn after_change(&self) {
        let live = self.live();
        for control in self.connections.borrow().values() {
            control.follow(&live);
        }
        self.pools.sweep();
    }

    fn sweep(&self) {
        self.pools.sweep();
        for control in self.connections.borrow().values() {
            control.sweep();
        }
    }
}

fn is_outbound(listener: &Listener) -> bool {
    listener.direction == TrafficDirection::Outbound
}

async fn accept(
    worker: Rc<Worker>,
    key: BindKey,
    socket: tokio::net::TcpListener,
    mut stopped: oneshot::Receiver<Stop>,
) {
    // Clients of a listener that the newest configuration lacks: a stop is on its way.
    let mut early = Vec::new();
    let stop = loop {
        let accepted = tokio::select! {
            biased;
            stop = &mut stopped => break stop,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let live = worker.live();
                match live.by_bind.get(&key) {
                    Some(listener) => connection::accepted(&worker, &live, listener, tcp, peer),
                    None => early.push((tcp, peer)),
                }
            }
            Err(error) => {
                // Out of file descriptors: wait for connections to end instead of spinning.
                tracing::warn!(address = %key.address, %error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let Ok(Stop { live, _done }) = stop else { return };
    let Some(listener) = live.by_bind.get(&key) else { return };
    for (tcp, peer) in early.into_iter().chain(backlog(socket)) {
        connection::accepted(&worker, &live, listener, tcp, peer);
    }
}

/// Those who are connected, but not accepted yet: closing the socket would reset them.
fn backlog(socket: tokio::net::TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let mut waiting = Vec::new();
    let Ok(socket) = socket.into_std() else { return waiting };
    while waiting.len() < BACKLOG as usize {
        match socket.accept() {
            Ok((tcp, peer)) => {
                if tcp.set_nonblocking(true).is_ok()
                    && let Ok(tcp) = TcpStream::from_std(tcp)
                {
                    waiting.push((tcp, peer));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => break,
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::io::{Read, Write};

    #[tokio::test]
    async fn who_is_connected_but_not_accepted_is_served_before_the_socket_closes() {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut clients: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        for (mut tcp, _) in backlog(socket) {
            tokio::io::AsyncWriteExt::write_all(&mut tcp, b"hello").await.unwrap();
        }
        for client in &mut clients {
            client.write_all(b"x").unwrap();
            let mut text = [0; 5];
            client.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"hello");
        }
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
