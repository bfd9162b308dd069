//! The admin interface: Envoy's paths and formats, for the tools that read Envoy's.
//!
//! It shows what is held, what was refused and why, and which fields have no effect. It listens where it is told to, loopback by
//! default, and has no protection of its own: whoever reaches it can read all configuration and stop the proxy.

mod config_dump;
mod hosts;
mod stats;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::node::NodeConfig;
use crate::proxy::Workers;
use crate::xds::client::Shared;

/// Changes the level of the log, and says what it is: `None` only asks. The text of an error is for the one who asked.
pub type LogControl = Arc<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

/// What the admin interface shows and moves.
pub(crate) struct Admin {
    pub node: NodeConfig,
    pub server: String,
    pub concurrency: usize,
    pub drain_time: Duration,
    pub started: Instant,
    pub shared: Arc<Shared>,
    pub workers: Arc<Workers>,
    /// Where listeners listen, as of the last applied configuration.
    pub bound: Mutex<Vec<(Arc<str>, SocketAddr)>>,
    /// Listeners that cannot listen, and why.
    pub unbound: Mutex<Vec<(Arc<str>, String)>>,
    pub ready: AtomicBool,
    pub draining: AtomicBool,
    pub quit: CancellationToken,
    pub log: Option<LogControl>,
}

/// The state of the proxy, in Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Live,
    Draining,
    PreInitializing,
}

#[derive(Debug, Deserialize)]
struct Format {
    format: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Level {
    level: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dump {
    include_eds: Option<String>,
}

// === impl Admin ===

impl Admin {
    fn stage(&self) -> Stage {
        if self.draining.load(Ordering::Relaxed) {
            Stage::Draining
        } else if self.ready.load(Ordering::Relaxed) {
            Stage::Live
        } else {
            Stage::PreInitializing
        }
    }
}

// === impl Stage ===

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
        }
    }
}

/// Every path.
pub(crate) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/help", get(index))
        .route("/ready", get(ready))
        .route("/server_info", get(server_info))
        .route("/config_dump", get(dump))
        .route("/clusters", get(clusters))
        .route("/listeners", get(listeners))
        .route("/certs", get(|| async { Json(json!({ "certificates": [] })) }))
        .route("/stats", get(stats::stats))
        .route("/stats/prometheus", get(stats::prometheus))
        .route("/logging", get(logging).post(logging))
        .route("/drain_listeners", post(drain_listeners))
        .route("/quitquitquit", post(quit))
        .with_state(admin)
}

async fn index() -> &'static str {
    "admin commands are:\n  \
     /certs: print certs on machine\n  \
     /clusters: upstream cluster status\n  \
     /config_dump: dump current configuration, with what was refused and what has no effect\n  \
     /drain_listeners (POST): stop listening, let requests finish\n  \
     /help: print out list of admin commands\n  \
     /listeners: print listener info\n  \
     /logging: query/change logging levels\n  \
     /quitquitquit (POST): exit the server\n  \
     /ready: print server state, 200 when LIVE\n  \
     /server_info: print server version/status information\n  \
     /stats: print server stats; ?filter=REGEX, ?usedonly, ?format=json|prometheus\n  \
     /stats/prometheus: print server stats in prometheus format\n"
}

async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let stage = admin.stage();
    let status = if stage == Stage::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", stage.name()))
}

async fn server_info(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let uptime = format!("{}s", admin.started.elapsed().as_secs());
    let control = admin.shared.status.lock().clone();
    Json(json!({
        "version": concat!("xebec/", env!("CARGO_PKG_VERSION")),
        "state": admin.stage().name(),
        "hot_restart_version": "disabled",
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "command_line_options": {
            "concurrency": admin.concurrency,
            "drain_time": format!("{}s", admin.drain_time.as_secs_f64()),
        },
        "node": admin.node.to_json(),
        "control_plane": {
            "server": admin.server,
            "connected": control.connected,
            "last_error": control.last_error,
        },
    }))
}

async fn dump(State(admin): State<Arc<Admin>>, Query(query): Query<Dump>) -> Response {
    let value = config_dump::dump(&admin, query.include_eds.is_some());
    match serde_json::to_string_pretty(&value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn clusters(State(admin): State<Arc<Admin>>, Query(query): Query<Format>) -> Response {
    if query.format.as_deref() == Some("json") {
        Json(hosts::json(&admin)).into_response()
    } else {
        hosts::text(&admin).into_response()
    }
}

async fn listeners(State(admin): State<Arc<Admin>>, Query(query): Query<Format>) -> Response {
    let bound = admin.bound.lock().clone();
    if query.format.as_deref() == Some("json") {
        let statuses: Vec<Value> = bound
            .iter()
            .map(|(name, address)| json!({ "name": name, "local_address": hosts::socket_address(*address) }))
            .collect();
        return Json(json!({ "listener_statuses": statuses })).into_response();
    }
    bound.iter().map(|(name, address)| format!("{name}::{address}\n")).collect::<String>().into_response()
}

async fn logging(State(admin): State<Arc<Admin>>, Query(query): Query<Level>) -> (StatusCode, String) {
    let Some(control) = &admin.log else {
        return (StatusCode::NOT_IMPLEMENTED, "the log of this process cannot be changed while it runs\n".into());
    };
    match control(query.level.as_deref()) {
        Ok(level) => (StatusCode::OK, format!("active loggers:\n  all: {level}\n")),
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

async fn drain_listeners(State(admin): State<Arc<Admin>>) -> &'static str {
    admin.draining.store(true, Ordering::Relaxed);
    let workers = admin.workers.clone();
    let limit = admin.drain_time;
    tokio::spawn(async move {
        let open = workers.drain(limit).await;
        tracing::info!(open, "listeners are drained");
    });
    "OK\n"
}

async fn quit(State(admin): State<Arc<Admin>>) -> &'static str {
    admin.quit.cancel();
    "OK\n"
}
