//! What Consul answers, as far as it is read. Lists and maps that Consul writes as `null` are empty.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// `/v1/catalog/services`: every name, with the tags of all its instances.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Names(#[serde(deserialize_with = "nullable")] pub(crate) BTreeMap<String, Tags>);

/// `/v1/catalog/services` without the tags, which take the room of all instances together.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Untagged(#[serde(deserialize_with = "nullable")] BTreeMap<String, IgnoredAny>);

#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Tags(#[serde(deserialize_with = "nullable")] pub(crate) Vec<String>);

/// One row of `/v1/health/service/NAME`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Row {
    pub(crate) node: Node,
    pub(crate) service: Instance,
    #[serde(deserialize_with = "nullable")]
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Node {
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) datacenter: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) tagged_addresses: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) locality: Option<Locality>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Instance {
    pub(crate) kind: String,
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) tags: Vec<String>,
    pub(crate) address: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) tagged_addresses: BTreeMap<String, TaggedAddress>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) port: i64,
    #[serde(deserialize_with = "nullable")]
    pub(crate) ports: Vec<NamedPort>,
    pub(crate) weights: Option<Weights>,
    pub(crate) socket_path: String,
    pub(crate) locality: Option<Locality>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaggedAddress {
    pub(crate) address: String,
    pub(crate) port: i64,
}

/// Since Consul 1.22, an instance may have several ports.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) port: i64,
    pub(crate) default: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Weights {
    pub(crate) passing: f64,
    pub(crate) warning: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Locality {
    pub(crate) region: String,
    pub(crate) zone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Check {
    #[serde(rename = "CheckID")]
    pub(crate) id: String,
    pub(crate) status: String,
}

/// One row of `/v1/kv/PREFIX?recurse`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Pair {
    pub(crate) key: String,
    /// Base64, or `null` for an empty value.
    pub(crate) value: Option<String>,
    #[serde(default)]
    pub(crate) modify_index: u64,
}

// === impl Untagged ===

impl From<Untagged> for Names {
    fn from(untagged: Untagged) -> Self {
        Self(untagged.0.into_keys().map(|name| (name, Tags::default())).collect())
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1.0, warning: 1.0 }
    }
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
