//! From a tree to any serde type, with every misfit reported at its place.
//!
//! Serde stops at the first misfit. Here the part that does not fit is then marked faulty, which makes it invisible, and the
//! tree is read again, until it fits or the fault cannot be left out.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::Source;
use super::problems::quoted;
use super::tree::{Entry, Node, Path, Place, Segment, Value};
use crate::diagnostic::{Code, Diagnostic};
use crate::resource::SourceRef;

/// Misfits of one document after which reading stops.
const ENOUGH: usize = 50;

/// A document that was read, or why it was not.
#[derive(Debug, Clone)]
pub struct Read<T> {
    /// The value; only when nothing was wrong.
    pub value: Option<T>,
    /// Where the document begins.
    pub source: SourceRef,
    /// Everything that is wrong.
    pub diagnostics: Vec<Diagnostic>,
}

/// What was left out, so that later checks do not complain about its absence.
pub(crate) struct Rest<T> {
    /// The value without the faulty parts; `None` where nothing is left.
    pub partial: Option<T>,
    /// The way to each faulty part.
    pub faulty: Vec<Path>,
}

/// Reads a tree. The value is complete only if there are no diagnostics; [`Rest`] has what fits even then.
pub(crate) fn read<T: DeserializeOwned>(source: &Source, root: &Node) -> (Read<T>, Rest<T>) {
    let mut diagnostics = Vec::new();
    let mut faulty = Vec::new();
    let reference = source.reference(root.at);
    match T::deserialize(Reader { node: root }) {
        Ok(value) => {
            return (Read { value: Some(value), source: reference, diagnostics }, Rest { partial: None, faulty });
        }
        Err(misfit) => {
            let mut root = root.clone();
            let mut misfit = misfit;
            loop {
                let path = misfit.path();
                if !misfit.follows_from_another(&root, &path) {
                    diagnostics.push(misfit.diagnostic(source, &root, &path));
                }
                let removable = !path.0.is_empty() && diagnostics.len() < ENOUGH;
                match root.part_mut(&path.0).filter(|_| removable) {
                    Some(part) => part.value = Value::Faulty,
                    None => break,
                }
                faulty.push(path);
                match T::deserialize(Reader { node: &root }) {
                    Ok(value) => {
                        return (
                            Read { value: None, source: reference, diagnostics },
                            Rest { partial: Some(value), faulty },
                        );
                    }
                    Err(next) => misfit = next,
                }
            }
        }
    }
    (Read { value: None, source: reference, diagnostics }, Rest { partial: None, faulty })
}

/// The candidate that was probably meant, if any is near.
pub fn suggest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain =
        |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    let wanted = plain(written);
    candidates
        .into_iter()
        .filter(|_| wanted.len() <= 100)
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count().min(wanted.chars().count()) / 3).max(1))
        .map(|(_, candidate)| candidate)
}

// === impl Misfit ===

/// Why a tree does not fit a type.
#[derive(Debug)]
pub(crate) struct Misfit {
    what: What,
    /// Innermost first.
    steps: Vec<Segment>,
    /// Set by the innermost node that knows.
    at: Option<Place>,
}

#[derive(Debug)]
enum What {
    UnknownField { field: String, expected: &'static [&'static str] },
    UnknownVariant { variant: String, expected: &'static [&'static str] },
    Type { found: String, expected: String, kind: Found },
    Value { found: String, expected: String },
    Missing(&'static str),
    Other(String),
}

/// The found type, for advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Text,
    Scalar,
    Other,
}

impl Misfit {
    fn new(what: What) -> Self {
        Self { what, steps: Vec::new(), at: None }
    }

    fn at(mut self, place: Place) -> Self {
        self.at.get_or_insert(place);
        self
    }

    fn within(mut self, step: Segment) -> Self {
        self.steps.push(step);
        self
    }

    fn path(&self) -> Path {
        Path(self.steps.iter().rev().cloned().collect())
    }

    /// Whether a field is missing only because what was written there is faulty and was reported.
    fn follows_from_another(&self, root: &Node, path: &Path) -> bool {
        match self.what {
            What::Missing(field) => {
                root.part(&path.0).and_then(|node| node.get(field)).is_some_and(|node| node.value == Value::Faulty)
            }
            _ => false,
        }
    }

