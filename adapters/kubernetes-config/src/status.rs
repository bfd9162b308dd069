//! Conditions on the status of resources, written by the leader.
//!
//! - ALWAYS: what is to be said is compared with what the server last showed; only a difference is written.
//! - ALWAYS: conditions of others stay, and a write names the version that it was made for: a conflict is solved by the next look.
//! - NEVER: a write while another replica leads.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use xebec_galley::{Config, Diagnostic};
use xebec_gateway_api::ObjectStatus;

use crate::access::{Access, explain, status_code};
use crate::kinds::Watched;
use crate::text::sentence;

/// How many proxies have what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proxies {
    /// Proxies, of those that are connected to this replica, that have acknowledged everything that follows from the resource.
    pub acknowledged: usize,
    /// Proxies that are connected to this replica.
    pub connected: usize,
}

/// Who knows how many proxies have acknowledged what.
pub trait Acknowledged: Send + Sync {
    /// The proxies that have acknowledged this resource. `None` where nothing can be said, as long as something else is served in its
    /// place, for example.
    fn proxies(&self, resource: &Config) -> Option<Proxies>;
}

/// Nothing is known about proxies: the condition `xebec.io/Acknowledged` is not written.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProxies;

impl Acknowledged for NoProxies {
    fn proxies(&self, _: &Config) -> Option<Proxies> {
        None
    }
}

/// What is known about each object and is to be said on it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Statuses(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<BTreeMap<Arc<str>, Entry>>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Entry {
    seen: Option<Seen>,
    verdict: Option<Verdict>,
    /// When there was something new to judge.
    judged: Option<Instant>,
    /// What is in effect of it.
    accepted: Option<Config>,
    /// What conversion wants to see.
    converted: Option<ObjectStatus>,
    written: Option<Written>,
}

/// What was last written.
#[derive(Debug)]
struct Written {
    /// The version that the server had then.
    version: Option<String>,
    status: Value,
    when: Instant,
    /// Whether the server took it. What it does not show all the same it has no room for.
    taken: bool,
}

/// An object as the server last showed it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    resource: ApiResource,
    namespace: Option<String>,
    name: String,
    generation: Option<i64>,
    version: Option<String>,
    status: Value,
}

/// What galley says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    accepted: bool,
    message: String,
}

/// Writes what [`Statuses`] hold, while this replica leads.
pub struct StatusWriter {
    access: Access,
    statuses: Statuses,
    leads: watch::Receiver<bool>,
    acknowledged: Arc<dyn Acknowledged>,
}

/// The manager under whose name the server lists our fields.
const MANAGER: &str = "xebec-status";
const ACCEPTED: &str = "xebec.io/Accepted";
const ACKNOWLEDGED: &str = "xebec.io/Acknowledged";
/// Pause between two writes: at most 20 a second.
const PACE: Duration = Duration::from_millis(50);
/// How often the numbers of proxies are asked for.
const LOOK: Duration = Duration::from_secs(2);
/// A number that is still growing is written no more often than this.
const REFRESH: Duration = Duration::from_secs(10);
/// What was accepted is on its way to proxies for some moments: until then, silence is no acknowledgement.
const SETTLING: Duration = Duration::from_millis(500);
/// A write that should have been seen in the watch by now may be repeated.
const REPEAT: Duration = Duration::from_secs(30);
/// The longest message that the server accepts in a condition.
const LONGEST: usize = 32 * 1024;

// === impl Verdict ===

impl Verdict {
    pub(crate) fn of(diagnostics: &[&Diagnostic]) -> Self {
        let lines = |errors: bool| {
            let chosen = diagnostics.iter().filter(move |diagnostic| diagnostic.is_error() == errors);
            chosen.map(|diagnostic| sentence(diagnostic)).collect::<Vec<_>>().join("\n")
        };
        let accepted = !diagnostics.iter().any(|diagnostic| diagnostic.is_error());
        let mut message = lines(!accepted);
        if let Some((end, _)) = message.char_indices().nth(LONGEST / 4) {
            message.truncate(end);
        }
        Self { accepted, message }
    }
}

// === impl Seen ===

