//! Gateway proxies.

use serde_json::{Value, json};

use super::{cluster, fqdn};
use crate::resources::ResourceType;
use crate::translate::fixture::{MeshBuilder, Seen, http, json as to_json, mesh, router};
use xebec_galley::Kind;

fn server(number: u16, protocol: &str, hosts: &[&str]) -> Value {
    json!({"port": {"number": number, "name": format!("p{number}"), "protocol": protocol}, "hosts": hosts})
}

fn edge(servers: Value) -> MeshBuilder {
    mesh()
        .service("productpage", |s| s.http(9080).endpoint("10.0.0.1", "v1"))
        .gateway("edge", json!({"selector": {"istio": "ingressgateway"}, "servers": servers}))
}

fn rule(hosts: &[&str], http: Value) -> Value {
    json!({"hosts": hosts, "gateways": ["edge"], "http": http})
}

fn to_page() -> Value {
    json!([{"destination": {"host": "productpage", "port": {"number": 9080}}}])
}

fn see(built: MeshBuilder) -> Seen {
    built.seen_by(&router())
}

fn hosts(seen: &Seen, table: &str) -> Vec<(String, usize)> {
    seen.table(table).virtual_hosts.into_iter().map(|h| (h.name, h.routes.len())).collect()
}

#[test]
fn the_bookinfo_gateway_serves_its_rule() {
    let seen = see(edge(json!([server(8080, "HTTP", &["*"])])).virtual_service(
        "bookinfo",
        rule(&["*"], json!([{"match": [{"uri": {"exact": "/productpage"}}, {"uri": {"prefix": "/static"}}], "route": to_page()}])),
    ));
    insta::assert_json_snapshot!("bookinfo_table", to_json(&seen.table("http.8080")));
    let listener = seen.listener("0.0.0.0_8080");
    assert_eq!(listener.bind_to_port, None);
    let manager = http(&listener.filter_chains[0]);
    assert_eq!(manager.use_remote_address.map(|v| v.value), Some(true));
    assert!(seen.has(ResourceType::Cluster, &cluster(9080, "", "productpage")));
    assert!(!seen.has(ResourceType::Listener, "virtualOutbound"));
    assert_eq!(seen.origins(ResourceType::Route, "http.8080"), ["edge.yaml", "bookinfo.yaml"]);
}

#[test]
fn a_gateway_without_rules_answers_404() {
    let table = to_json(&see(edge(json!([server(80, "HTTP", &["*"])]))).table("http.80"));
    assert_eq!(table["virtualHosts"][0]["name"], "blackhole:80");
    assert_eq!(table["virtualHosts"][0]["routes"][0]["directResponse"]["status"], 404);
}

#[test]
fn rules_of_one_host_are_merged_the_oldest_first_and_what_matches_everything_last() {
    let named = |name: &str, condition: Value| json!([{"name": name, "match": condition, "route": to_page()}]);
    let seen = see(edge(json!([server(80, "HTTP", &["*"])]))
        .virtual_service("z", rule(&["a.com"], named("everything", json!([{"uri": {"prefix": "/"}}]))))
        .virtual_service("y", rule(&["a.com", "b.com"], named("first", json!([{"uri": {"prefix": "/1"}}]))))
        .virtual_service("x", rule(&["a.com"], named("second", json!([{"uri": {"prefix": "/2"}}])))));
    let table = seen.table("http.80");
    let names: Vec<_> = table.virtual_hosts[0].routes.iter().map(|r| r.name.as_str()).collect();
    assert_eq!((table.virtual_hosts[0].name.as_str(), names), ("a.com:80", vec!["first", "second", "everything"]));
    assert_eq!(hosts(&seen, "http.80")[1], ("b.com:80".to_owned(), 1));
}

#[test]
fn a_rule_has_only_the_hosts_that_the_server_has_too() {
    let seen = see(edge(json!([server(80, "HTTP", &["*.a.com", "other/b.com", "./c.com", "exact.d.com"])]))
        .virtual_service("r", rule(&["x.a.com", "b.com", "c.com", "*.d.com", "e.com"], json!([{"route": to_page()}]))));
    assert_eq!(
        hosts(&seen, "http.80").into_iter().map(|(n, _)| n).collect::<Vec<_>>(),
        ["c.com:80", "exact.d.com:80", "x.a.com:80"]
    );
}

