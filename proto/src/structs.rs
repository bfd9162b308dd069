//! `google.protobuf.Struct` to JSON and back: Envoy carries free-form metadata in it.
//!
//! A `Struct` has only one kind of number, the double: integers beyond 2^53 lose precision, as they do in every
//! implementation of it.

use serde_json::{Map, Number, Value as Json};

use crate::google::protobuf::value::Kind;
use crate::google::protobuf::{ListValue, Struct, Value};

/// Makes a `Struct` of a JSON object.
pub fn from_json_object(object: &Map<String, Json>) -> Struct {
    Struct { fields: object.iter().map(|(key, value)| (key.clone(), from_json(value))).collect() }
}

/// Makes a `Value` of any JSON value.
pub fn from_json(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => Kind::StringValue(value.clone()),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(from_json).collect() }),
        Json::Object(object) => Kind::StructValue(from_json_object(object)),
    };
    Value { kind: Some(kind) }
}

/// Makes a JSON object of a `Struct`, keys in alphabetical order.
pub fn to_json_object(structure: &Struct) -> Map<String, Json> {
    let mut fields: Vec<_> = structure.fields.iter().collect();
    fields.sort_by_key(|(key, _)| *key);
    fields.into_iter().map(|(key, value)| (key.clone(), to_json(value))).collect()
}

/// Makes JSON of a `Value`. Whole numbers become JSON integers; NaN and the infinities, which JSON lacks, become null.
pub fn to_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(*value),
        Some(Kind::NumberValue(value)) => number(*value),
        Some(Kind::StringValue(value)) => Json::String(value.clone()),
        Some(Kind::ListValue(list)) => Json::Array(list.values.iter().map(to_json).collect()),
        Some(Kind::StructValue(structure)) => Json::Object(to_json_object(structure)),
    }
}

/// The largest integer up to which a double holds every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(crate) fn number(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() <= EXACT && !(value == 0.0 && value.is_sign_negative()) {
        // Checked above: it is whole and fits.
        Json::Number(Number::from(value as i64))
    } else {
        Number::from_f64(value).map_or(Json::Null, Json::Number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn json_survives_both_ways() {
        let json = json!({"a": null, "b": [true, 1, -2.5, "x"], "c": {"d": {}}, "e": []});
        assert_eq!(to_json(&from_json(&json)), json);
    }

    #[test]
    fn numbers_that_json_lacks_become_null() {
        for value in [f64::NAN, f64::INFINITY] {
            assert_eq!(to_json(&Value { kind: Some(Kind::NumberValue(value)) }), Json::Null);
        }
    }

    #[test]
    fn keys_come_out_in_alphabetical_order() {
        let object = json!({"b": 1, "a": 2, "c": 3});
        let keys: Vec<_> = to_json_object(&from_json_object(object.as_object().unwrap())).keys().cloned().collect();
        assert_eq!(keys, ["a", "b", "c"]);
    }
}
