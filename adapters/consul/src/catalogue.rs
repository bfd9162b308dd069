//! What all Consul services say, and the events that a change of one of them makes.
//!
//! - ALWAYS: a service whose instances are all gone stays, empty, until it is forgotten or its source is removed.
//! - ALWAYS: of several sources that say one service, all endpoints are in it, each on the ports of its own source. An endpoint that more
//!   than one of them says (names that differ only in case have the same instances) is in it once.
//! - NEVER: an event without a change.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use xebec_pilot::model::{Endpoint, Service, ServiceKey};
use xebec_pilot::registry::RegistryEvent;

use crate::mapping::{Contribution, rank};

/// One name in one datacenter; `None` is the agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source {
    pub(crate) datacenter: Option<Arc<str>>,
    pub(crate) name: Arc<str>,
}

#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    services: FxHashMap<ServiceKey, Entry>,
    /// What each source says, or has said and keeps empty.
    keys: FxHashMap<Source, BTreeSet<ServiceKey>>,
}

#[derive(Debug, Default)]
struct Entry {
    said: BTreeMap<Source, Contribution>,
    /// What was last told to the mesh.
    told: Option<Contribution>,
}

// === impl Catalogue ===

impl Catalogue {
    /// A source says this now. What it said before and does not any more stays, empty; of that, the services are returned that it has no
    /// word about although it has about others.
    pub(crate) fn put(
        &mut self,
        source: &Source,
        contributions: Vec<Contribution>,
        events: &mut Vec<RegistryEvent>,
    ) -> Vec<ServiceKey> {
        let now: Vec<ServiceKey> = contributions.iter().map(|said| said.service.key.clone()).collect();
        let known = self.keys.entry(source.clone()).or_default();
        let quiet: Vec<ServiceKey> = known.iter().filter(|key| !now.contains(key)).cloned().collect();
        known.extend(now.iter().cloned());
        for contribution in contributions {
            let key = contribution.service.key.clone();
            self.services.entry(key).or_default().said.insert(source.clone(), contribution);
        }
        for key in &quiet {
            if let Some(said) = self.services.get_mut(key).and_then(|entry| entry.said.get_mut(source)) {
                said.endpoints = Arc::default();
            }
        }
        for key in quiet.iter().chain(&now) {
            self.tell(key, events);
        }
        if now.is_empty() { Vec::new() } else { quiet }
    }

    /// A source has said nothing about this service for long enough.
    pub(crate) fn forget(&mut self, source: &Source, key: &ServiceKey, events: &mut Vec<RegistryEvent>) {
        if self.keys.get_mut(source).is_some_and(|keys| keys.remove(key)) {
            self.withdraw(source, key, events);
        }
    }

    /// A source is gone, and what only it said.
    pub(crate) fn remove(&mut self, source: &Source, events: &mut Vec<RegistryEvent>) {
        for key in self.keys.remove(source).unwrap_or_default() {
            self.withdraw(source, &key, events);
        }
    }

    fn withdraw(&mut self, source: &Source, key: &ServiceKey, events: &mut Vec<RegistryEvent>) {
        if let Some(entry) = self.services.get_mut(key) {
            entry.said.remove(source);
        }
        self.tell(key, events);
    }

    fn tell(&mut self, key: &ServiceKey, events: &mut Vec<RegistryEvent>) {
        let Some(entry) = self.services.get_mut(key) else { return };
        let Some(now) = merged(&entry.said) else {
            self.services.remove(key);
            events.push(RegistryEvent::RemoveService(key.clone()));
            return;
        };
        let before = entry.told.as_ref();
        if before.is_none_or(|before| before.service != now.service) {
            events.push(RegistryEvent::UpsertService(Arc::clone(&now.service)));
        }
        if before.is_none_or(|before| before.endpoints != now.endpoints) {
            events.push(RegistryEvent::ReplaceEndpoints(key.clone(), Arc::clone(&now.endpoints)));
        }
        entry.told = Some(now);
    }
}

