//! The engine's thread: takes everything that is waiting, commits it as one change, answers who asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};
use xebec_galley::spec::MeshConfig;

use super::live::LeaseId;
use super::meters;
use super::readiness::Readiness;
use super::state::State;
use super::{ConfigInput, Published};
use crate::mesh::ChangeSet;
use crate::model::RegistryId;
use crate::proxy::Proxy;
use crate::registry::{RegistryEvent, Said, Ticket};
use crate::xds::shape::ShapeLease;

/// What handles ask of the writer.
#[derive(Debug)]
pub(super) enum Command {
    /// A registry will speak, through a sink with this ticket.
    Expect(RegistryId, Ticket),
    /// A registry is gone, with everything that it registered.
    Remove(RegistryId),
    /// The operator's patience is at its end.
    GiveUp,
    /// New settings.
    Settings(Arc<MeshConfig>),
    /// A proxy has connected.
    Attach(Arc<Proxy>, oneshot::Sender<ShapeLease>),
    /// A proxy is gone.
    Detach(LeaseId),
    /// Answer when everything before has become visible.
    Settle(oneshot::Sender<()>),
}

type NamedConfig = (Arc<str>, ConfigInput);

/// What the writer listens to.
pub(super) struct Inputs {
    pub registries: mpsc::Receiver<Said>,
    pub configs: mpsc::Receiver<NamedConfig>,
    pub commands: mpsc::UnboundedReceiver<Command>,
}

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
    /// Whose events are heard.
    tickets: HashMap<RegistryId, BTreeSet<Ticket>>,
    /// Whatever has not listed completely after this round is not waited for.
    out_of_patience: bool,
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
        Self {
            state,
            published,
            readiness,
            commands,
            waiting: Vec::new(),
            synced: Vec::new(),
            settling: Vec::new(),
            tickets: HashMap::new(),
            out_of_patience: false,
        }
    }

    /// Runs until every handle and sink is dropped.
    pub async fn run(mut self, inputs: Inputs) {
        let Inputs { mut registries, mut configs, mut commands } = inputs;
        loop {
            let (mut said, mut configured) = (None, None);
            tokio::select! {
                Some(input) = registries.recv() => said = Some(input),
                Some(input) = configs.recv() => configured = Some(input),
                Some(command) = commands.recv() => self.command(command),
                else => return,
            }
            let since = Instant::now();
            // Whatever else is waiting becomes part of the same change. Commands first: a request to settle is answered only after
            // everything that was queued before it, and that is still in the other queues now.
            self.commands(&mut commands);
            if let Some(input) = said {
                self.registry(input, &mut commands);
            }
            if let Some(input) = configured {
                self.config(input);
            }
            while let Ok(input) = registries.try_recv() {
                self.registry(input, &mut commands);
            }
            while let Ok(input) = configs.try_recv() {
                self.config(input);
            }
            self.publish(since);
        }
    }

    fn commands(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        while let Ok(command) = commands.try_recv() {
            self.command(command);
        }
    }

    fn registry(&mut self, Said { id, ticket, events }: Said, commands: &mut mpsc::UnboundedReceiver<Command>) {
        let unknown = |writer: &Self| writer.tickets.get(&id).is_none_or(|heard| !heard.contains(&ticket));
        // A registry is expected before it speaks, but in another queue: it may have begun in the middle of this round.
        if unknown(self) {
            self.commands(commands);
        }
        if unknown(self) {
            return;
        }
        if events.contains(&RegistryEvent::Synced) {
            self.synced.push(format!("registry {id}"));
        }
        meters::count(&id, &events);
        self.state.registry(&id, events, SystemTime::now());
    }

    /// Proxies have waited long enough.
    fn give_up(&mut self) {
        for source in self.readiness.give_up() {
            let registries = self.state.catalog.registries();
            let status = source.strip_prefix("registry ").and_then(|id| registries.get(&RegistryId(id.into())));
            let reason = status.and_then(|s| s.degraded.as_deref()).unwrap_or("it has not listed completely yet");
            tracing::warn!(%source, %reason, "not waited for any longer: proxies are served without what it has not said");
        }
    }

    fn config(&mut self, (name, input): NamedConfig) {
        match input {
            ConfigInput::Events(events) => self.state.config(events),
            ConfigInput::Synced => self.synced.push(format!("configuration {name}")),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Expect(id, ticket) => {
                self.tickets.entry(id.clone()).or_default().insert(ticket);
                self.state.catalog.expect_registry(id);
            }
            Command::Remove(id) => {
                if self.tickets.remove(&id).is_some() {
                    meters::forget(&id);
                    self.state.catalog.remove_registry(&id);
                }
            }
            Command::GiveUp => self.out_of_patience = true,
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
            let before = self.published.registries.load();
            for (id, status) in self.state.catalog.registries() {
                if before.get(id) != Some(status) {
                    meters::state(id, status);
                }
            }
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
        if std::mem::take(&mut self.out_of_patience) {
            self.give_up();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_registry_that_begins_to_speak_in_the_middle_of_a_round_is_heard_and_one_that_was_removed_is_not() {
        let state = State::new(Arc::default(), "cluster.local");
        let published = Arc::new(Published {
            mesh: arc_swap::ArcSwap::new(Arc::clone(&state.mesh)),
            registries: arc_swap::ArcSwap::default(),
            documents: arc_swap::ArcSwap::default(),
        });
        let (sender, mut commands) = mpsc::unbounded_channel();
        let mut writer = Writer::new(state, published, Arc::default(), sender.downgrade());
        let id = RegistryId("file:late".into());
        let said = || Said { id: id.clone(), ticket: 7, events: vec![RegistryEvent::Synced] };
        // The round has looked through the commands already.
        sender.send(Command::Expect(id.clone(), 7)).unwrap();
        writer.registry(said(), &mut commands);
        assert_eq!(std::mem::take(&mut writer.synced), ["registry file:late"]);
        sender.send(Command::Remove(id.clone())).unwrap();
        writer.commands(&mut commands);
        writer.registry(said(), &mut commands);
        assert!(writer.synced.is_empty());
    }
}
