//! Proto3 JSON of every type, both ways, `Any` included.
//!
//! Field names are written as in the `.proto` files (`load_assignment`), which is what Envoy's own dumps use; both forms
//! are read. Enums are written by name, 64-bit integers as strings, durations as `"1.5s"`, boxed scalars bare. Map entries
//! are sorted by key, so equal messages give equal text.
//!
//! An `Any` whose type is not known, or whose bytes do not decode, NEVER fails the message that it is in: it becomes
//! `{"@type": URL, "value": BASE64}`. Unknown types are read back from the same form.
//!
//! The descriptors of all 1,604 messages are decoded on first use, which takes 0.18 s in an unoptimized build on one busy
//! core (`cargo test -p xebec-proto time_of -- --ignored --nocapture`). Nothing on a request's path needs them. Call [`pool`]
//! on a thread of its own at start where that first wait would be in the way.

mod read;
mod write;

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::Value;

use crate::google::protobuf::Any;
use crate::type_url;

/// Why a conversion failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JsonError {
    /// The type is not part of Envoy's API as it is compiled in.
    #[error("unknown type {name:?}: not part of the Envoy API that this program was built with")]
    UnknownType {
        /// The full name that was asked for.
        name: String,
    },
    /// The bytes are not such a message.
    #[error("the bytes of a {type_name} do not decode: {source}")]
    Malformed {
        /// The full name of the type.
        type_name: String,
        /// What the decoder says.
        source: prost::DecodeError,
    },
    /// The JSON does not fit the type.
    #[error("{}{what}", at(path))]
    Invalid {
        /// The field, for example `filter_chains[0].filters[1].name`; empty for the whole value.
        path: String,
        /// What is wrong with it.
        what: String,
    },
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

/// The descriptors of every message of [`crate::pb`]. Decoded on the first call.
pub fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
        // The bytes are part of the program and do not depend on input; a test decodes them.
        #[allow(clippy::expect_used)]
        DescriptorPool::decode(bytes).expect("the descriptors that are compiled in decode")
    });
    &POOL
}

/// The JSON of `message`.
///
/// # Errors
/// [`JsonError::UnknownType`] when `M` is not a type of this crate; [`JsonError::Invalid`] when it holds what JSON
/// cannot say, such as a duration out of range.
pub fn encode<M: Message + Name>(message: &M) -> Result<Value, JsonError> {
    encode_bytes(&M::full_name(), &message.encode_to_vec())
}

/// The JSON of an encoded message. `type_name` is its full name or its type URL.
///
/// # Errors
/// As [`encode`], and [`JsonError::Malformed`] when the bytes are not such a message.
pub fn encode_bytes(type_name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let message = dynamic(descriptor(type_name)?, bytes)?;
    write::message(&message, 0)
}

/// The JSON of an `Any`: the message's own, with `@type` first. Never fails on what is inside; see the module's text.
///
/// # Errors
/// None today; fallible like its siblings.
pub fn encode_any(any: &Any) -> Result<Value, JsonError> {
    Ok(write::any(&any.type_url, &any.value, 0))
}

/// Reads an `M` from JSON. Strict: a field that `M` does not have is an error.
///
/// # Errors
/// [`JsonError::Invalid`] with the path of what does not fit.
pub fn decode<M: Message + Name + Default>(json: Value) -> Result<M, JsonError> {
    let type_name = M::full_name();
    let bytes = decode_bytes(&type_name, json)?;
    M::decode(bytes.as_slice()).map_err(|source| JsonError::Malformed { type_name, source })
}

/// Reads an encoded message from JSON. `type_name` is its full name or its type URL.
///
/// # Errors
/// As [`decode`], and [`JsonError::UnknownType`].
pub fn decode_bytes(type_name: &str, json: Value) -> Result<Vec<u8>, JsonError> {
    let descriptor = descriptor(type_name)?;
    let mut bytes = read::message(&descriptor, json, &mut read::Path::default())?.encode_to_vec();
    crate::stable::sort_maps(descriptor.full_name(), &mut bytes);
    Ok(bytes)
}

/// Reads an `Any` from JSON that has `@type`.
///
/// # Errors
/// As [`decode`]. A type that is not known must have the form `{"@type": URL, "value": BASE64}`.
pub fn decode_any(json: Value) -> Result<Any, JsonError> {
    let (type_url, value) = read::any(json, &mut read::Path::default())?;
    Ok(Any { type_url, value })
}

fn descriptor(type_name: &str) -> Result<MessageDescriptor, JsonError> {
    let name = type_url::name_of(type_name);
    pool().get_message_by_name(name).ok_or_else(|| JsonError::UnknownType { name: name.to_owned() })
}

fn dynamic(descriptor: MessageDescriptor, bytes: &[u8]) -> Result<DynamicMessage, JsonError> {
    let type_name = descriptor.full_name().to_owned();
    DynamicMessage::decode(descriptor, bytes).map_err(|source| JsonError::Malformed { type_name, source })
}

/// `Any` within `Any` deeper than this is not looked into.
const MAX_DEPTH: usize = 64;

/// The types whose JSON is not an object of their fields, apart from `Any`.
fn has_own_form(full_name: &str) -> bool {
    full_name.strip_prefix("google.protobuf.").is_some_and(|name| {
        matches!(
            name,
            "Timestamp"
                | "Duration"
                | "FieldMask"
                | "Empty"
                | "Struct"
                | "Value"
                | "ListValue"
                | "BoolValue"
                | "StringValue"
                | "BytesValue"
                | "FloatValue"
                | "DoubleValue"
                | "Int32Value"
                | "Int64Value"
                | "UInt32Value"
                | "UInt64Value"
        )
    })
}

const ANY: &str = "google.protobuf.Any";

#[cfg(test)]
mod tests;
