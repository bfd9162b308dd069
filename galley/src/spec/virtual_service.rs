//! VirtualService: how requests and connections for a host are routed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Duration, LabelMap, Percent, StringMatch};

message! {
    /// Routes for hosts. Envoy: virtual hosts and routes for `http`, filter chains for `tls` and `tcp`.
    pub struct VirtualService {
        /// The names that clients ask for. A short name belongs to this resource's namespace; empty for a delegate.
        pub hosts: Vec<String>,
        /// Gateways (`namespace/name` or `name`) that apply these routes; `mesh` is every sidecar and the meaning of empty.
        pub gateways: Vec<String>,
        /// HTTP routes, tried in order; the first that matches is taken.
        pub http: Vec<HttpRoute>,
        /// Routes for TLS that is not terminated, by server name.
        pub tls: Vec<TlsRoute>,
        /// Routes for everything else.
        pub tcp: Vec<TcpRoute>,
        /// Namespaces that see this resource: `*`, `.`, `~` or a name. Empty is the mesh's default.
        pub export_to: Vec<String>,
    }
}

message! {
    /// A place that traffic is sent to. Envoy: a cluster's name.
    pub struct Destination {
        /// A host of the service registry. A short name belongs to the resource's namespace.
        pub host: String,
        /// A subset that a DestinationRule of this host declares. Empty is all instances.
        pub subset: String,
        /// Needed where the service has several ports.
        pub port: Option<PortSelector>,
    }
}

message! {
    /// Chooses a port by number.
    pub struct PortSelector {
        /// 1 to 65535.
        pub number: u16,
    }
}

message! {
    /// One HTTP route: exactly one of `route`, `redirect`, `directResponse` and `delegate` says what happens.
    pub struct HttpRoute {
        /// For statistics and debugging. Envoy: `route.name`.
        pub name: String,
        /// Conditions, any of which suffices; empty is every request.
        #[serde(rename = "match")]
        pub matches: Vec<HttpMatchRequest>,
        /// Where requests go, by weight.
        pub route: Vec<HttpRouteDestination>,
        /// Answers with a redirect. Envoy: `route.redirect`.
        pub redirect: Option<HttpRedirect>,
        /// Answers by itself. Envoy: `route.direct_response`.
        pub direct_response: Option<HttpDirectResponse>,
        /// Continues in a VirtualService without hosts.
        pub delegate: Option<Delegate>,
        /// Changes the request's path and authority before it is forwarded.
        pub rewrite: Option<HttpRewrite>,
        /// Limit for the whole request, retries included; absent or zero is none. Envoy: `route.timeout`.
        pub timeout: Option<Duration>,
        /// When and how often failed requests are repeated. Envoy: `route.retry_policy`.
        pub retries: Option<HttpRetry>,
        /// Delays and errors that are injected. Envoy: the filter `envoy.filters.http.fault`.
        pub fault: Option<HttpFaultInjection>,
        /// A destination that gets a copy of requests; answers are dropped.
        pub mirror: Option<Destination>,
        /// Share of requests that `mirror` gets, in whole percent. Deprecated.
        #[serde(alias = "mirror_percent")]
        pub mirror_percent: Option<u32>,
        /// Share of requests that `mirror` gets; absent is all.
        pub mirror_percentage: Option<Percent>,
        /// Several destinations that get copies.
        pub mirrors: Vec<HttpMirrorPolicy>,
        /// Cross-origin rules. Envoy: the filter `envoy.filters.http.cors`.
        pub cors_policy: Option<CorsPolicy>,
        /// Header changes for all destinations of this route.
        pub headers: Option<Headers>,
    }
}

message! {
    /// Names a VirtualService without hosts.
    pub struct Delegate {
        /// Its name.
        pub name: String,
        /// Its namespace; empty is that of the resource that delegates.
        pub namespace: String,
    }
}

message! {
    /// Header changes on the way to the destination and back.
    pub struct Headers {
        /// For requests, before they are forwarded.
        pub request: Option<HeaderOperations>,
        /// For answers, before they return to the caller.
        pub response: Option<HeaderOperations>,
    }
}

