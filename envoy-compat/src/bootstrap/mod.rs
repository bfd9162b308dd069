//! Bootstraps for stock Envoy, and starting it.
//!
//! Envoy joins the mesh with the same identity and over the same protocol as the Rust sidecar: aggregated delta xDS.
//! [`envoy`] makes the configuration that it starts with, and [`run`] finds a suitable Envoy and becomes it.
//!
//! Promises: no deprecated field, nothing that a stock build lacks, and an admin interface on the address that was asked for,
//! loopback by default.

mod launch;

pub use launch::{LaunchError, LaunchOptions, MINIMUM_VERSION, envoy_version, find_envoy, run};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::NodeConfig;

/// The static cluster through which the control plane is reached; Istio's name.
pub const XDS_CLUSTER: &str = "xds-grpc";

/// Where a control plane listens: a host name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A server address that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the address of a control plane: {why}; write HOST:PORT, for example 127.0.0.1:15010")]
pub struct ServerAddressError {
    text: String,
    why: &'static str,
}

/// What a bootstrap says besides the proxy's identity.
#[derive(Debug, Clone)]
pub struct BootstrapOptions {
    /// The control plane.
    pub server: ServerAddress,
    /// Where the admin interface listens.
    pub admin: SocketAddr,
    /// Answers `/healthz/ready` here with what the admin interface says on `/ready`; `None`: no such listener.
    pub status: Option<SocketAddr>,
    /// Answers `/stats/prometheus` here; `None`: no such listener.
    pub metrics: Option<SocketAddr>,
    /// Downstream connections at most, over all listeners.
    pub max_connections: u64,
}

// === impl BootstrapOptions ===

impl BootstrapOptions {
    /// The admin interface on loopback port 15000, and nothing else listening.
    pub fn new(server: ServerAddress) -> Self {
        Self {
            server,
            admin: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000),
            status: None,
            metrics: None,
            max_connections: 50_000,
        }
    }
}

/// The bootstrap of an Envoy that is `node` and asks `options.server` for everything else. Proto3 JSON of
/// `envoy.config.bootstrap.v3.Bootstrap`, for Envoy 1.34 and later.
pub fn envoy(node: &NodeConfig, options: &BootstrapOptions) -> Value {
    let mut clusters = vec![xds_cluster(&options.server)];
    let mut listeners = Vec::new();
    if let Some(address) = options.status {
        listeners.push(admin_listener("status", address, "/healthz/ready", "/ready"));
    }
    if let Some(address) = options.metrics {
        listeners.push(admin_listener("metrics", address, "/stats/prometheus", "/stats/prometheus"));
    }
    if !listeners.is_empty() {
        clusters.push(admin_cluster(options.admin));
    }
    json!({
        "node": node.to_json(),
        "admin": { "address": socket_address(options.admin) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": XDS_CLUSTER } }],
            },
            // Without a limit: a proxy that starts before its control plane waits for it instead of starting empty.
            "cds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
            "lds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
        },
        "static_resources": { "clusters": clusters, "listeners": listeners },
        "overload_manager": {
            "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": options.max_connections.to_string(),
                },
            }],
        },
        "layered_runtime": {
            "layers": [{ "name": "static", "static_layer": {} }, { "name": "admin", "admin_layer": {} }],
        },
    })
}

/// The control plane, over HTTP/2 in plain text, with both keep-alives so that a dead one is noticed.
fn xds_cluster(server: &ServerAddress) -> Value {
    let kind = if server.host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
    json!({
        "name": XDS_CLUSTER,
        "type": kind,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
                "socket_address": { "address": server.host, "port_value": server.port }
            } } }] }],
        },
        // One stream must never be refused because of earlier failures.
        "circuit_breakers": { "thresholds": [
            { "priority": "DEFAULT", "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 },
            { "priority": "HIGH", "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 },
        ] },
        "upstream_connection_options": { "tcp_keepalive": { "keepalive_time": 60, "keepalive_interval": 10, "keepalive_probes": 3 } },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {
                    "connection_keepalive": { "interval": "30s", "timeout": "10s" }
                } },
            },
        },
    })
}

fn admin_cluster(admin: SocketAddr) -> Value {
    json!({
        "name": "agent",
        "type": "STATIC",
        "connect_timeout": "0.250s",
        "load_assignment": {
            "cluster_name": "agent",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket_address(admin) } }] }],
        },
    })
}

