//! The engine as others hold it: sinks, readiness, shapes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use xebec_galley::Kind;

use super::model::*;
use crate::engine::{Engine, EngineOptions};
use crate::model::{Protocol, RegistryId};
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
