//! What operators and tools read about connected proxies, at the paths that istiod has.
//!
//! - `GET /debug/syncz`: per proxy and type, whether it is in sync; refusals with the file and line that caused them.
//! - `GET /debug/adsz`: the open streams.
//! - `GET /debug/config_dump?proxyID=ID`: what a proxy is served, as Envoy's admin interface would show it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use xebec_proto::google::protobuf::{Any, Timestamp};

use super::request::Variant;
use super::status::{Mark, StreamStatus, Streams, Sync, TypeStatus};
use crate::proxy::ProxyKind;
use crate::resources::{Encoded, ResourceType, ShapeSnapshot};

/// The debug pages about the streams of a server.
pub fn debug_router(streams: Arc<Streams>) -> Router {
    Router::new()
        .route("/debug/syncz", get(syncz_page))
        .route("/debug/adsz", get(adsz_page))
        .route("/debug/config_dump", get(config_dump_page))
        .with_state(streams)
}

#[derive(Debug, Deserialize)]
struct ProxyQuery {
    #[serde(rename = "proxyID")]
    proxy_id: Option<String>,
}

async fn syncz_page(State(streams): State<Arc<Streams>>) -> Json<Value> {
    Json(syncz(&streams))
}

async fn adsz_page(State(streams): State<Arc<Streams>>) -> Json<Value> {
    Json(adsz(&streams))
}

async fn config_dump_page(State(streams): State<Arc<Streams>>, Query(query): Query<ProxyQuery>) -> Response {
    let Some(wanted) = query.proxy_id else {
        let help =
            "say which proxy: /debug/config_dump?proxyID=NAME.NAMESPACE, or a node id; /debug/syncz lists them\n";
        return (StatusCode::BAD_REQUEST, help).into_response();
    };
    let found: Vec<_> = streams.list().into_iter().filter(|s| is_called(s, &wanted)).collect();
    if found.is_empty() {
        let text = format!("no proxy {wanted:?} is connected; /debug/syncz lists those that are\n");
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    // Encoding a large dump takes a while: not on a thread that serves streams.
    match tokio::task::spawn_blocking(move || config_dump(&found)).await {
        Ok(dump) => Json(dump).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Whether `wanted` is the stream's proxy: its node id, `NAME.NAMESPACE`, or its name.
fn is_called(stream: &StreamStatus, wanted: &str) -> bool {
    let proxy = &stream.proxy;
    *proxy.id == *wanted || short_name(stream) == wanted || *proxy.name == *wanted
}

fn short_name(stream: &StreamStatus) -> String {
    format!("{}.{}", stream.proxy.name, stream.proxy.namespace)
}

// === syncz ===

/// One entry per connected proxy. The names up to `endpoint_acked` are istiod's; `types` says the same per type with
/// versions, times and refusals.
pub fn syncz(streams: &Streams) -> Value {
    let mut proxies: BTreeMap<Arc<str>, Vec<Arc<StreamStatus>>> = BTreeMap::new();
    for stream in streams.list() {
        proxies.entry(Arc::clone(&stream.proxy.id)).or_default().push(stream);
    }
    proxies.into_values().map(|streams| proxy_entry(&streams)).collect()
}

fn proxy_entry(streams: &[Arc<StreamStatus>]) -> Value {
    let Some(first) = streams.first() else { return Value::Null };
    let mut entry = Map::new();
    entry.insert("cluster_id".into(), text(&first.proxy.cluster_id));
    entry.insert("proxy".into(), short_name(first).into());
    entry.insert("proxy_id".into(), text(&first.proxy.id));
    entry.insert("proxy_type".into(), kind_text(first.proxy.kind).into());
    entry.insert("istio_version".into(), text(&first.proxy.version));
    let mut types = Vec::new();
    for kind in ResourceType::ALL {
        // The youngest stream that has the type speaks for the proxy.
        let found = streams.iter().rev().find_map(|s| s.of(kind).map(|status| (s, status)));
        let status = found.as_ref().map(|(_, status)| status.clone()).unwrap_or_default();
        if let Some(word) = long_name(kind) {
            let kept = found.as_ref().filter(|_| status.kept).map(|(s, _)| s.shape().published().digest_text(kind));
            let nonce =
                |mark: Option<Mark>| kept.clone().or(mark.map(|m| format!("{:x}", m.nonce))).unwrap_or_default();
            entry.insert(format!("{word}_sent"), nonce(status.sent).into());
            entry.insert(format!("{word}_acked"), nonce(status.accepted).into());
        }
        types.push(type_entry(kind, &status));
    }
    entry.insert("types".into(), Value::Array(types));
    Value::Object(entry)
}

fn type_entry(kind: ResourceType, status: &TypeStatus) -> Value {
    let mut entry = json!({
        "type": kind.short(),
        "status": status.sync().text(),
        "sent": mark_entry(status.sent),
        "acked": mark_entry(status.accepted),
        "resources_sent": status.resources,
        "bytes_sent": status.bytes,
    });
    if let Some((refusal, at)) = &status.refused {
        let resources: Vec<Value> = refusal
            .resources
            .iter()
            .map(|r| {
                json!({
                    "name": &*r.name,
                    "version": format!("{:016x}", r.version),
                    "origins": r.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })
            })
            .collect();
        entry["error"] = json!({
            "message": refusal.message,
            "code": refusal.code,
            "nonce": format!("{:x}", refusal.nonce),
            "time": time_text(*at),
            "current": status.sync() == Sync::Error,
            "resources": resources,
        });
    }
    entry
}

fn mark_entry(mark: Option<Mark>) -> Value {
    mark.map_or(Value::Null, |m| {
        json!({
            "nonce": format!("{:x}", m.nonce),
            "version": format!("{:016x}", m.version),
            "time": time_text(m.at),
        })
    })
}

fn long_name(kind: ResourceType) -> Option<&'static str> {
    match kind {
        ResourceType::Cluster => Some("cluster"),
        ResourceType::Listener => Some("listener"),
        ResourceType::Route => Some("route"),
        ResourceType::Endpoint => Some("endpoint"),
        ResourceType::VirtualHost => None,
    }
}

fn kind_text(kind: ProxyKind) -> &'static str {
    match kind {
        ProxyKind::Sidecar | ProxyKind::Grpc => "sidecar",
        ProxyKind::Router => "router",
    }
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// RFC 3339, as proto3 JSON writes a timestamp.
fn time_text(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let timestamp = Timestamp { seconds, nanos: i32::try_from(since.subsec_millis()).unwrap_or(0) * 1_000_000 };
    match xebec_proto::json::encode(&timestamp) {
        Ok(Value::String(text)) => text,
        _ => seconds.to_string(),
    }
}

// === adsz ===

/// The open streams.
pub fn adsz(streams: &Streams) -> Value {
    let clients: Vec<Value> = streams.list().iter().map(|s| client_entry(s)).collect();
    json!({ "totalClients": clients.len(), "clients": clients })
}

fn client_entry(stream: &StreamStatus) -> Value {
    let proxy = &stream.proxy;
    let protocol = match stream.variant {
        Variant::Delta => "delta",
        Variant::StateOfTheWorld => "state-of-the-world",
    };
    let types: Map<String, Value> = ResourceType::ALL
        .into_iter()
        .filter_map(|kind| stream.of(kind).map(|status| (kind.type_url().to_owned(), type_entry(kind, &status))))
        .collect();
    json!({
        "connectionId": format!("{}-{}", proxy.id, stream.id),
        "proxyId": &*proxy.id,
        "connectedAt": time_text(stream.connected),
        "address": stream.peer.map(|p| p.to_string()).unwrap_or_default(),
        "protocol": protocol,
        "service": stream.only.map_or("ADS", ResourceType::short),
        "labels": proxy.labels,
        "watches": types,
    })
}

// === config_dump ===

/// What the streams of one proxy are served, in the form of Envoy's `/config_dump`.
pub fn config_dump(streams: &[Arc<StreamStatus>]) -> Value {
    let Some(first) = streams.first() else { return json!({ "configs": [] }) };
    let snapshot = first.shape().snapshot();
    let dump = Dump { streams, snapshot: &snapshot };
    json!({ "configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "dynamic_active_clusters": dump.entries(ResourceType::Cluster, "cluster"),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "dynamic_listeners": dump.listeners(),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": dump.routes(),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs": dump.entries(ResourceType::Endpoint, "endpoint_config"),
        },
    ]})
}

