#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod merging;

use std::net::IpAddr;

use serde_json::{Value, json};
use xebec_galley::{Kind, Meta};

use super::*;
use crate::mesh::{Mesh, apply};
use crate::model::{Address, Distribution, Health, Labels, Locality, Port, Protocol, Resolution, Visibility};

struct Fixture {
    catalog: Catalog,
    mesh: Mesh,
}

fn service(host: &str, registry: &str, created: u64, port: u16) -> Service {
    Service {
        key: ServiceKey::new(host, "default"),
        addresses: Vec::new(),
        ports: vec![Port { name: "http".into(), number: port, protocol: Protocol::Http }],
        resolution: Resolution::Static,
        external: false,
        visibility: Visibility::Public,
        labels: Labels::new(),
        aliases: Vec::new(),
        created,
        registry: RegistryId(registry.into()),
        origin: None,
        distribution: Distribution::default(),
    }
}

fn endpoint(ip: &str, app: &str) -> Endpoint {
    Endpoint {
        address: Address::Ip(ip.parse().unwrap()),
        ports: BTreeMap::from([("other".into(), 1234)]),
        labels: Labels::from([("app".into(), app.into())]),
        locality: Locality::default(),
        weight: 1,
        service_account: None,
        workload: None,
        network: "".into(),
        node: None,
        health: Health::Healthy,
        app: BTreeMap::new(),
    }
}

fn resource_key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey { kind, namespace: "default".into(), name: name.into() }
}

fn meta(kind: Kind, name: &str, created: u64) -> Meta {
    Meta {
        key: resource_key(kind, name),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created,
        source: SourceRef { file: format!("{name}.yaml").into(), line: 7, column: 1 },
    }
}

impl Fixture {
    fn new() -> Self {
        Self { catalog: Catalog::new(Arc::default()), mesh: Mesh::default() }
    }

    fn say(&mut self, registry: &str, event: RegistryEvent) -> &mut Self {
        self.catalog.registry_event(&RegistryId(registry.into()), event, SystemTime::UNIX_EPOCH);
        self.commit()
    }

    fn upsert(&mut self, registry: &str, host: &str, created: u64, port: u16) -> &mut Self {
        self.say(registry, RegistryEvent::UpsertService(Arc::new(service(host, registry, created, port))))
    }

    fn endpoints(&mut self, registry: &str, host: &str, list: &[(&str, &str)]) -> &mut Self {
        let list: Vec<_> = list.iter().map(|(ip, app)| endpoint(ip, app)).collect();
        self.say(registry, RegistryEvent::ReplaceEndpoints(ServiceKey::new(host, "default"), list.into()))
    }

    fn entry(&mut self, name: &str, created: u64, spec: Value) -> &mut Self {
        let entry =
            Resource { meta: meta(Kind::ServiceEntry, name, created), spec: serde_json::from_value(spec).unwrap() };
        self.catalog.set_service_entry(resource_key(Kind::ServiceEntry, name), Some(Arc::new(entry)));
        self.commit()
    }

    fn workload(&mut self, name: &str, spec: Option<Value>) -> &mut Self {
        let entry = spec.map(|spec| {
            Arc::new(Resource { meta: meta(Kind::WorkloadEntry, name, 0), spec: serde_json::from_value(spec).unwrap() })
        });
        self.catalog.set_workload_entry(resource_key(Kind::WorkloadEntry, name), entry);
        self.commit()
    }

    fn commit(&mut self) -> &mut Self {
        self.mesh = apply(&self.mesh, self.catalog.take_changes()).0;
        self
    }

    fn get(&self, host: &str) -> Option<Arc<MeshService>> {
        self.mesh.service(&ServiceKey::new(host, "default")).cloned()
    }

    fn addresses(&self, host: &str) -> Vec<String> {
        let service = self.get(host).unwrap();
        let text = |e: &Endpoint| match &e.address {
            Address::Ip(ip) => ip.to_string(),
            Address::Dns(name) | Address::Unix(name) => name.to_string(),
        };
        service.endpoints.iter().map(text).collect()
    }

    fn port_of(&self, host: &str, ip: &str, port: &str) -> u16 {
        let ip: IpAddr = ip.parse().unwrap();
        let service = self.get(host).unwrap();
        service.endpoints.iter().find(|e| e.address == Address::Ip(ip)).unwrap().ports[port]
    }
}

