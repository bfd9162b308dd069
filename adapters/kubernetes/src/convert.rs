//! From objects of Kubernetes to the mesh's model. Pure; the rules are Istio's unless said otherwise.
//!
//! | what Kubernetes has | what becomes of it |
//! |---|---|
//! | `clusterIPs` | all are addresses of the service; endpoints are of the primary family, or of the other where a pod has only that |
//! | headless | a service without addresses; its endpoints are pushed and balanced like any other's |
//! | `ExternalName` | outside of the mesh, resolved by DNS; the name is its one endpoint |
//! | a port's protocol | `appProtocol`, else the name up to its first `-`, else TCP on ports 25, 53, 3306 and 27017, else detected |
//! | UDP and SCTP | the port exists and is not carried; one that shares its number with a TCP port is left out |
//! | ready | healthy |
//! | terminating and still serving | draining |
//! | not ready, or terminating and not serving | unhealthy: known, shown, and left out of load balancing |
//! | a slice without some port of the service | the endpoint does not serve that port |
//!
//! - NEVER: an annotation, port or address that makes no sense does more than be skipped with a reason.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use xebec_pilot::model::{
    Address, Distribution, Endpoint, Health, Labels, Locality, Port, Prefer, Protocol, RegistryId, Resolution, Service,
    ServiceKey, Visibility,
};
use xebec_pilot::registry::quote;

use crate::object::{ANNOTATIONS, EndpointSlice, Namespace, Node, Pod, RawService, SliceEndpoint};
use crate::skipped::Skipped;

/// The label that says on which network something is.
pub const NETWORK: &str = "topology.istio.io/network";
/// Labels that override a pod's locality, the first that is there.
const LOCALITY: [&str; 2] = ["topology.istio.io/locality", "istio-locality"];
/// Endpoints of one address among which the one is looked for that another slice completes.
const VARIANTS: usize = 32;
/// Longest name that is taken for a hostname.
const LONGEST_NAME: usize = 253;

/// What is the same for all objects of a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The registry's name.
    pub registry: RegistryId,
    /// The DNS domain.
    pub domain: Arc<str>,
    /// The cluster's name, for labels of endpoints; empty when it has none.
    pub id: Arc<str>,
    /// The network of pods that name none.
    pub network: Arc<str>,
    /// Whether an endpoint whose pod is not known is left out until it is: without its labels and its identity it would be dialled
    /// in the wrong way. Not so where pods may never be known, as in manifests.
    pub pods_expected: bool,
}

/// The key of a service.
pub fn service_key(namespace: &str, name: &str, domain: &str) -> ServiceKey {
    ServiceKey::new(&format!("{name}.{namespace}.svc.{domain}"), namespace)
}

/// A service of the model.
pub fn service(raw: &RawService, namespace: &Namespace, cluster: &Cluster, skipped: &mut Skipped) -> Service {
    let meta = &raw.metadata;
    let spec = &raw.spec;
    let external = is_external(raw);
    Service {
        key: service_key(&meta.namespace, &meta.name, &cluster.domain),
        addresses: if external { Vec::new() } else { addresses(raw, skipped) },
        ports: ports(raw, skipped),
        resolution: if external { Resolution::Dns } else { Resolution::Static },
        external,
        visibility: visibility(raw, skipped),
        labels: meta.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
        aliases: Vec::new(),
        created: meta.creation_timestamp.as_deref().map_or(0, seconds),
        registry: cluster.registry.clone(),
        origin: raw.origin.clone(),
        distribution: Distribution {
            by_client_address: spec.session_affinity.as_deref() == Some("ClientIP"),
            prefer: prefer(raw, namespace, skipped),
            node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        },
    }
}

