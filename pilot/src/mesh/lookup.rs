//! What names mean to a client, and which rules hold for a host: the questions that translation asks of the mesh.

use std::borrow::Cow;
use std::sync::Arc;

use ipnet::IpNet;
use xebec_galley::{Kind, ResourceKey};

use super::names::{self, RuleHost};
use super::rules::{self, MeshDestinationRule, MeshVirtualService, PolicyGroup, Rank};
use super::{CONFIG_REGISTRY, MESH_GATEWAY, Mesh, MeshService, Scope};
use crate::model::{Service, ServiceKey};

// === Services ===

impl Mesh {
    /// The service of that hostname and namespace.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<MeshService>> {
        self.services_named(&key.hostname).iter().find(|s| s.service.key.namespace == key.namespace)
    }

    /// All services of that hostname, in order of preference.
    pub fn services_named(&self, host: &str) -> &[Arc<MeshService>] {
        self.hosts.get(host).map_or(&[], |list| list)
    }

    /// All services, by hostname.
    pub fn services(&self) -> impl Iterator<Item = &Arc<MeshService>> {
        self.hosts.values().flat_map(|list| list.iter())
    }

    /// All hostnames, sorted.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.keys()
    }

    /// How many hostnames there are.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// The one service that `host` means in this scope: of the client's own namespace first, then one that a platform
    /// registered, then the oldest.
    pub fn service_in(&self, host: &str, scope: &Scope) -> Option<&Arc<MeshService>> {
        let candidates = self.hosts.get(host)?;
        if let [only] = &**candidates {
            return self.in_scope(only, scope).then_some(only);
        }
        let preference = |s: &&Arc<MeshService>| {
            let key = &s.service.key;
            (key.namespace != scope.namespace, &*s.service.registry.0 == CONFIG_REGISTRY)
        };
        // The list is oldest first, and the minimum is the first of equals.
        candidates.iter().filter(|s| self.in_scope(s, scope)).min_by_key(preference)
    }

    /// The full name of a host as a rule in `namespace` writes it. A name that a visible service has, or has as an alias, is that
    /// service; else a name without a dot is expanded as Kubernetes does; else it is what is written.
    pub fn resolve_host<'a>(&'a self, host: &'a str, namespace: &str, scope: &Scope) -> Cow<'a, str> {
        let host = names::lower(host);
        if self.service_in(&host, scope).is_some() {
            return host;
        }
        if names::is_short(&host) {
            let expanded = names::expand(&host, namespace, &self.domain);
            return match self.alias_unless(&expanded, &host, scope) {
                Some(name) => Cow::Borrowed(name),
                None => Cow::Owned(expanded),
            };
        }
        match self.alias(&host, scope) {
            Some(name) => Cow::Borrowed(name),
            None => host,
        }
    }

    /// As [`Mesh::resolve_host`], for a host that was expanded before.
    pub fn resolve_rule_host<'a>(&'a self, host: &'a RuleHost, scope: &Scope) -> &'a str {
        if self.service_visible(&host.written, scope) {
            return &host.written;
        }
        match &host.expanded {
            Some(expanded) => self.alias_unless(expanded, &host.written, scope).unwrap_or(expanded),
            None => self.alias(&host.written, scope).unwrap_or(&host.written),
        }
    }

    /// Visible at all, whether imported or not: asked while the scope itself is worked out.
    fn service_visible(&self, host: &str, scope: &Scope) -> bool {
        self.services_named(host).iter().any(|s| scope.sees(&s.service.visibility))
    }

    fn alias_unless<'a>(&'a self, expanded: &str, alias: &str, scope: &Scope) -> Option<&'a str> {
        if self.service_visible(expanded, scope) { None } else { self.alias(alias, scope) }
    }

    fn alias<'a>(&'a self, alias: &str, scope: &Scope) -> Option<&'a str> {
        if self.aliases.is_empty() {
            return None;
        }
        self.owner_of_alias(alias, scope).map(|s| &**s.host())
    }

    /// The service that has `alias` as a further name: the oldest visible one.
    pub fn owner_of_alias(&self, alias: &str, scope: &Scope) -> Option<&Arc<MeshService>> {
        let alias: Arc<str> = alias.into();
        let from = (Arc::clone(&alias), ServiceKey { hostname: "".into(), namespace: "".into() });
        self.oldest(self.aliases.range(from..).take_while(|(a, _)| *a == alias).map(|(_, key)| key), scope)
    }

    /// The service that owns a virtual address: the oldest visible one that lists it.
    pub fn owner_of_address(&self, address: IpNet, scope: &Scope) -> Option<&Arc<MeshService>> {
        let from = (address, ServiceKey { hostname: "".into(), namespace: "".into() });
        self.oldest(self.addresses.range(from..).take_while(|(a, _)| *a == address).map(|(_, key)| key), scope)
    }

    fn oldest<'a>(&self, keys: impl Iterator<Item = &'a ServiceKey>, scope: &Scope) -> Option<&Arc<MeshService>> {
        keys.filter_map(|key| self.service(key))
            .filter(|s| scope.sees(&s.service.visibility))
            .min_by_key(|s| (s.service.created, &s.service.key))
    }

    /// Services that list this virtual address.
    pub(super) fn services_at(&self, address: IpNet) -> impl Iterator<Item = &ServiceKey> {
        let from = (address, ServiceKey { hostname: "".into(), namespace: "".into() });
        self.addresses.range(from..).take_while(move |(a, _)| *a == address).map(|(_, key)| key)
    }

    /// Services that list this alias.
    pub(super) fn services_called<'a>(&'a self, alias: &'a Arc<str>) -> impl Iterator<Item = &'a ServiceKey> {
        let from = (Arc::clone(alias), ServiceKey { hostname: "".into(), namespace: "".into() });
        self.aliases.range(from..).take_while(move |(a, _)| a == alias).map(|(_, key)| key)
    }
}

