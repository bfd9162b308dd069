//! A route: what it matches and what it does. The table that finds it is in `table.rs`.

use super::filter::{Fraction, PerRoute};
use super::header::{HeaderKey, HeaderMatcher, HeaderOps, QueryMatcher, RequestView};
use bytes::Bytes;
use http::Method;
use regex::Regex;
use std::sync::Arc;
use std::time::Duration;

/// `envoy.config.route.v3.Route`.
#[derive(Clone, Debug)]
pub struct Route {
    /// For logs.
    pub name: Arc<str>,
    /// Which requests.
    pub matcher: RouteMatch,
    /// What happens.
    pub action: RouteAction,
    /// Changes to the request.
    pub request_headers: HeaderOps,
    /// Changes to the response.
    pub response_headers: HeaderOps,
    /// Filter settings of this route.
    pub per_route: PerRoute,
}

/// `RouteMatch`: all conditions have to hold.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatcher,
    /// `false`: exact, prefix and separated prefix ignore ASCII case.
    pub case_sensitive: bool,
    /// Headers.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query: Vec<QueryMatcher>,
    /// Only gRPC requests (by content type).
    pub grpc: bool,
    /// A share of requests; the rest tries the next route.
    pub share: Option<Fraction>,
}

/// The path condition; the query is never part of it.
#[derive(Clone, Debug)]
pub enum PathMatcher {
    /// `prefix`.
    Prefix(Box<str>),
    /// `path`.
    Exact(Box<str>),
    /// `path_separated_prefix`: the prefix, alone or followed by `/`.
    SeparatedPrefix(Box<str>),
    /// `safe_regex`: the whole path.
    Regex(Regex),
    /// `connect_matcher`: CONNECT requests.
    Connect,
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum RouteAction {
    /// Send the request upstream.
    Forward(Box<Forward>),
    /// Answer with a redirect.
    Redirect(Box<Redirect>),
    /// Answer with a fixed response.
    Direct(DirectResponse),
    /// For servers only (`non_forwarding_action`); a proxy answers 500.
    NonForwarding,
}

/// `RouteAction`.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Which cluster.
    pub target: Target,
    /// Whole request, first byte to last of the response; `None`: unlimited. Envoy's default is 15 s.
    pub timeout: Option<Duration>,
    /// No byte in either direction; `None`: the connection manager's.
    pub idle_timeout: Option<Duration>,
    /// `grpc-timeout` of the client is honoured up to this (zero: without limit).
    pub grpc_timeout_max: Option<Duration>,
    /// When to try again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// New path.
    pub path_rewrite: Option<PathRewrite>,
    /// New authority.
    pub host_rewrite: Option<HostRewrite>,
    /// `append_x_forwarded_host`.
    pub append_x_forwarded_host: bool,
    /// What consistent hashing looks at.
    pub hash: Vec<HashPolicy>,
    /// Copies.
    pub mirrors: Vec<Mirror>,
    /// Upgrades allowed or forbidden on this route (lower case); absent: the connection manager decides.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// `cluster_not_found_response_code`, 503 by default.
    pub cluster_not_found: u16,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// One cluster.
    Cluster(Arc<str>),
    /// One of several by weight.
    Weighted {
        /// The choices.
        clusters: Vec<WeightedCluster>,
        /// Sum of weights.
        total: u64,
    },
}

/// `WeightedCluster.ClusterWeight`.
#[derive(Clone, Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub cluster: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// Changes to the request.
    pub request_headers: HeaderOps,
    /// Changes to the response.
    pub response_headers: HeaderOps,
    /// New authority.
    pub host_rewrite: Option<HostRewrite>,
    /// Filter settings.
    pub per_route: PerRoute,
}

/// How the path changes.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The matched prefix (or whole exact path) is replaced.
    Prefix(Box<str>),
    /// A pattern is replaced; `\1` names a group, as RE2 writes it.
    Regex {
        /// What is searched in the path.
        pattern: Regex,
        /// In the `regex` crate's notation (`${1}`): use [`PathRewrite::regex`].
        replacement: Box<str>,
    },
    /// The whole path.
    Full(Box<str>),
}

/// How the authority changes.
#[derive(Clone, Debug)]
pub enum HostRewrite {
    /// To a fixed name.
    Literal(Box<str>),
    /// To a header's value, if present.
    Header(HeaderKey),
    /// To the chosen endpoint's host name (DNS clusters).
    Auto,
}

/// `RedirectAction`.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// New scheme.
    pub scheme: Option<Box<str>>,
    /// New host.
    pub host: Option<Box<str>>,
    /// New port.
    pub port: Option<u16>,
    /// New path (may contain a query).
    pub path: Option<PathRewrite>,
    /// Status: 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The query is dropped.
    pub strip_query: bool,
}

