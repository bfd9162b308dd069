//! A registry that runs, and the state that its events make: what tests of it look at.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use xebec_adapter_nomad::{NomadRegistry, Settings};
use xebec_pilot::model::{Endpoint, Health, RegistryId, Service, ServiceKey};
use xebec_pilot::registry::{Registry, RegistryEvent, RegistrySink};

pub const SOON: Duration = Duration::from_secs(60);

pub struct Live {
    events: mpsc::Receiver<(RegistryId, Vec<RegistryEvent>)>,
    stop: CancellationToken,
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    pub endpoints: BTreeMap<ServiceKey, Arc<[Endpoint]>>,
    pub synced: bool,
    pub degraded: Option<String>,
    /// Everything that was said, in short.
    pub log: Vec<String>,
    pub last: Instant,
}

pub fn seconds(n: f64) -> xebec_galley::spec::Duration {
    Duration::from_secs_f64(n).into()
}

pub fn settings(address: &str) -> Settings {
    let mut settings = Settings { address: address.to_owned(), confirm_after: seconds(0.5), ..Settings::default() };
    settings.checks.poll_interval = seconds(0.2);
    settings
}

impl Live {
    pub fn start(settings: Settings) -> Self {
        let id = RegistryId(format!("nomad:{}", settings.address).into());
        let registry = NomadRegistry::new(id.clone(), settings).unwrap();
        let (sender, events) = mpsc::channel(1024);
        let stop = CancellationToken::new();
        tokio::spawn(Box::new(registry).run(RegistrySink::new(id, sender), stop.clone()));
        Self {
            events,
            stop,
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            synced: false,
            degraded: None,
            log: Vec::new(),
            last: Instant::now(),
        }
    }

    fn take(&mut self, events: Vec<RegistryEvent>) {
        self.last = Instant::now();
        for event in events {
            match event {
                RegistryEvent::UpsertService(service) => {
                    self.log.push(format!("+{}", service.key.hostname));
                    self.services.insert(service.key.clone(), service);
                }
                RegistryEvent::RemoveService(key) => {
                    self.log.push(format!("-{}", key.hostname));
                    assert!(self.services.remove(&key).is_some(), "{key} was never there");
                    self.endpoints.remove(&key);
                }
                RegistryEvent::ReplaceEndpoints(key, endpoints) => {
                    self.log.push(format!("={}:{}", key.hostname, endpoints.len()));
                    self.endpoints.insert(key, endpoints);
                }
                RegistryEvent::Synced => {
                    self.log.push("synced".into());
                    self.synced = true;
                }
                RegistryEvent::Degraded(why) => {
                    self.log.push(format!("degraded: {why}"));
                    self.degraded = Some(why);
                }
                RegistryEvent::Recovered => {
                    self.log.push("recovered".into());
                    self.degraded = None;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Takes events until `condition` holds, or fails.
    pub async fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + SOON;
        while !condition(self) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some((_, events))) => self.take(events),
                Ok(None) => panic!("the registry ended before {what}: {:#?}", self.log),
                Err(_) => panic!("not {what}: {:#?}\n{:#?}", self.log, self.endpoints),
            }
        }
    }

    /// Takes events for that long; only to see that something does not happen.
    pub async fn during(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(Some((_, events))) = tokio::time::timeout_at(deadline, self.events.recv()).await {
            self.take(events);
        }
    }

    pub fn of(&self, host: &str) -> &[Endpoint] {
        self.endpoints.iter().find(|(key, _)| &*key.hostname == host).map_or(&[], |(_, endpoints)| &**endpoints)
    }

    pub fn service(&self, host: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|(key, _)| &*key.hostname == host).map(|(_, service)| service)
    }

    pub fn healths(&self, host: &str) -> Vec<Health> {
        self.of(host).iter().map(|endpoint| endpoint.health).collect()
    }

    pub fn healthy(&self, host: &str) -> usize {
        self.of(host).iter().filter(|endpoint| endpoint.health == Health::Healthy).count()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A job of `count` pretended tasks, each an instance of a service that has the job's name.
pub fn mock(id: &str, count: u32, tags: &[&str]) -> Value {
    json!({"ID": id, "Type": "service", "Datacenters": ["dc1"], "TaskGroups": [{
        "Name": "g", "Count": count,
        "ShutdownDelay": 0,
        "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "http"}]}],
        "Services": [{"Name": id, "PortLabel": "http", "Provider": "nomad", "Tags": tags}],
        "Update": {"MaxParallel": 0},
        "Tasks": [{"Name": "t", "Driver": "mock_driver", "Config": {"run_for": "1h"}, "KillTimeout": 1_000_000_000_u64,
            "Resources": {"CPU": 20, "MemoryMB": 10}}]}]})
}
