//! A real Nomad: a server with its data on disk, which comes back with its jobs after a kill, and a client that runs tasks.
//!
//! They are two processes as in any real cluster. A client in the server's own process finds no leader when that process comes
//! back: it may not register its tasks' services then, and ends the tasks (seen with 1.11.3).
//!
//! What the client starts (executors, log collectors, tasks) lives in process groups of its own and survives the client. ALWAYS:
//! when [`Nomad`] is dropped, these are gone too, and so are the mounts under its folder.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Api;
use crate::authority::{Authority, Pair};
use crate::signal::{self, Signal};
use crate::{Peer, Process, Workdir, peer, port, wait};

const READY: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(40);
/// The two agents: their configuration, data and logs are called so.
const SERVER: &str = "server";
const WORKER: &str = "client";
const MANAGEMENT_TOKEN: &str = "22222222-3333-4444-5555-666666666666";
/// Set for the client and inherited by what it starts: the folder of this Nomad.
const MARK: &str = "XEBEC_TEST_NOMAD";

/// How an agent protects itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NomadMode {
    /// Not at all.
    Plain,
    /// Access control lists.
    Acl,
    /// HTTPS that asks clients for a certificate.
    Tls,
}

/// A running server with its client. Dropping it ends both, with all tasks.
#[derive(Debug)]
pub struct Nomad {
    mode: NomadMode,
    work: PathBuf,
    folder: PathBuf,
    dynamic: port::Range,
    server: Process,
    worker: Process,
    authority: Option<Authority>,
    client: Option<Pair>,
    api: Api,
}

// === impl Nomad ===

