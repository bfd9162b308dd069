//! One task per list of names and per service: polls, decides what is believed, and says what it means.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use xebec_adapter_client::{Answer, Backoff, Client, ClientError, json};
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::Meters;

use crate::answer::{Head, Polled, Verdict};
use crate::catalogue::Source;
use crate::instances::Instances;
use crate::mapping::{self, Context, Contribution};
use crate::settings::Settings;
use crate::turns::Turns;
use crate::wire::{Names, Row, Untagged};
use xebec_pilot::registry::{Skip, Skips};

/// After so many failures in a row, a success is the end of an outage. Fewer may be Consul's limit of connections, and whoever wakes
/// everybody then runs into it again.
const OUTAGE: u32 = 4;
/// The largest list of names, in bytes. It holds the tags of all instances: a tenant that writes large ones must not hide the others.
const LIST: usize = 256 << 20;

/// What all tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) registry: RegistryId,
    pub(crate) client: Client,
    pub(crate) turns: Turns,
    pub(crate) skips: Skips,
    pub(crate) meters: Meters,
    pub(crate) out: mpsc::Sender<Message>,
    /// Says that an outage is over, to those that rest because of it.
    back: Notify,
    doubts: Doubts,
}

/// What is being read. In this order trouble is told: the more general first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Origin {
    Datacenters,
    Names(Option<Arc<str>>),
    Service(Source),
}

/// What a task says.
#[derive(Debug)]
pub(crate) enum Message {
    /// These datacenters are there; `None` is the agent's own.
    Datacenters(Vec<Option<Arc<str>>>),
    /// The names in a datacenter. Where the list is not whole, what is missing may be there.
    Names { datacenter: Option<Arc<str>>, names: Names, whole: bool },
    /// A service's instances, and when they came.
    Service { source: Source, empty: bool, contributions: Vec<Contribution>, arrived: std::time::Instant },
    /// It is read again.
    Fine(Origin),
    /// It cannot be read, for this reason. What is known of it stays.
    Trouble(Origin, String),
}

/// A loop of polls of one path.
pub(crate) struct Poll {
    shared: Arc<Shared>,
    origin: Origin,
    /// The path and the parameters that are always there, ready for more.
    path: String,
    polled: Polled,
    backoff: Backoff,
    failures: u32,
    disconnected: bool,
    told: Option<String>,
    pass: u64,
}

enum Step {
    Same,
    Changed { answer: Answer, head: Head, arrived: std::time::Instant },
}

/// Whether an empty answer can be believed where ACLs deny by default (without a token, what may not be seen is left out without a word),
/// and where it may not be Consul that answers.
#[derive(Debug, Default)]
struct Doubts {
    last: Mutex<Option<(Instant, bool)>>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(settings: Settings, registry: RegistryId, client: Client, out: mpsc::Sender<Message>) -> Self {
        let meters = Meters::new(&registry);
        let (turns, skips) = (Turns::new(&settings), Skips::new(meters.clone()));
        let (back, doubts) = (Notify::new(), Doubts::default());
        Self { settings, registry, client, turns, skips, meters, out, back, doubts }
    }

    /// Asks the leader whether anything can be seen at all, once for all who ask at a time.
    async fn sees_anything(&self, datacenter: Option<&str>) -> Result<bool, ClientError> {
        let asked = Instant::now();
        let mut last = self.doubts.last.lock().await;
        if let Some((at, sees)) = *last
            && at >= asked
        {
            return Ok(sees);
        }
        let began = Instant::now();
        let path = with_datacenter("/v1/catalog/services?consistent".to_owned(), datacenter);
        let answer = self.client.get_within(&path, Duration::ZERO, LIST).await?;
        let Names(names) = json::<Untagged>(&answer)?.into();
        let sees = !names.is_empty();
        *last = Some((began, sees));
        Ok(sees)
    }
}

fn with_datacenter(path: String, datacenter: Option<&str>) -> String {
    match datacenter {
        None => path,
        Some(datacenter) => format!("{path}&dc={datacenter}"),
    }
}

// === impl Poll ===

