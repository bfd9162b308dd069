//! The catalog: what every platform and every ServiceEntry registers, merged by hostname and namespace.
//!
//! Several registries may know one service. The oldest registration decides its ports, addresses and visibility; the
//! endpoints of all of them are joined. The catalog remembers what each one said, so that a registration that goes away
//! leaves the others as they were.
//!
//! - ALWAYS: a change costs the registrations that it touches; ServiceEntries with a `workloadSelector` are recomputed
//!   when workloads of their namespace change, and only then.
//! - NEVER: an outage of a registry removes anything. Its state is kept, and reported as degraded.

mod entry;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use rustc_hash::FxBuildHasher;
use xebec_galley::spec::{MeshConfig, ServiceEntry, WorkloadEntry};
use xebec_galley::{Resource, ResourceKey, SourceRef};

use crate::mesh::{Change, MeshService};
use crate::model::{Endpoint, RegistryId, Service, ServiceKey};
use crate::registry::RegistryEvent;

/// Everything that is registered, by whom, and what changed since it was last asked.
#[derive(Debug, Default)]
pub struct Catalog {
    settings: Arc<MeshConfig>,
    registries: BTreeMap<RegistryId, RegistryStatus>,
    registrations: HashMap<ServiceKey, BTreeMap<Source, Registration>, FxBuildHasher>,
    /// The services that registries have in each namespace; ServiceEntries select workloads among them.
    namespaces: HashMap<Arc<str>, BTreeSet<ServiceKey>, FxBuildHasher>,
    entries: BTreeMap<ResourceKey, Arc<Resource<ServiceEntry>>>,
    workloads: BTreeMap<ResourceKey, Arc<Resource<WorkloadEntry>>>,
    /// ServiceEntries that select workloads, by namespace.
    selecting: BTreeMap<Arc<str>, BTreeSet<ResourceKey>>,
    changed: BTreeSet<ServiceKey>,
}

/// What is known about a registry, for `/debug/registryz` and readiness.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryStatus {
    /// Whether its first listing is complete.
    pub synced: bool,
    /// Why it cannot be read at present, when it cannot. What it said last is served meanwhile.
    pub degraded: Option<String>,
    /// When it last said something.
    pub last_event: Option<SystemTime>,
    /// How many services it registers.
    pub services: usize,
}

/// Who registers; the order decides between registrations of one age: platforms before ServiceEntries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Source {
    Registry(RegistryId),
    Entry(ResourceKey),
}

#[derive(Debug, Clone, Default)]
struct Registration {
    /// `None` while only its endpoints are known.
    service: Option<Arc<Service>>,
    endpoints: Arc<[Endpoint]>,
    origin: Option<SourceRef>,
}

// === impl Catalog ===

impl Catalog {
    /// An empty catalog under these settings.
    pub fn new(settings: Arc<MeshConfig>) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Expects events from this registry: it counts as not synced until it says so.
    pub fn expect_registry(&mut self, id: RegistryId) {
        self.registries.entry(id).or_default();
    }

    /// What is known about every registry.
    pub fn registries(&self) -> &BTreeMap<RegistryId, RegistryStatus> {
        &self.registries
    }

    /// Takes one event of a registry, which came at `now`.
    pub fn registry_event(&mut self, id: &RegistryId, event: RegistryEvent, now: SystemTime) {
        let status = self.registries.entry(id.clone()).or_default();
        status.last_event = Some(now);
        match event {
            RegistryEvent::UpsertService(service) => {
                let key = service.key.clone();
                let slot =
                    self.registrations.entry(key.clone()).or_default().entry(Source::Registry(id.clone())).or_default();
                status.services += usize::from(slot.service.is_none());
                slot.service = Some(service);
                self.namespaces.entry(Arc::clone(&key.namespace)).or_default().insert(key.clone());
                self.changed.insert(key);
            }
            RegistryEvent::RemoveService(key) => {
                let source = Source::Registry(id.clone());
                let Some(slots) = self.registrations.get_mut(&key) else { return };
                let Some(gone) = slots.remove(&source) else { return };
                status.services -= usize::from(gone.service.is_some());
                if !slots.keys().any(|s| matches!(s, Source::Registry(_)))
                    && let Some(names) = self.namespaces.get_mut(&key.namespace)
                {
                    names.remove(&key);
                }
                if !gone.endpoints.is_empty() {
                    self.reselect(&key.namespace);
                }
                self.changed.insert(key);
            }
            RegistryEvent::ReplaceEndpoints(key, endpoints) => {
                let slot =
                    self.registrations.entry(key.clone()).or_default().entry(Source::Registry(id.clone())).or_default();
                if slot.endpoints == endpoints {
                    return;
                }
                slot.endpoints = endpoints;
                self.reselect(&key.namespace);
                self.changed.insert(key);
            }
            RegistryEvent::Synced => status.synced = true,
            RegistryEvent::Degraded(reason) => {
                if status.degraded.as_ref() != Some(&reason) {
                    tracing::warn!(registry = %id, %reason, "registry is degraded; its last good state is served");
                }
                status.degraded = Some(reason);
            }
            RegistryEvent::Recovered => {
                if status.degraded.take().is_some() {
                    tracing::info!(registry = %id, "registry is read again");
                }
            }
        }
    }