impl Nomad {
    /// Starts one and waits until its node is ready for tasks. `None`: it is not here, and the test is skipped.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(work: &Workdir, mode: NomadMode) -> Option<Self> {
        let program = Peer::Nomad.or_skip()?;
        for _ in 0..4 {
            if let Some(nomad) = Self::attempt(work, mode, &program).await {
                return Some(nomad);
            }
        }
        panic!("Nomad found its ports taken five times: {}", work.logs());
    }

    /// `None` when somebody else took one of its ports in the meantime.
    async fn attempt(work: &Workdir, mode: NomadMode, program: &Path) -> Option<Self> {
        let http = port::free_number();
        let folder = work.create_dir(format!("nomad-{http}"));
        let dynamic = port::Range::take();
        let (authority, client, tls) = certificates(mode, &folder);
        let scheme = if mode == NomadMode::Tls { "https" } else { "http" };
        let base = format!("{scheme}://127.0.0.1:{http}");
        let rpc = port::free_number();
        let server = format!(
            r#"ports {{ http = {http}  rpc = {rpc}  serf = {serf} }}
advertise {{ http = "127.0.0.1:{http}" rpc = "127.0.0.1:{rpc}" serf = "127.0.0.1:{serf}" }}
server {{
  enabled = true
  bootstrap_expect = 1
  raft_multiplier = 1
  event_buffer_size = 1000
  oidc_issuer = "{base}"
}}
"#,
            serf = port::free_number(),
        );
        let (own, unused) = (port::free_number(), port::free_number());
        let worker = format!(
            r#"ports {{ http = {own}  rpc = {unused} }}
advertise {{ http = "127.0.0.1:{own}" rpc = "127.0.0.1:{unused}" serf = "127.0.0.1:{unused}" }}
client {{
  enabled = true
  servers = ["127.0.0.1:{rpc}"]
  network_interface = "lo"
  cpu_total_compute = 100000
  memory_total_mb = 65536
  min_dynamic_port = {first}
  max_dynamic_port = {last}
  gc_disk_usage_threshold = 99
  options = {{
    "driver.allowlist" = "raw_exec,mock_driver"
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"
  }}
}}
plugin "raw_exec" {{ config {{ enabled = true }} }}
"#,
            first = dynamic.first(),
            last = dynamic.last(),
        );
        for (agent, own) in [(SERVER, server), (WORKER, worker)] {
            let at = folder.join(agent);
            let config = format!(
                r#"name = "{agent}-{http}"
data_dir = "{}"
bind_addr = "127.0.0.1"
disable_update_check = true
leave_on_interrupt = false
leave_on_terminate = false
acl {{ enabled = {} }}
consul {{ address = "127.0.0.1:1" auto_advertise = false server_auto_join = false client_auto_join = false }}
{tls}{own}"#,
                at.display(),
                mode == NomadMode::Acl,
            );
            let file = folder.join(format!("{agent}.hcl"));
            std::fs::write(&file, config).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
        }
        let api = match (&authority, &client) {
            (Some(authority), Some(client)) => Api::mutual_tls(&base, &authority.ca_file(), client),
            _ => Api::new(&base, (mode == NomadMode::Acl).then(|| ("x-nomad-token", MANAGEMENT_TOKEN.to_owned()))),
        };
        let mut server = launch(work.path(), &folder, program, SERVER);
        if !leads(&mut server, &api).await {
            return None;
        }
        if mode == NomadMode::Acl {
            let body = json!({"BootstrapSecret": MANAGEMENT_TOKEN});
            let api = api.header(None);
            wait::eventually_ok(READY, "the management token is made", async || {
                api.json("POST", "/v1/acl/bootstrap", Some(&body)).await
            })
            .await;
        }
        let worker = launch(work.path(), &folder, program, WORKER);
        let mut nomad =
            Self { mode, work: work.path().to_owned(), folder, dynamic, server, worker, authority, client, api };
        let api = nomad.api.clone();
        let ready = peer::ready(&mut nomad.worker, READY, async || {
            let nodes = api.json("GET", "/v1/nodes", None).await.unwrap_or_default();
            nodes.as_array().is_some_and(|nodes| nodes.iter().any(|node| node["Status"] == "ready"))
        })
        .await;
        ready.then_some(nomad)
    }

    /// Where clients find it.
    pub fn address(&self) -> String {
        self.api.base().to_owned()
    }

    /// The management token, in ACL mode.
    pub fn token(&self) -> Option<String> {
        (self.mode == NomadMode::Acl).then(|| MANAGEMENT_TOKEN.to_owned())
    }

    /// The certificate of its authority, in TLS mode.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.authority.as_ref().map(Authority::ca_file)
    }

    /// A certificate that it accepts from clients, in TLS mode.
    pub fn client_cert(&self) -> Option<PathBuf> {
        self.client.as_ref().map(|pair| pair.cert.clone())
    }

    /// The key of that certificate.
    pub fn client_key(&self) -> Option<PathBuf> {
        self.client.as_ref().map(|pair| pair.key.clone())
    }

    /// The ports that it gives to tasks.
    pub fn dynamic_ports(&self) -> std::ops::RangeInclusive<u16> {
        self.dynamic.first()..=self.dynamic.last()
    }

    /// Which of the ranges of ports that is: below 100, and no other agent on this machine has it.
    pub fn range(&self) -> u16 {
        self.dynamic.number()
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

    /// Submits a job (what is under `Job` in the API), or a new version of it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn run_job(&self, job: Value) -> Value {
        self.put("/v1/jobs", json!({"Job": job})).await
    }

    /// Submits a job, and waits until `count` of its allocations run. Returns those, as the API lists them.
    ///
    /// # Panics
    /// When it is refused, or does not get there.
    pub async fn run_job_until_running(&self, job: Value, count: usize) -> Vec<Value> {
        let id = job["ID"].as_str().expect("a job has an ID").to_owned();
        let namespace = job["Namespace"].as_str().unwrap_or("default").to_owned();
        self.run_job(job).await;
        wait::eventually_ok(SOON, &format!("{count} allocations of {id} run"), async || {
            let all = self.get(&format!("/v1/job/{id}/allocations?namespace={namespace}")).await;
            let running = all.as_array().into_iter().flatten();
            let running: Vec<_> = running.filter(|a| a["ClientStatus"] == "running").cloned().collect();
            if running.len() == count { Ok(running) } else { Err(all.to_string()) }
        })
        .await
    }

    /// A job as people write it, in HCL with variables, as [`Nomad::run_job`] takes it.
    ///
    /// # Panics
    /// When Nomad does not understand it.
    pub async fn parse_job(&self, hcl: &str, variables: &[(&str, &str)]) -> Value {
        let variables: String = variables.iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
        let body = json!({"JobHCL": hcl, "Variables": variables, "Canonicalize": true});
        self.api.json("POST", "/v1/jobs/parse", Some(&body)).await.unwrap_or_else(|e| panic!("not a job: {e}"))
    }

    /// Stops a job of the default namespace and forgets it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn stop_job(&self, id: &str) {
        self.delete(&format!("/v1/job/{id}?purge=true")).await;
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.server
    }

    /// Kills the server. The client and its tasks go on, as they do when a real server is gone.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Freezes the server: connections stay, answers do not come.
    pub fn freeze(&mut self) {
        self.server.signal(Signal::Stop);
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.server.signal(Signal::Continue);
    }

    /// Starts the server again, with the same ports and data, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn restart(&mut self) {
        self.kill();
        let program = Peer::Nomad.path().unwrap_or_else(|| panic!("Nomad has vanished"));
        wait::eventually(READY, "Nomad is back on its ports", async || {
            self.server = launch(&self.work, &self.folder, &program, SERVER);
            leads(&mut self.server, &self.api).await
        })
        .await;
    }

    /// What the client has started and what these have started, of now.
    #[cfg(test)]
    fn offspring(&self) -> BTreeSet<u32> {
        let agents = [self.server.pid(), self.worker.pid()];
        offspring(&self.folder).into_iter().filter(|pid| !agents.contains(pid)).collect()
    }
}

