//! Follows resources of an API server, one task each: list, then watch, for as long as it takes.
//!
//! The listing is streamed (`sendInitialEvents`) where the server can, and paged where it cannot. After an interruption the watch goes
//! on where it was; where the server no longer knows that place, everything is listed again and compared.
//!
//! - ALWAYS: what a listing did not name is gone only when the listing was complete.
//! - ALWAYS: a connection that is silent for too long is made again; the server marks its place about once a minute.
//! - ALWAYS: a server that has stopped answering is noticed within seconds, and so is its return: [`Pulse`].
//! - NEVER: an error, a broken answer or an end is taken for a deletion.

mod pulse;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use rustc_hash::FxHashSet;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};
use xebec_pilot::registry::Meters;

use crate::connect::{ConnectError, Connector};
use crate::object::{Key, Kind, Names, Object};
pub(crate) use pulse::Pulse;
use wire::{Line, Lines, Read};

/// Patience.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Until an answer begins.
    pub(crate) answer: Duration,
    /// Between two lines of a listing, or parts of a page.
    pub(crate) idle: Duration,
    /// Between two lines of a watch.
    pub(crate) silence: Duration,
    /// The first pause after a failure; it doubles.
    pub(crate) first_pause: Duration,
    /// The longest pause.
    pub(crate) longest_pause: Duration,
    /// After this time without a line, a watch that was made again has said what was missed.
    pub(crate) caught_up: Duration,
    /// When nothing was heard of the server for so long, it is asked whether it lives.
    pub(crate) quiet: Duration,
    /// How long its answer to that may take.
    pub(crate) sign_of_life: Duration,
    /// The longest pause between two such questions while it does not answer.
    pub(crate) longest_absence: Duration,
}

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Resource {
    pub(crate) kind: Kind,
    /// `None` for all namespaces.
    pub(crate) namespace: Option<Arc<str>>,
    /// A label selector, as it is written in a URL.
    pub(crate) labels: Option<&'static str>,
}

/// What a follower says. Each names its resource.
#[derive(Debug)]
pub(crate) enum News {
    /// An object is there.
    Put(Key, Object),
    /// An object is gone.
    Gone(Key),
    /// A listing is complete: these are all.
    Listed(FxHashSet<Key>),
    /// The resource cannot be read.
    Trouble(Trouble),
    /// The resource is read, and everything missed was said.
    Fine,
}

/// One piece of news, and when it arrived.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) resource: Arc<Resource>,
    pub(crate) news: News,
    pub(crate) arrived: Instant,
}

/// Why a resource cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("the API server cannot be reached: {text}")]
    Unreachable { text: String },
    #[error("the API server does not accept the credentials (401): {text}; renew the token or certificate")]
    Unauthorized { text: String },
    #[error("not allowed to {verb} {resource} (403): {text}; grant the verbs get, list and watch on it")]
    Forbidden { verb: &'static str, resource: &'static str, text: String },
    #[error("the API server does not know {resource} (404): {text}")]
    Unknown { resource: &'static str, text: String },
    #[error("the API server is busy ({code}): {text}; it is asked again later")]
    Busy { code: u16, text: String, pause: Option<Duration> },
    #[error("the API server does not know this place of the watch any more ({code}): {text}")]
    Expired { code: u16, text: String },
    #[error("the API server refuses the request ({code}): {text}")]
    Refused { code: u16, text: String },
    #[error("the API server's answer cannot be used: {text}")]
    Broken { text: String },
    #[error("{text}")]
    NoClient { text: String },
}

/// Follows one resource.
pub(crate) struct Follower {
    pub(crate) resource: Arc<Resource>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) names: Arc<Mutex<Names>>,
    pub(crate) notes: mpsc::Sender<Note>,
    pub(crate) meters: Meters,
    pub(crate) timing: Timing,
    /// Whether the server streams listings.
    streams: bool,
    /// Where the watch goes on.
    version: Option<String>,
    /// Whether trouble was said and not yet its end.
    troubled: bool,
}

