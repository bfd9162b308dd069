//! Whole examples, and what holds for any input.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::kit::*;
use crate::{Converter, Object, ObjectKind, Settings};

fn everything(texts: &[&str]) -> Value {
    let output = converted(texts, &Cluster::default());
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let statuses: Vec<Value> =
        output.statuses.iter().map(|status| json!({ (status.key.to_string()): status.apply(None, now) })).collect();
    json!({ "configs": output.configs.iter().map(document).collect::<Vec<_>>(), "statuses": statuses })
}

#[test]
fn a_canary_behind_a_gateway() {
    let text = "
kind: HTTPRoute
metadata: { name: canary, namespace: shop, generation: 1, creationTimestamp: '2026-02-02T00:00:00Z' }
spec:
  parentRefs: [{ name: edge }]
  hostnames: [shop.example.com]
  rules:
  - matches: [{ path: { value: /cart }, headers: [{ name: x-canary, value: 'yes' }] }]
    backendRefs: [{ name: api, port: 80 }]
  - matches: [{ path: { value: /cart } }]
    backendRefs: [{ name: web, port: 80, weight: 90 }, { name: api, port: 80, weight: 10 }]
    timeouts: { request: 5s }
  - matches: [{ path: { value: /old } }]
    filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /new } } }]";
    insta::assert_yaml_snapshot!(everything(&[EDGE, text]));
}

#[test]
fn one_host_for_plain_and_passed_through_traffic_of_several_teams() {
    let text = "
kind: GatewayClass
metadata: { name: xebec }
spec: { controllerName: xebec.io/gateway-controller }
---
kind: Gateway
metadata: { name: front, namespace: shop, generation: 7 }
spec:
  gatewayClassName: xebec
  listeners:
  - { name: http, port: 80, protocol: HTTP, hostname: '*.example.com', allowedRoutes: { namespaces: { from: All } } }
  - { name: tls, port: 443, protocol: TLS, hostname: '*.example.com', tls: { mode: Passthrough } }
---
kind: HTTPRoute
metadata: { name: mine, namespace: team }
spec:
  parentRefs: [{ name: front, namespace: shop, sectionName: http }]
  hostnames: [a.example.com]
  rules: [{ matches: [{ path: { value: /team } }], backendRefs: [{ name: web, namespace: other, port: 80 }] }]
---
kind: TLSRoute
metadata: { name: secure, namespace: shop }
spec:
  parentRefs: [{ name: front }]
  hostnames: [a.example.com]
  rules: [{ backendRefs: [{ name: web, port: 8080 }] }]";
    insta::assert_yaml_snapshot!(everything(&[text]));
}

#[test]
fn an_ingress_with_two_hosts() {
    let text = "
kind: IngressClass
metadata: { name: xebec }
spec: { controller: xebec.io/ingress-controller }
---
kind: Ingress
metadata: { name: site, namespace: shop }
spec:
  ingressClassName: xebec
  tls: [{ hosts: [a.example.com], secretName: cert }]
  rules:
  - { host: a.example.com, http: { paths: [{ path: /, pathType: Prefix, backend: { service: { name: web, port: { number: 80 } } } }] } }
  - { host: '*.example.org', http: { paths: [{ path: /rpc, pathType: Exact, backend: { service: { name: grpc, port: { name: rpc } } } }] } }";
    insta::assert_yaml_snapshot!(everything(&[text]));
}

/// Texts that may stand where a name, host, path or value is expected: sound ones and strange ones.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec!["web", "api", "edge", "http", "shop", "other", "GET", "/a", "/a/b", "/", "1s"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["a.example.com", "*.example.com", "*", "b.org", "any.example.com"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["", "(", "a b", "%", "%REQ(", "/a b", "é", "\u{0}", "..", "-", "*a", "99999999h"]).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ]
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c.d", "edge", "web"])
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["shop", "other", "team"])
}

fn port() -> impl Strategy<Value = i32> {
    prop_oneof![Just(80), Just(8080), Just(9000), Just(443), Just(0), Just(-1), Just(70_000)]
}

