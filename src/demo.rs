//! `xebec demo`: a live mesh on loopback in one process.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use xebec_demo::{
    HeadlessOptions, Load, LoadOptions, Log, Plan, Shop, Until, Written, config::Layout, ready, run_headless, run_view,
    write_config,
};
use xebec_envoy_compat::bootstrap::{self, BootstrapOptions, LaunchError, ServerAddress};
use xebec_envoy_compat::node::{NodeConfig, NodeKind};
use xebec_envoy_compat::{Sidecar, SidecarConfig, SidecarHandle};

use crate::cli::{DataPlane, DemoArgs, SourceFlags};
use crate::control_plane::{ControlPlane, Options};
use crate::exit::Failure;
use crate::logging;
use crate::output;
use crate::serve::stop_signal;
use crate::source_spec::{ConfigSpec, RegistrySpec};

const HEADLESS_FOR: Duration = Duration::from_secs(30);

/// Within which the shop must answer before anybody looks at it.
const READY_WITHIN: Duration = Duration::from_secs(15);

/// Starts everything, shows it, and stops everything.
pub(crate) async fn run(args: DemoArgs) -> Result<(), Failure> {
    let began = Instant::now();
    // Before anything is written or started.
    let envoy = match args.data_plane {
        DataPlane::Sidecar => None,
        DataPlane::Envoy => Some(envoy_program(&args)?),
    };
    let plan = Plan::pick(args.port)
        .map_err(|error| Failure::conflict(error).help("stop what uses the port, or choose another with --port"))?;
    let dir = match args.dir.clone() {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("xebec-demo-{}", std::process::id())),
    };
    let written = write_config(&plan, &dir).map_err(Failure::conflict)?;
    output::note(&format!("configuration: {}", written.layout.dir.display()));
    for kept in &written.kept {
        output::note(&format!("kept as it was: {}", kept.display()));
    }
    let draws = !args.headless && xebec_demo::draws();
    let log = draws.then(|| written.layout.log());
    let logs_in_file = match &log {
        Some(path) => {
            let error = |error| Failure::conflict(format!("{} cannot be written: {error}", path.display()));
            let guard = logging::to_file(path).map_err(error)?;
            output::note(&format!("log: {}", path.display()));
            Some(guard)
        }
        None => None,
    };
    let shop = Shop::start(&plan).await.map_err(Failure::conflict)?;
    let plane = ControlPlane::start(Options {
        sources: SourceFlags {
            config: vec![ConfigSpec::Path(written.layout.rules.clone())],
            registry: vec![RegistrySpec::File(written.layout.services.clone())],
            settings: None,
            mesh_config: None,
        },
        patience: None,
        xds_addr: plan.control[0],
        http_addr: plan.control[1],
    })
    .await?;
    output::note(&format!("gateway: http://{}   control plane: http://{}", plan.gateway, plane.http_addr));
    let proxies = Proxies::start(envoy, &plan, &plane, &written.layout)?;

    let stop = CancellationToken::new();
    let signal = {
        let stop = stop.clone();
        tokio::spawn(async move {
            let outcome = stop_signal().await;
            stop.cancel();
            outcome
        })
    };
    let outcome = if args.headless {
        headless(&args, &plan, &written.layout, &shop, began, &stop).await
    } else {
        let log = Log { path: log.as_deref(), last: &logging::last_problem };
        view(&args, &plan, &written, &shop, &proxies, log, &stop).await
    };
    signal.abort();
    proxies.stop().await;
    plane.stop().await;
    drop(logs_in_file);
    if args.dir.is_none() {
        leave(&written.layout, &plan, &outcome);
    }
    outcome
}

/// Removes a directory that nobody asked for and that holds nothing of the user's, or says where it is.
fn leave(layout: &Layout, plan: &Plan, outcome: &Result<(), Failure>) {
    let well = outcome.as_ref().err().is_none_or(|failure| failure.code() == crate::exit::INTERRUPTED);
    if well && layout.is_untouched(plan) && std::fs::remove_dir_all(&layout.dir).is_ok() {
        return;
    }
    let dir = layout.dir.display();
    output::note(&format!("the files are kept in {dir}; `xebec demo --dir {dir}` uses them again"));
}

