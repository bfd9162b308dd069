//! Kubernetes: a Service per service, a Pod per instance; the suite says what a kubelet would say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;
use xebec_testkit::{Kube, Workdir};

use crate::platform::{Health, Instance, PORT, Platform, Source, Upstream};

const NODE: &str = "node-1";

pub struct OnKubernetes {
    cluster: Kube,
    services: BTreeSet<String>,
}

fn pod(instance: &Instance) -> String {
    format!("/api/v1/namespaces/default/pods/{}", instance.id)
}

// === impl OnKubernetes ===

impl Platform for OnKubernetes {
    const EMPTY: bool = true;

    async fn start(work: &Workdir) -> Option<Self> {
        let cluster = Kube::start(work).await?;
        cluster.put_node(NODE, json!({})).await;
        Some(Self { cluster, services: BTreeSet::new() })
    }

    fn source(&self) -> Source {
        Source { spec: format!("kubernetes:{}", self.cluster.kubeconfig().display()), settings: String::new() }
    }

    fn upstream(&self) -> Option<Upstream> {
        Some(Upstream { url: self.cluster.api_addr(), ca: Some(self.cluster.ca_file()) })
    }

    fn source_at(&self, work: &Path, url: &str) -> Source {
        let path = work.join("kubeconfig-through-the-proxy");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {"token": self.cluster.token()}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        Source { spec: format!("kubernetes:{}", path.display()), settings: String::new() }
    }

    fn network(&self) -> [u8; 2] {
        // An EndpointSlice takes no loopback address.
        [10, 244]
    }

    fn host(&self, service: &str) -> String {
        format!("{service}.default.svc.cluster.local")
    }

    async fn put_empty(&mut self, service: &str) {
        if !self.services.insert(service.to_owned()) {
            return;
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": service},
            "spec": {"selector": {"app": service}, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]},
        });
        self.cluster.put_object(&format!("/api/v1/namespaces/default/services/{service}"), &object).await;
    }

    async fn put(&mut self, service: &str, instance: &Instance) {
        self.put_empty(service).await;
        let Instance { id, address, version } = instance;
        let labels = json!({"app": service, "version": version});
        self.cluster.run_pod("default", id, NODE, &address.to_string(), labels, true).await;
    }

    async fn remove(&mut self, _: &str, instance: &Instance) {
        self.cluster.delete(&pod(instance)).await;
    }

    async fn set_health(&mut self, _: &str, instance: &Instance, health: Health) {
        let address = instance.address.to_string();
        match health {
            Health::Healthy => self.cluster.set_pod("default", &instance.id, &address, true).await,
            Health::Unhealthy => self.cluster.set_pod("default", &instance.id, &address, false).await,
            // A deleted pod serves until its kubelet has ended it; nobody does here.
            Health::Draining => drop(self.cluster.api().delete(&pod(instance)).await),
        }
    }

    async fn burst(&mut self, service: &str) -> BTreeMap<String, String> {
        self.put_empty(service).await;
        let mut last = BTreeMap::new();
        for change in 0..1000_u16 {
            let number = (change % 50) as u8;
            let version = format!("v{}", change / 50);
            let instance = Instance { version: version.clone(), ..Instance::numbered(service, number, self.network()) };
            if change < 50 {
                self.put(service, &instance).await;
            } else {
                self.cluster.merge(&pod(&instance), &json!({"metadata": {"labels": {"version": version}}})).await;
            }
            last.insert(instance.endpoint(), version);
        }
        last
    }

    async fn kill(&mut self) {
        self.cluster.kill_api();
    }

    async fn restart(&mut self) {
        self.cluster.restart_api().await;
        // Left alone, they take up to a minute to find that it is back: that would be what the suite measures.
        self.cluster.restart_controllers().await;
    }
}
