//! gRPC programs without a proxy.

use serde_json::json;

use super::{cluster, fqdn};
use crate::model::Protocol;
use crate::resources::ResourceType;
use crate::translate::fixture::{grpc_client, json as to_json, mesh};

#[test]
fn a_client_finds_listener_table_cluster_and_endpoints_by_name() {
    let seen = mesh()
        .service("echo", |s| s.port("grpc", 7070, Protocol::Grpc).port("tcp", 7, Protocol::Tcp).endpoint("10.0.0.1", "v1"))
        .destination_rule("echo", json!({"host": "echo", "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
            "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 5}}}}))
        .virtual_service("echo", json!({"hosts": ["echo"], "http": [{"timeout": "3s", "route": [{"destination": {"host": "echo", "subset": "v1"}}]}]}))
        .seen_by(&grpc_client());
    assert_eq!(seen.names(ResourceType::Listener), [format!("{}:7070", fqdn("echo"))]);
    insta::assert_json_snapshot!("grpc_listener", to_json(&seen.listener(&format!("{}:7070", fqdn("echo")))));
    let table = to_json(&seen.table(&cluster(7070, "", "echo")));
    let action = &table["virtualHosts"][0]["routes"][0]["route"];
    assert_eq!(action["cluster"], cluster(7070, "v1", "echo"));
    assert_eq!(action["maxStreamDuration"], json!({"maxStreamDuration": "3s"}));
    let made = to_json(&seen.cluster(&cluster(7070, "v1", "echo")));
    assert_eq!((&made["type"], &made["circuitBreakers"]["thresholds"][0]["maxRequests"]), (&json!("EDS"), &json!(5)));
    assert_eq!(seen.addresses(&cluster(7070, "v1", "echo")), ["10.0.0.1:7070"]);
    assert!(!seen.has(ResourceType::Cluster, "PassthroughCluster"));
}

#[test]
fn a_server_finds_the_listener_of_its_own_address() {
    let seen = mesh()
        .service("echo", |s| s.port("grpc", 7070, Protocol::Grpc).endpoint("10.0.0.5", "v1"))
        .seen_by(&grpc_client().at("10.0.0.5"));
    let made = to_json(&seen.listener("xds.istio.io/grpc/lds/inbound/10.0.0.5:7070"));
    let table = &made["filterChains"][0]["filters"][0]["typedConfig"]["routeConfig"];
    assert!(table["virtualHosts"][0]["routes"][0]["nonForwardingAction"].is_object());
}
