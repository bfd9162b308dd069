//! From a document to a resource: which kind it is, whether it keeps the rules, and everything that is wrong if not.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::honoured;
use crate::resource::{Config, Kind, Meta, Resource, ResourceKey, SourceRef};
use crate::spec;
use crate::validate::{Findings, Validate, is_dns_name, is_label};
use crate::yaml::{self, At, Document, Entry, Node, Path, Place, Segment, Value};

/// The API group of Istio's networking resources.
const GROUP: &str = "networking.istio.io";
/// The versions of the group, which share one schema.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
/// Kinds of the group that are known and not read.
const UNREAD_KINDS: [&str; 3] = ["EnvoyFilter", "WorkloadGroup", "ProxyConfig"];

/// What became of one document, or of one item of a list.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// What became of it.
    pub outcome: Outcome,
    /// Everything to say about it, errors, warnings and information, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// Where it begins.
    pub source: SourceRef,
    /// The same within the text.
    pub at: Place,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It takes effect.
    Accepted(Config),
    /// It is refused. Its identity is known unless the text was not readable.
    Refused(Option<ResourceKey>),
    /// It is of a kind that is not read.
    Ignored,
    /// It belongs to somebody else: the file registry's `services`.
    Foreign,
}

impl Kind {
    /// Every kind that is read.
    pub const ALL: [Self; 6] = [
        Self::VirtualService,
        Self::DestinationRule,
        Self::Gateway,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::Sidecar,
    ];

    /// Its name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Sidecar => "Sidecar",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Decodes one document; several results for a `List`.
pub fn decode(document: &Document) -> Vec<Decoded> {
    let mut results = Vec::new();
    decode_into(document, 0, &mut results);
    results
}

/// Lists inside of lists that are followed.
const NESTED_LISTS: usize = 4;

fn decode_into(document: &Document, depth: usize, results: &mut Vec<Decoded>) {
    let Some(root) = &document.root else {
        return results.push(refused(document, None, document.problems.clone()));
    };
    if !matches!(root.value, Value::Map(_)) {
        let problem = document.source().diagnostic(Severity::Error, Code::UnknownKind, root.at, NO_RESOURCE.0);
        return results.push(refused(document, None, with(document, problem.with_help(NO_RESOURCE.1))));
    }
    let text = |key| root.get(key).and_then(Node::as_str);
    match (text("apiVersion"), text("kind")) {
        (Some(_), Some(kind)) if kind == "List" || (kind.ends_with("List") && root.get("items").is_some()) => {
            decode_list(document, root, depth, results);
        }
        (Some(version), Some(kind)) => results.push(decode_kind(document, root, version, kind)),
        (None, None) if root.get("services").is_some() => results.push(Decoded {
            outcome: Outcome::Foreign,
            diagnostics: Vec::new(),
            source: document.reference(),
            at: document.at,
        }),
        (None, None) if ["apiVersion", "kind"].iter().all(|field| misspelt(root, field).is_none()) => {
            let problem = document.source().diagnostic(Severity::Error, Code::UnknownKind, root.at, NO_RESOURCE.0);
            results.push(refused(document, None, with(document, problem.with_help(NO_RESOURCE.1))));
        }
        (version, kind) => {
            let mut problems = document.problems.clone();
            for (field, given) in [("apiVersion", version), ("kind", kind)] {
                if given.is_none() {
                    let (at, help) = match misspelt(root, field) {
                        Some(entry) => (entry.at, format!("`{}` is written `{field}`", entry.key)),
                        None => {
                            (root.entry(field).map_or(root.at, |entry| entry.at), format!("add `{field}:`, a text"))
                        }
                    };
                    let problem = document.source().diagnostic(
                        Severity::Error,
                        Code::Missing,
                        at,
                        format!("the document has no `{field}`"),
                    );
                    problems.push(problem.with_help(help));
                }
            }
            results.push(refused(document, None, problems));
        }
    }
}

const NO_RESOURCE: (&str, &str) =
    ("this is not a resource", "a resource is a mapping with `apiVersion`, `kind`, `metadata` and `spec`");

/// The key that was probably meant to be `field`.
fn misspelt<'n>(root: &'n Node, field: &str) -> Option<&'n Entry> {
    let near = yaml::suggest(field, root.entries().iter().map(|entry| entry.key.as_str()))?;
    root.entry(near).filter(|_| near != field)
}

