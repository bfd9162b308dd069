//! What is kept of an object of the API: only what conversion needs, with names shared.
//!
//! The `Raw*` types are what is read, from the API server's JSON and from manifests alike; whatever they do not name is skipped
//! while decoding and never held. [`Names`] makes one copy of every string, however many objects repeat it.
//!
//! - ALWAYS: an object whose metadata can be read has a [`Key`], also when the rest of it cannot be.
//! - NEVER: a field of the wrong form spoils other objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use serde::{Deserialize, Deserializer};
use xebec_galley::SourceRef;
use xebec_pilot::model::Labels;
use xebec_pilot::registry::quote;

use crate::skipped::Skipped;

/// A kind of object that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1/Namespace`.
    Namespace,
    /// `v1/Node`.
    Node,
    /// `v1/Pod`.
    Pod,
    /// `v1/Service`.
    Service,
    /// `discovery.k8s.io/v1/EndpointSlice`.
    EndpointSlice,
    /// `v1/Secret`, of remote clusters only.
    Secret,
}

/// Names an object of a kind. Objects without namespaces have an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// An object, stripped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A service.
    Service(Box<RawService>),
    /// A slice of a service's endpoints.
    EndpointSlice(EndpointSlice),
    /// A secret's content.
    Secret(BTreeMap<String, Vec<u8>>),
}

/// What a namespace says about what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// `topology.istio.io/network`.
    pub network: Option<Arc<str>>,
    /// `networking.istio.io/traffic-distribution`.
    pub traffic_distribution: Option<Arc<str>>,
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

/// A pod that has an address, or not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, the primary one first. Empty before it has one, and when it has ended.
    pub addresses: Vec<IpAddr>,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Its condition `Ready`.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
}

/// A part of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The service's name; `None` for slices that belong to none.
    pub service: Option<Arc<str>>,
    /// Ports by name. `None` means that a port's number is not restricted.
    pub ports: Vec<(Arc<str>, Option<u16>)>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// What of it was not taken.
    pub skipped: Skipped,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address: the API says that all of one endpoint's addresses are the same, and consumers take the first.
    pub address: IpAddr,
    /// Conditions.
    pub ready: bool,
    /// Takes traffic, also while it terminates.
    pub serving: bool,
    /// Is about to go.
    pub terminating: bool,
    /// The pod behind it, if there is one.
    pub pod: Option<Arc<str>>,
    /// Its node, if known.
    pub node: Option<Arc<str>>,
    /// Its zone, if known.
    pub zone: Option<Arc<str>>,
}

/// Every string once.
#[derive(Debug, Default)]
pub struct Names {
    known: FxHashSet<Arc<str>>,
    /// At which size unused ones are looked for next.
    sweep: usize,
}

// === what is read ===

/// Metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawMeta {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.labels`.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`: those that somebody reads.
    #[serde(deserialize_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
    /// `metadata.creationTimestamp`.
    pub creation_timestamp: Option<String>,
    /// `metadata.deletionTimestamp`.
    pub deletion_timestamp: Option<String>,
}

/// Any object, of which only the metadata is read.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RawAny {
    /// Its metadata.
    pub metadata: RawMeta,
}

/// A Service. It is kept as it is read: there are few of them, compared with pods.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct RawService {
    /// Its metadata.
    pub metadata: RawMeta,
    /// `spec`.
    pub spec: RawServiceSpec,
    /// Where it is written, if it is in a file.
    #[serde(skip)]
    pub origin: Option<SourceRef>,
}

/// `Service.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the API documents its fields")]
pub struct RawServiceSpec {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Vec<String>,
    pub external_name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<RawServicePort>,
    pub publish_not_ready_addresses: bool,
    pub internal_traffic_policy: Option<String>,
    pub traffic_distribution: Option<String>,
    pub session_affinity: Option<String>,
}

