//! What a control plane does for a Kubernetes cluster beside reading it: remote clusters, leadership, status, the webhook.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use xebec_adapter_kubernetes::{Registries, RemoteClusters};
use xebec_adapter_kubernetes_config::{
    Access, Acknowledged, KubernetesConfig, Leader, Proxies, Settings, StatusWriter, Webhook,
};
use xebec_galley::Config;
use xebec_pilot::engine::{Documents, EngineHandle};
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::RegistrySink;
use xebec_pilot::resources::ResourceType;
use xebec_pilot::xds::status::{Streams, Sync};

use crate::exit::Failure;
use crate::tasks::Tasks;

/// Registries that come and go while the engine runs.
struct Remote(EngineHandle);

/// What the proxies that are connected to this replica have acknowledged.
struct Connected {
    engine: EngineHandle,
    streams: Arc<Streams>,
    /// Many resources are asked about at once.
    last: Mutex<Option<Counted>>,
}

/// A census, for which configuration, and when.
struct Counted(Arc<Documents>, Instant, Arc<Census>);

/// Where the connected proxies stand.
#[derive(Default)]
struct Census {
    connected: BTreeSet<Arc<str>>,
    /// Those that an answer is under way to.
    behind: BTreeSet<Arc<str>>,
    /// Those that refused what follows from a document.
    refusing: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

/// How long a census counts.
const FRESH: Duration = Duration::from_millis(200);

/// Follows the secrets of remote clusters that the cluster of this registry and these settings holds. The clusters that are found first
/// are waited for.
pub(crate) fn follow_remote_clusters(
    holder: RegistryId,
    settings: xebec_adapter_kubernetes::Settings,
    engine: &EngineHandle,
    tasks: &Tasks,
) {
    let clusters = RemoteClusters::new(holder, settings, Arc::new(Remote(engine.clone())));
    tasks.spawn("the search for remote clusters", clusters.run(tasks.stop().clone()));
}

/// The source of the cluster's configuration. Beside it run, as the settings have it: leadership, status and the webhook.
///
/// # Errors
/// When the webhook's address is taken.
pub(crate) async fn configuration(
    settings: &Settings,
    streams: Arc<Streams>,
    engine: &EngineHandle,
    tasks: &Tasks,
) -> Result<KubernetesConfig, Failure> {
    let access = Access::new(settings);
    let source = KubernetesConfig::with_access(access.clone());
    if !settings.status && settings.webhook.is_none() {
        return Ok(source);
    }
    let leader = Leader::new(access.clone());
    let leads = leader.watch();
    if let Some(webhook) = &settings.webhook {
        let webhook = Webhook::bind(access.clone(), webhook.clone(), leads.clone())
            .await
            .map_err(|error| Failure::conflict(error).help("stop what uses the address, or choose another one"))?;
        tracing::info!(address = %webhook.address(), "the validating webhook listens");
        tasks.spawn("the validating webhook", webhook.run(tasks.stop().clone().cancelled_owned()));
    }
    if settings.status {
        let acknowledged = Arc::new(Connected { engine: engine.clone(), streams, last: Mutex::default() });
        let writer = StatusWriter::new(access, source.statuses(), leads, acknowledged);
        tasks.spawn("the writer of status", writer.run(tasks.stop().clone().cancelled_owned()));
    }
    tasks.spawn("the election of a leader", leader.run(tasks.stop().clone().cancelled_owned()));
    Ok(source)
}

// === impl Remote ===

impl Registries for Remote {
    fn add(&self, id: RegistryId, expected: bool) -> RegistrySink {
        if expected { self.0.registry_sink(id) } else { self.0.late_registry_sink(id) }
    }

    fn remove(&self, id: &RegistryId) {
        // When the engine has stopped, there is nothing to forget.
        let _ = self.0.remove_registry(id);
    }
}

// === impl Connected ===

impl Connected {
    fn census(&self, documents: &Arc<Documents>) -> Arc<Census> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Counted(of, at, census)) = &*last
            && Arc::ptr_eq(of, documents)
            && at.elapsed() < FRESH
        {
            return Arc::clone(census);
        }
        let census = Arc::new(Census::of(&self.streams));
        *last = Some(Counted(Arc::clone(documents), Instant::now(), Arc::clone(&census)));
        census
    }
}

impl Acknowledged for Connected {
    fn proxies(&self, resource: &Config) -> Option<Proxies> {
        let documents = self.engine.documents();
        // What is not served yet nobody can have acknowledged.
        documents.get(&resource.meta().key).filter(|served| *served == resource)?;
        Some(self.census(&documents).about(&resource.meta().source.file))
    }
}

// === impl Census ===

impl Census {
    fn of(streams: &Streams) -> Self {
        let mut census = Self::default();
        for stream in streams.list() {
            let proxy = &stream.proxy.id;
            for status in ResourceType::ALL.into_iter().filter_map(|kind| stream.of(kind)) {
                if status.sync() == Sync::Stale {
                    census.behind.insert(Arc::clone(proxy));
                }
                let refused = status.refused.iter().flat_map(|(refusal, _)| &refusal.resources);
                for origin in refused.flat_map(|resource| resource.origins.iter()) {
                    census.refusing.entry(Arc::clone(&origin.file)).or_default().insert(Arc::clone(proxy));
                }
            }
            census.connected.insert(Arc::clone(proxy));
        }
        census
    }

    /// A proxy counts as one that has not acknowledged while an answer to it is under way, or when it refused what follows from the
    /// document.
    fn about(&self, document: &str) -> Proxies {
        let refusing = self.refusing.get(document).into_iter().flatten().filter(|proxy| !self.behind.contains(*proxy));
        let connected = self.connected.len();
        Proxies { acknowledged: connected.saturating_sub(self.behind.len() + refusing.count()), connected }
    }
}
