//! Clusters and endpoints.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use xebec_proto::envoy::config::cluster::v3::Cluster;
use xebec_proto::envoy::config::endpoint::v3::LbEndpoint;

use super::{cluster, fqdn};
use crate::model::{Health, Locality, Protocol, Resolution};
use crate::resources::ResourceType;
use crate::translate::fixture::{
    MeshBuilder, Seen, ServiceBuilder, addresses, grpc_client, json as to_json, mesh, sidecar,
};

fn reviews() -> MeshBuilder {
    mesh().service("reviews", |s| {
        s.http(9080).endpoint("10.0.0.1", "v1").endpoint("10.0.0.2", "v2").endpoint("10.0.0.3", "v3")
    })
}

fn with_policy(policy: Value) -> Value {
    let seen = reviews().destination_rule("reviews", json!({"host": "reviews", "trafficPolicy": policy})).sidecar();
    to_json(&seen.cluster(&cluster(9080, "", "reviews")))
}

#[test]
fn a_service_has_a_cluster_with_istios_name_and_defaults_and_its_endpoints() {
    let seen = reviews().sidecar();
    insta::assert_json_snapshot!("plain_cluster", to_json(&seen.cluster(&cluster(9080, "", "reviews"))));
    assert_eq!(seen.addresses(&cluster(9080, "", "reviews")), ["10.0.0.1:9080", "10.0.0.2:9080", "10.0.0.3:9080"]);
}

#[test]
fn each_subset_has_a_cluster_and_the_endpoints_with_its_labels_even_when_there_are_none() {
    let seen = reviews()
        .destination_rule(
            "reviews",
            json!({"host": "reviews", "subsets": [
                {"name": "v2", "labels": {"version": "v2"}},
                {"name": "v9", "labels": {"version": "v9"}},
            ]}),
        )
        .sidecar();
    assert_eq!(seen.addresses(&cluster(9080, "v2", "reviews")), ["10.0.0.2:9080"]);
    assert!(seen.addresses(&cluster(9080, "v9", "reviews")).is_empty());
    assert!(seen.has(ResourceType::Cluster, &cluster(9080, "v9", "reviews")));
    let v2 = to_json(&seen.cluster(&cluster(9080, "v2", "reviews")));
    assert_eq!(v2["metadata"]["filterMetadata"]["istio"]["subset"], "v2");
    let path = "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews";
    assert_eq!(v2["metadata"]["filterMetadata"]["istio"]["config"], path);
    assert_eq!(seen.origins(ResourceType::Cluster, &cluster(9080, "v2", "reviews")), ["reviews.yaml"]);
}

#[test]
fn endpoints_are_sent_with_their_health_and_clusters_do_not_panic_onto_sick_ones() {
    let service = |s: ServiceBuilder| {
        s.http(80)
            .endpoint_with("10.0.0.1", |e| e.health = Health::Unhealthy)
            .endpoint_with("10.0.0.2", |e| e.health = Health::Draining)
            .endpoint_with("10.0.0.3", |e| e.health = Health::Degraded)
            .endpoint("10.0.0.4", "v1")
    };
    let name = cluster(80, "", "a");
    let statuses = |seen: &Seen| {
        let list = to_json(&seen.endpoints(&name));
        let endpoints = list["endpoints"][0]["lbEndpoints"].as_array().unwrap().clone();
        endpoints.iter().map(|e| e["healthStatus"].as_str().unwrap_or("UNKNOWN").to_owned()).collect::<Vec<_>>()
    };
    let seen = mesh().service("a", service).sidecar();
    assert_eq!(statuses(&seen), ["UNHEALTHY", "DRAINING", "DEGRADED", "UNKNOWN"]);
    let made = to_json(&seen.cluster(&name));
    assert!(made["commonLbConfig"]["healthyPanicThreshold"].is_object(), "set, and zero");
    // Libraries of gRPC drop what is not healthy, and are spared it.
    let seen = mesh().service("a", service).seen_by(&grpc_client());
    assert_eq!(seen.addresses(&name), ["10.0.0.4:80"]);
}

