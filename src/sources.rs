//! Everything that a control plane reads: platforms register services, stores and directories say configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use xebec_adapter_consul::{ConsulRegistry, KvSource};
use xebec_adapter_file::FileRegistry;
use xebec_adapter_kubernetes::{KubernetesRegistry, ManifestRegistry};
use xebec_adapter_nomad::{NomadRegistry, VariablesSource};
use xebec_galley::ConfigEvent;
use xebec_galley::source::{DirectorySource, Join, LogWindow, SourceUpdate};
use xebec_pilot::engine::{ConfigSink, EngineHandle};
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::Registry;
use xebec_pilot::xds::status::Streams;

use crate::cli::SourceFlags;
use crate::exit::Failure;
use crate::kubernetes;
use crate::settings::Settings;
use crate::source_spec::{ConfigSpec, RegistrySpec};
use crate::tasks::Tasks;

/// The name of the source that reads every path.
const FILES: &str = "files";

/// What a running source does until it is stopped.
type Reading = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of configuration that is not running yet.
struct Source {
    /// Its name in readiness and logs.
    name: String,
    start: Box<dyn FnOnce(mpsc::Sender<SourceUpdate>, CancellationToken) -> Reading + Send>,
}

/// Says now, and not by an empty mesh, that a path is not there.
pub(crate) fn check(sources: &SourceFlags) -> Result<(), Failure> {
    let present = |path: &Path, flag: &str| {
        if path.exists() {
            return Ok(());
        }
        Err(Failure::not_found(format!("{flag} {}: no such file or directory", path.display()))
            .help("create it, or correct the path"))
    };
    for spec in &sources.config {
        match spec {
            ConfigSpec::Path(path) => present(path, "--config")?,
            ConfigSpec::Kubernetes(cluster) => {
                cluster.kubeconfig.as_deref().map_or(Ok(()), |path| present(path, "--config"))?;
            }
            ConfigSpec::Consul { .. } | ConfigSpec::Nomad { .. } => {}
        }
    }
    for spec in &sources.registry {
        match spec {
            RegistrySpec::File(path) => present(path, "--registry")?,
            RegistrySpec::Kubernetes(cluster) => {
                cluster.kubeconfig.as_deref().map_or(Ok(()), |path| present(path, "--registry"))?;
            }
            RegistrySpec::Consul(_) | RegistrySpec::Nomad(_) => {}
        }
    }
    Ok(())
}

/// Starts every registry and every source of configuration. `changed` is told when configuration has changed.
pub(crate) async fn start(
    sources: &SourceFlags,
    settings: &Settings,
    engine: &EngineHandle,
    streams: Arc<Streams>,
    changed: Arc<Notify>,
    tasks: &Tasks,
) -> Result<(), Failure> {
    let domain = settings.domain(sources)?;
    let mut registries = platforms(sources, settings)?;
    for path in paths(sources) {
        registries.push(Box::new(FileRegistry::new(path.clone())));
        registries.push(Box::new(ManifestRegistry::new(path).with_domain(&domain)));
    }
    for registry in registries {
        let sink = engine.registry_sink(registry.id());
        tasks.register(registry, sink);
    }
    let mut holders = BTreeSet::new();
    for spec in &sources.registry {
        if let RegistrySpec::Kubernetes(cluster) = spec
            && holders.insert(spec.to_string())
        {
            let holder = RegistryId(spec.to_string().into());
            kubernetes::follow_remote_clusters(holder, settings.kubernetes(cluster), engine, tasks);
        }
    }
    let configuration = configuration(sources, settings, streams, engine, tasks).await?;
    read_configuration(configuration, engine, changed, tasks);
    Ok(())
}

/// Starts every source of configuration, as [`start`] does, with `files` in the place of what paths say. Nothing is written back.
pub(crate) async fn start_stores(
    sources: &SourceFlags,
    settings: &Settings,
    files: Vec<ConfigEvent>,
    engine: &EngineHandle,
    tasks: &Tasks,
) -> Result<(), Failure> {
    let mut settings = settings.clone();
    for cluster in &mut settings.kubernetes_config {
        (cluster.status, cluster.webhook) = (false, None);
    }
    let mut configuration = configuration(sources, &settings, Arc::default(), engine, tasks).await?;
    if let Some(paths) = configuration.iter_mut().find(|source| source.name == FILES) {
        let update = SourceUpdate { events: files, synced: true, ..SourceUpdate::default() };
        *paths = Source::new(FILES.to_owned(), |updates, stop| async move {
            // Whoever does not listen any more needs nothing.
            let _ = updates.send(update).await;
            stop.cancelled().await;
        });
    }
    read_configuration(configuration, engine, Arc::default(), tasks);
    Ok(())
}

