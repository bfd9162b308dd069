//! A real Consul agent: one server with its data on disk, so that it comes back with its catalog after a kill.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Api;
use crate::authority::{Authority, Pair};
use crate::signal::Signal;
use crate::{Peer, Process, Workdir, peer, port, wait};

const READY: Duration = Duration::from_secs(60);
const MANAGEMENT_TOKEN: &str = "11111111-2222-3333-4444-555555555555";

/// How an agent protects itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsulMode {
    /// Not at all.
    Plain,
    /// Access control lists, denying by default.
    Acl,
    /// HTTPS that asks clients for a certificate.
    Tls,
    /// Both.
    AclTls,
}

/// A running agent. Dropping it ends it.
#[derive(Debug)]
pub struct Consul {
    mode: ConsulMode,
    work: PathBuf,
    folder: PathBuf,
    ports: Ports,
    process: Process,
    authority: Option<Authority>,
    client: Option<Pair>,
    api: Api,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    http: u16,
    https: u16,
    grpc: u16,
    server: u16,
    serf: u16,
}

// === impl ConsulMode ===

impl ConsulMode {
    fn acl(self) -> bool {
        matches!(self, Self::Acl | Self::AclTls)
    }

    fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::AclTls)
    }
}

// === impl Consul ===

impl Consul {
    /// Starts one and waits until its own node is in its catalog. `None`: it is not here, and the test is skipped.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(work: &Workdir, mode: ConsulMode) -> Option<Self> {
        Self::start_with(work, mode, json!({})).await
    }

    /// The same, with more settings of the agent's own; they replace ours of the same name at the top level.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start_with(work: &Workdir, mode: ConsulMode, settings: Value) -> Option<Self> {
        let program = Peer::Consul.or_skip()?;
        for _ in 0..5 {
            if let Some(consul) = Self::attempt(work, mode, &settings, &program).await {
                return Some(consul);
            }
        }
        panic!("Consul found its ports taken five times: {}", work.logs());
    }

    /// `None` when somebody else took one of its ports in the meantime.
    async fn attempt(work: &Workdir, mode: ConsulMode, settings: &Value, program: &Path) -> Option<Self> {
        let ports = Ports {
            http: port::free_number(),
            https: port::free_number(),
            grpc: port::free_number(),
            server: port::free_number(),
            serf: port::free_number(),
        };
        let folder = work.create_dir(format!("consul-{}", ports.http));
        let (authority, server, client) = if mode.tls() {
            let authority = Authority::new(&folder.join("pki"));
            let server = authority.issue("server", &["server.dc1.consul", "localhost", "127.0.0.1"]);
            let client = authority.issue("client", &["client.dc1.consul"]);
            (Some(authority), Some(server), Some(client))
        } else {
            (None, None, None)
        };
        let mut config = json!({
            "node_name": format!("consul-{}", ports.http),
            "server": true,
            "bootstrap_expect": 1,
            "data_dir": folder.join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "disable_update_check": true,
            "leave_on_terminate": false,
            "performance": {"raft_multiplier": 1},
            "ports": {
                "http": ports.http,
                "https": if mode.tls() { i32::from(ports.https) } else { -1 },
                "grpc": ports.grpc,
                "grpc_tls": -1,
                "server": ports.server,
                "serf_lan": ports.serf,
                "serf_wan": -1,
                "dns": -1,
            },
        });
        if let (Some(authority), Some(server)) = (&authority, &server) {
            config["tls"] = json!({
                "defaults": {"ca_file": authority.ca_file(), "cert_file": server.cert, "key_file": server.key},
                "https": {"verify_incoming": true},
            });
        }
        if mode.acl() {
            config["acl"] = json!({
                "enabled": true,
                "default_policy": "deny",
                "tokens": {"initial_management": MANAGEMENT_TOKEN, "agent": MANAGEMENT_TOKEN},
            });
        }
        for (name, value) in settings.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        let file = folder.join("agent.json");
        std::fs::write(&file, config.to_string()).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
        let header = mode.acl().then(|| ("x-consul-token", MANAGEMENT_TOKEN.to_owned()));
        let mut consul = Self {
            mode,
            work: work.path().to_owned(),
            process: launch(work.path(), &folder, program),
            folder,
            ports,
            authority,
            client,
            api: Api::new(&format!("http://127.0.0.1:{}", ports.http), header),
        };
        consul.ready().await.then_some(consul)
    }

    /// Waits until it is ready; false when it ended because one of its ports is taken.
    async fn ready(&mut self) -> bool {
        let api = self.api.clone();
        peer::ready(&mut self.process, READY, async || {
            let nodes = api.json("GET", "/v1/catalog/nodes", None).await;
            nodes.is_ok_and(|nodes| nodes.as_array().is_some_and(|nodes| !nodes.is_empty()))
        })
        .await
    }

    /// Where clients of its mode find it: `https://` in the TLS modes, else `http://`.
    pub fn address(&self) -> String {
        if self.mode.tls() { format!("https://127.0.0.1:{}", self.ports.https) } else { self.http() }
    }

    /// Its plain HTTP API, which is there in every mode.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.http)
    }

    /// The management token, in the ACL modes.
    pub fn token(&self) -> Option<String> {
        self.mode.acl().then(|| MANAGEMENT_TOKEN.to_owned())
    }

    /// The authority of the TLS modes.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// The certificate of its authority, in the TLS modes.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.authority.as_ref().map(Authority::ca_file)
    }

    /// A certificate that it accepts from clients, in the TLS modes.
    pub fn client_cert(&self) -> Option<PathBuf> {
        self.client.as_ref().map(|pair| pair.cert.clone())
    }

    /// The key of that certificate.
    pub fn client_key(&self) -> Option<PathBuf> {
        self.client.as_ref().map(|pair| pair.key.clone())
    }

    /// Its API, asked with the management token.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// GET `/v1/...` with the management token.
    ///
    /// # Panics
    /// When it is refused, as for all of these.
    pub async fn get(&self, path: &str) -> Value {
        self.api.get(path).await
    }

    /// PUT with the management token.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.api.put(path, body).await
    }

    /// DELETE with the management token.
    pub async fn delete(&self, path: &str) -> Value {
        self.api.delete(path).await
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Freezes it: connections stay, answers do not come.
    pub fn freeze(&mut self) {
        self.process.signal(Signal::Stop);
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.process.signal(Signal::Continue);
    }

    /// Starts it again, with the same ports and data, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn restart(&mut self) {
        self.kill();
        let program = Peer::Consul.path().unwrap_or_else(|| panic!("Consul has vanished"));
        wait::eventually(READY, "Consul is back on its ports", async || {
            self.process = launch(&self.work, &self.folder, &program);
            self.ready().await
        })
        .await;
    }
}

