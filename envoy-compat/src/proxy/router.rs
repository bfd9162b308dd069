//! Sending a request upstream: cluster, host, attempts, and when to give up.

use super::attempt::{Attempt, Bodies, Failed, Got};
use super::body::ResponseBody;
use super::deadline::{Deadline, Timed, within};
use super::flags::Flags;
use super::headers::EXPECTED_TIMEOUT;
use super::live::Live;
use super::mirror::mirror;
use super::record::Record;
use super::reply;
use super::respond::{failed, respond};
use super::retry::{Failure, Outcome, back_off, is_retriable};
use super::rewrite::{destination, hash, rewrite, timeout};
use super::upstream::{LiveCluster, give, take};
use super::worker::Worker;
use crate::model::{Forward, HostRewrite, RetryPolicy, Route, RouteTable, VirtualHost, WeightedCluster};
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::sync::Arc;

/// Where a request was routed.
pub(super) struct Found<'a> {
    pub table: &'a RouteTable,
    pub host: &'a VirtualHost,
    pub route: &'a Route,
    /// The cluster's name, and the weighted entry that it came from.
    pub choice: Option<(&'a Arc<str>, Option<&'a WeightedCluster>)>,
    /// Headers that CORS adds to the response.
    pub cors: Option<HeaderMap>,
}

/// Forwards a request and answers with what comes back.
pub(super) async fn forward(
    mut record: Box<Record>,
    incoming: Incoming,
    live: &Live,
    found: &Found<'_>,
    forward: &Forward,
    upgrade: Option<OnUpgrade>,
) -> Response<ResponseBody> {
    let worker = record.conn.worker.clone();
    let Some(cluster) = found.choice.and_then(|(name, _)| live.clusters.get(name)) else {
        record.http.stats.at(worker.id).no_cluster.inc();
        record.flags.set(Flags::NO_CLUSTER);
        record.details = "cluster_not_found".into();
        return reply::local(record, forward.cluster_not_found, "");
    };
    record.cluster = Some(cluster.clone());
    record.http.stats.at(worker.id).rq_total.inc();
    let hash = hash(forward, &record);
    rewrite(&mut record, found, forward);
    let timeout = timeout(forward, &record.head.headers);
    let retry = forward.retry.as_deref().or(found.host.retry.as_deref()).filter(|policy| !policy.on.is_empty());
    if let Some(limit) = timeout.filter(|_| !record.http.suppress_envoy_headers) {
        let expected = retry.and_then(|policy| policy.per_try_timeout).map_or(limit, |try_limit| try_limit.min(limit));
        record.head.headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(expected.as_millis() as u64));
    }
    let mut bodies = Bodies::new(incoming, retry.is_some() || !forward.mirrors.is_empty(), upgrade.is_some());
    record.upload = bodies.upload.clone();
    let mut deadline = timeout.map(Deadline::new);

    let mut tried = Vec::new();
    let mut retries = 0;
    let mut refreshed = false;
    // Held until the retry has its answer: the limit is for retries under way, not for those that wait.
    let mut permit: Option<RetryPermit<'_>> = None;
    loop {
        record.attempts += 1;
        let (avoid, draws): (&[u64], u32) = match retry {
            Some(policy) if policy.avoid_previous_hosts => (&tried, policy.host_attempts.max(1)),
            _ => (&[], 1),
        };
        let mut random = || worker.random();
        let destination = destination(cluster, &record);
        let Ok(host) = cluster.choose(&mut random, hash, avoid, draws, destination) else {
            cluster.shared.stats.at(worker.id).upstream_cx_none_healthy.inc();
            record.flags.set(Flags::NO_HEALTHY_UPSTREAM);
            record.details = "no_healthy_upstream".into();
            return reply::local(record, 503, "no healthy upstream");
        };
        if retry.is_some() {
            tried.push(host.id);
        }
        if matches!(forward.host_rewrite, Some(HostRewrite::Auto))
            && let Some(name) = &host.hostname
        {
            record.authority = (&**name).into();
        }
        let Some(body) = bodies.next() else {
            // Too large to be sent again; reached only after a failure.
            return failed(record, cluster, retry.is_some(), None);
        };
        let per_try = retry.and_then(|policy| policy.per_try_timeout);
        let attempt = Attempt {
            worker: &worker,
            cluster,
            host: &host,
            count: found.host.request_attempt_count,
            fresh: refreshed,
            upgrade: upgrade.is_some(),
        };
        let outcome = {
            let future = attempt.run(&mut record, body);
            within(future, &mut deadline, per_try, bodies.upload.as_deref()).await
        };
        let stats = cluster.shared.stats.at(worker.id);
        let failure = match outcome {
            Timed::Route => {
                stats.upstream_rq_timeout.inc();
                cluster.report(&host, Some(504));
                return out_of_time(record);
            }
            Timed::Try => {
                stats.upstream_rq_per_try_timeout.inc();
                Failed {
                    failure: Failure::PerTryTimeout,
                    reason: String::new(),
                    stale: false,
                    unsent: false,
                    client: false,
                }
            }
            Timed::Done(Err(failed)) => failed,
            Timed::Done(Ok(got)) => {
                cluster.report(&host, Some(grpc_as_http(&got)));
                let again =
                    retry.is_some_and(|policy| is_retriable(policy, &Outcome::Response(got.status, &got.headers)));
                let policy = retry.filter(|_| again);
                drop(permit.take());
                match policy.map(|policy| may_retry(policy, retries, &bodies, cluster, worker.id)) {
                    Some(Ok(taken)) => {
                        permit = Some(taken);
                        drop(got);
                        // This attempt is over: the next one takes a unit of the request limit of its own.
                        record.active = None;
                        retries += 1;
                        if !wait(retry, retries, &worker, &mut deadline, &bodies).await {
                            return out_of_time(record);
                        }
                        continue;
                    }
                    Some(Err(Denied::Limit)) => record.flags.set(Flags::RETRY_EXCEEDED),
                    Some(Err(_)) => {}
                    None if retries > 0 => stats.upstream_rq_retry_success.inc(),
                    None => {}
                }
                mirror(&record, &bodies, forward, live);
                return respond(record, got, found, deadline, upgrade);
            }
        };
        record.active = None;
        if failure.client {
            record.answered = false;
            record.flags.set(Flags::CLIENT_CLOSED);
            return reply::local(record, 400, "");
        }
        // A request that nothing has answered may be repeated without a policy only if repeating it is harmless.
        if failure.stale && !refreshed && (failure.unsent || record.head.method.is_idempotent()) && bodies.can_repeat()
        {
            // The peer closed a pooled connection while the request was on its way: not the request's fault.
            refreshed = true;
            record.attempts -= 1;
            continue;
        }
        if failure.failure != Failure::Overflow {
            cluster.report(&host, None);
        }
        match failure.failure {
            Failure::Closed { .. } | Failure::Reset | Failure::Refused => stats.upstream_rq_rx_reset.inc(),
            Failure::PerTryTimeout => stats.upstream_rq_tx_reset.inc(),
            _ => {}
        }
        let policy = retry.filter(|policy| is_retriable(policy, &Outcome::Failed(failure.failure)));
        drop(permit.take());
        match policy.map(|policy| may_retry(policy, retries, &bodies, cluster, worker.id)) {
            Some(Ok(taken)) => {
                permit = Some(taken);
                retries += 1;
                if !wait(retry, retries, &worker, &mut deadline, &bodies).await {
                    return out_of_time(record);
                }
                continue;
            }
            Some(Err(Denied::Limit)) => record.flags.set(Flags::RETRY_EXCEEDED),
            _ => {}
        }
        return failed(record, cluster, retries > 0, Some(failure));
    }
}

