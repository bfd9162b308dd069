//! The engine's first promise: what it keeps up to date equals what a computation from nothing gives.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use proptest::prelude::*;
use serde_json::{Value, json};
use xebec_galley::{ConfigEvent, Kind};

use super::model::*;
use crate::engine::state::State;
use crate::engine::translate_once;
use crate::model::{
    Distribution, Endpoint, Health, Locality, Prefer, Protocol, RegistryId, Resolution, ServiceKey, Visibility,
    WorkloadKey,
};
use crate::proxy::Proxy;
use crate::registry::RegistryEvent;
use crate::xds::shape::ShapeLease;

const HOSTS: [(&str, &str); 9] = [
    ("a.default.svc.cluster.local", "default"),
    ("b.default.svc.cluster.local", "default"),
    ("b.other.svc.cluster.local", "other"),
    ("reviews", "default"),
    ("reviews.default.svc.cluster.local", "default"),
    ("ext.example.com", "default"),
    ("ext.example.com", "other"),
    ("*.example.com", "default"),
    ("b.default", "other"),
];
const NAMES: [&str; 10] = [
    "a",
    "b",
    "reviews",
    "reviews.default.svc.cluster.local",
    "b.other.svc.cluster.local",
    "ext.example.com",
    "*.example.com",
    "*",
    "only.rule",
    "also-a",
];
const NAMESPACES: [&str; 3] = ["default", "other", "istio-system"];

/// Draws choices out of one number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // SplitMix64: every bit of the seed reaches every draw.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.roll(list.len())]
    }

    fn half(&mut self) -> bool {
        self.roll(2) == 0
    }
}

fn proxies() -> Vec<Arc<Proxy>> {
    vec![
        proxy("sidecar", "10.0.0.1", "w1", "default", json!({"LABELS": {"app": "a"}, "NODE_NAME": "n1"}), true),
        proxy("sidecar", "10.0.0.2", "w2", "default", json!({"LABELS": {"app": "b"}}), false),
        proxy("sidecar", "10.0.0.3", "w3", "other", json!({}), true),
        proxy(
            "sidecar",
            "127.0.0.7",
            "w4",
            "default",
            json!({"INTERCEPTION_MODE": "NONE", "HTTP_PROXY_PORT": "15080"}),
            true,
        ),
        proxy("sidecar", "127.0.0.7", "w5", "default", json!({"INTERCEPTION_MODE": "NONE"}), false),
        proxy("router", "10.0.0.4", "gw", "istio-system", json!({"LABELS": {"istio": "gw"}, "NODE_NAME": "n2"}), true),
        proxy("sidecar", "10.0.0.5", "w6", "default", json!({"GENERATOR": "grpc"}), false),
    ]
}

/// Two registries that often know the same services.
const REGISTRIES: [&str; 2] = ["test", "second"];

fn random_endpoint(dice: &mut Dice) -> Endpoint {
    let ips = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "127.0.0.7", "10.0.0.5", "10.1.1.1"];
    let workloads = [None, Some("w4"), Some("w5"), Some("w1")];
    let mut made = endpoint(dice.of(&ips), dice.of(&workloads));
    let healths = [Health::Healthy, Health::Healthy, Health::Degraded, Health::Unhealthy, Health::Draining];
    made.health = dice.of(&healths);
    made.node = dice.of(&[None, Some("n1"), Some("n2")]).map(Arc::from);
    made.locality = Locality::parse(dice.of(&["r1/z1", "r1/z2"]));
    if dice.roll(3) == 0 {
        made.ports = [(Arc::from(dice.of(&["p80", "p9080"])), dice.of(&[0, 0, 8080]))].into();
    }
    made
}

