//! Files as an input: every document is parsed once, and read by whoever its kind belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use xebec_adapter_kubernetes::Skipped;
use xebec_adapter_kubernetes::convert::{self, Cluster};
use xebec_adapter_kubernetes::object::{Namespace, RawService};
use xebec_galley::check::files;
use xebec_galley::decode::{Outcome, decode};
use xebec_galley::source::read_limited;
use xebec_galley::spec::MeshConfig;
use xebec_galley::yaml::{self, Document, Limits, Node, Value};
use xebec_galley::{Code, Config, Diagnostic, Kind, ResourceKey, Severity, SourceRef};
use xebec_pilot::catalog::Catalog;
use xebec_pilot::mesh::Change;
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::RegistryEvent;

use crate::input::Input;
use crate::object::{self, Body};

/// A place to read from.
#[derive(Debug, Clone)]
pub enum Place {
    /// A file, a directory, or a pattern with `*`, `?` and `**`.
    Path(PathBuf),
    /// Bytes with a name, such as standard input's.
    Bytes {
        /// The name that findings use.
        name: String,
        /// The content.
        bytes: Vec<u8>,
    },
}

/// How files are read.
#[derive(Debug, Clone)]
pub struct Options {
    /// Settings of the whole mesh.
    pub settings: Arc<MeshConfig>,
    /// Whether directories are read with all that is below them.
    pub recursive: bool,
    /// Whether what is not in the files does not exist.
    pub complete: bool,
}

struct Reader {
    input: Input,
    catalog: Catalog,
    /// Where each resource is written first.
    known: BTreeMap<ResourceKey, SourceRef>,
    seen: BTreeSet<PathBuf>,
}

/// Reads everything. What is wrong with files and documents is among the input's problems.
pub fn read(places: &[Place], options: &Options) -> Input {
    let input = Input { settings: Arc::clone(&options.settings), complete: options.complete, ..Input::default() };
    let catalog = Catalog::new(Arc::clone(&options.settings));
    let mut reader = Reader { input, catalog, known: BTreeMap::new(), seen: BTreeSet::new() };
    for place in places {
        match place {
            Place::Bytes { name, bytes } => reader.bytes(name, bytes, true),
            Place::Path(path) => reader.path(path, options.recursive),
        }
    }
    reader.finish()
}

// === impl Reader ===

impl Reader {
    fn path(&mut self, path: &Path, recursive: bool) {
        match files(path) {
            Err(error) => self.unreadable(path, &format!("cannot be read: {error}")),
            Ok(mut found) => {
                if !recursive && path.is_dir() {
                    found.retain(|file| file.parent() == Some(path));
                }
                if found.is_empty() {
                    self.unreadable(path, "there are no files that end in .yaml, .yml or .json");
                }
                for file in found {
                    if self.seen.insert(file.clone()) {
                        self.file(&file, file == path);
                    }
                }
            }
        }
    }

    fn file(&mut self, file: &Path, named: bool) {
        match read_limited(file, Limits::default()) {
            Ok(Some(bytes)) => self.bytes(&file.to_string_lossy(), &bytes, named),
            Ok(None) => self.unreadable(file, "is larger than what is read; split it"),
            Err(error) => self.unreadable(file, &format!("cannot be read: {error}")),
        }
    }

    fn unreadable(&mut self, path: &Path, why: &str) {
        let name: Arc<str> = path.to_string_lossy().into();
        let text = format!("{name}: {why}");
        self.input.problems.push(Diagnostic::of_file(Severity::Error, Code::Unreadable, &name, text));
    }

    /// A file that was only found, and not `named`, may hold anything: documents that do not look like ours are passed by.
    fn bytes(&mut self, name: &str, bytes: &[u8], named: bool) {
        self.input.files += 1;
        let stream = yaml::parse(name, bytes);
        self.input.problems.extend(stream.problem);
        let mut services = false;
        for document in stream.documents.into_iter().filter(|document| named || is_ours(document)) {
            for decoded in decode(&document) {
                services |= matches!(decoded.outcome, Outcome::Foreign);
                if let Outcome::Accepted(config) = decoded.outcome {
                    self.config(config, &document, decoded.at);
                }
                // Kinds that galley does not read are none of its business, and may well be ours.
                let problems = decoded.diagnostics.into_iter().filter(|problem| problem.code != Code::IgnoredKind);
                self.input.problems.extend(problems);
            }
            self.objects(&document);
            keep(document, &mut self.input);
        }
        if services {
            self.registered(name, bytes);
        }
    }

