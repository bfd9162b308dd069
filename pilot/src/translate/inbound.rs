//! What a workload's proxy needs to receive calls for it.
//!
//! Captured connections all arrive at `virtualInbound`, which has a filter chain per port. Without interception each endpoint has a
//! listener on its own address and port, and forwards to where the application says that it listens. Listeners of a Sidecar
//! resource take the place of those of services. Everything is plain text: identities are not issued yet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use xebec_galley::SourceRef;
use xebec_galley::spec::{ConnectionPoolSettings, IstioIngressListener, MeshInboundTrafficPolicyMode};
use xebec_proto::envoy::config::cluster::v3::Cluster;
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::listener::v3 as listener;
use xebec_proto::envoy::config::route::v3 as route;

use super::cluster::{self, Discovery, one_address};
use super::filters::{self, AccessLog, Http, Routes, Side};
use super::policy::Policy;
use super::route::everything;
use super::wire::{bool_value, duration, encode, pipe, socket_address, u32_value};
use super::{Draft, access_log, cluster_defaults, names, paths, protocol_of};
use crate::mesh::{Mesh, MeshDestinationRule, Scope};
use crate::model::{Address, Protocol};
use crate::proxy::{InboundShape, Interception, ProxyKind};
use crate::resources::ResourceType;

/// From here the proxy dials the application, so that the connection is not captured again.
const OWN_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Where the application takes what the proxy received.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Application {
    /// Where the client meant to go.
    Original,
    /// An address of its own.
    At(SocketAddr),
    /// A Unix domain socket.
    Socket(String),
}

/// One port on which the workload is called.
struct Port<'a> {
    /// The address to listen on, without interception.
    bind: IpAddr,
    /// The workload's port.
    number: u16,
    protocol: Protocol,
    application: Application,
    /// The service's host and port, for the names of traces.
    operation: String,
    limits: Option<&'a ConnectionPoolSettings>,
    origins: Vec<SourceRef>,
}

/// The listeners and clusters for calls to the workload of this shape.
pub fn resources(mesh: &Mesh, shape: &InboundShape) -> Vec<Draft> {
    if shape.kind != ProxyKind::Sidecar {
        return Vec::new();
    }
    let log = access_log(mesh);
    let ports = ports(mesh, shape);
    let mut drafts = Vec::new();
    let mut named = BTreeSet::new();
    for port in &ports {
        let name = names::inbound_cluster(port.number);
        if named.insert(port.number) {
            let made = application_cluster(mesh, port, &name);
            drafts.push(Draft::new(ResourceType::Cluster, name, encode(&made), port.origins.clone()));
        }
        if shape.interception == Interception::None {
            drafts.push(own_listener(mesh, port, log.as_ref()));
        }
    }
    if shape.interception != Interception::None {
        let name = names::INBOUND_PASSTHROUGH_CLUSTER;
        let made = bound(cluster::passthrough(name, cluster_defaults(mesh)));
        drafts.push(Draft::new(ResourceType::Cluster, name, encode(&made), Vec::new()));
        drafts.push(virtual_inbound(mesh, shape, &ports, log.as_ref()));
    }
    drafts
}

/// The ports on which the workload is called, each address and port once.
fn ports<'a>(mesh: &'a Mesh, shape: &'a InboundShape) -> Vec<Port<'a>> {
    let sidecar = shape.sidecar.as_ref().and_then(|key| mesh.sidecar(key));
    let limits = sidecar.and_then(|s| s.spec.inbound_connection_pool.as_ref());
    let mut found: Vec<Port<'a>> = Vec::new();
    let captured = shape.interception != Interception::None;
    let mut add = |port: Port<'a>| {
        let same = |p: &Port<'_>| p.number == port.number && (captured || p.bind == port.bind);
        if !found.iter().any(same) {
            found.push(port);
        }
    };
    if let Some(sidecar) = sidecar.filter(|s| !s.spec.ingress.is_empty()) {
        for ingress in &sidecar.spec.ingress {
            let Some(port) = declared(ingress, shape) else { continue };
            add(Port {
                limits: ingress.connection_pool.as_ref().or(limits),
                origins: vec![sidecar.meta.source.clone()],
                ..port
            });
        }
        return found;
    }
    let localhost = mesh
        .settings
        .inbound_traffic_policy
        .as_ref()
        .is_some_and(|p| p.mode == MeshInboundTrafficPolicyMode::Localhost);
    // As a DestinationRule limits what others send here, so it limits what is passed on.
    let scope = Scope::namespace(&shape.namespace);
    let rule_of = |service| mesh.destination_rule_for(service, &scope).map(|rule| &**rule);
    for instance in &shape.instances {
        let Address::Ip(bind) = instance.endpoint.address else { continue };
        let rule: Option<&MeshDestinationRule> = rule_of(&instance.service);
        let served = |p: &&crate::model::Port| p.protocol != Protocol::Udp && instance.endpoint.serves(p);
        for port in instance.service.ports.iter().filter(served) {
            let number = instance.endpoint.port(port);
            let application = match instance.endpoint.app.get(&port.name) {
                Some(address) => Application::At(*address),
                // The proxy would call itself.
                None if !captured => continue,
                None if localhost => Application::At(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), number)),
                None => Application::Original,
            };
            let policy = Policy::of(rule.map(|r| &r.spec), None, port.number);
            let ruled = rule.filter(|_| limits.is_none() && policy.connection_pool.is_some());
            add(Port {
                bind,
                number,
                protocol: protocol_of(port),
                application,
                operation: format!("{}:{}", instance.service.key.hostname, port.number),
                limits: limits.or(policy.connection_pool),
                origins: ruled.map(|r| r.origins.clone()).unwrap_or_default(),
            });
        }
    }
    found
}

