//! Complete configurations. With `XEBEC_DUMP_BOOTSTRAPS=DIR` each is written there as well, for `envoy --mode validate`.

use serde_json::json;

use crate::model::{Locality, Protocol, Resolution};
use crate::translate::fixture::{MeshBuilder, Seen, mesh, router, sidecar};

/// Something of everything.
fn everything() -> MeshBuilder {
    mesh()
        .settings(json!({"accessLogFile": "/dev/stdout", "tcpKeepalive": {"probes": 3, "time": "60s", "interval": "10s"}}))
        .service("reviews", |s| {
            s.http(9080)
                .endpoint_with("10.0.0.1", |e| e.locality = Locality::parse("r1/z1"))
                .endpoint_with("10.0.0.2", |e| e.locality = Locality::parse("r2/z1"))
                .endpoint_for("127.0.0.7", "127.0.0.1:19080")
                .address("10.1.0.1")
        })
        .service("ratings", |s| s.port("grpc", 9080, Protocol::Grpc).endpoint("10.0.0.3", "v1"))
        .service("web", |s| s.port("grpc-web", 8081, Protocol::GrpcWeb).endpoint("10.0.0.3", "v1"))
        .service("auto", |s| s.port("x", 7000, Protocol::Auto).address("10.1.0.2").endpoint("10.0.0.4", "v1"))
        .service("headless-auto", |s| s.port("x", 7001, Protocol::Auto).endpoint("10.0.0.4", "v1"))
        .service("db", |s| s.port("tcp", 5432, Protocol::Tcp).address("10.1.0.3").address("10.8.0.0/16").endpoint("10.0.0.5", "v1"))
        .service("mixed", |s| s.port("tcp", 9080, Protocol::Tcp).endpoint("10.0.0.5", "v1"))
        .service("api.example.com", |s| s.port("tls", 443, Protocol::Https).port("h", 80, Protocol::Http).resolution(Resolution::Dns))
        .service("one.example.com", |s| s.port("tls", 443, Protocol::Tls).resolution(Resolution::DnsRoundRobin).endpoint("localhost", "v1"))
        .service("*.wild.example.com", |s| s.port("tls", 443, Protocol::Tls).port("h", 80, Protocol::Http).resolution(Resolution::Passthrough))
        .destination_rule(
            "reviews",
            json!({"host": "reviews",
                "trafficPolicy": {
                    "loadBalancer": {"simple": "ROUND_ROBIN", "warmup": {"duration": "10s", "aggression": 1.5}},
                    "connectionPool": {"tcp": {"maxConnections": 10, "maxConnectionDuration": "1h"}, "http": {"idleTimeout": "10s", "maxRequestsPerConnection": 5}},
                    "outlierDetection": {"consecutive5xxErrors": 3, "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 4},
                    "retryBudget": {"percent": 25.0},
                },
                "subsets": [
                    {"name": "v1", "labels": {"version": "v1"}},
                    {"name": "v2", "labels": {"version": "v2"}, "trafficPolicy": {"loadBalancer": {"consistentHash": {"httpCookie": {"name": "c", "ttl": "0s"}}}}},
                    {"name": "v3", "trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "x", "maglev": {}}}}},
                    {"name": "v4", "trafficPolicy": {"loadBalancer": {"simple": "PASSTHROUGH"}}},
                ]}),
        )
        .destination_rule("ratings", json!({"host": "ratings", "trafficPolicy": {"connectionPool": {"http": {"maxConcurrentStreams": 100, "http2KeepAlive": {"interval": "30s", "timeout": "5s"}}}}}))
        .destination_rule("db", json!({"host": "db", "trafficPolicy": {"proxyProtocol": {"version": "V2"}, "connectionPool": {"tcp": {"idleTimeout": "5m"}}}}))
        .destination_rule("api", json!({"host": "api.example.com", "trafficPolicy": {"portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "SIMPLE"}}]}}))
        .virtual_service(
            "reviews",
            json!({"hosts": ["reviews"], "http": [
                {"name": "everything", "match": [{"name": "m", "uri": {"prefix": "/a"}, "ignoreUriCase": true, "method": {"exact": "GET"}, "scheme": {"exact": "http"},
                        "authority": {"regex": ".*"}, "headers": {"x": {}, "y": {"prefix": "1"}}, "withoutHeaders": {"z": {"exact": "1"}}, "queryParams": {"q": {"regex": "a+"}}, "statPrefix": "sp"}],
                 "route": [
                    {"destination": {"host": "reviews", "subset": "v1"}, "weight": 1, "headers": {"request": {"set": {"a": "b"}, "remove": ["c"]}, "response": {"add": {"d": "e"}}}},
                    {"destination": {"host": "reviews", "subset": "v2"}, "weight": 99, "headers": {"request": {"set": {"host": "h"}}}}],
                 "rewrite": {"uri": "/b", "authority": "x"}, "timeout": "5s",
                 "retries": {"attempts": 3, "perTryTimeout": "1s", "retryOn": "5xx,409", "retryRemoteLocalities": true, "backoff": "25ms"},
                 "fault": {"delay": {"fixedDelay": "5s", "percentage": {"value": 0.1}}, "abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 10}}},
                 "mirror": {"host": "ratings"}, "mirrorPercentage": {"value": 5}, "mirrors": [{"destination": {"host": "web"}}],
                 "corsPolicy": {"allowOrigins": [{"regex": ".*"}], "allowMethods": ["GET"], "allowCredentials": true, "maxAge": "1h"}},
                {"match": [{"uri": {"prefix": "/r"}}], "redirect": {"uri": "/x", "authority": "y", "scheme": "https", "redirectCode": 307, "port": 8443}},
                {"match": [{"uri": {"regex": "/s/.*"}}], "rewrite": {"uriRegexRewrite": {"match": "/s/(.*)", "rewrite": "/\\1"}}, "route": [{"destination": {"host": "reviews", "subset": "v3"}}]},
                {"match": [{"uri": {"exact": "/d"}}], "directResponse": {"status": 200, "body": {"string": "hello"}}},
                {"route": [{"destination": {"host": "reviews", "subset": "v4"}}]},
            ]}),
        )
        .virtual_service("wild", json!({"hosts": ["*.nobody.com"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}))
        .virtual_service("tls", json!({"hosts": ["api.example.com"], "tls": [{"match": [{"port": 443, "sniHosts": ["api.example.com"]}],
            "route": [{"destination": {"host": "api.example.com"}, "weight": 10}, {"destination": {"host": "one.example.com"}, "weight": 90}]}]}))
        .virtual_service("tcp", json!({"hosts": ["db"], "tcp": [
            {"match": [{"destinationSubnets": ["10.8.1.0/24"]}], "route": [{"destination": {"host": "db"}}]},
            {"route": [{"destination": {"host": "mixed"}}]}]}))
        .gateway("edge", json!({"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
            {"port": {"number": 8081, "name": "h2", "protocol": "HTTP2"}, "hosts": ["a.com"], "bind": "127.0.0.1", "tls": {"httpsRedirect": true}},
            {"port": {"number": 8443, "name": "tls", "protocol": "TLS"}, "hosts": ["*"], "tls": {"mode": "PASSTHROUGH"}},
            {"port": {"number": 5432, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]}]}))
        .virtual_service("edge", json!({"hosts": ["*"], "gateways": ["edge"],
            "http": [{"match": [{"uri": {"prefix": "/a"}}], "route": [{"destination": {"host": "reviews"}}]}],
            "tls": [{"match": [{"sniHosts": ["api.example.com"]}], "route": [{"destination": {"host": "api.example.com", "port": {"number": 443}}}]}],
            "tcp": [{"route": [{"destination": {"host": "db"}}]}]}))
}

fn complete(name: &str, seen: &Seen) {
    let made = seen.bootstrap();
    let dynamic = made["staticResources"].to_string();
    for word in ["\"rds\"", "\"vhds\"", "edsClusterConfig", "\"ads\"", "istio.alpn", "istio.stats", "metadata_exchange"]
    {
        assert!(!dynamic.contains(word), "{word} is left in {name}");
    }
    assert!(made["staticResources"]["listeners"].as_array().is_some_and(|l| !l.is_empty()));
    if let Ok(dir) = std::env::var("XEBEC_DUMP_BOOTSTRAPS") {
        std::fs::write(format!("{dir}/{name}.json"), made.to_string()).unwrap();
    }
}

#[test]
fn a_captured_sidecars_configuration_stands_alone() {
    complete("captured", &everything().seen_by(&sidecar().locality("r1/z1").at("10.0.0.1")));
}

#[test]
fn an_explicit_sidecars_configuration_stands_alone() {
    complete("explicit", &everything().seen_by(&sidecar().explicit("127.0.0.7", Some(15080))));
    complete("explicit_ports", &everything().seen_by(&sidecar().explicit("127.0.0.9", None).state_of_the_world()));
}

#[test]
fn a_gateways_configuration_stands_alone() {
    complete("gateway", &everything().seen_by(&router()));
}

#[test]
fn routes_of_virtual_hosts_that_were_served_one_by_one_are_in_place() {
    let made = everything().seen_by(&sidecar()).bootstrap();
    let text = made.to_string();
    assert!(text.contains("reviews.default.svc.cluster.local:9080") && text.contains("\"everything.m\""));
    assert!(text.contains("10.0.0.3"), "endpoints are inside of clusters");
}
