//! Debug pages about what the mesh was made of: registries, endpoints, configuration. Paths and field names are istiod's where it has
//! the same page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{RawQuery, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use xebec_galley::{Config, Kind};

use super::Published;
use crate::catalog::RegistryStatus;
use crate::mesh::{MeshService, Registrant};
use crate::model::{Address, Endpoint, RegistryId, Resolution, Visibility};

/// `/debug/registryz`, `/debug/endpointz`, `/debug/configz`, `/debug/clusterz`.
pub(super) fn router(published: Arc<Published>) -> Router {
    Router::new()
        .route(
            "/debug/registryz",
            get(|State(p): State<Arc<Published>>, RawQuery(query): RawQuery| async move {
                let registries =
                    query.is_some_and(|q| q.split('&').any(|part| part.split('=').next() == Some("registries")));
                Json(if registries { clusterz(&p) } else { registryz(&p) })
            }),
        )
        .route("/debug/endpointz", get(|State(p): State<Arc<Published>>| async move { Json(endpointz(&p)) }))
        .route("/debug/configz", get(|State(p): State<Arc<Published>>| async move { Json(configz(&p)) }))
        .route("/debug/clusterz", get(|State(p): State<Arc<Published>>| async move { Json(clusterz(&p)) }))
        .with_state(published)
}

/// Every service, as merged, with who registers it. `?registries` asks for the registries instead, as [`clusterz`].
fn registryz(published: &Published) -> Value {
    let (registries, now) = (published.registries.load(), SystemTime::now());
    published.mesh.load().services().map(|s| service(s, &registries, now)).collect()
}

type Registries = BTreeMap<RegistryId, RegistryStatus>;

fn service(merged: &MeshService, registries: &Registries, now: SystemTime) -> Value {
    let service = &merged.service;
    let export_to = match &service.visibility {
        Visibility::Public => json!(["*"]),
        Visibility::Namespaces(list) if list.is_empty() => json!(["~"]),
        Visibility::Namespaces(list) => json!(list),
    };
    json!({
        "hostname": service.key.hostname,
        "Attributes": {
            "ServiceRegistry": service.registry.0,
            "Name": service.key.hostname.split('.').next(),
            "Namespace": service.key.namespace,
            "Labels": service.labels,
            "ExportTo": export_to,
            "Aliases": service.aliases,
        },
        "ports": service.ports.iter().map(|p| json!({"name": p.name, "port": p.number, "protocol": format!("{:?}", p.protocol)})).collect::<Value>(),
        "addresses": service.addresses,
        "Resolution": match service.resolution {
            Resolution::Static => "ClientSideLB",
            Resolution::Dns => "DNSLB",
            Resolution::DnsRoundRobin => "DNSRoundRobinLB",
            Resolution::Passthrough => "Passthrough",
        },
        "MeshExternal": service.external,
        "creationTime": service.created,
        "origin": merged.origin.as_ref().map(ToString::to_string),
        "endpoints": merged.endpoints.len(),
        "registries": merged.registrants.iter().map(|r| registrant(r, registries, now)).collect::<Value>(),
        "conflicts": merged.conflicts.iter().map(|c| json!({
            "what": c.what, "kept": c.kept, "keptBy": c.kept_by, "lost": c.lost, "lostBy": c.lost_by,
        })).collect::<Value>(),
    })
}

/// Who registers a service, with how many endpoints of which health, and how that registry is.
fn registrant(registrant: &Registrant, registries: &Registries, now: SystemTime) -> Value {
    let mut health: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in registrant.endpoints.iter() {
        *health.entry(format!("{:?}", endpoint.health)).or_default() += 1;
    }
    let status = registries.get(&RegistryId(Arc::clone(&registrant.by)));
    json!({
        "registry": registrant.by,
        "endpoints": registrant.endpoints.len(),
        "health": health,
        "syncStatus": status.map(sync_status),
        "lastEventAgeSeconds": status.and_then(|s| age(s.last_event, now)),
    })
}

fn sync_status(status: &RegistryStatus) -> &'static str {
    match (&status.degraded, status.synced) {
        (Some(_), _) => "degraded",
        (None, true) => "synced",
        (None, false) => "syncing",
    }
}

fn age(at: Option<SystemTime>, now: SystemTime) -> Option<f64> {
    at.map(|at| now.duration_since(at).unwrap_or_default()).map(|age| (age.as_secs_f64() * 1e3).round() / 1e3)
}

fn seconds(at: Option<SystemTime>) -> Option<u64> {
    at.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_secs())
}

/// The endpoints of every service.
fn endpointz(published: &Published) -> Value {
    let mesh = published.mesh.load();
    mesh.services()
        .map(|s| {
            json!({
                "svc": s.service.key.hostname,
                "namespace": s.service.key.namespace,
                "ep": s.endpoints.iter().map(endpoint).collect::<Value>(),
            })
        })
        .collect()
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let address = match &endpoint.address {
        Address::Ip(ip) => ip.to_string(),
        Address::Dns(name) => name.to_string(),
        Address::Unix(path) => format!("unix://{path}"),
    };
    let locality = &endpoint.locality;
    json!({
        "Address": address,
        "Ports": endpoint.ports,
        "Labels": endpoint.labels,
        "Locality": format!("{}/{}/{}", locality.region, locality.zone, locality.subzone),
        "LbWeight": endpoint.weight,
        "ServiceAccount": endpoint.service_account,
        "WorkloadName": endpoint.workload,
        "Network": endpoint.network,
        "NodeName": endpoint.node,
        "HealthStatus": format!("{:?}", endpoint.health),
    })
}

/// All configuration that is in force.
fn configz(published: &Published) -> Value {
    published.documents.load().values().map(document).collect()
}

fn document(config: &Config) -> Value {
    let meta = config.meta();
    let spec = match config {
        Config::VirtualService(r) => serde_json::to_value(&r.spec),
        Config::DestinationRule(r) => serde_json::to_value(&r.spec),
        Config::Gateway(r) => serde_json::to_value(&r.spec),
        Config::ServiceEntry(r) => serde_json::to_value(&r.spec),
        Config::WorkloadEntry(r) => serde_json::to_value(&r.spec),
        Config::Sidecar(r) => serde_json::to_value(&r.spec),
    };
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind(meta.key.kind),
        "metadata": {
            "name": meta.key.name,
            "namespace": meta.key.namespace,
            "labels": meta.labels,
            "annotations": meta.annotations,
            "creationTimestamp": meta.created,
            "source": meta.source.to_string(),
        },
        "spec": spec.unwrap_or(Value::Null),
    })
}

fn kind(kind: Kind) -> String {
    format!("{kind:?}")
}

/// The registries, whether they are synced, what is wrong with them, and when they were heard last.
fn clusterz(published: &Published) -> Value {
    let now = SystemTime::now();
    published
        .registries
        .load()
        .iter()
        .map(|(id, status)| {
            json!({
                "id": id.0,
                "syncStatus": sync_status(status),
                "synced": status.synced,
                "reason": status.degraded,
                "degradedSince": seconds(status.degraded_since),
                "services": status.services,
                "endpoints": status.endpoints,
                "workloads": status.workloads,
                "events": status.events,
                "lastEvent": seconds(status.last_event),
                "lastEventAgeSeconds": age(status.last_event, now),
            })
        })
        .collect()
}
