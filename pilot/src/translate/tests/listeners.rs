//! Outbound listeners.

use serde_json::json;

use super::{cluster, fqdn};
use crate::model::{Protocol, Resolution};
use crate::resources::ResourceType;
use crate::translate::fixture::{http, json as to_json, mesh, sidecar, tcp};
use xebec_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use xebec_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;

fn to_cluster(chain: &xebec_proto::envoy::config::listener::v3::FilterChain) -> String {
    match tcp(chain).cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => name,
        other => panic!("{other:?}"),
    }
}

fn table_of(chain: &xebec_proto::envoy::config::listener::v3::FilterChain) -> String {
    match http(chain).route_specifier {
        Some(RouteSpecifier::Rds(rds)) => rds.route_config_name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn captured_http_of_one_port_shares_a_listener() {
    let seen = mesh().service("a", |s| s.http(80).address("10.1.0.1")).service("b", |s| s.http(80)).sidecar();
    assert_eq!(seen.names(ResourceType::Listener), ["0.0.0.0_80", "virtualInbound", "virtualOutbound"]);
    let listener = seen.listener("0.0.0.0_80");
    assert_eq!(listener.bind_to_port.map(|b| b.value), Some(false));
    assert_eq!(table_of(&listener.filter_chains[0]), "80");
    insta::assert_json_snapshot!("http_listener", to_json(&listener));
}

#[test]
fn captured_tcp_has_a_listener_per_virtual_address() {
    let seen = mesh()
        .service("db", |s| s.port("tcp", 5432, Protocol::Tcp).address("10.1.0.1").address("10.1.0.2"))
        .service("headless", |s| s.port("tcp", 5432, Protocol::Tcp))
        .service("net", |s| s.port("tcp", 5432, Protocol::Tcp).address("10.7.0.0/16"))
        .sidecar();
    for name in ["10.1.0.1_5432", "10.1.0.2_5432"] {
        assert_eq!(to_cluster(seen.listener(name).default_filter_chain.as_ref().unwrap()), cluster(5432, "", "db"));
    }
    let shared = seen.listener("0.0.0.0_5432");
    assert_eq!(
        to_json(&shared)["filterChains"][0]["filterChainMatch"]["prefixRanges"],
        json!([{"addressPrefix": "10.7.0.0", "prefixLen": 16}])
    );
    assert_eq!(to_cluster(&shared.filter_chains[0]), cluster(5432, "", "net"));
    assert_eq!(to_cluster(shared.default_filter_chain.as_ref().unwrap()), cluster(5432, "", "headless"));
}

#[test]
fn tcp_follows_the_weights_of_its_rule() {
    let seen = mesh()
        .service("db", |s| s.port("tcp", 5432, Protocol::Tcp).address("10.1.0.1"))
        .virtual_service(
            "db",
            json!({"hosts": ["db"], "tcp": [{"match": [{"port": 5432}], "route": [
                {"destination": {"host": "db", "subset": "a"}, "weight": 30}, {"destination": {"host": "db", "subset": "b"}, "weight": 70},
            ]}]}),
        )
        .sidecar();
    let proxy = to_json(&tcp(seen.listener("10.1.0.1_5432").default_filter_chain.as_ref().unwrap()));
    assert_eq!(
        proxy["weightedClusters"]["clusters"],
        json!([{"name": cluster(5432, "a", "db"), "weight": 30}, {"name": cluster(5432, "b", "db"), "weight": 70}])
    );
    assert_eq!(seen.origins(ResourceType::Listener, "10.1.0.1_5432"), ["db.yaml"]);
}

#[test]
fn tls_is_told_apart_by_server_name() {
    let seen = mesh()
        .service("one.example.com", |s| s.port("tls", 443, Protocol::Tls).resolution(Resolution::Dns))
        .service("two.example.com", |s| s.port("tls", 443, Protocol::Https).resolution(Resolution::Dns))
        .service("two.copy.com", |s| s.port("tls", 443, Protocol::Https).resolution(Resolution::Dns))
        .virtual_service(
            "r",
            json!({"hosts": ["two.copy.com"], "tls": [{"match": [{"port": 443, "sniHosts": ["two.copy.com", "one.example.com"]}],
                   "route": [{"destination": {"host": "two.example.com"}}]}]}),
        )
        .sidecar();
    let listener = seen.listener("0.0.0.0_443");
    let chains: Vec<_> = listener
        .filter_chains
        .iter()
        .map(|c| (c.filter_chain_match.clone().unwrap().server_names, to_cluster(c)))
        .collect();
    assert_eq!(
        chains,
        [
            (vec!["one.example.com".to_owned()], "outbound|443||one.example.com".to_owned()),
            (vec!["two.example.com".to_owned()], "outbound|443||two.example.com".to_owned()),
            // Envoy would refuse a name that two chains have: the first keeps it.
            (vec!["two.copy.com".to_owned()], "outbound|443||two.example.com".to_owned()),
        ]
    );
    assert_eq!(listener.listener_filters[0].name, "envoy.filters.listener.tls_inspector");
    assert_eq!(to_cluster(listener.default_filter_chain.as_ref().unwrap()), "PassthroughCluster");
}

#[test]
fn a_port_without_a_protocol_is_looked_at() {
    let seen = mesh()
        .service("a", |s| s.port("x", 7000, Protocol::Auto).address("10.1.0.1").endpoint("10.0.0.1", "v1"))
        .sidecar();
    let listener = seen.listener("10.1.0.1_7000");
    let condition = listener.filter_chains[0].filter_chain_match.clone().unwrap();
    assert_eq!(
        (condition.transport_protocol.as_str(), condition.application_protocols),
        ("raw_buffer", vec!["http/1.1".to_owned(), "h2c".to_owned()])
    );
    let table = format!("{}:7000", fqdn("a"));
    assert_eq!(table_of(&listener.filter_chains[0]), table);
    assert_eq!(to_cluster(listener.default_filter_chain.as_ref().unwrap()), cluster(7000, "", "a"));
    assert_eq!(seen.host(&table, &table).domains, ["*"]);
    assert!(seen.table(&table).virtual_hosts.is_empty(), "its only host has every domain");
    assert!(listener.continue_on_listener_filters_timeout);
    // Servers that speak first would never be heard.
    let seen = mesh().service("db", |s| s.port("x", 3306, Protocol::Auto).address("10.1.0.1")).sidecar();
    assert!(seen.listener("10.1.0.1_3306").listener_filters.is_empty());
}

#[test]
fn http_and_tcp_on_one_address_and_port_are_looked_at() {
    let seen = mesh().service("a", |s| s.http(80)).service("b", |s| s.port("t", 80, Protocol::Tcp)).sidecar();
    let listener = seen.listener("0.0.0.0_80");
    assert_eq!(table_of(&listener.filter_chains[0]), "80");
    assert!(listener.filter_chains[0].filter_chain_match.is_some());
    assert_eq!(to_cluster(listener.default_filter_chain.as_ref().unwrap()), cluster(80, "", "b"));
}

#[test]
fn what_is_captured_arrives_at_the_virtual_listener() {
    let seen = mesh().sidecar();
    insta::assert_json_snapshot!("virtual_outbound", to_json(&seen.listener("virtualOutbound")));
    let seen = mesh().settings(json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})).sidecar();
    assert_eq!(to_cluster(&seen.listener("virtualOutbound").filter_chains[1]), "BlackHoleCluster");
}