fn merged(said: &BTreeMap<Source, Contribution>) -> Option<Contribution> {
    // The one whose own name it is, before guests.
    let first = said.values().min_by_key(|said| said.service.created)?;
    if said.len() == 1 {
        return Some(first.clone());
    }
    let mut service = Service::clone(&first.service);
    for port in said.values().flat_map(|other| &other.service.ports) {
        if service.ports.iter().all(|known| known.number != port.number) {
            service.ports.push(port.clone());
        }
    }
    let said = said.values().filter(|other| other.service.resolution == service.resolution);
    let mut places = FxHashMap::default();
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in said.flat_map(|other| other.endpoints.iter()) {
        let mut endpoint = endpoint.clone();
        for port in &service.ports {
            endpoint.ports.entry(Arc::clone(&port.name)).or_insert(0);
        }
        match places.entry((endpoint.address.clone(), endpoint.ports.clone())) {
            Vacant(place) => {
                place.insert(endpoints.len());
                endpoints.push(endpoint);
            }
            // As healthy as the better of them.
            Occupied(place) => match endpoints.get_mut(*place.get()) {
                Some(known) if rank(endpoint.health) < rank(known.health) => *known = endpoint,
                _ => {}
            },
        }
    }
    Some(Contribution { service: Arc::new(service), endpoints: endpoints.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use serde_json::json;
    use xebec_pilot::model::RegistryId;

    use super::*;
    use crate::mapping::{Context, map};
    use crate::settings::Settings;

    fn source(datacenter: Option<&str>, name: &str) -> Source {
        Source { datacenter: datacenter.map(Arc::from), name: name.into() }
    }

    /// What instances at these addresses say that join `shop.example` on a port.
    fn said(source: &Source, port: u16, addresses: &[&str]) -> Vec<Contribution> {
        let settings = Settings { mesh_hostnames: vec!["shop.example".into()], ..Settings::default() };
        let row = |address: &&str| {
            serde_json::from_value(json!({"Service": {
                "ID": address, "Address": address, "Port": 8000,
                "Meta": {"mesh-hostname": "shop.example", "mesh-port": port.to_string()},
            }}))
            .unwrap()
        };
        let rows: Vec<_> = addresses.iter().map(row).collect();
        let (registry, held) = (RegistryId("consul:test".into()), HashSet::new());
        let remote = source.datacenter.as_deref();
        map(&Context { settings: &settings, registry: &registry, name: &source.name, remote, held: &held }, &rows)
            .contributions
    }

    /// What a mesh has that heard these events, as `HOST:PORTS=ADDRESSES`.
    #[derive(Default)]
    struct Mesh(BTreeMap<String, (Vec<u16>, usize)>);

    impl Mesh {
        fn hear(&mut self, events: Vec<RegistryEvent>) -> usize {
            let count = events.len();
            for event in events {
                match event {
                    RegistryEvent::UpsertService(service) => {
                        let ports = service.ports.iter().map(|port| port.number).collect();
                        self.0.entry(service.key.hostname.to_string()).or_default().0 = ports;
                    }
                    RegistryEvent::ReplaceEndpoints(key, endpoints) => {
                        self.0.get_mut(&*key.hostname).unwrap().1 = endpoints.len()
                    }
                    RegistryEvent::RemoveService(key) => drop(self.0.remove(&*key.hostname).unwrap()),
                    other => unreachable!("{other:?}"),
                }
            }
            count
        }

        fn shop(&self) -> Option<(&[u16], usize)> {
            self.0.get("shop.example").map(|(ports, count)| (ports.as_slice(), *count))
        }
    }

    #[test]
    fn a_service_that_several_say_has_all_their_endpoints_and_goes_with_the_last_of_them() {
        let (here, there) = (source(None, "web"), source(Some("dc2"), "web"));
        let (mut catalogue, mut mesh) = (Catalogue::default(), Mesh::default());
        let put = |catalogue: &mut Catalogue, mesh: &mut Mesh, source: &Source, port: u16, addresses: &[&str]| {
            let mut events = Vec::new();
            catalogue.put(source, said(source, port, addresses), &mut events);
            mesh.hear(events)
        };
        put(&mut catalogue, &mut mesh, &here, 80, &["10.0.0.1", "10.0.0.2"]);
        put(&mut catalogue, &mut mesh, &there, 90, &["10.1.0.1"]);
        assert_eq!(mesh.shop(), Some((&[80, 90][..], 3)));
        assert_eq!(put(&mut catalogue, &mut mesh, &there, 90, &["10.1.0.1"]), 0, "no event without a change");
        let shop = catalogue.services.values().find(|entry| entry.said.len() == 2).unwrap().told.clone().unwrap();
        let served = shop.endpoints.iter().map(|e| shop.service.ports.iter().filter(|port| e.serves(port)).count());
        assert_eq!(served.collect::<Vec<_>>(), [1, 1, 1], "each on the ports of its own source");

        put(&mut catalogue, &mut mesh, &here, 80, &[]);
        assert_eq!(mesh.shop(), Some((&[80, 90][..], 1)), "the empty one stays with its ports");
        let mut events = Vec::new();
        catalogue.remove(&here, &mut events);
        mesh.hear(events);
        assert_eq!(mesh.shop(), Some((&[90][..], 1)));
        assert!(!mesh.0.contains_key("web.service.consul") && mesh.0.contains_key("web.service.dc2.consul"));
        let mut events = Vec::new();
        catalogue.remove(&there, &mut events);
        mesh.hear(events);
        assert!(mesh.0.is_empty() && catalogue.services.is_empty() && catalogue.keys.is_empty());
    }

    #[test]
    fn an_instance_that_two_names_have_counts_once_unless_its_ports_differ() {
        let (lower, upper) = (source(None, "web"), source(None, "Web"));
        let (mut catalogue, mut mesh, mut events) = (Catalogue::default(), Mesh::default(), Vec::new());
        catalogue.put(&lower, said(&lower, 80, &["10.0.0.1", "10.0.0.2"]), &mut events);
        catalogue.put(&upper, said(&upper, 80, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]), &mut events);
        mesh.hear(std::mem::take(&mut events));
        assert_eq!(mesh.shop(), Some((&[80][..], 3)));
        catalogue.put(&upper, said(&upper, 90, &["10.0.0.1"]), &mut events);
        mesh.hear(events);
        assert_eq!(mesh.shop(), Some((&[90, 80][..], 3)), "two on 80, one on 90");
    }

    #[test]
    fn a_name_that_no_instance_joins_any_more_is_empty_until_it_is_forgotten() {
        let here = source(None, "web");
        let (mut catalogue, mut mesh, mut events) = (Catalogue::default(), Mesh::default(), Vec::new());
        let both = said(&here, 80, &["10.0.0.1"]);
        let shop =
            both.iter().map(|said| said.service.key.clone()).find(|key| &*key.hostname == "shop.example").unwrap();
        let alone: Vec<_> = both.iter().filter(|said| said.service.key != shop).cloned().collect();
        assert_eq!(catalogue.put(&here, both.clone(), &mut events), []);
        assert_eq!(catalogue.put(&here, alone.clone(), &mut events), std::slice::from_ref(&shop));
        mesh.hear(std::mem::take(&mut events));
        assert_eq!((mesh.0.len(), mesh.shop()), (2, Some((&[80][..], 0))));
        assert_eq!(catalogue.put(&here, both, &mut events), []);
        catalogue.put(&here, alone, &mut events);
        catalogue.forget(&here, &shop, &mut events);
        mesh.hear(std::mem::take(&mut events));
        assert_eq!(mesh.0.keys().collect::<Vec<_>>(), ["web.service.consul"]);
        // Without any instance, nothing can be told apart: all wait for the end of the source.
        assert_eq!(catalogue.put(&here, Vec::new(), &mut events), []);
        mesh.hear(events);
        assert_eq!(mesh.0["web.service.consul"].1, 0);
    }
}
