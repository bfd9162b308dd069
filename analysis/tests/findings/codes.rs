//! Every code, with files that deserve it and files, as like as can be, that do not.

use xebec_analysis::codes::ALL;

use crate::files::{Files, files};

struct Case {
    code: &'static str,
    wrong: Files,
    right: Files,
}

fn case(code: &'static str, wrong: Files, right: Files) -> Case {
    Case { code, wrong, right }
}

const SHOP: &[&str] = &["http:80"];

fn edge() -> Files {
    files().deployment("edge", "{istio: edge, app: edge}")
}

fn server(host: &str) -> String {
    format!("{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['{host}']}}")
}

fn tls_server(host: &str, secret: &str) -> String {
    format!(
        "{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['{host}'], tls: {{mode: SIMPLE, credentialName: {secret}}}}}"
    )
}

fn secret(keys: &str) -> Files {
    edge().object("v1", "Secret", "web", &format!("data: {keys}")).gateway("a", &tls_server("a.com", "web"))
}

fn pod(annotations: &str) -> Files {
    files().yaml(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, annotations: {annotations}}}\nspec: {{containers: []}}"
    ))
}

fn filter(rest: &str, apply: &str, operation: &str) -> Files {
    let spec = format!("{{{rest}configPatches: [{{applyTo: {apply}, patch: {{operation: {operation}}}}}]}}");
    files().istio("EnvoyFilter", "f", &spec)
}

fn tls_rule(tls: &str) -> Files {
    files().istio("DestinationRule", "r", &format!("{{host: a.com, trafficPolicy: {{tls: {tls}}}}}"))
}

fn port_rule(tls: &str) -> Files {
    let policy = format!("{{portLevelSettings: [{{port: {{number: 443}}, tls: {tls}}}]}}");
    files().istio("DestinationRule", "r", &format!("{{host: a.com, trafficPolicy: {policy}}}"))
}

fn entry(name: &str, rest: &str) -> Files {
    files().istio("ServiceEntry", name, &format!("{{hosts: [a.com], resolution: DNS, {rest}}}"))
}

fn joined(a: Files, name: &str, rest: &str) -> Files {
    a.istio("ServiceEntry", name, &format!("{{hosts: [a.com], resolution: DNS, {rest}}}"))
}

fn telemetry(files: Files, name: &str, spec: &str) -> Files {
    files.object("telemetry.istio.io/v1", "Telemetry", name, &format!("spec: {spec}"))
}

fn two_services(a: &str, b: &str) -> Files {
    let service = |port: &str| format!("spec: {{selector: {{app: w}}, ports: [{port}]}}");
    files().deployment("w", "{app: w}").object("v1", "Service", "a", &service(a)).object(
        "v1",
        "Service",
        "b",
        &service(b),
    )
}

fn rules(first: &str, second: &str) -> Files {
    let route = "route: [{destination: {host: a.com}}]";
    let spec = format!("{{hosts: [a.com], http: [{{match: [{first}], {route}}}, {{match: [{second}], {route}}}]}}");
    files().istio("VirtualService", "v", &spec)
}

fn at_gateway(host: &str) -> Files {
    let spec = format!("{{hosts: [{host}], gateways: [a], http: [{{route: [{{destination: {{host: shop}}}}]}}]}}");
    files().gateway("a", &server("*.a.com")).istio("VirtualService", "v", &spec)
}

fn automatic(kind: &str, injection: &str) -> Files {
    let (version, spec) = match kind {
        "Pod" => ("v1", "spec: {containers: [{name: istio-proxy, image: auto}]}"),
        _ => ("apps/v1", "spec: {template: {spec: {containers: [{name: istio-proxy, image: auto}]}}}"),
    };
    files().namespace("default", &format!("{{istio-injection: {injection}}}")).object(version, kind, "g", spec)
}

fn running(containers: &str) -> Files {
    let rest = format!("spec: {{containers: [{containers}]}}\nstatus: {{phase: Running}}");
    files().namespace("default", "{istio-injection: enabled}").object("v1", "Pod", "p", &rest)
}

