//! Everything that runs beside the servers: adapters, sources of configuration, leadership.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xebec_pilot::registry::{Registry, RegistryEvent, RegistrySink};

/// How long the tasks may take to say goodbye, such as a leader to the lease that it holds.
const GOODBYE: Duration = Duration::from_secs(2);

/// Running tasks, and the sign on which they end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    /// The sign. A task that has seen it returns.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs a task that ends only when it is told to.
    pub(crate) fn spawn(&self, name: &str, task: impl Future<Output = ()> + Send + 'static) {
        let (name, stop) = (name.to_owned(), self.stop.clone());
        self.tracker.spawn(async move {
            if let Some(why) = unexpected(task, &stop).await {
                tracing::error!(
                    "{name} {why}; what depends on it stays as it is until the control plane is started again"
                );
            }
        });
    }

    /// Runs a registry. One that ends by itself is degraded for good: what it said stays in effect.
    pub(crate) fn register(&self, registry: Box<dyn Registry>, sink: RegistrySink) {
        let (id, stop) = (registry.id(), self.stop.clone());
        self.tracker.spawn(async move {
            let running = registry.run(sink.clone(), stop.clone());
            if let Some(why) = unexpected(running, &stop).await {
                let reason = format!(
                    "its adapter {why}; what it said last stays in effect until the control plane is started again, \
                     which helps; please report what the log says before this"
                );
                tracing::error!(registry = %id, "{reason}");
                // Without an engine there is nothing to say any more.
                let _ = sink.send(vec![RegistryEvent::Degraded(reason)]).await;
            }
        });
    }

    /// Tells all tasks to end, and waits for them, a moment.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(GOODBYE, self.tracker.wait()).await.is_err() {
            tracing::debug!(tasks = self.tracker.len(), "not all tasks have ended in time");
        }
    }
}

/// Runs a task to its end, and says how it came to it if nobody asked.
async fn unexpected(task: impl Future<Output = ()>, stop: &CancellationToken) -> Option<&'static str> {
    let ended = AssertUnwindSafe(task).catch_unwind().await;
    match ended {
        _ if stop.is_cancelled() => None,
        Ok(()) => Some("has ended without being asked to"),
        Err(_) => Some("has ended by a mistake of its own"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use async_trait::async_trait;
    use tokio::sync::mpsc;
    use xebec_pilot::model::RegistryId;

    use super::*;

    struct Fragile;

    #[async_trait]
    impl Registry for Fragile {
        fn id(&self) -> RegistryId {
            RegistryId("fragile".into())
        }

        async fn run(self: Box<Self>, _: RegistrySink, _: CancellationToken) {
            panic!("a mistake");
        }
    }

    #[tokio::test]
    async fn a_registry_that_ends_by_itself_is_reported_as_degraded() {
        let tasks = Tasks::default();
        let (sender, mut events) = mpsc::channel(1);
        tasks.register(Box::new(Fragile), RegistrySink::new(Fragile.id(), sender));
        let (_, said) = events.recv().await.unwrap();
        assert!(matches!(&said[..], [RegistryEvent::Degraded(reason)] if reason.contains("mistake")), "{said:?}");
        tasks.finish().await;
    }

    #[tokio::test]
    async fn what_has_to_say_goodbye_is_waited_for() {
        let tasks = Tasks::default();
        let (sender, mut said) = mpsc::channel(1);
        let stop = tasks.stop().clone();
        tasks.spawn("a guest", async move {
            stop.cancelled().await;
            tokio::task::yield_now().await;
            sender.send("goodbye").await.unwrap();
        });
        tasks.finish().await;
        assert_eq!(said.try_recv(), Ok("goodbye"));
    }
}
