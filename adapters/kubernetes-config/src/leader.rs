//! One replica at a time, elected by a Lease.
//!
//! The holder renews the Lease; the others take it over when it was not renewed for its duration, as they saw it by their own clocks
//! (clocks of different machines are never compared).
//!
//! - ALWAYS: who cannot renew in time stops leading before another may begin.
//! - ALWAYS: a write names the version that was read, so that of two who try, one wins.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access::{Access, explain, status_code};
use crate::feed::jittered;

/// How long a Lease is valid without being renewed.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long stops leading.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time between renewals, and between looks at another's Lease.
const PERIOD: Duration = Duration::from_secs(2);

/// A candidate.
#[derive(Debug)]
pub struct Leader {
    access: Access,
    identity: Arc<str>,
    leads: watch::Sender<bool>,
}

/// What a candidate knows of the Lease.
#[derive(Debug, Default)]
struct Observed {
    /// Who holds it, in which version.
    record: Option<(String, Option<String>)>,
    /// When that was first seen.
    since: Option<Instant>,
}

/// What a candidate did.
#[derive(Debug, PartialEq, Eq)]
enum Tried {
    /// It holds the Lease.
    Held,
    /// Somebody else does.
    Other(String),
}

// === impl Leader ===

impl Leader {
    /// A candidate with an identity of its own.
    pub fn new(access: Access) -> Self {
        Self { access, identity: identity().into(), leads: watch::Sender::new(false) }
    }

    /// Whether this replica leads now.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Who it is in the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes part in the election until `stop` completes, and gives leadership back then.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let client = tokio::select! {
            () = &mut stop => return,
            client = self.access.client() => client,
        };
        let settings = self.access.settings();
        let leases = Leases {
            api: Api::namespaced(client, &settings.own_namespace()),
            name: settings.lease.clone(),
            identity: self.identity.clone(),
        };
        let mut observed = Observed::default();
        let mut renewed = Instant::now();
        let mut said = String::new();
        loop {
            // A leader's request may not outlive its right to lead.
            let limit = if *self.leads.borrow() { DEADLINE.saturating_sub(renewed.elapsed()) } else { DEADLINE };
            let began = Instant::now();
            let tried = tokio::select! {
                () = &mut stop => break,
                tried = tokio::time::timeout(limit, leases.acquire(&mut observed)) => tried,
            };
            match tried {
                Ok(Ok(Tried::Held)) => {
                    renewed = began;
                    said.clear();
                    self.say(true, "this replica leads");
                }
                Ok(Ok(Tried::Other(holder))) => {
                    said.clear();
                    self.say(false, &format!("{holder} leads"));
                }
                failed => {
                    let text = match failed {
                        Ok(Err(error)) => explain(&error),
                        _ => "the API server did not answer in time".to_owned(),
                    };
                    if text != said {
                        tracing::warn!(lease = leases.name, "cannot take or renew the Lease: {text}");
                        said = text;
                    }
                    if renewed.elapsed() >= DEADLINE {
                        self.say(false, "the Lease could not be renewed in time, so this replica leads no longer");
                    }
                }
            }
            let left = if *self.leads.borrow() { DEADLINE.saturating_sub(renewed.elapsed()) } else { PERIOD };
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(jittered(PERIOD).min(left)) => {}
            }
            if *self.leads.borrow() && renewed.elapsed() >= DEADLINE {
                self.say(false, "the Lease could not be renewed in time, so this replica leads no longer");
            }
        }
        if *self.leads.borrow() {
            self.say(false, "stopping: leadership is given back");
            let _ = tokio::time::timeout(PERIOD, leases.release()).await;
        }
    }

    fn say(&self, leads: bool, text: &str) {
        let changed = self.leads.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            tracing::info!(identity = &*self.identity, "{text}");
            metrics::gauge!("xebec_leader").set(if leads { 1.0 } else { 0.0 });
        }
    }
}

/// Unique among replicas, also among those that restart under one name.
fn identity() -> String {
    use std::hash::{BuildHasher, RandomState};
    let host = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let host = host.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host = host.map_or_else(|| "xebec".to_owned(), |name| name.trim().to_owned());
    let random = RandomState::new().hash_one(std::process::id());
    format!("{host}_{}_{random:016x}", std::process::id())
}

// === impl Leases ===

struct Leases {
    api: Api<Lease>,
    name: String,
    identity: Arc<str>,
}

impl Leases {
    /// Takes the Lease if it is free, over, or already ours.
    async fn acquire(&self, observed: &mut Observed) -> Result<Tried, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..Default::default() },
                spec: Some(self.spec(None, true)),
            };
            return self.written(self.api.create(&PostParams::default(), &lease).await);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let record = Some((holder.clone(), lease.metadata.resource_version.clone()));
        if observed.record != record {
            *observed = Observed { record, since: Some(Instant::now()) };
        }
        let valid = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let valid = valid.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs);
        let ours = holder == *self.identity;
        let over = observed.since.is_none_or(|since| since.elapsed() >= valid);
        if !ours && !holder.is_empty() && !over {
            return Ok(Tried::Other(holder));
        }
        let mut next = lease;
        next.spec = Some(self.spec(next.spec.as_ref(), !ours));
        self.written(self.api.replace(&self.name, &PostParams::default(), &next).await)
    }

    /// A conflict means that another was faster; who it is will be seen next time.
    fn written(&self, result: Result<Lease, kube::Error>) -> Result<Tried, kube::Error> {
        match result {
            Ok(_) => Ok(Tried::Held),
            Err(error) if status_code(&error) == Some(409) => Ok(Tried::Other("another replica".to_owned())),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>, taken: bool) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let transitions = before.and_then(|spec| spec.lease_transitions);
        LeaseSpec {
            holder_identity: Some(self.identity.to_string()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if taken { Some(now.clone()) } else { before.and_then(|spec| spec.acquire_time.clone()) },
            renew_time: Some(now),
            lease_transitions: match (transitions, taken) {
                (Some(count), true) => Some(count.saturating_add(1)),
                (count, _) => Some(count.unwrap_or(0)),
            },
            ..Default::default()
        }
    }

    /// Empties the Lease if it is still ours, so that nobody has to wait for its end.
    async fn release(&self) -> Result<(), kube::Error> {
        let mut lease = self.api.get(&self.name).await?;
        if let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_deref() == Some(&*self.identity)
        {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}
