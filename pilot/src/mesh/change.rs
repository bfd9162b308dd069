//! One step of the mesh: changes in, the next mesh out, and exactly what is different between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use xebec_galley::spec::{DestinationRule, Gateway, MeshConfig, Sidecar, VirtualService};
use xebec_galley::{Meta, Resource, ResourceKey};

use super::names::{self, RuleHost};
use super::rules::{IndexedDestinationRule, MeshVirtualService, PolicyGroup};
use super::{Mesh, MeshService};
use crate::model::{Address, Distribution, Endpoint, ServiceKey};

/// One change of the mesh. `None` removes.
#[derive(Debug, Clone)]
pub enum Change {
    /// A service with its endpoints.
    Service(ServiceKey, Option<Arc<MeshService>>),
    /// A VirtualService.
    VirtualService(ResourceKey, Option<Arc<Resource<VirtualService>>>),
    /// A DestinationRule.
    DestinationRule(ResourceKey, Option<Arc<Resource<DestinationRule>>>),
    /// A Gateway.
    Gateway(ResourceKey, Option<Arc<Resource<Gateway>>>),
    /// A Sidecar.
    Sidecar(ResourceKey, Option<Arc<Resource<Sidecar>>>),
    /// The settings of the whole mesh.
    Settings(Arc<MeshConfig>),
}

/// What is different between two meshes. Names of before and after are both in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// Services that are new, gone, or different in more than their endpoints.
    pub services: BTreeSet<ServiceKey>,
    /// Those of [`ChangeSet::services`] that are new, gone, or differ in aliases, visibility or age: names may mean
    /// something else now.
    pub appeared: BTreeSet<ServiceKey>,
    /// Services of which only the endpoints are different.
    pub endpoints: BTreeSet<ServiceKey>,
    /// Hosts of services that share an alias or address with a service that gained or lost it.
    pub siblings: BTreeSet<Arc<str>>,
    /// VirtualServices, and what they were or are about.
    pub virtual_services: BTreeMap<ResourceKey, RuleChange>,
    /// Namespaces and hosts of DestinationRules.
    pub destination_rules: BTreeSet<(Arc<str>, RuleHost)>,
    /// Gateways.
    pub gateways: BTreeSet<ResourceKey>,
    /// Sidecars.
    pub sidecars: BTreeSet<ResourceKey>,
    /// The settings are different.
    pub settings: bool,
    /// Other labels, or the locality, of clients matter than did: [`Mesh::outbound_shape`] answers differently.
    pub selection: bool,
    /// Addresses and workload names of endpoints that are different, or whose service is.
    pub workloads: BTreeSet<(IpAddr, Option<Arc<str>>)>,
}

/// What a changed VirtualService was or is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleChange {
    /// Every name that its hosts may mean, or the hosts of rules that delegate to it; wildcards included.
    pub hosts: BTreeSet<Arc<str>>,
    /// Every name that its destinations may mean.
    pub destinations: BTreeSet<Arc<str>>,
    /// The gateways that it serves.
    pub gateways: BTreeSet<Arc<str>>,
}

// === impl ChangeSet ===

impl ChangeSet {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn rule(&mut self, mesh: &Mesh, rule: &MeshVirtualService) {
        let key = &rule.resource.meta.key;
        let change = self.virtual_services.entry(key.clone()).or_default();
        for rule in std::iter::once(rule).chain(mesh.roots_of(key).map(|r| &**r)) {
            change.hosts.extend(rule.hosts.iter().flat_map(|h| h.candidates().cloned()));
            change.gateways.extend(rule.gateways.iter().cloned());
        }
        let delegates = rule.delegates.iter().filter_map(|d| mesh.virtual_services.get(d)).map(|r| &**r);
        for rule in std::iter::once(rule).chain(delegates) {
            change.destinations.extend(rule.destinations.iter().flat_map(|d| d.candidates().cloned()));
        }
    }
}

/// Applies changes in order. What is equal to what was there is not a change.
pub fn apply(mesh: &Mesh, changes: impl IntoIterator<Item = Change>) -> (Mesh, ChangeSet) {
    let mut next = mesh.clone();
    let mut set = ChangeSet::default();
    for change in changes {
        match change {
            Change::Service(key, service) => next.set_service(key, service, &mut set),
            Change::VirtualService(key, resource) => next.set_virtual_service(key, resource, &mut set),
            Change::DestinationRule(key, resource) => next.set_destination_rule(key, resource, &mut set),
            Change::Gateway(key, resource) => next.set_gateway(key, resource, &mut set),
            Change::Sidecar(key, resource) => next.set_sidecar(key, resource, &mut set),
            Change::Settings(settings) => next.set_settings(settings, &mut set),
        }
    }
    let ChangeSet { services, endpoints, .. } = &mut set;
    endpoints.retain(|key| !services.contains(key));
    (next, set)
}

