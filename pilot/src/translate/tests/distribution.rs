//! What a platform says about spreading traffic, where no DestinationRule says otherwise.

use serde_json::{Value, json};

use super::{cluster, fqdn};
use crate::mesh::Mesh;
use crate::model::{Distribution, Locality, Prefer, Protocol};
use crate::translate::fixture::{MeshBuilder, Seen, json as to_json, mesh, sidecar, tcp};

fn by_client_address() -> Distribution {
    Distribution { by_client_address: true, ..Distribution::default() }
}

fn sticky() -> MeshBuilder {
    mesh().service("web", |s| s.http(80).endpoint("10.0.0.1", "v1").distribution(by_client_address())).service(
        "db",
        |s| {
            s.port("tcp", 5432, Protocol::Tcp)
                .address("10.96.0.5")
                .endpoint("10.0.0.2", "v1")
                .distribution(by_client_address())
        },
    )
}

fn with_rule(policy: Value) -> Seen {
    sticky().destination_rule("web", json!({"host": "web", "trafficPolicy": policy})).sidecar()
}

fn route_of(seen: &Seen, host: &str) -> Value {
    seen.host_json("80", &format!("{}:80", fqdn(host)))["routes"][0]["route"].clone()
}

const BY_ADDRESS: &str = "[{\"connectionProperties\":{\"sourceIp\":true}}]";

#[test]
fn one_client_address_stays_with_one_endpoint() {
    let seen = sticky().sidecar();
    for name in [cluster(80, "", "web"), cluster(5432, "", "db")] {
        assert_eq!(to_json(&seen.cluster(&name))["lbPolicy"], "RING_HASH", "{name}");
    }
    assert_eq!(route_of(&seen, "web")["hashPolicy"].to_string(), BY_ADDRESS);
    let listener = seen.listener("10.96.0.5_5432");
    let chain = listener.filter_chains.first().or(listener.default_filter_chain.as_ref()).unwrap();
    let hash = to_json(&tcp(chain))["hashPolicy"].to_string();
    assert_eq!(hash, "[{\"sourceIp\":{}}]");
}

#[test]
fn a_rule_that_routes_to_the_service_keeps_the_address_as_well() {
    let seen = sticky()
        .service("front", |s| s.http(80).endpoint("10.0.0.9", "v1"))
        .virtual_service("v", json!({"hosts": ["front"], "http": [{"route": [{"destination": {"host": "web"}}]}]}))
        .sidecar();
    assert_eq!(route_of(&seen, "front")["hashPolicy"].to_string(), BY_ADDRESS);
}

#[test]
fn a_load_balancer_that_a_rule_sets_has_the_last_word() {
    let seen = with_rule(json!({"loadBalancer": {"simple": "RANDOM"}}));
    assert_eq!(to_json(&seen.cluster(&cluster(80, "", "web")))["lbPolicy"], "RANDOM");
    assert!(route_of(&seen, "web")["hashPolicy"].is_null());
    let seen = with_rule(json!({"loadBalancer": {"consistentHash": {"httpHeaderName": "x"}}}));
    assert_eq!(route_of(&seen, "web")["hashPolicy"][0]["header"]["headerName"], "x");
    // One that says nothing about how to choose does not.
    let seen = with_rule(json!({"loadBalancer": {"localityLbSetting": {"enabled": true}}}));
    assert_eq!(route_of(&seen, "web")["hashPolicy"].to_string(), BY_ADDRESS);
}

fn spread(distribution: Distribution) -> MeshBuilder {
    let on = |locality: &'static str, node: &'static str| {
        move |e: &mut crate::model::Endpoint| {
            e.locality = Locality::parse(locality);
            e.node = Some(node.into());
        }
    };
    mesh().service("a", |s| {
        s.http(80)
            .distribution(distribution)
            .endpoint_with("10.0.0.1", on("r/z1", "n1"))
            .endpoint_with("10.0.0.2", on("r/z1", "n2"))
            .endpoint_with("10.0.0.3", on("r/z2", "n3"))
    })
}

/// Addresses by priority.
fn levels(seen: &Seen) -> Vec<(u32, Vec<String>)> {
    let list = seen.endpoints(&cluster(80, "", "a"));
    let one = |l: &xebec_proto::envoy::config::endpoint::v3::LocalityLbEndpoints| {
        let list = crate::translate::cluster::LoadAssignment { endpoints: vec![l.clone()], ..Default::default() };
        (l.priority, crate::translate::fixture::addresses(&list))
    };
    list.endpoints.iter().map(one).collect()
}

#[test]
fn endpoints_of_the_clients_zone_come_first_without_outlier_detection() {
    let near = Distribution { prefer: Prefer::Zone, ..Distribution::default() };
    let in_z1 = spread(near).seen_by(&sidecar().locality("r/z1"));
    assert_eq!(
        levels(&in_z1),
        [(0, vec!["10.0.0.1:80".to_owned(), "10.0.0.2:80".to_owned()]), (1, vec!["10.0.0.3:80".to_owned()])]
    );
    assert!(levels(&spread(near).seen_by(&sidecar())).iter().all(|(level, _)| *level == 0), "nobody knows where it is");
    let off = json!({"host": "a", "trafficPolicy": {"loadBalancer": {"localityLbSetting": {"enabled": false}}}});
    let off = spread(near).destination_rule("a", off).seen_by(&sidecar().locality("r/z1"));
    assert!(levels(&off).iter().all(|(level, _)| *level == 0), "a rule has the last word");
}

#[test]
fn endpoints_of_the_clients_node_come_before_those_of_its_zone() {
    let near = Distribution { prefer: Prefer::Node, ..Distribution::default() };
    let seen = spread(near).seen_by(&sidecar().locality("r/z1").node("n2"));
    assert_eq!(
        levels(&seen),
        [(0, vec!["10.0.0.2:80".to_owned()]), (1, vec!["10.0.0.1:80".to_owned()]), (2, vec!["10.0.0.3:80".to_owned()]),]
    );
}

#[test]
fn a_service_of_the_node_is_reached_on_the_node_only() {
    let local = Distribution { node_local: true, ..Distribution::default() };
    let on = |node: &str| spread(local).seen_by(&sidecar().node(node)).addresses(&cluster(80, "", "a"));
    assert_eq!(on("n3"), ["10.0.0.3:80"]);
    assert!(on("n9").is_empty());
    assert_eq!(spread(local).sidecar().addresses(&cluster(80, "", "a")).len(), 3, "nobody knows its node");
}

#[test]
fn where_a_client_is_matters_only_while_a_service_cares() {
    let shape = |mesh: &Mesh| mesh.outbound_shape(&sidecar().locality("r/z1").node("n1").proxy);
    let of = |distribution| shape(&spread(distribution).build());
    let plain = of(Distribution::default());
    assert_eq!((plain.locality, plain.node), (None, None));
    let zone = of(Distribution { prefer: Prefer::Zone, ..Distribution::default() });
    assert_eq!((zone.locality.is_some(), zone.node), (true, None));
    let node = of(Distribution { node_local: true, ..Distribution::default() });
    assert_eq!((node.locality, node.node.as_deref()), (None, Some("n1")));
}
