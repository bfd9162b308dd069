//! From a rule to Istio's HTTP routes: path elements, changes of the path, redirects; and which route comes first.

use std::cmp::Reverse;

use xebec_galley::spec::{
    DerivePort, FaultAbort, HttpDirectResponse, HttpFaultInjection, HttpMatchRequest, HttpRedirect, HttpRewrite,
    HttpRoute, HttpRouteDestination, Percent, RegexRewrite, StringMatch,
};

use crate::model::{Match, PathChange, PathMatch, Redirect, Rule};

/// How clients speak to the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// The Gateway API's order of matches: the first is tried first. What remains equal is ordered by age and place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    kind: u8,
    length: Reverse<usize>,
    any_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
}

/// A route that forwards to `to`; to nowhere where it redirects.
pub fn forwarded(rule: &Rule, to: Vec<HttpRouteDestination>) -> HttpRoute {
    let mut route = rule.base.clone();
    if rule.redirect.is_none() {
        route.route = to;
    } else {
        route.retries = None;
        route.timeout = None;
    }
    route
}

/// A route that answers by itself.
pub fn answering(status: u32) -> HttpRoute {
    HttpRoute { direct_response: Some(HttpDirectResponse { status, body: None }), ..Default::default() }
}

/// Answers this share of requests with an error.
pub fn failing(percent: f64, grpc: bool) -> HttpFaultInjection {
    HttpFaultInjection {
        delay: None,
        abort: Some(FaultAbort {
            http_status: (!grpc).then_some(500),
            grpc_status: grpc.then(|| "UNAVAILABLE".to_owned()),
            http2_error: None,
            percentage: Some(Percent { value: percent }),
        }),
    }
}

/// The routes for one match: `route` with conditions, and with what the rule does to the path. Two where the path needs it.
///
/// `port` limits them to one port of the destination that the client dialled.
pub fn expand(route: &HttpRoute, rule: &Rule, on: &Match, scheme: Scheme, port: Option<u16>) -> Vec<HttpRoute> {
    let condition = |uri: StringMatch| HttpMatchRequest {
        uri: Some(uri),
        method: on.method.clone().map(StringMatch::Exact),
        headers: on.headers.clone(),
        query_params: on.query.clone(),
        port,
        ..Default::default()
    };
    let ends_here = route.direct_response.is_some();
    let with = |conditions: Vec<HttpMatchRequest>, new_path: Option<NewPath>| {
        let mut made = HttpRoute { matches: conditions, ..route.clone() };
        if ends_here {
            return made;
        }
        match &rule.redirect {
            Some(to) => made.redirect = Some(redirect(to, new_path, scheme)),
            None => rewrite(&mut made, new_path),
        }
        made
    };
    match (&on.path, &rule.path) {
        (PathMatch::Prefix(prefix), change) if !prefix.is_empty() => {
            let whole = condition(StringMatch::Exact(prefix.clone()));
            let below = condition(StringMatch::Prefix(format!("{prefix}/")));
            match change {
                PathChange::Prefix(to) if !ends_here => {
                    let itself = if to.is_empty() { "/".to_owned() } else { to.clone() };
                    vec![
                        with(vec![whole], Some(NewPath::Matched(itself))),
                        with(vec![below], Some(NewPath::Matched(format!("{to}/")))),
                    ]
                }
                PathChange::Full(to) => vec![with(vec![whole, below], Some(NewPath::Whole(to.clone())))],
                PathChange::Keep | PathChange::Prefix(_) => vec![with(vec![whole, below], None)],
            }
        }
        (path, change) => {
            let uri = match path {
                PathMatch::Exact(path) => StringMatch::Exact(path.clone()),
                PathMatch::Prefix(_) => StringMatch::Prefix("/".to_owned()),
                PathMatch::Regex(pattern) => StringMatch::Regex(pattern.clone()),
            };
            let new_path = match change {
                PathChange::Keep => None,
                PathChange::Full(to) => Some(NewPath::Whole(to.clone())),
                PathChange::Prefix(to) => Some(NewPath::Matched(format!("{to}/"))),
            };
            vec![with(vec![condition(uri)], new_path)]
        }
    }
}

/// What takes the place of a path.
enum NewPath {
    /// Of all of it.
    Whole(String),
    /// Of the part that matched.
    Matched(String),
}

fn rewrite(route: &mut HttpRoute, to: Option<NewPath>) {
    let Some(to) = to else { return };
    let rewrite = route.rewrite.get_or_insert_with(HttpRewrite::default);
    match to {
        NewPath::Matched(to) => rewrite.uri = to,
        // Envoy replaces what was matched; only an expression reaches the rest.
        NewPath::Whole(to) => {
            rewrite.uri_regex_rewrite =
                Some(RegexRewrite { pattern: "^/.*$".to_owned(), rewrite: to.replace('\\', "\\\\") });
        }
    }
}

fn redirect(to: &Redirect, new_path: Option<NewPath>, scheme: Scheme) -> HttpRedirect {
    let final_scheme = to.scheme.unwrap_or(match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    });
    // The scheme says these already, and `Location` must not repeat them.
    let implied = matches!((final_scheme, to.port), ("http", Some(80)) | ("https", Some(443)));
    let (uri, prefix_rewrite) = match new_path {
        None => (String::new(), String::new()),
        Some(NewPath::Whole(path)) => (path, String::new()),
        Some(NewPath::Matched(path)) => (String::new(), path),
    };
    HttpRedirect {
        uri,
        prefix_rewrite,
        authority: to.hostname.clone().unwrap_or_default(),
        port: to.port.filter(|_| !implied),
        // Without a new scheme and port, the port is the listener's.
        derive_port: (to.port.is_none() && to.scheme.is_none()).then_some(DerivePort::FromRequestPort),
        scheme: to.scheme.unwrap_or_default().to_owned(),
        redirect_code: Some(to.code),
    }
}

// === impl Rank ===

impl Rank {
    /// Where a match stands: exact paths, prefixes by length, expressions by length, then every path.
    pub fn of(on: &Match) -> Self {
        let (kind, length) = match &on.path {
            PathMatch::Exact(path) => (0, path.len()),
            PathMatch::Prefix(prefix) if !prefix.is_empty() => (1, prefix.len()),
            PathMatch::Regex(pattern) => (2, pattern.len()),
            PathMatch::Prefix(_) => (3, 0),
        };
        Self {
            kind,
            length: Reverse(length),
            any_method: on.method.is_none(),
            headers: Reverse(on.headers.len()),
            query: Reverse(on.query.len()),
        }
    }
}
