//! Statuses: what the Gateway API wants to see on an object, and how it is put into what stands there already.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::GATEWAY_CONTROLLER;
use crate::model::ParentRef;
use crate::object::ObjectKey;

/// Reasons of conditions, as the Gateway API names them.
pub mod reason {
    pub const ACCEPTED: &str = "Accepted";
    pub const ADDRESS_NOT_ASSIGNED: &str = "AddressNotAssigned";
    pub const ADDRESS_NOT_USABLE: &str = "AddressNotUsable";
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";
    pub const CONFLICTED: &str = "Conflicted";
    pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    pub const INCOMPATIBLE_FILTERS: &str = "IncompatibleFilters";
    pub const INVALID: &str = "Invalid";
    pub const INVALID_CA_CERTIFICATE_REF: &str = "InvalidCACertificateRef";
    pub const INVALID_CERTIFICATE_REF: &str = "InvalidCertificateRef";
    pub const INVALID_KIND: &str = "InvalidKind";
    pub const INVALID_PARAMETERS: &str = "InvalidParameters";
    pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";
    pub const LISTENERS_NOT_VALID: &str = "ListenersNotValid";
    pub const NOT_ALLOWED: &str = "NotAllowed";
    pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
    pub const NO_CONFLICTS: &str = "NoConflicts";
    pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    pub const NO_VALID_CA_CERTIFICATE: &str = "NoValidCACertificate";
    pub const PARENT_NOT_ACCEPTED: &str = "ParentNotAccepted";
    pub const PORT_UNAVAILABLE: &str = "PortUnavailable";
    pub const PROGRAMMED: &str = "Programmed";
    pub const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    pub const SUPPORTED_VERSION: &str = "SupportedVersion";
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
    pub const UNSUPPORTED_ADDRESS: &str = "UnsupportedAddress";
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    pub const UNSUPPORTED_VERSION: &str = "UnsupportedVersion";
}

/// Types of conditions that are ours to set and to take away.
const OURS: [&str; 6] =
    ["Accepted", "Programmed", "ResolvedRefs", "Conflicted", "PartiallyInvalid", "SupportedVersion"];

/// The API server takes no more.
const LONGEST_MESSAGE: usize = 4096;
const MOST_ANCESTORS: usize = 16;
const MOST_ADDRESSES: usize = 16;

/// A condition, but for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is about: `Accepted`, `Programmed`, ...
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// One word.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
    /// The generation of the object that it is about.
    pub observed_generation: Option<i64>,
}

/// The status of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Group and kind of the routes that may attach.
    pub supported_kinds: Vec<(&'static str, &'static str)>,
    /// How many routes are attached.
    pub attached_routes: i32,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// What one parent says to a route, or one ancestor to a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// The reference as the route writes it.
    pub parent: ParentRef,
    /// The conditions there.
    pub conditions: Vec<Condition>,
}

/// The part of an object's status that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Of a GatewayClass.
    GatewayClass {
        /// Its conditions.
        conditions: Vec<Condition>,
        /// Names of the Gateway API's features, sorted.
        features: Vec<&'static str>,
    },
    /// Of a Gateway.
    Gateway {
        /// IP addresses and host names.
        addresses: Vec<String>,
        /// How many ListenerSets take part.
        attached_sets: i32,
        /// Its conditions.
        conditions: Vec<Condition>,
        /// Its own listeners.
        listeners: Vec<ListenerStatus>,
    },
    /// Of a ListenerSet.
    ListenerSet {
        /// Its conditions.
        conditions: Vec<Condition>,
        /// Its listeners.
        listeners: Vec<ListenerStatus>,
    },
    /// Of a route. Empty where nothing of ours is its parent: what we wrote before is taken away.
    Route(Vec<ParentStatus>),
    /// Of a policy, likewise.
    Policy(Vec<ParentStatus>),
    /// Of an Ingress: IP addresses and host names.
    Ingress(Vec<String>),
}

/// The status of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The object.
    pub key: ObjectKey,
    /// What it should say.
    pub status: Status,
}

// === impl Condition ===

impl Condition {
    /// A condition about this generation.
    pub fn new(
        kind: &'static str,
        status: bool,
        reason: &'static str,
        message: impl Into<String>,
        generation: Option<i64>,
    ) -> Self {
        Self { kind, status, reason, message: message.into(), observed_generation: generation }
    }

    fn to_json(&self, old: Option<&Value>, now: Timestamp) -> Value {
        let status = if self.status { "True" } else { "False" };
        let since = old
            .filter(|old| old.get("status").and_then(Value::as_str) == Some(status))
            .and_then(|old| old.get("lastTransitionTime"))
            .and_then(Value::as_str)
            .map_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), str::to_owned);
        let message: String = self.message.chars().take(LONGEST_MESSAGE).collect();
        let mut json = json!({
            "type": self.kind,
            "status": status,
            "reason": self.reason,
            "message": message,
            "lastTransitionTime": since,
        });
        if let (Some(generation), Some(map)) = (self.observed_generation, json.as_object_mut()) {
            map.insert("observedGeneration".to_owned(), generation.into());
        }
        json
    }
}

