//! The file's format, as an operator writes it. Strict: a key that is not here is an error.
//!
//! [`schema`] is the same format as JSON Schema, for editors.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// A registry file: the services that exist and where their instances listen.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistryFile {
    /// All services of this file. A service is written in one place: a host may appear once per namespace.
    #[serde(default)]
    pub services: Vec<ServiceEntry>,
}

/// One service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServiceEntry {
    /// The name that clients use, exactly as written here: `reviews`, or `reviews.default.svc.cluster.local`.
    pub host: String,
    /// The namespace that owns it. `default` when absent.
    pub namespace: Option<String>,
    /// Virtual addresses that clients may dial: single addresses or networks.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// How instances are found. `static` when absent.
    #[serde(default)]
    pub resolution: ResolutionEntry,
    /// Outside of the mesh: it has no mesh identity.
    #[serde(default)]
    pub external: bool,
    /// Labels of the service itself.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its ports; at least one.
    pub ports: Vec<PortEntry>,
    /// Its instances. None is fine: the service exists, and calls to it fail.
    #[serde(default)]
    pub instances: Vec<InstanceEntry>,
}

/// How a service's instances are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResolutionEntry {
    /// The instances' addresses are IP addresses.
    #[default]
    Static,
    /// The instances' addresses are DNS names; every address that DNS answers takes traffic.
    Dns,
    /// As `dns`, but one address at a time is used for new connections.
    DnsRoundRobin,
    /// Traffic goes to the address that the caller dialled. There are no instances.
    Passthrough,
}

/// One port of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PortEntry {
    /// Unique within the service; instances refer to it.
    pub name: String,
    /// The port that clients dial.
    #[schemars(range(min = 1))]
    pub number: u16,
    /// `http`, `http2`, `grpc`, `grpc-web`, `https`, `tls`, `tcp`, `mongo`, `redis`, `mysql` or `udp`. When absent, the part of
    /// the port's name before its first dash counts (`http-admin`), and if that is none of them, the proxy looks at the first bytes.
    pub protocol: Option<String>,
}

/// One instance of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct InstanceEntry {
    /// An IP address, `unix:///path`, or a DNS name where the service's resolution is by DNS.
    pub address: String,
    /// The workload's name, as its proxy names itself (`--name`).
    pub name: Option<String>,
    /// Its own ports, by the service port's name. A port that is missing has the service's number.
    #[serde(default)]
    pub ports: BTreeMap<String, u16>,
    /// Where the application itself listens, by the service port's name, when its proxy does not intercept: the proxy then
    /// listens on the instance's address and port, and forwards to this one. `HOST:PORT` with an IP address, or a port of 127.0.0.1.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, AppSchema>")]
    pub app: BTreeMap<String, AppEntry>,
    /// Labels, which subsets select on.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `region/zone/subzone`, where the later parts may be missing.
    #[serde(default)]
    pub locality: Option<String>,
    /// Its share relative to the others of its locality; at least 1, which is also the default.
    #[schemars(range(min = 1))]
    pub weight: Option<u32>,
    /// The workload's service account, for its identity.
    pub service_account: Option<String>,
    /// Whether it takes traffic. `healthy` when absent.
    #[serde(default)]
    pub health: HealthEntry,
    /// The network it is on; empty is the default network.
    #[serde(default)]
    pub network: String,
}

/// Where an application listens: `HOST:PORT`, or only a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppEntry(pub String);

/// How [`AppEntry`] looks in the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
enum AppSchema {
    Port(u16),
    Address(String),
}

/// Whether an instance takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HealthEntry {
    /// It does.
    #[default]
    Healthy,
    /// It is used when too few others are healthy.
    Degraded,
    /// It is kept out of load balancing.
    Unhealthy,
    /// It finishes what it has and takes nothing new.
    Draining,
}

/// The format as JSON Schema.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(RegistryFile).to_value()
}

// === impl AppEntry ===

impl<'de> Deserialize<'de> for AppEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = AppEntry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an address such as \"127.0.0.1:8080\", or a port")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<AppEntry, E> {
                Ok(AppEntry(text.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, port: u64) -> Result<AppEntry, E> {
                Ok(AppEntry(port.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, port: i64) -> Result<AppEntry, E> {
                Ok(AppEntry(port.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
