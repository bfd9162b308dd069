//! JSON to messages.
//!
//! Scalars and the well-known types are left to the reflection library, one field at a time: that is what gives every
//! error its path. Messages and `Any` are walked here, so that unknown types can be read back.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use prost::bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Dynamic};
use serde_json::{Map, Value};

use super::{ANY, JsonError, MAX_DEPTH, has_own_form, pool};
use crate::type_url;

/// Deeper JSON is refused: messages nest less, and the stack is finite.
const MAX_NESTING: usize = 100;

/// Where in the value we are.
#[derive(Default)]
pub(super) struct Path {
    parts: Vec<String>,
    /// How many `Any` we are within.
    anys: usize,
}

pub(super) fn message(of: &MessageDescriptor, json: Value, path: &mut Path) -> Result<DynamicMessage, JsonError> {
    if path.parts.len() > MAX_NESTING {
        return Err(path.error("nested too deeply"));
    }
    if of.full_name() == ANY {
        let (url, bytes) = any(json, path)?;
        let mut message = DynamicMessage::new(of.clone());
        message.set_field_by_number(1, Dynamic::String(url));
        message.set_field_by_number(2, Dynamic::Bytes(Bytes::from(bytes)));
        return Ok(message);
    }
    if has_own_form(of.full_name()) {
        return DynamicMessage::deserialize(of.clone(), json).map_err(|error| path.error(error));
    }
    match json {
        Value::Object(object) => fields(of, object, path),
        other => Err(path.error(format!("expected an object ({}), found {}", of.full_name(), kind_of(&other)))),
    }
}

/// The URL and the bytes of an `Any`.
pub(super) fn any(json: Value, path: &mut Path) -> Result<(String, Vec<u8>), JsonError> {
    let Value::Object(mut object) = json else {
        return Err(path.error(format!("expected an object with \"@type\", found {}", kind_of(&json))));
    };
    let url = match object.shift_remove("@type") {
        Some(Value::String(url)) => url,
        Some(_) => return Err(path.error("\"@type\" must be a string")),
        None if object.is_empty() => return Ok((String::new(), Vec::new())),
        None => return Err(path.error("an Any needs \"@type\", the URL of its type")),
    };
    let name = type_url::name_of(&url);
    let Some(of) = pool().get_message_by_name(name).filter(|_| path.anys < MAX_DEPTH) else {
        let bytes = match (object.len(), object.get("value")) {
            (1, Some(Value::String(text))) => STANDARD.decode(text).ok(),
            _ => None,
        };
        return bytes.map(|bytes| (url.clone(), bytes)).ok_or_else(|| {
            path.error(format!("type {name:?} is unknown here, so its \"value\" must be the encoded message in base64"))
        });
    };
    path.anys += 1;
    let inner = if has_own_form(name) || name == ANY {
        let value = object
            .shift_remove("value")
            .unwrap_or_else(|| if name.ends_with(".Empty") { Map::new().into() } else { Value::Null });
        if let Some(key) = object.keys().next() {
            return Err(path.error(format!("{name} has no field {key:?}; its JSON goes into \"value\"")));
        }
        message(&of, value, path)?
    } else {
        fields(&of, object, path)?
    };
    path.anys -= 1;
    let mut bytes = inner.encode_to_vec();
    crate::stable::sort_maps(name, &mut bytes);
    Ok((url, bytes))
}

fn fields(of: &MessageDescriptor, object: Map<String, Value>, path: &mut Path) -> Result<DynamicMessage, JsonError> {
    let mut message = DynamicMessage::new(of.clone());
    let mut seen = HashSet::new();
    let mut chosen: HashMap<String, String> = HashMap::new();
    for (key, value) in object {
        let Some(field) = of.get_field_by_name(&key).or_else(|| of.get_field_by_json_name(&key)) else {
            return Err(path.error(format!("{} has no field {key:?}", of.full_name())));
        };
        path.parts.push(field.name().to_owned());
        if !seen.insert(field.number()) {
            return Err(path.error("given twice"));
        }
        if !value.is_null() || takes_null(&field) {
            if let Some(oneof) = field.containing_oneof()
                && let Some(other) = chosen.insert(oneof.full_name().to_owned(), field.name().to_owned())
            {
                return Err(path.error(format!("only one of this and {other:?} may be set")));
            }
            let value = of_field(of, &field, &key, value, path)?;
            message.try_set_field(&field, value).map_err(|error| path.error(error))?;
        }
        path.parts.pop();
    }
    Ok(message)
}

fn of_field(
    of: &MessageDescriptor,
    field: &FieldDescriptor,
    key: &str,
    value: Value,
    path: &mut Path,
) -> Result<Dynamic, JsonError> {
    let Kind::Message(inner) = field.kind() else { return scalar(of, key, value, path) };
    if field.is_map() {
        let Kind::Message(target) = inner.map_entry_value_field().kind() else { return scalar(of, key, value, path) };
        let Value::Object(entries) = value else {
            return Err(path.error(format!("expected an object, found {}", kind_of(&value))));
        };
        let mut map = HashMap::with_capacity(entries.len());
        for (name, value) in entries {
            path.parts.push(format!("[{name:?}]"));
            let map_key = map_key(&inner.map_entry_key_field().kind(), &name)
                .ok_or_else(|| path.error("the key is not of the map's key type"))?;
            map.insert(map_key, Dynamic::Message(message(&target, value, path)?));
            path.parts.pop();
        }
        return Ok(Dynamic::Map(map));
    }
    if field.is_list() {
        let Value::Array(values) = value else {
            return Err(path.error(format!("expected a list, found {}", kind_of(&value))));
        };
        let mut list = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            path.parts.push(format!("[{index}]"));
            list.push(Dynamic::Message(message(&inner, value, path)?));
            path.parts.pop();
        }
        return Ok(Dynamic::List(list));
    }
    message(&inner, value, path).map(Dynamic::Message)
}

/// Reads one field that holds no messages, by reading a message that has this field only.
fn scalar(of: &MessageDescriptor, key: &str, value: Value, path: &Path) -> Result<Dynamic, JsonError> {
    let object = Value::Object(Map::from_iter([(key.to_owned(), value)]));
    let mut message = DynamicMessage::deserialize(of.clone(), object).map_err(|error| path.error(error))?;
    let field = of.get_field_by_name(key).or_else(|| of.get_field_by_json_name(key));
    let field = field.ok_or_else(|| path.error("no such field"))?;
    // Absent: it was the default value of a field that does not tell default from absent.
    Ok(message.take_field(&field).unwrap_or_else(|| Dynamic::default_value_for_field(&field)))
}

fn map_key(kind: &Kind, text: &str) -> Option<MapKey> {
    Some(match kind {
        Kind::String => MapKey::String(text.to_owned()),
        Kind::Bool => MapKey::Bool(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(text.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(text.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(text.parse().ok()?),
        _ => return None,
    })
}

/// Whether null is a value of the field, rather than its absence.
fn takes_null(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(of) => of.full_name() == "google.protobuf.Value" && !field.is_list(),
        Kind::Enum(of) => of.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

// === impl Path ===

impl Path {
    fn error(&self, what: impl ToString) -> JsonError {
        let mut path = String::new();
        for part in &self.parts {
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        JsonError::Invalid { path, what: what.to_string() }
    }
}
