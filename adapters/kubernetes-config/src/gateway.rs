//! The Gateway API and Ingress: objects go into the converter, Istio's resources and statuses come out.
//!
//! - ALWAYS: nothing is published before everything that decides was read once, so that no route is said to lack what is only late.
//! - ALWAYS: an object that is not in the form of its kind leaves what was known of it, and is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kube::core::DynamicObject;
use serde_json::Value;
use xebec_galley::source::SourceUpdate;
use xebec_galley::{Code, Config, ConfigEvent, Diagnostic, ResourceKey, Severity};
use xebec_gateway_api::{Converter, Object, ObjectKey, ObjectKind};

use crate::cluster::Cluster;
use crate::feed::Scope;
use crate::kinds::Family;
use crate::settings::Settings;
use crate::status::{Seen, Statuses};

/// The state of conversion.
#[derive(Debug)]
pub(crate) struct Gateways {
    converter: Converter,
    cluster: Cluster,
    /// What each scope holds, to find out what a listing lacks.
    held: HashMap<Scope, BTreeSet<(String, String)>>,
    /// What was published.
    published: BTreeMap<ResourceKey, Config>,
    statuses: Statuses,
    /// What is wrong with objects, by their names in diagnostics.
    faults: BTreeMap<Arc<str>, String>,
    notes: BTreeMap<Arc<str>, String>,
    told: BTreeMap<Arc<str>, String>,
    changed: bool,
}

// === impl Gateways ===

impl Gateways {
    pub(crate) fn new(settings: &Settings, statuses: Statuses) -> Self {
        let Settings { domain, ingress_namespace, certificates, .. } = settings.clone();
        let cluster = Cluster::new(&domain, certificates);
        Self {
            converter: Converter::new(xebec_gateway_api::Settings { domain, ingress_namespace }),
            cluster,
            held: HashMap::new(),
            published: BTreeMap::new(),
            statuses,
            faults: BTreeMap::new(),
            notes: BTreeMap::new(),
            told: BTreeMap::new(),
            changed: false,
        }
    }

    /// These are all objects of a scope.
    pub(crate) fn list(&mut self, scope: &Scope, version: &str, objects: Vec<DynamicObject>) {
        let before = self.held.remove(scope).unwrap_or_default();
        for object in objects {
            self.put(scope, version, object);
        }
        let now = self.held.entry(scope.clone()).or_default().clone();
        for (namespace, name) in before.difference(&now) {
            self.forget(scope, namespace, name);
        }
        self.changed = true;
    }

    /// An object is new or different.
    pub(crate) fn put(&mut self, scope: &Scope, version: &str, object: DynamicObject) {
        let (namespace, name) = identity(&object);
        self.held.entry(scope.clone()).or_default().insert((namespace.clone(), name.clone()));
        match scope.watched.family {
            Family::Gateway(kind) => self.put_object(kind, scope, version, object),
            family => self.changed |= self.cluster.put(family, &object),
        }
    }

    fn put_object(&mut self, kind: ObjectKind, scope: &Scope, version: &str, object: DynamicObject) {
        let (namespace, name) = identity(&object);
        let place = place(kind, &namespace, &name);
        self.statuses.saw(&place, Seen::of(&scope.watched, version, &object));
        let mut data = object.data;
        if let Value::Object(fields) = &mut data {
            fields.shift_remove("status");
            fields.insert("metadata".to_owned(), serde_json::to_value(&object.metadata).unwrap_or_default());
        }
        let outcome = Object::from_json(kind, data).and_then(|object| self.converter.set(object));
        match outcome {
            Ok(()) => drop(self.faults.remove(&place)),
            Err(error) => drop(self.faults.insert(place, error.to_string())),
        }
        self.changed = true;
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, scope: &Scope, object: &DynamicObject) {
        let (namespace, name) = identity(object);
        if let Some(held) = self.held.get_mut(scope) {
            held.remove(&(namespace.clone(), name.clone()));
        }
        self.forget(scope, &namespace, &name);
    }

    /// The installed definitions of the Gateway API say this version.
    pub(crate) fn defined(&mut self, version: Option<String>) {
        self.changed |= self.cluster.defined(version);
    }

    fn forget(&mut self, scope: &Scope, namespace: &str, name: &str) {
        match scope.watched.family {
            Family::Gateway(kind) => {
                self.changed = true;
                self.converter.remove(kind, namespace, name);
                let place = place(kind, namespace, name);
                self.statuses.forget(&place);
                self.faults.remove(&place);
            }
            family => self.changed |= self.cluster.remove(family, namespace, name),
        }
    }

    /// Adds what changed to an update, once everything was read.
    pub(crate) fn settle(&mut self, synced: bool, update: &mut SourceUpdate) {
        if !synced || !std::mem::take(&mut self.changed) {
            return;
        }
        let output = self.converter.convert(&self.cluster);
        let mut gone = std::mem::take(&mut self.published);
        for config in output.configs {
            let key = config.meta().key.clone();
            if gone.remove(&key).as_ref() != Some(&config) {
                update.events.push(ConfigEvent::Upsert(config.clone()));
            }
            self.published.insert(key, config);
        }
        update.events.extend(gone.into_keys().map(ConfigEvent::Remove));
        let statuses = output.statuses.into_iter();
        self.statuses.converted(statuses.map(|status| {
            let ObjectKey { kind, namespace, name } = &status.key;
            (place(*kind, namespace, name), status)
        }));
        self.notes = output
            .notes
            .into_iter()
            .map(|note| (place(note.key.kind, &note.key.namespace, &note.key.name), note.message))
            .collect();
        self.tell(update);
    }

    /// Says what is wrong where that is new, and that it is over where it was said before.
    fn tell(&mut self, update: &mut SourceUpdate) {
        let mut wrong = self.notes.clone();
        wrong.extend(self.faults.clone());
        let names: BTreeSet<&Arc<str>> = wrong.keys().chain(self.told.keys()).collect();
        for name in names {
            if wrong.get(name) == self.told.get(name) {
                continue;
            }
            update.files.push(name.clone());
            if let Some(text) = wrong.get(name) {
                let malformed = self.faults.contains_key(name);
                let severity = if malformed { Severity::Error } else { Severity::Warning };
                let code = if malformed { Code::WrongType } else { Code::Suspicious };
                let mut problem = Diagnostic::of_file(severity, code, name, text.clone());
                problem.resource = name.strip_prefix("kubernetes:").map(str::to_owned);
                update.diagnostics.push(problem);
            }
        }
        self.told = wrong;
    }
}

fn identity(object: &DynamicObject) -> (String, String) {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// The name of an object in diagnostics. Gateways of both groups have one kind's name: this one's is qualified.
fn place(kind: ObjectKind, namespace: &str, name: &str) -> Arc<str> {
    format!("kubernetes:{}.{}/{namespace}/{name}", kind.as_str(), kind.group()).into()
}