#[test]
fn a_rule_for_the_mesh_is_not_for_the_gateway() {
    let seen = see(edge(json!([server(80, "HTTP", &["*"])]))
        .virtual_service("r", json!({"hosts": ["a.com"], "http": [{"route": to_page()}]}))
        .add("other", Kind::VirtualService, "far", json!({"hosts": ["b.com"], "gateways": ["default/edge"], "http": [{"route": [{"destination": {"host": fqdn("productpage")}}]}]})));
    assert_eq!(hosts(&seen, "http.80"), [("b.com:80".to_owned(), 1)]);
}

#[test]
fn plain_http_is_redirected_where_the_server_says() {
    let mut redirecting = server(80, "HTTP", &["a.com"]);
    redirecting["tls"] = json!({"httpsRedirect": true});
    let table = to_json(&see(edge(json!([redirecting]))).table("http.80"));
    assert_eq!(
        (&table["virtualHosts"][0]["domains"], &table["virtualHosts"][0]["requireTls"]),
        (&json!(["a.com"]), &json!("ALL"))
    );
}

#[test]
fn tls_is_passed_through_by_server_name() {
    let mut passing = server(443, "TLS", &["*.a.com"]);
    passing["tls"] = json!({"mode": "PASSTHROUGH"});
    let seen = see(edge(json!([passing])).virtual_service(
        "r",
        json!({"hosts": ["x.a.com"], "gateways": ["edge"], "tls": [{"match": [{"port": 443, "sniHosts": ["x.a.com"]}], "route": to_page()}]}),
    ));
    let listener = to_json(&seen.listener("0.0.0.0_443"));
    assert_eq!(listener["filterChains"][0]["filterChainMatch"]["serverNames"], json!(["x.a.com"]));
    assert_eq!(listener["filterChains"][0]["filters"][0]["typedConfig"]["cluster"], cluster(9080, "", "productpage"));
}

#[test]
fn bytes_go_where_the_rule_says() {
    let seen = see(edge(json!([server(3306, "TCP", &["*"])])).virtual_service(
        "r",
        json!({"hosts": ["*"], "gateways": ["edge"], "tcp": [{"match": [{"port": 3306}], "route": to_page()}]}),
    ));
    let listener = to_json(&seen.listener("0.0.0.0_3306"));
    assert_eq!(listener["filterChains"][0]["filters"][0]["typedConfig"]["cluster"], cluster(9080, "", "productpage"));
}

#[test]
fn what_is_not_done_is_said_by_name_and_place() {
    let mut terminating = server(443, "HTTPS", &["*"]);
    terminating["tls"] = json!({"mode": "SIMPLE", "credentialName": "c"});
    let seen = see(edge(json!([terminating, server(80, "HTTP", &["*"]), server(80, "TCP", &["*"])])));
    assert_eq!(seen.names(ResourceType::Listener), ["0.0.0.0_80"]);
    let said: Vec<_> =
        seen.notes.iter().map(|n| (n.subject.as_str(), n.origin.as_ref().unwrap().file.to_string())).collect();
    assert_eq!(
        said,
        [
            ("Gateway default/edge server p80 (TCP 80)", "edge.yaml".to_owned()),
            ("Gateway default/edge server p443 (HTTPS 443)", "edge.yaml".to_owned()),
        ]
    );
}

#[test]
fn a_gateway_listens_behind_the_ports_of_its_own_service() {
    let seen = edge(json!([server(80, "HTTP", &["*"])]))
        .service("ingress", |s| s.http(80).endpoint_with("10.9.9.9", |e| e.ports = [("http".into(), 8080)].into()))
        .seen_by(&router());
    assert_eq!(seen.names(ResourceType::Listener), ["0.0.0.0_8080"]);
    assert!(seen.has(ResourceType::Route, "http.80"));
}

#[test]
fn a_gateway_of_other_labels_is_another_ones() {
    let seen = edge(json!([server(80, "HTTP", &["*"])])).seen_by(&router().label("istio", "egressgateway"));
    assert!(seen.names(ResourceType::Listener).is_empty());
}
