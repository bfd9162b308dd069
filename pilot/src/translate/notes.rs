//! What operators wrote and translation does not do, or cannot do: said once per document, by name and place.

use std::collections::{BTreeMap, BTreeSet};

use xebec_galley::spec::{ClientTlsMode, Destination, HttpRoute, TcpRoute, TrafficPolicy};

use super::route::is_claim;
use super::{Note, protocol_of};
use crate::mesh::{Conflict, MESH_GATEWAY, Mesh, MeshDestinationRule, MeshService, MeshVirtualService, Scope};
use crate::model::{Port, Protocol, Visibility};

/// Remarks about every VirtualService and DestinationRule of the mesh, and about services that several registries contradict each
/// other in, sorted by place. What only a gateway can know is in [`gateway::notes`](super::gateway::notes).
pub fn notes(mesh: &Mesh) -> Vec<Note> {
    let mut found = BTreeSet::new();
    for rule in mesh.virtual_services() {
        of_virtual_service(mesh, rule, &mut found);
    }
    let mut seen = BTreeSet::new();
    for service in mesh.services() {
        found.extend(service.conflicts.iter().map(|conflict| of_conflict(service, conflict)));
        let scope = Scope::namespace(&service.service.key.namespace);
        if let Some(rule) = mesh.destination_rule_for(&service.service, &scope)
            && seen.insert(rule.key.clone())
        {
            of_destination_rule(rule, &mut found);
        }
    }
    of_shared_ports(mesh, &mut found);
    found.into_iter().collect()
}

/// Services that a client cannot tell apart: bytes to one port, and no address by which to know whom they are meant for.
fn of_shared_ports(mesh: &Mesh, found: &mut BTreeSet<Note>) {
    let mut shared: BTreeMap<u16, Vec<(&MeshService, Protocol)>> = BTreeMap::new();
    for service in mesh.services().filter(|s| s.service.addresses.is_empty()) {
        for port in &service.service.ports {
            let protocol = protocol_of(port);
            if protocol.is_tcp() || protocol == Protocol::Auto {
                shared.entry(port.number).or_default().push((service, protocol));
            }
        }
    }
    for (port, mut services) in shared.into_iter().filter(|(_, services)| services.len() > 1) {
        services.sort_by_key(|(s, _)| (s.service.created, &s.service.key));
        for (index, (service, protocol)) in services.iter().enumerate() {
            // Bytes that no port declares go to a port that does, whichever is older.
            let before = if *protocol == Protocol::Auto { services.len() } else { index };
            let stronger = services[..before].iter().find(|(other, as_what)| {
                as_what.is_tcp()
                    && other.service.key != service.service.key
                    && overlap(&other.service.visibility, &service.service.visibility)
            });
            let Some((other, _)) = stronger else { continue };
            let key = &service.service.key;
            let written = other.origin.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default();
            found.insert(Note {
                origin: service.origin.clone(),
                subject: format!("service {}/{} port {port}", key.namespace, key.hostname),
                text: format!(
                    "its TCP connections cannot be told from those to {}{written} on the same port, and go there: neither has \
                     `addresses`, and of those the oldest that declares TCP gets all; give both addresses, or different ports",
                    other.service.key
                ),
            });
        }
    }
}

/// Whether some client sees both.
fn overlap(one: &Visibility, other: &Visibility) -> bool {
    match one {
        Visibility::Public => *other != Visibility::Namespaces(Vec::new()),
        Visibility::Namespaces(list) => list.iter().any(|namespace| other.includes(namespace)),
    }
}

fn of_conflict(service: &MeshService, conflict: &Conflict) -> Note {
    let key = &service.service.key;
    let Conflict { what, kept, kept_by, lost, lost_by } = conflict;
    Note {
        origin: service.origin.clone(),
        subject: format!("service {}/{} {what}", key.namespace, key.hostname),
        text: format!(
            "{kept_by} registers {kept} and {lost_by} registers {lost}; the older registration, that of {kept_by}, holds; \
             make them say the same, or give one of them another hostname"
        ),
    }
}