fn decode_list(document: &Document, root: &Node, depth: usize, results: &mut Vec<Decoded>) {
    let items = root.get("items").map_or(&[] as &[Node], Node::items);
    let mut problems = document.problems.clone();
    if depth >= NESTED_LISTS {
        let problem =
            document.source().diagnostic(Severity::Error, Code::TooDeep, root.at, "lists inside of lists go too deep");
        problems.push(problem);
        return results.push(refused(document, None, problems));
    }
    // A fault of form belongs to the item that it stands in; what stands before the first belongs to the list.
    let place = |problem: &Diagnostic| (problem.source.line, problem.source.column);
    let mut parts: Vec<Vec<Diagnostic>> = vec![Vec::new(); items.len()];
    problems.retain(|problem| {
        let owner = items.iter().rposition(|item| (item.at.line, item.at.column) <= place(problem));
        match owner.and_then(|index| parts.get_mut(index)) {
            Some(part) => {
                part.push(problem.clone());
                false
            }
            None => true,
        }
    });
    if !problems.is_empty() {
        results.push(refused(document, None, problems));
    }
    for (item, problems) in items.iter().zip(parts) {
        let part = document.part(item, problems);
        decode_into(&part, depth + 1, results);
    }
}

fn decode_kind(document: &Document, root: &Node, version: &str, kind: &str) -> Decoded {
    let (group, api_version) = version.split_once('/').unwrap_or(("", version));
    let known = Kind::parse(kind);
    if group != GROUP {
        let slip = known.is_some() && yaml::suggest(group, [GROUP]).is_some();
        if slip {
            let problem = at_key(
                document,
                root,
                "apiVersion",
                Code::UnknownKind,
                format!("there is no API group `{group}` with a {kind}"),
            );
            return refused(document, None, with(document, problem.with_help(format!("did you mean `{GROUP}/v1`?"))));
        }
        return ignored(document, root, version, kind);
    }
    if !VERSIONS.contains(&api_version) {
        let problem = at_key(
            document,
            root,
            "apiVersion",
            Code::UnknownKind,
            format!("`{GROUP}` has no version `{api_version}`"),
        );
        let help = format!("the versions are {}", VERSIONS.map(|version| format!("`{GROUP}/{version}`")).join(", "));
        return refused(document, None, with(document, problem.with_help(help)));
    }
    match known {
        Some(Kind::VirtualService) => decode_as::<spec::VirtualService>(document, root, Kind::VirtualService, |r| {
            Config::VirtualService(Arc::new(r))
        }),
        Some(Kind::DestinationRule) => decode_as::<spec::DestinationRule>(document, root, Kind::DestinationRule, |r| {
            Config::DestinationRule(Arc::new(r))
        }),
        Some(Kind::Gateway) => {
            decode_as::<spec::Gateway>(document, root, Kind::Gateway, |r| Config::Gateway(Arc::new(r)))
        }
        Some(Kind::ServiceEntry) => {
            decode_as::<spec::ServiceEntry>(document, root, Kind::ServiceEntry, |r| Config::ServiceEntry(Arc::new(r)))
        }
        Some(Kind::WorkloadEntry) => decode_as::<spec::WorkloadEntry>(document, root, Kind::WorkloadEntry, |r| {
            Config::WorkloadEntry(Arc::new(r))
        }),
        Some(Kind::Sidecar) => {
            decode_as::<spec::Sidecar>(document, root, Kind::Sidecar, |r| Config::Sidecar(Arc::new(r)))
        }
        None if UNREAD_KINDS.contains(&kind) => ignored(document, root, version, kind),
        None => {
            let problem = at_key(document, root, "kind", Code::UnknownKind, format!("`{GROUP}` has no kind `{kind}`"));
            let names = Kind::ALL.map(Kind::as_str);
            let help = match yaml::suggest(kind, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the kinds are {}", names.join(", ")),
            };
            refused(document, None, with(document, problem.with_help(help)))
        }
    }
}