impl Mesh {
    /// An empty mesh.
    pub fn new(settings: Arc<MeshConfig>, domain: &str) -> Self {
        Self {
            settings,
            domain: domain.into(),
            hosts: Default::default(),
            workloads: Default::default(),
            aliases: Default::default(),
            addresses: Default::default(),
            virtual_services: Default::default(),
            rules_by_host: Default::default(),
            wildcard_rules: 0,
            rules_by_gateway: Default::default(),
            rules_by_destination: Default::default(),
            roots_by_delegate: Default::default(),
            destination_rules: Default::default(),
            policies: Default::default(),
            wildcard_policies: Default::default(),
            gateways: Default::default(),
            sidecars: Default::default(),
            selected_labels: Default::default(),
            locality_rules: 0,
            zonal_services: 0,
            nodal_services: 0,
        }
    }

    // === Services ===

    fn set_service(&mut self, key: ServiceKey, service: Option<Arc<MeshService>>, set: &mut ChangeSet) {
        let old = self.service(&key).cloned();
        match (&old, &service) {
            (None, None) => return,
            (Some(old), Some(new)) if old.service == new.service => {
                if old.endpoints == new.endpoints {
                    // Who says so may be another than before, which nobody is sent.
                    if old != new {
                        self.put_service(key, service);
                    }
                    return;
                }
                set.endpoints.insert(key.clone());
                mark_workloads(&old.endpoints, &new.endpoints, false, set);
            }
            _ => {
                set.services.insert(key.clone());
                let claims = |s: &Option<Arc<MeshService>>| {
                    s.as_ref().map(|s| (s.service.created, s.service.aliases.clone(), s.service.visibility.clone()))
                };
                if claims(&old) != claims(&service) {
                    set.appeared.insert(key.clone());
                }
                let endpoints =
                    |s: &Option<Arc<MeshService>>| s.as_ref().map(|s| Arc::clone(&s.endpoints)).unwrap_or_default();
                mark_workloads(&endpoints(&old), &endpoints(&service), true, set);
                self.index_names(&key, old.as_deref(), service.as_deref(), set);
                self.count_distribution(old.as_deref(), service.as_deref(), set);
            }
        }
        self.index_workloads(&key, old.as_deref(), service.as_deref());
        self.put_service(key, service);
    }

    fn put_service(&mut self, key: ServiceKey, service: Option<Arc<MeshService>>) {
        let mut list: Vec<_> =
            self.services_named(&key.hostname).iter().filter(|s| s.service.key != key).cloned().collect();
        list.extend(service);
        list.sort_by(|a, b| {
            (a.service.created, &a.service.key.namespace).cmp(&(b.service.created, &b.service.key.namespace))
        });
        if list.is_empty() {
            self.hosts.remove(&key.hostname);
        } else {
            self.hosts.insert(key.hostname, list.into());
        }
    }