fn of_virtual_service(mesh: &Mesh, rule: &MeshVirtualService, found: &mut BTreeSet<Note>) {
    let meta = &rule.resource.meta;
    let scope = Scope::namespace(rule.namespace());
    let mut say = |part: String, text: String| {
        let subject = format!("VirtualService {}/{} {part}", meta.key.namespace, meta.key.name);
        found.insert(Note { origin: Some(meta.source.clone()), subject, text });
    };
    let spec = &rule.resource.spec;
    for (index, http) in spec.http.iter().enumerate() {
        let part = format!("http[{index}]");
        if http.delegate.is_some() {
            say(
                format!("{part}.delegate"),
                "delegates are not followed yet, so this route is left out; write its routes here".into(),
            );
        }
        for text in of_route(http) {
            say(part.clone(), text);
        }
        let mirrors = http.mirror.iter().chain(http.mirrors.iter().map(|m| &m.destination));
        for destination in http.route.iter().map(|r| &r.destination).chain(mirrors) {
            if let Some(text) = of_destination(mesh, destination, rule.namespace(), &scope) {
                say(part.clone(), text);
            }
        }
    }
    let tls = spec.tls.iter().enumerate().map(|(i, r)| (format!("tls[{i}]"), &r.route));
    let tcp = spec.tcp.iter().enumerate().map(|(i, r)| (format!("tcp[{i}]"), &r.route));
    for (part, routes) in tls.chain(tcp) {
        for route in routes {
            if let Some(text) = of_destination(mesh, &route.destination, rule.namespace(), &scope) {
                say(part.clone(), text);
            }
        }
    }
    for (list, wanted, matched) in [
        ("tls", "TLS or HTTPS", spec.tls.iter().flat_map(|r| &r.matches).map(|m| m.port).collect::<Vec<_>>()),
        ("tcp", "TCP, or none", spec.tcp.iter().flat_map(ports_of_tcp).collect()),
    ] {
        if let Some(host) = unreachable(mesh, rule, &scope, &matched, list == "tls") {
            say(
                list.into(),
                format!(
                    "no port of {host} that these routes match has a protocol for them, which is {wanted}; they have no effect"
                ),
            );
        }
    }
    for (index, tcp) in spec.tcp.iter().enumerate() {
        if tcp.matches.iter().any(|m| !m.source_subnet.is_empty()) {
            say(
                format!("tcp[{index}].match.sourceSubnet"),
                "it is not evaluated; use sourceLabels or sourceNamespace".into(),
            );
        }
    }
}

fn ports_of_tcp(route: &TcpRoute) -> Vec<Option<u16>> {
    if route.matches.is_empty() { vec![None] } else { route.matches.iter().map(|m| m.port).collect() }
}

/// The first host of a rule, when routes for connections are for ports `matched` and none of its services has such a port that carries
/// connections by server name, or not by it. Hosts that are no services, and what gateways do, are not judged here.
fn unreachable(
    mesh: &Mesh,
    rule: &MeshVirtualService,
    scope: &Scope,
    matched: &[Option<u16>],
    tls: bool,
) -> Option<String> {
    if matched.is_empty() || !rule.serves_mesh() || rule.gateways.iter().any(|g| **g != *MESH_GATEWAY) {
        return None;
    }
    let written = rule.resource.spec.hosts.first()?;
    let services: Vec<&MeshService> = rule
        .resource
        .spec
        .hosts
        .iter()
        .filter_map(|host| mesh.service_in(&mesh.resolve_host(host, rule.namespace(), scope), scope))
        .map(|service| &**service)
        .collect();
    let carried = |port: &Port| {
        let protocol = protocol_of(port);
        let fits = if tls { protocol.is_tls() } else { protocol.is_tcp() || protocol == Protocol::Auto };
        fits && matched.iter().any(|number| number.is_none_or(|number| number == port.number))
    };
    let reached = services.len() < rule.resource.spec.hosts.len()
        || services.iter().any(|s| s.service.ports.iter().any(&carried));
    (!reached).then(|| written.clone())
}

fn of_route(http: &HttpRoute) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(fault) = &http.fault {
        let delay = fault.delay.as_ref();
        if delay.is_some_and(|d| d.exponential_delay.is_some()) {
            said.push("fault.delay.exponentialDelay injects nothing; use fixedDelay".into());
        }
        if delay.is_some_and(|d| d.percentage.is_none() && d.percent.is_none()) {
            said.push("fault.delay has no percentage and injects nothing; write percentage.value".into());
        }
        if let Some(abort) = &fault.abort {
            if abort.http2_error.is_some() {
                said.push("fault.abort.http2Error injects nothing; use httpStatus or grpcStatus".into());
            }
            if abort.percentage.is_none() {
                said.push("fault.abort has no percentage and injects nothing; write percentage.value".into());
            }
        }
    }
    let claims = http.matches.iter().flat_map(|m| m.headers.keys().chain(m.without_headers.keys()));
    if claims.into_iter().any(|name| is_claim(name)) {
        said.push(
            "conditions on token claims never hold, in `withoutHeaders` neither: tokens are not checked yet".into(),
        );
    }
    said
}