/// Nobody listens any more.
struct Closed;

/// Why a round ended.
enum End {
    Closed,
    /// It is over in good order, and the next round begins at once.
    Clean,
    Trouble(Trouble),
}

// === impl Timing ===

impl Default for Timing {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            silence: Duration::from_secs(100),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            caught_up: Duration::from_millis(200),
            quiet: Duration::from_secs(3),
            // Less than a connection may take: the text then says what matters.
            sign_of_life: Duration::from_secs(4),
            longest_absence: Duration::from_secs(1),
        }
    }
}

// === impl Trouble ===

impl Trouble {
    fn of_status(code: u16, text: String, kind: Kind, verb: &'static str, pause: Option<Duration>) -> Self {
        let resource = kind.resource();
        match code {
            401 => Self::Unauthorized { text },
            403 => Self::Forbidden { verb, resource, text },
            404 => Self::Unknown { resource, text },
            410 => Self::Expired { code, text },
            429 | 500..=599 => Self::Busy { code, text, pause },
            code => Self::Refused { code, text },
        }
    }
}

impl Trouble {
    /// Whether others may well be read although this one is not, and the text does not name it.
    fn is_of_one_resource(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Expired { .. } | Self::Refused { .. } | Self::Broken { .. })
    }
}

impl From<Arc<ConnectError>> for Trouble {
    fn from(error: Arc<ConnectError>) -> Self {
        Self::NoClient { text: error.to_string() }
    }
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

// === impl Resource ===

impl Resource {
    fn path(&self, query: &str) -> String {
        let path = self.kind.path(self.namespace.as_deref());
        match self.labels {
            Some(labels) => format!("{path}?{query}&labelSelector={labels}"),
            None => format!("{path}?{query}"),
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.resource())?;
        match &self.namespace {
            Some(namespace) => write!(f, " of {namespace}"),
            None => Ok(()),
        }
    }
}

// === impl Follower ===

impl Follower {
    pub(crate) fn new(
        resource: Resource,
        connector: Arc<Connector>,
        pulse: Arc<Pulse>,
        names: Arc<Mutex<Names>>,
        notes: mpsc::Sender<Note>,
        meters: Meters,
        timing: Timing,
    ) -> Self {
        Self {
            resource: Arc::new(resource),
            connector,
            pulse,
            names,
            notes,
            meters,
            timing,
            streams: true,
            version: None,
            troubled: false,
        }
    }

    /// Follows the resource until nobody listens.
    pub(crate) async fn run(mut self) {
        let mut pause = self.timing.first_pause;
        let mut replaced = self.connector.replaced();
        let pulse = Arc::clone(&self.pulse);
        let mut gone = pulse.subscribe();
        loop {
            let begun = Instant::now();
            replaced.mark_unchanged();
            gone.mark_unchanged();
            let end = tokio::select! {
                end = self.round() => end.unwrap_or_else(|end| end),
                // Other credentials may lead to another server: its places are not this one's.
                Ok(()) = replaced.changed() => {
                    self.version = None;
                    End::Clean
                }
                // Whatever the watch of a server that was away would still say, it says again from here.
                trouble = lost(&mut gone) => End::Trouble(trouble),
            };
            let calm = begun.elapsed() > Duration::from_secs(1);
            if calm {
                pause = self.timing.first_pause;
            }
            let mut wait = Duration::ZERO;
            match end {
                End::Closed => return,
                // A server that ends every watch at once is not asked in a tight loop.
                End::Clean if calm => {}
                End::Clean => wait = pause,
                End::Trouble(Trouble::Expired { code, text }) if self.version.is_some() => {
                    info!("{}: listed again, the watch's place is gone ({code}): {text}", self.resource);
                    self.version = None;
                    wait = self.timing.first_pause;
                }
                End::Trouble(Trouble::Refused { code: code @ (400 | 422), text })
                    if self.streams && self.version.is_none() =>
                {
                    info!("{}: the server does not stream listings ({code}): {text}", self.resource);
                    self.streams = false;
                }
                End::Trouble(trouble) => {
                    match trouble {
                        Trouble::Unauthorized { .. } => self.connector.refused(),
                        Trouble::Unreachable { .. } => pulse.suspect(),
                        _ => {}
                    }
                    wait = match trouble {
                        Trouble::Busy { pause: Some(asked), .. } => pause.max(asked.min(Duration::from_secs(60))),
                        _ => pause,
                    };
                    if !self.troubled {
                        debug!("{}: {trouble}", self.resource);
                    }
                    self.troubled = true;
                    if self.say(News::Trouble(trouble)).await.is_err() {
                        return;
                    }
                }
            }
            if !wait.is_zero() {
                // Full jitter above a floor: after an outage, nobody comes back with everybody.
                let jittered = wait.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::select! {
                    () = patience(jittered, self.timing.longest_pause, gone.clone()) => {}
                    () = returned(gone.clone()) => {}
                    () = self.notes.closed() => return,
                    Ok(()) = replaced.changed() => self.version = None,
                }
                pause = (pause * 2).min(self.timing.longest_pause);
            }
        }
    }