fn registry_change(dice: &mut Dice) -> Vec<RegistryEvent> {
    let (host, namespace) = dice.of(&HOSTS);
    let key = ServiceKey::new(host, namespace);
    let workload = |dice: &mut Dice| WorkloadKey { namespace: namespace.into(), name: dice.of(&["p1", "p2"]).into() };
    match dice.roll(8) {
        0 => vec![RegistryEvent::RemoveService(key)],
        1 | 2 => {
            let endpoints: Vec<_> = (0..dice.roll(4)).map(|_| random_endpoint(dice)).collect();
            vec![RegistryEvent::ReplaceEndpoints(key, endpoints.into())]
        }
        3 if dice.half() => vec![RegistryEvent::RemoveWorkload(workload(dice))],
        3 => vec![RegistryEvent::UpsertWorkload(workload(dice), Arc::new(random_endpoint(dice)))],
        _ => {
            let ports = [
                (80, Protocol::Http),
                (80, Protocol::GrpcWeb),
                (9080, Protocol::Http),
                (9080, Protocol::Tcp),
                (9080, Protocol::Auto),
                (443, Protocol::Tls),
                (3306, Protocol::Auto),
                (7070, Protocol::Grpc),
            ];
            let mut chosen: Vec<(u16, Protocol)> = Vec::new();
            for _ in 0..=dice.roll(3) {
                let port = dice.of(&ports);
                if !chosen.iter().any(|(n, _)| *n == port.0) {
                    chosen.push(port);
                }
            }
            let mut made = service(host, namespace, &chosen);
            made.created = dice.roll(3) as u64;
            made.resolution = dice.of(&[
                Resolution::Static,
                Resolution::Static,
                Resolution::Dns,
                Resolution::DnsRoundRobin,
                Resolution::Passthrough,
            ]);
            if dice.half() {
                made.addresses = vec![dice.of(&["10.9.9.9/32", "10.9.9.8/32", "10.8.0.0/16"]).parse().unwrap()];
            }
            if dice.half() {
                made.aliases = vec![dice.of(&["also-a", "b", "alias.example.com"]).into()];
            }
            // Rarely, so that shapes go back and forth between caring where a client is and not.
            if dice.roll(4) == 0 {
                made.distribution = Distribution {
                    by_client_address: dice.half(),
                    prefer: dice.of(&[Prefer::None, Prefer::None, Prefer::Zone, Prefer::Node]),
                    node_local: dice.roll(3) == 0,
                };
            }
            if dice.roll(4) == 0 {
                made.ports.iter_mut().for_each(|p| p.name = format!("other{}", p.number).into());
            }
            if dice.roll(4) == 0 {
                made.visibility = Visibility::Namespaces(vec![dice.of(&NAMESPACES).into()]);
            }
            vec![RegistryEvent::UpsertService(Arc::new(made))]
        }
    }
}

fn virtual_service(dice: &mut Dice) -> Value {
    let mut spec = json!({"hosts": [dice.of(&NAMES)]});
    if dice.roll(4) == 0 {
        spec["hosts"].as_array_mut().unwrap().push(json!(dice.of(&NAMES)));
    }
    if dice.roll(5) == 0 {
        spec = json!({"hosts": []});
    }
    if dice.roll(3) == 0 {
        spec["gateways"] = json!([dice.of(&["mesh", "gw", "istio-system/gw"]), "mesh"]);
    }
    if dice.roll(5) == 0 {
        spec["exportTo"] = json!([dice.of(&[".", "other", "*", "~"])]);
    }
    let destination = |dice: &mut Dice| json!({"host": dice.of(&NAMES[..6]), "subset": dice.of(&["", "v1"])});
    let mut http = json!([{"route": [{"destination": destination(dice), "weight": 1 + dice.roll(99)}, {"destination": destination(dice), "weight": 1}]}]);
    if dice.roll(3) == 0 {
        http[0]["match"] = json!([{"uri": {"prefix": "/x"}, "sourceLabels": {"app": dice.of(&["a", "b"])}}]);
    }
    if dice.roll(4) == 0 {
        http = json!([{"match": [{"uri": {"prefix": "/d"}}], "delegate": {"name": dice.of(&["vs0", "vs1", "vs2"]), "namespace": "default"}}]);
    }
    spec["http"] = http;
    if dice.roll(3) == 0 {
        spec["tcp"] = json!([{"route": [{"destination": destination(dice)}]}]);
    }
    if dice.roll(3) == 0 {
        spec["tls"] =
            json!([{"match": [{"sniHosts": ["sni.example.com"]}], "route": [{"destination": destination(dice)}]}]);
    }
    spec
}

