//! What Nomad has, as far as it was said, and what that changes in the mesh. A pure state machine: listings and events in, registry
//! events out; time is an argument.
//!
//! - ALWAYS: an event that is older than a service's listing, or than its last event, is not applied to it: it is known already.
//! - ALWAYS: only what differs from what was said last is said.
//! - ALWAYS: a service whose last instance went stays, empty, for a while; it never gets instances back that are gone.

mod merged;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xebec_pilot::model::{Endpoint, Service, ServiceKey};
use xebec_pilot::registry::{RegistryEvent, Skip};

use self::merged::{Part, merged};
use crate::mapping::{self, Mapped, Rules, Surroundings};
use crate::wire::{Allocation, Batch, Node, Row};

/// A service of Nomad's: its namespace and its name.
pub(crate) type Name = (Arc<str>, Arc<str>);

/// A reading of everything that is wanted.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Every service with instances: these, and the index that they were read at.
    pub(crate) services: BTreeMap<Name, (Vec<Row>, u64)>,
    /// Services that are listed and could not be read: nothing is known about them that was not known before.
    pub(crate) unread: BTreeSet<Name>,
    /// The index of the list of services. What is not in it is not there as of this index.
    pub(crate) index: u64,
    /// Every allocation that is not at its end.
    pub(crate) allocations: Vec<Allocation>,
    /// The index of that list.
    pub(crate) allocations_index: u64,
    /// Every node, with metadata where instances run. `None`: the token may not see nodes.
    pub(crate) nodes: Option<Vec<Node>>,
}

/// What is left out of a service at present, and what was before.
#[derive(Debug)]
pub(crate) struct Skipped {
    pub(crate) name: Name,
    pub(crate) now: Arc<[Skip]>,
    pub(crate) before: Arc<[Skip]>,
}

/// The mirror.
#[derive(Debug)]
pub(crate) struct Mirror {
    rules: Rules,
    services: HashMap<Name, Known>,
    /// Index of the last listing, for services that were not in it.
    index: u64,
    around: Surroundings,
    by_allocation: HashMap<Arc<str>, BTreeSet<Name>>,
    by_node: HashMap<Arc<str>, BTreeSet<Name>>,
    dirty: BTreeSet<Name>,
    /// What each Nomad service contributes at present.
    contributions: HashMap<Name, Mapped>,
    /// Who contributes to each service of the mesh, in order.
    contributors: BTreeMap<ServiceKey, BTreeSet<Name>>,
    said: HashMap<ServiceKey, (Arc<Service>, Arc<[Endpoint]>)>,
    skips: HashMap<Name, Arc<[Skip]>>,
}

#[derive(Debug, Default)]
struct Known {
    rows: BTreeMap<Arc<str>, Row>,
    /// The listing had events up to this index.
    as_of: u64,
    /// The index of the last event since then. One index may have several.
    heard: u64,
    /// Since when there are no rows.
    empty_since: Option<Instant>,
}

// === impl Mirror ===