/// A listener of a Sidecar resource. `None` for one without a place to forward to.
fn declared<'a>(ingress: &IstioIngressListener, shape: &InboundShape) -> Option<Port<'a>> {
    let number = ingress.port.number;
    let own = shape.ips.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let bind = ingress.bind.parse().unwrap_or(own);
    let application = if let Some(path) = ingress.default_endpoint.strip_prefix("unix://") {
        Application::Socket(path.to_owned())
    } else if let Ok(address) = ingress.default_endpoint.parse::<SocketAddr>() {
        // `0.0.0.0` and `[::]` are the workload's own address.
        let ip = if address.ip().is_unspecified() { own } else { address.ip() };
        Application::At(SocketAddr::new(ip, address.port()))
    } else if shape.interception != Interception::None {
        Application::Original
    } else {
        return None;
    };
    Some(Port {
        bind,
        number,
        protocol: Protocol::parse(&ingress.port.protocol).unwrap_or(Protocol::Auto),
        application,
        operation: format!("{}:{number}", shape.namespace),
        limits: None,
        origins: Vec::new(),
    })
}

fn application_cluster(mesh: &Mesh, port: &Port<'_>, name: &str) -> Cluster {
    let discovery = match &port.application {
        Application::Original => Discovery::OriginalDst,
        Application::At(address) => Discovery::Static(one_address(name, socket_address(address.ip(), address.port()))),
        Application::Socket(path) => Discovery::Static(one_address(name, pipe(path))),
    };
    let made = cluster::inbound(name.to_owned(), port.protocol, port.limits, discovery, cluster_defaults(mesh));
    if port.application == Application::Original { bound(made) } else { made }
}

fn bound(mut made: Cluster) -> Cluster {
    made.upstream_bind_config = Some(core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: OWN_SOURCE.to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        }),
        ..Default::default()
    });
    made
}

/// A listener of one endpoint, which opens a socket for itself.
fn own_listener(mesh: &Mesh, port: &Port<'_>, log: Option<&AccessLog>) -> Draft {
    let name = names::listener(port.bind, port.number);
    let chains = chains(mesh, port, &name, log, None);
    let made = assemble(mesh, name.clone(), socket_address(port.bind, port.number), chains);
    Draft::new(ResourceType::Listener, name, encode(&made), port.origins.clone())
}

