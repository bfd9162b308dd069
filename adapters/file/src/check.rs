//! From a file's text to services of the model: parse, then check what the format alone cannot.
//!
//! A pure function: no clocks, no I/O. A file is taken as a whole or refused as a whole, with everything that is wrong with it.
//! Documents of Kubernetes' form (`apiVersion`, `kind`) may stand beside lists of services; they are somebody else's.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use xebec_galley::SourceRef;
use xebec_galley::yaml::{self, At, Document, Problems, suggest};
use xebec_galley::{Code, Diagnostic, Severity};
use xebec_pilot::model::{
    Address, Distribution, Endpoint, Health, Labels, Locality, Port, Protocol, RegistryId, Resolution, Service,
    ServiceKey, Visibility,
};

use crate::format::{HealthEntry, InstanceEntry, PortEntry, RegistryFile, ResolutionEntry, ServiceEntry};

/// A service with its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The service.
    pub service: Arc<Service>,
    /// All its endpoints.
    pub endpoints: Arc<[Endpoint]>,
}

/// What a file says, or why it says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Its services; `None` when something is wrong with it.
    pub entries: Option<Vec<Entry>>,
    /// Everything that is wrong, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// The key that makes a document a list of services.
const SERVICES: &str = "services";

/// The namespace of a service that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Names of protocols, for suggestions.
const PROTOCOLS: &[&str] =
    &["http", "http2", "grpc", "grpc-web", "https", "tls", "tcp", "mongo", "redis", "mysql", "udp"];

/// Reads `bytes`, the content of the file `name`. Several lists of services, in several documents, are one after the other.
/// Nothing is said about documents of Kubernetes' form.
pub fn check(name: &str, bytes: &[u8], registry: &RegistryId) -> Checked {
    let stream = yaml::parse(name, bytes);
    let mut problems = Problems::new();
    problems.extend(stream.problem);
    let mut entries: Vec<Entry> = Vec::new();
    let mut known: HashSet<ServiceKey> = HashSet::new();
    for document in stream.documents.iter().filter(|document| is_ours(document)) {
        let read = document.read::<RegistryFile>();
        problems.extend(read.diagnostics);
        let mut checker = Checker { document, registry, problems: &mut problems };
        for (index, written) in read.value.iter().flat_map(|file| &file.services).enumerate() {
            let all = At::root(SERVICES);
            let at = all.index(index);
            let place = document.root.as_ref().and_then(|root| root.get(SERVICES)?.items().get(index));
            let origin = place.map(|node| document.source().reference(node.at));
            let entry = checker.service(written, &at, origin);
            if !known.insert(entry.service.key.clone()) {
                let message = format!("the service {} is written twice in this file", entry.service.key);
                checker.problem(
                    &at.key("host"),
                    Code::Conflict,
                    message,
                    "merge the two entries, or give one of them another `namespace`",
                );
            }
            entries.push(entry);
        }
    }
    Checked { entries: problems.is_empty().then_some(entries), diagnostics: problems.into_vec() }
}

/// Whether a document is a list of services, or can only be meant to be one.
fn is_ours(document: &Document) -> bool {
    // Without a root, nobody can say what it is: then the file's services are unknown.
    document.root.as_ref().is_none_or(|root| root.get("apiVersion").is_none() && root.get("kind").is_none())
}

struct Checker<'a> {
    document: &'a Document,
    registry: &'a RegistryId,
    problems: &'a mut Problems,
}

// === impl Checker ===