    /// Of several documents with one key the first is in effect, as when they are served.
    fn config(&mut self, config: Config, document: &Document, at: yaml::Place) {
        let meta = config.meta();
        let key = meta.key.clone();
        if let Some(first) = self.known.get(&key) {
            let severity = if first.file == meta.source.file { Severity::Error } else { Severity::Warning };
            let text = format!("{key} is written twice; first at {first}");
            let mut problem = document.source().diagnostic(severity, Code::Conflict, at, text);
            problem.resource = Some(key.to_string());
            self.input
                .problems
                .push(problem.with_help("keep one of them; only the first is looked at, as it is served"));
            return;
        }
        self.known.insert(key.clone(), meta.source.clone());
        match &config {
            Config::ServiceEntry(entry) => self.catalog.set_service_entry(key, Some(Arc::clone(entry))),
            Config::WorkloadEntry(entry) => self.catalog.set_workload_entry(key, Some(Arc::clone(entry))),
            _ => {}
        }
        self.input.configs.push(config);
    }

    fn objects(&mut self, document: &Document) {
        for part in parts(document) {
            match object::read(&part) {
                Ok(Some(object)) if Kind::parse(&object.kind).is_some() && is_galleys(&part) => {
                    // Known to galley: kept for its annotations when it is refused.
                    let key = ResourceKey {
                        kind: Kind::parse(&object.kind).unwrap_or(Kind::Gateway),
                        namespace: Arc::clone(&object.namespace),
                        name: Arc::clone(&object.name),
                    };
                    if !self.known.contains_key(&key) {
                        self.input.objects.push(object);
                    }
                }
                Ok(Some(object)) => {
                    if matches!(object.body, Body::Service(_)) {
                        self.service(&part);
                    }
                    self.input.objects.push(object);
                }
                Ok(None) => {}
                Err(problems) => self.input.problems.extend(problems),
            }
        }
    }

    /// A Kubernetes Service, by the rules of the platform's adapter.
    fn service(&mut self, document: &Document) {
        let Some(mut raw) = document.read::<RawService>().value else { return };
        if raw.metadata.namespace.is_empty() {
            "default".clone_into(&mut raw.metadata.namespace);
        }
        let cluster = Cluster {
            registry: RegistryId("kubernetes".into()),
            domain: Arc::clone(&self.input.domain),
            id: "".into(),
            network: "".into(),
            pods_expected: false,
        };
        let mut service = convert::service(&raw, &Namespace::default(), &cluster, &mut Skipped::default());
        service.origin = Some(document.reference());
        let event = RegistryEvent::UpsertService(Arc::new(service));
        self.catalog.registry_event(&cluster.registry, event, SystemTime::UNIX_EPOCH);
    }

    /// The services of a file of the static registry.
    fn registered(&mut self, name: &str, bytes: &[u8]) {
        let id = RegistryId("file".into());
        let checked = xebec_adapter_file::check(name, bytes, &id);
        for problem in checked.diagnostics {
            if !self.input.problems.contains(&problem) {
                self.input.problems.push(problem);
            }
        }
        for entry in checked.entries.into_iter().flatten() {
            let key = entry.service.key.clone();
            for event in
                [RegistryEvent::UpsertService(entry.service), RegistryEvent::ReplaceEndpoints(key, entry.endpoints)]
            {
                self.catalog.registry_event(&id, event, SystemTime::UNIX_EPOCH);
            }
        }
    }

    fn finish(mut self) -> Input {
        let services = self.catalog.take_changes().into_iter().filter_map(|change| match change {
            Change::Service(_, service) => service,
            _ => None,
        });
        self.input.services = services.collect();
        self.input
    }
}

/// Whether a document says that it is a resource, or a list of services. One that cannot be read may be.
fn is_ours(document: &Document) -> bool {
    let Some(root) = &document.root else { return true };
    let services = root.get("services").is_some_and(|services| matches!(services.value, Value::List(_)));
    services || root.get("apiVersion").is_some() || root.get("kind").is_some()
}

fn is_galleys(document: &Document) -> bool {
    let version = document.root.as_ref().and_then(|root| root.get("apiVersion")).and_then(Node::as_str);
    version.is_some_and(|version| version.starts_with("networking.istio.io/"))
}

/// Lists inside of lists that are followed.
const NESTED_LISTS: usize = 4;

/// The document itself, or the items of a list.
fn parts(document: &Document) -> Vec<Document> {
    let mut found = Vec::new();
    let mut open = vec![(document.clone(), 0)];
    while let Some((document, depth)) = open.pop() {
        let Some(root) = &document.root else { continue };
        let is_list = root.get("kind").and_then(Node::as_str).is_some_and(|kind| kind.ends_with("List"));
        match root.get("items") {
            Some(items) if is_list && depth < NESTED_LISTS => {
                for item in items.items() {
                    let mut part = document.clone();
                    part.at = item.at;
                    part.root = Some(item.clone());
                    open.push((part, depth + 1));
                }
            }
            _ => found.push(document),
        }
    }
    found.reverse();
    found
}

fn keep(document: Document, input: &mut Input) {
    for part in parts(&document) {
        input.texts.insert(part);
    }
}