/// A listener that serves one path of the admin interface and nothing else of it.
fn admin_listener(name: &str, address: SocketAddr, path: &str, admin_path: &str) -> Value {
    json!({
        "name": name,
        "address": socket_address(address),
        "ignore_global_conn_limit": true,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "codec_type": "AUTO",
                "stat_prefix": name,
                "route_config": {
                    "name": name,
                    "virtual_hosts": [{ "name": name, "domains": ["*"], "routes": [{
                        "match": { "path": path },
                        "route": { "cluster": "agent", "prefix_rewrite": admin_path },
                    }] }],
                },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                }],
            },
        }] }],
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// Seconds as Envoy's command line takes them, at least 1.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

// === impl ServerAddress ===

impl ServerAddress {
    /// An address from its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for ServerAddress {
    type Err = ServerAddressError;

    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        let wrong = |why| ServerAddressError { text: text.to_owned(), why };
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if bare.starts_with("https://") {
            return Err(wrong("TLS to the control plane is not supported"));
        }
        let (host, port) = bare.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
        let port = port.parse().map_err(|_| wrong("its port is not a number up to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(|| wrong("it has no closing bracket"))?,
            None if host.contains(':') => return Err(wrong("an IPv6 address needs brackets")),
            None => host,
        };
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(wrong("its host is not a name"));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::node::NodeKind;

    fn made(options: &BootstrapOptions) -> Value {
        envoy(&NodeConfig::new(NodeKind::Sidecar, "reviews-1", "default"), options)
    }

    #[test]
    fn everything_comes_by_delta_over_one_stream() {
        let bootstrap = made(&BootstrapOptions::new("127.0.0.1:15010".parse().unwrap()));
        let ads = &bootstrap["dynamic_resources"]["ads_config"];
        assert_eq!(ads["api_type"], "DELTA_GRPC");
        assert_eq!(ads["grpc_services"][0]["envoy_grpc"]["cluster_name"], XDS_CLUSTER);
        let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
        assert_eq!(clusters.len(), 1);
        assert_eq!(clusters[0]["type"], "STATIC");
        assert_eq!(bootstrap["node"]["id"], "sidecar~127.0.0.1~reviews-1.default~default.svc.cluster.local");
        assert_eq!(bootstrap["admin"]["address"]["socket_address"]["address"], "127.0.0.1");
    }

    #[test]
    fn readiness_and_metrics_listen_only_when_asked() {
        let mut options = BootstrapOptions::new("istiod.mesh:15010".parse().unwrap());
        assert_eq!(made(&options)["static_resources"]["listeners"], json!([]));
        options.status = Some("127.0.0.1:15021".parse().unwrap());
        options.metrics = Some("127.0.0.1:15090".parse().unwrap());
        let bootstrap = made(&options);
        let names: Vec<_> =
            bootstrap["static_resources"]["listeners"].as_array().unwrap().iter().map(|l| l["name"].clone()).collect();
        assert_eq!(names, ["status", "metrics"]);
        let clusters = bootstrap["static_resources"]["clusters"].as_array().unwrap();
        assert_eq!(clusters[0]["type"], "STRICT_DNS");
        // Envoy warns about these since 1.40.
        assert!(clusters.iter().all(|c| c.get("dns_refresh_rate").is_none() && c.get("respect_dns_ttl").is_none()));
        assert_eq!(clusters[1]["name"], "agent");
    }

    #[test]
    fn the_bootstrap_is_valid_proto3_json() {
        let mut options = BootstrapOptions::new("127.0.0.1:15010".parse().unwrap());
        options.status = Some("127.0.0.1:15021".parse().unwrap());
        let bootstrap: xebec_proto::envoy::config::bootstrap::v3::Bootstrap =
            xebec_proto::json::decode(made(&options)).unwrap();
        assert_eq!(bootstrap.static_resources.unwrap().listeners[0].name, "status");
    }

    #[test]
    fn server_addresses_are_read_and_wrong_ones_explained() {
        let read = |text: &str| text.parse::<ServerAddress>();
        assert_eq!(read("[::1]:15010").unwrap(), ServerAddress::new("::1", 15010));
        assert_eq!(read("[::1]:15010").unwrap().to_string(), "[::1]:15010");
        assert_eq!(read("http://istiod:15010/").unwrap().to_string(), "istiod:15010");
        for (text, why) in [
            ("istiod", "no port"),
            ("istiod:99999", "65535"),
            ("::1:15010", "brackets"),
            (":15010", "no host"),
            ("https://a:1", "TLS"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
