//! Consul: a large catalog over HTTPS, and single registrations over plain HTTP.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use serde_json::json;
use xebec_proto::envoy::config::core::v3::HealthStatus;
use xebec_testkit::{Consul, ConsulMode, Workdir};

use super::bare::{Bare, Pass};
use super::catalog::{Catalog, Instance};
use super::serve::Serve;
use super::trial::{Change, Promise, Trial};
use super::{LIMIT, PAUSE, say};
use crate::cli::Cli;
use crate::client::Fleet;
use crate::report::{Row, median, ms};

/// How many services are read at once at the start: by `xebec` through its settings, and by the bare loop.
const CONCURRENCY: usize = 64;

/// How often a first sync is measured, and its bare counterpart.
const SYNCS: usize = 3;

/// How many services the plain agent has: few enough for a connection each.
const PLAIN_SERVICES: usize = 100;

/// How long the control plane may come to rest.
const REST: Duration = Duration::from_secs(10);

struct Scene<'a> {
    cli: &'a Cli,
    work: &'a Workdir,
    catalog: Catalog,
    bare: Bare,
    serve: Serve,
    fleet: Fleet,
}

/// Everything about Consul.
pub async fn run(cli: &Cli) -> Result<Vec<Row>> {
    let mut rows = large(cli).await.context("a large catalog")?;
    rows.push(plain(cli).await.context("plain HTTP")?);
    Ok(rows)
}

async fn large(cli: &Cli) -> Result<Vec<Row>> {
    let (services, instances) = (cli.consul_services, cli.instances);
    say(&format!("Consul over HTTPS: registering {services} services of {instances} instances"))?;
    let work = Workdir::new("bench-consul");
    let consul = Consul::start(&work, ConsulMode::Tls).await.context("Consul is not here")?;
    let (catalog, filled) = Catalog::fill(&consul.http(), services, instances).await?;
    let mut rows = vec![
        Row::new(format!("Consul with {services} services of {instances} instances"))
            .figure("registering all", filled.as_secs_f64(), "s")
            .figure("the same per second", (services * instances) as f64 / filled.as_secs_f64(), "1/s"),
    ];

    say(&format!("Consul over HTTPS: the first sync, {SYNCS} times"))?;
    let bare = Bare::new(&consul);
    let arguments = [
        "--registry".into(),
        format!("consul:{}", consul.address()).into(),
        "--settings".into(),
        settings(&work, &consul)?.into_os_string(),
    ];
    // What neither side should pay for: the agent's own first answers.
    bare.pass(CONCURRENCY).await?;
    let mut passes: Vec<Pass> = Vec::new();
    let (mut synced, mut cpu) = (Vec::new(), Vec::new());
    let mut running = None;
    for _ in 0..SYNCS {
        drop(running.take());
        // The agent takes its time to notice that thousands of queries are gone.
        tokio::time::sleep(Duration::from_secs(3)).await;
        passes.push(bare.pass(CONCURRENCY).await?);
        let serve = Serve::start(&cli.xebec, &work, arguments.clone())?;
        synced.push(serve.ready(LIMIT).await.with_context(|| work.logs())?.as_secs_f64());
        cpu.push(serve.cpu()?.as_secs_f64());
        running = Some(serve);
    }
    let serve = running.context("at least one sync")?;
    let took = median(&passes.iter().map(|pass| pass.took.as_secs_f64()).collect::<Vec<_>>());
    let spent = median(&passes.iter().map(|pass| pass.cpu.as_secs_f64()).collect::<Vec<_>>());
    let bytes = passes.last().map_or(0, |pass| pass.bytes);
    rows.push(
        Row::new(format!("Consul, first sync of {services} services, median of {SYNCS}"))
            .figure("bare loop of the same requests", took, "s")
            .figure("bare loop, its CPU", spent, "CPU-s")
            .figure("bodies", bytes as f64 / 1e6, "MB")
            .figure("from start to ready", median(&synced), "s")
            .figure("from start to ready, server CPU", median(&cpu), "CPU-s")
            .promised("start to ready, over the bare loop", median(&synced) / took, "x", 1.5),
    );
    serve.rest(REST).await?;
    let row = Row::new(format!("Consul, memory with {services} services of {instances} instances"))
        .promised("resident after the first sync", serve.resident()?, "MB", 200.0)
        .figure("most until then", serve.peak()?, "MB");
    let fleet = Fleet::connect(serve.plane.xds, 1);
    fleet.synced(LIMIT).await.with_context(|| work.logs())?;
    serve.rest(REST).await?;
    rows.push(row.figure("resident with one client that has everything", serve.resident()?, "MB"));

    let mut scene = Scene { cli, work: &work, catalog, bare, serve, fleet };
    rows.push(scene.singles("check", 0, |i| Instance { status: "warning", ..i }).await?);
    rows.push(scene.singles("port", 1, |i| Instance { port: 9090, ..i }).await?);
    rows.push(scene.burst("check", 2, |i| Instance { status: "warning", ..i }).await?);
    rows.push(scene.burst("port", 3, |i| Instance { port: 9091, ..i }).await?);
    let serve = &scene.serve;
    rows.push(Row::new("Consul, memory after all changes").figure("resident", serve.resident()?, "MB").figure(
        "most ever",
        serve.peak()?,
        "MB",
    ));
    Ok(rows)
}