fn destination_rule(dice: &mut Dice) -> Value {
    let mut spec = json!({"host": dice.of(&NAMES)});
    if dice.half() {
        spec["subsets"] = json!([{"name": "v1", "labels": {"version": "v1"}}]);
    }
    spec["trafficPolicy"] = match dice.roll(7) {
        6 => json!({"loadBalancer": {"localityLbSetting": {"enabled": dice.half()}}}),
        0 => json!({"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}),
        1 => json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}}),
        2 => json!({"outlierDetection": {"consecutive5xxErrors": 3}}),
        3 => json!({"loadBalancer": {"simple": "PASSTHROUGH"}}),
        4 => json!({"connectionPool": {"tcp": {"maxConnections": 1 + dice.roll(9), "idleTimeout": "5s"}}}),
        _ => json!({"loadBalancer": {"simple": "ROUND_ROBIN"}}),
    };
    if dice.roll(5) == 0 {
        spec["exportTo"] = json!([dice.of(&[".", "*", "other"])]);
    }
    if dice.roll(6) == 0 {
        spec["workloadSelector"] = json!({"matchLabels": {"app": "a"}});
    }
    spec
}

fn sidecar_resource(dice: &mut Dice) -> Value {
    let mut spec = json!({"egress": [{"hosts": [dice.of(&["./*", "*/*", "other/*", "*/ext.example.com", "./a.default.svc.cluster.local", "~/*"])]}]});
    if dice.roll(3) == 0 {
        spec["workloadSelector"] = json!({"labels": {"app": dice.of(&["a", "b"])}});
    }
    if dice.roll(3) == 0 {
        let listener = json!({"port": {"number": 9080, "protocol": dice.of(&["HTTP", "TCP", "HTTP_PROXY"]), "name": "x"}, "hosts": ["./*"]});
        spec["egress"].as_array_mut().unwrap().push(listener);
    }
    if dice.roll(3) == 0 {
        spec["ingress"] =
            json!([{"port": {"number": 9999, "protocol": "HTTP", "name": "in"}, "defaultEndpoint": "127.0.0.1:8080"}]);
    }
    if dice.roll(3) == 0 {
        spec["outboundTrafficPolicy"] = json!({"mode": dice.of(&["REGISTRY_ONLY", "ALLOW_ANY"])});
    }
    spec
}

fn gateway(dice: &mut Dice) -> Value {
    json!({"selector": {"istio": dice.of(&["gw", "gw", "none"])}, "servers": [{
        "port": {"number": dice.of(&[80, 8080]), "protocol": dice.of(&["HTTP", "TCP"]), "name": "p"},
        "hosts": [dice.of(&["*", "a", "default/*", "ext.example.com", "reviews.default.svc.cluster.local"])]}]})
}

fn service_entry(dice: &mut Dice) -> Value {
    let mut spec = json!({
        "hosts": [dice.of(&["ext.example.com", "*.example.com", "a.default.svc.cluster.local"])],
        "ports": [{"number": dice.of(&[80, 443]), "name": "p", "protocol": dice.of(&["HTTP", "TLS", "TCP"]), "targetPort": 8443}],
        "resolution": dice.of(&["NONE", "STATIC", "DNS"]),
    });
    if dice.half() {
        spec["workloadSelector"] = json!({"labels": {"version": dice.of(&["v1", "v2"])}});
        spec["resolution"] = json!("STATIC");
    } else if dice.half() {
        spec["endpoints"] = json!([{"address": dice.of(&["10.1.2.3", "10.0.0.1"]), "labels": {"version": "v1"}}]);
        spec["resolution"] = json!("STATIC");
    }
    spec
}

