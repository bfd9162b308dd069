//! What analysis reads of a platform's own objects, and of Istio's kinds that galley does not read yet. One document is parsed once; the
//! types here name the few fields that matter, and skip the others.
//!
//! - NEVER: a secret's content is kept, only which keys it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use xebec_galley::spec::LabelMap;
use xebec_galley::yaml::{Document, Node, Value};
use xebec_galley::{Diagnostic, SourceRef};
use xebec_pilot::model::Protocol;

/// An object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its kind, such as `Deployment`.
    pub kind: Arc<str>,
    /// Its namespace; empty for what has none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`
    pub labels: LabelMap,
    /// `metadata.annotations`
    pub annotations: LabelMap,
    /// Where it begins.
    pub source: SourceRef,
    /// What else is read of it.
    pub body: Body,
}

/// What is read of an object besides its metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A namespace.
    Namespace,
    /// A service.
    Service(ServiceObject),
    /// A pod, or a template of pods.
    Workload(Workload),
    /// A secret: the keys that it has.
    Secret(BTreeSet<String>),
    /// A policy that selects workloads.
    Policy(Policy),
    /// An EnvoyFilter.
    EnvoyFilter(EnvoyFilter),
    /// Nothing.
    Other,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceObject {
    /// Labels of its pods; empty for none.
    pub selector: LabelMap,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Whether it stands for a name outside.
    pub external_name: bool,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// The port that clients dial.
    pub number: u16,
    /// The pod's port, a number or name.
    pub target: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub transport: String,
    /// What the mesh takes it to speak.
    pub protocol: Protocol,
}

/// Pods, or a template of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Workload {
    /// Labels of the pods.
    pub labels: LabelMap,
    /// Annotations of the pods.
    pub annotations: LabelMap,
    /// `securityContext.runAsUser` of the pods.
    pub user: Option<i64>,
    /// The containers, init containers first.
    pub containers: Vec<Container>,
    /// Whether they use their node's network.
    pub host_network: bool,
    /// Whether it is a pod that is running.
    pub running: bool,
    /// Whether it is a template: then `labels` and `annotations` are below `spec.template`.
    pub template: bool,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// `securityContext.runAsUser`.
    pub user: Option<i64>,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A policy that selects workloads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The labels that it selects by; `None` is every workload.
    pub selector: Option<LabelMap>,
    /// Whether it is attached to resources by name instead.
    pub attached: bool,
}

/// An EnvoyFilter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnvoyFilter {
    /// Its priority, if it is said.
    pub priority: Option<i64>,
    /// What it changes.
    pub patches: Vec<Patch>,
}

/// A change that an EnvoyFilter makes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patch {
    /// `applyTo`
    pub apply_to: String,
    /// `patch.operation`
    pub operation: String,
    /// Whether it is for one version of proxies.
    pub versioned: bool,
}

/// Kinds of policies that select workloads, other than galley's.
const POLICIES: [&str; 5] =
    ["AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication", "Telemetry", "WasmPlugin"];