fn external(port: &str) -> Files {
    let spec = format!("spec: {{type: ExternalName, externalName: a.com, ports: [{{name: {port}, port: 9}}]}}");
    files().object("v1", "Service", "e", &spec)
}

fn claims(authentication: bool) -> Files {
    let spec = "{hosts: [a.com], gateways: [a], http: [{match: [{headers: {'@request.auth.claims.sub': {exact: x}}}], route: [{destination: {host: shop}}]}]}";
    let all = edge().gateway("a", &server("a.com")).istio("VirtualService", "v", spec);
    if !authentication {
        return all;
    }
    let spec = "spec: {selector: {matchLabels: {istio: edge}}}";
    all.object("security.istio.io/v1", "RequestAuthentication", "r", spec)
}

fn registry(protocol: &str) -> Files {
    let service = "services: [{host: shop.default.svc.cluster.local, namespace: default, ports: [{name: http, number: 80, protocol: PROTOCOL}], instances: []}]";
    files().service("shop", SHOP).yaml(&service.replace("PROTOCOL", protocol))
}

fn sidecar(files: Files, name: &str, selector: &str) -> Files {
    files.istio("Sidecar", name, &format!("{{{selector}egress: [{{hosts: ['./*']}}]}}"))
}

fn networking() -> Vec<Case> {
    let same = |a: &str, b: &str| files().route("a", a, "{host: shop}").route("b", b, "{host: shop}");
    let app = |value: &str| format!("workloadSelector: {{labels: {{app: {value}}}}}, ");
    vec![
        case(
            "IST0002",
            files().istio("VirtualService", "v", "{hosts: [a.com], http: [{route: [{destination: {host: a.com}}], mirror: {host: b.com}, mirrorPercent: 5}]}"),
            files().istio("VirtualService", "v", "{hosts: [a.com], http: [{route: [{destination: {host: a.com}}], mirror: {host: b.com}, mirrorPercentage: {value: 5}}]}"),
        ),
        case(
            "IST0101",
            files().service("shop", SHOP).route("v", "shop", "{host: shpo}"),
            files().service("shop", SHOP).route("v", "shop", "{host: shop}"),
        ),
        case("IST0106", files().istio("Sidecar", "s", "{egres: []}"), files().istio("Sidecar", "s", "{egress: [{hosts: ['*/*']}]}")),
        case("IST0109", same("shop", "shop.default.svc.cluster.local"), same("shop", "web")),
        case(
            "IST0110",
            sidecar(sidecar(files().deployment("w", "{app: w, tier: x}"), "a", &app("w")), "b", "workloadSelector: {labels: {tier: x}}, "),
            sidecar(sidecar(files().deployment("w", "{app: w}").deployment("x", "{app: x}"), "a", &app("w")), "b", &app("x")),
        ),
        case("IST0111", sidecar(sidecar(files(), "a", ""), "b", ""), sidecar(sidecar(files(), "a", ""), "b", &app("x"))),
        case(
            "IST0112",
            files().service("shop", &["http:80", "grpc:90"]).route("v", "shop", "{host: shop}"),
            files().service("shop", &["http:80", "grpc:90"]).route("v", "shop", "{host: shop, port: {number: 90}}"),
        ),
        case("IST0128", tls_rule("{mode: SIMPLE}"), tls_rule("{mode: SIMPLE, caCertificates: /ca.pem}")),
        case("IST0129", port_rule("{mode: SIMPLE}"), port_rule("{mode: SIMPLE, caCertificates: /ca.pem}")),
        case("IST0130", rules("{uri: {prefix: /a}}", "{uri: {exact: /a/b}}"), rules("{uri: {exact: /a/b}}", "{uri: {prefix: /a}}")),
        case(
            "IST0131",
            rules("{uri: {prefix: /a}}", "{uri: {prefix: /a/b}}, {uri: {prefix: /b}}"),
            rules("{uri: {prefix: /a}}", "{uri: {prefix: /c}}, {uri: {prefix: /b}}"),
        ),
        case("IST0132", at_gateway("b.com"), at_gateway("b.a.com")),
        case(
            "IST0133",
            files().istio("ServiceEntry", "e", "{hosts: [a.com], resolution: DNS}"),
            entry("e", "ports: [{number: 80, name: http, protocol: HTTP}]"),
        ),
        case(
            "IST0134",
            entry("e", "ports: [{number: 9, name: db, protocol: TCP}]"),
            entry("e", "addresses: [10.0.0.1], ports: [{number: 9, name: db, protocol: TCP}]"),
        ),
        case(
            "IST0138",
            files().gateway("a", &tls_server("a.com", "web")).gateway("b", &tls_server("b.com", "web")),
            files().gateway("a", &tls_server("a.com", "web")).gateway("b", &tls_server("b.com", "other")),
        ),
        case(
            "IST0140",
            at_gateway("b.a.com").route("w", "shop", "{host: shop, subset: v1}"),
            at_gateway("b.a.com").route("w", "shop", "{host: shop}"),
        ),
        case(
            "IST0145",
            files().gateway("a", &server("a.com")).gateway("b", &server("a.com")),
            files().gateway("a", &server("a.com")).gateway("b", &server("b.com")),
        ),
        case("IST0149", claims(false), claims(true)),
        case("IST0161", secret("{tls.crt: YQ==}"), secret("{tls.crt: YQ==, tls.key: YQ==}")),
        case(
            "IST0162",
            edge().service("edge", &["http:8080"]).gateway("a", &server("a.com")),
            edge().service("edge", &["http:80"]).gateway("a", &server("a.com")),
        ),
        case(
            "IST0173",
            files().service("shop", SHOP).deployment("shop-v1", "{app: shop, version: v1}").versions("shop", &["v2"]),
            files().service("shop", SHOP).deployment("shop-v1", "{app: shop, version: v1}").versions("shop", &["v1"]),
        ),
        case("IST0174", files().service("shop", SHOP).versions("shpo", &[]), files().service("shop", SHOP).versions("shop", &[])),
        case(
            "IST0177",
            joined(entry("e", "ports: [{number: 80, name: http, protocol: HTTP}]"), "f", "ports: [{number: 80, name: tcp, protocol: GRPC}]"),
            joined(entry("e", "ports: [{number: 80, name: http, protocol: HTTP}]"), "f", "ports: [{number: 81, name: tcp, protocol: GRPC}]"),
        ),
        case(
            "XBC0001",
            files().istio("DestinationRule", "r", "{host: a.com, trafficPolicy: {tunnel: {protocol: CONNECT, targetHost: b.com, targetPort: 1}}}"),
            files().istio("DestinationRule", "r", "{host: a.com, trafficPolicy: {loadBalancer: {simple: RANDOM}}}"),
        ),
        case("XBC0101", registry("tcp"), registry("http")),
    ]
}

