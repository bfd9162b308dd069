//! What the streams say while something is listed, kept until the list is there. No I/O, no clocks.
//!
//! - NEVER: more is kept than a limit. Beyond it nothing is, and the list is of no use on its own: what it lacks is not known any more.

use std::sync::Arc;

use crate::wire::Batch;

/// The most events that are kept.
const MOST_EVENTS: usize = 100_000;
/// The most bytes of lines that are kept.
const MOST_BYTES: usize = 64 << 20;

/// Batches in their order.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    batches: Vec<Arc<Batch>>,
    events: usize,
    bytes: usize,
}

// === impl Heard ===

impl Heard {
    /// Keeps a batch that was said in a line of `bytes`, if there is room.
    pub(crate) fn push(&mut self, batch: Arc<Batch>, bytes: usize) {
        self.events = self.events.saturating_add(batch.events.len());
        self.bytes = self.bytes.saturating_add(bytes);
        if self.is_lost() {
            self.batches = Vec::new();
        } else {
            self.batches.push(batch);
        }
    }

    /// Whether it was too much, and has been dropped.
    pub(crate) fn is_lost(&self) -> bool {
        self.events > MOST_EVENTS || self.bytes > MOST_BYTES
    }

    /// All of it; nothing when it was too much.
    pub(crate) fn batches(&self) -> &[Arc<Batch>] {
        &self.batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Event;

    fn batch(events: usize) -> Arc<Batch> {
        Arc::new(Batch { index: 1, events: vec![Event::default(); events] })
    }

    #[test]
    fn too_many_events_or_bytes_are_dropped_and_nothing_is_kept_after_them() {
        for (events, bytes) in [(MOST_EVENTS, 10), (10, MOST_BYTES)] {
            let mut heard = Heard::default();
            heard.push(batch(events), bytes);
            assert!(!heard.is_lost() && heard.batches().len() == 1);
            heard.push(batch(1), 1);
            heard.push(batch(0), 0);
            assert!(heard.is_lost() && heard.batches().is_empty());
        }
    }
}
