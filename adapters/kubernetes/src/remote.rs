//! Remote clusters: for each kubeconfig in a secret that is labelled `istio/multiCluster=true`, a registry of its own.
//!
//! - ALWAYS: a cluster that appears, changes its credentials or disappears does so while everything runs.
//! - ALWAYS: new credentials keep the cluster's state until the new client has listed, also when they are wrong.
//! - ALWAYS: the clusters of the first listing are waited for at start, as the cluster that holds the secrets is.
//! - NEVER: an outage of the API server that holds the secrets removes a cluster.
//! - NEVER: clusters of one name that different clusters tell of are taken for one.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::{Meters, Registry as _, RegistryEvent, RegistrySink, SinkClosed, Skip, Skips};

use crate::connect::{Connector, from_secret};
use crate::object::{Key, Kind, Names, Object};
use crate::registry::{KubernetesRegistry, Settings};
use crate::watch::{Follower, News, Note, Pulse, Resource, Timing};

/// Where registries come and go.
pub trait Registries: Send + Sync + 'static {
    /// A registry begins: where it says its events. Proxies wait for one that is `expected`.
    fn add(&self, id: RegistryId, expected: bool) -> RegistrySink;
    /// A registry has ended; everything that it said is to be forgotten.
    fn remove(&self, id: &RegistryId);
}

/// Follows the secrets of remote clusters.
pub struct RemoteClusters {
    id: RegistryId,
    sink: RegistrySink,
    clusters: Clusters,
}

struct Clusters {
    /// The registry of the cluster that holds the secrets.
    holder: RegistryId,
    settings: Settings,
    registries: Arc<dyn Registries>,
    skips: Skips,
    secrets: BTreeMap<Key, BTreeMap<String, Vec<u8>>>,
    running: FxHashMap<String, Running>,
    /// Kubeconfigs that are not used, so that each is complained about once.
    refused: BTreeMap<String, Refused>,
    /// What was said of each cluster that several secrets name.
    ambiguous: BTreeMap<String, Vec<Skip>>,
    /// Whether what is there was found at the first listing.
    first: bool,
}

struct Refused {
    content: Vec<u8>,
    /// Why, for an operator. `None` where nothing is wrong with it.
    why: Option<String>,
}

struct Running {
    content: Vec<u8>,
    connector: Arc<Connector>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// `istio/multiCluster=true`, for a URL.
const LABEL: &str = "istio%2FmultiCluster%3Dtrue";

// === impl RemoteClusters ===

impl RemoteClusters {
    /// With the id and the settings of the cluster that holds the secrets, in its `system_namespace`. Remote clusters have the same
    /// settings, but for their address, name and network. The secrets are a registry of their own, without services, which is added
    /// here: until they were listed, nobody knows which clusters to wait for.
    pub fn new(holder: RegistryId, settings: Settings, registries: Arc<dyn Registries>) -> Self {
        let id = RegistryId(format!("kubernetes-secrets:{}@{holder}", settings.system_namespace).into());
        let sink = registries.add(id.clone(), true);
        let clusters = Clusters {
            holder,
            settings,
            registries,
            skips: Skips::new(Meters::new(&id)),
            secrets: BTreeMap::new(),
            running: FxHashMap::default(),
            refused: BTreeMap::new(),
            ambiguous: BTreeMap::new(),
            first: true,
        };
        Self { id, sink, clusters }
    }

    /// Follows the secrets until `stop` is cancelled; then the remote clusters' registries have ended, too.
    pub async fn run(self, stop: CancellationToken) {
        let Self { id, sink, mut clusters } = self;
        let settings = &clusters.settings;
        let (sender, mut notes) = mpsc::channel(64);
        let resource = Resource {
            kind: Kind::Secret,
            namespace: Some(settings.system_namespace.as_str().into()),
            labels: Some(LABEL),
        };
        let connector = Arc::new(Connector::new(settings.kubeconfig.clone(), settings.context.clone()));
        let names = Arc::new(Mutex::new(Names::default()));
        let (timing, pulse) = (Timing::default(), Pulse::new());
        let asking = tokio::spawn(Arc::clone(&pulse).run(Arc::clone(&connector), timing));
        let follower = Follower::new(resource, connector, pulse, names, sender, Meters::new(&id), timing);
        let follower = tokio::spawn(follower.run());
        // When nobody listens any more, everything is being stopped.
        let _ = stop.run_until_cancelled(clusters.follow(&mut notes, &sink)).await;
        follower.abort();
        asking.abort();
        for (_, running) in clusters.running.drain() {
            running.stop.cancel();
            let _ = running.task.await;
        }
    }
}

impl std::fmt::Debug for RemoteClusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteClusters").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl Clusters ===

impl Clusters {
    async fn follow(&mut self, notes: &mut mpsc::Receiver<Note>, sink: &RegistrySink) -> Result<(), SinkClosed> {
        let (mut listed, mut trouble, mut degraded) = (false, None, None);
        while let Some(Note { news, .. }) = notes.recv().await {
            match news {
                News::Put(key, Object::Secret(data)) => drop(self.secrets.insert(key, data)),
                News::Put(..) => {}
                News::Gone(key) => drop(self.secrets.remove(&key)),
                News::Listed(named) => {
                    self.secrets.retain(|key, _| named.contains(key));
                    listed = true;
                }
                News::Trouble(new) => {
                    trouble = Some(format!("the secrets of remote clusters: {new}; known clusters stay"))
                }
                News::Fine => trouble = None,
            }
            if listed {
                self.reconcile().await;
                if self.first {
                    self.first = false;
                    sink.send(vec![RegistryEvent::Synced]).await?;
                }
            }
            let refused = self.refused.values().filter_map(|refused| refused.why.as_ref());
            let all: Vec<&str> = trouble.iter().chain(refused).map(String::as_str).collect();
            let now = (!all.is_empty()).then(|| all.join("; "));
            if now != degraded {
                degraded.clone_from(&now);
                let event = match now {
                    Some(text) => {
                        error!("{text}");
                        RegistryEvent::Degraded(text)
                    }
                    None => RegistryEvent::Recovered,
                };
                sink.send(vec![event]).await?;
            }
        }
        Ok(())
    }