/// All endpoints of a service. `slices` in a fixed order, so that equal input makes equal output.
pub fn endpoints<'a>(
    raw: &RawService,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    pod: impl Fn(&str) -> Option<&'a Pod>,
    node: impl Fn(&str) -> Option<&'a Node>,
    cluster: &Cluster,
    skipped: &mut Skipped,
) -> Arc<[Endpoint]> {
    if is_external(raw) {
        return external_endpoint(raw, skipped).into_iter().collect();
    }
    let names: Vec<Arc<str>> =
        raw.spec.ports.iter().map(|port| Arc::from(port.name.as_deref().unwrap_or_default())).collect();
    let v6 = is_v6(raw);
    // By pod, or by address where there is no pod: one place in load balancing each, however many slices name it.
    let mut found: BTreeMap<(Option<&str>, Option<IpAddr>), Vec<Endpoint>> = BTreeMap::new();
    for slice in slices {
        skipped.extend(&slice.skipped);
        let ports = port_map(&names, &slice.ports);
        for written in &slice.endpoints {
            let behind = written.pod.as_deref().and_then(&pod);
            if behind.is_none() && written.pod.is_some() && cluster.pods_expected {
                continue;
            }
            let key = match (&written.pod, behind) {
                (Some(name), Some(_)) => (Some(&**name), None),
                _ => (None, Some(written.address)),
            };
            let mut endpoint = endpoint(raw, written, behind, &node, cluster);
            endpoint.ports.clone_from(&ports);
            let known = found.entry(key).or_default();
            // Without a pod, several servers may share an address.
            let same = |known: &&mut Endpoint| behind.is_some() || agree(&known.ports, &ports);
            match known.iter_mut().take(VARIANTS).find(same) {
                Some(known) => merge(known, endpoint, v6),
                None => known.push(endpoint),
            }
        }
    }
    found.into_values().flatten().collect()
}

/// A pod as a workload, whether a service has it or not.
pub fn workload<'a>(
    name: &Arc<str>,
    pod: &Pod,
    node: impl Fn(&str) -> Option<&'a Node>,
    cluster: &Cluster,
) -> Option<Endpoint> {
    let address = *pod.addresses.first()?;
    let locality = locality(Some(pod), pod.node.as_deref().and_then(node), None);
    let health = match pod {
        Pod { terminating: true, ready: true, .. } => Health::Draining,
        Pod { terminating: false, ready: true, .. } => Health::Healthy,
        _ => Health::Unhealthy,
    };
    let network = network(Some(pod), cluster);
    Some(Endpoint {
        address: Address::Ip(address),
        ports: BTreeMap::new(),
        labels: augmented(&pod.labels, &locality, &network, pod.node.as_ref(), cluster),
        locality,
        weight: 1,
        service_account: Some(Arc::clone(&pod.service_account)),
        workload: Some(Arc::clone(name)),
        network,
        node: pod.node.clone(),
        health,
        app: BTreeMap::new(),
    })
}

/// What a port speaks.
pub fn protocol(name: &str, number: u16, transport: Option<&str>, app: Option<&str>) -> Protocol {
    match transport {
        None | Some("" | "TCP") => {}
        // Neither is carried by the mesh.
        Some(_) => return Protocol::Udp,
    }
    let written = match app {
        Some("kubernetes.io/h2c") => return Protocol::Http2,
        Some("kubernetes.io/ws") => return Protocol::Http,
        Some("kubernetes.io/wss") => return Protocol::Https,
        Some(app) => app,
        None => name,
    };
    let grpc_web = written.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("grpc-web"));
    let prefix = if grpc_web { "grpc-web" } else { written.split('-').next().unwrap_or(written) };
    match Protocol::parse(prefix) {
        // A TCP port is not UDP because of its name.
        Some(Protocol::Udp) | None if matches!(number, 25 | 53 | 3306 | 27017) => Protocol::Tcp,
        Some(Protocol::Udp) | None => Protocol::Auto,
        Some(known) => known,
    }
}

fn is_external(raw: &RawService) -> bool {
    raw.spec.kind.as_deref() == Some("ExternalName")
}

/// Whether the service's primary family is IPv6.
fn is_v6(raw: &RawService) -> bool {
    match raw.spec.ip_families.first() {
        Some(family) => family == "IPv6",
        None => cluster_ips(raw).next().is_some_and(|address| address.contains(':')),
    }
}

fn cluster_ips(raw: &RawService) -> impl Iterator<Item = &str> {
    let one = raw.spec.cluster_ip.as_ref().filter(|_| raw.spec.cluster_ips.is_empty());
    raw.spec.cluster_ips.iter().chain(one).map(String::as_str).filter(|text| !matches!(*text, "None" | ""))
}

fn addresses(raw: &RawService, skipped: &mut Skipped) -> Vec<IpNet> {
    let mut addresses = Vec::new();
    for text in cluster_ips(raw) {
        match text.parse::<IpAddr>() {
            Ok(address) => addresses.push(IpNet::from(address)),
            Err(_) => skipped.add("invalid_address", || format!("clusterIP {} is not an address", quote(text))),
        }
    }
    addresses
}

