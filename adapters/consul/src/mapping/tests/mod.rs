//! Rows in, services out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};
use xebec_pilot::model::Health;

use super::*;

mod fields;

/// Puts what `changes` says into `base`, level by level.
fn merge(base: &mut Value, changes: Value) {
    match (base, changes) {
        (Value::Object(base), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, changes) => *base = changes,
    }
}

/// A healthy instance as Consul writes one, with these changes.
fn row(id: &str, changes: Value) -> Row {
    let mut row = json!({
        "Node": {"ID": "", "Node": "n1", "Address": "10.9.9.9", "Datacenter": "dc1", "TaggedAddresses": null, "Meta": null},
        "Service": {
            "ID": id, "Service": "web", "Tags": null, "Address": "10.0.0.1", "TaggedAddresses": null, "Meta": null, "Port": 8080,
            "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false, "Proxy": {"Mode": ""}, "Connect": {},
        },
        "Checks": [{"Node": "n1", "CheckID": "serfHealth", "Name": "Serf", "Status": "passing", "ServiceTags": null}],
    });
    merge(&mut row, changes);
    serde_json::from_value(row).unwrap()
}

/// The instance `a` with changes to what its service says.
fn service(changes: Value) -> Row {
    row("a", json!({"Service": changes}))
}

fn mapped(settings: &Settings, remote: Option<&str>, rows: &[Row]) -> Mapped {
    let registry = RegistryId("consul:test".into());
    let held = HashSet::new();
    map(&Context { settings, registry: &registry, name: "web", remote, held: &held }, rows)
}

/// What the rows say under the service's own name.
fn own(rows: &[Row]) -> (Contribution, Vec<Skip>) {
    let mut mapped = mapped(&Settings::default(), None, rows);
    assert_eq!(mapped.contributions.len(), 1, "{mapped:?}");
    (mapped.contributions.remove(0), mapped.skips)
}

fn ports(said: &Contribution) -> Vec<(u16, Protocol)> {
    said.service.ports.iter().map(|port| (port.number, port.protocol)).collect()
}

fn reasons(skips: &[Skip]) -> Vec<&'static str> {
    skips.iter().map(|skip| skip.reason).collect()
}

/// The bad instance is skipped for this reason, and the good one beside it stays as it is.
fn is_skipped(bad: Value, reason: &str) {
    let good = row("good", json!({"Service": {"Address": "10.0.0.7"}}));
    let (alone, _) = own(std::slice::from_ref(&good));
    let (said, skips) = own(&[row("bad", bad.clone()), good]);
    assert_eq!(said, alone, "{bad}");
    assert_eq!(reasons(&skips), [reason], "{bad}: {skips:?}");
    assert!(skips[0].detail.starts_with("\"n1/bad\": "), "it says which instance: {skips:?}");
    assert!(skips[0].detail.len() < 300, "it is a line, however long the reason is: {}", skips[0].detail.len());
}

#[test]
fn a_service_is_named_after_its_datacenter_where_that_is_another_one() {
    let host =
        |remote| mapped(&Settings::default(), remote, &[service(json!({}))]).contributions[0].service.key.clone();
    assert_eq!(host(None), ServiceKey::new("web.service.consul", "default"));
    assert_eq!(host(Some("dc2")), ServiceKey::new("web.service.dc2.consul", "default"));
}

#[test]
fn what_many_instances_say_alike_is_kept_once() {
    let instance = |id, address| row(id, json!({"Service": {"Address": address, "Meta": {"version": "v1"}}}));
    let (said, _) = own(&[instance("a", "10.0.0.1"), instance("b", "10.0.0.2")]);
    let [a, b] = &*said.endpoints else { panic!("{said:?}") };
    assert_eq!((&*a.locality.region, &*a.labels["version"]), ("dc1", "v1"));
    assert!(Arc::ptr_eq(&a.locality.region, &b.locality.region) && Arc::ptr_eq(&a.network, &b.network));
    assert!(Arc::ptr_eq(&a.labels["version"], &b.labels["version"]));
}

#[test]
fn ports_that_are_none_are_skipped_and_the_other_instances_stay() {
    for port in [0, -1, 65_536, i64::MAX] {
        is_skipped(json!({"Service": {"Port": port}}), "invalid_port");
    }
    is_skipped(
        json!({"Service": {"Address": "", "TaggedAddresses": {"lan": {"Address": "10.0.0.2", "Port": 70_000}}}}),
        "invalid_port",
    );
}

