//! HTTP proxies that a Sidecar resource declares.

use serde_json::{Value, json};

use super::fqdn;
use crate::model::Protocol;
use crate::resources::ResourceType;
use crate::translate::fixture::{MeshBuilder, Seen, http, json as to_json, mesh, sidecar};

fn shop(egress: Value) -> MeshBuilder {
    mesh()
        .service("a", |s| s.http(80).port("admin", 9090, Protocol::Auto).port("db", 5432, Protocol::Tcp))
        .service_in("other", "b", |s| s.http(9001))
        .sidecar_resource("s", json!({"egress": egress}))
}

fn proxy(hosts: &str) -> Value {
    json!({"port": {"number": 3128, "protocol": "HTTP_PROXY", "name": "proxy"}, "bind": "127.0.0.1", "captureMode": "NONE", "hosts": [hosts]})
}

fn domains(seen: &Seen, table: &str) -> Vec<String> {
    let prefix = format!("{table}/");
    let hosts = seen.names(ResourceType::VirtualHost).into_iter().filter_map(|n| n.strip_prefix(&prefix));
    hosts.flat_map(|name| seen.host(table, name).domains).collect()
}

#[test]
fn a_declared_http_proxy_listens_and_knows_the_ports_of_what_it_imports() {
    let seen = shop(json!([proxy("./*")])).sidecar();
    let listener = seen.listener("127.0.0.1_3128");
    assert_eq!(listener.bind_to_port, None);
    assert_eq!(to_json(&http(&listener.filter_chains[0]))["rds"]["routeConfigName"], "3128");
    assert_eq!(seen.origins(ResourceType::Listener, "127.0.0.1_3128"), ["s.yaml"]);
    let found = domains(&seen, "3128");
    for name in [format!("{}:80", fqdn("a")), fqdn("a"), format!("{}:9090", fqdn("a")), "a:9090".to_owned()] {
        assert!(found.contains(&name), "{name} is missing in {found:?}");
    }
    assert!(!found.iter().any(|d| d.contains(":5432")), "no requests: {found:?}");
    assert!(!found.iter().any(|d| d.contains("9001")), "not imported: {found:?}");
    // Nothing but the proxy imports anything, and its port is nobody else's.
    assert_eq!(seen.names(ResourceType::Listener), ["127.0.0.1_3128", "virtualInbound", "virtualOutbound"]);
    assert_eq!(to_json(&seen.table("3128"))["virtualHosts"][0]["name"], "block_all");
}

#[test]
fn a_declared_http_proxy_stands_beside_what_is_captured() {
    let seen = shop(json!([proxy("other/*"), {"hosts": ["./*"]}])).sidecar();
    let found = domains(&seen, "3128");
    assert!(found.contains(&"b.other.svc.cluster.local:9001".to_owned()), "{found:?}");
    assert!(!found.iter().any(|d| d.starts_with('a')), "{found:?}");
    assert!(domains(&seen, "80").contains(&fqdn("a")));
    assert!(!seen.has(ResourceType::Listener, "0.0.0.0_9001"), "only the proxy imports it");
}

#[test]
fn a_declared_http_proxy_exists_before_there_is_a_service() {
    let seen = mesh().sidecar_resource("s", json!({"egress": [proxy("*/*")]})).sidecar();
    assert!(seen.has(ResourceType::Listener, "127.0.0.1_3128") && seen.has(ResourceType::Route, "3128"));
}

#[test]
fn a_port_that_is_an_http_proxys_is_no_services() {
    let seen = shop(json!([proxy("*/*"), {"hosts": ["*/*"]}]))
        .service("clash", |s| s.http(3128))
        .seen_by(&sidecar().explicit("127.0.0.1", Some(3128)));
    assert_eq!(to_json(&http(&seen.listener("127.0.0.1_3128").filter_chains[0]))["rds"]["routeConfigName"], "3128");
    assert!(domains(&seen, "3128").contains(&format!("{}:3128", fqdn("clash"))));
}

#[test]
fn hosts_that_only_a_rule_has_are_behind_the_proxy_that_imports_them() {
    let rule = json!({"hosts": ["front.example"], "http": [{"route": [{"destination": {"host": "a"}}]}]});
    let domains =
        |hosts: &str| domains(&shop(json!([proxy(hosts)])).virtual_service("v", rule.clone()).sidecar(), "3128");
    assert!(domains("./*").contains(&"front.example:80".to_owned()));
    assert!(!domains("other/*").contains(&"front.example:80".to_owned()));
}
