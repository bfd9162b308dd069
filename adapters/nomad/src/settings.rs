//! What an operator can choose.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use xebec_adapter_client::{Client, ClientError, Endpoint, Options, TlsFiles, TokenSource};
use xebec_galley::spec::Duration;

/// How Nomad is read. Times are written as `30s`, `5m`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// `http://HOST:PORT` or `https://HOST:PORT` of an agent, client or server.
    pub address: String,
    /// The file that holds the ACL token, or a workload identity's JWT; read again when it changes.
    pub token_file: Option<PathBuf>,
    /// Certificates, for `https`.
    pub tls: TlsSettings,
    /// The region that is asked, and the region in every endpoint's locality. Absent: the agent's own.
    pub region: Option<String>,
    /// The namespaces that are read. Empty is all, which needs a management token or a policy on `*` where ACLs are on.
    pub namespaces: Vec<String>,
    /// Which services are taken.
    pub services: ServiceFilter,
    /// How often everything is listed and compared, in case an event was lost.
    pub resync_interval: Duration,
    /// How long a listing that lacks what was there must stay so before it is believed, when it came after an interruption.
    pub confirm_after: Duration,
    /// How long one blocking query waits, where a server's event stream cannot be used.
    pub wait: Duration,
    /// How long a service without instances stays registered. Nomad forgets a service with its last instance; its route does
    /// not go away for the moment between two versions of a job.
    pub keep_empty: Duration,
    /// Nomad's own service checks.
    pub checks: CheckSettings,
    /// The hostnames that instances may join by the tag `mesh-hostname=...`: exact names, or `*.` and a suffix. Default: none.
    pub mesh_hostnames: Vec<String>,
    /// Where an endpoint's locality comes from.
    pub locality_meta: LocalityMeta,
}

/// PEM files of mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Authorities that the agent's certificate is checked against; absent: the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The name in the agent's certificate, where it is not the address's host, such as `server.global.nomad`.
    pub server_name: Option<String>,
}

/// Names and tags of services. `*` at the end of a name stands for anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceFilter {
    /// Only services of these names; empty is every service.
    pub include: Vec<String>,
    /// No services of these names.
    pub exclude: Vec<String>,
    /// Only instances that have all of these tags.
    pub tags: Vec<String>,
}

/// Nomad keeps the results of checks on the client that runs them, and tells nobody: they are asked for, allocation by allocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CheckSettings {
    /// How often each allocation is asked for; `0s` is never.
    pub poll_interval: Duration,
    /// The most questions per second, over all allocations.
    pub most_per_second: u32,
}

/// Node metadata (`meta` of a Nomad client) that says where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LocalityMeta {
    /// The key with the zone. Where the node has none: its cloud's availability zone, else its datacenter.
    pub zone: String,
    /// The key with the subzone.
    pub subzone: String,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        let seconds = |n| Duration::from(std::time::Duration::from_secs(n));
        Self {
            address: "http://127.0.0.1:4646".to_owned(),
            token_file: None,
            tls: TlsSettings::default(),
            region: None,
            namespaces: Vec::new(),
            services: ServiceFilter::default(),
            resync_interval: seconds(300),
            confirm_after: seconds(5),
            wait: seconds(60),
            keep_empty: seconds(600),
            checks: CheckSettings::default(),
            mesh_hostnames: Vec::new(),
            locality_meta: LocalityMeta::default(),
        }
    }
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self { poll_interval: Duration::from(std::time::Duration::from_secs(10)), most_per_second: 50 }
    }
}

impl Default for LocalityMeta {
    fn default() -> Self {
        Self { zone: "zone".to_owned(), subzone: "rack".to_owned() }
    }
}

impl Settings {
    /// The defaults for this address, with the files that `XEBEC_NOMAD_TOKEN_FILE`, `XEBEC_NOMAD_CA_FILE`,
    /// `XEBEC_NOMAD_CERT_FILE`, `XEBEC_NOMAD_KEY_FILE` name, and `XEBEC_NOMAD_SERVER_NAME` and `XEBEC_NOMAD_REGION`.
    pub fn from_environment(address: &str) -> Self {
        let mut settings = Self { address: address.to_owned(), ..Self::default() };
        settings.fill_from_environment();
        settings
    }

    /// Takes from the environment what these settings leave out.
    pub fn fill_from_environment(&mut self) {
        self.fill_from(|name| std::env::var(format!("XEBEC_NOMAD_{name}")).ok().filter(|value| !value.is_empty()));
    }

