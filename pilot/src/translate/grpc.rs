//! gRPC programs that are their own proxies: the subset of xDS that gRPC's libraries read.
//!
//! A client asks for the listener of the `host:port` that it dials, then for its route table, clusters and endpoints, each by name. A
//! server asks for the listener of each of its own addresses. Everything is plain text: identities are not issued yet.

use std::net::SocketAddr;

use xebec_galley::SourceRef;
use xebec_galley::spec::ConnectionPoolSettings;
use xebec_proto::envoy::config::cluster::v3 as cluster;
use xebec_proto::envoy::config::cluster::v3::cluster as parts;
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::listener::v3 as listener;
use xebec_proto::envoy::config::route::v3 as route;
use xebec_proto::google::protobuf::UInt64Value;

use super::filters::{self, Routes};
use super::outbound::Part;
use super::route::{Context, everything, of_rule, to_service};
use super::wire::{ads, any, duration, encode, socket_address, u32_value};
use super::{Draft, View, cluster_defaults, names};
use crate::mesh::{MESH_GATEWAY, MeshService};
use crate::model::{Address, Port, Protocol};
use crate::proxy::InboundShape;
use crate::resources::ResourceType;

/// The listeners and route tables with which gRPC clients of this shape call a service, one per port.
pub fn service_resources(view: &View<'_>, service: &MeshService) -> Vec<Draft> {
    service.service.ports.iter().filter(|p| carries_requests(p)).flat_map(|port| client(view, service, port)).collect()
}

/// A cluster as gRPC's libraries read it. `None` for a port that carries no requests.
pub(super) fn cluster(view: &View<'_>, part: &Part<'_>) -> Option<Draft> {
    if !carries_requests(part.port) {
        return None;
    }
    let mut made = cluster::Cluster {
        name: part.name.clone(),
        connect_timeout: Some(duration(cluster_defaults(view.mesh).connect_timeout)),
        cluster_discovery_type: Some(parts::ClusterDiscoveryType::Type(parts::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(parts::EdsClusterConfig {
            eds_config: Some(plain_ads()),
            service_name: part.name.clone(),
        }),
        circuit_breakers: most_requests(part.policy.connection_pool),
        ..Default::default()
    };
    if let Some(hash) = part.policy.load_balancer.and_then(|lb| lb.consistent_hash.as_ref()) {
        let size = hash.ring_hash.as_ref().and_then(|r| r.minimum_ring_size).or(hash.minimum_ring_size);
        made.lb_policy = parts::LbPolicy::RingHash as i32;
        made.lb_config = Some(parts::LbConfig::RingHashLbConfig(parts::RingHashLbConfig {
            minimum_ring_size: Some(UInt64Value { value: size.filter(|s| *s > 0).unwrap_or(1024) }),
            ..Default::default()
        }));
    }
    Some(Draft::new(ResourceType::Cluster, part.name.as_str(), encode(&made), part.origins()))
}

/// The listeners of a gRPC server, one for each address on which it serves.
pub fn inbound(shape: &InboundShape) -> Vec<Draft> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for instance in &shape.instances {
        let Address::Ip(ip) = instance.endpoint.address else { continue };
        let ports = instance.service.ports.iter().filter(|p| carries_requests(p) && instance.endpoint.serves(p));
        for port in ports {
            let address = SocketAddr::new(ip, instance.endpoint.port(port));
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses.into_iter().map(server).collect()
}

fn client(view: &View<'_>, service: &MeshService, port: &Port) -> [Draft; 2] {
    let table = names::outbound_cluster(port.number, "", service.host());
    let context = Context { view: *view, gateway: MESH_GATEWAY.into(), port: port.number, grpc: true };
    let mut origins: Vec<SourceRef> = Vec::new();
    let rules = view.mesh.virtual_services_for(service.host(), MESH_GATEWAY, view.scope);
    let routed = rules.into_iter().find_map(|rule| {
        let routes = of_rule(&context, rule);
        (!routes.is_empty()).then_some((routes, rule))
    });
    let routes = match routed {
        Some((routes, rule)) => {
            origins.push(rule.resource.meta.source.clone());
            routes
        }
        None => vec![to_service(&context, service, port)],
    };
    let name = format!("{}:{}", service.host(), port.number);
    let routes = route::RouteConfiguration {
        name: table.clone(),
        virtual_hosts: vec![route::VirtualHost {
            name: name.clone(),
            domains: vec!["*".to_owned()],
            routes,
            ..Default::default()
        }],
        ..Default::default()
    };
    let manager = filters::grpc_connection_manager(Routes::Named(table.clone()), true);
    let made = listener::Listener {
        name: name.clone(),
        api_listener: Some(listener::ApiListener { api_listener: Some(any(&manager)) }),
        ..Default::default()
    };
    [
        Draft::new(ResourceType::Listener, name, encode(&made), service.origin.iter().cloned().collect()),
        Draft::new(ResourceType::Route, table, encode(&routes), origins),
    ]
}

fn server(address: SocketAddr) -> Draft {
    let name = format!("{}{address}", names::GRPC_INBOUND_PREFIX);
    let table = route::RouteConfiguration {
        name: names::inbound_cluster(address.port()),
        virtual_hosts: vec![route::VirtualHost {
            name: format!("inbound|http|{}", address.port()),
            domains: vec!["*".to_owned()],
            routes: vec![route::Route {
                r#match: Some(everything()),
                action: Some(route::route::Action::NonForwardingAction(route::NonForwardingAction {})),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let made = listener::Listener {
        name: name.clone(),
        address: Some(socket_address(address.ip(), address.port())),
        filter_chains: vec![listener::FilterChain {
            name: names::inbound_cluster(address.port()),
            filters: vec![filters::grpc_server_filter(Routes::Inline(Box::new(table)))],
            ..Default::default()
        }],
        traffic_direction: core::TrafficDirection::Inbound as i32,
        ..Default::default()
    };
    Draft::new(ResourceType::Listener, name, encode(&made), Vec::new())
}

fn carries_requests(port: &Port) -> bool {
    port.protocol.is_http() || port.protocol == Protocol::Auto
}

fn plain_ads() -> core::ConfigSource {
    core::ConfigSource { initial_fetch_timeout: None, ..ads() }
}

/// The one limit that gRPC's libraries know.
fn most_requests(pool: Option<&ConnectionPoolSettings>) -> Option<cluster::CircuitBreakers> {
    let most = pool?.http.as_ref()?.http2_max_requests.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)?;
    Some(cluster::CircuitBreakers {
        thresholds: vec![cluster::circuit_breakers::Thresholds { max_requests: u32_value(most), ..Default::default() }],
        per_host_thresholds: Vec::new(),
    })
}
