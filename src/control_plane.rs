//! One running control plane: sources and registries into the engine, the engine's shapes out over xDS, and pages about it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use xebec_galley::diagnostic::Diagnostic;
use xebec_galley::spec::MeshConfig;
use xebec_pilot::engine::{Engine, EngineHandle, EngineOptions};
use xebec_pilot::translate::{Note, notes};
use xebec_pilot::xds::{self, XdsServer};

use crate::cli::SourceFlags;
use crate::exit::Failure;
use crate::settings::Settings;
use crate::sources;
use crate::tasks::Tasks;

/// How a control plane is started.
pub(crate) struct Options {
    /// Where configuration and services come from.
    pub(crate) sources: SourceFlags,
    /// How long a source that cannot be read is waited for.
    pub(crate) patience: Option<Duration>,
    /// Address of the xDS server.
    pub(crate) xds_addr: SocketAddr,
    /// Address of the HTTP server.
    pub(crate) http_addr: SocketAddr,
}

/// A running control plane. It runs until [`ControlPlane::stop`].
pub(crate) struct ControlPlane {
    /// Where xDS is served.
    pub(crate) xds_addr: SocketAddr,
    /// Where the pages are served.
    pub(crate) http_addr: SocketAddr,
    /// The engine behind it.
    pub(crate) engine: EngineHandle,
    tasks: Tasks,
    servers: Vec<JoinHandle<()>>,
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Binds both addresses, starts reading, and returns; the first reading goes on meanwhile.
    ///
    /// # Errors
    /// When an address is taken, a source is not there, or the mesh configuration is invalid.
    pub(crate) async fn start(options: Options) -> Result<Self, Failure> {
        sources::check(&options.sources)?;
        let mesh_config = mesh_config(options.sources.mesh_config.as_deref())?;
        let settings = Settings::read(options.sources.settings.as_deref())?;
        settings.check(&options.sources)?;
        let domain = settings.domain(&options.sources)?;
        let (xds_listener, xds_addr) = bind(options.xds_addr, "xDS", "--xds-addr").await?;
        let (http_listener, http_addr) = bind(options.http_addr, "HTTP", "--http-addr").await?;
        let recorder = recorder();
        let tasks = Tasks::default();
        let engine = Engine::start(EngineOptions { settings: mesh_config, domain, patience: options.patience });
        let server = XdsServer::new(engine.shapes(), xds::Options::default());
        sources::start(&options.sources, &settings, &engine, server.streams(), remarks(&engine), &tasks).await?;
        let pages = pages(&engine, &server, recorder);
        let xds = {
            let (server, stop) = (server.clone(), tasks.stop().clone());
            tokio::spawn(async move {
                if let Err(error) = server.serve(xds_listener, stop).await {
                    tracing::error!(%error, "the xDS server has stopped");
                }
            })
        };
        let http = {
            let stop = tasks.stop().clone();
            tokio::spawn(async move {
                let served = axum::serve(http_listener, pages).with_graceful_shutdown(stop.cancelled_owned());
                if let Err(error) = served.await {
                    tracing::error!(%error, "the HTTP server has stopped");
                }
            })
        };
        Ok(Self { xds_addr, http_addr, engine, tasks, servers: vec![xds, http] })
    }

    /// Says goodbye to connected proxies and stops.
    pub(crate) async fn stop(self) {
        self.tasks.stop().cancel();
        for mut server in self.servers {
            // A browser that keeps a connection open must not hold up the exit.
            if tokio::time::timeout(Duration::from_secs(3), &mut server).await.is_err() {
                server.abort();
            }
        }
        self.tasks.finish().await;
    }
}

/// Binds an address, or says what to do about it.
async fn bind(address: SocketAddr, what: &str, flag: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Failure::conflict(format!("cannot listen on {address} for {what}: {error}"))
            .help(format!("stop what uses it, or choose another address with {flag}; port 0 picks a free one"))
    })?;
    let bound = listener.local_addr().map_err(Failure::bug)?;
    Ok((listener, bound))
}