/// `DirectResponseAction`.
#[derive(Clone, Debug)]
pub struct DirectResponse {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// `RouteAction.HashPolicy`.
#[derive(Clone, Debug)]
pub struct HashPolicy {
    /// What is hashed.
    pub key: HashKey,
    /// A hit ends the list.
    pub terminal: bool,
}

/// What a [`HashPolicy`] looks at.
#[derive(Clone, Debug)]
pub enum HashKey {
    /// A header's value.
    Header(HeaderKey),
    /// A cookie; generated with this path and lifetime if missing and a lifetime is given.
    Cookie {
        /// Name.
        name: Box<str>,
        /// `Path` attribute.
        path: Box<str>,
        /// Lifetime; `None`: a missing cookie is not generated.
        ttl: Option<Duration>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(Box<str>),
}

/// `RequestMirrorPolicy`.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where the copy goes.
    pub cluster: Arc<str>,
    /// How often.
    pub share: Fraction,
}

/// `RetryPolicy`.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// When.
    pub on: RetryOn,
    /// How often, beyond the first attempt.
    pub retries: u32,
    /// Bound of one attempt; `None`: only the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// For `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// For `retriable-headers`: response headers.
    pub response_headers: Vec<HeaderMatcher>,
    /// First back-off interval.
    pub base_interval: Duration,
    /// Longest back-off interval.
    pub max_interval: Duration,
    /// `previous_hosts` predicate: another endpoint is preferred.
    pub avoid_previous_hosts: bool,
    /// How often another endpoint is drawn to satisfy the predicate.
    pub host_attempts: u32,
}

/// The conditions of `retry_on` and `retry_grpc_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

// === impl RouteMatch ===

impl RouteMatch {
    /// A match on the path alone.
    pub fn path(path: PathMatcher) -> Self {
        Self { path, case_sensitive: true, headers: Vec::new(), query: Vec::new(), grpc: false, share: None }
    }

    /// `prefix: value`.
    pub fn prefix(value: &str) -> Self {
        Self::path(PathMatcher::Prefix(value.into()))
    }

    /// `path: value`.
    pub fn exact(value: &str) -> Self {
        Self::path(PathMatcher::Exact(value.into()))
    }

    /// Whether `request` passes; `random` decides shares.
    pub fn matches(&self, request: &RequestView<'_>, random: u64) -> bool {
        let path = path_of(request.path_and_query);
        let path_matches = match &self.path {
            PathMatcher::Prefix(prefix) => starts_with(path, prefix, self.case_sensitive),
            PathMatcher::Exact(exact) => path.len() == exact.len() && starts_with(path, exact, self.case_sensitive),
            PathMatcher::SeparatedPrefix(prefix) => {
                starts_with(path, prefix, self.case_sensitive)
                    && (path.len() == prefix.len() || path.as_bytes()[prefix.len()] == b'/')
            }
            PathMatcher::Regex(pattern) => pattern.is_match(path),
            PathMatcher::Connect => request.method == Method::CONNECT.as_str(),
        };
        path_matches
            && self.headers.iter().all(|matcher| matcher.matches(request))
            && self.query.iter().all(|matcher| matcher.matches(request.path_and_query))
            && (!self.grpc || is_grpc(request))
            && self.share.is_none_or(|share| share.takes(random))
    }
}

/// The path without query and fragment.
pub(super) fn path_of(path_and_query: &str) -> &str {
    match path_and_query.bytes().position(|byte| byte == b'?' || byte == b'#') {
        Some(end) => &path_and_query[..end],
        None => path_and_query,
    }
}

fn starts_with(path: &str, prefix: &str, case_sensitive: bool) -> bool {
    let (path, prefix) = (path.as_bytes(), prefix.as_bytes());
    path.len() >= prefix.len()
        && if case_sensitive {
            &path[..prefix.len()] == prefix
        } else {
            path[..prefix.len()].eq_ignore_ascii_case(prefix)
        }
}

fn is_grpc(request: &RequestView<'_>) -> bool {
    request.headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value == b"application/grpc"
            || value.starts_with(b"application/grpc+")
            || value.starts_with(b"application/grpc;")
    })
}

// === impl Route ===

impl Route {
    /// A route without header changes or filter settings.
    pub fn new(matcher: RouteMatch, action: RouteAction) -> Self {
        Self {
            name: "".into(),
            matcher,
            action,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            per_route: PerRoute::default(),
        }
    }
}

// === impl Forward ===

impl Forward {
    /// Forwards to `target` without a timeout.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            timeout: None,
            idle_timeout: None,
            grpc_timeout_max: None,
            retry: None,
            path_rewrite: None,
            host_rewrite: None,
            append_x_forwarded_host: false,
            hash: Vec::new(),
            mirrors: Vec::new(),
            upgrades: Vec::new(),
            cluster_not_found: 503,
        }
    }

    /// Forwards to one cluster.
    pub fn to(cluster: &str) -> Self {
        Self::new(Target::Cluster(cluster.into()))
    }
}

