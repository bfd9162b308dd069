//! Route tables and their virtual hosts.
//!
//! A table is named after its port (`9080`), or `http_proxy` for the explicit HTTP proxy, which knows every host under `host:port`, or
//! `host:port` for one service behind a virtual address whose protocol is found out by looking. The table of an HTTP proxy that a Sidecar
//! resource declares is named after its port, and knows every host that is imported there under `host:port`.

use std::sync::Arc;

use bytes::Bytes;
use xebec_galley::SourceRef;
use xebec_proto::envoy::config::route::v3 as route;

use super::super::route::{Context, answer, of_rule, to_cluster, to_service};
use super::super::wire::{ads, bool_value, encode, join_virtual_hosts, u32_value};
use super::super::{Draft, View, names};
use super::egress;
use super::listeners::{Traffic, traffic};
use crate::mesh::{MESH_GATEWAY, MeshService};
use crate::model::Port;
use crate::resources::ResourceType;

/// Direct responses may be this long.
pub(in crate::translate) const LONGEST_BODY: u32 = 1 << 20;

/// What a route table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table<'a> {
    /// One port of all services.
    Port(u16),
    /// All HTTP ports of all services that an HTTP proxy reaches, by `host:port`.
    Proxy,
    /// One port of one service.
    Single(&'a str, u16),
}

/// The route tables in which a service has virtual hosts, each once.
pub fn route_names(view: &View<'_>, service: &MeshService) -> Vec<Arc<str>> {
    let mut found: Vec<Arc<str>> = Vec::new();
    let mut add = |name: Arc<str>| {
        if !found.contains(&name) {
            found.push(name);
        }
    };
    for port in &service.service.ports {
        let (routed, single) = match traffic(view, service, port) {
            Traffic::Http => (true, false),
            // Each virtual address has a listener of its own, and its own table.
            Traffic::Sniffed => (true, listens_alone(view, service)),
            Traffic::Tcp | Traffic::Tls | Traffic::Nothing => (false, false),
        };
        if !routed {
            continue;
        }
        if single {
            add(format!("{}:{}", service.host(), port.number).into());
        }
        add(port.number.to_string().into());
        if view.shape.http_proxy_port.is_some() {
            add(names::HTTP_PROXY_ROUTE.into());
        }
    }
    for (_, table) in egress::http_proxies(view) {
        if service.service.ports.iter().any(|port| in_declared_proxy(view, &table, service, port)) {
            add(table);
        }
    }
    found
}

/// Whether a port is behind the HTTP proxy that a Sidecar resource declares with this route table.
fn in_declared_proxy(view: &View<'_>, table: &str, service: &MeshService, port: &Port) -> bool {
    let key = &service.service.key;
    egress::is_proxied(port) && egress::proxy_imports(view, table, &key.namespace, &key.hostname) == Some(true)
}

fn listens_alone(view: &View<'_>, service: &MeshService) -> bool {
    view.is_intercepted() && service.service.addresses.iter().any(|a| a.prefix_len() == a.max_prefix_len())
}

/// The virtual hosts of `host` in the route table `route_name`: none when it has no such port or is not imported, several in
/// `http_proxy`. `host` is a service's, or one that only a VirtualService has (see `Mesh::rule_only_hosts`), which exists on port 80.
pub fn virtual_hosts(view: &View<'_>, route_name: &str, host: &str) -> Vec<Draft> {
    let Some(table) = Table::of(view, route_name) else { return Vec::new() };
    if host == "*" {
        // It takes the place of the table's own catch-all: two hosts of one table may not share a domain.
        return Vec::new();
    }
    let Some(service) = view.service(host) else {
        return match table {
            Table::Port(80) | Table::Proxy => rule_only(view, table, route_name, host).into_iter().collect(),
            _ => Vec::new(),
        };
    };
    service
        .service
        .ports
        .iter()
        .filter(|port| match table {
            Table::Port(number) => port.number == number,
            Table::Proxy => true,
            Table::Single(name, number) => name == host && port.number == number,
        })
        .filter(|port| match table {
            Table::Proxy if route_name != names::HTTP_PROXY_ROUTE => in_declared_proxy(view, route_name, service, port),
            _ => matches!(traffic(view, service, port), Traffic::Http | Traffic::Sniffed),
        })
        .map(|port| of_service(view, table, route_name, service, port))
        .collect()
}

