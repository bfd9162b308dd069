//! `/config_dump`: what is held as it was received, what was refused, and what has no effect.
//!
//! The shape is `envoy.admin.v3.ConfigDump`, which tools read strictly. Fields without effect have no place in it, so they are in
//! a part of its own, a `google.protobuf.Struct`, which such tools skip.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use xebec_proto::google::protobuf::{Any, Timestamp};
use xebec_proto::json;

use super::Admin;
use crate::xds::Kind;
use crate::xds::store::{Accepted, Held, Refused, Store};

/// Everything.
pub(super) fn dump(admin: &Admin, endpoints: bool) -> Value {
    let store = admin.shared.store.lock();
    let mut configs = vec![
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": { "node": admin.node.to_json() },
        }),
        clusters(&store),
    ];
    if endpoints {
        configs.push(self::endpoints(&store));
    }
    configs.extend([
        listeners(admin, &store),
        routes(&store),
        json!({ "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump" }),
        ignored(&store),
    ]);
    json!({ "configs": configs })
}

fn clusters(store: &Store) -> Value {
    let (active, warming) = split(
        store.clusters(),
        |name| store.is_active(Kind::Cluster, name),
        |name, held| {
            let mut entry = entry("cluster", held);
            if let Some(refused) = store.clusters().refusal(name) {
                entry["error_state"] = error_state(refused);
            }
            entry
        },
    );
    let mut warming = warming;
    warming.extend(never_accepted(store.clusters()).map(|(_, refused)| refused_entry("cluster", refused)));
    json!({
        "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
        "dynamic_active_clusters": active,
        "dynamic_warming_clusters": warming,
    })
}

fn endpoints(store: &Store) -> Value {
    let mut list: Vec<Value> = store.endpoints().accepted().map(|(_, held)| entry("endpoint_config", held)).collect();
    list.extend(never_accepted(store.endpoints()).map(|(_, refused)| refused_entry("endpoint_config", refused)));
    json!({
        "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
        "dynamic_endpoint_configs": list,
    })
}

fn listeners(admin: &Admin, store: &Store) -> Value {
    let unbound = admin.unbound.lock().clone();
    let mut list: Vec<Value> = store
        .listeners()
        .accepted()
        .map(|(name, held)| {
            let state = if store.is_active(Kind::Listener, name) { "active_state" } else { "warming_state" };
            let mut out = json!({ "name": name });
            out[state] = entry("listener", held);
            if let Some(refused) = store.listeners().refusal(name) {
                out["error_state"] = error_state(refused);
            } else if let Some((_, why)) = unbound.iter().find(|(other, _)| other == name) {
                out["error_state"] = json!({
                    "failed_configuration": resource(&held.resource),
                    "last_update_attempt": timestamp(held.since.wall),
                    "details": why,
                });
            }
            out
        })
        .collect();
    list.extend(
        never_accepted(store.listeners())
            .map(|(name, refused)| json!({ "name": name, "error_state": error_state(refused) })),
    );
    json!({
        "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
        "dynamic_listeners": list,
    })
}

fn routes(store: &Store) -> Value {
    let mut list: Vec<Value> = store
        .routes()
        .accepted()
        .map(|(name, held)| {
            let mut entry = entry("route_config", held);
            if held.parts.discovered.is_some() {
                join_hosts(store, name, &mut entry);
            }
            if let Some(refused) = store.routes().refusal(name) {
                entry["error_state"] = error_state(refused);
            }
            entry
        })
        .collect();
    list.extend(never_accepted(store.routes()).map(|(_, refused)| refused_entry("route_config", refused)));
    json!({
        "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
        "dynamic_route_configs": list,
    })
}

/// Discovered virtual hosts are shown where they are in use: in their route configuration, as Envoy shows them.
fn join_hosts(store: &Store, table: &str, entry: &mut Value) {
    let hosts =
        store.hosts().accepted().filter(|(name, _)| name.strip_prefix(table).is_some_and(|rest| rest.starts_with('/')));
    let more: Vec<Value> = hosts.map(|(_, held)| without_type(resource(&held.resource))).collect();
    if let Some(config) = entry["route_config"].as_object_mut() {
        let list = config.entry("virtual_hosts").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.extend(more);
        }
    }
}

fn without_type(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.remove("@type");
    }
    value
}

/// Fields that are set and have no effect, by resource.
fn ignored(store: &Store) -> Value {
    fn of<T>(held: &Held<T>) -> Map<String, Value> {
        held.accepted()
            .filter(|(_, held)| !held.ignored.is_empty())
            .map(|(name, held)| (name.to_string(), json!(held.ignored)))
            .collect()
    }
    fn refused<T>(kind: Kind, held: &Held<T>) -> Vec<Value> {
        held.refused()
            .map(|(name, refused)| json!({ "type": kind.to_string(), "name": name, "reason": refused.reason }))
            .collect()
    }
    let refused = [
        refused(Kind::Cluster, store.clusters()),
        refused(Kind::Endpoint, store.endpoints()),
        refused(Kind::Listener, store.listeners()),
        refused(Kind::Route, store.routes()),
        refused(Kind::VirtualHost, store.hosts()),
    ]
    .concat();
    json!({
        "@type": "type.googleapis.com/google.protobuf.Struct",
        "value": {
            "ignored_fields": {
                "CDS": of(store.clusters()),
                "EDS": of(store.endpoints()),
                "LDS": of(store.listeners()),
                "RDS": of(store.routes()),
                "VHDS": of(store.hosts()),
            },
            "rejected_resources": refused,
        },
    })
}

fn split<T>(
    held: &Held<T>,
    is_active: impl Fn(&str) -> bool,
    show: impl Fn(&str, &Accepted<T>) -> Value,
) -> (Vec<Value>, Vec<Value>) {
    let (mut active, mut warming) = (Vec::new(), Vec::new());
    for (name, held) in held.accepted() {
        if is_active(name) { &mut active } else { &mut warming }.push(show(name, held));
    }
    (active, warming)
}

/// Refused resources of which no version was ever accepted.
fn never_accepted<T>(held: &Held<T>) -> impl Iterator<Item = (&Arc<str>, &Refused)> {
    held.refused().filter(|(name, _)| held.get(name).is_none())
}

fn entry<T>(field: &str, held: &Accepted<T>) -> Value {
    let mut out = json!({ "version_info": held.version });
    out[field] = resource(&held.resource);
    out["last_updated"] = timestamp(held.since.wall);
    out
}

fn refused_entry(field: &str, refused: &Refused) -> Value {
    let mut out = json!({ "version_info": refused.version, "error_state": error_state(refused) });
    if let Some(any) = &refused.resource {
        out[field] = resource(any);
    }
    out
}

fn error_state(refused: &Refused) -> Value {
    let mut out = json!({
        "last_update_attempt": timestamp(refused.at),
        "details": refused.reason,
        "version_info": refused.version,
    });
    if let Some(any) = &refused.resource {
        out["failed_configuration"] = resource(any);
    }
    out
}

/// As received; what cannot be shown as JSON is named at least.
fn resource(any: &Any) -> Value {
    json::encode_any(any).unwrap_or_else(|error| {
        json!({
            "@type": "type.googleapis.com/google.protobuf.Struct",
            "value": { "type": any.type_url, "error": error.to_string() },
        })
    })
}

fn timestamp(at: SystemTime) -> Value {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let stamp = Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: (since.subsec_millis() * 1_000_000) as i32,
    };
    json::encode(&stamp).unwrap_or(Value::Null)
}
