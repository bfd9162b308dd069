//! The engine: the one writer of the mesh. Platforms and configuration in, published shapes out.
//!
//! A single thread owns the state. It takes everything that is waiting, applies it as one change, and publishes at once: there is no
//! timer, and what arrives meanwhile is the next change. Readers see the mesh through an atomic pointer and are never waited for.
//!
//! The way of a change: [`state`] applies it and gets a [`ChangeSet`](crate::mesh::ChangeSet); [`dirty`] names the hosts that it touches
//! in each [`part`]; the part computes those again; [`live`] publishes what came out different.
//!
//! - ALWAYS: what is published equals what a computation from nothing would give.
//! - ALWAYS: a change that leaves every hash equal publishes nothing.
//! - NEVER: a proxy is served before every registry and configuration source has listed completely once, unless one takes longer than
//!   the operator's patience ([`EngineOptions::patience`]).

mod debug;
pub mod dirty;
pub mod live;
mod meters;
pub mod part;
pub mod pool;
mod readiness;
pub mod state;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use xebec_galley::ConfigEvent;
use xebec_galley::spec::MeshConfig;

use crate::catalog::RegistryStatus;
use crate::mesh::Mesh;
use crate::model::RegistryId;
use crate::proxy::Proxy;
use crate::registry::{RegistrySink, Said, SinkClosed};
use crate::xds::shape::{AttachError, ShapeLease, Shapes};
use readiness::Readiness;
pub use state::Documents;
use writer::{Command, Inputs, Writer};

pub use live::translate_once;

/// How the engine is started.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Settings of the whole mesh.
    pub settings: Arc<MeshConfig>,
    /// The cluster's DNS domain, with which short names are expanded.
    pub domain: Arc<str>,
    /// How long after the start proxies wait for registries and configuration sources that have not listed completely. After that the
    /// mesh is served without what these have not said; what they say later simply applies. `None` waits for ever.
    pub patience: Option<Duration>,
}

/// Starts the engine.
#[derive(Debug)]
pub struct Engine;

/// A running engine. Cloneable; the engine ends when every handle and sink is dropped.
#[derive(Clone)]
pub struct EngineHandle {
    registries: mpsc::Sender<Said>,
    tickets: Arc<AtomicU64>,
    configs: mpsc::Sender<(Arc<str>, ConfigInput)>,
    commands: mpsc::UnboundedSender<Command>,
    published: Arc<Published>,
    readiness: Arc<Readiness>,
}

/// One thing that a configuration source says.
#[derive(Debug, Clone, PartialEq)]
pub enum ConfigInput {
    /// Changes that become visible together.
    Events(Vec<ConfigEvent>),
    /// The first reading is complete.
    Synced,
}

/// Where a configuration source says its changes. Applies back-pressure when the mesh is behind.
#[derive(Debug, Clone)]
pub struct ConfigSink {
    name: Arc<str>,
    sender: mpsc::Sender<(Arc<str>, ConfigInput)>,
}

/// What readers see of the engine.
#[derive(Debug)]
pub(crate) struct Published {
    pub mesh: ArcSwap<Mesh>,
    pub registries: ArcSwap<BTreeMap<RegistryId, RegistryStatus>>,
    pub documents: ArcSwap<Documents>,
}

/// The engine has stopped.
#[derive(Debug, thiserror::Error)]
#[error("the control plane has stopped")]
pub struct EngineStopped;

/// Batches that may wait before a source is made to wait.
const QUEUE: usize = 256;

// === impl EngineOptions ===

impl Default for EngineOptions {
    fn default() -> Self {
        Self { settings: Arc::default(), domain: "cluster.local".into(), patience: None }
    }
}

// === impl Engine ===

impl Engine {
    /// Starts the engine on a thread of its own: what it computes must not hold up the sockets' tasks. Must be called within a
    /// Tokio runtime.
    ///
    /// Take a sink for every registry and configuration source before proxies can connect: the engine is ready when
    /// every sink that was taken has said that it is synced.
    pub fn start(options: EngineOptions) -> EngineHandle {
        let (registries, registry_events) = mpsc::channel(QUEUE);
        let (configs, config_events) = mpsc::channel(QUEUE);
        let (commands, command_events) = mpsc::unbounded_channel();
        let state = state::State::new(options.settings, &options.domain);
        let published = Arc::new(Published {
            mesh: ArcSwap::new(Arc::clone(&state.mesh)),
            registries: ArcSwap::default(),
            documents: ArcSwap::default(),
        });
        let readiness = Arc::new(Readiness::default());
        let writer = Writer::new(state, Arc::clone(&published), Arc::clone(&readiness), commands.downgrade());
        let runtime = tokio::runtime::Handle::current();
        let inputs = Inputs { registries: registry_events, configs: config_events, commands: command_events };
        if let Some(patience) = options.patience {
            let commands = commands.downgrade();
            runtime.spawn(async move {
                tokio::time::sleep(patience).await;
                if let Some(commands) = commands.upgrade() {
                    // When the engine has stopped nobody waits.
                    let _ = commands.send(Command::GiveUp);
                }
            });
        }
        std::thread::spawn(move || runtime.block_on(writer.run(inputs)));
        EngineHandle { registries, tickets: Arc::default(), configs, commands, published, readiness }
    }
}

