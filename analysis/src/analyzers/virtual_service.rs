//! What VirtualServices refer to: hosts, ports, subsets, gateways, delegates; and VirtualServices that get in each other's way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xebec_galley::spec::{Destination, VirtualService};
use xebec_galley::yaml::{Path, Segment};
use xebec_galley::{Resource, SourceRef};
use xebec_pilot::mesh::MESH_GATEWAY;
use xebec_pilot::mesh::names::{self, RuleHost};
use xebec_pilot::mesh::rules::gateway_reference;
use xebec_pilot::model::{Protocol, Visibility};

use super::listed;
use crate::codes;
use crate::finding::{Report, way};
use crate::object::Body;
use crate::view::{Host, View, seen_by};

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    let choosers = choosers(view);
    for resource in &view.virtual_services {
        for (path, destination) in destinations(&resource.spec) {
            check_destination(view, resource, &path, destination, report);
        }
        check_gateways(view, resource, report);
        check_delegates(view, resource, report);
        check_bypassed_subsets(view, resource, &choosers, report);
        check_claims(view, resource, report);
    }
    check_same_hosts(view, report);
}

/// Every destination, with its place.
fn destinations(spec: &VirtualService) -> Vec<(Path, &Destination)> {
    let mut found = Vec::new();
    for (at, route) in spec.http.iter().enumerate() {
        for (index, weighted) in route.route.iter().enumerate() {
            found.push((way!["spec", "http", at, "route", index, "destination"], &weighted.destination));
        }
        if let Some(mirror) = &route.mirror {
            found.push((way!["spec", "http", at, "mirror"], mirror));
        }
        for (index, mirror) in route.mirrors.iter().enumerate() {
            found.push((way!["spec", "http", at, "mirrors", index, "destination"], &mirror.destination));
        }
    }
    let tls = spec.tls.iter().map(|route| &route.route).enumerate().map(|(at, route)| ("tls", at, route));
    let tcp = spec.tcp.iter().map(|route| &route.route).enumerate().map(|(at, route)| ("tcp", at, route));
    for (part, at, route) in tls.chain(tcp) {
        for (index, weighted) in route.iter().enumerate() {
            found.push((way!["spec", part, at, "route", index, "destination"], &weighted.destination));
        }
    }
    found
}

fn below(path: &Path, key: &str) -> Path {
    let mut longer = path.clone();
    longer.0.push(Segment::Key(key.to_owned()));
    longer
}

fn check_destination(
    view: &View<'_>,
    resource: &Resource<VirtualService>,
    path: &Path,
    destination: &Destination,
    report: &mut Report<'_>,
) {
    let namespace = &resource.meta.key.namespace;
    let host = destination.host.as_str();
    match view.host(host, namespace) {
        Host::Missing(help) => {
            let finding = report.add(&codes::NOT_FOUND, &resource.meta, &below(path, "host"), &["host", host]);
            finding.set_help(help.unwrap_or_else(|| "register the service, or correct the name".to_owned()));
        }
        Host::Unknown => {}
        Host::Known(service) => {
            let ports: Vec<_> = service.service.ports.iter().filter(|port| port.protocol != Protocol::Udp).collect();
            let numbers = || listed(ports.iter().map(|port| port.number.to_string()));
            match &destination.port {
                Some(port) if ports.iter().all(|p| p.number != port.number) => {
                    let name = format!("{host}:{}", port.number);
                    let at = below(path, "port");
                    let finding = report.add(&codes::NOT_FOUND, &resource.meta, &at, &["port", &name]);
                    finding.set_help(match ports.len() {
                        0 => "the host has no ports that the mesh carries".to_owned(),
                        _ => format!("the host has {}", numbers()),
                    });
                }
                None if ports.len() > 1 => {
                    let arguments: &[&str] = &[host, &numbers()];
                    let finding = report.add(&codes::PORT_NEEDED, &resource.meta, &below(path, "host"), arguments);
                    finding.set_help("add `port: { number: … }`");
                }
                _ => {}
            }
        }
    }
    check_subset(view, resource, path, destination, report);
}

fn check_subset(
    view: &View<'_>,
    resource: &Resource<VirtualService>,
    path: &Path,
    destination: &Destination,
    report: &mut Report<'_>,
) {
    if destination.subset.is_empty() {
        return;
    }
    let namespace = &resource.meta.key.namespace;
    let domain = &view.input.domain;
    let wanted = RuleHost::new(&destination.host, namespace, domain);
    let mut names = BTreeSet::new();
    let mut rules = 0;
    for rule in view.rules_of(&wanted) {
        rules += 1;
        names.extend(rule.spec.subsets.iter().map(|subset| subset.name.as_str()));
    }
    if names.contains(destination.subset.as_str()) {
        return;
    }
    let neighbours = || view.destination_rules.iter().any(|rule| rule.meta.key.namespace == *namespace);
    if rules == 0 && !view.input.complete && !neighbours() {
        return;
    }
    let name = format!("{}/{}", destination.host, destination.subset);
    let help = match (rules, xebec_galley::yaml::suggest(&destination.subset, names.iter().copied())) {
        (0, _) => format!("add a DestinationRule for `{}` with this subset", destination.host),
        (_, Some(near)) => format!("did you mean `{near}`?"),
        _ if names.is_empty() => "the host's DestinationRule has no subsets".to_owned(),
        _ => format!("the host's DestinationRule has {}", listed(names)),
    };
    report.add(&codes::NOT_FOUND, &resource.meta, &below(path, "subset"), &["subset", &name]).set_help(help);
}

