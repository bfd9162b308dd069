//! A platform, a control plane that reads it, and an observer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use xebec_testkit::{ControlPlane, Workdir, eventually_ok};

use crate::observer::{Observer, Set};
use crate::platform::{Instance, Source};

/// How long a change may take to be seen. Generous: machines that run tests are busy, and Nomad starts a process for each instance.
pub const SOON: Duration = Duration::from_secs(30);

/// A control plane and who observes it.
pub struct Stage {
    pub mesh: ControlPlane,
    pub observer: Observer,
    /// The registry's id.
    registry: String,
}

// === impl Stage ===

impl Stage {
    /// Starts the control plane and waits until it is ready.
    pub async fn start(work: &Workdir, source: &Source) -> Self {
        let mut spec = ControlPlane::spec(work).argument("--registry").argument(&source.spec);
        if !source.settings.is_empty() {
            let path = work.write("settings.yaml", &source.settings);
            spec = spec.argument("--settings").argument(path.display().to_string());
        }
        let mesh = spec.start().await;
        let observer = Observer::connect(mesh.xds_addr()).await;
        Self { mesh, observer, registry: source.spec.clone() }
    }

    /// Waits until the observer was told exactly this.
    pub async fn until(&self, host: &str, expected: &Set) {
        eventually_ok(SOON, &format!("{host} has {expected:?}"), async || {
            let now = self.observer.now(host);
            if now.as_ref() == Some(expected) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }

    /// What the control plane knows of a hostname's endpoints: each with its label `version`. `None`: there is no such service.
    pub async fn versions(&self, host: &str) -> Option<BTreeMap<String, String>> {
        let page = self.mesh.json("/debug/endpointz").await.unwrap();
        let service = page.as_array().unwrap().iter().find(|service| service["svc"] == host)?;
        let endpoints = service["ep"].as_array().unwrap().iter().map(|endpoint| {
            let ports: Vec<_> = endpoint["Ports"].as_object().unwrap().values().collect();
            let key = format!("{}:{}", endpoint["Address"].as_str().unwrap(), ports[0]);
            (key, endpoint["Labels"]["version"].as_str().unwrap_or_default().to_owned())
        });
        Some(endpoints.collect())
    }

    /// The registry's line in `/debug/clusterz`. A directory is read by a second one too, for Kubernetes' manifests.
    pub async fn registry(&self) -> Value {
        let lines = self.mesh.json("/debug/clusterz").await.unwrap();
        let found = lines.as_array().unwrap().iter().find(|line| line["id"] == self.registry.as_str());
        found.unwrap_or_else(|| panic!("no registry {}: {lines}", self.registry)).clone()
    }

    /// Waits until the registry is (or is not) reported as degraded, and returns why.
    pub async fn until_status(&self, status: &str, patience: Duration) -> String {
        let line = eventually_ok(patience, &format!("the registry is {status}"), async || {
            let line = self.registry().await;
            if line["syncStatus"] == status { Ok(line) } else { Err(line) }
        })
        .await;
        line["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// Every set that was said about a hostname since a moment had all of these, in this health.
    pub fn assert_never_without(&self, since: Instant, host: &str, expected: &Set) {
        for set in self.observer.since(since, host) {
            for (endpoint, health) in expected {
                assert_eq!(set.get(endpoint), Some(health), "{host} was said to have {set:?}");
            }
        }
        assert!(self.observer.is_connected(), "the control plane closed the stream");
    }
}

/// These instances as the observer should see them.
pub fn healthy(instances: &[Instance]) -> Set {
    instances.iter().map(|instance| (instance.endpoint(), "healthy")).collect()
}
