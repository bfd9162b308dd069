//! Consul asked by as little as possible: what its answers cost when nothing is done with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use xebec_testkit::Consul;

use crate::kernel;
use crate::moments::Moments;

/// How long a blocking query may take, for Consul and, with some room, for us.
const WAIT: &str = "60s";
const PATIENCE: Duration = Duration::from_secs(90);

/// How many queries one connection carries: Consul allows 250.
const STREAMS: usize = 200;

/// A bare client.
#[derive(Clone)]
pub struct Bare {
    base: String,
    builder: Arc<dyn Fn() -> Result<reqwest::Client> + Send + Sync>,
}

/// What one pass over the whole catalog took.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// How long.
    pub took: Duration,
    /// This process's CPU time.
    pub cpu: Duration,
    /// Bytes of bodies.
    pub bytes: u64,
}

/// Blocking queries, each on one service, that note when they are answered. Dropping it ends them.
pub struct Watch {
    /// When the first answer with something new came, by service.
    pub moments: Arc<Moments>,
    tasks: Vec<JoinHandle<()>>,
}

// === impl Bare ===

impl Bare {
    /// A client of this agent, with HTTP/2 where it speaks HTTPS.
    pub fn new(consul: &Consul) -> Self {
        let files = consul.ca_file().zip(consul.client_cert().zip(consul.client_key()));
        let builder = move || client(files.as_ref().map(|(ca, (cert, key))| (&**ca, cert, key)));
        Self { base: consul.address(), builder: Arc::new(builder) }
    }

    /// One GET per service after one for the names, `concurrency` at once, all bodies read and dropped.
    pub async fn pass(&self, concurrency: usize) -> Result<Pass> {
        let cpu = kernel::cpu_time(std::process::id())?;
        let began = Instant::now();
        // As a process that starts: connecting is part of it.
        let client = (self.builder)()?;
        let names = get(&client, &format!("{}/v1/catalog/services?stale", self.base)).await?;
        let listed: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&names)?;
        let bodies = futures_util::stream::iter(listed.keys().map(|name| {
            let (client, url) = (client.clone(), format!("{}/v1/health/service/{name}?stale", self.base));
            async move { get(&client, &url).await.map(|body| body.len() as u64) }
        }));
        let bytes = bodies.buffer_unordered(concurrency).try_fold(0, |sum, size| async move { Ok(sum + size) }).await?;
        let (took, cpu) = (began.elapsed(), kernel::cpu_time(std::process::id())? - cpu);
        Ok(Pass { took, cpu, bytes: bytes + names.len() as u64 })
    }

    /// Watches these services, and returns when all queries are armed.
    pub async fn watch(&self, services: Vec<String>) -> Result<Watch> {
        let moments = Arc::new(Moments::default());
        let (armed, mut arming) = mpsc::channel(services.len().max(1));
        let mut tasks = Vec::new();
        for services in services.chunks(STREAMS) {
            let client = (self.builder)()?;
            for name in services {
                let url = format!("{}/v1/health/service/{name}?stale", self.base);
                let (client, moments, armed, name) =
                    (client.clone(), Arc::clone(&moments), armed.clone(), name.clone());
                tasks.push(tokio::spawn(async move {
                    let failed = watch(client, url, name, moments, &armed).await;
                    let _ = armed.send(failed).await;
                }));
            }
        }
        drop(armed);
        for _ in &services {
            arming.recv().await.context("a watch has ended")??;
        }
        // The queries were answered; the next ones are on their way.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(Watch { moments, tasks })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Asks again and again; says `Ok` on `armed` once, and returns only because of an error.
async fn watch(
    client: reqwest::Client,
    url: String,
    name: String,
    moments: Arc<Moments>,
    armed: &mpsc::Sender<Result<()>>,
) -> Result<()> {
    let mut index = 0_u64;
    loop {
        let asked = if index == 0 { url.clone() } else { format!("{url}&index={index}&wait={WAIT}") };
        let answer = client.get(asked).send().await?.error_for_status()?;
        let now = answer.headers().get("x-consul-index").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
        answer.bytes().await?;
        if index == 0 {
            let _ = armed.send(Ok(())).await;
        } else if now != index {
            moments.note(name.clone(), Instant::now());
        }
        index = now.max(1);
    }
}

async fn get(client: &reqwest::Client, url: &str) -> Result<bytes::Bytes> {
    Ok(client.get(url).send().await?.error_for_status()?.bytes().await?)
}

fn client(files: Option<(&Path, &PathBuf, &PathBuf)>) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder().no_proxy().tcp_nodelay(true).timeout(PATIENCE);
    if let Some((ca, cert, key)) = files {
        let mut identity = fs::read(cert)?;
        identity.extend(fs::read(key)?);
        builder = builder
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&fs::read(ca)?)?)
            .identity(reqwest::Identity::from_pem(&identity)?)
            .http2_initial_stream_window_size(1 << 20)
            .http2_initial_connection_window_size(16 << 20);
    }
    Ok(builder.build()?)
}
