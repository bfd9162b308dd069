//! Backend references, weights, mirrors, ReferenceGrant; TLSRoute and TCPRoute.

use serde_json::{Value, json};

use super::kit::*;
use crate::Output;

fn to(backends: &str, more: &str) -> Output {
    let text = format!(
        "kind: HTTPRoute\nmetadata: {{ name: r, namespace: shop }}\nspec: {{ parentRefs: [{{ name: edge }}], rules: [{{ backendRefs: [{backends}] }}] }}"
    );
    converted(&[EDGE, &text, more], &Cluster::default())
}

fn refs(output: &Output) -> String {
    conditions(output, "HTTPRoute/shop/r")[1].clone()
}

const GRANT: &str = "kind: ReferenceGrant\nmetadata: { name: g, namespace: other }\nspec: { from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop }], to: [{ group: '', kind: Service }] }";

#[test]
fn weights_are_kept_and_a_backend_without_weight_counts_one() {
    let output =
        to("{ name: web, port: 80, weight: 3 }, { name: api, port: 80 }, { name: web, port: 8080, weight: 0 }", "");
    let routes: Vec<_> = http(&output, "*")[0]["route"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["destination"].clone(), r["weight"].clone()))
        .collect();
    assert_eq!(
        routes,
        [
            (json!({ "host": "web.shop.svc.cluster.local", "port": { "number": 80 } }), json!(3)),
            (json!({ "host": "api.shop.svc.cluster.local", "port": { "number": 80 } }), json!(1)),
        ]
    );
    assert_eq!(refs(&output), "ResolvedRefs=True ResolvedRefs");
}

#[test]
fn the_share_of_a_missing_backend_is_answered_with_500() {
    let output = to("{ name: web, port: 80, weight: 1 }, { name: missing, port: 80, weight: 3 }", "");
    let made = &http(&output, "*")[0];
    assert_eq!(made["fault"], json!({ "abort": { "httpStatus": 500, "percentage": { "value": 75.0 } } }));
    assert_eq!(made["route"].as_array().unwrap().len(), 1);
    assert_eq!(refs(&output), "ResolvedRefs=False BackendNotFound");
}

#[test]
fn without_any_backend_that_counts_every_request_is_answered_with_500() {
    for backends in ["", "{ name: missing, port: 80 }", "{ name: web, port: 80, weight: 0 }"] {
        let output = to(backends, "");
        assert_eq!(http(&output, "*")[0]["directResponse"], json!({ "status": 500 }), "{backends}");
    }
}

#[test]
fn references_that_do_not_count_say_why() {
    for (backend, reason) in [
        ("{ name: web, port: 81 }", "BackendNotFound"),
        ("{ name: web }", "BackendNotFound"),
        ("{ name: web, kind: Pod, port: 80 }", "InvalidKind"),
        ("{ name: web, namespace: other, port: 80 }", "RefNotPermitted"),
    ] {
        assert_eq!(refs(&to(backend, "")), format!("ResolvedRefs=False {reason}"), "{backend}");
    }
}

#[test]
fn another_namespace_is_reached_with_its_grant_only() {
    let output = to("{ name: web, namespace: other, port: 80 }", GRANT);
    assert_eq!(refs(&output), "ResolvedRefs=True ResolvedRefs");
    assert_eq!(http(&output, "*")[0]["route"][0]["destination"]["host"], "web.other.svc.cluster.local");
    for (from, to_) in [
        ("kind: HTTPRoute", "kind: GRPCRoute"),
        ("namespace: shop", "namespace: team"),
        ("kind: Service }", "kind: Service, name: api }"),
        ("namespace: other", "namespace: third"),
    ] {
        let other = GRANT.replacen(from, to_, 1);
        assert_ne!(other, GRANT);
        assert_eq!(
            refs(&to("{ name: web, namespace: other, port: 80 }", &other)),
            "ResolvedRefs=False RefNotPermitted",
            "{to_}"
        );
    }
}

#[test]
fn a_hostname_of_any_platform_can_be_a_backend() {
    let output = to("{ group: networking.istio.io, kind: Hostname, name: Web.service.consul, port: 80 }", "");
    assert_eq!(
        http(&output, "*")[0]["route"][0]["destination"],
        json!({ "host": "web.service.consul", "port": { "number": 80 } })
    );
}

