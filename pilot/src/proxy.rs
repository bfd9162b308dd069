//! Who a connected proxy is, and the canonical inputs by which proxies share what is computed for them.
//!
//! A [`Proxy`] is read from the xDS `Node` that every client sends first. What its configuration depends on is reduced to
//! two parts: an [`OutboundShape`], usually shared by all proxies of a namespace, and an [`InboundShape`], which is about one
//! workload. Both contain only what can change the output, so that equal shapes have equal output.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde_json::{Map, Value};
use xebec_galley::ResourceKey;
use xebec_proto::envoy::config::core::v3::Node;

use crate::mesh::Instance;
use crate::model::{Labels, Locality};

/// What kind of client this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProxyKind {
    /// Stands beside a workload, carries its traffic in and out.
    Sidecar,
    /// A gateway.
    Router,
    /// A gRPC program that is its own proxy.
    Grpc,
}

/// How traffic reaches a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Interception {
    /// By redirection in the kernel; the original destination is known.
    #[default]
    Redirect,
    /// As `Redirect`, with the caller's address kept.
    Tproxy,
    /// Not at all: programs dial the proxy's explicit listeners.
    None,
}

/// A connected proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The node id, as sent.
    pub id: Arc<str>,
    /// What it is.
    pub kind: ProxyKind,
    /// Its addresses, its first one first. Never empty.
    pub ips: Vec<IpAddr>,
    /// The workload's name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The DNS domain behind the id's last `~`, for example `default.svc.cluster.local`.
    pub dns_domain: Arc<str>,
    /// The workload's labels.
    pub labels: Labels,
    /// Where it runs.
    pub locality: Locality,
    /// The machine that it runs on, when its metadata says so (`NODE_NAME`).
    pub node: Option<Arc<str>>,
    /// The network it is on; empty is the default network.
    pub network: Arc<str>,
    /// The cluster it is in; may be empty.
    pub cluster_id: Arc<str>,
    /// The service account it runs as; may be empty.
    pub service_account: Arc<str>,
    /// How traffic reaches it.
    pub interception: Interception,
    /// A port on which it is an explicit HTTP proxy.
    pub http_proxy_port: Option<u16>,
    /// The version it claims, for people; may be empty.
    pub version: Arc<str>,
    /// Whether it speaks the incremental variant of xDS.
    pub delta: bool,
}

/// Everything about a proxy that can change its outbound configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OutboundShape {
    /// What it is.
    pub kind: ProxyKind,
    /// The namespace that rules see as the client's.
    pub namespace: Arc<str>,
    /// The DNS domain of its short names.
    pub dns_domain: Arc<str>,
    /// Its labels, reduced to the keys that some rule selects clients by.
    pub labels: Labels,
    /// Its locality, when some rule or service balances by it.
    pub locality: Option<Locality>,
    /// Its node, when some service balances by it.
    pub node: Option<Arc<str>>,
    /// Its network.
    pub network: Arc<str>,
    /// How traffic reaches it.
    pub interception: Interception,
    /// Where explicit outbound listeners bind, when traffic is not intercepted.
    pub bind: Option<IpAddr>,
    /// A port on which it is an explicit HTTP proxy.
    pub http_proxy_port: Option<u16>,
    /// Whether virtual hosts are served one by one (VHDS) instead of inside their route configuration.
    pub vhds: bool,
    /// The Sidecar resource that scopes it.
    pub sidecar: Option<ResourceKey>,
    /// Of a gateway: the ports of its own services, and the port of its own behind each.
    pub ports: BTreeMap<u16, u16>,
}

/// Everything about a workload that can change its inbound configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InboundShape {
    /// What it is.
    pub kind: ProxyKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its addresses, its first one first; empty when no listener binds to them.
    pub ips: Vec<IpAddr>,
    /// How traffic reaches it.
    pub interception: Interception,
    /// The endpoints that it serves, in order of their services' hostnames.
    pub instances: Vec<Instance>,
    /// The Sidecar resource that may replace its inbound listeners.
    pub sidecar: Option<ResourceKey>,
}

/// Why a node cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The id does not have four parts.
    #[error("node id {id:?} has {parts} parts; write TYPE~IP~NAME.NAMESPACE~DOMAIN")]
    Parts {
        /// The id as sent.
        id: String,
        /// How many parts it has.
        parts: usize,
    },
    /// The type is not one that is served.
    #[error("node id {id:?}: type {kind:?} is not served; use `sidecar` or `router`")]
    Kind {
        /// The id as sent.
        id: String,
        /// The type as sent.
        kind: String,
    },
    /// The address is not one.
    #[error("node id {id:?}: {ip:?} is not an IP address; write it as 10.0.0.1 or 2001:db8::1, without a port")]
    Ip {
        /// The id as sent.
        id: String,
        /// The address as sent.
        ip: String,
    },
    /// Neither the id nor the metadata says the namespace.
    #[error("node id {id:?}: no namespace; write NAME.NAMESPACE as the third part, or set the metadata NAMESPACE")]
    Namespace {
        /// The id as sent.
        id: String,
    },
    /// A metadata value cannot be read.
    #[error("node {id:?}: metadata {key}: {value} is not valid; {help}")]
    Metadata {
        /// The id as sent.
        id: String,
        /// The metadata's key.
        key: &'static str,
        /// The value as sent.
        value: String,
        /// What to write.
        help: &'static str,
    },
}