/// Reads the mesh configuration; the defaults are Istio's.
pub(crate) fn mesh_config(path: Option<&Path>) -> Result<Arc<MeshConfig>, Failure> {
    let Some(path) = path else { return Ok(Arc::new(MeshConfig::default().with_defaults())) };
    let name = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::not_found(format!("cannot read the mesh configuration {name}: {error}")))?;
    let read = xebec_galley::read_mesh_config(&name, &bytes);
    for diagnostic in &read.diagnostics {
        crate::output::note(&diagnostic.render(false));
    }
    if read.diagnostics.iter().any(Diagnostic::is_error) {
        return Err(Failure::finding(format!("the mesh configuration {name} is not valid")));
    }
    Ok(Arc::new(read.value.unwrap_or_default().with_defaults()))
}

/// How long changes may follow each other before the mesh is looked through for things that are not done as written.
const REMARKS_AFTER: Duration = Duration::from_secs(1);

/// Logs, beside the way of a change and never on it, what documents say that translation does not do. The returned notifier
/// tells that something has changed.
fn remarks(engine: &EngineHandle) -> Arc<Notify> {
    let changed = Arc::new(Notify::new());
    let (engine, told) = (engine.clone(), Arc::downgrade(&changed));
    tokio::spawn(async move {
        let mut known: BTreeSet<Note> = BTreeSet::new();
        while let Some(changed) = told.upgrade() {
            changed.notified().await;
            drop(changed);
            tokio::time::sleep(REMARKS_AFTER).await;
            if engine.settled().await.is_err() {
                return;
            }
            let now: BTreeSet<Note> = notes(&engine.mesh()).into_iter().collect();
            for note in now.difference(&known) {
                let place = note.origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default();
                tracing::warn!("{place}{}: {}", note.subject, note.text);
            }
            known = now;
        }
    });
    changed
}

fn pages(engine: &EngineHandle, server: &XdsServer, recorder: Option<PrometheusHandle>) -> Router {
    let readiness = engine.clone();
    let ready = move || {
        let engine = readiness.clone();
        async move {
            if engine.is_ready() {
                (StatusCode::OK, "ready\n".to_owned())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: waiting for {}\n", waiting(&engine).join(", ")))
            }
        }
    };
    let metrics = move || {
        let text = recorder.as_ref().map(PrometheusHandle::render).unwrap_or_default();
        async move { ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .merge(engine.debug_router())
        .merge(xds::debug_router(server.streams()))
}

/// What readiness waits for, with the reason where one is known.
pub(crate) fn waiting(engine: &EngineHandle) -> Vec<String> {
    let registries = engine.registries();
    let degraded = |source: &str| {
        registries
            .iter()
            .find(|(id, _)| source == format!("registry {id}"))
            .and_then(|(_, status)| status.degraded.clone())
    };
    engine
        .waiting_for()
        .into_iter()
        .map(|source| match degraded(&source) {
            Some(reason) => format!("{source} ({reason})"),
            None => source,
        })
        .collect()
}

/// Installs the recorder of metrics; `None` when this process has one already.
fn recorder() -> Option<PrometheusHandle> {
    // Istio's dashboards know histograms, and its buckets.
    let seconds = [0.01, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
    let builder = PrometheusBuilder::new().set_buckets(&seconds).ok()?;
    let handle = builder.install_recorder().ok()?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            upkeep.run_upkeep();
        }
    });
    Some(handle)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::source_spec::ConfigSpec;

    #[tokio::test]
    async fn what_cannot_be_read_at_first_is_waited_for_and_said() {
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("rules.yaml");
        std::os::unix::fs::symlink("rules.yaml", &link).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sources = SourceFlags {
            config: vec![ConfigSpec::Path(home.path().to_owned())],
            registry: Vec::new(),
            settings: None,
            mesh_config: None,
        };
        let plane =
            ControlPlane::start(Options { sources, patience: None, xds_addr: any, http_addr: any }).await.unwrap();
        let said = async {
            loop {
                let waiting = waiting(&plane.engine);
                if waiting.iter().filter(|source| source.contains("rules.yaml cannot be read")).count() == 2 {
                    break waiting;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(10), said).await.unwrap();
        // As configuration, as services, and as Kubernetes' manifests.
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(!plane.engine.is_ready());
        std::fs::remove_file(link).unwrap();
        tokio::time::timeout(Duration::from_secs(10), plane.engine.wait_ready()).await.unwrap();
        plane.stop().await;
    }
}
