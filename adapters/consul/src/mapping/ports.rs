//! Which ports a service has in the mesh, although each instance may have its own.
//!
//! - A port that instances declare with `mesh-port` is the one.
//! - Otherwise 80, and where all instances share one port, that port too. A service that is declared to be something else than HTTP has
//!   only the shared one: opaque bytes on port 80 would take it from every HTTP service.
//! - `mesh-app-port` is where the application of an instance listens, on 127.0.0.1, behind a proxy that listens on the instance's port.
//! - Further named ports of an instance (Consul 1.22) are ports of the service where all instances have the same number for them.
//!
//! Without a declared protocol, port 80 is HTTP, which is what `http://web.service.consul` means; every other one is detected, since it
//! may well be a database's. Where instances contradict each other, most of them decide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use xebec_pilot::model::{Endpoint, Port, Protocol, ServiceKey};

use super::Candidate;
use xebec_pilot::registry::Skip;

const HTTP: u16 = 80;

/// The ports of one service.
#[derive(Debug)]
pub(super) struct Layout {
    ports: Vec<Port>,
    /// The name that instances have for each port; `None` is their default port.
    sources: Vec<Option<String>>,
}

/// The ports of a service with these instances, of which there is at least one.
pub(super) fn layout(key: &ServiceKey, group: &[Candidate], skips: &mut Vec<Skip>) -> Layout {
    let protocol = majority(group.iter().filter_map(|candidate| candidate.protocol));
    let declared = majority(group.iter().filter_map(|candidate| candidate.mesh_port));
    let first = group.first().map(|candidate| candidate.port);
    let shared = first.filter(|port| group.iter().all(|candidate| candidate.port == *port));
    let mut layout = Layout { ports: Vec::new(), sources: Vec::new() };
    match (declared, shared) {
        (Some(number), _) => layout.add(number, protocol.unwrap_or(default_of(number)), None),
        (None, Some(number)) => {
            if protocol.is_none_or(Protocol::is_http) {
                layout.add(HTTP, protocol.unwrap_or(Protocol::Http), None);
            }
            layout.add(number, protocol.unwrap_or(default_of(number)), None);
        }
        (None, None) => layout.add(HTTP, protocol.unwrap_or(Protocol::Http), None),
    }
    let names: BTreeSet<&String> = group.iter().flat_map(|candidate| candidate.extra.keys()).collect();
    for name in names {
        let numbers: BTreeSet<Option<u16>> = group.iter().map(|candidate| candidate.extra.get(name).copied()).collect();
        match numbers.iter().collect::<Vec<_>>().as_slice() {
            [Some(number)] => {
                let prefix = name.split('-').next().unwrap_or(name);
                layout.add(*number, Protocol::parse(prefix).unwrap_or(Protocol::Auto), Some(name.clone()));
            }
            _ => {
                let detail = format!("{key}: the port named {name} has not the same number on all instances");
                skips.push(Skip { reason: "port_not_shared", detail });
            }
        }
    }
    layout
}

fn default_of(number: u16) -> Protocol {
    if number == HTTP { Protocol::Http } else { Protocol::Auto }
}

/// The most frequent value; of equally frequent ones the least.
fn majority<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

// === impl Layout ===

impl Layout {
    /// Adds a port; a number that is there already stays what it is. Names are made of the numbers: they stay when protocols change.
    fn add(&mut self, number: u16, protocol: Protocol, source: Option<String>) {
        if self.ports.iter().all(|port| port.number != number) {
            self.ports.push(Port { name: format!("port-{number}").into(), number, protocol });
            self.sources.push(source);
        }
    }

    pub(super) fn endpoint(&self, candidate: Candidate) -> Endpoint {
        let Candidate { mut endpoint, port, extra, app_port, .. } = candidate;
        for (service_port, source) in self.ports.iter().zip(&self.sources) {
            let number = match source {
                None => port,
                Some(name) => extra.get(name).copied().unwrap_or(0),
            };
            if let (None, Some(app)) = (source, app_port) {
                endpoint.app.insert(Arc::clone(&service_port.name), SocketAddr::from((Ipv4Addr::LOCALHOST, app)));
            }
            endpoint.ports.insert(Arc::clone(&service_port.name), number);
        }
        endpoint
    }

    pub(super) fn into_ports(self) -> Vec<Port> {
        self.ports
    }
}
