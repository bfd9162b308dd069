//! Who called whom, how often, how fast, and which version answered. Written down by the caller, who alone knows all of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::histogram::Histogram;

/// A caller and what it called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// An instance (`reviews-v2`), or `you` for the customers.
    pub from: String,
    /// A service.
    pub to: String,
}

/// What happened on an edge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// All calls.
    pub requests: u64,
    /// Those without an answer, or with a status of 500 and more.
    pub errors: u64,
    /// Of all calls.
    pub latency: Histogram,
    /// Which version answered, and how often.
    pub versions: BTreeMap<String, u64>,
}

/// All edges at one time.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Instant,
    /// All that were ever used.
    pub edges: BTreeMap<Edge, Tally>,
}

/// The shared book that all callers write into.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    edges: Arc<Mutex<BTreeMap<Edge, Tally>>>,
}

// === impl Stats ===

impl Stats {
    /// Writes one call down. `version` is who answered, if anybody said so.
    pub fn record(&self, from: &str, to: &str, latency: Duration, failed: bool, version: Option<&str>) {
        let mut edges = self.edges.lock();
        let tally = edges.entry(Edge { from: from.to_owned(), to: to.to_owned() }).or_default();
        tally.requests += 1;
        tally.errors += u64::from(failed);
        tally.latency.record(latency);
        if let Some(version) = version {
            *tally.versions.entry(version.to_owned()).or_default() += 1;
        }
    }

    /// Everything so far.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { at: Instant::now(), edges: self.edges.lock().clone() }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// What happened between `earlier` and this one.
    pub fn since(&self, earlier: &Self) -> BTreeMap<Edge, Tally> {
        let none = Tally::default();
        let each = self.edges.iter().map(|(edge, now)| {
            let before = earlier.edges.get(edge).unwrap_or(&none);
            (edge.clone(), now.since(before))
        });
        each.collect()
    }

    /// How often any caller had an answer from this version of the service.
    pub fn answers(&self, service: &str, version: &str) -> u64 {
        let edges = self.edges.iter().filter(|(edge, _)| edge.to == service);
        edges.map(|(_, tally)| tally.versions.get(version).copied().unwrap_or(0)).sum()
    }
}

// === impl Tally ===

impl Tally {
    fn since(&self, before: &Self) -> Self {
        let version = |(version, now): (&String, &u64)| {
            (version.clone(), now.saturating_sub(before.versions.get(version).copied().unwrap_or(0)))
        };
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            latency: self.latency.since(&before.latency),
            versions: self.versions.iter().map(version).collect(),
        }
    }

    /// `v1 34 %, v2 66 %`, of those that said who they are. Empty when nobody did.
    pub fn shares(&self) -> String {
        let total: u64 = self.versions.values().sum();
        let share = |count: u64| (count * 100 + total / 2).checked_div(total).unwrap_or(0);
        let each =
            self.versions.iter().filter(|(_, count)| **count > 0).map(|(v, count)| format!("{v} {} %", share(*count)));
        each.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_difference_of_snapshots_counts_what_happened_between() {
        let stats = Stats::default();
        let edge = Edge { from: "front-v1".into(), to: "reviews".into() };
        stats.record("front-v1", "reviews", Duration::from_millis(1), false, Some("v1"));
        let before = stats.snapshot();
        stats.record("front-v1", "reviews", Duration::from_millis(2), true, None);
        stats.record("front-v1", "reviews", Duration::from_millis(2), false, Some("v2"));
        let difference = &stats.snapshot().since(&before)[&edge];
        assert_eq!((difference.requests, difference.errors, difference.latency.count()), (2, 1, 2));
        assert_eq!(difference.shares(), "v2 100 %");
        assert_eq!(stats.snapshot().edges[&edge].shares(), "v1 50 %, v2 50 %");
        assert_eq!(stats.snapshot().answers("reviews", "v2"), 1);
    }
}
