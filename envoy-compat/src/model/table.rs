//! The route table: which virtual host, then which route.
//!
//! Envoy's rules are kept exactly: hosts are searched as exact name, longest `*suffix`, longest `prefix*`, `*`;
//! within a virtual host the first route in the list that matches wins. What differs is the cost: a virtual host
//! with many routes is not scanned. Exact paths and prefixes are hashed, and the candidates that they name are
//! tried in list order together with the few routes that cannot be indexed (regex, case-insensitive).

use super::filter::PerRoute;
use super::header::{HeaderOps, RequestView};
use super::route::{PathMatcher, RetryPolicy, Route, path_of};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Below this number of routes a scan is faster than the index.
const SCAN_LIMIT: usize = 12;

/// `RouteConfiguration`, ready to search.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// The name that listeners refer to.
    pub name: Arc<str>,
    /// Changes to every request.
    pub request_headers: HeaderOps,
    /// Changes to every response.
    pub response_headers: HeaderOps,
    /// Filter settings of the whole table.
    pub per_route: PerRoute,
    /// `most_specific_header_mutations_wins`: route-level changes are applied last instead of first.
    pub most_specific_wins: bool,
    /// `ignore_port_in_host_matching`.
    pub ignore_port: bool,
    hosts: Vec<Arc<VirtualHost>>,
    exact: FxHashMap<Box<str>, usize>,
    suffix: ByLength<usize>,
    prefix: ByLength<usize>,
    any: Option<usize>,
}

/// `VirtualHost`, with its routes indexed.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    /// For logs and dumps.
    pub name: Arc<str>,
    /// As configured: `a.b`, `*.b`, `a.*`, `*`.
    pub domains: Vec<String>,
    /// Changes to every request.
    pub request_headers: HeaderOps,
    /// Changes to every response.
    pub response_headers: HeaderOps,
    /// Filter settings of the host.
    pub per_route: PerRoute,
    /// For routes that have none of their own.
    pub retry: Option<Arc<RetryPolicy>>,
    /// `include_request_attempt_count`: `x-envoy-attempt-count` to the upstream.
    pub request_attempt_count: bool,
    /// `include_attempt_count_in_response`.
    pub response_attempt_count: bool,
    /// `require_tls`: plain-text requests are redirected to https (all of them).
    pub require_tls: bool,
    routes: Vec<Arc<Route>>,
    index: Option<PathIndex>,
}

/// Why a table was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    /// Two virtual hosts claim one domain.
    #[error(
        "virtual_hosts[{second}] ({name:?}) repeats domain {domain:?} of virtual_hosts[{first}]; a domain may belong to one virtual host only"
    )]
    DuplicateDomain {
        /// The domain.
        domain: String,
        /// Index of the first owner.
        first: usize,
        /// Index of the second owner.
        second: usize,
        /// Name of the second owner.
        name: String,
    },
    /// A wildcard is not at the start or the end.
    #[error("virtual_hosts[{host}].domains: {domain:?} is not a valid domain; use a name, *suffix, prefix* or *")]
    BadDomain {
        /// The domain.
        domain: String,
        /// Index of its virtual host.
        host: usize,
    },
}

/// Strings of one kind (all prefixes or all suffixes) by length, longest first.
#[derive(Clone, Debug)]
struct ByLength<T> {
    levels: Vec<(usize, FxHashMap<Box<str>, T>)>,
}

#[derive(Clone, Debug)]
struct PathIndex {
    exact: FxHashMap<Box<str>, Vec<u32>>,
    prefix: ByLength<Vec<u32>>,
    /// Routes that have to be tried always, in order.
    rest: Vec<u32>,
}

// === impl RouteTable ===

