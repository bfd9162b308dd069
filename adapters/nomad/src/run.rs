//! The registry's life: open the streams, list, follow; and when that ends, again.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, interval_at, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};
use xebec_adapter_client::{Backoff, ClientError};
use xebec_pilot::registry::{Meters, RegistryEvent, RegistrySink, SinkClosed, Skips};

use crate::checks::{self, Results};
use crate::doubt::{Doubt, Verdict};
use crate::feed::{self, FeedError, Position, Said};
use crate::heard::Heard;
use crate::listing::{Names, Reader, Unread};
use crate::mirror::{Mirror, Skipped};
use crate::wire::Node;

/// How many events become one change of the mesh at most.
const AT_ONCE: usize = 1024;
/// How long a resumed stream may take to repeat its last event.
const REPEATED_WITHIN: Duration = Duration::from_secs(1);
/// Pauses between attempts to reach the agent.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A session that lived this long has ended as connections do, and the next one is opened at once.
const STEADY: Duration = Duration::from_secs(5);
/// Pauses between looks at a list that is not believed yet, or that lacks something that cannot be read.
const LONGEST_DOUBT: Duration = Duration::from_secs(30);
/// How often blocking queries list everything at most, and at least: nothing wakes them for allocations and nodes.
const POLLS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Closed(#[from] SinkClosed),
}

/// One run of a registry.
pub(crate) struct Run {
    reader: Reader,
    mirror: Mirror,
    meters: Meters,
    skips: Skips,
    sink: RegistrySink,
    /// Where each scope's stream was last.
    positions: Vec<Option<Position>>,
    /// Something was lost or could not be read: only a listing helps.
    must_list: bool,
    /// Since when the state is complete and current.
    live: Option<Instant>,
    synced: bool,
    degraded: Option<String>,
    warned_of_nodes: bool,
    /// For the task that asks for checks: which allocations run.
    running: watch::Sender<Vec<Arc<str>>>,
    results: mpsc::Receiver<Results>,
    _checks: Option<AbortOnDropHandle<()>>,
}

/// The open streams of a session.
struct Streams {
    said: mpsc::Receiver<Said>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

// === impl Run ===

impl Run {
    pub(crate) fn new(reader: Reader, mirror: Mirror, meters: Meters, sink: RegistrySink) -> Self {
        let (running, wanted) = watch::channel(Vec::new());
        let (sender, results) = mpsc::channel(64);
        let polls = reader.settings.checks.poll_interval.0 > Duration::ZERO;
        let checks = polls.then(|| AbortOnDropHandle::new(tokio::spawn(checks::poll(reader.clone(), wanted, sender))));
        Self {
            positions: vec![None; reader.settings.scopes().len()],
            reader,
            mirror,
            skips: Skips::new(meters.clone()),
            meters,
            sink,
            must_list: true,
            live: None,
            synced: false,
            degraded: None,
            warned_of_nodes: false,
            running,
            results,
            _checks: checks,
        }
    }

    /// Runs until nobody listens any more.
    pub(crate) async fn forever(mut self) -> SinkClosed {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            self.live = None;
            let Err(trouble) = self.session().await;
            let live = self.live.take();
            // What streams said before a listing was complete has been taken by nobody.
            self.must_list |= live.is_none();
            if let Trouble::Closed(closed) = trouble {
                return closed;
            }
            if matches!(&trouble, Trouble::Feed(FeedError::Behind | FeedError::Line(_))) {
                self.must_list = true;
            }
            self.meters.reconnected();
            // Something may cut every stream as soon as it is open: without a pause that would be a storm of listings.
            if live.is_some_and(|since| since.elapsed() >= STEADY) {
                // Often the next attempt succeeds at once, and there is nothing to report.
                debug!(registry = self.reader.client.address(), "{trouble}");
                backoff.reset();
                continue;
            }
            let asked = match &trouble {
                Trouble::Client(error) | Trouble::Feed(FeedError::Client(error)) => error.retry_after(),
                _ => None,
            };
            if let Err(closed) = self.degrade(self.explain(&trouble)).await {
                return closed;
            }
            sleep(asked.unwrap_or_default().max(backoff.next())).await;
        }
    }

