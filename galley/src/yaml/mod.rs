//! The one door for YAML and JSON: bytes in, documents with exact places out.
//!
//! [`parse`] never fails as a whole: every document of the stream is there, each with its own problems. [`Document::read`] turns a
//! tree into any serde type and reports *all* that does not fit, not only the first: a faulty part is reported, left out, and
//! reading goes on.

mod build;
mod problems;
mod read;
mod scalar;
mod tree;

use std::sync::Arc;

use serde::de::DeserializeOwned;

pub use problems::Problems;
pub(crate) use read::read as read_tree;
pub use read::{Read, suggest};
pub use tree::{At, Entry, Node, Path, Place, Segment, Value};

use crate::diagnostic::{Code, Diagnostic, Severity, Snippet};
use crate::resource::SourceRef;

/// What is read at most. The defaults hold any sensible file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a file.
    pub file_bytes: usize,
    /// Levels of lists and mappings.
    pub depth: usize,
    /// Values of a document.
    pub nodes: usize,
    /// Values of a document that come from aliases.
    pub alias_nodes: usize,
}

/// A named text that places refer to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

/// One document of a stream.
#[derive(Debug, Clone)]
pub struct Document {
    source: Source,
    /// Where it begins.
    pub at: Place,
    /// Its content; `None` where it could not be read at all. An empty document has a null.
    pub root: Option<Node>,
    /// What is wrong with its form.
    pub problems: Vec<Diagnostic>,
}

/// A stream of documents.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The documents, in order. Empty ones are left out.
    pub documents: Vec<Document>,
    /// What is wrong with the file as a whole; then there are no documents.
    pub problem: Option<Diagnostic>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 8 * 1024 * 1024, depth: 64, nodes: 1_000_000, alias_nodes: 100_000 }
    }
}

/// Parses YAML, or JSON, which is YAML. `name` is used in diagnostics.
pub fn parse(name: &str, bytes: &[u8]) -> Stream {
    parse_with(name, bytes, Limits::default())
}

/// As [`parse`], with other limits.
pub fn parse_with(name: &str, bytes: &[u8], limits: Limits) -> Stream {
    let name: Arc<str> = name.into();
    let refuse = |problem| Stream { documents: Vec::new(), problem: Some(problem) };
    if bytes.len() > limits.file_bytes {
        return refuse(too_large(&name, bytes.len() as u64, limits));
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = &bytes[..error.valid_up_to()];
            let line = 1 + valid.iter().filter(|&&b| b == b'\n').count();
            let tail = valid.rsplit(|&b| b == b'\n').next().unwrap_or_default();
            let column = 1 + String::from_utf8_lossy(tail).chars().count();
            let mut problem = Diagnostic::of_file(
                Severity::Error,
                Code::NotUtf8,
                &name,
                format!("byte {} is not UTF-8", error.valid_up_to()),
            )
            .with_help("save the file as UTF-8");
            problem.source.line = u32::try_from(line).unwrap_or(u32::MAX);
            problem.source.column = u32::try_from(column).unwrap_or(u32::MAX);
            return refuse(problem);
        }
    };
    // JSON may be indented with tabs, which YAML refuses. A tab is never part of a JSON text, so a space stands for it.
    let json = name.ends_with(".json") && text.contains('\t');
    let text: Arc<str> = if json { text.replace('\t', " ").into() } else { text.into() };
    let source = Source { name, text };
    let mut documents = build::documents(&source, limits);
    documents.retain(|document| !document.is_empty());
    Stream { documents, problem: None }
}

/// The diagnostic for a file of `size` bytes that is not read at all.
pub fn too_large(name: &Arc<str>, size: u64, limits: Limits) -> Diagnostic {
    let megabytes = limits.file_bytes / (1024 * 1024);
    Diagnostic::of_file(
        Severity::Error,
        Code::TooLarge,
        name,
        format!("the file has {size} bytes; at most {} ({megabytes} MiB) are read", limits.file_bytes),
    )
    .with_help("split it into several files")
}

/// Reads every document as a `T`: for each its value, unless it is refused, and everything that is wrong with it.
pub fn parse_documents<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Vec<Read<T>> {
    let stream = parse(name, bytes);
    let mut values: Vec<Read<T>> = stream.documents.iter().map(Document::read).collect();
    if let Some(problem) = stream.problem {
        values.push(Read { value: None, source: problem.source.clone(), diagnostics: vec![problem] });
    }
    values
}

// === impl Source ===

impl Source {
    /// The name that diagnostics use.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What is written at a place.
    pub(crate) fn slice(&self, at: Place) -> &str {
        let start = at.offset as usize;
        self.text.get(start..start.saturating_add(at.len as usize)).unwrap_or("")
    }

    /// A place for others.
    pub fn reference(&self, at: Place) -> SourceRef {
        SourceRef { file: self.name.clone(), line: at.line, column: at.column }
    }

    /// A problem at a place, with the lines around it.
    pub fn diagnostic(&self, severity: Severity, code: Code, at: Place, message: impl Into<String>) -> Diagnostic {
        let (snippet, length) = Snippet::cut(&self.text, at);
        Diagnostic {
            severity,
            code,
            message: message.into(),
            source: self.reference(at),
            length,
            path: String::new(),
            resource: None,
            help: None,
            snippet: Some(snippet),
        }
    }

    pub(crate) fn error(&self, code: Code, at: Place, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, code, at, message)
    }
}

// === impl Document ===

impl Document {
    /// The text that it is part of.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Where it begins, for others.
    pub fn reference(&self) -> SourceRef {
        self.source.reference(self.at)
    }

    /// Reads it as a `T`.
    pub fn read<T: DeserializeOwned>(&self) -> Read<T> {
        let mut read = match &self.root {
            Some(root) => read::read(&self.source, root).0,
            None => Read { value: None, source: self.reference(), diagnostics: Vec::new() },
        };
        if !self.problems.is_empty() {
            read.value = None;
            read.diagnostics.splice(0..0, self.problems.iter().cloned());
        }
        read
    }

    /// A part of it as a document of its own, with the problems that belong to it.
    pub(crate) fn part(&self, root: &Node, problems: Vec<Diagnostic>) -> Self {
        Self { source: self.source.clone(), at: root.at, root: Some(root.clone()), problems }
    }

    /// A problem at a part of it, for rules that are checked after reading.
    pub fn diagnostic(&self, severity: Severity, code: Code, path: &Path, message: impl Into<String>) -> Diagnostic {
        let place = self.root.as_ref().map_or(self.at, |root| root.locate(&path.0).0);
        let mut diagnostic = self.source.diagnostic(severity, code, place, message);
        diagnostic.path = path.to_string();
        diagnostic
    }

    fn is_empty(&self) -> bool {
        self.problems.is_empty() && self.root.as_ref().is_none_or(Node::is_null)
    }
}

#[cfg(test)]
mod tests;