#[test]
fn a_service_is_reached_on_80_and_on_the_port_that_all_instances_share() {
    use Protocol::{Auto, Grpc, Http, Tcp};
    let second = |port: u16| row("b", json!({"Service": {"Port": port, "Address": "10.0.0.2"}}));
    assert_eq!(ports(&own(&[service(json!({})), second(8080)]).0), [(80, Http), (8080, Auto)]);
    assert_eq!(ports(&own(&[service(json!({})), second(9090)]).0), [(80, Http)]);
    assert_eq!(ports(&own(&[service(json!({"Port": 80}))]).0), [(80, Http)], "once");
    for (said, expected) in [
        (json!({"Meta": {"protocol": "grpc"}}), vec![(80, Grpc), (8080, Grpc)]),
        (json!({"Meta": {"protocol": " HTTP "}}), vec![(80, Http), (8080, Http)]),
        // Opaque bytes on port 80 would take it from every HTTP service.
        (json!({"Meta": {"protocol": "tcp"}}), vec![(8080, Tcp)]),
        (json!({"Tags": ["protocol=tcp"]}), vec![(8080, Tcp)]),
        (json!({"Tags": ["protocol|grpc"]}), vec![(80, Grpc), (8080, Grpc)]),
        (json!({"Tags": ["protocol=tcp"], "Meta": {"protocol": "grpc"}}), vec![(80, Grpc), (8080, Grpc)]),
        (json!({"Meta": {"mesh-port": "9000"}}), vec![(9000, Auto)]),
        (json!({"Tags": ["mesh-port=80"]}), vec![(80, Http)]),
        (json!({"Meta": {"mesh-port": "9000", "protocol": "tcp"}}), vec![(9000, Tcp)]),
    ] {
        let (contribution, skips) = own(&[service(said.clone())]);
        assert_eq!(ports(&contribution), expected, "{said}");
        assert!(
            contribution.endpoints[0].ports.values().all(|port| *port == 8080),
            "the instance's own number is behind each"
        );
        assert_eq!(skips, [], "{said}");
    }
    for (said, reason) in [
        (json!({"Meta": {"mesh-port": "0"}}), "invalid_mesh_port"),
        (json!({"Meta": {"mesh-port": "http"}}), "invalid_mesh_port"),
        (json!({"Meta": {"mesh-port": "65616"}}), "invalid_mesh_port"),
        (json!({"Meta": {"protocol": "carrier-pigeon"}}), "invalid_protocol"),
    ] {
        let (contribution, skips) = own(&[service(said.clone())]);
        assert_eq!(ports(&contribution), [(80, Http), (8080, Auto)], "{said}: the instance stays, without it");
        assert_eq!(reasons(&skips), [reason]);
    }
}

#[test]
fn an_application_behind_its_own_proxy_says_where_it_listens() {
    let (said, _) = own(&[
        service(json!({"Meta": {"mesh-app-port": "8001"}})),
        row("b", json!({"Service": {"Address": "10.0.0.2"}})),
    ]);
    let app = |at: usize| said.endpoints[at].app.iter().map(|(name, to)| format!("{name} {to}")).collect::<Vec<_>>();
    assert_eq!(app(0), ["port-80 127.0.0.1:8001", "port-8080 127.0.0.1:8001"]);
    assert!(app(1).is_empty());
    let (said, skips) = own(&[service(json!({"Tags": ["mesh-app-port=none"]}))]);
    assert!(said.endpoints[0].app.is_empty());
    assert_eq!(reasons(&skips), ["invalid_app_port"]);
}

#[test]
fn most_instances_decide_where_they_contradict_each_other() {
    let say = |id: &str, protocol: &str, port: &str| {
        row(
            id,
            json!({"Service": {"Address": format!("10.0.0.{id}"), "Meta": {"protocol": protocol, "mesh-port": port}}}),
        )
    };
    let (said, _) = own(&[say("1", "tcp", "7000"), say("2", "grpc", "9000"), say("3", "grpc", "9000")]);
    assert_eq!(ports(&said), [(9000, Protocol::Grpc)]);
    assert_eq!(said.endpoints.len(), 3, "whatever they say, they are there");
}

#[test]
fn further_named_ports_are_ports_of_the_service_where_all_instances_have_the_same_number() {
    let say = |id: &str, admin: u16| {
        row(
            id,
            json!({"Service": {"Port": 0, "Address": format!("10.0.0.{id}"), "Ports": [
                {"Name": "grpc-admin", "Port": 9001},
                {"Name": "main", "Port": 8080, "Default": true},
                {"Name": "debug", "Port": admin},
                {"Name": "not a label", "Port": 1},
                {"Name": "none", "Port": 0},
            ]}}),
        )
    };
    let (said, skips) = own(&[say("1", 7001), say("2", 7002)]);
    assert_eq!(ports(&said), [(80, Protocol::Http), (8080, Protocol::Auto), (9001, Protocol::Grpc)]);
    let numbers: Vec<u16> = said.endpoints[0].ports.values().copied().collect();
    assert_eq!(numbers, [8080, 8080, 9001], "port-80, port-8080, port-9001");
    let unique: BTreeSet<_> = reasons(&skips).into_iter().collect();
    assert_eq!(unique, BTreeSet::from(["invalid_port", "port_not_shared"]));
}

