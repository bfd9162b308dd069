//! Everything that was received, and what of it is in use.
//!
//! [`Store::receive`] takes one response apart; [`Store::settle`] decides what can be used now and makes a new [`Snapshot`]
//! when that differs from before. Between the two, resources *warm*:
//!
//! - a cluster of type EDS waits for its endpoints;
//! - a route table waits for its discovered virtual hosts, and for clusters that it names and that are still warming;
//! - a listener waits for its route tables, and likewise for its clusters.
//!
//! While the newer one waits, the older one of the same name stays in use. A cluster that is removed while routes still name it
//! lingers for some seconds, in case the removal came first; nothing else outlives its removal.

mod held;
mod settle;

pub use held::{Accepted, Held, Now, Refused};
pub use settle::Settled;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use xebec_proto::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener, route::v3::RouteConfiguration,
    route::v3::VirtualHost,
};
use xebec_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use xebec_proto::google::protobuf::Any;

use super::Kind;
use crate::convert::{self, ClusterParts, Converted, HostParts, ListenerParts, TableParts};
use crate::model::{Endpoints, Snapshot};
use settle::Active;

/// How many of what came of one type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Responses that were accepted as a whole.
    pub accepted: u64,
    /// Responses of which something was refused.
    pub rejected: u64,
    /// Fields without effect in what is held now.
    pub ignored_fields: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Store {
    clusters: Held<ClusterParts>,
    endpoints: Held<Arc<Endpoints>>,
    listeners: Held<ListenerParts>,
    routes: Held<TableParts>,
    hosts: Held<HostParts>,
    active: Active,
    snapshot: Arc<Snapshot>,
    counts: HashMap<Kind, Counts>,
    answered: HashMap<Kind, Now>,
    serial: u64,
    initialized: bool,
    /// Fields that were reported in the log already, so that a resource that comes often does not fill it.
    reported: HashSet<String>,
}

/// The names that the held resources ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// EDS.
    pub endpoints: BTreeSet<Arc<str>>,
    /// RDS.
    pub routes: BTreeSet<Arc<str>>,
    /// Whether any route table discovers virtual hosts.
    pub hosts: bool,
}

// === impl Store ===

impl Store {
    /// Takes a response apart. Good resources are held; for the others the text says `NAME: FIELD: REASON`, one per line, and
    /// their older versions stay.
    ///
    /// # Errors
    /// The text of the refusals, for the control plane.
    pub fn receive(&mut self, kind: Kind, response: DeltaDiscoveryResponse, now: Now) -> Result<(), String> {
        let DeltaDiscoveryResponse { resources, removed_resources, .. } = response;
        let mut problems = Vec::new();
        let mut seen = HashSet::new();
        for resource in resources {
            let name = name_of(kind, &resource);
            if !seen.insert(name.clone()) {
                problems.push(format!("{name}: resource: listed twice in one response"));
                continue;
            }
            if let Err(problem) = self.take(kind, &name.into(), resource, now) {
                problems.push(problem);
            }
        }
        for name in removed_resources {
            self.remove(kind, &name.into());
        }
        self.answered.insert(kind, now);
        let counts = self.counts.entry(kind).or_default();
        if problems.is_empty() {
            counts.accepted += 1;
            Ok(())
        } else {
            counts.rejected += 1;
            Err(problems.join("\n"))
        }
    }

