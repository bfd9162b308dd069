//! Connections that are carried as bytes: whose they are, and which rules are about them.

use serde_json::{Value, json};
use xebec_galley::SourceRef;

use super::{cluster, fqdn};
use crate::model::{Protocol, Visibility};
use crate::translate::fixture::{MeshBuilder, ServiceBuilder, mesh, tcp};
use crate::translate::notes;
use xebec_proto::envoy::config::listener::v3::FilterChain;
use xebec_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;

fn target(chain: &FilterChain) -> String {
    match tcp(chain).cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => name,
        other => panic!("{other:?}"),
    }
}

fn said(builder: MeshBuilder) -> Vec<String> {
    notes(&builder.build())
        .into_iter()
        .map(|n| format!("{}: {}: {}", n.origin.map(|o| o.to_string()).unwrap_or_default(), n.subject, n.text))
        .collect()
}

fn bytes(service: ServiceBuilder) -> ServiceBuilder {
    service.port("tcp", 7000, Protocol::Tcp)
}

fn written(file: &str) -> Option<SourceRef> {
    Some(SourceRef { file: file.into(), line: 1, column: 1 })
}

#[test]
fn of_two_services_that_cannot_be_told_apart_the_older_gets_the_bytes_and_both_are_named() {
    let build = || {
        mesh()
            .service("zebra", |s| bytes(s).with(|s| s.origin = written("zebra.yaml")))
            .service("ant", |s| bytes(s).with(|s| s.origin = written("ant.yaml")))
            .service("bee", |s| bytes(s).address("10.1.0.1"))
    };
    let listener = build().sidecar().listener("0.0.0.0_7000");
    assert_eq!(target(listener.default_filter_chain.as_ref().unwrap()), cluster(7000, "", "zebra"));
    let notes = said(build());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with(&format!("ant.yaml:1:1: service default/{} port 7000: ", fqdn("ant"))), "{notes:?}");
    assert!(notes[0].contains(&format!("those to default/{} (zebra.yaml:1:1)", fqdn("zebra"))), "{notes:?}");
}

#[test]
fn services_that_no_client_sees_together_are_not_in_each_others_way() {
    let only = |namespace: &str| Visibility::Namespaces(vec![namespace.into()]);
    let apart = mesh()
        .service("a", |s| bytes(s).with(|s| s.visibility = only("x")))
        .service("b", |s| bytes(s).with(|s| s.visibility = only("y")));
    assert_eq!(said(apart), [] as [&str; 0]);
    let together = mesh().service("a", |s| bytes(s).with(|s| s.visibility = only("x"))).service("b", bytes);
    assert_eq!(said(together).len(), 1);
}

#[test]
fn bytes_to_a_port_without_a_protocol_go_to_the_one_that_declares_tcp() {
    let build = || mesh().service("a", |s| s.port("x", 7000, Protocol::Auto)).service("b", bytes);
    let listener = build().sidecar().listener("0.0.0.0_7000");
    assert_eq!(target(listener.default_filter_chain.as_ref().unwrap()), cluster(7000, "", "b"));
    let notes = said(build());
    assert!(notes.len() == 1 && notes[0].contains(&format!("service default/{}", fqdn("a"))), "{notes:?}");
}

/// A service with a port for each way to carry connections.
fn vault(s: ServiceBuilder) -> ServiceBuilder {
    s.port("tls", 8200, Protocol::Tls).port("tcp", 8201, Protocol::Tcp).address("10.1.0.1")
}

fn rule(spec: Value) -> MeshBuilder {
    let mut whole = json!({"hosts": ["vault"]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    mesh().service("vault", vault).service("other", vault).virtual_service("v", whole)
}

#[test]
fn each_port_follows_the_routes_of_its_own_kind() {
    let to = |subset: &str| json!([{"destination": {"host": "vault", "subset": subset}}]);
    let seen = rule(json!({
        "tls": [{"match": [{"sniHosts": ["vault"]}], "route": to("by-name")}],
        "tcp": [{"route": to("by-port")}],
    }))
    .sidecar();
    let by_name = seen.listener("10.1.0.1_8200");
    assert_eq!(target(&by_name.filter_chains[0]), cluster(8200, "by-name", "vault"));
    assert_eq!(by_name.filter_chains[0].filter_chain_match.clone().unwrap().server_names, ["vault"]);
    let by_port = seen.listener("10.1.0.1_8201");
    assert_eq!(target(by_port.default_filter_chain.as_ref().unwrap()), cluster(8201, "by-port", "vault"));
}

#[test]
fn routes_for_connections_that_no_port_carries_are_said() {
    let to = json!([{"destination": {"host": "other"}}]);
    let tcp = |port: u16| json!({"tcp": [{"match": [{"port": port}], "route": to}]});
    let tls = |port: u16| json!({"tls": [{"match": [{"port": port, "sniHosts": ["vault"]}], "route": to}]});
    let subject = |notes: Vec<String>| -> Vec<String> {
        notes.iter().map(|n| n.splitn(4, ':').nth(3).unwrap().split(':').next().unwrap().trim().to_owned()).collect()
    };
    assert_eq!(subject(said(rule(tcp(8200)))), ["VirtualService default/v tcp"]);
    assert_eq!(subject(said(rule(tls(8201)))), ["VirtualService default/v tls"]);
    assert_eq!(said(rule(tcp(8201))), [] as [&str; 0]);
    assert_eq!(said(rule(tls(8200))), [] as [&str; 0]);
    let mut at_a_gateway = tcp(8200);
    at_a_gateway["gateways"] = json!(["gw"]);
    assert_eq!(said(rule(at_a_gateway)), [] as [&str; 0]);
}
