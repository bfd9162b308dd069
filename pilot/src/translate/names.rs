//! The names of what is translated: Istio's, so that people and tools that read Istio's dumps can read ours.

use std::net::IpAddr;

/// Sends a connection where its caller meant it to go.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// Has no endpoints, so that what is sent to it is refused.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
/// Sends an intercepted inbound connection to the application's own address.
pub const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";
/// Receives every captured outbound connection.
pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// Receives every captured inbound connection.
pub const VIRTUAL_INBOUND: &str = "virtualInbound";
/// The route table of the explicit HTTP proxy port.
pub const HTTP_PROXY_ROUTE: &str = "http_proxy";
/// How gRPC clients that need no proxy name the listener of one of their own ports.
pub const GRPC_INBOUND_PREFIX: &str = "xds.istio.io/grpc/lds/inbound/";

/// `outbound|PORT|SUBSET|HOST`
pub fn outbound_cluster(port: u16, subset: &str, host: &str) -> String {
    use std::fmt::Write;
    let mut name = String::with_capacity(16 + subset.len() + host.len());
    // Writing to a String cannot fail.
    let _ = write!(name, "outbound|{port}|{subset}|{host}");
    name
}

/// `inbound|PORT||`
pub fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}

/// `BIND_PORT`
pub fn listener(bind: IpAddr, port: u16) -> String {
    format!("{bind}_{port}")
}

/// The path of a document in Istio's API, as it is written into `filter_metadata.istio.config`.
pub fn config_path(kind: &str, namespace: &str, name: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{kind}/{name}")
}

/// The path and query of an address inside of a `Host` header or URL: IPv6 in brackets.
pub fn url_host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}
