//! From the parser's events to trees, without recursion, and without trust.
//!
//! ALWAYS: a fault in one document costs that document only; reading goes on at the next `---`.
//! NEVER: more memory than the limits allow, whatever aliases promise.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use rustc_hash::FxBuildHasher;

use super::problems::{Problems, quoted};
use super::scalar;
use super::tree::{Entry, Node, Place, Value};
use super::{Document, Limits, Source};
use crate::diagnostic::Code;

struct Builder<'s> {
    source: &'s Source,
    limits: Limits,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node, FxBuildHasher>,
    root: Option<Node>,
    nodes: usize,
    expanded: usize,
    problems: Problems,
    /// Whether the document is given up: the rest of it is skipped.
    broken: bool,
}

enum Frame {
    List { at: Place, anchor: usize, items: Vec<Node> },
    Map { at: Place, anchor: usize, entries: Vec<Entry>, key: Option<(String, Place)> },
}

pub(super) fn documents(source: &Source, limits: Limits) -> Vec<Document> {
    let options = granit_parser::options! { emit_comments: false };
    let mut parser = Parser::new_from_str_with_options(source.text(), options);
    let mut documents = Vec::new();
    let mut builder = Builder::new(source, limits);
    let mut started = None;
    loop {
        match parser.next_event() {
            None => break,
            Some(Ok((Event::StreamEnd, _))) => break,
            Some(Ok((Event::DocumentStart(..), span))) => {
                started = Some(place(&span));
                builder = Builder::new(source, limits);
            }
            Some(Ok((Event::DocumentEnd, _))) => {
                documents.push(builder.finish(started.take()));
                builder = Builder::new(source, limits);
            }
            Some(Ok((event, span))) => {
                builder.event(event, &span);
                if builder.broken {
                    documents.push(builder.finish(started.take()));
                    builder = Builder::new(source, limits);
                    if !next_document(&mut parser, source, limits, &mut documents) {
                        break;
                    }
                }
            }
            Some(Err(error)) => {
                builder.syntax(&error);
                documents.push(builder.finish(started.take()));
                builder = Builder::new(source, limits);
                if !next_document(&mut parser, source, limits, &mut documents) {
                    break;
                }
            }
        }
    }
    if builder.root.is_some() || !builder.problems.is_empty() {
        documents.push(builder.finish(started));
    }
    documents
}

/// Skips to the next document; whether there is one.
fn next_document<'s>(
    parser: &mut Parser<'s, StrInput<'s>>,
    source: &Source,
    limits: Limits,
    documents: &mut Vec<Document>,
) -> bool {
    match parser.proceed_next_document() {
        Ok(more) => more,
        Err(error) => {
            let mut builder = Builder::new(source, limits);
            builder.syntax(&error);
            documents.push(builder.finish(None));
            false
        }
    }
}

// === impl Builder ===

impl<'s> Builder<'s> {
    fn new(source: &'s Source, limits: Limits) -> Self {
        Self {
            source,
            limits,
            stack: Vec::new(),
            anchors: HashMap::default(),
            root: None,
            nodes: 0,
            expanded: 0,
            problems: Problems::new(),
            broken: false,
        }
    }

    fn finish(self, started: Option<Place>) -> Document {
        let problems = self.problems.into_vec();
        let fallback = problems.first().map(|problem| Place {
            line: problem.source.line,
            column: problem.source.column,
            ..Place::default()
        });
        let at = self.root.as_ref().map(|root| root.at).or(started).or(fallback).unwrap_or(Place {
            line: 1,
            column: 1,
            ..Place::default()
        });
        // A tree that ends in the middle would be taken for one that says less than was written.
        let root = if self.broken { None } else { self.root };
        Document { source: self.source.clone(), at, root, problems }
    }