impl Drop for Nomad {
    fn drop(&mut self) {
        // The client first: it would start again what ends.
        self.worker.kill();
        self.server.kill();
        end_below(&self.folder);
    }
}

/// Ends what an agent whose folder this is has left behind, when it has ended itself, and unmounts what is mounted there.
pub(crate) fn end_below(folder: &Path) {
    let start = Instant::now();
    loop {
        let left = offspring(folder);
        if left.is_empty() {
            break;
        }
        for pid in left {
            signal::send(pid, Signal::Kill);
        }
        if start.elapsed() > Duration::from_secs(10) {
            eprintln!("tasks of {} do not end: {:?}", folder.display(), offspring(folder));
            break;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    unmount_below(folder);
}

/// The processes that belong to this folder's agents, and what these have started. A task may have another environment and folder; its
/// parent has not.
fn offspring(folder: &Path) -> BTreeSet<u32> {
    let all = processes();
    let mut found: BTreeSet<u32> = all.iter().map(|(pid, _)| *pid).filter(|pid| belongs(*pid, folder)).collect();
    loop {
        let before = found.len();
        let children = all.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid);
        found.extend(children.collect::<Vec<_>>());
        if found.len() == before {
            return found;
        }
    }
}

/// The files of TLS mode, and the part of the agents' configuration that names them.
fn certificates(mode: NomadMode, folder: &Path) -> (Option<Authority>, Option<Pair>, String) {
    if mode != NomadMode::Tls {
        return (None, None, String::new());
    }
    let authority = Authority::new(&folder.join("pki"));
    let agents = authority.issue("agent", &["server.global.nomad", "client.global.nomad", "localhost", "127.0.0.1"]);
    let client = authority.issue("client", &["client.global.nomad"]);
    let tls = format!(
        "tls {{\n  http = true\n  rpc = true\n  verify_https_client = true\n  ca_file = \"{}\"\n  cert_file = \"{}\"\n  key_file = \"{}\"\n}}\n",
        authority.ca_file().display(),
        agents.cert.display(),
        agents.key.display()
    );
    (Some(authority), Some(client), tls)
}

/// Waits until a server leads and has its keys: a node that registers before tries again only after up to half a minute. False when
/// the server ended because one of its ports is taken.
async fn leads(server: &mut Process, api: &Api) -> bool {
    peer::ready(server, READY, async || {
        let leader = api.json("GET", "/v1/status/leader", None).await.unwrap_or_default();
        let keys = api.json("GET", "/.well-known/jwks.json", None).await.unwrap_or_default();
        leader.as_str().is_some_and(|leader| !leader.is_empty())
            && keys["keys"].as_array().is_some_and(|k| !k.is_empty())
    })
    .await
}

fn launch(work: &Path, folder: &Path, program: &Path, agent: &str) -> Process {
    let mut command = Command::new(program);
    command.arg("agent").arg("-config").arg(folder.join(format!("{agent}.hcl"))).current_dir(folder);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NOMAD_") {
            command.env_remove(name);
        }
    }
    command.env(MARK, folder);
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Process::start_in(work, &format!("{name}-{agent}"), command)
}

