#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn registry() -> RegistryId {
    RegistryId("file:test".into())
}

fn good(text: &str) -> Vec<Entry> {
    let checked = check("s.yaml", text.as_bytes(), &registry());
    checked.entries.unwrap_or_else(|| panic!("{}", checked.diagnostics[0].render(false)))
}

/// `LINE:COLUMN: MESSAGE (HELP)` of each mistake.
fn bad(text: &str) -> Vec<String> {
    let checked = check("s.yaml", text.as_bytes(), &registry());
    assert!(checked.entries.is_none());
    let short = |d: &Diagnostic| {
        format!("{}:{}: {} ({})", d.source.line, d.source.column, d.message, d.help.as_deref().unwrap_or("-"))
    };
    checked.diagnostics.iter().map(short).collect()
}

const FULL: &str = r#"
services:
- host: Reviews.Default.svc.cluster.local
  namespace: shop
  addresses: [10.0.0.5, 10.1.0.0/16]
  resolution: static
  external: true
  labels: {app: reviews}
  ports:
  - {name: http, number: 9080, protocol: http}
  - {name: grpc-internal, number: 9081}
  instances:
  - address: 127.0.0.1
    name: reviews-v1
    ports: {http: 20011}
    app: {http: "127.0.0.1:30011", grpc-internal: 30012}
    labels: {version: v1}
    locality: eu/eu-1/rack-7
    weight: 3
    service-account: reviews
    health: draining
    network: n1
  - address: unix:///run/reviews.sock
"#;

#[test]
fn everything_that_can_be_written_arrives() {
    let entries = good(FULL);
    let [Entry { service, endpoints }] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(service.key, ServiceKey::new("reviews.default.svc.cluster.local", "shop"));
    assert_eq!(service.addresses, ["10.0.0.5/32".parse().unwrap(), "10.1.0.0/16".parse().unwrap()]);
    assert!(service.external);
    assert_eq!(service.labels, [(Arc::from("app"), Arc::from("reviews"))].into());
    assert_eq!(service.ports[0], Port { name: "http".into(), number: 9080, protocol: Protocol::Http });
    assert_eq!(service.ports[1].protocol, Protocol::Grpc);
    assert_eq!(service.registry, registry());
    let endpoint = &endpoints[0];
    assert_eq!(endpoint.address, Address::Ip("127.0.0.1".parse().unwrap()));
    assert_eq!(endpoint.ports, [(Arc::from("http"), 20011)].into());
    let app = [
        (Arc::from("http"), "127.0.0.1:30011".parse().unwrap()),
        (Arc::from("grpc-internal"), "127.0.0.1:30012".parse().unwrap()),
    ];
    assert_eq!(endpoint.app, app.into());
    assert_eq!(endpoint.locality, Locality { region: "eu".into(), zone: "eu-1".into(), subzone: "rack-7".into() });
    assert_eq!((endpoint.weight, endpoint.health), (3, Health::Draining));
    assert_eq!(
        (endpoint.service_account.as_deref(), endpoint.workload.as_deref()),
        (Some("reviews"), Some("reviews-v1"))
    );
    assert_eq!(&*endpoint.network, "n1");
    assert_eq!(endpoints[1].address, Address::Unix("/run/reviews.sock".into()));
    assert_eq!((endpoints[1].weight, endpoints[1].health), (1, Health::Healthy));
}

#[test]
fn protocols_come_from_the_ports_name_when_they_are_not_written() {
    let text = "services:\n- host: a\n  ports:\n  - {name: http-admin, number: 1}\n  - {name: grpc-web-x, number: 2}\n  - {name: main, number: 3}\n  - {name: udp, number: 4, protocol: TCP}\n";
    let protocols: Vec<_> = good(text)[0].service.ports.iter().map(|port| port.protocol).collect();
    assert_eq!(protocols, [Protocol::Http, Protocol::GrpcWeb, Protocol::Auto, Protocol::Tcp]);
}

#[test]
fn names_are_addresses_only_where_dns_resolves_them() {
    let with = |resolution: &str| {
        format!(
            "services:\n- host: a.example\n  resolution: {resolution}\n  ports: [{{name: http, number: 80}}]\n  instances: [{{address: API.example.com}}]\n"
        )
    };
    assert_eq!(good(&with("dns"))[0].endpoints[0].address, Address::Dns("api.example.com".into()));
    assert_eq!(good(&with("dns-round-robin"))[0].service.resolution, Resolution::DnsRoundRobin);
    assert!(bad(&with("static"))[0].contains("resolution: dns"));
    assert!(bad(&with("passthrough"))[0].contains("passthrough has no instances"));
}

