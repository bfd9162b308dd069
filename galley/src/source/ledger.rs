//! What each file says, and what is in effect because of it.
//!
//! The ledger is pure: files' contents go in, events come out. It keeps the promises about faulty and contradictory files:
//!
//! - ALWAYS: a resource that is refused stays in effect as it was last good in the same file.
//! - ALWAYS: while a part of a file cannot be read at all, nothing that the file once said is removed.
//! - ALWAYS: of several files that say the same resource, the first by path is in effect, and the others are told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rustc_hash::FxBuildHasher;
use xxhash_rust::xxh3::xxh3_64;

use crate::decode::{Outcome, decode};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::resource::{Config, ConfigEvent, ResourceKey};
use crate::yaml::{self, Problems};

/// All files of a source.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    files: BTreeMap<Arc<str>, File>,
    /// The files that say each resource, first by path first.
    owners: HashMap<ResourceKey, BTreeSet<Arc<str>>, FxBuildHasher>,
    /// How often a file was parsed.
    pub(super) parsed: u64,
}

#[derive(Debug, Default)]
struct File {
    hash: Option<u64>,
    resources: BTreeMap<ResourceKey, Config>,
    diagnostics: Vec<Diagnostic>,
}

/// What a batch of files changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Resources that may be different now, with what was in effect before the first of the changes.
    before: BTreeMap<ResourceKey, Option<Config>>,
    /// Files about which there is something new to say.
    files: BTreeSet<Arc<str>>,
}

// === impl Ledger ===

impl Ledger {
    /// A file has this content now.
    pub(super) fn put(&mut self, name: &Arc<str>, bytes: &[u8], changes: &mut Changes) {
        let hash = xxh3_64(bytes);
        if self.files.get(name).is_some_and(|file| file.hash == Some(hash)) {
            return;
        }
        self.parsed += 1;
        let stream = yaml::parse(name, bytes);
        let mut resources: BTreeMap<ResourceKey, Config> = BTreeMap::new();
        let mut kept = BTreeSet::new();
        let mut keep_all = stream.problem.is_some();
        let mut problems = Problems::new();
        problems.extend(stream.problem);
        let decoded =
            stream.documents.iter().flat_map(|document| decode(document).into_iter().map(move |part| (document, part)));
        for (document, decoded) in decoded {
            problems.extend(decoded.diagnostics);
            match decoded.outcome {
                Outcome::Accepted(config) => {
                    let key = config.meta().key.clone();
                    match resources.get(&key) {
                        Some(first) => {
                            let message =
                                format!("{key} is written twice; the one at {} is in effect", first.meta().source);
                            let mut problem =
                                document.source().diagnostic(Severity::Error, Code::Conflict, decoded.at, message);
                            problem.resource = Some(key.to_string());
                            problems.push(problem.with_help("keep one of them"));
                        }
                        None => {
                            resources.insert(key, config);
                        }
                    }
                }
                Outcome::Refused(Some(key)) => {
                    kept.insert(key);
                }
                Outcome::Refused(None) => keep_all = true,
                Outcome::Ignored | Outcome::Foreign => {}
            }
        }
        let old = self.files.remove(name).unwrap_or_default();
        for (key, config) in &old.resources {
            if (keep_all || kept.contains(key)) && !resources.contains_key(key) {
                resources.insert(key.clone(), config.clone());
            }
        }
        let diagnostics = problems.into_vec();
        self.replace(name, old.resources, File { hash: Some(hash), resources, diagnostics }, changes);
    }

    /// A file cannot be read; what it last said stays.
    pub(super) fn fault(&mut self, name: &Arc<str>, diagnostic: Diagnostic, changes: &mut Changes) {
        let file = self.files.entry(name.clone()).or_default();
        if file.hash.is_none() && file.diagnostics == [diagnostic.clone()] {
            return;
        }
        file.hash = None;
        file.diagnostics = vec![diagnostic];
        changes.files.insert(name.clone());
    }

    /// A file is gone.
    pub(super) fn remove(&mut self, name: &Arc<str>, changes: &mut Changes) {
        if let Some(old) = self.files.remove(name) {
            self.replace(name, old.resources, File::default(), changes);
            self.files.remove(name);
        }
    }

