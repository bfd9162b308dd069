//! Rules prepared for lookup: names expanded, references resolved, visibility read, rules of one host merged.

use std::collections::BTreeSet;
use std::sync::Arc;

use xebec_galley::spec::{Destination, DestinationRule, MeshConfig, VirtualService};
use xebec_galley::{Kind, Meta, Resource, ResourceKey, SourceRef};

use super::MESH_GATEWAY;
use super::names::{self, RuleHost};
use crate::model::{Labels, Visibility};

/// The namespace whose rules hold for all others, unless the settings name another.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// The order in which rules that claim the same thing are preferred: older first, then by name, then by namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rank {
    created: u64,
    name: Arc<str>,
    namespace: Arc<str>,
}

/// A VirtualService and everything that is read from it once.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshVirtualService {
    /// The document.
    pub resource: Arc<Resource<VirtualService>>,
    /// Its hosts, with short names expanded. Empty for a delegate.
    pub hosts: Vec<RuleHost>,
    /// `mesh`, or `namespace/name` of a Gateway. Never empty.
    pub gateways: Vec<Arc<str>>,
    /// Who sees it.
    pub visibility: Visibility,
    /// Every host that it routes or mirrors to, each once.
    pub destinations: Vec<RuleHost>,
    /// The VirtualServices that it delegates to.
    pub delegates: Vec<ResourceKey>,
    /// The label keys by which it selects clients.
    pub source_labels: Vec<Arc<str>>,
}

/// A DestinationRule prepared for indexing.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexedDestinationRule {
    /// The document.
    pub resource: Arc<Resource<DestinationRule>>,
    /// Its host.
    pub host: RuleHost,
    /// Who sees it.
    pub visibility: Visibility,
}

/// What the DestinationRules of one namespace say about one host: documents for the same clients are merged.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshDestinationRule {
    /// The host, with a short name expanded.
    pub host: RuleHost,
    /// The namespace of the documents.
    pub namespace: Arc<str>,
    /// Who sees it.
    pub visibility: Visibility,
    /// The subsets of all documents, and the traffic policy of the oldest that has one.
    pub spec: DestinationRule,
    /// The identity of the oldest document.
    pub key: ResourceKey,
    /// The documents, oldest first.
    pub origins: Vec<SourceRef>,
    /// The clients that it is only for.
    pub selector: Option<Labels>,
}

/// All merged rules of one namespace for one host, those for selected clients first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicyGroup {
    /// The documents, oldest first.
    pub members: Vec<Arc<IndexedDestinationRule>>,
    /// What they say together.
    pub merged: Vec<Arc<MeshDestinationRule>>,
}

// === impl Rank ===

impl Rank {
    /// The rank of a document.
    pub fn of(meta: &Meta) -> Self {
        Self { created: meta.created, name: Arc::clone(&meta.key.name), namespace: Arc::clone(&meta.key.namespace) }
    }
}

/// The root namespace that the settings name.
pub fn root_namespace(settings: &MeshConfig) -> &str {
    settings.root_namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(ROOT_NAMESPACE)
}

/// Reads `exportTo` as a document in `own` namespace writes it; an empty list means `default`, and that empty means everybody.
pub fn visibility(export_to: &[String], default: &[String], own: &str) -> Visibility {
    let list = if export_to.is_empty() { default } else { export_to };
    if list.is_empty() || list.iter().any(|e| e == "*") {
        return Visibility::Public;
    }
    if list.iter().any(|e| e == "~") {
        return Visibility::Namespaces(Vec::new());
    }
    let namespaces: BTreeSet<Arc<str>> =
        list.iter().map(|e| if e == "." { own.into() } else { e.as_str().into() }).collect();
    Visibility::Namespaces(namespaces.into_iter().collect())
}

/// `namespace/name` of a gateway as a rule in `own` namespace refers to it: `name`, `namespace/name`, `./name`, the old
/// `name.namespace.svc...` form, or `mesh`.
pub fn gateway_reference(text: &str, own: &str) -> Arc<str> {
    if text == MESH_GATEWAY {
        return MESH_GATEWAY.into();
    }
    if let Some((namespace, name)) = text.split_once('/') {
        let namespace = if namespace == "." { own } else { namespace };
        return format!("{namespace}/{name}").into();
    }
    let mut labels = text.splitn(3, '.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(name), Some(namespace), _) => format!("{namespace}/{name}").into(),
        _ => format!("{own}/{text}").into(),
    }
}

