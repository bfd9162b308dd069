//! Rules of Sidecar.

use std::net::SocketAddr;

use super::Findings;
use super::names::{is_label, is_wildcard_name};
use super::rules;
use crate::spec::{CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicyMode, Sidecar};
use crate::yaml::At;

pub(super) fn check(sidecar: &Sidecar, at: &At<'_>, findings: &mut Findings) {
    let says_nothing = sidecar.ingress.is_empty()
        && sidecar.egress.is_empty()
        && sidecar.outbound_traffic_policy.is_none()
        && sidecar.inbound_connection_pool.is_none();
    if says_nothing {
        findings.missing(
            at,
            "the Sidecar says nothing",
            "add `egress:`, `ingress:`, `outboundTrafficPolicy:` or `inboundConnectionPool:`",
        );
    }
    if let Some(selector) = &sidecar.workload_selector {
        rules::labels(&selector.labels, &at.key("workloadSelector").key("labels"), findings);
    }
    let mut ports = Vec::new();
    for (index, listener) in sidecar.ingress.iter().enumerate() {
        let at = at.key("ingress");
        let at = at.index(index);
        ingress(listener, &at, findings);
        if ports.contains(&listener.port.number) {
            findings.invalid(
                &at.key("port").key("number"),
                format!("the port {} is listed twice", listener.port.number),
                "keep one of them",
            );
        }
        ports.push(listener.port.number);
    }
    let mut catch_all = None;
    let mut ports = Vec::new();
    for (index, listener) in sidecar.egress.iter().enumerate() {
        let at = at.key("egress");
        let at = at.index(index);
        egress(listener, &at, findings);
        let socket = listener.bind.starts_with("unix://");
        match &listener.port {
            None if catch_all.is_some() => {
                findings.contradiction(
                    &at,
                    "there is another listener without a port already",
                    "join them, or give this one a `port:`",
                );
            }
            None => catch_all = Some(index),
            Some(port) => {
                if let Some(first) = catch_all {
                    findings.contradiction(
                        &at,
                        format!("`spec.egress[{first}]`, which has no port, comes before this listener"),
                        "put the one without a port last",
                    );
                }
                if !socket && ports.contains(&port.number) {
                    findings.invalid(
                        &at.key("port").key("number"),
                        format!("the port {} is listed twice", port.number),
                        "keep one of them",
                    );
                }
                ports.push(port.number);
            }
        }
    }
    if let Some(pool) = &sidecar.inbound_connection_pool {
        rules::connection_pool(pool, &at.key("inboundConnectionPool"), findings);
    }
    if let Some(policy) = &sidecar.outbound_traffic_policy
        && let Some(proxy) = &policy.egress_proxy
    {
        let at = at.key("outboundTrafficPolicy");
        let at = at.key("egressProxy");
        rules::destination(proxy, &at, findings);
        if policy.mode != OutboundTrafficPolicyMode::AllowAny {
            findings.contradiction(&at, "an egress proxy needs the mode `ALLOW_ANY`", "set `mode: ALLOW_ANY`");
        }
        if proxy.port.is_none() {
            findings.missing(&at.key("port"), "the egress proxy's port is missing", "add `port: { number: … }`");
        }
    }
}

fn ingress(listener: &IstioIngressListener, at: &At<'_>, findings: &mut Findings) {
    let port = at.key("port");
    rules::port(listener.port.number, &port.key("number"), findings);
    rules::protocol(&listener.port.protocol, false, &port.key("protocol"), findings);
    rules::bind(&listener.bind, &at.key("bind"), findings);
    if listener.bind.starts_with("unix://") {
        findings.invalid(&at.key("bind"), "others cannot call a Unix socket", "write an IP address, or leave it out");
    }
    let endpoint = &listener.default_endpoint;
    if !endpoint.is_empty() && !is_local_endpoint(endpoint) {
        findings.invalid(
            &at.key("defaultEndpoint"),
            format!("`{endpoint}` is not an endpoint of the application"),
            "write `127.0.0.1:PORT`, `0.0.0.0:PORT`, `[::1]:PORT`, `[::]:PORT` or `unix:///PATH`",
        );
    }
    if let Some(tls) = &listener.tls {
        rules::server_tls(tls, &at.key("tls"), findings);
    }
    if let Some(pool) = &listener.connection_pool {
        rules::connection_pool(pool, &at.key("connectionPool"), findings);
    }
}

fn is_local_endpoint(text: &str) -> bool {
    if let Some(path) = text.strip_prefix("unix://") {
        return path.starts_with(['/', '@']) && !path.ends_with('/');
    }
    text.parse::<SocketAddr>()
        .is_ok_and(|address| (address.ip().is_loopback() || address.ip().is_unspecified()) && address.port() != 0)
}

fn egress(listener: &IstioEgressListener, at: &At<'_>, findings: &mut Findings) {
    let socket = listener.bind.starts_with("unix://");
    if let Some(port) = &listener.port {
        if !socket {
            rules::port(port.number, &at.key("port").key("number"), findings);
        }
        rules::protocol(&port.protocol, false, &at.key("port").key("protocol"), findings);
    } else if !listener.bind.is_empty() {
        findings.missing(&at.key("port"), "a listener with `bind` needs a port", "add `port:`");
    }
    rules::bind(&listener.bind, &at.key("bind"), findings);
    if socket && listener.capture_mode == CaptureMode::Iptables {
        findings.contradiction(
            &at.key("captureMode"),
            "connections to a Unix socket cannot be captured",
            "use `DEFAULT` or `NONE`",
        );
    }
    let hosts = at.key("hosts");
    if listener.hosts.is_empty() {
        findings.missing(
            &hosts,
            "the listener has no hosts",
            "add `hosts:`, such as `./*` for the own namespace or `*/*` for all",
        );
    }
    for (index, host) in listener.hosts.iter().enumerate() {
        let Some((namespace, name)) = host.split_once('/') else {
            findings.invalid(
                &hosts.index(index),
                format!("`{host}` has no namespace"),
                "write `NAMESPACE/HOST`, with `*`, `.` or `~` as namespace",
            );
            continue;
        };
        let bare = if namespace.len() > 1 { namespace.strip_prefix('~').unwrap_or(namespace) } else { namespace };
        if !matches!(bare, "*" | "." | "~") && !is_label(bare) {
            findings.invalid(
                &hosts.index(index),
                format!("`{namespace}` is not a namespace"),
                "write `*`, `.`, `~` or a name",
            );
        }
        if !is_wildcard_name(name) {
            findings.invalid(
                &hosts.index(index),
                format!("`{name}` is not a host"),
                "write a DNS name, `*.` and one, or `*`",
            );
        }
    }
}