impl Checker<'_> {
    fn problem(&mut self, at: &At<'_>, code: Code, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.document.diagnostic(Severity::Error, code, &at.path(), message);
        self.problems.push(problem.with_help(help));
    }

    fn service(&mut self, entry: &ServiceEntry, at: &At<'_>, origin: Option<SourceRef>) -> Entry {
        let name = entry.host.strip_prefix("*.").unwrap_or(&entry.host);
        if !is_dns_name(name) {
            let message = format!("{:?} is not a hostname", entry.host);
            self.problem(
                &at.key("host"),
                Code::InvalidValue,
                message,
                "use letters, digits, dashes and dots, such as `reviews` or `*.example.com`",
            );
        }
        let ports = self.ports(entry, at);
        let each = at.key("addresses");
        let addresses = entry.addresses.iter().enumerate();
        let addresses = addresses.filter_map(|(index, address)| self.network(address, &each.index(index))).collect();
        if entry.resolution == ResolutionEntry::Passthrough && !entry.instances.is_empty() {
            self.problem(
                &at.key("instances"),
                Code::Contradiction,
                "a service with resolution passthrough has no instances: callers dial the addresses themselves",
                "remove `instances`, or choose another `resolution`",
            );
        }
        let each = at.key("instances");
        let instances = entry.instances.iter().enumerate();
        let endpoints =
            instances.filter_map(|(index, instance)| self.instance(instance, entry, &each.index(index))).collect();
        let service = Service {
            key: ServiceKey::new(&entry.host, entry.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)),
            addresses,
            ports,
            resolution: match entry.resolution {
                ResolutionEntry::Static => Resolution::Static,
                ResolutionEntry::Dns => Resolution::Dns,
                ResolutionEntry::DnsRoundRobin => Resolution::DnsRoundRobin,
                ResolutionEntry::Passthrough => Resolution::Passthrough,
            },
            external: entry.external,
            visibility: Visibility::Public,
            labels: labels(&entry.labels),
            aliases: Vec::new(),
            created: 0,
            registry: self.registry.clone(),
            origin,
            distribution: Distribution::default(),
        };
        Entry { service: Arc::new(service), endpoints }
    }

    fn ports(&mut self, entry: &ServiceEntry, at: &At<'_>) -> Vec<Port> {
        let each = at.key("ports");
        if entry.ports.is_empty() {
            self.problem(
                &each,
                Code::Missing,
                "a service needs at least one port",
                "such as `{name: http, number: 80}`",
            );
        }
        let mut ports: Vec<Port> = Vec::new();
        for (index, port) in entry.ports.iter().enumerate() {
            let at = each.index(index);
            let name = &port.name;
            if name.is_empty() {
                self.problem(
                    &at.key("name"),
                    Code::InvalidValue,
                    "a port needs a name",
                    "instances refer to it, such as `http`",
                );
            }
            if port.number == 0 {
                self.problem(&at.key("number"), Code::InvalidValue, NOT_A_PORT.0, NOT_A_PORT.1);
            }
            if ports.iter().any(|other| *other.name == **name) {
                let message = format!("the service has two ports named `{name}`");
                self.problem(&at.key("name"), Code::Conflict, message, "rename one of them");
            }
            if let Some(other) = ports.iter().find(|other| other.number == port.number) {
                let message = format!("the ports `{}` and `{name}` have the same number", other.name);
                self.problem(
                    &at.key("number"),
                    Code::Conflict,
                    message,
                    "clients could not tell them apart: change one number",
                );
            }
            ports.push(Port { name: name.as_str().into(), number: port.number, protocol: self.protocol(port, &at) });
        }
        ports
    }

    fn protocol(&mut self, port: &PortEntry, at: &At<'_>) -> Protocol {
        let Some(written) = &port.protocol else {
            // Istio's rule: `<protocol>[-<suffix>]`, where grpc-web is the one name with a dash.
            let name = port.name.as_str();
            let is_grpc_web = name == "grpc-web" || name.starts_with("grpc-web-");
            let prefix = if is_grpc_web { "grpc-web" } else { name.split('-').next().unwrap_or(name) };
            return Protocol::parse(prefix).unwrap_or(Protocol::Auto);
        };
        Protocol::parse(written).unwrap_or_else(|| {
            let help = match suggest(written, PROTOCOLS.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("use one of {}, or leave it out", PROTOCOLS.join(", ")),
            };
            self.problem(&at.key("protocol"), Code::UnknownValue, format!("unknown protocol `{written}`"), help);
            Protocol::Auto
        })
    }

    fn network(&mut self, text: &str, at: &At<'_>) -> Option<IpNet> {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        if network.is_none() {
            let message = format!("{text:?} is not an address or a network");
            self.problem(at, Code::InvalidValue, message, "such as `10.0.0.5` or `10.0.0.0/24`");
        }
        network
    }

    fn instance(&mut self, instance: &InstanceEntry, service: &ServiceEntry, at: &At<'_>) -> Option<Endpoint> {
        let known: Vec<&str> = service.ports.iter().map(|port| port.name.as_str()).collect();
        let mut ports = BTreeMap::new();
        for (name, number) in &instance.ports {
            let all = at.key("ports");
            self.known_port(&all.key(name), name, &known);
            if *number == 0 {
                self.problem(&all.key(name), Code::InvalidValue, NOT_A_PORT.0, NOT_A_PORT.1);
            }
            ports.insert(Arc::from(name.as_str()), *number);
        }
        let mut app = BTreeMap::new();
        for (name, written) in &instance.app {
            let all = at.key("app");
            self.known_port(&all.key(name), name, &known);
            match app_address(&written.0) {
                Some(address) => {
                    app.insert(Arc::from(name.as_str()), address);
                }
                None => {
                    let message = format!("{:?} is not where an application can listen", written.0);
                    let help =
                        "write an IP address and a port, such as \"127.0.0.1:8080\", or only a port of 127.0.0.1";
                    self.problem(&all.key(name), Code::InvalidValue, message, help);
                }
            }
        }
        if instance.weight == Some(0) {
            let help = "to keep an instance out of load balancing, write `health: draining`";
            self.problem(&at.key("weight"), Code::InvalidValue, "a weight is at least 1", help);
        }
        if instance.locality.as_ref().is_some_and(|text| text.split('/').count() > 3) {
            let help = "write `region/zone/subzone`";
            self.problem(&at.key("locality"), Code::InvalidValue, "a locality has at most three parts", help);
        }
        Some(Endpoint {
            address: self.address(&instance.address, service.resolution, &at.key("address"))?,
            ports,
            labels: labels(&instance.labels),
            locality: instance.locality.as_deref().map(Locality::parse).unwrap_or_default(),
            weight: instance.weight.unwrap_or(1),
            service_account: instance.service_account.as_deref().map(Arc::from),
            workload: instance.name.as_deref().map(Arc::from),
            network: instance.network.as_str().into(),
            node: None,
            health: match instance.health {
                HealthEntry::Healthy => Health::Healthy,
                HealthEntry::Degraded => Health::Degraded,
                HealthEntry::Unhealthy => Health::Unhealthy,
                HealthEntry::Draining => Health::Draining,
            },
            app,
        })
    }

    fn known_port(&mut self, at: &At<'_>, name: &str, known: &[&str]) {
        if known.contains(&name) {
            return;
        }
        let help = match suggest(name, known.iter().copied()) {
            Some(port) => format!("did you mean `{port}`?"),
            None => format!("its ports are {}", known.join(", ")),
        };
        self.problem(at, Code::UnknownValue, format!("the service has no port named `{name}`"), help);
    }

    fn address(&mut self, text: &str, resolution: ResolutionEntry, at: &At<'_>) -> Option<Address> {
        if let Ok(ip) = text.parse() {
            return Some(Address::Ip(ip));
        }
        if let Some(path) = text.strip_prefix("unix://") {
            if path.starts_with('/') || path.starts_with('@') {
                return Some(Address::Unix(path.into()));
            }
            self.problem(
                at,
                Code::InvalidValue,
                "a Unix socket needs an absolute path",
                "such as `unix:///run/reviews.sock`",
            );
            return None;
        }
        let by_dns = matches!(resolution, ResolutionEntry::Dns | ResolutionEntry::DnsRoundRobin);
        // What looks like an address but is none (10.0.0.300) is a typing error, not a name.
        let looks_numeric = text.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ':');
        if is_dns_name(text) && !looks_numeric {
            if by_dns {
                return Some(Address::Dns(text.to_ascii_lowercase().into()));
            }
            let message = format!("{text:?} is a name, and this service's resolution is not by DNS");
            self.problem(at, Code::Contradiction, message, "write an IP address, or `resolution: dns` on the service");
        } else {
            let has_port = text.parse::<SocketAddr>().is_ok();
            let help = if has_port {
                "the port goes into `ports`"
            } else {
                "such as `10.0.0.5`, `fd00::5` or `unix:///run/app.sock`"
            };
            self.problem(at, Code::InvalidValue, format!("{text:?} is not an address"), help);
        }
        None
    }
}

const NOT_A_PORT: (&str, &str) = ("0 is not a port that anybody can dial", "use a number from 1 to 65535");

fn app_address(text: &str) -> Option<SocketAddr> {
    let address = match text.parse::<u16>() {
        Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Err(_) => text.parse().ok()?,
    };
    (address.port() != 0).then_some(address)
}

fn labels(written: &BTreeMap<String, String>) -> Labels {
    written.iter().map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str()))).collect()
}

/// Names as DNS and Kubernetes allow them, and underscores, which Consul and people use.
fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.trim_end_matches('.').split('.').all(label)
}

#[cfg(test)]
mod tests;
