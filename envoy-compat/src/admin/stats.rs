//! `/stats`: Envoy's names as text and JSON, and as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use crate::proxy::{BUCKETS, HistogramSnapshot, StatsSnapshot};
use crate::xds::Kind;

/// The content type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    filter: Option<String>,
    usedonly: Option<String>,
    format: Option<String>,
}

pub(super) async fn stats(State(admin): State<Arc<Admin>>, Query(wanted): Query<Wanted>) -> Response {
    let filter = match wanted.filter.as_deref().map(regex::Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("filter: {error}\n")).into_response(),
    };
    let mut all = collect(&admin);
    let used_only = wanted.usedonly.is_some();
    let keep = |name: &str, used: bool| (used || !used_only) && filter.as_ref().is_none_or(|f| f.is_match(name));
    all.counters.retain(|(name, value)| keep(name, *value > 0));
    all.gauges.retain(|(name, value)| keep(name, *value > 0));
    all.histograms.retain(|histogram| keep(&histogram.name, histogram.count > 0));
    match wanted.format.as_deref() {
        Some("prometheus") => ([(header::CONTENT_TYPE, PROMETHEUS)], as_prometheus(&all)).into_response(),
        Some("json") => Json(as_json(&all)).into_response(),
        Some("text") | None => as_text(&all).into_response(),
        Some(_) => (StatusCode::BAD_REQUEST, "format is one of text, json, prometheus\n").into_response(),
    }
}

pub(super) async fn prometheus(State(admin): State<Arc<Admin>>) -> Response {
    ([(header::CONTENT_TYPE, PROMETHEUS)], as_prometheus(&collect(&admin))).into_response()
}

/// What the workers count, and what the control side knows.
fn collect(admin: &Admin) -> StatsSnapshot {
    let mut out = admin.workers.stats();
    let mut gauge = |name: &str, value: u64| out.gauges.push((name.to_owned(), value));
    {
        let status = admin.shared.status.lock();
        gauge("control_plane.connected_state", status.connected.into());
        out.counters.push(("control_plane.streams".into(), status.streams));
        out.counters.push(("control_plane.failures".into(), status.failures));
    }
    let store = admin.shared.store.lock();
    let active = store.snapshot();
    let mut gauge = |name: &str, value: u64| out.gauges.push((name.to_owned(), value));
    let ready = admin.ready.load(Ordering::Relaxed);
    gauge("server.live", (ready && !admin.draining.load(Ordering::Relaxed)).into());
    gauge("server.uptime", admin.started.elapsed().as_secs());
    gauge("cluster_manager.active_clusters", active.clusters.len() as u64);
    gauge("cluster_manager.warming_clusters", warming(&store, Kind::Cluster));
    gauge("listener_manager.total_listeners_active", active.listeners.len() as u64);
    gauge("listener_manager.total_listeners_warming", warming(&store, Kind::Listener));
    for (kind, prefix) in [
        (Kind::Cluster, "cluster_manager.cds"),
        (Kind::Endpoint, "cluster_manager.eds"),
        (Kind::Listener, "listener_manager.lds"),
        (Kind::Route, "http.rds"),
        (Kind::VirtualHost, "http.vhds"),
    ] {
        let counts = store.counts(kind);
        out.counters.push((format!("{prefix}.update_success"), counts.accepted));
        out.counters.push((format!("{prefix}.update_rejected"), counts.rejected));
        out.gauges.push((format!("{prefix}.ignored_fields"), counts.ignored_fields));
    }
    out.counters.sort_unstable();
    out.gauges.sort_unstable();
    out.histograms.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    out
}

fn warming(store: &crate::xds::store::Store, kind: Kind) -> u64 {
    let waits = |name: &Arc<str>| !store.is_active(kind, name);
    let count = match kind {
        Kind::Cluster => store.clusters().accepted().filter(|(name, _)| waits(name)).count(),
        Kind::Listener => store.listeners().accepted().filter(|(name, _)| waits(name)).count(),
        _ => 0,
    };
    count as u64
}

fn as_text(all: &StatsSnapshot) -> String {
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in all.counters.iter().chain(&all.gauges) {
        lines.insert(name, value.to_string());
    }
    let mut out = String::new();
    for (name, value) in lines {
        _ = writeln!(out, "{name}: {value}");
    }
    for histogram in &all.histograms {
        if histogram.count == 0 {
            _ = writeln!(out, "{}: No recorded values", histogram.name);
            continue;
        }
        let quantiles: Vec<String> = [50, 90, 95, 99]
            .iter()
            .map(|p| format!("P{p}({:.2})", quantile(histogram, f64::from(*p) / 100.0)))
            .collect();
        _ = writeln!(out, "{}: {}", histogram.name, quantiles.join(" "));
    }
    out
}

/// An estimate between the bounds of the bucket that holds the quantile.
fn quantile(histogram: &HistogramSnapshot, share: f64) -> f64 {
    let wanted = share * histogram.count as f64;
    let (mut below, mut lower) = (0u64, 0.0);
    for (bound, cumulative) in BUCKETS.iter().zip(&histogram.buckets) {
        if *cumulative as f64 >= wanted {
            let inside = (cumulative - below) as f64;
            let part = if inside > 0.0 { (wanted - below as f64) / inside } else { 1.0 };
            return lower + (bound - lower) * part.clamp(0.0, 1.0);
        }
        (below, lower) = (*cumulative, *bound);
    }
    lower
}