// === impl Proxy ===

impl Proxy {
    /// Reads the node that a client sent in its first request.
    ///
    /// # Errors
    /// [`NodeError`] when its id or the metadata we depend on cannot be read.
    pub fn from_node(node: &Node, delta: bool) -> Result<Self, NodeError> {
        let metadata = node.metadata.as_ref().map(xebec_proto::structs::to_json_object).unwrap_or_default();
        let locality = node
            .locality
            .as_ref()
            .map(|l| Locality {
                region: l.region.as_str().into(),
                zone: l.zone.as_str().into(),
                subzone: l.sub_zone.as_str().into(),
            })
            .unwrap_or_default();
        Self::from_parts(&node.id, &metadata, locality, delta)
    }

    /// Reads a node id and its metadata, for callers that have no `Node` message.
    ///
    /// # Errors
    /// As [`Proxy::from_node`].
    pub fn from_parts(
        id: &str,
        metadata: &Map<String, Value>,
        locality: Locality,
        delta: bool,
    ) -> Result<Self, NodeError> {
        let parts: Vec<&str> = id.split('~').collect();
        let &[kind, ip, name_and_namespace, domain] = parts.as_slice() else {
            return Err(NodeError::Parts { id: id.to_owned(), parts: parts.len() });
        };
        let meta = Metadata { id, map: metadata };
        let kind = match kind {
            "sidecar" if meta.text("GENERATOR") == "grpc" => ProxyKind::Grpc,
            "sidecar" => ProxyKind::Sidecar,
            "router" => ProxyKind::Router,
            other => return Err(NodeError::Kind { id: id.to_owned(), kind: other.to_owned() }),
        };
        let first = ip.parse().map_err(|_| NodeError::Ip { id: id.to_owned(), ip: ip.to_owned() })?;
        let (name, namespace) = name_and_namespace.rsplit_once('.').unwrap_or((name_and_namespace, ""));
        let or = |key: &str, default: &str| -> Arc<str> {
            let value = meta.text(key);
            if value.is_empty() { default.into() } else { value.into() }
        };
        let namespace = or("NAMESPACE", namespace);
        if namespace.is_empty() {
            return Err(NodeError::Namespace { id: id.to_owned() });
        }
        Ok(Self {
            id: id.into(),
            kind,
            ips: meta.ips(first)?,
            name: or("NAME", name),
            namespace,
            dns_domain: domain.into(),
            labels: meta.labels()?,
            locality,
            node: Some(or("NODE_NAME", "")).filter(|name| !name.is_empty()),
            network: or("NETWORK", ""),
            cluster_id: or("CLUSTER_ID", ""),
            service_account: or("SERVICE_ACCOUNT", ""),
            interception: meta.interception()?,
            http_proxy_port: meta.port("HTTP_PROXY_PORT")?,
            version: or("ISTIO_VERSION", ""),
            delta,
        })
    }

    /// Where explicit outbound listeners bind when traffic is not intercepted: on the proxy's own loopback address when it
    /// has one for itself, so that many proxies can share a machine; else on 127.0.0.1.
    pub fn explicit_bind(&self) -> Option<IpAddr> {
        (self.interception == Interception::None).then(|| match self.ips.first() {
            Some(ip) if ip.is_loopback() => *ip,
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        })
    }
}

struct Metadata<'a> {
    id: &'a str,
    map: &'a Map<String, Value>,
}

