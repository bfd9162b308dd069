//! Single fields of a row, through the whole mapping.

use serde_json::json;
use xebec_pilot::model::Health;

use super::super::*;
use super::{is_skipped, mapped, merge, own, reasons, row, service};
use crate::settings::LabelSource;

#[test]
fn the_first_address_that_is_written_is_the_one_and_other_datacenters_are_reached_from_outside() {
    let everything = json!({
        "Node": {"TaggedAddresses": {"lan": "10.4.0.1", "wan": "198.51.100.4"}},
        "Service": {
            "TaggedAddresses": {
                "lan": {"Address": "10.2.0.1", "Port": 8082},
                "lan_ipv4": {"Address": "10.3.0.1", "Port": 8083},
                "wan": {"Address": "198.51.100.1", "Port": 443},
                "wan_ipv4": {"Address": "198.51.100.2", "Port": 444},
                "virtual": {"Address": "240.0.0.1", "Port": 8080},
            },
        },
    });
    let without_service = json!({"Service": {"Address": ""}});
    let no_lan = json!({"Service": {"TaggedAddresses": {"lan": {"Address": "", "Port": 0}}}});
    let no_lan_ipv4 = json!({"Service": {"TaggedAddresses": {"lan_ipv4": {"Address": "", "Port": 0}}}});
    let no_wan = json!({"Service": {"TaggedAddresses": {"wan": {"Address": "", "Port": 0}}}});
    let no_wan_ipv4 = json!({"Service": {"TaggedAddresses": {"wan_ipv4": {"Address": "", "Port": 0}}}});
    let no_outer_node = json!({"Node": {"TaggedAddresses": {"wan": ""}}});
    let no_node = json!({"Node": {"Address": ""}});
    // Each step takes away what the step before was reached at.
    for (remote, steps) in [
        (
            None,
            vec![
                (json!({}), "10.0.0.1", 8080),
                (without_service.clone(), "10.2.0.1", 8082),
                (no_lan, "10.3.0.1", 8083),
                (no_lan_ipv4, "10.9.9.9", 8080),
                (no_node, "10.4.0.1", 8080),
            ],
        ),
        (
            Some("dc2"),
            vec![
                (json!({}), "198.51.100.1", 443),
                (no_wan, "10.0.0.1", 8080),
                (without_service, "198.51.100.2", 444),
                (no_wan_ipv4, "198.51.100.4", 8080),
                (no_outer_node, "10.9.9.9", 8080),
            ],
        ),
    ] {
        let mut changes = everything.clone();
        for (taken, address, port) in steps {
            merge(&mut changes, taken);
            let mapped = mapped(&Settings::default(), remote, &[row("a", changes.clone())]);
            let endpoint = &mapped.contributions[0].endpoints[0];
            assert_eq!(endpoint.address, Address::Ip(address.parse().unwrap()), "{remote:?}: {changes}");
            assert!(endpoint.ports.values().all(|said| *said == port), "{remote:?}: {changes}: {endpoint:?}");
        }
    }
}

#[test]
fn addresses_to_which_nobody_can_connect_are_skipped_and_the_other_instances_stay() {
    for address in [
        "fe80::1%eth0",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "[2001:db8::1]",
        "10.0.0.256",
        "10.0.0.1:80",
        "10.0.0.1 ",
        "under_score.example",
        "a..b",
        "http://a/",
        "${address}",
        "é.example",
        &"a.".repeat(128),
        &"9".repeat(1 << 20),
    ] {
        is_skipped(json!({"Service": {"Address": address}}), "invalid_address");
    }
    is_skipped(json!({"Service": {"Address": ""}, "Node": {"Address": ""}}), "invalid_address");
    is_skipped(json!({"Service": {"SocketPath": "/run/web.sock"}}), "unix_socket");
}

