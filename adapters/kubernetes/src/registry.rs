//! The registry of one cluster: followers of its resources, one state, one sink.
//!
//! - ALWAYS: nothing is said before every resource was listed; then everything at once, and that it is synced.
//! - ALWAYS: what has arrived together is said together, and at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::{Meters, Registry, RegistryEvent, RegistrySink, SinkClosed};

use crate::connect::Connector;
use crate::convert::Cluster;
use crate::object::{Kind, Names};
use crate::state::{SYSTEM_NAMESPACE, State};
use crate::watch::{Follower, News, Note, Pulse, Resource, Timing, Trouble, summary};

/// How a cluster is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The kubeconfig's path. Without one: in a pod its own service account, elsewhere or with a context the files of `KUBECONFIG`, else
    /// `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; without one, the one that is current when it is first read.
    pub context: Option<String>,
    /// Only Services, EndpointSlices and Pods of these namespaces are read; all when empty.
    pub namespaces: Vec<String>,
    /// Whether Nodes and Namespaces are read, which takes a ClusterRole. Without them, endpoints have no region, and namespaces'
    /// labels and annotations have no effect.
    pub cluster_objects: bool,
    /// The cluster's DNS domain.
    pub domain: String,
    /// The cluster's name, for labels of endpoints.
    pub cluster_id: String,
    /// The network of pods that name none; without one, what the system namespace's label `topology.istio.io/network` says.
    pub network: String,
    /// The namespace of that label, and of the secrets of remote clusters.
    pub system_namespace: String,
}

/// Reads Services, EndpointSlices, Pods, Nodes and Namespaces of one cluster.
#[derive(Debug)]
pub struct KubernetesRegistry {
    id: RegistryId,
    settings: Settings,
    connector: Arc<Connector>,
    timing: Timing,
}

struct Run {
    state: State,
    meters: Meters,
    sink: RegistrySink,
    /// Resources that were not listed yet.
    unlisted: BTreeSet<Arc<Resource>>,
    troubles: BTreeMap<Arc<Resource>, Trouble>,
    degraded: Option<String>,
    synced: bool,
}

/// Notes that may wait before a follower is made to wait.
const QUEUE: usize = 4096;

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespaces: Vec::new(),
            cluster_objects: true,
            domain: "cluster.local".to_owned(),
            cluster_id: String::new(),
            network: String::new(),
            system_namespace: SYSTEM_NAMESPACE.to_owned(),
        }
    }
}

// === impl KubernetesRegistry ===

impl KubernetesRegistry {
    /// A registry named `id`. Nothing is read before it runs.
    pub fn new(id: RegistryId, settings: Settings) -> Self {
        let connector = Arc::new(Connector::new(settings.kubeconfig.clone(), settings.context.clone()));
        Self::connected(id, settings, connector, Timing::default())
    }

    pub(crate) fn connected(id: RegistryId, settings: Settings, connector: Arc<Connector>, timing: Timing) -> Self {
        Self { id, settings, connector, timing }
    }

    fn resources(&self) -> Vec<Resource> {
        let resource = |kind, namespace: Option<&String>| Resource {
            kind,
            namespace: namespace.map(|name| name.as_str().into()),
            labels: None,
        };
        let mut resources = Vec::new();
        if self.settings.cluster_objects {
            resources.extend([Kind::Namespace, Kind::Node].map(|kind| resource(kind, None)));
        }
        for kind in [Kind::Pod, Kind::Service, Kind::EndpointSlice] {
            if self.settings.namespaces.is_empty() {
                resources.push(resource(kind, None));
            }
            resources.extend(self.settings.namespaces.iter().map(|namespace| resource(kind, Some(namespace))));
        }
        resources
    }

    async fn forever(self, sink: RegistrySink) -> Result<(), SinkClosed> {
        let meters = Meters::new(&self.id);
        let cluster = Cluster {
            registry: self.id.clone(),
            domain: self.settings.domain.as_str().into(),
            id: self.settings.cluster_id.as_str().into(),
            network: self.settings.network.as_str().into(),
            pods_expected: true,
        };
        let (sender, mut notes) = mpsc::channel(QUEUE);
        let names = Arc::new(Mutex::new(Names::default()));
        let mut followers = JoinSet::new();
        let mut unlisted = BTreeSet::new();
        let pulse = Pulse::new();
        followers.spawn(Arc::clone(&pulse).run(Arc::clone(&self.connector), self.timing));
        for resource in self.resources() {
            unlisted.insert(Arc::new(resource.clone()));
            let follower = Follower::new(
                resource,
                Arc::clone(&self.connector),
                Arc::clone(&pulse),
                Arc::clone(&names),
                sender.clone(),
                meters.clone(),
                self.timing,
            );
            followers.spawn(follower.run());
        }
        drop(sender);
        let state = State::new(cluster, &self.settings.system_namespace, meters.clone());
        let mut run = Run { state, meters, sink, unlisted, troubles: BTreeMap::new(), degraded: None, synced: false };
        let mut batch = Vec::new();
        while notes.recv_many(&mut batch, QUEUE).await > 0 {
            run.take(&mut batch).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Registry for KubernetesRegistry {
    fn id(&self) -> RegistryId {
        self.id.clone()
    }

    async fn run(self: Box<Self>, sink: RegistrySink, stop: CancellationToken) {
        // Either way there is nobody left to report to.
        let _ = stop.run_until_cancelled(self.forever(sink)).await;
    }
}

// === impl Run ===

impl Run {
    async fn take(&mut self, batch: &mut Vec<Note>) -> Result<(), SinkClosed> {
        let Some(oldest) = batch.iter().map(|note| note.arrived).min() else { return Ok(()) };
        for Note { resource, news, .. } in batch.drain(..) {
            match news {
                News::Put(key, object) => self.state.put(key, object),
                News::Gone(key) => self.state.remove(resource.kind, key),
                News::Listed(named) => {
                    self.state.keep_only(resource.kind, resource.namespace.as_deref(), &named);
                    self.unlisted.remove(&resource);
                }
                News::Trouble(trouble) => drop(self.troubles.insert(resource, trouble)),
                News::Fine => drop(self.troubles.remove(&resource)),
            }
        }
        if self.unlisted.is_empty() {
            let mut events = self.state.settle();
            if !self.synced {
                self.synced = true;
                let (services, slices, pods) = self.state.counts();
                info!("the cluster is listed: {services} services, {slices} endpoint slices, {pods} pods");
                events.push(RegistryEvent::Synced);
            }
            if !events.is_empty() {
                self.sink.send(events).await?;
                self.meters.lag(oldest.elapsed());
            }
        }
        let now = summary(&self.troubles);
        if now == self.degraded {
            return Ok(());
        }
        let event = match &now {
            Some(text) => {
                error!("{text}; what was known stays in effect");
                RegistryEvent::Degraded(text.clone())
            }
            None => {
                info!("the cluster is read again");
                RegistryEvent::Recovered
            }
        };
        self.degraded = now;
        self.sink.send(vec![event]).await
    }
}
