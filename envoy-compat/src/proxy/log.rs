//! Access logs: formats filled in on the worker, lines written by one thread.
//!
//! A line is appended to the worker's own buffer. Full buffers, and any buffer after a short while, go through a
//! bounded queue to the writer; when the writer cannot keep up, lines are dropped and counted, and no request waits.

use super::clock::{write_strftime, write_time};
use super::flags::Flags;
use super::record::Record;
use super::worker::Worker;
use crate::model::{
    AccessLog, AccessLogFilter, AccessLogFormat, AccessLogSink, Format, HeaderKey, JsonFormat, Operator, Segment,
};
use http::HeaderMap;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A buffer of this size is sent to the writer at once.
const BUFFER: usize = 32 * 1024;
/// Buffers that may wait for the writer.
const QUEUE: usize = 256;

/// All places that lines go to, and the way there.
pub(super) struct Sinks {
    known: Mutex<FxHashMap<AccessLogSink, usize>>,
    /// Only missing while this is being dropped.
    writer: Option<SyncSender<Message>>,
    thread: Option<std::thread::JoinHandle<()>>,
    dropped: AtomicU64,
}

enum Message {
    Open(AccessLogSink),
    Lines(usize, Vec<u8>),
}

/// An access log of a filter chain.
#[derive(Debug)]
pub(super) struct LiveLog {
    sink: usize,
    format: AccessLogFormat,
    filter: AccessLogFilter,
}

/// The facts that operators draw from; `None` and empty are written as `-`.
pub(super) struct Facts<'a> {
    pub wall: SystemTime,
    pub elapsed: Duration,
    pub protocol: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub authority: &'a str,
    pub scheme: &'a str,
    pub request: Option<&'a HeaderMap>,
    pub response: Option<&'a HeaderMap>,
    pub trailers: Option<&'a HeaderMap>,
    pub service_time: Option<u64>,
    pub status: u16,
    pub details: &'a str,
    pub failure: &'a str,
    pub flags: Flags,
    pub received: u64,
    pub sent: u64,
    pub head_after: Option<Duration>,
    pub upstream_host: &'a str,
    pub upstream_cluster: &'a str,
    pub attempts: u32,
    pub route: &'a str,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub server_name: &'a str,
    pub hostname: &'a str,
}

// === impl Sinks ===

impl Sinks {
    pub fn start() -> io::Result<Self> {
        let (writer, messages) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("xebec-log".into()).spawn(move || write_all(&messages))?;
        Ok(Self { known: Mutex::default(), writer: Some(writer), thread: Some(thread), dropped: AtomicU64::new(0) })
    }

    fn id(&self, sink: &AccessLogSink) -> usize {
        let mut known = self.known.lock();
        let next = known.len();
        *known.entry(sink.clone()).or_insert_with(|| {
            // The writer ends only when all senders are gone.
            if let Some(writer) = &self.writer {
                let _ = writer.send(Message::Open(sink.clone()));
            }
            next
        })
    }

    /// Hands lines over without waiting.
    pub fn send(&self, sink: usize, lines: Vec<u8>) {
        let Some(writer) = &self.writer else { return };
        if let Err(
            TrySendError::Full(Message::Lines(_, lines)) | TrySendError::Disconnected(Message::Lines(_, lines)),
        ) = writer.try_send(Message::Lines(sink, lines))
        {
            let count = lines.iter().filter(|byte| **byte == b'\n').count();
            self.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Lines that were lost because the writer was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

enum Output {
    Stdout,
    Stderr,
    File(File),
    Broken,
}

fn write_all(messages: &Receiver<Message>) {
    let mut outputs = Vec::new();
    while let Ok(message) = messages.recv() {
        match message {
            Message::Open(AccessLogSink::Stdout) => outputs.push(Output::Stdout),
            Message::Open(AccessLogSink::Stderr) => outputs.push(Output::Stderr),
            Message::Open(AccessLogSink::File(path)) => {
                outputs.push(match OpenOptions::new().create(true).append(true).open(&path) {
                    Ok(file) => Output::File(file),
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "the access log cannot be opened; its lines are lost");
                        Output::Broken
                    }
                });
            }
            Message::Lines(sink, lines) => {
                let written = match outputs.get_mut(sink) {
                    Some(Output::Stdout) => io::stdout().write_all(&lines),
                    Some(Output::Stderr) => io::stderr().write_all(&lines),
                    Some(Output::File(file)) => file.write_all(&lines),
                    Some(Output::Broken) | None => Ok(()),
                };
                if let Err(error) = written {
                    tracing::warn!(%error, "access log lines were lost");
                }
            }
        }
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            // What was handed over is written before the process may end.
            let _ = thread.join();
        }
    }
}