    fn event(&mut self, event: Event<'_>, span: &Span) {
        let at = place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), at),
            Event::SequenceStart(_, anchor, _) => self.open(Frame::List { at, anchor, items: Vec::new() }, at),
            Event::MappingStart(_, anchor, _) => {
                self.open(Frame::Map { at, anchor, entries: Vec::new(), key: None }, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => {}
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, tag: Option<&Tag>, at: Place) {
        if let Some(Frame::Map { key: key @ None, .. }) = self.stack.last_mut() {
            *key = Some((text.to_owned(), at));
            if anchor != 0 {
                self.anchors.insert(anchor, Node { at, value: Value::String(text.to_owned()) });
            }
            return;
        }
        let value = match tag.and_then(Tag::core_suffix) {
            Some("str") => Value::String(text.to_owned()),
            Some("int" | "float") => scalar::number(text).unwrap_or_else(|| Value::String(text.to_owned())),
            _ if style == ScalarStyle::Plain => scalar::resolve(text),
            _ => Value::String(text.to_owned()),
        };
        self.add(Node { at, value }, anchor);
    }

    fn open(&mut self, frame: Frame, at: Place) {
        if let Some(Frame::Map { key: None, .. }) = self.stack.last() {
            return self.give_up(Code::Syntax, at, "a key is a list or a mapping; keys are plain text", None);
        }
        if self.stack.len() >= self.limits.depth {
            let message = format!("values are nested more than {} levels deep", self.limits.depth);
            return self.give_up(Code::TooDeep, at, message, None);
        }
        self.stack.push(frame);
    }

    fn close(&mut self) {
        match self.stack.pop() {
            Some(Frame::List { at, anchor, items }) => self.add(Node { at, value: Value::List(items) }, anchor),
            Some(Frame::Map { at, anchor, entries, .. }) => {
                let entries = merge(self.unique(entries));
                self.add(Node { at, value: Value::Map(entries) }, anchor);
            }
            None => {}
        }
    }

    fn alias(&mut self, anchor: usize, at: Place) {
        let Some(node) = self.anchors.get(&anchor) else {
            return self.give_up(Code::Syntax, at, "this alias stands inside of what it names", None);
        };
        if let Some(Frame::Map { key: key @ None, .. }) = self.stack.last_mut() {
            if let Value::String(text) = &node.value {
                *key = Some((text.clone(), at));
                return;
            }
            return self.give_up(Code::Syntax, at, "a key is a list or a mapping; keys are plain text", None);
        }
        let room = self.limits.alias_nodes.saturating_sub(self.expanded);
        let Some(size) = count(node, room) else {
            let message = format!("aliases repeat more than {} values", self.limits.alias_nodes);
            return self.give_up(Code::TooLarge, at, message, Some("write the values out, or repeat less"));
        };
        if self.stack.len() + depth(node) > self.limits.depth {
            let message = format!("values are nested more than {} levels deep", self.limits.depth);
            return self.give_up(Code::TooDeep, at, message, None);
        }
        let copy = node.clone();
        self.expanded += size;
        self.add(copy, 0);
    }

    /// Hands a finished value to whatever is around it.
    fn add(&mut self, node: Node, anchor: usize) {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            let message = format!("the document has more than {} values", self.limits.nodes);
            return self.give_up(Code::TooLarge, node.at, message, Some("split it into several documents"));
        }
        if anchor != 0 {
            let room = self.limits.alias_nodes.saturating_sub(self.expanded);
            match count(&node, room) {
                Some(size) => {
                    self.expanded += size;
                    self.anchors.insert(anchor, node.clone());
                }
                None => {
                    let message = format!("anchors and aliases repeat more than {} values", self.limits.alias_nodes);
                    return self.give_up(
                        Code::TooLarge,
                        node.at,
                        message,
                        Some("write the values out, or repeat less"),
                    );
                }
            }
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, key, .. }) => {
                if let Some((key, at)) = key.take() {
                    entries.push(Entry { key, at, node });
                }
            }
        }
    }

    /// Reports keys that are written twice, and keeps the first of them.
    fn unique(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut first: HashMap<&str, Place, FxBuildHasher> =
            HashMap::with_capacity_and_hasher(entries.len(), FxBuildHasher);
        let mut repeated = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if let Some(place) = first.get(entry.key.as_str()) {
                repeated.push(index);
                self.problems.push_with(|| {
                    let key = quoted(&entry.key);
                    let message = format!("{key} is written twice in one mapping; first on line {}", place.line);
                    self.source.error(Code::DuplicateKey, entry.at, message).with_help("keep one of them")
                });
            } else {
                first.insert(&entry.key, entry.at);
            }
        }
        if repeated.is_empty() {
            return entries;
        }
        drop(first);
        let mut index = 0;
        let mut entries = entries;
        entries.retain(|_| {
            index += 1;
            repeated.binary_search(&(index - 1)).is_err()
        });
        entries
    }

    fn give_up(&mut self, code: Code, at: Place, message: impl Into<String>, help: Option<&str>) {
        let mut problem = self.source.error(code, at, message);
        problem.help = help.map(str::to_owned);
        self.problems.push(problem);
        self.broken = true;
    }

    fn syntax(&mut self, error: &ScanError) {
        let marker = error.marker();
        let mut at = Place {
            line: clamp(marker.line()),
            column: clamp(marker.col()).saturating_add(1),
            offset: clamp(marker.byte_offset().unwrap_or_else(|| byte_offset(self.source.text(), marker.index()))),
            len: 1,
        };
        let (code, message, help) = explain(error.kind());
        if matches!(
            error.kind(),
            ErrorKind::TabNotAllowed
                | ErrorKind::TabInBlockIndentation
                | ErrorKind::TabInIndentation
                | ErrorKind::TabInPlainScalar
        ) {
            at = self.tab_near(at);
        }
        let message = message.map_or_else(|| error.info(), str::to_owned);
        self.give_up(code, at, message, help);
    }

    /// The parser says where the value with the tab begins or goes on; the tab itself is what has to go.
    fn tab_near(&self, at: Place) -> Place {
        let text = self.source.text();
        let line_start =
            text.get(..at.offset as usize).and_then(|head| head.rfind('\n')).map_or(0, |newline| newline + 1);
        let mut offset = line_start;
        for (line, content) in (at.line..).zip(text[line_start..].split_inclusive('\n').take(3)) {
            let indentation = content.len() - content.trim_start().len();
            if let Some(tab) = content[..indentation].find('\t') {
                return Place { line, column: clamp(tab) + 1, offset: clamp(offset + tab), len: 1 };
            }
            offset += content.len();
        }
        at
    }
}

