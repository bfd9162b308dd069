//! EnvoyFilters: operations that do nothing where they are applied, and those that depend on the order of others.

use crate::codes;
use crate::finding::{Report, way};
use crate::object::{Body, Patch};
use crate::view::View;

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for object in &view.input.objects {
        let Body::EnvoyFilter(filter) = &object.body else { continue };
        for (at, patch) in filter.patches.iter().enumerate() {
            let path = way!["spec", "configPatches", at, "patch", "operation"];
            let Patch { apply_to, operation, versioned } = patch;
            let whole = matches!(apply_to.as_str(), "ROUTE_CONFIGURATION" | "HTTP_ROUTE");
            let code = match operation.as_str() {
                "REPLACE" if !matches!(apply_to.as_str(), "HTTP_FILTER" | "NETWORK_FILTER") => &codes::REPLACED_WRONGLY,
                "ADD" if whole => &codes::ADDED_WRONGLY,
                "REMOVE" if whole => &codes::REMOVED_WRONGLY,
                "INSERT_BEFORE" | "INSERT_AFTER" | "REPLACE" | "MERGE" | "REMOVE" if filter.priority.is_none() => {
                    let code = if *versioned { &codes::RELATIVE_VERSIONED_FILTER } else { &codes::RELATIVE_FILTER };
                    report.add(code, object, &path, &[operation]);
                    continue;
                }
                _ => continue,
            };
            report.add(code, object, &path, &[apply_to]);
        }
    }
}
