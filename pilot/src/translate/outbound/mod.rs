//! What a proxy needs to call others: clusters and endpoints per service, virtual hosts per service and route table, listeners.
//!
//! Resources are computed in the smallest pieces that change by themselves, so that a change of one service recomputes that
//! service's pieces only:
//!
//! - [`service_resources`]: the clusters and endpoint lists of one service; [`endpoint_resources`]: only the latter.
//! - [`virtual_hosts`]: one host in one route table. [`route_names`] says in which tables a service is.
//! - [`route_frame`]: a route table around its hosts.
//! - [`listener`]: one listener, shared by the services that [`listener_keys`] puts on it.
//! - [`fixed`]: what does not depend on any service.

mod egress;
mod fixed;
mod hosts;
mod listeners;

pub(super) use hosts::LONGEST_BODY;
pub use hosts::{route_frame, route_names, virtual_hosts};
pub use listeners::{Bind, ListenerClass, ListenerKey, listener, listener_class, listener_keys};
pub(super) use listeners::{network, tcp_proxy};

use std::collections::BTreeSet;
use std::sync::Arc;

use xebec_galley::SourceRef;
use xebec_galley::spec::{LabelMap, Subset};
use xebec_proto::envoy::config::endpoint::v3::LocalityLbEndpoints as LocalityEndpoints;

use super::cluster::{self, Discovery};
use super::endpoints::{HealthForm, Selection, Spread, load_assignment, locality_matches};
use super::policy::Policy;
use super::wire::encode;
use super::{Draft, View, cluster_defaults, grpc, names};
use crate::mesh::{MeshDestinationRule, MeshService};
use crate::model::{Health, Port, Prefer, Protocol, Resolution};
use crate::proxy::ProxyKind;
use crate::resources::ResourceType;

/// The clusters of a service, one per port and subset, and the endpoints of those that are found by EDS.
pub fn service_resources(view: &View<'_>, service: &MeshService) -> Vec<Draft> {
    let mut drafts = Vec::new();
    each_cluster(view, service, |part| {
        let Some(discovery) = part.discovery(view) else { return };
        let pushed = discovery == Discovery::Pushed;
        let spread = part.spread(view);
        if view.shape.kind == ProxyKind::Grpc {
            drafts.extend(grpc::cluster(view, &part));
            drafts.push(part.endpoints(view, &spread));
            return;
        }
        let made = cluster::outbound(cluster::Outbound {
            name: part.name.clone(),
            service: &service.service,
            port: part.port,
            subset: part.subset.map_or("", |s| s.name.as_str()),
            policy: &part.policy,
            discovery,
            spread: &spread,
            defaults: cluster_defaults(view.mesh),
            rule: part.rule.map(|r| names::config_path("destination-rule", &r.key.namespace, &r.key.name)),
        });
        drafts.push(Draft::new(ResourceType::Cluster, part.name.as_str(), encode(&made), part.origins()));
        if pushed {
            drafts.push(part.endpoints(view, &spread));
        }
    });
    drafts
}

/// Only the endpoints of a service: what a change of its instances changes.
pub fn endpoint_resources(view: &View<'_>, service: &MeshService) -> Vec<Draft> {
    let mut drafts = Vec::new();
    each_cluster(view, service, |part| {
        if part.is_pushed(view) {
            drafts.push(part.endpoints(view, &part.spread(view)));
        }
    });
    drafts
}

/// Whether a change of the service's endpoints changes its clusters, and not only its endpoint lists.
pub fn endpoints_shape_clusters(view: &View<'_>, service: &MeshService) -> bool {
    let mut any = false;
    each_cluster(view, service, |part| any |= !part.is_pushed(view));
    any
}

