//! Messages to JSON.
//!
//! The well-known types are left to the reflection library. Everything else is walked here, because an `Any` of an
//! unknown type would make the library fail as a whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::bytes::Bytes;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, SerializeOptions, Value as Dynamic,
};
use serde_json::{Map, Number, Value};

use super::{ANY, JsonError, MAX_DEPTH, descriptor, dynamic, has_own_form};

pub(super) fn message(message: &DynamicMessage, depth: usize) -> Result<Value, JsonError> {
    let descriptor = message.descriptor();
    if descriptor.full_name() == ANY {
        let text = message.get_field_by_number(1);
        let bytes = message.get_field_by_number(2);
        let type_url = text.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
        let value = bytes.as_ref().and_then(|value| value.as_bytes()).map(Bytes::as_ref).unwrap_or_default();
        return Ok(any(type_url, value, depth));
    }
    if has_own_form(descriptor.full_name()) {
        return own_form(message);
    }
    fields(message, depth).map(Value::Object)
}

fn own_form(message: &DynamicMessage) -> Result<Value, JsonError> {
    let descriptor = message.descriptor();
    if descriptor.name() == "FloatValue"
        && let Some(value) = message.get_field_by_number(1)
    {
        return single(&Kind::Float, &value, 0);
    }
    let value = message
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .map_err(|error| JsonError::Invalid { path: String::new(), what: error.to_string() })?;
    Ok(if matches!(descriptor.name(), "Struct" | "Value" | "ListValue") { whole_numbers(value) } else { value })
}

/// Writes 1, not 1.0: a `Struct` has doubles only, but people write integers into it.
fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Number(number), crate::structs::number),
        Value::Array(values) => values.into_iter().map(whole_numbers).collect(),
        Value::Object(object) => object.into_iter().map(|(key, value)| (key, whole_numbers(value))).collect(),
        other => other,
    }
}

/// Never fails: what cannot be looked into is written as base64.
pub(super) fn any(type_url: &str, bytes: &[u8], depth: usize) -> Value {
    let mut object = Map::new();
    if type_url.is_empty() && bytes.is_empty() {
        return Value::Object(object);
    }
    object.insert("@type".into(), type_url.into());
    match inside(type_url, bytes, depth) {
        Some((true, value)) => {
            object.insert("value".into(), value);
        }
        Some((false, Value::Object(fields))) => object.extend(fields),
        _ => {
            object.insert("value".into(), STANDARD.encode(bytes).into());
        }
    }
    Value::Object(object)
}

/// What is in an `Any`, and whether that has a form of its own.
fn inside(type_url: &str, bytes: &[u8], depth: usize) -> Option<(bool, Value)> {
    if depth >= MAX_DEPTH {
        return None;
    }
    let message = dynamic(descriptor(type_url).ok()?, bytes).ok()?;
    let name = message.descriptor().full_name().to_owned();
    let value = self::message(&message, depth + 1).ok()?;
    Some((name == ANY || has_own_form(&name), value))
}

fn fields(message: &DynamicMessage, depth: usize) -> Result<Map<String, Value>, JsonError> {
    let mut object = Map::new();
    for (field, value) in message.fields() {
        object.insert(field.name().to_owned(), of_field(&field, value, depth).map_err(|e| e.within(field.name()))?);
    }
    Ok(object)
}

fn of_field(field: &FieldDescriptor, value: &Dynamic, depth: usize) -> Result<Value, JsonError> {
    match value {
        Dynamic::List(values) => {
            let kind = field.kind();
            let each = values.iter().enumerate();
            each.map(|(i, value)| single(&kind, value, depth).map_err(|e| e.within(&format!("[{i}]")))).collect()
        }
        Dynamic::Map(entries) => {
            let Kind::Message(entry) = field.kind() else { return Ok(Value::Null) };
            let kind = entry.map_entry_value_field().kind();
            let mut entries: Vec<(String, &Dynamic)> =
                entries.iter().map(|(key, value)| (key_text(key), value)).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let each = entries.into_iter();
            each.map(|(key, value)| {
                let value = single(&kind, value, depth).map_err(|e| e.within(&format!("[{key:?}]")))?;
                Ok((key, value))
            })
            .collect::<Result<Map<_, _>, _>>()
            .map(Value::Object)
        }
        value => single(&field.kind(), value, depth),
    }
}

fn single(kind: &Kind, value: &Dynamic, depth: usize) -> Result<Value, JsonError> {
    Ok(match value {
        Dynamic::Bool(value) => (*value).into(),
        Dynamic::I32(value) => (*value).into(),
        Dynamic::U32(value) => (*value).into(),
        Dynamic::I64(value) => value.to_string().into(),
        Dynamic::U64(value) => value.to_string().into(),
        Dynamic::F32(value) => shortest(*value),
        Dynamic::F64(value) => double(*value),
        Dynamic::String(value) => value.as_str().into(),
        Dynamic::Bytes(value) => STANDARD.encode(value).into(),
        Dynamic::EnumNumber(number) => match kind {
            Kind::Enum(of) if of.full_name() == "google.protobuf.NullValue" => Value::Null,
            Kind::Enum(of) => of.get_value(*number).map_or_else(|| (*number).into(), |value| value.name().into()),
            _ => (*number).into(),
        },
        Dynamic::Message(message) => self::message(message, depth)?,
        Dynamic::List(_) | Dynamic::Map(_) => Value::Null,
    })
}

/// A float as the shortest decimal that reads back as the same float: 0.1, not 0.10000000149011612.
fn shortest(value: f32) -> Value {
    if value.is_finite() {
        double(value.to_string().parse().unwrap_or_else(|_| f64::from(value)))
    } else {
        double(value.into())
    }
}

fn double(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(_) => crate::structs::number(value),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

// === impl JsonError ===

impl JsonError {
    /// Puts a field's name or an index before the path.
    pub(super) fn within(self, outer: &str) -> Self {
        match self {
            Self::Invalid { path, what } => {
                let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                Self::Invalid { path: format!("{outer}{dot}{path}"), what }
            }
            other => other,
        }
    }
}
