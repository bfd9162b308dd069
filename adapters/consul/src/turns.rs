//! Whose poll is open when not all can be.
//!
//! Over HTTPS every watched service has a poll open all the time. Over plain HTTP a poll is a connection, and Consul grants each client
//! address 200 of them. With more services than that, polls are short and take turns, first come, first served; and when the catalog
//! says that something was registered (it does not say what), everybody is read once without waiting.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::settings::Settings;

/// Polls over plain HTTP; what remains of Consul's 200 is for names, first reads, configuration, and another replica's start.
const PLAIN: usize = 140;
const PLAIN_READS: usize = 24;
/// Requests on one HTTP/2 connection.
const STREAMS: usize = 200;
/// How long a poll may be while others wait for their turn.
const SLICE: Duration = Duration::from_millis(500);
/// How often everybody is read at most because of an unknown change.
const PASS: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Turns {
    polls: Semaphore,
    reads: Semaphore,
    capacity: usize,
    watches: AtomicUsize,
    pass: AtomicU64,
    passed: Mutex<Option<Instant>>,
}

// === impl Turns ===

impl Turns {
    pub(crate) fn new(settings: &Settings) -> Self {
        if settings.address.starts_with("https:") {
            Self::with(settings.connections.saturating_mul(STREAMS).min(Semaphore::MAX_PERMITS), settings.concurrency)
        } else {
            Self::with(PLAIN, settings.concurrency.min(PLAIN_READS))
        }
    }

    fn with(capacity: usize, reads: usize) -> Self {
        Self {
            polls: Semaphore::new(capacity),
            reads: Semaphore::new(reads.clamp(1, Semaphore::MAX_PERMITS)),
            capacity,
            watches: AtomicUsize::new(0),
            pass: AtomicU64::new(0),
            passed: Mutex::new(None),
        }
    }

    /// Another service is watched.
    pub(crate) fn enter(&self) {
        self.watches.fetch_add(1, Ordering::Relaxed);
    }

    /// One less is.
    pub(crate) fn leave(&self) {
        self.watches.fetch_sub(1, Ordering::Relaxed);
    }

    fn crowded(&self) -> bool {
        self.watches.load(Ordering::Relaxed) > self.capacity
    }

    /// Permission for a poll, and how long it may wait: not at all when `seen` is not the present pass yet.
    pub(crate) async fn poll(&self, full: Duration, seen: &mut u64) -> (Option<SemaphorePermit<'_>>, Option<Duration>) {
        // The semaphore is never closed.
        let permit = self.polls.acquire().await.ok();
        let pass = self.pass.load(Ordering::Relaxed);
        let behind = std::mem::replace(seen, pass) != pass;
        let wait = match self.crowded() {
            false => Some(full),
            true if behind => None,
            true => Some(SLICE.min(full)),
        };
        (permit, wait)
    }

    /// Permission for a read that does not wait.
    pub(crate) async fn read(&self) -> Option<SemaphorePermit<'_>> {
        self.reads.acquire().await.ok()
    }

    /// Something changed somewhere. Where polls take turns, everybody is read once.
    pub(crate) fn something_changed(&self) {
        if !self.crowded() {
            return;
        }
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.is_none_or(|at| at.elapsed() >= PASS) {
            *passed = Some(Instant::now());
            self.pass.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn polls_are_long_while_there_is_room_and_short_or_immediate_when_they_take_turns() {
        let turns = Turns::with(2, 1);
        let full = Duration::from_secs(60);
        let mut seen = 0;
        turns.enter();
        turns.enter();
        turns.something_changed();
        assert_eq!(turns.poll(full, &mut seen).await.1, Some(full));
        turns.enter();
        assert_eq!(turns.poll(full, &mut seen).await.1, Some(SLICE));
        turns.something_changed();
        turns.something_changed();
        assert_eq!(turns.poll(full, &mut seen).await.1, None, "everybody is read once");
        assert_eq!(turns.poll(full, &mut seen).await.1, Some(SLICE));
        turns.leave();
        assert_eq!(turns.poll(full, &mut seen).await.1, Some(full));
    }
}
