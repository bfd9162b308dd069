//! DestinationRules: hosts that are not there, subsets without workloads, and TLS without authorities.

use xebec_galley::Resource;
use xebec_galley::spec::{ClientTlsMode, ClientTlsSettings, DestinationRule};
use xebec_galley::yaml::Path;

use crate::codes;
use crate::finding::{Report, way};
use crate::object::{Body, selects};
use crate::view::{Host, View};

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for resource in &view.destination_rules {
        check_host(view, resource, report);
        check_tls(view, resource, report);
        check_selector(view, resource, report);
    }
}

fn check_host(view: &View<'_>, resource: &Resource<DestinationRule>, report: &mut Report<'_>) {
    let rule = &resource.spec;
    let service = match view.host(&rule.host, &resource.meta.key.namespace) {
        Host::Known(service) => service,
        Host::Unknown => return,
        Host::Missing(help) => {
            let finding = report.add(&codes::UNKNOWN_RULE_HOST, &resource.meta, &way!["spec", "host"], &[&rule.host]);
            if let Some(help) = help {
                finding.set_help(help);
            }
            return;
        }
    };
    if rule.host.starts_with('*') {
        return;
    }
    let workloads = view.workloads_of(service);
    if workloads.is_empty() && !view.input.complete {
        return;
    }
    for (at, subset) in rule.subsets.iter().enumerate() {
        // Where a workload runs is known to the platform, and not from files.
        let of_place = subset.labels.keys().any(|key| key.starts_with("topology.") || key == "kubernetes.io/hostname");
        if !of_place && !workloads.iter().any(|labels| selects(&subset.labels, labels)) {
            let path = way!["spec", "subsets", at];
            let finding = report.add(&codes::EMPTY_SUBSET, &resource.meta, &path, &[&rule.host, &subset.name]);
            finding.set_help(format!("none has {}", super::labels(&subset.labels)));
        }
    }
}

fn check_tls(view: &View<'_>, resource: &Resource<DestinationRule>, report: &mut Report<'_>) {
    let rule = &resource.spec;
    let policies = rule.traffic_policy.iter().map(|policy| (way!["spec", "trafficPolicy"], policy));
    let subsets = rule.subsets.iter().enumerate();
    let of_subsets = subsets.filter_map(|(at, subset)| {
        Some((way!["spec", "subsets", at, "trafficPolicy"], subset.traffic_policy.as_ref()?))
    });
    for (path, policy) in policies.chain(of_subsets) {
        if let Some(tls) = &policy.tls {
            let at = join(&path, &way!["tls"]);
            if let Some((mode, why)) = unverified(tls) {
                report.add(&codes::UNVERIFIED_SERVER, &resource.meta, &at, &[mode, &rule.host, why]);
            }
            check_secret(view, resource, tls, &at, report);
        }
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            let Some(tls) = &port.tls else { continue };
            let at = join(&path, &way!["portLevelSettings", index, "tls"]);
            if let Some((mode, why)) = unverified(tls) {
                let number = port.port.as_ref().map_or(0, |port| port.number).to_string();
                report.add(&codes::UNVERIFIED_PORT, &resource.meta, &at, &[mode, &number, &rule.host, why]);
            }
            check_secret(view, resource, tls, &at, report);
        }
    }
}

fn join(path: &Path, more: &Path) -> Path {
    Path(path.0.iter().chain(&more.0).cloned().collect())
}

fn unverified(tls: &ClientTlsSettings) -> Option<(&'static str, &'static str)> {
    let mode = match tls.mode {
        ClientTlsMode::Simple => "SIMPLE",
        ClientTlsMode::Mutual => "MUTUAL",
        ClientTlsMode::Disable | ClientTlsMode::IstioMutual => return None,
    };
    if tls.insecure_skip_verify == Some(true) {
        return Some((mode, "any certificate is accepted"));
    }
    let named = !tls.ca_certificates.is_empty() || !tls.credential_name.is_empty();
    (!named).then_some((mode, "whoever the proxy's system trusts can vouch for the server"))
}

/// A rule for selected workloads takes its secret from their namespace.
fn check_secret(
    view: &View<'_>,
    resource: &Resource<DestinationRule>,
    tls: &ClientTlsSettings,
    path: &Path,
    report: &mut Report<'_>,
) {
    let namespace = &resource.meta.key.namespace;
    if tls.credential_name.is_empty() || resource.spec.workload_selector.is_none() {
        return;
    }
    let secrets = view.input.objects.iter().filter(|object| matches!(object.body, Body::Secret(_)));
    let mut neighbours = secrets.filter(|object| object.namespace == *namespace).peekable();
    let is_known = view.input.complete || neighbours.peek().is_some();
    if is_known && !neighbours.any(|object| *object.name == *tls.credential_name) {
        let name = format!("{namespace}/{}", tls.credential_name);
        report.add(&codes::NOT_FOUND, &resource.meta, &join(path, &way!["credentialName"]), &["secret", &name]);
    }
}

fn check_selector(view: &View<'_>, resource: &Resource<DestinationRule>, report: &mut Report<'_>) {
    let Some(selector) = &resource.spec.workload_selector else { return };
    let namespace = &*resource.meta.key.namespace;
    if view.knows_workloads(namespace) && view.selected(namespace, &selector.match_labels).next().is_none() {
        let path = way!["spec", "workloadSelector", "matchLabels"];
        report.add(&codes::NO_WORKLOADS, &resource.meta, &path, &[&super::labels(&selector.match_labels)]);
    }
}
