//! Counters without contention, under Envoy's names.
//!
//! Every worker owns a block of cells per cluster, listener and connection manager, found once at configuration
//! time. ALWAYS: a cell is written by one thread only, so an update is a plain load and store; a scrape sums the
//! blocks. A gauge may be increased on one worker only and decreased on the same one, so sums never go wrong.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// One counter or gauge of one worker.
#[derive(Debug, Default)]
pub struct Cell64(AtomicU64);

/// A value per worker, created when a worker first uses it.
#[derive(Debug)]
pub struct Sharded<T> {
    shards: Box<[OnceLock<Box<T>>]>,
}

/// Upper bounds of Envoy's default histogram buckets, milliseconds.
pub const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

/// Durations of one worker.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Cell64; BUCKETS.len()],
    count: Cell64,
    micros: Cell64,
}

/// All statistics at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatsSnapshot {
    /// Envoy's full names, for instance `cluster.outbound|80||a.upstream_rq_total`.
    pub counters: Vec<(String, u64)>,
    /// Values that go up and down.
    pub gauges: Vec<(String, u64)>,
    /// Durations.
    pub histograms: Vec<HistogramSnapshot>,
}

/// A summed histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// Envoy's full name.
    pub name: String,
    /// Cumulative counts for [`BUCKETS`].
    pub buckets: Vec<u64>,
    /// Number of values.
    pub count: u64,
    /// Their sum, milliseconds.
    pub sum: f64,
}

/// A block of cells that can name its fields.
pub(super) trait Block: Default {
    fn names() -> &'static [&'static str];
    fn cells(&self) -> Vec<&Cell64>;
    fn histogram(&self) -> Option<(&'static str, &Histogram)>;
}

macro_rules! block {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? } $($timer:ident)?) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(align(64))]
        #[allow(missing_docs, reason = "each field is Envoy's statistic of that name")]
        pub(super) struct $name { $(pub $field: Cell64,)* $(pub $timer: Histogram,)? }

        impl Block for $name {
            fn names() -> &'static [&'static str] { &[$(stringify!($field)),*] }
            fn cells(&self) -> Vec<&Cell64> { vec![$(&self.$field),*] }
            fn histogram(&self) -> Option<(&'static str, &Histogram)> {
                $(return Some((stringify!($timer), &self.$timer));)?
                #[allow(unreachable_code)]
                None
            }
        }
    };
}

block! {
    /// `cluster.NAME.`
    ClusterStats {
        upstream_cx_total, upstream_cx_active, upstream_cx_http1_total, upstream_cx_http2_total,
        upstream_cx_connect_fail, upstream_cx_connect_timeout, upstream_cx_overflow, upstream_cx_destroy,
        upstream_cx_idle_timeout, upstream_cx_none_healthy, upstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total,
        upstream_rq_total, upstream_rq_active, upstream_rq_completed, upstream_rq_pending_total,
        upstream_rq_pending_active, upstream_rq_pending_overflow, upstream_rq_pending_failure_eject,
        upstream_rq_1xx, upstream_rq_2xx, upstream_rq_3xx, upstream_rq_4xx, upstream_rq_5xx,
        upstream_rq_timeout, upstream_rq_per_try_timeout, upstream_rq_rx_reset, upstream_rq_tx_reset,
        upstream_rq_cancelled, upstream_rq_retry, upstream_rq_retry_success, upstream_rq_retry_overflow,
        upstream_rq_retry_limit_exceeded,
    } upstream_rq_time
}

block! {
    /// `http.PREFIX.`
    HttpStats {
        downstream_cx_total, downstream_cx_active, downstream_cx_http1_total, downstream_cx_http2_total,
        downstream_cx_destroy, downstream_cx_idle_timeout, downstream_cx_drain_close, downstream_cx_upgrades_total,
        downstream_cx_upgrades_active, downstream_rq_total, downstream_rq_active, downstream_rq_http1_total,
        downstream_rq_http2_total, downstream_rq_completed, downstream_rq_1xx, downstream_rq_2xx, downstream_rq_3xx,
        downstream_rq_4xx, downstream_rq_5xx, downstream_rq_rx_reset, downstream_rq_tx_reset,
        downstream_rq_idle_timeout, downstream_rq_timeout, no_route, no_cluster, rq_total, rq_direct_response,
        rq_redirect, rq_reset_after_downstream_response_started,
    } downstream_rq_time
}

