//! Kubernetes: a pod becomes ready, as a kubelet would say it, and the real controller puts it into an EndpointSlice. The
//! platform's own notification is the event of that slice on a bare watch. Then the memory that a Pod costs.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use xebec_testkit::{Kube, Workdir};

use super::serve::Serve;
use super::trial::{Change, Promise, Trial};
use super::{LIMIT, PAUSE, say};
use crate::cli::Cli;
use crate::client::Fleet;
use crate::moments::Moments;
use crate::report::Row;

const PORT: u16 = 8080;

/// How many Services the changed pods belong to.
const SERVICES: usize = 20;

/// How many calls fill the cluster at once.
const WRITERS: usize = 16;

/// How long the control plane may come to rest.
const REST: Duration = Duration::from_secs(10);

/// How long the controllers may need for thousands of pods.
const CONTROLLERS: Duration = Duration::from_secs(600);

/// Everything about Kubernetes.
pub async fn run(cli: &Cli) -> Result<Vec<Row>> {
    let work = Workdir::new("bench-kubernetes");
    say("Kubernetes: starting")?;
    let kube = Kube::start(&work).await.context("Kubernetes is not here")?;
    kube.put_node("bench-node", json!({"topology.kubernetes.io/zone": "z1"})).await;
    let registry = format!("kubernetes:{}", kube.kubeconfig().display());
    let row = changes(cli, &work, &kube, &registry).await?;
    let memory = memory(cli, &work, &kube, &registry).await?;
    Ok(vec![row, memory])
}

/// Single changes.
async fn changes(cli: &Cli, work: &Workdir, kube: &Kube, registry: &str) -> Result<Row> {
    say(&format!("Kubernetes: {} pods become ready", cli.changes))?;
    fill(kube, "default", SERVICES, cli.changes).await?;
    let serve = start(&cli.xebec, work, registry).await?;
    let fleet = Fleet::connect(serve.plane.xds, 1);
    fleet.synced(LIMIT).await.with_context(|| work.logs())?;
    serve.rest(REST).await?;
    fleet.sightings().follow((0..SERVICES).map(|service| host("default", service)));
    let (moments, reader) = slices(kube, "default").await?;
    let mut trial = Trial::default();
    for pod in 0..cli.changes {
        let ip = ip(0, pod);
        let began = Instant::now();
        kube.set_pod("default", &format!("bench-{pod}"), &ip, true).await;
        let address = format!("{ip}:{PORT}");
        let arrived = fleet.sightings().endpoint(&host("default", pod % SERVICES), &address, LIMIT).await;
        let arrived = arrived.with_context(|| work.logs())?;
        let notified = moments.of(&ip, LIMIT).await?;
        trial.push(Change { began, notified, arrived });
        tokio::time::sleep(PAUSE).await;
    }
    reader.abort();
    Ok(trial.row("Kubernetes: a pod becomes ready", Promise::Beyond(20.0)))
}

/// What the control plane needs for a Pod: Services without Pods, then with them.
async fn memory(cli: &Cli, work: &Workdir, kube: &Kube, registry: &str) -> Result<Row> {
    let (pods, services) = (cli.pods, cli.pod_services);
    say(&format!("Kubernetes: memory with {services} services of {pods} pods"))?;
    kube.put_object(
        "/api/v1/namespaces/scale",
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "scale"}}),
    )
    .await;
    fill(kube, "scale", services, 0).await?;
    complete(kube, "scale", 0, services).await?;
    let empty = start(&cli.xebec, work, registry).await?;
    empty.rest(REST).await?;
    let before = empty.resident()?;
    fill(kube, "scale", services, pods).await?;
    let numbers = futures_util::stream::iter((0..pods).map(Ok::<_, anyhow::Error>));
    numbers
        .try_for_each_concurrent(WRITERS, |pod| async move {
            kube.set_pod("scale", &format!("bench-{pod}"), &ip(1, pod), true).await;
            Ok(())
        })
        .await?;
    complete(kube, "scale", pods, services).await?;
    empty.rest(REST).await?;
    let grown = empty.resident()?;
    drop(empty);
    let full = start(&cli.xebec, work, registry).await?;
    let ready = full.plane.started.elapsed();
    full.rest(REST).await?;
    let after = full.resident()?;
    let each = |more: f64| (more - before) * 1000.0 / pods as f64;
    Ok(Row::new(format!("Kubernetes, memory of {pods} pods in {services} services"))
        .figure("resident without the pods", before, "MB")
        .figure("resident, started with the pods", after, "MB")
        .figure("resident, most until then", full.peak()?, "MB")
        .figure("per pod, started with them", each(after), "KB")
        .figure("per pod, come while it ran", each(grown), "KB")
        .figure("from start to ready with the pods", ready.as_secs_f64(), "s"))
}

