//! What is measured of registries where they are heard. What only an adapter can know of its platform is in
//! [`registry::Meters`](crate::registry::Meters).

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use metrics::{counter, gauge};

use crate::catalog::RegistryStatus;
use crate::model::RegistryId;
use crate::registry::RegistryEvent;

const TYPES: [&str; 8] = [
    "upsert_service",
    "remove_service",
    "replace_endpoints",
    "upsert_workload",
    "remove_workload",
    "synced",
    "degraded",
    "recovered",
];

fn type_of(event: &RegistryEvent) -> usize {
    match event {
        RegistryEvent::UpsertService(_) => 0,
        RegistryEvent::RemoveService(_) => 1,
        RegistryEvent::ReplaceEndpoints(..) => 2,
        RegistryEvent::UpsertWorkload(..) => 3,
        RegistryEvent::RemoveWorkload(_) => 4,
        RegistryEvent::Synced => 5,
        RegistryEvent::Degraded(_) => 6,
        RegistryEvent::Recovered => 7,
    }
}

/// Counts what a registry said.
pub(super) fn count(id: &RegistryId, events: &[RegistryEvent]) {
    let mut counts = [0u64; TYPES.len()];
    for event in events {
        counts[type_of(event)] += 1;
    }
    for (kind, count) in TYPES.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
        counter!("xebec_registry_events_total", "registry" => Arc::clone(&id.0), "type" => kind).increment(count);
    }
}

/// Shows what a registry is like now.
pub(super) fn state(id: &RegistryId, status: &RegistryStatus) {
    let set = |name: &'static str, value: f64| gauge!(name, "registry" => Arc::clone(&id.0)).set(value);
    set("xebec_registry_synced", f64::from(u8::from(status.synced)));
    set("xebec_registry_degraded", f64::from(u8::from(status.degraded.is_some())));
    set("xebec_registry_services", status.services as f64);
    set("xebec_registry_endpoints", status.endpoints as f64);
    set("xebec_registry_workloads", status.workloads as f64);
    if let Some(at) = status.last_event.and_then(|t| t.duration_since(UNIX_EPOCH).ok()) {
        set("xebec_registry_last_event_timestamp_seconds", at.as_secs_f64());
    }
}

/// Shows that a registry is gone: nothing of it is left to alarm anybody.
pub(super) fn forget(id: &RegistryId) {
    state(id, &RegistryStatus::default());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::model::ServiceKey;

    #[test]
    fn what_registries_say_is_counted_and_how_they_are_is_shown() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let id = RegistryId("consul:http://127.0.0.1:8500".into());
        let status = RegistryStatus {
            synced: true,
            degraded: Some("503".into()),
            last_event: Some(UNIX_EPOCH + Duration::from_millis(1500)),
            services: 2,
            endpoints: 30,
            ..RegistryStatus::default()
        };
        metrics::with_local_recorder(&recorder, || {
            let gone = RegistryEvent::RemoveService(ServiceKey::new("a", "default"));
            count(&id, &[gone.clone(), gone, RegistryEvent::Synced]);
            state(&id, &status);
        });
        let text = handle.render();
        for line in [
            r#"xebec_registry_events_total{registry="consul:http://127.0.0.1:8500",type="remove_service"} 2"#,
            r#"xebec_registry_events_total{registry="consul:http://127.0.0.1:8500",type="synced"} 1"#,
            r#"xebec_registry_synced{registry="consul:http://127.0.0.1:8500"} 1"#,
            r#"xebec_registry_degraded{registry="consul:http://127.0.0.1:8500"} 1"#,
            r#"xebec_registry_services{registry="consul:http://127.0.0.1:8500"} 2"#,
            r#"xebec_registry_endpoints{registry="consul:http://127.0.0.1:8500"} 30"#,
            r#"xebec_registry_last_event_timestamp_seconds{registry="consul:http://127.0.0.1:8500"} 1.5"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics::with_local_recorder(&recorder, || forget(&id));
        assert!(handle.render().contains(r#"xebec_registry_degraded{registry="consul:http://127.0.0.1:8500"} 0"#));
    }
}
