//! Who a proxy says it is.
//!
//! The control plane decides what a proxy gets from what its first request says about it: Istio's node id, its metadata and
//! its locality. The Rust sidecar and stock Envoy are given the same identity from the same [`NodeConfig`], so that both are
//! served the same configuration.
//!
//! Promises: the id has exactly four parts (`TYPE~IP~NAME.NAMESPACE~NAMESPACE.svc.DOMAIN`), and every metadata value that
//! Istio defines as a boolean or a number is written as a string.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::core::v3::node::UserAgentVersionType;
use xebec_proto::envoy::r#type::v3::SemanticVersion;
use xebec_proto::google::protobuf::{Struct, Value, value::Kind};

/// The release of Istio whose proxies these proxies ask like. Control planes choose by it what a proxy understands.
pub const ISTIO_VERSION: &str = "1.29.0";

/// What kind of proxy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NodeKind {
    /// Beside one workload.
    #[default]
    Sidecar,
    /// A gateway.
    Router,
}

/// How traffic reaches a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Interception {
    /// Applications dial the proxy's own ports.
    #[default]
    None,
    /// The kernel redirects connections, and keeps their original destination.
    Redirect,
    /// The kernel hands connections over with both addresses intact.
    Tproxy,
}

/// Everything that identifies one proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// What kind of proxy it is.
    pub kind: NodeKind,
    /// The workload's name, unique within its namespace; a pod's name on Kubernetes.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its addresses; the first one goes into the id. Empty means `127.0.0.1`.
    pub ips: Vec<IpAddr>,
    /// Its service account.
    pub service_account: Option<String>,
    /// Its labels, which Istio's selectors match.
    pub labels: BTreeMap<String, String>,
    /// Further metadata; a key that is also set by another field wins over that field.
    pub meta: BTreeMap<String, String>,
    /// Where it runs.
    pub locality: Locality,
    /// The network it is on; empty is the default network.
    pub network: String,
    /// The platform's cluster it belongs to; empty when unknown.
    pub cluster_id: String,
    /// How traffic reaches it.
    pub interception: Interception,
    /// The suffix of the platform's DNS names.
    pub domain: String,
    /// The mesh it belongs to; empty means that `cluster.local`'s own default is used by the control plane.
    pub mesh_id: String,
}

/// Region, zone and subzone; empty parts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// For example `eu-west-1`.
    pub region: String,
    /// For example `eu-west-1a`.
    pub zone: String,
    /// For example a rack.
    pub subzone: String,
}

/// A proxy's identity that a control plane could not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// A part of the id is empty.
    #[error("the proxy's {0} is empty; give one")]
    Empty(&'static str),
    /// A part of the id would break the id apart.
    #[error(
        "the proxy's {part} {value:?} holds a character that a node id cannot hold; use letters, digits, `-` and `.`"
    )]
    Character {
        /// Which part.
        part: &'static str,
        /// Its value.
        value: String,
    },
    /// A word that is not one of the allowed ones.
    #[error("{value:?} is not a {what}; one of {allowed}")]
    Word {
        /// What was read.
        what: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
}

// === impl NodeConfig ===