#[test]
fn names_are_resolved_with_the_health_of_their_endpoints() {
    let by_dns = |resolution: Resolution, healths: [Health; 2]| {
        let seen = mesh()
            .service("a.example.com", |s| {
                s.http(80)
                    .resolution(resolution)
                    .endpoint_with("one.example.com", |e| e.health = healths[0])
                    .endpoint_with("two.example.com", |e| e.health = healths[1])
            })
            .sidecar();
        let name = "outbound|80||a.example.com";
        if !seen.has(ResourceType::Cluster, name) {
            return Vec::new();
        }
        let list = seen.cluster(name).load_assignment.unwrap();
        let text = |e: &LbEndpoint| {
            let e = to_json(e);
            let health = e["healthStatus"].as_str().unwrap_or("").to_owned();
            format!("{} {health}", e["endpoint"]["address"]["socketAddress"]["address"].as_str().unwrap())
        };
        list.endpoints.iter().flat_map(|l| l.lb_endpoints.iter().map(text)).collect::<Vec<_>>()
    };
    let mixed = [Health::Unhealthy, Health::Degraded];
    assert_eq!(by_dns(Resolution::Dns, mixed), ["one.example.com UNHEALTHY", "two.example.com DEGRADED"]);
    assert_eq!(by_dns(Resolution::DnsRoundRobin, mixed), ["two.example.com DEGRADED"]);
    assert!(by_dns(Resolution::Dns, [Health::Unhealthy, Health::Draining]).is_empty(), "nobody to look up");
}

#[test]
fn an_endpoint_is_not_behind_a_port_that_it_does_not_serve() {
    let seen = mesh()
        .service("a", |s| {
            s.port("http", 80, Protocol::Http)
                .port("admin", 90, Protocol::Http)
                .endpoint("10.0.0.1", "v1")
                .endpoint_with("10.9.9.9", |e| {
                    e.ports.insert("admin".into(), 0);
                    e.app = BTreeMap::from([("http".into(), "127.0.0.1:1".parse().unwrap())]);
                })
        })
        .sidecar();
    assert_eq!(seen.addresses(&cluster(80, "", "a")), ["10.0.0.1:80", "10.9.9.9:80"]);
    assert_eq!(seen.addresses(&cluster(90, "", "a")), ["10.0.0.1:90"]);
    // Nor is its own proxy called there.
    assert!(seen.has(ResourceType::Cluster, "inbound|80||"));
    assert!(
        !seen.names(ResourceType::Cluster).iter().any(|n| n.starts_with("inbound|90") || n.starts_with("inbound|0"))
    );
}

#[test]
fn load_balancing_is_as_the_rule_says() {
    let policy = |lb: Value| with_policy(json!({"loadBalancer": lb}))["lbPolicy"].clone();
    assert_eq!(with_policy(json!({}))["lbPolicy"], "LEAST_REQUEST");
    assert_eq!(policy(json!({"simple": "LEAST_CONN"})), "LEAST_REQUEST");
    // The default is not written in JSON.
    assert_eq!(policy(json!({"simple": "ROUND_ROBIN"})), Value::Null);
    assert_eq!(policy(json!({"simple": "RANDOM"})), "RANDOM");
    let ring = with_policy(json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}}));
    assert_eq!(
        (&ring["lbPolicy"], &ring["ringHashLbConfig"]["minimumRingSize"]),
        (&json!("RING_HASH"), &json!("1024"))
    );
    let maglev =
        with_policy(json!({"loadBalancer": {"consistentHash": {"useSourceIp": true, "maglev": {"tableSize": 101}}}}));
    assert_eq!((&maglev["lbPolicy"], &maglev["maglevLbConfig"]["tableSize"]), (&json!("MAGLEV"), &json!("101")));
    let original = with_policy(json!({"loadBalancer": {"simple": "PASSTHROUGH"}}));
    assert_eq!((&original["lbPolicy"], &original["type"]), (&json!("CLUSTER_PROVIDED"), &json!("ORIGINAL_DST")));
    let warm = with_policy(json!({"loadBalancer": {"warmup": {"duration": "30s"}}}));
    assert_eq!(warm["leastRequestLbConfig"]["slowStartConfig"]["slowStartWindow"], "30s");
}

