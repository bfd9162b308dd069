//! Filters of HTTPRoute and GRPCRoute, of rules and of backends: four families of generated types with the same content.

use std::collections::BTreeMap;

use xebec_galley::spec::{CorsPolicy, Duration, HeaderOperations, HttpRewrite, StringMatch};

use crate::model::{BackendRef, Mirror, PathChange, Redirect, Rule, RuleFault, headers};
use crate::status::reason;

/// A filter in our own terms.
pub enum Filter {
    RequestHeaders(HeaderOperations),
    ResponseHeaders(HeaderOperations),
    Mirror(Mirror),
    Redirect {
        redirect: Redirect,
        path: PathChange,
    },
    Rewrite {
        hostname: Option<String>,
        path: PathChange,
    },
    Cors(CorsPolicy),
    /// It refers to an object of a kind that is not known.
    Extension(String),
    /// It is known and not done.
    NotDone(&'static str),
    /// It has no content, or content of another type.
    Hollow,
}

/// Reads what `RequestHeaderModifier` and `ResponseHeaderModifier` have in common.
macro_rules! header_operations {
    ($from:expr) => {{
        let from = $from;
        crate::read::filters::operations(
            from.set.into_iter().flatten().map(|h| (h.name, h.value)),
            from.add.into_iter().flatten().map(|h| (h.name, h.value)),
            from.remove.unwrap_or_default(),
        )
    }};
}

macro_rules! mirror {
    ($from:expr) => {{
        let from = $from;
        let percent = match (from.percent, from.fraction) {
            (Some(percent), _) => Some(f64::from(percent)),
            (None, Some(fraction)) => {
                let denominator = fraction.denominator.unwrap_or(100).max(1);
                Some(f64::from(fraction.numerator) * 100.0 / f64::from(denominator))
            }
            (None, None) => None,
        };
        crate::read::filters::Filter::Mirror(crate::model::Mirror {
            to: crate::read::backend_ref!(from.backend_ref, None),
            percent: percent.map(|percent| percent.clamp(0.0, 100.0)),
        })
    }};
}

pub(crate) use {header_operations, mirror};

/// `%` begins a variable in Envoy and has no meaning in the Gateway API.
fn literal(value: String) -> String {
    if value.contains('%') { value.replace('%', "%%") } else { value }
}

/// Of headers with one name, however capitalised, the first counts.
pub fn operations(
    set: impl Iterator<Item = (String, String)>,
    add: impl Iterator<Item = (String, String)>,
    remove: Vec<String>,
) -> HeaderOperations {
    let map = |list: &mut dyn Iterator<Item = (String, String)>| {
        let mut map = BTreeMap::new();
        for (name, value) in list {
            map.entry(name.to_ascii_lowercase()).or_insert_with(|| literal(value));
        }
        map
    };
    let (mut set, mut add) = (set, add);
    HeaderOperations { set: map(&mut set), add: map(&mut add), remove }
}

/// A CORS filter. Origins may have a wildcard, after the scheme or alone.
pub fn cors(
    origins: Option<Vec<String>>,
    methods: Option<Vec<String>>,
    allow_headers: Option<Vec<String>>,
    expose_headers: Option<Vec<String>>,
    credentials: Option<bool>,
    max_age: Option<i32>,
) -> CorsPolicy {
    let origin = |origin: String| {
        if origin == "*" {
            StringMatch::Regex(".*".to_owned())
        } else if origin.contains('*') {
            let parts: Vec<String> = origin.split('*').map(escaped).collect();
            StringMatch::Regex(parts.join("[^/]+"))
        } else {
            StringMatch::Exact(origin)
        }
    };
    CorsPolicy {
        allow_origins: origins.into_iter().flatten().map(origin).collect(),
        allow_methods: methods.unwrap_or_default(),
        allow_headers: allow_headers.unwrap_or_default(),
        expose_headers: expose_headers.unwrap_or_default(),
        max_age: Some(Duration::from_secs(u64::try_from(max_age.unwrap_or(5)).unwrap_or(0))),
        allow_credentials: credentials,
        ..Default::default()
    }
}

/// A text as an expression that matches it alone.
pub fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 4);
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && c.is_ascii() && !matches!(c, '/' | '-' | '_' | ':') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// Puts the filters of a rule into it. Header operations of one kind may come once, as the API says.
pub fn of_rule(rule: &mut Rule, filters: impl Iterator<Item = Filter>) {
    let (mut request, mut response) = (None, None);
    let (mut rewritten, mut redirected, mut crossed) = (false, false, false);
    for filter in filters {
        let twice = match filter {
            Filter::RequestHeaders(operations) => request.replace(operations).is_some(),
            Filter::ResponseHeaders(operations) => response.replace(operations).is_some(),
            Filter::Mirror(mirror) => {
                rule.mirrors.push(mirror);
                false
            }
            Filter::Redirect { redirect, path } => {
                rule.redirect = Some(redirect);
                rule.path = path;
                std::mem::replace(&mut redirected, true)
            }
            Filter::Rewrite { hostname, path } => {
                if let Some(hostname) = hostname {
                    rule.base.rewrite = Some(HttpRewrite { authority: hostname, ..Default::default() });
                }
                rule.path = path;
                std::mem::replace(&mut rewritten, true)
            }
            Filter::Cors(policy) => {
                rule.base.cors_policy = Some(policy);
                std::mem::replace(&mut crossed, true)
            }
            Filter::Extension(kind) => {
                rule.unknown_filter = Some(kind);
                false
            }
            Filter::NotDone(name) => {
                fault(rule, reason::UNSUPPORTED_VALUE, format!("the filter {name} is not supported"));
                false
            }
            Filter::Hollow => {
                fault(rule, reason::UNSUPPORTED_VALUE, "a filter lacks the part that its type names".to_owned());
                false
            }
        };
        if twice {
            fault(rule, reason::INCOMPATIBLE_FILTERS, "a filter of one type is given twice".to_owned());
        }
    }
    if rewritten && redirected {
        let message = "a redirect does not forward requests, so there is nothing to rewrite".to_owned();
        fault(rule, reason::INCOMPATIBLE_FILTERS, message);
    }
    rule.base.headers = headers(request.unwrap_or_default(), response.unwrap_or_default());
}

