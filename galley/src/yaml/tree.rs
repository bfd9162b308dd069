//! A document as a tree in which every key and value knows its place.

use std::fmt;

/// A place in a source: where a key or value begins, and how long it is on that line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Place {
    /// 1-based line.
    pub line: u32,
    /// 1-based column, in characters.
    pub column: u32,
    /// Offset in bytes from the beginning of the source.
    pub offset: u32,
    /// Length in bytes; 0 where only the beginning is known.
    pub len: u32,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Place,
    /// What it is.
    pub value: Value,
}

/// What a node is. Plain scalars have the types that Kubernetes' reader gives them.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true`, `false`, and the older `yes`, `no`, `on`, `off`.
    Bool(bool),
    /// A whole number below zero.
    Int(i64),
    /// A whole number.
    UInt(u64),
    /// A number with a fraction or exponent; always finite.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written, without duplicate keys.
    Map(Vec<Entry>),
    /// A part that was found faulty and is left out when the rest is read.
    Faulty,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub at: Place,
    /// The value.
    pub node: Node,
}

/// One step from a node to a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Into a mapping.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

/// The way from a document's root to a part, written `spec.http[2].route[0].weight`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Path(pub Vec<Segment>);

/// A way that grows on the stack while a value is walked through, without allocation until it is needed.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

// === impl Node ===

impl Node {
    /// The value of `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The entry of `key`, if this is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The entries; none unless this is a mapping.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items; none unless this is a list.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Whether nothing was written.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The part at the end of `path`, unless something on the way is missing.
    pub fn part(&self, path: &[Segment]) -> Option<&Node> {
        path.iter().try_fold(self, |node, segment| match segment {
            Segment::Key(key) => node.get(key),
            Segment::Index(index) => node.items().get(*index),
        })
    }

    pub(crate) fn part_mut(&mut self, path: &[Segment]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, segment| match (segment, &mut node.value) {
            (Segment::Key(key), Value::Map(entries)) => entries.iter_mut().find(|e| e.key == *key).map(|e| &mut e.node),
            (Segment::Index(index), Value::List(items)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// The place to point at for `path`, and how many of its steps exist: the part itself; the key where the value is not on
    /// the key's line; or, where parts are missing, the key of the last one that exists.
    pub fn locate(&self, path: &[Segment]) -> (Place, usize) {
        let mut node = self;
        let mut place = self.at;
        for (depth, segment) in path.iter().enumerate() {
            match segment {
                Segment::Key(key) => match node.entry(key) {
                    Some(entry) => {
                        node = &entry.node;
                        let scalar =
                            !matches!(node.value, Value::Map(_) | Value::List(_) | Value::Null | Value::Faulty);
                        place = if scalar && node.at.line == entry.at.line { node.at } else { entry.at };
                    }
                    None => return (place, depth),
                },
                Segment::Index(index) => match node.items().get(*index) {
                    Some(item) => {
                        node = item;
                        place = item.at;
                    }
                    None => return (place, depth),
                },
            }
        }
        (place, path.len())
    }
}

// === impl Path ===

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if key.contains(['.', '[', ']', ' ']) => write!(f, "[\"{key}\"]")?,
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

// === impl At ===

impl<'a> At<'a> {
    /// A way that begins with `key`.
    pub const fn root(key: &'a str) -> Self {
        Self { parent: None, step: Step::Key(key) }
    }

    /// Into a mapping.
    pub const fn key(&'a self, key: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Key(key) }
    }

    /// Into a list.
    pub const fn index(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), step: Step::Index(index) }
    }

    /// The way as a value of its own.
    pub fn path(&self) -> Path {
        let mut segments = Vec::new();
        let mut at = Some(self);
        while let Some(this) = at {
            segments.push(match this.step {
                Step::Key(key) => Segment::Key(key.to_owned()),
                Step::Index(index) => Segment::Index(index),
            });
            at = this.parent;
        }
        segments.reverse();
        Path(segments)
    }
}