#[test]
fn limits_that_are_written_replace_no_limit() {
    let made = with_policy(json!({"connectionPool": {
        "tcp": {"maxConnections": 5, "connectTimeout": "2s", "tcpKeepalive": {"probes": 3, "time": "60s"}},
        "http": {"http1MaxPendingRequests": 6, "http2MaxRequests": 7, "maxRetries": 8, "maxRequestsPerConnection": 9, "idleTimeout": "4s"},
    }}));
    let limits = &made["circuitBreakers"]["thresholds"][0];
    assert_eq!(
        (&limits["maxConnections"], &limits["maxPendingRequests"], &limits["maxRequests"], &limits["maxRetries"]),
        (&json!(5), &json!(6), &json!(7), &json!(8))
    );
    assert_eq!(made["connectTimeout"], "2s");
    assert_eq!(made["upstreamConnectionOptions"]["tcpKeepalive"], json!({"keepaliveProbes": 3, "keepaliveTime": 60}));
    let options = &made["typedExtensionProtocolOptions"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(options["commonHttpProtocolOptions"], json!({"idleTimeout": "4s", "maxRequestsPerConnection": 9}));
    assert!(options["explicitHttpConfig"]["httpProtocolOptions"].is_object());
    let none = &with_policy(json!({}))["circuitBreakers"]["thresholds"][0];
    assert_eq!(none["maxRequests"], u32::MAX);
}

#[test]
fn outlier_detection_never_panics_and_zero_turns_a_detector_off() {
    let made = with_policy(json!({"outlierDetection": {
        "consecutive5xxErrors": 7, "consecutiveGatewayErrors": 0, "interval": "5s", "baseEjectionTime": "3m", "maxEjectionPercent": 100,
    }}));
    let outlier = &made["outlierDetection"];
    assert_eq!((&outlier["consecutive5xx"], &outlier["enforcingConsecutive5xx"]), (&json!(7), &json!(100)));
    assert_eq!(outlier["enforcingConsecutiveGatewayFailure"], 0);
    assert_eq!(outlier["enforcingSuccessRate"], 0);
    assert_eq!(
        (&outlier["interval"], &outlier["baseEjectionTime"], &outlier["maxEjectionPercent"]),
        (&json!("5s"), &json!("180s"), &json!(100))
    );
    assert!(made["commonLbConfig"]["healthyPanicThreshold"].is_object(), "set, and zero");
    let half = with_policy(json!({"outlierDetection": {"minHealthPercent": 50}}));
    assert_eq!(half["commonLbConfig"]["healthyPanicThreshold"]["value"], 50.0);
    let none = with_policy(json!({}));
    assert_eq!(none["commonLbConfig"], json!({"healthyPanicThreshold": {}}), "platforms say which endpoints are well");
}

#[test]
fn the_protocol_of_a_port_decides_how_requests_travel() {
    let options = |protocol: Protocol, policy: Value| {
        let seen = mesh()
            .service("a", |s| s.port("p", 80, protocol).endpoint("10.0.0.1", "v1"))
            .destination_rule("a", json!({"host": "a", "trafficPolicy": policy}))
            .sidecar();
        let made = to_json(&seen.cluster(&cluster(80, "", "a")));
        made["typedExtensionProtocolOptions"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].clone()
    };
    assert!(options(Protocol::Http, json!({})).is_null());
    assert!(options(Protocol::Tcp, json!({})).is_null());
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        assert!(options(protocol, json!({}))["explicitHttpConfig"]["http2ProtocolOptions"].is_object());
    }
    assert!(options(Protocol::Auto, json!({}))["useDownstreamProtocolConfig"]["http2ProtocolOptions"].is_object());
    let upgrade = json!({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}});
    assert!(options(Protocol::Http, upgrade)["explicitHttpConfig"]["http2ProtocolOptions"].is_object());
}

#[test]
fn dns_services_are_resolved_by_the_proxy_and_the_host_itself_is_the_endpoint_when_there_is_none() {
    let seen = mesh()
        .service("api.example.com", |s| s.port("https", 443, Protocol::Https).resolution(Resolution::Dns))
        .service("db.example.com", |s| {
            s.port("tcp", 5432, Protocol::Tcp)
                .resolution(Resolution::DnsRoundRobin)
                .endpoint("one.example.com", "v1")
                .endpoint("two.example.com", "v1")
        })
        .service("*.example.org", |s| s.http(80).resolution(Resolution::Dns))
        .sidecar();
    let api = seen.cluster("outbound|443||api.example.com");
    let dns = |made: &Cluster| to_json(made)["clusterType"]["typedConfig"].clone();
    assert_eq!(
        dns(&api),
        json!({
            "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
            "dnsRefreshRate": "60s", "respectDnsTtl": true, "dnsJitter": "0.100s", "dnsLookupFamily": "V4_PREFERRED",
        })
    );
    assert_eq!(addresses(&api.load_assignment.clone().unwrap()), ["api.example.com:443"]);
    let db = seen.cluster("outbound|5432||db.example.com");
    assert_eq!(dns(&db)["allAddressesInSingleEndpoint"], true);
    assert_eq!(addresses(&db.load_assignment.unwrap()), ["one.example.com:5432"]);
    assert!(!seen.has(ResourceType::Cluster, "outbound|80||*.example.org"), "nothing to resolve");
    assert!(seen.names(ResourceType::Endpoint).is_empty());
}

#[test]
fn the_mesh_says_how_often_names_are_resolved() {
    let seen = mesh()
        .settings(json!({"dnsRefreshRate": "7s"}))
        .service("api.example.com", |s| s.port("https", 443, Protocol::Https).resolution(Resolution::Dns))
        .sidecar();
    let made = to_json(&seen.cluster("outbound|443||api.example.com"));
    assert_eq!(made["clusterType"]["typedConfig"]["dnsRefreshRate"], "7s");
}

