//! A ServiceEntry as services and endpoints of the abstract model.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use xebec_galley::Resource;
use xebec_galley::spec::{Location, MeshConfig, Resolution as Written, ServiceEntry, ServicePort, WorkloadEntry};

use crate::mesh::{CONFIG_REGISTRY, rules};
use crate::model::{
    Address, Distribution, Endpoint, Health, Locality, Port, Protocol, RegistryId, Resolution, Service, ServiceKey,
};

/// One service per host.
pub(super) fn services(entry: &Resource<ServiceEntry>, settings: &MeshConfig) -> Vec<Service> {
    let spec = &entry.spec;
    let namespace = &entry.meta.key.namespace;
    let ports: Vec<Port> = spec.ports.iter().map(port).collect();
    let addresses: Vec<IpNet> = spec.addresses.iter().filter_map(|a| network(a)).collect();
    spec.hosts
        .iter()
        .map(|host| Service {
            key: ServiceKey::new(host, namespace),
            addresses: addresses.clone(),
            ports: ports.clone(),
            resolution: resolution(spec.resolution),
            external: spec.location == Location::MeshExternal,
            visibility: rules::visibility(&spec.export_to, &settings.default_service_export_to, namespace),
            labels: entry.meta.labels.clone(),
            aliases: Vec::new(),
            created: entry.meta.created,
            registry: RegistryId(CONFIG_REGISTRY.into()),
            origin: None,
            distribution: Distribution::default(),
        })
        .collect()
}

/// The endpoints that the document lists itself.
pub(super) fn inline_endpoints(entry: &Resource<ServiceEntry>) -> Vec<Endpoint> {
    entry.spec.endpoints.iter().filter_map(|e| endpoint(e, &entry.spec.ports)).collect()
}

/// A WorkloadEntry behind these ports. `None` when it has no address: it is only reachable through another network's gateway.
pub(super) fn endpoint(workload: &WorkloadEntry, ports: &[ServicePort]) -> Option<Endpoint> {
    let address = address(&workload.address)?;
    let own = |port: &ServicePort| workload.ports.get(&port.name).copied().or(port.target_port).unwrap_or(port.number);
    Some(Endpoint {
        address,
        ports: ports.iter().map(|p| (p.name.as_str().into(), own(p))).collect(),
        labels: workload.labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
        locality: Locality::parse(&workload.locality),
        weight: workload.weight.unwrap_or(1).max(1),
        service_account: (!workload.service_account.is_empty()).then(|| workload.service_account.as_str().into()),
        workload: None,
        network: workload.network.as_str().into(),
        node: None,
        health: Health::Healthy,
        app: BTreeMap::new(),
    })
}

/// A platform's workload behind the ports of a ServiceEntry. The names of its own service's ports mean nothing here.
pub(super) fn adopted(endpoint: &Endpoint, ports: &[ServicePort]) -> Endpoint {
    let own = |port: &ServicePort| port.target_port.unwrap_or(port.number);
    Endpoint {
        ports: ports.iter().map(|p| (p.name.as_str().into(), own(p))).collect(),
        app: BTreeMap::new(),
        ..endpoint.clone()
    }
}

/// Whether every pair of the selector is among a workload's labels.
pub(super) fn selected<'a>(selector: &BTreeMap<String, String>, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    selector.iter().all(|(key, value)| label(key) == Some(value.as_str()))
}

fn port(port: &ServicePort) -> Port {
    let protocol = Protocol::parse(&port.protocol).unwrap_or(Protocol::Auto);
    Port { name: port.name.as_str().into(), number: port.number, protocol }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn address(text: &str) -> Option<Address> {
    if text.is_empty() {
        return None;
    }
    if let Some(path) = text.strip_prefix("unix://") {
        return Some(Address::Unix(path.into()));
    }
    Some(match text.parse() {
        Ok(ip) => Address::Ip(ip),
        Err(_) => Address::Dns(Arc::from(text.to_ascii_lowercase())),
    })
}

fn resolution(written: Written) -> Resolution {
    match written {
        // DYNAMIC_DNS resolves what the request asks for; going where the caller meant to is the nearest thing to it.
        Written::None | Written::DynamicDns => Resolution::Passthrough,
        Written::Static => Resolution::Static,
        Written::Dns => Resolution::Dns,
        Written::DnsRoundRobin => Resolution::DnsRoundRobin,
    }
}