impl Mirror {
    /// A mirror of which nothing is known.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            services: HashMap::new(),
            index: 0,
            around: Surroundings::default(),
            by_allocation: HashMap::new(),
            by_node: HashMap::new(),
            dirty: BTreeSet::new(),
            contributions: HashMap::new(),
            contributors: BTreeMap::new(),
            said: HashMap::new(),
            skips: HashMap::new(),
        }
    }

    /// The region of all endpoints from now on.
    pub(crate) fn set_region(&mut self, region: &str) {
        if &*self.rules.region != region {
            self.rules.region = region.into();
            self.dirty.extend(self.services.keys().cloned());
        }
    }

    /// The index of the last listing.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// Services that have instances.
    pub(crate) fn populated(&self) -> impl Iterator<Item = &Name> {
        self.services.iter().filter(|(_, known)| !known.rows.is_empty()).map(|(name, _)| name)
    }

    /// What is known about nodes.
    pub(crate) fn nodes(&self) -> &HashMap<Arc<str>, Node> {
        &self.around.nodes
    }

    /// The running allocations of all instances.
    pub(crate) fn running(&self) -> Vec<Arc<str>> {
        let runs = |id: &&Arc<str>| self.around.allocations.get(*id).is_some_and(|a| &*a.client_status == "running");
        let mut ids: Vec<Arc<str>> = self.by_allocation.keys().filter(runs).cloned().collect();
        ids.sort();
        ids
    }

    /// Takes a reading. Events that came while it was read are to be applied again afterwards.
    pub(crate) fn replace(&mut self, listing: Listing, now: Instant) {
        let Listing { mut services, unread, index, allocations, allocations_index, nodes } = listing;
        self.index = index;
        let known: Vec<Name> = self.services.keys().filter(|name| !unread.contains(*name)).cloned().collect();
        for name in known {
            let (rows, as_of) = services.remove(&name).unwrap_or((Vec::new(), index));
            self.set_rows(&name, rows, as_of, now);
        }
        // One that lost its last instance between the list of names and its own was never seen with any.
        for (name, (rows, as_of)) in services.into_iter().filter(|(_, (rows, _))| !rows.is_empty()) {
            self.set_rows(&name, rows, as_of, now);
        }
        self.around.allocations_as_of = allocations_index;
        let allocations: HashMap<Arc<str>, Allocation> =
            allocations.into_iter().map(|allocation| (Arc::clone(&allocation.id), allocation)).collect();
        for (id, names) in &self.by_allocation {
            if self.around.allocations.get(id) != allocations.get(id) {
                self.dirty.extend(names.iter().cloned());
            }
        }
        self.around.allocations = allocations;
        if let Some(nodes) = nodes {
            let nodes: HashMap<Arc<str>, Node> = nodes.into_iter().map(|node| (Arc::clone(&node.id), node)).collect();
            for (id, names) in &self.by_node {
                if self.around.nodes.get(id) != nodes.get(id) {
                    self.dirty.extend(names.iter().cloned());
                }
            }
            self.around.nodes = nodes;
        }
        let by_allocation = &self.by_allocation;
        self.around.checks.retain(|id, _| by_allocation.contains_key(id));
    }

    fn set_rows(&mut self, name: &Name, rows: Vec<Row>, as_of: u64, now: Instant) {
        let known = self.services.entry(name.clone()).or_default();
        (known.as_of, known.heard) = (as_of, as_of);
        let rows: BTreeMap<Arc<str>, Row> = rows.into_iter().map(|row| (Arc::clone(&row.id), row)).collect();
        if known.rows == rows && !rows.is_empty() {
            return;
        }
        let old: Vec<Row> = known.rows.values().cloned().collect();
        for row in rows.values() {
            index(&mut self.by_allocation, &row.alloc_id, name);
            index(&mut self.by_node, &row.node_id, name);
        }
        if rows.is_empty() {
            known.empty_since.get_or_insert(now);
        } else {
            known.empty_since = None;
        }
        known.rows = rows;
        for row in old {
            self.unindex(name, &row);
        }
        self.dirty.insert(name.clone());
    }

    fn unindex(&mut self, name: &Name, row: &Row) {
        let Some(known) = self.services.get(name) else { return };
        if !known.rows.values().any(|other| other.alloc_id == row.alloc_id) {
            remove(&mut self.by_allocation, &row.alloc_id, name);
            if !self.by_allocation.contains_key(&row.alloc_id) {
                self.around.checks.remove(&row.alloc_id);
            }
        }
        if !known.rows.values().any(|other| other.node_id == row.node_id) {
            remove(&mut self.by_node, &row.node_id, name);
        }
    }

    /// Takes one line of the event stream.
    pub(crate) fn apply(&mut self, batch: &Batch, now: Instant) {
        for event in &batch.events {
            let payload = &event.payload;
            if let Some(row) = &payload.service {
                self.apply_row(row, &event.kind, batch.index, now);
            }
            // Both topics also announce each other's changes; a payload is what its own topic says.
            if let Some(allocation) = &payload.allocation
                && &*event.topic == "Allocation"
            {
                self.apply_allocation(allocation);
            }
            if let Some(node) = &payload.node
                && &*event.topic == "Node"
            {
                self.apply_node(node, &event.kind);
            }
        }
    }

    fn apply_row(&mut self, row: &Row, kind: &str, at: u64, now: Instant) {
        if !self.rules.settings.services.takes(&row.service_name) {
            return;
        }
        let name: Name = (Arc::clone(&row.namespace), Arc::clone(&row.service_name));
        let gone = kind == "ServiceDeregistration";
        let (as_of, heard) = self.services.get(&name).map_or((self.index, 0), |known| (known.as_of, known.heard));
        if at <= as_of || at < heard {
            return;
        }
        let Some(known) =
            (if gone { self.services.get_mut(&name) } else { Some(self.services.entry(name.clone()).or_default()) })
        else {
            return;
        };
        known.heard = at;
        let old = if gone { known.rows.remove(&row.id) } else { known.rows.insert(Arc::clone(&row.id), row.clone()) };
        if known.rows.is_empty() {
            known.empty_since.get_or_insert(now);
        } else {
            known.empty_since = None;
        }
        if !gone {
            index(&mut self.by_allocation, &row.alloc_id, &name);
            index(&mut self.by_node, &row.node_id, &name);
        }
        if let Some(old) = &old {
            self.unindex(&name, old);
        }
        if old.as_ref() != (!gone).then_some(row) {
            self.dirty.insert(name);
        }
    }

    fn apply_allocation(&mut self, allocation: &Allocation) {
        if self.around.allocations.get(&allocation.id).is_some_and(|known| known.modify_index > allocation.modify_index)
        {
            return;
        }
        // A finished one is kept while a service still names it.
        let finished = matches!(&*allocation.client_status, "complete" | "failed" | "lost");
        let named = self.by_allocation.get(&allocation.id);
        let old = if finished && named.is_none() {
            self.around.allocations.remove(&allocation.id)
        } else {
            self.around.allocations.insert(Arc::clone(&allocation.id), allocation.clone())
        };
        if old.as_ref() != Some(allocation) {
            self.dirty.extend(named.into_iter().flatten().cloned());
        }
    }

    fn apply_node(&mut self, node: &Node, kind: &str) {
        let named = self.by_node.get(&node.id);
        let changed = if kind == "NodeDeregistration" {
            self.around.nodes.remove(&node.id).is_some()
        } else {
            let known = self.around.nodes.get(&node.id);
            if known.is_some_and(|known| known.modify_index > node.modify_index) {
                return;
            }
            let same = |known: &Node| Node { modify_index: node.modify_index, ..known.clone() } == *node;
            let changed = !known.is_some_and(same);
            self.around.nodes.insert(Arc::clone(&node.id), node.clone());
            changed
        };
        if changed {
            self.dirty.extend(named.into_iter().flatten().cloned());
        }
    }

    /// The results of an allocation's checks, by service: whether all succeed.
    pub(crate) fn set_checks(&mut self, allocation: &Arc<str>, results: BTreeMap<Arc<str>, bool>) {
        let Some(names) = self.by_allocation.get(allocation) else { return };
        let old = if results.is_empty() {
            self.around.checks.remove(allocation).unwrap_or_default()
        } else {
            self.around.checks.insert(Arc::clone(allocation), results.clone()).unwrap_or_default()
        };
        if old != results {
            self.dirty.extend(names.iter().cloned());
        }
    }

    /// Forgets services that have been empty for long enough.
    pub(crate) fn expire(&mut self, now: Instant, keep: Duration) {
        let over = |known: &Known| known.empty_since.is_some_and(|since| now.saturating_duration_since(since) >= keep);
        let gone: Vec<Name> =
            self.services.iter().filter(|(_, known)| over(known)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.services.remove(&name);
            self.dirty.insert(name);
        }
    }

    /// What changed in the mesh since this was last asked, and of which services something else had to be left out than before.
    pub(crate) fn settle(&mut self) -> (Vec<RegistryEvent>, Vec<Skipped>) {
        let mut touched = BTreeSet::new();
        let mut skipped = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            let old = self.contributions.remove(&name).unwrap_or_default();
            let (mapped, skips) = match self.services.get(&name) {
                // What its instances declared, its ports above all, stays as long as the service does.
                Some(known) if known.rows.is_empty() && !old.is_empty() => {
                    let emptied =
                        old.iter().map(|(key, (service, _))| (key.clone(), (Arc::clone(service), Vec::new())));
                    (emptied.collect(), Vec::new())
                }
                Some(known) => mapping::map(&self.rules, &name.0, &name.1, known.rows.values(), &self.around),
                None => Default::default(),
            };
            let before = self.skips.remove(&name).unwrap_or_default();
            if !skips.is_empty() {
                let now: Arc<[Skip]> = skips.into();
                self.skips.insert(name.clone(), Arc::clone(&now));
                if now != before {
                    skipped.push(Skipped { name: name.clone(), now, before });
                }
            }
            for key in old.keys().filter(|key| !mapped.contains_key(*key)) {
                if let Some(names) = self.contributors.get_mut(key) {
                    names.remove(&name);
                    if names.is_empty() {
                        self.contributors.remove(key);
                    }
                }
            }
            for key in mapped.keys() {
                self.contributors.entry(key.clone()).or_default().insert(name.clone());
            }
            touched.extend(old.into_keys().chain(mapped.keys().cloned()));
            if !mapped.is_empty() {
                self.contributions.insert(name, mapped);
            }
        }
        let mut events = Vec::new();
        for key in touched {
            self.say(key, &mut events);
        }
        (events, skipped)
    }

    fn say(&mut self, key: ServiceKey, events: &mut Vec<RegistryEvent>) {
        let names = self.contributors.get(&key).into_iter().flatten();
        let parts: Vec<&Part> = names.filter_map(|name| self.contributions.get(name)?.get(&key)).collect();
        let Some((service, endpoints)) = merged(&parts) else {
            if self.said.remove(&key).is_some() {
                events.push(RegistryEvent::RemoveService(key));
            }
            return;
        };
        let before = self.said.get(&key);
        if before.is_none_or(|(before, _)| *before != service) {
            events.push(RegistryEvent::UpsertService(Arc::clone(&service)));
        }
        if before.map_or(!endpoints.is_empty(), |(_, before)| *before != endpoints) {
            events.push(RegistryEvent::ReplaceEndpoints(key.clone(), Arc::clone(&endpoints)));
        }
        self.said.insert(key, (service, endpoints));
    }
}

fn index(by: &mut HashMap<Arc<str>, BTreeSet<Name>>, id: &Arc<str>, name: &Name) {
    by.entry(Arc::clone(id)).or_default().insert(name.clone());
}

fn remove(by: &mut HashMap<Arc<str>, BTreeSet<Name>>, id: &Arc<str>, name: &Name) {
    if let Some(names) = by.get_mut(id) {
        names.remove(name);
        if names.is_empty() {
            by.remove(id);
        }
    }
}

#[cfg(test)]
mod tests;