#[test]
fn an_instance_that_waits_for_its_checks_is_there_and_takes_nothing() {
    let (settings, registry) = (Settings::default(), RegistryId("consul:test".into()));
    let held = HashSet::from(["n1/a".to_owned()]);
    let context = Context { settings: &settings, registry: &registry, name: "web", remote: None, held: &held };
    let rows = [service(json!({})), row("b", json!({"Service": {"Address": "10.0.0.2"}}))];
    let health: Vec<Health> = map(&context, &rows).contributions[0].endpoints.iter().map(|e| e.health).collect();
    assert_eq!(health, [Health::Unhealthy, Health::Healthy]);
    assert!(only_node_check(&rows[0]));
    assert!(!only_node_check(&row("a", json!({"Checks": [{"CheckID": "serfHealth"}, {"CheckID": "service:a"}]}))));
}

#[test]
fn proxies_and_gateways_of_consuls_own_mesh_are_left_out_without_a_word() {
    let kinds =
        ["connect-proxy", "mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway", "something-new"];
    let mut rows: Vec<Row> = kinds.iter().map(|kind| service(json!({"Kind": kind}))).collect();
    assert_eq!(mapped(&Settings::default(), None, &rows), Mapped::default());
    rows.push(service(json!({"Kind": ""})));
    assert_eq!(own(&rows).0.endpoints.len(), 1);
}

#[test]
fn only_instances_with_the_wanted_tags_and_meta_are_taken() {
    let mut settings = Settings::default();
    settings.services.tags = vec!["mesh".to_owned(), "public".to_owned()];
    settings.services.meta = [("team".to_owned(), "x".to_owned())].into();
    let rows: Vec<Row> = [
        (json!(["public", "mesh"]), json!({"team": "x"})),
        (json!(["mesh"]), json!({"team": "x"})),
        (json!(["public", "mesh"]), json!({"team": "y"})),
        (json!(null), json!(null)),
    ]
    .into_iter()
    .zip(1..)
    .map(|((tags, meta), at)| {
        row("a", json!({"Service": {"Tags": tags, "Meta": meta, "Address": format!("10.0.0.{at}")}}))
    })
    .collect();
    let mapped = mapped(&settings, None, &rows);
    assert_eq!(mapped.contributions[0].endpoints.len(), 1);
    assert_eq!(mapped.contributions[0].endpoints[0].address, Address::Ip("10.0.0.1".parse().unwrap()));
}

#[test]
fn one_id_on_two_nodes_is_two_instances_and_one_socket_twice_is_one_endpoint() {
    let on = |node: &str, address: &str, status: &str| {
        row(
            "web",
            json!({
                "Node": {"Node": node}, "Service": {"Address": address}, "Checks": [{"CheckID": "c", "Status": status}],
            }),
        )
    };
    let (first, second) = (on("n1", "10.0.0.1", "passing"), on("n2", "10.0.0.2", "passing"));
    assert_ne!(instance_id(&first), instance_id(&second));
    assert_eq!(own(&[first, second]).0.endpoints.len(), 2);
    for rows in [
        [on("n1", "10.0.0.1", "critical"), on("n2", "10.0.0.1", "passing")],
        [on("n1", "10.0.0.1", "passing"), on("n2", "10.0.0.1", "critical")],
    ] {
        let (said, skips) = own(&rows);
        assert_eq!(
            (said.endpoints.len(), said.endpoints[0].health),
            (1, Health::Healthy),
            "as healthy as the better one"
        );
        assert_eq!(skips, []);
    }
}

#[test]
fn a_guest_never_decides_about_a_service_that_others_have_as_their_own() {
    let settings = Settings { mesh_hostnames: vec!["*.cluster.local".into()], ..Settings::default() };
    let joining = service(json!({"Meta": {"mesh-hostname": "web.prod.svc.cluster.local"}}));
    let ages: Vec<(String, u64)> = mapped(&settings, None, &[joining])
        .contributions
        .iter()
        .map(|said| (said.service.key.hostname.to_string(), said.service.created))
        .collect();
    assert!(ages.contains(&("web.service.consul".to_owned(), 0)), "{ages:?}");
    assert!(ages.contains(&("web.prod.svc.cluster.local".to_owned(), u64::MAX)), "{ages:?}");
}

