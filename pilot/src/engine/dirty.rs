//! Which hosts of one part a change of the mesh touches, and what of them.
//!
//! Every answer is an upper bound: a host that is named here is computed again, and if its bytes come out equal nothing is
//! sent. A host that is missing here is a bug; the engine's tests compare with a computation from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xebec_galley::spec::ServerTlsMode;

use crate::mesh::names::{self, RuleHost};
use crate::mesh::{ChangeSet, MESH_GATEWAY, Mesh, MeshVirtualService};
use crate::model::ServiceKey;
use crate::proxy::{OutboundShape, ProxyKind};

/// What must be computed again for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dirt(u8);

/// What must be computed again for a part.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Hosts, with what of them.
    pub hosts: BTreeMap<Arc<str>, Dirt>,
    /// Every host, wholly.
    pub everything: bool,
    /// The frames of all route tables: what catches requests for unknown hosts is different.
    pub frames: bool,
    /// The listeners and routes of gateways.
    pub gateway: bool,
}

// === impl Dirt ===

impl Dirt {
    /// Its clusters, and with them its endpoints.
    pub const CLUSTERS: Self = Self(1);
    /// Its endpoints.
    pub const ENDPOINTS: Self = Self(2);
    /// Its virtual hosts.
    pub const ROUTES: Self = Self(4);
    /// Its part in listeners.
    pub const LISTENERS: Self = Self(8);
    /// Its virtual hosts and its part in listeners.
    pub const ROUTING: Self = Self(12);
    /// Everything.
    pub const ALL: Self = Self(15);

    /// Whether any of `other` is in it.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Follows one change set through the names of one part.
struct Walk<'a> {
    old: &'a Mesh,
    new: &'a Mesh,
    shape: &'a OutboundShape,
    dirty: Dirty,
}

/// What the change from `old` to `new` touches in a part of `shape`. `known` are the hosts that the part has.
pub fn dirty(
    old: &Mesh,
    new: &Mesh,
    change: &ChangeSet,
    shape: &OutboundShape,
    known: impl FnOnce() -> Vec<Arc<str>>,
) -> Dirty {
    let mut walk = Walk { old, new, shape, dirty: Dirty::default() };
    if change.settings || shape.sidecar.as_ref().is_some_and(|s| change.sidecars.contains(s)) {
        walk.dirty.everything = true;
        walk.dirty.gateway = true;
        return walk.dirty;
    }
    walk.dirty.gateway = !change.gateways.is_empty();
    for key in &change.services {
        walk.mark(&key.hostname, Dirt::ALL);
        walk.dependants_of_service(key);
    }
    for key in &change.appeared {
        walk.appeared(key);
    }
    for key in &change.endpoints {
        // Which endpoints a client itself is decides about explicit listeners.
        let listeners = if shape.bind.is_some() { Dirt::LISTENERS } else { Dirt::default() };
        walk.mark(&key.hostname, Dirt::ENDPOINTS.and(listeners));
    }
    for host in &change.siblings {
        // Domains, and rules that are found by alias.
        walk.mark(host, Dirt::ALL);
    }
    let wildcards = walk.rules(change);
    for (namespace, host) in &change.destination_rules {
        walk.policy(namespace, host);
    }
    let patterns: Vec<(Arc<str>, Dirt)> = wildcards
        .into_iter()
        .map(|w| (w, Dirt::ROUTING))
        .chain(
            change
                .destination_rules
                .iter()
                .filter(|(_, h)| h.is_wildcard())
                .map(|(_, h)| (Arc::clone(&h.written), Dirt::ALL)),
        )
        .collect();
    if !patterns.is_empty() {
        // A host without anything may be one of a rule that has had no route for it so far.
        for host in known().iter().chain(new.rule_hosts()) {
            for (pattern, dirt) in &patterns {
                if names::matches(pattern, host) {
                    walk.mark(host, *dirt);
                }
            }
        }
    }
    walk.dirty
}

// === impl Walk ===

