//! Small builders for documents, services and proxies.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use xebec_galley::{Config, ConfigEvent, Kind, Meta, Resource, ResourceKey, SourceRef};

use crate::model::{
    Address, Distribution, Endpoint, Health, Labels, Locality, Port, Protocol, RegistryId, Resolution, Service,
    ServiceKey, Visibility,
};
use crate::proxy::Proxy;
use crate::resources::{ResourceType, ShapeSnapshot};
use crate::xds::shape::Shape;

pub fn registry() -> RegistryId {
    RegistryId("test".into())
}

pub fn key(kind: Kind, namespace: &str, name: &str) -> ResourceKey {
    ResourceKey { kind, namespace: namespace.into(), name: name.into() }
}

fn resource<T: DeserializeOwned>(kind: Kind, namespace: &str, name: &str, spec: Value) -> Arc<Resource<T>> {
    let meta = Meta {
        key: key(kind, namespace, name),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: 0,
        source: SourceRef { file: format!("{name}.yaml").into(), line: 1, column: 1 },
    };
    Arc::new(Resource { meta, spec: serde_json::from_value(spec).expect("a valid spec") })
}

pub fn document(kind: Kind, namespace: &str, name: &str, spec: Value) -> ConfigEvent {
    ConfigEvent::Upsert(match kind {
        Kind::VirtualService => Config::VirtualService(resource(kind, namespace, name, spec)),
        Kind::DestinationRule => Config::DestinationRule(resource(kind, namespace, name, spec)),
        Kind::Gateway => Config::Gateway(resource(kind, namespace, name, spec)),
        Kind::ServiceEntry => Config::ServiceEntry(resource(kind, namespace, name, spec)),
        Kind::WorkloadEntry => Config::WorkloadEntry(resource(kind, namespace, name, spec)),
        Kind::Sidecar => Config::Sidecar(resource(kind, namespace, name, spec)),
    })
}

pub fn service(host: &str, namespace: &str, ports: &[(u16, Protocol)]) -> Service {
    Service {
        key: ServiceKey::new(host, namespace),
        addresses: Vec::new(),
        ports: ports.iter().map(|(n, p)| Port { name: format!("p{n}").into(), number: *n, protocol: *p }).collect(),
        resolution: Resolution::Static,
        external: false,
        visibility: Visibility::Public,
        labels: Labels::new(),
        aliases: Vec::new(),
        created: 0,
        registry: registry(),
        origin: None,
        distribution: Distribution::default(),
    }
}

pub fn endpoint(ip: &str, workload: Option<&str>) -> Endpoint {
    Endpoint {
        address: Address::Ip(ip.parse().unwrap()),
        ports: BTreeMap::new(),
        labels: Labels::from([("version".into(), if ip.ends_with('1') { "v1".into() } else { "v2".into() })]),
        locality: Locality::parse("r1/z1"),
        weight: 1,
        service_account: None,
        workload: workload.map(Arc::from),
        network: "".into(),
        node: None,
        health: Health::Healthy,
        app: BTreeMap::new(),
    }
}

pub fn proxy(kind: &str, ip: &str, name: &str, namespace: &str, metadata: Value, delta: bool) -> Arc<Proxy> {
    let id = format!("{kind}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local");
    Arc::new(Proxy::from_parts(&id, metadata.as_object().unwrap(), Locality::parse("r1/z1"), delta).unwrap())
}

pub fn sidecar(name: &str) -> Arc<Proxy> {
    proxy("sidecar", "10.255.0.1", name, "default", json!({}), true)
}

/// Names and versions of everything in a snapshot.
pub fn content(snapshot: &ShapeSnapshot) -> BTreeMap<(ResourceType, String), u64> {
    ResourceType::ALL
        .into_iter()
        .flat_map(|kind| snapshot.set(kind).iter().map(move |(name, r)| ((kind, name.to_string()), r.version)))
        .collect()
}

/// What a stream believes that the shape serves, which it knows from deltas only.
pub fn told(shape: &Shape) -> BTreeMap<(ResourceType, String), u64> {
    let published = shape.published();
    ResourceType::ALL
        .into_iter()
        .flat_map(|kind| {
            published.versions(kind).iter().map(move |(name, v)| ((kind, name.to_string()), *v)).collect::<Vec<_>>()
        })
        .collect()
}

/// A rule that sends a share of the requests for `host` to each of `to`.
pub fn weighted(host: &str, to: &[(&str, i32)]) -> Value {
    let route: Vec<Value> = to.iter().map(|(h, w)| json!({"destination": {"host": h}, "weight": w})).collect();
    json!({"hosts": [host], "http": [{"route": route}]})
}
