//! Rules of ServiceEntry and WorkloadEntry.

use std::net::IpAddr;

use super::Findings;
use super::names::{is_dns_name, is_label};
use super::rules;
use crate::spec::{Resolution, ServiceEntry, WorkloadEntry};
use crate::yaml::At;

pub(super) fn check(entry: &ServiceEntry, at: &At<'_>, findings: &mut Findings) {
    let hosts = at.key("hosts");
    if entry.hosts.is_empty() {
        findings.missing(&hosts, "the service has no hosts", "add `hosts:`");
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        if host == "*" {
            findings.invalid(
                &hosts.index(index),
                "`*` alone is not a service's name",
                "write a DNS name, or `*.` and one",
            );
        } else {
            rules::wildcard_host(host, &hosts.index(index), findings);
        }
    }
    rules::unique(entry.hosts.iter().map(String::as_str), "host", &hosts, "", findings);
    ports(entry, &at.key("ports"), findings);
    addresses(entry, &at.key("addresses"), findings);
    if entry.workload_selector.is_some() && !entry.endpoints.is_empty() {
        findings.contradiction(
            &at.key("workloadSelector"),
            "both `workloadSelector` and `endpoints`",
            "keep one of them",
        );
    }
    if let Some(selector) = &entry.workload_selector {
        rules::labels(&selector.labels, &at.key("workloadSelector").key("labels"), findings);
    }
    resolution(entry, at, findings);
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        check_endpoint(endpoint, entry, &at.key("endpoints").index(index), findings);
    }
    rules::export_to(&entry.export_to, &at.key("exportTo"), findings);
}

fn ports(entry: &ServiceEntry, at: &At<'_>, findings: &mut Findings) {
    if entry.ports.is_empty() {
        findings.suspicious(at, "the service has no ports, so nobody can call it", "add `ports:`");
    }
    let mut numbers = Vec::new();
    for (index, port) in entry.ports.iter().enumerate() {
        let at = at.index(index);
        rules::port(port.number, &at.key("number"), findings);
        if let Some(target) = port.target_port {
            rules::port(target, &at.key("targetPort"), findings);
        }
        if numbers.contains(&port.number) {
            findings.invalid(
                &at.key("number"),
                format!("the port {} is listed twice", port.number),
                "keep one of them",
            );
        }
        numbers.push(port.number);
        if port.name.is_empty() {
            findings.missing(&at.key("name"), "the port has no name", "add `name:`");
        } else if !is_label(&port.name.to_ascii_lowercase()) {
            findings.invalid(
                &at.key("name"),
                format!("`{}` is not a port's name", port.name),
                "use letters, digits and hyphens",
            );
        }
        rules::protocol(&port.protocol, false, &at.key("protocol"), findings);
    }
    rules::unique(entry.ports.iter().map(|port| port.name.as_str()), "port name", at, "name", findings);
}

fn addresses(entry: &ServiceEntry, at: &At<'_>, findings: &mut Findings) {
    for (index, address) in entry.addresses.iter().enumerate() {
        let at = at.index(index);
        rules::subnet(address, &at, findings);
        if address.contains('/') && !matches!(entry.resolution, Resolution::None | Resolution::Static) {
            findings.contradiction(
                &at,
                "networks are possible with the resolutions `NONE` and `STATIC` only",
                "list single addresses",
            );
        }
    }
}