fn check_gateways(view: &View<'_>, resource: &Resource<VirtualService>, report: &mut Report<'_>) {
    let namespace = &resource.meta.key.namespace;
    for (at, written) in resource.spec.gateways.iter().enumerate().filter(|(_, name)| *name != MESH_GATEWAY) {
        let reference = gateway_reference(written, namespace);
        let (of, name) = reference.split_once('/').unwrap_or((namespace, &reference));
        let path = way!["spec", "gateways", at];
        let mut neighbours = view.gateways.iter().filter(|g| *g.meta.key.namespace == *of).peekable();
        let is_known = view.input.complete || neighbours.peek().is_some();
        let Some(gateway) = neighbours.clone().find(|gateway| *gateway.meta.key.name == *name) else {
            if is_known {
                let near = xebec_galley::yaml::suggest(name, neighbours.map(|g| &*g.meta.key.name));
                let help = near.map_or_else(
                    || "a name without a namespace belongs to the VirtualService's own".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                report.add(&codes::NOT_FOUND, &resource.meta, &path, &["gateway", &reference]).set_help(help);
            }
            continue;
        };
        let served = gateway.spec.servers.iter().flat_map(|server| &server.hosts).filter_map(|written| {
            let (to, host) = written.split_once('/').unwrap_or(("*", written));
            let seen = to == "*" || to == &**namespace || (to == "." && gateway.meta.key.namespace == *namespace);
            seen.then(|| names::lower(host))
        });
        let served: Vec<_> = served.collect();
        let domain = &view.input.domain;
        let hosts = resource.spec.hosts.iter().map(|host| RuleHost::new(host, namespace, domain));
        let meets = |host: &RuleHost| host.candidates().any(|name| served.iter().any(|s| names::overlap(s, name)));
        if !resource.spec.hosts.is_empty() && !hosts.clone().any(|host| meets(&host)) {
            let arguments: &[&str] = &[&reference, &listed(&resource.spec.hosts)];
            report.add(&codes::NOT_IN_GATEWAY, &resource.meta, &path, arguments);
        }
    }
}

fn check_delegates(view: &View<'_>, resource: &Resource<VirtualService>, report: &mut Report<'_>) {
    for (at, route) in resource.spec.http.iter().enumerate() {
        let Some(delegate) = &route.delegate else { continue };
        let of = if delegate.namespace.is_empty() { &*resource.meta.key.namespace } else { &delegate.namespace };
        let found =
            view.virtual_services.iter().find(|v| *v.meta.key.namespace == *of && *v.meta.key.name == *delegate.name);
        // The resource that delegates is itself one of its namespace's.
        let is_known = view.input.complete || view.virtual_services.iter().any(|v| *v.meta.key.namespace == *of);
        let path = way!["spec", "http", at, "delegate"];
        let name = format!("{of}/{}", delegate.name);
        match found {
            None if is_known => {
                report.add(&codes::NOT_FOUND, &resource.meta, &path, &["delegate", &name]);
            }
            Some(other) if !other.spec.hosts.is_empty() => {
                let finding = report.add(&codes::NOT_FOUND, &resource.meta, &path, &["delegate", &name]);
                finding.set_help("the VirtualService has `hosts`, and so it is no delegate");
            }
            _ => {}
        }
    }
}

/// The full name of a host, as far as names can be completed.
fn full(host: &str, namespace: &str, domain: &str) -> Arc<str> {
    let name = RuleHost::new(host, namespace, domain);
    Arc::clone(name.expanded.as_ref().unwrap_or(&name.written))
}

/// The VirtualServices that choose subsets of one of their own hosts, by that host.
type Choosers<'a> = BTreeMap<Arc<str>, Vec<&'a Resource<VirtualService>>>;

fn choosers<'a>(view: &View<'a>) -> Choosers<'a> {
    let mut found = Choosers::new();
    for &resource in &view.virtual_services {
        let full = |host: &str| full(host, &resource.meta.key.namespace, &view.input.domain);
        let destinations = resource.spec.http.iter().flat_map(|route| &route.route).map(|w| &w.destination);
        let chosen: BTreeSet<Arc<str>> = destinations.filter(|d| !d.subset.is_empty()).map(|d| full(&d.host)).collect();
        for host in resource.spec.hosts.iter().map(|host| full(host)).filter(|host| chosen.contains(host)) {
            found.entry(host).or_default().push(resource);
        }
    }
    found
}