    /// Where clients are is part of their shapes only while some service cares.
    fn count_distribution(&mut self, old: Option<&MeshService>, new: Option<&MeshService>, set: &mut ChangeSet) {
        let count = |s: Option<&MeshService>, asks: fn(&Distribution) -> bool| {
            usize::from(s.is_some_and(|s| asks(&s.service.distribution)))
        };
        type Counter<'a> = (&'a mut usize, fn(&Distribution) -> bool);
        let counters: [Counter<'_>; 2] = [
            (&mut self.zonal_services, Distribution::depends_on_zone),
            (&mut self.nodal_services, Distribution::depends_on_node),
        ];
        for (counter, asks) in counters {
            let before = *counter;
            *counter = before + count(new, asks) - count(old, asks);
            set.selection |= (before == 0) != (*counter == 0);
        }
    }

    fn index_workloads(&mut self, key: &ServiceKey, old: Option<&MeshService>, new: Option<&MeshService>) {
        let places = |s: Option<&MeshService>| -> BTreeSet<_> {
            s.iter().flat_map(|s| s.endpoints.iter()).filter_map(place).collect()
        };
        let (old, new) = (places(old), places(new));
        for (ip, workload) in old.difference(&new) {
            self.workloads.remove(&(*ip, workload.clone(), key.clone()));
        }
        for (ip, workload) in new.difference(&old) {
            self.workloads.insert((*ip, workload.clone(), key.clone()));
        }
    }

    fn index_names(
        &mut self,
        key: &ServiceKey,
        old: Option<&MeshService>,
        new: Option<&MeshService>,
        set: &mut ChangeSet,
    ) {
        // A change of age or visibility may change who owns what is shared.
        let claim = |s: Option<&MeshService>| s.map(|s| (s.service.created, s.service.visibility.clone()));
        let aged = claim(old) != claim(new);
        let aliases = |s: Option<&MeshService>| -> BTreeSet<Arc<str>> {
            s.iter().flat_map(|s| s.service.aliases.iter().cloned()).collect()
        };
        let (before, after) = (aliases(old), aliases(new));
        for alias in before.union(&after) {
            if aged || before.contains(alias) != after.contains(alias) {
                set.siblings.extend(self.services_called(alias).filter(|k| *k != key).map(|k| Arc::clone(&k.hostname)));
            }
            if after.contains(alias) {
                self.aliases.insert((Arc::clone(alias), key.clone()));
            } else {
                self.aliases.remove(&(Arc::clone(alias), key.clone()));
            }
        }
        let addresses = |s: Option<&MeshService>| -> BTreeSet<ipnet::IpNet> {
            s.iter().flat_map(|s| s.service.addresses.iter().copied()).collect()
        };
        let (before, after) = (addresses(old), addresses(new));
        for address in before.union(&after) {
            if aged || before.contains(address) != after.contains(address) {
                set.siblings.extend(self.services_at(*address).filter(|k| *k != key).map(|k| Arc::clone(&k.hostname)));
            }
            if after.contains(address) {
                self.addresses.insert((*address, key.clone()));
            } else {
                self.addresses.remove(&(*address, key.clone()));
            }
        }
    }

    // === VirtualServices ===

    fn set_virtual_service(
        &mut self,
        key: ResourceKey,
        resource: Option<Arc<Resource<VirtualService>>>,
        set: &mut ChangeSet,
    ) {
        let old = self.virtual_services.get(&key).cloned();
        let new = resource.map(|r| Arc::new(MeshVirtualService::new(r, &self.settings, &self.domain)));
        let equal = match (&old, &new) {
            (None, None) => return,
            (Some(old), Some(new)) => same(&old.resource, &new.resource),
            _ => false,
        };
        // Roots are asked for before and after: the rule may begin or cease to be a delegate only by its roots' changes.
        if let Some(old) = &old {
            if !equal {
                set.rule(self, old);
            }
            self.unindex_rule(old);
        }
        if let Some(new) = new {
            self.index_rule(&new);
            if !equal {
                set.rule(self, &new);
            }
        }
        if !equal {
            let labels = |r: Option<&Arc<MeshVirtualService>>| r.map(|r| r.source_labels.clone()).unwrap_or_default();
            let (before, after) = (labels(old.as_ref()), labels(self.virtual_services.get(&key)));
            self.count_labels(before.iter(), after.iter(), set);
        }
    }

    fn unindex_rule(&mut self, rule: &Arc<MeshVirtualService>) {
        let key = &rule.resource.meta.key;
        self.virtual_services.remove(key);
        for name in rule.hosts.iter().flat_map(RuleHost::candidates) {
            let list = self
                .rules_by_host
                .get(name)
                .map(|l| l.iter().filter(|r| r.resource.meta.key != *key).cloned().collect::<Vec<_>>());
            match list {
                Some(list) if !list.is_empty() => self.rules_by_host.insert(Arc::clone(name), list.into()),
                _ => self.rules_by_host.remove(name),
            };
        }
        self.wildcard_rules -= rule.hosts.iter().filter(|h| h.is_wildcard()).count();
        for gateway in &rule.gateways {
            self.rules_by_gateway.remove(&(Arc::clone(gateway), rule.rank()));
        }
        for name in rule.destinations.iter().flat_map(RuleHost::candidates) {
            self.rules_by_destination.remove(&(Arc::clone(name), key.clone()));
        }
        for delegate in &rule.delegates {
            self.roots_by_delegate.remove(&(delegate.clone(), key.clone()));
        }
    }

    fn index_rule(&mut self, rule: &Arc<MeshVirtualService>) {
        let key = &rule.resource.meta.key;
        self.virtual_services.insert(key.clone(), Arc::clone(rule));
        let names: BTreeSet<&Arc<str>> = rule.hosts.iter().flat_map(RuleHost::candidates).collect();
        for name in names {
            let mut list: Vec<_> = self.rules_by_host.get(name).map(|l| l.to_vec()).unwrap_or_default();
            list.push(Arc::clone(rule));
            list.sort_by_cached_key(|r| r.rank());
            self.rules_by_host.insert(Arc::clone(name), list.into());
        }
        self.wildcard_rules += rule.hosts.iter().filter(|h| h.is_wildcard()).count();
        for gateway in rule.gateways.iter().filter(|g| &***g != super::MESH_GATEWAY) {
            self.rules_by_gateway.insert((Arc::clone(gateway), rule.rank()), Arc::clone(rule));
        }
        for name in rule.destinations.iter().flat_map(RuleHost::candidates) {
            self.rules_by_destination.insert((Arc::clone(name), key.clone()));
        }
        for delegate in &rule.delegates {
            self.roots_by_delegate.insert((delegate.clone(), key.clone()));
        }
    }

    // === DestinationRules ===

    fn set_destination_rule(
        &mut self,
        key: ResourceKey,
        resource: Option<Arc<Resource<DestinationRule>>>,
        set: &mut ChangeSet,
    ) {
        let old = self.destination_rules.get(&key).cloned();
        let new = resource.map(|r| Arc::new(IndexedDestinationRule::new(r, &self.settings, &self.domain)));
        let equal = match (&old, &new) {
            (None, None) => return,
            (Some(old), Some(new)) => same(&old.resource, &new.resource),
            _ => false,
        };
        if !equal {
            for rule in old.iter().chain(&new) {
                set.destination_rules.insert((Arc::clone(&key.namespace), rule.host.clone()));
            }
            let labels = |r: &Option<Arc<IndexedDestinationRule>>| -> Vec<Arc<str>> {
                r.iter().flat_map(|r| r.selected_labels().map(Arc::from).collect::<Vec<_>>()).collect()
            };
            self.count_labels(labels(&old).iter(), labels(&new).iter(), set);
            let count = |r: &Option<Arc<IndexedDestinationRule>>| r.iter().filter(|r| r.uses_locality()).count();
            let before = self.locality_rules;
            self.locality_rules = before + count(&new) - count(&old);
            set.selection |= (before == 0) != (self.locality_rules == 0);
        }
        let hosts: BTreeSet<Arc<str>> = old.iter().chain(&new).map(|r| Arc::clone(r.canonical_host())).collect();
        match new {
            Some(new) => self.destination_rules.insert(key.clone(), new),
            None => self.destination_rules.remove(&key),
        };
        for host in hosts {
            self.regroup(&key, host);
        }
    }

    /// Merges anew what the rules of the namespace of `changed` say about one host.
    fn regroup(&mut self, changed: &ResourceKey, host: Arc<str>) {
        let at = (Arc::clone(&changed.namespace), Arc::clone(&host));
        let mut members: Vec<_> = self
            .policies
            .get(&at)
            .map(|g| g.members.iter().filter(|m| m.resource.meta.key != *changed).cloned().collect())
            .unwrap_or_default();
        members.extend(self.destination_rules.get(changed).filter(|r| *r.canonical_host() == host).cloned());
        let gone = members.is_empty();
        if gone {
            self.policies.remove(&at);
        } else {
            self.policies.insert(at, Arc::new(PolicyGroup::new(members)));
        }
        if names::is_wildcard(&host) {
            let mut list: Vec<Arc<str>> =
                self.wildcard_policies.get(&changed.namespace).map(|l| l.to_vec()).unwrap_or_default();
            list.retain(|h| *h != host);
            if !gone {
                list.push(host);
            }
            list.sort_by(|a, b| names::by_specificity(a, b));
            if list.is_empty() {
                self.wildcard_policies.remove(&changed.namespace);
            } else {
                self.wildcard_policies.insert(Arc::clone(&changed.namespace), list.into());
            }
        }
    }

    // === Gateways, Sidecars, settings ===

    fn set_gateway(&mut self, key: ResourceKey, resource: Option<Arc<Resource<Gateway>>>, set: &mut ChangeSet) {
        let old = self.gateways.get(&key).cloned();
        match (&old, &resource) {
            (None, None) => return,
            (Some(old), Some(new))
                if same(old, new) && old.meta.keeps_to_its_namespace() == new.meta.keeps_to_its_namespace() => {}
            _ => {
                set.gateways.insert(key.clone());
                let labels = |r: &Option<Arc<Resource<Gateway>>>| keys(r.iter().flat_map(|r| r.spec.selector.keys()));
                self.count_labels(labels(&old).iter(), labels(&resource).iter(), set);
            }
        }
        match resource {
            Some(new) => self.gateways.insert(key, new),
            None => self.gateways.remove(&key),
        };
    }

    fn set_sidecar(&mut self, key: ResourceKey, resource: Option<Arc<Resource<Sidecar>>>, set: &mut ChangeSet) {
        let old = self.sidecars.get(&key).cloned();
        match (&old, &resource) {
            (None, None) => return,
            (Some(old), Some(new)) if same(old, new) => {}
            _ => {
                set.sidecars.insert(key.clone());
                // Which Sidecar a client has is part of its shape.
                set.selection = true;
            }
        }
        match resource {
            Some(new) => self.sidecars.insert(key, new),
            None => self.sidecars.remove(&key),
        };
    }

    fn set_settings(&mut self, settings: Arc<MeshConfig>, set: &mut ChangeSet) {
        if *self.settings == *settings {
            return;
        }
        set.settings = true;
        set.selection = true;
        self.settings = settings;
        // Defaults of visibility are read into the indexes; they are made anew.
        let rules: Vec<_> = self.virtual_services.values().cloned().collect();
        for old in rules {
            self.unindex_rule(&old);
            self.index_rule(&Arc::new(MeshVirtualService::new(
                Arc::clone(&old.resource),
                &self.settings,
                &self.domain,
            )));
        }
        let rules: Vec<_> = self.destination_rules.values().cloned().collect();
        for old in rules {
            let key = old.resource.meta.key.clone();
            let new = Arc::new(IndexedDestinationRule::new(Arc::clone(&old.resource), &self.settings, &self.domain));
            self.destination_rules.insert(key.clone(), Arc::clone(&new));
            self.regroup(&key, Arc::clone(new.canonical_host()));
        }
    }

    fn count_labels<'a>(
        &mut self,
        old: impl Iterator<Item = &'a Arc<str>>,
        new: impl Iterator<Item = &'a Arc<str>>,
        set: &mut ChangeSet,
    ) {
        let mut steps: BTreeMap<&Arc<str>, isize> = BTreeMap::new();
        old.for_each(|label| *steps.entry(label).or_default() -= 1);
        new.for_each(|label| *steps.entry(label).or_default() += 1);
        for (label, step) in steps.into_iter().filter(|(_, step)| *step != 0) {
            let before = self.selected_labels.get(&**label).copied().unwrap_or(0);
            let after = before.saturating_add_signed(step);
            if after == 0 {
                self.selected_labels.remove(&**label);
            } else {
                self.selected_labels.insert(Arc::clone(label), after);
            }
            set.selection |= (before == 0) != (after == 0);
        }
    }
}