impl From<Forward> for RouteAction {
    fn from(forward: Forward) -> Self {
        Self::Forward(Box::new(forward))
    }
}

// === impl Target ===

impl Target {
    /// One of `clusters`; weights of zero never win.
    pub fn weighted(clusters: Vec<WeightedCluster>) -> Self {
        let total = clusters.iter().map(|choice| u64::from(choice.weight)).sum();
        Self::Weighted { clusters, total }
    }

    /// The cluster for a request that drew `random`, and the weighted entry it came from.
    pub fn pick(&self, random: u64) -> Option<(&Arc<str>, Option<&WeightedCluster>)> {
        match self {
            Self::Cluster(name) => Some((name, None)),
            Self::Weighted { total: 0, .. } => None,
            Self::Weighted { clusters, total } => {
                let mut draw = random % total;
                for choice in clusters {
                    let weight = u64::from(choice.weight);
                    if draw < weight {
                        return Some((&choice.cluster, Some(choice)));
                    }
                    draw -= weight;
                }
                None
            }
        }
    }
}

// === impl WeightedCluster ===

impl WeightedCluster {
    /// A choice without header changes.
    pub fn new(cluster: &str, weight: u32) -> Self {
        Self {
            cluster: cluster.into(),
            weight,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            host_rewrite: None,
            per_route: PerRoute::default(),
        }
    }
}

// === impl PathRewrite ===

impl PathRewrite {
    /// A regex rewrite with RE2's `\N` group references in `substitution`.
    pub fn regex(pattern: Regex, substitution: &str) -> Self {
        let mut replacement = String::with_capacity(substitution.len() + 8);
        let mut chars = substitution.chars().peekable();
        while let Some(char) = chars.next() {
            match (char, chars.peek()) {
                ('\\', Some(digit)) if digit.is_ascii_digit() => {
                    replacement.push_str(&format!("${{{digit}}}"));
                    chars.next();
                }
                ('\\', Some('\\')) => {
                    replacement.push('\\');
                    chars.next();
                }
                ('$', _) => replacement.push_str("$$"),
                (other, _) => replacement.push(other),
            }
        }
        Self::Regex { pattern, replacement: replacement.into() }
    }

    /// The new path and query for a request that `matcher` accepted.
    pub fn apply(&self, matcher: &RouteMatch, path_and_query: &str) -> String {
        let path = path_of(path_and_query);
        let tail = &path_and_query[path.len()..];
        match self {
            Self::Full(full) => format!("{full}{tail}"),
            Self::Regex { pattern, replacement } => format!("{}{tail}", pattern.replace_all(path, &**replacement)),
            Self::Prefix(prefix) => {
                let matched = match &matcher.path {
                    PathMatcher::Prefix(matched) | PathMatcher::Exact(matched) => matched.len(),
                    PathMatcher::SeparatedPrefix(matched) => matched.len(),
                    // Envoy replaces the whole path here.
                    PathMatcher::Regex(_) | PathMatcher::Connect => path.len(),
                };
                format!("{prefix}{}{tail}", path.get(matched..).unwrap_or_default())
            }
        }
    }
}

// === impl RetryPolicy ===

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::default(),
            retries: 1,
            per_try_timeout: None,
            status_codes: Vec::new(),
            response_headers: Vec::new(),
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            avoid_previous_hosts: false,
            host_attempts: 1,
        }
    }
}

// === impl RetryOn ===

impl RetryOn {
    /// Any 5xx, and no response at all.
    pub const SERVER_ERROR: u32 = 1;
    /// 502, 503, 504.
    pub const GATEWAY_ERROR: u32 = 1 << 1;
    /// No response: reset, disconnect, timeout of the attempt.
    pub const RESET: u32 = 1 << 2;
    /// The connection could not be made.
    pub const CONNECT_FAILURE: u32 = 1 << 3;
    /// 409.
    pub const RETRIABLE_4XX: u32 = 1 << 4;
    /// HTTP/2 `REFUSED_STREAM`.
    pub const REFUSED_STREAM: u32 = 1 << 5;
    /// The listed codes.
    pub const STATUS_CODES: u32 = 1 << 6;
    /// The listed response headers.
    pub const HEADERS: u32 = 1 << 7;
    /// Reset before the request was sent.
    pub const RESET_BEFORE_REQUEST: u32 = 1 << 8;
    /// gRPC `CANCELLED`.
    pub const GRPC_CANCELLED: u32 = 1 << 9;
    /// gRPC `DEADLINE_EXCEEDED`.
    pub const GRPC_DEADLINE: u32 = 1 << 10;
    /// gRPC `INTERNAL`.
    pub const GRPC_INTERNAL: u32 = 1 << 11;
    /// gRPC `RESOURCE_EXHAUSTED`.
    pub const GRPC_EXHAUSTED: u32 = 1 << 12;
    /// gRPC `UNAVAILABLE`.
    pub const GRPC_UNAVAILABLE: u32 = 1 << 13;
    /// `x-envoy-ratelimited` in the response.
    pub const RATE_LIMITED: u32 = 1 << 14;