prop_compose! {
    fn metadata()(name in name(), namespace in namespace(), age in 0..3u8) -> Value {
        json!({ "name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-0{}T00:00:00Z", age + 1) })
    }
}

prop_compose! {
    fn parents()(list in prop::collection::vec((name(), namespace(), 0..4u8, port(), text()), 0..3)) -> Value {
        list.into_iter().map(|(name, namespace, shape, port, section)| match shape {
            0 => json!({ "name": name, "namespace": namespace }),
            1 => json!({ "name": name, "namespace": namespace, "port": port }),
            2 => json!({ "name": name, "namespace": namespace, "kind": "ListenerSet", "sectionName": section }),
            _ => json!({ "group": "", "kind": "Service", "name": name, "namespace": namespace }),
        }).collect()
    }
}

prop_compose! {
    fn backends()(list in prop::collection::vec((prop_oneof![Just("web".to_owned()), Just("api".to_owned()), text()], namespace(), port(), -1..3i32), 0..3)) -> Value {
        list.into_iter().map(|(name, namespace, port, weight)| json!({ "name": name, "namespace": namespace, "port": port, "weight": weight })).collect()
    }
}

prop_compose! {
    fn listeners()(list in prop::collection::vec((text(), port(), prop::sample::select(vec!["HTTP", "HTTPS", "TLS", "TCP", "UDP"]), text(), any::<bool>()), 0..4)) -> Value {
        list.into_iter().map(|(name, port, protocol, hostname, passthrough)| json!({
            "name": name, "port": port, "protocol": protocol, "hostname": hostname,
            "tls": { "mode": if passthrough { "Passthrough" } else { "Terminate" }, "certificateRefs": [{ "name": "cert" }] },
            "allowedRoutes": { "namespaces": { "from": "All" } },
        })).collect()
    }
}