impl Metadata<'_> {
    fn text(&self, key: &str) -> &str {
        self.map.get(key).and_then(Value::as_str).unwrap_or("")
    }

    fn bad(&self, key: &'static str, value: impl fmt::Display, help: &'static str) -> NodeError {
        NodeError::Metadata { id: self.id.to_owned(), key, value: value.to_string(), help }
    }

    fn ips(&self, first: IpAddr) -> Result<Vec<IpAddr>, NodeError> {
        let mut ips = vec![first];
        for text in self.text("INSTANCE_IPS").split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let ip = text.parse().map_err(|_| self.bad("INSTANCE_IPS", text, "write addresses separated by commas"))?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        Ok(ips)
    }

    fn labels(&self) -> Result<Labels, NodeError> {
        match self.map.get("LABELS") {
            None | Some(Value::Null) => Ok(Labels::new()),
            Some(Value::Object(labels)) => labels
                .iter()
                .map(|(key, value)| match value {
                    Value::String(text) => Ok((key.as_str().into(), text.as_str().into())),
                    other => {
                        Err(self.bad("LABELS", format_args!("{key}: {other}"), "write every label's value as a string"))
                    }
                })
                .collect(),
            Some(other) => Err(self.bad("LABELS", other, "write an object of strings")),
        }
    }

    fn interception(&self) -> Result<Interception, NodeError> {
        match self.text("INTERCEPTION_MODE") {
            "" | "REDIRECT" => Ok(Interception::Redirect),
            "TPROXY" => Ok(Interception::Tproxy),
            "NONE" => Ok(Interception::None),
            other => Err(self.bad("INTERCEPTION_MODE", other, "write REDIRECT, TPROXY or NONE")),
        }
    }

    /// Istio writes numbers in metadata as strings; both are read.
    fn port(&self, key: &'static str) -> Result<Option<u16>, NodeError> {
        let help = "write a port between 1 and 65535";
        let value = match self.map.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text.parse::<u16>().map_err(|_| self.bad(key, text, help))?,
            Some(other) => {
                let number = other.as_u64().and_then(|n| u16::try_from(n).ok());
                number.ok_or_else(|| self.bad(key, other, help))?
            }
        };
        if value == 0 { Err(self.bad(key, value, help)) } else { Ok(Some(value)) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn read(id: &str, metadata: Value) -> Result<Proxy, NodeError> {
        Proxy::from_parts(id, metadata.as_object().unwrap(), Locality::default(), true)
    }

    #[test]
    fn a_node_is_read_with_its_metadata() {
        let proxy = read(
            "sidecar~10.0.0.1~reviews-v1-abc.shop~shop.svc.cluster.local",
            json!({"LABELS": {"app": "reviews"}, "INSTANCE_IPS": "10.0.0.1, 2001:db8::1", "INTERCEPTION_MODE": "NONE",
                   "HTTP_PROXY_PORT": "15080", "NETWORK": "n1", "SERVICE_ACCOUNT": "sa"}),
        )
        .unwrap();
        assert_eq!((&*proxy.name, &*proxy.namespace), ("reviews-v1-abc", "shop"));
        assert_eq!(proxy.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert_eq!(proxy.kind, ProxyKind::Sidecar);
        assert_eq!(proxy.interception, Interception::None);
        assert_eq!(proxy.http_proxy_port, Some(15080));
        assert_eq!(&*proxy.labels["app"], "reviews");
        assert_eq!((&*proxy.network, &*proxy.service_account), ("n1", "sa"));
    }

    #[test]
    fn metadata_wins_over_the_name_and_namespace_of_the_id() {
        let proxy = read("sidecar~10.0.0.1~a.b~d", json!({"NAME": "x.y", "NAMESPACE": "z"})).unwrap();
        assert_eq!((&*proxy.name, &*proxy.namespace), ("x.y", "z"));
    }

    #[test]
    fn the_grpc_generator_makes_a_sidecar_a_grpc_client() {
        assert_eq!(read("sidecar~1.1.1.1~a.b~d", json!({"GENERATOR": "grpc"})).unwrap().kind, ProxyKind::Grpc);
        assert_eq!(read("router~1.1.1.1~a.b~d", json!({})).unwrap().kind, ProxyKind::Router);
    }

    #[rstest]
    #[case("", "has 1 parts")]
    #[case("sidecar~1.1.1.1~a.b", "has 3 parts")]
    #[case("sidecar~1.1.1.1~a.b~d~e", "has 5 parts")]
    #[case("robot~1.1.1.1~a.b~d", "\"robot\" is not served")]
    #[case("sidecar~localhost~a.b~d", "\"localhost\" is not an IP address")]
    #[case("sidecar~1.1.1.1~a~d", "no namespace")]
    fn a_bad_id_is_refused_with_what_to_write(#[case] id: &str, #[case] expected: &str) {
        let error = read(id, json!({})).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[rstest]
    #[case(json!({"LABELS": {"a": 1}}))]
    #[case(json!({"LABELS": "a=b"}))]
    #[case(json!({"INSTANCE_IPS": "x"}))]
    #[case(json!({"INTERCEPTION_MODE": "SOMETIMES"}))]
    #[case(json!({"HTTP_PROXY_PORT": "0"}))]
    #[case(json!({"HTTP_PROXY_PORT": 70000}))]
    fn bad_metadata_is_refused(#[case] metadata: Value) {
        assert!(matches!(read("sidecar~1.1.1.1~a.b~d", metadata), Err(NodeError::Metadata { .. })));
    }

    #[rstest]
    #[case("127.0.0.7", "NONE", Some("127.0.0.7"))]
    #[case("127.0.0.1", "NONE", Some("127.0.0.1"))]
    #[case("10.0.0.1", "NONE", Some("127.0.0.1"))]
    #[case("127.0.0.7", "REDIRECT", None)]
    fn explicit_listeners_bind_to_the_proxys_own_loopback_address(
        #[case] ip: &str,
        #[case] mode: &str,
        #[case] expected: Option<&str>,
    ) {
        let proxy = read(&format!("sidecar~{ip}~a.b~d"), json!({"INTERCEPTION_MODE": mode})).unwrap();
        assert_eq!(proxy.explicit_bind(), expected.map(|e| e.parse().unwrap()));
    }
}