// === impl LiveLog ===

impl LiveLog {
    pub fn new(log: &AccessLog, sinks: &Sinks) -> Self {
        Self { sink: sinks.id(&log.sink), format: log.format.clone(), filter: log.filter.clone() }
    }

    /// Whether a response header other than the service time is named.
    pub fn needs_response_headers(&self) -> bool {
        fn text(format: &Format) -> bool {
            format.segments.iter().any(|segment| match segment {
                Segment::Value { operator: Operator::Response(key, _), .. } => !is_service_time(key),
                Segment::Value { operator: Operator::Trailer(_), .. } => true,
                _ => false,
            })
        }
        fn json(format: &JsonFormat) -> bool {
            match format {
                JsonFormat::Text(format) => text(format),
                JsonFormat::Object(entries) => entries.iter().any(|(_, entry)| json(entry)),
                JsonFormat::List(entries) => entries.iter().any(json),
                JsonFormat::Constant(_) => false,
            }
        }
        match &self.format {
            AccessLogFormat::Text(format) => text(format),
            AccessLogFormat::Json(format) => json(format),
        }
    }

    /// Writes the line of a request.
    pub fn write(&self, record: &Record, elapsed: Duration, worker: &Worker) {
        let mut facts = Facts::of(record);
        facts.elapsed = elapsed;
        facts.wall = SystemTime::now() - elapsed;
        self.write_facts(&facts, worker);
    }

    /// Writes the line of whatever the facts are about.
    pub fn write_facts(&self, facts: &Facts<'_>, worker: &Worker) {
        let wanted = match &self.filter {
            AccessLogFilter::All => true,
            AccessLogFilter::StatusAtLeast(status) => facts.status >= *status,
            AccessLogFilter::ResponseFlags(flags) if flags.is_empty() => !facts.flags.is_empty(),
            AccessLogFilter::ResponseFlags(flags) => flags.iter().any(|flag| facts.flags.has_text(flag)),
        };
        if !wanted {
            return;
        }
        worker.log(self.sink, |out| match &self.format {
            AccessLogFormat::Text(format) => render(format, facts, out),
            AccessLogFormat::Json(format) => {
                render_json(format, facts, out);
                out.push(b'\n');
            }
        });
    }
}

/// Whether a buffer should go to the writer now.
pub(super) fn is_full(buffer: &[u8]) -> bool {
    buffer.len() >= BUFFER
}

fn is_service_time(key: &HeaderKey) -> bool {
    matches!(key, HeaderKey::Name(name) if name == "x-envoy-upstream-service-time")
}

// === impl Facts ===