    fn take(&mut self, kind: Kind, name: &Arc<str>, resource: Resource, now: Now) -> Result<(), String> {
        let Resource { version, resource, .. } = resource;
        self.serial += 1;
        let serial = self.serial;
        let mut log = |converted: &[convert::Ignored]| report(&mut self.reported, kind, name, converted);
        let step = Step { name, version, resource, serial, now };
        match kind {
            Kind::Cluster => step.run(
                &mut self.clusters,
                |cluster: &Cluster| check(name, "name", &cluster.name).and_then(|()| convert::cluster(cluster)),
                &mut log,
            ),
            Kind::Endpoint => step.run(
                &mut self.endpoints,
                |load: &ClusterLoadAssignment| {
                    check(name, "cluster_name", &load.cluster_name).and_then(|()| convert::endpoints(load))
                },
                &mut log,
            ),
            Kind::Listener => step.run(
                &mut self.listeners,
                |listener: &Listener| check(name, "name", &listener.name).and_then(|()| convert::listener(listener)),
                &mut log,
            ),
            Kind::Route => step.run(
                &mut self.routes,
                |table: &RouteConfiguration| check(name, "name", &table.name).and_then(|()| convert::routes(table)),
                &mut log,
            ),
            Kind::VirtualHost => step.run(
                &mut self.hosts,
                |host: &VirtualHost| {
                    if name.split_once('/').is_none() {
                        return Err(refusal("resource", "the name has to be ROUTE_CONFIGURATION/VIRTUAL_HOST"));
                    }
                    convert::virtual_host(host)
                },
                &mut log,
            ),
        }
    }

    fn remove(&mut self, kind: Kind, name: &Arc<str>) {
        match kind {
            Kind::Cluster => _ = self.clusters.remove(name),
            Kind::Listener => _ = self.listeners.remove(name),
            Kind::VirtualHost => _ = self.hosts.remove(name),
            // As long as something names them, the last known ones serve; nothing waits for them.
            Kind::Endpoint => self.endpoints.mark_missing(name),
            Kind::Route => self.routes.mark_missing(name),
        }
    }

    /// The names that the held resources ask for. A name that only an older version in use needs is still wanted.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        let eds = |parts: &ClusterParts| parts.eds.as_ref().map(|(name, _)| name.clone());
        wanted.endpoints.extend(self.clusters.accepted().filter_map(|(_, held)| eds(&held.parts)));
        wanted.endpoints.extend(self.active.clusters().filter_map(eds));
        for (_, held) in self.listeners.accepted() {
            wanted.routes.extend(held.parts.routes.iter().cloned());
        }
        for listener in self.active.listeners() {
            wanted.routes.extend(listener.routes.iter().cloned());
        }
        wanted.hosts =
            self.routes.accepted().any(|(name, held)| held.parts.discovered.is_some() && wanted.routes.contains(name));
        wanted
    }

    /// What is held of a type, by version, for the first request of a new stream.
    pub fn versions(&self, kind: Kind) -> HashMap<String, String> {
        match kind {
            Kind::Cluster => self.clusters.versions(),
            Kind::Endpoint => self.endpoints.versions(),
            Kind::Listener => self.listeners.versions(),
            Kind::Route => self.routes.versions(),
            Kind::VirtualHost => self.hosts.versions(),
        }
    }

    /// The configuration in use.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Whether the first whole configuration is in use: clusters and listeners were answered, and nothing of them warms.
    pub fn is_initialized(&self) -> bool {
        self.initialized
    }

    /// How often what came, per type.
    pub fn counts(&self, kind: Kind) -> Counts {
        let ignored = |lists: &mut dyn Iterator<Item = usize>| lists.sum::<usize>() as u64;
        let ignored_fields = match kind {
            Kind::Cluster => ignored(&mut self.clusters.accepted().map(|(_, held)| held.ignored.len())),
            Kind::Endpoint => ignored(&mut self.endpoints.accepted().map(|(_, held)| held.ignored.len())),
            Kind::Listener => ignored(&mut self.listeners.accepted().map(|(_, held)| held.ignored.len())),
            Kind::Route => ignored(&mut self.routes.accepted().map(|(_, held)| held.ignored.len())),
            Kind::VirtualHost => ignored(&mut self.hosts.accepted().map(|(_, held)| held.ignored.len())),
        };
        Counts { ignored_fields, ..self.counts.get(&kind).copied().unwrap_or_default() }
    }

    /// Clusters that are held.
    pub fn clusters(&self) -> &Held<ClusterParts> {
        &self.clusters
    }

    /// Endpoints that are held.
    pub fn endpoints(&self) -> &Held<Arc<Endpoints>> {
        &self.endpoints
    }

    /// Listeners that are held.
    pub fn listeners(&self) -> &Held<ListenerParts> {
        &self.listeners
    }

    /// Route configurations that are held.
    pub fn routes(&self) -> &Held<TableParts> {
        &self.routes
    }

    /// Virtual hosts that are held.
    pub fn hosts(&self) -> &Held<HostParts> {
        &self.hosts
    }

    /// Whether the newest accepted version of this resource is the one in use.
    pub fn is_active(&self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Cluster => self.active.cluster_serial(name) == self.clusters.get(name).map(|held| held.serial),
            Kind::Listener => self.active.listener_serial(name) == self.listeners.get(name).map(|held| held.serial),
            Kind::Route => self.active.table_serial(name) == self.routes.get(name).map(|held| held.serial),
            Kind::Endpoint => self.endpoints.get(name).is_some(),
            Kind::VirtualHost => self.hosts.get(name).is_some(),
        }
    }
}

