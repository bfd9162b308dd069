//! What can be done to a downstream connection from outside of its task, and the configuration that it is served with.

use super::live::{LiveFilter, LiveHttp, LiveListener};
use super::worker::Held;
use crate::model::ConnectionFacts;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The handle of a downstream connection.
pub(super) struct Control {
    pub id: u64,
    /// The listener that it belongs to.
    pub listener: Arc<str>,
    /// The workload's own connection to others: it is drained last.
    pub outbound: bool,
    /// No more requests after the next one.
    pub draining: Cell<bool>,
    /// Wakes the task: it looks at `draining` and `close`.
    pub wake: Notify,
    /// Close as soon as no request is under way.
    pub close: Cell<bool>,
    busy: Cell<u32>,
    /// It carries bytes (TCP, or an upgraded connection): nobody knows whether it is quiet.
    bytes: Cell<bool>,
    last: Cell<Instant>,
    idle_timeout: Cell<Option<Duration>>,
    drain_time: Cell<Duration>,
    draining_since: Cell<Option<Instant>>,
    /// How long the proxy's shutdown may take, once it has begun.
    shutdown: Cell<Option<Duration>>,
    serving: OnceCell<Rc<RefCell<Serving>>>,
}

/// What an HTTP connection is served with. All of it is of one configuration: a connection manager together with the
/// routes and clusters of another one would answer 404.
pub(super) struct Serving {
    pub live: Rc<Held>,
    pub listener: Arc<LiveListener>,
    pub http: Arc<LiveHttp>,
    pub facts: Rc<ConnectionFacts>,
}

// === impl Control ===

impl Control {
    pub fn new(id: u64, listener: Arc<str>, outbound: bool, drain_time: Duration) -> Self {
        Self {
            id,
            listener,
            outbound,
            draining: Cell::new(false),
            wake: Notify::new(),
            close: Cell::new(false),
            busy: Cell::new(0),
            bytes: Cell::new(false),
            last: Cell::new(Instant::now()),
            idle_timeout: Cell::new(None),
            drain_time: Cell::new(drain_time),
            draining_since: Cell::new(None),
            shutdown: Cell::new(None),
            serving: OnceCell::new(),
        }
    }

    /// A request begins.
    pub fn begin(&self) {
        self.busy.set(self.busy.get() + 1);
    }

    /// A request ends.
    pub fn end(&self) {
        self.busy.set(self.busy.get().saturating_sub(1));
        self.last.set(Instant::now());
    }

    /// Limits of the connection manager that serves the connection.
    pub fn limit(&self, idle: Option<Duration>, drain: Duration) {
        self.idle_timeout.set(idle);
        self.drain_time.set(drain);
    }

    /// From now on it carries bytes: the request that led to it (if any) no longer keeps it open when it is drained,
    /// and its idle time is watched by those who copy.
    pub fn carry_bytes(&self, drain: Duration) {
        self.end();
        self.bytes.set(true);
        self.limit(None, drain);
    }

    /// Ends the connection gracefully: HTTP/2 is told at once, HTTP/1.1 with its next response or after the drain time.
    pub fn drain(&self) {
        if !self.draining.replace(true) {
            self.draining_since.set(Some(Instant::now()));
            self.wake.notify_one();
        }
    }

    /// As [`Control::drain`], within the time that the proxy has left.
    pub fn shut_down(&self, limit: Duration) {
        self.shutdown.set(Some(limit));
        self.drain();
    }

    /// Ready when the connection is to be closed.
    pub async fn closed(&self) {
        while !self.close.get() {
            self.wake.notified().await;
        }
    }

    /// The outcome of `work`, or `None` if the connection is to be closed first.
    pub async fn unless_closed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.closed() => None,
        }
    }

    /// Sets what the connection is served with; from then on it follows every change.
    pub fn serve_with(&self, serving: Serving) -> Rc<RefCell<Serving>> {
        self.serving.get_or_init(|| Rc::new(RefCell::new(serving))).clone()
    }

    /// Follows the configuration, or begins to end when the connection's listener or chain is gone.
    pub fn follow(&self, now: &Rc<Held>) {
        let kept = match self.serving.get() {
            Some(serving) => serving.borrow_mut().follow(now),
            None => now.listeners.contains_key(&self.listener),
        };
        if !kept {
            self.drain();
        }
    }

    /// Closes the connection when it was idle or draining for too long.
    pub fn sweep(&self) {
        if self.busy.get() > 0 {
            return;
        }
        let most = match self.shutdown.get() {
            None => Duration::MAX,
            Some(limit) if self.bytes.get() => limit,
            // Quiet HTTP/1.1 connections get half of the time to notice.
            Some(limit) => limit / 2,
        };
        let drain_time = self.drain_time.get().min(most);
        let idle = self.idle_timeout.get().is_some_and(|timeout| self.last.get().elapsed() >= timeout);
        let drained = self.draining_since.get().is_some_and(|since| since.elapsed() >= drain_time);
        if (idle || drained) && !self.close.replace(true) {
            self.wake.notify_one();
        }
    }
}

// === impl Serving ===

impl Serving {
    /// Takes over `now`; false, and nothing changes, when it has no such HTTP connection any more.
    fn follow(&mut self, now: &Rc<Held>) -> bool {
        if Rc::ptr_eq(&self.live, now) {
            return true;
        }
        let Some(listener) = now.listeners.get(&self.listener.config.name) else { return false };
        if !Arc::ptr_eq(listener, &self.listener) {
            match listener.chain(&self.facts).map(|chain| &chain.filter) {
                Some(LiveFilter::Http(http)) => self.http = http.clone(),
                _ => return false,
            }
            self.listener = listener.clone();
        }
        self.live = now.clone();
        true
    }
}