block! {
    /// `listener.ADDRESS.`
    ListenerStats {
        downstream_cx_total, downstream_cx_active, downstream_cx_destroy, downstream_cx_overflow,
        downstream_pre_cx_timeout, downstream_listener_filter_error, no_filter_chain_match,
    }
}

block! {
    /// `tcp.PREFIX.`
    TcpStats {
        downstream_cx_total, downstream_cx_no_route, downstream_cx_rx_bytes_total, downstream_cx_tx_bytes_total,
        idle_timeout,
    }
}

// === impl Cell64 ===

impl Cell64 {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    #[inline]
    pub fn dec(&self) {
        self.add(u64::MAX);
    }

    /// Adds `amount` (wrapping, so that gauges can go down).
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Sharded ===

impl<T: Default> Sharded<T> {
    /// Room for `workers` blocks.
    pub fn new(workers: usize) -> Self {
        Self { shards: (0..workers).map(|_| OnceLock::new()).collect() }
    }

    /// The block of `worker`.
    ///
    /// A worker number outside of the range falls back to the first block: wrong sums are better than a panic.
    #[inline]
    pub fn at(&self, worker: usize) -> &T {
        self.shards.get(worker).unwrap_or(&self.shards[0]).get_or_init(Box::default)
    }

    fn used(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().filter_map(|shard| shard.get().map(|block| &**block))
    }
}

// === impl Histogram ===

impl Histogram {
    /// Counts a duration.
    #[inline]
    pub fn record(&self, duration: std::time::Duration) {
        let micros = duration.as_micros() as u64;
        let millis = micros as f64 / 1000.0;
        if let Some(at) = BUCKETS.iter().position(|bound| millis <= *bound) {
            self.buckets[at].inc();
        }
        self.count.inc();
        self.micros.add(micros);
    }
}

// === impl StatsSnapshot ===

impl StatsSnapshot {
    /// Sums `blocks` under `prefix`.
    pub(super) fn add<T: Block>(&mut self, prefix: &str, blocks: &Sharded<T>) {
        let names = T::names();
        let mut sums = vec![0u64; names.len()];
        let mut timer: Option<HistogramSnapshot> = None;
        for block in blocks.used() {
            for (sum, cell) in sums.iter_mut().zip(block.cells()) {
                *sum = sum.wrapping_add(cell.get());
            }
            if let Some((name, histogram)) = block.histogram() {
                let summed = timer.get_or_insert_with(|| HistogramSnapshot {
                    name: format!("{prefix}.{name}"),
                    buckets: vec![0; BUCKETS.len()],
                    ..HistogramSnapshot::default()
                });
                let mut cumulative = 0;
                for (sum, cell) in summed.buckets.iter_mut().zip(&histogram.buckets) {
                    cumulative += cell.get();
                    *sum += cumulative;
                }
                summed.count += histogram.count.get();
                summed.sum += histogram.micros.get() as f64 / 1000.0;
            }
        }
        for (name, sum) in names.iter().zip(sums) {
            let list = if name.ends_with("_active") { &mut self.gauges } else { &mut self.counters };
            list.push((format!("{prefix}.{name}"), sum));
        }
        self.histograms.extend(timer.filter(|timer| timer.count > 0));
    }

    /// The counter or gauge `name`.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.counters.iter().chain(&self.gauges).find(|(other, _)| other == name).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_scrape_sums_all_workers_and_keeps_gauges_apart() {
        let blocks = Sharded::<ClusterStats>::new(2);
        blocks.at(0).upstream_rq_total.add(2);
        blocks.at(1).upstream_rq_total.inc();
        blocks.at(1).upstream_rq_active.inc();
        blocks.at(1).upstream_rq_active.inc();
        blocks.at(1).upstream_rq_active.dec();
        blocks.at(0).upstream_rq_time.record(Duration::from_millis(3));
        let mut stats = StatsSnapshot::default();
        stats.add("cluster.a", &blocks);
        assert_eq!(stats.get("cluster.a.upstream_rq_total"), Some(3));
        assert!(stats.gauges.contains(&("cluster.a.upstream_rq_active".into(), 1)));
        let timer = &stats.histograms[0];
        assert_eq!((timer.count, timer.buckets[1], timer.buckets[2], timer.sum), (1, 0, 1, 3.0));
    }
}