/// What every proxy has, whichever services there are: the clusters for traffic to unknown places, the listener that receives captured
/// connections, and the explicit HTTP proxy.
pub fn fixed(view: &View<'_>) -> Vec<Draft> {
    if view.shape.kind == ProxyKind::Grpc {
        return Vec::new();
    }
    let defaults = cluster_defaults(view.mesh);
    let black_hole = cluster::black_hole(names::BLACK_HOLE_CLUSTER, defaults);
    let mut drafts =
        vec![Draft::new(ResourceType::Cluster, names::BLACK_HOLE_CLUSTER, encode(&black_hole), Vec::new())];
    if view.shape.kind == ProxyKind::Sidecar {
        let passthrough = cluster::passthrough(names::PASSTHROUGH_CLUSTER, defaults);
        drafts.push(Draft::new(ResourceType::Cluster, names::PASSTHROUGH_CLUSTER, encode(&passthrough), Vec::new()));
        drafts.extend(fixed::fixed(view));
    }
    drafts
}

/// The route tables of the client's HTTP proxies, which exist whether a service is in them or not.
pub fn proxy_tables(view: &View<'_>) -> Vec<Arc<str>> {
    let tables: BTreeSet<_> = egress::http_proxies(view).into_iter().map(|(_, table)| table).collect();
    tables.into_iter().collect()
}

/// The endpoints nearby first, as far as it is known where the client is.
fn nearest<'a>(view: &View<'a>, near: Prefer) -> Spread<'a> {
    let node = view.shape.node.as_deref().filter(|_| near == Prefer::Node);
    match view.shape.locality.as_ref() {
        Some(client) if node.is_some() || !client.zone.is_empty() => Spread::Nearest { client, node },
        _ => Spread::Even,
    }
}

/// One endpoint is all that Envoy takes of a name that is one logical endpoint: the first of the nearest that is well, else one that is
/// well enough.
fn keep_one(list: &mut cluster::LoadAssignment) {
    use xebec_proto::envoy::config::core::v3::HealthStatus;
    let rank = |status: HealthStatus| match status {
        HealthStatus::Unknown | HealthStatus::Healthy => 0,
        HealthStatus::Degraded => 1,
        _ => 2,
    };
    let best = |l: &LocalityEndpoints| l.lb_endpoints.iter().map(|e| rank(e.health_status())).min();
    if let Some(at) = (0..list.endpoints.len()).min_by_key(|at| (best(&list.endpoints[*at]), *at)) {
        list.endpoints.swap(0, at);
        list.endpoints.truncate(1);
    }
    for group in &mut list.endpoints {
        group.lb_endpoints.sort_by_key(|e| rank(e.health_status()));
        group.lb_endpoints.truncate(1);
        group.priority = 0;
    }
}

/// One cluster that a service has.
pub(super) struct Part<'a> {
    /// The cluster's name.
    pub name: String,
    service: &'a MeshService,
    /// The service's port.
    pub port: &'a Port,
    subset: Option<&'a Subset>,
    /// What holds for it.
    pub policy: Policy<'a>,
    rule: Option<&'a MeshDestinationRule>,
}

/// Visits the clusters that a service has: per port, the whole and then each subset.
pub(super) fn each_cluster<'a>(view: &View<'a>, service: &'a MeshService, mut take: impl FnMut(Part<'a>)) {
    let rule = view.rule_of(service);
    let subsets = rule.map_or(&[][..], |r| &r.spec.subsets);
    for port in service.service.ports.iter().filter(|p| p.protocol != Protocol::Udp) {
        for subset in std::iter::once(None).chain(subsets.iter().map(Some)) {
            take(Part {
                name: names::outbound_cluster(port.number, subset.map_or("", |s| s.name.as_str()), service.host()),
                service,
                port,
                subset,
                policy: Policy::of(rule.map(|r| &r.spec), subset, port.number).on(&service.service.distribution),
                rule,
            });
        }
    }
}

// === impl Part ===

static NO_LABELS: LabelMap = LabelMap::new();