// === VirtualServices ===

impl Mesh {
    /// The VirtualService of that name; delegates are found here.
    pub fn virtual_service(&self, namespace: &str, name: &str) -> Option<&Arc<MeshVirtualService>> {
        self.virtual_services.get(&ResourceKey {
            kind: Kind::VirtualService,
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    /// All VirtualServices.
    pub fn virtual_services(&self) -> impl Iterator<Item = &Arc<MeshVirtualService>> {
        self.virtual_services.values()
    }

    /// How many VirtualServices there are, without a look at any.
    pub fn virtual_service_count(&self) -> usize {
        self.virtual_services.len()
    }

    /// The VirtualService that decides for a host in this scope on sidecars: the one with the most specific host, and of those the
    /// oldest. Sidecars never merge.
    pub fn virtual_service_for(&self, host: &str, scope: &Scope) -> Option<&Arc<MeshVirtualService>> {
        self.virtual_services_for(host, MESH_GATEWAY, scope).into_iter().next()
    }

    /// Every VirtualService of a gateway that has this host, the most specific host first, and then by rank.
    pub fn virtual_services_for(&self, host: &str, gateway: &str, scope: &Scope) -> Vec<&Arc<MeshVirtualService>> {
        let mut found: Vec<&Arc<MeshVirtualService>> = Vec::new();
        if self.rules_by_host.is_empty() {
            return found;
        }
        let mut take = |name: &str, exact: bool| {
            for rule in self.rules_by_host.get(name).into_iter().flat_map(|list| list.iter()) {
                let applies = rule.gateways.iter().any(|g| &**g == gateway)
                    && scope.imports_rule(rule)
                    && (!exact
                        || rule
                            .hosts
                            .iter()
                            .any(|h| h.candidates().any(|c| **c == *name) && self.resolve_rule_host(h, scope) == host));
                if applies && !found.iter().any(|f| Arc::ptr_eq(f, rule)) {
                    found.push(rule);
                }
            }
        };
        take(host, true);
        if let Some(service) = self.service_in(host, scope) {
            service.service.aliases.iter().for_each(|alias| take(alias, true));
        }
        if self.wildcard_rules > 0 {
            for wildcard in wildcards_of(host) {
                take(&wildcard, false);
            }
        }
        found
    }

    /// Every VirtualService that refers to the gateway `namespace/name`, oldest first, whoever may see it.
    pub fn virtual_services_of_gateway(&self, gateway: &str) -> impl Iterator<Item = &Arc<MeshVirtualService>> {
        let gateway: Arc<str> = gateway.into();
        let from = (Arc::clone(&gateway), Rank::default());
        self.rules_by_gateway.range(from..).take_while(move |((g, _), _)| *g == gateway).map(|(_, rule)| rule)
    }

    /// The hosts of VirtualServices on sidecars that no service in this scope has, sorted: they get virtual hosts of their own. A wildcard
    /// is one of them.
    pub fn rule_only_hosts(&self, scope: &Scope) -> Vec<Arc<str>> {
        self.rules_by_host.keys().filter(|host| self.is_rule_only_host(host, scope)).cloned().collect()
    }

    /// Whether `host` is one of [`Mesh::rule_only_hosts`].
    pub fn is_rule_only_host(&self, host: &str, scope: &Scope) -> bool {
        let Some(rules) = self.rules_by_host.get(host) else { return false };
        self.service_in(host, scope).is_none()
            && rules.iter().any(|rule| {
                rule.serves_mesh()
                    && scope.imports_rule(rule)
                    && rule
                        .hosts
                        .iter()
                        .any(|h| h.candidates().any(|c| **c == *host) && self.resolve_rule_host(h, scope) == host)
            })
    }

    /// VirtualServices that route to the service under one of its names; some may mean another service by it.
    pub(super) fn rules_routing_to<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = &'a Arc<MeshVirtualService>> {
        std::iter::once(&service.key.hostname)
            .chain(&service.aliases)
            .flat_map(|name| self.rules_with_destination(name))
            .filter_map(|key| self.virtual_services.get(key))
    }

    pub(super) fn rules_with_destination<'a>(&'a self, name: &'a Arc<str>) -> impl Iterator<Item = &'a ResourceKey> {
        self.rules_by_destination
            .range((Arc::clone(name), first_key())..)
            .take_while(move |(n, _)| n == name)
            .map(|(_, key)| key)
    }

    /// VirtualServices that delegate to this one.
    pub(super) fn roots_of<'a>(
        &'a self,
        delegate: &'a ResourceKey,
    ) -> impl Iterator<Item = &'a Arc<MeshVirtualService>> {
        self.roots_by_delegate
            .range((delegate.clone(), first_key())..)
            .take_while(move |(d, _)| d == delegate)
            .filter_map(|(_, key)| self.virtual_services.get(key))
    }
}

