#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod fake;
mod kv;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use xebec_pilot::model::{Endpoint, Health, RegistryId, Service};
use xebec_pilot::registry::{Registry as _, RegistryEvent, RegistrySink};

use crate::{ConsulRegistry, Settings};

const LIMIT: Duration = Duration::from_secs(40);

/// A running registry, and the mesh that its events make.
struct Live {
    events: mpsc::Receiver<(RegistryId, Vec<RegistryEvent>)>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    services: BTreeMap<String, Arc<Service>>,
    endpoints: BTreeMap<String, Arc<[Endpoint]>>,
    /// Everything that was said, as text.
    said: Vec<String>,
    synced: bool,
    degraded: Option<String>,
}

impl Live {
    fn start(settings: Settings) -> Self {
        let id = RegistryId(format!("consul:{}", settings.address).into());
        let (sender, events) = mpsc::channel(4096);
        let registry = Box::new(ConsulRegistry::new(id.clone(), settings).unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn(registry.run(RegistrySink::new(id, sender), stop.clone()));
        Self {
            events,
            stop,
            task,
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            said: Vec::new(),
            synced: false,
            degraded: None,
        }
    }

    fn apply(&mut self, events: Vec<RegistryEvent>) {
        for event in events {
            self.said.push(match event {
                RegistryEvent::UpsertService(service) => {
                    let name = service.key.hostname.to_string();
                    self.services.insert(name.clone(), service);
                    format!("+{name}")
                }
                RegistryEvent::RemoveService(key) => {
                    self.services.remove(&*key.hostname).expect("only what is there is removed");
                    self.endpoints.remove(&*key.hostname);
                    format!("-{}", key.hostname)
                }
                RegistryEvent::ReplaceEndpoints(key, endpoints) => {
                    let text = format!("{}={}", key.hostname, endpoints.len());
                    self.endpoints.insert(key.hostname.to_string(), endpoints);
                    text
                }
                RegistryEvent::Synced => {
                    assert!(!self.synced, "said once");
                    self.synced = true;
                    "synced".to_owned()
                }
                RegistryEvent::Degraded(text) => {
                    self.degraded = Some(text.clone());
                    format!("degraded: {text}")
                }
                RegistryEvent::Recovered => {
                    assert!(self.degraded.take().is_some(), "only what was degraded recovers");
                    "recovered".to_owned()
                }
                other => panic!("{other:?}"),
            });
        }
    }

    /// Takes events until the condition holds.
    async fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let end = tokio::time::Instant::now() + LIMIT;
        while !condition(self) {
            match tokio::time::timeout_at(end, self.events.recv()).await {
                Ok(Some((_, events))) => self.apply(events),
                Ok(None) => panic!("the registry ended before {what}"),
                Err(_) => panic!("waited in vain until {what}; said: {:#?}", self.said),
            }
        }
    }

    async fn synced(&mut self) {
        self.until("it is synced", |live| live.synced).await;
    }

    fn health(&self, hostname: &str) -> Vec<Health> {
        self.endpoints.get(hostname).map(|all| all.iter().map(|e| e.health).collect()).unwrap_or_default()
    }

    fn count(&self, hostname: &str) -> Option<usize> {
        self.endpoints.get(hostname).map(|all| all.len())
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(LIMIT, self.task).await.expect("it ends when it is told to").unwrap();
    }
}