fn launch(work: &Path, folder: &Path, program: &Path) -> Process {
    let mut command = Command::new(program);
    command.arg("agent").arg("-config-file").arg(folder.join("agent.json")).current_dir(folder);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONSUL_") {
            command.env_remove(name);
        }
    }
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Process::start_in(work, &name, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn starts_talks_restarts_and_stops(mode: ConsulMode) {
        let work = Workdir::new("consul");
        let start = std::time::Instant::now();
        let Some(mut consul) = Consul::start(&work, mode).await else { return };
        eprintln!("{mode:?}: ready after {:?}", start.elapsed());
        let service = json!({"Node": "n1", "Address": "10.0.0.1", "Service": {"Service": "reviews", "Port": 9080}});
        consul.put("/v1/catalog/register", service).await;
        let start = std::time::Instant::now();
        consul.kill();
        assert!(consul.api().json("GET", "/v1/catalog/services", None).await.is_err(), "it is gone");
        consul.restart().await;
        eprintln!("{mode:?}: back after {:?}", start.elapsed());
        let instances = consul.get("/v1/catalog/service/reviews").await;
        assert_eq!(instances[0]["ServicePort"], 9080, "its data outlives it: {instances}");
        let stranger = consul.api().header(None).json("GET", "/v1/catalog/service/reviews", None).await.unwrap();
        assert_eq!(stranger.as_array().unwrap().is_empty(), mode.acl(), "{stranger}");
        if let Some(ca) = consul.ca_file() {
            assert!(consul.address().starts_with("https://"));
            let without = Api::tls(&consul.address(), None, &std::fs::read(ca).unwrap());
            let refused = without.json("GET", "/v1/status/leader", None).await.unwrap_err();
            assert_eq!(refused.status, None, "it asks for a certificate: {refused}");
        }
        let (pid, port) = (consul.process.pid(), consul.ports.http);
        drop(consul);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[tokio::test]
    async fn an_agent_starts_and_keeps_its_catalog_over_a_kill() {
        starts_talks_restarts_and_stops(ConsulMode::Plain).await;
    }

    #[tokio::test]
    async fn an_agent_with_lists_and_certificates_refuses_strangers() {
        starts_talks_restarts_and_stops(ConsulMode::AclTls).await;
    }
}