fn first_key() -> ResourceKey {
    ResourceKey { kind: Kind::VirtualService, namespace: "".into(), name: "".into() }
}

/// `*.b.c`, `*.c` and `*` for `a.b.c`; broader ones only, for a wildcard.
fn wildcards_of(host: &str) -> impl Iterator<Item = String> {
    let rest = host.strip_prefix("*.").unwrap_or(host);
    let suffixes: Vec<String> = rest.match_indices('.').map(|(at, _)| format!("*{}", &rest[at..])).collect();
    suffixes.into_iter().chain(std::iter::once("*".to_owned())).filter({
        let host = host.to_owned();
        move |w| *w != host
    })
}

// === DestinationRules ===

impl Mesh {
    /// What DestinationRules say to a client in this scope about a service. Looked up in the client's namespace, then in the
    /// service's, then in the root namespace; the first that has a rule decides, with its most specific host. Levels are not merged.
    pub fn destination_rule_for(&self, service: &Service, scope: &Scope) -> Option<&Arc<MeshDestinationRule>> {
        if self.policies.is_empty() {
            return None;
        }
        let root = rules::root_namespace(&self.settings);
        if *scope.namespace != *root
            && let Some(rule) = self.policy_in(&scope.namespace, service, scope, |_| true)
        {
            return Some(rule);
        }
        if service.key.namespace != scope.namespace
            && *service.key.namespace != *root
            && let Some(rule) = self.policy_in(&service.key.namespace, service, scope, |r| scope.sees(&r.visibility))
        {
            return Some(rule);
        }
        let root: Arc<str> = root.into();
        self.policy_in(&root, service, scope, |r| scope.sees(&r.visibility))
    }

