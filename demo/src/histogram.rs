//! Latencies in buckets whose bounds grow by a fourth root of two: each percentile is right within 19 %, in constant space.

use std::time::Duration;

/// The upper bound of the first bucket.
const FIRST: Duration = Duration::from_micros(10);

/// Buckets per doubling.
const STEPS: f64 = 4.0;

/// Up to 10 µs * 2^(100/4), which is 335 s.
const BUCKETS: usize = 101;

/// How often each latency was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Trailing zeros are left out.
    counts: Vec<u64>,
}

// === impl Histogram ===

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let ratio = latency.as_secs_f64() / FIRST.as_secs_f64();
        // A ratio below 1 gives a negative logarithm, and the cast saturates at 0.
        let index = ((ratio.log2() * STEPS).ceil().max(0.0) as usize).min(BUCKETS - 1);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The latency that the share `quantile` (0 to 1) of all does not exceed, rounded up to a bucket. `None` when empty.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let wanted = ((self.count() as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        let index = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(FIRST.mul_f64((index as f64 / STEPS).exp2()))
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// What was counted since `earlier`, which must be an earlier state of this one.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.counts.iter().chain(std::iter::repeat(&0));
        Self { counts: self.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_bucket() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        for (quantile, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let ms = histogram.quantile(quantile).unwrap().as_secs_f64() * 1000.0;
            assert!(ms >= expected && ms <= expected * 1.19, "{quantile}: {ms}");
        }
        assert_eq!(histogram.count(), 1000);
    }

    #[test]
    fn extremes_are_counted_in_the_outer_buckets() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::ZERO);
        assert_eq!(histogram.quantile(0.5), Some(FIRST));
        histogram.record(Duration::MAX);
        assert!(histogram.quantile(1.0).unwrap() > Duration::from_secs(300));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn differences_and_sums_count_exactly() {
        let mut before = Histogram::default();
        before.record(Duration::from_millis(1));
        let mut after = before.clone();
        after.record(Duration::from_secs(1));
        let difference = after.since(&before);
        assert_eq!((difference.count(), after.count()), (1, 2));
        assert!(difference.quantile(0.0).unwrap() >= Duration::from_secs(1));
        before.add(&difference);
        assert_eq!(before, after);
    }
}
