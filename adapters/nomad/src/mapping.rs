//! From Nomad's words to the model's: one service with its instances in, services and endpoints out. No I/O, no clocks.
//!
//! - ALWAYS: one instance that makes no sense is left out with a reason; the others of its service stay.
//! - ALWAYS: equal input maps to equal output, in any order of instances.
//! - NEVER: an instance joins a name that the operator has not opened to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use xebec_pilot::model::{
    Address, Distribution, Endpoint, Health, Labels, Locality, Port, Protocol, RegistryId, Resolution, Service,
    ServiceKey, Visibility,
};
use xebec_pilot::registry::{Skip, quote};

use crate::settings::Settings;
use crate::wire::{Allocation, Node, Row};

/// The tag with the port that clients dial.
const PORT_TAG: &str = "mesh-port";
/// The tag with the protocol that is spoken there.
const PROTOCOL_TAG: &str = "protocol";
/// The tag with the port on 127.0.0.1 that the application itself listens on, behind a proxy that listens on the service's.
const APP_PORT_TAG: &str = "mesh-app-port";
/// The tag with another service's hostname.
const HOSTNAME_TAG: &str = "mesh-hostname";
/// The tag with that service's namespace.
const NAMESPACE_TAG: &str = "mesh-namespace";
/// The tag with the name of that service's port.
const PORT_NAME_TAG: &str = "mesh-port-name";
/// The label with the job's ID.
const JOB_LABEL: &str = "nomad-job";
/// The label with the task group's name.
const GROUP_LABEL: &str = "nomad-group";
/// The port that clients dial where nothing else is declared.
const DEFAULT_PORT: u16 = 80;
/// The ports that Nomad chooses itself unless told otherwise. They change with every allocation: nobody can know them to dial them.
const DYNAMIC_PORTS: RangeInclusive<u16> = 20_000..=32_000;
/// The most labels that one instance's tags make, and the most bytes of one.
const MOST_LABELS: usize = 64;
const LONGEST_LABEL: usize = 253;
/// The most wrong tags of one instance of which each has a reason of its own.
const MOST_WRONG: usize = 8;

/// What does not change from one mapping to the next.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) settings: Arc<Settings>,
    pub(crate) registry: RegistryId,
    /// The region of every endpoint.
    pub(crate) region: Arc<str>,
}

/// Everything that is known beside the instances themselves.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) allocations: HashMap<Arc<str>, Allocation>,
    /// Every allocation that ran when the table had this index is among them. 0: they were never listed.
    pub(crate) allocations_as_of: u64,
    pub(crate) nodes: HashMap<Arc<str>, Node>,
    /// By allocation and service: whether all checks succeed.
    pub(crate) checks: HashMap<Arc<str>, BTreeMap<Arc<str>, bool>>,
}

/// A service with endpoints that one Nomad service contributes.
pub(crate) type Mapped = BTreeMap<ServiceKey, (Arc<Service>, Vec<Endpoint>)>;

/// The tags of one instance, read once.
#[derive(Debug, Default)]
struct Tags {
    labels: Labels,
    port: Option<u16>,
    protocol: Option<Protocol>,
    app_port: Option<u16>,
    hostname: Option<String>,
    namespace: Option<String>,
    port_name: Option<String>,
}

