//! Waiting until the mesh answers: from nobody listening to the first good answers.
//!
//! What is seen meanwhile is nobody's failure, and counts in no table.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::client::Client;
use crate::load::request;
use crate::stats::Stats;

/// The versions of reviews.
pub(crate) const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];

/// Between two requests, while the answers are bad.
const PAUSE: Duration = Duration::from_millis(20);

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// One good answer, whatever the rules make of it.
    FirstAnswer,
    /// A good answer of every version of reviews, with ratings: what the rules of a fresh demo promise.
    EveryVersion,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// When the first good answer was there.
    pub first_answer: Option<Instant>,
    /// The versions of reviews that are still waited for.
    pub missing: Vec<&'static str>,
    /// The last bad answer, or why there was none.
    pub last_failure: String,
}

/// Sends one request after the other to `gateway`, until `until` or `deadline`.
pub async fn ready(gateway: SocketAddr, until: Until, deadline: Instant) -> Readiness {
    let client = Client::to_server(gateway);
    let missing = if until == Until::EveryVersion { VERSIONS.to_vec() } else { Vec::new() };
    let mut seen = Readiness { first_answer: None, missing, last_failure: "nothing was sent".to_owned() };
    while !seen.is_ready() {
        let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
        let Ok(outcome) = tokio::time::timeout(left, request(&client, false, &Stats::default())).await else {
            seen.last_failure = "it took too long".to_owned();
            break;
        };
        match (outcome.failure, outcome.ratings) {
            (Some(failure), _) => seen.last_failure = failure,
            (None, Some(false)) if until == Until::EveryVersion => {
                seen.last_failure = "ratings did not answer".to_owned();
            }
            (None, _) => {
                seen.first_answer.get_or_insert_with(Instant::now);
                seen.missing.retain(|version| outcome.reviews.as_deref() != Some(version));
                continue;
            }
        }
        sleep(PAUSE).await;
    }
    seen
}

// === impl Readiness ===

impl Readiness {
    /// Whether everything that was waited for was seen.
    pub fn is_ready(&self) -> bool {
        self.first_answer.is_some() && self.missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::plan::Plan;
    use crate::shop::{Shop, tests::fake_mesh};

    #[tokio::test]
    async fn nobody_listening_is_waited_for_and_said_in_the_end() {
        let plan = Plan::pick(0).unwrap();
        let seen = ready(plan.gateway, Until::FirstAnswer, Instant::now() + Duration::from_millis(100)).await;
        assert!(!seen.is_ready() && seen.last_failure.to_lowercase().contains("refused"), "{seen:?}");
    }

    #[tokio::test]
    async fn a_gateway_that_comes_later_is_ready_when_every_version_has_answered() {
        let plan = Plan::pick(0).unwrap();
        let waiting = tokio::spawn(ready(plan.gateway, Until::EveryVersion, Instant::now() + Duration::from_secs(20)));
        sleep(PAUSE).await;
        let shop = Shop::start(&plan).await.unwrap();
        let (_routes, _stop) = fake_mesh(&plan).await;
        let seen = waiting.await.unwrap();
        assert!(seen.is_ready(), "{seen:?}");
        for version in VERSIONS {
            assert!(shop.stats().snapshot().answers("reviews", version) > 0, "{version}");
        }
    }

    #[tokio::test]
    async fn a_first_answer_is_enough_where_the_rules_leave_a_version_out() {
        let plan = Plan::pick(0).unwrap();
        let _shop = Shop::start(&plan).await.unwrap();
        let (routes, _stop) = fake_mesh(&plan).await;
        let only = plan.instances.iter().find(|instance| instance.name() == "reviews-v1").unwrap().app;
        routes.lock().insert("reviews", vec![only]);
        let soon = || Instant::now() + Duration::from_secs(1);
        assert!(ready(plan.gateway, Until::FirstAnswer, soon()).await.is_ready());
        assert_eq!(ready(plan.gateway, Until::EveryVersion, soon()).await.missing, ["v2", "v3"]);
    }
}