/// Applies `<<`: entries of the merged mappings, except for keys that are written out.
fn merge(mut entries: Vec<Entry>) -> Vec<Entry> {
    let Some(position) = entries.iter().position(|entry| entry.key == "<<") else {
        return entries;
    };
    let merged = match &entries[position].node.value {
        Value::Map(_) => vec![entries[position].node.clone()],
        Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => items.clone(),
        _ => return entries,
    };
    entries.remove(position);
    for node in merged {
        if let Value::Map(inherited) = node.value {
            for entry in inherited {
                if !entries.iter().any(|own| own.key == entry.key) {
                    entries.push(entry);
                }
            }
        }
    }
    entries
}

/// How many values a tree has; `None` when more than `room`.
fn count(node: &Node, room: usize) -> Option<usize> {
    let mut open = vec![node];
    let mut total = 0;
    while let Some(node) = open.pop() {
        total += 1;
        if total > room {
            return None;
        }
        open.extend(node.items());
        open.extend(node.entries().iter().map(|entry| &entry.node));
    }
    Some(total)
}

fn depth(node: &Node) -> usize {
    let mut deepest = 0;
    let mut open = vec![(node, 1)];
    while let Some((node, level)) = open.pop() {
        deepest = deepest.max(level);
        open.extend(node.items().iter().map(|item| (item, level + 1)));
        open.extend(node.entries().iter().map(|entry| (&entry.node, level + 1)));
    }
    deepest
}

