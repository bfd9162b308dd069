//! What conversion asks about a cluster beside the objects themselves: Services, namespaces, certificates, and the pods whose proxies
//! serve Gateways and Ingresses.
//!
//! - ALWAYS: a change that no answer depends on is no change, so that the life of pods costs no conversions.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::DynamicObject;
use serde_json::Value;
use xebec_gateway_api::{Carrier, Facts, GATEWAY_NAME_LABEL, ServicePort, ServicePorts};

use crate::kinds::Family;

/// Namespace and name.
type Name = (String, String);
type Labels = BTreeMap<String, String>;

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    domain: String,
    services: BTreeMap<Name, Service>,
    namespaces: BTreeMap<String, Labels>,
    gateway_pods: BTreeMap<Name, Pod>,
    ingress_pods: BTreeMap<Name, Pod>,
    /// Absent: they are not asked about.
    certificates: Option<BTreeSet<Name>>,
    /// The version of the Gateway API's definitions.
    version: Option<String>,
}

/// A Service, as far as answers depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Service {
    ports: ServicePorts,
    selector: Labels,
    /// Whether its addresses are given to it from outside of the cluster.
    balanced: bool,
    /// Addresses outside of the cluster.
    addresses: Vec<String>,
}

/// A pod, likewise.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    ready: bool,
    labels: Labels,
    addresses: Vec<String>,
}

// === impl Cluster ===

impl Cluster {
    /// Nothing is known yet, and perhaps will never be about certificates.
    pub(crate) fn new(domain: &str, certificates: bool) -> Self {
        Self { domain: domain.to_owned(), certificates: certificates.then(BTreeSet::new), ..Default::default() }
    }

    /// An object is new or different. Whether an answer may be different now.
    pub(crate) fn put(&mut self, family: Family, object: &DynamicObject) -> bool {
        let metadata = &object.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let key = (metadata.namespace.clone().unwrap_or_default(), name);
        match family {
            Family::Service => update(&mut self.services, key, Service::of(&object.data)),
            Family::Namespace => update(&mut self.namespaces, key.1, metadata.labels.clone().unwrap_or_default()),
            Family::GatewayProxy => update(&mut self.gateway_pods, key, Pod::of(object)),
            Family::IngressProxy => update(&mut self.ingress_pods, key, Pod::of(object)),
            Family::Certificate => self.certificates.as_mut().is_some_and(|all| all.insert(key)),
            Family::Istio(_) | Family::Gateway(_) => false,
        }
    }

    /// An object is gone. Whether an answer may be different now.
    pub(crate) fn remove(&mut self, family: Family, namespace: &str, name: &str) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        match family {
            Family::Service => self.services.remove(&key).is_some(),
            Family::Namespace => self.namespaces.remove(name).is_some(),
            Family::GatewayProxy => self.gateway_pods.remove(&key).is_some(),
            Family::IngressProxy => self.ingress_pods.remove(&key).is_some(),
            Family::Certificate => self.certificates.as_mut().is_some_and(|all| all.remove(&key)),
            Family::Istio(_) | Family::Gateway(_) => false,
        }
    }

    /// The definitions of the Gateway API say this version. Whether that is new.
    pub(crate) fn defined(&mut self, version: Option<String>) -> bool {
        std::mem::replace(&mut self.version, version.clone()) != version
    }

    /// What leads to these pods of a namespace: the Services that select any of them, or where there is none, they themselves.
    fn leading_to(&self, namespace: &str, pods: &[&Pod]) -> Vec<Carrier> {
        if pods.is_empty() {
            return Vec::new();
        }
        let from = (namespace.to_owned(), String::new());
        let services = self.services.range(from..).take_while(|((of, _), _)| of == namespace);
        let selecting = services.filter(|(_, service)| pods.iter().any(|pod| service.selects(pod)));
        let carriers: Vec<Carrier> =
            selecting.map(|((_, name), service)| service.carrier(namespace, name, &self.domain)).collect();
        if !carriers.is_empty() {
            return carriers;
        }
        let addresses: BTreeSet<&String> = pods.iter().flat_map(|pod| &pod.addresses).collect();
        vec![Carrier { names: Vec::new(), addresses: addresses.into_iter().cloned().collect() }]
    }
}