    fn diagnostic(self, source: &Source, root: &Node, path: &Path) -> Diagnostic {
        let at = self.at.unwrap_or_else(|| root.locate(&path.0).0);
        let (code, message, help) = match self.what {
            What::UnknownField { field, expected } => {
                let help = match suggest(&field, expected.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if expected.is_empty() => "no fields are allowed here".to_owned(),
                    None => {
                        format!("the fields here are {}; check the indentation if it belongs elsewhere", list(expected))
                    }
                };
                (Code::UnknownField, format!("there is no field {} here", quoted(&field)), Some(help))
            }
            What::UnknownVariant { variant, expected } => {
                let near = suggest(&variant, expected.iter().copied());
                let near = near.map_or(String::new(), |near| format!("did you mean `{near}`? "));
                (
                    Code::UnknownValue,
                    format!("{} is not a value of this field", quoted(&variant)),
                    Some(format!("{near}The values are {}", list(expected))),
                )
            }
            What::Type { found, expected, kind } => {
                let expected = in_words(&expected);
                let written = source.slice(at);
                let found = match kind {
                    // As it was written: 1.10 is another text than 1.1, and `on` another than `true`.
                    Found::Scalar if !written.is_empty() && found.starts_with("the number") => {
                        format!("the number {written}")
                    }
                    Found::Scalar if !written.is_empty() => format!("the truth value `{written}`"),
                    _ => found,
                };
                let help = match kind {
                    Found::Scalar if expected.contains("text") || expected.contains("duration") => {
                        if expected.contains("duration") {
                            Some(format!("add the unit, such as `{written}s`"))
                        } else {
                            (!written.is_empty()).then(|| format!("put it in quotes: \"{written}\""))
                        }
                    }
                    Found::Text if expected.contains("true or false") => {
                        Some("write `true` or `false`, without quotes".to_owned())
                    }
                    Found::Text if expected.contains("number") => Some("write a number, without quotes".to_owned()),
                    _ if expected == "a list" => Some("begin each item on a line of its own with `- `".to_owned()),
                    _ => None,
                };
                (Code::WrongType, format!("expected {expected}, found {found}"), help)
            }
            What::Value { found, expected } => {
                (Code::InvalidValue, format!("expected {}, found {found}", in_words(&expected)), None)
            }
            What::Missing(field) => {
                (Code::Missing, format!("the field `{field}` is missing"), Some(format!("add `{field}:`")))
            }
            What::Other(message) => (Code::InvalidValue, message, None),
        };
        let mut diagnostic = source.error(code, at, message);
        diagnostic.path = path.to_string();
        diagnostic.help = help;
        diagnostic
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Rust's names of types in the words of YAML.
fn in_words(expected: &str) -> String {
    match expected {
        "a string" | "string" | "str" | "a borrowed string" => "a text".to_owned(),
        "a boolean" | "bool" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number of at least 0".to_owned(),
        "i32" => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        "i64" | "i16" | "i8" | "isize" => "a whole number".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("internally tagged") => "a mapping".to_owned(),
        other if other.starts_with("enum ") || other == "string or map" => {
            "a text that is one of the field's values".to_owned()
        }
        other => other.to_owned(),
    }
}

fn found(unexpected: &de::Unexpected<'_>) -> (String, Found) {
    use de::Unexpected as U;
    match unexpected {
        U::Bool(value) => (format!("`{value}`"), Found::Scalar),
        U::Unsigned(value) => (format!("the number {value}"), Found::Scalar),
        U::Signed(value) => (format!("the number {value}"), Found::Scalar),
        U::Float(value) => (format!("the number {value}"), Found::Scalar),
        U::Str(text) => (format!("the text {}", quoted(text)), Found::Text),
        U::Unit | U::Option => ("nothing".to_owned(), Found::Other),
        U::Seq => ("a list".to_owned(), Found::Other),
        U::Map | U::StructVariant | U::NewtypeVariant => ("a mapping".to_owned(), Found::Other),
        other => (other.to_string(), Found::Other),
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Other(message.to_string()))
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let (found, kind) = found(&unexpected);
        Self::new(What::Type { found, expected: expected.to_string(), kind })
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(What::Value { found: found(&unexpected).0, expected: expected.to_string() })
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownVariant { variant: variant.to_owned(), expected })
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownField { field: field.to_owned(), expected })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing(field))
    }
}

// === impl Reader ===

#[derive(Clone, Copy)]
struct Reader<'n> {
    node: &'n Node,
}

impl<'n> Reader<'n> {
    fn list<'de, V: Visitor<'de>>(self, items: &'n [Node], visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_seq(ListReader { items: items.iter().enumerate() }).map_err(|misfit| misfit.at(self.node.at))
    }

    fn map<'de, V: Visitor<'de>>(
        self,
        entries: &'n [Entry],
        optional: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor
            .visit_map(MapReader { entries: entries.iter(), optional, value: None })
            .map_err(|misfit| misfit.at(self.node.at))
    }

    /// The number, where the text is one: proto3 JSON writes 64-bit numbers in quotes.
    fn quoted(self) -> Option<Value> {
        self.node.as_str().and_then(super::scalar::number)
    }

    fn visit<'de, V: Visitor<'de>>(self, value: &'n Value, visitor: V) -> Result<V::Value, Misfit> {
        match value {
            Value::Null | Value::Faulty => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::UInt(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) => visitor.visit_str(text),
            Value::List(items) => self.list(items, visitor),
            Value::Map(entries) => self.map(entries, &[], visitor),
        }
        .map_err(|misfit: Misfit| misfit.at(self.node.at))
    }

