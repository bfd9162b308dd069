//! Calls to the workload itself.

use serde_json::json;

use crate::model::Protocol;
use crate::resources::ResourceType;
use crate::translate::fixture::{addresses, http, json as to_json, mesh, sidecar};

#[test]
fn without_interception_each_endpoint_has_a_listener_that_forwards_to_the_application() {
    let seen = mesh()
        .service("reviews", |s| {
            s.http(9080).endpoint_for("127.0.0.7", "127.0.0.1:19080").endpoint_for("127.0.0.8", "127.0.0.1:29080")
        })
        .seen_by(&sidecar().explicit("127.0.0.7", Some(15080)));
    insta::assert_json_snapshot!("own_listener", to_json(&seen.listener("127.0.0.7_9080")));
    let made = seen.cluster("inbound|9080||");
    assert_eq!(addresses(made.load_assignment.as_ref().unwrap()), ["127.0.0.1:19080"]);
    assert!(!seen.has(ResourceType::Listener, "127.0.0.8_9080"), "another workload's");
}

#[test]
fn without_interception_nothing_listens_where_the_proxy_would_call_itself() {
    let seen = mesh()
        .service("a", |s| s.http(80).endpoint("127.0.0.7", "v1"))
        .seen_by(&sidecar().explicit("127.0.0.7", Some(15080)));
    assert_eq!(seen.names(ResourceType::Listener), ["127.0.0.7_15080"]);
}

#[test]
fn captured_calls_arrive_at_one_listener_with_a_chain_per_port() {
    let seen = mesh()
        .service("a", |s| {
            s.http(80)
                .port("tcp", 81, Protocol::Tcp)
                .port("auto", 82, Protocol::Auto)
                .endpoint_with("10.0.0.1", |e| e.ports = [("http".into(), 8080)].into())
        })
        .service("twin", |s| s.http(80).endpoint_with("10.0.0.1", |e| e.ports = [("http".into(), 8080)].into()))
        .seen_by(&sidecar().at("10.0.0.1"));
    let listener = seen.listener("virtualInbound");
    let chains: Vec<_> = listener
        .filter_chains
        .iter()
        .map(|c| {
            let m = c.filter_chain_match.clone().unwrap_or_default();
            (c.name.as_str(), m.destination_port.map(|p| p.value), !m.application_protocols.is_empty())
        })
        .collect();
    assert_eq!(
        chains,
        [
            ("virtualInbound-blackhole", Some(15006), false),
            ("0.0.0.0_8080", Some(8080), false),
            ("0.0.0.0_81", Some(81), false),
            ("0.0.0.0_82", Some(82), true),
            ("0.0.0.0_82", Some(82), false),
            ("virtualInbound-catchall-http", None, true),
            ("virtualInbound", None, false),
        ]
    );
    let filters: Vec<_> = listener.listener_filters.iter().map(|f| f.name.rsplit('.').next().unwrap()).collect();
    assert_eq!(filters, ["original_dst", "tls_inspector", "http_inspector"]);
    let made = to_json(&seen.cluster("inbound|8080||"));
    assert_eq!(made["type"], "ORIGINAL_DST");
    assert_eq!(made["upstreamBindConfig"]["sourceAddress"]["address"], "127.0.0.6");
    assert!(seen.has(ResourceType::Cluster, "InboundPassthroughCluster"));
}

#[test]
fn a_mesh_may_send_captured_calls_to_loopback() {
    let seen = mesh()
        .settings(json!({"inboundTrafficPolicy": {"mode": "LOCALHOST"}}))
        .service("a", |s| s.http(80).endpoint("10.0.0.1", "v1"))
        .seen_by(&sidecar().at("10.0.0.1"));
    assert_eq!(addresses(seen.cluster("inbound|80||").load_assignment.as_ref().unwrap()), ["127.0.0.1:80"]);
}