    async fn say(&self, news: News) -> Result<(), Closed> {
        let note = Note { resource: Arc::clone(&self.resource), news, arrived: Instant::now() };
        self.notes.send(note).await.map_err(|_| Closed)
    }

    async fn fine(&mut self) -> Result<(), Closed> {
        if self.troubled {
            self.troubled = false;
            self.meters.reconnected();
            self.say(News::Fine).await?;
        }
        Ok(())
    }

    /// One connection: lists if nothing is known yet, then watches until the connection ends.
    async fn round(&mut self) -> Result<End, End> {
        if self.version.is_none() && !self.streams {
            self.list_pages().await?;
        }
        let client = self.connector.client().await.map_err(Trouble::from)?;
        // Within the server's own range, so that it is the server who ends it.
        let seconds = rand::rng().random_range(240..300);
        let query = match &self.version {
            Some(version) => {
                format!("resourceVersion={version}&allowWatchBookmarks=true&watch=1&timeoutSeconds={seconds}")
            }
            None => format!(
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&watch=1&timeoutSeconds={seconds}"
            ),
        };
        let path = self.resource.path(&query);
        let body = wire::ask(&client, &path, self.resource.kind, "watch", self.timing).await?;
        self.pulse.heard();
        let mut lines = Lines::new(body);
        let mut listing = self.version.is_none().then(FxHashSet::default);
        loop {
            let mut batch = Vec::new();
            {
                let mut names = self.names.lock();
                while batch.len() < 256
                    && let Some(text) = lines.ready()
                {
                    if !text.is_empty() {
                        batch.push(wire::line(&text, self.resource.kind, &mut names));
                    }
                }
            }
            if batch.is_empty() {
                let patience = match &listing {
                    Some(_) => self.timing.idle,
                    None if self.troubled => self.timing.caught_up,
                    None => self.timing.silence,
                };
                match timeout(patience, lines.more()).await {
                    Ok(Ok(true)) => self.pulse.heard(),
                    Ok(Ok(false)) if listing.is_some() => {
                        return Err(
                            Trouble::Broken { text: "a listing ended before it was complete".to_owned() }.into()
                        );
                    }
                    Ok(Ok(false)) => return Ok(End::Clean),
                    Ok(Err(trouble)) => return Err(trouble.into()),
                    Err(_) if listing.is_some() => {
                        let text = format!("a listing has stopped for {} s", patience.as_secs_f32());
                        return Err(Trouble::Unreachable { text }.into());
                    }
                    Err(_) if self.troubled => self.fine().await?,
                    Err(_) => {
                        debug!("{}: silent for {} s, connected again", self.resource, patience.as_secs());
                        return Ok(End::Clean);
                    }
                }
                continue;
            }
            for read in batch {
                self.take(read?, &mut listing).await?;
            }
        }
    }