impl NodeConfig {
    /// A proxy with this name and nothing else said about it.
    pub fn new(kind: NodeKind, name: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            namespace: namespace.into(),
            ips: Vec::new(),
            service_account: None,
            labels: BTreeMap::new(),
            meta: BTreeMap::new(),
            locality: Locality::default(),
            network: String::new(),
            cluster_id: String::new(),
            interception: Interception::None,
            domain: "cluster.local".into(),
            mesh_id: String::new(),
        }
    }

    /// Checks that a control plane can read the id.
    ///
    /// # Errors
    /// [`NodeError`] for an empty name, namespace or domain, and for one that holds `~`, `/` or white space.
    pub fn validate(&self) -> Result<(), NodeError> {
        for (part, value) in [("name", &self.name), ("namespace", &self.namespace), ("domain", &self.domain)] {
            if value.is_empty() {
                return Err(NodeError::Empty(part));
            }
            if value.contains(|c: char| c == '~' || c == '/' || c.is_whitespace() || c.is_control()) {
                return Err(NodeError::Character { part, value: value.clone() });
            }
        }
        Ok(())
    }

    /// The node id: `TYPE~IP~NAME.NAMESPACE~NAMESPACE.svc.DOMAIN`.
    pub fn id(&self) -> String {
        let Self { kind, name, namespace, domain, .. } = self;
        format!("{kind}~{}~{name}.{namespace}~{namespace}.svc.{domain}", self.primary_ip())
    }

    /// The address that stands for the proxy: the first one, or loopback when none was given.
    pub fn primary_ip(&self) -> IpAddr {
        self.ips.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// The canonical service that the workload belongs to, as Istio derives it from labels; the workload's name otherwise.
    pub fn canonical_service(&self) -> &str {
        ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]
            .iter()
            .find_map(|key| self.labels.get(*key).filter(|v| !v.is_empty()))
            .unwrap_or(&self.name)
    }

    /// The metadata, by Istio's keys.
    pub fn metadata(&self) -> BTreeMap<String, MetadataValue> {
        let mut out = BTreeMap::new();
        let mut set = |key: &str, value: &str| {
            if !value.is_empty() {
                out.insert(key.to_owned(), MetadataValue::Text(value.to_owned()));
            }
        };
        set("NAME", &self.name);
        set("NAMESPACE", &self.namespace);
        set("CLUSTER_ID", &self.cluster_id);
        set("NETWORK", &self.network);
        set("MESH_ID", &self.mesh_id);
        set("SERVICE_ACCOUNT", self.service_account.as_deref().unwrap_or(""));
        set("INTERCEPTION_MODE", &self.interception.metadata());
        set("ISTIO_VERSION", ISTIO_VERSION);
        let ips = if self.ips.is_empty() { vec![self.primary_ip()] } else { self.ips.clone() };
        set("INSTANCE_IPS", &ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        for (key, value) in &self.meta {
            out.insert(key.clone(), MetadataValue::Text(value.clone()));
        }
        if !self.labels.is_empty() {
            out.insert("LABELS".into(), MetadataValue::Labels(self.labels.clone()));
        }
        out
    }

    /// What the Rust sidecar says about itself in its first request.
    pub fn to_proto(&self) -> core::Node {
        let text = |s: &str| Value { kind: Some(Kind::StringValue(s.to_owned())) };
        let fields = self
            .metadata()
            .into_iter()
            .map(|(key, value)| match value {
                MetadataValue::Text(s) => (key, text(&s)),
                MetadataValue::Labels(labels) => {
                    let fields = labels.iter().map(|(k, v)| (k.clone(), text(v))).collect();
                    (key, Value { kind: Some(Kind::StructValue(Struct { fields })) })
                }
            })
            .collect();
        core::Node {
            id: self.id(),
            cluster: self.canonical_service().to_owned(),
            metadata: Some(Struct { fields }),
            locality: self.locality.is_known().then(|| core::Locality {
                region: self.locality.region.clone(),
                zone: self.locality.zone.clone(),
                sub_zone: self.locality.subzone.clone(),
            }),
            user_agent_name: "xebec".into(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(core::BuildVersion {
                version: Some(own_version()),
                metadata: None,
            })),
            client_features: vec!["envoy.lb.does_not_support_overprovisioning".into()],
            ..core::Node::default()
        }
    }

    /// The same as proto3 JSON, for the bootstrap of stock Envoy, which adds its own user agent.
    pub fn to_json(&self) -> serde_json::Value {
        let metadata: serde_json::Map<String, serde_json::Value> = self
            .metadata()
            .into_iter()
            .map(|(key, value)| match value {
                MetadataValue::Text(s) => (key, s.into()),
                MetadataValue::Labels(l) => (key, serde_json::json!(l)),
            })
            .collect();
        let mut node = serde_json::json!({
            "id": self.id(),
            "cluster": self.canonical_service(),
            "metadata": metadata,
        });
        if self.locality.is_known() {
            node["locality"] = serde_json::json!({
                "region": self.locality.region,
                "zone": self.locality.zone,
                "sub_zone": self.locality.subzone,
            });
        }
        node
    }
}

/// One value of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataValue {
    /// Text; numbers and booleans are text too.
    Text(String),
    /// A map of text.
    Labels(BTreeMap<String, String>),
}