fn as_json(all: &StatsSnapshot) -> Value {
    let mut stats: Vec<Value> =
        all.counters.iter().chain(&all.gauges).map(|(name, value)| json!({ "name": name, "value": value })).collect();
    if !all.histograms.is_empty() {
        let computed: Vec<Value> = all
            .histograms
            .iter()
            .map(|histogram| {
                let quantile = |p: &f64| (histogram.count > 0).then(|| quantile(histogram, p / 100.0));
                let values: Vec<Option<f64>> = [50.0, 90.0, 95.0, 99.0].iter().map(quantile).collect();
                json!({ "name": histogram.name, "values": values })
            })
            .collect();
        stats.push(json!({ "histograms": {
            "supported_quantiles": [50, 90, 95, 99],
            "computed_quantiles": computed,
        } }));
    }
    json!({ "stats": stats })
}

/// A metric's name and labels, as Envoy's default tag rules take them apart.
fn name_and_labels(stat: &str) -> (String, String) {
    let mut labels = Vec::new();
    let (prefix, rest) = stat.split_once('.').unwrap_or(("", stat));
    let label = match prefix {
        "cluster" => "envoy_cluster_name",
        "http" => "envoy_http_conn_manager_prefix",
        "listener" => "envoy_listener_address",
        "tcp" => "envoy_tcp_prefix",
        _ => "",
    };
    let mut name = match rest.rsplit_once('.') {
        Some((middle, last)) if !label.is_empty() => {
            labels.push(format!("{label}=\"{}\"", escape(middle)));
            format!("{prefix}_{last}")
        }
        _ => stat.to_owned(),
    };
    if let Some(at) = name.find("_rq_").filter(|at| {
        let class = &name.as_bytes()[at + 4..];
        class.len() == 3 && class[0].is_ascii_digit() && &class[1..] == b"xx"
    }) {
        let class = name.as_bytes()[at + 4] as char;
        labels.push(format!("envoy_response_code_class=\"{class}\""));
        name = format!("{}_rq_xx", &name[..at]);
    }
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    (format!("envoy_{name}"), labels.join(","))
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn as_prometheus(all: &StatsSnapshot) -> String {
    let mut out = String::new();
    for (kind, values) in [("counter", &all.counters), ("gauge", &all.gauges)] {
        let mut families: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
        for (stat, value) in values {
            let (name, labels) = name_and_labels(stat);
            families.entry(name).or_default().push((labels, *value));
        }
        for (name, samples) in families {
            _ = writeln!(out, "# TYPE {name} {kind}");
            for (labels, value) in samples {
                _ = writeln!(out, "{name}{{{labels}}} {value}");
            }
        }
    }
    let mut families: BTreeMap<String, Vec<(String, &HistogramSnapshot)>> = BTreeMap::new();
    for histogram in &all.histograms {
        let (name, labels) = name_and_labels(&histogram.name);
        families.entry(name).or_default().push((labels, histogram));
    }
    for (name, samples) in families {
        _ = writeln!(out, "# TYPE {name} histogram");
        for (labels, histogram) in samples {
            let comma = if labels.is_empty() { "" } else { "," };
            for (bound, cumulative) in BUCKETS.iter().zip(&histogram.buckets) {
                _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {cumulative}");
            }
            _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", histogram.count);
            _ = writeln!(out, "{name}_sum{{{labels}}} {}", histogram.sum);
            _ = writeln!(out, "{name}_count{{{labels}}} {}", histogram.count);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_names_are_envoys() {
        let split = |stat: &str| name_and_labels(stat);
        assert_eq!(
            split("cluster.outbound|80||a.b.upstream_rq_2xx"),
            (
                "envoy_cluster_upstream_rq_xx".into(),
                "envoy_cluster_name=\"outbound|80||a.b\",envoy_response_code_class=\"2\"".into()
            )
        );
        assert_eq!(
            split("http.outbound_0.0.0.0_80.downstream_cx_total"),
            ("envoy_http_downstream_cx_total".into(), "envoy_http_conn_manager_prefix=\"outbound_0.0.0.0_80\"".into())
        );
        assert_eq!(split("server.live"), ("envoy_server_live".into(), String::new()));
    }

    #[test]
    fn a_histogram_is_cumulative_and_has_quantiles() {
        let mut buckets = vec![0u64; BUCKETS.len()];
        buckets.iter_mut().skip(2).for_each(|bucket| *bucket = 10);
        let histogram = HistogramSnapshot { name: "cluster.c.upstream_rq_time".into(), buckets, count: 10, sum: 30.0 };
        assert!((1.0..=5.0).contains(&quantile(&histogram, 0.5)));
        let all = StatsSnapshot { histograms: vec![histogram], ..StatsSnapshot::default() };
        let text = as_prometheus(&all);
        assert!(text.contains("envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"5\"} 10"), "{text}");
        assert!(text.contains("envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"c\"} 10"), "{text}");
        assert!(as_text(&all).starts_with("cluster.c.upstream_rq_time: P50("));
    }
}
