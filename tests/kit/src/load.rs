//! Steady load: so many requests per second, whatever the answers take, and every failure with its reason.
//!
//! The load is open: a request is due at its time, also when earlier ones are late. Connections are kept open and are used
//! again, as real clients do, so that a proxy that drops connections shows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Version;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::{Call, Connection, Failure, Reply};

/// Requests in flight beyond which new ones count as failed: the other side is stuck.
const IN_FLIGHT: usize = 2_000;

type Next = dyn Fn(u64) -> Call + Send + Sync;
type Check = dyn Fn(&Reply) -> Result<(), String> + Send + Sync;

/// What to send. Nothing is sent before [`Load::start`].
pub struct Load {
    rps: u32,
    next: Arc<Next>,
    check: Arc<Check>,
}

/// A load that is running. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    report: Arc<Mutex<Report>>,
    stop: watch::Sender<bool>,
    driver: Option<JoinHandle<()>>,
}

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many were answered as expected.
    pub ok: u64,
    /// How many were not, or not at all.
    pub failed: u64,
    /// Up to a hundred of those, with the time since the start.
    pub failures: Vec<(Duration, String)>,
    /// How many answers had which status.
    pub statuses: BTreeMap<u16, u64>,
    /// How many answers came from which [`Backend`](crate::Backend).
    pub served_by: BTreeMap<String, u64>,
    latencies: Vec<Duration>,
}

// === impl Load ===

impl Load {
    /// The same call `rps` times a second.
    pub fn new(rps: u32, call: Call) -> Self {
        Self::of(rps, move |_| call.clone())
    }

    /// A different call each time; the argument counts from 0.
    ///
    /// # Panics
    /// When `rps` is 0.
    pub fn of(rps: u32, next: impl Fn(u64) -> Call + Send + Sync + 'static) -> Self {
        assert!(rps > 0, "a load sends something");
        let check = |reply: &Reply| match reply.status {
            200 => Ok(()),
            status => Err(format!("status {status}: {}", reply.text())),
        };
        Self { rps, next: Arc::new(next), check: Arc::new(check) }
    }

    /// What counts as a good answer; without this it is status 200.
    #[must_use]
    pub fn expect(mut self, check: impl Fn(&Reply) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.check = Arc::new(check);
        self
    }

    /// Starts sending.
    pub fn start(self) -> Running {
        let report = Arc::new(Mutex::new(Report::default()));
        let (stop, stopped) = watch::channel(false);
        let driver = tokio::spawn(drive(self, Arc::clone(&report), stopped));
        Running { report, stop, driver: Some(driver) }
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Load({} requests per second)", self.rps)
    }
}

// === impl Running ===