/// The Envoy to run, which is one.
fn envoy_program(args: &DemoArgs) -> Result<PathBuf, Failure> {
    let program = bootstrap::find_envoy(args.envoy.as_deref());
    program.and_then(|program| bootstrap::envoy_version(&program).map(|_| program)).map_err(|error| match error {
        LaunchError::NotFound | LaunchError::NotRunnable { .. } => Failure::not_found(error),
        _ => Failure::conflict(error),
    })
}

async fn headless(
    args: &DemoArgs,
    plan: &Plan,
    layout: &Layout,
    shop: &Shop,
    began: Instant,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let options = HeadlessOptions {
        duration: args.run_for.unwrap_or(HEADLESS_FOR),
        rate: f64::from(args.rate),
        began,
        ..HeadlessOptions::new(layout.clone())
    };
    let summary = run_headless(plan, &options, shop.stats(), stop).await;
    output::line(&summary.to_string())?;
    if summary.interrupted {
        return Err(Failure::interrupted());
    }
    if summary.passed() { Ok(()) } else { Err(Failure::finding("not every expectation held")) }
}

async fn view(
    args: &DemoArgs,
    plan: &Plan,
    written: &Written,
    shop: &Shop,
    proxies: &Proxies,
    log: Log<'_>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    // Rules that the user has written may leave a version out, or answer everybody with an error.
    let fresh = written.kept.is_empty();
    let until = if fresh { Until::EveryVersion } else { Until::FirstAnswer };
    let seen = tokio::select! {
        seen = ready(plan.gateway, until, Instant::now() + READY_WITHIN) => seen,
        lost = proxies.first_lost() => return Err(Failure::conflict(lost)),
        () = stop.cancelled() => return Ok(()),
    };
    if !seen.is_ready() {
        let what = format!("the shop does not answer within {} s: {}", READY_WITHIN.as_secs(), seen.last_failure);
        if fresh {
            let failure = Failure::timed_out(what);
            return Err(match log.path {
                Some(path) => failure.help(format!("the reason may be in {}", path.display())),
                None => failure,
            });
        }
        tracing::warn!("{what}; it is shown as it is, because its rules were edited");
    }
    if let Some(time) = args.run_for {
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            stop.cancel();
        });
    }
    let load =
        Load::start(LoadOptions { rate: f64::from(args.rate), ..LoadOptions::gentle(plan.gateway) }, shop.stats());
    let outcome = run_view(plan, &written.layout, &shop.stats(), &load, stop, log).await;
    load.finish().await;
    outcome.map_err(|error| Failure::conflict(format!("cannot write to the terminal: {error}")))
}

/// The proxies of one demo, of either data plane.
enum Proxies {
    Sidecars(Vec<SidecarHandle>),
    Envoys(Envoys),
}

/// Envoy processes, each of them watched.
struct Envoys {
    watchers: Vec<tokio::task::JoinHandle<()>>,
    /// Ends all of them.
    end: CancellationToken,
    lost: Arc<Lost>,
}

/// The first Envoy that ended by itself.
#[derive(Default)]
struct Lost {
    text: OnceLock<String>,
    told: CancellationToken,
}

/// One proxy to start.
struct Member {
    node: NodeConfig,
    admin: std::net::SocketAddr,
}

// === impl Proxies ===

