//! Rules of Gateway.

use super::Findings;
use super::names::is_label;
use super::rules;
use crate::spec::{Gateway, Server};
use crate::yaml::At;

pub(super) fn check(gateway: &Gateway, at: &At<'_>, findings: &mut Findings) {
    rules::labels(&gateway.selector, &at.key("selector"), findings);
    let servers = at.key("servers");
    if gateway.servers.is_empty() {
        findings.missing(&servers, "the gateway has no servers", "add `servers:` with a `port:` and `hosts:`");
    }
    for (index, server) in gateway.servers.iter().enumerate() {
        check_server(server, &servers.index(index), findings);
    }
    rules::unique(gateway.servers.iter().map(|server| server.name.as_str()), "server name", &servers, "name", findings);
    let mut named: Vec<(&str, usize)> = Vec::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        let name = server.port.name.as_str();
        if let Some((_, first)) = named.iter().find(|(other, _)| *other == name && !name.is_empty()) {
            findings.invalid(
                &servers.index(index).key("port").key("name"),
                format!("the port name `{name}` is used by `spec.servers[{first}]` too"),
                "give each its own",
            );
        } else {
            named.push((name, index));
        }
    }
}

fn check_server(server: &Server, at: &At<'_>, findings: &mut Findings) {
    let port = at.key("port");
    let socket = server.bind.starts_with("unix://");
    if !socket {
        rules::port(server.port.number, &port.key("number"), findings);
    }
    rules::protocol(&server.port.protocol, true, &port.key("protocol"), findings);
    if server.port.name.is_empty() {
        findings.missing(&port.key("name"), "the port has no name", "add `name:`");
    }
    if server.port.target_port.is_some() {
        findings.deprecated(&port.key("targetPort"), "`targetPort` has no effect on a gateway", "remove it");
    }
    rules::bind(&server.bind, &at.key("bind"), findings);
    let hosts = at.key("hosts");
    if server.hosts.is_empty() {
        findings.missing(&hosts, "the server has no hosts", "add `hosts:`, with `*` for all");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        let at = hosts.index(index);
        let (namespace, name) = host.split_once('/').unwrap_or(("*", host));
        if !matches!(namespace, "*" | ".") && !is_label(namespace) {
            findings.invalid(
                &at,
                format!("`{namespace}` is not a namespace"),
                "write `*/HOST`, `./HOST` or `NAMESPACE/HOST`",
            );
        }
        rules::wildcard_host(name, &at, findings);
    }
    rules::unique(server.hosts.iter().map(String::as_str), "host", &hosts, "", findings);
    let protocol = server.port.protocol.to_ascii_uppercase();
    let secure = matches!(protocol.as_str(), "HTTPS" | "TLS");
    match &server.tls {
        None if secure => findings.missing(
            &at.key("tls"),
            format!("a port of protocol {protocol} needs TLS settings"),
            "add `tls: { mode: … }`",
        ),
        None => {}
        Some(tls) => {
            let at = at.key("tls");
            let redirect_only =
                crate::spec::ServerTlsSettings { https_redirect: tls.https_redirect, ..Default::default() };
            let plain_http = rules::is_protocol(&protocol)
                && matches!(protocol.as_str(), "HTTP" | "HTTP2" | "H2C" | "GRPC" | "GRPC-WEB");
            if plain_http {
                if *tls != redirect_only {
                    findings.contradiction(
                        &at,
                        format!("a port of protocol {protocol} is in plain text, and has TLS settings"),
                        "use protocol `HTTPS`, or keep only `httpsRedirect`",
                    );
                }
            } else {
                rules::server_tls(tls, &at, findings);
                if tls.https_redirect {
                    findings.contradiction(
                        &at.key("httpsRedirect"),
                        "only plain-text HTTP can be redirected to HTTPS",
                        "set it on the server of the HTTP port",
                    );
                }
            }
        }
    }
}