message! {
    /// What is done to headers.
    pub struct HeaderOperations {
        /// Replaced, or added where absent. Envoy: `OVERWRITE_IF_EXISTS_OR_ADD`.
        pub set: BTreeMap<String, String>,
        /// Appended to what is there. Envoy: `APPEND_IF_EXISTS_OR_ADD`.
        pub add: BTreeMap<String, String>,
        /// Removed.
        pub remove: Vec<String>,
    }
}

message! {
    /// Conditions on a request, all of which must hold.
    pub struct HttpMatchRequest {
        /// For statistics and debugging.
        pub name: String,
        /// The path, without query and fragment for `regex`.
        pub uri: Option<StringMatch>,
        /// `http` or `https`. Envoy: the header `:scheme`.
        pub scheme: Option<StringMatch>,
        /// The method. Envoy: the header `:method`.
        pub method: Option<StringMatch>,
        /// The host asked for. Envoy: the header `:authority`.
        pub authority: Option<StringMatch>,
        /// Headers that must match, by lower-case name.
        pub headers: BTreeMap<String, StringMatch>,
        /// The port that the client dialled; the route exists only there.
        pub port: Option<u16>,
        /// Labels of the calling workload; decided before anything is sent to a proxy.
        pub source_labels: LabelMap,
        /// Gateways that this condition applies to, instead of the resource's own list.
        pub gateways: Vec<String>,
        /// Query parameters that must match.
        pub query_params: BTreeMap<String, StringMatch>,
        /// Whether `exact` and `prefix` of `uri` ignore case.
        pub ignore_uri_case: bool,
        /// Headers that must not match.
        pub without_headers: BTreeMap<String, StringMatch>,
        /// Namespace of the calling workload.
        pub source_namespace: String,
        /// Prefix of this route's statistics. Envoy: `route.stat_prefix`.
        pub stat_prefix: String,
    }
}

message! {
    /// A destination with its share of requests.
    pub struct HttpRouteDestination {
        /// Where requests go.
        pub destination: Destination,
        /// Share relative to the sum of all weights. Zero gets nothing, except when it is the only destination.
        pub weight: i32,
        /// Header changes for this destination only.
        pub headers: Option<Headers>,
    }
}

message! {
    /// A TCP or TLS destination with its share of connections.
    pub struct RouteDestination {
        /// Where connections go.
        pub destination: Destination,
        /// Share relative to the sum of all weights.
        pub weight: i32,
    }
}

message! {
    /// A route for TLS that is not terminated.
    pub struct TlsRoute {
        /// Conditions, any of which suffices.
        #[serde(rename = "match")]
        pub matches: Vec<TlsMatchAttributes>,
        /// Where connections go, by weight.
        pub route: Vec<RouteDestination>,
    }
}

message! {
    /// Conditions on a TLS connection. Envoy: `filter_chain_match`.
    pub struct TlsMatchAttributes {
        /// Server names; each must be a host of the resource or lie under one. Envoy: `server_names`.
        pub sni_hosts: Vec<String>,
        /// Destination addresses or networks. Envoy: `prefix_ranges`.
        pub destination_subnets: Vec<String>,
        /// Destination port.
        pub port: Option<u16>,
        /// Labels of the calling workload.
        pub source_labels: LabelMap,
        /// Gateways that this condition applies to.
        pub gateways: Vec<String>,
        /// Namespace of the calling workload.
        pub source_namespace: String,
    }
}

message! {
    /// A route for connections.
    pub struct TcpRoute {
        /// Conditions, any of which suffices; empty is every connection.
        #[serde(rename = "match")]
        pub matches: Vec<L4MatchAttributes>,
        /// Where connections go, by weight.
        pub route: Vec<RouteDestination>,
    }
}

message! {
    /// Conditions on a connection. Envoy: `filter_chain_match`.
    pub struct L4MatchAttributes {
        /// Destination addresses or networks. Envoy: `prefix_ranges`.
        pub destination_subnets: Vec<String>,
        /// Destination port.
        pub port: Option<u16>,
        /// Source network. Istio reads it and does nothing with it.
        pub source_subnet: String,
        /// Labels of the calling workload.
        pub source_labels: LabelMap,
        /// Gateways that this condition applies to.
        pub gateways: Vec<String>,
        /// Namespace of the calling workload.
        pub source_namespace: String,
    }
}

