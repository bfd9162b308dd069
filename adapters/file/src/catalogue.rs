//! What the files say now, and what that changes.
//!
//! A pure state machine: files' content in, events out.
//!
//! - ALWAYS: a file with a mistake keeps its last good version.
//! - ALWAYS: only what differs is said, and a change of one file costs that file.
//! - ALWAYS: of several files that say one service, the first by path is in effect.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tracing::warn;
use xebec_pilot::model::{Service, ServiceKey};
use xebec_pilot::registry::RegistryEvent;

use crate::check::Entry;

/// The live state of a registry.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    files: BTreeMap<Arc<str>, BTreeMap<ServiceKey, Entry>>,
    /// The files that say each service, first by path first.
    owners: HashMap<ServiceKey, BTreeSet<Arc<str>>>,
}

/// Services that may have changed, with what was in effect before the first change.
pub(crate) type Touched = BTreeMap<ServiceKey, Option<Entry>>;

// === impl Catalogue ===

impl Catalogue {
    /// The file `name` says these services, and no others, from now on. A file that is gone says none.
    pub(crate) fn put(&mut self, name: &Arc<str>, entries: Vec<Entry>, touched: &mut Touched) {
        let new: BTreeMap<ServiceKey, Entry> = entries.into_iter().map(|e| (e.service.key.clone(), e)).collect();
        let old = self.files.get(name).map(|entries| entries.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        for key in old.iter().chain(new.keys()) {
            if !touched.contains_key(key) {
                touched.insert(key.clone(), self.effective(key).cloned());
            }
        }
        for key in old.iter().filter(|key| !new.contains_key(*key)) {
            if let Some(owners) = self.owners.get_mut(key) {
                owners.remove(name);
                if owners.is_empty() {
                    self.owners.remove(key);
                }
            }
        }
        for key in new.keys() {
            let owners = self.owners.entry(key.clone()).or_default();
            if owners.insert(name.clone()) && owners.len() > 1 {
                let all: Vec<&str> = owners.iter().map(|owner| &**owner).collect();
                warn!("the service {key} is in {}: the first is in effect; remove the others", all.join(" and in "));
            }
        }
        if new.is_empty() {
            self.files.remove(name);
        } else {
            self.files.insert(name.clone(), new);
        }
    }

    /// The events that lead from what was in effect to what is.
    pub(crate) fn settle(&self, touched: Touched) -> Vec<RegistryEvent> {
        let mut events = Vec::new();
        for (key, before) in touched {
            let Some(entry) = self.effective(&key) else {
                if before.is_some() {
                    events.push(RegistryEvent::RemoveService(key));
                }
                continue;
            };
            if before.as_ref().is_none_or(|before| !same(&before.service, &entry.service)) {
                events.push(RegistryEvent::UpsertService(entry.service.clone()));
            }
            // A new service without endpoints has none to replace.
            if before.map_or(!entry.endpoints.is_empty(), |before| before.endpoints != entry.endpoints) {
                events.push(RegistryEvent::ReplaceEndpoints(key, entry.endpoints.clone()));
            }
        }
        events
    }

    /// Whether services of this file are known.
    pub(crate) fn says_something(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The service as the first of its files says it.
    pub(crate) fn effective(&self, key: &ServiceKey) -> Option<&Entry> {
        let owner = self.owners.get(key)?.first()?;
        self.files.get(owner)?.get(key)
    }
}

/// Whether nothing about a service is different but the line that it is written in: a line added above it is no change of it.
fn same(one: &Service, other: &Service) -> bool {
    let file = |service: &Service| service.origin.as_ref().map(|origin| origin.file.clone());
    let bare = |service: &Service| Service { origin: None, ..service.clone() };
    file(one) == file(other) && bare(one) == bare(other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use xebec_pilot::model::{Address, RegistryId};

    use super::*;
    use crate::check::check;

    fn service(host: &str, address: &str) -> String {
        format!(
            "services:\n- host: {host}\n  ports: [{{name: http, number: 80}}]\n  instances: [{{address: {address}}}]\n"
        )
    }

    fn put(catalogue: &mut Catalogue, file: &str, text: &str) -> Vec<RegistryEvent> {
        let entries = check(file, text.as_bytes(), &RegistryId("file:test".into())).entries.unwrap();
        let mut touched = Touched::default();
        catalogue.put(&file.into(), entries, &mut touched);
        catalogue.settle(touched)
    }

    /// Events in short: `+a` upserted, `=a:2` endpoints, `-a` removed.
    fn short(events: &[RegistryEvent]) -> Vec<String> {
        let each = events.iter().map(|event| match event {
            RegistryEvent::UpsertService(service) => format!("+{}", service.key.hostname),
            RegistryEvent::ReplaceEndpoints(key, endpoints) => format!("={}:{}", key.hostname, endpoints.len()),
            RegistryEvent::RemoveService(key) => format!("-{}", key.hostname),
            other => format!("{other:?}"),
        });
        each.collect()
    }

    #[test]
    fn only_changed_services_are_said() {
        let mut catalogue = Catalogue::default();
        let both = service("a", "10.0.0.1") + "---\n" + &service("b", "10.0.0.2");
        assert_eq!(short(&put(&mut catalogue, "x.yaml", &both)), ["+a", "=a:1", "+b", "=b:1"]);
        assert!(put(&mut catalogue, "x.yaml", &both).is_empty());
        let moved = service("a", "10.0.0.1") + "---\n" + &service("b", "10.0.0.3");
        assert_eq!(short(&put(&mut catalogue, "x.yaml", &moved)), ["=b:1"]);
        let renamed = moved.replace("name: http", "name: tcp");
        assert_eq!(short(&put(&mut catalogue, "x.yaml", &renamed)), ["+a", "+b"]);
        assert_eq!(short(&put(&mut catalogue, "x.yaml", &service("a", "10.0.0.1"))), ["+a", "-b"]);
    }

    #[test]
    fn a_service_that_moves_down_in_its_file_is_no_change() {
        let mut catalogue = Catalogue::default();
        put(&mut catalogue, "x.yaml", &service("a", "10.0.0.1"));
        assert!(put(&mut catalogue, "x.yaml", &format!("# a comment\n{}", service("a", "10.0.0.1"))).is_empty());
    }

    #[test]
    fn of_two_files_that_say_one_service_the_first_wins_and_the_second_takes_over() {
        let mut catalogue = Catalogue::default();
        let second = service("a", "10.0.0.2") + "---\n" + &service("b", "10.0.0.3");
        assert_eq!(short(&put(&mut catalogue, "y.yaml", &second)), ["+a", "=a:1", "+b", "=b:1"]);
        assert_eq!(short(&put(&mut catalogue, "x.yaml", &service("a", "10.0.0.1"))), ["+a", "=a:1"]);
        let events = put(&mut catalogue, "x.yaml", "");
        assert_eq!(short(&events), ["+a", "=a:1"], "it is written elsewhere now, too");
        let RegistryEvent::ReplaceEndpoints(_, endpoints) = &events[1] else { panic!("{events:?}") };
        assert_eq!(endpoints[0].address, Address::Ip("10.0.0.2".parse().unwrap()));
        assert_eq!(short(&put(&mut catalogue, "y.yaml", "")), ["-a", "-b"]);
    }
}