    fn explain(&self, trouble: &Trouble) -> String {
        let address = self.reader.client.address();
        let error = match trouble {
            Trouble::Client(error) | Trouble::Feed(FeedError::Client(error)) => error,
            other => return format!("Nomad at {address}: {other}"),
        };
        match error {
            // Says the address itself.
            ClientError::Connect { .. } => format!("Nomad: {error}"),
            _ => format!("Nomad at {address}: {}", self.why(error)),
        }
    }

    /// An error, and what helps against it.
    fn why(&self, error: &ClientError) -> String {
        let help = if error.is_permission() {
            if self.reader.settings.namespaces.is_empty() {
                "; reading all namespaces needs a policy with `namespace \"*\" { policy = \"read\" }` (or choose `namespaces` in the settings), \
                 and the token file must hold a token that is valid"
            } else {
                "; the token needs `policy = \"read\"` in each of the chosen namespaces, and must be valid"
            }
        } else {
            ""
        };
        format!("{error}{help}")
    }

    async fn degrade(&mut self, reason: String) -> Result<(), SinkClosed> {
        if self.degraded.as_ref() == Some(&reason) {
            return Ok(());
        }
        self.degraded = Some(reason.clone());
        self.sink.send(vec![RegistryEvent::Degraded(reason)]).await
    }

    /// One connection's life. Ends only with trouble.
    async fn session(&mut self) -> Result<Infallible, Trouble> {
        let head = self.reader.all_names().await?;
        let nodes = self.reader.sees_nodes().await?;
        if !nodes && !self.warned_of_nodes {
            self.warned_of_nodes = true;
            warn!(
                registry = self.reader.client.address(),
                "the token may not read nodes: drained and lost nodes are noticed late, and zones are datacenters; add `node {{ policy = \"read\" }}` to its policy"
            );
        }
        if let Some(region) = self.reader.region().await? {
            self.mirror.set_region(&region);
        }
        let mut streams = match self.open(&head, nodes).await {
            Ok(streams) => streams,
            Err(Trouble::Feed(error @ FeedError::NoSuchVersion)) => {
                warn!(registry = self.reader.client.address(), "{error}");
                return self.poll(nodes).await;
            }
            Err(other) => return Err(other),
        };
        // An index that goes back is another state's: nothing that was said before has a place in it.
        let resumable = !self.must_list && head.index >= self.mirror.index();
        let mut heard = Heard::default();
        if resumable && self.resumed(&mut streams, &mut heard).await? {
            debug!(registry = self.reader.client.address(), "the event stream goes on where it was");
            heard.batches().iter().for_each(|batch| self.mirror.apply(batch, Instant::now()));
            self.settle(None, true).await?;
        } else {
            self.list(Some(&mut streams), heard, nodes, true).await?;
        }
        self.live = Some(Instant::now());
        self.follow(&mut streams, nodes).await
    }

    async fn open(&self, head: &Names, nodes: bool) -> Result<Streams, Trouble> {
        let (sender, said) = mpsc::channel(feed::WAITING);
        let room = Arc::new(Semaphore::new(feed::ROOM));
        let mut tasks = Vec::new();
        for (number, scope) in self.reader.settings.scopes().iter().enumerate() {
            let at = self.positions.get(number).copied().flatten().filter(|_| !self.must_list);
            let index = at.map_or(head.index, |position| position.index);
            tasks.push(
                feed::open(&self.reader, (number, scope), index, nodes, sender.clone(), Arc::clone(&room)).await?,
            );
        }
        Ok(Streams { said, _tasks: tasks })
    }

    /// Whether every stream repeats, first of all, the event that was its last. What they say meanwhile is in `heard`.
    async fn resumed(&mut self, streams: &mut Streams, heard: &mut Heard) -> Result<bool, Trouble> {
        if self.positions.iter().any(Option::is_none) {
            return Ok(false);
        }
        let mut waiting: BTreeSet<usize> = (0..self.positions.len()).collect();
        let deadline = tokio::time::Instant::now() + REPEATED_WITHIN;
        while !waiting.is_empty() {
            let Ok(said) = tokio::time::timeout_at(deadline, streams.said.recv()).await else { return Ok(false) };
            match said {
                Some(Said::Events { scope, batch, room, position, .. }) => {
                    heard.push(batch, room.num_permits());
                    let repeated = self.positions.get(scope).copied().flatten() == Some(position);
                    self.remember(scope, position);
                    if waiting.remove(&scope) && !repeated {
                        return Ok(false);
                    }
                }
                Some(Said::Heartbeat) => {}
                Some(Said::Ended(error)) => return Err(error.into()),
                None => return Err(FeedError::Ended.into()),
            }
        }
        Ok(!heard.is_lost())
    }