    /// The names of all files, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// The events that lead from what was in effect to what is, and everything to say about the files concerned.
    pub(super) fn settle(&self, changes: Changes) -> (Vec<ConfigEvent>, Vec<Arc<str>>, Vec<Diagnostic>) {
        let mut events = Vec::new();
        for (key, before) in changes.before {
            match (self.effective(&key), before) {
                (Some(now), Some(before)) if same(now, &before) => {}
                (Some(now), _) => events.push(ConfigEvent::Upsert(now.clone())),
                (None, Some(_)) => events.push(ConfigEvent::Remove(key)),
                (None, None) => {}
            }
        }
        let mut diagnostics = Vec::new();
        for name in &changes.files {
            if let Some(file) = self.files.get(name) {
                diagnostics.extend(file.diagnostics.iter().cloned());
                let mut conflicts = Problems::new();
                conflicts.extend(self.conflicts(name, file));
                diagnostics.extend(conflicts.into_vec());
            }
        }
        (events, changes.files.into_iter().collect(), diagnostics)
    }

    fn replace(&mut self, name: &Arc<str>, old: BTreeMap<ResourceKey, Config>, new: File, changes: &mut Changes) {
        changes.files.insert(name.clone());
        // What is in effect has to be noted before this file changes; the old content is put back for that moment.
        let keys: BTreeSet<ResourceKey> = old.keys().chain(new.resources.keys()).cloned().collect();
        self.files.insert(name.clone(), File { resources: old, ..File::default() });
        for key in &keys {
            self.note(key, changes);
        }
        for key in &keys {
            if new.resources.contains_key(key) {
                self.owners.entry(key.clone()).or_default().insert(name.clone());
            } else if let Some(owners) = self.owners.get_mut(key) {
                owners.remove(name);
                if owners.is_empty() {
                    self.owners.remove(key);
                }
            }
            self.tell_others(key, name, changes);
        }
        self.files.insert(name.clone(), new);
    }

    fn note(&self, key: &ResourceKey, changes: &mut Changes) {
        if !changes.before.contains_key(key) {
            changes.before.insert(key.clone(), self.effective(key).cloned());
        }
    }

    /// Files that say the same resource have another conflict to report, or one less.
    fn tell_others(&self, key: &ResourceKey, name: &Arc<str>, changes: &mut Changes) {
        if let Some(owners) = self.owners.get(key) {
            changes.files.extend(owners.iter().filter(|owner| *owner != name).cloned());
        }
    }

    fn effective(&self, key: &ResourceKey) -> Option<&Config> {
        let owner = self.owners.get(key)?.first()?;
        self.files.get(owner)?.resources.get(key)
    }

    fn conflicts<'a>(&'a self, name: &'a Arc<str>, file: &'a File) -> impl Iterator<Item = Diagnostic> + 'a {
        file.resources.iter().filter_map(move |(key, config)| {
            let first = self.owners.get(key)?.first().filter(|first| *first != name)?;
            let place = &self.files.get(first)?.resources.get(key)?.meta().source;
            let mut diagnostic = Diagnostic::of_file(
                Severity::Error,
                Code::Conflict,
                name,
                format!("{key} is written twice; the one at {place} is in effect"),
            )
            .with_help("keep one of them; of several files the first by path wins");
            diagnostic.source = config.meta().source.clone();
            diagnostic.resource = Some(key.to_string());
            Some(diagnostic)
        })
    }
}

/// Whether two states of a resource have the same effect; the place in the file has none.
fn same(a: &Config, b: &Config) -> bool {
    let (meta, other) = (a.meta(), b.meta());
    let described = meta.key == other.key
        && meta.labels == other.labels
        && meta.annotations == other.annotations
        && meta.created == other.created
        && meta.source.file == other.source.file;
    described
        && match (a, b) {
            (Config::VirtualService(a), Config::VirtualService(b)) => a.spec == b.spec,
            (Config::DestinationRule(a), Config::DestinationRule(b)) => a.spec == b.spec,
            (Config::Gateway(a), Config::Gateway(b)) => a.spec == b.spec,
            (Config::ServiceEntry(a), Config::ServiceEntry(b)) => a.spec == b.spec,
            (Config::WorkloadEntry(a), Config::WorkloadEntry(b)) => a.spec == b.spec,
            (Config::Sidecar(a), Config::Sidecar(b)) => a.spec == b.spec,
            _ => false,
        }
}