#[test]
fn an_empty_file_has_no_services_and_several_documents_are_one() {
    assert!(good("").is_empty());
    assert!(good("# only a comment\n").is_empty());
    let text = "services:\n- {host: a, ports: [{name: http, number: 1}]}\n---\nservices:\n- {host: b, ports: [{name: http, number: 1}]}\n";
    assert_eq!(good(text).len(), 2);
    assert_eq!(good(r#"{"services": [{"host": "a", "ports": [{"name": "http", "number": 1}]}]}"#).len(), 1);
}

#[test]
fn a_mistake_is_shown_with_its_place_a_caret_and_what_to_do() {
    let text = "services:\n- host: a\n  ports:\n  - {name: http, number: 80, protocol: htp}\n";
    let problems = check("s.yaml", text.as_bytes(), &registry()).diagnostics;
    assert_eq!(bad(text), ["4:40: unknown protocol `htp` (did you mean `http`?)"]);
    assert_eq!(problems[0].path, "services[0].ports[0].protocol");
    let shown = problems[0].render(false);
    for part in ["s.yaml:4:40", "protocol: htp}", "^^^", "did you mean `http`?"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn documents_of_kubernetes_form_are_left_to_others() {
    let istio = "apiVersion: networking.istio.io/v1\nkind: Gateway\nnonsense: [\"a\"]\n---\n";
    assert!(good(istio).is_empty());
    let mixed = istio.to_owned() + "services:\n- {host: a, ports: [{name: http, number: 1}]}\n---\n" + istio;
    assert_eq!(good(&mixed).len(), 1);
    assert!(bad(&mixed.replace("number: 1", "number: 0"))[0].starts_with("6:"));
}

#[test]
fn all_mistakes_of_a_file_are_reported_at_once() {
    let text = r#"
services:
- host: a b
  addresses: [10.0.0.300]
  ports:
  - {name: http, number: 0}
  - {name: http, number: 81}
  - {name: web, number: 81}
  instances:
  - {address: 10.0.0.1:80}
  - {address: 10.0.0.400, weight: 0, locality: a/b/c/d}
  - {address: 10.0.0.1, ports: {htpp: 80}, app: {http: "localhost:80"}}
- {host: b, ports: []}
- {host: c, ports: [{name: http, number: 80}]}
- {host: C, ports: [{name: http, number: 80}]}
"#;
    let problems = bad(text);
    let expected = [
        (3, "is not a hostname"),
        (6, "0 is not a port"),
        (7, "two ports named `http`"),
        (8, "same number"),
        (4, "is not an address or a network"),
        (10, "the port goes into `ports`"),
        (11, "a weight is at least 1"),
        (11, "at most three parts"),
        (11, "is not an address"),
        (12, "did you mean `http`?"),
        (12, "is not where an application can listen"),
        (13, "at least one port"),
        (15, "is written twice"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (line, what) in expected {
        assert!(
            problems.iter().any(|p| p.starts_with(&format!("{line}:")) && p.contains(what)),
            "{line} {what}: {problems:#?}"
        );
    }
}

#[test]
fn unknown_keys_and_values_are_refused_with_a_suggestion() {
    for (text, line, expected) in [
        ("services:\n- host: a\n  prots: []\n", 3, "did you mean `ports`?"),
        ("services:\n- host: a\n  resolution: statik\n  ports: []\n", 3, "did you mean `static`?"),
        ("services:\n- namespace: a\n  ports: []\n", 2, "host"),
        ("services:\n- host: a\n  ports: [{name: http, number: 70000}]\n", 3, ""),
        ("serivces: []\n", 1, "did you mean `services`?"),
        ("services: [{\n", 0, ""),
    ] {
        let problems = bad(text);
        assert!(problems[0].contains(expected), "{problems:?}");
        if line > 0 {
            assert!(problems[0].starts_with(&format!("{line}:")), "{problems:?}");
        }
    }
}

#[test]
fn the_schema_describes_every_key() {
    let schema = crate::format::schema();
    let text = schema.to_string();
    for key in ["services", "host", "resolution", "dns-round-robin", "service-account", "app", "locality", "draining"] {
        assert!(text.contains(&format!("{key:?}")), "{key}");
    }
    assert_eq!(schema["additionalProperties"], false);
}