// === impl MeshVirtualService ===

impl MeshVirtualService {
    /// Reads a document under these settings.
    pub fn new(resource: Arc<Resource<VirtualService>>, settings: &MeshConfig, domain: &str) -> Self {
        let own = Arc::clone(&resource.meta.key.namespace);
        let spec = &resource.spec;
        let host = |text: &str| RuleHost::new(text, &own, domain);
        let mut destinations = BTreeSet::new();
        each_destination(spec, |d| {
            if !d.host.is_empty() {
                destinations.insert(host(&d.host));
            }
        });
        let delegate = |name: &str, namespace: &str| ResourceKey {
            kind: Kind::VirtualService,
            namespace: if namespace.is_empty() { Arc::clone(&own) } else { namespace.into() },
            name: name.into(),
        };
        let gateways: BTreeSet<Arc<str>> = spec.gateways.iter().map(|g| gateway_reference(g, &own)).collect();
        let mut source_labels: BTreeSet<&str> = BTreeSet::new();
        source_labels
            .extend(spec.http.iter().flat_map(|r| &r.matches).flat_map(|m| m.source_labels.keys()).map(String::as_str));
        source_labels
            .extend(spec.tls.iter().flat_map(|r| &r.matches).flat_map(|m| m.source_labels.keys()).map(String::as_str));
        source_labels
            .extend(spec.tcp.iter().flat_map(|r| &r.matches).flat_map(|m| m.source_labels.keys()).map(String::as_str));
        Self {
            hosts: spec.hosts.iter().map(|h| host(h)).collect(),
            gateways: if gateways.is_empty() { vec![MESH_GATEWAY.into()] } else { gateways.into_iter().collect() },
            visibility: visibility(&spec.export_to, &settings.default_virtual_service_export_to, &own),
            destinations: destinations.into_iter().collect(),
            delegates: spec
                .http
                .iter()
                .filter_map(|r| r.delegate.as_ref())
                .map(|d| delegate(&d.name, &d.namespace))
                .collect(),
            source_labels: source_labels.into_iter().map(Arc::from).collect(),
            resource,
        }
    }

    /// The document's namespace.
    pub fn namespace(&self) -> &str {
        &self.resource.meta.key.namespace
    }

    /// Whether sidecars use it.
    pub fn serves_mesh(&self) -> bool {
        self.gateways.iter().any(|g| &**g == MESH_GATEWAY)
    }

    /// Its place among rules for the same host.
    pub fn rank(&self) -> Rank {
        Rank::of(&self.resource.meta)
    }
}

fn each_destination<'a>(spec: &'a VirtualService, mut take: impl FnMut(&'a Destination)) {
    for route in &spec.http {
        route.route.iter().for_each(|r| take(&r.destination));
        route.mirror.iter().for_each(&mut take);
        route.mirrors.iter().for_each(|m| take(&m.destination));
    }
    spec.tls.iter().flat_map(|r| &r.route).for_each(|r| take(&r.destination));
    spec.tcp.iter().flat_map(|r| &r.route).for_each(|r| take(&r.destination));
}

// === impl IndexedDestinationRule ===

impl IndexedDestinationRule {
    /// Reads a document under these settings.
    pub fn new(resource: Arc<Resource<DestinationRule>>, settings: &MeshConfig, domain: &str) -> Self {
        let own = &resource.meta.key.namespace;
        let selected = resource.spec.workload_selector.is_some();
        Self {
            host: RuleHost::new(&resource.spec.host, own, domain),
            // A rule for selected clients is never exported.
            visibility: if selected {
                Visibility::Namespaces(vec![Arc::clone(own)])
            } else {
                visibility(&resource.spec.export_to, &settings.default_destination_rule_export_to, own)
            },
            resource,
        }
    }

    /// The name under which rules for the same host meet.
    pub fn canonical_host(&self) -> &Arc<str> {
        self.host.expanded.as_ref().unwrap_or(&self.host.written)
    }

