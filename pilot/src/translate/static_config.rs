//! One complete configuration with everything in place: what a proxy would be told over xDS, as a bootstrap that needs no control plane.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use xebec_proto::any::{pack, unpack};
use xebec_proto::envoy::config::bootstrap::v3 as bootstrap;
use xebec_proto::envoy::config::cluster::v3 as cluster;
use xebec_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::endpoint::v3 as endpoint;
use xebec_proto::envoy::config::listener::v3 as listener;
use xebec_proto::envoy::config::route::v3 as route;
use xebec_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xebec_proto::prost::{DecodeError, Message};

use super::wire::socket_address;
use crate::resources::{Encoded, ResourceType, ShapeSnapshot};

/// A resource that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("{kind} resource {name:?} cannot be decoded: {source}; this is a bug of the translation, please report it")]
pub struct StaticError {
    kind: ResourceType,
    name: Arc<str>,
    source: DecodeError,
}

/// Puts everything that a proxy is served into one bootstrap: endpoints into clusters, route tables into listeners, virtual hosts into
/// route tables. `admin` is where the proxy's admin interface listens; keep it on loopback.
///
/// # Errors
/// [`StaticError`] when a resource does not decode, which no translated one does.
pub fn bootstrap(
    snapshot: &ShapeSnapshot,
    node: core::Node,
    admin: SocketAddr,
) -> Result<bootstrap::Bootstrap, StaticError> {
    let mut endpoints: BTreeMap<String, endpoint::ClusterLoadAssignment> = BTreeMap::new();
    for list in decoded::<endpoint::ClusterLoadAssignment>(snapshot, ResourceType::Endpoint) {
        let (_, list) = list?;
        endpoints.insert(list.cluster_name.clone(), list);
    }
    let mut tables: BTreeMap<String, route::RouteConfiguration> = BTreeMap::new();
    for table in decoded::<route::RouteConfiguration>(snapshot, ResourceType::Route) {
        let (_, table) = table?;
        tables.insert(table.name.clone(), route::RouteConfiguration { vhds: None, ..table });
    }
    for host in decoded::<route::VirtualHost>(snapshot, ResourceType::VirtualHost) {
        let (resource, host) = host?;
        let table = resource.name.split_once('/').and_then(|(table, _)| tables.get_mut(table));
        if let Some(table) = table.filter(|t| t.virtual_hosts.iter().all(|h| h.name != host.name)) {
            table.virtual_hosts.push(host);
        }
    }
    let mut clusters = Vec::new();
    for made in decoded::<cluster::Cluster>(snapshot, ResourceType::Cluster) {
        clusters.push(with_endpoints(made?.1, &mut endpoints));
    }
    let mut listeners = Vec::new();
    for made in decoded::<listener::Listener>(snapshot, ResourceType::Listener) {
        let (_, made) = made?;
        // Listeners of gRPC's libraries mean nothing to Envoy.
        if made.api_listener.is_none() {
            listeners.push(with_routes(made, &tables));
        }
    }
    Ok(bootstrap::Bootstrap {
        node: Some(node),
        static_resources: Some(bootstrap::bootstrap::StaticResources { listeners, clusters, secrets: Vec::new() }),
        admin: Some(bootstrap::Admin { address: Some(socket_address(admin.ip(), admin.port())), ..Default::default() }),
        ..Default::default()
    })
}

fn decoded<M: Message + Default>(
    snapshot: &ShapeSnapshot,
    kind: ResourceType,
) -> impl Iterator<Item = Result<(&Arc<Encoded>, M), StaticError>> {
    snapshot.set(kind).values().map(move |resource| {
        let message = M::decode(resource.body.clone()).map_err(|source| StaticError {
            kind,
            name: Arc::clone(&resource.name),
            source,
        })?;
        Ok((resource, message))
    })
}

fn with_endpoints(
    mut made: cluster::Cluster,
    endpoints: &mut BTreeMap<String, endpoint::ClusterLoadAssignment>,
) -> cluster::Cluster {
    if let Some(pushed) = made.eds_cluster_config.take() {
        let name = if pushed.service_name.is_empty() { &made.name } else { &pushed.service_name };
        let list = endpoints
            .remove(name)
            .unwrap_or_else(|| endpoint::ClusterLoadAssignment { cluster_name: name.clone(), ..Default::default() });
        made.load_assignment = Some(list);
        made.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
    }
    made
}

fn with_routes(
    mut made: listener::Listener,
    tables: &BTreeMap<String, route::RouteConfiguration>,
) -> listener::Listener {
    use hcm::http_connection_manager::RouteSpecifier;
    let chains = made.filter_chains.iter_mut().chain(&mut made.default_filter_chain);
    for filter in chains.flat_map(|chain| &mut chain.filters) {
        let Some(listener::filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else { continue };
        let Ok(mut manager) = unpack::<hcm::HttpConnectionManager>(config) else { continue };
        let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier else { continue };
        let table = tables
            .get(&rds.route_config_name)
            .cloned()
            .unwrap_or_else(|| route::RouteConfiguration { name: rds.route_config_name.clone(), ..Default::default() });
        manager.route_specifier = Some(RouteSpecifier::RouteConfig(table));
        *config = pack(&manager);
    }
    made
}
