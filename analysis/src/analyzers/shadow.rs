//! Whether one condition takes everything that another one would: the arithmetic behind rules that are never reached.
//!
//! - NEVER: a condition is said to cover another when it might not; what cannot be compared is taken as different.

use std::collections::BTreeMap;

use xebec_galley::spec::{HttpMatchRequest, L4MatchAttributes, LabelMap, StringMatch, TlsMatchAttributes};
use xebec_pilot::mesh::names;

/// Whether every request that fulfils `later` fulfils `earlier` too. `gateways` is where a condition without gateways of its own applies.
pub(super) fn http(earlier: &HttpMatchRequest, later: &HttpMatchRequest, gateways: &[String]) -> bool {
    let paths = || match (&earlier.uri, &later.uri) {
        (Some(a), Some(b)) if earlier.ignore_uri_case => text(&lowered(a), &lowered(b)),
        (Some(a), Some(b)) if !later.ignore_uri_case => text(a, b),
        _ => false,
    };
    (is_every_path(earlier.uri.as_ref()) || paths())
        && optional(earlier.scheme.as_ref(), later.scheme.as_ref())
        && optional(earlier.method.as_ref(), later.method.as_ref())
        && optional(earlier.authority.as_ref(), later.authority.as_ref())
        && texts(&earlier.headers, &later.headers)
        && texts(&earlier.query_params, &later.query_params)
        && earlier.without_headers.iter().all(|(name, value)| later.without_headers.get(name) == Some(value))
        && where_from(
            (earlier.port, &earlier.source_labels, &earlier.source_namespace, &earlier.gateways),
            (later.port, &later.source_labels, &later.source_namespace, &later.gateways),
            gateways,
        )
}

/// The same of TLS.
pub(super) fn tls(earlier: &TlsMatchAttributes, later: &TlsMatchAttributes, gateways: &[String]) -> bool {
    let covered = |name: &String| earlier.sni_hosts.iter().any(|pattern| names::matches(pattern, name));
    later.sni_hosts.iter().all(covered)
        && subnets(&earlier.destination_subnets, &later.destination_subnets)
        && where_from(
            (earlier.port, &earlier.source_labels, &earlier.source_namespace, &earlier.gateways),
            (later.port, &later.source_labels, &later.source_namespace, &later.gateways),
            gateways,
        )
}

/// The same of connections.
pub(super) fn tcp(earlier: &L4MatchAttributes, later: &L4MatchAttributes, gateways: &[String]) -> bool {
    subnets(&earlier.destination_subnets, &later.destination_subnets)
        && where_from(
            (earlier.port, &earlier.source_labels, &earlier.source_namespace, &earlier.gateways),
            (later.port, &later.source_labels, &later.source_namespace, &later.gateways),
            gateways,
        )
}

type From<'a> = (Option<u16>, &'a LabelMap, &'a str, &'a [String]);

fn where_from(earlier: From<'_>, later: From<'_>, gateways: &[String]) -> bool {
    let effective = |own: &[String]| if own.is_empty() { gateways.to_vec() } else { own.to_vec() };
    let (earliers, laters) = (effective(earlier.3), effective(later.3));
    (earlier.0.is_none() || earlier.0 == later.0)
        && earlier.1.iter().all(|(key, value)| later.1.get(key) == Some(value))
        && (earlier.2.is_empty() || earlier.2 == later.2)
        && laters.iter().all(|gateway| earliers.contains(gateway))
}

fn subnets(earlier: &[String], later: &[String]) -> bool {
    earlier.is_empty() || (!later.is_empty() && later.iter().all(|subnet| earlier.contains(subnet)))
}

fn texts(earlier: &BTreeMap<String, StringMatch>, later: &BTreeMap<String, StringMatch>) -> bool {
    earlier.iter().all(|(name, a)| later.get(name).is_some_and(|b| text(a, b)))
}

fn optional(earlier: Option<&StringMatch>, later: Option<&StringMatch>) -> bool {
    match (earlier, later) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => text(a, b),
    }
}

fn text(earlier: &StringMatch, later: &StringMatch) -> bool {
    match (earlier, later) {
        (StringMatch::Present, _) => true,
        (StringMatch::Prefix(a), StringMatch::Exact(b) | StringMatch::Prefix(b)) => b.starts_with(a.as_str()),
        (a, b) => a == b,
    }
}

/// A path begins with a slash, whatever it is.
fn is_every_path(uri: Option<&StringMatch>) -> bool {
    match uri {
        None | Some(StringMatch::Present) => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/" || prefix.is_empty(),
        Some(StringMatch::Regex(pattern)) => pattern == ".*",
        Some(StringMatch::Exact(_)) => false,
    }
}

fn lowered(value: &StringMatch) -> StringMatch {
    match value {
        StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
        StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
        // The case of an expression is not a matter of `ignoreUriCase`.
        other => other.clone(),
    }
}