#[test]
fn the_oldest_registration_decides_and_endpoints_are_joined() {
    let mut f = Fixture::new();
    f.upsert("a", "reviews", 20, 80).endpoints("a", "reviews", &[("10.0.0.1", "x")]);
    f.upsert("b", "reviews", 10, 90).endpoints("b", "reviews", &[("10.0.0.2", "x")]);
    assert_eq!(f.get("reviews").unwrap().service.ports[0].number, 90);
    assert_eq!(f.addresses("reviews"), ["10.0.0.2", "10.0.0.1"]);
    f.say("b", RegistryEvent::RemoveService(ServiceKey::new("reviews", "default")));
    assert_eq!(f.get("reviews").unwrap().service.ports[0].number, 80);
    assert_eq!(f.addresses("reviews"), ["10.0.0.1"]);
    f.say("a", RegistryEvent::RemoveService(ServiceKey::new("reviews", "default")));
    assert!(f.get("reviews").is_none());
}

#[test]
fn of_one_age_a_platform_comes_before_a_service_entry() {
    let mut f = Fixture::new();
    f.entry("se", 0, json!({"hosts": ["reviews"], "ports": [{"number": 70, "name": "http", "protocol": "HTTP"}]}));
    f.upsert("z", "reviews", 0, 80);
    assert_eq!(f.get("reviews").unwrap().service.ports[0].number, 80);
    assert_eq!(f.get("reviews").unwrap().origin, None);
}

#[test]
fn endpoints_that_arrive_before_their_service_wait_for_it() {
    let mut f = Fixture::new();
    f.endpoints("a", "reviews", &[("10.0.0.1", "x")]);
    assert!(f.get("reviews").is_none());
    f.upsert("a", "reviews", 0, 80);
    assert_eq!(f.addresses("reviews"), ["10.0.0.1"]);
}

#[test]
fn an_outage_removes_nothing_and_is_remembered() {
    let mut f = Fixture::new();
    f.upsert("a", "reviews", 0, 80).say("a", RegistryEvent::Synced).say("a", RegistryEvent::Degraded("503".into()));
    assert!(f.get("reviews").is_some());
    let status = f.catalog.registries()[&RegistryId("a".into())].clone();
    assert_eq!((status.synced, status.degraded.as_deref(), status.services), (true, Some("503"), 1));
    assert_eq!(status.last_event, Some(SystemTime::UNIX_EPOCH));
    f.say("a", RegistryEvent::Recovered);
    assert_eq!(f.catalog.registries()[&RegistryId("a".into())].degraded, None);
}

