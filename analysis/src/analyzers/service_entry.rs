//! ServiceEntries: TCP without addresses, selectors that find nothing, and entries that contradict each other.

use std::collections::{BTreeMap, BTreeSet};

use xebec_galley::Resource;
use xebec_galley::spec::{ServiceEntry, ServicePort};
use xebec_pilot::mesh::rules::visibility;
use xebec_pilot::model::{Protocol, Visibility};

use super::listed;
use crate::codes;
use crate::finding::{Report, way};
use crate::view::View;

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    let allocates = allocates_addresses(view);
    for resource in &view.service_entries {
        let entry = &resource.spec;
        if entry.addresses.is_empty() && !allocates {
            for (at, port) in entry.ports.iter().enumerate().filter(|(_, port)| is_tcp(port)) {
                let path = way!["spec", "ports", at];
                report.add(&codes::ADDRESSES_NEEDED, &resource.meta, &path, &[&port.number.to_string()]);
            }
        }
        let namespace = &*resource.meta.key.namespace;
        if let Some(selector) = &entry.workload_selector
            && view.knows_workloads(namespace)
            && view.selected(namespace, &selector.labels).next().is_none()
        {
            let path = way!["spec", "workloadSelector", "labels"];
            report.add(&codes::NO_WORKLOADS, &resource.meta, &path, &[&super::labels(&selector.labels)]);
        }
    }
    check_protocols(view, report);
}

/// Whether proxies answer DNS themselves and give hosts addresses of their own.
fn allocates_addresses(view: &View<'_>) -> bool {
    let metadata = view.input.settings.default_config.as_ref().map(|config| &config.proxy_metadata);
    let is_on = |key| metadata.is_some_and(|metadata| metadata.get(key).is_some_and(|value| value == "true"));
    is_on("ISTIO_META_DNS_CAPTURE") && is_on("ISTIO_META_DNS_AUTO_ALLOCATE")
}

fn protocol(port: &ServicePort) -> Protocol {
    let written = if port.protocol.is_empty() { port.name.split('-').next().unwrap_or("") } else { &port.protocol };
    Protocol::parse(written).unwrap_or(Protocol::Auto)
}

fn is_tcp(port: &ServicePort) -> bool {
    let protocol = protocol(port);
    protocol.is_tcp() || protocol == Protocol::Auto
}

fn check_protocols(view: &View<'_>, report: &mut Report<'_>) {
    struct Claim<'a> {
        resource: &'a Resource<ServiceEntry>,
        at: usize,
        protocol: Protocol,
        visibility: Visibility,
    }
    let mut claims: BTreeMap<(String, u16), Vec<Claim<'_>>> = BTreeMap::new();
    let default = &view.input.settings.default_service_export_to;
    for resource in &view.service_entries {
        for host in &resource.spec.hosts {
            for (at, port) in resource.spec.ports.iter().enumerate() {
                let visibility = visibility(&resource.spec.export_to, default, &resource.meta.key.namespace);
                let claim = Claim { resource, at, protocol: protocol(port), visibility };
                claims.entry((host.to_ascii_lowercase(), port.number)).or_default().push(claim);
            }
        }
    }
    for ((host, number), claims) in &claims {
        for claim in claims {
            let rivals: Vec<&Claim<'_>> = claims
                .iter()
                .filter(|rival| {
                    let same = rival.resource.meta.key == claim.resource.meta.key;
                    !same && rival.protocol != claim.protocol && meet(&rival.visibility, &claim.visibility)
                })
                .collect();
            if rivals.is_empty() {
                continue;
            }
            let all = || rivals.iter().copied().chain([claim]);
            let key = |c: &Claim<'_>| format!("{}/{}", c.resource.meta.key.namespace, c.resource.meta.key.name);
            let names: BTreeSet<String> = all().map(key).collect();
            let protocols: BTreeSet<String> = all().map(|c| format!("{:?}", c.protocol).to_uppercase()).collect();
            let arguments: &[&str] = &[&listed(names), &number.to_string(), host, &listed(protocols)];
            report.add(&codes::ENTRIES_DISAGREE, &claim.resource.meta, &way!["spec", "ports", claim.at], arguments);
        }
    }
}

fn meet(a: &Visibility, b: &Visibility) -> bool {
    match (a, b) {
        (Visibility::Namespaces(a), Visibility::Namespaces(b)) => a.iter().any(|namespace| b.contains(namespace)),
        (Visibility::Namespaces(list), Visibility::Public) | (Visibility::Public, Visibility::Namespaces(list)) => {
            !list.is_empty()
        }
        (Visibility::Public, Visibility::Public) => true,
    }
}
