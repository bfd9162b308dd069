//! Listeners that no service needs to exist for: what receives captured connections, and the HTTP proxies that clients dial.

use std::net::{IpAddr, Ipv4Addr};

use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::listener::v3 as envoy;

use super::super::filters::{self, AccessLog, Http, Routes, Side};
use super::super::wire::{bool_value, encode, socket_address, u32_value};
use super::super::{Draft, View, access_log, names, paths};
use super::egress;
use crate::proxy::Interception;
use crate::resources::ResourceType;

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Where captured connections go that nothing else takes.
pub(super) fn unknown(view: &View<'_>, log: Option<&AccessLog>) -> envoy::FilterChain {
    let cluster = if view.allows_any() { names::PASSTHROUGH_CLUSTER } else { names::BLACK_HOLE_CLUSTER };
    envoy::FilterChain {
        name: "virtualOutbound-catchall-tcp".to_owned(),
        filters: vec![filters::tcp_to(cluster, log)],
        ..Default::default()
    }
}

/// All of them.
pub(super) fn fixed(view: &View<'_>) -> Vec<Draft> {
    let log = access_log(view.mesh);
    let mut drafts = Vec::new();
    if view.is_intercepted() {
        let port = view.mesh.settings.proxy_listen_port.unwrap_or(15001);
        let loops = envoy::FilterChain {
            name: "virtualOutbound-blackhole".to_owned(),
            filter_chain_match: Some(envoy::FilterChainMatch {
                destination_port: u32_value(port.into()),
                ..Default::default()
            }),
            filters: vec![filters::tcp_to(names::BLACK_HOLE_CLUSTER, None)],
            ..Default::default()
        };
        let made = envoy::Listener {
            name: names::VIRTUAL_OUTBOUND.to_owned(),
            address: Some(socket_address(ANY, port)),
            use_original_dst: bool_value(true),
            filter_chains: vec![loops, unknown(view, log.as_ref())],
            transparent: if view.shape.interception == Interception::Tproxy { bool_value(true) } else { None },
            traffic_direction: core::TrafficDirection::Outbound as i32,
            ..Default::default()
        };
        drafts.push(Draft::new(ResourceType::Listener, names::VIRTUAL_OUTBOUND, encode(&made), Vec::new()));
    }
    // A Sidecar resource has the last word about an address that the proxy's own settings name as well.
    for (key, table) in egress::http_proxies(view) {
        let name = key.to_string();
        if drafts.iter().any(|draft: &Draft| *draft.name == *name) {
            continue;
        }
        let http = Http {
            side: Side::Outbound,
            stat_prefix: format!("outbound_{name}"),
            routes: Routes::Named(table.to_string()),
            grpc_web: false,
            http10: false,
            trusted_hops: 0,
            access_log: log.as_ref(),
            paths: paths(view.mesh),
        };
        let made = envoy::Listener {
            name: name.clone(),
            address: Some(key.address()),
            bind_to_port: key.bind_to_port(),
            filter_chains: vec![envoy::FilterChain {
                filters: vec![filters::http_connection_manager(http)],
                ..Default::default()
            }],
            traffic_direction: core::TrafficDirection::Outbound as i32,
            ..Default::default()
        };
        let declared = *table != *names::HTTP_PROXY_ROUTE;
        let sidecar = view.scope.sidecar.as_ref().filter(|_| declared).map(|s| s.meta.source.clone());
        drafts.push(Draft::new(ResourceType::Listener, name, encode(&made), sidecar.into_iter().collect()));
    }
    drafts
}