    /// Takes one line.
    async fn take(&mut self, read: Read, listing: &mut Option<FxHashSet<Key>>) -> Result<(), End> {
        let Read { line, version, misfit } = read;
        if let (Some(misfit), Line::Put(key, _)) = (&misfit, &line) {
            warn!("{} {key} cannot be read: {misfit}; what was known of it stays in effect", self.resource);
            self.meters.skipped("unreadable_object");
        }
        match line {
            Line::Put(key, object) => {
                if let Some(named) = listing {
                    named.insert(key.clone());
                }
                if let Some(object) = object {
                    self.meters.notified(true);
                    self.say(News::Put(key, object)).await?;
                }
            }
            Line::Gone(key) => {
                if let Some(named) = listing {
                    named.remove(&key);
                }
                self.meters.notified(true);
                self.say(News::Gone(key)).await?;
            }
            Line::Mark { end } => {
                self.meters.notified(false);
                if end && let Some(named) = listing.take() {
                    self.say(News::Listed(named)).await?;
                    self.version = Some(version);
                    self.fine().await?;
                    return Ok(());
                }
            }
        }
        // A listing that breaks off begins anew: its objects come in no order.
        if listing.is_none() && !version.is_empty() {
            self.version = Some(version);
        }
        Ok(())
    }

    /// Lists by pages, for servers that do not stream.
    async fn list_pages(&mut self) -> Result<(), End> {
        let mut named = FxHashSet::default();
        let mut more: Option<String> = None;
        loop {
            let client = self.connector.client().await.map_err(Trouble::from)?;
            let query = match &more {
                Some(token) => format!("limit=500&continue={}", encoded(token)),
                None => "limit=500".to_owned(),
            };
            let path = self.resource.path(&query);
            let body = wire::ask(&client, &path, self.resource.kind, "list", self.timing).await?;
            let page = wire::page(body, self.resource.kind, &self.names, self.timing).await?;
            let mut listing = Some(std::mem::take(&mut named));
            for read in page.items {
                self.take(read, &mut listing).await?;
            }
            named = listing.unwrap_or_default();
            more = page.more;
            if more.is_none() {
                self.say(News::Listed(named)).await?;
                self.version = Some(page.version);
                self.fine().await?;
                return Ok(());
            }
        }
    }
}

/// Returns when the server is found to be gone, and why.
async fn lost(gone: &mut watch::Receiver<Option<Trouble>>) -> Trouble {
    loop {
        if gone.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(trouble) = gone.borrow_and_update().clone() {
            return trouble;
        }
    }
}

/// Returns when the server, gone now or soon, is back.
async fn returned(mut gone: watch::Receiver<Option<Trouble>>) {
    let was_gone = gone.wait_for(Option::is_some).await.is_ok();
    if !was_gone || gone.wait_for(Option::is_none).await.is_err() {
        std::future::pending().await
    }
}

/// Waits for a while, and longer while the server is known to be gone; not for ever, as who knows that may be wrong.
async fn patience(pause: Duration, longest: Duration, mut gone: watch::Receiver<Option<Trouble>>) {
    sleep(pause).await;
    let _ = timeout(longest, gone.wait_for(Option::is_none)).await;
}

/// What every resource is troubled by, as one text for an operator: each trouble once, with the resources that have it.
pub(crate) fn summary(troubles: &BTreeMap<Arc<Resource>, Trouble>) -> Option<String> {
    if troubles.is_empty() {
        return None;
    }
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (resource, trouble) in troubles {
        let of = texts.entry(trouble.to_string()).or_default();
        if trouble.is_of_one_resource() {
            of.push(resource.to_string());
        }
    }
    Some(
        texts
            .into_iter()
            .map(|(text, of)| if of.is_empty() { text } else { format!("{text} ({})", of.join(", ")) })
            .collect::<Vec<_>>()
            .join("; "),
    )
}

/// A token, for a URL.
fn encoded(token: &str) -> String {
    let mut text = String::with_capacity(token.len());
    for byte in token.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