fn resolution(entry: &ServiceEntry, at: &At<'_>, findings: &mut Findings) {
    let endpoints = at.key("endpoints");
    match entry.resolution {
        Resolution::None => {
            if !entry.endpoints.is_empty() {
                findings.contradiction(
                    &endpoints,
                    "endpoints have no effect with the resolution `NONE`",
                    "add `resolution: STATIC` or `DNS`",
                );
            }
        }
        Resolution::Static => {
            if entry.endpoints.is_empty() && entry.workload_selector.is_none() {
                findings.suspicious(
                    &endpoints,
                    "with the resolution `STATIC` and no endpoints, all calls fail",
                    "add `endpoints:` or `workloadSelector:`",
                );
            }
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            if entry.endpoints.is_empty() && entry.workload_selector.is_none() {
                for (index, host) in entry.hosts.iter().enumerate() {
                    if host.starts_with('*') {
                        findings.contradiction(
                            &at.key("hosts").index(index),
                            format!("`{host}` cannot be resolved by DNS"),
                            "add `endpoints:`, or use `resolution: DYNAMIC_DNS` or `NONE`",
                        );
                    }
                }
            }
            if entry.resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
                findings.contradiction(
                    &endpoints,
                    "`DNS_ROUND_ROBIN` takes at most one endpoint",
                    "keep one of them, or use `DNS`",
                );
            }
        }
        Resolution::DynamicDns => {
            for (index, host) in entry.hosts.iter().enumerate() {
                if !host.starts_with("*.") {
                    findings.contradiction(
                        &at.key("hosts").index(index),
                        "`DYNAMIC_DNS` is for wildcard hosts",
                        "write `*.` and a name, or use `DNS`",
                    );
                }
            }
            if !entry.endpoints.is_empty() {
                findings.contradiction(&endpoints, "`DYNAMIC_DNS` takes no endpoints", "remove them");
            }
            if !entry.addresses.is_empty() {
                findings.contradiction(&at.key("addresses"), "`DYNAMIC_DNS` takes no addresses", "remove them");
            }
        }
    }
}

fn check_endpoint(endpoint: &WorkloadEntry, entry: &ServiceEntry, at: &At<'_>, findings: &mut Findings) {
    workload(endpoint, at, findings);
    let address = &endpoint.address;
    let socket = address.starts_with("unix://");
    let name = !socket && !address.is_empty() && address.parse::<IpAddr>().is_err();
    if name && entry.resolution == Resolution::Static {
        findings.contradiction(
            &at.key("address"),
            format!("`{address}` is a name, which `STATIC` does not resolve"),
            "write an IP address, or use `resolution: DNS`",
        );
    }
    if socket && entry.resolution != Resolution::Static {
        findings.contradiction(&at.key("address"), "a Unix socket needs the resolution `STATIC`", "");
    }
    if socket && entry.ports.len() > 1 {
        findings.contradiction(&at.key("address"), "a Unix socket serves one port, and the service has several", "");
    }
    for port in endpoint.ports.keys() {
        if !entry.ports.iter().any(|known| known.name == *port) {
            let near = crate::yaml::suggest(port, entry.ports.iter().map(|known| known.name.as_str()));
            let help = near.map_or_else(
                || "use a name of the service's `ports`".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            findings.invalid(&at.key("ports").key(port), format!("the service has no port named `{port}`"), &help);
        }
    }
}

pub(super) fn check_workload(entry: &WorkloadEntry, at: &At<'_>, findings: &mut Findings) {
    workload(entry, at, findings);
}

fn workload(entry: &WorkloadEntry, at: &At<'_>, findings: &mut Findings) {
    let address = at.key("address");
    if let Some(path) = entry.address.strip_prefix("unix://") {
        if !path.starts_with(['/', '@']) || path.ends_with('/') {
            findings.invalid(
                &address,
                format!("`{}` is not a socket", entry.address),
                "write `unix://` and an absolute path, or `unix://@NAME`",
            );
        }
        if !entry.ports.is_empty() {
            findings.contradiction(&at.key("ports"), "a Unix socket has no ports", "remove them");
        }
    } else if entry.address.is_empty() {
        if entry.network.is_empty() {
            findings.missing(
                &address,
                "the address is missing",
                "add `address:`, or `network:` to be reached through its gateway",
            );
        }
    } else if entry.address.parse::<IpAddr>().is_err() && !is_dns_name(&entry.address) {
        findings.invalid(
            &address,
            format!("`{}` is not an address", entry.address),
            "write an IP address, a DNS name, or `unix://` and a path",
        );
    }
    for (name, number) in &entry.ports {
        rules::port(*number, &at.key("ports").key(name), findings);
        if !is_label(&name.to_ascii_lowercase()) {
            findings.invalid(
                &at.key("ports").key(name),
                format!("`{name}` is not a port's name"),
                "use letters, digits and hyphens",
            );
        }
    }
    rules::labels(&entry.labels, &at.key("labels"), findings);
}
