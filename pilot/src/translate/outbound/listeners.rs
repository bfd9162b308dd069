//! Outbound listeners.
//!
//! Captured HTTP of one port shares one listener, `0.0.0.0_PORT`, whose route table knows the services; captured TCP has one listener per
//! virtual address, and falls back to `0.0.0.0_PORT` where a service has none. Without interception, listeners bind for themselves.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use xebec_galley::SourceRef;
use xebec_galley::spec::RouteDestination;
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::listener::v3 as envoy;
use xebec_proto::google::protobuf as google;

use super::super::filters::{self, AccessLog, Http, Routes, Side, Tcp, TcpTarget};
use super::super::policy::Policy;
use super::super::route::Context;
use super::super::wire::{bool_value, cidr, duration, encode, pipe, socket_address};
use super::super::{Draft, View, access_log, names, paths, protocol_of};
use super::egress;
use crate::mesh::{MESH_GATEWAY, MeshService};
use crate::model::{Port, Protocol};
use crate::proxy::ProxyKind;
use crate::resources::ResourceType;

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bind {
    /// Receives what was captured for this address; opens no socket.
    Captured(IpAddr),
    /// Opens a socket on this address.
    Ip(IpAddr),
    /// Opens a Unix domain socket.
    Unix(Arc<str>),
}

/// Names an outbound listener that services share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerKey {
    /// Where it is.
    pub bind: Bind,
    /// Its port.
    pub port: u16,
}

/// How a port of a service is carried for this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// As requests.
    Http,
    /// As requests or as bytes: the first bytes decide.
    Sniffed,
    /// As bytes.
    Tcp,
    /// As bytes, by server name.
    Tls,
    /// Not at all.
    Nothing,
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// How this client reaches `port`.
pub(super) fn traffic(view: &View<'_>, service: &MeshService, port: &Port) -> Traffic {
    let Some(place) = egress::place(view, service, port.number) else { return Traffic::Nothing };
    match place.protocol.unwrap_or_else(|| protocol_of(port)) {
        Protocol::Udp => Traffic::Nothing,
        Protocol::Auto => Traffic::Sniffed,
        p if p.is_http() => Traffic::Http,
        p if p.is_tls() => Traffic::Tls,
        _ => Traffic::Tcp,
    }
}

/// The listeners through which this client reaches the service. Without interception one of them may be on the address and port where the
/// workload itself is called: it then has the name of that inbound listener, which takes its place.
pub fn listener_keys(view: &View<'_>, service: &MeshService) -> Vec<ListenerKey> {
    let mut found: Vec<ListenerKey> = Vec::new();
    for port in &service.service.ports {
        for key in keys_of_port(view, service, port) {
            if !found.contains(&key) {
                found.push(key);
            }
        }
    }
    found
}

/// Services that are the same to a listener: it needs to know one of each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenerClass {
    /// Carried as requests, which the route table tells apart.
    Http,
    /// As `Http`, with gRPC-Web among them.
    GrpcWeb,
    /// Carried as requests or as bytes to wherever they were captured.
    Sniffed,
}

/// The class of a service on the listener `key`. `None` is a service that matters by itself: the listener must be given all of those.
pub fn listener_class(view: &View<'_>, key: &ListenerKey, service: &MeshService) -> Option<ListenerClass> {
    let mut ports = service.service.ports.iter().filter(|p| p.number == key.port);
    let (Some(port), None) = (ports.next(), ports.next()) else { return None };
    match traffic(view, service, port) {
        Traffic::Http if port.protocol == Protocol::GrpcWeb => Some(ListenerClass::GrpcWeb),
        Traffic::Http => Some(ListenerClass::Http),
        Traffic::Sniffed if key.bind == Bind::Captured(ANY) && port.protocol != Protocol::GrpcWeb => {
            Some(ListenerClass::Sniffed)
        }
        _ => None,
    }
}

