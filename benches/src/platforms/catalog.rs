//! What is registered in Consul, and how it is changed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};

/// How many registrations are under way at once.
const WRITERS: usize = 64;

/// The port of every instance until it is changed.
pub const PORT: u16 = 8080;

/// Services of so many instances each, spread over nodes.
#[derive(Debug, Clone)]
pub struct Catalog {
    base: String,
    client: reqwest::Client,
    /// How many services.
    pub services: usize,
    /// How many instances each of them has.
    pub instances: usize,
}

/// An instance as it should be.
#[derive(Debug, Clone, Copy)]
pub struct Instance {
    /// Of which service.
    pub service: usize,
    /// Which of its instances.
    pub number: usize,
    /// Its port.
    pub port: u16,
    /// The state of its check.
    pub status: &'static str,
}

// === impl Catalog ===

impl Catalog {
    /// Registers everything through the agent at `base` (plain HTTP).
    pub async fn fill(base: &str, services: usize, instances: usize) -> Result<(Self, Duration)> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let catalog = Self { base: base.to_owned(), client, services, instances };
        let began = Instant::now();
        let all = (0..services).flat_map(|s| (0..instances).map(move |n| Instance::new(s, n)));
        catalog.register_all(all).await?;
        Ok((catalog, began.elapsed()))
    }

    /// Registers one instance as it should be now.
    pub async fn register(&self, instance: Instance) -> Result<()> {
        let url = format!("{}/v1/catalog/register", self.base);
        let body = self.registration(instance).to_string();
        let answer = self.client.put(url).body(body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "Consul refused {instance:?}: {status} {text}");
        Ok(())
    }

    /// Registers many, several at once.
    pub async fn register_all(&self, instances: impl IntoIterator<Item = Instance>) -> Result<()> {
        futures_util::stream::iter(instances.into_iter().map(Ok))
            .try_for_each_concurrent(WRITERS, |instance| self.register(instance))
            .await
            .context("registering")
    }

    /// The name of a service.
    pub fn name(service: usize) -> String {
        format!("bench-{service:05}")
    }

    /// The hostname of a service in the mesh.
    pub fn host(service: usize) -> String {
        format!("{}.service.consul", Self::name(service))
    }

    /// Where an instance is.
    pub fn address(&self, instance: Instance) -> String {
        format!("{}:{}", self.ip(instance), instance.port)
    }

    /// Services, evenly spread over all; `offset` gives others.
    pub fn spread(&self, count: usize, offset: usize) -> Vec<usize> {
        let count = count.min(self.services);
        (0..count).map(|i| (i * self.services / count + offset) % self.services).collect()
    }

    fn ip(&self, instance: Instance) -> String {
        let number = instance.service * self.instances.max(256) + instance.number;
        format!("10.{}.{}.{}", 1 + number / 65536, number / 256 % 256, number % 256)
    }

    fn registration(&self, instance: Instance) -> Value {
        let name = Self::name(instance.service);
        let id = format!("{name}-{}", instance.number);
        // As many instances on a node as a busy host has.
        let node = (instance.service * self.instances + instance.number) / 50;
        let version = if instance.number.is_multiple_of(2) { "v1" } else { "v2" };
        json!({
            "Node": format!("node-{node:05}"),
            "Address": format!("172.20.{}.{}", node / 256 % 256, node % 256),
            "Service": {
                "ID": id,
                "Service": name,
                "Address": self.ip(instance),
                "Port": instance.port,
                "Tags": ["http", format!("version={version}")],
                "Meta": {"mesh-port": "80", "protocol": "http", "version": version, "team": "bench"},
            },
            "Check": {
                "CheckID": format!("service:{id}"),
                "ServiceID": id,
                "Name": "HTTP GET /healthz",
                "Status": instance.status,
                "Output": "HTTP GET: 200 OK",
            },
        })
    }
}

// === impl Instance ===

impl Instance {
    /// An instance as it was registered first.
    pub fn new(service: usize, number: usize) -> Self {
        Self { service, number, port: PORT, status: "passing" }
    }
}
