//! What a platform's adapter implements.
//!
//! A [`Registry`] lists what its platform has, says [`RegistryEvent::Synced`], and then says what changes, for as
//! long as it runs. It reports trouble with [`RegistryEvent::Degraded`] and NEVER turns an outage into deletions: what was
//! registered last stays until the platform itself says otherwise.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::{Endpoint, RegistryId, Service, ServiceKey};

/// One thing that a platform says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryEvent {
    /// A service is new or has changed. Its endpoints are untouched.
    UpsertService(Arc<Service>),
    /// A service is gone, and its endpoints with it.
    RemoveService(ServiceKey),
    /// These are all endpoints of the service now. May arrive before the service itself.
    ReplaceEndpoints(ServiceKey, Arc<[Endpoint]>),
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
    sender: mpsc::Sender<(RegistryId, Vec<RegistryEvent>)>,
}

/// The control plane has stopped; a registry that sees this should return.
#[derive(Debug, thiserror::Error)]
#[error("the control plane has stopped")]
pub struct SinkClosed;

impl RegistrySink {
    /// Makes a sink for `id` that feeds `sender`.
    pub fn new(id: RegistryId, sender: mpsc::Sender<(RegistryId, Vec<RegistryEvent>)>) -> Self {
        Self { id, sender }
    }

    /// Says several events as one change: they become visible together.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody listens any more.
    pub async fn send(&self, events: Vec<RegistryEvent>) -> Result<(), SinkClosed> {
        self.sender.send((self.id.clone(), events)).await.map_err(|_| SinkClosed)
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
