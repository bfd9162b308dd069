//! The catalog: what every platform and every ServiceEntry registers, merged by hostname and namespace.
//!
//! Several registries may know one service: a hostname in a namespace is one service, whoever registers it. Of its registrations the
//! oldest decides (the lowest `created`; of one age platforms before ServiceEntries, and these by name):
//!
//! - Its name, resolution, visibility, labels and distribution hold. Virtual addresses and aliases of all are joined.
//! - Ports are joined by number. A port that only a younger registration has is added, under a name that is made unique. Where a
//!   younger one gives a port of the same number another name or protocol, the older one's hold, and a [`Conflict`](crate::mesh::Conflict) is remembered.
//! - Endpoints are joined. Each keeps its health, labels, locality and weight, and takes traffic on the ports that its own registration
//!   has. The same address and port said twice counts once, as the older registration says it.
//!
//! The catalog remembers what each one said, so that a registration that goes away leaves the others as they were.
//!
//! - ALWAYS: a change costs the registrations that it touches. A ServiceEntry with a `workloadSelector` is recomputed, once per
//!   commit, when a workload of its namespace changes that it selects or selected, and only then.
//! - NEVER: an outage of a registry removes anything. Its state is kept, and reported as degraded.

mod entry;
mod merge;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use rustc_hash::FxBuildHasher;
use xebec_galley::spec::{MeshConfig, ServiceEntry, WorkloadEntry};
use xebec_galley::{Resource, ResourceKey, SourceRef};

use crate::mesh::{Change, MeshService};
use crate::model::{Address, Endpoint, RegistryId, Service, ServiceKey};
use crate::registry::RegistryEvent;
use merge::Registered;

/// The workloads of one namespace, by registry and name.
type PlatformWorkloads = BTreeMap<(RegistryId, Arc<str>), Arc<Endpoint>>;

/// Everything that is registered, by whom, and what changed since it was last asked.
#[derive(Debug, Default)]
pub struct Catalog {
    settings: Arc<MeshConfig>,
    registries: BTreeMap<RegistryId, RegistryStatus>,
    registrations: HashMap<ServiceKey, BTreeMap<Source, Registration>, FxBuildHasher>,
    /// The services of each namespace that registries have had endpoints of; ServiceEntries select workloads among them.
    namespaces: HashMap<Arc<str>, BTreeSet<ServiceKey>, FxBuildHasher>,
    /// The workloads that registries have in each namespace, whether a service has them as endpoints or not.
    platform_workloads: HashMap<Arc<str>, PlatformWorkloads, FxBuildHasher>,
    entries: BTreeMap<ResourceKey, Arc<Resource<ServiceEntry>>>,
    workload_entries: BTreeMap<ResourceKey, Arc<Resource<WorkloadEntry>>>,
    /// ServiceEntries that select workloads, by namespace.
    selecting: BTreeMap<Arc<str>, BTreeSet<ResourceKey>>,
    /// Those of which a selected workload has changed: they select anew with the next changes.
    stale: BTreeSet<ResourceKey>,
    changed: BTreeSet<ServiceKey>,
}