impl Seen {
    pub(crate) fn of(watched: &Watched, version: &str, object: &DynamicObject) -> Self {
        Self {
            resource: watched.resource(version),
            namespace: object.metadata.namespace.clone(),
            name: object.metadata.name.clone().unwrap_or_default(),
            generation: object.metadata.generation,
            version: object.metadata.resource_version.clone(),
            status: object.data.get("status").cloned().unwrap_or_default(),
        }
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }

    fn conditions(&self) -> &[Value] {
        self.status.get("conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn condition(&self, of: &str) -> Option<&Value> {
        self.conditions().iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(of))
    }
}

// === impl Statuses ===

impl Statuses {
    pub(crate) fn saw(&self, name: &Arc<str>, seen: Seen) {
        self.0.entries.lock().entry(name.clone()).or_default().seen = Some(seen);
        self.0.changed.notify_one();
    }

    pub(crate) fn judge(&self, name: &str, verdict: Verdict) {
        if let Some(entry) = self.0.entries.lock().get_mut(name) {
            entry.verdict = Some(verdict);
            entry.judged = Some(Instant::now());
            self.0.changed.notify_one();
        }
    }

    /// What is in effect of an object from now on.
    pub(crate) fn accepted(&self, config: &Config) {
        if let Some(entry) = self.0.entries.lock().get_mut(&config.meta().source.file) {
            entry.accepted = Some(config.clone());
        }
    }

    /// What conversion wants to see in the status of these objects, and of no others.
    pub(crate) fn converted(&self, all: impl Iterator<Item = (Arc<str>, ObjectStatus)>) {
        let mut all: BTreeMap<Arc<str>, ObjectStatus> = all.collect();
        for (name, entry) in self.0.entries.lock().iter_mut() {
            entry.converted = all.remove(name);
        }
        self.0.changed.notify_one();
    }

    pub(crate) fn forget(&self, name: &str) {
        self.0.entries.lock().remove(name);
    }

    /// The server took what was last to be written to an object.
    fn taken(&self, name: &str) {
        if let Some(last) = self.0.entries.lock().get_mut(name).and_then(|entry| entry.written.as_mut()) {
            last.taken = true;
        }
    }

    /// The next object after `after` whose status has to be written, with the new status.
    fn next(&self, after: Option<&Arc<str>>, acknowledged: &dyn Acknowledged) -> Option<(Arc<str>, Seen, Value)> {
        use std::ops::Bound;
        let mut entries = self.0.entries.lock();
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        entries.range_mut((from, Bound::Unbounded)).find_map(|(name, entry)| {
            let seen = entry.seen.as_ref()?;
            let status = match (&entry.converted, &entry.verdict) {
                (Some(status), _) => status.apply(Some(&seen.status).filter(|old| !old.is_null()), Timestamp::now()),
                (None, Some(verdict)) => {
                    let settled = entry.judged.is_some_and(|at| at.elapsed() >= SETTLING);
                    let proxies = entry.accepted.as_ref().filter(|_| settled).and_then(|c| acknowledged.proxies(c));
                    conditions(seen, verdict, proxies, entry.written.as_ref().map(|last| last.when))
                }
                (None, None) => None,
            }?;
            if let Some(last) = &entry.written
                && last.version == seen.version
                && (last.when.elapsed() < REPEAT || (last.taken && last.status == status))
            {
                return None;
            }
            entry.written = Some(Written {
                version: seen.version.clone(),
                status: status.clone(),
                when: Instant::now(),
                taken: false,
            });
            Some((name.clone(), seen.clone(), status))
        })
    }
}

/// Gives a condition its time of transition: that of the same condition before if its status is the same, else now.
fn stamp(before: Option<&Value>, condition: &mut Value, now: &str) {
    let time = before
        .filter(|before| before.get("status") == condition.get("status"))
        .and_then(|before| before.get("lastTransitionTime").cloned());
    if let Some(fields) = condition.as_object_mut() {
        fields.insert("lastTransitionTime".to_owned(), time.unwrap_or_else(|| now.into()));
    }
}

