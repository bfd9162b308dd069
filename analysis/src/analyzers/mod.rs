//! The analyzers: one file per group, each a pure function from the view to findings.

mod annotation_table;
mod annotations;
mod destination_rule;
mod envoy_filter;
mod gateway;
mod injection;
mod policy;
mod registries;
mod routes;
pub(crate) mod schema;
mod service;
mod service_entry;
mod shadow;
mod sidecar;
mod virtual_service;

use crate::finding::Report;
use crate::view::View;

/// A group of analyses.
type Analyzer = fn(&View<'_>, &mut Report<'_>);

/// All of them.
pub(crate) const ALL: [Analyzer; 13] = [
    annotations::analyze,
    destination_rule::analyze,
    envoy_filter::analyze,
    gateway::analyze,
    injection::analyze,
    policy::analyze,
    registries::analyze,
    routes::analyze,
    schema::analyze,
    service::analyze,
    service_entry::analyze,
    sidecar::analyze,
    virtual_service::analyze,
];

/// Names in a sentence: `a`, `b` and `c`.
fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// Labels as a selector is written: `a=b,c=d`.
fn labels(labels: &xebec_galley::spec::LabelMap) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
