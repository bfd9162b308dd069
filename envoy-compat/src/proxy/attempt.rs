//! One attempt: a connection to the chosen host, the request on it, and the head of the response or why there is none.

use super::body::{Recorder, RequestBody, Upload};
use super::h1::{Exchange, ExchangeError, Framing, RequestHead};
use super::headers::{ATTEMPT_COUNT, remove_hop_headers};
use super::pool::{ConnectError, HostPool, Ready, StreamGuard};
use super::record::{ActiveRequest, Record};
use super::retry::Failure;
use super::upstream::{Host, LiveCluster, take};
use super::worker::Worker;
use crate::model::UpstreamProtocol;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A response head from upstream, and what its body will come from.
pub(super) struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub source: Source,
}

pub(super) enum Source {
    H1(Exchange, Framing),
    H2(Incoming, StreamGuard),
}

/// An attempt without a response.
pub(super) struct Failed {
    pub failure: Failure,
    /// What Envoy calls the transport failure reason.
    pub reason: String,
    /// On a pooled connection that had been idle, before a byte of response.
    pub stale: bool,
    /// Not a byte of the request was sent.
    pub unsent: bool,
    /// The client's own body broke: nobody is there to be answered.
    pub client: bool,
}

/// The body for each attempt.
pub(super) struct Bodies {
    pub first: Option<RequestBody>,
    pub recorder: Option<Rc<Recorder>>,
    pub upload: Option<Rc<Upload>>,
}

impl Bodies {
    pub fn new(incoming: Incoming, replay: bool, upgrade: bool) -> Self {
        if incoming.is_end_stream() || upgrade {
            return Self { first: None, recorder: None, upload: None };
        }
        let upload = Rc::new(Upload::default());
        if replay {
            let recorder = Recorder::new(incoming, upload.clone());
            return Self { first: None, recorder: Some(recorder), upload: Some(upload) };
        }
        let first = RequestBody::Once { inner: incoming, upload: upload.clone() };
        Self { first: Some(first), recorder: None, upload: Some(upload) }
    }

    pub fn next(&mut self) -> Option<RequestBody> {
        match (&self.upload, &self.recorder) {
            (None, _) => Some(RequestBody::Empty),
            (Some(_), Some(recorder)) => recorder.body(),
            (Some(_), None) => self.first.take(),
        }
    }

    /// Whether another attempt could send the whole body.
    pub fn can_repeat(&self) -> bool {
        match (&self.upload, &self.recorder) {
            (None, _) => true,
            (Some(_), Some(recorder)) => recorder.can_repeat(),
            (Some(_), None) => self.first.is_some(),
        }
    }

    pub fn is_complete(&self) -> bool {
        self.recorder.as_ref().is_some_and(|recorder| recorder.is_complete())
    }

    pub fn copy(&self) -> Option<RequestBody> {
        match (&self.upload, &self.recorder) {
            (None, _) => Some(RequestBody::Empty),
            (Some(_), recorder) => recorder.as_ref()?.body(),
        }
    }
}

/// One attempt.
pub(super) struct Attempt<'a> {
    pub worker: &'a Rc<Worker>,
    pub cluster: &'a Arc<LiveCluster>,
    pub host: &'a Arc<Host>,
    /// The upstream is told the attempt's number.
    pub count: bool,
    /// Not on a pooled connection.
    pub fresh: bool,
    pub upgrade: bool,
}

