//! What an operator can choose.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use xebec_adapter_client::{Client, ClientError, Endpoint, Options, TlsFiles, TokenSource};
use xebec_galley::spec::Duration;

/// Which Consul is read, as whom, and what of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// `http://HOST:PORT` or `https://HOST:PORT` of an agent or server, as in the SPEC.
    pub address: String,
    /// A file with the ACL token; read again when it changes.
    pub token_file: Option<PathBuf>,
    /// Certificates, for `https`; read again when they change.
    pub tls: Tls,
    /// The datacenters to read. Empty: the agent's own. `"*"`: all that it knows.
    pub datacenters: Vec<String>,
    /// The mesh's namespace that services are in.
    pub namespace: String,
    /// Which services are read.
    pub services: Services,
    /// Whether any server may answer, not only the leader: at most a fraction of a second late, and what large catalogs need.
    pub stale: bool,
    /// How long Consul may hold a poll that has nothing new. Between 1 s and 10 min.
    pub wait: Duration,
    /// How many services are read at once at the start.
    pub concurrency: usize,
    /// How many HTTP/2 connections are opened at most, each for 200 watched services; only for `https`.
    pub connections: usize,
    /// How long a new instance stays out of load balancing while its node's check is its only one: some platforms register an instance
    /// first and its checks a moment later.
    pub hold_down: Duration,
    /// How long a service that left the catalog is still there, empty.
    pub keep_empty: Duration,
    /// The hostnames that instances may join with `mesh-hostname`, as `name` or `*.suffix`. Empty: none.
    pub mesh_hostnames: Vec<String>,
    /// What the labels of instances are made of. Where they contradict each other, meta wins over tags, and tags over node meta.
    pub labels_from: Vec<LabelSource>,
    /// Where an instance's region and zone are written, when it has no locality of Consul's own.
    pub locality_meta: LocalityMeta,
    /// The token is meant to see a part of Consul only: what ACLs hide is no trouble.
    pub partial_view: bool,
}

/// PEM files for TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// Authorities that Consul's certificate is checked against; without it the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, for mutual TLS.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
    /// The name in Consul's certificate where it is not the address's host, such as `server.dc1.consul`.
    pub server_name: Option<String>,
}

/// Which services are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Services {
    /// Only names with one of these prefixes. Empty: all.
    pub prefixes: Vec<String>,
    /// Only instances with all of these tags.
    pub tags: Vec<String>,
    /// Only instances with all of this meta.
    pub meta: BTreeMap<String, String>,
    /// Not these names; `prefix*` excludes all that begin so.
    pub exclude: Vec<String>,
}

/// What a label can come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LabelSource {
    /// The instance's meta.
    Meta,
    /// The instance's tags of the forms `key=value` and `key|value`.
    Tags,
    /// The meta of its node.
    NodeMeta,
}

/// Keys of meta, of the instance or else of its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LocalityMeta {
    /// The key of the region. Without one, the datacenter is the region.
    pub region: String,
    /// The key of the zone.
    pub zone: String,
}

/// The header that carries the token.
const TOKEN_HEADER: &str = "x-consul-token";

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:8500".to_owned(),
            token_file: None,
            tls: Tls::default(),
            datacenters: Vec::new(),
            namespace: "default".to_owned(),
            services: Services::default(),
            stale: true,
            wait: Duration::from_secs(60),
            concurrency: 64,
            connections: 50,
            hold_down: Duration::from_secs(0),
            keep_empty: Duration::from_secs(600),
            mesh_hostnames: Vec::new(),
            labels_from: vec![LabelSource::Meta, LabelSource::Tags],
            locality_meta: LocalityMeta::default(),
            partial_view: false,
        }
    }
}

impl Default for Services {
    /// Everything but Consul's own servers.
    fn default() -> Self {
        Self { prefixes: Vec::new(), tags: Vec::new(), meta: BTreeMap::new(), exclude: vec!["consul".to_owned()] }
    }
}

impl Default for LocalityMeta {
    fn default() -> Self {
        Self { region: "region".to_owned(), zone: "zone".to_owned() }
    }
}