#[test]
fn without_interception_listeners_open_their_own_sockets() {
    let seen = mesh()
        .service("a", |s| s.http(80).address("10.1.0.1"))
        .service("db", |s| s.port("tcp", 5432, Protocol::Tcp).address("10.1.0.2"))
        .seen_by(&sidecar().explicit("127.0.0.7", None));
    assert_eq!(seen.names(ResourceType::Listener), ["127.0.0.7_5432", "127.0.0.7_80"]);
    assert_eq!(seen.listener("127.0.0.7_80").bind_to_port, None);
    assert_eq!(table_of(&seen.listener("127.0.0.7_80").filter_chains[0]), "80");
}

#[test]
fn the_explicit_http_proxy_takes_the_place_of_explicit_http_ports() {
    let seen = mesh()
        .service("a", |s| s.http(80))
        .service("db", |s| s.port("tcp", 5432, Protocol::Tcp))
        .service("own", |s| s.port("tcp", 6432, Protocol::Tcp).endpoint_for("127.0.0.7", "127.0.0.1:16432"))
        .seen_by(&sidecar().explicit("127.0.0.7", Some(15080)));
    // The last one is where the workload itself is called.
    assert_eq!(seen.names(ResourceType::Listener), ["127.0.0.7_15080", "127.0.0.7_5432", "127.0.0.7_6432"]);
    assert_eq!(table_of(&seen.listener("127.0.0.7_15080").filter_chains[0]), "http_proxy");
    assert_eq!(to_cluster(&seen.listener("127.0.0.7_6432").filter_chains[0]), "inbound|6432||");
}

#[test]
fn a_sidecar_resource_declares_a_listener() {
    let seen = mesh()
        .service("a", |s| s.port("x", 7000, Protocol::Tcp).address("10.1.0.1"))
        .sidecar_resource(
            "s",
            json!({"egress": [{"port": {"number": 7000, "protocol": "HTTP", "name": "x"}, "bind": "127.0.0.1", "captureMode": "NONE", "hosts": ["*/*"]}]}),
        )
        .sidecar();
    let listener = seen.listener("127.0.0.1_7000");
    assert_eq!(listener.bind_to_port, None);
    assert_eq!(table_of(&listener.filter_chains[0]), "7000");
    assert!(seen.has(ResourceType::VirtualHost, &format!("7000/{}:7000", fqdn("a"))));
}

#[test]
fn access_is_logged_only_where_the_mesh_says() {
    let log = |settings: serde_json::Value| {
        let seen = mesh().settings(settings).service("a", |s| s.http(80)).sidecar();
        to_json(&http(&seen.listener("0.0.0.0_80").filter_chains[0]))["accessLog"].clone()
    };
    assert!(log(json!({})).is_null());
    assert_eq!(log(json!({"accessLogFile": "/dev/stdout"}))[0]["typedConfig"]["path"], "/dev/stdout");
    let text = log(json!({"accessLogFile": "/a", "accessLogFormat": "%PROTOCOL%"}));
    assert_eq!(text[0]["typedConfig"]["logFormat"]["textFormatSource"]["inlineString"], "%PROTOCOL%\n");
    let object =
        log(json!({"accessLogFile": "/a", "accessLogEncoding": "JSON", "accessLogFormat": "{\"p\":\"%PROTOCOL%\"}"}));
    assert_eq!(object[0]["typedConfig"]["logFormat"]["jsonFormat"], json!({"p": "%PROTOCOL%"}));
}

#[test]
fn requests_pass_the_filters_in_istios_order() {
    let seen = mesh().service("a", |s| s.port("w", 80, Protocol::GrpcWeb)).sidecar();
    let names: Vec<_> =
        http(&seen.listener("0.0.0.0_80").filter_chains[0]).http_filters.into_iter().map(|f| f.name).collect();
    assert_eq!(
        names,
        [
            "envoy.filters.http.grpc_web",
            "envoy.filters.http.fault",
            "envoy.filters.http.cors",
            "envoy.filters.http.router"
        ]
    );
}
