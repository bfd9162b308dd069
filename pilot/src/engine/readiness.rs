//! What must have listed completely before a proxy is served.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The sources that are waited for.
#[derive(Debug)]
pub(super) struct Readiness {
    waited_for: Mutex<WaitedFor>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct WaitedFor {
    /// Those that have not listed completely.
    missing: BTreeSet<String>,
    /// Waiting has taken too long: whatever is missing, proxies are served.
    given_up: bool,
}

// === impl Readiness ===

impl Readiness {
    /// Waits for one more.
    pub fn expect(&self, source: String) {
        let mut waited_for = self.waited_for.lock();
        waited_for.missing.insert(source);
        self.ready.send_replace(waited_for.given_up);
    }

    /// One has listed completely, or is not there any more.
    pub fn synced(&self, source: &str) {
        let mut waited_for = self.waited_for.lock();
        waited_for.missing.remove(source);
        if waited_for.missing.is_empty() {
            self.ready.send_replace(true);
        }
    }

    /// Stops to wait. Returns what is missing.
    pub fn give_up(&self) -> Vec<String> {
        let mut waited_for = self.waited_for.lock();
        waited_for.given_up = true;
        self.ready.send_replace(true);
        waited_for.missing.iter().cloned().collect()
    }

    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    pub fn waiting_for(&self) -> Vec<String> {
        self.waited_for.lock().missing.iter().cloned().collect()
    }

    pub async fn wait(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self { waited_for: Mutex::default(), ready: watch::Sender::new(true) }
    }
}