#[test]
fn listeners_of_a_sidecar_resource_replace_those_of_services() {
    let rule = json!({
        "ingress": [
            {"port": {"number": 9090, "protocol": "GRPC", "name": "g"}, "defaultEndpoint": "0.0.0.0:7070", "connectionPool": {"http": {"http2MaxRequests": 3}}},
            {"port": {"number": 9091, "protocol": "TCP", "name": "t"}, "defaultEndpoint": "unix:///tmp/app.sock"},
        ],
        "inboundConnectionPool": {"tcp": {"maxConnections": 9}},
    });
    let seen = mesh()
        .service("a", |s| s.http(80).endpoint_for("127.0.0.7", "127.0.0.1:8080"))
        .sidecar_resource("s", rule)
        .seen_by(&sidecar().explicit("127.0.0.7", Some(15080)));
    assert_eq!(seen.names(ResourceType::Listener), ["127.0.0.7_15080", "127.0.0.7_9090", "127.0.0.7_9091"]);
    let grpc = seen.cluster("inbound|9090||");
    assert_eq!(addresses(grpc.load_assignment.as_ref().unwrap()), ["127.0.0.7:7070"]);
    assert_eq!(to_json(&grpc)["circuitBreakers"]["thresholds"][0]["maxRequests"], 3);
    let tcp = to_json(&seen.cluster("inbound|9091||"));
    assert_eq!(
        tcp["loadAssignment"]["endpoints"][0]["lbEndpoints"][0]["endpoint"]["address"]["pipe"]["path"],
        "/tmp/app.sock"
    );
    assert_eq!(tcp["circuitBreakers"]["thresholds"][0]["maxConnections"], 9);
    assert_eq!(seen.origins(ResourceType::Listener, "127.0.0.7_9090"), ["s.yaml"]);
}

#[test]
fn inbound_requests_are_answered_in_istios_name_and_never_delayed_on_purpose() {
    let seen = mesh()
        .service("a", |s| s.http(80).endpoint_for("127.0.0.7", "127.0.0.1:8080"))
        .seen_by(&sidecar().explicit("127.0.0.7", None));
    let manager = http(&seen.listener("127.0.0.7_80").filter_chains[0]);
    assert_eq!(manager.server_name, "istio-envoy");
    assert!(manager.http_filters.iter().all(|f| f.name != "envoy.filters.http.fault"));
}

#[test]
fn a_destination_rules_limits_hold_for_the_workload_itself_unless_its_sidecar_says_others() {
    let limit = |sidecar_spec: serde_json::Value| {
        let seen = mesh()
            .service("a", |s| s.http(80).port("tcp", 81, Protocol::Tcp).endpoint("10.0.0.1", "v1"))
            .destination_rule(
                "a",
                json!({"host": "a", "trafficPolicy": {
                    "connectionPool": {"tcp": {"maxConnections": 7}},
                    "portLevelSettings": [{"port": {"number": 81}, "connectionPool": {"tcp": {"maxConnections": 8}}}],
                    "outlierDetection": {"consecutive5xxErrors": 1},
                }}),
            )
            .sidecar_resource("s", sidecar_spec)
            .seen_by(&sidecar().at("10.0.0.1"));
        let of = |name: &str| {
            let made = to_json(&seen.cluster(name));
            assert!(made["outlierDetection"].is_null(), "only limits are the workload's own");
            made["circuitBreakers"]["thresholds"][0]["maxConnections"].as_u64().unwrap()
        };
        (of("inbound|80||"), of("inbound|81||"), seen.origins(ResourceType::Cluster, "inbound|80||"))
    };
    assert_eq!(limit(json!({})), (7, 8, vec!["a.yaml".to_owned()]));
    assert_eq!(limit(json!({"inboundConnectionPool": {"tcp": {"maxConnections": 9}}})), (9, 9, vec![]));
}

#[test]
fn ports_where_servers_speak_first_are_not_looked_at() {
    let seen = mesh()
        .service("db", |s| s.port("x", 3306, Protocol::Auto).endpoint("10.0.0.1", "v1"))
        .seen_by(&sidecar().at("10.0.0.1"));
    let listener = seen.listener("virtualInbound");
    let chains: Vec<_> = listener.filter_chains.iter().filter(|c| c.name == "0.0.0.0_3306").collect();
    assert_eq!(chains.len(), 1);
    assert!(chains[0].filter_chain_match.clone().unwrap().application_protocols.is_empty());
    assert!(seen.cluster("inbound|3306||").typed_extension_protocol_options.is_empty(), "no HTTP");
}

#[test]
fn calls_that_the_application_dropped_are_tried_again_except_those_of_grpc() {
    let retries = |protocol| {
        let seen = mesh()
            .service("a", |s| s.port("p", 80, protocol).endpoint_for("127.0.0.7", "127.0.0.1:19080"))
            .seen_by(&sidecar().explicit("127.0.0.7", None));
        to_json(&http(&seen.listener("127.0.0.7_80").filter_chains[0]))["routeConfig"]["virtualHosts"][0]["routes"][0]
            ["route"]["retryPolicy"]["retryOn"]
            .clone()
    };
    assert_eq!(retries(Protocol::Http), "reset-before-request");
    assert_eq!(retries(Protocol::Http2), "reset-before-request");
    assert!(retries(Protocol::Grpc).is_null() && retries(Protocol::GrpcWeb).is_null());
}
