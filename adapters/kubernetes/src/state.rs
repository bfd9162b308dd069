//! What a cluster has, and what a change of it changes. A pure state machine: objects in, registry events out.
//!
//! - ALWAYS: a change costs what it touches: a pod the services that have it, a node the pods on it, a slice its service.
//! - ALWAYS: only what differs from what was said before is said.
//! - ALWAYS: after a new listing, exactly what it did not name is gone; a listing that breaks off removes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tracing::debug;
use xebec_pilot::model::{Endpoint, Service, WorkloadKey};
use xebec_pilot::registry::{Meters, RegistryEvent, Skips};

use crate::convert::{self, Cluster};
use crate::object::{EndpointSlice, Key, Kind, Namespace, Node, Object, Pod, RawService};
use crate::skipped::Skipped;

/// The objects of a cluster and what was said of them.
#[derive(Debug)]
pub struct State {
    cluster: Cluster,
    /// The network that the operator has set; it has the last word over the system namespace's label.
    network: Arc<str>,
    system: Arc<str>,
    skips: Skips,
    namespaces: FxHashMap<Arc<str>, Namespace>,
    nodes: FxHashMap<Arc<str>, Node>,
    pods: FxHashMap<Key, Pod>,
    services: FxHashMap<Key, Box<RawService>>,
    slices: FxHashMap<Key, EndpointSlice>,
    /// The slices of a service, in the order of their names.
    slices_of: FxHashMap<Key, BTreeSet<Arc<str>>>,
    /// The services that have a pod, by how many of their slices name it.
    services_of_pod: FxHashMap<Key, Vec<(Arc<str>, u32)>>,
    /// The services that have an endpoint on a node without having its pod.
    services_of_node: FxHashMap<Arc<str>, FxHashMap<Key, u32>>,
    pods_of_node: FxHashMap<Arc<str>, FxHashSet<Key>>,
    said: FxHashMap<Key, Said>,
    said_workloads: FxHashMap<Key, Arc<Endpoint>>,
    /// Services that are to be converted again, with their endpoints.
    stale: FxHashSet<Key>,
    /// Services whose endpoints are to be converted again.
    dirty: FxHashSet<Key>,
    dirty_pods: FxHashSet<Key>,
}

#[derive(Debug)]
struct Said {
    service: Arc<Service>,
    endpoints: Arc<[Endpoint]>,
    /// What was skipped of the service, and of its slices; said again only when it changes.
    of_service: Skipped,
    of_endpoints: Skipped,
}

/// The namespace whose label names the cluster's network.
pub const SYSTEM_NAMESPACE: &str = "istio-system";

// === impl State ===

impl State {
    /// The state of a cluster of which nothing is known yet. `system` is the namespace that names the cluster's network.
    pub fn new(cluster: Cluster, system: &str, meters: Meters) -> Self {
        Self {
            network: Arc::clone(&cluster.network),
            cluster,
            system: system.into(),
            skips: Skips::new(meters),
            namespaces: FxHashMap::default(),
            nodes: FxHashMap::default(),
            pods: FxHashMap::default(),
            services: FxHashMap::default(),
            slices: FxHashMap::default(),
            slices_of: FxHashMap::default(),
            services_of_pod: FxHashMap::default(),
            services_of_node: FxHashMap::default(),
            pods_of_node: FxHashMap::default(),
            said: FxHashMap::default(),
            said_workloads: FxHashMap::default(),
            stale: FxHashSet::default(),
            dirty: FxHashSet::default(),
            dirty_pods: FxHashSet::default(),
        }
    }

