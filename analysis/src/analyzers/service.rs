//! Services of Kubernetes: ports that do not say what they speak, and services that contradict each other about one workload.

use std::collections::{BTreeMap, BTreeSet};

use xebec_pilot::model::Protocol;

use super::listed;
use crate::codes;
use crate::finding::{Report, way};
use crate::object::{Body, Object, ServiceObject, Workload};
use crate::view::{View, is_system};

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for object in &view.input.objects {
        let Body::Service(service) = &object.body else { continue };
        // What the control plane itself serves is not for sidecars to route.
        if is_system(&object.namespace) || object.labels.get("app").is_some_and(|app| app == "istiod") {
            continue;
        }
        check_names(object, service, report);
    }
    for running in &view.workloads {
        let Some((object, workload)) = running.object else { continue };
        if workload.template && !view.is_plain(object, workload) {
            check_shared(view, object, workload, report);
        }
    }
}

fn check_names(object: &Object, service: &ServiceObject, report: &mut Report<'_>) {
    for (at, port) in service.ports.iter().enumerate() {
        let number = port.number.to_string();
        let path = way!["spec", "ports", at];
        if service.external_name && (port.protocol == Protocol::Auto || port.name == "tcp") {
            report.add(&codes::EXTERNAL_PORT_NAME, object, &path, &[&number, &port.name]);
        } else if port.protocol == Protocol::Auto {
            let finding = report.add(&codes::PORT_NAME, object, &path, &[&number, &port.name]);
            finding.set_help("name it `PROTOCOL-SUFFIX`, such as `http-web`, or set `appProtocol`");
        }
    }
}

fn check_shared(view: &View<'_>, object: &Object, workload: &Workload, report: &mut Report<'_>) {
    let services: Vec<(&Object, &ServiceObject)> = view.services_of(&object.namespace, &workload.labels).collect();
    // By the service's port: who has it, with which transport. By the workload's: who has it, as which port.
    let mut transports: BTreeMap<u16, BTreeSet<(&str, &str)>> = BTreeMap::new();
    let mut targets: BTreeMap<(&str, &str), BTreeSet<(u16, &str)>> = BTreeMap::new();
    for (service, body) in &services {
        for port in &body.ports {
            transports.entry(port.number).or_default().insert((&port.transport, &service.name));
            targets.entry((&port.target, &port.transport)).or_default().insert((port.number, &service.name));
        }
    }
    let path = way!["metadata", "name"];
    let distinct = |names: BTreeSet<&str>| (names.len() > 1).then(|| listed(names));
    for (number, users) in transports {
        let several = users.iter().map(|(transport, _)| transport).collect::<BTreeSet<_>>().len() > 1;
        // One service may well have a port for both: DNS does.
        if let Some(names) = distinct(users.iter().map(|(_, name)| *name).collect()).filter(|_| several) {
            let arguments: &[&str] = &[&names, &object.name, &number.to_string()];
            report.add(&codes::SERVICES_DIFFER_IN_TRANSPORT, object, &path, arguments);
        }
    }
    for ((target, _), users) in targets {
        let numbers: BTreeSet<String> = users.iter().map(|(number, _)| number.to_string()).collect();
        if let Some(names) = distinct(users.iter().map(|(_, name)| *name).collect()).filter(|_| numbers.len() > 1) {
            let arguments: &[&str] = &[&names, &object.name, target, &listed(numbers)];
            report.add(&codes::SERVICES_DIFFER_IN_PORT, object, &path, arguments);
        }
    }
}
