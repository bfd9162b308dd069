//! `/clusters`: every endpoint with its health and its counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Admin;
use crate::model::{Cluster, Discovery, Health};
use crate::proxy::HostStatus;

type ByCluster = BTreeMap<Arc<str>, (Arc<Cluster>, Option<Arc<str>>, Vec<HostStatus>)>;

fn by_cluster(admin: &Admin) -> ByCluster {
    let mut out: ByCluster = {
        let store = admin.shared.store.lock();
        let service = |name: &str| {
            store.clusters().get(name).and_then(|held| held.parts.eds.as_ref().map(|(service, _)| service.clone()))
        };
        let clusters = store.snapshot().clusters.iter();
        clusters.map(|(name, entry)| (name.clone(), (entry.cluster.clone(), service(name), Vec::new()))).collect()
    };
    for host in admin.workers.hosts() {
        if let Some((_, _, hosts)) = out.get_mut(&host.cluster) {
            hosts.push(host);
        }
    }
    for (_, _, hosts) in out.values_mut() {
        hosts.sort_by_key(|host| host.address);
    }
    out
}

/// Envoy's flags: what keeps an endpoint from being used.
fn flags(host: &HostStatus) -> String {
    let mut flags = String::new();
    if host.ejected {
        flags.push_str("/failed_outlier_check");
    }
    match host.health {
        Health::Healthy => {}
        Health::Degraded => flags.push_str("/degraded_eds_health"),
        Health::Unhealthy => flags.push_str("/failed_eds_health"),
    }
    if flags.is_empty() { "healthy".into() } else { flags }
}

/// Envoy's text form.
pub(super) fn text(admin: &Admin) -> String {
    let mut out = String::new();
    // Writing into a string does not fail.
    let mut line = |cluster: &str, rest: std::fmt::Arguments<'_>| _ = writeln!(out, "{cluster}::{rest}");
    for (name, (cluster, service, hosts)) in by_cluster(admin) {
        line(&name, format_args!("observability_name::{}", cluster.stat_name));
        for (limit, value) in [
            ("max_connections", cluster.breakers.max_connections),
            ("max_pending_requests", cluster.breakers.max_pending),
            ("max_requests", cluster.breakers.max_requests),
            ("max_retries", cluster.breakers.max_retries),
        ] {
            line(&name, format_args!("default_priority::{limit}::{value}"));
        }
        line(&name, format_args!("added_via_api::true"));
        if let Some(service) = service {
            line(&name, format_args!("eds_service_name::{service}"));
        }
        for host in hosts {
            let at = host.address;
            let success = host.total.saturating_sub(host.errors).saturating_sub(host.active.into());
            line(&name, format_args!("{at}::rq_active::{}", host.active));
            line(&name, format_args!("{at}::rq_error::{}", host.errors));
            line(&name, format_args!("{at}::rq_success::{success}"));
            line(&name, format_args!("{at}::rq_total::{}", host.total));
            line(&name, format_args!("{at}::hostname::{}", host.hostname.as_deref().unwrap_or("")));
            line(&name, format_args!("{at}::health_flags::{}", flags(&host)));
            line(&name, format_args!("{at}::weight::{}", host.weight));
            line(&name, format_args!("{at}::region::{}", host.locality.region));
            line(&name, format_args!("{at}::zone::{}", host.locality.zone));
            line(&name, format_args!("{at}::sub_zone::{}", host.locality.sub_zone));
            line(&name, format_args!("{at}::canary::false"));
            line(&name, format_args!("{at}::priority::{}", host.priority));
        }
    }
    out
}

/// Envoy's JSON form: `envoy.admin.v3.Clusters`.
pub(super) fn json(admin: &Admin) -> Value {
    let statuses: Vec<Value> = by_cluster(admin)
        .into_iter()
        .map(|(name, (cluster, service, hosts))| {
            let mut status = json!({
                "name": name,
                "added_via_api": true,
                "circuit_breakers": { "thresholds": [{
                    "max_connections": cluster.breakers.max_connections,
                    "max_pending_requests": cluster.breakers.max_pending,
                    "max_requests": cluster.breakers.max_requests,
                    "max_retries": cluster.breakers.max_retries,
                }] },
                "observability_name": cluster.stat_name,
                "host_statuses": hosts.iter().map(host).collect::<Vec<_>>(),
            });
            if cluster.discovery == Discovery::Eds
                && let Some(service) = service
            {
                status["eds_service_name"] = json!(service);
            }
            status
        })
        .collect();
    json!({ "cluster_statuses": statuses })
}

fn host(host: &HostStatus) -> Value {
    let success = host.total.saturating_sub(host.errors).saturating_sub(host.active.into());
    let eds = match host.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
    };
    let mut health = json!({ "eds_health_status": eds });
    if host.ejected {
        health["failed_outlier_check"] = json!(true);
    }
    json!({
        "address": socket_address(host.address),
        "stats": [
            { "name": "rq_error", "value": host.errors.to_string() },
            { "name": "rq_success", "value": success.to_string() },
            { "name": "rq_total", "value": host.total.to_string() },
            { "type": "GAUGE", "name": "rq_active", "value": host.active.to_string() },
        ],
        "health_status": health,
        "weight": host.weight,
        "hostname": host.hostname.as_deref().unwrap_or(""),
        "priority": host.priority,
        "locality": {
            "region": host.locality.region,
            "zone": host.locality.zone,
            "sub_zone": host.locality.sub_zone,
        },
    })
}

/// `envoy.config.core.v3.Address`.
pub(super) fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
