//! The same conversion on manifests in files, for a cluster's dump that is served or translated without a cluster.
//!
//! Service, EndpointSlice, Pod, Node and Namespace are read, alone, in several documents or in a `List`, as YAML or JSON. An endpoint whose
//! Pod is not in the files is taken as it is, without labels and service account.
//!
//! - ALWAYS: a document with a mistake keeps its last good version, and the mistake is reported with file, line and column.
//! - ALWAYS: of several files that have one object, the first by path is in effect.
//! - NEVER: a file that holds none of these kinds is parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;
use xebec_galley::diagnostic::visible;
use xebec_galley::source::{LogWindow, read_limited};
use xebec_galley::watch::Watcher;
use xebec_galley::yaml::{self, Document, Limits, Value};
use xebec_galley::{Code, Diagnostic, Severity};
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::{Meters, Registry, RegistryEvent, RegistrySink, SinkClosed};

use crate::convert::Cluster;
use crate::object::{Key, Kind, Names, Object, RawAny, Readable, decode};
use crate::state::{SYSTEM_NAMESPACE, State};

/// How often watching is tried again where the kernel refuses it.
const RETRY: Duration = Duration::from_secs(1);
/// Lists inside of lists that are followed.
const NESTED_LISTS: usize = 4;

/// A registry that reads manifests from a file or directory.
#[derive(Debug, Clone)]
pub struct ManifestRegistry {
    root: PathBuf,
    id: RegistryId,
    domain: Arc<str>,
}

/// What [`ManifestRegistry::load`] found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// Everything to say of the good documents.
    pub events: Vec<RegistryEvent>,
    /// Everything that is wrong with the others.
    pub diagnostics: Vec<Diagnostic>,
}

type Id = (Kind, Key);

/// All files' objects. Pure.
struct Manifests {
    state: State,
    names: Names,
    files: BTreeMap<Arc<str>, BTreeMap<Id, Object>>,
    /// The files that have an object, first by path first.
    owners: BTreeMap<Id, BTreeSet<Arc<str>>>,
}

/// What was read, and what could not be.
struct Files {
    manifests: Manifests,
    unreadable: BTreeMap<PathBuf, String>,
    log: LogWindow,
}

struct Run {
    root: PathBuf,
    files: Arc<Mutex<Files>>,
    sink: RegistrySink,
    synced: bool,
    degraded: Option<String>,
}

struct Part<'d>(&'d Document);

impl Readable for Part<'_> {
    type Error = Vec<Diagnostic>;
    fn read<T: DeserializeOwned>(self) -> Result<T, Self::Error> {
        let read = self.0.read::<T>();
        read.value.ok_or(read.diagnostics)
    }
}

// === impl ManifestRegistry ===

impl ManifestRegistry {
    /// A registry of the file or directory `path`, which need not exist yet. Its id is `manifests:PATH`.
    pub fn new(path: PathBuf) -> Self {
        let id = RegistryId(format!("manifests:{}", path.display()).into());
        Self { root: path, id, domain: "cluster.local".into() }
    }

    /// With another DNS domain than `cluster.local`.
    pub fn with_domain(mut self, domain: &str) -> Self {
        self.domain = domain.into();
        self
    }

    /// Reads everything once, without a mesh: for offline translation and validation.
    pub fn load(&self) -> Loaded {
        let path = &*self.root;
        let mut loaded = Loaded::default();
        let unreadable = |path: &Path, error: io::Error| {
            let text = format!("cannot be read: {error}");
            Diagnostic::of_file(Severity::Error, Code::Unreadable, &name_of(path), text)
                .with_help("check the path and its permissions")
        };
        let mut manifests = Manifests::new(self);
        match xebec_galley::check::files(path) {
            Ok(files) => {
                for file in files {
                    match read(&file) {
                        Ok(bytes) => loaded.diagnostics.extend(manifests.put(&name_of(&file), &bytes)),
                        Err(error) => loaded.diagnostics.push(unreadable(&file, error)),
                    }
                }
            }
            Err(error) => loaded.diagnostics.push(unreadable(path, error)),
        }
        loaded.events = manifests.state.settle();
        loaded
    }
}

#[async_trait]
impl Registry for ManifestRegistry {
    fn id(&self) -> RegistryId {
        self.id.clone()
    }

    async fn run(self: Box<Self>, sink: RegistrySink, stop: CancellationToken) {
        let run = Run {
            files: Arc::new(Mutex::new(Files {
                manifests: Manifests::new(&self),
                unreadable: BTreeMap::new(),
                log: LogWindow::new(),
            })),
            root: self.root,
            sink,
            synced: false,
            degraded: None,
        };
        // Either way there is nobody left to report to.
        let _ = stop.run_until_cancelled(run.forever()).await;
    }
}

fn name_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