fn platform() -> Vec<Case> {
    let user = |user: &str| {
        files().object(
            "v1",
            "Pod",
            "p",
            &format!("spec: {{containers: [{{name: a, securityContext: {{runAsUser: {user}}}}}]}}"),
        )
    };
    let policy = |app: &str| {
        let spec = format!("spec: {{selector: {{matchLabels: {{app: {app}}}}}}}");
        files().deployment("w", "{app: w}").object("security.istio.io/v1", "AuthorizationPolicy", "a", &spec)
    };
    let for_app = "{selector: {matchLabels: {app: w}}}";
    vec![
        case("IST0102", files().namespace("shop", "{}"), files().namespace("shop", "{istio-injection: disabled}")),
        case("IST0103", running("{name: a}"), running("{name: a}, {name: istio-proxy}")),
        case(
            "IST0107",
            files().yaml("apiVersion: v1\nkind: Service\nmetadata: {name: s, annotations: {sidecar.istio.io/proxyCPU: 1m}}\nspec: {ports: []}"),
            pod("{sidecar.istio.io/proxyCPU: 1m}"),
        ),
        case("IST0108", pod("{sidecar.istio.io/proxCPU: 1m}"), pod("{sidecar.example.com/proxCPU: 1m}")),
        case(
            "IST0116",
            two_services("{port: 80}", "{port: 80, protocol: UDP}"),
            two_services("{port: 80}", "{port: 81, protocol: UDP}"),
        ),
        case("IST0118", files().service("s", &["web:80"]), files().service("s", &["http-web:80"])),
        case(
            "IST0123",
            files().namespace("shop", "{istio-injection: enabled, istio.io/rev: a}"),
            files().namespace("shop", "{istio.io/rev: a}"),
        ),
        case(
            "IST0125",
            pod("{traffic.sidecar.istio.io/excludeOutboundPorts: '80,x'}"),
            pod("{traffic.sidecar.istio.io/excludeOutboundPorts: '80,81'}"),
        ),
        case("IST0127", policy("x"), policy("w")),
        case("IST0135", pod("{sidecar.istio.io/inject: 'true'}"), pod("{proxy.istio.io/config: ''}")),
        case("IST0136", pod("{sidecar.istio.io/logLevel: debug}"), pod("{proxy.istio.io/config: ''}")),
        case(
            "IST0137",
            two_services("{port: 80, targetPort: 8080}", "{port: 81, targetPort: 8080}"),
            two_services("{port: 80, targetPort: 8080}", "{port: 81, targetPort: 8081}"),
        ),
        case("IST0144", user("1337"), user("1000")),
        case("IST0146", automatic("Deployment", "disabled"), automatic("Deployment", "enabled")),
        case("IST0147", automatic("Pod", "disabled"), automatic("Pod", "enabled")),
        case("IST0150", external("tcp"), external("https")),
        case("IST0151", filter("", "CLUSTER", "MERGE"), filter("priority: 1, ", "CLUSTER", "MERGE")),
        case("IST0152", filter("", "CLUSTER", "REPLACE"), filter("", "HTTP_FILTER", "REPLACE")),
        case("IST0153", filter("", "HTTP_ROUTE", "ADD"), filter("", "CLUSTER", "ADD")),
        case("IST0154", filter("", "HTTP_ROUTE", "REMOVE"), filter("", "CLUSTER", "REMOVE")),
        case(
            "IST0155",
            files().istio("EnvoyFilter", "f", "{configPatches: [{applyTo: CLUSTER, match: {proxy: {proxyVersion: '^1'}}, patch: {operation: MERGE}}]}"),
            filter("", "CLUSTER", "MERGE"),
        ),
        case(
            "IST0159",
            telemetry(telemetry(files(), "a", for_app), "b", for_app),
            telemetry(telemetry(files(), "a", for_app), "b", "{}"),
        ),
        case(
            "IST0160",
            telemetry(telemetry(files(), "a", "{}"), "b", "{}"),
            telemetry(telemetry(files(), "a", for_app), "b", "{}"),
        ),
    ]
}

#[test]
fn every_code_is_found_where_it_belongs_and_not_beside_it() {
    let cases: Vec<Case> = networking().into_iter().chain(platform()).collect();
    for case in &cases {
        let (wrong, right) = (case.wrong.codes(), case.right.codes());
        assert!(wrong.contains(&case.code), "{} is not found in\n{:#?}\nbut {wrong:?}", case.code, case.wrong);
        assert!(!right.contains(&case.code), "{} is found in\n{:#?}", case.code, case.right.lines());
    }
    for message in ALL {
        assert!(cases.iter().any(|case| case.code == message.code), "{} has no case", message.code);
    }
}

#[test]
fn a_finding_points_at_its_field() {
    for case in networking().into_iter().chain(platform()) {
        let findings = case.wrong.findings();
        let finding = findings.iter().find(|finding| finding.message.code == case.code).unwrap();
        assert!(finding.diagnostic.snippet.is_some(), "{} has no lines to show", case.code);
        assert!(!finding.subject.name.is_empty(), "{} names no resource", case.code);
    }
}