// === impl EngineHandle ===

impl EngineHandle {
    /// Where the registry of that name says its events. The engine is not ready before it has said `Synced`.
    pub fn registry_sink(&self, id: RegistryId) -> RegistrySink {
        self.readiness.expect(format!("registry {id}"));
        self.late_registry_sink(id)
    }

    /// As [`EngineHandle::registry_sink`], for a registry that is added while the mesh is served: readiness does not wait for it.
    pub fn late_registry_sink(&self, id: RegistryId) -> RegistrySink {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        // Told before any event can be: the registry is listed even while it has said nothing.
        let _ = self.commands.send(Command::Expect(id.clone(), ticket));
        RegistrySink::ticketed(id, ticket, self.registries.clone())
    }

    /// Forgets a registry: everything that it registered goes, as one change. Its sinks are not heard any more; a new one may be
    /// taken.
    ///
    /// # Errors
    /// [`EngineStopped`] when it has.
    pub fn remove_registry(&self, id: &RegistryId) -> Result<(), EngineStopped> {
        // Here and not in the writer, so that a sink that is taken next is waited for.
        self.readiness.synced(&format!("registry {id}"));
        self.commands.send(Command::Remove(id.clone())).map_err(|_| EngineStopped)
    }

    /// Where the configuration source of that name says its changes. The engine is not ready before it has said `synced`.
    pub fn config_sink(&self, name: &str) -> ConfigSink {
        self.readiness.expect(format!("configuration {name}"));
        self.late_config_sink(name)
    }

    /// As [`EngineHandle::config_sink`], for a source that is added while the mesh is served: readiness does not wait for it.
    pub fn late_config_sink(&self, name: &str) -> ConfigSink {
        ConfigSink { name: name.into(), sender: self.configs.clone() }
    }

    /// Changes the settings of the whole mesh.
    ///
    /// # Errors
    /// [`EngineStopped`] when it has.
    pub fn set_settings(&self, settings: Arc<MeshConfig>) -> Result<(), EngineStopped> {
        self.commands.send(Command::Settings(settings)).map_err(|_| EngineStopped)
    }

    /// The mesh at this moment.
    pub fn mesh(&self) -> Arc<Mesh> {
        self.published.mesh.load_full()
    }

    /// What is known about every registry.
    pub fn registries(&self) -> Arc<BTreeMap<RegistryId, RegistryStatus>> {
        self.published.registries.load_full()
    }

    /// All configuration that is in force.
    pub fn documents(&self) -> Arc<Documents> {
        self.published.documents.load_full()
    }

    /// Gives connected proxies their shapes.
    pub fn shapes(&self) -> Arc<dyn Shapes> {
        Arc::new(self.clone())
    }

    /// Whether every registry and configuration source has listed completely, or is not waited for any longer.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// What has not listed completely, in words, whether proxies still wait for it or not.
    pub fn waiting_for(&self) -> Vec<String> {
        self.readiness.waiting_for()
    }

    /// Returns when [`EngineHandle::is_ready`].
    pub async fn wait_ready(&self) {
        self.readiness.wait().await;
    }

    /// Waits until everything that was said to the engine before has become visible.
    ///
    /// # Errors
    /// [`EngineStopped`] when it has.
    pub async fn settled(&self) -> Result<(), EngineStopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Settle(reply)).map_err(|_| EngineStopped)?;
        answer.await.map_err(|_| EngineStopped)
    }

    /// Pages about registries, endpoints and configuration, under istiod's paths.
    pub fn debug_router(&self) -> axum::Router {
        debug::router(Arc::clone(&self.published))
    }
}

#[async_trait]
impl Shapes for EngineHandle {
    async fn attach(&self, proxy: Arc<Proxy>) -> Result<ShapeLease, AttachError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Attach(proxy, reply)).map_err(|_| AttachError::Stopping)?;
        answer.await.map_err(|_| AttachError::Stopping)
    }
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle").field("ready", &self.is_ready()).finish_non_exhaustive()
    }
}

// === impl ConfigSink ===

impl ConfigSink {
    /// Says several changes as one: they become visible together.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody listens any more.
    pub async fn send(&self, events: Vec<ConfigEvent>) -> Result<(), SinkClosed> {
        self.say(ConfigInput::Events(events)).await
    }

    /// Says that the first reading is complete.
    ///
    /// # Errors
    /// As [`ConfigSink::send`].
    pub async fn synced(&self) -> Result<(), SinkClosed> {
        self.say(ConfigInput::Synced).await
    }

    async fn say(&self, input: ConfigInput) -> Result<(), SinkClosed> {
        self.sender.send((Arc::clone(&self.name), input)).await.map_err(|_| SinkClosed)
    }
}
