//! TCP proxying: bytes in both directions, each side closed on its own.

use super::control::Control;
use super::flags::Flags;
use super::live::LiveTcp;
use super::log::Facts;
use super::upstream::take;
use super::worker::{Held, Worker};
use crate::model::ConnectionFacts;
use bytes::{Buf, Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};

/// Buffers grow from the first to the second size while reads fill them, and are given back when a side is quiet.
const SMALL: usize = 8 * 1024;
const LARGE: usize = 128 * 1024;

/// Why a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Idle,
    Stopped,
}

#[derive(Default)]
struct Direction {
    buffer: BytesMut,
    room: usize,
    read_all: bool,
    done: bool,
    bytes: u64,
}

impl Direction {
    fn new(first: Bytes) -> Self {
        Self { buffer: BytesMut::from(&first[..]), room: SMALL, ..Self::default() }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.done {
            while !self.buffer.is_empty() {
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.buffer))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.bytes += written as u64;
                self.buffer.advance(written);
            }
            if self.read_all {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                self.done = true;
                break;
            }
            self.buffer.reserve(self.room);
            match tokio_util::io::poll_read_buf(Pin::new(&mut *reader), cx, &mut self.buffer) {
                Poll::Ready(Ok(0)) => self.read_all = true,
                Poll::Ready(Ok(length)) if length >= self.room => self.room = (self.room * 2).min(LARGE),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.room > SMALL {
                        self.room = SMALL;
                        self.buffer = BytesMut::new();
                    }
                    ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Copies until both sides are closed. `first` goes to `b` before anything that is read from `a`.
/// Returns bytes to `b`, bytes to `a`, and why it ended.
pub(super) async fn pump<A, B>(
    a: &mut A,
    b: &mut B,
    first: Bytes,
    idle: Option<Duration>,
    stop: impl Future<Output = ()>,
) -> (u64, u64, End)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut forth = Direction::new(first);
    let mut back = Direction::new(Bytes::new());
    let mut timer = idle.map(|idle| (idle, Box::pin(tokio::time::sleep(idle)), Instant::now(), 0));
    let mut stop = pin!(stop);
    let end = poll_fn(|cx| {
        let forth_end = forth.poll(cx, a, b);
        let back_end = back.poll(cx, b, a);
        match (forth_end, back_end) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Closed),
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(End::Closed),
            _ => {}
        }
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Stopped);
        }
        if let Some((idle, sleep, last, seen)) = &mut timer {
            let total = forth.bytes + back.bytes;
            if total != *seen {
                *seen = total;
                *last = Instant::now();
            }
            while sleep.as_mut().poll(cx).is_ready() {
                // The timer is only moved when it fires, not with every byte.
                let quiet = last.elapsed();
                if quiet >= *idle {
                    return Poll::Ready(End::Idle);
                }
                sleep.as_mut().set(tokio::time::sleep(*idle - quiet));
            }
        }
        Poll::Pending
    })
    .await;
    (forth.bytes, back.bytes, end)
}

/// Serves a connection of a TCP filter chain.
pub(super) async fn serve<S>(
    worker: &Rc<Worker>,
    live: Rc<Held>,
    tcp: &Arc<LiveTcp>,
    control: &Control,
    facts: &ConnectionFacts,
    client: &mut S,
    first: Bytes,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let start = Instant::now();
    let stats = tcp.stats.at(worker.id);
    stats.downstream_cx_total.inc();
    let mut outcome = Outcome::default();
    forward(worker, live, tcp, control, facts, client, first, &mut outcome).await;
    stats.downstream_cx_rx_bytes_total.add(outcome.received);
    stats.downstream_cx_tx_bytes_total.add(outcome.sent);
    if tcp.logs.is_empty() {
        return;
    }
    let elapsed = start.elapsed();
    let facts = Facts {
        wall: SystemTime::now() - elapsed,
        elapsed,
        protocol: "",
        method: "",
        path: "",
        authority: "",
        scheme: "",
        request: None,
        response: None,
        trailers: None,
        service_time: None,
        status: 0,
        details: "",
        failure: &outcome.failure,
        flags: outcome.flags,
        received: outcome.received,
        sent: outcome.sent,
        head_after: None,
        upstream_host: &outcome.host,
        upstream_cluster: &outcome.cluster,
        attempts: outcome.attempts,
        route: "",
        local: Some(facts.destination),
        remote: Some(facts.source),
        server_name: &facts.server_name,
        hostname: &worker.core.hostname,
    };
    for log in &tcp.logs {
        log.write_facts(&facts, worker);
    }
}

#[derive(Default)]
struct Outcome {
    flags: Flags,
    received: u64,
    sent: u64,
    host: Box<str>,
    cluster: Box<str>,
    failure: String,
    attempts: u32,
}

#[allow(clippy::too_many_arguments, reason = "one call, from `serve`")]
async fn forward<S>(
    worker: &Rc<Worker>,
    live: Rc<Held>,
    tcp: &Arc<LiveTcp>,
    control: &Control,
    facts: &ConnectionFacts,
    client: &mut S,
    first: Bytes,
    outcome: &mut Outcome,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut draw = worker.random() % tcp.total.max(1);
    let chosen = tcp.config.clusters.iter().find(|choice| {
        let weight = u64::from(choice.weight);
        let hit = draw < weight;
        draw = draw.saturating_sub(weight);
        hit
    });
    let cluster = chosen.and_then(|choice| live.clusters.get(&choice.cluster)).cloned();
    // The connection may live for days, and must not keep a whole configuration.
    drop(live);
    let Some(cluster) = cluster else {
        tcp.stats.at(worker.id).downstream_cx_no_route.inc();
        outcome.flags.set(Flags::NO_CLUSTER);
        return;
    };
    outcome.cluster = (&*cluster.config.name).into();
    let mut tried = Vec::new();
    for _ in 0..tcp.config.max_connect_attempts.max(1) {
        outcome.attempts += 1;
        let destination = Some(facts.destination);
        let mut random = || worker.random();
        let Ok(host) = cluster.choose(&mut random, None, &tried, 3, destination) else {
            cluster.shared.stats.at(worker.id).upstream_cx_none_healthy.inc();
            outcome.flags.set(Flags::NO_HEALTHY_UPSTREAM);
            return;
        };
        tried.push(host.id);
        outcome.host = host.text.clone();
        if !take(&cluster.shared.connections, cluster.limits().max_connections) {
            cluster.shared.stats.at(worker.id).upstream_cx_overflow.inc();
            outcome.flags.set(Flags::OVERFLOW);
            return;
        }
        let pool = worker.pools.of(&host, &cluster.config);
        match pool.connect(worker, &cluster).await {
            Ok((mut upstream, guard)) => {
                host.active.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                host.total.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                cluster.report(&host, Some(200));
                drop(cluster);
                let stop = control.closed();
                let (up, down, end) = pump(client, &mut upstream, first, tcp.config.idle_timeout, stop).await;
                host.active.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
                guard.sent(up as usize);
                guard.received(down as usize);
                (outcome.received, outcome.sent) = (up, down);
                if end == End::Idle {
                    tcp.stats.at(worker.id).idle_timeout.inc();
                }
                return;
            }
            Err(error) => {
                cluster.report(&host, None);
                outcome.failure = format!("{error:?}");
                outcome.flags.set(Flags::CONNECTION_FAILURE);
            }
        }
    }
    outcome.flags.set(Flags::RETRY_EXCEEDED);
}