#[test]
fn an_instance_joins_the_hostname_that_it_names_where_the_operator_allows_that() {
    let settings = Settings {
        mesh_hostnames: vec!["reviews.example".into(), "*.Shop.example".into(), "*.cluster.local".into()],
        ..Settings::default()
    };
    let keys = |meta: Value| {
        let mapped = mapped(&settings, None, &[service(json!({"Meta": meta}))]);
        let keys: Vec<String> = mapped.contributions.iter().map(|said| said.service.key.to_string()).collect();
        (keys, reasons(&mapped.skips))
    };
    let own = ServiceKey::new("web.service.consul", "default").to_string();
    for (meta, hostname, namespace) in [
        (json!({"mesh-hostname": "reviews.example"}), "reviews.example", "default"),
        (json!({"mesh-hostname": " A.B.shop.example. "}), "a.b.shop.example", "default"),
        (json!({"mesh-hostname": "a.shop.example", "mesh-namespace": "shop"}), "a.shop.example", "shop"),
        (json!({"mesh-hostname": "web.prod.svc.cluster.local"}), "web.prod.svc.cluster.local", "prod"),
    ] {
        let mut expected = vec![ServiceKey::new(hostname, namespace).to_string(), own.clone()];
        expected.sort();
        let (mut found, skips) = keys(meta.clone());
        found.sort();
        assert_eq!((found, skips), (expected, vec![]), "{meta}");
    }
    assert_eq!(keys(json!({"mesh-hostname": "web.service.consul"})).0, std::slice::from_ref(&own));
    for meta in [
        json!({"mesh-hostname": "ratings.example"}),
        json!({"mesh-hostname": ".shop.example"}),
        json!({"mesh-hostname": "shop.example"}),
        json!({"mesh-hostname": "*.shop.example"}),
        json!({"mesh-hostname": "a b.shop.example"}),
        json!({"mesh-hostname": format!("{}.shop.example", "a.".repeat(200))}),
        json!({"mesh-hostname": "web.prod.svc.cluster.local", "mesh-namespace": "other"}),
        json!({"mesh-hostname": "a.shop.example", "mesh-namespace": "not a label"}),
        json!({"mesh-hostname": ""}),
    ] {
        assert_eq!(keys(meta.clone()), (vec![own.clone()], vec!["mesh_hostname"]), "{meta}: it keeps its own name");
    }
}

#[test]
fn nothing_that_can_be_taken_is_no_service_and_every_reason_is_said() {
    let rows = [service(json!({"Port": 0})), row("b", json!({"Service": {"Address": "%"}}))];
    let mapped = mapped(&Settings::default(), None, &rows);
    assert_eq!(mapped.contributions, []);
    assert_eq!(reasons(&mapped.skips), ["invalid_port", "invalid_address"]);
}

const COMMON: &[&str] = &[
    "",
    "10.0.0.1",
    "10.0.0.2",
    "web.example",
    "fe80::1%0",
    "80",
    "tcp",
    "version=v1",
    "protocol|http",
    "mesh-port=81",
];

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(COMMON).prop_map(str::to_owned), 1 => any::<String>()]
}

prop_compose! {
    fn rows()(
        address in texts(), node in texts(), id in texts(), kind in prop::sample::select(vec!["", "", "", "connect-proxy"]),
        tags in prop::collection::vec(texts(), 0..4), keys in prop::collection::btree_map(texts(), texts(), 0..4),
        hostname in texts(), port in prop_oneof![Just(80_i64), Just(8080), any::<i64>()], weight in prop::num::f64::NORMAL | prop::num::f64::ZERO,
        status in prop::sample::select(vec!["passing", "warning", "critical", ""]),
    ) -> Row {
        let mut meta = keys;
        meta.insert("mesh-hostname".to_owned(), hostname);
        row(&id, json!({
            "Node": {"Node": node, "Address": address, "Meta": meta},
            "Service": {
                "Address": address, "Port": port, "Kind": kind, "Tags": tags, "Meta": meta,
                "Weights": {"Passing": weight, "Warning": weight},
            },
            "Checks": [{"CheckID": id, "Status": status}],
        }))
    }
}

proptest! {
    #[test]
    fn whatever_tenants_write_the_order_of_rows_changes_nothing_and_every_endpoint_can_be_used(
        mut rows in prop::collection::vec(rows(), 0..8),
    ) {
        let settings = Settings { mesh_hostnames: vec!["*.example".into()], ..Settings::default() };
        let there = mapped(&settings, None, &rows);
        for said in &there.contributions {
            prop_assert!(!said.service.ports.is_empty());
            for endpoint in said.endpoints.iter() {
                prop_assert!((1..=65_535).contains(&endpoint.weight));
                prop_assert!(said.service.ports.iter().any(|port| endpoint.serves(port)));
                prop_assert_eq!(matches!(endpoint.address, Address::Dns(_)), said.service.resolution == Resolution::Dns);
            }
        }
        rows.reverse();
        prop_assert_eq!(there.contributions, mapped(&settings, None, &rows).contributions);
    }
}
