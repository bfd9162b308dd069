//! The engine as others hold it: sinks, readiness, shapes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use xebec_galley::Kind;

use super::model::*;
use crate::engine::{Engine, EngineHandle, EngineOptions};
use crate::model::{Health, Protocol, RegistryId};
use crate::registry::RegistryEvent;
use crate::resources::ResourceType;

const PATIENCE: Duration = Duration::from_secs(10);

fn reviews() -> RegistryEvent {
    RegistryEvent::UpsertService(Arc::new(service("reviews", "default", &[(9080, Protocol::Http)])))
}

#[tokio::test]
async fn a_proxy_is_served_only_when_every_source_has_listed_completely() {
    let engine = Engine::start(EngineOptions::default());
    let sink = engine.registry_sink(RegistryId("a".into()));
    let configs = engine.config_sink("files");
    let shapes = engine.shapes();
    let mut attached = tokio::spawn(async move { shapes.attach(sidecar("w")).await });
    sink.send(vec![reviews(), RegistryEvent::Synced]).await.unwrap();
    engine.settled().await.unwrap();
    assert!(!engine.is_ready());
    assert_eq!(engine.waiting_for(), ["configuration files"]);
    assert!(!attached.is_finished());
    configs.synced().await.unwrap();
    let lease = timeout(PATIENCE, &mut attached).await.unwrap().unwrap().unwrap();
    engine.wait_ready().await;
    assert!(lease.shape().snapshot().set(ResourceType::Cluster).contains_key("outbound|9080||reviews"));
}

#[tokio::test]
async fn what_is_said_becomes_visible_in_the_mesh_and_in_shapes() {
    let engine = Engine::start(EngineOptions::default());
    let sink = engine.registry_sink(RegistryId("a".into()));
    let configs = engine.config_sink("files");
    sink.send(vec![RegistryEvent::Synced]).await.unwrap();
    configs.synced().await.unwrap();
    let lease = timeout(PATIENCE, engine.shapes().attach(sidecar("w"))).await.unwrap().unwrap();
    sink.send(vec![reviews()]).await.unwrap();
    configs
        .send(vec![document(Kind::VirtualService, "default", "vs", weighted("reviews", &[("reviews", 1)]))])
        .await
        .unwrap();
    engine.settled().await.unwrap();
    assert_eq!(engine.mesh().host_count(), 1);
    assert_eq!(engine.documents().len(), 1);
    assert!(lease.shape().snapshot().set(ResourceType::VirtualHost).contains_key("9080/reviews:9080"));
}

#[tokio::test]
async fn a_degraded_registry_keeps_its_services_and_says_why() {
    let engine = Engine::start(EngineOptions::default());
    let id = RegistryId("a".into());
    let sink = engine.registry_sink(id.clone());
    sink.send(vec![reviews(), RegistryEvent::Synced, RegistryEvent::Degraded("503".into())]).await.unwrap();
    engine.settled().await.unwrap();
    let status = &engine.registries()[&id];
    assert_eq!((status.degraded.as_deref(), status.synced, status.services), (Some("503"), true, 1));
    assert!(status.last_event.is_some());
    assert_eq!(engine.mesh().host_count(), 1);
    sink.send(vec![RegistryEvent::Recovered]).await.unwrap();
    engine.settled().await.unwrap();
    assert_eq!(engine.registries()[&id].degraded, None);
}

fn id(name: &str) -> RegistryId {
    RegistryId(name.into())
}

#[tokio::test]
async fn a_source_that_takes_longer_than_the_operators_patience_is_not_waited_for() {
    let engine = Engine::start(EngineOptions { patience: Some(Duration::from_millis(20)), ..EngineOptions::default() });
    let (near, away) = (engine.registry_sink(id("near")), engine.registry_sink(id("away")));
    near.send(vec![reviews(), RegistryEvent::Synced]).await.unwrap();
    away.send(vec![RegistryEvent::Degraded("connection refused".into())]).await.unwrap();
    let lease = timeout(PATIENCE, engine.shapes().attach(sidecar("w"))).await.unwrap().unwrap();
    assert!(lease.shape().snapshot().set(ResourceType::Cluster).contains_key("outbound|9080||reviews"));
    assert!(engine.is_ready());
    assert_eq!(engine.waiting_for(), ["registry away"]);
    // What it says later applies, and one that comes later still is not waited for either.
    let ratings = Arc::new(service("ratings", "default", &[(9080, Protocol::Http)]));
    away.send(vec![RegistryEvent::Recovered, RegistryEvent::UpsertService(ratings), RegistryEvent::Synced])
        .await
        .unwrap();
    let _third = engine.registry_sink(id("third"));
    engine.settled().await.unwrap();
    assert!(lease.shape().snapshot().set(ResourceType::Cluster).contains_key("outbound|9080||ratings"));
    assert!(engine.is_ready());
    assert_eq!(engine.waiting_for(), ["registry third"]);
}

#[tokio::test]
async fn readiness_does_not_wait_for_sources_that_are_added_late() {
    let engine = Engine::start(EngineOptions::default());
    let (registry, configs) = (engine.late_registry_sink(id("remote")), engine.late_config_sink("remote"));
    assert!(engine.is_ready() && engine.waiting_for().is_empty());
    registry.send(vec![reviews()]).await.unwrap();
    let rule = document(Kind::VirtualService, "default", "vs", weighted("reviews", &[("reviews", 1)]));
    configs.send(vec![rule]).await.unwrap();
    configs.synced().await.unwrap();
    engine.settled().await.unwrap();
    assert_eq!((engine.mesh().host_count(), engine.documents().len()), (1, 1));
    assert!(!engine.registries()[&id("remote")].synced);
}

