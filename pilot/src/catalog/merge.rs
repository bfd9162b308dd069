//! One service out of several registrations of it.
//!
//! The oldest registration decides (see [`Registered`]): its name, protocols, resolution, visibility, labels and distribution hold. Ports are
//! joined by number, addresses and aliases are joined, and so are the endpoints, each of which keeps its health, labels and locality.
//!
//! - ALWAYS: the order of the registrations, and nothing else, decides between them.
//! - ALWAYS: an endpoint takes traffic only on ports that its own registration has.
//! - ALWAYS: one address and port stands once behind a port of the service, as the first registration says it.
//! - NEVER: a service of one registration is copied.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxBuildHasher;

use crate::mesh::{Conflict, Registrant};
use crate::model::{Address, Endpoint, Port, Protocol, Service};

/// What one registry or ServiceEntry says about a service. The order of a list of these is the order of precedence.
pub(super) struct Registered<'a> {
    pub by: Arc<str>,
    pub service: &'a Arc<Service>,
    pub endpoints: &'a Arc<[Endpoint]>,
}

/// What all of them together mean.
pub(super) struct Merged {
    pub service: Arc<Service>,
    pub endpoints: Arc<[Endpoint]>,
    pub registrants: Arc<[Registrant]>,
    pub conflicts: Arc<[Conflict]>,
}

/// A registration's own name for each port of the merged service; `None` for a port that it does not have.
type OwnNames<'a> = Vec<Option<&'a Arc<str>>>;

/// Merges registrations, the first of which decides. `None` when there is none.
pub(super) fn merge(all: &[Registered<'_>]) -> Option<Merged> {
    let first = all.first()?;
    let registrant = |r: &Registered<'_>| Registrant { by: Arc::clone(&r.by), endpoints: Arc::clone(r.endpoints) };
    let registrants = all.iter().map(registrant).collect();
    if all.len() == 1 {
        return Some(Merged {
            service: Arc::clone(first.service),
            endpoints: Arc::clone(first.endpoints),
            registrants,
            conflicts: Arc::default(),
        });
    }
    let mut conflicts = Vec::new();
    let service = join_services(first, &all[1..], &mut conflicts);
    let endpoints = join_endpoints(all, &service.ports);
    Some(Merged { service, endpoints, registrants, conflicts: conflicts.into() })
}

fn join_services(first: &Registered<'_>, others: &[Registered<'_>], conflicts: &mut Vec<Conflict>) -> Arc<Service> {
    let base = first.service;
    let mut ports = base.ports.clone();
    // Who each port comes from.
    let mut owners = vec![&first.by; ports.len()];
    let mut names: BTreeSet<Arc<str>> = ports.iter().map(|p| Arc::clone(&p.name)).collect();
    let mut addresses: Vec<IpNet> = base.addresses.clone();
    let mut aliases = base.aliases.clone();
    for other in others {
        let said = other.service;
        for port in &said.ports {
            match ports.iter().position(|p| same_socket(p, port)) {
                // Of two names the older holds: nobody outside sees it.
                Some(at) if ports[at].protocol == port.protocol => {}
                Some(at) => conflicts.push(Conflict {
                    what: format!("port {}", port.number).into(),
                    kept: describe(&ports[at]),
                    kept_by: Arc::clone(owners[at]),
                    lost: describe(port),
                    lost_by: Arc::clone(&other.by),
                }),
                None => {
                    let name = unique(&port.name, port.number, &names);
                    names.insert(Arc::clone(&name));
                    ports.push(Port { name, ..port.clone() });
                    owners.push(&other.by);
                }
            }
        }
        if said.resolution != base.resolution {
            conflicts.push(Conflict {
                what: "resolution".into(),
                kept: format!("{:?}", base.resolution).into(),
                kept_by: Arc::clone(&first.by),
                lost: format!("{:?}", said.resolution).into(),
                lost_by: Arc::clone(&other.by),
            });
        }
        add_new(&mut addresses, &said.addresses);
        add_new(&mut aliases, &said.aliases);
    }
    if ports.len() == base.ports.len() && addresses.len() == base.addresses.len() && aliases.len() == base.aliases.len()
    {
        return Arc::clone(base);
    }
    Arc::new(Service { ports, addresses, aliases, ..(**base).clone() })
}