fn filter() -> impl Strategy<Value = Value> {
    prop_oneof![
        (text(), text()).prop_map(|(name, value)| json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": [{ "name": name, "value": value }], "remove": [name] } })),
        (text(), text(), 200..400i64, port()).prop_map(|(host, path, code, port)| json!({ "type": "RequestRedirect", "requestRedirect": { "hostname": host, "statusCode": code, "port": port, "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": path } } })),
        (text(), text()).prop_map(|(host, path)| json!({ "type": "URLRewrite", "urlRewrite": { "hostname": host, "path": { "type": "ReplaceFullPath", "replaceFullPath": path } } })),
        text().prop_map(|origin| json!({ "type": "CORS", "cors": { "allowOrigins": [origin], "maxAge": -3 } })),
        (text(), port()).prop_map(|(name, port)| json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": name, "port": port }, "fraction": { "numerator": port, "denominator": 0 } } })),
    ]
}

prop_compose! {
    fn condition()(path in text(), kind in prop::sample::select(vec!["Exact", "PathPrefix", "RegularExpression"]), header in text(), value in text(), with in any::<bool>()) -> Value {
        let headers = if with { json!([{ "name": header, "value": value, "type": "RegularExpression" }]) } else { json!([]) };
        json!({ "path": { "type": kind, "value": path }, "headers": headers })
    }
}

prop_compose! {
    fn rules()(list in prop::collection::vec((prop::collection::vec(condition(), 0..3), prop::collection::vec(filter(), 0..2), backends(), text()), 0..3)) -> Value {
        list.into_iter().map(|(matches, filters, backends, limit)| json!({ "matches": matches, "filters": filters, "backendRefs": backends, "timeouts": { "request": limit } })).collect()
    }
}

fn object() -> impl Strategy<Value = (ObjectKind, Value)> {
    prop_oneof![
        (metadata(), listeners()).prop_map(|(metadata, listeners)| (
            ObjectKind::Gateway,
            json!({ "metadata": metadata, "spec": { "gatewayClassName": "xebec", "listeners": listeners, "allowedListeners": { "namespaces": { "from": "All" } } } })
        )),
        (metadata(), listeners(), name(), namespace()).prop_map(|(metadata, listeners, name, namespace)| (
            ObjectKind::ListenerSet,
            json!({ "metadata": metadata, "spec": { "parentRef": { "name": name, "namespace": namespace }, "listeners": listeners } })
        )),
        (metadata(), parents(), prop::collection::vec(text(), 0..3), rules()).prop_map(|(metadata, parents, hostnames, rules)| (
            ObjectKind::HttpRoute,
            json!({ "metadata": metadata, "spec": { "parentRefs": parents, "hostnames": hostnames, "rules": rules } })
        )),
        (metadata(), parents(), text(), text(), backends()).prop_map(|(metadata, parents, service, method, backends)| (
            ObjectKind::GrpcRoute,
            json!({ "metadata": metadata, "spec": { "parentRefs": parents, "rules": [{ "matches": [{ "method": { "service": service, "method": method } }], "backendRefs": backends }] } })
        )),
        (metadata(), parents(), text(), backends()).prop_map(|(metadata, parents, host, backends)| (
            ObjectKind::TlsRoute,
            json!({ "metadata": metadata, "spec": { "parentRefs": parents, "hostnames": [host], "rules": [{ "backendRefs": backends }] } })
        )),
        (metadata(), parents(), backends()).prop_map(|(metadata, parents, backends)| (
            ObjectKind::TcpRoute,
            json!({ "metadata": metadata, "spec": { "parentRefs": parents, "rules": [{ "backendRefs": backends }] } })
        )),
        (metadata(), text(), text()).prop_map(|(metadata, hostname, authorities)| (
            ObjectKind::BackendTlsPolicy,
            json!({ "metadata": metadata, "spec": { "targetRefs": [{ "group": "", "kind": "Service", "name": "web" }], "validation": { "hostname": hostname, "wellKnownCACertificates": authorities } } })
        )),
        (metadata(), text(), text(), text(), port()).prop_map(|(metadata, host, path, service, port)| (
            ObjectKind::Ingress,
            json!({ "metadata": metadata, "spec": { "ingressClassName": "xebec", "tls": [{ "hosts": [host], "secretName": "cert" }], "rules": [{ "host": host, "http": { "paths": [{ "path": path, "pathType": "Prefix", "backend": { "service": { "name": service, "port": { "number": port } } } }] } }] } })
        )),
    ]
}

fn converter(objects: &[(ObjectKind, Value)]) -> Converter {
    let mut converter = Converter::new(Settings::default());
    let class = json!({ "metadata": { "name": "xebec" }, "spec": { "controllerName": "xebec.io/gateway-controller" } });
    let ingresses = json!({ "metadata": { "name": "xebec" }, "spec": { "controller": "xebec.io/ingress-controller" } });
    converter.set(Object::from_json(ObjectKind::GatewayClass, class).unwrap()).unwrap();
    converter.set(Object::from_json(ObjectKind::IngressClass, ingresses).unwrap()).unwrap();
    for (kind, json) in objects {
        if let Ok(object) = Object::from_json(*kind, json.clone()) {
            converter.set(object).unwrap();
        }
    }
    converter
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_objects_convert_to_sound_resources_whatever_their_order(all in prop::collection::vec(object(), 0..12), turn in 0..12usize) {
        // One object per name: the last of two would win, as it should.
        let mut seen = std::collections::BTreeSet::new();
        let mut all: Vec<_> = all
            .into_iter()
            .filter(|(kind, json)| seen.insert((*kind, json["metadata"]["name"].to_string(), json["metadata"]["namespace"].to_string())))
            .collect();
        let cluster = Cluster::default();
        let one = converter(&all).convert(&cluster);
        accepted_by_galley(&one);
        let turned = turn.min(all.len());
        all.rotate_left(turned);
        all.reverse();
        prop_assert_eq!(one, converter(&all).convert(&cluster));
    }
}