#[test]
fn headers_of_a_backend_are_its_own() {
    let output = to(
        "{ name: web, port: 80, filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: a, value: b }] } }, { type: URLRewrite, urlRewrite: { hostname: h.org } }] }, { name: api, port: 80 }",
        "",
    );
    let made = &http(&output, "*")[0]["route"];
    assert_eq!(made[0]["headers"]["request"]["set"], json!({ "a": "b", "host": "h.org" }));
    assert_eq!(made[1]["headers"], Value::Null);
}

#[test]
fn mirrors_get_their_share_and_a_missing_one_is_dropped() {
    let rules = "[{ filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: api, port: 80 }, fraction: { numerator: 1, denominator: 4 } } }, { type: RequestMirror, requestMirror: { backendRef: { name: gone, port: 80 }, percent: 5 } }], backendRefs: [{ name: web, port: 80 }] }]";
    let text = format!(
        "kind: HTTPRoute\nmetadata: {{ name: r, namespace: shop }}\nspec: {{ parentRefs: [{{ name: edge }}], rules: {rules} }}"
    );
    let output = at_edge(&text);
    assert_eq!(
        http(&output, "*")[0]["mirrors"],
        json!([{ "destination": { "host": "api.shop.svc.cluster.local", "port": { "number": 80 } }, "percentage": { "value": 25.0 } }])
    );
    assert_eq!(refs(&output), "ResolvedRefs=False BackendNotFound");
}

#[test]
fn a_grpc_client_hears_that_the_backend_is_unavailable() {
    let of = |backends: &str| {
        let text = format!(
            "kind: GRPCRoute\nmetadata: {{ name: r, namespace: shop }}\nspec: {{ parentRefs: [{{ name: edge }}], rules: [{{ backendRefs: [{backends}] }}] }}"
        );
        http(&at_edge(&text), "*")[0].clone()
    };
    assert_eq!(of("{ name: gone, port: 1 }")["directResponse"]["status"], 503);
    assert_eq!(
        of("{ name: gone, port: 1 }, { name: grpc, port: 9000 }")["fault"]["abort"]["grpcStatus"],
        "UNAVAILABLE"
    );
}

#[test]
fn tls_is_passed_through_by_server_name() {
    let class = EDGE.split("\n---").next().unwrap();
    let text = "
kind: Gateway
metadata: { name: edge, namespace: shop }
spec: { gatewayClassName: xebec, listeners: [{ name: tls, port: 443, protocol: TLS, hostname: '*.example.com', tls: { mode: Passthrough } }] }
---
kind: TLSRoute
metadata: { name: r, namespace: shop }
spec: { parentRefs: [{ name: edge }], hostnames: [a.example.com], rules: [{ backendRefs: [{ name: web, port: 80 }, { name: gone, port: 80, weight: 2 }] }] }";
    let output = converted(&[class, text], &Cluster::default());
    let made = documents(&output, "VirtualService");
    assert_eq!(made[0]["spec"]["hosts"], json!(["a.example.com"]));
    let tls = &made[0]["spec"]["tls"][0];
    assert_eq!(tls["match"], json!([{ "sniHosts": ["a.example.com"] }]));
    assert_eq!(tls["route"][0]["destination"]["host"], "web.shop.svc.cluster.local");
    // Its share of connections is refused.
    assert_eq!(
        (&tls["route"][1]["destination"]["host"], &tls["route"][1]["weight"]),
        (&json!("backend.invalid"), &json!(2))
    );
    assert_eq!(documents(&output, "Gateway")[0]["spec"]["servers"][0]["tls"], json!({}));
    assert_eq!(
        conditions(&output, "TLSRoute/shop/r"),
        ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]
    );
}

#[test]
fn a_tcp_listener_sends_connections_to_the_backends_of_its_oldest_route() {
    let class = EDGE.split("\n---").next().unwrap();
    let text = "
kind: Gateway
metadata: { name: edge, namespace: shop }
spec: { gatewayClassName: xebec, listeners: [{ name: db, port: 5432, protocol: TCP }] }
---
kind: TCPRoute
metadata: { name: young, namespace: shop, creationTimestamp: '2026-02-01T00:00:00Z' }
spec: { parentRefs: [{ name: edge }], rules: [{ backendRefs: [{ name: api, port: 80 }] }] }
---
kind: TCPRoute
metadata: { name: zold, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z' }
spec: { parentRefs: [{ name: edge }], rules: [{ backendRefs: [{ name: web, port: 80 }] }] }";
    let output = converted(&[class, text], &Cluster::default());
    let made = documents(&output, "VirtualService");
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["spec"]["tcp"][0]["route"][0]["destination"]["host"], "web.shop.svc.cluster.local");
    assert_eq!(conditions(&output, "TCPRoute/shop/zold"), ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
}
