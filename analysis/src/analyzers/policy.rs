//! Policies that select workloads by labels: none, or the same as others of which there may be only one.

use std::collections::{BTreeMap, BTreeSet};

use xebec_galley::spec::LabelMap;
use xebec_galley::yaml::Path;

use super::listed;
use crate::codes::{self, Message};
use crate::finding::{About, Report, way};
use crate::object::{Body, selects};
use crate::view::View;

/// Something of which each workload uses one.
pub(super) struct Selecting<'a> {
    pub about: About<'a>,
    pub namespace: &'a str,
    pub name: &'a str,
    pub selector: Option<&'a LabelMap>,
    pub path: Path,
}

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    let mut telemetries: Vec<Selecting<'_>> = Vec::new();
    for object in &view.input.objects {
        let Body::Policy(policy) = &object.body else { continue };
        if policy.attached {
            continue;
        }
        if let Some(selector) = &policy.selector
            && view.knows_workloads(&object.namespace)
            && view.selected(&object.namespace, selector).next().is_none()
        {
            let path = way!["spec", "selector", "matchLabels"];
            report.add(&codes::NO_WORKLOADS, object, &path, &[&super::labels(selector)]);
        }
        if *object.kind == *"Telemetry" {
            telemetries.push(Selecting {
                about: About::from(object),
                namespace: &object.namespace,
                name: &object.name,
                selector: policy.selector.as_ref(),
                path: way!["spec", "selector"],
            });
        }
    }
    check_overlaps(view, &telemetries, &codes::SAME_WORKLOAD_TELEMETRIES, &codes::SEVERAL_DEFAULT_TELEMETRIES, report);
}

/// Says which of them select the same workload of their namespace, and which have no selector beside others without.
pub(super) fn check_overlaps(
    view: &View<'_>,
    all: &[Selecting<'_>],
    same_workload: &'static Message,
    several_defaults: &'static Message,
    report: &mut Report<'_>,
) {
    let mut namespaces: BTreeMap<&str, Vec<&Selecting<'_>>> = BTreeMap::new();
    for one in all {
        namespaces.entry(one.namespace).or_default().push(one);
    }
    for (namespace, members) in namespaces {
        let defaults: Vec<&&Selecting<'_>> = members.iter().filter(|one| one.selector.is_none()).collect();
        if defaults.len() > 1 {
            let names = listed(defaults.iter().map(|one| one.name).collect::<BTreeSet<_>>());
            for one in defaults {
                report.add(several_defaults, one.about, &way!["metadata", "name"], &[&names, namespace]);
            }
        }
        for one in &members {
            let Some(selector) = one.selector else { continue };
            // The workload that two of them have; where none is known, equal selectors are enough.
            let workload = |rival: &Selecting<'_>| {
                let theirs = rival.selector?;
                let shared =
                    view.residents(namespace).find(|w| selects(selector, &w.labels) && selects(theirs, &w.labels));
                shared.map(|w| w.name.clone()).or_else(|| (selector == theirs).then(|| super::labels(theirs)))
            };
            let rivals = members.iter().filter(|rival| rival.name != one.name);
            let shared: Vec<(&str, String)> = rivals.filter_map(|rival| Some((rival.name, workload(rival)?))).collect();
            if let Some((_, workload)) = shared.first() {
                let names: BTreeSet<&str> = shared.iter().map(|(name, _)| *name).chain([one.name]).collect();
                report.add(same_workload, one.about, &one.path, &[&listed(names), namespace, workload]);
            }
        }
    }
}