impl Proxies {
    /// Starts sidecars, or `envoy` as often.
    fn start(envoy: Option<PathBuf>, plan: &Plan, plane: &ControlPlane, layout: &Layout) -> Result<Self, Failure> {
        let server = ServerAddress::from(plane.xds_addr);
        let members = members(plan);
        match envoy {
            None => {
                let start = |member: Member| {
                    let config = SidecarConfig {
                        admin_addr: member.admin,
                        drain_time: Duration::from_secs(2),
                        ..SidecarConfig::new(member.node, server.clone())
                    };
                    Sidecar::start(config).map_err(Failure::conflict)
                };
                members.into_iter().map(start).collect::<Result<_, _>>().map(Self::Sidecars)
            }
            Some(envoy) => {
                let logs = layout.dir.join("envoy");
                std::fs::create_dir_all(&logs)
                    .map_err(|e| Failure::conflict(format!("cannot make {}: {e}", logs.display())))?;
                let (end, lost) = (CancellationToken::new(), Arc::<Lost>::default());
                let start = |member: Member| {
                    let name = member.node.name.clone();
                    let options = BootstrapOptions { admin: member.admin, ..BootstrapOptions::new(server.clone()) };
                    let text = bootstrap::envoy(&member.node, &options).to_string();
                    let file = logs.join(format!("{name}.json"));
                    std::fs::write(&file, text)
                        .map_err(|e| Failure::conflict(format!("cannot write {}: {e}", file.display())))?;
                    let log_path = logs.join(format!("{name}.log"));
                    let log = std::fs::File::create(&log_path)
                        .map_err(|e| Failure::conflict(format!("cannot write into {}: {e}", logs.display())))?;
                    let child = Command::new(&envoy)
                        .arg("-c")
                        .arg(&file)
                        .args(["--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "2", "-l", "warning"])
                        .stdin(Stdio::null())
                        .stdout(Stdio::null())
                        .stderr(log)
                        // Ctrl-C is for us; we stop them in order.
                        .process_group(0)
                        .kill_on_drop(true)
                        .spawn()
                        .map_err(|e| Failure::conflict(format!("cannot start {}: {e}", envoy.display())))?;
                    Ok(tokio::spawn(watch(child, name, log_path, end.clone(), lost.clone())))
                };
                let watchers = members.into_iter().map(start).collect::<Result<_, _>>()?;
                Ok(Self::Envoys(Envoys { watchers, end, lost }))
            }
        }
    }

    async fn stop(self) {
        match self {
            Self::Sidecars(sidecars) => {
                let stopping: Vec<_> = sidecars.into_iter().map(|s| tokio::spawn(s.drain_and_stop())).collect();
                for stopped in stopping {
                    // A sidecar whose task failed has stopped as well.
                    let _ = stopped.await;
                }
            }
            Self::Envoys(Envoys { watchers, end, .. }) => {
                end.cancel();
                for watcher in watchers {
                    // One whose task failed was killed as it was dropped.
                    let _ = watcher.await;
                }
            }
        }
    }

    /// Which proxy ended by itself first, and where its log is; waits for one.
    async fn first_lost(&self) -> String {
        if let Self::Envoys(Envoys { lost, .. }) = self {
            lost.told.cancelled().await;
            return lost.text.get().cloned().unwrap_or_default();
        }
        std::future::pending().await
    }
}

/// Waits for one Envoy's end: ours, which kills it, or its own, which is a problem.
async fn watch(mut child: Child, name: String, log: PathBuf, end: CancellationToken, lost: Arc<Lost>) {
    let status = tokio::select! {
        status = child.wait() => status,
        () = end.cancelled() => {
            // One that has ended already is what we want.
            let _ = child.kill().await;
            return;
        }
    };
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let text = format!("the Envoy of {name} has ended by itself ({how}); its log is {}", log.display());
    tracing::error!("{text}");
    let _ = lost.text.set(text);
    lost.told.cancel();
}

/// Every instance's sidecar, and the gateway.
fn members(plan: &Plan) -> Vec<Member> {
    let local = std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST);
    let mut members: Vec<Member> = plan
        .instances
        .iter()
        .map(|instance| {
            let mut node = NodeConfig::new(NodeKind::Sidecar, instance.name(), "default");
            node.ips = vec![local];
            node.service_account = Some(instance.service.name().to_owned());
            node.labels = instance.labels().into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            node.meta = [("HTTP_PROXY_PORT".to_owned(), instance.outbound.port().to_string())].into();
            Member { node, admin: instance.admin }
        })
        .collect();
    let mut node = NodeConfig::new(NodeKind::Router, "gateway", "default");
    node.ips = vec![local];
    node.labels = [("app".to_owned(), "gateway".to_owned())].into();
    members.push(Member { node, admin: plan.gateway_admin });
    members
}