/// `Service.spec.ports[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the API documents its fields")]
pub struct RawServicePort {
    pub name: Option<String>,
    pub port: i64,
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: RawMeta,
    spec: RawPodSpec,
    status: RawPodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodSpec {
    node_name: Option<String>,
    service_account_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pod_ips: Vec<RawPodIp>,
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<RawCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPodIp {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSlice {
    metadata: RawMeta,
    address_type: Option<String>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<RawSlicePort>,
    #[serde(deserialize_with = "nullable")]
    endpoints: Vec<RawSliceEndpoint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSlicePort {
    name: Option<String>,
    port: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSliceEndpoint {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<String>,
    conditions: RawConditions,
    target_ref: Option<RawReference>,
    node_name: Option<String>,
    zone: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawReference {
    kind: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSecret {
    metadata: RawMeta,
    #[serde(deserialize_with = "nullable")]
    data: BTreeMap<String, k8s_openapi::ByteString>,
}

/// The annotations that are read; others, which may be large, are not kept.
pub const ANNOTATIONS: [&str; 2] = ["networking.istio.io/exportTo", "networking.istio.io/traffic-distribution"];

/// The API writes absent lists as `null` now and then.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn annotations<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut all: BTreeMap<String, String> = nullable(from)?;
    all.retain(|key, _| ANNOTATIONS.contains(&key.as_str()));
    Ok(all)
}

// === impl Kind ===

impl Kind {
    /// The name of its resource, as rules of RBAC have it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices.discovery.k8s.io",
            Self::Secret => "secrets",
        }
    }

    /// Its path on the API server, of one namespace or of all.
    pub(crate) fn path(self, namespace: Option<&str>) -> String {
        let (group, plural) = match self {
            Self::EndpointSlice => ("/apis/discovery.k8s.io/v1", "endpointslices"),
            other => ("/api/v1", other.resource()),
        };
        match namespace {
            Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}"),
            None => format!("{group}/{plural}"),
        }
    }

    /// The kind of a manifest, if it is read.
    pub(crate) fn of_manifest(version: &str, kind: &str) -> Option<Self> {
        Some(match (version, kind) {
            ("v1", "Namespace") => Self::Namespace,
            ("v1", "Node") => Self::Node,
            ("v1", "Pod") => Self::Pod,
            ("v1", "Service") => Self::Service,
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice,
            _ => return None,
        })
    }
}

// === impl Names ===

impl Names {
    /// The one copy of a string.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.sweep = (self.known.len() * 2).max(1024);
        }
        let new: Arc<str> = text.into();
        self.known.insert(Arc::clone(&new));
        new
    }

    fn labels(&mut self, raw: &BTreeMap<String, String>) -> Labels {
        raw.iter().map(|(key, value)| (self.get(key), self.get(value))).collect()
    }

    fn optional(&mut self, text: Option<&String>) -> Option<Arc<str>> {
        text.filter(|text| !text.is_empty()).map(|text| self.get(text))
    }

    /// The key of an object.
    pub fn key(&mut self, meta: &RawMeta) -> Key {
        Key { namespace: self.get(&meta.namespace), name: self.get(&meta.name) }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === decoding ===

/// Something that can be read as any of the raw types: the server's JSON, or a document of a file.
pub(crate) trait Readable {
    /// What can go wrong.
    type Error;
    /// Reads it.
    fn read<T: serde::de::DeserializeOwned>(self) -> Result<T, Self::Error>;
}

/// Reads an object of a kind and strips it. The metadata is for the caller: resource version, key.
pub(crate) fn decode<R: Readable>(kind: Kind, from: R, names: &mut Names) -> Result<(RawMeta, Object), R::Error> {
    Ok(match kind {
        Kind::Namespace => {
            let raw: RawAny = from.read()?;
            let namespace = Namespace {
                network: names.optional(raw.metadata.labels.get(crate::convert::NETWORK)),
                traffic_distribution: names.optional(raw.metadata.annotations.get(ANNOTATIONS[1])),
            };
            (raw.metadata, Object::Namespace(namespace))
        }
        Kind::Node => {
            let raw: RawAny = from.read()?;
            let node = node(&raw.metadata.labels, names);
            (raw.metadata, Object::Node(node))
        }
        Kind::Pod => {
            let raw: RawPod = from.read()?;
            let pod = pod(&raw, names);
            (raw.metadata, Object::Pod(pod))
        }
        Kind::Service => {
            let raw: RawService = from.read()?;
            (raw.metadata.clone(), Object::Service(Box::new(raw)))
        }
        Kind::EndpointSlice => {
            let raw: RawSlice = from.read()?;
            let slice = slice(&raw, names);
            (raw.metadata, Object::EndpointSlice(slice))
        }
        Kind::Secret => {
            let raw: RawSecret = from.read()?;
            (raw.metadata, Object::Secret(raw.data.into_iter().map(|(key, value)| (key, value.0)).collect()))
        }
    })
}

fn node(labels: &BTreeMap<String, String>, names: &mut Names) -> Node {
    let mut first = |keys: &[&str]| {
        let value = keys.iter().find_map(|key| labels.get(*key));
        names.get(value.map_or("", String::as_str))
    };
    Node {
        region: first(&["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
        zone: first(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
        subzone: first(&["topology.istio.io/subzone"]),
    }
}

fn pod(raw: &RawPod, names: &mut Names) -> Pod {
    let ended = matches!(raw.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut addresses: Vec<IpAddr> = Vec::new();
    if !ended {
        let written = raw.status.pod_ip.iter().chain(raw.status.pod_ips.iter().map(|address| &address.ip));
        for address in written.filter_map(|text| text.parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.shrink_to_fit();
    }
    let account = raw.spec.service_account_name.as_deref().filter(|name| !name.is_empty());
    Pod {
        labels: names.labels(&raw.metadata.labels),
        addresses,
        node: names.optional(raw.spec.node_name.as_ref()),
        service_account: names.get(account.unwrap_or("default")),
        ready: raw.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True"),
        terminating: raw.metadata.deletion_timestamp.is_some(),
    }
}

fn slice(raw: &RawSlice, names: &mut Names) -> EndpointSlice {
    let mut skipped = Skipped::default();
    let mut ports = Vec::with_capacity(raw.ports.len());
    for port in &raw.ports {
        let name = names.get(port.name.as_deref().unwrap_or_default());
        match port.port.map(u16::try_from) {
            None => ports.push((name, None)),
            Some(Ok(number)) if number > 0 => ports.push((name, Some(number))),
            Some(_) => skipped.add("invalid_port", || format!("port {} is {:?}", quote(&name), port.port)),
        }
    }
    let mut endpoints = Vec::with_capacity(raw.endpoints.len());
    if raw.address_type.as_deref() == Some("FQDN") {
        skipped.add("fqdn_endpoints", || "slices of names are not supported".to_owned());
    } else {
        for endpoint in &raw.endpoints {
            let text = endpoint.addresses.first().map(String::as_str).unwrap_or_default();
            let Ok(address) = text.parse::<IpAddr>() else {
                skipped.add("invalid_address", || format!("{} is not an IP address", quote(text)));
                continue;
            };
            let RawConditions { ready, serving, terminating } = endpoint.conditions;
            let ready = ready.unwrap_or(true);
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
            endpoints.push(SliceEndpoint {
                address,
                ready,
                serving: serving.unwrap_or(ready),
                terminating: terminating.unwrap_or(false),
                pod: names.optional(pod.map(|pod| &pod.name)),
                node: names.optional(endpoint.node_name.as_ref()),
                zone: names.optional(endpoint.zone.as_ref()),
            });
        }
    }
    let service = names.optional(raw.metadata.labels.get("kubernetes.io/service-name"));
    EndpointSlice { service, ports, endpoints, skipped }
}