/// What is read at most: a dump of a cluster is larger than what people write.
fn limits() -> Limits {
    Limits { file_bytes: 64 * 1024 * 1024, nodes: 16_000_000, ..Limits::default() }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_limited(path, limits())?
        .ok_or_else(|| io::Error::new(ErrorKind::FileTooLarge, "it has more than 64 MiB; split it"))
}

/// Whether a text may hold one of our kinds: whatever follows a `kind` is looked at, and nothing is parsed.
fn is_worth_parsing(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = rest.windows(4).position(|window| window == b"kind") {
        rest = &rest[at + 4..];
        let value = rest.iter().position(|b| !matches!(b, b'"' | b'\'' | b':' | b' ' | b'\t' | b'\r' | b'\n'));
        let value = &rest[value.unwrap_or(rest.len())..];
        let end = value.iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(value.len());
        let kind = &value[..end];
        if matches!(kind, b"Service" | b"EndpointSlice" | b"Pod" | b"Node" | b"Namespace") || kind.ends_with(b"List") {
            return true;
        }
    }
    false
}

// === impl Manifests ===

impl Manifests {
    fn new(registry: &ManifestRegistry) -> Self {
        let cluster = Cluster {
            registry: registry.id.clone(),
            domain: Arc::clone(&registry.domain),
            id: "".into(),
            network: "".into(),
            pods_expected: false,
        };
        let meters = Meters::new(&registry.id);
        Self {
            state: State::new(cluster, SYSTEM_NAMESPACE, meters),
            names: Names::default(),
            files: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    /// The file reads so now; what is wrong with it.
    fn put(&mut self, name: &Arc<str>, bytes: &[u8]) -> Vec<Diagnostic> {
        let mut good = BTreeMap::new();
        let mut problems = Vec::new();
        // Documents that cannot be read now, by name; `None` when the name cannot be read either.
        let mut bad: Vec<Option<Id>> = Vec::new();
        if is_worth_parsing(bytes) {
            let stream = yaml::parse_with(name, bytes, limits());
            if let Some(problem) = stream.problem {
                problems.push(problem);
                bad.push(None);
            }
            for document in stream.documents {
                self.read(document, 0, &mut good, &mut bad, &mut problems);
            }
        }
        if let Some(old) = self.files.get(name) {
            let lost = bad.contains(&None);
            for (id, object) in old {
                if !good.contains_key(id) && (lost || bad.contains(&Some(id.clone()))) {
                    good.insert(id.clone(), object.clone());
                }
            }
        }
        self.replace(name, good);
        problems
    }

    fn read(
        &mut self,
        mut document: Document,
        depth: usize,
        good: &mut BTreeMap<Id, Object>,
        bad: &mut Vec<Option<Id>>,
        problems: &mut Vec<Diagnostic>,
    ) {
        let Some(root) = &document.root else {
            problems.append(&mut document.problems);
            bad.push(None);
            return;
        };
        let text = |key: &str| root.get(key).and_then(yaml::Node::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if kind.ends_with("List") && depth < NESTED_LISTS {
            let (parts, rest) = parts(document);
            if !rest.is_empty() {
                problems.extend(rest);
                bad.push(None);
            }
            for part in parts {
                self.read(part, depth + 1, good, bad, problems);
            }
            return;
        }
        let Some(kind) = Kind::of_manifest(version, kind) else { return };
        match decode(kind, Part(&document), &mut self.names) {
            Ok((mut meta, object)) => {
                if meta.name.is_empty() {
                    let problem = document.source().diagnostic(
                        Severity::Error,
                        Code::Missing,
                        document.at,
                        "the object has no name",
                    );
                    problems.push(problem.with_help("add `metadata: {name: ...}`"));
                    bad.push(None);
                    return;
                }
                let object = placed(kind, &mut meta.namespace, object, &document);
                good.insert((kind, self.names.key(&meta)), object);
            }
            Err(diagnostics) => {
                problems.extend(diagnostics);
                document.problems.clear();
                let meta = document.read::<RawAny>().value.map(|any| any.metadata).filter(|meta| !meta.name.is_empty());
                bad.push(meta.map(|mut meta| {
                    set_namespace(kind, &mut meta.namespace);
                    (kind, self.names.key(&meta))
                }));
            }
        }
    }

    /// The file has these objects, and no others, from now on.
    fn replace(&mut self, name: &Arc<str>, new: BTreeMap<Id, Object>) {
        let old = self.files.remove(name).unwrap_or_default();
        for id in old.keys().filter(|id| !new.contains_key(*id)) {
            if let Some(owners) = self.owners.get_mut(id) {
                owners.remove(name);
                if owners.is_empty() {
                    self.owners.remove(id);
                }
            }
        }
        for id in new.keys() {
            self.owners.entry(id.clone()).or_default().insert(Arc::clone(name));
        }
        let touched: BTreeSet<Id> = old.into_keys().chain(new.keys().cloned()).collect();
        if !new.is_empty() {
            self.files.insert(Arc::clone(name), new);
        }
        for (kind, key) in touched {
            let id = (kind, key);
            let first = self.owners.get(&id).and_then(BTreeSet::first);
            match first.and_then(|owner| self.files.get(owner)?.get(&id)) {
                Some(object) => self.state.put(id.1, object.clone()),
                None => self.state.remove(kind, id.1),
            }
        }
    }
}

/// The items of a list as documents of their own, and what is wrong before the first of them. A fault of form belongs to the item that
/// it stands in. Nothing is copied: a dump may be one list of everything.
fn parts(mut list: Document) -> (Vec<Document>, Vec<Diagnostic>) {
    let items = match list.root.take().map(|root| root.value) {
        Some(Value::Map(entries)) => {
            entries.into_iter().find(|entry| entry.key == "items").map(|entry| entry.node.value)
        }
        _ => None,
    };
    let items = if let Some(Value::List(items)) = items { items } else { Vec::new() };
    let faults = std::mem::take(&mut list.problems);
    let mut parts: Vec<Document> = items
        .into_iter()
        .map(|item| {
            let mut part = list.clone();
            part.at = item.at;
            part.root = Some(item);
            part
        })
        .collect();
    let mut rest = Vec::new();
    for fault in faults {
        let place = (fault.source.line, fault.source.column);
        let owner = parts.partition_point(|part| (part.at.line, part.at.column) <= place);
        match owner.checked_sub(1).and_then(|owner| parts.get_mut(owner)) {
            Some(part) => part.problems.push(fault),
            None => rest.push(fault),
        }
    }
    (parts, rest)
}

fn set_namespace(kind: Kind, namespace: &mut String) {
    if matches!(kind, Kind::Namespace | Kind::Node) {
        namespace.clear();
    } else if namespace.is_empty() {
        "default".clone_into(namespace);
    }
}

/// Manifests may leave out the namespace `default`; and people want to find again what they have written.
fn placed(kind: Kind, namespace: &mut String, object: Object, document: &Document) -> Object {
    set_namespace(kind, namespace);
    match object {
        Object::Service(mut service) => {
            service.metadata.namespace.clone_from(namespace);
            service.origin = Some(document.reference());
            Object::Service(service)
        }
        other => other,
    }
}

// === impl Files ===

impl Files {
    /// Reads what has changed. Returns what is to be said of it, and the files that cannot be read now.
    fn take(
        &mut self,
        removed: &[PathBuf],
        changed: impl IntoIterator<Item = PathBuf>,
    ) -> (Vec<RegistryEvent>, BTreeMap<PathBuf, String>) {
        for path in removed {
            self.unreadable.remove(path);
            self.manifests.replace(&name_of(path), BTreeMap::new());
        }
        for path in changed {
            match read(&path) {
                Ok(bytes) => {
                    self.unreadable.remove(&path);
                    let problems = self.manifests.put(&name_of(&path), &bytes);
                    self.log.log(&problems);
                }
                // Gone meanwhile: the watcher is about to say so.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::FileTooLarge => error!("{}: {error}", path.display()),
                Err(error) => {
                    let text =
                        format!("{} cannot be read: {error}; its last good content stays in effect", path.display());
                    self.unreadable.insert(path, text);
                }
            }
        }
        (self.manifests.state.settle(), self.unreadable.clone())
    }
}

/// Does what takes long where nothing else waits for it.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SinkClosed> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Everything is being stopped.
        Err(_) => Err(SinkClosed),
    }
}

// === impl Run ===

impl Run {
    async fn forever(mut self) -> Result<(), SinkClosed> {
        let mut watcher = loop {
            match Watcher::new(vec![self.root.clone()]) {
                Ok(watcher) => break watcher,
                Err(error) => {
                    self.trouble(Some(format!("{error}; raise the limits of fs.inotify"))).await?;
                    sleep(RETRY).await;
                }
            }
        };
        loop {
            let batch = watcher.next().await;
            let files = Arc::clone(&self.files);
            let (removed, changed) = (batch.removed, batch.changed);
            let (mut events, unreadable) = apart(move || files.lock().take(&removed, changed)).await?;
            for file in unreadable.keys() {
                watcher.look_again(file.clone());
            }
            if !self.synced && unreadable.is_empty() && !batch.problems.iter().any(|problem| problem.unread) {
                self.synced = true;
                events.push(RegistryEvent::Synced);
            }
            if !events.is_empty() {
                self.sink.send(events).await?;
            }
            let problems = batch.problems.into_iter().map(|problem| problem.message);
            let all: Vec<String> = problems.chain(unreadable.into_values()).collect();
            self.trouble((!all.is_empty()).then(|| visible(&all.join("; ")).into_owned())).await?;
        }
    }

    async fn trouble(&mut self, now: Option<String>) -> Result<(), SinkClosed> {
        if self.degraded == now {
            return Ok(());
        }
        self.degraded.clone_from(&now);
        let event = now.map_or(RegistryEvent::Recovered, RegistryEvent::Degraded);
        self.sink.send(vec![event]).await
    }
}

#[cfg(test)]
mod tests;
