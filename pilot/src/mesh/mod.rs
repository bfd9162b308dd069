//! The mesh at one moment: every service, endpoint and rule, joined and indexed. Immutable; snapshots share structure.
//!
//! Start reading at [`Mesh`]. [`apply`] makes the next one and says, in a [`ChangeSet`], exactly what is different;
//! [`Scope`] is what one kind of client sees of it. How names in rules find services is in [`names`], how rules are
//! prepared for lookup in [`rules`].
//!
//! Invariants:
//!
//! - ALWAYS: a change costs what changed. A new endpoint list copies that list and the path to it, nothing else.
//! - ALWAYS: lookups that may find several rules answer in one order: older first, then by name, then by namespace.
//! - NEVER: a change of a document that leaves its content equal is a change of the mesh.

mod change;
mod clients;
mod lookup;
pub mod names;
pub mod rules;
mod scope;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use xebec_galley::spec::MeshConfig;
use xebec_galley::spec::{Gateway, Sidecar};
use xebec_galley::{Resource, ResourceKey, SourceRef};

use crate::model::{Endpoint, Service, ServiceKey};

pub use change::{Change, ChangeSet, RuleChange, apply};
pub use rules::{MeshDestinationRule, MeshVirtualService};
pub use scope::{EgressHost, EgressListener, Scope};

/// The reserved name of the gateway that stands for all sidecars.
pub const MESH_GATEWAY: &str = "mesh";

/// The registry that ServiceEntries are registered in.
pub const CONFIG_REGISTRY: &str = "config";

/// A service as the mesh has it: merged from all registries and ServiceEntries that name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshService {
    /// As the oldest registration says it, with the ports, addresses and aliases of the others added.
    pub service: Arc<Service>,
    /// The endpoints of all registrations, those of WorkloadEntries selected by a ServiceEntry included.
    pub endpoints: Arc<[Endpoint]>,
    /// The document that declared it, when one did.
    pub origin: Option<SourceRef>,
    /// Who registers it, the one that decides first. For people: nothing is translated from it.
    pub registrants: Arc<[Registrant]>,
    /// What the registrations contradict each other in. For people, as well.
    pub conflicts: Arc<[Conflict]>,
}

/// One registration of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registrant {
    /// The registry's name, or the ServiceEntry.
    pub by: Arc<str>,
    /// The endpoints that it says, under its own names of ports.
    pub endpoints: Arc<[Endpoint]>,
}

/// Two registrations of one service say different things; the older one holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What they differ in, for example `port 80`.
    pub what: Arc<str>,
    /// What holds.
    pub kept: Arc<str>,
    /// Who says so.
    pub kept_by: Arc<str>,
    /// What has no effect.
    pub lost: Arc<str>,
    /// Who says that.
    pub lost_by: Arc<str>,
}

/// One endpoint that a proxy serves, and the service behind which it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    /// The service.
    pub service: Arc<Service>,
    /// This workload's endpoint of it.
    pub endpoint: Endpoint,
}

/// Every service, endpoint and rule, joined and indexed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// Settings of the whole mesh.
    pub settings: Arc<MeshConfig>,
    /// The cluster's DNS domain, with which short names are expanded; for example `cluster.local`.
    pub domain: Arc<str>,
    /// By hostname; services that share one are in order of preference, oldest first.
    hosts: imbl::OrdMap<Arc<str>, Arc<[Arc<MeshService>]>>,
    /// Which services have an endpoint with this address and workload name.
    workloads: imbl::OrdSet<(IpAddr, Option<Arc<str>>, ServiceKey)>,
    aliases: imbl::OrdSet<(Arc<str>, ServiceKey)>,
    addresses: imbl::OrdSet<(IpNet, ServiceKey)>,
    virtual_services: imbl::OrdMap<ResourceKey, Arc<MeshVirtualService>>,
    /// By every name that a host of the rule may mean, wildcards included, in order of precedence.
    rules_by_host: imbl::OrdMap<Arc<str>, Arc<[Arc<MeshVirtualService>]>>,
    wildcard_rules: usize,
    rules_by_gateway: imbl::OrdMap<(Arc<str>, rules::Rank), Arc<MeshVirtualService>>,
    rules_by_destination: imbl::OrdSet<(Arc<str>, ResourceKey)>,
    roots_by_delegate: imbl::OrdSet<(ResourceKey, ResourceKey)>,
    destination_rules: imbl::OrdMap<ResourceKey, Arc<rules::IndexedDestinationRule>>,
    /// By namespace and canonical host.
    policies: imbl::OrdMap<(Arc<str>, Arc<str>), Arc<rules::PolicyGroup>>,
    /// The wildcard hosts among [`Mesh::policies`], by namespace, most specific first.
    wildcard_policies: imbl::OrdMap<Arc<str>, Arc<[Arc<str>]>>,
    gateways: imbl::OrdMap<ResourceKey, Arc<Resource<Gateway>>>,
    sidecars: imbl::OrdMap<ResourceKey, Arc<Resource<Sidecar>>>,
    /// How many rules select clients by each label key.
    selected_labels: imbl::OrdMap<Arc<str>, usize>,
    /// How many rules make the output depend on the client's locality.
    locality_rules: usize,
    /// How many services make the output depend on the client's zone.
    zonal_services: usize,
    /// How many services make the output depend on the client's node.
    nodal_services: usize,
}

// === impl MeshService ===

impl MeshService {
    /// A service that one registry alone registers.
    pub fn of(service: Service, endpoints: Vec<Endpoint>) -> Self {
        let endpoints: Arc<[Endpoint]> = endpoints.into();
        Self {
            registrants: [Registrant { by: Arc::clone(&service.registry.0), endpoints: Arc::clone(&endpoints) }].into(),
            origin: service.origin.clone(),
            service: Arc::new(service),
            endpoints,
            conflicts: Arc::default(),
        }
    }

    /// Its hostname.
    pub fn host(&self) -> &Arc<str> {
        &self.service.key.hostname
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new(Arc::new(MeshConfig::default()), "cluster.local")
    }
}