/// Maps the Nomad service `name` of `namespace`, whose instances are `rows`.
pub(crate) fn map<'a>(
    rules: &Rules,
    namespace: &str,
    name: &str,
    rows: impl Iterator<Item = &'a Row>,
    around: &Surroundings,
) -> (Mapped, Vec<Skip>) {
    let mut skips = Vec::new();
    let mut mapped = Mapped::new();
    if !is_label(name) || !is_label(namespace) {
        let detail =
            format!("the service {} of the namespace {} makes no DNS name; rename it", quote(name), quote(namespace));
        skips.push(Skip { reason: "invalid_name", detail });
        return (mapped, skips);
    }
    let mut rows: Vec<&Row> = rows.filter(|row| wanted(rules, row)).collect();
    rows.sort_by(|a, b| (a.create_index, &a.id).cmp(&(b.create_index, &b.id)));
    let mut instances: Vec<(&Row, Tags, IpAddr, u16)> = Vec::with_capacity(rows.len());
    for row in rows {
        let mut skip = |reason, why: String| {
            skips.push(Skip { reason, detail: format!("instance {}: {why}", quote(&row.id)) });
        };
        let tags = read_tags(&row.tags, &mut skip);
        for (what, text) in [("job", &row.job_id), ("datacenter", &row.datacenter)] {
            if !is_plain(text) {
                skip(
                    "invalid_name",
                    format!(
                        "the {what} {} is longer than {LONGEST_LABEL} bytes or has control characters; it is not made use of",
                        quote(text)
                    ),
                );
            }
        }
        match (address(&row.address), u16::try_from(row.port).ok().filter(|port| *port != 0)) {
            (Some(address), Some(port)) => instances.push((row, tags, address, port)),
            (None, _) => skip(
                "invalid_address",
                format!("{} is no IP address that can be reached; it is left out", quote(&row.address)),
            ),
            (_, None) => {
                skip("invalid_port", format!("{} is no port; give the service a `port`; it is left out", row.port))
            }
        }
    }
    let key = ServiceKey::new(&format!("{name}.{namespace}.service.nomad"), namespace);
    let ports = service_ports(&instances, &key, &mut skips);
    let service = |key: ServiceKey, ports: Vec<Port>, created| Service {
        key,
        addresses: Vec::new(),
        ports,
        resolution: Resolution::Static,
        external: false,
        visibility: Visibility::Public,
        labels: Labels::new(),
        aliases: Vec::new(),
        created,
        registry: rules.registry.clone(),
        origin: None,
        distribution: Distribution::default(),
    };
    let mut native = Vec::with_capacity(instances.len());
    for (row, tags, address, port) in &instances {
        let own = ports.iter().map(|p| (Arc::clone(&p.name), *port)).collect();
        let endpoint = endpoint(rules, row, tags, *address, own, around);
        match joined(rules, row, tags) {
            Ok(Some(other)) => {
                let entry = mapped.entry(other.clone());
                // Whoever has the name as its own decides about its ports; of guests, the oldest what they are called.
                let (joined, guests) = entry.or_insert_with(|| {
                    (Arc::new(service(other, renamed(&ports, tags.port_name.as_deref()), u64::MAX)), Vec::new())
                });
                let mut guest = endpoint.clone();
                guest.ports = joined.ports.iter().map(|p| (Arc::clone(&p.name), *port)).collect();
                guest.app = application(tags, &guest.ports);
                guests.push(guest);
            }
            Ok(None) => {}
            Err(skip) => skips.push(skip),
        }
        native.push(endpoint);
    }
    mapped.insert(key.clone(), (Arc::new(service(key, ports, 0)), native));
    for (_, endpoints) in mapped.values_mut() {
        endpoints.sort_by(|a, b| order(a).cmp(&order(b)));
    }
    // All instances of a job have the same tags.
    let mut seen = HashSet::new();
    skips.retain(|skip| seen.insert(skip.clone()));
    (mapped, skips)
}

/// Ports whose first one is called so, unless that is another one's name.
fn renamed(ports: &[Port], name: Option<&str>) -> Vec<Port> {
    let mut ports = ports.to_vec();
    if let Some(name) = name.filter(|name| ports.iter().all(|port| *port.name != **name))
        && let Some(first) = ports.first_mut()
    {
        first.name = name.into();
    }
    ports
}

fn order(endpoint: &Endpoint) -> (Option<IpAddr>, Option<u16>, Option<&str>) {
    let ip = match &endpoint.address {
        Address::Ip(ip) => Some(*ip),
        _ => None,
    };
    (ip, endpoint.ports.values().next().copied(), endpoint.workload.as_deref())
}

fn wanted(rules: &Rules, row: &Row) -> bool {
    rules.settings.services.tags.iter().all(|tag| row.tags.iter().any(|t| **t == **tag))
}

/// The ports that clients dial. What instances declare must agree; the oldest is believed.
fn service_ports(instances: &[(&Row, Tags, IpAddr, u16)], key: &ServiceKey, skips: &mut Vec<Skip>) -> Vec<Port> {
    let first = |what: &str, values: Vec<String>| -> Option<Skip> {
        let distinct: BTreeSet<&String> = values.iter().collect();
        let (first, true) = (values.first()?, distinct.len() > 1) else { return None };
        let detail = format!(
            "{key}: its instances declare several values for the tag {what}; {first}, of the oldest, is in effect"
        );
        Some(Skip { reason: "conflicting_tags", detail })
    };
    let declared: Vec<u16> = instances.iter().filter_map(|(_, tags, ..)| tags.port).collect();
    let protocols: Vec<Protocol> = instances.iter().filter_map(|(_, tags, ..)| tags.protocol).collect();
    skips.extend(first(PORT_TAG, declared.iter().map(ToString::to_string).collect()));
    skips.extend(first(PROTOCOL_TAG, protocols.iter().map(|p| protocol_name(*p).to_owned()).collect()));
    let protocol = protocols.first().copied().unwrap_or(Protocol::Http);
    let name = protocol_name(protocol);
    let main = declared.first().copied();
    let mut ports = vec![Port { name: name.into(), number: main.unwrap_or(DEFAULT_PORT), protocol }];
    let mut own: Vec<u16> = instances.iter().map(|(.., port)| *port).collect();
    own.dedup();
    if let (None, [shared]) = (main, own.as_slice())
        && *shared != DEFAULT_PORT
        && !DYNAMIC_PORTS.contains(shared)
    {
        ports.push(Port { name: format!("{name}-{shared}").into(), number: *shared, protocol });
    }
    ports
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http | Protocol::Auto => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::GrpcWeb => "grpc-web",
        Protocol::Https => "https",
        Protocol::Tls => "tls",
        Protocol::Tcp => "tcp",
        Protocol::Mongo => "mongo",
        Protocol::Redis => "redis",
        Protocol::MySql => "mysql",
        Protocol::Udp => "udp",
    }
}