fn own_version() -> SemanticVersion {
    let part = |text: &str| text.parse().unwrap_or(0);
    SemanticVersion {
        major_number: part(env!("CARGO_PKG_VERSION_MAJOR")),
        minor_number: part(env!("CARGO_PKG_VERSION_MINOR")),
        patch: part(env!("CARGO_PKG_VERSION_PATCH")),
    }
}

// === impl NodeKind ===

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        })
    }
}

impl FromStr for NodeKind {
    type Err = NodeError;

    fn from_str(text: &str) -> Result<Self, NodeError> {
        match text.to_ascii_lowercase().as_str() {
            "sidecar" => Ok(Self::Sidecar),
            "router" | "gateway" => Ok(Self::Router),
            _ => Err(NodeError::Word { what: "type of proxy", value: text.into(), allowed: "sidecar, router" }),
        }
    }
}

// === impl Interception ===

impl Interception {
    /// The value of `INTERCEPTION_MODE`.
    fn metadata(self) -> String {
        self.to_string().to_ascii_uppercase()
    }
}

impl fmt::Display for Interception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        })
    }
}

impl FromStr for Interception {
    type Err = NodeError;

    fn from_str(text: &str) -> Result<Self, NodeError> {
        match text.to_ascii_lowercase().as_str() {
            "none" => Ok(Self::None),
            "redirect" => Ok(Self::Redirect),
            "tproxy" => Ok(Self::Tproxy),
            _ => Err(NodeError::Word {
                what: "mode of interception",
                value: text.into(),
                allowed: "none, redirect, tproxy",
            }),
        }
    }
}

// === impl Locality ===

impl Locality {
    /// Reads `REGION/ZONE/SUBZONE`, where the later parts may be missing.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), subzone: next() }
    }

    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        !self.region.is_empty() || !self.zone.is_empty() || !self.subzone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn reviews() -> NodeConfig {
        let mut node = NodeConfig::new(NodeKind::Sidecar, "reviews-v1-7", "shop");
        node.ips = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        node.labels = [("app".into(), "reviews".into()), ("version".into(), "v1".into())].into();
        node.meta = [("HTTP10".into(), "1".into())].into();
        node.locality = Locality::parse("eu/a");
        node.service_account = Some("reviews".into());
        node
    }

    #[test]
    fn the_id_is_istios() {
        assert_eq!(reviews().id(), "sidecar~10.0.0.7~reviews-v1-7.shop~shop.svc.cluster.local");
        let gateway =
            NodeConfig { domain: "mesh.example".into(), ..NodeConfig::new(NodeKind::Router, "edge", "infra") };
        assert_eq!(gateway.id(), "router~127.0.0.1~edge.infra~infra.svc.mesh.example");
    }

    #[test]
    fn proto_and_json_say_the_same() {
        let node = reviews();
        let proto = node.to_proto();
        let json = node.to_json();
        assert_eq!(json["id"], proto.id);
        assert_eq!(json["cluster"], "reviews");
        assert_eq!(json["locality"]["zone"], "a");
        assert_eq!(json["metadata"]["INSTANCE_IPS"], "10.0.0.7,fd00::7");
        assert_eq!(json["metadata"]["INTERCEPTION_MODE"], "NONE");
        assert_eq!(json["metadata"]["HTTP10"], "1");
        assert_eq!(json["metadata"]["LABELS"]["version"], "v1");
        let fields = proto.metadata.unwrap().fields;
        assert_eq!(fields.len(), json["metadata"].as_object().unwrap().len());
        assert_eq!(fields["SERVICE_ACCOUNT"].kind, Some(Kind::StringValue("reviews".into())));
        assert!(matches!(fields["LABELS"].kind, Some(Kind::StructValue(_))));
    }

    #[test]
    fn a_name_that_would_break_the_id_is_refused() {
        let node = NodeConfig::new(NodeKind::Sidecar, "a~b", "default");
        assert!(matches!(node.validate(), Err(NodeError::Character { part: "name", .. })));
        assert_eq!(NodeConfig::new(NodeKind::Sidecar, "a", "").validate(), Err(NodeError::Empty("namespace")));
        assert!(reviews().validate().is_ok());
    }

    #[test]
    fn words_are_read_in_any_case() {
        assert_eq!("Gateway".parse(), Ok(NodeKind::Router));
        assert_eq!("TPROXY".parse(), Ok(Interception::Tproxy));
        assert!("waypoint".parse::<NodeKind>().is_err());
    }
}