fn add_new<T: PartialEq + Clone>(list: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !list.contains(one) {
            list.push(one.clone());
        }
    }
}

/// Datagrams and streams of one number are two ports.
fn same_socket(a: &Port, b: &Port) -> bool {
    a.number == b.number && (a.protocol == Protocol::Udp) == (b.protocol == Protocol::Udp)
}

fn describe(port: &Port) -> Arc<str> {
    format!("{} ({:?})", port.name, port.protocol).into()
}

fn unique(name: &Arc<str>, number: u16, taken: &BTreeSet<Arc<str>>) -> Arc<str> {
    if !taken.contains(name) {
        return Arc::clone(name);
    }
    let mut made: Arc<str> = format!("{name}-{number}").into();
    while taken.contains(&made) {
        made = format!("{made}-{number}").into();
    }
    made
}

fn join_endpoints(all: &[Registered<'_>], ports: &[Port]) -> Arc<[Endpoint]> {
    let mut some = all.iter().filter(|r| !r.endpoints.is_empty());
    let (Some(only), next) = (some.next(), some.next()) else { return Arc::default() };
    if next.is_none() && is_identity(&own_names(only, ports), ports) {
        return Arc::clone(only.endpoints);
    }
    let mut joined: Vec<Endpoint> = Vec::with_capacity(all.iter().map(|r| r.endpoints.len()).sum());
    let mut taken: HashSet<(Address, usize, u16), FxBuildHasher> = HashSet::default();
    for registered in all {
        let names = own_names(registered, ports);
        let identity = is_identity(&names, ports);
        let from = joined.len();
        for endpoint in registered.endpoints.iter() {
            let mut made = endpoint.clone();
            if !identity {
                rename(&mut made, endpoint, &names, ports);
            }
            for (at, port) in ports.iter().enumerate() {
                let number = made.port(port);
                if taken.contains(&(made.address.clone(), at, number)) {
                    made.ports.insert(Arc::clone(&port.name), 0);
                }
            }
            if ports.is_empty() || ports.iter().any(|port| made.serves(port)) {
                joined.push(made);
            }
        }
        // A registration's own list is taken as it is; only later ones are compared with it.
        for endpoint in &joined[from..] {
            let served = ports.iter().enumerate().filter(|(_, port)| endpoint.serves(port));
            taken.extend(served.map(|(at, port)| (endpoint.address.clone(), at, endpoint.port(port))));
        }
    }
    joined.into()
}

fn own_names<'a>(registered: &'a Registered<'_>, ports: &[Port]) -> OwnNames<'a> {
    let own = &registered.service.ports;
    ports.iter().map(|port| own.iter().find(|p| same_socket(p, port)).map(|p| &p.name)).collect()
}

fn is_identity(names: &OwnNames<'_>, ports: &[Port]) -> bool {
    names.iter().zip(ports).all(|(own, port)| own.is_some_and(|own| *own == port.name))
}

/// Says the endpoint's ports under the merged service's names.
fn rename(made: &mut Endpoint, from: &Endpoint, names: &OwnNames<'_>, ports: &[Port]) {
    made.ports = BTreeMap::new();
    made.app = BTreeMap::new();
    for (port, own) in ports.iter().zip(names) {
        match own {
            None => {
                made.ports.insert(Arc::clone(&port.name), 0);
            }
            Some(own) => {
                if let Some(number) = from.ports.get(*own) {
                    made.ports.insert(Arc::clone(&port.name), *number);
                }
                if let Some(app) = from.app.get(*own) {
                    made.app.insert(Arc::clone(&port.name), *app);
                }
            }
        }
    }
}