/// The status of one of Istio's kinds with its conditions, if they differ from those that are there.
fn conditions(seen: &Seen, verdict: &Verdict, proxies: Option<Proxies>, written: Option<Instant>) -> Option<Value> {
    let mut wanted = vec![json!({
        "type": ACCEPTED,
        "status": if verdict.accepted { "True" } else { "False" },
        "reason": if verdict.accepted { "Accepted" } else { "Refused" },
        "message": verdict.message,
        "observedGeneration": seen.generation,
    })];
    if let Some(proxies) = proxies {
        let condition = acknowledgement(verdict, proxies, seen.generation);
        // A number that only grows is not worth a write each time; whether it is complete is.
        let shown = seen.condition(ACKNOWLEDGED);
        let settled = shown.is_some_and(|shown| {
            ["status", "reason", "observedGeneration"].iter().all(|field| shown.get(field) == condition.get(field))
        });
        let lately = written.is_some_and(|when| when.elapsed() < REFRESH);
        let complete = condition.get("status").and_then(Value::as_str) == Some("True");
        match shown {
            Some(shown) if settled && (complete || lately) => wanted.push(shown.clone()),
            _ => wanted.push(condition),
        }
    }
    let mut all: Vec<Value> = seen.conditions().to_vec();
    let now = now();
    for mut condition in wanted {
        let place = all.iter().position(|other| other.get("type") == condition.get("type"));
        stamp(place.and_then(|index| all.get(index)), &mut condition, &now);
        match place.and_then(|index| all.get_mut(index)) {
            Some(slot) => *slot = condition,
            None => all.push(condition),
        }
    }
    if all == seen.conditions() {
        return None;
    }
    let mut status = seen.status.as_object().cloned().unwrap_or_default();
    status.insert("conditions".to_owned(), all.into());
    status.insert("observedGeneration".to_owned(), seen.generation.into());
    Some(status.into())
}

/// The merge patch (RFC 7386) that makes `new` of `old`: what is missing in `new` is taken away.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (old, new) else { return new.clone() };
    let kept = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let kept = kept.map(|(key, value)| (key.clone(), difference(before.get(key).unwrap_or(&Value::Null), value)));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    kept.chain(gone).collect::<serde_json::Map<_, _>>().into()
}