/// The listener that receives all captured calls.
fn virtual_inbound(mesh: &Mesh, shape: &InboundShape, ports: &[Port<'_>], log: Option<&AccessLog>) -> Draft {
    let number = mesh.settings.proxy_inbound_listen_port.unwrap_or(15006);
    let mut all = vec![chain(
        "virtualInbound-blackhole",
        Some(listener::FilterChainMatch { destination_port: u32_value(number.into()), ..Default::default() }),
        filters::tcp_to(names::BLACK_HOLE_CLUSTER, None),
    )];
    for port in ports {
        all.extend(chains(mesh, port, &names::listener(ANY, port.number), log, Some(port.number)));
    }
    let cluster = names::INBOUND_PASSTHROUGH_CLUSTER;
    let catch_all = listener::FilterChainMatch {
        transport_protocol: "raw_buffer".to_owned(),
        application_protocols: filters::sniffed_http(),
        ..Default::default()
    };
    let table = table_to(cluster, cluster, "passthrough", Protocol::Auto);
    let http = connection_manager(mesh, names::VIRTUAL_INBOUND, table, log);
    all.push(chain("virtualInbound-catchall-http", Some(catch_all), http));
    all.push(chain(names::VIRTUAL_INBOUND, None, filters::tcp_to(cluster, log)));
    let made = assemble(mesh, names::VIRTUAL_INBOUND.to_owned(), socket_address(ANY, number), all);
    let made = listener::Listener {
        listener_filters: std::iter::once(filters::original_dst()).chain(made.listener_filters).collect(),
        transparent: if shape.interception == Interception::Tproxy { bool_value(true) } else { None },
        ..made
    };
    let origins = ports.iter().flat_map(|p| p.origins.iter().cloned()).collect();
    Draft::new(ResourceType::Listener, names::VIRTUAL_INBOUND, encode(&made), origins)
}

fn assemble(
    mesh: &Mesh,
    name: String,
    address: core::Address,
    filter_chains: Vec<listener::FilterChain>,
) -> listener::Listener {
    let sniffs = filter_chains
        .iter()
        .any(|c| c.filter_chain_match.as_ref().is_some_and(|m| !m.application_protocols.is_empty()));
    let detection = mesh.settings.protocol_detection_timeout.map_or(std::time::Duration::ZERO, |t| t.0);
    listener::Listener {
        name,
        address: Some(address),
        filter_chains,
        listener_filters: if sniffs { vec![filters::tls_inspector(), filters::http_inspector()] } else { Vec::new() },
        listener_filters_timeout: sniffs.then(|| duration(detection)),
        continue_on_listener_filters_timeout: sniffs,
        traffic_direction: core::TrafficDirection::Inbound as i32,
        ..Default::default()
    }
}

/// The filter chains of one port: one when its protocol is declared, two when the first bytes decide.
fn chains(
    mesh: &Mesh,
    port: &Port<'_>,
    name: &str,
    log: Option<&AccessLog>,
    destination_port: Option<u16>,
) -> Vec<listener::FilterChain> {
    let cluster = names::inbound_cluster(port.number);
    let on_port = destination_port
        .map(|number| listener::FilterChainMatch { destination_port: u32_value(number.into()), ..Default::default() });
    let table = table_to(&cluster, &cluster, &port.operation, port.protocol);
    let http = || connection_manager(mesh, name, table, log);
    match port.protocol {
        Protocol::Auto => {
            let sniffed = listener::FilterChainMatch {
                transport_protocol: "raw_buffer".to_owned(),
                application_protocols: filters::sniffed_http(),
                ..on_port.clone().unwrap_or_default()
            };
            vec![chain(name, Some(sniffed), http()), chain(name, on_port, filters::tcp_to(&cluster, log))]
        }
        p if p.is_http() => vec![chain(name, on_port, http())],
        _ => vec![chain(name, on_port, filters::tcp_to(&cluster, log))],
    }
}

fn chain(
    name: &str,
    filter_chain_match: Option<listener::FilterChainMatch>,
    filter: listener::Filter,
) -> listener::FilterChain {
    listener::FilterChain { name: name.to_owned(), filter_chain_match, filters: vec![filter], ..Default::default() }
}

fn connection_manager(
    mesh: &Mesh,
    listener: &str,
    table: route::RouteConfiguration,
    log: Option<&AccessLog>,
) -> listener::Filter {
    filters::http_connection_manager(Http {
        side: Side::Inbound,
        stat_prefix: format!("inbound_{listener}"),
        routes: Routes::Inline(Box::new(table)),
        grpc_web: false,
        http10: false,
        trusted_hops: 0,
        access_log: log,
        paths: paths(mesh),
    })
}

/// A route table that sends everything to the application.
fn table_to(name: &str, cluster: &str, operation: &str, protocol: Protocol) -> route::RouteConfiguration {
    use route::route_action::ClusterSpecifier;
    let port = cluster.split('|').nth(1).unwrap_or("passthrough");
    let action = route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        // The application may close an idle connection just when a request is sent on it. Clients of gRPC see to that themselves.
        retry_policy: (!matches!(protocol, Protocol::Grpc | Protocol::GrpcWeb)).then(|| route::RetryPolicy {
            retry_on: "reset-before-request".to_owned(),
            num_retries: u32_value(2),
            ..Default::default()
        }),
        ..super::route::unlimited()
    };
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".to_owned()],
            routes: vec![route::Route {
                name: "default".to_owned(),
                r#match: Some(everything()),
                decorator: Some(route::Decorator { operation: format!("{operation}/*"), propagate: None }),
                action: Some(route::route::Action::Route(action)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        validate_clusters: bool_value(false),
        ..Default::default()
    }
}
