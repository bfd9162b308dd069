//! The control plane's scenarios.
//!
//! A latency begins when the changed file is renamed into place and ends when a client has the message in its hands.
//! CPU is the server's, from before the change until it is at rest again, its share of reading the file included.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cli::Cli;
use crate::client::{self, Fleet};
use crate::estate::{self, Estate};
use crate::kernel;
use crate::process::{ControlPlane, split_cores};
use crate::report::{Row, median, ms, percentile};

const LIMIT: Duration = Duration::from_secs(120);

/// How long the server must use no CPU to count as at rest.
const REST: Duration = Duration::from_millis(60);

struct Scene<'a> {
    cli: &'a Cli,
    server: ControlPlane,
    estate: Estate,
    fleet: Fleet,
}

/// The figures of one repeated change.
#[derive(Default)]
struct Change {
    p50: Vec<f64>,
    p99: Vec<f64>,
    max: Vec<f64>,
    cpu: Vec<f64>,
    bytes: Vec<f64>,
}

/// Measures everything about the control plane.
pub fn run(cli: &Cli) -> Result<Vec<Row>> {
    kernel::raise_file_limit();
    let core = split_cores().map(|(server, _)| server);
    if let Some((_, load)) = split_cores() {
        kernel::pin_self(load)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows = runtime.block_on(crowd(cli, core))?;
    rows.extend(runtime.block_on(growth(cli, core))?);
    Ok(rows)
}

/// Everything with many clients.
async fn crowd(cli: &Cli, core: Option<usize>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    say(&format!("{} services, {} clients", cli.services, cli.clients))?;
    let estate = Estate::new(cli.services)?;
    let server = ControlPlane::start(&cli.xebec, estate.path(), core, None)?;
    // One client first: the shape is computed once, and its cost is the start's, not the crowd's.
    let scout = Fleet::connect(server.xds, 1);
    scout.synced(LIMIT).await.context("the first client")?;
    let one = scout.traffic();
    scout.disconnect().await?;
    rest(&server).await?;
    let (cpu, empty) = (server.cpu()?, server.resident()?);

    let began = Instant::now();
    let fleet = Fleet::connect(server.xds, cli.clients);
    fleet.synced(LIMIT).await.context("connecting all clients")?;
    let took = began.elapsed();
    rest(&server).await?;
    let storm = server.cpu()? - cpu;
    let bytes = fleet.traffic().bytes;
    rows.push(
        Row::new(format!("{} clients connect", cli.clients))
            .figure("until all are in sync", took.as_secs_f64(), "s")
            .promised("server CPU", storm.as_secs_f64(), "CPU-s", 2.0)
            .figure("sent", bytes as f64 / 1e6, "MB")
            .figure("one client's configuration", one.bytes as f64 / 1e6, "MB"),
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let full = server.resident()?;
    let per_client = (full.saturating_sub(empty)) as f64 / cli.clients as f64 / 1000.0;
    rows.push(Row::new("memory").figure("resident without clients", empty as f64 / 1e6, "MB").promised(
        "per connected client",
        per_client,
        "KB",
        50.0,
    ));

    let mut scene = Scene { cli, server, estate, fleet };
    let middle = cli.services / 2;
    let change = scene
        .repeat(&client::endpoints(), |e, round| {
            e.change_endpoint(middle, round + 1)?;
            Ok(estate::host(middle))
        })
        .await?;
    rows.push(change.row("one endpoint changed", 15.0, 30.0));
    let change = scene
        .repeat(&client::routing(), |e, round| {
            e.change_weight(middle, 10 + round)?;
            Ok(estate::host(e.ruled(middle)))
        })
        .await?;
    rows.push(change.row("one VirtualService weight changed", 300.0, 300.0));
    let change = scene
        .repeat(&client::routing(), |e, round| {
            e.add_service(cli.services + round)?;
            Ok(estate::host(cli.services + round))
        })
        .await?;
    rows.push(change.row("one service added", 300.0, 300.0));

    let Scene { server, fleet, estate: _estate, .. } = scene;
    let returning = fleet.disconnect().await?;
    rest(&server).await?;
    let cpu = server.cpu()?;
    let began = Instant::now();
    let fleet = Fleet::reconnect(server.xds, returning);
    fleet.synced(LIMIT).await.context("reconnecting all clients")?;
    let took = began.elapsed();
    rest(&server).await?;
    rows.push(
        Row::new(format!("{} clients come back with what they had", cli.clients))
            .promised("until all are in sync", took.as_secs_f64(), "s", 1.0)
            .figure("server CPU", (server.cpu()? - cpu).as_secs_f64(), "CPU-s")
            .promised("resources sent again", fleet.traffic().resources as f64, "", 0.0),
    );
    Ok(rows)
}

/// Everything that must not grow with the mesh, with one client.
async fn growth(cli: &Cli, core: Option<usize>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut flat = Vec::new();
    for services in [cli.services / 10, cli.services, cli.many_services] {
        say(&format!("{services} services, one client"))?;
        let estate = Estate::new(services)?;
        let server = ControlPlane::start(&cli.xebec, estate.path(), core, None)?;
        let fleet = Fleet::connect(server.xds, 1);
        fleet.synced(LIMIT).await.context("the only client")?;
        let started = server.started.elapsed().as_secs_f64();
        let mut row = Row::new(format!("start with {services} services"));
        row = if services == cli.many_services {
            row.promised("until the first client is in sync", started, "s", 0.6)
        } else {
            row.figure("until the first client is in sync", started, "s")
        };
        rest(&server).await?;
        rows.push(row.figure("server CPU", server.cpu()?.as_secs_f64(), "CPU-s").figure(
            "resident",
            server.resident()? as f64 / 1e6,
            "MB",
        ));
        let mut scene = Scene { cli, server, estate, fleet };
        let change = scene
            .repeat(&client::endpoints(), |e, round| {
                e.change_endpoint(services / 2, round + 1)?;
                Ok(estate::host(services / 2))
            })
            .await?;
        let weight = scene
            .repeat(&client::routing(), |e, round| {
                e.change_weight(services / 2, 10 + round)?;
                Ok(estate::host(e.ruled(services / 2)))
            })
            .await?;
        let mut row = Row::new(format!("one changed file among {services} services, one client"));
        let (cpu, weight_cpu) = (median(&change.cpu), median(&weight.cpu));
        row = if services == cli.services {
            row.promised("server CPU, endpoint", cpu, "CPU-ms", 5.0).promised(
                "server CPU, VirtualService",
                weight_cpu,
                "CPU-ms",
                5.0,
            )
        } else {
            row.figure("server CPU, endpoint", cpu, "CPU-ms").figure("server CPU, VirtualService", weight_cpu, "CPU-ms")
        };
        rows.push(row.figure("until received, endpoint", median(&change.p50), "ms").figure(
            "until received, VirtualService",
            median(&weight.p50),
            "ms",
        ));
        flat.push(cpu);
    }
    if let [small, .., large] = flat.as_slice() {
        rows.push(
            Row::new(format!(
                "CPU of one endpoint change, {} services against {}",
                cli.many_services,
                cli.services / 10
            ))
            .figure("ratio", large / small.max(1e-9), ""),
        );
    }
    Ok(rows)
}

// === impl Scene ===

impl Scene<'_> {
    /// Makes a change several times; `change` says which name arrives because of it.
    async fn repeat(&mut self, kinds: &[usize], change: impl Fn(&Estate, usize) -> Result<String>) -> Result<Change> {
        let mut figures = Change::default();
        for round in 0..self.cli.rounds {
            rest(&self.server).await?;
            let (cpu, traffic) = (self.server.cpu()?, self.fleet.traffic());
            // All clients live on this thread: none receives anything before the watch is set.
            let began = Instant::now();
            let name = change(&self.estate, round)?;
            self.fleet.watch(kinds, &name);
            let arrivals = self.fleet.arrivals(LIMIT).await.with_context(|| format!("waiting for {name}"))?;
            let mut times: Vec<f64> = arrivals.iter().map(|at| ms(at.saturating_duration_since(began))).collect();
            times.sort_by(f64::total_cmp);
            rest(&self.server).await?;
            figures.p50.push(percentile(&times, 0.5));
            figures.p99.push(percentile(&times, 0.99));
            figures.max.push(percentile(&times, 1.0));
            figures.cpu.push(ms(self.server.cpu()? - cpu));
            figures.bytes.push((self.fleet.traffic().bytes - traffic.bytes) as f64 / 1e6);
        }
        Ok(figures)
    }
}

// === impl Change ===

impl Change {
    /// The median over the rounds.
    fn row(&self, scenario: &str, p99_limit: f64, cpu_limit: f64) -> Row {
        Row::new(scenario)
            .figure("received, p50", median(&self.p50), "ms")
            .promised("received, p99", median(&self.p99), "ms", p99_limit)
            .figure("received by the last client", median(&self.max), "ms")
            .promised("server CPU", median(&self.cpu), "CPU-ms", cpu_limit)
            .figure("sent", median(&self.bytes), "MB")
    }
}

/// Waits until the server uses no CPU worth mentioning.
async fn rest(server: &ControlPlane) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut quiet = 0;
    let mut before = server.cpu()?;
    while quiet < 3 && Instant::now() < deadline {
        tokio::time::sleep(REST).await;
        let now = server.cpu()?;
        quiet = if now - before < REST / 50 { quiet + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

/// Tells whoever waits what is going on.
fn say(what: &str) -> Result<()> {
    writeln!(std::io::stderr(), "measuring: {what}").context("standard error")
}