impl<'a> Facts<'a> {
    /// The facts of a request so far.
    pub fn of(record: &'a Record) -> Self {
        let conn = &*record.conn;
        Self {
            wall: UNIX_EPOCH,
            elapsed: Duration::ZERO,
            protocol: match record.head.version {
                http::Version::HTTP_2 => "HTTP/2",
                http::Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            method: record.head.method.as_str(),
            path: record.path(),
            authority: &record.authority,
            scheme: "http",
            request: Some(&record.head.headers),
            response: record.response_headers.as_ref(),
            trailers: record.trailers.as_ref(),
            service_time: record.service_time,
            status: record.status,
            details: &record.details,
            failure: record.failure.as_deref().unwrap_or(""),
            flags: record.flags,
            received: record.received(),
            sent: record.bytes_sent,
            head_after: record.head_after,
            upstream_host: record.host.as_ref().map_or("", |host| &host.text),
            upstream_cluster: record.cluster.as_ref().map_or("", |cluster| &cluster.config.name),
            attempts: record.attempts,
            route: record.route_name.as_deref().unwrap_or(""),
            local: Some(conn.facts.destination),
            remote: Some(conn.facts.source),
            server_name: &conn.facts.server_name,
            hostname: &conn.worker.core.hostname,
        }
    }

    fn header(&self, headers: Option<&HeaderMap>, key: &HeaderKey, out: &mut Vec<u8>) -> bool {
        let text = match key {
            HeaderKey::Method => self.method.as_bytes(),
            HeaderKey::Path => self.path.as_bytes(),
            HeaderKey::Authority => self.authority.as_bytes(),
            HeaderKey::Scheme => self.scheme.as_bytes(),
            HeaderKey::Name(name) => match headers.and_then(|headers| headers.get(name)) {
                Some(value) => value.as_bytes(),
                None => return false,
            },
        };
        out.extend_from_slice(text);
        !text.is_empty()
    }

    /// Writes a value; false when there is none.
    fn value(&self, operator: &Operator, out: &mut Vec<u8>) -> bool {
        let text = |text: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(text.as_bytes());
            !text.is_empty()
        };
        match operator {
            Operator::StartTime(None) => write_time(self.wall, out),
            Operator::StartTime(Some(format)) => write_strftime(self.wall, format, out),
            Operator::Request(first, second) => {
                return self.header(self.request, first, out)
                    || second.as_ref().is_some_and(|second| self.header(self.request, second, out));
            }
            Operator::Response(first, second) => {
                if is_service_time(first) {
                    let Some(millis) = self.service_time else { return false };
                    write_number(millis, out);
                    return true;
                }
                return self.header(self.response, first, out)
                    || second.as_ref().is_some_and(|second| self.header(self.response, second, out));
            }
            Operator::Trailer(key) => {
                return self.header(self.trailers, key, out) || self.header(self.response, key, out);
            }
            Operator::Protocol => return text(self.protocol, out),
            Operator::ResponseCode => write_number(self.status.into(), out),
            Operator::ResponseCodeDetails => return text(self.details, out),
            Operator::ConnectionTerminationDetails | Operator::Absent => return false,
            Operator::ResponseFlags => self.flags.write(out),
            Operator::BytesReceived => write_number(self.received, out),
            Operator::BytesSent => write_number(self.sent, out),
            Operator::Duration => write_number(self.elapsed.as_millis() as u64, out),
            Operator::RequestDuration => write_number(0, out),
            Operator::ResponseDuration => {
                let Some(after) = self.head_after else { return false };
                write_number(after.as_millis() as u64, out);
            }
            Operator::UpstreamHost => return text(self.upstream_host, out),
            Operator::UpstreamCluster => return text(self.upstream_cluster, out),
            Operator::UpstreamLocalAddress => return false,
            Operator::UpstreamTransportFailureReason => return text(self.failure, out),
            Operator::UpstreamRequestAttemptCount => write_number(self.attempts.into(), out),
            Operator::DownstreamLocalAddress => return address(self.local, out),
            Operator::DownstreamLocalAddressWithoutPort => return ip(self.local, out),
            Operator::DownstreamLocalPort => {
                let Some(local) = self.local else { return false };
                write_number(local.port().into(), out);
            }
            Operator::DownstreamRemoteAddress | Operator::DownstreamDirectRemoteAddress => {
                return address(self.remote, out);
            }
            Operator::DownstreamRemoteAddressWithoutPort | Operator::DownstreamDirectRemoteAddressWithoutPort => {
                return ip(self.remote, out);
            }
            Operator::RequestedServerName => return text(self.server_name, out),
            Operator::RouteName => return text(self.route, out),
            Operator::Hostname => return text(self.hostname, out),
            Operator::Path(true) => return text(self.path, out),
            Operator::Path(false) => return text(self.path.split('?').next().unwrap_or(""), out),
            Operator::Text(value) => return text(value, out),
        }
        true
    }
}

fn address(address: Option<SocketAddr>, out: &mut Vec<u8>) -> bool {
    let Some(address) = address else { return false };
    // Writing into a vector cannot fail.
    let _ = write!(out, "{address}");
    true
}

fn ip(address: Option<SocketAddr>, out: &mut Vec<u8>) -> bool {
    let Some(address) = address else { return false };
    let _ = write!(out, "{}", address.ip());
    true
}

/// Fills `format` in, with `-` for what does not exist.
pub(super) fn render(format: &Format, facts: &Facts<'_>, out: &mut Vec<u8>) {
    for segment in &format.segments {
        match segment {
            Segment::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Segment::Value { operator, max } => {
                let start = out.len();
                if !facts.value(operator, out) {
                    out.push(b'-');
                }
                if let Some(max) = max {
                    out.truncate(start + max);
                }
            }
        }
    }
}

