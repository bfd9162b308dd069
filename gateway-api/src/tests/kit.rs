//! A small cluster, and what conversion makes of objects in it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use xebec_galley::decode::{Outcome, decode};
use xebec_galley::{Config, yaml};

use crate::{
    Carrier, Condition, Converter, Facts, ListenerStatus, Object, ObjectKind, Output, ServicePort, ServicePorts,
    Settings, Status,
};

/// A class of ours and a Gateway `shop/edge` with one listener `http` for everything, on port 80.
pub const EDGE: &str = "
kind: GatewayClass
metadata: { name: xebec }
spec: { controllerName: xebec.io/gateway-controller }
---
kind: Gateway
metadata: { name: edge, namespace: shop, generation: 3, creationTimestamp: '2026-01-01T00:00:00Z' }
spec:
  gatewayClassName: xebec
  listeners:
  - { name: http, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }
";

/// Services `web` and `api` with port 80 and `grpc` with port `rpc` 9000 in `shop`; `web` in `other`.
pub struct Cluster {
    pub services: BTreeMap<(String, String), ServicePorts>,
    pub labels: BTreeMap<String, BTreeMap<String, String>>,
    pub secrets: BTreeSet<(String, String)>,
    pub carriers: Vec<Carrier>,
    pub version: Option<String>,
}

impl Default for Cluster {
    fn default() -> Self {
        let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let rpc = ServicePorts { ports: vec![ServicePort { name: "rpc".to_owned(), number: 9000 }] };
        Self {
            services: BTreeMap::from([
                (key("shop", "web"), ServicePorts::numbered([80, 8080])),
                (key("shop", "api"), ServicePorts::numbered([80])),
                (key("shop", "grpc"), rpc),
                (key("other", "web"), ServicePorts::numbered([80])),
            ]),
            labels: BTreeMap::from([("team".to_owned(), BTreeMap::from([("tier".to_owned(), "gold".to_owned())]))]),
            secrets: BTreeSet::from([key("shop", "cert"), key("other", "cert")]),
            carriers: vec![Carrier { names: Vec::new(), addresses: vec!["192.0.2.1".to_owned()] }],
            version: None,
        }
    }
}

impl Facts for Cluster {
    fn service(&self, namespace: &str, name: &str) -> Option<ServicePorts> {
        self.services.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        Some(self.labels.get(namespace).cloned().unwrap_or_default())
    }

    fn secret_exists(&self, namespace: &str, name: &str) -> bool {
        self.secrets.contains(&(namespace.to_owned(), name.to_owned()))
    }

    fn carriers(&self, _: &str, _: &str) -> Vec<Carrier> {
        self.carriers.clone()
    }

    fn ingress_addresses(&self) -> Vec<String> {
        self.carriers.iter().flat_map(|carrier| carrier.addresses.clone()).collect()
    }

    fn bundle_version(&self) -> Option<String> {
        self.version.clone()
    }
}

/// Reads objects from YAML; their group and version are left away.
pub fn objects(text: &str) -> Vec<Object> {
    text.split("\n---")
        .filter(|document| !document.trim().is_empty())
        .map(|document| {
            let mut json: Value = serde_saphyr::from_str(document).unwrap();
            let kind = ObjectKind::parse(json["kind"].as_str().unwrap()).unwrap();
            json["apiVersion"] = format!("{}/{}", kind.group(), kind.versions()[0]).into();
            Object::from_json(kind, json).unwrap()
        })
        .collect()
}

/// Converts objects in a cluster, and makes sure that galley takes what comes out.
pub fn converted(texts: &[&str], cluster: &Cluster) -> Output {
    let mut converter = Converter::new(Settings::default());
    for object in texts.iter().flat_map(|text| objects(text)) {
        converter.set(object).unwrap();
    }
    let output = converter.convert(cluster);
    accepted_by_galley(&output);
    output
}

/// Converts objects beside [`EDGE`].
pub fn at_edge(text: &str) -> Output {
    converted(&[EDGE, text], &Cluster::default())
}

/// A resource as a document.
pub fn document(config: &Config) -> Value {
    let (kind, spec) = match config {
        Config::Gateway(r) => ("Gateway", serde_json::to_value(&r.spec)),
        Config::VirtualService(r) => ("VirtualService", serde_json::to_value(&r.spec)),
        Config::DestinationRule(r) => ("DestinationRule", serde_json::to_value(&r.spec)),
        other => panic!("{other:?}"),
    };
    let key = &config.meta().key;
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": { "name": &*key.name, "namespace": &*key.namespace },
        "spec": spec.unwrap(),
    })
}

/// Every resource goes through galley's door as if an operator had written it, and comes out the same.
pub fn accepted_by_galley(output: &Output) {
    for config in &output.configs {
        let text = serde_json::to_string_pretty(&document(config)).unwrap();
        let stream = yaml::parse("generated.yaml", text.as_bytes());
        let decoded: Vec<_> = stream.documents.iter().flat_map(decode).collect();
        assert_eq!(decoded.len(), 1);
        match (&decoded[0].outcome, config) {
            (Outcome::Accepted(Config::Gateway(a)), Config::Gateway(b)) => assert_eq!(a.spec, b.spec),
            (Outcome::Accepted(Config::VirtualService(a)), Config::VirtualService(b)) => assert_eq!(a.spec, b.spec),
            (Outcome::Accepted(Config::DestinationRule(a)), Config::DestinationRule(b)) => assert_eq!(a.spec, b.spec),
            _ => panic!("{:#?}\n{text}", decoded[0].diagnostics),
        }
    }
}

/// The generated documents of a kind.
pub fn documents(output: &Output, kind: &str) -> Vec<Value> {
    output.configs.iter().map(document).filter(|document| document["kind"] == kind).collect()
}

/// The HTTP routes for a host, in order.
pub fn http(output: &Output, host: &str) -> Vec<Value> {
    documents(output, "VirtualService")
        .into_iter()
        .filter(|document| document["spec"]["hosts"] == json!([host]))
        .flat_map(|document| document["spec"]["http"].as_array().cloned().unwrap_or_default())
        .collect()
}

/// `kind/namespace/name` of the status to look at.
pub fn status<'a>(output: &'a Output, key: &str) -> &'a Status {
    let found = output.statuses.iter().find(|status| status.key.to_string() == key);
    &found.unwrap_or_else(|| panic!("no status of {key}: {:?}", output.statuses)).status
}

fn brief(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={} {}", c.kind, if c.status { "True" } else { "False" }, c.reason)).collect()
}

/// The conditions of the first parent of a route or the first ancestor of a policy, or of the object itself.
pub fn conditions(output: &Output, key: &str) -> Vec<String> {
    match status(output, key) {
        Status::Route(parents) | Status::Policy(parents) => brief(&parents.first().expect("no parent").conditions),
        Status::Gateway { conditions, .. }
        | Status::GatewayClass { conditions, .. }
        | Status::ListenerSet { conditions, .. } => brief(conditions),
        Status::Ingress(_) => Vec::new(),
    }
}

/// A listener of a Gateway or ListenerSet.
pub fn listener<'a>(output: &'a Output, key: &str, name: &str) -> &'a ListenerStatus {
    match status(output, key) {
        Status::Gateway { listeners, .. } | Status::ListenerSet { listeners, .. } => {
            listeners.iter().find(|listener| listener.name == name).expect("no such listener")
        }
        other => panic!("{other:?}"),
    }
}

/// The conditions of a listener.
pub fn listener_conditions(output: &Output, key: &str, name: &str) -> Vec<String> {
    brief(&listener(output, key, name).conditions)
}