fn endpoint(
    rules: &Rules,
    row: &Row,
    tags: &Tags,
    address: IpAddr,
    ports: BTreeMap<Arc<str>, u16>,
    around: &Surroundings,
) -> Endpoint {
    let node = around.nodes.get(&row.node_id);
    let allocation = around.allocations.get(&row.alloc_id);
    let mut labels = tags.labels.clone();
    if is_plain(&row.job_id) {
        labels.insert(JOB_LABEL.into(), Arc::clone(&row.job_id));
    }
    if let Some(group) = allocation.map(|allocation| &allocation.task_group).filter(|group| is_plain(group)) {
        labels.insert(GROUP_LABEL.into(), Arc::clone(group));
    }
    Endpoint {
        address: Address::Ip(address),
        app: application(tags, &ports),
        ports,
        labels,
        locality: locality(rules, row, node),
        weight: 1,
        service_account: named(&row.job_id),
        workload: named(&row.alloc_id),
        network: "".into(),
        node: node.and_then(|node| named(&node.name)),
        health: health(row, allocation, node, around),
    }
}

/// Where the application listens behind its own proxy, for each port by name.
fn application(tags: &Tags, ports: &BTreeMap<Arc<str>, u16>) -> BTreeMap<Arc<str>, SocketAddr> {
    let at = tags.app_port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    at.map(|at| ports.keys().map(|name| (Arc::clone(name), at)).collect()).unwrap_or_default()
}

fn locality(rules: &Rules, row: &Row, node: Option<&Node>) -> Locality {
    let meta = |key: &str| node.and_then(|node| node.meta.as_ref()?.get(key)).filter(|value| is_plain(value)).cloned();
    let attribute =
        |key: &str| node.and_then(|node| node.attributes.as_ref()?.get(key)).filter(|v| is_plain(v)).cloned();
    let keys = &rules.settings.locality_meta;
    let zone = meta(&keys.zone).or_else(|| {
        ["platform.aws.placement.availability-zone", "platform.gce.zone", "platform.azure.zone"]
            .iter()
            .find_map(|key| attribute(key))
    });
    Locality {
        region: Arc::clone(&rules.region),
        zone: zone.or_else(|| named(&row.datacenter)).unwrap_or_else(|| "".into()),
        subzone: meta(&keys.subzone).unwrap_or_else(|| "".into()),
    }
}

/// Whether an instance takes traffic, from what is known about its node, its allocation and its checks.
fn health(row: &Row, allocation: Option<&Allocation>, node: Option<&Node>, around: &Surroundings) -> Health {
    if node.is_some_and(|node| matches!(&*node.status, "down" | "disconnected")) {
        return Health::Unhealthy;
    }
    let Some(allocation) = allocation else {
        // It is older than a complete list of what runs, and not in it: it does not run. Else nothing is known against it.
        return if row.create_index < around.allocations_as_of { Health::Unhealthy } else { Health::Healthy };
    };
    if &*allocation.client_status != "running" {
        return Health::Unhealthy;
    }
    if matches!(&*allocation.desired_status, "stop" | "evict") || allocation.desired_transition.migrate == Some(true) {
        return Health::Draining;
    }
    let broken = |task: &crate::wire::TaskState| task.failed || (&*task.state == "pending" && task.restarts > 0);
    if allocation.task_states.values().any(broken) {
        return Health::Unhealthy;
    }
    match around.checks.get(&row.alloc_id).and_then(|checks| checks.get(&row.service_name)) {
        Some(false) => return Health::Unhealthy,
        Some(true) => {}
        // What a deployment found is said once, and is older than any check.
        None if allocation.deployment_status.healthy == Some(false) => return Health::Unhealthy,
        None => {}
    }
    // Its allocations move away one by one. Until each one's turn comes it serves, but others are better.
    if node.is_some_and(Node::drains) { Health::Degraded } else { Health::Healthy }
}

