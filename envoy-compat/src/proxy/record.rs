//! What is known about a request, from its head to its last byte.
//!
//! ALWAYS: a record is finished exactly once, by being dropped, however the request ends: statistics are counted and
//! the access log is written there.

use super::body::Upload;
use super::connection::Downstream;
use super::flags::Flags;
use super::live::LiveHttp;
use super::upstream::{Host, LiveCluster, give};
use http::HeaderMap;
use http::request::Parts;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// One request.
pub(super) struct Record {
    pub conn: Rc<Downstream>,
    pub http: Arc<LiveHttp>,
    pub start: Instant,
    /// The request's head, as it is sent upstream (the URI is the client's).
    pub head: Parts,
    pub authority: Box<str>,
    /// The path sent upstream, if it was rewritten.
    pub path: Option<Box<str>>,
    pub status: u16,
    pub flags: Flags,
    pub details: Cow<'static, str>,
    pub failure: Option<Box<str>>,
    pub upload: Option<Rc<Upload>>,
    pub bytes_sent: u64,
    pub route_name: Option<Arc<str>>,
    pub cluster: Option<Arc<LiveCluster>>,
    pub active: Option<ActiveRequest>,
    pub host: Option<Arc<Host>>,
    pub attempts: u32,
    /// From the start to the response's head.
    pub head_after: Option<Duration>,
    pub service_time: Option<u64>,
    pub response_headers: Option<HeaderMap>,
    pub trailers: Option<HeaderMap>,
    /// The response broke off.
    pub broken: bool,
    /// The client has got a response head.
    pub answered: bool,
}

/// Counts a request at its cluster and host while it is under way.
pub(super) struct ActiveRequest {
    cluster: Arc<LiveCluster>,
    host: Arc<Host>,
    worker: usize,
    limit: u32,
    start: Instant,
    /// A response head came.
    pub answered: bool,
}

// === impl Record ===

impl Record {
    pub fn new(conn: Rc<Downstream>, http: Arc<LiveHttp>, head: Parts, start: Instant) -> Box<Self> {
        let stats = http.stats.at(conn.worker.id);
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        if conn.h2 {
            stats.downstream_rq_http2_total.inc();
        } else {
            stats.downstream_rq_http1_total.inc();
        }
        conn.control.begin();
        Box::new(Self {
            conn,
            http,
            start,
            head,
            authority: "".into(),
            path: None,
            status: 0,
            flags: Flags::default(),
            details: Cow::Borrowed("via_upstream"),
            failure: None,
            upload: None,
            bytes_sent: 0,
            route_name: None,
            cluster: None,
            active: None,
            host: None,
            attempts: 0,
            head_after: None,
            service_time: None,
            response_headers: None,
            trailers: None,
            broken: false,
            answered: false,
        })
    }

    /// The path and query that the client asked for.
    pub fn original_path(&self) -> &str {
        self.head.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// The path and query as they are now.
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or_else(|| self.original_path())
    }

    pub fn received(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.bytes.get())
    }

    pub fn see_trailers(&mut self, trailers: &HeaderMap) {
        if self.http.log_response_headers {
            self.trailers = Some(trailers.clone());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let worker = &self.conn.worker;
        let stats = self.http.stats.at(worker.id);
        let elapsed = self.start.elapsed();
        stats.downstream_rq_active.dec();
        stats.downstream_rq_completed.inc();
        if !self.answered {
            self.flags.set(Flags::CLIENT_CLOSED);
            self.details = "downstream_remote_disconnect".into();
            stats.downstream_rq_rx_reset.inc();
            self.status = 0;
        } else if self.broken {
            stats.downstream_rq_tx_reset.inc();
        }
        match self.status {
            100..200 => stats.downstream_rq_1xx.inc(),
            200..300 => stats.downstream_rq_2xx.inc(),
            300..400 => stats.downstream_rq_3xx.inc(),
            400..500 => stats.downstream_rq_4xx.inc(),
            500..600 => stats.downstream_rq_5xx.inc(),
            _ => {}
        }
        stats.downstream_rq_time.record(elapsed);
        self.conn.control.end();
        for log in &self.http.logs {
            log.write(self, elapsed, worker);
        }
    }
}

// === impl ActiveRequest ===

impl ActiveRequest {
    /// The caller has taken the request limit's unit.
    pub fn new(cluster: &Arc<LiveCluster>, host: &Arc<Host>, worker: usize, start: Instant) -> Self {
        host.active.fetch_add(1, Ordering::Relaxed);
        host.total.fetch_add(1, Ordering::Relaxed);
        let stats = cluster.shared.stats.at(worker);
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        let limit = cluster.limits().max_requests;
        Self { cluster: cluster.clone(), host: host.clone(), worker, limit, start, answered: false }
    }
}

impl ActiveRequest {
    /// For copies: no request limit is involved.
    pub fn uncounted(cluster: &Arc<LiveCluster>, host: &Arc<Host>, worker: usize) -> Self {
        let mut active = Self::new(cluster, host, worker, Instant::now());
        active.limit = u32::MAX;
        active
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.host.active.fetch_sub(1, Ordering::Relaxed);
        let stats = self.cluster.shared.stats.at(self.worker);
        stats.upstream_rq_active.dec();
        if self.answered {
            stats.upstream_rq_completed.inc();
            stats.upstream_rq_time.record(self.start.elapsed());
        }
        give(&self.cluster.shared.requests, self.limit);
    }
}