impl Poll {
    pub(crate) fn new(shared: &Arc<Shared>, origin: Origin, path: &str, datacenter: Option<&str>) -> Self {
        // A parameter that says nothing makes the next one easier to add.
        let path = with_datacenter(format!("{path}?pretty=false"), datacenter);
        // The names find out that an outage is over, for all.
        let longest = if matches!(origin, Origin::Names(_)) { 3 } else { 15 };
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(longest));
        Self {
            shared: Arc::clone(shared),
            origin,
            path,
            polled: Polled::default(),
            backoff,
            failures: 0,
            disconnected: false,
            told: None,
            pass: 0,
        }
    }

    /// One poll. Not an error: an answer that is older than what is known; then the leader is asked at once.
    async fn step(&mut self) -> Result<Step, ClientError> {
        let shared = Arc::clone(&self.shared);
        let mode = match &self.origin {
            // Everything that is read depends on the names: they are complete from the start.
            Origin::Names(_) if !self.polled.is_known() => "&consistent",
            _ if shared.settings.stale => "&stale",
            _ => "",
        };
        let full = shared.settings.wait();
        let (permit, wait) = match &self.origin {
            // What was in trouble is read at once: a poll that waits would say that all is well only with the next change.
            _ if self.failures > 0 || self.polled.index.is_none() => (shared.turns.read().await, None),
            Origin::Service(_) => shared.turns.poll(full, &mut self.pass).await,
            _ => (None, Some(full)),
        };
        let mut path = format!("{}{mode}", self.path);
        if let (Some(index), Some(wait)) = (self.polled.index, wait) {
            path.push_str(&format!("&index={index}&wait={}ms", wait.as_millis()));
        }
        let began = Instant::now();
        let answer = self.ask(&path, wait.unwrap_or(Duration::ZERO)).await?;
        drop(permit);
        // A read that was not to wait is no early answer.
        let took = if wait.is_some() { began.elapsed() } else { full };
        let mut arrived = std::time::Instant::now();
        let mut head = Head::of(&answer);
        let mut verdict = self.polled.judge(head, &answer.body, took, false);
        let mut answer = answer;
        if verdict == Verdict::WentBack {
            let _permit = shared.turns.read().await;
            // A server that has just started answers before it has read its log to the end, and says that it is the leader. Only a
            // consistent read waits for that.
            answer = self.ask(&format!("{}&consistent", self.path), Duration::ZERO).await?;
            arrived = std::time::Instant::now();
            head = Head::of(&answer);
            verdict = self.polled.judge(head, &answer.body, took, true);
        }
        if !matches!(self.origin, Origin::Service(_)) && wait.is_some_and(|wait| took < wait) {
            shared.turns.something_changed();
        }
        match verdict {
            Verdict::Same => {
                shared.meters.notified(false);
                Ok(Step::Same)
            }
            Verdict::Changed => {
                shared.meters.notified(true);
                Ok(Step::Changed { answer, head, arrived })
            }
            Verdict::NoLeader | Verdict::WentBack => Err(ClientError::Protocol {
                path: answer.path.to_string(),
                problem: "the server that answered knows no leader".to_owned(),
            }),
        }
    }

    /// What a request takes is on the heap while there is one: of many services, most only wait for their turn.
    async fn ask(&self, path: &str, wait: Duration) -> Result<Answer, ClientError> {
        let client = &self.shared.client;
        match self.origin {
            Origin::Names(_) => Box::pin(client.get_within(path, wait, LIST)).await,
            _ => Box::pin(client.get(path, wait)).await,
        }
    }

    /// The last answer is what counts now.
    pub(crate) async fn fine(&mut self) {
        self.backoff.reset();
        let failures = std::mem::take(&mut self.failures);
        if std::mem::take(&mut self.disconnected) && matches!(self.origin, Origin::Names(_)) {
            self.shared.meters.reconnected();
            if failures >= OUTAGE {
                self.shared.back.notify_waiters();
            }
        }
        if self.told.take().is_some() {
            let _ = self.shared.out.send(Message::Fine(self.origin.clone())).await;
        }
    }

    /// Tells why not, and rests.
    pub(crate) async fn failed(&mut self, error: &ClientError) {
        self.failures += 1;
        self.disconnected |= error.is_disconnect();
        // One connection that ends is not worth a word: the next attempt is a fraction of a second away.
        let hiccup = self.failures == 1
            && matches!(error, ClientError::Connect { .. } | ClientError::Cut { .. } | ClientError::Protocol { .. });
        if !hiccup {
            self.trouble(told(&self.origin, error)).await;
        }
        let back = self.shared.back.notified();
        let pause = self.backoff.next().max(error.retry_after().unwrap_or_default());
        if error.is_disconnect() {
            let _ = timeout(pause, back).await;
        } else {
            sleep(pause).await;
        }
    }

    async fn trouble(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            self.told = Some(text.clone());
            let _ = self.shared.out.send(Message::Trouble(self.origin.clone(), text)).await;
        }
    }

    /// An answer is not believed: it is told, and asked for again.
    async fn doubt(&mut self, text: String) {
        self.polled.doubt();
        self.trouble(text).await;
        sleep(self.backoff.next()).await;
    }
}

/// What an operator is told about an error.
fn told(origin: &Origin, error: &ClientError) -> String {
    match (origin, error) {
        (Origin::Names(_), ClientError::TooLarge { limit, .. }) => format!(
            "one service's tags are too large: with the tags of all services, the list of names is larger than {} MiB and was not \
             read; shorten the tags of the service that has the most of them; what is known stays",
            limit >> 20
        ),
        _ => error.to_string(),
    }
}