async fn start(xebec: &Path, work: &Workdir, registry: &str) -> Result<Serve> {
    let serve = Serve::start(xebec, work, ["--registry", registry])?;
    serve.ready(LIMIT).await.with_context(|| work.logs())?;
    Ok(serve)
}

/// Makes Services, and Pods of them on a node, which nobody has said to run yet. What is there stays.
async fn fill(kube: &Kube, namespace: &str, services: usize, pods: usize) -> Result<()> {
    let of = |kind: &str, object: Value| (format!("/api/v1/namespaces/{namespace}/{kind}"), object);
    let services_first = (0..services).map(|s| of("services", service(s)));
    let all = services_first.chain((0..pods).map(|p| of("pods", pod(p, p % services.max(1)))));
    futures_util::stream::iter(all)
        .map(|(path, object)| async move {
            match kube.api().json("POST", &path, Some(&object)).await {
                Ok(_) => Ok(()),
                Err(refused) if refused.status == Some(409) => Ok(()),
                Err(refused) => Err(anyhow!("{refused}")),
            }
        })
        .buffer_unordered(WRITERS)
        .try_collect()
        .await
}

fn service(service: usize) -> Value {
    let app = format!("bench-{service}");
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": app},
        "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]},
    })
}

fn pod(pod: usize, service: usize) -> Value {
    let labels = json!({"app": format!("bench-{service}"), "version": "v1", "pod-template-hash": "5d4f8c7b9"});
    let probe = json!({"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 5});
    let variable = |n: usize| json!({"name": format!("SETTING_{n}"), "value": "a value of usual length"});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("bench-{pod}"), "labels": labels, "annotations": {"checksum/config": "0123456789abcdef"}},
        "spec": {"nodeName": "bench-node", "containers": [{
            "name": "app", "image": "registry.example.com/shop/app:1.2.3", "ports": [{"containerPort": PORT}],
            "env": (0..8).map(variable).collect::<Vec<_>>(), "readinessProbe": probe,
        }]},
    })
}

fn host(namespace: &str, service: usize) -> String {
    format!("bench-{service}.{namespace}.svc.cluster.local")
}

fn ip(block: usize, pod: usize) -> String {
    let number = pod + 1;
    format!("10.{}.{}.{}", 244 + block, number / 256 % 256, number % 256)
}

/// Waits until every Service has a slice, and the slices have so many ready endpoints.
async fn complete(kube: &Kube, namespace: &str, pods: usize, services: usize) -> Result<()> {
    let deadline = Instant::now() + CONTROLLERS;
    loop {
        let list = kube.get(&format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")).await;
        let slices = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        let named: HashSet<&str> = slices
            .iter()
            .filter_map(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str())
            .collect();
        let ready: usize = slices.iter().map(|slice| ready(slice).count()).sum();
        if ready == pods && named.len() == services {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{} slices with {ready} ready endpoints after {CONTROLLERS:?}", slices.len());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The addresses of a slice that are ready.
fn ready(slice: &Value) -> impl Iterator<Item = &str> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .filter_map(|endpoint| endpoint["addresses"][0].as_str())
}

/// When each address was first ready in a slice, from a bare watch.
async fn slices(kube: &Kube, namespace: &str) -> Result<(Arc<Moments>, JoinHandle<Result<()>>)> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    let version = kube.get(&path).await["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let authority = std::fs::read(kube.ca_file())?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&authority)?)
        .build()?;
    let url = format!("{}{path}?watch=true&resourceVersion={version}", kube.api_addr());
    let mut stream = client.get(url).bearer_auth(kube.token()).send().await?.error_for_status()?;
    let moments = Arc::new(Moments::default());
    let noted = Arc::clone(&moments);
    let reader = tokio::spawn(async move {
        let mut buffer = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            let now = Instant::now();
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line)?;
                ready(&event["object"]).for_each(|address| noted.note(address.to_owned(), now));
            }
        }
        Ok(())
    });
    Ok((moments, reader))
}
