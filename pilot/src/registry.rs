//! What a platform's adapter implements.
//!
//! A [`Registry`] lists what its platform has, says [`RegistryEvent::Synced`], and then says what changes, for as
//! long as it runs. It reports trouble with [`RegistryEvent::Degraded`] and NEVER turns an outage into deletions: what was
//! registered last stays until the platform itself says otherwise.

mod skips;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use skips::{Skip, Skips, quote};

use crate::model::{Endpoint, RegistryId, Service, ServiceKey, WorkloadKey};

/// One thing that a platform says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryEvent {
    /// A service is new or has changed. Its endpoints are untouched.
    UpsertService(Arc<Service>),
    /// A service is gone, and its endpoints with it.
    RemoveService(ServiceKey),
    /// These are all endpoints of the service now. May arrive before the service itself.
    ReplaceEndpoints(ServiceKey, Arc<[Endpoint]>),
    /// A workload is new or has changed, whether a service has it as an endpoint or not: ServiceEntries select among workloads by
    /// their labels. Platforms whose workloads are all endpoints of services need not say this.
    UpsertWorkload(WorkloadKey, Arc<Endpoint>),
    /// A workload is gone.
    RemoveWorkload(WorkloadKey),
    /// The first listing is complete. Said once; repeated ones are ignored.
    Synced,
    /// The platform cannot be read. The last good state is served; the text says why, for an operator.
    Degraded(String),
    /// The platform is read again, and everything missed has been said.
    Recovered,
}

/// Where a registry says its events. Cloneable; applies back-pressure when the mesh is behind.
#[derive(Debug, Clone)]
pub struct RegistrySink {
    id: RegistryId,
    outlet: Outlet,
}

#[derive(Debug, Clone)]
enum Outlet {
    Plain(mpsc::Sender<(RegistryId, Vec<RegistryEvent>)>),
    /// The engine hears only those whose ticket is in force.
    Ticketed(mpsc::Sender<Said>, Ticket),
}

/// Tells the sinks of one registry apart: one that was given out before the registry was removed is not heard any more.
pub(crate) type Ticket = u64;

/// What the engine is told by a sink.
#[derive(Debug)]
pub(crate) struct Said {
    pub id: RegistryId,
    pub ticket: Ticket,
    pub events: Vec<RegistryEvent>,
}

/// The control plane has stopped; a registry that sees this should return.
#[derive(Debug, thiserror::Error)]
#[error("the control plane has stopped")]
pub struct SinkClosed;

impl RegistrySink {
    /// Makes a sink for `id` that feeds `sender`.
    pub fn new(id: RegistryId, sender: mpsc::Sender<(RegistryId, Vec<RegistryEvent>)>) -> Self {
        Self { id, outlet: Outlet::Plain(sender) }
    }

    pub(crate) fn ticketed(id: RegistryId, ticket: Ticket, sender: mpsc::Sender<Said>) -> Self {
        Self { id, outlet: Outlet::Ticketed(sender, ticket) }
    }

    /// Says several events as one change: they become visible together.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody listens any more.
    pub async fn send(&self, events: Vec<RegistryEvent>) -> Result<(), SinkClosed> {
        let id = self.id.clone();
        match &self.outlet {
            Outlet::Plain(sender) => sender.send((id, events)).await.map_err(|_| SinkClosed),
            Outlet::Ticketed(sender, ticket) => {
                sender.send(Said { id, ticket: *ticket, events }).await.map_err(|_| SinkClosed)
            }
        }
    }
}

/// What an adapter measures of itself, under names that all adapters share. What a registry says is counted where it is
/// heard; only what cannot be seen from there is here.
#[derive(Debug, Clone)]
pub struct Meters {
    registry: Arc<str>,
}

impl Meters {
    /// Meters under this registry's name.
    pub fn new(id: &RegistryId) -> Self {
        Self { registry: Arc::clone(&id.0) }
    }

    /// A connection to the platform was made again after it was lost (`xebec_registry_reconnects_total`).
    pub fn reconnected(&self) {
        metrics::counter!("xebec_registry_reconnects_total", "registry" => Arc::clone(&self.registry)).increment(1);
    }

    /// An answer or event of the platform arrived (`xebec_registry_notifications_total`). `changed` is false for one that said
    /// nothing new.
    pub fn notified(&self, changed: bool) {
        let changed = if changed { "true" } else { "false" };
        metrics::counter!("xebec_registry_notifications_total", "registry" => Arc::clone(&self.registry), "changed" => changed)
            .increment(1);
    }

    /// How long a change was under way from the platform's notification to the mesh (`xebec_registry_lag_seconds`).
    pub fn lag(&self, lag: Duration) {
        metrics::histogram!("xebec_registry_lag_seconds", "registry" => Arc::clone(&self.registry))
            .record(lag.as_secs_f64());
    }

    /// Something that a tenant of the platform wrote was not taken (`xebec_registry_skipped_total`). `reason` is one of a few
    /// fixed words such as `invalid_address`; details belong into the log.
    pub fn skipped(&self, reason: &'static str) {
        metrics::counter!("xebec_registry_skipped_total", "registry" => Arc::clone(&self.registry), "reason" => reason)
            .increment(1);
    }
}

/// A platform that services come from. See the module's text for its duties.
#[async_trait]
pub trait Registry: Send + 'static {
    /// Its name within this control plane.
    fn id(&self) -> RegistryId;

    /// Lists, says `Synced`, then says every change until `stop` is cancelled or the sink is closed. Trouble with the
    /// platform is reported as `Degraded` and retried; this function does not return because of it.
    async fn run(self: Box<Self>, sink: RegistrySink, stop: CancellationToken);
}
