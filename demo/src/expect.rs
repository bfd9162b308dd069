//! The demo without a terminal: the same mesh and load, with expectations that hold or do not.
//!
//! Three changes are made to the rules while requests flow, each is undone again, and what every single request met is
//! compared with what the rules said when it was sent. Nothing is a guess: a share is wrong only when chance alone would
//! practically never give it (4.5 standard deviations), and a change is followed when the last request that contradicts it
//! has been sent.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::{Layout, TRIES};
use crate::histogram::Histogram;
use crate::load::{Load, LoadOptions, Outcome, Totals};
use crate::plan::Plan;
use crate::ready::{Until, VERSIONS, ready};
use crate::stats::Stats;

/// How long a state of the rules is looked at after traffic must have followed, at the least.
const SHORTEST: Duration = Duration::from_millis(500);

/// The fewest requests from which a share is computed.
const FEWEST: usize = 20;

/// How many standard deviations a share may be off: chance exceeds it about seven times in a million.
const DEVIATIONS: f64 = 4.5;

/// What to run.
#[derive(Debug, Clone)]
pub struct HeadlessOptions {
    /// Where the configuration lies.
    pub layout: Layout,
    /// How long all of it takes, apart from the start. Shares are judged more sharply the longer it is; it is never shorter
    /// than seven times `follow_within` and half a second.
    pub duration: Duration,
    /// Requests per second.
    pub rate: f64,
    /// When the demo began: the first request is timed from here.
    pub began: Instant,
    /// How long after that the first request must have been answered, by every version.
    pub ready_within: Duration,
    /// Within which traffic must follow a changed file.
    pub follow_within: Duration,
}

/// Something that should be so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expectation {
    /// In words.
    pub name: String,
    /// Whether it was.
    pub held: bool,
    /// What was seen.
    pub detail: String,
}

/// How a headless run went.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Everything that was expected; of an interrupted run, what was judged before.
    pub expectations: Vec<Expectation>,
    /// Whether it was stopped before its end. What it saw until then says nothing.
    pub interrupted: bool,
    /// From the beginning to the first good answer, in milliseconds.
    pub first_answer_ms: Option<u128>,
    /// Requests sent, answered well, and failed.
    pub totals: Totals,
    /// The median latency of a customer's request, in milliseconds.
    pub p50_ms: Option<f64>,
    /// Its 99th percentile.
    pub p99_ms: Option<f64>,
}

/// What the rules say about a request.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rule {
    /// The shares of v1, v2 and v3 for Amelia.
    amelia: [f64; 3],
    /// And for everybody else.
    others: [f64; 3],
    /// The share of calls to ratings that fail.
    aborts: f64,
}

/// A time during which the rules did not change.
struct Phase {
    title: String,
    /// What was so before.
    before: Rule,
    rule: Rule,
    from: Instant,
    to: Instant,
}

const EQUAL: [f64; 3] = [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0];
const NORMAL: Rule = Rule { amelia: EQUAL, others: EQUAL, aborts: 0.0 };

/// What each of [`TRIES`] makes so.
const CHANGED: [Rule; 3] = [
    Rule { amelia: [0.9, 0.1, 0.0], others: [0.9, 0.1, 0.0], aborts: 0.0 },
    Rule { amelia: EQUAL, others: EQUAL, aborts: 0.5 },
    Rule { amelia: [0.0, 0.0, 1.0], others: [1.0, 0.0, 0.0], aborts: 0.0 },
];

/// Runs the load on a mesh that is starting or running, makes the changes, and says what held. The rules are afterwards as they
/// were before, also when `stop` is cancelled meanwhile.
pub async fn run_headless(plan: &Plan, options: &HeadlessOptions, stats: Stats, stop: &CancellationToken) -> Summary {
    let saved = Saved::rules(&options.layout);
    let mut run = Run {
        options,
        stats,
        expectations: Vec::new(),
        first_answer: None,
        load: None,
        phases: Vec::new(),
        interrupted: false,
    };
    let finished = stop.run_until_cancelled(run.all(plan)).await;
    saved.restore();
    if let Some(load) = &run.load {
        load.finish().await;
    }
    run.interrupted = finished.is_none();
    if !run.interrupted {
        run.judge();
    }
    run.summary()
}

