//! Customers: requests to the gateway at a steady rate, whatever the answers do.
//!
//! The load is open-loop: a slow answer does not delay the next request, so a stall is seen by as many requests as it would
//! be in reality. Every request ends in exactly one [`Outcome`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::Client;
use crate::shop::{USER, version_of};
use crate::stats::Stats;

/// The customer with a name.
pub const AMELIA: &str = "amelia";

/// Who calls the front, in the book of calls.
pub const YOU: &str = "you";

/// The host that customers ask for.
const HOST: &str = "shop.example";

/// Outcomes that are kept; older ones are counted only.
const KEPT: usize = 100_000;

/// How to load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Where the gateway listens.
    pub gateway: SocketAddr,
    /// Requests per second.
    pub rate: f64,
    /// Every how many requests one is Amelia's; 0 is never.
    pub amelia_every: u64,
}

/// How one request went.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// When it was sent.
    pub started: Instant,
    /// How long its answer took.
    pub latency: Duration,
    /// Whether it was Amelia's.
    pub is_amelia: bool,
    /// Why it failed: no answer, or a status of 500 and more. `None` when all is well.
    pub failure: Option<String>,
    /// The version of reviews in the answer.
    pub reviews: Option<String>,
    /// Whether the answer's ratings were there; `None` when none were asked for.
    pub ratings: Option<bool>,
}

/// Totals of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Totals {
    /// Requests sent.
    pub sent: u64,
    /// Of these, answered well.
    pub ok: u64,
    /// Of these, failed. The rest is under way.
    pub failed: u64,
}

/// A running load; stops when dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Mutex<Shared>>,
    /// Told after each outcome.
    done: Arc<Notify>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

#[derive(Debug, Default)]
struct Shared {
    totals: Totals,
    outcomes: VecDeque<Outcome>,
}

// === impl LoadOptions ===

impl LoadOptions {
    /// A gentle load: 20 requests per second, every fifth of them Amelia's.
    pub fn gentle(gateway: SocketAddr) -> Self {
        Self { gateway, rate: 20.0, amelia_every: 5 }
    }
}

// === impl Load ===

impl Load {
    /// Starts sending. Each call is written into `stats` too, from [`YOU`] to the front. Within a tokio runtime.
    pub fn start(options: LoadOptions, stats: Stats) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let stop = CancellationToken::new();
        let done = Arc::new(Notify::new());
        let sender = send_steadily(options, stats, shared.clone(), done.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(sender));
        Self { shared, done, stop: stop.clone(), _stop_when_dropped: stop.drop_guard() }
    }

    /// The totals so far.
    pub fn totals(&self) -> Totals {
        self.shared.lock().totals
    }

    /// Stops sending, and waits until every request has its outcome. That takes as long as the slowest one.
    pub async fn finish(&self) {
        self.stop.cancel();
        loop {
            let done = self.done.notified();
            let totals = self.totals();
            if totals.ok + totals.failed == totals.sent {
                return;
            }
            done.await;
        }
    }

    /// Every kept outcome of a request that was sent at `from` or later and before `to`.
    pub fn outcomes(&self, from: Instant, to: Instant) -> Vec<Outcome> {
        let shared = self.shared.lock();
        shared.outcomes.iter().filter(|outcome| outcome.started >= from && outcome.started < to).cloned().collect()
    }
}

async fn send_steadily(options: LoadOptions, stats: Stats, shared: Arc<Mutex<Shared>>, done: Arc<Notify>) {
    let client = Client::to_server(options.gateway);
    let period = Duration::from_secs_f64(1.0 / options.rate.clamp(0.01, 10_000.0));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 1u64.. {
        ticks.tick().await;
        let is_amelia = options.amelia_every > 0 && number.is_multiple_of(options.amelia_every);
        let (client, stats, shared, done) = (client.clone(), stats.clone(), shared.clone(), done.clone());
        shared.lock().totals.sent += 1;
        tokio::spawn(async move {
            let outcome = request(&client, is_amelia, &stats).await;
            shared.lock().keep(outcome);
            done.notify_waiters();
        });
    }
}