fn keys_of_port(view: &View<'_>, service: &MeshService, port: &Port) -> Vec<ListenerKey> {
    if view.shape.kind != ProxyKind::Sidecar {
        return Vec::new();
    }
    let traffic = traffic(view, service, port);
    let Some(place) = egress::place(view, service, port.number).filter(|_| traffic != Traffic::Nothing) else {
        return Vec::new();
    };
    let key = |bind| ListenerKey { bind, port: port.number };
    if let Some(bind) = place.bind {
        let is_default = place.protocol.is_none() && egress::explicit(view).as_ref() == Some(&bind);
        // Requests have the explicit proxy; a socket for each of their ports besides would clash with other programs, or need rights.
        let proxied = view.shape.http_proxy_port.is_some() && matches!(traffic, Traffic::Http | Traffic::Sniffed);
        return if is_default && proxied { Vec::new() } else { vec![key(bind)] };
    }
    if traffic == Traffic::Http {
        return vec![key(Bind::Captured(ANY))];
    }
    let addresses = &service.service.addresses;
    let mut keys: Vec<ListenerKey> = addresses
        .iter()
        .map(|a| if a.prefix_len() == a.max_prefix_len() { a.addr() } else { ANY })
        .map(|ip| key(Bind::Captured(ip)))
        .collect();
    if keys.is_empty() {
        keys.push(key(Bind::Captured(ANY)));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// Makes a listener for those of `services` that are reached through `key`; `None` when there is none.
pub fn listener(view: &View<'_>, key: &ListenerKey, services: &[&MeshService]) -> Option<Draft> {
    let mut members: Vec<(&MeshService, &Port, Traffic)> = services
        .iter()
        .flat_map(|s| s.service.ports.iter().map(move |p| (*s, p)))
        .filter(|(s, p)| p.number == key.port && keys_of_port(view, s, p).contains(key))
        .map(|(s, p)| (s, p, traffic(view, s, p)))
        .collect();
    members.sort_by_key(|(s, p, _)| (s.service.created, &s.service.key, &p.name));
    if members.is_empty() {
        return None;
    }
    let log = access_log(view.mesh);
    // What made this socket: the Sidecar resource that opens it, and the oldest service behind it. All services of a shared port would be
    // a list that helps nobody.
    let sidecar = view.scope.sidecar.iter().map(|s| s.meta.source.clone());
    let origins = sidecar.chain(members.first().and_then(|(s, ..)| s.origin.clone())).collect();
    let mut plan = Plan { view, key, log: log.as_ref(), chains: Vec::new(), taken: Vec::new(), origins };
    let is = |wanted: Traffic| members.iter().filter(move |(_, _, t)| *t == wanted).map(|(s, p, _)| (*s, *p));
    for (service, port) in is(Traffic::Tls) {
        plan.tls(service, port);
    }
    let mut fallback = None;
    for (service, port) in is(Traffic::Tcp) {
        fallback = fallback.or(plan.tcp(service, port));
    }
    let (http, sniffed) = (is(Traffic::Http).next(), is(Traffic::Sniffed).next());
    let mut sniff = false;
    if http.is_some() || sniffed.is_some() {
        sniff = sniffed.is_some() || fallback.is_some();
        let grpc_web = members.iter().any(|(_, p, _)| p.protocol == Protocol::GrpcWeb);
        let route = match (http, sniffed, &key.bind) {
            (None, Some((service, _)), Bind::Captured(ip)) if *ip != ANY => {
                format!("{}:{}", service.host(), key.port)
            }
            _ => key.port.to_string(),
        };
        plan.http(route, sniff, grpc_web);
        if let (None, Some((service, port)), true) = (&fallback, sniffed, key.bind != Bind::Captured(ANY)) {
            fallback = plan.tcp(service, port);
        }
    }
    let open = plan.chains.iter().any(|c| c.filter_chain_match.is_none());
    let fallback = fallback.or_else(|| plan.passthrough()).filter(|_| !open);
    let inspects_tls = plan.chains.iter().any(|c| {
        c.filter_chain_match.as_ref().is_some_and(|m| !m.server_names.is_empty() || m.transport_protocol == "tls")
    });
    let mut listener_filters = Vec::new();
    if inspects_tls || sniff {
        listener_filters.push(filters::tls_inspector());
    }
    if sniff {
        listener_filters.push(filters::http_inspector());
    }
    let detection = view.mesh.settings.protocol_detection_timeout.map_or(std::time::Duration::ZERO, |t| t.0);
    let name = key.to_string();
    let made = envoy::Listener {
        address: Some(key.address()),
        bind_to_port: key.bind_to_port(),
        filter_chains: plan.chains,
        default_filter_chain: fallback,
        listener_filters_timeout: (!listener_filters.is_empty()).then(|| duration(detection)),
        continue_on_listener_filters_timeout: !listener_filters.is_empty(),
        listener_filters,
        traffic_direction: core::TrafficDirection::Outbound as i32,
        name: name.clone(),
        ..Default::default()
    };
    Some(Draft::new(ResourceType::Listener, name, encode(&made), plan.origins))
}

/// A listener in the making.
struct Plan<'a, 'v> {
    view: &'v View<'a>,
    key: &'v ListenerKey,
    log: Option<&'v AccessLog>,
    chains: Vec<envoy::FilterChain>,
    /// Networks and server names that a chain has already: Envoy refuses a second one.
    taken: Vec<(Vec<String>, String)>,
    origins: Vec<SourceRef>,
}

// === impl Plan ===

impl<'a> Plan<'a, '_> {
    fn context(&self) -> Context<'a> {
        Context { view: *self.view, gateway: MESH_GATEWAY.into(), port: self.key.port, grpc: false }
    }

    /// Requests, by the route table of that name.
    fn http(&mut self, route: String, sniff: bool, grpc_web: bool) {
        let http = Http {
            side: Side::Outbound,
            stat_prefix: format!("outbound_{}", self.key),
            routes: Routes::Named(route),
            grpc_web,
            http10: false,
            trusted_hops: 0,
            access_log: self.log,
            paths: paths(self.view.mesh),
        };
        let sniffed = sniff.then(|| envoy::FilterChainMatch {
            transport_protocol: "raw_buffer".to_owned(),
            application_protocols: filters::sniffed_http(),
            ..Default::default()
        });
        self.chains.push(envoy::FilterChain {
            filter_chain_match: sniffed,
            filters: vec![filters::http_connection_manager(http)],
            ..Default::default()
        });
    }

    /// Bytes to a service: chains for the networks that rules or the service name, and the chain for everything else.
    fn tcp(&mut self, service: &'a MeshService, port: &'a Port) -> Option<envoy::FilterChain> {
        let own: Vec<String> = self.networks_of(service);
        for rule in self.view.mesh.virtual_services_for(service.host(), MESH_GATEWAY, self.view.scope) {
            let mut routed = false;
            for route in &rule.resource.spec.tcp {
                let context = self.context();
                let mut subnets: Vec<&[String]> = Vec::new();
                for m in &route.matches {
                    let fits = m.port.is_none_or(|p| p == port.number)
                        && context.source_fits(&m.gateways, &m.source_labels, &m.source_namespace, rule.namespace());
                    if fits {
                        subnets.push(&m.destination_subnets);
                    }
                }
                if route.matches.is_empty() {
                    subnets.push(&[]);
                }
                for subnet in subnets {
                    routed = true;
                    let filter = self.proxy_to_destinations(&route.route, rule.namespace());
                    let ranges = if subnet.is_empty() { own.clone() } else { subnet.to_vec() };
                    if let Some(open) = self.chain(ranges, Vec::new(), filter) {
                        self.origins.push(rule.resource.meta.source.clone());
                        return Some(open);
                    }
                }
            }
            if routed {
                self.origins.push(rule.resource.meta.source.clone());
                break;
            }
        }
        let filter = self.proxy_to_service(service, port);
        self.chain(own, Vec::new(), filter)
    }

    /// TLS to a service, by the server names of rules, else by its own name.
    fn tls(&mut self, service: &'a MeshService, port: &'a Port) {
        let mut routed = false;
        let own = self.networks_of(service);
        for rule in self.view.mesh.virtual_services_for(service.host(), MESH_GATEWAY, self.view.scope) {
            for route in &rule.resource.spec.tls {
                for m in &route.matches {
                    let fits = m.port.is_none_or(|p| p == port.number)
                        && self.context().source_fits(
                            &m.gateways,
                            &m.source_labels,
                            &m.source_namespace,
                            rule.namespace(),
                        );
                    if !fits {
                        continue;
                    }
                    routed = true;
                    let filter = self.proxy_to_destinations(&route.route, rule.namespace());
                    let ranges =
                        if m.destination_subnets.is_empty() { own.clone() } else { m.destination_subnets.clone() };
                    let open = self.chain(ranges, m.sni_hosts.clone(), filter);
                    self.chains.extend(open);
                }
            }
            if routed {
                self.origins.push(rule.resource.meta.source.clone());
                return;
            }
        }
        let alone = matches!(self.key.bind, Bind::Captured(ip) if ip != ANY);
        let names = if alone { Vec::new() } else { vec![service.host().to_string()] };
        let filter = self.proxy_to_service(service, port);
        let open = self.chain(own, names, filter);
        self.chains.extend(open);
    }

    /// The service's networks, where the listener is not for one address already.
    fn networks_of(&self, service: &MeshService) -> Vec<String> {
        match self.key.bind {
            Bind::Captured(ip) if ip == ANY => service
                .service
                .addresses
                .iter()
                .filter(|a| a.prefix_len() != a.max_prefix_len())
                .map(ToString::to_string)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Adds a chain with conditions that no other chain has; returns the chain when it has no condition at all.
    fn chain(
        &mut self,
        mut ranges: Vec<String>,
        names: Vec<String>,
        filter: envoy::Filter,
    ) -> Option<envoy::FilterChain> {
        ranges.sort();
        let any_name = names.is_empty() || names.iter().any(|n| n == "*");
        let mut free: Vec<String> = if any_name { vec![String::new()] } else { names.clone() };
        free.retain(|name| !self.taken.contains(&(ranges.clone(), name.clone())));
        let prefix_ranges: Vec<_> = ranges.iter().filter_map(|r| network(r)).map(|net| cidr(&net)).collect();
        let by_name = !names.is_empty();
        if !by_name && prefix_ranges.is_empty() {
            return Some(envoy::FilterChain { filters: vec![filter], ..Default::default() });
        }
        if free.is_empty() {
            return None;
        }
        self.taken.extend(free.iter().map(|name| (ranges.clone(), name.clone())));
        free.retain(|name| !name.is_empty());
        self.chains.push(envoy::FilterChain {
            filter_chain_match: Some(envoy::FilterChainMatch {
                prefix_ranges,
                transport_protocol: if by_name { "tls".to_owned() } else { String::new() },
                server_names: free,
                ..Default::default()
            }),
            filters: vec![filter],
            ..Default::default()
        });
        None
    }

    fn proxy_to_destinations(&mut self, to: &'a [RouteDestination], namespace: &str) -> envoy::Filter {
        let context = self.context();
        let chosen: Vec<&RouteDestination> = match to {
            [only] => vec![only],
            _ => to.iter().filter(|d| d.weight > 0).collect(),
        };
        let targets: Vec<_> = chosen.iter().map(|d| (context.target(&d.destination, namespace), d.weight)).collect();
        let policy = targets.first().map(|(t, _)| t.policy()).unwrap_or_default();
        let clusters = targets
            .iter()
            .map(|(t, weight)| TcpTarget { cluster: t.cluster(), weight: u32::try_from(*weight).unwrap_or(0).max(1) })
            .collect();
        tcp_proxy(clusters, &policy, self.log)
    }

    fn proxy_to_service(&mut self, service: &MeshService, port: &Port) -> envoy::Filter {
        self.origins.extend(service.origin.clone());
        let rule = self.view.rule_of(service);
        let policy = Policy::of(rule.map(|r| &r.spec), None, port.number).on(&service.service.distribution);
        let cluster = names::outbound_cluster(port.number, "", service.host());
        tcp_proxy(vec![TcpTarget { cluster, weight: 1 }], &policy, self.log)
    }

    /// Captured connections that nothing else takes.
    fn passthrough(&self) -> Option<envoy::FilterChain> {
        matches!(self.key.bind, Bind::Captured(_)).then(|| super::fixed::unknown(self.view, self.log))
    }
}

/// Sends bytes to clusters, under the policy of the first of them.
pub(in crate::translate) fn tcp_proxy(
    targets: Vec<TcpTarget>,
    policy: &Policy<'_>,
    log: Option<&AccessLog>,
) -> envoy::Filter {
    let tcp = policy.connection_pool.and_then(|p| p.tcp.as_ref());
    filters::tcp_proxy(Tcp {
        targets,
        access_log: log,
        idle_timeout: tcp.and_then(|t| t.idle_timeout).map(|t| t.0),
        max_duration: tcp.and_then(|t| t.max_connection_duration).map(|t| t.0),
        hash_source_ip: policy.hashes_source_ip(),
    })
}

/// A network, or a single address as one.
pub(in crate::translate) fn network(text: &str) -> Option<ipnet::IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(ipnet::IpNet::from))
}

// === impl ListenerKey ===

impl ListenerKey {
    /// Whether Envoy is to open a socket, where that is not its own choice.
    pub(super) fn bind_to_port(&self) -> Option<google::BoolValue> {
        if matches!(self.bind, Bind::Captured(_)) { bool_value(false) } else { None }
    }

    /// Where it listens, or where captured connections were going to.
    pub(super) fn address(&self) -> core::Address {
        match &self.bind {
            Bind::Captured(ip) | Bind::Ip(ip) => socket_address(*ip, self.port),
            Bind::Unix(path) => pipe(path),
        }
    }
}

/// The listener's name.
impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bind {
            Bind::Captured(ip) | Bind::Ip(ip) => write!(f, "{ip}_{}", self.port),
            Bind::Unix(path) => f.write_str(path),
        }
    }
}
