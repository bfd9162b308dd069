//! Consul as a registry: who is watched, what is known, and what is told to the mesh.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use xebec_adapter_client::{Client, ClientError};
use xebec_pilot::model::{RegistryId, ServiceKey};
use xebec_pilot::registry::{Registry, RegistryEvent, RegistrySink, SinkClosed};

use crate::catalogue::{Catalogue, Source};
use crate::datacenters;
use crate::plan::wanted;
use crate::settings::Settings;
use crate::watch::{self, Message, Origin, Shared};
use crate::wire::Names;
use xebec_pilot::registry::Skip;

/// How many messages become one change at most.
const BATCH: usize = 1024;

/// Services of a Consul datacenter, or of several.
#[derive(Debug)]
pub struct ConsulRegistry {
    id: RegistryId,
    settings: Settings,
    client: Client,
}

/// One run.
struct Run {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    catalogue: Catalogue,
    known: FxHashMap<Source, Known>,
    /// Datacenters whose names are followed, with what of the names was skipped.
    datacenters: BTreeMap<Option<Arc<str>>, Vec<Skip>>,
    /// What has to be read before the first listing is complete; `None` when it is.
    missing: Option<HashSet<Origin>>,
    troubles: BTreeMap<Origin, String>,
    /// What was last said about troubles.
    degraded: Option<String>,
    /// Services that are gone, in the order of their end.
    gone: VecDeque<(Instant, Source)>,
    /// Services that instances have joined and none joins any more, and when they end.
    left: BTreeMap<(Source, ServiceKey), Instant>,
    sink: RegistrySink,
}

/// A service that was in the catalog.
#[derive(Debug)]
struct Known {
    /// `None` once it is gone.
    watch: Option<AbortHandle>,
    listed: bool,
    empty: bool,
    /// Counts how often it was gone, so that an old end does not end a new life.
    gone_at: Option<Instant>,
}

// === impl ConsulRegistry ===

impl ConsulRegistry {
    /// A registry of the Consul that the settings name. Connects when it runs.
    ///
    /// # Errors
    /// [`ClientError::Settings`] for an address, a certificate file or another setting that cannot be used.
    pub fn new(id: RegistryId, settings: Settings) -> Result<Self, ClientError> {
        let client = settings.client()?;
        Ok(Self { id, settings, client })
    }
}

#[async_trait]
impl Registry for ConsulRegistry {
    fn id(&self) -> RegistryId {
        self.id.clone()
    }

    async fn run(self: Box<Self>, sink: RegistrySink, stop: CancellationToken) {
        let (out, messages) = mpsc::channel(BATCH);
        let shared = Arc::new(Shared::new(self.settings, self.id, self.client, out));
        let run = Run {
            shared,
            tasks: JoinSet::new(),
            catalogue: Catalogue::default(),
            known: FxHashMap::default(),
            datacenters: BTreeMap::new(),
            missing: Some(HashSet::from([Origin::Datacenters])),
            troubles: BTreeMap::new(),
            degraded: None,
            gone: VecDeque::new(),
            left: BTreeMap::new(),
            sink,
        };
        // Either way there is nobody left to report to; the tasks end with the set that holds them.
        let _ = stop.run_until_cancelled(run.forever(messages)).await;
    }
}

// === impl Run ===

