//! What was received of one type: accepted, refused, or known to be missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use xebec_proto::google::protobuf::Any;

use crate::convert::{Converted, Ignored};

/// The clock, both ways of reading it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For waits.
    pub instant: Instant,
    /// For people.
    pub wall: SystemTime,
}

/// A resource in use or on its way to it.
#[derive(Debug, Clone)]
pub struct Accepted<T> {
    /// The version that the control plane gave it.
    pub version: String,
    /// As received.
    pub resource: Arc<Any>,
    /// In our own form.
    pub parts: T,
    /// Fields without effect.
    pub ignored: Vec<Ignored>,
    /// When its content arrived.
    pub since: Now,
    /// Unique to this content.
    pub serial: u64,
}

/// A resource that is not used.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The version that the control plane gave it.
    pub version: String,
    /// As received; absent when it had no content.
    pub resource: Option<Arc<Any>>,
    /// Why.
    pub reason: String,
    /// When it arrived.
    pub at: SystemTime,
}

/// Everything of one type.
#[derive(Debug)]
pub struct Held<T> {
    accepted: BTreeMap<Arc<str>, Accepted<T>>,
    refused: BTreeMap<Arc<str>, Refused>,
    /// Names that the control plane says it does not have.
    missing: BTreeSet<Arc<str>>,
}

// === impl Now ===

impl Now {
    /// This moment.
    pub fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

// === impl Held ===

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { accepted: BTreeMap::new(), refused: BTreeMap::new(), missing: BTreeSet::new() }
    }
}

impl<T> Held<T> {
    /// The resource in use or warming.
    pub fn get(&self, name: &str) -> Option<&Accepted<T>> {
        self.accepted.get(name)
    }

    /// All of them, in alphabetical order.
    pub fn accepted(&self) -> impl Iterator<Item = (&Arc<str>, &Accepted<T>)> {
        self.accepted.iter()
    }

    /// How many are in use or warming.
    pub fn len(&self) -> usize {
        self.accepted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    /// All refused ones, in alphabetical order.
    pub fn refused(&self) -> impl Iterator<Item = (&Arc<str>, &Refused)> {
        self.refused.iter()
    }

    /// Why the newest version of a resource is refused, if it is.
    pub fn refusal(&self, name: &str) -> Option<&Refused> {
        self.refused.get(name)
    }

    /// Whether the control plane says that it does not have this name.
    pub fn is_missing(&self, name: &str) -> bool {
        self.missing.contains(name)
    }

    /// Names and versions of what is held and current. Refused names are left out, so that the control plane sends them again.
    pub fn versions(&self) -> HashMap<String, String> {
        self.accepted
            .iter()
            .filter(|(name, _)| !self.refused.contains_key(*name))
            .map(|(name, accepted)| (name.to_string(), accepted.version.clone()))
            .collect()
    }

    pub(super) fn accept(
        &mut self,
        name: &Arc<str>,
        version: String,
        resource: Arc<Any>,
        value: Converted<T>,
        serial: u64,
        now: Now,
    ) {
        self.refused.remove(name);
        self.missing.remove(name);
        let Converted { value: parts, ignored } = value;
        self.accepted.insert(name.clone(), Accepted { version, resource, parts, ignored, since: now, serial });
    }

    /// The same content under another version: nothing but the version changes.
    pub(super) fn is_same(&mut self, name: &str, version: &str, resource: &Any) -> bool {
        match self.accepted.get_mut(name) {
            Some(held) if *held.resource == *resource => {
                version.clone_into(&mut held.version);
                self.refused.remove(name);
                self.missing.remove(name);
                true
            }
            _ => false,
        }
    }

    pub(super) fn refuse(&mut self, name: &Arc<str>, refused: Refused) {
        self.refused.insert(name.clone(), refused);
    }

    /// Forgets a resource. Returns whether one was accepted.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.refused.remove(name);
        self.missing.remove(name);
        self.accepted.remove(name).is_some()
    }

    /// The control plane does not have it: what is held stays, and nothing is waited for.
    pub(super) fn mark_missing(&mut self, name: &Arc<str>) {
        self.missing.insert(name.clone());
        self.refused.remove(name);
    }

    /// Forgets every name that is not wanted any more.
    pub(super) fn keep_only(&mut self, wanted: impl Fn(&str) -> bool) {
        self.accepted.retain(|name, _| wanted(name));
        self.refused.retain(|name, _| wanted(name));
        self.missing.retain(|name| wanted(name));
    }
}
