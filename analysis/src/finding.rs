//! A finding, and where findings are collected.

use std::fmt;

use xebec_galley::yaml::{Path, Segment};
use xebec_galley::{Code, Diagnostic, Meta, Severity, SourceRef};

use crate::codes::Message;
use crate::input::Texts;
use crate::object::Object;

/// One thing to say about one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of finding it is.
    pub message: &'static Message,
    /// The resource.
    pub subject: Subject,
    /// The sentence, the place, the lines around it, and what to do.
    pub diagnostic: Diagnostic,
}

/// The resource that a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Its kind; empty where a document is none.
    pub kind: String,
    /// Its namespace; empty for what has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A resource and where it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    source: &'a SourceRef,
}

/// Where findings are collected.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    texts: &'a Texts,
    pub findings: Vec<Finding>,
}

/// One step of a way into a document.
pub(crate) trait Step {
    fn segment(self) -> Segment;
}

/// A way into a document: `way!["spec", "http", 2, "route"]`.
macro_rules! way {
    ($($step:expr),* $(,)?) => {
        xebec_galley::yaml::Path(vec![$($crate::finding::Step::segment($step)),*])
    };
}
pub(crate) use way;

// === impl Finding ===

impl Finding {
    /// How bad it is.
    pub fn level(&self) -> Severity {
        self.message.level
    }

    /// What to do about it, as far as that is known.
    pub fn help(&self) -> Option<&str> {
        self.diagnostic.help.as_deref()
    }

    pub(crate) fn set_help(&mut self, help: impl Into<String>) {
        self.diagnostic.help = Some(help.into());
    }
}

// === impl Subject ===

/// `Kind namespace/name`, as Istio writes it; `Kind name` for what has no namespace.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind.is_empty(), self.namespace.is_empty()) {
            (true, _) => f.write_str(&self.name),
            (false, true) => write!(f, "{} {}", self.kind, self.name),
            (false, false) => write!(f, "{} {}/{}", self.kind, self.namespace, self.name),
        }
    }
}

// === impl About ===

impl<'a> About<'a> {
    pub fn new(kind: &'a str, namespace: &'a str, name: &'a str, source: &'a SourceRef) -> Self {
        Self { kind, namespace, name, source }
    }
}

impl<'a> From<&'a Meta> for About<'a> {
    fn from(meta: &'a Meta) -> Self {
        Self {
            kind: meta.key.kind.as_str(),
            namespace: &meta.key.namespace,
            name: &meta.key.name,
            source: &meta.source,
        }
    }
}

impl<'a> From<&'a Object> for About<'a> {
    fn from(object: &'a Object) -> Self {
        Self { kind: &object.kind, namespace: &object.namespace, name: &object.name, source: &object.source }
    }
}

// === impl Report ===

impl<'a> Report<'a> {
    pub fn new(texts: &'a Texts) -> Self {
        Self { texts, findings: Vec::new() }
    }

    /// Adds a finding at a part of a resource. What the way does not lead to is pointed at by the last part that exists.
    pub fn add<'b>(
        &mut self,
        message: &'static Message,
        about: impl Into<About<'b>>,
        path: &Path,
        arguments: &[&str],
    ) -> &mut Finding {
        let about = about.into();
        let text = message.fill(arguments);
        let code = Code::Analysis(message.code);
        let mut diagnostic = match self.texts.get(about.source) {
            Some(document) => document.diagnostic(message.level, code, path, text),
            None => match self.texts.around(about.source) {
                Some((document, at)) => document.source().diagnostic(message.level, code, at, text),
                None => {
                    let mut bare = Diagnostic::of_file(message.level, code, &about.source.file, text);
                    bare.source = about.source.clone();
                    bare
                }
            },
        };
        diagnostic.path = path.to_string();
        let subject =
            Subject { kind: about.kind.to_owned(), namespace: about.namespace.to_owned(), name: about.name.to_owned() };
        diagnostic.resource = Some(subject.to_string());
        self.push(Finding { message, subject, diagnostic })
    }

    /// Adds a finding that is complete.
    pub fn push(&mut self, finding: Finding) -> &mut Finding {
        let at = self.findings.len();
        self.findings.push(finding);
        &mut self.findings[at]
    }
}

// === impl Step ===

impl Step for &str {
    fn segment(self) -> Segment {
        Segment::Key(self.to_owned())
    }
}

impl Step for usize {
    fn segment(self) -> Segment {
        Segment::Index(self)
    }
}