#[test]
fn a_service_entry_is_one_service_per_host() {
    let mut f = Fixture::new();
    f.entry(
        "se",
        5,
        json!({"hosts": ["A.example.com", "b.example.com"], "addresses": ["240.0.0.1", "240.1.0.0/16"],
               "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}], "resolution": "DNS", "exportTo": [".", "shop"]}),
    );
    let a = f.get("a.example.com").unwrap();
    assert!(f.get("b.example.com").is_some());
    assert_eq!(
        a.service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["240.0.0.1/32", "240.1.0.0/16"]
    );
    assert_eq!(a.service.resolution, Resolution::Dns);
    assert!(a.service.external, "outside of the mesh unless it says otherwise");
    assert_eq!(a.service.visibility, Visibility::Namespaces(vec!["default".into(), "shop".into()]));
    assert_eq!(a.origin.as_ref().unwrap().to_string(), "se.yaml:7:1");
    f.catalog.set_service_entry(resource_key(Kind::ServiceEntry, "se"), None);
    f.commit();
    assert!(f.get("a.example.com").is_none() && f.get("b.example.com").is_none());
}

#[rstest::rstest]
#[case("NONE", Resolution::Passthrough)]
#[case("STATIC", Resolution::Static)]
#[case("DNS", Resolution::Dns)]
#[case("DNS_ROUND_ROBIN", Resolution::DnsRoundRobin)]
fn the_resolution_says_how_endpoints_are_found(#[case] written: &str, #[case] expected: Resolution) {
    let mut f = Fixture::new();
    f.entry("se", 0, json!({"hosts": ["a.example.com"], "ports": [], "resolution": written}));
    assert_eq!(f.get("a.example.com").unwrap().service.resolution, expected);
}

#[test]
fn an_endpoints_own_port_counts_before_the_target_port_and_that_before_the_number() {
    let mut f = Fixture::new();
    f.entry(
        "se",
        0,
        json!({"hosts": ["a.example.com"], "resolution": "STATIC",
               "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}, {"number": 90, "name": "b", "protocol": "HTTP"}],
               "endpoints": [{"address": "10.0.0.1", "ports": {"http": 9999}}, {"address": "10.0.0.2", "weight": 3, "locality": "r/z"}]}),
    );
    assert_eq!(f.port_of("a.example.com", "10.0.0.1", "http"), 9999);
    assert_eq!(f.port_of("a.example.com", "10.0.0.2", "http"), 8080);
    assert_eq!(f.port_of("a.example.com", "10.0.0.2", "b"), 90);
    let service = f.get("a.example.com").unwrap();
    assert_eq!((service.endpoints[1].weight, &*service.endpoints[1].locality.zone), (3, "z"));
}

#[test]
fn addresses_may_be_names_and_sockets() {
    let mut f = Fixture::new();
    f.entry(
        "se",
        0,
        json!({"hosts": ["a.example.com"], "resolution": "DNS", "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
               "endpoints": [{"address": "Real.Example.com"}, {"address": "unix:///run/a.sock"}, {"network": "n"}]}),
    );
    let endpoints = f.get("a.example.com").unwrap().endpoints.clone();
    assert_eq!(endpoints.len(), 2, "one without an address is reached only through its network's gateway");
    assert_eq!(endpoints[0].address, Address::Dns("real.example.com".into()));
    assert_eq!(endpoints[1].address, Address::Unix("/run/a.sock".into()));
}

#[test]
fn a_selector_takes_workload_entries_and_workloads_of_platforms_of_its_namespace() {
    let mut f = Fixture::new();
    f.upsert("a", "backend", 0, 80).endpoints("a", "backend", &[("10.0.0.1", "x"), ("10.0.0.2", "y")]);
    f.entry(
        "se",
        0,
        json!({"hosts": ["sel.example.com"], "resolution": "STATIC", "workloadSelector": {"labels": {"app": "x"}},
               "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]}),
    );
    assert_eq!(f.addresses("sel.example.com"), ["10.0.0.1"]);
    assert_eq!(f.port_of("sel.example.com", "10.0.0.1", "http"), 8080);
    f.workload("vm", Some(json!({"address": "10.0.9.9", "labels": {"app": "x"}, "ports": {"http": 7000}})));
    f.workload("unrelated", Some(json!({"address": "10.0.9.8", "labels": {"app": "z"}})));
    assert_eq!(f.addresses("sel.example.com"), ["10.0.9.9", "10.0.0.1"]);
    assert_eq!(f.port_of("sel.example.com", "10.0.9.9", "http"), 7000);
    f.endpoints("a", "backend", &[("10.0.0.3", "x")]);
    assert_eq!(f.addresses("sel.example.com"), ["10.0.9.9", "10.0.0.3"]);
    f.workload("vm", None).say("a", RegistryEvent::RemoveService(ServiceKey::new("backend", "default")));
    assert!(f.get("sel.example.com").unwrap().endpoints.is_empty());
}

#[test]
fn the_default_visibility_of_entries_follows_the_settings() {
    let mut f = Fixture::new();
    f.entry("se", 0, json!({"hosts": ["a.example.com"], "ports": []}));
    assert_eq!(f.get("a.example.com").unwrap().service.visibility, Visibility::Public);
    let settings: MeshConfig = serde_json::from_value(json!({"defaultServiceExportTo": ["."]})).unwrap();
    f.catalog.set_settings(Arc::new(settings));
    f.commit();
    assert_eq!(f.get("a.example.com").unwrap().service.visibility, Visibility::Namespaces(vec!["default".into()]));
}

#[test]
fn a_change_names_only_the_services_that_it_touches() {
    let mut f = Fixture::new();
    f.upsert("a", "one", 0, 80).upsert("a", "two", 0, 80);
    let key = ServiceKey::new("one", "default");
    let event = RegistryEvent::ReplaceEndpoints(key.clone(), vec![endpoint("10.0.0.1", "x")].into());
    f.catalog.registry_event(&RegistryId("a".into()), event, SystemTime::UNIX_EPOCH);
    let changes = f.catalog.take_changes();
    assert_eq!(changes.len(), 1);
    assert!(matches!(&changes[0], Change::Service(changed, Some(_)) if *changed == key));
}
