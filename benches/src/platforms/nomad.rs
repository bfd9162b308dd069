//! Nomad: a job gets one more allocation at a time, whose service registers itself. The platform's own notification is the event
//! of that registration on a bare event stream.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use xebec_proto::envoy::config::core::v3::HealthStatus;
use xebec_testkit::{Nomad, NomadMode, Workdir};

use super::serve::Serve;
use super::trial::{Change, Promise, Trial};
use super::{LIMIT, say};
use crate::cli::Cli;
use crate::client::Fleet;
use crate::report::{Row, median, ms};

const JOB: &str = "bench";
const HOST: &str = "bench-web.default.service.nomad";

/// The most allocations that the job gets: an agent on a small machine is to be measured, not its scheduler under strain.
const MOST: usize = 100;

/// Between two changes: the node has said that the allocation runs, which it does within a fifth of a second.
const PAUSE: Duration = Duration::from_millis(400);

/// Single changes.
pub async fn changes(cli: &Cli) -> Result<Row> {
    let changes = cli.changes.min(MOST);
    say(&format!("Nomad: {changes} allocations"))?;
    let work = Workdir::new("bench-nomad");
    let nomad = Nomad::start(&work, NomadMode::Plain).await.context("Nomad is not here")?;
    nomad.run_job_until_running(job(1), 1).await;
    let serve = Serve::start(&cli.xebec, &work, ["--registry".into(), format!("nomad:{}", nomad.address())])?;
    serve.ready(LIMIT).await.with_context(|| work.logs())?;
    let fleet = Fleet::connect(serve.plane.xds, 1);
    fleet.synced(LIMIT).await.with_context(|| work.logs())?;
    serve.rest(LIMIT).await?;
    let known = nomad.get("/v1/service/bench-web").await;
    let mut known: HashSet<String> = known.as_array().into_iter().flatten().filter_map(address).collect();
    fleet.sightings().follow([HOST.to_owned()]);
    let (mut registrations, reader) = registrations(&nomad.address()).await?;
    let (mut trial, mut healthy) = (Trial::default(), Vec::new());
    for count in 2..2 + changes {
        let began = Instant::now();
        nomad.run_job(job(count)).await;
        let next = async {
            loop {
                let (address, at) = registrations.recv().await.context("the event stream has ended")?;
                if known.insert(address.clone()) {
                    return anyhow::Ok((address, at));
                }
            }
        };
        let (address, notified) = tokio::time::timeout(LIMIT, next).await.context("no registration")??;
        let arrived = fleet.sightings().endpoint(HOST, &address, LIMIT).await.with_context(|| work.logs())?;
        let well = fleet.sightings().health(HOST, &address, HealthStatus::Healthy, LIMIT).await;
        healthy.push(ms(well.with_context(|| work.logs())?.saturating_duration_since(notified)));
        trial.push(Change { began, notified, arrived });
        tokio::time::sleep(PAUSE).await;
    }
    reader.abort();
    nomad.stop_job(JOB).await;
    let row = trial.row("Nomad: an allocation's service", Promise::Beyond(20.0));
    Ok(row.figure("healthy at the client, beyond the platform's own, p50", median(&healthy), "ms"))
}

/// The addresses of instances as they are registered, from a bare event stream.
async fn registrations(base: &str) -> Result<(mpsc::UnboundedReceiver<(String, Instant)>, JoinHandle<Result<()>>)> {
    let client = reqwest::Client::builder().no_proxy().http1_only().build()?;
    let mut stream = client.get(format!("{base}/v1/event/stream?topic=Service")).send().await?.error_for_status()?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let reader = tokio::spawn(async move {
        let mut buffer = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            let now = Instant::now();
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line)?;
                let registered = event["Events"].as_array().into_iter().flatten();
                for event in registered.filter(|event| event["Type"] == "ServiceRegistration") {
                    if let Some(address) = address(&event["Payload"]["Service"]) {
                        let _ = sender.send((address, now));
                    }
                }
            }
        }
        Ok(())
    });
    Ok((receiver, reader))
}

fn address(service: &Value) -> Option<String> {
    Some(format!("{}:{}", service["Address"].as_str()?, service["Port"].as_u64()?))
}

fn job(count: usize) -> Value {
    json!({
        "ID": JOB,
        "Name": JOB,
        "Type": "service",
        "Datacenters": ["*"],
        // No deployment: it would look at every allocation for ten seconds.
        "Update": {"MaxParallel": 0},
        "TaskGroups": [{
            "Name": "web",
            "Count": count,
            "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "http"}]}],
            "Services": [{"Name": "bench-web", "PortLabel": "http", "Provider": "nomad", "Tags": ["version=v1"]}],
            "Tasks": [{
                "Name": "web",
                "Driver": "mock_driver",
                "Config": {"run_for": "1h"},
                "LogConfig": {"Disabled": true},
                "Resources": {"CPU": 10, "MemoryMB": 10},
            }],
        }],
    })
}