#[test]
fn addresses_of_both_families_and_names_are_taken() {
    let address = |text: &str| own(&[service(json!({"Address": text}))]).0;
    assert_eq!(address("2001:db8::1").endpoints[0].address, Address::Ip("2001:db8::1".parse().unwrap()));
    let named = address("Web-1.Example.");
    assert_eq!(
        (named.service.resolution, &named.endpoints[0].address),
        (Resolution::Dns, &Address::Dns("web-1.example".into()))
    );
    // A service's endpoints are resolved in one way.
    let (said, skips) = own(&[service(json!({"Address": "web.example"})), row("b", json!({}))]);
    assert_eq!((said.service.resolution, said.endpoints.len()), (Resolution::Static, 1));
    assert_eq!(reasons(&skips), ["mixed_addresses"]);
}

#[test]
fn labels_come_from_meta_then_tags_and_from_node_meta_where_that_is_wanted() {
    let rows = [row(
        "a",
        json!({
            "Node": {"Meta": {"version": "node", "rack": "7"}},
            "Service": {
                "Tags": ["version=tag", "tier|gold", "track=a=b", "plain", "empty=", "=value"],
                "Meta": {"version": "v1", "team/unit": "x y", "mesh-port": "80"},
            },
        }),
    )];
    let labels = |from: &[LabelSource]| {
        let settings = Settings { labels_from: from.to_vec(), ..Settings::default() };
        let mut mapped = mapped(&settings, None, &rows);
        let labels = mapped.contributions.remove(0).endpoints[0].labels.clone();
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(
        labels(&Settings::default().labels_from),
        ["empty=", "team/unit=x y", "tier=gold", "track=a=b", "version=v1"],
        "without what is meant for the mesh itself"
    );
    assert_eq!(labels(&[LabelSource::Tags]), ["empty=", "tier=gold", "track=a=b", "version=tag"]);
    assert_eq!(labels(&[LabelSource::NodeMeta, LabelSource::Meta]), ["rack=7", "team/unit=x y", "version=v1"]);
    assert!(labels(&[]).is_empty());
}

#[test]
fn labels_that_cannot_be_are_counted_and_the_instance_stays() {
    for tags in [
        json!(["a b=c"]),
        json!(["k=\u{1b}[31m"]),
        json!(["=x"]),
        json!([format!("{}=x", "k".repeat(200))]),
        json!([format!("k={}", "v".repeat(600))]),
    ] {
        let (said, skips) = own(&[service(json!({"Tags": tags}))]);
        assert_eq!((said.endpoints[0].labels.len(), reasons(&skips)), (0, vec!["invalid_label"]), "{skips:?}");
    }
}

#[test]
fn a_megabyte_of_tags_costs_neither_the_service_nor_the_log() {
    let many: Vec<String> = (0..50_000).map(|at| format!("key-{at}={}", "v".repeat(20))).collect();
    assert!(many.iter().map(String::len).sum::<usize>() > 1 << 20);
    let one = format!("x{}", "y".repeat(1 << 20));
    for tags in [json!(many), json!([one.clone()]), json!([format!("{one}=1")]), json!([format!("k={one}")])] {
        let (said, skips) =
            own(&[service(json!({"Tags": tags})), row("b", json!({"Service": {"Address": "10.0.0.2"}}))]);
        assert_eq!(said.endpoints.len(), 2);
        assert!(said.endpoints[0].labels.len() <= 64);
        assert!(skips.iter().all(|skip| skip.reason == "invalid_label" && skip.detail.len() < 300), "{skips:?}");
        assert!(skips.len() <= 1);
    }
}

#[test]
fn checks_say_how_an_instance_is_and_maintenance_drains_it() {
    let own_check = |status: &str| json!({"CheckID": "service:a", "Status": status});
    let serf = |status: &str| json!({"CheckID": "serfHealth", "Status": status});
    let maintenance = |id: &str| json!({"CheckID": id, "Status": "critical"});
    for (checks, health) in [
        (json!([]), Health::Healthy),
        (json!(null), Health::Healthy),
        (json!([serf("passing"), own_check("passing")]), Health::Healthy),
        (json!([serf("passing"), own_check("warning")]), Health::Degraded),
        (json!([own_check("warning"), own_check("critical")]), Health::Unhealthy),
        (json!([serf("critical"), own_check("passing")]), Health::Unhealthy),
        (json!([own_check("a word of a newer Consul")]), Health::Unhealthy),
        (json!([maintenance("_node_maintenance")]), Health::Draining),
        (json!([own_check("critical"), maintenance("_service_maintenance:a")]), Health::Draining),
    ] {
        let (said, _) = own(&[row("a", json!({"Checks": checks}))]);
        assert_eq!(said.endpoints[0].health, health, "{checks}");
    }
}

#[test]
fn weights_are_those_of_the_state_and_a_weight_of_nothing_takes_nothing_new() {
    let warning = json!([{"CheckID": "c", "Status": "warning"}]);
    for (weights, checks, expected) in [
        (json!(null), json!([]), (Health::Healthy, 1)),
        (json!({"Passing": 10, "Warning": 2}), json!([]), (Health::Healthy, 10)),
        (json!({"Passing": 10, "Warning": 2}), warning.clone(), (Health::Degraded, 2)),
        (json!({"Passing": 0.4, "Warning": 1}), json!([]), (Health::Healthy, 1)),
        (json!({"Passing": 0, "Warning": 1}), json!([]), (Health::Draining, 1)),
        (json!({"Passing": 5, "Warning": 0}), warning, (Health::Draining, 1)),
        (json!({"Passing": 0, "Warning": 0}), json!([{"CheckID": "c", "Status": "critical"}]), (Health::Unhealthy, 1)),
        (json!({"Passing": -3, "Warning": 1}), json!([]), (Health::Draining, 1)),
        (json!({"Passing": 1e300, "Warning": 1}), json!([]), (Health::Healthy, 65_535)),
    ] {
        let (said, _) = own(&[row("a", json!({"Service": {"Weights": weights}, "Checks": checks}))]);
        assert_eq!((said.endpoints[0].health, said.endpoints[0].weight), expected, "{weights} {checks}");
    }
}

#[test]
fn a_locality_is_consuls_own_or_that_of_meta_or_the_datacenter() {
    for (changes, expected) in [
        (json!({}), ("dc1", "")),
        (json!({"Node": {"Meta": {"region": "eu", "zone": "a"}}}), ("eu", "a")),
        (json!({"Node": {"Meta": {"region": "eu", "zone": "a"}}, "Service": {"Meta": {"zone": "b"}}}), ("eu", "b")),
        (json!({"Node": {"Locality": {"Region": "us", "Zone": "c"}, "Meta": {"region": "eu"}}}), ("us", "c")),
        (
            json!({"Node": {"Locality": {"Region": "us"}}, "Service": {"Locality": {"Region": "ap", "Zone": "d"}}}),
            ("ap", "d"),
        ),
        (json!({"Service": {"Meta": {"region": "x".repeat(600), "zone": ""}}}), ("dc1", "")),
    ] {
        let (said, _) = own(&[row("a", changes.clone())]);
        let locality = &said.endpoints[0].locality;
        assert_eq!((&*locality.region, &*locality.zone), expected, "{changes}");
    }
}

#[test]
fn an_instance_that_nomad_registered_carries_its_allocation() {
    let allocation = "01234567-89ab-cdef-0123-456789abcdef";
    let workload = |id: &str| own(&[row(id, json!({}))]).0.endpoints[0].workload.clone();
    assert_eq!(workload(&format!("_nomad-task-{allocation}-group-web-web-http")).as_deref(), Some(allocation));
    for id in [
        "web-1",
        "_nomad-task-",
        "_nomad-task-01234567-89ab-cdef-0123-456789abcdeg-x",
        "_nomad-task-éééééééééééééééééééééééé",
    ] {
        assert_eq!(workload(id), None, "{id}");
    }
}
