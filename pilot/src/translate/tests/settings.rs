//! Settings of the mesh: what galley says has an effect, has one.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use xebec_galley::Kind;
use xebec_galley::mesh_config::HONOURED;

use crate::model::{Locality, Protocol, Resolution};
use crate::resources::ResourceType;
use crate::translate::fixture::{Client, mesh, router, sidecar};

/// Everything that clients of three kinds are told, as bytes.
fn told(settings: Value) -> BTreeSet<(String, ResourceType, String, Vec<u8>)> {
    let mesh = mesh()
        .settings(settings)
        .service("a", |s| {
            s.http(80)
                .port("auto", 81, Protocol::Auto)
                .endpoint_with("10.9.9.9", |e| e.locality = Locality::parse("r1/z1"))
                .endpoint_with("10.0.0.2", |e| e.locality = Locality::parse("r2/z1"))
        })
        .service_in("other", "b", |s| s.http(82))
        .service("names.example", |s| s.http(80).resolution(Resolution::Dns))
        .add(
            "other",
            Kind::DestinationRule,
            "b",
            json!({"host": "b.other.svc.cluster.local", "subsets": [{"name": "v1"}]}),
        )
        .add(
            "other",
            Kind::VirtualService,
            "b",
            json!({"hosts": ["b.other.svc.cluster.local"], "http": [{"directResponse": {"status": 418}}]}),
        )
        .add("elsewhere", Kind::Sidecar, "root", json!({"egress": [{"hosts": ["./*"]}]}))
        .destination_rule("a", json!({"host": "a", "trafficPolicy": {"outlierDetection": {}}}))
        .build();
    let clients: [(&str, Client); 3] = [
        ("captured", sidecar().locality("r1/z1")),
        ("explicit", sidecar().explicit("127.0.0.7", None)),
        ("gateway", router()),
    ];
    let mut all = BTreeSet::new();
    for (who, client) in clients {
        for ((kind, name), draft) in client.look(&mesh).drafts {
            all.insert((who.to_owned(), kind, name, draft.body.to_vec()));
        }
    }
    all
}

#[test]
fn a_setting_that_is_honoured_changes_something_and_each_is_tried() {
    let log = json!({"accessLogFile": "/dev/stdout"});
    let format = json!({"accessLogFile": "/dev/stdout", "accessLogFormat": "{\"p\":\"%PROTOCOL%\"}"});
    // Each with the settings that it needs besides.
    let tried: Vec<(&str, Value, Value)> = vec![
        ("accessLogEncoding", json!("JSON"), format),
        ("accessLogFile", json!("/dev/stdout"), json!({})),
        ("accessLogFormat", json!("%PROTOCOL%"), log),
        ("connectTimeout", json!("3s"), json!({})),
        ("defaultDestinationRuleExportTo", json!(["."]), json!({})),
        ("defaultHttpRetryPolicy", json!({"attempts": 7}), json!({})),
        ("defaultVirtualServiceExportTo", json!(["."]), json!({})),
        ("dnsRefreshRate", json!("7s"), json!({})),
        ("h2UpgradePolicy", json!("UPGRADE"), json!({})),
        ("inboundTrafficPolicy", json!({"mode": "LOCALHOST"}), json!({})),
        ("localityLbSetting", json!({"enabled": false}), json!({})),
        ("outboundTrafficPolicy", json!({"mode": "REGISTRY_ONLY"}), json!({})),
        ("pathNormalization", json!({"normalization": "MERGE_SLASHES"}), json!({})),
        ("protocolDetectionTimeout", json!("3s"), json!({})),
        ("proxyHttpPort", json!(15080), json!({})),
        ("proxyInboundListenPort", json!(25006), json!({})),
        ("proxyListenPort", json!(25001), json!({})),
        ("rootNamespace", json!("elsewhere"), json!({})),
        ("tcpKeepalive", json!({"time": "7s"}), json!({})),
    ];
    for (key, value, besides) in &tried {
        let mut with = besides.clone();
        with[key] = value.clone();
        assert!(told(besides.clone()) != told(with), "{key} changes nothing");
    }
    // Services have their visibility from the catalog, whose tests show it.
    let names: BTreeSet<&str> = tried.iter().map(|(key, ..)| *key).chain(["defaultServiceExportTo"]).collect();
    assert_eq!(names, HONOURED.into_iter().collect());
}
