//! What Consul's rows mean as services and endpoints. Pure: rows in, values out.
//!
//! An instance that cannot be taken is skipped with a reason, and the rest of its service stays. An instance belongs to the service of its
//! own name, and also to the one that `mesh-hostname` names, where the operator allows that.

mod fields;
mod ports;
mod words;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use xebec_pilot::model::{
    Address, Distribution, Endpoint, Labels, Protocol, RegistryId, Resolution, Service, ServiceKey, Visibility,
};

use crate::settings::Settings;
use crate::wire::{Instance, NamedPort, Row};
use xebec_pilot::registry::{Skip, quote};

pub(crate) use fields::{is_label, rank};

/// Where the rows come from.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) registry: &'a RegistryId,
    /// The service that was asked for.
    pub(crate) name: &'a str,
    /// The datacenter, where it is not the agent's own.
    pub(crate) remote: Option<&'a str>,
    /// Instances (see [`instance_id`]) that wait for their checks.
    pub(crate) held: &'a HashSet<String>,
}

/// What one Consul service says about one service of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contribution {
    pub(crate) service: Arc<Service>,
    pub(crate) endpoints: Arc<[Endpoint]>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) contributions: Vec<Contribution>,
    pub(crate) skips: Vec<Skip>,
}

/// An instance that was understood.
#[derive(Debug, Clone)]
struct Candidate {
    endpoint: Endpoint,
    port: u16,
    /// Further ports, by name.
    extra: BTreeMap<String, u16>,
    mesh_port: Option<u16>,
    /// Where on 127.0.0.1 the application listens, behind a proxy that listens on `port`.
    app_port: Option<u16>,
    protocol: Option<Protocol>,
}

/// What identifies an instance within a datacenter: service ids are unique per node only.
pub(crate) fn instance_id(row: &Row) -> String {
    format!("{}/{}", row.node.node, row.service.id)
}

/// Whether its node's check is the only one that the instance has.
pub(crate) fn only_node_check(row: &Row) -> bool {
    row.checks.iter().all(|check| check.id == "serfHealth")
}

/// Makes services of the rows of one answer.
pub(crate) fn map(context: &Context<'_>, rows: &[Row]) -> Mapped {
    let mut skips = Vec::new();
    let mut groups: BTreeMap<ServiceKey, Vec<Candidate>> = BTreeMap::new();
    let own = own_key(context);
    let mut words = words::Words::default();
    for row in rows.iter().filter(|row| is_wanted(context.settings, &row.service)) {
        let mut skip = |reason: &'static str, text: String| {
            skips.push(Skip { reason, detail: format!("{}: {text}", quote(&instance_id(row))) });
        };
        let mut candidate = match candidate(context, row, &mut skip) {
            Ok(candidate) => candidate,
            Err((reason, text)) => {
                skip(reason, text);
                continue;
            }
        };
        words.share(&mut candidate.endpoint);
        match joined(context.settings, &row.service) {
            None => {}
            Some(Ok(key)) if key == own => {}
            Some(Ok(key)) => groups.entry(key).or_default().push(candidate.clone()),
            Some(Err(text)) => skip("mesh_hostname", text),
        }
        groups.entry(own.clone()).or_default().push(candidate);
    }
    let contributions =
        groups.into_iter().filter_map(|(key, group)| contribution(context, key, group, &mut skips)).collect();
    Mapped { contributions, skips }
}

fn own_key(context: &Context<'_>) -> ServiceKey {
    let hostname = match context.remote {
        None => format!("{}.service.consul", context.name),
        Some(datacenter) => format!("{}.service.{datacenter}.consul", context.name),
    };
    ServiceKey::new(&hostname, &context.settings.namespace)
}

/// Sidecars and gateways of Consul's own mesh are not services of this one.
fn is_wanted(settings: &Settings, instance: &Instance) -> bool {
    instance.kind.is_empty()
        && settings.services.tags.iter().all(|tag| instance.tags.contains(tag))
        && settings.services.meta.iter().all(|(key, value)| instance.meta.get(key) == Some(value))
}

fn candidate(
    context: &Context<'_>,
    row: &Row,
    skip: &mut impl FnMut(&'static str, String),
) -> Result<Candidate, (&'static str, String)> {
    let Row { node, service, checks } = row;
    if !service.socket_path.is_empty() {
        return Err(("unix_socket", "it listens on a Unix socket, which only its own machine reaches".to_owned()));
    }
    let (address, own_port) = fields::address(row, context.remote.is_some())?;
    let default = service.ports.iter().find(|port| port.default).or(service.ports.first());
    let said = own_port.or(default.map(|port| port.port)).unwrap_or(service.port);
    let port = fields::port(said).ok_or_else(|| ("invalid_port", format!("port {said} is not one")))?;
    let mut extra = BTreeMap::new();
    for further in service.ports.iter().filter(|port| !default.is_some_and(|default| std::ptr::eq(*port, default))) {
        let NamedPort { name, port, .. } = further;
        match fields::port(*port).filter(|_| is_label(name)) {
            Some(number) => drop(extra.insert(name.to_ascii_lowercase(), number)),
            None => skip("invalid_port", format!("port {port} named {}", quote(name))),
        }
    }
    let mut declared_port = |key: &str, reason: &'static str| {
        let text = fields::declared(service, key)?;
        let port = text.trim().parse().ok().and_then(fields::port);
        if port.is_none() {
            skip(reason, format!("{key} {}", quote(text)));
        }
        port
    };
    let mesh_port = declared_port("mesh-port", "invalid_mesh_port");
    let app_port = declared_port("mesh-app-port", "invalid_app_port");
    let protocol = fields::declared(service, "protocol").and_then(|text| {
        let protocol = Protocol::parse(text.trim());
        if protocol.is_none() {
            skip("invalid_protocol", format!("protocol {}", quote(text)));
        }
        protocol
    });
    let (health, weight) = fields::health(checks, service.weights.as_ref(), context.held.contains(&instance_id(row)));
    let endpoint = Endpoint {
        address,
        ports: BTreeMap::new(),
        labels: labels(context.settings, row, skip),
        locality: fields::locality(&context.settings.locality_meta, row),
        weight,
        service_account: None,
        workload: fields::allocation(&service.id).map(Arc::from),
        network: "".into(),
        node: (!node.node.is_empty()).then(|| node.node.as_str().into()),
        health,
        app: BTreeMap::new(),
    };
    Ok(Candidate { endpoint, port, extra, mesh_port, app_port, protocol })
}