#[tokio::test]
async fn a_removed_registry_is_not_heard_until_a_new_sink_is_taken() {
    let engine = Engine::start(EngineOptions::default());
    let old = engine.registry_sink(id("a"));
    old.send(vec![reviews()]).await.unwrap();
    engine.settled().await.unwrap();
    assert!(!engine.is_ready());
    engine.remove_registry(&id("a")).unwrap();
    engine.settled().await.unwrap();
    assert_eq!(engine.mesh().host_count(), 0);
    assert!(engine.registries().is_empty());
    assert!(engine.is_ready(), "nobody waits for a registry that is not there");
    old.send(vec![reviews(), RegistryEvent::Synced]).await.unwrap();
    engine.settled().await.unwrap();
    assert_eq!(engine.mesh().host_count(), 0);
    let new = engine.registry_sink(id("a"));
    old.send(vec![reviews(), RegistryEvent::Synced]).await.unwrap();
    engine.settled().await.unwrap();
    assert_eq!((engine.mesh().host_count(), engine.is_ready()), (0, false), "the old sink stays unheard");
    new.send(vec![reviews(), RegistryEvent::Synced]).await.unwrap();
    engine.settled().await.unwrap();
    assert_eq!((engine.mesh().host_count(), engine.is_ready()), (1, true));
}

async fn page(engine: &EngineHandle, path: &str) -> serde_json::Value {
    use http_body_util::BodyExt;
    let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    let answer = tower::ServiceExt::oneshot(engine.debug_router(), request).await.unwrap();
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn the_debug_pages_show_who_registers_what_and_how_each_registry_is() {
    let engine = Engine::start(EngineOptions::default());
    let (a, b) = (engine.registry_sink(id("a")), engine.registry_sink(id("b")));
    let key = crate::model::ServiceKey::new("reviews", "default");
    let sick = crate::model::Endpoint { health: Health::Degraded, ..endpoint("10.0.0.2", None) };
    let endpoints: Arc<[_]> = [endpoint("10.0.0.1", None), sick].into();
    a.send(vec![reviews(), RegistryEvent::ReplaceEndpoints(key, endpoints), RegistryEvent::Synced]).await.unwrap();
    let other = Arc::new(service("reviews", "default", &[(9080, Protocol::Tcp)]));
    b.send(vec![RegistryEvent::UpsertService(other), RegistryEvent::Degraded("403: no permission".into())])
        .await
        .unwrap();
    engine.settled().await.unwrap();
    let merged = page(&engine, "/debug/registryz").await[0].clone();
    assert_eq!(merged["registries"][0]["registry"], "a");
    assert_eq!(merged["registries"][0]["health"], serde_json::json!({"Degraded": 1, "Healthy": 1}));
    assert_eq!(
        (&merged["registries"][1]["syncStatus"], &merged["registries"][1]["endpoints"]),
        (&"degraded".into(), &0.into())
    );
    assert_eq!(
        (&merged["conflicts"][0]["keptBy"], &merged["conflicts"][0]["lost"]),
        (&"a".into(), &"p9080 (Tcp)".into())
    );
    for path in ["/debug/clusterz", "/debug/registryz?registries"] {
        let all = page(&engine, path).await;
        assert_eq!((&all[0]["id"], &all[0]["events"], &all[0]["endpoints"]), (&"a".into(), &3.into(), &2.into()));
        assert!(all[0]["lastEventAgeSeconds"].as_f64().is_some_and(|age| (0.0..60.0).contains(&age)), "{all}");
        assert_eq!((&all[1]["syncStatus"], &all[1]["reason"]), (&"degraded".into(), &"403: no permission".into()));
        assert!(all[1]["degradedSince"].as_u64().is_some());
    }
}

#[tokio::test]
async fn the_debug_pages_show_services_endpoints_and_documents() {
    use http_body_util::BodyExt;
    let engine = Engine::start(EngineOptions::default());
    let sink = engine.registry_sink(RegistryId("a".into()));
    let configs = engine.config_sink("files");
    let endpoints = RegistryEvent::ReplaceEndpoints(
        crate::model::ServiceKey::new("reviews", "default"),
        vec![endpoint("10.0.0.1", None)].into(),
    );
    sink.send(vec![reviews(), endpoints, RegistryEvent::Synced]).await.unwrap();
    configs
        .send(vec![document(Kind::VirtualService, "default", "vs", weighted("reviews", &[("reviews", 1)]))])
        .await
        .unwrap();
    engine.settled().await.unwrap();
    for (page, expected) in [
        ("registryz", r#""hostname":"reviews""#),
        ("endpointz", r#""Address":"10.0.0.1""#),
        ("configz", r#""kind":"VirtualService""#),
        ("clusterz", r#""syncStatus":"synced""#),
    ] {
        let request = http::Request::get(format!("/debug/{page}")).body(axum::body::Body::empty()).unwrap();
        let answer = tower::ServiceExt::oneshot(engine.debug_router(), request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains(expected), "{page}: {text}");
    }
}

#[tokio::test]
async fn when_the_last_lease_is_dropped_the_engine_forgets_the_proxy() {
    let engine = Engine::start(EngineOptions::default());
    let lease = timeout(PATIENCE, engine.shapes().attach(sidecar("w"))).await.unwrap().unwrap();
    let shape = Arc::downgrade(&lease.shape());
    assert!(shape.upgrade().is_some());
    drop(lease);
    engine.settled().await.unwrap();
    assert!(shape.upgrade().is_none());
}