/// The paths that the flags name, each once: two registries of one place would register every service twice, or, with one
/// id, overwrite what the other says. Services are read from directories of configuration as well.
pub(crate) fn paths(sources: &SourceFlags) -> Vec<PathBuf> {
    let registries = sources.registry.iter().filter_map(|spec| match spec {
        RegistrySpec::File(path) => Some(path),
        _ => None,
    });
    let configs = sources.config.iter().filter_map(|spec| match spec {
        ConfigSpec::Path(path) => Some(path),
        _ => None,
    });
    let mut known = BTreeSet::new();
    let new = |path: &&PathBuf| known.insert(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
    registries.chain(configs).filter(new).cloned().collect()
}

/// The platforms that the flags name, not running yet. Files are not among them.
pub(crate) fn platforms(sources: &SourceFlags, settings: &Settings) -> Result<Vec<Box<dyn Registry>>, Failure> {
    let mut registries: Vec<Box<dyn Registry>> = Vec::new();
    let mut known = BTreeSet::new();
    for spec in &sources.registry {
        let name = spec.to_string();
        if !known.insert(name.clone()) {
            continue;
        }
        let id = RegistryId(name.as_str().into());
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("--registry {name}: {error}")).help("correct the settings of this platform")
        };
        registries.push(match spec {
            RegistrySpec::File(_) => continue,
            RegistrySpec::Kubernetes(cluster) => Box::new(KubernetesRegistry::new(id, settings.kubernetes(cluster))),
            RegistrySpec::Consul(address) => {
                Box::new(ConsulRegistry::new(id, settings.consul(address)).map_err(|e| unusable(&e))?)
            }
            RegistrySpec::Nomad(address) => {
                Box::new(NomadRegistry::new(id, settings.nomad(address)).map_err(|e| unusable(&e))?)
            }
        });
    }
    Ok(registries)
}

/// The sources of configuration that the flags name, in their order; all paths are one.
async fn configuration(
    sources: &SourceFlags,
    settings: &Settings,
    streams: Arc<Streams>,
    engine: &EngineHandle,
    tasks: &Tasks,
) -> Result<Vec<Source>, Failure> {
    let mut found: Vec<Source> = Vec::new();
    let paths: Vec<PathBuf> = sources
        .config
        .iter()
        .filter_map(|spec| if let ConfigSpec::Path(path) = spec { Some(path.clone()) } else { None })
        .collect();
    let mut paths = (!paths.is_empty()).then_some(paths);
    for spec in &sources.config {
        let name = spec.to_string();
        if found.iter().any(|known| known.name == name) {
            continue;
        }
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("--config {name}: {error}")).help("correct the settings of this platform")
        };
        match spec {
            ConfigSpec::Path(_) => {
                let Some(paths) = paths.take() else { continue };
                found.push(Source::new(FILES.to_owned(), |updates, stop| async move {
                    if let Err(error) = DirectorySource::new(paths).run(updates, stop.cancelled_owned()).await {
                        tracing::error!(%error, "configuration files are not watched; raise fs.inotify limits and start again");
                    }
                }));
            }
            ConfigSpec::Consul { address, prefix } => {
                let source = KvSource::new(settings.consul(address), prefix).map_err(|e| unusable(&e))?;
                found.push(Source::new(name, |updates, stop| source.run(updates, stop.cancelled_owned())));
            }
            ConfigSpec::Nomad { address, prefix } => {
                let source = VariablesSource::new(settings.nomad(address), prefix).map_err(|e| unusable(&e))?;
                found.push(Source::new(name, |updates, stop| source.run(updates, stop.cancelled_owned())));
            }
            ConfigSpec::Kubernetes(cluster) => {
                let settings = settings.kubernetes_config(cluster);
                let source = kubernetes::configuration(&settings, Arc::clone(&streams), engine, tasks).await?;
                found.push(Source::new(name.clone(), |updates, stop| async move {
                    if let Err(error) = source.run(updates, stop.cancelled_owned()).await {
                        tracing::error!(%error, "configuration from {name} is not read");
                    }
                }));
            }
        }
    }
    Ok(found)
}

/// Runs the sources, and says to the engine what they say together.
fn read_configuration(sources: Vec<Source>, engine: &EngineHandle, changed: Arc<Notify>, tasks: &Tasks) {
    let (joined, mut updates) = mpsc::channel::<(usize, SourceUpdate)>(16);
    let mut sinks: Vec<(ConfigSink, LogWindow, bool)> = Vec::new();
    for (place, source) in sources.into_iter().enumerate() {
        sinks.push((engine.config_sink(&source.name), LogWindow::new(), false));
        let (sender, mut own) = mpsc::channel::<SourceUpdate>(16);
        tasks.spawn(&format!("the configuration of {}", source.name), (source.start)(sender, tasks.stop().clone()));
        let joined = joined.clone();
        tokio::spawn(async move {
            while let Some(update) = own.recv().await {
                if joined.send((place, update)).await.is_err() {
                    return;
                }
            }
        });
    }
    tokio::spawn(async move {
        let mut join = Join::new();
        while let Some((place, update)) = updates.recv().await {
            let update = join.take(place, update);
            let Some((sink, log, synced)) = sinks.get_mut(place) else { continue };
            log.log(&update.diagnostics);
            let mut outcome = Ok(());
            if !update.events.is_empty() {
                outcome = sink.send(update.events).await;
            }
            if outcome.is_ok() && update.synced && !*synced {
                *synced = true;
                outcome = sink.synced().await;
            }
            if outcome.is_err() {
                return;
            }
            changed.notify_one();
        }
    });
}

// === impl Source ===

impl Source {
    fn new<F: Future<Output = ()> + Send + 'static>(
        name: String,
        start: impl FnOnce(mpsc::Sender<SourceUpdate>, CancellationToken) -> F + Send + 'static,
    ) -> Self {
        Self { name, start: Box::new(|updates, stop| Box::pin(start(updates, stop))) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_directory_that_is_named_twice_is_one_registry() {
        let home = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| home.path().join(name));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        let sources = SourceFlags {
            config: vec![ConfigSpec::Path(a.clone()), ConfigSpec::Path(b.clone()), ConfigSpec::Path(a.join("."))],
            registry: vec![RegistrySpec::File(b.clone()), RegistrySpec::File(a.clone())],
            settings: None,
            mesh_config: None,
        };
        assert_eq!(paths(&sources), [b, a]);
    }
}