    fn whole<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        if let Value::Float(number) = self.node.value
            && number.fract() == 0.0
            && number.abs() < 9e15
        {
            return visitor.visit_i64(number as i64).map_err(|misfit: Misfit| misfit.at(self.node.at));
        }
        self.visit(&self.node.value, visitor)
    }

    fn wide<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.quoted() {
            Some(Value::UInt(number)) => visitor.visit_u64(number).map_err(|misfit: Misfit| misfit.at(self.node.at)),
            Some(Value::Int(number)) => visitor.visit_i64(number).map_err(|misfit: Misfit| misfit.at(self.node.at)),
            _ => self.whole(visitor),
        }
    }
}

macro_rules! forward {
    ($method:ident: $($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> { self.$method(visitor) })*
    };
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.visit(&self.node.value, visitor)
    }

    forward!(whole: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_u8 deserialize_u16 deserialize_u32);
    forward!(wide: deserialize_i64 deserialize_u64 deserialize_i128 deserialize_u128);

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.node.value {
            Value::Null | Value::Faulty => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self).map_err(|misfit: Misfit| misfit.at(self.node.at))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match &self.node.value {
            Value::Map(entries) => self.map(entries, fields, visitor),
            Value::Null => self.map(&[], fields, visitor),
            other => self.visit_not_list(other, visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match &self.node.value {
            Value::String(text) => visitor.visit_enum(IntoDeserializer::<Misfit>::into_deserializer(text.as_str())),
            Value::Map(entries) if entries.len() == 1 => {
                visitor.visit_enum(de::value::MapAccessDeserializer::new(MapReader {
                    entries: entries.iter(),
                    optional: &[],
                    value: None,
                }))
            }
            other => self.visit_not_list(other, visitor),
        }
        .map_err(|misfit: Misfit| misfit.at(self.node.at))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

impl Reader<'_> {
    /// Derived structs would also read themselves from a list, by position. Nobody means that in YAML.
    fn visit_not_list<'de, V: Visitor<'de>>(self, value: &Value, visitor: V) -> Result<V::Value, Misfit> {
        let misfit = match value {
            Value::List(_) => <Misfit as de::Error>::invalid_type(de::Unexpected::Seq, &visitor),
            Value::Bool(value) => <Misfit as de::Error>::invalid_type(de::Unexpected::Bool(*value), &visitor),
            Value::Int(value) => <Misfit as de::Error>::invalid_type(de::Unexpected::Signed(*value), &visitor),
            Value::UInt(value) => <Misfit as de::Error>::invalid_type(de::Unexpected::Unsigned(*value), &visitor),
            Value::Float(value) => <Misfit as de::Error>::invalid_type(de::Unexpected::Float(*value), &visitor),
            Value::String(text) => <Misfit as de::Error>::invalid_type(de::Unexpected::Str(text), &visitor),
            Value::Map(_) => <Misfit as de::Error>::invalid_type(de::Unexpected::Map, &visitor),
            Value::Null | Value::Faulty => <Misfit as de::Error>::invalid_type(de::Unexpected::Unit, &visitor),
        };
        Err(misfit.at(self.node.at))
    }
}

struct ListReader<'n> {
    items: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
}

impl<'de> de::SeqAccess<'de> for ListReader<'_> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        for (index, node) in self.items.by_ref() {
            if node.value != Value::Faulty {
                return seed
                    .deserialize(Reader { node })
                    .map(Some)
                    .map_err(|misfit| misfit.at(node.at).within(Segment::Index(index)));
            }
        }
        Ok(None)
    }
}

struct MapReader<'n> {
    entries: std::slice::Iter<'n, Entry>,
    /// Fields for which nothing is the same as absence.
    optional: &'static [&'static str],
    value: Option<&'n Entry>,
}

impl<'de> de::MapAccess<'de> for MapReader<'_> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        for entry in self.entries.by_ref() {
            let absent = match entry.node.value {
                Value::Faulty => true,
                Value::Null => self.optional.contains(&entry.key.as_str()),
                _ => false,
            };
            if absent {
                continue;
            }
            self.value = Some(entry);
            return seed
                .deserialize(IntoDeserializer::<Misfit>::into_deserializer(entry.key.as_str()))
                .map(Some)
                .map_err(|misfit| misfit.at(entry.at).within(Segment::Key(entry.key.clone())));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let Some(entry) = self.value.take() else {
            return Err(<Misfit as de::Error>::custom("a value was read before its key"));
        };
        seed.deserialize(Reader { node: &entry.node }).map_err(|misfit| {
            // A value that begins on a later line is pointed at by its key, which is what people look for.
            let place = if entry.node.at.line == entry.at.line { entry.node.at } else { entry.at };
            misfit.at(place).within(Segment::Key(entry.key.clone()))
        })
    }
}