/// Rules as they were before the run.
struct Saved(Vec<(PathBuf, Option<Vec<u8>>)>);

struct Run<'a> {
    options: &'a HeadlessOptions,
    stats: Stats,
    expectations: Vec<Expectation>,
    first_answer: Option<Duration>,
    load: Option<Load>,
    phases: Vec<Phase>,
    interrupted: bool,
}

// === impl HeadlessOptions ===

impl HeadlessOptions {
    /// 30 s at 50 requests per second, ready within 10 s of now, changes followed within 1 s.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            duration: Duration::from_secs(30),
            rate: 50.0,
            began: Instant::now(),
            ready_within: Duration::from_secs(10),
            follow_within: Duration::from_secs(1),
        }
    }
}

// === impl Saved ===

impl Saved {
    fn rules(layout: &Layout) -> Self {
        let mut paths: Vec<PathBuf> = TRIES.iter().map(|change| layout.rules.join(change.to)).collect();
        paths.sort();
        paths.dedup();
        Self(paths.into_iter().map(|path| (path.clone(), std::fs::read(path).ok())).collect())
    }

    fn restore(&self) {
        for (path, content) in &self.0 {
            if let Some(content) = content
                && std::fs::read(path).ok().as_ref() != Some(content)
                && let Err(error) = std::fs::write(path, content)
            {
                tracing::error!("{} could not be put back as it was: {error}", path.display());
            }
        }
    }
}

// === impl Run ===

