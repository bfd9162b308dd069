#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::config::write_config;
use crate::shop::{Shop, tests::fake_mesh};

const SECOND: Duration = Duration::from_secs(1);

fn outcome(at: Instant, is_amelia: bool, reviews: &str, ratings: Option<bool>) -> Outcome {
    let latency = Duration::from_millis(2);
    Outcome { started: at, latency, is_amelia, failure: None, reviews: Some(reviews.into()), ratings }
}

fn phase(before: Rule, rule: Rule, from: Instant) -> Phase {
    Phase { title: "x".into(), before, rule, from, to: from + Duration::from_secs(4) }
}

#[test]
fn a_change_is_followed_when_the_last_contradiction_was_sent() {
    let from = Instant::now();
    let at = |ms| from + Duration::from_millis(ms);
    let phase = phase(NORMAL, CHANGED[0], from);
    let early = [outcome(at(10), false, "v3", None), outcome(at(30), false, "v1", None)];
    assert_eq!(followed(&phase, &early, SECOND), (true, "after 10 ms".into()));
    let late = [outcome(at(1200), false, "v3", None)];
    assert_eq!(followed(&phase, &late, SECOND), (false, "after 1.2 s".into()));
    assert!(followed(&phase, &[outcome(at(5), false, "v1", None)], SECOND).0);
}

#[test]
fn a_change_that_can_be_proved_must_be_proved() {
    let from = Instant::now();
    let at = |ms| from + Duration::from_millis(ms);
    let phase = phase(NORMAL, CHANGED[1], from);
    assert!(!followed(&phase, &[outcome(at(10), false, "v2", Some(true))], SECOND).0);
    let met = [outcome(at(10), false, "v2", Some(true)), outcome(at(20), false, "v2", Some(false))];
    assert_eq!(followed(&phase, &met, SECOND), (true, "after 22 ms".into()));
}

#[test]
fn shares_are_judged_by_what_chance_allows() {
    let now = Instant::now();
    let mixed = |v1: usize, v2: usize, v3: usize| -> Vec<Outcome> {
        let of = |version, count| std::iter::repeat_n(outcome(now, false, version, None), count);
        of("v1", v1).chain(of("v2", v2)).chain(of("v3", v3)).collect()
    };
    assert!(shares(NORMAL, &mixed(105, 95, 100)).0);
    assert!(!shares(NORMAL, &mixed(200, 50, 50)).0);
    assert!(shares(CHANGED[0], &mixed(275, 25, 0)).0);
    assert!(!shares(CHANGED[0], &mixed(275, 24, 1)).0, "a share of nothing allows nothing");
    let (held, detail) = shares(NORMAL, &mixed(3, 3, 3));
    assert!(!held && detail.contains("too few"), "{detail}");
}

#[test]
fn amelia_and_the_others_are_judged_apart_and_so_are_ratings() {
    let now = Instant::now();
    let mut outcomes: Vec<_> =
        (0..100).map(|n| outcome(now, n % 5 == 0, if n % 5 == 0 { "v3" } else { "v1" }, None)).collect();
    assert!(shares(CHANGED[2], &outcomes).0);
    outcomes[0].reviews = Some("v1".into());
    assert!(!shares(CHANGED[2], &outcomes).0);
    let rated = |failing: usize| -> Vec<Outcome> {
        (0..300).map(|n| outcome(now, false, VERSIONS[n % 3], (n % 3 > 0).then_some(n / 3 >= failing))).collect()
    };
    assert!(shares(CHANGED[1], &rated(50)).0);
    assert!(!shares(CHANGED[1], &rated(5)).0);
    assert!(shares(NORMAL, &rated(0)).0);
    assert!(!shares(NORMAL, &rated(1)).0);
}