/// One request of a customer.
pub(crate) async fn request(client: &Client, is_amelia: bool, stats: &Stats) -> Outcome {
    let mut headers = HeaderMap::new();
    if is_amelia {
        headers.insert(USER, HeaderValue::from_static(AMELIA));
    }
    let started = Instant::now();
    let answer = client.get(&format!("http://{HOST}/"), headers).await;
    let latency = started.elapsed();
    let mut outcome = Outcome { started, latency, is_amelia, failure: None, reviews: None, ratings: None };
    let mut version = None;
    match answer {
        Ok(answer) => {
            version = version_of(&answer.headers);
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let reviews = &body["reviews"];
            outcome.reviews = reviews["version"].as_str().map(str::to_owned);
            outcome.ratings = reviews.get("ratings").map(|ratings| ratings.get("error").is_none());
            if !answer.status.is_success() || outcome.reviews.is_none() {
                let text: String =
                    String::from_utf8_lossy(&answer.body).split_whitespace().collect::<Vec<_>>().join(" ");
                outcome.failure =
                    Some(format!("{}: {}", answer.status.as_u16(), text.chars().take(300).collect::<String>()));
            }
        }
        Err(error) => outcome.failure = Some(error.to_string()),
    }
    stats.record(YOU, "front", latency, outcome.failure.is_some(), version.as_deref());
    outcome
}

// === impl Shared ===

impl Shared {
    fn keep(&mut self, outcome: Outcome) {
        match outcome.failure {
            None => self.totals.ok += 1,
            Some(_) => self.totals.failed += 1,
        }
        if self.outcomes.len() == KEPT {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(outcome);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::plan::Plan;
    use crate::shop::{Shop, tests::fake_mesh};
    use crate::stats::Edge;

    async fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "the condition did not come true");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn every_request_has_one_outcome_with_what_its_answer_said() {
        let plan = Plan::pick(0).unwrap();
        let shop = Shop::start(&plan).await.unwrap();
        let (routes, _stop) = fake_mesh(&plan).await;
        let start = Instant::now();
        let options = LoadOptions { gateway: plan.gateway, rate: 50.0, amelia_every: 5 };
        let load = Load::start(options, shop.stats());
        until(|| load.totals().ok >= 60).await;
        let outcomes = load.outcomes(start, Instant::now());
        assert!(outcomes.iter().all(|o| o.failure.is_none()), "{outcomes:?}");
        for version in ["v1", "v2", "v3"] {
            assert!(outcomes.iter().any(|o| o.reviews.as_deref() == Some(version)), "{version}");
        }
        assert!(outcomes.iter().all(|o| o.ratings.is_none() == (o.reviews.as_deref() == Some("v1"))));
        let amelias = outcomes.iter().filter(|o| o.is_amelia).count();
        assert!((amelias * 5).abs_diff(outcomes.len()) <= 25, "{amelias} of {}", outcomes.len());
        routes.lock().insert("ratings", vec![]);
        let later = Instant::now();
        until(|| load.outcomes(later, Instant::now()).iter().any(|o| o.ratings == Some(false))).await;
        assert_eq!(load.totals().failed, 0);
        routes.lock().insert("front", vec![]);
        until(|| load.totals().failed > 0).await;
        let edge = Edge { from: YOU.into(), to: "front".into() };
        assert!(shop.stats().snapshot().edges[&edge].errors > 0);
    }

    #[tokio::test]
    async fn a_gateway_that_nobody_runs_makes_failures_and_the_rate_goes_on() {
        let plan = Plan::pick(0).unwrap();
        let load = Load::start(LoadOptions { rate: 500.0, ..LoadOptions::gentle(plan.gateway) }, Stats::default());
        until(|| load.totals().failed >= 50).await;
        let totals = load.totals();
        assert_eq!(totals.ok, 0);
        assert!(totals.sent >= totals.failed);
        load.finish().await;
        let totals = load.totals();
        assert_eq!(totals.sent, totals.failed);
        let outcomes = load.outcomes(Instant::now() - Duration::from_secs(60), Instant::now());
        assert!(outcomes[0].failure.as_ref().unwrap().to_lowercase().contains("refused"), "{:?}", outcomes[0]);
    }
}