    /// Makes what runs equal to what the secrets say.
    async fn reconcile(&mut self) {
        let mut wanted: BTreeMap<String, (Key, Vec<u8>)> = BTreeMap::new();
        let mut ambiguous: BTreeMap<String, Vec<Skip>> = BTreeMap::new();
        for (key, data) in &self.secrets {
            for (cluster, content) in data {
                match wanted.get(cluster) {
                    Some((first, _)) => {
                        let detail = format!("it is in the secrets {first} and {key}: the first is in effect");
                        let skip = Skip { reason: "ambiguous_cluster", detail };
                        ambiguous.entry(cluster.clone()).or_default().push(skip);
                    }
                    None => drop(wanted.insert(cluster.clone(), (key.clone(), content.clone()))),
                }
            }
        }
        for (cluster, skips) in &ambiguous {
            let before = self.ambiguous.get(cluster).map(Vec::as_slice).unwrap_or_default();
            self.skips.tell(&format!("the remote cluster {cluster}"), skips, before);
        }
        self.ambiguous = ambiguous;
        let gone: Vec<String> = self.running.keys().filter(|cluster| !wanted.contains_key(*cluster)).cloned().collect();
        for cluster in gone {
            if let Some(running) = self.running.remove(&cluster) {
                running.stop.cancel();
                // What it still says must not come after its end.
                let _ = running.task.await;
                self.registries.remove(&self.id_of(&cluster));
                info!("the remote cluster {cluster} is removed");
            }
        }
        self.refused.retain(|cluster, _| wanted.contains_key(cluster));
        for (cluster, (key, content)) in wanted {
            self.want(cluster, &key, content);
        }
    }

    fn want(&mut self, cluster: String, key: &Key, content: Vec<u8>) {
        if self.running.get(&cluster).is_some_and(|running| running.content == content) {
            self.refused.remove(&cluster);
            return;
        }
        if self.refused.get(&cluster).is_some_and(|refused| refused.content == content) {
            return;
        }
        let place = format!("the remote cluster {cluster} (secret {key})");
        if cluster == self.settings.cluster_id {
            let detail = "it is the cluster that holds the secret: not read twice".to_owned();
            self.skips.tell(&place, &[Skip { reason: "own_cluster", detail }], &[]);
            self.refused.insert(cluster, Refused { content, why: None });
            return;
        }
        let kubeconfig = match from_secret(&place, &content) {
            Ok(kubeconfig) => kubeconfig,
            Err(error) => {
                let rest = if self.running.contains_key(&cluster) { "; the old one stays in use" } else { "" };
                let why = format!("{error}{rest}");
                self.skips.tell(&place, &[Skip { reason: "invalid_kubeconfig", detail: why.clone() }], &[]);
                self.refused.insert(cluster, Refused { content, why: Some(why) });
                return;
            }
        };
        self.refused.remove(&cluster);
        if let Some(running) = self.running.get_mut(&cluster) {
            info!("{place} has new credentials");
            running.connector.replace(&place, kubeconfig);
            running.content = content;
            return;
        }
        info!("{place} is added");
        let id = self.id_of(&cluster);
        let settings = Settings {
            kubeconfig: None,
            context: None,
            cluster_id: cluster.clone(),
            network: String::new(),
            ..self.settings.clone()
        };
        let connector = Arc::new(Connector::of(&place, kubeconfig));
        let registry = KubernetesRegistry::connected(id.clone(), settings, Arc::clone(&connector), Timing::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(Box::new(registry).run(self.registries.add(id, self.first), stop.clone()));
        self.running.insert(cluster, Running { content, connector, stop, task });
    }
    /// The registry of a remote cluster. The name of its holder is in it, as others may tell of a cluster of that name, too.
    fn id_of(&self, cluster: &str) -> RegistryId {
        RegistryId(format!("kubernetes-remote:{cluster}@{}", self.holder).into())
    }
}
