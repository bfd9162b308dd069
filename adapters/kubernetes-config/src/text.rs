//! Objects of the server as documents for galley.
//!
//! What the server alone writes is left out: status, managed fields, versions. What is left is what a person wrote, so that a
//! diagnostic shows lines that a person knows, and a change of the status is no change of the document.

use std::fmt::Write as _;

use kube::core::DynamicObject;
use serde_json::{Map, Value};
use xebec_galley::Diagnostic;

/// The annotation in which kubectl repeats the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What galley reads of `metadata`.
const METADATA: [&str; 6] = ["name", "generateName", "namespace", "labels", "annotations", "creationTimestamp"];

/// An object from a watch as a YAML document.
pub(crate) fn of_object(object: &DynamicObject, api_version: &str, kind: &str) -> String {
    let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
    let mut document = Map::new();
    document.insert("apiVersion".to_owned(), api_version.into());
    document.insert("kind".to_owned(), kind.into());
    document.insert("metadata".to_owned(), metadata);
    if let Value::Object(data) = &object.data {
        document.extend(data.iter().filter(|(key, _)| *key != "status").map(|(k, v)| (k.clone(), v.clone())));
    }
    of_json(Value::Object(document))
}

/// An object as the server wrote it as a YAML document.
pub(crate) fn of_json(mut document: Value) -> String {
    if let Value::Object(fields) = &mut document {
        fields.shift_remove("status");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|key, value| METADATA.contains(&key.as_str()) && !value.is_null());
            let mut empty = false;
            if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
                annotations.shift_remove(LAST_APPLIED);
                empty = annotations.is_empty();
            }
            if empty {
                metadata.shift_remove("annotations");
            }
        }
    }
    let mut text = String::new();
    write_value(&document, 0, &mut text);
    text
}

/// A diagnostic as one sentence, with its field and advice.
pub(crate) fn sentence(diagnostic: &Diagnostic) -> String {
    let mut text = String::new();
    if !diagnostic.path.is_empty() {
        let _ = write!(text, "{}: ", diagnostic.path);
    }
    text.push_str(&diagnostic.message);
    if let Some(help) = diagnostic.help.as_deref().filter(|help| !help.is_empty()) {
        let _ = write!(text, " ({help})");
    }
    text
}

/// A value in block style. Texts that could be read as something else are quoted as in JSON, which YAML contains.
fn write_value(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (key, value)) in fields.iter().enumerate() {
                if index > 0 {
                    pad(indent, text);
                }
                write_text(key, text);
                text.push(':');
                write_below(value, indent + 2, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    pad(indent, text);
                }
                text.push_str("- ");
                write_value(item, indent + 2, text);
            }
        }
        Value::Object(_) => text.push_str("{}\n"),
        Value::Array(_) => text.push_str("[]\n"),
        Value::String(string) => {
            write_text(string, text);
            text.push('\n');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            let _ = writeln!(text, "{value}");
        }
    }
}

fn write_below(value: &Value, indent: usize, text: &mut String) {
    let nested = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        text.push('\n');
        pad(indent, text);
    } else {
        text.push(' ');
    }
    write_value(value, indent, text);
}

fn pad(indent: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', indent));
}

fn write_text(string: &str, text: &mut String) {
    if is_plain(string) {
        text.push_str(string);
    } else {
        // The JSON form of a string is always a valid double-quoted scalar.
        text.push_str(&Value::from(string).to_string());
    }
}

/// Whether a text is read as itself without quotes, by every version of YAML.
fn is_plain(string: &str) -> bool {
    const WORDS: [&str; 10] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan"];
    let first = string.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
    let rest = string.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
    first && rest && !WORDS.iter().any(|word| string.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_read_back_as_it_was_whatever_its_texts_look_like() {
        let document = json!({
            "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"},
            "spec": {"texts": ["", "yes", "0x10", "1e3", "~", "- a", "a: b", "a #b", "line\nline", "\u{85}\u{2028}\"\\", "é", "null", "*", "&a", "2026-01-01", "a b"],
                     "": {"deep": [[], {}, [[1, -2.5], {"a": null, "b": true}]]}, "on": 1}
        });
        let text = of_json(document.clone());
        let mut read = xebec_galley::yaml::parse_documents::<Value>("t", text.as_bytes());
        let read = read.remove(0);
        assert_eq!(read.value.as_ref(), Some(&document), "{text}\n{:?}", read.diagnostics);
    }

    #[test]
    fn what_the_server_writes_is_left_out_and_what_decides_age_is_kept() {
        let text = of_json(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": "rules", "namespace": "a", "uid": "u", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-01-31T12:00:00Z", "managedFields": [{}],
                "annotations": {LAST_APPLIED: "{}"}},
            "spec": {}, "status": {"conditions": []}
        }));
        assert_eq!(
            text,
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata:\n  name: rules\n  namespace: a\n  creationTimestamp: \"2026-01-31T12:00:00Z\"\nspec: {}\n"
        );
    }
}
