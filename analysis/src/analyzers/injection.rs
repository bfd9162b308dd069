//! Namespaces and workloads: who gets a sidecar, and who stands in its way.

use crate::codes;
use crate::finding::{Report, way};
use crate::object::{Body, Object, Workload};
use crate::view::{INJECT, INJECTION, REVISION, View, is_injected, is_system};

/// The user that a sidecar runs as, whose traffic is not captured.
const PROXY_USER: i64 = 1337;
/// The containers that are a sidecar's own.
const OWN: [&str; 3] = ["istio-proxy", "istio-init", "istio-validation"];

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for object in &view.input.objects {
        match &object.body {
            Body::Namespace => check_namespace(object, report),
            Body::Workload(workload) => {
                check_users(object, workload, report);
                check_image(view, object, workload, report);
                check_proxy(view, object, workload, report);
            }
            _ => {}
        }
    }
}

fn check_namespace(object: &Object, report: &mut Report<'_>) {
    if is_system(&object.name) || object.labels.contains_key("istio.io/dataplane-mode") {
        return;
    }
    let path = way!["metadata", "name"];
    match (object.labels.contains_key(INJECTION), object.labels.contains_key(REVISION)) {
        (false, false) => {
            let finding = report.add(&codes::NOT_INJECTED, object, &path, &[&object.name]);
            finding.set_help("label it `istio-injection: enabled`, or `disabled` if that is meant");
        }
        (true, true) => {
            report.add(&codes::SEVERAL_INJECTION_LABELS, object, &path, &[&object.name]);
        }
        _ => {}
    }
}

fn check_users(object: &Object, workload: &Workload, report: &mut Report<'_>) {
    for container in workload.containers.iter().filter(|c| !OWN.contains(&c.name.as_str())) {
        if container.user.or(workload.user) == Some(PROXY_USER) {
            let spec = if workload.template { way!["spec", "template", "spec"] } else { way!["spec"] };
            report.add(&codes::RESERVED_USER, object, &spec, &[&container.name]);
        }
    }
}

fn check_image(view: &View<'_>, object: &Object, workload: &Workload, report: &mut Report<'_>) {
    let is_auto = workload.containers.iter().any(|container| container.image == "auto");
    let wish = workload.labels.get(INJECT).or_else(|| workload.annotations.get(INJECT));
    let without = match (wish.map(String::as_str), view.namespace(&object.namespace)) {
        (Some("true"), _) => false,
        (Some("false"), _) => true,
        (_, Some(namespace)) => !is_injected(namespace) && !workload.labels.contains_key(REVISION),
        // Its label is not known.
        (_, None) => false,
    };
    if is_auto && without {
        let code = if workload.template { &codes::AUTO_IMAGE_OF_TEMPLATE } else { &codes::AUTO_IMAGE_OF_POD };
        report.add(code, object, &way!["spec"], &[&object.name]);
    }
}

/// Only a pod that runs can lack a sidecar: in a manifest it is not there yet.
fn check_proxy(view: &View<'_>, object: &Object, workload: &Workload, report: &mut Report<'_>) {
    let injected = view.namespace(&object.namespace).is_some_and(is_injected);
    let has_proxy = workload.containers.iter().any(|container| container.name == OWN[0]);
    if workload.running && injected && !has_proxy && !view.is_plain(object, workload) {
        report.add(&codes::NO_PROXY, object, &way!["metadata", "name"], &[&object.name]);
    }
}
