//! Everything that the engine's single writer owns, without the task around it: events in, published shapes out.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use xebec_galley::spec::MeshConfig;
use xebec_galley::{Config, ConfigEvent, Kind, ResourceKey};

use super::live::Live;
use crate::catalog::Catalog;
use crate::mesh::{self, Change, ChangeSet, Mesh};
use crate::model::RegistryId;
use crate::registry::RegistryEvent;

/// All configuration documents, by identity. Copies share structure.
pub type Documents = imbl::OrdMap<ResourceKey, Config>;

/// The catalog, the mesh that is made of it, and what connected proxies are served.
#[derive(Debug)]
pub struct State {
    /// What is registered.
    pub catalog: Catalog,
    /// What is published of configuration, for debugging.
    pub documents: Documents,
    /// The mesh after the last commit.
    pub mesh: Arc<Mesh>,
    /// What connected proxies are served.
    pub live: Live,
    pending: Vec<Change>,
}

// === impl State ===

impl State {
    /// An empty state under these settings.
    pub fn new(settings: Arc<MeshConfig>, domain: &str) -> Self {
        Self {
            catalog: Catalog::new(Arc::clone(&settings)),
            documents: Documents::default(),
            mesh: Arc::new(Mesh::new(settings, domain)),
            live: Live::default(),
            pending: Vec::new(),
        }
    }

    /// Takes events of a registry. Nothing is visible before [`State::commit`].
    pub fn registry(&mut self, id: &RegistryId, events: Vec<RegistryEvent>, now: SystemTime) {
        for event in events {
            self.catalog.registry_event(id, event, now);
        }
    }

    /// Takes configuration.
    pub fn config(&mut self, events: Vec<ConfigEvent>) {
        for event in events {
            match event {
                ConfigEvent::Upsert(config) => {
                    self.documents.insert(config.meta().key.clone(), config.clone());
                    self.set(config.meta().key.clone(), Some(config));
                }
                ConfigEvent::Remove(key) => {
                    self.documents.remove(&key);
                    self.set(key, None);
                }
            }
        }
    }

    fn set(&mut self, key: ResourceKey, config: Option<Config>) {
        macro_rules! change {
            ($kind:ident) => {{
                let resource = config.and_then(|c| if let Config::$kind(r) = c { Some(r) } else { None });
                self.pending.push(Change::$kind(key, resource));
            }};
        }
        match key.kind {
            Kind::VirtualService => change!(VirtualService),
            Kind::DestinationRule => change!(DestinationRule),
            Kind::Gateway => change!(Gateway),
            Kind::Sidecar => change!(Sidecar),
            Kind::ServiceEntry => {
                let entry = config.and_then(|c| if let Config::ServiceEntry(r) = c { Some(r) } else { None });
                self.catalog.set_service_entry(key, entry);
            }
            Kind::WorkloadEntry => {
                let entry = config.and_then(|c| if let Config::WorkloadEntry(r) = c { Some(r) } else { None });
                self.catalog.set_workload_entry(key, entry);
            }
        }
    }

    /// Takes new settings of the whole mesh.
    pub fn settings(&mut self, settings: Arc<MeshConfig>) {
        self.catalog.set_settings(Arc::clone(&settings));
        self.pending.push(Change::Settings(settings));
    }

    /// Makes everything that was taken visible at once: the next mesh, and what follows from it for connected proxies. `since` is
    /// when the first of it came in.
    pub fn commit(&mut self, since: Instant) -> ChangeSet {
        let mut changes = std::mem::take(&mut self.pending);
        changes.extend(self.catalog.take_changes());
        if changes.is_empty() {
            return ChangeSet::default();
        }
        let (next, set) = mesh::apply(&self.mesh, changes);
        let next = Arc::new(next);
        if !set.is_empty() {
            self.live.update(&self.mesh, &next, &set, since);
        }
        self.mesh = next;
        set
    }
}