fn keys<'a>(labels: impl Iterator<Item = &'a String>) -> Vec<Arc<str>> {
    labels.map(|l| l.as_str().into()).collect()
}

/// Whether two versions of a document mean the same: its place in a file and how it is labelled have no effect. One that moves to
/// another file changes what a refusal is blamed on; sources do not say when it moves within its file.
fn same<T: PartialEq>(a: &Resource<T>, b: &Resource<T>) -> bool {
    let Meta { key, labels: _, annotations: _, created, source } = &a.meta;
    *key == b.meta.key && *created == b.meta.created && source.file == b.meta.source.file && a.spec == b.spec
}

fn place(endpoint: &Endpoint) -> Option<(IpAddr, Option<Arc<str>>)> {
    match endpoint.address {
        Address::Ip(ip) => Some((ip, endpoint.workload.clone())),
        Address::Dns(_) | Address::Unix(_) => None,
    }
}

/// Notes whose endpoints these are: all of them, or only where a workload's own are not what they were.
fn mark_workloads(old: &[Endpoint], new: &[Endpoint], all: bool, set: &mut ChangeSet) {
    if all {
        set.workloads.extend(old.iter().chain(new).filter_map(place));
        return;
    }
    let (old, new) = (by_place(old), by_place(new));
    let differing = old.iter().filter(|(place, own)| new.get(*place) != Some(own));
    set.workloads.extend(
        differing.chain(new.iter().filter(|(place, _)| !old.contains_key(*place))).map(|(place, _)| place.clone()),
    );
}

fn by_place(endpoints: &[Endpoint]) -> BTreeMap<(IpAddr, Option<Arc<str>>), Vec<&Endpoint>> {
    let mut places: BTreeMap<_, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        if let Some(place) = place(endpoint) {
            places.entry(place).or_default().push(endpoint);
        }
    }
    places
}
