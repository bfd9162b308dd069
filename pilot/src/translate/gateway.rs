//! What a gateway proxy listens on, and where it sends requests from outside of the mesh.
//!
//! Servers of all Gateways that select the proxy are merged by port: plain HTTP shares a route table (`http.PORT`), TLS that is passed
//! through is told apart by server name. VirtualServices of one host are merged, the oldest first, with routes that match everything at
//! the end. The clusters of a gateway are those of every service that it sees: see [`outbound::service_resources`](super::outbound).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use xebec_galley::spec::{Gateway, RouteDestination, Server, ServerTlsMode};
use xebec_galley::{Resource, SourceRef};
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::listener::v3 as listener;
use xebec_proto::envoy::config::route::v3 as route;

use super::filters::{self, AccessLog, Http, Routes, Side, TcpTarget};
use super::outbound::{LONGEST_BODY, network, tcp_proxy};
use super::route::{Context, answer, is_catch_all, of_rule};
use super::wire::{bool_value, cidr, encode, pipe, socket_address, u32_value};
use super::{Draft, Note, View, access_log, names, paths};
use crate::mesh::MeshVirtualService;
use crate::mesh::names as hosts;
use crate::model::Protocol;
use crate::proxy::ProxyKind;
use crate::resources::ResourceType;

/// One server of one Gateway, as it concerns this proxy.
#[derive(Clone, Copy)]
struct Member<'a> {
    gateway: &'a Arc<Resource<Gateway>>,
    server: &'a Server,
}

/// What a server does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serving {
    Http,
    Tcp,
    /// TLS that is not terminated, by server name.
    PassedThrough,
    /// TLS that would have to be terminated: certificates are not served yet.
    Unsupported,
}

/// The listeners and route tables of the gateway.
pub fn resources(view: &View<'_>) -> Vec<Draft> {
    translate(view).0
}

/// What was written for this gateway and is not done.
pub fn notes(view: &View<'_>) -> Vec<Note> {
    translate(view).1
}

fn translate(view: &View<'_>) -> (Vec<Draft>, Vec<Note>) {
    let (mut drafts, mut notes) = (Vec::new(), Vec::new());
    if view.shape.kind != ProxyKind::Router {
        return (drafts, notes);
    }
    let log = access_log(view.mesh);
    let mut places: BTreeMap<(&str, u16), Vec<Member<'_>>> = BTreeMap::new();
    for gateway in view.mesh.gateways_for(view.namespace(), view.labels()) {
        for server in &gateway.spec.servers {
            let number = view.shape.ports.get(&server.port.number).copied().unwrap_or(server.port.number);
            places.entry((server.bind.as_str(), number)).or_default().push(Member { gateway, server });
        }
    }
    for ((bind, number), members) in places {
        let (supported, refused): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|m| m.serving() != Serving::Unsupported);
        notes.extend(refused.iter().map(|m| {
            m.note("its TLS is not terminated yet, so the server is left out; use PASSTHROUGH, or plain HTTP")
        }));
        let Some(first) = supported.first().map(Member::serving) else { continue };
        let (same, other): (Vec<_>, Vec<_>) = supported.into_iter().partition(|m| m.serving() == first);
        notes.extend(other.iter().map(|m| {
            m.note("an older server has this port with another protocol, so the server is left out; use another port")
        }));
        let place = Place { view, bind, number, log: log.as_ref(), members: &same };
        match first {
            Serving::Http => drafts.extend(place.http()),
            Serving::Tcp => match place.tcp() {
                Some(draft) => drafts.push(draft),
                None => notes.extend(same.iter().map(|m| m.note("no VirtualService has a `tcp` route for it"))),
            },
            Serving::PassedThrough => match place.passed_through() {
                Some(draft) => drafts.push(draft),
                None => notes.extend(same.iter().map(|m| m.note("no VirtualService has a `tls` route for it"))),
            },
            Serving::Unsupported => {}
        }
    }
    (drafts, notes)
}