    fn remember(&mut self, scope: usize, position: Position) {
        if let Some(slot) = self.positions.get_mut(scope) {
            *slot = Some(position);
        }
    }

    /// Lists everything and compares. What the streams have said and say meanwhile is applied afterwards, where the list is older.
    async fn list(
        &mut self,
        mut streams: Option<&mut Streams>,
        mut heard: Heard,
        nodes: bool,
        interrupted: bool,
    ) -> Result<(), Trouble> {
        let reader = self.reader.clone();
        let known: HashMap<Arc<str>, Node> = self.mirror.nodes().clone();
        let doubt = Doubt::new(self.mirror.populated().cloned().collect(), self.mirror.index(), interrupted);
        let (doubts, mut doubted) = mpsc::channel::<String>(1);
        let work = async move {
            let names = believed(&reader, doubt, nodes, doubts).await?;
            reader.list(names, nodes, &known).await
        };
        let mut work = std::pin::pin!(work);
        let (listing, unread) = loop {
            let said = async {
                match streams.as_mut() {
                    Some(streams) => streams.said.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                listing = &mut work => break listing?,
                Some(doubt) = doubted.recv() => self.degrade(doubt).await?,
                said = said => match said {
                    Some(Said::Events { scope, batch, room, position, at }) => {
                        self.remember(scope, position);
                        if self.live.is_some() {
                            self.mirror.apply(&batch, at);
                            self.settle(Some(at), false).await?;
                        }
                        heard.push(batch, room.num_permits());
                    }
                    Some(Said::Heartbeat) => {}
                    Some(Said::Ended(error)) => { self.must_list = true; return Err(error.into()) }
                    None => return Err(FeedError::Ended.into()),
                },
            }
        };
        let now = Instant::now();
        let read = listing.services.len();
        // A list that is older than what has been applied since would undo it.
        if !(heard.is_lost() && self.live.is_some()) {
            self.mirror.replace(listing, now);
            heard.batches().iter().for_each(|batch| self.mirror.apply(batch, now));
        }
        let lack = self.lack(&unread, read, &heard);
        self.must_list = lack.is_some();
        self.settle(None, lack.is_none()).await?;
        if let Some(lack) = lack {
            self.degrade(lack).await?;
        }
        Ok(())
    }

    /// What keeps a listing from being complete.
    fn lack(&self, unread: &Unread, read: usize, heard: &Heard) -> Option<String> {
        let address = self.reader.client.address();
        if heard.is_lost() {
            return Some(format!(
                "Nomad at {address} said too much while it was listed for all of it to be kept; it is listed again"
            ));
        }
        let (what, error) = unread.first()?;
        let others = match unread.len() - 1 {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let why = self.why(error);
        Some(format!(
            "Nomad at {address}: {what} cannot be read and stays as it was{others} ({read} services were read): {why}"
        ))
    }

    /// Takes what the streams say until one ends.
    async fn follow(&mut self, streams: &mut Streams, nodes: bool) -> Result<Infallible, Trouble> {
        let every = self.reader.settings.resync_interval.0.max(Duration::from_millis(100));
        let mut resync = interval_at(tokio::time::Instant::now() + every, every);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = interval(self.tick());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_DOUBT);
        let mut again = tokio::time::Instant::now() + backoff.next();
        loop {
            tokio::select! {
                said = streams.said.recv() => {
                    let mut next = said;
                    let (mut first, mut ended) = (None, None);
                    for _ in 0..AT_ONCE {
                        match next {
                            Some(Said::Events { scope, batch, position, at, .. }) => {
                                first.get_or_insert(at);
                                self.remember(scope, position);
                                self.mirror.apply(&batch, at);
                            }
                            Some(Said::Heartbeat) => {}
                            Some(Said::Ended(error)) => { ended = Some(error); break }
                            None => { ended = Some(FeedError::Ended); break }
                        }
                        match streams.said.try_recv() {
                            Ok(said) => next = Some(said),
                            Err(_) => break,
                        }
                    }
                    self.settle(first, false).await?;
                    if let Some(error) = ended {
                        return Err(error.into());
                    }
                }
                Some((allocation, results)) = self.results.recv() => {
                    self.mirror.set_checks(&allocation, results);
                    self.settle(None, false).await?;
                }
                _ = tick.tick() => self.tend().await?,
                () = sleep_until(again), if self.must_list => {
                    self.list(Some(streams), Heard::default(), nodes, false).await?;
                    if !self.must_list {
                        backoff.reset();
                    }
                    again = tokio::time::Instant::now() + backoff.next();
                }
                _ = resync.tick() => self.list(Some(streams), Heard::default(), nodes, false).await?,
            }
        }
    }

    /// Follows with blocking queries, where the event stream cannot be used.
    async fn poll(&mut self, nodes: bool) -> Result<Infallible, Trouble> {
        self.list(None, Heard::default(), nodes, true).await?;
        self.live = Some(Instant::now());
        let wait = self.reader.settings.wait.0.clamp(Duration::from_secs(1), POLLS.1);
        loop {
            let begun = Instant::now();
            let index = self.mirror.index();
            let scopes = self.reader.settings.scopes();
            let reader = self.reader.clone();
            let queries = scopes.iter().map(|scope| Box::pin(reader.names(scope, Some(index), wait)));
            let (woken, ..) = futures_util::future::select_all(queries).await;
            woken?;
            while let Ok((allocation, results)) = self.results.try_recv() {
                self.mirror.set_checks(&allocation, results);
            }
            self.list(None, Heard::default(), nodes, false).await?;
            self.tend().await?;
            sleep(POLLS.0.saturating_sub(begun.elapsed())).await;
        }
    }

    fn tick(&self) -> Duration {
        self.reader.settings.keep_empty.0.clamp(Duration::from_millis(100), Duration::from_secs(1))
    }

    /// What is due from time to time.
    async fn tend(&mut self) -> Result<(), SinkClosed> {
        self.mirror.expire(Instant::now(), self.reader.settings.keep_empty.0);
        let running = self.mirror.running();
        self.running.send_if_modified(|known| {
            let changed = *known != running;
            *known = running;
            changed
        });
        self.settle(None, false).await
    }

    /// Says what changed. `complete`: everything that was missed is in.
    async fn settle(&mut self, since: Option<Instant>, complete: bool) -> Result<(), SinkClosed> {
        let (mut events, skipped) = self.mirror.settle();
        for Skipped { name: (namespace, service), now, before } in skipped {
            self.skips.tell(&format!("{namespace}/{service}"), &now, &before);
        }
        if since.is_some() || complete {
            self.meters.notified(!events.is_empty());
        }
        if complete && !self.synced {
            self.synced = true;
            events.push(RegistryEvent::Synced);
        }
        if complete && self.degraded.take().is_some() {
            info!(registry = self.reader.client.address(), "Nomad is read again");
            events.push(RegistryEvent::Recovered);
        }
        if events.is_empty() {
            return Ok(());
        }
        self.sink.send(events).await?;
        if let Some(since) = since {
            self.meters.lag(since.elapsed());
        }
        Ok(())
    }
}

/// The names of services, once they can be believed.
///
/// A whole namespace that vanishes is asked for by name: from lists over all namespaces, those that a token may no longer read are left
/// out without a word.
async fn believed(
    reader: &Reader,
    mut doubt: Doubt,
    nodes: bool,
    doubts: mpsc::Sender<String>,
) -> Result<Names, ClientError> {
    let confirm = reader.settings.confirm_after.0;
    let mut backoff = Backoff::new(confirm, confirm.max(LONGEST_DOUBT));
    loop {
        let names = reader.all_names().await?;
        let verdict = doubt.look(&names);
        let node = if verdict == Verdict::Repeated && nodes { reader.has_ready_node().await? } else { true };
        if verdict == Verdict::Plausible || (verdict == Verdict::Repeated && node) {
            for space in doubt.vanished_namespaces(&names) {
                reader.names(&space, None, Duration::ZERO).await?;
            }
            return Ok(names);
        }
        let reason = if node { "a second look must agree" } else { "no node is ready" };
        let lack = doubt.lack(&names);
        let _ =
            doubts.try_send(format!("Nomad at {} {lack}: {reason} before that is believed", reader.client.address()));
        sleep(backoff.next().max(confirm)).await;
    }
}
