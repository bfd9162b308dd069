//! Changes that were made one after the other, and what they took.

use std::time::Instant;

use crate::report::{Row, percentile};

/// One change.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Before the call that made it.
    pub began: Instant,
    /// When a bare client of the platform was notified of it.
    pub notified: Instant,
    /// When the xDS client had acknowledged it.
    pub arrived: Instant,
}

/// All changes of one kind.
#[derive(Debug, Default)]
pub struct Trial {
    changes: Vec<Change>,
}

/// What is promised of the 99th percentile.
#[derive(Debug, Clone, Copy)]
pub enum Promise {
    /// Milliseconds beyond the platform's own notification.
    Beyond(f64),
    /// Milliseconds from the change.
    Whole(f64),
}

// === impl Trial ===

impl Trial {
    /// Adds a change.
    pub fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Percentiles over all changes.
    pub fn row(&self, scenario: &str, promise: Promise) -> Row {
        let notified = self.sorted(|c| between(c.began, c.notified));
        let arrived = self.sorted(|c| between(c.began, c.arrived));
        let beyond = self.sorted(|c| between(c.notified, c.arrived));
        let p99 = |row: Row, name: &str, values: &[f64], promised: Option<f64>| match promised {
            Some(limit) => row.promised(name, percentile(values, 0.99), "ms", limit),
            None => row.figure(name, percentile(values, 0.99), "ms"),
        };
        let (whole_limit, beyond_limit) = match promise {
            Promise::Whole(limit) => (Some(limit), None),
            Promise::Beyond(limit) => (None, Some(limit)),
        };
        let mut row = Row::new(format!("{scenario}, {} changes", self.changes.len()));
        row = row.figure("platform's own notification, p50", percentile(&notified, 0.5), "ms");
        row = p99(row, "platform's own notification, p99", &notified, None);
        row = row.figure("endpoint acknowledged, p50", percentile(&arrived, 0.5), "ms");
        row = p99(row, "endpoint acknowledged, p99", &arrived, whole_limit);
        row = row.figure("beyond the platform's own, p50", percentile(&beyond, 0.5), "ms");
        p99(row, "beyond the platform's own, p99", &beyond, beyond_limit)
    }

    fn sorted(&self, figure: impl Fn(&Change) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.changes.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

/// Milliseconds, negative when `to` was before.
fn between(from: Instant, to: Instant) -> f64 {
    let forward = to.saturating_duration_since(from).as_secs_f64();
    (forward - from.saturating_duration_since(to).as_secs_f64()) * 1000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_difference_is_taken_change_by_change_and_may_be_negative() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut trial = Trial::default();
        trial.push(Change { began: at(0), notified: at(10), arrived: at(8) });
        trial.push(Change { began: at(0), notified: at(100), arrived: at(103) });
        let row = trial.row("x", Promise::Beyond(20.0));
        let values: Vec<f64> = row.figures.iter().map(|figure| figure.value.round()).collect();
        assert_eq!(values, [10.0, 100.0, 8.0, 103.0, -2.0, 3.0]);
        assert_eq!(row.figures.iter().map(|figure| figure.promised).collect::<Vec<_>>()[5], Some(20.0));
    }
}