message! {
    /// A redirect. At most one of `port` and `derivePort`.
    pub struct HttpRedirect {
        /// New path; replaces the whole path. Envoy: `path_redirect`.
        pub uri: String,
        /// New host. Envoy: `host_redirect`.
        pub authority: String,
        /// New port. Envoy: `port_redirect`.
        pub port: Option<u16>,
        /// How the new port is found, instead of `port`.
        pub derive_port: Option<DerivePort>,
        /// New scheme: `http` or `https`. Envoy: `scheme_redirect`.
        pub scheme: String,
        /// 301 (the meaning of absent), 302, 303, 307 or 308. Envoy: `response_code`.
        pub redirect_code: Option<u32>,
        /// Replaces the matched prefix of the path, instead of `uri`. Envoy: `prefix_rewrite`.
        pub prefix_rewrite: String,
    }
}

choice! {
    /// How a redirect finds its port.
    pub enum DerivePort {
        /// 80 for `http`, 443 for `https`: no port is written.
        FromProtocolDefault,
        /// The port of the request.
        FromRequestPort,
    }
}

message! {
    /// A fixed answer.
    pub struct HttpDirectResponse {
        /// HTTP status.
        pub status: u32,
        /// Content; absent is empty.
        pub body: Option<HttpBody>,
    }
}

/// The content of a fixed answer; at most 1 MiB. In YAML: `string: text`, or `bytes:` in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "HttpBodyForm", into = "HttpBodyForm")]
pub enum HttpBody {
    /// Text.
    String(String),
    /// Bytes, decoded.
    Bytes(Vec<u8>),
}

message! {
    /// Changes to a request before it is forwarded. At most one of `uri` and `uriRegexRewrite`.
    pub struct HttpRewrite {
        /// Replaces the path, or the prefix where the match was by prefix. Envoy: `prefix_rewrite`.
        pub uri: String,
        /// Replaces the host. Envoy: `host_rewrite_literal`.
        pub authority: String,
        /// Replaces what an expression finds in the path. Envoy: `regex_rewrite`.
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }
}

message! {
    /// A search with an expression, and its replacement.
    pub struct RegexRewrite {
        /// An RE2 expression.
        #[serde(rename = "match")]
        pub pattern: String,
        /// The replacement; `\1` is the first group.
        pub rewrite: String,
    }
}

message! {
    /// When failed requests are repeated. Envoy: `route.retry_policy`.
    pub struct HttpRetry {
        /// How often at most; zero is never. Envoy: `num_retries`.
        pub attempts: i32,
        /// Limit for each try; absent is the route's timeout. Envoy: `per_try_timeout`.
        pub per_try_timeout: Option<Duration>,
        /// Envoy's conditions and status codes, separated by commas. Empty is the built-in list.
        pub retry_on: String,
        /// Whether a retry may go to another locality. Envoy: `retry_priority`.
        pub retry_remote_localities: Option<bool>,
        /// Whether a retry avoids hosts that were tried; absent is yes. Envoy: `previous_hosts`.
        pub retry_ignore_previous_hosts: Option<bool>,
        /// Shortest pause before a retry. Envoy: `retry_back_off.base_interval`.
        pub backoff: Option<Duration>,
    }
}

message! {
    /// Cross-origin rules. Envoy: the filter `envoy.filters.http.cors`.
    pub struct CorsPolicy {
        /// Origins, exactly. Deprecated: `allowOrigins` replaces it.
        pub allow_origin: Vec<String>,
        /// Origins that may call.
        pub allow_origins: Vec<StringMatch>,
        /// `Access-Control-Allow-Methods`.
        pub allow_methods: Vec<String>,
        /// `Access-Control-Allow-Headers`.
        pub allow_headers: Vec<String>,
        /// `Access-Control-Expose-Headers`.
        pub expose_headers: Vec<String>,
        /// `Access-Control-Max-Age`.
        pub max_age: Option<Duration>,
        /// `Access-Control-Allow-Credentials`.
        pub allow_credentials: Option<bool>,
        /// What happens to preflight requests from other origins.
        pub unmatched_preflights: UnmatchedPreflights,
    }
}

choice! {
    /// What happens to preflight requests that no origin matches.
    pub enum UnmatchedPreflights {
        /// As `FORWARD`.
        Unspecified,
        /// They go to the destination.
        Forward,
        /// They are answered here.
        Ignore,
    }
}