impl Walk<'_> {
    fn mark(&mut self, host: &Arc<str>, dirt: Dirt) {
        if let Some(have) = self.dirty.hosts.get_mut(&**host) {
            *have = have.and(dirt);
        } else {
            self.dirty.hosts.insert(Arc::clone(host), dirt);
        }
    }

    /// A name and the services that have it as an alias.
    fn mark_name(&mut self, name: &Arc<str>, dirt: Dirt) {
        self.mark(name, dirt);
        let owners: Vec<Arc<str>> = [self.old, self.new].iter().flat_map(|m| m.hosts_called(name)).collect();
        owners.iter().for_each(|host| self.mark(host, dirt));
    }

    /// The hostname, and every alias that a service of this hostname had or has: which of them the hostname means may be different.
    fn names_of(&self, key: &ServiceKey) -> BTreeSet<Arc<str>> {
        let mut all = BTreeSet::from([Arc::clone(&key.hostname)]);
        for mesh in [self.old, self.new] {
            all.extend(mesh.services_named(&key.hostname).iter().flat_map(|s| s.service.aliases.iter().cloned()));
        }
        all
    }

    /// Rules that route to the service depend on its ports, and on what its DestinationRule or its platform says about hashing.
    fn dependants_of_service(&mut self, key: &ServiceKey) {
        for name in self.names_of(key) {
            self.dependants_of_name(&name);
        }
        let any_auto = |m: &Mesh| {
            m.gateways().iter().any(|g| {
                g.spec.servers.iter().any(|s| s.tls.as_ref().is_some_and(|t| t.mode == ServerTlsMode::AutoPassthrough))
            })
        };
        if self.shape.kind == ProxyKind::Router && (any_auto(self.old) || any_auto(self.new)) {
            self.dirty.gateway = true;
        }
    }

    fn dependants_of_name(&mut self, name: &Arc<str>) {
        for mesh in [self.old, self.new] {
            for rule in mesh.rules_affected_by(name) {
                self.mark_rule(rule);
                if self.shape.sidecar.is_some() {
                    // A destination that means another service now takes that one into the scope.
                    let meant = rule.destinations.iter().filter(|d| d.candidates().any(|c| c == name));
                    meant.flat_map(RuleHost::candidates).for_each(|c| self.mark_name(c, Dirt::ALL));
                }
            }
        }
    }

    fn mark_rule(&mut self, rule: &MeshVirtualService) {
        if rule.gateways.iter().any(|g| &**g != MESH_GATEWAY) {
            self.dirty.gateway = true;
        }
        if !rule.serves_mesh() {
            return;
        }
        for name in rule.hosts.iter().flat_map(RuleHost::candidates) {
            self.mark_name(name, Dirt::ROUTING);
            self.mark_wildcard(name);
        }
    }

    fn mark_wildcard(&mut self, name: &Arc<str>) {
        if !names::is_wildcard(name) {
            return;
        }
        self.dirty.frames = true;
        let hosts: Vec<Arc<str>> =
            self.new.hosts().chain(self.new.rule_hosts()).filter(|h| names::matches(name, h)).cloned().collect();
        hosts.iter().for_each(|host| self.mark(host, Dirt::ROUTING));
    }

    /// A name exists that did not, or the other way round: what others mean by it may be different.
    fn appeared(&mut self, key: &ServiceKey) {
        for name in self.names_of(key) {
            self.appeared_name(&name);
        }
    }

    fn appeared_name(&mut self, name: &Arc<str>) {
        self.reinterpret(name);
        for mesh in [self.old, self.new] {
            let rules = mesh.rules_with_host(name);
            self.dirty.gateway |= rules.iter().any(|r| r.gateways.iter().any(|g| &**g != MESH_GATEWAY));
            let hosts = rules.iter().flat_map(|r| r.hosts.iter()).filter(|h| h.candidates().any(|c| c == name));
            for candidate in hosts.flat_map(RuleHost::candidates) {
                self.mark_name(candidate, Dirt::ROUTING);
                self.reinterpret(candidate);
            }
            for host in mesh.policies_shadowed_by(name) {
                self.mark_name(host, Dirt::ALL);
            }
        }
    }

    /// Kubernetes services have short names as further domains, unless somebody else has exactly such a name.
    fn reinterpret(&mut self, name: &str) {
        let own = &self.shape.dns_domain;
        let domains = [
            own.split_once('.').map(|(_, rest)| rest.to_owned()).unwrap_or_default(),
            format!("svc.{}", self.new.domain),
        ];
        for domain in domains.iter().filter(|d| d.starts_with("svc.")) {
            let tail = domain.strip_prefix("svc.").unwrap_or_default();
            for host in [
                format!("{name}.{}.{domain}", self.shape.namespace),
                format!("{name}.{domain}"),
                format!("{name}.{tail}"),
            ] {
                self.mark(&host.into(), Dirt::ROUTES);
            }
        }
    }

    /// Returns the wildcards among the changed rules' hosts.
    fn rules(&mut self, change: &ChangeSet) -> Vec<Arc<str>> {
        let mut wildcards = Vec::new();
        for rule in change.virtual_services.values() {
            if rule.gateways.iter().any(|g| &**g != MESH_GATEWAY) {
                self.dirty.gateway = true;
            }
            for host in &rule.hosts {
                self.mark_name(host, Dirt::ROUTING);
                self.reinterpret(host);
                if names::is_wildcard(host) {
                    self.dirty.frames |= &**host == "*";
                    wildcards.push(Arc::clone(host));
                }
            }
            if self.shape.sidecar.is_some() {
                // What an imported rule routes to is in scope, whether imported itself or not.
                for name in &rule.destinations {
                    self.mark_name(name, Dirt::ALL);
                    self.appeared_name(name);
                }
            }
        }
        wildcards
    }

    fn policy(&mut self, namespace: &str, host: &RuleHost) {
        // Rules that write a host in full are merged with those that write it short, which may mean something else.
        let suffix = names::expand("", namespace, &self.new.domain);
        let short: Option<Arc<str>> = host.written.strip_suffix(&*suffix).filter(|s| names::is_short(s)).map(Arc::from);
        let mut meant: BTreeSet<ServiceKey> = BTreeSet::new();
        for mesh in [self.old, self.new] {
            if host.is_wildcard() {
                let matching = mesh.services().filter(|s| names::matches(&host.written, s.host()));
                // Those without further names are found by their rules, below.
                meant.extend(matching.filter(|s| !s.service.aliases.is_empty()).map(|s| s.service.key.clone()));
                for rule in mesh.virtual_services() {
                    if rule.destinations.iter().flat_map(RuleHost::candidates).any(|d| names::matches(&host.written, d))
                    {
                        self.mark_rule(rule);
                        mesh.roots_delegating_to(rule).for_each(|root| self.mark_rule(root));
                    }
                }
            } else {
                for name in host.candidates().chain(&short) {
                    self.mark_name(name, Dirt::ALL);
                    self.dependants_of_name(name);
                    let called = mesh.hosts_called(name);
                    let hosts = called.iter().chain(std::iter::once(name));
                    meant.extend(hosts.flat_map(|h| mesh.services_named(h)).map(|s| s.service.key.clone()));
                }
            }
        }
        // A rule may route to the service under a name other than the one that this one uses.
        meant.iter().for_each(|key| self.dependants_of_service(key));
    }
}