/// Instances are registered, one by one, with an agent that speaks plain HTTP.
async fn plain(cli: &Cli) -> Result<Row> {
    say(&format!("Consul over plain HTTP: {} registrations among {PLAIN_SERVICES} services", cli.changes))?;
    let work = Workdir::new("bench-consul-plain");
    let consul = Consul::start(&work, ConsulMode::Plain).await.context("Consul is not here")?;
    let (catalog, _) = Catalog::fill(&consul.http(), PLAIN_SERVICES, 2).await?;
    let serve = Serve::start(&cli.xebec, &work, ["--registry".into(), format!("consul:{}", consul.address())])?;
    serve.ready(LIMIT).await.with_context(|| work.logs())?;
    let fleet = Fleet::connect(serve.plane.xds, 1);
    fleet.synced(LIMIT).await.with_context(|| work.logs())?;
    serve.rest(REST).await?;
    // The agent takes 200 connections from one address, and each of these queries needs one.
    let watched = catalog.spread(PLAIN_SERVICES / 4, 0);
    let watch = Bare::new(&consul).watch(watched.iter().map(|s| Catalog::name(*s)).collect()).await?;
    fleet.sightings().follow(watched.iter().map(|s| Catalog::host(*s)));
    let mut trial = Trial::default();
    for (round, service) in watched.iter().cycle().take(cli.changes).enumerate() {
        let new = Instance::new(*service, 2 + round / watched.len());
        watch.moments.forget();
        let began = Instant::now();
        catalog.register(new).await?;
        let arrived = fleet.sightings().endpoint(&Catalog::host(*service), &catalog.address(new), LIMIT).await;
        let arrived = arrived.with_context(|| work.logs())?;
        let notified = watch.moments.of(&Catalog::name(*service), LIMIT).await?;
        trial.push(Change { began, notified, arrived });
        tokio::time::sleep(PAUSE).await;
    }
    Ok(trial.row("Consul over plain HTTP: an instance is registered", Promise::Beyond(20.0)))
}

/// The settings that say how the agent is reached. JSON is YAML.
fn settings(work: &Workdir, consul: &Consul) -> Result<PathBuf> {
    let settings = json!({"consul": [{
        "address": consul.address(),
        "tls": {"caFile": consul.ca_file(), "certFile": consul.client_cert(), "keyFile": consul.client_key()},
        "concurrency": CONCURRENCY,
    }]});
    Ok(work.write("settings.yaml", settings.to_string()))
}

// === impl Scene ===

impl Scene<'_> {
    /// One change after the other, each of another service.
    async fn singles(&mut self, what: &str, phase: usize, change: impl Fn(Instance) -> Instance) -> Result<Row> {
        say(&format!("Consul over HTTPS: {} single changes of a {what}", self.cli.changes))?;
        let targets = self.catalog.spread(self.cli.changes, phase);
        let watch = self.bare.watch(targets.iter().map(|s| Catalog::name(*s)).collect()).await?;
        self.fleet.sightings().follow(targets.iter().map(|s| Catalog::host(*s)));
        let mut trial = Trial::default();
        for service in targets {
            let changed = change(Instance::new(service, phase));
            let began = Instant::now();
            self.catalog.register(changed).await?;
            let arrived = self.arrival(changed).await?;
            let notified = watch.moments.of(&Catalog::name(service), LIMIT).await?;
            trial.push(Change { began, notified, arrived });
            tokio::time::sleep(PAUSE).await;
        }
        let among = self.catalog.services;
        Ok(trial.row(&format!("Consul over HTTPS: a {what}, among {among} services"), Promise::Whole(10.0)))
    }

    /// Many changes at once, each of another service.
    async fn burst(&mut self, what: &str, phase: usize, change: impl Fn(Instance) -> Instance) -> Result<Row> {
        let targets = self.catalog.spread(self.cli.burst, phase);
        say(&format!("Consul over HTTPS: {} changes of a {what} in a burst", targets.len()))?;
        self.serve.rest(REST).await?;
        let changed: Vec<Instance> = targets.iter().map(|s| change(Instance::new(*s, phase))).collect();
        self.fleet.sightings().follow(targets.iter().map(|s| Catalog::host(*s)));
        let (before, cpu) = (self.serve.notified().await?, self.serve.cpu()?);
        let began = Instant::now();
        self.catalog.register_all(changed.iter().copied()).await?;
        let written = Instant::now();
        let arrivals = try_join_all(changed.iter().map(|instance| self.arrival(*instance))).await?;
        let last = arrivals.into_iter().max().unwrap_or(written);
        let spent = self.serve.cpu()? - cpu;
        self.serve.rest(REST).await?;
        let after = self.serve.notified().await?;
        let wakes = after.changed - before.changed;
        let row = Row::new(format!("Consul over HTTPS: {} changes of a {what} in a burst", targets.len()))
            .figure("writing them", ms(written - began), "ms")
            .figure("last state at the client, after the last write", ms(last.saturating_duration_since(written)), "ms")
            .figure("server CPU", ms(spent), "CPU-ms");
        // A changed port also changes the list of all services as Consul sees it: those wake-ups are Consul's.
        let row = if what == "check" {
            row.promised("wake-ups with something new", wakes, "", targets.len() as f64)
        } else {
            row.figure("wake-ups with something new", wakes, "")
        };
        Ok(row.figure("answers without anything new", after.unchanged - before.unchanged, ""))
    }

    /// When the client had acknowledged an instance as it should be now.
    async fn arrival(&self, instance: Instance) -> Result<Instant> {
        let health = if instance.status == "passing" { HealthStatus::Healthy } else { HealthStatus::Degraded };
        let (host, address) = (Catalog::host(instance.service), self.catalog.address(instance));
        self.fleet.sightings().health(&host, &address, health, LIMIT).await.with_context(|| self.work.logs())
    }
}