impl Run {
    async fn forever(mut self, mut messages: mpsc::Receiver<Message>) -> Result<(), SinkClosed> {
        if self.shared.settings.datacenters.is_empty() {
            self.find(vec![None]);
        } else {
            self.tasks.spawn(datacenters::follow(Arc::clone(&self.shared)));
        }
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let end = self.gone.front().map(|(at, _)| *at).into_iter().chain(self.left.values().copied()).min();
            tokio::select! {
                _ = messages.recv_many(&mut batch, BATCH) => {}
                () = async { match end { Some(end) => sleep_until(end).await, None => std::future::pending().await } } => {}
                // Tasks that ended are forgotten; those that watch end only when they are told to.
                Some(_) = self.tasks.join_next() => continue,
            }
            self.take(&mut batch).await?;
        }
    }

    /// Makes one change of many messages.
    async fn take(&mut self, batch: &mut Vec<Message>) -> Result<(), SinkClosed> {
        let mut events = Vec::new();
        let mut arrivals = Vec::new();
        for message in batch.drain(..) {
            match message {
                Message::Datacenters(list) => self.find(list),
                Message::Names { datacenter, names, whole } => self.names(datacenter, &names, whole),
                Message::Service { source, empty, contributions, arrived } => {
                    arrivals.push(arrived);
                    let left = self.catalogue.put(&source, contributions, &mut events);
                    self.leave(&source, left);
                    self.read(&Origin::Service(source.clone()));
                    if let Some(known) = self.known.get_mut(&source) {
                        known.empty = empty;
                    }
                    self.end_if_gone(&source);
                }
                Message::Fine(origin) => drop(self.troubles.remove(&origin)),
                Message::Trouble(origin, text) => {
                    // A watch that was dropped may have said this last.
                    if self.is_watched(&origin) {
                        self.troubles.insert(origin, text);
                    }
                }
            }
        }
        self.bury(&mut events);
        if self.missing.as_ref().is_some_and(HashSet::is_empty) {
            self.missing = None;
            info!(registry = %self.shared.registry, services = self.known.len(), "the first listing is complete");
            events.push(RegistryEvent::Synced);
        }
        self.health(&mut events);
        if !events.is_empty() {
            self.sink.send(events).await?;
        }
        for arrived in arrivals {
            self.shared.meters.lag(arrived.elapsed());
        }
        Ok(())
    }

    /// Follows datacenters that are new. One that is not in the list any more may be unreachable: it is still followed.
    fn find(&mut self, list: Vec<Option<Arc<str>>>) {
        for datacenter in list {
            if !self.datacenters.contains_key(&datacenter) {
                if let Some(missing) = &mut self.missing {
                    missing.insert(Origin::Names(datacenter.clone()));
                }
                self.datacenters.insert(datacenter.clone(), Vec::new());
                self.tasks.spawn(watch::names(Arc::clone(&self.shared), datacenter));
            }
        }
        self.read(&Origin::Datacenters);
    }

    /// Watches the services that are new in the list, and lets go of those that are neither in it nor have instances.
    fn names(&mut self, datacenter: Option<Arc<str>>, names: &Names, whole: bool) {
        let (wanted, skips) = wanted(&self.shared.settings.services, names);
        if let Some(before) = self.datacenters.get_mut(&datacenter) {
            self.shared.skips.tell("(names)", &skips, before);
            *before = skips;
        }
        if whole {
            let unlisted: Vec<Source> = self
                .known
                .iter()
                .filter(|(source, known)| {
                    known.listed && source.datacenter == datacenter && !wanted.contains(&source.name)
                })
                .map(|(source, _)| source.clone())
                .collect();
            for source in unlisted {
                if let Some(known) = self.known.get_mut(&source) {
                    known.listed = false;
                }
                self.end_if_gone(&source);
            }
        }
        for name in wanted {
            let source = Source { datacenter: datacenter.clone(), name };
            match self.known.get_mut(&source) {
                Some(known) if known.watch.is_some() => known.listed = true,
                _ => self.watch(source),
            }
        }
        if whole {
            self.read(&Origin::Names(datacenter));
        }
    }

    fn watch(&mut self, source: Source) {
        if let Some(missing) = &mut self.missing {
            missing.insert(Origin::Service(source.clone()));
        }
        let task = self.tasks.spawn(watch::service(Arc::clone(&self.shared), source.clone()));
        let known = Known { watch: Some(task), listed: true, empty: false, gone_at: None };
        self.known.insert(source, known);
    }

    /// A service that left the list and has no instances is not watched any more: some versions of Consul wake the polls of missing
    /// services with every change of others.
    fn end_if_gone(&mut self, source: &Source) {
        let Some(known) = self.known.get_mut(source).filter(|known| !known.listed && known.empty) else { return };
        let Some(watch) = known.watch.take() else { return };
        watch.abort();
        let keep: Duration = self.shared.settings.keep_empty.into();
        let at = Instant::now() + keep;
        known.gone_at = Some(at);
        self.gone.push_back((at, source.clone()));
        let origin = Origin::Service(source.clone());
        self.troubles.remove(&origin);
        self.read(&origin);
    }

    /// Removes what has been gone for long enough.
    fn bury(&mut self, events: &mut Vec<RegistryEvent>) {
        let now = Instant::now();
        while let Some((at, source)) = self.gone.pop_front_if(|(at, _)| *at <= now) {
            // It may have come back, and gone again.
            if self.known.get(&source).is_some_and(|known| known.gone_at == Some(at)) {
                self.known.remove(&source);
                self.catalogue.remove(&source, events);
                self.left.retain(|(of, _), _| *of != source);
            }
        }
        let catalogue = &mut self.catalogue;
        self.left.retain(|(source, key), at| {
            if *at <= now {
                catalogue.forget(source, key, events);
            }
            *at > now
        });
    }

    /// These are the services that the instances of a source have left, as of now.
    fn leave(&mut self, source: &Source, left: Vec<ServiceKey>) {
        self.left.retain(|(of, key), _| of != source || left.contains(key));
        let keep: Duration = self.shared.settings.keep_empty.into();
        let at = Instant::now() + keep;
        for key in left {
            self.left.entry((source.clone(), key)).or_insert(at);
        }
    }

    fn read(&mut self, origin: &Origin) {
        if let Some(missing) = &mut self.missing {
            missing.remove(origin);
        }
    }

    fn is_watched(&self, origin: &Origin) -> bool {
        match origin {
            Origin::Datacenters | Origin::Names(_) => true,
            Origin::Service(source) => self.known.get(source).is_some_and(|known| known.watch.is_some()),
        }
    }

    /// Says when the registry becomes degraded, why, and when it recovers.
    fn health(&mut self, events: &mut Vec<RegistryEvent>) {
        let address = self.shared.client.address();
        let now = self.troubles.iter().next().map(|(origin, text)| match origin {
            Origin::Names(Some(datacenter)) => format!("Consul at {address}, datacenter {datacenter}: {text}"),
            _ => format!("Consul at {address}: {text}"),
        });
        if now == self.degraded {
            return;
        }
        let registry = &self.shared.registry;
        match &now {
            Some(text) => {
                // The catalog logs it.
                debug!(%registry, troubles = self.troubles.len(), "degraded: {text}");
                events.push(RegistryEvent::Degraded(text.clone()));
            }
            None => {
                info!(%registry, "it is read again");
                events.push(RegistryEvent::Recovered);
            }
        }
        self.degraded = now;
    }
}