    fn policy_in<'a>(
        &'a self,
        namespace: &Arc<str>,
        service: &Service,
        scope: &Scope,
        exported: impl Fn(&MeshDestinationRule) -> bool,
    ) -> Option<&'a Arc<MeshDestinationRule>> {
        let host = &service.key.hostname;
        let pick = |group: &'a Arc<PolicyGroup>| {
            group.merged.iter().find(|rule| {
                exported(rule)
                    && rule.selector.as_ref().is_none_or(|selector| {
                        *rule.namespace == *scope.namespace
                            && rules::selects(selector.iter().map(|(k, v)| (&**k, &**v)), &scope.labels)
                    })
            })
        };
        let group = |host: Arc<str>| self.policies.get(&(Arc::clone(namespace), host));
        if let Some(found) = group(Arc::clone(host)).filter(|g| self.means(g, host, namespace, scope)).and_then(pick) {
            return Some(found);
        }
        if names::is_short(host) {
            let expanded = names::expand(host, namespace, &self.domain).into();
            if let Some(found) = group(expanded).filter(|g| g.written_short()).and_then(pick) {
                return Some(found);
            }
        }
        for alias in &service.aliases {
            let short = names::is_short(alias);
            let canonical =
                if short { names::expand(alias, namespace, &self.domain).into() } else { Arc::clone(alias) };
            let owned = || self.owner_of_alias(alias, scope).is_some_and(|s| s.service.key == service.key);
            let named = group(canonical).filter(|g| !short || g.written_short());
            if let Some(found) = named.and_then(pick).filter(|_| owned()) {
                return Some(found);
            }
        }
        let wildcards = self.wildcard_policies.get(namespace)?;
        wildcards.iter().filter(|w| names::matches(w, host)).find_map(|w| group(Arc::clone(w)).and_then(pick))
    }

    /// A group whose documents all write a short name means the service that has exactly this name, when there is one.
    fn means(&self, group: &PolicyGroup, host: &str, namespace: &str, scope: &Scope) -> bool {
        if group.written_in_full() {
            return true;
        }
        let suffix = names::expand("", namespace, &self.domain);
        host.strip_suffix(&*suffix).is_none_or(|short| !self.service_visible(short, scope))
    }
}

// === What depends on a name: for working out what a change touches ===

impl Mesh {
    /// Hostnames of the services that have `alias` as a further name.
    pub fn hosts_called(&self, alias: &Arc<str>) -> Vec<Arc<str>> {
        if self.aliases.is_empty() {
            return Vec::new();
        }
        self.services_called(alias).map(|key| Arc::clone(&key.hostname)).collect()
    }

    /// Every name that a host of a VirtualService may mean, sorted.
    pub fn rule_hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules_by_host.keys()
    }

    /// VirtualServices of which a host may mean `name`.
    pub fn rules_with_host(&self, name: &str) -> &[Arc<MeshVirtualService>] {
        self.rules_by_host.get(name).map_or(&[], |list| list)
    }

    /// VirtualServices that route to what may be called `name`, and those that delegate to such a one.
    pub fn rules_affected_by<'a>(&'a self, name: &'a Arc<str>) -> impl Iterator<Item = &'a Arc<MeshVirtualService>> {
        self.rules_with_destination(name)
            .filter_map(|key| self.virtual_services.get(key))
            .flat_map(|rule| std::iter::once(rule).chain(self.roots_delegating_to(rule)))
    }

    /// VirtualServices that delegate to `rule`.
    pub fn roots_delegating_to<'a>(
        &'a self,
        rule: &'a MeshVirtualService,
    ) -> impl Iterator<Item = &'a Arc<MeshVirtualService>> {
        self.roots_of(&rule.resource.meta.key)
    }

    /// Hosts of DestinationRules that are expansions of the short name `name`: such rules mean the service of exactly this name, if
    /// there is one.
    pub fn policies_shadowed_by<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let short = names::is_short(name);
        self.policies
            .keys()
            .filter(move |_| short)
            .map(|(_, host)| host)
            .filter(move |host| host.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }
}
