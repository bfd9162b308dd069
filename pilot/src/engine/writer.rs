//! The engine's thread: takes everything that is waiting, commits it as one change, answers who asked.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};
use xebec_galley::spec::MeshConfig;

use super::live::LeaseId;
use super::readiness::Readiness;
use super::state::State;
use super::{ConfigInput, Published};
use crate::mesh::ChangeSet;
use crate::model::RegistryId;
use crate::proxy::Proxy;
use crate::registry::RegistryEvent;
use crate::xds::shape::ShapeLease;

/// What handles ask of the writer.
#[derive(Debug)]
pub(super) enum Command {
    /// A registry will speak.
    Expect(RegistryId),
    /// New settings.
    Settings(Arc<MeshConfig>),
    /// A proxy has connected.
    Attach(Arc<Proxy>, oneshot::Sender<ShapeLease>),
    /// A proxy is gone.
    Detach(LeaseId),
    /// Answer when everything before has become visible.
    Settle(oneshot::Sender<()>),
}

type RegistryInput = (RegistryId, Vec<RegistryEvent>);
type NamedConfig = (Arc<str>, ConfigInput);

/// The one owner of the state.
pub(super) struct Writer {
    state: State,
    published: Arc<Published>,
    readiness: Arc<Readiness>,
    commands: mpsc::WeakUnboundedSender<Command>,
    /// Proxies that connected before the engine was ready.
    waiting: Vec<(Arc<Proxy>, oneshot::Sender<ShapeLease>)>,
    /// Sources that said in this round that they have listed completely.
    synced: Vec<String>,
    settling: Vec<oneshot::Sender<()>>,
}

/// Says on drop that the proxy is gone.
struct Gone {
    id: LeaseId,
    commands: mpsc::WeakUnboundedSender<Command>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.upgrade() {
            // When the engine has stopped there is nothing to tidy up.
            let _ = commands.send(Command::Detach(self.id));
        }
    }
}

// === impl Writer ===

impl Writer {
    pub fn new(
        state: State,
        published: Arc<Published>,
        readiness: Arc<Readiness>,
        commands: mpsc::WeakUnboundedSender<Command>,
    ) -> Self {
        Self { state, published, readiness, commands, waiting: Vec::new(), synced: Vec::new(), settling: Vec::new() }
    }

    /// Runs until every handle and sink is dropped.
    pub async fn run(
        mut self,
        mut registries: mpsc::Receiver<RegistryInput>,
        mut configs: mpsc::Receiver<NamedConfig>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        loop {
            tokio::select! {
                Some(input) = registries.recv() => self.registry(input),
                Some(input) = configs.recv() => self.config(input),
                Some(command) = commands.recv() => self.command(command),
                else => return,
            }
            let since = Instant::now();
            // Whatever else is waiting becomes part of the same change. Commands first: a request to settle is answered only after
            // everything that was queued before it, and that is still in the other queues now.
            while let Ok(command) = commands.try_recv() {
                self.command(command);
            }
            while let Ok(input) = registries.try_recv() {
                self.registry(input);
            }
            while let Ok(input) = configs.try_recv() {
                self.config(input);
            }
            self.publish(since);
        }
    }

    fn registry(&mut self, (id, events): RegistryInput) {
        if events.contains(&RegistryEvent::Synced) {
            self.synced.push(format!("registry {id}"));
        }
        self.state.registry(&id, events, SystemTime::now());
    }

    fn config(&mut self, (name, input): NamedConfig) {
        match input {
            ConfigInput::Events(events) => self.state.config(events),
            ConfigInput::Synced => self.synced.push(format!("configuration {name}")),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Expect(id) => self.state.catalog.expect_registry(id),
            Command::Settings(settings) => self.state.settings(settings),
            Command::Attach(proxy, reply) => self.waiting.push((proxy, reply)),
            Command::Detach(id) => self.state.live.detach(id),
            Command::Settle(reply) => self.settling.push(reply),
        }
    }

    fn publish(&mut self, since: Instant) {
        let change = self.state.commit(since);
        self.published.mesh.store(Arc::clone(&self.state.mesh));
        if **self.published.registries.load() != *self.state.catalog.registries() {
            self.published.registries.store(Arc::new(self.state.catalog.registries().clone()));
        }
        if !self.published.documents.load().ptr_eq(&self.state.documents) {
            self.published.documents.store(Arc::new(self.state.documents.clone()));
        }
        if !change.is_empty() {
            self.measure(&change, since);
        }
        for source in std::mem::take(&mut self.synced) {
            self.readiness.synced(&source);
        }
        if self.readiness.is_ready() {
            for (proxy, reply) in std::mem::take(&mut self.waiting) {
                if reply.is_closed() {
                    continue;
                }
                let (lease, id) = self.state.live.attach(&self.state.mesh, proxy);
                // If nobody takes it any more, dropping the lease says so.
                let _ = reply.send(lease.with_guard(Gone { id, commands: self.commands.clone() }));
            }
        } else {
            self.waiting.retain(|(_, reply)| !reply.is_closed());
        }
        for reply in std::mem::take(&mut self.settling) {
            let _ = reply.send(());
        }
    }

    fn measure(&self, change: &ChangeSet, since: Instant) {
        let mesh = &self.state.mesh;
        metrics::gauge!("pilot_services").set(mesh.host_count() as f64);
        metrics::gauge!("pilot_virt_services").set(mesh.virtual_service_count() as f64);
        metrics::histogram!("pilot_pushcontext_init_seconds").record(since.elapsed().as_secs_f64());
        let config = !change.virtual_services.is_empty()
            || !change.destination_rules.is_empty()
            || !change.gateways.is_empty()
            || !change.sidecars.is_empty();
        for (kind, happened) in [
            ("service", !change.services.is_empty()),
            ("endpoint", !change.endpoints.is_empty()),
            ("config", config),
            ("global", change.settings),
        ] {
            if happened {
                metrics::counter!("pilot_push_triggers", "type" => kind).increment(1);
            }
        }
        let work = self.state.live.work;
        tracing::debug!(
            services = change.services.len(),
            endpoints = change.endpoints.len(),
            virtual_services = change.virtual_services.len(),
            destination_rules = change.destination_rules.len(),
            translated_hosts = work.hosts,
            micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX),
            "published a change"
        );
    }
}