impl RouteTable {
    /// Indexes `hosts`. Errs on a domain that appears twice or is malformed, as Envoy does.
    pub fn new<H: Into<Arc<VirtualHost>>>(name: &str, hosts: Vec<H>) -> Result<Self, TableError> {
        let hosts: Vec<Arc<VirtualHost>> = hosts.into_iter().map(Into::into).collect();
        let mut exact = FxHashMap::default();
        let (mut suffix, mut prefix) = (ByLength::default(), ByLength::default());
        let mut any = None;
        for (index, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                let lower = domain.to_ascii_lowercase();
                let inner = lower.trim_matches('*');
                let stars = lower.len() - inner.len();
                let earlier = if lower == "*" {
                    any.replace(index)
                } else if stars == 0 && !lower.is_empty() {
                    exact.insert(lower.as_str().into(), index)
                } else if stars == 1 && lower.starts_with('*') {
                    suffix.insert(inner, index)
                } else if stars == 1 {
                    prefix.insert(inner, index)
                } else {
                    return Err(TableError::BadDomain { domain: domain.clone(), host: index });
                };
                if inner.contains('*') {
                    return Err(TableError::BadDomain { domain: domain.clone(), host: index });
                }
                if let Some(first) = earlier {
                    return Err(TableError::DuplicateDomain {
                        domain: domain.clone(),
                        first,
                        second: index,
                        name: host.name.to_string(),
                    });
                }
            }
        }
        Ok(Self {
            name: name.into(),
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            per_route: PerRoute::default(),
            most_specific_wins: false,
            ignore_port: false,
            hosts,
            exact,
            suffix,
            prefix,
            any,
        })
    }

    /// All virtual hosts, in the configured order.
    pub fn hosts(&self) -> &[Arc<VirtualHost>] {
        &self.hosts
    }

    /// The virtual host for an authority.
    pub fn host(&self, authority: &str) -> Option<&VirtualHost> {
        let authority = if self.ignore_port { without_port(authority) } else { authority };
        let index = if authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.host_index(&authority.to_ascii_lowercase())
        } else {
            self.host_index(authority)
        };
        index.and_then(|index| self.hosts.get(index)).map(Arc::as_ref)
    }

    fn host_index(&self, authority: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(authority) {
            return Some(*index);
        }
        // A wildcard stands for at least one character.
        let tails = self.suffix.levels.iter().filter(|(length, _)| *length < authority.len());
        for (length, level) in tails {
            let at = authority.len() - length;
            if let Some(index) = authority.get(at..).and_then(|tail| level.get(tail)) {
                return Some(*index);
            }
        }
        let heads = self.prefix.levels.iter().filter(|(length, _)| *length < authority.len());
        for (length, level) in heads {
            if let Some(index) = authority.get(..*length).and_then(|head| level.get(head)) {
                return Some(*index);
            }
        }
        self.any
    }

    /// The virtual host and route for a request. `random` decides routes with a share.
    pub fn find(&self, request: &RequestView<'_>, random: u64) -> Option<(&VirtualHost, &Arc<Route>)> {
        let host = self.host(request.authority)?;
        host.find(request, random).map(|route| (host, route))
    }
}

/// `host:port` and `[v6]:port` without the port.
fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon)
            if authority[colon + 1..].bytes().all(|byte| byte.is_ascii_digit())
                && !authority[colon..].contains(']')
                && (authority.starts_with('[') || authority.find(':') == Some(colon)) =>
        {
            &authority[..colon]
        }
        _ => authority,
    }
}

// === impl VirtualHost ===

impl VirtualHost {
    /// A virtual host without settings of its own.
    pub fn new(name: &str, domains: impl IntoIterator<Item = impl Into<String>>, routes: Vec<Route>) -> Self {
        let routes: Vec<Arc<Route>> = routes.into_iter().map(Arc::new).collect();
        let index = (routes.len() > SCAN_LIMIT).then(|| PathIndex::new(&routes));
        Self {
            name: name.into(),
            domains: domains.into_iter().map(Into::into).collect(),
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
            per_route: PerRoute::default(),
            retry: None,
            request_attempt_count: false,
            response_attempt_count: false,
            require_tls: false,
            routes,
            index,
        }
    }

    /// The routes in the configured order.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The first route that matches.
    pub fn find(&self, request: &RequestView<'_>, random: u64) -> Option<&Arc<Route>> {
        let Some(index) = &self.index else {
            return self.routes.iter().find(|route| route.matcher.matches(request, random));
        };
        index
            .candidates(path_of(request.path_and_query))
            .filter_map(|at| self.routes.get(at as usize))
            .find(|route| route.matcher.matches(request, random))
    }
}

// === impl PathIndex ===

impl PathIndex {
    fn new(routes: &[Arc<Route>]) -> Self {
        let mut index = Self { exact: FxHashMap::default(), prefix: ByLength::default(), rest: Vec::new() };
        for (at, route) in routes.iter().enumerate() {
            let at = at as u32;
            match &route.matcher.path {
                PathMatcher::Exact(path) if route.matcher.case_sensitive => {
                    index.exact.entry(path.clone()).or_default().push(at);
                }
                PathMatcher::Prefix(prefix) | PathMatcher::SeparatedPrefix(prefix)
                    if route.matcher.case_sensitive && !prefix.is_empty() =>
                {
                    index.prefix.entry(prefix).push(at);
                }
                _ => index.rest.push(at),
            }
        }
        index
    }

    /// Routes that may match `path`, in list order.
    fn candidates<'a>(&'a self, path: &str) -> impl Iterator<Item = u32> + 'a {
        let mut lists: Vec<&'a [u32]> = Vec::with_capacity(4);
        lists.extend(self.exact.get(path).map(Vec::as_slice));
        for (length, level) in &self.prefix.levels {
            lists.extend(path.get(..*length).and_then(|head| level.get(head)).map(Vec::as_slice));
        }
        if !self.rest.is_empty() {
            lists.push(&self.rest);
        }
        std::iter::from_fn(move || {
            let list = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
            let (first, tail) = list.split_first()?;
            *list = tail;
            Some(*first)
        })
    }
}