fn update<K: Ord, V: PartialEq + Clone>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    map.insert(key, value.clone()) != Some(value)
}

impl Facts for Cluster {
    fn service(&self, namespace: &str, name: &str) -> Option<ServicePorts> {
        self.services.get(&(namespace.to_owned(), name.to_owned())).map(|service| service.ports.clone())
    }

    fn namespace_labels(&self, namespace: &str) -> Option<Labels> {
        self.namespaces.get(namespace).cloned()
    }

    fn secret_exists(&self, namespace: &str, name: &str) -> bool {
        self.certificates.as_ref().is_some_and(|all| all.contains(&(namespace.to_owned(), name.to_owned())))
    }

    fn knows_secrets(&self) -> bool {
        self.certificates.is_some()
    }

    fn carriers(&self, namespace: &str, name: &str) -> Vec<Carrier> {
        let from = (namespace.to_owned(), String::new());
        let pods = self.gateway_pods.range(from..).take_while(|((of, _), _)| of == namespace).map(|(_, pod)| pod);
        let serves = |pod: &&Pod| pod.ready && pod.labels.get(GATEWAY_NAME_LABEL).is_some_and(|of| of == name);
        self.leading_to(namespace, &pods.filter(serves).collect::<Vec<_>>())
    }

    fn ingress_addresses(&self) -> Vec<String> {
        // All of them are in one namespace.
        let Some(((namespace, _), _)) = self.ingress_pods.first_key_value() else { return Vec::new() };
        let ready: Vec<&Pod> = self.ingress_pods.values().filter(|pod| pod.ready).collect();
        let mut addresses: Vec<String> = Vec::new();
        for address in self.leading_to(namespace, &ready).into_iter().flat_map(|carrier| carrier.addresses) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn bundle_version(&self) -> Option<String> {
        self.version.clone()
    }
}

// === impl Service ===

impl Service {
    fn of(data: &Value) -> Self {
        let ports = list(data, "/spec/ports").iter().filter_map(|port| {
            let number = u16::try_from(port.get("port")?.as_u64()?).ok()?;
            let name = port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            Some(ServicePort { name, number })
        });
        let ports = ServicePorts { ports: ports.collect() };
        let kind = data.pointer("/spec/type").and_then(Value::as_str).unwrap_or_default();
        let mut selector = Labels::new();
        // A name for something else leads nowhere here, whatever it selects.
        if kind != "ExternalName" {
            let pairs = data.pointer("/spec/selector").and_then(Value::as_object).into_iter().flatten();
            selector.extend(pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))));
        }
        let given = list(data, "/status/loadBalancer/ingress").iter().filter_map(|entry| {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
            text("ip").or_else(|| text("hostname"))
        });
        let external = list(data, "/spec/externalIPs").iter().filter_map(Value::as_str);
        let addresses = given.chain(external).map(str::to_owned).collect();
        Self { ports, selector, balanced: kind == "LoadBalancer", addresses }
    }

    fn selects(&self, pod: &Pod) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }

    /// One that waits for a load balancer has no address; one that never gets any is reached by its name within the cluster.
    fn carrier(&self, namespace: &str, name: &str, domain: &str) -> Carrier {
        let short = format!("{name}.{namespace}");
        let full = format!("{short}.svc.{domain}");
        let mut addresses = self.addresses.clone();
        if addresses.is_empty() && !self.balanced {
            addresses.push(full.clone());
        }
        Carrier { names: vec![full, format!("{short}.svc"), short, name.to_owned()], addresses }
    }
}

// === impl Pod ===

