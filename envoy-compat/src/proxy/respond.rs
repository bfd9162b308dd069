//! What the client gets: the upstream's response, an explanation when there is none, or a tunnel.

use super::attempt::{Failed, Got, Source};
use super::body::{Inner, ResponseBody, Upload};
use super::deadline::Deadline;
use super::flags::Flags;
use super::h1::Answer;
use super::headers::{ATTEMPT_COUNT, REQUEST_ID, SERVICE_TIME};
use super::pool::ConnectionGuard;
use super::record::Record;
use super::reply;
use super::retry::Failure;
use super::router::Found;
use super::tcp;
use super::upstream::LiveCluster;
use bytes::Bytes;
use http::header::SERVER;
use http::{HeaderValue, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;

/// The answer when no attempt had one.
pub(super) fn failed(
    mut record: Box<Record>,
    cluster: &LiveCluster,
    retried: bool,
    failed: Option<Failed>,
) -> Response<ResponseBody> {
    record.active = None;
    let Some(Failed { failure, reason, .. }) = failed else {
        record.flags.set(Flags::LOCAL_RESET);
        return reply::local(
            record,
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: local reset",
        );
    };
    let stats = cluster.shared.stats.at(record.conn.worker.id);
    let (flag, words) = match failure {
        Failure::PerTryTimeout => {
            record.flags.set(Flags::UPSTREAM_TIMEOUT);
            record.details = "upstream_per_try_timeout".into();
            return reply::local(record, 504, "upstream request timeout");
        }
        Failure::Connect => {
            stats.upstream_rq_pending_failure_eject.inc();
            record.failure = Some(reason.as_str().into());
            (Flags::CONNECTION_FAILURE, format!("remote connection failure, transport failure reason: {reason}"))
        }
        Failure::ConnectTimeout => {
            stats.upstream_rq_pending_failure_eject.inc();
            (Flags::CONNECTION_FAILURE, "connection timeout".to_owned())
        }
        Failure::Overflow => (Flags::OVERFLOW, "overflow".to_owned()),
        Failure::Closed { .. } => (Flags::UPSTREAM_CLOSED, "connection termination".to_owned()),
        Failure::Reset => (Flags::REMOTE_RESET, "remote reset".to_owned()),
        Failure::Refused => (Flags::REMOTE_RESET, "remote refused stream reset".to_owned()),
        Failure::Protocol => {
            record.failure = Some(reason.into());
            (Flags::PROTOCOL_ERROR, "protocol error".to_owned())
        }
    };
    record.flags.set(flag);
    record.details = format!("upstream_reset_before_response_started{{{}}}", words.replace([' ', ','], "_")).into();
    let retried = if retried { "retried and the latest " } else { "" };
    let text = format!("upstream connect error or disconnect/reset before headers. {retried}reset reason: {words}");
    let status = if failure == Failure::Protocol { 502 } else { 503 };
    reply::local(record, status, text)
}

/// Passes a response on.
pub(super) fn respond(
    mut record: Box<Record>,
    got: Got,
    found: &Found<'_>,
    deadline: Option<Deadline>,
    upgrade: Option<OnUpgrade>,
) -> Response<ResponseBody> {
    let Got { status, mut headers, source } = got;
    let after = record.start.elapsed();
    record.head_after = Some(after);
    record.status = status.as_u16();
    record.answered = true;
    if !record.http.suppress_envoy_headers {
        let millis = after.as_millis() as u64;
        record.service_time = Some(millis);
        headers.insert(SERVICE_TIME, HeaderValue::from(millis));
    }
    if !(record.http.config.pass_through_server && headers.contains_key(SERVER)) {
        headers.insert(SERVER, record.http.server.clone());
    }
    if found.host.response_attempt_count {
        headers.insert(ATTEMPT_COUNT, HeaderValue::from(record.attempts));
    }
    if record.http.config.request_id_in_response
        && let Some(id) = record.head.headers.get(REQUEST_ID)
    {
        headers.insert(REQUEST_ID, id.clone());
    }
    if let Some(cors) = &found.cors {
        for (name, value) in cors {
            headers.insert(name, value.clone());
        }
    }
    found.change_response(&mut headers, &record);
    if record.conn.control.draining.get() && !record.conn.h2 {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    if record.http.log_response_headers {
        record.response_headers = Some(headers.clone());
    }
    let inner = match source {
        Source::H2(incoming, guard) => Inner::H2(incoming, guard),
        Source::H1(exchange, framing) => match exchange.into_answer(status, framing) {
            Answer::Empty => Inner::Empty,
            Answer::Body(body) => Inner::H1(body),
            Answer::Upgraded(upstream, first, guard) => {
                let mut response = Response::new(ResponseBody::unrecorded(Bytes::new()));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                if let Some(upgrade) = upgrade {
                    tokio::task::spawn_local(tunnel(record, upgrade, upstream, first, guard));
                }
                return response;
            }
        },
    };
    let mut response = Response::new(ResponseBody::new(inner, record, deadline));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// After a 101: bytes in both directions until one side ends.
async fn tunnel(
    mut record: Box<Record>,
    upgrade: OnUpgrade,
    mut upstream: tokio::net::TcpStream,
    first: Bytes,
    guard: ConnectionGuard,
) {
    let Ok(client) = upgrade.await else { return };
    let http = record.http.clone();
    let stats = http.stats.at(record.conn.worker.id);
    stats.downstream_cx_upgrades_total.inc();
    stats.downstream_cx_upgrades_active.inc();
    let mut client = TokioIo::new(client);
    let idle = http.config.stream_idle_timeout;
    let control = record.conn.control.clone();
    control.carry_bytes(record.conn.worker.core.drain_time);
    let (down, up, _) = tcp::pump(&mut upstream, &mut client, first, idle, control.closed()).await;
    guard.sent(up as usize);
    guard.received(down as usize);
    record.bytes_sent = down;
    let upload = Upload::default();
    upload.bytes.set(up);
    record.upload = Some(Rc::new(upload));
    stats.downstream_cx_upgrades_active.dec();
}
