//! What Nomad's HTTP API says, as far as it is used here. Field names are the API's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

/// A namespace and the services in it (`/v1/services`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NamespaceServices {
    pub(crate) namespace: Arc<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) services: Vec<ServiceStub>,
}

/// A service in that list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ServiceStub {
    pub(crate) service_name: Arc<str>,
}

/// One instance of a service (`/v1/service/NAME`, and the events of the topic `Service`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Row {
    #[serde(rename = "ID")]
    pub(crate) id: Arc<str>,
    pub(crate) service_name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    #[serde(rename = "NodeID")]
    pub(crate) node_id: Arc<str>,
    pub(crate) datacenter: Arc<str>,
    #[serde(rename = "JobID")]
    pub(crate) job_id: Arc<str>,
    #[serde(rename = "AllocID")]
    pub(crate) alloc_id: Arc<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) tags: Vec<Arc<str>>,
    pub(crate) address: Arc<str>,
    pub(crate) port: i64,
    pub(crate) create_index: u64,
}

/// An allocation, as far as both its list entry and its event say it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Allocation {
    #[serde(rename = "ID")]
    pub(crate) id: Arc<str>,
    pub(crate) task_group: Arc<str>,
    pub(crate) client_status: Arc<str>,
    pub(crate) desired_status: Arc<str>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) desired_transition: DesiredTransition,
    #[serde(deserialize_with = "nullable")]
    pub(crate) deployment_status: DeploymentStatus,
    #[serde(deserialize_with = "nullable")]
    pub(crate) task_states: BTreeMap<Arc<str>, TaskState>,
    pub(crate) modify_index: u64,
}

/// What is about to become of an allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DesiredTransition {
    pub(crate) migrate: Option<bool>,
}

/// What a deployment found about an allocation; said once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DeploymentStatus {
    pub(crate) healthy: Option<bool>,
}

/// The state of one task of an allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskState {
    pub(crate) state: Arc<str>,
    pub(crate) failed: bool,
    pub(crate) restarts: u64,
}

/// A Nomad client. A list entry has neither metadata nor attributes. The node's secret, which events carry, is never read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Node {
    #[serde(rename = "ID")]
    pub(crate) id: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) status: Arc<str>,
    pub(crate) drain: bool,
    #[serde(deserialize_with = "present")]
    pub(crate) drain_strategy: bool,
    pub(crate) meta: Option<HashMap<Arc<str>, Arc<str>>>,
    pub(crate) attributes: Option<HashMap<Arc<str>, Arc<str>>>,
    pub(crate) modify_index: u64,
}

/// The result of one check (`/v1/allocation/ID/checks`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CheckResult {
    pub(crate) service: Arc<str>,
    pub(crate) status: Arc<str>,
}

/// One line of the event stream. `{}` is a heartbeat.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Batch {
    pub(crate) index: u64,
    #[serde(deserialize_with = "nullable")]
    pub(crate) events: Vec<Event>,
}

/// One event. What it is about is in the payload; of its types only deregistration needs to be known.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Event {
    pub(crate) topic: Arc<str>,
    #[serde(rename = "Type")]
    pub(crate) kind: Arc<str>,
    pub(crate) payload: Payload,
}

/// What an event is about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Payload {
    pub(crate) service: Option<Row>,
    pub(crate) allocation: Option<Allocation>,
    pub(crate) node: Option<Node>,
}

/// Go writes an empty list or map as `null`.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Whether something is there at all.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(Option::<serde::de::IgnoredAny>::deserialize(from)?.is_some())
}

/// A text as part of a URL (RFC 3986 section 2.1).
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

// === impl Node ===

impl Node {
    /// Whether its allocations are being moved away.
    pub(crate) fn drains(&self) -> bool {
        self.drain || self.drain_strategy
    }
}