/// Follows the list of names of one datacenter.
pub(crate) async fn names(shared: Arc<Shared>, datacenter: Option<Arc<str>>) {
    let origin = Origin::Names(datacenter.clone());
    let mut poll = Poll::new(&shared, origin, "/v1/catalog/services", datacenter.as_deref());
    let mut pause = Duration::ZERO;
    loop {
        sleep(pause).await;
        pause = Duration::ZERO;
        let (answer, head) = match poll.step().await {
            Ok(Step::Same) => {
                poll.fine().await;
                pause = poll.polled.pause();
                continue;
            }
            Ok(Step::Changed { answer, head, .. }) => (answer, head),
            Err(error) => {
                poll.failed(&error).await;
                continue;
            }
        };
        // Tags are only read where they choose.
        let names = match shared.settings.services.tags.is_empty() {
            true => json::<Untagged>(&answer).map(Names::from),
            false => json(&answer),
        };
        let names = match names {
            Ok(names) => names,
            Err(error) => {
                poll.polled.doubt();
                poll.failed(&error).await;
                continue;
            }
        };
        let whole = shared.settings.partial_view || !(head.filtered || names.0.is_empty());
        let nothing = names.0.is_empty();
        if shared.out.send(Message::Names { datacenter: datacenter.clone(), names, whole }).await.is_err() {
            return;
        }
        if whole {
            poll.fine().await;
        } else {
            poll.doubt(hidden(nothing)).await;
        }
    }
}

fn hidden(nothing: bool) -> String {
    let what = if nothing {
        "the list of services is empty, and not even Consul itself is in it"
    } else {
        "Consul leaves out what the token may not see"
    };
    format!(
        "{what}: give the token service_prefix \"\" and node_prefix \"\" read (or set partialView where it is meant to see a part \
         only); what is known stays"
    )
}

/// Follows one service.
pub(crate) async fn service(shared: Arc<Shared>, source: Source) {
    let _entered = Entered::new(&shared);
    let path = format!("/v1/health/service/{}", source.name);
    let datacenter = source.datacenter.clone();
    let mut poll = Poll::new(&shared, Origin::Service(source.clone()), &path, datacenter.as_deref());
    let mut instances = Instances::new(shared.settings.hold_down.into());
    let mut skips: Vec<Skip> = Vec::new();
    let mut populated = false;
    let mut pause = Duration::ZERO;
    loop {
        let held = instances.until;
        let step = tokio::select! {
            step = async { sleep(pause).await; poll.step().await } => Some(step),
            () = async { match held { Some(until) => sleep_until(until).await, None => std::future::pending().await } } => None,
        };
        pause = Duration::ZERO;
        let arrived = match step {
            // Instances were held long enough.
            None => std::time::Instant::now(),
            Some(Ok(Step::Same)) => {
                poll.fine().await;
                pause = poll.polled.pause();
                continue;
            }
            Some(Err(error)) => {
                poll.failed(&error).await;
                continue;
            }
            Some(Ok(Step::Changed { answer, head, arrived })) => {
                let rows: Vec<Row> = match json::<Option<Vec<Row>>>(&answer) {
                    Ok(rows) => rows.unwrap_or_default(),
                    Err(error) => {
                        poll.polled.doubt();
                        poll.failed(&error).await;
                        continue;
                    }
                };
                match Box::pin(believed(&shared, &source, &rows, head, populated)).await {
                    Ok(None) => {}
                    Ok(Some(doubt)) => {
                        poll.doubt(doubt).await;
                        continue;
                    }
                    Err(error) => {
                        poll.polled.doubt();
                        poll.failed(&error).await;
                        continue;
                    }
                }
                instances.take(rows);
                arrived
            }
        };
        let held = instances.held();
        let context = Context {
            settings: &shared.settings,
            registry: &shared.registry,
            name: &source.name,
            remote: source.datacenter.as_deref(),
            held: &held,
        };
        let mapped = mapping::map(&context, &instances.rows);
        populated = !instances.rows.is_empty();
        instances.forget();
        shared.skips.tell(&source.name, &mapped.skips, &skips);
        skips = mapped.skips;
        let message = Message::Service {
            source: source.clone(),
            empty: !populated,
            contributions: mapped.contributions,
            arrived,
        };
        if shared.out.send(message).await.is_err() {
            return;
        }
        poll.fine().await;
    }
}

/// Why an answer is not believed, if it is not.
async fn believed(
    shared: &Shared,
    source: &Source,
    rows: &[Row],
    head: Head,
    populated: bool,
) -> Result<Option<String>, ClientError> {
    let name = &source.name;
    if head.filtered && (rows.is_empty() || !shared.settings.partial_view) {
        return Ok(Some(format!(
            "Consul leaves out instances of {name} that the token may not see: give it service_prefix \"\" and node_prefix \"\" \
             read; what is known stays"
        )));
    }
    // Consul says the index with every answer: without it, something else may have answered.
    let odd = head.denies || head.index.is_none();
    if rows.is_empty() && populated && odd && !shared.sees_anything(source.datacenter.as_deref()).await? {
        return Ok(Some(hidden(true)));
    }
    Ok(None)
}

/// A watched service counts while its task lives.
struct Entered(Arc<Shared>);

impl Entered {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.turns.enter();
        Self(Arc::clone(shared))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.turns.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_too_large_says_what_to_do() {
        let error = ClientError::TooLarge { path: "/v1/catalog/services".to_owned(), limit: LIST };
        let text = told(&Origin::Names(None), &error);
        assert!(text.starts_with("one service's tags are too large: ") && text.contains("256 MiB"), "{text}");
        assert_eq!(told(&Origin::Datacenters, &error), error.to_string());
    }
}