/// Kinds without a namespace.
const CLUSTER_WIDE: [&str; 3] = ["Namespace", "Node", "GatewayClass"];

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawMeta {
    name: String,
    namespace: String,
    #[serde(deserialize_with = "nullable")]
    labels: LabelMap,
    #[serde(deserialize_with = "nullable")]
    annotations: LabelMap,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw<S: Default> {
    metadata: RawMeta,
    spec: S,
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawStatus {
    phase: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Nothing {}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawServiceSpec {
    #[serde(deserialize_with = "nullable")]
    selector: LabelMap,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<RawPort>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawPort {
    name: Option<String>,
    port: i64,
    target_port: Option<IntOrText>,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum IntOrText {
    Int(i64),
    Text(String),
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawPodSpec {
    host_network: Option<bool>,
    security_context: Option<RawSecurity>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<RawContainer>,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<RawContainer>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawSecurity {
    run_as_user: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawContainer {
    name: String,
    image: Option<String>,
    #[serde(deserialize_with = "nullable")]
    args: Vec<String>,
    security_context: Option<RawSecurity>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawTemplated {
    template: RawTemplate,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawTemplate {
    metadata: RawMeta,
    spec: RawPodSpec,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawPolicySpec {
    selector: Option<RawSelector>,
    target_ref: Option<Nothing>,
    #[serde(deserialize_with = "nullable")]
    target_refs: Vec<Nothing>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawSelector {
    #[serde(deserialize_with = "nullable")]
    match_labels: LabelMap,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawFilterSpec {
    priority: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    config_patches: Vec<RawPatch>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawPatch {
    apply_to: String,
    #[serde(rename = "match")]
    condition: RawPatchMatch,
    patch: RawOperation,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawPatchMatch {
    proxy: RawProxyMatch,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawProxyMatch {
    proxy_version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawOperation {
    operation: String,
}

/// The API writes absent parts as `null` now and then.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads an object of any kind that has a name. `None` for what is none.
///
/// # Errors
/// Everything that does not fit the kind, when it cannot be read.
pub fn read(document: &Document) -> Result<Option<Object>, Vec<Diagnostic>> {
    let Some(root) = &document.root else { return Ok(None) };
    let text = |key: &str| root.get(key).and_then(Node::as_str).unwrap_or_default();
    let kind = text("kind");
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let source = document.reference();
    Ok(match (group, kind) {
        (_, "") => None,
        ("", "Service") => {
            let raw: Raw<RawServiceSpec> = value(document)?;
            let body = Body::Service(service(raw.spec));
            object(kind, raw.metadata, source, body)
        }
        ("", "Pod") => {
            let raw: Raw<RawPodSpec> = value(document)?;
            let running = raw.status.phase.as_deref() == Some("Running");
            let (labels, annotations) = (raw.metadata.labels.clone(), raw.metadata.annotations.clone());
            let workload = Workload { labels, annotations, running, ..workload(raw.spec) };
            object(kind, raw.metadata, source, Body::Workload(workload))
        }
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet") => {
            let raw: Raw<RawTemplated> = value(document)?;
            let template = raw.spec.template;
            let RawMeta { labels, annotations, .. } = template.metadata;
            let workload = Workload { labels, annotations, template: true, ..workload(template.spec) };
            object(kind, raw.metadata, source, Body::Workload(workload))
        }
        ("", "Secret") => {
            let raw: Raw<Nothing> = value(document)?;
            let keys = ["data", "stringData"].into_iter().filter_map(|part| root.get(part));
            let keys = keys.flat_map(Node::entries).filter(|entry| !matches!(entry.node.value, Value::Null));
            let keys = keys.map(|entry| entry.key.clone()).collect();
            object(kind, raw.metadata, source, Body::Secret(keys))
        }
        (group, kind) if group.ends_with(".istio.io") && POLICIES.contains(&kind) => {
            let raw: Raw<RawPolicySpec> = value(document)?;
            let attached = raw.spec.target_ref.is_some() || !raw.spec.target_refs.is_empty();
            let selector = raw.spec.selector.map(|s| s.match_labels).filter(|labels| !labels.is_empty());
            object(kind, raw.metadata, source, Body::Policy(Policy { selector, attached }))
        }
        ("networking.istio.io", "EnvoyFilter") => {
            let raw: Raw<RawFilterSpec> = value(document)?;
            let patches = raw.spec.config_patches.into_iter().map(|patch| Patch {
                apply_to: patch.apply_to,
                operation: patch.patch.operation,
                versioned: !patch.condition.proxy.proxy_version.is_empty(),
            });
            let filter = EnvoyFilter { priority: raw.spec.priority, patches: patches.collect() };
            object(kind, raw.metadata, source, Body::EnvoyFilter(filter))
        }
        (group, kind) => {
            // Of a kind that is nobody's here only the names matter, and what does not fit is not ours to judge.
            let namespace = group.is_empty() && kind == "Namespace";
            let body = if namespace { Body::Namespace } else { Body::Other };
            document.read::<Raw<Nothing>>().value.and_then(|raw| object(kind, raw.metadata, source, body))
        }
    })
}

fn value<T: serde::de::DeserializeOwned>(document: &Document) -> Result<T, Vec<Diagnostic>> {
    let read = document.read::<T>();
    read.value.ok_or(read.diagnostics)
}

fn object(kind: &str, meta: RawMeta, source: SourceRef, body: Body) -> Option<Object> {
    let namespace = match meta.namespace.as_str() {
        _ if CLUSTER_WIDE.contains(&kind) => "",
        "" => "default",
        written => written,
    };
    (!meta.name.is_empty()).then(|| Object {
        kind: kind.into(),
        namespace: namespace.into(),
        name: meta.name.as_str().into(),
        labels: meta.labels,
        annotations: meta.annotations,
        source,
        body,
    })
}

fn service(raw: RawServiceSpec) -> ServiceObject {
    let port = |port: RawPort| {
        let number = u16::try_from(port.port).ok()?;
        let name = port.name.unwrap_or_default();
        let protocol = xebec_adapter_kubernetes::convert::protocol(
            &name,
            number,
            port.protocol.as_deref(),
            port.app_protocol.as_deref(),
        );
        let target = match port.target_port {
            Some(IntOrText::Int(0)) | None => number.to_string(),
            Some(IntOrText::Int(number)) => number.to_string(),
            Some(IntOrText::Text(name)) => name,
        };
        let transport = port.protocol.filter(|text| !text.is_empty()).unwrap_or_else(|| "TCP".to_owned());
        Some(ServicePort { name, number, target, transport, protocol })
    };
    ServiceObject {
        external_name: raw.kind.as_deref() == Some("ExternalName"),
        selector: raw.selector,
        ports: raw.ports.into_iter().filter_map(port).collect(),
    }
}

fn workload(raw: RawPodSpec) -> Workload {
    let container = |raw: RawContainer| Container {
        name: raw.name,
        image: raw.image.unwrap_or_default(),
        user: raw.security_context.and_then(|security| security.run_as_user),
        arguments: raw.args,
    };
    Workload {
        user: raw.security_context.and_then(|security| security.run_as_user),
        containers: raw.init_containers.into_iter().chain(raw.containers).map(container).collect(),
        host_network: raw.host_network.unwrap_or(false),
        ..Workload::default()
    }
}

/// Whether all of the selector's labels are among these.
pub(crate) fn selects(selector: &LabelMap, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