impl Pod {
    fn of(pod: &DynamicObject) -> Self {
        let is =
            |condition: &Value, field: &str, value: &str| condition.get(field).and_then(Value::as_str) == Some(value);
        let ready =
            list(&pod.data, "/status/conditions").iter().any(|c| is(c, "type", "Ready") && is(c, "status", "True"));
        let addresses = list(&pod.data, "/status/podIPs").iter().filter_map(|entry| entry.get("ip")?.as_str());
        Self {
            ready: ready && pod.metadata.deletion_timestamp.is_none(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses: addresses.map(str::to_owned).collect(),
        }
    }
}

fn list<'v>(data: &'v Value, pointer: &str) -> &'v [Value] {
    data.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use serde_json::json;

    fn object(name: &str, labels: Value, data: Value) -> DynamicObject {
        let mut object: DynamicObject =
            serde_json::from_value(json!({"metadata": {"namespace": "shop", "name": name, "labels": labels}})).unwrap();
        object.data = data;
        object
    }

    fn pod(name: &str, ip: &str, ready: &str) -> DynamicObject {
        let labels = json!({GATEWAY_NAME_LABEL: "edge", "app": "edge"});
        let status = json!({"podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]});
        object(name, labels, json!({"status": status}))
    }

    fn addresses(cluster: &Cluster) -> Vec<Vec<String>> {
        cluster.carriers("shop", "edge").into_iter().map(|carrier| carrier.addresses).collect()
    }

    #[test]
    fn ready_proxies_are_reached_by_their_services_and_without_one_by_their_own_addresses() {
        let mut cluster = Cluster::new("cluster.local", false);
        assert!(cluster.put(Family::GatewayProxy, &pod("a", "10.244.0.1", "False")));
        assert_eq!(addresses(&cluster), Vec::<Vec<String>>::new(), "nobody serves it");
        cluster.put(Family::GatewayProxy, &pod("a", "10.244.0.1", "True"));
        assert_eq!(addresses(&cluster), [["10.244.0.1"]]);
        let mut service = object("front", json!({}), json!({"spec": {"selector": {"app": "edge"}}}));
        cluster.put(Family::Service, &service);
        assert_eq!(addresses(&cluster), [["front.shop.svc.cluster.local"]]);
        service.data["spec"]["type"] = json!("LoadBalancer");
        cluster.put(Family::Service, &service);
        assert_eq!(addresses(&cluster), [Vec::<String>::new()], "it waits for its address");
        service.data["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "a.example"}]}});
        cluster.put(Family::Service, &service);
        assert_eq!(addresses(&cluster), [["192.0.2.1", "a.example"]]);
        cluster.put(Family::Service, &object("other", json!({}), json!({"spec": {"selector": {"app": "web"}}})));
        cluster.put(Family::Service, &object("none", json!({}), json!({"spec": {}})));
        assert_eq!(addresses(&cluster).len(), 1, "a Service that selects something else, or nothing, leads nowhere");
        assert!(cluster.carriers("team", "edge").is_empty() && cluster.carriers("shop", "other").is_empty());
        cluster.remove(Family::GatewayProxy, "shop", "a");
        assert!(addresses(&cluster).is_empty());
    }

    #[test]
    fn what_changes_no_answer_is_no_change() {
        let mut cluster = Cluster::new("cluster.local", false);
        let mut pod = pod("a", "10.244.0.1", "True");
        assert!(cluster.put(Family::GatewayProxy, &pod));
        pod.data["status"]["phase"] = json!("Running");
        assert!(!cluster.put(Family::GatewayProxy, &pod));
        assert!(!cluster.put(Family::Certificate, &object("tls", json!({}), Value::Null)), "nobody asks for them");
        assert!(!cluster.remove(Family::Service, "shop", "never"));
    }

    #[test]
    fn a_pod_on_its_way_out_serves_nothing() {
        let mut cluster = Cluster::new("cluster.local", true);
        let mut leaving = pod("a", "10.244.0.1", "True");
        leaving.metadata = serde_json::from_value(json!({"namespace": "shop", "name": "a",
            "labels": {GATEWAY_NAME_LABEL: "edge"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}))
        .unwrap();
        cluster.put(Family::GatewayProxy, &leaving);
        assert!(addresses(&cluster).is_empty());
        assert!(cluster.put(Family::Certificate, &object("tls", json!({}), Value::Null)));
        assert!(cluster.secret_exists("shop", "tls") && !cluster.secret_exists("team", "tls"));
    }
}