    /// An object is there, and reads so.
    pub fn put(&mut self, key: Key, object: Object) {
        match object {
            Object::Namespace(namespace) => self.put_namespace(key, Some(namespace)),
            Object::Node(node) => self.put_node(&key.name, Some(node)),
            Object::Pod(pod) => self.put_pod(key, Some(pod)),
            Object::Service(service) => {
                if self.services.get(&key) != Some(&service) {
                    self.services.insert(key.clone(), service);
                    self.stale.insert(key);
                }
            }
            Object::EndpointSlice(slice) => self.put_slice(key, Some(slice)),
            Object::Secret(_) => {}
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, kind: Kind, key: Key) {
        match kind {
            Kind::Namespace => self.put_namespace(key, None),
            Kind::Node => self.put_node(&key.name, None),
            Kind::Pod => self.put_pod(key, None),
            Kind::Service => {
                if self.services.remove(&key).is_some() {
                    self.stale.insert(key);
                }
            }
            Kind::EndpointSlice => self.put_slice(key, None),
            Kind::Secret => {}
        }
    }

    /// A listing of a kind, of one namespace or of all, is complete and has named these: others are gone.
    pub fn keep_only(&mut self, kind: Kind, namespace: Option<&str>, named: &FxHashSet<Key>) {
        let is_gone = |key: &&Key| namespace.is_none_or(|n| &*key.namespace == n) && !named.contains(*key);
        let bare = |name: &Arc<str>| Key { namespace: "".into(), name: Arc::clone(name) };
        let gone: Vec<Key> = match kind {
            Kind::Namespace => self.namespaces.keys().map(bare).filter(|key| !named.contains(key)).collect(),
            Kind::Node => self.nodes.keys().map(bare).filter(|key| !named.contains(key)).collect(),
            Kind::Pod => self.pods.keys().filter(is_gone).cloned().collect(),
            Kind::Service => self.services.keys().filter(is_gone).cloned().collect(),
            Kind::EndpointSlice => self.slices.keys().filter(is_gone).cloned().collect(),
            Kind::Secret => Vec::new(),
        };
        for key in gone {
            self.remove(kind, key);
        }
    }

    /// Everything that changed since this was last asked.
    pub fn settle(&mut self) -> Vec<RegistryEvent> {
        let mut events = Vec::new();
        let mut pods: Vec<Key> = self.dirty_pods.drain().collect();
        pods.sort_unstable();
        for key in pods {
            self.settle_workload(key, &mut events);
        }
        let stale = std::mem::take(&mut self.stale);
        self.dirty.extend(stale.iter().cloned());
        let mut services: Vec<Key> = self.dirty.drain().collect();
        services.sort_unstable();
        for key in services {
            let stale = stale.contains(&key);
            self.settle_service(key, stale, &mut events);
        }
        events
    }

    /// How many objects are known, for logs: services, slices, pods.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.services.len(), self.slices.len(), self.pods.len())
    }

    fn put_namespace(&mut self, key: Key, namespace: Option<Namespace>) {
        let name = key.name;
        let old = match &namespace {
            Some(new) => self.namespaces.insert(Arc::clone(&name), new.clone()),
            None => self.namespaces.remove(&name),
        };
        if name == self.system && self.network.is_empty() {
            let network = namespace.as_ref().and_then(|n| n.network.clone()).unwrap_or_else(|| "".into());
            if network != self.cluster.network {
                self.cluster.network = network;
                self.dirty.extend(self.services.keys().cloned());
                self.dirty_pods.extend(self.pods.keys().cloned());
            }
        }
        let distribution = |n: Option<&Namespace>| n.and_then(|n| n.traffic_distribution.clone());
        if distribution(old.as_ref()) != distribution(namespace.as_ref()) {
            self.stale.extend(self.services.keys().filter(|key| key.namespace == name).cloned());
        }
    }

    fn put_node(&mut self, name: &Arc<str>, node: Option<Node>) {
        let old = match node.clone() {
            Some(new) => self.nodes.insert(Arc::clone(name), new),
            None => self.nodes.remove(name),
        };
        if old == node {
            return;
        }
        for key in self.pods_of_node.get(name).into_iter().flatten() {
            touch_services(&mut self.dirty, &self.services_of_pod, key);
            self.dirty_pods.insert(key.clone());
        }
        self.dirty.extend(self.services_of_node.get(name).into_iter().flat_map(|services| services.keys().cloned()));
    }

    fn put_pod(&mut self, key: Key, pod: Option<Pod>) {
        if self.pods.get(&key) == pod.as_ref() {
            return;
        }
        let old_node = self.pods.get(&key).and_then(|pod| pod.node.clone());
        let new_node = pod.as_ref().and_then(|pod| pod.node.clone());
        if old_node != new_node {
            if let Some(node) = old_node
                && let Some(pods) = self.pods_of_node.get_mut(&node)
            {
                pods.remove(&key);
                if pods.is_empty() {
                    self.pods_of_node.remove(&node);
                }
            }
            if let Some(node) = new_node {
                self.pods_of_node.entry(node).or_default().insert(key.clone());
            }
        }
        touch_services(&mut self.dirty, &self.services_of_pod, &key);
        match pod {
            Some(pod) => drop(self.pods.insert(key.clone(), pod)),
            None => drop(self.pods.remove(&key)),
        }
        self.dirty_pods.insert(key);
    }

    fn put_slice(&mut self, key: Key, slice: Option<EndpointSlice>) {
        if self.slices.get(&key) == slice.as_ref() {
            return;
        }
        if let Some(old) = self.slices.remove(&key) {
            self.index(&key, &old, false);
        }
        if let Some(new) = slice {
            self.index(&key, &new, true);
            self.slices.insert(key, new);
        }
    }

