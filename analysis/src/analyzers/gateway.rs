//! Gateways: whether anything runs them, whether their ports are reached, their secrets, and other Gateways in their way.

use std::collections::BTreeSet;
use std::sync::Arc;

use xebec_galley::Resource;
use xebec_galley::spec::{Gateway, Server, ServerTlsSettings};
use xebec_pilot::mesh::names;

use super::listed;
use crate::codes;
use crate::finding::{Report, way};
use crate::object::{Body, selects};
use crate::view::{Running, View};

pub(super) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for (at, resource) in view.gateways.iter().enumerate() {
        let workloads = view.gateway_workloads(&resource.spec.selector);
        if workloads.is_empty() {
            if view.knows_gateways() && !resource.spec.selector.is_empty() {
                let selector = super::labels(&resource.spec.selector);
                let finding =
                    report.add(&codes::NOT_FOUND, &resource.meta, &way!["spec", "selector"], &["workload", &selector]);
                finding.set_help("the selector's labels must be on the pods of a gateway");
            }
        } else {
            check_ports(view, resource, &workloads, report);
            check_secrets(view, resource, &workloads, report);
        }
        for (_, other) in view.gateways.iter().enumerate().filter(|(index, _)| *index != at) {
            check_pair(resource, other, report);
        }
    }
}

fn check_ports(view: &View<'_>, resource: &Resource<Gateway>, workloads: &[&Running<'_>], report: &mut Report<'_>) {
    let mut services = workloads.iter().flat_map(|w| view.services_of(w.namespace, &w.labels)).peekable();
    if services.peek().is_none() {
        return;
    }
    let mut exposed: BTreeSet<String> = BTreeSet::new();
    for (_, service) in services {
        for port in service.ports.iter().filter(|port| port.transport == "TCP") {
            exposed.insert(port.number.to_string());
            exposed.insert(port.target.clone());
        }
    }
    for (at, server) in resource.spec.servers.iter().enumerate() {
        let number = server.port.number.to_string();
        if !exposed.contains(&number) {
            let path = way!["spec", "servers", at, "port", "number"];
            report.add(&codes::PORT_NOT_EXPOSED, &resource.meta, &path, &[&number]);
        }
    }
}

/// A gateway's secrets are in the namespace of its workloads.
fn check_secrets(view: &View<'_>, resource: &Resource<Gateway>, workloads: &[&Running<'_>], report: &mut Report<'_>) {
    let namespaces: BTreeSet<&str> = workloads.iter().map(|workload| workload.namespace).collect();
    for (at, server) in resource.spec.servers.iter().enumerate() {
        let Some(tls) = &server.tls else { continue };
        let one = (!tls.credential_name.is_empty()).then_some(&tls.credential_name);
        let several = tls.credential_names.iter();
        for (name, path) in
            one.into_iter().map(|name| (name, way!["spec", "servers", at, "tls", "credentialName"])).chain(
                several.enumerate().map(|(i, name)| (name, way!["spec", "servers", at, "tls", "credentialNames", i])),
            )
        {
            let mut secrets = view.input.objects.iter().filter_map(|object| match &object.body {
                Body::Secret(keys) if namespaces.contains(&*object.namespace) => Some((object, keys)),
                _ => None,
            });
            let is_known = view.input.complete || secrets.clone().next().is_some();
            match secrets.find(|(object, _)| *object.name == **name) {
                Some((_, keys)) => {
                    let has = |pair: [&str; 2]| pair.iter().all(|key| keys.contains(*key));
                    if !has(["tls.crt", "tls.key"]) && !has(["cert", "key"]) {
                        report.add(&codes::UNUSABLE_SECRET, &resource.meta, &path, &[name]);
                    }
                }
                None if is_known => {
                    let finding = report.add(&codes::NOT_FOUND, &resource.meta, &path, &["secret", name]);
                    let where_to = listed(namespaces.iter());
                    finding.set_help(format!("it belongs into the namespace of the gateway's workloads, {where_to}"));
                }
                None => {}
            }
        }
    }
}

fn check_pair(resource: &Arc<Resource<Gateway>>, other: &Arc<Resource<Gateway>>, report: &mut Report<'_>) {
    let (own, others) = (&resource.spec, &other.spec);
    let name = |r: &Resource<Gateway>| format!("{}/{}", r.meta.key.namespace, r.meta.key.name);
    let shares = selects(&own.selector, &others.selector) || selects(&others.selector, &own.selector);
    if !shares {
        return;
    }
    for (at, server) in own.servers.iter().enumerate() {
        let port = server.port.number.to_string();
        if own.selector == others.selector
            && let Some(rival) = others.servers.iter().find(|rival| collide(server, rival, resource, other))
        {
            let arguments: &[&str] = &[&name(other), &port, &listed(&rival.hosts)];
            report.add(&codes::SAME_SERVER, &resource.meta, &way!["spec", "servers", at], arguments);
        }
        let same = others.servers.iter().find(|rival| same_certificate(server.tls.as_ref(), rival.tls.as_ref()));
        if let Some(rival) = same.filter(|rival| rival.port.number == server.port.number) {
            // One host of both is a conflict already, and a worse one.
            if !collide(server, rival, resource, other) {
                let mut names = [name(resource), name(other)];
                names.sort();
                report.add(
                    &codes::SAME_CERTIFICATE,
                    &resource.meta,
                    &way!["spec", "servers", at, "tls"],
                    &[&listed(names)],
                );
            }
        }
    }
}

/// Whether two servers of one port would answer for one host, to VirtualServices of one namespace.
fn collide(a: &Server, b: &Server, of_a: &Resource<Gateway>, of_b: &Resource<Gateway>) -> bool {
    let full = |host: &str, resource: &Resource<Gateway>| {
        let (namespace, name) = host.split_once('/').unwrap_or(("*", host));
        let namespace = if namespace == "." { &*resource.meta.key.namespace } else { namespace };
        (namespace.to_owned(), names::lower(name).into_owned())
    };
    let hosts_of_a: Vec<_> = a.hosts.iter().map(|host| full(host, of_a)).collect();
    let hosts_of_b: Vec<_> = b.hosts.iter().map(|host| full(host, of_b)).collect();
    let meets = |(na, a): &(String, String), (nb, b): &(String, String)| a == b && (na == "*" || nb == "*" || na == nb);
    // Servers of plain HTTP share their port whatever their hosts are, as long as no host is in both.
    a.port.number == b.port.number
        && a.bind == b.bind
        && hosts_of_a.iter().any(|host_a| hosts_of_b.iter().any(|host_b| meets(host_a, host_b)))
}

fn same_certificate(a: Option<&ServerTlsSettings>, b: Option<&ServerTlsSettings>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    if a.credential_name.is_empty() && b.credential_name.is_empty() {
        return !a.server_certificate.is_empty()
            && a.server_certificate == b.server_certificate
            && a.private_key == b.private_key;
    }
    a.credential_name == b.credential_name
}