/// A port of the proxy, and the servers that are on it.
struct Place<'a, 'v> {
    view: &'v View<'a>,
    bind: &'v str,
    number: u16,
    log: Option<&'v AccessLog>,
    members: &'v [Member<'a>],
}

/// The routes of one host, from all VirtualServices that have it.
#[derive(Default)]
struct Merged {
    routes: Vec<route::Route>,
    last: Option<route::Route>,
    https_only: bool,
}

// === impl Place ===

impl<'a> Place<'a, '_> {
    /// The route table and the listener of plain HTTP.
    fn http(&self) -> [Draft; 2] {
        let mut merged: BTreeMap<String, Merged> = BTreeMap::new();
        let mut origins: Vec<SourceRef> = Vec::new();
        for member in self.members {
            origins.push(member.gateway.meta.source.clone());
            let https_only = member.server.tls.as_ref().is_some_and(|t| t.https_redirect);
            if https_only {
                for written in &member.server.hosts {
                    merged.entry(server_host(written).1.to_owned()).or_default().https_only = true;
                }
            }
            let context = member.context(self.view);
            for rule in self.rules(member) {
                let common = self.common_hosts(member, rule);
                if common.is_empty() {
                    continue;
                }
                let routes = of_rule(&context, rule);
                if routes.is_empty() {
                    continue;
                }
                origins.push(rule.resource.meta.source.clone());
                for host in common {
                    let entry = merged.entry(host).or_default();
                    entry.https_only |= https_only;
                    for route in &routes {
                        if !route.r#match.as_ref().is_some_and(is_catch_all) {
                            entry.routes.push(route.clone());
                        } else if entry.last.is_none() {
                            entry.last = Some(route.clone());
                        }
                    }
                }
            }
        }
        let port = self.members.first().map_or(self.number, |m| m.server.port.number);
        let mut virtual_hosts: Vec<route::VirtualHost> = merged
            .into_iter()
            .map(|(host, Merged { mut routes, last, https_only })| {
                routes.extend(last);
                route::VirtualHost {
                    name: format!("{host}:{port}"),
                    domains: vec![host],
                    routes,
                    require_tls: if https_only {
                        route::virtual_host::TlsRequirementType::All as i32
                    } else {
                        route::virtual_host::TlsRequirementType::None as i32
                    },
                    include_request_attempt_count: true,
                    ..Default::default()
                }
            })
            .collect();
        if virtual_hosts.is_empty() {
            virtual_hosts.push(route::VirtualHost {
                name: format!("blackhole:{port}"),
                domains: vec!["*".to_owned()],
                routes: vec![answer("blackhole", 404)],
                ..Default::default()
            });
        }
        let name = match self.bind {
            "" => format!("http.{port}"),
            bind => format!("http.{port}.{bind}"),
        };
        let table = route::RouteConfiguration {
            name: name.clone(),
            virtual_hosts,
            validate_clusters: bool_value(false),
            max_direct_response_body_size_bytes: u32_value(LONGEST_BODY),
            ignore_port_in_host_matching: true,
            ..Default::default()
        };
        let grpc_web = self.members.iter().any(|m| Protocol::parse(&m.server.port.protocol) == Some(Protocol::GrpcWeb));
        let manager = filters::http_connection_manager(Http {
            side: Side::Gateway,
            stat_prefix: format!("outbound_{}", self.name()),
            routes: Routes::Named(name.clone()),
            grpc_web,
            http10: false,
            trusted_hops: 0,
            access_log: self.log,
            paths: paths(self.view.mesh),
        });
        let listener = self.listener(vec![listener::FilterChain { filters: vec![manager], ..Default::default() }]);
        [
            Draft::new(ResourceType::Route, name, encode(&table), origins),
            Draft::new(ResourceType::Listener, self.name(), encode(&listener), self.gateways()),
        ]
    }

    /// The listener of opaque bytes: the first route that is for this port has them all.
    fn tcp(&self) -> Option<Draft> {
        let mut chains: Vec<listener::FilterChain> = Vec::new();
        let mut origins = self.gateways();
        for member in self.members {
            let context = member.context(self.view);
            for rule in self.rules(member) {
                if self.common_hosts(member, rule).is_empty() {
                    continue;
                }
                for tcp in &rule.resource.spec.tcp {
                    let subnets: Vec<&[String]> = if tcp.matches.is_empty() {
                        vec![&[]]
                    } else {
                        tcp.matches
                            .iter()
                            .filter(|m| m.port.is_none_or(|p| p == context.port))
                            .filter(|m| {
                                context.source_fits(
                                    &m.gateways,
                                    &m.source_labels,
                                    &m.source_namespace,
                                    rule.namespace(),
                                )
                            })
                            .map(|m| &*m.destination_subnets)
                            .collect()
                    };
                    for subnet in subnets {
                        let ranges: Vec<_> = subnet.iter().filter_map(|s| network(s)).map(|n| cidr(&n)).collect();
                        let condition = (!ranges.is_empty())
                            .then(|| listener::FilterChainMatch { prefix_ranges: ranges, ..Default::default() });
                        // Envoy refuses two chains with one condition; the first written counts.
                        if chains.iter().all(|c| c.filter_chain_match != condition) {
                            origins.push(rule.resource.meta.source.clone());
                            chains.push(listener::FilterChain {
                                filter_chain_match: condition,
                                filters: vec![self.to_destinations(&context, &tcp.route, rule.namespace())],
                                ..Default::default()
                            });
                        }
                    }
                }
            }
        }
        (!chains.is_empty())
            .then(|| Draft::new(ResourceType::Listener, self.name(), encode(&self.listener(chains)), origins))
    }

    /// The listener of TLS that is passed through, by server name.
    fn passed_through(&self) -> Option<Draft> {
        let mut chains: Vec<listener::FilterChain> = Vec::new();
        let mut taken: Vec<String> = Vec::new();
        let mut origins = self.gateways();
        for member in self.members {
            let context = member.context(self.view);
            for rule in self.rules(member) {
                for tls in &rule.resource.spec.tls {
                    for m in &tls.matches {
                        let fits = m.port.is_none_or(|p| p == context.port)
                            && context.source_fits(
                                &m.gateways,
                                &m.source_labels,
                                &m.source_namespace,
                                rule.namespace(),
                            );
                        if !fits {
                            continue;
                        }
                        let names: Vec<String> = m
                            .sni_hosts
                            .iter()
                            .filter_map(|sni| member.common_host(sni, rule.namespace()))
                            .filter(|name| !taken.contains(name))
                            .collect();
                        if names.is_empty() {
                            continue;
                        }
                        taken.extend(names.iter().cloned());
                        origins.push(rule.resource.meta.source.clone());
                        chains.push(listener::FilterChain {
                            filter_chain_match: Some(listener::FilterChainMatch {
                                transport_protocol: "tls".to_owned(),
                                server_names: if names.iter().any(|n| n == "*") { Vec::new() } else { names },
                                ..Default::default()
                            }),
                            filters: vec![self.to_destinations(&context, &tls.route, rule.namespace())],
                            ..Default::default()
                        });
                    }
                }
            }
        }
        let made = listener::Listener { listener_filters: vec![filters::tls_inspector()], ..self.listener(chains) };
        (!made.filter_chains.is_empty())
            .then(|| Draft::new(ResourceType::Listener, self.name(), encode(&made), origins))
    }

    /// The VirtualServices of the server's Gateway that this proxy may see, the oldest first.
    fn rules(&self, member: &Member<'a>) -> Vec<&'a MeshVirtualService> {
        let name = member.name();
        let rules = self.view.mesh.virtual_services_of_gateway(&name);
        rules.map(|rule| &**rule).filter(|rule| self.view.scope.sees(&rule.visibility)).collect()
    }

    /// The hosts that both the server and the rule have.
    fn common_hosts(&self, member: &Member<'_>, rule: &MeshVirtualService) -> Vec<String> {
        let mut common = Vec::new();
        for host in &rule.hosts {
            let name = self.view.mesh.resolve_rule_host(host, self.view.scope);
            for name in [Some(name), (name != &*host.written).then_some(&*host.written)].into_iter().flatten() {
                if let Some(host) = member.common_host(name, rule.namespace())
                    && !common.contains(&host)
                {
                    common.push(host);
                }
            }
        }
        common
    }

    fn to_destinations(&self, context: &Context<'a>, to: &'a [RouteDestination], namespace: &str) -> listener::Filter {
        let only = to.len() == 1;
        let targets: Vec<_> = to
            .iter()
            .filter(|d| only || d.weight > 0)
            .map(|d| (context.target(&d.destination, namespace), d.weight))
            .collect();
        let policy = targets.first().map(|(t, _)| t.policy()).unwrap_or_default();
        let clusters = targets
            .iter()
            .map(|(t, weight)| TcpTarget { cluster: t.cluster(), weight: u32::try_from(*weight).unwrap_or(0).max(1) })
            .collect();
        tcp_proxy(clusters, &policy, self.log)
    }

    fn listener(&self, filter_chains: Vec<listener::FilterChain>) -> listener::Listener {
        listener::Listener {
            name: self.name(),
            address: Some(match self.bind.strip_prefix("unix://") {
                Some(path) => pipe(path),
                None => socket_address(self.ip(), self.number),
            }),
            filter_chains,
            traffic_direction: core::TrafficDirection::Outbound as i32,
            ..Default::default()
        }
    }

    fn name(&self) -> String {
        match self.bind.strip_prefix("unix://") {
            Some(path) => path.to_owned(),
            None => names::listener(self.ip(), self.number),
        }
    }

    fn ip(&self) -> IpAddr {
        self.bind.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    fn gateways(&self) -> Vec<SourceRef> {
        self.members.iter().map(|m| m.gateway.meta.source.clone()).collect()
    }
}

/// `namespace/host` of a server: whose VirtualServices may have it, and the host. No namespace is any.
fn server_host(written: &str) -> (&str, &str) {
    written.split_once('/').unwrap_or(("*", written))
}

// === impl Member ===

impl<'a> Member<'a> {
    fn serving(&self) -> Serving {
        let protocol = Protocol::parse(&self.server.port.protocol).unwrap_or(Protocol::Tcp);
        let tls = self.server.tls.as_ref();
        match protocol {
            p if p.is_http() => Serving::Http,
            p if p.is_tls() => match tls.map(|t| t.mode) {
                Some(ServerTlsMode::Passthrough) => Serving::PassedThrough,
                _ => Serving::Unsupported,
            },
            // TLS around bytes.
            _ if tls.is_some_and(|t| t.mode != ServerTlsMode::Passthrough) => Serving::Unsupported,
            _ => Serving::Tcp,
        }
    }

    fn name(&self) -> String {
        let key = &self.gateway.meta.key;
        format!("{}/{}", key.namespace, key.name)
    }

    fn context(&self, view: &View<'a>) -> Context<'a> {
        Context { view: *view, gateway: self.name().into(), port: self.server.port.number, grpc: false }
    }

    /// The narrower of a rule's host and one of the server's, if one contains the other and the rule's namespace may have it.
    fn common_host(&self, host: &str, namespace: &str) -> Option<String> {
        let own = &*self.gateway.meta.key.namespace;
        self.server.hosts.iter().find_map(|written| {
            let (from, served) = server_host(written);
            let allowed = match from {
                "*" => true,
                "." => namespace == own,
                other => namespace == other,
            };
            let served = hosts::lower(served);
            if !allowed {
                None
            } else if hosts::matches(&served, host) {
                Some(host.to_owned())
            } else if hosts::matches(host, &served) {
                Some(served.into_owned())
            } else {
                None
            }
        })
    }

    fn note(&self, text: &str) -> Note {
        let key = &self.gateway.meta.key;
        let port = &self.server.port;
        Note {
            origin: Some(self.gateway.meta.source.clone()),
            subject: format!(
                "Gateway {}/{} server {} ({} {})",
                key.namespace, key.name, port.name, port.protocol, port.number
            ),
            text: text.to_owned(),
        }
    }
}