/// One resource on its way in.
struct Step<'a> {
    name: &'a Arc<str>,
    version: String,
    resource: Option<Any>,
    serial: u64,
    now: Now,
}

impl Step<'_> {
    fn run<M, T>(
        self,
        held: &mut Held<T>,
        convert: impl FnOnce(&M) -> Result<Converted<T>, convert::Refusal>,
        log: &mut dyn FnMut(&[convert::Ignored]),
    ) -> Result<(), String>
    where
        M: prost::Message + prost::Name + Default,
    {
        let Self { name, version, resource, serial, now } = self;
        let outcome = match &resource {
            None => Err(refusal("resource", "it has no content")),
            Some(any) if held.is_same(name, &version, any) => return Ok(()),
            Some(any) => xebec_proto::any::unpack::<M>(any)
                .map_err(|error| refusal("resource", &error.to_string()))
                .and_then(|message| convert(&message)),
        };
        match (outcome, resource) {
            (Ok(converted), Some(any)) => {
                log(&converted.ignored);
                held.accept(name, version, Arc::new(any), converted, serial, now);
                Ok(())
            }
            (Err(refusal), resource) => {
                let reason = refusal.to_string();
                let problem = format!("{name}: {reason}");
                held.refuse(name, Refused { version, resource: resource.map(Arc::new), reason, at: now.wall });
                Err(problem)
            }
            // A resource without content was refused above.
            (Ok(_), None) => Ok(()),
        }
    }
}

fn refusal(path: &str, reason: &str) -> convert::Refusal {
    convert::Refusal { path: path.to_owned(), reason: reason.to_owned() }
}

/// The name on the envelope; resources of older servers have it inside only.
fn name_of(kind: Kind, resource: &Resource) -> String {
    if !resource.name.is_empty() {
        return resource.name.clone();
    }
    let Some(any) = &resource.resource else { return String::new() };
    let inner = match kind {
        Kind::Cluster => xebec_proto::any::unpack::<Cluster>(any).map(|message| message.name),
        Kind::Endpoint => xebec_proto::any::unpack::<ClusterLoadAssignment>(any).map(|message| message.cluster_name),
        Kind::Listener => xebec_proto::any::unpack::<Listener>(any).map(|message| message.name),
        Kind::Route => xebec_proto::any::unpack::<RouteConfiguration>(any).map(|message| message.name),
        Kind::VirtualHost => Ok(String::new()),
    };
    inner.unwrap_or_default()
}

fn check(envelope: &str, field: &str, inner: &str) -> Result<(), convert::Refusal> {
    if inner == envelope {
        return Ok(());
    }
    Err(refusal(field, &format!("{inner:?} is not the name that the resource was sent under")))
}

/// One line per field and type, however many resources have it.
fn report(reported: &mut HashSet<String>, kind: Kind, name: &str, ignored: &[convert::Ignored]) {
    for convert::Ignored { path, note } in ignored {
        let general: String = path.chars().filter(|c| !c.is_ascii_digit()).collect();
        if reported.insert(format!("{kind} {general}")) {
            tracing::warn!(kind = %kind, resource = %name, field = %path, note, "a field has no effect here");
        }
    }
}
