//! What operators wrote and translation does not do, or cannot do: said once per document, by name and place.

use std::collections::BTreeSet;

use xebec_galley::spec::{ClientTlsMode, Destination, HttpRoute, TrafficPolicy};

use super::Note;
use crate::mesh::{Mesh, MeshDestinationRule, MeshVirtualService, Scope};

/// Remarks about every VirtualService and DestinationRule of the mesh, sorted by place. What only a gateway can know is in
/// [`gateway::notes`](super::gateway::notes).
pub fn notes(mesh: &Mesh) -> Vec<Note> {
    let mut found = BTreeSet::new();
    for rule in mesh.virtual_services() {
        of_virtual_service(mesh, rule, &mut found);
    }
    let mut seen = BTreeSet::new();
    for service in mesh.services() {
        let scope = Scope::namespace(&service.service.key.namespace);
        if let Some(rule) = mesh.destination_rule_for(&service.service, &scope)
            && seen.insert(rule.key.clone())
        {
            of_destination_rule(rule, &mut found);
        }
    }
    found.into_iter().collect()
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
    for (index, tcp) in spec.tcp.iter().enumerate() {
        if tcp.matches.iter().any(|m| !m.source_subnet.is_empty()) {
            say(
                format!("tcp[{index}].match.sourceSubnet"),
                "it is not evaluated; use sourceLabels or sourceNamespace".into(),
            );
        }
    }
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
    if claims.into_iter().any(|name| name.starts_with("@request.auth.claims")) {
        said.push("conditions on token claims never hold: tokens are not checked yet".into());
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