    /// Takes a slice into the indexes, or out of them.
    fn index(&mut self, key: &Key, slice: &EndpointSlice, present: bool) {
        let Some(name) = &slice.service else { return };
        let service = Key { namespace: Arc::clone(&key.namespace), name: Arc::clone(name) };
        let slices = self.slices_of.entry(service.clone()).or_default();
        if present {
            slices.insert(Arc::clone(&key.name));
        } else {
            slices.remove(&key.name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        for endpoint in &slice.endpoints {
            if let Some(pod) = &endpoint.pod {
                let pod = Key { namespace: Arc::clone(&key.namespace), name: Arc::clone(pod) };
                let services = self.services_of_pod.entry(pod.clone()).or_default();
                match services.iter_mut().position(|(known, _)| known == name) {
                    Some(at) if present => services[at].1 += 1,
                    Some(at) if services[at].1 > 1 => services[at].1 -= 1,
                    Some(at) => drop(services.swap_remove(at)),
                    None if present => services.push((Arc::clone(name), 1)),
                    None => {}
                }
                if services.is_empty() {
                    self.services_of_pod.remove(&pod);
                }
            }
            if let Some(node) = &endpoint.node {
                let services = self.services_of_node.entry(Arc::clone(node)).or_default();
                let count = services.entry(service.clone()).or_default();
                *count = if present { *count + 1 } else { count.saturating_sub(1) };
                if *count == 0 {
                    services.remove(&service);
                }
                if services.is_empty() {
                    self.services_of_node.remove(node);
                }
            }
        }
        self.dirty.insert(service);
    }

    fn settle_workload(&mut self, key: Key, events: &mut Vec<RegistryEvent>) {
        let named = |key: &Key| WorkloadKey { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) };
        let nodes = &self.nodes;
        let new = self
            .pods
            .get(&key)
            .and_then(|pod| convert::workload(&key.name, pod, |name| nodes.get(name), &self.cluster));
        match new {
            Some(new) if self.said_workloads.get(&key).is_some_and(|said| **said == new) => {}
            Some(new) => {
                let new = Arc::new(new);
                events.push(RegistryEvent::UpsertWorkload(named(&key), Arc::clone(&new)));
                self.said_workloads.insert(key, new);
            }
            None => {
                if self.said_workloads.remove(&key).is_some() {
                    events.push(RegistryEvent::RemoveWorkload(named(&key)));
                }
            }
        }
    }

    /// What a service itself says may be much, and is read only when it is `stale`: its pods change far more often.
    fn settle_service(&mut self, key: Key, stale: bool, events: &mut Vec<RegistryEvent>) {
        let Some(raw) = self.services.get(&key) else {
            if let Some(said) = self.said.remove(&key) {
                events.push(RegistryEvent::RemoveService(said.service.key.clone()));
            }
            return;
        };
        let said = self.said.get(&key);
        let (service, of_service) = match said {
            Some(said) if !stale => (Arc::clone(&said.service), said.of_service.clone()),
            _ => {
                let none = Namespace::default();
                let namespace = self.namespaces.get(&key.namespace).unwrap_or(&none);
                let mut skipped = Skipped::default();
                let service = convert::service(raw, namespace, &self.cluster, &mut skipped);
                match said {
                    Some(said) if *said.service == service => (Arc::clone(&said.service), skipped),
                    _ => (Arc::new(service), skipped),
                }
            }
        };
        let slices =
            self.slices_of.get(&key).into_iter().flatten().filter_map(|name| {
                self.slices.get(&Key { namespace: Arc::clone(&key.namespace), name: Arc::clone(name) })
            });
        let pod = |name: &str| self.pods.get(&Key { namespace: Arc::clone(&key.namespace), name: name.into() });
        let node = |name: &str| self.nodes.get(name);
        let mut of_endpoints = Skipped::default();
        let endpoints = convert::endpoints(raw, slices, pod, node, &self.cluster, &mut of_endpoints);
        let none = Skipped::default();
        for (now, before) in [
            (&of_service, said.map_or(&none, |said| &said.of_service)),
            (&of_endpoints, said.map_or(&none, |said| &said.of_endpoints)),
        ] {
            if now != before {
                self.skips.tell(&format!("the Service {key}"), &now.told(), &before.told());
            }
        }
        if !said.is_some_and(|said| Arc::ptr_eq(&said.service, &service)) {
            events.push(RegistryEvent::UpsertService(Arc::clone(&service)));
        }
        if said.map_or(!endpoints.is_empty(), |said| said.endpoints != endpoints) {
            debug!("the Service {key} has {} endpoints", endpoints.len());
            events.push(RegistryEvent::ReplaceEndpoints(service.key.clone(), Arc::clone(&endpoints)));
        }
        self.said.insert(key, Said { service, endpoints, of_service, of_endpoints });
    }
}

fn touch_services(dirty: &mut FxHashSet<Key>, services_of_pod: &FxHashMap<Key, Vec<(Arc<str>, u32)>>, pod: &Key) {
    for (name, _) in services_of_pod.get(pod).into_iter().flatten() {
        dirty.insert(Key { namespace: Arc::clone(&pod.namespace), name: Arc::clone(name) });
    }
}

#[cfg(test)]
mod tests;