impl Run<'_> {
    async fn all(&mut self, plan: &Plan) {
        for change in &TRIES {
            if !self.change(change, true) {
                return;
            }
        }
        if !self.wait_until_ready(plan).await {
            return;
        }
        let load = LoadOptions { rate: self.options.rate, ..LoadOptions::gentle(plan.gateway) };
        self.load = Some(Load::start(load, self.stats.clone()));
        let each = (self.options.duration / (1 + 2 * TRIES.len() as u32)).max(self.options.follow_within + SHORTEST);
        self.phase("at first".to_owned(), NORMAL, NORMAL, each).await;
        for (change, changed) in TRIES.iter().zip(CHANGED) {
            if !self.change(change, false) {
                return;
            }
            self.phase(change.title.to_owned(), NORMAL, changed, each).await;
            if !self.change(change, true) {
                return;
            }
            self.phase(format!("undo: {}", change.title), changed, NORMAL, each).await;
        }
    }

    fn change(&mut self, change: &crate::config::Try, undo: bool) -> bool {
        let result = self.options.layout.apply(change, undo);
        if let Err(error) = &result {
            self.expect(change.title, false, error.to_string());
        }
        result.is_ok()
    }

    async fn phase(&mut self, title: String, before: Rule, rule: Rule, time: Duration) {
        let from = Instant::now();
        // Noted at its end: one that is interrupted is not judged.
        sleep(time).await;
        self.phases.push(Phase { title, before, rule, from, to: Instant::now() });
    }

    /// Sends one request after the other until every version of reviews has answered well.
    async fn wait_until_ready(&mut self, plan: &Plan) -> bool {
        let deadline = self.options.began + self.options.ready_within;
        let seen = ready(plan.gateway, Until::EveryVersion, deadline).await;
        self.first_answer = seen.first_answer.map(|at| at.saturating_duration_since(self.options.began));
        let (missing, last) = (seen.missing, seen.last_failure);
        let within = format!("within {}", seconds(self.options.ready_within));
        let detail = match self.first_answer {
            Some(after) => format!("after {}", seconds(after)),
            None => format!("never; the last answer was: {last}"),
        };
        self.expect(&format!("the first request is answered {within}"), self.first_answer.is_some(), detail);
        let after = self.options.began.elapsed();
        let detail = if missing.is_empty() {
            format!("after {}", seconds(after))
        } else {
            format!("reviews {} did not answer; the last failure was: {last}", missing.join(", "))
        };
        self.expect(&format!("every version answers {within}"), missing.is_empty(), detail);
        missing.is_empty()
    }

    fn expect(&mut self, name: &str, held: bool, detail: impl Into<String>) {
        self.expectations.push(Expectation { name: name.to_owned(), held, detail: detail.into() });
    }

    /// Compares all outcomes with the phases that they fell into.
    fn judge(&mut self) {
        let Some(load) = self.load.take() else { return };
        let totals = load.totals();
        let failures: Vec<String> = match self.phases.first() {
            Some(first) => load.outcomes(first.from, Instant::now()).into_iter().filter_map(|o| o.failure).collect(),
            None => Vec::new(),
        };
        let detail = match failures.first() {
            None => format!("{} sent, {} answered, 0 failed", totals.sent, totals.ok),
            Some(first) => format!("{} of {} failed; the first one: {first}", totals.failed, totals.sent),
        };
        self.expect("no request fails, through all changes", totals.sent > 0 && totals.failed == 0, detail);
        let snapshot = self.stats.snapshot();
        let mut counts = Vec::new();
        let mut all_seen = true;
        for (service, versions) in [
            ("front", &VERSIONS[..1]),
            ("catalogue", &VERSIONS[..1]),
            ("reviews", &VERSIONS[..]),
            ("ratings", &VERSIONS[..1]),
        ] {
            for version in versions {
                let count = snapshot.answers(service, version);
                all_seen &= count > 0;
                counts.push(format!("{service} {version} {count}"));
            }
        }
        self.expect("every instance answers", all_seen, counts.join(", "));
        let within = self.options.follow_within;
        for phase in std::mem::take(&mut self.phases) {
            let outcomes = load.outcomes(phase.from, phase.to);
            if phase.before != phase.rule {
                let (held, detail) = followed(&phase, &outcomes, within);
                self.expect(&format!("{}: traffic follows within {}", phase.title, seconds(within)), held, detail);
            }
            let since = phase.from + if phase.before == phase.rule { Duration::ZERO } else { within };
            let settled: Vec<_> = outcomes.into_iter().filter(|outcome| outcome.started >= since).collect();
            let (held, detail) = shares(phase.rule, &settled);
            self.expect(&format!("{}: shares are as configured", phase.title), held, detail);
        }
        self.load = Some(load);
    }

    fn summary(self) -> Summary {
        let mut latency = Histogram::default();
        let mut totals = Totals::default();
        if let Some(load) = &self.load {
            totals = load.totals();
            let outcomes = load.outcomes(self.options.began, Instant::now());
            outcomes.iter().for_each(|outcome| latency.record(outcome.latency));
        }
        let ms = |quantile| latency.quantile(quantile).map(|latency| latency.as_secs_f64() * 1000.0);
        Summary {
            first_answer_ms: self.first_answer.map(|after| after.as_millis()),
            totals,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            expectations: self.expectations,
            interrupted: self.interrupted,
        }
    }
}

/// When the last request that contradicts the rule was sent, and when the first one proved it.
fn followed(phase: &Phase, outcomes: &[Outcome], within: Duration) -> (bool, String) {
    let good = || outcomes.iter().filter(|outcome| outcome.failure.is_none());
    let last_contradiction = good().filter(|o| !phase.rule.allows(o)).map(|o| o.started).max();
    let proof = |o: &&Outcome| phase.rule.allows(o) && !phase.before.allows(o);
    let first_proof = good().filter(proof).map(|o| o.started + o.latency).min();
    let after = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| at.saturating_duration_since(phase.from));
    if first_proof.is_none() && phase.rule.can_be_proved_after(phase.before) {
        return (false, format!("no request met it in {}", seconds(phase.to - phase.from)));
    }
    let follow = after(last_contradiction).max(after(first_proof));
    let detail =
        if follow.is_zero() { "from the first request on".to_owned() } else { format!("after {}", seconds(follow)) };
    (follow <= within, detail)
}