    /// Reads a comma separated list; names that are not known are returned beside the set.
    pub fn parse(list: &str) -> (Self, Vec<String>) {
        let mut set = 0;
        let mut unknown = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            set |= match name {
                "5xx" => Self::SERVER_ERROR,
                "gateway-error" => Self::GATEWAY_ERROR,
                "reset" => Self::RESET,
                "connect-failure" => Self::CONNECT_FAILURE,
                "retriable-4xx" => Self::RETRIABLE_4XX,
                "refused-stream" => Self::REFUSED_STREAM,
                "retriable-status-codes" => Self::STATUS_CODES,
                "retriable-headers" => Self::HEADERS,
                "reset-before-request" => Self::RESET_BEFORE_REQUEST,
                "envoy-ratelimited" => Self::RATE_LIMITED,
                "cancelled" => Self::GRPC_CANCELLED,
                "deadline-exceeded" => Self::GRPC_DEADLINE,
                "internal" => Self::GRPC_INTERNAL,
                "resource-exhausted" => Self::GRPC_EXHAUSTED,
                "unavailable" => Self::GRPC_UNAVAILABLE,
                other => {
                    unknown.push(other.to_owned());
                    0
                }
            };
        }
        (Self(set), unknown)
    }

    /// Whether one of `conditions` is in the set.
    pub fn has(self, conditions: u32) -> bool {
        self.0 & conditions != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::model::compile_full_match;

    fn rewrite(rewrite: &PathRewrite, matcher: &RouteMatch, path: &str) -> String {
        rewrite.apply(matcher, path)
    }

    #[test]
    fn a_prefix_rewrite_keeps_the_rest_and_the_query() {
        let to = PathRewrite::Prefix("/v2/".into());
        assert_eq!(rewrite(&to, &RouteMatch::prefix("/api/"), "/api/items?x=1"), "/v2/items?x=1");
        assert_eq!(rewrite(&to, &RouteMatch::exact("/api"), "/api?x=1"), "/v2/?x=1");
    }

    #[test]
    fn a_regex_rewrite_uses_numbered_groups_and_leaves_dollar_signs_alone() {
        let to = PathRewrite::regex(Regex::new("^/a/([^/]+)/(.*)$").unwrap(), r"/\2/$/\1");
        assert_eq!(rewrite(&to, &RouteMatch::prefix("/"), "/a/one/two?q"), "/two/$/one?q");
    }

    #[test]
    fn weights_share_all_draws_exactly_and_zero_never_wins() {
        let target = Target::weighted(vec![
            WeightedCluster::new("a", 90),
            WeightedCluster::new("zero", 0),
            WeightedCluster::new("b", 10),
        ]);
        let wins = |name: &str| (0..1000).filter(|draw| &**target.pick(*draw).unwrap().0 == name).count();
        assert_eq!((wins("a"), wins("zero"), wins("b")), (900, 0, 100));
        assert!(Target::weighted(Vec::new()).pick(3).is_none());
    }

    #[test]
    fn path_conditions_look_at_the_path_without_query() {
        let headers = http::HeaderMap::new();
        let check = |matcher: &RouteMatch, path: &str| {
            matcher.matches(
                &RequestView { method: "GET", path_and_query: path, authority: "", scheme: "http", headers: &headers },
                0,
            )
        };
        assert!(check(&RouteMatch::exact("/a"), "/a?x"));
        assert!(!check(&RouteMatch::exact("/a"), "/ab"));
        let separated = RouteMatch::path(PathMatcher::SeparatedPrefix("/a".into()));
        assert!(check(&separated, "/a") && check(&separated, "/a/b") && !check(&separated, "/ab"));
        let regex = RouteMatch::path(PathMatcher::Regex(compile_full_match("/[0-9]+").unwrap()));
        assert!(check(&regex, "/12?x") && !check(&regex, "/12/"));
        let mut folded = RouteMatch::prefix("/API");
        folded.case_sensitive = false;
        assert!(check(&folded, "/api/x"));
    }

    #[test]
    fn retry_conditions_are_read_and_unknown_ones_are_named() {
        let (on, unknown) = RetryOn::parse("connect-failure, unavailable,frobnicate");
        assert!(on.has(RetryOn::CONNECT_FAILURE) && on.has(RetryOn::GRPC_UNAVAILABLE) && !on.has(RetryOn::RESET));
        assert_eq!(unknown, vec!["frobnicate"]);
    }
}