/// Two loads at a time would be measuring each other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// As short as it gets: the mesh is within this process.
fn options(layout: Layout) -> HeadlessOptions {
    HeadlessOptions {
        duration: Duration::ZERO,
        rate: 60.0,
        follow_within: Duration::from_millis(300),
        ..HeadlessOptions::new(layout)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_that_obeys_its_rules_passes() {
    let _alone = ALONE.lock().await;
    let plan = Plan::pick(0).unwrap();
    let shop = Shop::start(&plan).await.unwrap();
    let (routes, stop) = fake_mesh(&plan).await;
    let dir = tempfile::tempdir().unwrap();
    let layout = write_config(&plan, dir.path()).unwrap().layout;
    let of = |name: &str| plan.instances.iter().find(|i| i.name() == name).unwrap().app;
    let (v1, v2, v3, ratings) = (of("reviews-v1"), of("reviews-v2"), of("reviews-v3"), of("ratings-v1"));
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let watched = layout.clone();
    // Reads the rules as a mesh would, by what is particular to each.
    let obey = async move {
        loop {
            let rule = |name: &str| std::fs::read_to_string(watched.rules.join(name)).unwrap_or_default();
            let (reviews, aborts) = (rule("reviews.yaml"), rule("ratings.yaml").contains("abort:"));
            let mut others = vec![v1, v2, v3];
            let mut amelia = others.clone();
            if reviews.contains("weight: 90") {
                others = [vec![v1; 9], vec![v2]].concat();
                amelia = others.clone();
            } else if reviews.contains("exact: amelia") {
                (others, amelia) = (vec![v1], vec![v3]);
            }
            let ratings = if aborts { vec![ratings, nowhere] } else { vec![ratings] };
            routes.lock().extend([("reviews", others), ("reviews for amelia", amelia), ("ratings", ratings)]);
            sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::spawn(stop.clone().run_until_cancelled_owned(obey));
    let summary = run_headless(&plan, &options(layout), shop.stats(), &stop).await;
    assert!(summary.passed(), "{summary}");
    assert_eq!(summary.expectations.len(), 4 + 1 + 4 * TRIES.len(), "{summary}");
    assert!(summary.first_answer_ms.is_some() && summary.p99_ms.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_that_ignores_its_rules_is_found_out_and_the_rules_are_put_back() {
    let _alone = ALONE.lock().await;
    let plan = Plan::pick(0).unwrap();
    let shop = Shop::start(&plan).await.unwrap();
    // Spreads evenly whatever the rules say.
    let (_routes, _stop) = fake_mesh(&plan).await;
    let dir = tempfile::tempdir().unwrap();
    let layout = write_config(&plan, dir.path()).unwrap().layout;
    let rule = layout.rules.join("reviews.yaml");
    std::fs::write(&rule, "mine").unwrap();
    let options = HeadlessOptions { follow_within: Duration::from_millis(50), ..options(layout) };
    let summary = run_headless(&plan, &options, shop.stats(), &CancellationToken::new()).await;
    assert_eq!(std::fs::read_to_string(rule).unwrap(), "mine");
    let held = |part: &str| -> Vec<bool> {
        summary.expectations.iter().filter(|e| e.name.contains(part)).map(|e| e.held).collect()
    };
    let text = summary.to_string();
    assert!(!summary.passed(), "{text}");
    assert_eq!(held("first request"), [true], "{text}");
    assert_eq!(held("every version"), [true], "{text}");
    assert_eq!(held("every instance"), [true], "{text}");
    assert_eq!(held("no request fails"), [true], "{text}");
    assert_eq!(held("at first: shares"), [true], "{text}");
    for change in &TRIES {
        let of_change = |e: &&Expectation| e.name.starts_with(change.title);
        assert!(summary.expectations.iter().filter(of_change).any(|e| !e.held), "{}: {text}", change.title);
    }
    assert!(summary.totals.sent > 200 && summary.totals.failed == 0, "{text}");
    assert!(text.contains("FAILED") && text.contains("expectations hold"), "{text}");
}

#[tokio::test]
async fn a_mesh_that_does_not_start_fails_soon_and_says_why() {
    let plan = Plan::pick(0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = write_config(&plan, dir.path()).unwrap().layout;
    let options = HeadlessOptions { ready_within: Duration::from_millis(100), ..options(layout) };
    let summary = run_headless(&plan, &options, Stats::default(), &CancellationToken::new()).await;
    assert!(!summary.passed());
    assert!(summary.to_string().to_lowercase().contains("refused"), "{summary}");
}

#[tokio::test]
async fn an_interrupted_run_has_not_passed() {
    let plan = Plan::pick(0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let layout = write_config(&plan, dir.path()).unwrap().layout;
    let stop = CancellationToken::new();
    stop.cancel();
    let summary = run_headless(&plan, &options(layout), Stats::default(), &stop).await;
    assert!(summary.interrupted && !summary.passed());
    let text = summary.to_string();
    assert!(text.contains("interrupted") && !text.contains("FAILED"), "{text}");
}
