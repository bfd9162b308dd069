//! One service out of what several Nomad services say about it.
//!
//! - ALWAYS: whoever has the name as its own decides, before guests.
//! - ALWAYS: an instance takes traffic only on ports that its own Nomad service has. Ports are the same when their numbers are.

use std::collections::BTreeMap;
use std::sync::Arc;

use xebec_pilot::model::{Endpoint, Port, Service};

/// A service as one Nomad service says it.
pub(super) type Part = (Arc<Service>, Vec<Endpoint>);

/// All parts of one service; `None` when there is none. The order decides where nobody has the name as its own.
pub(super) fn merged(parts: &[&Part]) -> Option<(Arc<Service>, Arc<[Endpoint]>)> {
    let (first, _) = parts.iter().min_by_key(|(service, _)| service.created)?;
    if let [(service, endpoints)] = parts {
        return Some((Arc::clone(service), endpoints.as_slice().into()));
    }
    let mut ports = first.ports.clone();
    for port in parts.iter().flat_map(|(service, _)| &service.ports) {
        if ports.iter().all(|known| known.number != port.number) {
            ports.push(Port { name: unique(port, &ports), ..port.clone() });
        }
    }
    let service =
        if ports == first.ports { Arc::clone(first) } else { Arc::new(Service { ports, ..Service::clone(first) }) };
    let endpoints = parts.iter().flat_map(|(own, endpoints)| endpoints.iter().map(|e| said_as(&service, own, e)));
    let endpoints = endpoints.collect();
    Some((service, endpoints))
}

/// Instances of several Nomad services may call different ports `http`.
fn unique(port: &Port, taken: &[Port]) -> Arc<str> {
    let mut name = Arc::clone(&port.name);
    while taken.iter().any(|other| other.name == name) {
        name = format!("{name}-{}", port.number).into();
    }
    name
}

/// An endpoint of `own` under the names of the merged service. A port that `own` lacks is 0: without an entry, it would be taken for one
/// on the service's number.
fn said_as(merged: &Service, own: &Service, endpoint: &Endpoint) -> Endpoint {
    let mut said = Endpoint { ports: BTreeMap::new(), app: BTreeMap::new(), ..endpoint.clone() };
    for port in &merged.ports {
        let known = own.ports.iter().find(|known| known.number == port.number);
        said.ports.insert(Arc::clone(&port.name), known.map_or(0, |known| endpoint.port(known)));
        if let Some(app) = known.and_then(|known| endpoint.app.get(&known.name)) {
            said.app.insert(Arc::clone(&port.name), *app);
        }
    }
    said
}