fn acknowledgement(verdict: &Verdict, proxies: Proxies, generation: Option<i64>) -> Value {
    let Proxies { acknowledged, connected } = proxies;
    let (status, reason) = match (verdict.accepted, connected) {
        (false, _) => ("False", "Refused"),
        (true, 0) => ("Unknown", "NoProxies"),
        (true, _) if acknowledged >= connected => ("True", "Acknowledged"),
        (true, _) => ("False", "Pending"),
    };
    let mut message = format!("{acknowledged} of {connected} proxies that are connected to the leading replica");
    if !verdict.accepted {
        message.push_str(" have the last version that was accepted, if there was one");
    }
    json!({ "type": ACKNOWLEDGED, "status": status, "reason": reason, "message": message, "observedGeneration": generation })
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

// === impl StatusWriter ===

impl StatusWriter {
    /// Writes what `statuses` hold while `leads` says so.
    pub fn new(
        access: Access,
        statuses: Statuses,
        leads: watch::Receiver<bool>,
        acknowledged: Arc<dyn Acknowledged>,
    ) -> Self {
        Self { access, statuses, leads, acknowledged }
    }

    /// Writes until `stop` completes.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let work = async {
            let client = self.access.client().await;
            loop {
                if self.leads.wait_for(|leads| *leads).await.is_err() {
                    return;
                }
                self.round(&client).await;
                let _ = tokio::time::timeout(LOOK, self.statuses.0.changed.notified()).await;
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
    }

    /// Writes everything that differs, once.
    async fn round(&self, client: &Client) {
        let mut after = None;
        while *self.leads.borrow()
            && let Some((name, seen, status)) = self.statuses.next(after.as_ref(), &*self.acknowledged)
        {
            let status = difference(&seen.status, &status);
            let patch = json!({ "metadata": { "resourceVersion": seen.version }, "status": status });
            let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
            let api = seen.api(client);
            let outcome = match api.patch_status(&seen.name, &parameters, &Patch::Merge(&patch)).await {
                Ok(_) => {
                    self.statuses.taken(&name);
                    "written"
                }
                // Changed or gone meanwhile: the watch tells what is to be said then.
                Err(error) if matches!(status_code(&error), Some(404 | 409)) => "superseded",
                Err(error) => {
                    tracing::warn!(resource = &*name, "cannot write the status: {}", explain(&error));
                    "failed"
                }
            };
            metrics::counter!("xebec_kubernetes_status_writes_total", "outcome" => outcome).increment(1);
            after = Some(name);
            tokio::time::sleep(PACE).await;
        }
    }
}

impl std::fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusWriter").field("access", &self.access).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn seen(conditions: Value) -> Seen {
        Seen {
            resource: Watched::istio(xebec_galley::Kind::Sidecar).resource("v1"),
            namespace: Some("a".into()),
            name: "b".into(),
            generation: Some(3),
            version: Some("7".into()),
            status: json!({ "conditions": conditions }),
        }
    }

    const HALF: &str = "1 of 2 proxies that are connected to the leading replica";

    fn of(acknowledged: usize, connected: usize) -> Option<Proxies> {
        Some(Proxies { acknowledged, connected })
    }

    #[test]
    fn a_status_is_written_once_and_others_conditions_stay() {
        let verdict = Verdict { accepted: true, message: String::new() };
        let foreign = json!({"type": "Reconciled", "status": "True"});
        let first = conditions(&seen(json!([foreign])), &verdict, of(1, 2), None).unwrap();
        let written = first["conditions"].as_array().unwrap();
        assert_eq!(written[0], foreign);
        assert_eq!(written[1]["status"], "True");
        assert_eq!((&written[2]["status"], &written[2]["message"]), (&json!("False"), &json!(HALF)));
        assert_eq!(conditions(&seen(first["conditions"].clone()), &verdict, of(1, 2), None), None);
    }

    #[test]
    fn a_time_of_transition_stays_while_the_status_stays() {
        let old = json!([{"type": ACCEPTED, "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 2,
            "lastTransitionTime": "2020-01-01T00:00:00Z"}]);
        let good = Verdict { accepted: true, message: String::new() };
        let next = conditions(&seen(old.clone()), &good, None, None).unwrap();
        assert_eq!(next["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!(next["conditions"][0]["observedGeneration"], 3);
        let bad = Verdict { accepted: false, message: "spec.hosts: no".into() };
        let next = conditions(&seen(old), &bad, None, None).unwrap();
        assert_ne!(next["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!(next["conditions"][0]["message"], "spec.hosts: no");
    }

    #[test]
    fn a_number_of_proxies_that_is_complete_is_not_written_again_when_proxies_come_and_go() {
        let verdict = Verdict { accepted: true, message: String::new() };
        let first = conditions(&seen(json!([])), &verdict, of(2, 2), None).unwrap();
        let shown = seen(first["conditions"].clone());
        assert_eq!(conditions(&shown, &verdict, of(5, 5), None), None);
        assert!(conditions(&shown, &verdict, of(4, 5), None).is_some());
    }

    #[test]
    fn a_patch_takes_away_what_is_gone_and_touches_nothing_that_stays() {
        let old = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}, "mine": {"a": 1, "b": 2}, "theirs": [1]});
        let new = json!({"loadBalancer": {}, "mine": {"a": 1, "b": 3}, "theirs": [1], "new": {"x": 1}});
        let patch = difference(&old, &new);
        assert_eq!(patch, json!({"loadBalancer": {"ingress": null}, "mine": {"b": 3}, "new": {"x": 1}}));
    }

    #[test]
    fn a_status_of_somebody_elses_making_keeps_its_other_fields() {
        let verdict = Verdict { accepted: true, message: String::new() };
        let mut seen = seen(json!([]));
        seen.status["validationMessages"] = json!(["theirs"]);
        let next = conditions(&seen, &verdict, None, None).unwrap();
        assert_eq!(next["validationMessages"], json!(["theirs"]));
    }
}