/// Fills a header's value in: what does not exist is empty.
pub(super) fn render_header(format: &Format, facts: &Facts<'_>, out: &mut Vec<u8>) {
    for segment in &format.segments {
        match segment {
            Segment::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Segment::Value { operator, max } => {
                let start = out.len();
                facts.value(operator, out);
                if let Some(max) = max {
                    out.truncate(start + max);
                }
            }
        }
    }
}

fn render_json(format: &JsonFormat, facts: &Facts<'_>, out: &mut Vec<u8>) {
    match format {
        JsonFormat::Constant(value) => {
            let _ = write!(out, "{value}");
        }
        JsonFormat::Object(entries) => {
            out.push(b'{');
            for (at, (key, entry)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_json_text(key, out);
                out.push(b':');
                render_json(entry, facts, out);
            }
            out.push(b'}');
        }
        JsonFormat::List(entries) => {
            out.push(b'[');
            for (at, entry) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                render_json(entry, facts, out);
            }
            out.push(b']');
        }
        JsonFormat::Text(format) => {
            if let [Segment::Value { operator, max: None }] = format.segments.as_slice() {
                let mut value = Vec::new();
                if !facts.value(operator, &mut value) {
                    out.extend_from_slice(b"null");
                } else if is_number(operator) {
                    out.extend_from_slice(&value);
                } else {
                    write_json_text(&String::from_utf8_lossy(&value), out);
                }
                return;
            }
            let mut text = Vec::new();
            render(format, facts, &mut text);
            write_json_text(&String::from_utf8_lossy(&text), out);
        }
    }
}

fn is_number(operator: &Operator) -> bool {
    matches!(
        operator,
        Operator::ResponseCode
            | Operator::BytesReceived
            | Operator::BytesSent
            | Operator::Duration
            | Operator::RequestDuration
            | Operator::ResponseDuration
            | Operator::UpstreamRequestAttemptCount
            | Operator::DownstreamLocalPort
    )
}

fn write_json_text(text: &str, out: &mut Vec<u8>) {
    // Writing into a vector cannot fail, and a str is always valid JSON text.
    let _ = serde_json::to_writer(out, text);
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn facts() -> Facts<'static> {
        Facts {
            wall: UNIX_EPOCH + Duration::from_millis(1_709_210_096_789),
            elapsed: Duration::from_millis(12),
            protocol: "HTTP/1.1",
            method: "GET",
            path: "/b?x",
            authority: "a",
            scheme: "http",
            request: None,
            response: None,
            trailers: None,
            service_time: Some(3),
            status: 200,
            details: "via_upstream",
            failure: "",
            flags: Flags::default(),
            received: 0,
            sent: 5,
            head_after: None,
            upstream_host: "1.1.1.1:80",
            upstream_cluster: "c",
            attempts: 1,
            route: "",
            local: None,
            remote: Some("9.9.9.9:1".parse().unwrap()),
            server_name: "",
            hostname: "h",
        }
    }

    #[test]
    fn the_default_line_is_envoys() {
        let mut out = Vec::new();
        render(&Format::default_access_log(), &facts(), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[2024-02-29T12:34:56.789Z] \"GET /b?x HTTP/1.1\" 200 - 0 5 12 3 \"-\" \"-\" \"-\" \"a\" \"1.1.1.1:80\"\n"
        );
    }

    #[test]
    fn values_are_cut_and_times_are_formatted_as_asked() {
        let mut out = Vec::new();
        let format = Format::parse("%UPSTREAM_HOST:3% %START_TIME(%s.%3f %H:%M)% %PATH(NQ)% %ROUTE_NAME%").unwrap();
        render(&format, &facts(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "1.1 1709210096.789 12:34 /b -");
    }

    #[test]
    fn json_keeps_numbers_and_says_null() {
        let text = |text: &str| JsonFormat::Text(Format::parse(text).unwrap());
        let format = JsonFormat::Object(vec![
            ("code".into(), text("%RESPONSE_CODE%")),
            ("sni".into(), text("%REQUESTED_SERVER_NAME%")),
            ("line".into(), text("%PROTOCOL% \"x\"")),
        ]);
        let mut out = Vec::new();
        render_json(&format, &facts(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"code":200,"sni":null,"line":"HTTP/1.1 \"x\""}"#);
    }
}