    /// The label keys of clients that matter to it: those of its selector, and those that failover goes by.
    pub fn selected_labels(&self) -> impl Iterator<Item = &str> {
        let selector =
            self.resource.spec.workload_selector.iter().flat_map(|s| s.match_labels.keys()).map(String::as_str);
        let balancers = self.policies().flat_map(|p| {
            p.load_balancer.iter().chain(p.port_level_settings.iter().filter_map(|s| s.load_balancer.as_ref()))
        });
        let priorities = balancers.filter_map(|lb| lb.locality_lb_setting.as_ref()).flat_map(|l| &l.failover_priority);
        selector.chain(priorities.map(|key| failover_label(key)))
    }

    fn policies(&self) -> impl Iterator<Item = &xebec_galley::spec::TrafficPolicy> {
        let spec = &self.resource.spec;
        spec.traffic_policy.iter().chain(spec.subsets.iter().filter_map(|s| s.traffic_policy.as_ref()))
    }

    /// Whether its output may depend on where the client runs.
    pub fn uses_locality(&self) -> bool {
        self.policies().any(|p| {
            let uses_locality = |lb: &xebec_galley::spec::LoadBalancerSettings| {
                lb.locality_lb_setting.is_some() || lb.zone_aware_lb_setting.is_some()
            };
            p.outlier_detection.is_some()
                || p.load_balancer.as_ref().is_some_and(uses_locality)
                || p.port_level_settings
                    .iter()
                    .any(|s| s.outlier_detection.is_some() || s.load_balancer.as_ref().is_some_and(uses_locality))
        })
    }
}

// === impl PolicyGroup ===

impl PolicyGroup {
    /// Merges the documents of one namespace for one host.
    pub fn new(mut members: Vec<Arc<IndexedDestinationRule>>) -> Self {
        members.sort_by_cached_key(|m| Rank::of(&m.resource.meta));
        let mut merged: Vec<MeshDestinationRule> = Vec::new();
        for member in &members {
            let selector = member.resource.spec.workload_selector.as_ref();
            let labels = selector.map(|s| {
                s.match_labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect::<Labels>()
            });
            let same = merged
                .iter_mut()
                .find(|m| labels.is_none() && m.selector.is_none() && m.visibility == member.visibility);
            match same {
                Some(oldest) => merge_into(oldest, &member.resource),
                None => merged.push(MeshDestinationRule {
                    host: member.host.clone(),
                    namespace: Arc::clone(&member.resource.meta.key.namespace),
                    visibility: member.visibility.clone(),
                    spec: member.resource.spec.clone(),
                    key: member.resource.meta.key.clone(),
                    origins: vec![member.resource.meta.source.clone()],
                    selector: labels,
                }),
            }
        }
        // Stable: among equals the oldest stays first.
        merged.sort_by_key(|m| m.selector.is_none());
        Self { members, merged: merged.into_iter().map(Arc::new).collect() }
    }

    /// Whether some document writes the host as a short name.
    pub fn written_short(&self) -> bool {
        self.members.iter().any(|m| m.host.expanded.is_some())
    }

    /// Whether some document writes the host in full.
    pub fn written_in_full(&self) -> bool {
        self.members.iter().any(|m| m.host.expanded.is_none())
    }
}

fn merge_into(oldest: &mut MeshDestinationRule, later: &Resource<DestinationRule>) {
    for subset in &later.spec.subsets {
        if !oldest.spec.subsets.iter().any(|s| s.name == subset.name) {
            oldest.spec.subsets.push(subset.clone());
        }
    }
    if oldest.spec.traffic_policy.is_none() {
        oldest.spec.traffic_policy.clone_from(&later.spec.traffic_policy);
    }
    oldest.origins.push(later.meta.source.clone());
}

/// The label of an entry of `failoverPriority`: `key`, or `key=value`.
pub fn failover_label(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

/// Whether every pair of `selector` is among `labels`.
pub fn selects<'a>(selector: impl IntoIterator<Item = (&'a str, &'a str)>, labels: &Labels) -> bool {
    selector.into_iter().all(|(key, value)| labels.get(key).is_some_and(|v| **v == *value))
}

/// As [`names::matches`], for a host of a rule: under any name that it may mean.
pub fn rule_host_matches(rule: &RuleHost, host: &str) -> bool {
    rule.candidates().any(|c| names::matches(c, host))
}