/// Every process that has not ended, with its parent.
fn processes() -> Vec<(u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        (state != "Z").then_some((pid, parent))
    })
    .collect()
}

/// Whether a process has inherited the mark of this folder's agent, or works below it.
fn belongs(pid: u32, folder: &Path) -> bool {
    let mark = [MARK.as_bytes(), b"=", folder.as_os_str().as_bytes()].concat();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == mark)
        || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
}

/// Unmounts what is mounted below a folder, the innermost first.
fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut below: Vec<_> = targets.filter(|target| Path::new(target).starts_with(folder)).collect();
    below.sort_unstable();
    for target in below.iter().rev() {
        let done = Command::new("umount").arg(target).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {target}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(id: &str, count: u32) -> Value {
        json!({"ID": id, "Type": "service", "Datacenters": ["dc1"], "TaskGroups": [{
            "Name": "g", "Count": count,
            "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "http"}]}],
            "Services": [{"Name": id, "PortLabel": "http", "Provider": "nomad", "AddressMode": "host"}],
            "Tasks": [{"Name": "t", "Driver": "raw_exec", "Config": {"command": "/bin/sleep", "args": ["1000"]},
                "Resources": {"CPU": 20, "MemoryMB": 10}}]}]})
    }

    async fn starts_talks_restarts_and_stops(mode: NomadMode) {
        let work = Workdir::new("nomad");
        let start = Instant::now();
        let Some(mut nomad) = Nomad::start(&work, mode).await else { return };
        eprintln!("{mode:?}: ready after {:?}", start.elapsed());
        nomad.run_job_until_running(sleeper("web", 2), 2).await;
        let instances = nomad.get("/v1/service/web").await;
        let ports: Vec<_> = instances.as_array().unwrap().iter().map(|i| i["Port"].as_u64().unwrap()).collect();
        let given = nomad.dynamic_ports();
        assert!(ports.len() == 2 && ports.iter().all(|p| given.contains(&u16::try_from(*p).unwrap())), "{ports:?}");
        let start = Instant::now();
        nomad.kill();
        let tasks = nomad.offspring();
        assert!(tasks.len() >= 4, "tasks and their executors go on without the server: {tasks:?}");
        nomad.restart().await;
        eprintln!("{mode:?}: back after {:?}", start.elapsed());
        assert_eq!(nomad.get("/v1/service/web").await, instances, "the same tasks, found again");
        if mode == NomadMode::Acl {
            let refused = nomad.api().header(None).json("GET", "/v1/nodes", None).await.unwrap_err();
            assert_eq!(refused.status, Some(403), "{refused}");
        }
        let folder = nomad.folder.clone();
        let start = Instant::now();
        drop(nomad);
        eprintln!("{mode:?}: ended after {:?}", start.elapsed());
        assert!(tasks.iter().all(|pid| !processes().iter().any(|(p, _)| p == pid)), "nothing is left");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(folder.to_str().unwrap()), "{mounts}");
    }

    #[tokio::test]
    async fn an_agent_starts_keeps_its_tasks_over_a_kill_and_leaves_nothing() {
        starts_talks_restarts_and_stops(NomadMode::Plain).await;
    }

    #[tokio::test]
    async fn an_agent_with_lists_refuses_strangers() {
        starts_talks_restarts_and_stops(NomadMode::Acl).await;
    }

    #[tokio::test]
    async fn an_agent_with_certificates_is_reached_with_one() {
        starts_talks_restarts_and_stops(NomadMode::Tls).await;
    }
}