/// Whether the shares among `outcomes` are what the rule makes probable.
fn shares(rule: Rule, outcomes: &[Outcome]) -> (bool, String) {
    let good: Vec<_> = outcomes.iter().filter(|outcome| outcome.failure.is_none()).collect();
    let mut details = Vec::new();
    let mut held = true;
    let mut compare = |what: String, seen: usize, of: usize, expected: f64| {
        let share = seen as f64 / of.max(1) as f64;
        let tolerance = DEVIATIONS * (expected * (1.0 - expected) / of.max(1) as f64).sqrt() + 1e-9;
        let fits = of > 0 && (share - expected).abs() <= tolerance;
        held &= fits;
        let doubt = if fits { String::new() } else { format!(" instead of {:.0} %", expected * 100.0) };
        details.push(format!("{what} {:.0} %{doubt}", share * 100.0));
    };
    let groups: &[(&str, bool, [f64; 3])] = if rule.amelia == rule.others {
        &[("", false, rule.others)]
    } else {
        &[("amelia ", true, rule.amelia), ("others ", false, rule.others)]
    };
    for (who, is_amelia, expected) in groups {
        let of = |o: &&&Outcome| who.is_empty() || o.is_amelia == *is_amelia;
        let total = good.iter().filter(of).count();
        for (version, expected) in VERSIONS.iter().zip(expected) {
            let seen = good.iter().filter(of).filter(|o| o.reviews.as_deref() == Some(version)).count();
            compare(format!("{who}{version}"), seen, total, *expected);
        }
    }
    let asked = good.iter().filter(|o| o.ratings.is_some()).count();
    if asked > 0 {
        compare(
            "ratings failing".to_owned(),
            good.iter().filter(|o| o.ratings == Some(false)).count(),
            asked,
            rule.aborts,
        );
    }
    let enough = good.len() >= FEWEST;
    let of = if enough {
        format!("of {} requests", good.len())
    } else {
        format!("of only {} requests, which are too few", good.len())
    };
    (held && enough, format!("{} {of}", details.join(", ")))
}

// === impl Rule ===

impl Rule {
    fn allows(&self, outcome: &Outcome) -> bool {
        let shares = if outcome.is_amelia { self.amelia } else { self.others };
        let share =
            VERSIONS.iter().position(|version| outcome.reviews.as_deref() == Some(version)).map(|index| shares[index]);
        let ratings = match outcome.ratings {
            None => true,
            Some(true) => self.aborts < 1.0,
            Some(false) => self.aborts > 0.0,
        };
        share.is_some_and(|share| share > 0.0) && ratings
    }

    /// Whether some request can meet this rule that could not meet the one before.
    fn can_be_proved_after(&self, before: Self) -> bool {
        let new = |now: [f64; 3], then: [f64; 3]| now.iter().zip(then).any(|(now, then)| *now > 0.0 && then == 0.0);
        new(self.amelia, before.amelia)
            || new(self.others, before.others)
            || (self.aborts > 0.0 && before.aborts == 0.0)
    }
}

// === impl Summary ===

impl Summary {
    /// Whether everything held.
    pub fn passed(&self) -> bool {
        !self.interrupted
            && !self.expectations.is_empty()
            && self.expectations.iter().all(|expectation| expectation.held)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Expectation { name, held, detail } in &self.expectations {
            writeln!(f, "{} {name}\n       {detail}", if *held { "ok    " } else { "FAILED" })?;
        }
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let Totals { sent, ok, failed } = self.totals;
        writeln!(
            f,
            "{sent} requests, {ok} answered, {failed} failed; p50 {}, p99 {}",
            ms(self.p50_ms),
            ms(self.p99_ms)
        )?;
        if self.interrupted {
            return write!(f, "interrupted before its end; the rules are as they were");
        }
        let held = self.expectations.iter().filter(|expectation| expectation.held).count();
        write!(f, "{held} of {} expectations hold", self.expectations.len())
    }
}

/// `1.2 s`, `85 ms`.
fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests;
