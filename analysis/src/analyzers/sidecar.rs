//! Sidecars that select the same workloads, or none.

use xebec_galley::Resource;
use xebec_galley::spec::{LabelMap, Sidecar};

use super::policy::{Selecting, check_overlaps};
use crate::codes;
use crate::finding::{About, Report, way};
use crate::view::View;

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    let mut all: Vec<Selecting<'_>> = Vec::new();
    for resource in &view.sidecars {
        let namespace = &*resource.meta.key.namespace;
        let selector = selector(resource);
        if let Some(selector) = selector
            && view.knows_workloads(namespace)
            // A Sidecar's selector stays within its namespace, also in the root namespace.
            && !view.residents(namespace).any(|w| crate::object::selects(selector, &w.labels))
        {
            let path = way!["spec", "workloadSelector", "labels"];
            report.add(&codes::NOT_FOUND, &resource.meta, &path, &["workload", &super::labels(selector)]);
        }
        all.push(Selecting {
            about: About::from(&resource.meta),
            namespace,
            name: &resource.meta.key.name,
            selector,
            path: way!["spec", "workloadSelector"],
        });
    }
    check_overlaps(view, &all, &codes::SAME_WORKLOAD_SIDECARS, &codes::SEVERAL_DEFAULT_SIDECARS, report);
}

fn selector(resource: &Resource<Sidecar>) -> Option<&LabelMap> {
    resource.spec.workload_selector.as_ref().map(|selector| &selector.labels).filter(|labels| !labels.is_empty())
}