// === impl ByLength ===

impl<T> Default for ByLength<T> {
    fn default() -> Self {
        Self { levels: Vec::new() }
    }
}

impl<T> ByLength<T> {
    fn level(&mut self, length: usize) -> &mut FxHashMap<Box<str>, T> {
        let at = match self.levels.binary_search_by(|(other, _)| length.cmp(other)) {
            Ok(at) => at,
            Err(at) => {
                self.levels.insert(at, (length, FxHashMap::default()));
                at
            }
        };
        &mut self.levels[at].1
    }

    fn insert(&mut self, key: &str, value: T) -> Option<T> {
        self.level(key.len()).insert(key.into(), value)
    }
}

impl<T: Default> ByLength<T> {
    fn entry(&mut self, key: &str) -> &mut T {
        self.level(key.len()).entry(key.into()).or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::model::{Forward, RouteMatch, compile_full_match};
    use http::HeaderMap;
    use proptest::prelude::*;

    fn route(name: &str, matcher: RouteMatch) -> Route {
        let mut route = Route::new(matcher, Forward::to(name).into());
        route.name = name.into();
        route
    }

    fn host(domain: &str) -> VirtualHost {
        VirtualHost::new(domain, [domain], vec![route(domain, RouteMatch::prefix("/"))])
    }

    fn found(table: &RouteTable, authority: &str) -> Option<String> {
        table.host(authority).map(|host| host.name.to_string())
    }

    #[test]
    fn hosts_are_searched_exact_then_longest_suffix_then_longest_prefix_then_any() {
        let names = ["a.b.c", "*.b.c", "*.c", "a.*", "a.b.*", "*"];
        let mut table = RouteTable::new("t", names.map(host).into()).unwrap();
        for (authority, wanted) in [
            ("a.b.c", "a.b.c"),
            ("A.B.c", "a.b.c"),
            ("x.b.c", "*.b.c"),
            ("x.y.c", "*.c"),
            ("a.b.x", "a.b.*"),
            ("a.x", "a.*"),
            ("other", "*"),
            ("a.b.c:80", "a.b.*"),
            (".b.c", "*.c"),
        ] {
            assert_eq!(found(&table, authority).as_deref(), Some(wanted), "{authority}");
        }
        table.ignore_port = true;
        assert_eq!(found(&table, "a.b.c:80").as_deref(), Some("a.b.c"));
    }

    #[test]
    fn ports_are_cut_from_names_and_bracketed_addresses_only() {
        assert_eq!(without_port("a:80"), "a");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("::1"), "::1");
        assert_eq!(without_port("a"), "a");
    }

    #[test]
    fn a_domain_of_two_hosts_and_a_malformed_one_are_refused() {
        let error = RouteTable::new("t", vec![host("a"), host("A")]).unwrap_err();
        assert!(error.to_string().contains("virtual_hosts[1]"), "{error}");
        assert!(matches!(RouteTable::new("t", vec![host("a*b")]), Err(TableError::BadDomain { .. })));
        assert!(matches!(RouteTable::new("t", vec![host("**")]), Err(TableError::BadDomain { .. })));
    }

    fn any_match() -> impl Strategy<Value = RouteMatch> {
        let path = "(/|/a|/a/|/b|/a/b|/a/b/c|/ab)";
        prop_oneof![
            path.prop_map(|path| RouteMatch::prefix(&path)),
            path.prop_map(|path| RouteMatch::exact(&path)),
            path.prop_map(|path| RouteMatch::path(PathMatcher::SeparatedPrefix(path.into()))),
            path.prop_map(|path| RouteMatch::path(PathMatcher::Regex(compile_full_match(&path).unwrap()))),
            path.prop_map(|path| RouteMatch { case_sensitive: false, ..RouteMatch::prefix(&path.to_uppercase()) }),
        ]
    }

    proptest! {
        #[test]
        fn the_index_finds_the_same_route_as_a_scan(
            matches in prop::collection::vec(any_match(), SCAN_LIMIT + 1..40),
            path in "(/|/a|/A|/a/|/b|/a/b|/a/b/c|/a/b/c/d|/ab|/abc|)(|\\?x=/a)",
        ) {
            let routes = matches.into_iter().enumerate().map(|(at, matcher)| route(&at.to_string(), matcher)).collect();
            let host = VirtualHost::new("h", ["*"], routes);
            let headers = HeaderMap::new();
            let request =
                RequestView { method: "GET", path_and_query: &path, authority: "h", scheme: "http", headers: &headers };
            let scan = host.routes().iter().find(|route| route.matcher.matches(&request, 0));
            prop_assert!(host.index.is_some());
            prop_assert_eq!(host.find(&request, 0).map(|route| &route.name), scan.map(|route| &route.name));
        }
    }
}
