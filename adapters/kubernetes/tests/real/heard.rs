//! A registry that runs against a server, and who listens to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use xebec_adapter_kubernetes::{KubernetesRegistry, Settings};
use xebec_pilot::model::{Address, Endpoint, RegistryId, Service};
use xebec_pilot::registry::{Registry, RegistryEvent, RegistrySink};
use xebec_testkit::{Kube, eventually};

pub const SOON: Duration = Duration::from_secs(20);

/// What was said, applied.
#[derive(Default)]
pub struct Heard {
    pub services: BTreeMap<String, Arc<Service>>,
    pub endpoints: BTreeMap<String, Arc<[Endpoint]>>,
    pub workloads: BTreeMap<String, Arc<Endpoint>>,
    pub synced: bool,
    pub before_synced: usize,
    pub degraded: Option<String>,
    /// Everything, in short, in order.
    pub log: Vec<(Instant, String)>,
}

impl Heard {
    fn take(&mut self, events: Vec<RegistryEvent>) {
        let now = Instant::now();
        for event in events {
            let text = match event {
                RegistryEvent::UpsertService(service) => {
                    let host = service.key.hostname.to_string();
                    self.before_synced += usize::from(!self.synced);
                    self.services.insert(host.clone(), service);
                    format!("+{host}")
                }
                RegistryEvent::RemoveService(key) => {
                    self.services.remove(&*key.hostname);
                    self.endpoints.remove(&*key.hostname);
                    format!("-{}", key.hostname)
                }
                RegistryEvent::ReplaceEndpoints(key, endpoints) => {
                    let text = format!("={}:{}", key.hostname, endpoints.len());
                    self.endpoints.insert(key.hostname.to_string(), endpoints);
                    text
                }
                RegistryEvent::UpsertWorkload(key, workload) => {
                    self.workloads.insert(key.name.to_string(), workload);
                    format!("+w {}", key.name)
                }
                RegistryEvent::RemoveWorkload(key) => {
                    self.workloads.remove(&*key.name);
                    format!("-w {}", key.name)
                }
                RegistryEvent::Synced => {
                    self.synced = true;
                    "synced".to_owned()
                }
                RegistryEvent::Degraded(text) => {
                    self.degraded = Some(text.clone());
                    format!("degraded {text}")
                }
                RegistryEvent::Recovered => {
                    self.degraded = None;
                    "recovered".to_owned()
                }
            };
            self.log.push((now, text));
        }
    }

    /// A host's endpoints with their health, sorted.
    pub fn addresses(&self, host: &str) -> Vec<String> {
        let mut all: Vec<String> = self
            .endpoints
            .get(host)
            .into_iter()
            .flat_map(|list| list.iter())
            .map(|e| match &e.address {
                Address::Ip(ip) => format!("{ip} {:?}", e.health),
                other => format!("{other:?}"),
            })
            .collect();
        all.sort();
        all
    }
}

/// A registry that runs, and what it has said.
pub struct Listener {
    pub heard: Arc<Mutex<Heard>>,
    stop: CancellationToken,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn sink(id: RegistryId) -> (RegistrySink, Arc<Mutex<Heard>>) {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let (sender, mut receiver) = mpsc::channel(64);
    let into = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Some((_, events)) = receiver.recv().await {
            into.lock().take(events);
        }
    });
    (RegistrySink::new(id, sender), heard)
}

pub fn listen(kubeconfig: PathBuf, settings: Settings) -> Listener {
    let id = RegistryId("kubernetes:test".into());
    let registry = KubernetesRegistry::new(id.clone(), Settings { kubeconfig: Some(kubeconfig), ..settings });
    let (sink, heard) = sink(id);
    let stop = CancellationToken::new();
    tokio::spawn(Box::new(registry).run(sink, stop.clone()));
    Listener { heard, stop }
}

impl Listener {
    /// Waits until what was said is so.
    pub async fn until(&self, what: &str, mut condition: impl FnMut(&Heard) -> bool) {
        eventually(SOON, what, async || condition(&self.heard.lock())).await;
    }
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

pub async fn put_service(kube: &Kube, name: &str, spec: Value) {
    kube.put_object(&format!("/api/v1/namespaces/default/services/{name}"), &service(name, spec)).await;
}

pub fn host(name: &str) -> String {
    format!("{name}.default.svc.cluster.local")
}