/// Our conditions, with the times of those that stay, and the conditions that are somebody else's.
fn conditions(new: &[Condition], old: Option<&Value>, now: Timestamp) -> Value {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let kind = |condition: &Value| condition.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let ours = new.iter().map(|c| c.to_json(old.iter().find(|o| kind(o) == c.kind), now));
    let others = old.iter().filter(|o| !OURS.contains(&kind(o).as_str())).cloned();
    ours.chain(others).collect()
}

fn listeners(new: &[ListenerStatus], old: Option<&Value>, now: Timestamp) -> Value {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    new.iter()
        .map(|listener| {
            let before = old.iter().find(|o| o.get("name").and_then(Value::as_str) == Some(listener.name.as_str()));
            let kinds: Vec<Value> =
                listener.supported_kinds.iter().map(|(group, kind)| json!({ "group": group, "kind": kind })).collect();
            json!({
                "name": listener.name,
                "supportedKinds": kinds,
                "attachedRoutes": listener.attached_routes,
                "conditions": conditions(&listener.conditions, before.and_then(|b| b.get("conditions")), now),
            })
        })
        .collect()
}

/// The entries of one controller among those of all.
fn parents(new: &[ParentStatus], field: &str, old: Option<&Value>, now: Timestamp) -> Value {
    let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_ours = |entry: &Value| entry.get("controllerName").and_then(Value::as_str) == Some(GATEWAY_CONTROLLER);
    let others = old.iter().filter(|entry| !is_ours(entry)).cloned();
    let ours = new.iter().map(|status| {
        let reference = status.parent.to_json();
        let before = old.iter().find(|entry| is_ours(entry) && entry.get(field) == Some(&reference));
        json!({
            (field): reference,
            "controllerName": GATEWAY_CONTROLLER,
            "conditions": conditions(&status.conditions, before.and_then(|b| b.get("conditions")), now),
        })
    });
    others.chain(ours).collect()
}

fn address_type(address: &str) -> &'static str {
    if address.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" }
}

impl ParentRef {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        let texts = [
            ("group", &self.group),
            ("kind", &self.kind),
            ("namespace", &self.namespace),
            ("name", &Some(self.name.clone())),
            ("sectionName", &self.section),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                map.insert(key.to_owned(), value.as_str().into());
            }
        }
        if let Some(port) = self.port {
            map.insert("port".to_owned(), port.into());
        }
        Value::Object(map)
    }
}

// === impl ObjectStatus ===

impl ObjectStatus {
    /// The object's whole `status` with our part brought up to date, or `None` when `old`, what stands there now, says so already.
    ///
    /// Conditions that stay as they are keep their time; those of others, and the entries of other controllers, stay untouched.
    pub fn apply(&self, old: Option<&Value>, now: Timestamp) -> Option<Value> {
        let mut map = old.and_then(Value::as_object).cloned().unwrap_or_default();
        let before = map.clone();
        let was = |field: &str| before.get(field);
        match &self.status {
            Status::GatewayClass { conditions: new, features } => {
                map.insert("conditions".to_owned(), conditions(new, was("conditions"), now));
                let features = features.iter().map(|name| json!({ "name": name })).collect();
                map.insert("supportedFeatures".to_owned(), features);
            }
            Status::Gateway { addresses, attached_sets, conditions: new, listeners: all } => {
                let most = addresses.iter().take(MOST_ADDRESSES);
                let addresses: Vec<Value> = most.map(|a| json!({ "type": address_type(a), "value": a })).collect();
                map.insert("addresses".to_owned(), addresses.into());
                map.insert("attachedListenerSets".to_owned(), (*attached_sets).into());
                map.insert("conditions".to_owned(), conditions(new, was("conditions"), now));
                map.insert("listeners".to_owned(), listeners(all, was("listeners"), now));
            }
            Status::ListenerSet { conditions: new, listeners: all } => {
                map.insert("conditions".to_owned(), conditions(new, was("conditions"), now));
                map.insert("listeners".to_owned(), listeners(all, was("listeners"), now));
            }
            Status::Route(all) => {
                if all.is_empty() && was("parents").is_none() {
                    return None;
                }
                map.insert("parents".to_owned(), parents(all, "parentRef", was("parents"), now));
            }
            Status::Policy(all) => {
                if all.is_empty() && was("ancestors").is_none() {
                    return None;
                }
                let most = &all[..all.len().min(MOST_ANCESTORS)];
                map.insert("ancestors".to_owned(), parents(most, "ancestorRef", was("ancestors"), now));
            }
            Status::Ingress(addresses) => {
                let field = |a: &String| if address_type(a) == "IPAddress" { "ip" } else { "hostname" };
                let all: Vec<Value> = addresses.iter().map(|a| json!({ (field(a)): a })).collect();
                map.insert(
                    "loadBalancer".to_owned(),
                    if all.is_empty() { json!({}) } else { json!({ "ingress": all }) },
                );
            }
        }
        (map != before).then_some(Value::Object(map))
    }
}