fn place(span: &Span) -> Place {
    let range = span.byte_range().unwrap_or_default();
    Place {
        line: clamp(span.start.line()),
        column: clamp(span.start.col()).saturating_add(1),
        offset: clamp(range.start),
        len: clamp(range.len()),
    }
}

fn clamp(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn byte_offset(text: &str, characters: usize) -> usize {
    text.char_indices().nth(characters).map_or(text.len(), |(offset, _)| offset)
}

/// The fault in plain words, where the parser's own would need a YAML book, and what to do.
fn explain(kind: &ErrorKind) -> (Code, Option<&'static str>, Option<&'static str>) {
    use ErrorKind as K;
    const ALIGN: Option<&str> =
        Some("keys of one mapping begin in the same column; check the indentation of this line and those above");
    match kind {
        K::TabNotAllowed
        | K::TabInBlockIndentation
        | K::TabInIndentation
        | K::TabInPlainScalar
        | K::TabAtBlockScalarStart => {
            (Code::Syntax, Some("a tab is used for indentation"), Some("YAML is indented with spaces only"))
        }
        K::UnclosedQuotedScalar => {
            (Code::Syntax, Some("a quote is opened here and not closed"), Some("close the quote"))
        }
        K::DocumentIndicatorInQuotedScalar => (
            Code::Syntax,
            Some("a quoted text is not closed before the document ends"),
            Some("close the quote before `---`"),
        ),
        K::UnclosedFlowCollection { .. }
        | K::UnexpectedEofFlowMapping
        | K::UnexpectedEofFlowSequence
        | K::UnexpectedEofImplicitFlowMapping => {
            (Code::Syntax, Some("a bracket is opened and not closed"), Some("close the bracket"))
        }
        K::MismatchedFlowCollectionEnd { .. } | K::MisplacedFlowCollectionEnd => {
            (Code::Syntax, Some("this closing bracket matches none that is open"), None)
        }
        K::ExpectedFlowMappingSeparator | K::ExpectedFlowSequenceSeparator => {
            (Code::Syntax, Some("a comma or a closing bracket is missing"), None)
        }
        K::ExpectedBlockMappingKey | K::InvalidIndentation => {
            (Code::Syntax, Some("wrong indentation: no key is expected here"), ALIGN)
        }
        K::ExpectedBlockSequenceEntry => (Code::Syntax, Some("wrong indentation: a `- ` is expected here"), ALIGN),
        K::BlockSequenceEntryNotAllowed => (Code::Syntax, Some("a list cannot begin here"), ALIGN),
        K::MappingValueNotAllowed | K::MappingKeyNotAllowed | K::InvalidColonPlacement => (
            Code::Syntax,
            Some("a `key: value` cannot stand here"),
            Some("check the indentation, and put texts that contain `: ` in quotes"),
        ),
        K::SimpleKeyExpected | K::InvalidSimpleKey => (
            Code::Syntax,
            Some("a key without `:`"),
            Some("write `key: value`; check the indentation of this line and those above"),
        ),
        K::UnexpectedCharacter { .. } => {
            (Code::Syntax, Some("a value cannot begin with this character"), Some("put the text in quotes"))
        }
        K::UnknownAnchor => (
            Code::Syntax,
            Some("this alias names nothing"),
            Some("define it above with `&NAME`, or put a text that begins with `*` in quotes"),
        ),
        K::UnknownQuotedScalarEscape => (
            Code::Syntax,
            Some("an unknown escape after `\\`"),
            Some("write `\\\\` for a backslash, or use single quotes"),
        ),
        K::RecursionLimitExceeded => (Code::TooDeep, Some("values are nested too deep"), None),
        _ => (Code::Syntax, None, None),
    }
}
