//! From the description of galley's types to CustomResourceDefinitions.

use serde_json::{Map, Value, json};

use crate::rules;
use crate::spec::Spec;

/// How often a rule may be asked, at the most, for one object.
const SUMS: u64 = 128;
const LOOKS: u64 = 65_536;

/// Go's and proto3's form of a duration.
const DURATION: &str = r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";

/// A kind as the API server has to know it.
pub struct Kind {
    pub name: &'static str,
    pub plural: &'static str,
    pub short: &'static [&'static str],
    /// Further columns of `kubectl get`: title and path.
    pub columns: &'static [(&'static str, &'static str)],
}

pub const KINDS: [Kind; 6] = [
    Kind {
        name: "VirtualService",
        plural: "virtualservices",
        short: &["vs"],
        columns: &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")],
    },
    Kind { name: "DestinationRule", plural: "destinationrules", short: &["dr"], columns: &[("Host", ".spec.host")] },
    Kind { name: "Gateway", plural: "gateways", short: &["gw"], columns: &[] },
    Kind {
        name: "ServiceEntry",
        plural: "serviceentries",
        short: &["se"],
        columns: &[("Hosts", ".spec.hosts"), ("Location", ".spec.location"), ("Resolution", ".spec.resolution")],
    },
    Kind { name: "WorkloadEntry", plural: "workloadentries", short: &["we"], columns: &[("Address", ".spec.address")] },
    Kind { name: "Sidecar", plural: "sidecars", short: &[], columns: &[] },
];

/// The definition of a kind.
pub fn definition(spec: &Spec, kind: &Kind) -> Value {
    let singular = kind.name.to_lowercase();
    let mut columns: Vec<Value> =
        kind.columns.iter().map(|(title, path)| json!({"name": title, "type": "string", "jsonPath": path})).collect();
    columns.push(json!({"name": "Accepted", "type": "string",
        "description": "Whether the control plane has taken it",
        "jsonPath": ".status.conditions[?(@.type==\"xebec.io/Accepted\")].status"}));
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    let mut schema = json!({
        "type": "object",
        "required": ["spec"],
        "properties": {"spec": message(spec, kind.name), "status": status()},
    });
    affordable(&mut schema, 1);
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage,
            "subresources": {"status": {}},
            "additionalPrinterColumns": columns,
            "schema": {"openAPIV3Schema": schema},
        })
    };
    let mut names = json!({"kind": kind.name, "listKind": format!("{}List", kind.name), "plural": kind.plural,
        "singular": singular, "categories": ["istio-io", "networking-istio-io"]});
    if !kind.short.is_empty() {
        names["shortNames"] = json!(kind.short);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.networking.istio.io", kind.plural),
            "labels": {"app.kubernetes.io/part-of": "xebec"},
        },
        "spec": {
            "group": "networking.istio.io",
            "names": names,
            "scope": "Namespaced",
            "versions": [version("v1", true), version("v1beta1", false), version("v1alpha3", false)],
        },
    })
}

/// Conditions, and whatever other controllers write there.
fn status() -> Value {
    let text = |length: u32| json!({"type": "string", "maxLength": length});
    json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status"],
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "type": text(316),
                        "status": text(32),
                        "reason": text(1024),
                        "message": text(32768),
                        "observedGeneration": {"type": "integer", "format": "int64"},
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                    },
                },
            },
        },
    })
}

fn message(spec: &Spec, name: &str) -> Value {
    let message = spec.messages.get(name).unwrap_or_else(|| panic!("no message {name}"));
    let mut properties = Map::new();
    for field in &message.fields {
        let mut schema = value(spec, &field.of);
        if let (Some(limits), Some(Value::Object(items))) = (rules::item(name, &field.name), schema.get_mut("items")) {
            extend(items, limits);
        }
        if let Value::Object(schema) = &mut schema {
            extend(schema, rules::field(name, &field.name).unwrap_or_else(|| json!({})));
            schema.insert("description".to_owned(), field.docs.clone().into());
        }
        properties.insert(field.name.clone(), schema);
    }
    let mut schema = json!({"type": "object", "description": message.docs, "properties": properties});
    let required = rules::required(name);
    for field in required {
        assert!(schema["properties"].get(field).is_some(), "{name} has no {field}");
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let rules: Vec<Value> =
        rules::rules(name).into_iter().map(|(rule, text)| json!({"rule": rule, "message": text})).collect();
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = rules.into();
    }
    schema
}

/// Takes away the rules that could be asked too often: the server refuses a definition whose rules, each as often as the longest lists
/// around it allow, cost too much. Galley's own check is what is left there.
fn affordable(schema: &mut Value, times: u64) {
    let Value::Object(fields) = schema else { return };
    if let Some(Value::Array(rules)) = fields.get_mut("x-kubernetes-validations") {
        rules.retain(|rule| {
            // A sum walks a map, and everything else looks at a few fields.
            let walks = rule["rule"].as_str().is_some_and(|rule| rule.contains(".sum()"));
            times <= if walks { SUMS } else { LOOKS }
        });
        if rules.is_empty() {
            fields.remove("x-kubernetes-validations");
        }
    }
    let longest = fields.get("maxItems").and_then(Value::as_u64).unwrap_or(1);
    if let Some(items) = fields.get_mut("items") {
        affordable(items, times.saturating_mul(longest));
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(|property| affordable(property, times));
    }
}

fn value(spec: &Spec, of: &str) -> Value {
    let inner = |start: &str| of.strip_prefix(start).and_then(|rest| rest.strip_suffix('>'));
    if let Some(inner) = inner("Option<") {
        return value(spec, inner);
    }
    if let Some(inner) = inner("Vec<") {
        return json!({"type": "array", "items": value(spec, inner)});
    }
    if let Some(inner) = inner("BTreeMap<String, ") {
        return json!({"type": "object", "additionalProperties": value(spec, inner)});
    }
    match of {
        "String" => json!({"type": "string"}),
        "bool" => json!({"type": "boolean"}),
        "f64" => json!({"type": "number", "format": "double"}),
        "i32" => json!({"type": "integer", "format": "int32"}),
        // Every 16-bit number of the API is a port.
        "u16" => json!({"type": "integer", "minimum": 1, "maximum": 65535}),
        "u32" => json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX}),
        "u64" => json!({"type": "integer", "format": "int64", "minimum": 0}),
        "LabelMap" => json!({"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}),
        "Duration" => json!({"type": "string", "maxLength": 64, "pattern": DURATION}),
        "Percent" => {
            json!({"type": "object", "properties": {"value": {"type": "number", "format": "double", "minimum": 0, "maximum": 100}}})
        }
        "StringMatch" => json!({"type": "object", "maxProperties": 1, "properties": {
            "exact": {"type": "string"}, "prefix": {"type": "string"}, "regex": {"type": "string"}}}),
        "HttpBody" => json!({"type": "object", "maxProperties": 1, "properties": {
            "string": {"type": "string"}, "bytes": {"type": "string", "format": "byte"}}}),
        name if spec.choices.contains_key(name) => json!({"type": "string", "enum": spec.choices[name].values}),
        name => message(spec, name),
    }
}

fn extend(schema: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        schema.extend(more);
    }
}