fn config_change(dice: &mut Dice) -> Vec<ConfigEvent> {
    let kinds = [
        (Kind::VirtualService, "vs"),
        (Kind::VirtualService, "vs"),
        (Kind::VirtualService, "vs"),
        (Kind::DestinationRule, "dr"),
        (Kind::DestinationRule, "dr"),
        (Kind::Gateway, "gw"),
        (Kind::Sidecar, "sc"),
        (Kind::ServiceEntry, "se"),
        (Kind::WorkloadEntry, "we"),
    ];
    let (kind, prefix) = dice.of(&kinds);
    let namespace = dice.of(&NAMESPACES);
    let name = if kind == Kind::Gateway { "gw".to_owned() } else { format!("{prefix}{}", dice.roll(3)) };
    if dice.roll(4) == 0 {
        return vec![ConfigEvent::Remove(key(kind, namespace, &name))];
    }
    let spec = match kind {
        Kind::VirtualService => virtual_service(dice),
        Kind::DestinationRule => destination_rule(dice),
        Kind::Gateway => gateway(dice),
        Kind::Sidecar => sidecar_resource(dice),
        Kind::ServiceEntry => service_entry(dice),
        Kind::WorkloadEntry => {
            json!({"address": dice.of(&["10.7.7.1", "10.7.7.2"]), "labels": {"version": dice.of(&["v1", "v2"])}})
        }
    };
    vec![document(kind, namespace, &name, spec)]
}

fn step(state: &mut State, seed: u64) {
    let mut dice = Dice(seed);
    for _ in 0..=dice.roll(3) {
        match dice.roll(20) {
            0..=8 => {
                let id = RegistryId(dice.of(&REGISTRIES).into());
                if dice.roll(12) == 0 {
                    state.catalog.remove_registry(&id);
                } else {
                    state.registry(&id, registry_change(&mut dice), SystemTime::UNIX_EPOCH);
                }
            }
            9..=18 => state.config(config_change(&mut dice)),
            _ => {
                let settings = json!({
                    "outboundTrafficPolicy": {"mode": dice.of(&["REGISTRY_ONLY", "ALLOW_ANY"])},
                    "defaultVirtualServiceExportTo": [dice.of(&["*", "."])],
                    "accessLogFile": dice.of(&["", "/dev/stdout"]),
                });
                state.settings(Arc::new(serde_json::from_value(settings).unwrap()));
            }
        }
    }
    state.commit(Instant::now());
}

fn check(state: &State, leases: &[(Arc<Proxy>, ShapeLease)], seed: u64) {
    for (proxy, lease) in leases {
        let shape = lease.shape();
        let expected = content(&translate_once(&state.mesh, proxy));
        let served = content(&shape.snapshot());
        if served != expected {
            let differing: Vec<_> = served
                .iter()
                .filter(|(k, v)| expected.get(*k) != Some(v))
                .map(|(k, _)| (k, if expected.contains_key(k) { "different" } else { "should be gone" }))
                .chain(expected.keys().filter(|k| !served.contains_key(*k)).map(|k| (k, "missing")))
                .collect();
            panic!("{} after step {seed}: {differing:#?}", proxy.id);
        }
        assert_eq!(told(&shape), served, "{} was told something else than it is served, after step {seed}", proxy.id);
    }
}

fn run(seeds: &[u64]) {
    let mut state = State::new(Arc::default(), "cluster.local");
    let attach = |state: &mut State| {
        let mesh = Arc::clone(&state.mesh);
        proxies().into_iter().map(|p| (Arc::clone(&p), state.live.attach(&mesh, p).0)).collect::<Vec<_>>()
    };
    let early = attach(&mut state);
    for seed in seeds {
        step(&mut state, *seed);
        check(&state, &early, *seed);
    }
    // Proxies that connect now meet the shapes that were kept up to date.
    let late = attach(&mut state);
    check(&state, &late, 0);
    for ((_, a), (_, b)) in early.iter().zip(&late) {
        assert!(Arc::ptr_eq(&a.shape(), &b.shape()));
    }
}

/// A few on every run; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn what_is_kept_up_to_date_equals_a_computation_from_nothing(seeds in prop::collection::vec(any::<u64>(), 1..40)) {
        run(&seeds);
    }
}
