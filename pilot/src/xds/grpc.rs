//! The little of gRPC that a discovery stream needs: methods, statuses and trailers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::request::Variant;
use crate::resources::ResourceType;

/// How a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// The gRPC status code.
    pub(crate) code: u8,
    /// What an operator should read.
    pub(crate) message: String,
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// A stream of one protocol, of one type or of all.
    Stream(Variant, Option<ResourceType>),
    /// One request, one answer.
    Fetch,
    /// Nothing of ours.
    Unknown,
}

/// The services, by their full names.
pub(crate) const SERVICES: [&str; 6] = [
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.cluster.v3.ClusterDiscoveryService",
    "envoy.service.endpoint.v3.EndpointDiscoveryService",
    "envoy.service.listener.v3.ListenerDiscoveryService",
    "envoy.service.route.v3.RouteDiscoveryService",
    "envoy.service.route.v3.VirtualHostDiscoveryService",
];

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

// === impl Method ===

impl Method {
    /// Reads a request's path.
    pub(crate) fn from_path(path: &str) -> Self {
        use ResourceType::{Cluster, Endpoint, Listener, Route, VirtualHost};
        use Variant::{Delta, StateOfTheWorld};
        let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else {
            return Self::Unknown;
        };
        let Some(service) = SERVICES.iter().position(|s| *s == service) else { return Self::Unknown };
        match (service, method) {
            (0, "StreamAggregatedResources") => Self::Stream(StateOfTheWorld, None),
            (0, "DeltaAggregatedResources") => Self::Stream(Delta, None),
            (1, "StreamClusters") => Self::Stream(StateOfTheWorld, Some(Cluster)),
            (1, "DeltaClusters") => Self::Stream(Delta, Some(Cluster)),
            (2, "StreamEndpoints") => Self::Stream(StateOfTheWorld, Some(Endpoint)),
            (2, "DeltaEndpoints") => Self::Stream(Delta, Some(Endpoint)),
            (3, "StreamListeners") => Self::Stream(StateOfTheWorld, Some(Listener)),
            (3, "DeltaListeners") => Self::Stream(Delta, Some(Listener)),
            (4, "StreamRoutes") => Self::Stream(StateOfTheWorld, Some(Route)),
            (4, "DeltaRoutes") => Self::Stream(Delta, Some(Route)),
            (5, "DeltaVirtualHosts") => Self::Stream(Delta, Some(VirtualHost)),
            (1, "FetchClusters") | (2, "FetchEndpoints") | (3, "FetchListeners") | (4, "FetchRoutes") => Self::Fetch,
            _ => Self::Unknown,
        }
    }
}

// === impl Status ===

impl Status {
    pub(crate) fn ok() -> Self {
        Self { code: 0, message: String::new() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }

    pub(crate) fn exhausted(message: impl Into<String>) -> Self {
        Self { code: 8, message: message.into() }
    }

    pub(crate) fn unimplemented(message: impl Into<String>) -> Self {
        Self { code: 12, message: message.into() }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { code: 14, message: message.into() }
    }

    /// The trailers, or the headers of an answer without a body.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(self.code)));
        if !self.message.is_empty()
            && let Ok(value) = HeaderValue::from_str(&percent_encoded(&self.message))
        {
            headers.insert(GRPC_MESSAGE, value);
        }
        headers
    }
}

/// gRPC's encoding of status messages: everything but printable ASCII, and `%`, in percent form.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte as char),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn paths_name_their_method() {
        let path = |service: usize, method: &str| Method::from_path(&format!("/{}/{method}", SERVICES[service]));
        assert_eq!(path(0, "DeltaAggregatedResources"), Method::Stream(Variant::Delta, None));
        assert_eq!(path(4, "StreamRoutes"), Method::Stream(Variant::StateOfTheWorld, Some(ResourceType::Route)));
        assert_eq!(path(1, "FetchClusters"), Method::Fetch);
        for stranger in ["", "/", "/a", "/a/b", "//", "/envoy.service.discovery.v3.AggregatedDiscoveryService/"] {
            assert_eq!(Method::from_path(stranger), Method::Unknown);
        }
    }

    #[test]
    fn messages_survive_the_header() {
        let headers = Status::invalid("100 % of \"ä\"\n").headers();
        assert_eq!(headers["grpc-status"], "3");
        assert_eq!(headers["grpc-message"], "100 %25 of \"%C3%A4\"%0A");
    }
}
