//! What is analysed: resources, services and objects as plain values, wherever they come from.
//!
//! A live mesh is an input as well: its configuration, [`Mesh::services`](xebec_pilot::mesh::Mesh::services), and the objects that its
//! platform has. What files leave out may exist elsewhere, so that only an input that is [`complete`](Input::complete) makes
//! everything that is absent a finding.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use xebec_galley::spec::MeshConfig;
use xebec_galley::yaml::{Document, Node, Place};
use xebec_galley::{Config, Diagnostic, SourceRef};
use xebec_pilot::mesh::MeshService;

use crate::object::Object;

/// Everything that is looked at.
#[derive(Debug, Clone)]
pub struct Input {
    /// Settings of the whole mesh.
    pub settings: Arc<MeshConfig>,
    /// The cluster's DNS domain, such as `cluster.local`.
    pub domain: Arc<str>,
    /// Accepted resources, each key once.
    pub configs: Vec<Config>,
    /// Services of all registries and ServiceEntries, merged as the mesh merges them.
    pub services: Vec<Arc<MeshService>>,
    /// Objects of the platform, and of Istio's kinds that galley does not read.
    pub objects: Vec<Object>,
    /// What galley and the adapters have to say of documents.
    pub problems: Vec<Diagnostic>,
    /// The text of what is written in files.
    pub texts: Texts,
    /// What is not in here does not exist.
    pub complete: bool,
    /// How many files were read.
    pub files: usize,
}

/// The documents of resources, by their beginning: where a field is, and the lines around it.
#[derive(Debug, Clone, Default)]
pub struct Texts(HashMap<SourceRef, Document>);

// === impl Input ===

impl Default for Input {
    fn default() -> Self {
        Self {
            settings: Arc::new(MeshConfig::default().with_defaults()),
            domain: "cluster.local".into(),
            configs: Vec::new(),
            services: Vec::new(),
            objects: Vec::new(),
            problems: Vec::new(),
            texts: Texts::default(),
            complete: false,
            files: 0,
        }
    }
}

impl Input {
    /// How many resources and objects there are.
    pub fn resources(&self) -> usize {
        self.configs.len() + self.objects.len()
    }

    /// The annotation that suppresses findings, of every resource that has it: kind, namespace, name.
    pub(crate) fn annotated<'a>(&'a self, key: &str) -> BTreeMap<(&'a str, &'a str, &'a str), &'a str> {
        let configs = self.configs.iter().filter_map(|config| {
            let meta = config.meta();
            let value = meta.annotations.get(key)?;
            Some(((meta.key.kind.as_str(), &*meta.key.namespace, &*meta.key.name), &**value))
        });
        let objects = self.objects.iter().filter_map(|object| {
            let value = object.annotations.get(key)?;
            Some(((&*object.kind, &*object.namespace, &*object.name), value.as_str()))
        });
        configs.chain(objects).collect()
    }
}

// === impl Texts ===

impl Texts {
    /// The document that begins there.
    pub fn get(&self, source: &SourceRef) -> Option<&Document> {
        self.0.get(source)
    }

    /// The document that has something beginning there, and its place in it.
    pub(crate) fn around(&self, source: &SourceRef) -> Option<(&Document, Place)> {
        let documents = self.0.iter().filter(|(of, _)| of.file == source.file).map(|(_, document)| document);
        documents.into_iter().find_map(|document| Some((document, beginning(document.root.as_ref()?, source)?)))
    }

    /// Keeps a document.
    pub fn insert(&mut self, document: Document) {
        self.0.insert(document.reference(), document);
    }
}

fn beginning(node: &Node, source: &SourceRef) -> Option<Place> {
    let (at, wanted) = ((node.at.line, node.at.column), (source.line, source.column));
    if at == wanted {
        return Some(node.at);
    }
    let parts = node.items().iter().chain(node.entries().iter().map(|entry| &entry.node));
    parts.into_iter().find_map(|part| beginning(part, source))
}