#[test]
fn labels_of_the_topology_order_localities_and_networks_without_a_platform_that_has_such_labels() {
    let seen = mesh()
        .service("a", |s| {
            s.http(80)
                .endpoint_with("10.0.0.1", |e| e.locality = Locality::parse("r2/z1/s1"))
                .endpoint_with("10.0.0.2", |e| e.locality = Locality::parse("r1/z2/s1"))
                .endpoint_with("10.0.0.3", |e| e.locality = Locality::parse("r1/z1/s1"))
                .endpoint_with("10.0.0.4", |e| (e.locality, e.network) = (Locality::parse("r1/z1/s2"), "far".into()))
        })
        .destination_rule(
            "a",
            json!({"host": "a", "trafficPolicy": {"outlierDetection": {}, "loadBalancer": {"localityLbSetting": {"failoverPriority": [
                "topology.istio.io/network", "topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone",
            ]}}}}),
        )
        .seen_by(&sidecar().locality("r1/z1/s1"));
    let list = seen.endpoints(&cluster(80, "", "a"));
    let order: Vec<(u32, String)> = list
        .endpoints
        .iter()
        .map(|l| {
            let at = l.locality.clone().unwrap();
            (l.priority, format!("{}/{}/{}", at.region, at.zone, at.sub_zone))
        })
        .collect();
    let expected = [(0, "r1/z1/s1"), (1, "r1/z2/s1"), (2, "r2/z1/s1"), (3, "r1/z1/s2")];
    assert_eq!(order, expected.map(|(priority, at)| (priority, at.to_owned())));
}

#[test]
fn localities_fail_over_only_where_failures_are_noticed() {
    let build = |policy: Value| {
        mesh()
            .service("a", |s| {
                s.http(80)
                    .endpoint_with("10.0.0.1", |e| e.locality = Locality::parse("r2/z"))
                    .endpoint_with("10.0.0.2", |e| e.locality = Locality::parse("r1/z"))
            })
            .destination_rule("a", json!({"host": "a", "trafficPolicy": policy}))
            .seen_by(&sidecar().locality("r1/z"))
    };
    let priorities = |policy: Value| -> Vec<(String, u32)> {
        let list = build(policy).endpoints(&cluster(80, "", "a"));
        list.endpoints.iter().map(|l| (l.locality.clone().unwrap().region, l.priority)).collect()
    };
    assert_eq!(priorities(json!({})), [("r1".into(), 0), ("r2".to_owned(), 0)]);
    assert_eq!(priorities(json!({"outlierDetection": {}})), [("r1".into(), 0), ("r2".to_owned(), 1)]);
    let spread = json!({"loadBalancer": {"localityLbSetting": {"enabled": true, "distribute": [{"from": "r1/*", "to": {"r2/*": 100}}]}}});
    assert_eq!(priorities(spread.clone()), [("r2".to_owned(), 0)]);
    let made = to_json(&build(spread).cluster(&cluster(80, "", "a")));
    assert!(made["commonLbConfig"]["localityWeightedLbConfig"].is_object());
}

#[test]
fn tls_that_a_rule_asks_for_is_verified_against_the_servers_name() {
    let seen = mesh()
        .service("api.example.com", |s| s.port("https", 443, Protocol::Tcp).resolution(Resolution::Dns))
        .destination_rule("api", json!({"host": "api.example.com", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}))
        .sidecar();
    let made = to_json(&seen.cluster("outbound|443||api.example.com"));
    let tls = &made["transportSocket"]["typedConfig"];
    assert_eq!(tls["sni"], "api.example.com");
    let check = &tls["commonTlsContext"]["validationContext"];
    assert_eq!(check["matchTypedSubjectAltNames"][0]["matcher"]["exact"], "api.example.com");
    assert!(check["trustedCa"]["filename"].is_string());
}

#[test]
fn a_rule_of_the_clients_namespace_wins_over_one_of_the_services() {
    use xebec_galley::Kind;
    let policy =
        |n: i32| json!({"host": fqdn("reviews"), "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": n}}}});
    let build = || {
        reviews().add("default", Kind::DestinationRule, "ours", policy(1)).add(
            "other",
            Kind::DestinationRule,
            "theirs",
            policy(2),
        )
    };
    let limit = |seen: Seen| {
        to_json(&seen.cluster(&cluster(9080, "", "reviews")))["circuitBreakers"]["thresholds"][0]["maxConnections"]
            .clone()
    };
    assert_eq!(limit(build().sidecar()), 1);
    assert_eq!(limit(build().seen_by(&sidecar().namespace("other"))), 2);
}

#[test]
fn udp_has_no_cluster() {
    let seen = mesh().service("dns", |s| s.port("dns", 53, Protocol::Udp).endpoint("10.0.0.1", "v1")).sidecar();
    assert_eq!(
        seen.names(ResourceType::Cluster),
        ["BlackHoleCluster", "InboundPassthroughCluster", "PassthroughCluster"]
    );
}