/// The other service that an instance joins, where it asks for one.
fn joined(rules: &Rules, row: &Row, tags: &Tags) -> Result<Option<ServiceKey>, Skip> {
    let Some(hostname) = &tags.hostname else { return Ok(None) };
    let skip = |reason, why: String| Err(Skip { reason, detail: format!("job {}: {why}", quote(&row.job_id)) });
    let hostname = hostname.to_ascii_lowercase();
    if hostname.len() > LONGEST_LABEL || !hostname.split('.').all(is_label) {
        return skip("invalid_hostname", format!("{HOSTNAME_TAG}={} is no hostname", quote(&hostname)));
    }
    let allowed = |pattern: &String| match pattern.strip_prefix("*.") {
        Some(suffix) => hostname.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => hostname == *pattern,
    };
    if !rules.settings.mesh_hostnames.iter().any(allowed) {
        return skip(
            "hostname_not_allowed",
            format!("{HOSTNAME_TAG}={} is not allowed by the operator's meshHostnames", quote(&hostname)),
        );
    }
    // `<svc>.<namespace>.svc.<domain>` says its namespace itself.
    let mut parts = hostname.split('.').skip(1);
    let implied = parts.next().filter(|_| parts.next() == Some("svc"));
    let namespace = match (implied, tags.namespace.as_deref()) {
        (Some(implied), Some(other)) if implied != other => {
            return skip(
                "invalid_hostname",
                format!("{HOSTNAME_TAG}={} is not in the namespace {NAMESPACE_TAG}={}", quote(&hostname), quote(other)),
            );
        }
        (Some(implied), _) => implied,
        (None, Some(given)) if is_label(given) => given,
        (None, Some(given)) => {
            return skip("invalid_hostname", format!("{NAMESPACE_TAG}={} is no namespace", quote(given)));
        }
        (None, None) => &row.namespace,
    };
    Ok(Some(ServiceKey::new(&hostname, namespace)))
}

/// Reads tags: `key=value` and `key|value` are labels, and so is a plain tag, with an empty value.
fn read_tags(tags: &[Arc<str>], skip: &mut impl FnMut(&'static str, String)) -> Tags {
    let mut read = Tags::default();
    let (mut count, mut full) = (0, false);
    let mut wrong = |why: String| {
        count += 1;
        if count <= MOST_WRONG {
            skip("invalid_tag", why);
        }
    };
    for tag in tags {
        let at = tag.find(['=', '|']);
        let (key, value) = at.map_or((&**tag, ""), |at| (&tag[..at], &tag[at + 1..]));
        match key {
            PORT_TAG | APP_PORT_TAG => match value.parse::<u16>().ok().filter(|port| *port != 0) {
                Some(port) => {
                    let slot = if key == PORT_TAG { &mut read.port } else { &mut read.app_port };
                    slot.get_or_insert(port);
                }
                None => wrong(format!("{key}={} is no port", quote(value))),
            },
            PROTOCOL_TAG => match Protocol::parse(value) {
                Some(protocol) => read.protocol = read.protocol.or(Some(protocol)),
                None => wrong(format!("{PROTOCOL_TAG}={} is no protocol that is known", quote(value))),
            },
            HOSTNAME_TAG => read.hostname = read.hostname.or_else(|| Some(value.to_owned())),
            NAMESPACE_TAG => read.namespace = read.namespace.or_else(|| Some(value.to_owned())),
            PORT_NAME_TAG if is_label(value) => read.port_name = read.port_name.or_else(|| Some(value.to_owned())),
            PORT_NAME_TAG => wrong(format!("{PORT_NAME_TAG}={} is no port's name", quote(value))),
            _ if !is_key(key) || !is_plain(value) => {
                // Tags are also read by others, in languages of their own: only what is out of measure is worth a word.
                if tag.len() > LONGEST_LABEL {
                    wrong(format!("the tag {} is longer than {LONGEST_LABEL} bytes; it makes no label", quote(tag)));
                }
            }
            _ if read.labels.len() >= MOST_LABELS => {
                full = true;
                break;
            }
            _ => {
                read.labels.entry(key.into()).or_insert_with(|| value.into());
            }
        }
    }
    if full {
        skip("too_many_tags", format!("only {MOST_LABELS} of its {} tags make labels", tags.len()));
    }
    if count > MOST_WRONG {
        skip("invalid_tag", format!("{} more of its tags are wrong", count - MOST_WRONG));
    }
    read
}

/// An address that others can dial.
fn address(text: &str) -> Option<IpAddr> {
    // A zone names an interface of the instance's own machine, and a link-local address of IPv6 means nothing without one.
    text.parse::<IpAddr>().ok().filter(|ip| match ip.to_canonical() {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local(),
    })
}

/// A name that says something and does no harm.
fn named(text: &Arc<str>) -> Option<Arc<str>> {
    (!text.is_empty() && is_plain(text)).then(|| Arc::clone(text))
}

/// A DNS label (RFC 1035 section 2.3.1), in any case; names of Nomad services are such.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_key(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    (1..=LONGEST_LABEL).contains(&text.len()) && text.bytes().all(legal)
}

fn is_plain(text: &str) -> bool {
    text.len() <= LONGEST_LABEL && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