/// What is known about a registry, for `/debug/registryz` and readiness.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryStatus {
    /// Whether its first listing is complete.
    pub synced: bool,
    /// Why it cannot be read at present, when it cannot. What it said last is served meanwhile.
    pub degraded: Option<String>,
    /// Since when it cannot be read.
    pub degraded_since: Option<SystemTime>,
    /// When it last said something.
    pub last_event: Option<SystemTime>,
    /// How many events it has said.
    pub events: u64,
    /// How many services it registers.
    pub services: usize,
    /// How many endpoints its services have.
    pub endpoints: usize,
    /// How many workloads it has named besides.
    pub workloads: usize,
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
        status.events += 1;
        match event {
            RegistryEvent::UpsertService(service) => {
                let key = service.key.clone();
                let slot = slot(&mut self.registrations, &key, id);
                status.services += usize::from(slot.service.is_none());
                slot.service = Some(service);
                self.changed.insert(key);
            }
            RegistryEvent::RemoveService(key) => self.remove_service(id, key),
            RegistryEvent::ReplaceEndpoints(key, endpoints) => {
                let slot = slot(&mut self.registrations, &key, id);
                if slot.endpoints == endpoints {
                    return;
                }
                status.endpoints = (status.endpoints + endpoints.len()).saturating_sub(slot.endpoints.len());
                let old = std::mem::replace(&mut slot.endpoints, Arc::clone(&endpoints));
                let known = self.namespaces.entry(Arc::clone(&key.namespace)).or_default();
                if !known.contains(&key) {
                    known.insert(key.clone());
                }
                self.reselect(&key.namespace, old.iter().chain(endpoints.iter()));
                self.changed.insert(key);
            }
            RegistryEvent::UpsertWorkload(key, workload) => {
                let all = self.platform_workloads.entry(Arc::clone(&key.namespace)).or_default();
                let old = all.insert((id.clone(), key.name), Arc::clone(&workload));
                status.workloads += usize::from(old.is_none());
                if old.as_ref() != Some(&workload) {
                    self.reselect(&key.namespace, old.iter().chain([&workload]).map(|w| &**w));
                }
            }
            RegistryEvent::RemoveWorkload(key) => {
                let Some(all) = self.platform_workloads.get_mut(&key.namespace) else { return };
                let Some(old) = all.remove(&(id.clone(), key.name)) else { return };
                if all.is_empty() {
                    self.platform_workloads.remove(&key.namespace);
                }
                status.workloads = status.workloads.saturating_sub(1);
                self.reselect(&key.namespace, [&*old]);
            }
            RegistryEvent::Synced => status.synced = true,
            RegistryEvent::Degraded(reason) => {
                if status.degraded.as_ref() != Some(&reason) {
                    if status.synced {
                        tracing::warn!(registry = %id, %reason, "registry is degraded; its last good state is served");
                    } else {
                        tracing::warn!(registry = %id, %reason, "registry cannot be read yet; it is tried again and again");
                    }
                }
                status.degraded = Some(reason);
                status.degraded_since.get_or_insert(now);
            }
            RegistryEvent::Recovered => {
                status.degraded_since = None;
                if status.degraded.take().is_some() {
                    tracing::info!(registry = %id, "registry is read again");
                }
            }
        }
    }

    /// Forgets a registry and everything that it registered.
    pub fn remove_registry(&mut self, id: &RegistryId) {
        let source = Source::Registry(id.clone());
        let slots = self.registrations.iter().filter(|(_, slots)| slots.contains_key(&source));
        let services: Vec<ServiceKey> = slots.map(|(key, _)| key.clone()).collect();
        for key in services {
            self.remove_service(id, key);
        }
        let mut gone: Vec<(Arc<str>, Arc<Endpoint>)> = Vec::new();
        self.platform_workloads.retain(|namespace, all| {
            let own = all.extract_if(.., |(registry, _), _| registry == id);
            gone.extend(own.map(|(_, workload)| (Arc::clone(namespace), workload)));
            !all.is_empty()
        });
        for (namespace, workload) in gone {
            self.reselect(&namespace, [&*workload]);
        }
        self.registries.remove(id);
    }

    fn remove_service(&mut self, id: &RegistryId, key: ServiceKey) {
        let Some(slots) = self.registrations.get_mut(&key) else { return };
        let Some(gone) = slots.remove(&Source::Registry(id.clone())) else { return };
        if let Some(status) = self.registries.get_mut(id) {
            status.services = status.services.saturating_sub(usize::from(gone.service.is_some()));
            status.endpoints = status.endpoints.saturating_sub(gone.endpoints.len());
        }
        if !slots.iter().any(|(s, r)| matches!(s, Source::Registry(_)) && !r.endpoints.is_empty())
            && let Some(names) = self.namespaces.get_mut(&key.namespace)
        {
            names.remove(&key);
            if names.is_empty() {
                self.namespaces.remove(&key.namespace);
            }
        }
        self.reselect(&key.namespace, gone.endpoints.iter());
        self.changed.insert(key);
    }

    /// Takes a ServiceEntry, or its removal.
    pub fn set_service_entry(&mut self, key: ResourceKey, entry: Option<Arc<Resource<ServiceEntry>>>) {
        self.stale.remove(&key);
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
        let old = match &entry {
            Some(new) => self.workload_entries.insert(key, Arc::clone(new)),
            None => self.workload_entries.remove(&key),
        };
        let Self { selecting, entries, stale, .. } = self;
        for entry_key in selecting.get(&namespace).into_iter().flatten() {
            let both = || old.iter().chain(&entry);
            if selector(entries, entry_key).is_some_and(|s| {
                both().any(|w| entry::selected(s, |label| w.spec.labels.get(label).map(String::as_str)))
            }) {
                stale.insert(entry_key.clone());
            }
        }
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
        for key in std::mem::take(&mut self.stale) {
            self.register_entry(&key);
        }
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
        let mut complete: Vec<(&Source, &Arc<Service>, &Registration)> =
            slots.iter().filter_map(|(source, r)| Some((source, r.service.as_ref()?, r))).collect();
        complete.sort_by_key(|(source, service, _)| (service.created, *source));
        let (_, _, first) = complete.first()?;
        let registered: Vec<Registered<'_>> = complete
            .iter()
            .map(|(source, service, r)| Registered { by: source.name(), service, endpoints: &r.endpoints })
            .collect();
        let merge::Merged { service, endpoints, registrants, conflicts } = merge::merge(&registered)?;
        let origin = first.origin.clone().or_else(|| service.origin.clone());
        Some(Arc::new(MeshService { service, endpoints, origin, registrants, conflicts }))
    }

    /// Notes which ServiceEntries of the namespace select one of these workloads.
    fn reselect<'a>(&mut self, namespace: &str, workloads: impl IntoIterator<Item = &'a Endpoint> + Clone) {
        let Self { selecting, entries, stale, .. } = self;
        for key in
            selecting.get(namespace).into_iter().flatten().filter(|key| !stale.contains(*key)).collect::<Vec<_>>()
        {
            let Some(selector) = selector(entries, key) else { continue };
            if workloads.clone().into_iter().any(|w| selects(selector, w)) {
                stale.insert(key.clone());
            }
        }
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
            .workload_entries
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
            .flat_map(|(_, r)| r.endpoints.iter());
        let named = self.platform_workloads.get(namespace).into_iter().flat_map(|all| all.values()).map(|w| &**w);
        let mut known: HashSet<Address, FxBuildHasher> = found.iter().map(|e| e.address.clone()).collect();
        for endpoint in registered.chain(named).filter(|e| selects(labels, e)) {
            if !known.contains(&endpoint.address) {
                known.insert(endpoint.address.clone());
                found.push(entry::adopted(endpoint, &entry.spec.ports));
            }
        }
        found.into()
    }
}

fn slot<'a>(
    registrations: &'a mut HashMap<ServiceKey, BTreeMap<Source, Registration>, FxBuildHasher>,
    key: &ServiceKey,
    id: &RegistryId,
) -> &'a mut Registration {
    registrations.entry(key.clone()).or_default().entry(Source::Registry(id.clone())).or_default()
}

fn selector<'a>(
    entries: &'a BTreeMap<ResourceKey, Arc<Resource<ServiceEntry>>>,
    key: &ResourceKey,
) -> Option<&'a BTreeMap<String, String>> {
    entries.get(key)?.spec.workload_selector.as_ref().map(|s| &s.labels)
}

fn selects(selector: &BTreeMap<String, String>, workload: &Endpoint) -> bool {
    entry::selected(selector, |key| workload.labels.get(key).map(|v| &**v))
}

// === impl Source ===

impl Source {
    /// As people know it.
    fn name(&self) -> Arc<str> {
        match self {
            Self::Registry(id) => Arc::clone(&id.0),
            Self::Entry(key) => format!("ServiceEntry {}/{}", key.namespace, key.name).into(),
        }
    }
}