/// Puts the filters of a backend into it, and into the rule what is wrong with them.
pub fn of_backend(rule: &mut Rule, backend: &mut BackendRef, filters: impl Iterator<Item = Filter>) {
    let (mut request, mut response) = (HeaderOperations::default(), HeaderOperations::default());
    for filter in filters {
        match filter {
            Filter::RequestHeaders(operations) => {
                // A host that a rewrite set stays.
                let host = request.set.remove("host");
                request = operations;
                request.set.extend(host.map(|host| ("host".to_owned(), host)));
            }
            Filter::ResponseHeaders(operations) => response = operations,
            Filter::Rewrite { hostname: Some(hostname), path: PathChange::Keep } => {
                request.set.insert("host".to_owned(), hostname);
            }
            Filter::Extension(kind) => rule.unknown_filter = Some(kind),
            Filter::NotDone(name) => {
                fault(rule, reason::UNSUPPORTED_VALUE, format!("the filter {name} of a backend is not supported"));
            }
            Filter::Mirror(_) | Filter::Redirect { .. } | Filter::Rewrite { .. } | Filter::Cors(_) | Filter::Hollow => {
                let message = "backends can have header filters and a rewrite of the hostname only".to_owned();
                fault(rule, reason::UNSUPPORTED_VALUE, message);
            }
        }
    }
    backend.headers = headers(request, response);
}

/// The first thing that is wrong with a rule is told.
pub fn fault(rule: &mut Rule, reason: &'static str, message: String) {
    rule.fault.get_or_insert(RuleFault { reason, message });
}