/// A resource with its envelope.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default, bound = "S: DeserializeOwned")]
struct Envelope<S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: Metadata,
    spec: Option<S>,
    #[serde(rename = "status")]
    _status: IgnoredAny,
}

impl<S> Default for Envelope<S> {
    fn default() -> Self {
        Self {
            _api_version: IgnoredAny,
            _kind: IgnoredAny,
            metadata: Metadata::default(),
            spec: None,
            _status: IgnoredAny,
        }
    }
}

/// Kubernetes' ObjectMeta. What the server alone writes is accepted and has no meaning here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Metadata {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    creation_timestamp: Option<String>,
    #[serde(rename = "generateName")]
    _generate_name: IgnoredAny,
    #[serde(rename = "uid")]
    _uid: IgnoredAny,
    #[serde(rename = "resourceVersion")]
    _resource_version: IgnoredAny,
    #[serde(rename = "generation")]
    _generation: IgnoredAny,
    #[serde(rename = "selfLink")]
    _self_link: IgnoredAny,
    #[serde(rename = "deletionTimestamp")]
    _deletion_timestamp: IgnoredAny,
    #[serde(rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: IgnoredAny,
    #[serde(rename = "finalizers")]
    _finalizers: IgnoredAny,
    #[serde(rename = "ownerReferences")]
    _owner_references: IgnoredAny,
    #[serde(rename = "managedFields")]
    _managed_fields: IgnoredAny,
}

fn decode_as<S: DeserializeOwned + Validate>(
    document: &Document,
    root: &Node,
    kind: Kind,
    wrap: fn(Resource<S>) -> Config,
) -> Decoded {
    let key = identity(root, kind);
    let (read, rest) = yaml::read_tree::<Envelope<S>>(document.source(), root);
    let mut diagnostics = document.problems.clone();
    diagnostics.extend(read.diagnostics);
    let mut accepted = None;
    let envelope = read.value.or(rest.partial);
    if let Some(envelope) = envelope {
        let mut findings = Findings::default();
        metadata_rules(&envelope.metadata, &mut findings);
        match &envelope.spec {
            Some(spec) => spec.validate(&At::root("spec"), &mut findings),
            None => findings.missing(&At::root("spec"), "the resource has no `spec`", "add `spec:`"),
        }
        let created = creation_time(&envelope.metadata, &mut findings);
        for finding in findings.0 {
            if follows_from(&rest.faulty, root, &finding.path) {
                continue;
            }
            let mut diagnostic = document.diagnostic(finding.severity, finding.code, &finding.path, finding.message);
            diagnostic.help = finding.help;
            diagnostics.push(diagnostic);
        }
        if let (Some(spec), Some(key)) = (envelope.spec, key.clone()) {
            let intern = |map: BTreeMap<String, String>| map.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
            let meta = Meta {
                key,
                labels: intern(envelope.metadata.labels),
                annotations: intern(envelope.metadata.annotations),
                created,
                source: document.reference(),
            };
            accepted = Some(wrap(Resource { meta, spec }));
        }
    }
    for (path, reason) in honoured::not_yet(kind, root) {
        let message = format!("accepted, not yet honoured: {reason}");
        diagnostics.push(document.diagnostic(Severity::Warning, Code::NotHonoured, &path, message));
    }
    let resource = key.as_ref().map_or_else(|| kind.as_str().to_owned(), ToString::to_string);
    for diagnostic in &mut diagnostics {
        diagnostic.resource = Some(resource.clone());
    }
    diagnostics.sort_by_key(|diagnostic| (diagnostic.source.line, diagnostic.source.column));
    let outcome = match accepted {
        Some(config) if !diagnostics.iter().any(Diagnostic::is_error) => Outcome::Accepted(config),
        _ => Outcome::Refused(key),
    };
    Decoded { outcome, diagnostics, source: document.reference(), at: document.at }
}

/// Who it is, told from the tree, so that a faulty resource is known by name.
fn identity(root: &Node, kind: Kind) -> Option<ResourceKey> {
    let metadata = root.get("metadata")?;
    let name = metadata.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let namespace =
        metadata.get("namespace").and_then(Node::as_str).filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    Some(ResourceKey { kind, namespace: namespace.into(), name: name.into() })
}