fn of_service(view: &View<'_>, table: Table<'_>, route_name: &str, service: &MeshService, port: &Port) -> Draft {
    let context = Context { view: *view, gateway: MESH_GATEWAY.into(), port: port.number, grpc: false };
    let mut origins: Vec<SourceRef> = Vec::new();
    let rules = view.mesh.virtual_services_for(service.host(), MESH_GATEWAY, view.scope);
    let routed = rules.into_iter().find_map(|rule| {
        let routes = of_rule(&context, rule);
        (!routes.is_empty()).then_some((routes, rule))
    });
    let routes = match routed {
        Some((routes, rule)) => {
            origins.push(rule.resource.meta.source.clone());
            routes
        }
        None => vec![to_service(&context, service, port)],
    };
    if let Some(rule) = view.rule_of(service) {
        origins.extend(rule.origins.iter().cloned());
    }
    origins.extend(service.origin.clone());
    let domains = match table {
        Table::Single(..) => vec!["*".to_owned()],
        Table::Port(_) => domains(view, service, port.number),
        Table::Proxy => with_port(domains(view, service, port.number), port.number),
    };
    draft(route_name, format!("{}:{}", service.host(), port.number), domains, routes, origins)
}

fn rule_only(view: &View<'_>, table: Table<'_>, route_name: &str, host: &str) -> Option<Draft> {
    const PORT: u16 = 80;
    let context = Context { view: *view, gateway: MESH_GATEWAY.into(), port: PORT, grpc: false };
    let rules = view.mesh.virtual_services_for(host, MESH_GATEWAY, view.scope);
    let (routes, rule) = rules.into_iter().find_map(|rule| {
        let routes = of_rule(&context, rule);
        (!routes.is_empty()).then_some((routes, rule))
    })?;
    if egress::proxy_imports(view, route_name, rule.namespace(), host) == Some(false) {
        return None;
    }
    let mut domains = vec![host.to_owned()];
    if !host.starts_with('*') {
        domains.extend(kubernetes_short_names(view, host, PORT));
        domains.push(format!("{host}."));
    }
    if table == Table::Proxy {
        domains = with_port(domains, PORT);
    }
    let origins = vec![rule.resource.meta.source.clone()];
    Some(draft(route_name, format!("{host}:{PORT}"), domains, routes, origins))
}

fn draft(
    route_name: &str,
    name: String,
    domains: Vec<String>,
    routes: Vec<route::Route>,
    origins: Vec<SourceRef>,
) -> Draft {
    let resource = format!("{route_name}/{name}");
    let host = route::VirtualHost { name, domains, routes, include_request_attempt_count: true, ..Default::default() };
    Draft::new(ResourceType::VirtualHost, resource, encode(&host), origins)
}

/// The names under which clients ask for a service, each owned by it alone: two virtual hosts of one table may not share a domain.
fn domains(view: &View<'_>, service: &MeshService, port: u16) -> Vec<String> {
    let host = service.host();
    let key = &service.service.key;
    let mut found = vec![host.to_string()];
    if host.starts_with('*') {
        return found;
    }
    found.extend(kubernetes_short_names(view, host, port));
    found.push(format!("{host}."));
    for alias in &service.service.aliases {
        let owned = view.service(alias).is_none()
            && view.mesh.owner_of_alias(alias, view.scope).is_some_and(|owner| owner.service.key == *key);
        if owned && !found.iter().any(|d| d.eq_ignore_ascii_case(alias)) {
            found.push(alias.to_string());
        }
    }
    for address in &service.service.addresses {
        let single = address.prefix_len() == address.max_prefix_len();
        if single && view.mesh.owner_of_address(*address, view.scope).is_some_and(|o| o.service.key == *key) {
            found.push(names::url_host(address.addr()));
        }
    }
    found
}

