//! What must have listed completely before a proxy is served.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The sources that are waited for.
#[derive(Debug)]
pub(super) struct Readiness {
    missing: Mutex<BTreeSet<String>>,
    ready: watch::Sender<bool>,
}

// === impl Readiness ===

impl Readiness {
    /// Waits for one more.
    pub fn expect(&self, source: String) {
        self.missing.lock().insert(source);
        self.ready.send_replace(false);
    }

    /// One has listed completely.
    pub fn synced(&self, source: &str) {
        let mut missing = self.missing.lock();
        missing.remove(source);
        if missing.is_empty() {
            self.ready.send_replace(true);
        }
    }

    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    pub fn waiting_for(&self) -> Vec<String> {
        self.missing.lock().iter().cloned().collect()
    }

    pub async fn wait(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self { missing: Mutex::default(), ready: watch::Sender::new(true) }
    }
}