    /// Takes a ServiceEntry, or its removal.
    pub fn set_service_entry(&mut self, key: ResourceKey, entry: Option<Arc<Resource<ServiceEntry>>>) {
        if let Some(old) = self.entries.remove(&key) {
            self.withdraw(&key, &old);
            if let Some(selecting) = self.selecting.get_mut(&key.namespace) {
                selecting.remove(&key);
            }
        }
        if let Some(new) = entry {
            if new.spec.workload_selector.is_some() {
                self.selecting.entry(Arc::clone(&key.namespace)).or_default().insert(key.clone());
            }
            self.entries.insert(key.clone(), new);
            self.register_entry(&key);
        }
    }

    /// Takes a WorkloadEntry, or its removal.
    pub fn set_workload_entry(&mut self, key: ResourceKey, entry: Option<Arc<Resource<WorkloadEntry>>>) {
        let namespace = Arc::clone(&key.namespace);
        match entry {
            Some(new) => self.workloads.insert(key, new),
            None => self.workloads.remove(&key),
        };
        self.reselect(&namespace);
    }

    /// Takes new settings: the default visibility of ServiceEntries is among them.
    pub fn set_settings(&mut self, settings: Arc<MeshConfig>) {
        let same = self.settings.default_service_export_to == settings.default_service_export_to;
        self.settings = settings;
        if !same {
            let keys: Vec<_> = self.entries.keys().cloned().collect();
            keys.iter().for_each(|key| self.register_entry(key));
        }
    }

    /// The services that may be different since this was last asked, as changes of the mesh.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|key| {
                let merged = self.merged(&key);
                Change::Service(key, merged)
            })
            .collect()
    }

    fn merged(&mut self, key: &ServiceKey) -> Option<Arc<MeshService>> {
        let slots = self.registrations.get(key)?;
        if slots.is_empty() {
            self.registrations.remove(key);
            return None;
        }
        let complete = || slots.iter().filter_map(|(source, r)| r.service.as_ref().map(|service| (source, service, r)));
        let (_, service, first) = complete().min_by_key(|(source, service, _)| (service.created, *source))?;
        let mut lists = complete().map(|(.., r)| &r.endpoints).filter(|e| !e.is_empty());
        let endpoints = match (lists.next(), lists.next()) {
            (None, _) => Arc::default(),
            (Some(only), None) => Arc::clone(only),
            _ => join(complete().map(|(.., r)| &*r.endpoints)),
        };
        Some(Arc::new(MeshService {
            service: Arc::clone(service),
            endpoints,
            origin: first.origin.clone().or_else(|| service.origin.clone()),
        }))
    }

    /// Registers anew every ServiceEntry of the namespace that selects workloads.
    fn reselect(&mut self, namespace: &str) {
        let keys: Vec<_> = self.selecting.get(namespace).into_iter().flatten().cloned().collect();
        keys.iter().for_each(|key| self.register_entry(key));
    }

    fn register_entry(&mut self, key: &ResourceKey) {
        let Some(entry) = self.entries.get(key).cloned() else { return };
        let endpoints: Arc<[Endpoint]> = match &entry.spec.workload_selector {
            Some(selector) => self.select(&entry, &selector.labels),
            None => entry::inline_endpoints(&entry).into(),
        };
        for service in entry::services(&entry, &self.settings) {
            let key = service.key.clone();
            let registration = Registration {
                service: Some(Arc::new(service)),
                endpoints: Arc::clone(&endpoints),
                origin: Some(entry.meta.source.clone()),
            };
            self.registrations
                .entry(key.clone())
                .or_default()
                .insert(Source::Entry(entry.meta.key.clone()), registration);
            self.changed.insert(key);
        }
    }

    fn withdraw(&mut self, key: &ResourceKey, entry: &Resource<ServiceEntry>) {
        for host in &entry.spec.hosts {
            let service = ServiceKey::new(host, &key.namespace);
            if let Some(slots) = self.registrations.get_mut(&service) {
                slots.remove(&Source::Entry(key.clone()));
            }
            self.changed.insert(service);
        }
    }

    /// The WorkloadEntries and the workloads of platforms that a ServiceEntry selects in its namespace, each address once.
    fn select(&self, entry: &Resource<ServiceEntry>, labels: &BTreeMap<String, String>) -> Arc<[Endpoint]> {
        let namespace = &entry.meta.key.namespace;
        let mut found: Vec<Endpoint> = self
            .workloads
            .values()
            .filter(|w| w.meta.key.namespace == *namespace)
            .filter(|w| entry::selected(labels, |key| w.spec.labels.get(key).map(String::as_str)))
            .filter_map(|w| entry::endpoint(&w.spec, &entry.spec.ports))
            .collect();
        let services = self.namespaces.get(namespace).into_iter().flatten();
        let registered = services
            .filter_map(|key| self.registrations.get(key))
            .flatten()
            .filter(|(source, _)| matches!(source, Source::Registry(_)))
            .flat_map(|(_, r)| r.endpoints.iter())
            .filter(|e| entry::selected(labels, |key| e.labels.get(key).map(|v| &**v)));
        for endpoint in registered {
            let known = found.iter().any(|f| f.address == endpoint.address && f.workload == endpoint.workload);
            if !known {
                found.push(entry::adopted(endpoint, &entry.spec.ports));
            }
        }
        found.into()
    }
}

fn join<'a>(lists: impl Iterator<Item = &'a [Endpoint]>) -> Arc<[Endpoint]> {
    lists.flatten().cloned().collect::<Vec<_>>().into()
}
