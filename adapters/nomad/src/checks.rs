//! Nomad's service checks: their results are on the client that runs them, and only there, so they are asked for, slowly and evenly.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{StreamExt as _, iter};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::debug;
use xebec_adapter_client::{ClientError, json};

use crate::listing::Reader;
use crate::wire::{CheckResult, escape};

/// An allocation, and for each of its services that has results, whether all checks succeed.
pub(crate) type Results = (Arc<str>, BTreeMap<Arc<str>, bool>);

/// Questions at once.
const AT_ONCE: usize = 4;
/// How much more rarely an allocation without checks is asked: a changed job may have some.
const RARER: u32 = 6;

/// Asks for the checks of the allocations that `running` names, for as long as somebody takes the results.
pub(crate) async fn poll(reader: Reader, mut running: watch::Receiver<Vec<Arc<str>>>, to: mpsc::Sender<Results>) {
    let interval = reader.settings.checks.poll_interval.0;
    let rate = reader.settings.checks.most_per_second.max(1);
    let mut due: HashMap<Arc<str>, Instant> = HashMap::new();
    loop {
        let now = Instant::now();
        let wanted = running.borrow_and_update().clone();
        due.retain(|id, _| wanted.binary_search(id).is_ok());
        for id in &wanted {
            due.entry(Arc::clone(id)).or_insert(now);
        }
        let mut ready: Vec<(Instant, Arc<str>)> =
            due.iter().filter(|(_, at)| **at <= now).map(|(id, at)| (*at, Arc::clone(id))).collect();
        ready.sort();
        ready.truncate(usize::try_from(rate).unwrap_or(usize::MAX));
        let count = u32::try_from(ready.len()).unwrap_or(u32::MAX);
        let reader = &reader;
        let mut answers =
            iter(ready).map(|(_, id)| async move { (ask(reader, &id).await, id) }).buffer_unordered(AT_ONCE);
        while let Some((answer, id)) = answers.next().await {
            let pause = match answer {
                Ok(results) => {
                    let pause = if results.is_empty() { interval * RARER } else { interval };
                    if to.send((Arc::clone(&id), results)).await.is_err() {
                        return;
                    }
                    pause
                }
                Err(error) => {
                    // What the allocation's checks said last stays; whether Nomad can be reached is said by its stream.
                    debug!("{error}");
                    interval
                }
            };
            due.insert(id, Instant::now() + pause);
        }
        drop(answers);
        let earliest = due.values().min().copied().unwrap_or_else(|| Instant::now() + interval);
        let paced = now + Duration::from_secs(1) * count / rate;
        tokio::select! {
            () = sleep_until(earliest.max(paced)) => {}
            changed = async { sleep_until(paced).await; running.changed().await } => if changed.is_err() { return },
        }
    }
}

async fn ask(reader: &Reader, allocation: &str) -> Result<BTreeMap<Arc<str>, bool>, ClientError> {
    let region = reader.settings.region_query();
    let path = format!("/v1/client/allocation/{}/checks?{}", escape(allocation), region.trim_start_matches('&'));
    let checks: Option<HashMap<String, CheckResult>> = json(&reader.client.get(&path, Duration::ZERO).await?)?;
    Ok(verdicts(checks.unwrap_or_default().values()))
}

/// One verdict for each service: it fails when one check fails. Checks that have not run yet say nothing.
fn verdicts<'a>(checks: impl Iterator<Item = &'a CheckResult>) -> BTreeMap<Arc<str>, bool> {
    let mut verdicts = BTreeMap::new();
    for check in checks {
        let passes = match &*check.status {
            "success" => true,
            "failure" => false,
            _ => continue,
        };
        verdicts.entry(Arc::clone(&check.service)).and_modify(|all| *all &= passes).or_insert(passes);
    }
    verdicts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn one_failing_check_makes_its_service_fail_and_one_that_did_not_run_says_nothing() {
        let check = |service: &str, status: &str| CheckResult { service: service.into(), status: status.into() };
        let all = [
            check("a", "success"),
            check("a", "failure"),
            check("a", "success"),
            check("b", "success"),
            check("c", "pending"),
        ];
        let verdicts = verdicts(all.iter());
        assert_eq!(verdicts, BTreeMap::from([("a".into(), false), ("b".into(), true)]));
    }
}