impl Running {
    /// What became of the requests so far.
    pub fn so_far(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Waits until `count` more requests were answered or failed.
    pub async fn more(&self, count: u64) {
        let target = self.so_far().total() + count;
        crate::eventually(Duration::from_secs(60), "the load goes on", async || lock(&self.report).total() >= target)
            .await;
    }

    /// Sends nothing new, waits for the answers to what was sent, and reports.
    pub async fn stop(mut self) -> Report {
        let _ = self.stop.send(true);
        if let Some(driver) = self.driver.take() {
            driver.await.expect("the load does not panic");
        }
        self.so_far()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

// === impl Report ===

impl Report {
    /// How many requests were answered or failed.
    pub fn total(&self) -> u64 {
        self.ok + self.failed
    }

    /// The latency that this share (0.0 to 1.0) of the good answers kept within; zero without any.
    pub fn latency(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The share of answers that came from this backend, 0.0 to 1.0.
    pub fn share_of(&self, backend: &str) -> f64 {
        let all: u64 = self.served_by.values().sum();
        #[allow(clippy::cast_precision_loss)]
        let share = *self.served_by.get(backend).unwrap_or(&0) as f64 / all.max(1) as f64;
        share
    }

    /// Nothing failed, and at least `least` requests were answered.
    ///
    /// # Panics
    /// Otherwise, with the failures.
    pub fn assert_flawless(&self, least: u64) {
        assert!(self.failed == 0 && self.ok >= least, "expected at least {least} good answers and no failure: {self}");
    }

    fn add(&mut self, at: Duration, took: Duration, result: Result<&Reply, String>) {
        match result {
            Ok(_) => {
                self.ok += 1;
                self.latencies.push(took);
            }
            Err(reason) => {
                self.failed += 1;
                if self.failures.len() < 100 {
                    self.failures.push((at, reason));
                }
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (self.latency(0.5), self.latency(0.99));
        write!(f, "{} ok, {} failed, p50 {p50:?}, p99 {p99:?}", self.ok, self.failed)?;
        write!(f, ", statuses {:?}, served by {:?}", self.statuses, self.served_by)?;
        for (at, reason) in &self.failures {
            write!(f, "\n  {:.3}s {reason}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

struct Worker {
    idle: Mutex<Vec<Connection>>,
    check: Arc<Check>,
    report: Arc<Mutex<Report>>,
    start: Instant,
}

async fn drive(load: Load, report: Arc<Mutex<Report>>, mut stopped: watch::Receiver<bool>) {
    let start = Instant::now();
    let worker = Arc::new(Worker { idle: Mutex::new(Vec::new()), check: load.check, report, start });
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut tick = tokio::time::interval(Duration::from_secs(1) / load.rps);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut sent = JoinSet::new();
    for number in 0.. {
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            _ = tick.tick() => {}
        }
        while sent.try_join_next().is_some() {}
        let call = (load.next)(number);
        let worker = Arc::clone(&worker);
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                sent.spawn(async move {
                    worker.send(call).await;
                    drop(permit);
                });
            }
            Err(_) => {
                let reason = format!("not sent: {IN_FLIGHT} requests wait for an answer");
                lock(&worker.report).add(start.elapsed(), Duration::ZERO, Err(reason));
            }
        }
    }
    while sent.join_next().await.is_some() {}
}

// === impl Worker ===

impl Worker {
    async fn send(&self, call: Call) {
        let begin = Instant::now();
        let limit = call.limit();
        let result = tokio::time::timeout(limit, self.exchange(&call)).await.unwrap_or(Err(Failure::Timeout(limit)));
        let mut report = lock(&self.report);
        if let Ok(reply) = &result {
            *report.statuses.entry(reply.status).or_default() += 1;
            if !reply.served_by().is_empty() {
                *report.served_by.entry(reply.served_by().to_owned()).or_default() += 1;
            }
        }
        let outcome = match &result {
            Ok(reply) => (self.check)(reply).map(|()| reply),
            Err(failure) => Err(failure.to_string()),
        };
        report.add(begin.duration_since(self.start), begin.elapsed(), outcome);
    }

    /// Uses an idle connection, or a new one. Only a request that was never sent is tried again: its connection had
    /// been closed while it was idle.
    async fn exchange(&self, call: &Call) -> Result<Reply, Failure> {
        loop {
            let idle = lock(&self.idle).pop();
            let fresh = idle.is_none();
            let mut connection = match idle {
                Some(mut connection) => {
                    if !connection.is_usable().await {
                        continue;
                    }
                    connection
                }
                None => Connection::open(call.target(), call.version()).await?,
            };
            match connection.exchange(call).await {
                Err(failure) if failure.never_sent() && !fresh => {}
                Err(failure) => return Err(failure),
                Ok(reply) => {
                    let closes = reply.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
                    if !closes || call.version() == Version::HTTP_2 {
                        lock(&self.idle).push(connection);
                    }
                    return Ok(reply);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, client};

    #[tokio::test]
    async fn requests_are_counted_by_who_answered_on_few_connections() {
        let backend = Backend::start("v1").await;
        let running = Load::new(500, client::get(backend.addr(), "v1", "/")).start();
        running.more(50).await;
        let report = running.stop().await;
        report.assert_flawless(50);
        assert_eq!(report.total(), backend.hits());
        assert_eq!(report.served_by["v1"], report.ok);
        assert!((report.share_of("v1") - 1.0).abs() < f64::EPSILON);
        assert!(report.latency(0.99) > Duration::ZERO);
        assert!(backend.connections() < report.ok / 2, "connections are used again");
    }

    #[tokio::test]
    async fn a_wrong_status_and_a_dead_server_are_failures_with_their_reasons() {
        let backend = Backend::start("v1").await;
        let address = backend.addr();
        let running = Load::new(200, client::get(address, "v1", "/")).start();
        running.more(5).await;
        backend.set_status(503);
        running.more(5).await;
        drop(backend);
        crate::eventually(Duration::from_secs(10), "a connection is refused", async || {
            running.so_far().failures.iter().any(|(_, reason)| reason.contains("no connection"))
        })
        .await;
        let report = running.stop().await;
        assert!(report.ok >= 5 && report.failed >= 2, "{report}");
        assert!(report.failures.iter().any(|(_, reason)| reason.starts_with("status 503")), "{report}");
    }
}