impl Settings {
    /// The defaults for this address, with the files that `XEBEC_CONSUL_TOKEN_FILE`, `XEBEC_CONSUL_CA_FILE`, `XEBEC_CONSUL_CERT_FILE` and
    /// `XEBEC_CONSUL_KEY_FILE` name. For plain HTTP, only the token's.
    pub fn from_environment(address: &str) -> Self {
        let file = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut settings =
            Self { address: address.to_owned(), token_file: file("XEBEC_CONSUL_TOKEN_FILE"), ..Self::default() };
        if address.starts_with("https:") {
            settings.tls = Tls {
                ca_file: file("XEBEC_CONSUL_CA_FILE"),
                cert_file: file("XEBEC_CONSUL_CERT_FILE"),
                key_file: file("XEBEC_CONSUL_KEY_FILE"),
                server_name: None,
            };
        }
        settings
    }

    /// What is wrong with them, besides what only the client can know.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let wrong = |problem: &str| Err(ClientError::Settings { problem: format!("consul: {problem}") });
        let wait = self.wait();
        if wait < std::time::Duration::from_secs(1) || wait > std::time::Duration::from_secs(600) {
            return wrong("wait is between 1s and 10m");
        }
        if self.concurrency == 0 || self.connections == 0 {
            return wrong("concurrency and connections are at least 1");
        }
        if self.namespace.is_empty() {
            return wrong("namespace is empty; leave it out for default");
        }
        if let Some(pattern) = self.mesh_hostnames.iter().find(|pattern| {
            let name = pattern.strip_prefix("*.").unwrap_or(pattern);
            name.is_empty() || name.contains('*')
        }) {
            return wrong(&format!("{pattern:?} in meshHostnames is neither a name nor *.suffix"));
        }
        Ok(())
    }

    pub(crate) fn wait(&self) -> std::time::Duration {
        self.wait.into()
    }

    /// A client with these settings.
    pub(crate) fn client(&self) -> Result<Client, ClientError> {
        self.check()?;
        let endpoint = Endpoint {
            address: self.address.clone(),
            token: self.token_file.clone().map_or(TokenSource::None, TokenSource::File),
            tls: TlsFiles {
                ca: self.tls.ca_file.clone(),
                cert: self.tls.cert_file.clone(),
                key: self.tls.key_file.clone(),
                server_name: self.tls.server_name.clone(),
            },
        };
        Client::new(endpoint, TOKEN_HEADER, Options { pool: self.connections, ..Options::default() })
    }
}

// === impl Services ===

impl Services {
    /// Whether a service of this name and these tags (of all its instances together) is read.
    pub(crate) fn wants(&self, name: &str, tags: &[String]) -> bool {
        let excluded = self.exclude.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        });
        !excluded
            && (self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())))
            && self.tags.iter().all(|tag| tags.contains(tag))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use serde_json::Value;
    use xebec_galley::yaml;

    use super::*;

    #[derive(Deserialize)]
    struct File {
        consul: Vec<Settings>,
    }

    /// The paths of all fields that are not maps of the operator's own words.
    fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) if at != ".services.meta" => {
                for (name, field) in fields {
                    paths(field, &format!("{at}.{name}"), found);
                }
            }
            _ => found.push(at.to_owned()),
        }
    }

    #[test]
    fn the_page_for_operators_shows_every_setting() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/how-to/consul.md")).unwrap();
        let block = page.split("```yaml\nconsul:").nth(1).unwrap().split("```").next().unwrap();
        let text = format!("consul:{block}");
        let mut read = yaml::parse_documents::<File>("page", text.as_bytes());
        assert!(read.iter().all(|document| document.diagnostics.is_empty()), "{:?}", read[0].diagnostics);
        let settings = read.remove(0).value.unwrap().consul.remove(0);
        settings.check().unwrap();
        let (mut known, mut shown) = (Vec::new(), Vec::new());
        paths(&serde_json::to_value(&settings).unwrap(), "", &mut known);
        let written = yaml::parse_documents::<Value>("page", text.as_bytes()).remove(0).value.unwrap();
        paths(&written["consul"][0], "", &mut shown);
        known.sort();
        shown.sort();
        assert_eq!(shown, known);
        // What it shows as a value that was not asked for is the default.
        let shown = Settings {
            services: Services::default(),
            tls: Tls::default(),
            address: Settings::default().address,
            token_file: None,
            datacenters: Vec::new(),
            mesh_hostnames: Vec::new(),
            ..settings
        };
        assert_eq!(shown, Settings::default());
    }
}