fn metadata_rules(metadata: &Metadata, findings: &mut Findings) {
    let at = At::root("metadata");
    if metadata.name.is_empty() {
        findings.missing(&at.key("name"), "the resource has no name", "add `metadata: { name: … }`");
    } else if !is_dns_name(&metadata.name) || metadata.name.chars().any(|c| c.is_ascii_uppercase() || c == '_') {
        findings.invalid(
            &at.key("name"),
            format!("`{}` is not a resource's name", metadata.name),
            "use lower-case letters, digits, hyphens and dots",
        );
    }
    if !metadata.namespace.is_empty() && !is_label(&metadata.namespace) {
        findings.invalid(
            &at.key("namespace"),
            format!("`{}` is not a namespace", metadata.namespace),
            "use lower-case letters, digits and hyphens",
        );
    }
}

fn creation_time(metadata: &Metadata, findings: &mut Findings) -> u64 {
    let Some(text) = metadata.creation_timestamp.as_deref().filter(|text| !text.is_empty()) else {
        return 0;
    };
    unix_seconds(text).unwrap_or_else(|| {
        let at = At::root("metadata");
        findings.invalid(
            &at.key("creationTimestamp"),
            format!("`{text}` is not a time"),
            "write it as `2026-01-31T12:00:00Z`",
        );
        0
    })
}

/// RFC 3339, section 5.6, as seconds since 1970.
fn unix_seconds(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let number = |text: &str, digits: usize| {
        (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<i64>().ok()).flatten()
    };
    let mut parts = date.split('-');
    let (year, month, day) = (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let zone_start = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_start);
    let mut parts = clock.split('.').next()?.split(':');
    let (hour, minute, second) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let offset = match zone.as_bytes().first()? {
        b'Z' | b'z' if zone.len() == 1 => 0,
        sign @ (b'+' | b'-') => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let seconds = number(hours, 2)? * 3600 + number(minutes, 2)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    // Days since 1970, with years that begin in March, so that the leap day is the last.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second - offset).ok()
}

/// Whether a finding is only about the absence of parts that were reported as faulty already.
fn follows_from(faulty: &[Path], root: &Node, path: &Path) -> bool {
    let existing = root.locate(&path.0).1;
    let anchor: &[Segment] = &path.0[..existing];
    faulty.iter().any(|fault| {
        let parent = &fault.0[..fault.0.len().saturating_sub(1)];
        if existing < path.0.len() {
            parent == anchor
        } else {
            parent.starts_with(anchor) || anchor.starts_with(&fault.0)
        }
    })
}

fn at_key(document: &Document, root: &Node, key: &str, code: Code, message: String) -> Diagnostic {
    let at = root.get(key).map_or(root.at, |node| node.at);
    let mut problem = document.source().diagnostic(Severity::Error, code, at, message);
    problem.path = key.to_owned();
    problem
}

fn with(document: &Document, problem: Diagnostic) -> Vec<Diagnostic> {
    document.problems.iter().cloned().chain([problem]).collect()
}

fn refused(document: &Document, key: Option<ResourceKey>, diagnostics: Vec<Diagnostic>) -> Decoded {
    Decoded { outcome: Outcome::Refused(key), diagnostics, source: document.reference(), at: document.at }
}

fn ignored(document: &Document, root: &Node, version: &str, kind: &str) -> Decoded {
    let name = root.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Node::as_str).unwrap_or("");
    let at = root.entry("kind").map_or(root.at, |entry| entry.at);
    let (severity, code, message) = if version.starts_with("security.istio.io/") {
        let message = format!("accepted, not yet honoured: {kind} has no effect, and nobody is refused because of it");
        (Severity::Warning, Code::NotHonoured, message)
    } else {
        (Severity::Info, Code::IgnoredKind, format!("ignored: kind not read yet: {kind} of {version}"))
    };
    let mut problem = document.source().diagnostic(severity, code, at, message);
    problem.resource = Some(format!("{kind}/{name}"));
    // What we do not read we do not judge, duplicate keys included.
    Decoded { outcome: Outcome::Ignored, diagnostics: vec![problem], source: document.reference(), at: document.at }
}

#[cfg(test)]
mod tests;