impl<'a> Part<'a> {
    fn selection(&self, view: &View<'a>, dns: bool) -> Selection<'a> {
        Selection {
            endpoints: &self.service.endpoints,
            port: self.port,
            labels: self.subset.map_or(&NO_LABELS, |s| &s.labels),
            dns,
            // Of a proxy that does not say where it runs nothing is kept away.
            node: view.shape.node.as_deref().filter(|_| self.service.service.distribution.node_local),
            health: if view.shape.kind == ProxyKind::Grpc { HealthForm::Usable } else { HealthForm::Status },
        }
    }

    fn is_pushed(&self, view: &View<'_>) -> bool {
        match self.service.service.resolution {
            // The only way that gRPC's libraries know.
            _ if view.shape.kind == ProxyKind::Grpc => true,
            _ if self.policy.is_passthrough() && view.is_intercepted() => false,
            Resolution::Static => true,
            // Without interception nobody knows where a connection meant to go; known endpoints are the next best.
            Resolution::Passthrough => !view.is_intercepted() && !self.service.endpoints.is_empty(),
            Resolution::Dns | Resolution::DnsRoundRobin => false,
        }
    }

    /// How the endpoints are found. `None` when there is no way to find one: such a cluster is not made.
    fn discovery(&self, view: &View<'a>) -> Option<Discovery> {
        if self.is_pushed(view) {
            return Some(Discovery::Pushed);
        }
        match self.service.service.resolution {
            Resolution::Static | Resolution::Passthrough => Some(Discovery::OriginalDst),
            Resolution::Dns => Some(Discovery::StrictDns(self.resolved(view)?)),
            Resolution::DnsRoundRobin => {
                let mut list = self.resolved(view)?;
                keep_one(&mut list);
                Some(Discovery::LogicalDns(list))
            }
        }
    }

    /// The endpoints to resolve by DNS; without any, the service's own name is the one.
    fn resolved(&self, view: &View<'a>) -> Option<cluster::LoadAssignment> {
        let selection = self.selection(view, true);
        // Where no endpoint takes traffic there is nothing to look up, and nobody to be called.
        if selection.iter().any(|e| matches!(e.health, Health::Healthy | Health::Degraded)) {
            return Some(load_assignment(&self.name, selection, &self.spread(view)));
        }
        let host = &**self.service.host();
        if !self.service.endpoints.is_empty() || host.starts_with('*') {
            return None;
        }
        let itself = cluster::one_host(&self.name, host, self.port.number);
        self.subset.is_none_or(|s| s.labels.is_empty()).then_some(itself)
    }

    fn endpoints(&self, view: &View<'a>, spread: &Spread<'_>) -> Draft {
        let list = load_assignment(&self.name, self.selection(view, false), spread);
        Draft::new(ResourceType::Endpoint, self.name.as_str(), encode(&list), self.origins())
    }

    /// The documents behind it.
    pub fn origins(&self) -> Vec<SourceRef> {
        let rule = self.rule.map_or(&[][..], |r| &r.origins);
        rule.iter().chain(&self.service.origin).cloned().collect()
    }

    /// How localities are used: as the rule says, else as the service's platform does, else as the mesh does.
    fn spread(&self, view: &View<'a>) -> Spread<'a> {
        let written = self.policy.load_balancer.and_then(|lb| lb.locality_lb_setting.as_ref());
        let near = self.service.service.distribution.prefer;
        if written.is_none() && near != Prefer::None {
            return nearest(view, near);
        }
        let settings = written.or(view.mesh.settings.locality_lb_setting.as_ref());
        let Some(client) = view.shape.locality.as_ref() else { return Spread::Even };
        if settings.is_some_and(|s| s.enabled == Some(false)) {
            return Spread::Even;
        }
        let shares = settings.and_then(|s| {
            s.distribute.iter().find(|d| locality_matches(&d.from, &client.region, &client.zone, &client.subzone))
        });
        if let Some(shares) = shares {
            return Spread::Distribute(shares.to.iter().map(|(pattern, share)| (pattern.as_str(), *share)).collect());
        }
        if settings.is_some_and(|s| !s.distribute.is_empty()) || self.policy.outlier_detection.is_none() {
            return Spread::Even;
        }
        let keys: Vec<&str> = settings.map_or(&[][..], |s| &s.failover_priority).iter().map(String::as_str).collect();
        if keys.is_empty() && client.region.is_empty() {
            return Spread::Even;
        }
        let regions = settings.map_or(&[][..], |s| &s.failover).iter().map(|f| (f.from.as_str(), f.to.as_str()));
        let network = &*view.shape.network;
        Spread::Failover { client, labels: Some(view.labels()), network, regions: regions.collect(), keys }
    }
}