fn ports(raw: &RawService, skipped: &mut Skipped) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::with_capacity(raw.spec.ports.len());
    for port in &raw.spec.ports {
        let name = port.name.as_deref().unwrap_or_default();
        let Some(number) = u16::try_from(port.port).ok().filter(|number| *number > 0) else {
            skipped.add("invalid_port", || format!("port {} has the number {}", quote(name), port.port));
            continue;
        };
        if ports.iter().any(|other| &*other.name == name) {
            skipped.add("duplicate_port", || format!("two ports are named {}", quote(name)));
            continue;
        }
        let protocol = protocol(name, number, port.protocol.as_deref(), port.app_protocol.as_deref());
        let port = Port { name: name.into(), number, protocol };
        match ports.iter_mut().find(|other| other.number == number) {
            // Whoever looks for the number must find the port that is carried.
            Some(other) if other.protocol == Protocol::Udp => *other = port,
            Some(_) if protocol == Protocol::Udp => {}
            Some(other) => {
                let names = || format!("ports {} and {} have the same number", quote(&other.name), quote(name));
                skipped.add("duplicate_port", names);
            }
            None => ports.push(port),
        }
    }
    ports
}

/// `networking.istio.io/exportTo`: namespaces, `.` for its own, `*` for all, `~` for none, separated by commas.
fn visibility(raw: &RawService, skipped: &mut Skipped) -> Visibility {
    let Some(written) = raw.metadata.annotations.get(ANNOTATIONS[0]).filter(|text| !text.trim().is_empty()) else {
        return Visibility::Public;
    };
    let mut namespaces: Vec<Arc<str>> = Vec::new();
    for entry in written.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry {
            "*" => return Visibility::Public,
            "~" => return Visibility::Namespaces(Vec::new()),
            "." => namespaces.push(raw.metadata.namespace.as_str().into()),
            name if is_label(name) => namespaces.push(name.into()),
            name => {
                skipped.add("invalid_annotation", || format!("{}: {} is not a namespace", ANNOTATIONS[0], quote(name)));
            }
        }
    }
    namespaces.sort();
    namespaces.dedup();
    // Nothing valid is nobody, not everybody.
    Visibility::Namespaces(namespaces)
}

fn prefer(raw: &RawService, namespace: &Namespace, skipped: &mut Skipped) -> Prefer {
    let field = raw.spec.traffic_distribution.as_deref();
    let own = raw.metadata.annotations.get(ANNOTATIONS[1]).map(String::as_str);
    for written in [field, own, namespace.traffic_distribution.as_deref()].into_iter().flatten() {
        match written.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => return Prefer::Zone,
            "prefersamenode" => return Prefer::Node,
            "any" | "" => return Prefer::None,
            _ => skipped.add("invalid_annotation", || format!("traffic distribution {} is not known", quote(written))),
        }
    }
    Prefer::None
}

fn external_endpoint(raw: &RawService, skipped: &mut Skipped) -> Option<Endpoint> {
    let name = raw.spec.external_name.as_deref().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = match name.parse::<IpAddr>() {
        Ok(address) => Address::Ip(address),
        Err(_) if is_name(name) => Address::Dns(name.to_ascii_lowercase().into()),
        Err(_) => {
            skipped.add("invalid_address", || format!("externalName {} is not a DNS name", quote(name)));
            return None;
        }
    };
    Some(Endpoint {
        address,
        ports: BTreeMap::new(),
        labels: Labels::new(),
        locality: Locality::default(),
        weight: 1,
        service_account: None,
        workload: None,
        network: "".into(),
        node: None,
        health: Health::Healthy,
        app: BTreeMap::new(),
    })
}

fn endpoint<'a>(
    raw: &RawService,
    written: &SliceEndpoint,
    pod: Option<&Pod>,
    node: &impl Fn(&str) -> Option<&'a Node>,
    cluster: &Cluster,
) -> Endpoint {
    let on = written.node.as_ref().or_else(|| pod.and_then(|pod| pod.node.as_ref()));
    let locality = locality(pod, on.and_then(|name| node(name)), written.zone.as_ref());
    let network = network(pod, cluster);
    let none = Labels::new();
    Endpoint {
        address: Address::Ip(written.address),
        ports: BTreeMap::new(),
        labels: augmented(pod.map_or(&none, |pod| &pod.labels), &locality, &network, on, cluster),
        locality,
        weight: 1,
        service_account: pod.map(|pod| Arc::clone(&pod.service_account)),
        workload: pod.and(written.pod.clone()),
        network,
        node: on.cloned(),
        health: health(raw, written),
        app: BTreeMap::new(),
    }
}