/// `svc`, `svc.ns` and `svc.ns.svc` for a host of the client's own Kubernetes domain, as far as nobody else has these names.
fn kubernetes_short_names(view: &View<'_>, host: &str, port: u16) -> Vec<String> {
    let own = &view.shape.dns_domain;
    let domain = own.split_once('.').map(|(_, rest)| rest).filter(|rest| rest.starts_with("svc."));
    let fallback;
    let domain = match domain {
        Some(domain) => domain,
        None => {
            fallback = format!("svc.{}", view.mesh.domain);
            &fallback
        }
    };
    let Some(qualified) = host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) else {
        return Vec::new();
    };
    let Some((name, namespace)) = qualified.split_once('.').filter(|(_, ns)| !ns.contains('.')) else {
        return Vec::new();
    };
    let mut short = Vec::with_capacity(3);
    if namespace == view.namespace() {
        short.push(name.to_owned());
    }
    short.push(qualified.to_owned());
    short.push(format!("{qualified}.svc"));
    short.retain(|name| {
        view.service(name).is_none()
            && view.mesh.owner_of_alias(name, view.scope).is_none_or(|owner| **owner.host() == *host)
            && !(port == 80 && view.mesh.is_rule_only_host(name, view.scope))
    });
    short
}

/// A client of an HTTP proxy asks for `host:port`, or for the bare host on port 80.
fn with_port(domains: Vec<String>, port: u16) -> Vec<String> {
    let numbered: Vec<String> = domains.iter().map(|d| format!("{d}:{port}")).collect();
    if port == 80 { domains.into_iter().chain(numbered).collect() } else { numbered }
}

/// A route table around its virtual hosts, `hosts`, which are in the order of their names. Clients that are served virtual hosts
/// one by one get the table without them.
pub fn route_frame(view: &View<'_>, route_name: &str, hosts: &[Bytes]) -> Draft {
    let table = Table::of(view, route_name);
    let mut origins = Vec::new();
    let virtual_hosts = match table {
        Some(Table::Single(..)) => Vec::new(),
        _ => {
            let (host, origin) = catch_all(view, table);
            origins.extend(origin);
            vec![host]
        }
    };
    let frame = route::RouteConfiguration {
        name: route_name.to_owned(),
        virtual_hosts,
        vhds: view.shape.vhds.then(|| route::Vhds { config_source: Some(ads()) }),
        validate_clusters: bool_value(false),
        max_direct_response_body_size_bytes: u32_value(LONGEST_BODY),
        ignore_port_in_host_matching: table != Some(Table::Proxy),
        ..Default::default()
    };
    let body = if view.shape.vhds { encode(&frame) } else { join_virtual_hosts(&frame, hosts.iter()) };
    Draft::new(ResourceType::Route, route_name, body, origins)
}

/// What happens to requests for a host that nobody has.
fn catch_all(view: &View<'_>, table: Option<Table<'_>>) -> (route::VirtualHost, Option<SourceRef>) {
    let host = |name: &str, routes: Vec<route::Route>| route::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes,
        include_request_attempt_count: true,
        ..Default::default()
    };
    if matches!(table, Some(Table::Port(80) | Table::Proxy)) && view.mesh.is_rule_only_host("*", view.scope) {
        let context = Context { view: *view, gateway: MESH_GATEWAY.into(), port: 80, grpc: false };
        for rule in view.mesh.virtual_services_for("*", MESH_GATEWAY, view.scope) {
            let routes = of_rule(&context, rule);
            if !routes.is_empty() {
                return (host("*:80", routes), Some(rule.resource.meta.source.clone()));
            }
        }
    }
    // Where the client meant to go is known only of captured connections.
    if view.allows_any() && view.is_intercepted() && table != Some(Table::Proxy) {
        (host("allow_any", vec![to_cluster("allow_any", names::PASSTHROUGH_CLUSTER)]), None)
    } else {
        (host("block_all", vec![answer("block_all", 502)]), None)
    }
}

// === impl Table ===

impl<'a> Table<'a> {
    /// The table that this client has under a name.
    fn of(view: &View<'_>, name: &'a str) -> Option<Self> {
        if egress::is_proxy_table(view, name) {
            return Some(Self::Proxy);
        }
        if let Ok(port) = name.parse() {
            return Some(Self::Port(port));
        }
        let (host, port) = name.rsplit_once(':')?;
        Some(Self::Single(host, port.parse().ok()?))
    }
}
