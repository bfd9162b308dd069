//! Consul: instances registered with the catalog, on nodes of their own.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use xebec_testkit::{Consul, ConsulMode, Workdir};

use crate::platform::{Health, Instance, PORT, Platform, Source, Upstream};

pub struct OnConsul {
    agent: Consul,
}

// === impl OnConsul ===

impl OnConsul {
    async fn register(&self, service: &str, instance: &Instance, health: Health) {
        let Instance { id, address, version } = instance;
        let check = format!("service:{id}");
        let maintenance = format!("_service_maintenance:{id}");
        let (status, maintained) = match health {
            Health::Healthy => ("passing", false),
            Health::Unhealthy => ("critical", false),
            Health::Draining => ("passing", true),
        };
        let mut checks = vec![json!({"CheckID": check, "Name": "check", "Status": status, "ServiceID": id})];
        if maintained {
            checks.push(json!({"CheckID": maintenance, "Name": "maintenance", "Status": "critical", "ServiceID": id}));
        }
        let registration = json!({
            "Node": "workers",
            "Address": "10.0.0.1",
            "SkipNodeUpdate": true,
            "Service": {
                "ID": id, "Service": service, "Address": address, "Port": PORT,
                "Meta": {"version": version, "protocol": "http"},
            },
            "Checks": checks,
        });
        self.agent.put("/v1/catalog/register", registration).await;
    }
}

fn source(address: &str) -> Source {
    Source { spec: format!("consul:{address}"), settings: format!("consul:\n- address: {address}\n") }
}

impl Platform for OnConsul {
    async fn start(work: &Workdir) -> Option<Self> {
        Some(Self { agent: Consul::start(work, ConsulMode::Plain).await? })
    }

    fn source(&self) -> Source {
        source(&self.agent.address())
    }

    fn upstream(&self) -> Option<Upstream> {
        Some(Upstream { url: self.agent.http(), ca: None })
    }

    fn source_at(&self, _: &Path, url: &str) -> Source {
        source(url)
    }

    fn host(&self, service: &str) -> String {
        format!("{service}.service.consul")
    }

    async fn put(&mut self, service: &str, instance: &Instance) {
        self.register(service, instance, Health::Healthy).await;
    }

    async fn remove(&mut self, _: &str, instance: &Instance) {
        let body = json!({"Node": "workers", "ServiceID": instance.id});
        self.agent.put("/v1/catalog/deregister", body).await;
    }

    async fn set_health(&mut self, service: &str, instance: &Instance, health: Health) {
        self.register(service, instance, health).await;
    }

    async fn burst(&mut self, service: &str) -> BTreeMap<String, String> {
        let mut last = BTreeMap::new();
        for change in 0..1000_u16 {
            let number = (change % 50) as u8;
            let version = format!("v{}", change / 50);
            let instance = Instance { version: version.clone(), ..Instance::numbered(service, number, self.network()) };
            last.insert(instance.endpoint(), version);
            self.put(service, &instance).await;
        }
        last
    }

    async fn kill(&mut self) {
        self.agent.kill();
    }

    async fn restart(&mut self) {
        self.agent.restart().await;
    }
}
