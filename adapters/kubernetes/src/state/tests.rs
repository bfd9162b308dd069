#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use serde_json::{Value, json};
use xebec_pilot::model::RegistryId;

use super::*;
use crate::convert::tests::Json;
use crate::object::{Names, decode};

struct Fixture {
    state: State,
    names: Names,
}

impl Fixture {
    fn new() -> Self {
        let registry = RegistryId("kubernetes".into());
        let meters = Meters::new(&registry);
        let cluster = Cluster {
            registry,
            domain: "cluster.local".into(),
            id: "".into(),
            network: "".into(),
            pods_expected: true,
        };
        Self { state: State::new(cluster, SYSTEM_NAMESPACE, meters), names: Names::default() }
    }

    fn put(&mut self, kind: Kind, value: Value) {
        let (meta, object) = decode(kind, Json(value), &mut self.names).unwrap();
        let key = self.names.key(&meta);
        self.state.put(key, object);
    }

    fn service(&mut self, name: &str) {
        self.put(
            Kind::Service,
            json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"ports": [{"name": "http", "port": 80}]}}),
        );
    }

    fn slice(&mut self, service: &str, pods: &[&str]) {
        let endpoints: Vec<Value> = pods
            .iter()
            .enumerate()
            .map(|(i, pod)| json!({"addresses": [format!("10.0.0.{i}")], "nodeName": "node", "targetRef": {"kind": "Pod", "name": pod}}))
            .collect();
        self.put(Kind::EndpointSlice, json!({
            "metadata": {"name": format!("{service}-1"), "namespace": "n", "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints}));
    }

    fn pod(&mut self, name: &str, version: &str) {
        self.put(Kind::Pod, json!({"metadata": {"name": name, "namespace": "n", "labels": {"version": version}},
            "spec": {"nodeName": "node"}, "status": {"podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]}}));
    }

    fn said(&mut self) -> Vec<String> {
        let short = |event| match event {
            RegistryEvent::UpsertService(s) => format!("+{}", s.key.hostname.split('.').next().unwrap()),
            RegistryEvent::ReplaceEndpoints(k, e) => format!("={}:{}", k.hostname.split('.').next().unwrap(), e.len()),
            RegistryEvent::RemoveService(k) => format!("-{}", k.hostname.split('.').next().unwrap()),
            RegistryEvent::UpsertWorkload(k, _) => format!("+w {}", k.name),
            RegistryEvent::RemoveWorkload(k) => format!("-w {}", k.name),
            other => format!("{other:?}"),
        };
        self.state.settle().into_iter().map(short).collect()
    }
}

#[test]
fn a_change_touches_only_what_has_it() {
    let mut f = Fixture::new();
    for (service, pods) in [("a", vec!["p1", "p2"]), ("b", vec!["p2"]), ("c", vec!["p3"])] {
        f.service(service);
        f.slice(service, &pods);
    }
    assert_eq!(f.said(), ["+a", "+b", "+c"], "endpoints wait for their pods");
    for pod in ["p1", "p2", "p3"] {
        f.pod(pod, "v1");
    }
    assert_eq!(f.said(), ["+w p1", "+w p2", "+w p3", "=a:2", "=b:1", "=c:1"]);
    f.pod("p1", "v1");
    assert!(f.said().is_empty(), "nothing has changed");
    f.pod("p1", "v2");
    assert_eq!(f.said(), ["+w p1", "=a:2"]);
    f.pod("p2", "v2");
    assert_eq!(f.said(), ["+w p2", "=a:2", "=b:1"]);
    f.put(Kind::Node, json!({"metadata": {"name": "elsewhere", "labels": {"topology.kubernetes.io/zone": "z"}}}));
    assert!(f.said().is_empty());
    f.put(Kind::Node, json!({"metadata": {"name": "node", "labels": {"topology.kubernetes.io/zone": "z"}}}));
    assert_eq!(f.said(), ["+w p1", "+w p2", "+w p3", "=a:2", "=b:1", "=c:1"]);
    let key = |name: &str| Key { namespace: "n".into(), name: name.into() };
    f.state.remove(Kind::Service, key("a"));
    assert_eq!(f.said(), ["-a"]);
    f.state.remove(Kind::EndpointSlice, key("a-1"));
    assert!(f.said().is_empty(), "its slice is never resurrected");
    f.state.remove(Kind::Pod, key("p3"));
    assert_eq!(f.said(), ["-w p3", "=c:0"]);
    f.state.remove(Kind::EndpointSlice, key("b-1"));
    assert_eq!(f.said(), ["=b:0"]);
    assert!(!f.state.services_of_pod.contains_key(&key("p2")), "indexes forget");
}

#[test]
fn a_service_is_not_read_again_when_its_pods_change() {
    let mut f = Fixture::new();
    let nonsense = json!({"networking.istio.io/exportTo": "A,".repeat(100)});
    f.put(Kind::Service, json!({"metadata": {"name": "a", "namespace": "n", "annotations": nonsense}}));
    f.slice("a", &["p1"]);
    assert_eq!(f.said(), ["+a"]);
    let key = Key { namespace: "n".into(), name: "a".into() };
    // Whoever reads it again finds it changed.
    f.state.services.get_mut(&key).unwrap().metadata.labels.insert("seen".into(), "no".into());
    f.pod("p1", "v1");
    assert_eq!(f.said(), ["+w p1", "=a:1"]);
    assert_eq!(f.state.said[&key].of_service.told().len(), 33, "what was skipped is remembered");
    f.service("a");
    assert_eq!(f.said(), ["+a", "=a:1"]);
    assert!(f.state.said[&key].of_service.told().is_empty());
    f.put(
        Kind::Namespace,
        json!({"metadata": {"name": "n", "annotations": {"networking.istio.io/traffic-distribution": "PreferClose"}}}),
    );
    assert_eq!(f.said(), ["+a"]);
}

#[test]
fn a_listing_removes_exactly_what_it_did_not_name_within_its_namespace() {
    let mut f = Fixture::new();
    f.service("a");
    f.service("b");
    f.put(Kind::Service, json!({"metadata": {"name": "c", "namespace": "other"}}));
    assert_eq!(f.said().len(), 3);
    let named = FxHashSet::from_iter([Key { namespace: "n".into(), name: "b".into() }]);
    f.state.keep_only(Kind::Service, Some("n"), &named);
    assert_eq!(f.said(), ["-a"]);
    f.state.keep_only(Kind::Service, None, &named);
    assert_eq!(f.said(), ["-c"]);
}

#[test]
fn the_system_namespaces_label_is_the_network_of_pods_that_name_none() {
    let mut f = Fixture::new();
    f.pod("p1", "v1");
    assert_eq!(f.said(), ["+w p1"]);
    f.put(
        Kind::Namespace,
        json!({"metadata": {"name": "istio-system", "labels": {"topology.istio.io/network": "east"}}}),
    );
    let events = f.state.settle();
    assert!(matches!(&events[..], [RegistryEvent::UpsertWorkload(_, e)] if &*e.network == "east"), "{events:?}");
}
