//! Nomad: every instance is a job of one task that sleeps; its check asks a listener of the suite's.
//!
//! Nomad takes an instance off its list of services before it ends the task, so nothing is ever seen draining.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use xebec_testkit::{Nomad, NomadMode, Workdir, eventually_ok};

use crate::platform::{Health, Instance, PORT, Platform, Source, Upstream};

pub struct OnNomad {
    agent: Nomad,
    network: u8,
    /// What the checks of instances reach.
    listeners: HashMap<String, JoinHandle<()>>,
}

// === impl OnNomad ===

impl OnNomad {
    async fn listen(&mut self, instance: &Instance) {
        if self.listeners.contains_key(&instance.id) {
            return;
        }
        let listener = TcpListener::bind((instance.address, PORT)).await.unwrap();
        let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        self.listeners.insert(instance.id.clone(), task);
    }
}

impl Drop for OnNomad {
    fn drop(&mut self) {
        self.listeners.values().for_each(JoinHandle::abort);
    }
}

fn job(id: &str, count: u32, service: Value, task: Value) -> Value {
    json!({"ID": id, "Type": "service", "Datacenters": ["dc1"], "TaskGroups": [{
        "Name": "g",
        "Count": count,
        "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "http"}]}],
        "Services": [service],
        "Tasks": [task],
        "RestartPolicy": {"Attempts": 0, "Mode": "fail", "Interval": 60_000_000_000_u64, "Delay": 1_000_000_000},
    }]})
}

fn source(address: &str) -> Source {
    Source {
        spec: format!("nomad:{address}"),
        settings: format!("nomad:\n- address: {address}\n  checks: {{pollInterval: 200ms}}\n"),
    }
}

impl Platform for OnNomad {
    const DRAINS: bool = false;

    async fn start(work: &Workdir) -> Option<Self> {
        let agent = Nomad::start(work, NomadMode::Plain).await?;
        // Its instances have a network of their own: those of other agents on this machine listen on the same port.
        let network = u8::try_from(100 + agent.range()).unwrap();
        Some(Self { agent, network, listeners: HashMap::new() })
    }

    fn source(&self) -> Source {
        source(&self.agent.address())
    }

    fn upstream(&self) -> Option<Upstream> {
        Some(Upstream { url: self.agent.address(), ca: None })
    }

    fn source_at(&self, _: &Path, url: &str) -> Source {
        source(url)
    }

    fn network(&self) -> [u8; 2] {
        // Nomad's own checks must reach them.
        [127, self.network]
    }

    fn host(&self, service: &str) -> String {
        format!("{service}.default.service.nomad")
    }

    async fn put(&mut self, service: &str, instance: &Instance) {
        self.listen(instance).await;
        let Instance { id, address, version } = instance;
        let version = format!("version={version}");
        let path = format!("/v1/service/{service}");
        let service = json!({
            "Name": service, "Provider": "nomad", "Address": address, "AddressMode": "auto", "PortLabel": PORT.to_string(),
            "Tags": [version, "protocol=http"],
            "Checks": [{"Name": "listens", "Type": "tcp", "PortLabel": PORT.to_string(),
                "Interval": 1_000_000_000, "Timeout": 1_000_000_000}],
        });
        let task = json!({"Name": "t", "Driver": "raw_exec", "Config": {"command": "/bin/sleep", "args": ["1000"]},
            "Resources": {"CPU": 20, "MemoryMB": 10}});
        self.agent.run_job(job(id, 1, service, task)).await;
        // The call above says that it is wanted; this is when the platform has registered it.
        eventually_ok(Duration::from_secs(40), &format!("{id} is registered"), async || {
            let rows = self.agent.get(&path).await;
            let own = |row: &Value| row["JobID"] == id.as_str() && row["Tags"][0] == version.as_str();
            if rows.as_array().into_iter().flatten().any(own) { Ok(()) } else { Err(rows) }
        })
        .await;
    }

    async fn remove(&mut self, _: &str, instance: &Instance) {
        self.agent.stop_job(&instance.id).await;
        if let Some(listener) = self.listeners.remove(&instance.id) {
            listener.abort();
            // Another instance may have this address next.
            let _ = listener.await;
        }
    }

    async fn set_health(&mut self, _: &str, instance: &Instance, health: Health) {
        match health {
            Health::Healthy => self.listen(instance).await,
            Health::Unhealthy => {
                let listener = self.listeners.remove(&instance.id).unwrap();
                listener.abort();
                let _ = listener.await;
            }
            Health::Draining => unreachable!("Nomad does not say so"),
        }
    }

    async fn burst(&mut self, service: &str) -> BTreeMap<String, String> {
        let task = json!({"Name": "t", "Driver": "mock_driver", "Config": {"run_for": "1h"},
            "Resources": {"CPU": 20, "MemoryMB": 10}});
        // Each version of the job changes the tags of fifty instances where they are.
        for version in 0..20 {
            let tags = [format!("version=v{version}"), "protocol=http".to_owned()];
            let service = json!({"Name": service, "Provider": "nomad", "PortLabel": "http", "Tags": tags});
            self.agent.run_job(job("noisy", 50, service, task.clone())).await;
        }
        let path = format!("/v1/service/{service}");
        let rows = eventually_ok(Duration::from_secs(60), "Nomad itself is done", async || {
            let rows = self.agent.get(&path).await;
            let done = rows
                .as_array()
                .is_some_and(|rows| rows.len() == 50 && rows.iter().all(|r| r["Tags"][0] == "version=v19"));
            if done { Ok(rows) } else { Err(rows) }
        })
        .await;
        let rows = rows.as_array().unwrap().iter();
        rows.map(|r| (format!("{}:{}", r["Address"].as_str().unwrap(), r["Port"]), "v19".to_owned())).collect()
    }

    async fn kill(&mut self) {
        self.agent.kill();
    }

    async fn restart(&mut self) {
        self.agent.restart().await;
    }
}