impl Attempt<'_> {
    pub async fn run(&self, record: &mut Record, body: RequestBody) -> Result<Got, Failed> {
        record.host = Some(self.host.clone());
        let shared = &self.cluster.shared;
        let stats = shared.stats.at(self.worker.id);
        if !take(&shared.requests, self.cluster.limits().max_requests) {
            stats.upstream_rq_pending_overflow.inc();
            return Err(Failed::new(Failure::Overflow, "overflow"));
        }
        record.active = Some(ActiveRequest::new(self.cluster, self.host, self.worker.id, Instant::now()));
        let h2 = match self.cluster.config.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Downstream => record.conn.h2,
        };
        let pool = self.worker.pools.of(self.host, &self.cluster.config);
        let ready = if h2 {
            pool.h2(self.worker, self.cluster).await
        } else {
            pool.h1(self.worker, self.cluster, self.fresh).await
        };
        let mut got = match ready.map_err(Failed::from)? {
            Ready::H1 { conn, reused } => {
                let exchange = conn.start(&self.head(record), body, pool.clone());
                self.run_h1(exchange, reused).await?
            }
            Ready::H2 { sender, guard } => self.run_h2(record, sender, guard, body, &pool).await?,
        };
        if let Some(active) = &mut record.active {
            active.answered = true;
        }
        match got.status.as_u16() {
            100..200 => stats.upstream_rq_1xx.inc(),
            200..300 => stats.upstream_rq_2xx.inc(),
            300..400 => stats.upstream_rq_3xx.inc(),
            400..500 => stats.upstream_rq_4xx.inc(),
            _ => stats.upstream_rq_5xx.inc(),
        }
        if !self.upgrade || got.status != StatusCode::SWITCHING_PROTOCOLS {
            remove_hop_headers(&mut got.headers, false);
        }
        Ok(got)
    }

    fn head<'r>(&self, record: &'r Record) -> RequestHead<'r> {
        RequestHead {
            method: &record.head.method,
            path: record.path(),
            authority: record.authority.as_bytes(),
            headers: &record.head.headers,
            upgrade: self.upgrade,
            attempt: self.count.then_some(record.attempts),
        }
    }

    async fn run_h1(&self, mut exchange: Exchange, reused: bool) -> Result<Got, Failed> {
        match poll_fn(|cx| exchange.poll_head(cx)).await {
            Ok((head, framing)) => {
                Ok(Got { status: head.status, headers: head.headers, source: Source::H1(exchange, framing) })
            }
            Err(ExchangeError::Closed { silent }) => {
                let started = exchange.has_started();
                let failed = Failed::new(Failure::Closed { started }, "connection termination");
                Err(Failed { stale: reused && silent, unsent: !started, ..failed })
            }
            Err(ExchangeError::Protocol(why)) => Err(Failed::new(Failure::Protocol, why)),
            Err(ExchangeError::Client(error)) => {
                Err(Failed { client: true, ..Failed::new(Failure::Reset, &error.to_string()) })
            }
        }
    }

    async fn run_h2(
        &self,
        record: &Record,
        mut sender: hyper::client::conn::http2::SendRequest<RequestBody>,
        guard: StreamGuard,
        body: RequestBody,
        pool: &Rc<HostPool>,
    ) -> Result<Got, Failed> {
        if self.upgrade {
            return Err(Failed::new(Failure::Protocol, "upgrades need an HTTP/1.1 upstream"));
        }
        let uri = Uri::builder().scheme("http").authority(&*record.authority).path_and_query(record.path()).build();
        let Ok(uri) = uri else { return Err(Failed::new(Failure::Protocol, "the authority is malformed")) };
        let mut request = http::Request::new(body);
        *request.method_mut() = record.head.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        let mut headers = record.head.headers.clone();
        headers.remove(HOST);
        if self.count {
            headers.insert(ATTEMPT_COUNT, HeaderValue::from(record.attempts));
        }
        *request.headers_mut() = headers;
        match sender.try_send_request(request).await {
            Ok(response) => {
                let (head, incoming) = response.into_parts();
                Ok(Got { status: head.status, headers: head.headers, source: Source::H2(incoming, guard) })
            }
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                if unsent {
                    // The peer is saying goodbye: nobody else should try this connection.
                    pool.forget(&guard);
                }
                let error = error.into_error();
                let (failure, reason) = classify_h2(&error);
                Err(Failed { stale: unsent, unsent, ..Failed::new(failure, reason) })
            }
        }
    }
}

/// What an HTTP/2 error means for retries. hyper keeps the reason in the source's text only.
fn classify_h2(error: &hyper::Error) -> (Failure, &'static str) {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    if text.contains("refused stream") {
        (Failure::Refused, "remote refused stream reset")
    } else if text.contains("stream error") {
        (Failure::Reset, "remote reset")
    } else {
        (Failure::Closed { started: true }, "connection termination")
    }
}

impl Failed {
    pub fn new(failure: Failure, reason: &str) -> Self {
        Self { failure, reason: reason.to_owned(), stale: false, unsent: false, client: false }
    }
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Overflow => Self::new(Failure::Overflow, "overflow"),
            ConnectError::Timeout => Self::new(Failure::ConnectTimeout, "connection timeout"),
            ConnectError::Io(error) => {
                let text = error.to_string();
                // Without Rust's "(os error 111)": Envoy's texts have the system's words only.
                let plain = text.split(" (os error").next().unwrap_or(&text);
                Self::new(Failure::Connect, &format!("delayed connect error: {plain}"))
            }
            ConnectError::Handshake(text) => Self::new(Failure::Connect, &text),
        }
    }
}
