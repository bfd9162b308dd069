//! When to try again: exponential, with jitter, so that many watches that lose one agent do not come back as a herd.

use std::time::Duration;

use rand::Rng as _;

/// Pauses between attempts: each is random between half of the first and a ceiling that doubles up to the longest.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    ceiling: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// Pauses from about `first` up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        let first = first.min(most);
        Self { first, most, ceiling: first }
    }

    /// The next pause.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Duration {
        let pause = rand::rng().random_range(self.first / 2..=self.ceiling);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.most);
        pause
    }

    /// An attempt succeeded: the next pause is a short one.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_start_again_after_a_success() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, most);
        let pauses: Vec<Duration> = (0..200).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= first);
        assert!(pauses.iter().all(|p| *p >= first / 2 && *p <= most), "{pauses:?}");
        assert!(pauses.iter().any(|p| *p > most / 2), "it grows: {pauses:?}");
        let mut distinct = pauses.clone();
        distinct.dedup();
        assert!(distinct.len() > 100, "it is jittered: {pauses:?}");
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