enum Denied {
    Limit,
    Body,
    Breaker,
}

/// A retry that is under way, counted by the circuit breaker.
struct RetryPermit<'a>(&'a LiveCluster);

impl Drop for RetryPermit<'_> {
    fn drop(&mut self) {
        give(&self.0.shared.retries, self.0.limits().max_retries);
    }
}

fn may_retry<'a>(
    policy: &RetryPolicy,
    retries: u32,
    bodies: &Bodies,
    cluster: &'a LiveCluster,
    worker: usize,
) -> Result<RetryPermit<'a>, Denied> {
    let stats = cluster.shared.stats.at(worker);
    if retries >= policy.retries {
        stats.upstream_rq_retry_limit_exceeded.inc();
        return Err(Denied::Limit);
    }
    if !bodies.can_repeat() {
        return Err(Denied::Body);
    }
    if !take(&cluster.shared.retries, cluster.limits().max_retries) {
        stats.upstream_rq_retry_overflow.inc();
        return Err(Denied::Breaker);
    }
    stats.upstream_rq_retry.inc();
    Ok(RetryPermit(cluster))
}

/// Waits before a retry; false when the route's time is over first.
async fn wait(
    retry: Option<&RetryPolicy>,
    retries: u32,
    worker: &Worker,
    deadline: &mut Option<Deadline>,
    bodies: &Bodies,
) -> bool {
    let Some(policy) = retry else { return true };
    let pause = tokio::time::sleep(back_off(policy, retries, worker.random()));
    matches!(within(pause, deadline, None, bodies.upload.as_deref()).await, Timed::Done(()))
}

/// The answer when the route's time is over.
fn out_of_time(mut record: Box<Record>) -> Response<ResponseBody> {
    record.active = None;
    record.flags.set(Flags::UPSTREAM_TIMEOUT);
    record.details = "response_timeout".into();
    reply::local(record, 504, "upstream request timeout")
}

/// For outlier detection a gRPC failure in the head counts as its HTTP sibling.
fn grpc_as_http(got: &Got) -> u16 {
    match got.headers.get("grpc-status").map(|value| value.as_bytes()) {
        Some(b"14") => 503,
        Some(b"4") => 504,
        Some(b"2" | b"13" | b"15") => 500,
        _ => got.status.as_u16(),
    }
}
