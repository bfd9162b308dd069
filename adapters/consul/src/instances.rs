//! The instances of one service between two answers, and the waiting of new ones.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::mapping::{instance_id, only_node_check};
use crate::wire::Row;

/// The rows of the last answer, and which new ones wait for their checks.
pub(crate) struct Instances {
    hold: Duration,
    pub(crate) rows: Vec<Row>,
    /// When each was first seen; `None` for what was there from the start.
    seen: HashMap<String, Option<Instant>>,
    first: bool,
    /// When the first of those that wait has waited long enough.
    pub(crate) until: Option<Instant>,
}

impl Instances {
    pub(crate) fn new(hold: Duration) -> Self {
        Self { hold, rows: Vec::new(), seen: HashMap::new(), first: true, until: None }
    }

    pub(crate) fn take(&mut self, rows: Vec<Row>) {
        self.rows = rows;
        if self.hold.is_zero() {
            return;
        }
        let since = (!self.first).then(Instant::now);
        let old = std::mem::take(&mut self.seen);
        let first_seen = |row: &Row| {
            let id = instance_id(row);
            let at = old.get(&id).copied().unwrap_or(since);
            (id, at)
        };
        self.seen = self.rows.iter().map(first_seen).collect();
        self.first = false;
    }

    /// Those that wait now; sets until when the first of them does.
    pub(crate) fn held(&mut self) -> HashSet<String> {
        self.until = None;
        let mut held = HashSet::new();
        for row in self.rows.iter().filter(|row| !self.seen.is_empty() && only_node_check(row)) {
            let id = instance_id(row);
            let Some(Some(since)) = self.seen.get(&id) else { continue };
            let until = *since + self.hold;
            if until > Instant::now() {
                self.until = Some(self.until.map_or(until, |other| other.min(until)));
                held.insert(id);
            }
        }
        held
    }

    /// Rows are large: they are kept only where they will be needed.
    pub(crate) fn forget(&mut self) {
        if self.until.is_none() {
            self.rows = Vec::new();
        }
    }
}