fn labels(settings: &Settings, row: &Row, skip: &mut impl FnMut(&'static str, String)) -> Labels {
    let (labels, refused) = fields::labels(&settings.labels_from, row);
    if let Some(first) = refused.first() {
        skip("invalid_label", format!("{} labels, the first: {}", refused.len(), quote(first)));
    }
    labels
}

/// The service of another name that an instance wants to join, or why it may not.
fn joined(settings: &Settings, instance: &Instance) -> Option<Result<ServiceKey, String>> {
    let hostname = fields::declared(instance, "mesh-hostname")?.trim().trim_end_matches('.').to_ascii_lowercase();
    let shown = quote(&hostname);
    if hostname.len() > 253 || !hostname.split('.').all(is_label) {
        return Some(Err(format!("mesh-hostname {shown} is not a DNS name")));
    }
    let allowed = settings.mesh_hostnames.iter().any(|pattern| match pattern.strip_prefix('*') {
        Some(suffix) => hostname.len() > suffix.len() && hostname.ends_with(&suffix.to_ascii_lowercase()),
        None => hostname.eq_ignore_ascii_case(pattern),
    });
    if !allowed {
        return Some(Err(format!("mesh-hostname {shown} is not among the operator's meshHostnames")));
    }
    let parts: Vec<&str> = hostname.split('.').collect();
    // In a cluster's names the namespace is written, and nobody may claim another one.
    let written = match parts.as_slice() {
        [_, namespace, "svc", _, ..] => Some(*namespace),
        _ => None,
    };
    let asked = fields::declared(instance, "mesh-namespace").map(str::trim);
    let namespace = match (written, asked) {
        (Some(written), Some(asked)) if written != asked => {
            return Some(Err(format!("mesh-namespace {} is not that of mesh-hostname {shown}", quote(asked))));
        }
        (_, Some(asked)) if !is_label(asked) => {
            return Some(Err(format!("mesh-namespace {} is not a DNS label", quote(asked))));
        }
        (written, asked) => asked.or(written).unwrap_or(&settings.namespace),
    };
    Some(Ok(ServiceKey::new(&hostname, namespace)))
}

fn contribution(
    context: &Context<'_>,
    key: ServiceKey,
    mut group: Vec<Candidate>,
    skips: &mut Vec<Skip>,
) -> Option<Contribution> {
    let is_name = |candidate: &Candidate| matches!(candidate.endpoint.address, Address::Dns(_));
    let by_name = group.iter().all(is_name);
    if !by_name {
        // A service's endpoints are resolved in one way.
        for candidate in group.iter().filter(|candidate| is_name(candidate)) {
            let detail = format!("{key}: {:?} is a name, while others are IP addresses", candidate.endpoint.address);
            skips.push(Skip { reason: "mixed_addresses", detail });
        }
        group.retain(|candidate| !is_name(candidate));
    }
    if group.is_empty() {
        return None;
    }
    let layout = ports::layout(&key, &group, skips);
    let mut endpoints: Vec<Endpoint> = group.into_iter().map(|candidate| layout.endpoint(candidate)).collect();
    endpoints.sort_by(|a, b| order(a).cmp(&order(b)));
    // Two registrations of one socket are one endpoint, as healthy as the better of them.
    endpoints.dedup_by(|later, first| later.address == first.address && later.ports == first.ports);
    // Whoever has the name as its own decides about everything but the endpoints.
    let created = if key == own_key(context) { 0 } else { u64::MAX };
    let service = Service {
        key,
        addresses: Vec::new(),
        ports: layout.into_ports(),
        resolution: if by_name { Resolution::Dns } else { Resolution::Static },
        external: false,
        visibility: Visibility::Public,
        labels: Labels::new(),
        aliases: Vec::new(),
        created,
        registry: context.registry.clone(),
        origin: None,
        distribution: Distribution::default(),
    };
    Some(Contribution { service: Arc::new(service), endpoints: endpoints.into() })
}

/// The order of endpoints depends on nothing but themselves, so that another order of rows is no change.
fn order(endpoint: &Endpoint) -> impl Ord + '_ {
    let address = match &endpoint.address {
        Address::Ip(ip) => (0, Some(*ip), ""),
        Address::Dns(name) => (1, None, &**name),
        Address::Unix(path) => (2, None, &**path),
    };
    let health = rank(endpoint.health);
    (address, &endpoint.ports, health, &endpoint.node, &endpoint.workload, &endpoint.labels)
}

#[cfg(test)]
mod tests;