    fn fill_from(&mut self, value: impl Fn(&str) -> Option<String>) {
        let file = |slot: &mut Option<PathBuf>, name| {
            if slot.is_none() {
                *slot = value(name).map(PathBuf::from);
            }
        };
        file(&mut self.token_file, "TOKEN_FILE");
        // TLS files for an agent without TLS are a mistake in settings; in an environment they are another agent's.
        if self.address.starts_with("https:") {
            file(&mut self.tls.ca_file, "CA_FILE");
            file(&mut self.tls.cert_file, "CERT_FILE");
            file(&mut self.tls.key_file, "KEY_FILE");
            self.tls.server_name = self.tls.server_name.take().or_else(|| value("SERVER_NAME"));
        }
        self.region = self.region.take().or_else(|| value("REGION"));
    }

    /// The client that these settings describe.
    pub(crate) fn client(&self) -> Result<Client, ClientError> {
        let TlsSettings { ca_file, cert_file, key_file, server_name } = self.tls.clone();
        let endpoint = Endpoint {
            address: self.address.clone(),
            token: self.token_file.clone().map_or(TokenSource::None, TokenSource::File),
            tls: TlsFiles { ca: ca_file, cert: cert_file, key: key_file, server_name },
        };
        // Nomad's agent speaks HTTP/1.1 only.
        Client::new(endpoint, "x-nomad-token", Options { http1_only: true, ..Options::default() })
    }

    /// What is asked for: one wildcard, or each chosen namespace.
    pub(crate) fn scopes(&self) -> Vec<String> {
        let mut chosen = self.namespaces.clone();
        if chosen.is_empty() || chosen.iter().any(|name| name == "*") {
            return vec!["*".to_owned()];
        }
        chosen.sort();
        chosen.dedup();
        chosen
    }

    /// The query's part that names the region, or nothing.
    pub(crate) fn region_query(&self) -> String {
        self.region.as_deref().map(|region| format!("&region={}", crate::wire::escape(region))).unwrap_or_default()
    }
}

// === impl ServiceFilter ===

impl ServiceFilter {
    /// Whether services of this name are taken.
    pub(crate) fn takes(&self, name: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        (self.include.is_empty() || self.include.iter().any(matches)) && !self.exclude.iter().any(matches)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn an_unknown_setting_is_refused_and_times_are_written_with_units() {
        let read = |text: &str| serde_json::from_str::<Settings>(text);
        let settings =
            read(r#"{"resyncInterval": "90s", "checks": {"pollInterval": "0s"}, "namespaces": ["b", "a"]}"#).unwrap();
        assert_eq!(settings.resync_interval.0, std::time::Duration::from_secs(90));
        assert_eq!(settings.checks.poll_interval.0, std::time::Duration::ZERO);
        assert_eq!(settings.scopes(), ["a", "b"]);
        assert!(read(r#"{"token": "secret"}"#).is_err());
        assert_eq!(Settings::default().scopes(), ["*"]);
    }

    #[test]
    fn the_environment_fills_what_is_left_out_and_tls_only_for_https() {
        let value = |name: &str| Some(format!("/{name}"));
        let mut plain = Settings { token_file: Some("/mine".into()), ..Settings::default() };
        plain.fill_from(value);
        assert_eq!(plain.token_file, Some("/mine".into()));
        assert_eq!(plain.tls, TlsSettings::default());
        let mut secure = Settings { address: "https://nomad:4646".into(), ..Settings::default() };
        secure.fill_from(value);
        assert_eq!(secure.token_file, Some("/TOKEN_FILE".into()));
        assert_eq!(secure.tls.key_file, Some("/KEY_FILE".into()));
    }

    #[test]
    fn names_are_taken_by_pattern() {
        let filter =
            ServiceFilter { include: vec!["a*".into(), "web".into()], exclude: vec!["a-no".into()], tags: vec![] };
        assert_eq!(["a-1", "web", "webx", "a-no"].map(|name| filter.takes(name)), [true, true, false, false]);
        assert!(ServiceFilter::default().takes("anything"));
    }

    #[test]
    fn the_page_about_nomad_has_every_setting() {
        let page = include_str!("../../../docs/src/how-to/nomad.md");
        let settings = serde_json::to_value(Settings::default()).unwrap();
        let mut names = Vec::new();
        for (name, value) in settings.as_object().unwrap() {
            match value.as_object() {
                Some(part) => names.extend(part.keys().map(|key| format!("{name}.{key}"))),
                None => names.push(name.clone()),
            }
        }
        let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert!(names.len() > 15 && missing.is_empty(), "{missing:?}");
    }
}