struct Dump<'a> {
    streams: &'a [Arc<StreamStatus>],
    snapshot: &'a ShapeSnapshot,
}

impl Dump<'_> {
    fn entries(&self, kind: ResourceType, field: &str) -> Vec<Value> {
        self.snapshot.set(kind).values().map(|r| self.entry(kind, field, r)).collect()
    }

    fn entry(&self, kind: ResourceType, field: &str, resource: &Encoded) -> Value {
        let mut entry = json!({ "version_info": resource.version_text(), field: body(kind, resource) });
        if let Some(error) = self.error_of(kind, resource) {
            entry["error_state"] = error;
        }
        entry
    }

    fn listeners(&self) -> Vec<Value> {
        self.entries(ResourceType::Listener, "listener")
            .into_iter()
            .zip(self.snapshot.set(ResourceType::Listener).keys())
            .map(|(mut state, name)| {
                let error = state.as_object_mut().and_then(|s| s.remove("error_state"));
                let mut entry = json!({ "name": &**name, "active_state": state });
                if let Some(error) = error {
                    entry["error_state"] = error;
                }
                entry
            })
            .collect()
    }

    /// Virtual hosts that travel by themselves are shown within their route configuration, as Envoy shows them.
    fn routes(&self) -> Vec<Value> {
        let hosts = self.snapshot.set(ResourceType::VirtualHost);
        let mut entries = self.entries(ResourceType::Route, "route_config");
        for (entry, route) in entries.iter_mut().zip(self.snapshot.set(ResourceType::Route).keys()) {
            let prefix = format!("{route}/");
            let mine = hosts.iter().filter(|(name, _)| name.starts_with(&prefix));
            let bodies: Vec<Value> = mine
                .map(|(_, host)| {
                    let mut body = body(ResourceType::VirtualHost, host);
                    if let Some(fields) = body.as_object_mut() {
                        fields.remove("@type");
                    }
                    body
                })
                .collect();
            if bodies.is_empty() {
                continue;
            }
            if let Some(config) = entry["route_config"].as_object_mut()
                && let Some(list) =
                    config.entry("virtual_hosts").or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
            {
                list.extend(bodies);
            }
        }
        entries
    }

    fn error_of(&self, kind: ResourceType, resource: &Encoded) -> Option<Value> {
        self.streams.iter().filter_map(|s| s.of(kind)).find_map(|status| {
            let (refusal, at) = status.refused?;
            let named = refusal.resources.iter().any(|r| r.name == resource.name && r.version == resource.version);
            named.then(|| {
                json!({
                    "details": refusal.message,
                    "version_info": resource.version_text(),
                    "last_update_attempt": time_text(at),
                    "origins": resource.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })
            })
        })
    }
}

fn body(kind: ResourceType, resource: &Encoded) -> Value {
    let any = Any { type_url: kind.type_url().to_owned(), value: resource.body.to_vec() };
    // What does not decode is shown as base64 by the JSON room; nothing is hidden here.
    xebec_proto::json::encode_any(&any).unwrap_or(Value::Null)
}