message! {
    /// Faults that are injected. Envoy: the filter `envoy.filters.http.fault`.
    pub struct HttpFaultInjection {
        /// Delays before forwarding.
        pub delay: Option<FaultDelay>,
        /// Errors instead of forwarding.
        pub abort: Option<FaultAbort>,
    }
}

message! {
    /// A delay. One of `fixedDelay` and `exponentialDelay`.
    pub struct FaultDelay {
        /// Share of requests, in whole percent. Deprecated.
        pub percent: Option<i32>,
        /// Share of requests; absent is none.
        pub percentage: Option<Percent>,
        /// How long.
        pub fixed_delay: Option<Duration>,
        /// Istio reads it and does nothing with it.
        pub exponential_delay: Option<Duration>,
    }
}

message! {
    /// An error. One of `httpStatus`, `grpcStatus` and `http2Error`.
    pub struct FaultAbort {
        /// The HTTP status to answer.
        pub http_status: Option<i32>,
        /// The gRPC status to answer, such as `UNAVAILABLE`.
        pub grpc_status: Option<String>,
        /// Istio reads it and does nothing with it.
        pub http2_error: Option<String>,
        /// Share of requests; absent is none.
        pub percentage: Option<Percent>,
    }
}

message! {
    /// A destination that gets copies of requests. Envoy: `request_mirror_policies`.
    pub struct HttpMirrorPolicy {
        /// Where copies go.
        pub destination: Destination,
        /// Share of requests; absent is all.
        pub percentage: Option<Percent>,
    }
}

// === impl HttpBody ===

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename = "HttpBody")]
struct HttpBodyForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    string: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum HttpBodyError {
    #[error("give either `string` or `bytes`, not both")]
    Both,
    #[error("`bytes` is not base64")]
    Base64,
}

impl Default for HttpBody {
    fn default() -> Self {
        Self::String(String::new())
    }
}

impl TryFrom<HttpBodyForm> for HttpBody {
    type Error = HttpBodyError;

    fn try_from(form: HttpBodyForm) -> Result<Self, HttpBodyError> {
        match (form.string, form.bytes) {
            (Some(_), Some(_)) => Err(HttpBodyError::Both),
            (None, Some(text)) => decode_base64(&text).map(Self::Bytes).ok_or(HttpBodyError::Base64),
            (string, None) => Ok(Self::String(string.unwrap_or_default())),
        }
    }
}

impl From<HttpBody> for HttpBodyForm {
    fn from(body: HttpBody) -> Self {
        match body {
            HttpBody::String(text) => Self { string: Some(text), bytes: None },
            HttpBody::Bytes(bytes) => Self { string: None, bytes: Some(encode_base64(&bytes)) },
        }
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4; proto3 JSON also accepts the URL-safe alphabet and missing padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let unpadded = digits.strip_suffix(b"==").or_else(|| digits.strip_suffix(b"=")).unwrap_or(&digits);
    if unpadded.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(unpadded.len() * 3 / 4);
    for group in unpadded.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            let value = match digit {
                b'-' => 62,
                b'_' => 63,
                digit => u32::try_from(BASE64.iter().position(|d| d == digit)?).ok()?,
            };
            bits = bits << 6 | value;
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0u8; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            if digit <= group.len() {
                text.push(char::from(BASE64[(bits >> (18 - 6 * digit) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn base64_is_decoded_and_encoded_as_the_rfc_says() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode_base64(plain.as_bytes()), coded);
            assert_eq!(decode_base64(coded).unwrap(), plain.as_bytes());
            assert_eq!(decode_base64(coded.trim_end_matches('=')).unwrap(), plain.as_bytes());
        }
        assert_eq!(decode_base64("Z"), None);
        assert_eq!(decode_base64("Z!=="), None);
    }

    #[test]
    fn fields_at_their_default_are_not_written() {
        let service = VirtualService {
            hosts: vec!["reviews".into()],
            http: vec![HttpRoute {
                route: vec![HttpRouteDestination {
                    destination: Destination { host: "reviews".into(), ..Default::default() },
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&service).unwrap(),
            r#"{"hosts":["reviews"],"http":[{"route":[{"destination":{"host":"reviews"}}]}]}"#
        );
    }
}