fn health(raw: &RawService, written: &SliceEndpoint) -> Health {
    if written.terminating && written.serving && !(written.ready && raw.spec.publish_not_ready_addresses) {
        Health::Draining
    } else if written.ready || (raw.spec.publish_not_ready_addresses && !written.terminating) {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

/// The slice's port for each of the service's: 0 where the slice has none of that name.
fn port_map(names: &[Arc<str>], ports: &[(Arc<str>, Option<u16>)]) -> BTreeMap<Arc<str>, u16> {
    let number = |name: &Arc<str>| match ports.iter().find(|(own, _)| own == name) {
        Some((_, number)) => *number,
        None => Some(0),
    };
    names.iter().filter_map(|name| Some((Arc::clone(name), number(name)?))).collect()
}

/// Whether one endpoint can have both: no port has two numbers.
fn agree(one: &BTreeMap<Arc<str>, u16>, other: &BTreeMap<Arc<str>, u16>) -> bool {
    one.iter().all(|(name, number)| match other.get(name) {
        Some(own) => *own == *number || *own == 0 || *number == 0,
        None => true,
    })
}

/// Two slices name one endpoint: each may have ports that the other lacks, and each a family of addresses.
fn merge(known: &mut Endpoint, other: Endpoint, v6: bool) {
    let fits = |endpoint: &Endpoint| matches!(endpoint.address, Address::Ip(ip) if ip.is_ipv6() == v6);
    let (keep, give) =
        if fits(&other) && !fits(known) { (other.clone(), known.clone()) } else { (known.clone(), other) };
    *known = keep;
    for (name, number) in give.ports {
        let own = known.ports.entry(name).or_insert(number);
        if *own == 0 {
            *own = number;
        }
    }
    // While a slice is being split, one of the two may be older: what serves is right.
    if give.health == Health::Healthy {
        known.health = Health::Healthy;
    }
}

fn network(pod: Option<&Pod>, cluster: &Cluster) -> Arc<str> {
    pod.and_then(|pod| pod.labels.get(NETWORK)).filter(|own| !own.is_empty()).unwrap_or(&cluster.network).clone()
}

fn locality(pod: Option<&Pod>, node: Option<&Node>, zone: Option<&Arc<str>>) -> Locality {
    let written =
        pod.and_then(|pod| LOCALITY.iter().find_map(|key| pod.labels.get(*key).filter(|text| !text.is_empty())));
    if let Some(written) = written {
        // A label cannot hold `/`, so dots stand for it.
        return if written.contains('/') {
            Locality::parse(written)
        } else {
            Locality::parse(&written.replace('.', "/"))
        };
    }
    let none = || Arc::from("");
    let subzone = pod.and_then(|pod| pod.labels.get("topology.istio.io/subzone")).cloned();
    match node {
        Some(node) => Locality {
            region: Arc::clone(&node.region),
            zone: if node.zone.is_empty() { zone.cloned().unwrap_or_else(none) } else { Arc::clone(&node.zone) },
            subzone: subzone.unwrap_or_else(|| Arc::clone(&node.subzone)),
        },
        None => {
            Locality { region: none(), zone: zone.cloned().unwrap_or_else(none), subzone: subzone.unwrap_or_else(none) }
        }
    }
}

/// A workload's labels, and where it is as labels: subsets and failover select on both.
fn augmented(own: &Labels, at: &Locality, network: &Arc<str>, node: Option<&Arc<str>>, cluster: &Cluster) -> Labels {
    thread_local! {
        static KEYS: [Arc<str>; 6] = [
            "topology.kubernetes.io/region".into(),
            "topology.kubernetes.io/zone".into(),
            "topology.istio.io/subzone".into(),
            "topology.istio.io/cluster".into(),
            NETWORK.into(),
            "kubernetes.io/hostname".into(),
        ];
    }
    let mut labels = own.clone();
    KEYS.with(|keys| {
        let values = [Some(&at.region), Some(&at.zone), Some(&at.subzone), Some(&cluster.id), Some(network), node];
        for (key, value) in keys.iter().zip(values) {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                labels.insert(Arc::clone(key), Arc::clone(value));
            }
        }
    });
    labels
}

fn seconds(time: &str) -> u64 {
    time.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_second()).ok()).unwrap_or(0)
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        (1..=63).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= LONGEST_NAME && text.split('.').all(part)
}

#[cfg(test)]
pub(crate) mod tests;
