//! From the generated types to our own, once per object. Every field is looked at: what is not honoured is refused or named.

mod filters;
mod grpc;
mod http;
mod listeners;
mod opaque;
mod other;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use xebec_galley::Severity;
use xebec_galley::spec::{Destination, HttpRoute, HttpRouteDestination, VirtualService};
use xebec_galley::validate::{Findings, is_dns_name, is_label};

use crate::model::{Identity, Match, PathChange, PathMatch, Rule};
use crate::object::{Error, ObjectKey, ObjectKind};
use crate::rule::{Scheme, answering, expand, forwarded};
use crate::status::reason;

pub use grpc::grpc_route;
pub use http::http_route;
pub use listeners::{gateway, listener_set};
pub use opaque::{tcp_route, tls_route};
pub use other::{gateway_class, ingress, ingress_class, reference_grant, tls_policy};

/// References of one shape, whatever their generated type.
macro_rules! parent_refs {
    ($refs:expr) => {
        $refs
            .into_iter()
            .flatten()
            .map(|r| crate::model::ParentRef {
                group: r.group,
                kind: r.kind,
                namespace: r.namespace,
                name: r.name,
                section: r.section_name,
                port: r.port,
            })
            .collect()
    };
}

/// A reference to a backend, without filters.
macro_rules! backend_ref {
    ($r:expr, $weight:expr) => {
        crate::model::BackendRef {
            group: $r.group,
            kind: $r.kind,
            namespace: $r.namespace,
            name: $r.name,
            port: $r.port,
            weight: $weight,
            headers: None,
        }
    };
}

pub(crate) use {backend_ref, parent_refs};

/// Who an object is.
///
/// # Errors
///
/// [`Error::Nameless`] when it has no usable name or namespace, which a server never lets happen.
pub fn identity(kind: ObjectKind, metadata: &ObjectMeta) -> Result<Identity, Error> {
    let name = metadata.name.clone().unwrap_or_default();
    let namespace = match (&metadata.namespace, kind.is_namespaced()) {
        (_, false) => String::new(),
        (Some(namespace), true) if !namespace.is_empty() => namespace.clone(),
        (_, true) => "default".to_owned(),
    };
    let is_name =
        is_dns_name(&name) && !name.ends_with('.') && name.bytes().all(|b| !b.is_ascii_uppercase() && b != b'_');
    if !is_name || (kind.is_namespaced() && !is_label(&namespace)) {
        return Err(Error::Nameless { kind, namespace, name });
    }
    let created = metadata.creation_timestamp.as_ref().map_or(0, |time| u64::try_from(time.0.as_second()).unwrap_or(0));
    Ok(Identity { key: ObjectKey { kind, namespace, name }, created, generation: metadata.generation })
}

/// Hostnames in lower case.
fn hostnames(list: Option<Vec<String>>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in list.into_iter().flatten() {
        let name = name.to_ascii_lowercase();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// A path prefix by whole elements, or what is wrong with it.
fn prefix(value: &str) -> Result<PathMatch, String> {
    if value.starts_with('/') {
        Ok(PathMatch::Prefix(value.trim_end_matches('/').to_owned()))
    } else {
        Err(format!("the path `{value}` does not begin with a slash"))
    }
}

fn exact(value: &str) -> Result<PathMatch, String> {
    if value.starts_with('/') {
        Ok(PathMatch::Exact(value.to_owned()))
    } else {
        Err(format!("the path `{value}` does not begin with a slash"))
    }
}

fn every_request() -> Match {
    Match {
        path: PathMatch::Prefix(String::new()),
        method: None,
        headers: Default::default(),
        query: Default::default(),
    }
}

/// Asks galley whether the rule makes a sound route, so that one bad value never makes its whole VirtualService unsound.
fn check(rule: &mut Rule) {
    if matches!(rule.path, PathChange::Prefix(_))
        && !rule.matches.iter().all(|on| matches!(on.path, PathMatch::Prefix(_)))
    {
        let message = "`ReplacePrefixMatch` needs matches by `PathPrefix`".to_owned();
        filters::fault(rule, reason::UNSUPPORTED_VALUE, message);
    }
    let somewhere = Destination { host: "backend.example.com".to_owned(), ..Default::default() };
    let to = HttpRouteDestination { destination: somewhere, weight: 1, headers: None };
    let mut route = forwarded(rule, vec![to.clone()]);
    if !route.route.is_empty() {
        let own_headers = rule.backends.iter().filter(|backend| backend.headers.is_some());
        route
            .route
            .extend(own_headers.map(|backend| HttpRouteDestination { headers: backend.headers.clone(), ..to.clone() }));
    }
    let made: Vec<HttpRoute> =
        rule.matches.iter().flat_map(|on| expand(&route, rule, on, Scheme::Http, None)).collect();
    let problem = if made.is_empty() { None } else { problem_of(made) };
    if let Some(message) = problem {
        filters::fault(rule, reason::UNSUPPORTED_VALUE, message);
        // The rule goes on with an error for an answer, as far as it can be told whose requests are its own.
        let matches = std::mem::take(&mut rule.matches);
        let sound = |on: &Match| problem_of(expand(&answering(500), rule, on, Scheme::Http, None)).is_none();
        rule.matches = matches.into_iter().filter(sound).collect();
    }
}

/// The first error in routes.
fn problem_of(http: Vec<HttpRoute>) -> Option<String> {
    let service = VirtualService {
        hosts: vec!["example.com".to_owned()],
        gateways: vec!["gateway".to_owned()],
        http,
        ..Default::default()
    };
    let findings = Findings::of(&service);
    findings.0.into_iter().find(|finding| finding.severity == Severity::Error).map(|finding| finding.message)
}
