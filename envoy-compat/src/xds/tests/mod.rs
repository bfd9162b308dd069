//! The store and the protocol without a network, then the client against a control plane in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
pub(crate) mod fake;
mod store;

use serde_json::{Value, json};
use xebec_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use xebec_proto::json as proto_json;

use super::Kind;

/// A resource of this type from its JSON.
pub(crate) fn resource(kind: Kind, name: &str, version: &str, body: Value) -> Resource {
    let mut typed = json!({ "@type": kind.type_url() });
    typed.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(proto_json::decode_any(typed).unwrap()),
        ..Resource::default()
    }
}

/// A response with these resources.
pub(crate) fn response(kind: Kind, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.type_url().into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        nonce: "n".into(),
        ..DeltaDiscoveryResponse::default()
    }
}

pub(crate) fn eds_cluster(name: &str, version: &str) -> Resource {
    resource(
        Kind::Cluster,
        name,
        version,
        json!({
            "name": name, "type": "EDS", "connect_timeout": "1s",
            "eds_cluster_config": { "eds_config": { "ads": {}, "initial_fetch_timeout": "0s" } },
        }),
    )
}

pub(crate) fn endpoints(name: &str, version: &str, ports: &[u16]) -> Resource {
    let list: Vec<Value> = ports
        .iter()
        .map(|port| json!({ "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } } } }))
        .collect();
    resource(Kind::Endpoint, name, version, json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": list }] }))
}

pub(crate) fn host(name: &str, domain: &str, cluster: &str) -> Value {
    json!({ "name": name, "domains": [domain], "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster } }] })
}

pub(crate) fn table(name: &str, version: &str, hosts: &[Value], discover: bool) -> Resource {
    let mut body = json!({ "name": name, "virtual_hosts": hosts });
    if discover {
        body["vhds"] = json!({ "config_source": { "ads": {}, "initial_fetch_timeout": "0s" } });
    }
    resource(Kind::Route, name, version, body)
}

pub(crate) fn http_listener(name: &str, version: &str, port: u16, routes: &str) -> Resource {
    resource(
        Kind::Listener,
        name,
        version,
        json!({
            "name": name,
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": name,
                    "rds": { "config_source": { "ads": {} }, "route_config_name": routes },
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                    }],
                },
            }] }],
        }),
    )
}