fn of_destination(mesh: &Mesh, to: &Destination, namespace: &str, scope: &Scope) -> Option<String> {
    let host = mesh.resolve_host(&to.host, namespace, scope);
    let Some(service) = mesh.service_in(&host, scope) else {
        return Some(format!("no service is called {host}; its share of requests is answered with 503"));
    };
    let port = to.port.as_ref().map(|p| p.number);
    if let Some(port) = port.filter(|port| service.service.ports.iter().all(|p| p.number != *port)) {
        return Some(format!("{host} has no port {port}; its share of requests is answered with 503"));
    }
    if to.subset.is_empty() {
        return None;
    }
    let rule = mesh.destination_rule_for(&service.service, scope);
    let known = rule.is_some_and(|r| r.spec.subsets.iter().any(|s| s.name == to.subset));
    (!known).then(|| {
        let subset = &to.subset;
        format!("no DestinationRule of {host} declares the subset {subset}; its share of requests is answered with 503")
    })
}

fn of_destination_rule(rule: &MeshDestinationRule, found: &mut BTreeSet<Note>) {
    let whole = rule.spec.traffic_policy.iter().map(|p| ("trafficPolicy".to_owned(), p));
    let parts =
        rule.spec.subsets.iter().filter_map(|s| Some((format!("subset {}", s.name), s.traffic_policy.as_ref()?)));
    for (part, policy) in whole.chain(parts) {
        for text in of_policy(policy) {
            let subject = format!("DestinationRule {}/{} {part}", rule.key.namespace, rule.key.name);
            found.insert(Note { origin: rule.origins.first().cloned(), subject, text: text.to_owned() });
        }
    }
}

fn of_policy(policy: &TrafficPolicy) -> Vec<&'static str> {
    let mut said = Vec::new();
    let ports = &policy.port_level_settings;
    let tls: Vec<_> = policy.tls.iter().chain(ports.iter().filter_map(|p| p.tls.as_ref())).collect();
    if tls.iter().any(|t| t.mode == ClientTlsMode::IstioMutual) {
        said.push("tls.mode ISTIO_MUTUAL: mesh identities are not issued yet, so this traffic is PLAIN TEXT");
    }
    if tls.iter().any(|t| !t.credential_name.is_empty()) {
        said.push("tls.credentialName: secrets are not served yet, so no client certificate is sent; use file paths");
    }
    let balancers: Vec<_> =
        policy.load_balancer.iter().chain(ports.iter().filter_map(|p| p.load_balancer.as_ref())).collect();
    if balancers.iter().any(|lb| lb.zone_aware_lb_setting.is_some()) {
        said.push("loadBalancer.zoneAwareLbSetting is not done yet; use localityLbSetting");
    }
    if policy.tunnel.is_some() {
        said.push("tunnel is not done yet: connections go straight to the destination");
    }
    let outliers: Vec<_> =
        policy.outlier_detection.iter().chain(ports.iter().filter_map(|p| p.outlier_detection.as_ref())).collect();
    if outliers.iter().any(|o| o.consecutive_errors.is_some()) {
        said.push("outlierDetection.consecutiveErrors has no effect; use consecutive5xxErrors");
    }
    if outliers.iter().any(|o| !o.outlier_detection_http_error_codes.is_empty()) {
        said.push("outlierDetection.outlierDetectionHttpErrorCodes is not done yet: every 5xx counts");
    }
    said
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;
    use crate::translate::fixture::mesh;

    #[test]
    fn what_is_not_done_is_said_by_name_and_place() {
        let mesh = mesh()
            .service("a", |s| s.http(80))
            .destination_rule("a", json!({"host": "a", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}, "tunnel": {"targetHost": "b", "targetPort": 1}}}))
            .virtual_service(
                "v",
                json!({"hosts": ["a"], "http": [
                    {"match": [{"uri": {"exact": "/d"}}], "delegate": {"name": "x"}},
                    {"fault": {"abort": {"httpStatus": 500}}, "route": [
                        {"destination": {"host": "a", "subset": "v9"}, "weight": 1},
                        {"destination": {"host": "nobody"}, "weight": 1},
                        {"destination": {"host": "a", "port": {"number": 81}}, "weight": 1},
                    ]},
                ]}),
            )
            .build();
        let said: Vec<String> =
            notes(&mesh).into_iter().map(|n| format!("{} {}: {}", n.origin.unwrap(), n.subject, n.text)).collect();
        insta::assert_debug_snapshot!(said);
    }

    #[test]
    fn nothing_is_said_about_what_is_done() {
        let mesh = mesh()
            .service("a", |s| s.http(80))
            .destination_rule("a", json!({"host": "a", "subsets": [{"name": "v1"}]}))
            .virtual_service(
                "v",
                json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a", "subset": "v1"}}]}]}),
            )
            .build();
        assert_eq!(notes(&mesh), []);
    }
}