/// A gateway's route to a host is final: what a VirtualService says about that host is for sidecars.
fn check_bypassed_subsets(
    view: &View<'_>,
    resource: &Resource<VirtualService>,
    choosers: &Choosers<'_>,
    report: &mut Report<'_>,
) {
    if resource.spec.gateways.iter().all(|gateway| gateway == MESH_GATEWAY) {
        return;
    }
    for (at, route) in resource.spec.http.iter().enumerate() {
        for (index, weighted) in route.route.iter().enumerate().filter(|(_, w)| w.destination.subset.is_empty()) {
            let host = full(&weighted.destination.host, &resource.meta.key.namespace, &view.input.domain);
            let mut others = choosers.get(&host).into_iter().flatten();
            if let Some(other) = others.find(|other| other.meta.key != resource.meta.key) {
                let name = format!("{}/{}", other.meta.key.namespace, other.meta.key.name);
                let path = way!["spec", "http", at, "route", index, "destination", "host"];
                report.add(&codes::SUBSETS_BYPASSED, &resource.meta, &path, &[&weighted.destination.host, &name]);
            }
        }
    }
}

/// Headers that stand for claims of a verified token.
const CLAIMS: [&str; 2] = ["@request.auth.claims.", "@request.auth.claims["];

fn check_claims(view: &View<'_>, resource: &Resource<VirtualService>, report: &mut Report<'_>) {
    let namespace = &resource.meta.key.namespace;
    for (at, route) in resource.spec.http.iter().enumerate() {
        for (index, condition) in route.matches.iter().enumerate() {
            let headers = condition.headers.keys().chain(condition.without_headers.keys());
            let Some(claim) = headers.into_iter().find(|key| CLAIMS.iter().any(|prefix| key.starts_with(prefix)))
            else {
                continue;
            };
            for gateway in resource.spec.gateways.iter().filter(|name| *name != MESH_GATEWAY) {
                let reference = gateway_reference(gateway, namespace);
                let found = view
                    .gateways
                    .iter()
                    .find(|g| format!("{}/{}", g.meta.key.namespace, g.meta.key.name) == *reference);
                let Some(found) = found else { continue };
                let workloads = view.gateway_workloads(&found.spec.selector);
                let verifies = |namespace: &str, labels: &BTreeMap<String, String>| {
                    view.input.objects.iter().any(|object| {
                        let Body::Policy(policy) = &object.body else { return false };
                        let reaches = *object.namespace == *namespace || *object.namespace == *view.root();
                        let fits = policy.selector.as_ref().is_none_or(|s| crate::object::selects(s, labels));
                        *object.kind == *"RequestAuthentication" && reaches && (fits || policy.attached)
                    })
                };
                if let Some(running) = workloads.iter().find(|w| !verifies(w.namespace, &w.labels)) {
                    let path = way!["spec", "http", at, "match", index];
                    let name = format!("{reference}, workload {}/{}", running.namespace, running.name);
                    report.add(&codes::CLAIMS_UNVERIFIED, &resource.meta, &path, &[claim, &name]);
                }
            }
        }
    }
}

/// Two VirtualServices of one host for the same sidecars: they are not merged.
fn check_same_hosts(view: &View<'_>, report: &mut Report<'_>) {
    struct Claim<'a> {
        resource: &'a Resource<VirtualService>,
        at: usize,
        visibility: Visibility,
    }
    let mut claims: BTreeMap<Arc<str>, Vec<Claim<'_>>> = BTreeMap::new();
    for resource in &view.virtual_services {
        let gateways = &resource.spec.gateways;
        if !gateways.is_empty() && gateways.iter().all(|gateway| gateway != MESH_GATEWAY) {
            continue;
        }
        for (at, host) in resource.spec.hosts.iter().enumerate() {
            let visibility = seen_by(view, &resource.meta, &resource.spec.export_to);
            let name = full(host, &resource.meta.key.namespace, &view.input.domain);
            claims.entry(name).or_default().push(Claim { resource, at, visibility });
        }
    }
    for (host, mut claims) in claims {
        claims.sort_by_key(|c| age(c.resource));
        for claim in &claims {
            let rivals = claims
                .iter()
                .filter(|c| c.resource.meta.key == claim.resource.meta.key || meet(&c.visibility, &claim.visibility));
            let names: Vec<String> =
                rivals.map(|c| format!("{}/{}", c.resource.meta.key.namespace, c.resource.meta.key.name)).collect();
            let distinct: BTreeSet<&String> = names.iter().collect();
            if distinct.len() > 1 {
                let path = way!["spec", "hosts", claim.at];
                report.add(&codes::SAME_HOST, &claim.resource.meta, &path, &[&listed(distinct), &host]);
            }
        }
    }
}

fn age(resource: &Resource<VirtualService>) -> (u64, Arc<str>, Arc<str>, SourceRef) {
    let meta = &resource.meta;
    (meta.created, Arc::clone(&meta.key.name), Arc::clone(&meta.key.namespace), meta.source.clone())
}

fn meet(a: &Visibility, b: &Visibility) -> bool {
    match (a, b) {
        (Visibility::Namespaces(list), _) | (Visibility::Public, Visibility::Namespaces(list)) if list.is_empty() => {
            false
        }
        (Visibility::Public, _) | (_, Visibility::Public) => true,
        (Visibility::Namespaces(a), Visibility::Namespaces(b)) => a.iter().any(|namespace| b.contains(namespace)),
    }
}
