//! Remote clusters come, change and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use xebec_adapter_kubernetes::{Registries, RemoteClusters, Settings};
use xebec_pilot::engine::{Engine, EngineHandle, EngineOptions};
use xebec_pilot::mesh::Mesh;
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::RegistrySink;
use xebec_testkit::{Kube, Workdir, eventually};

use crate::heard::{Heard, SOON, host, put_service, sink};

struct Recorder(Mutex<BTreeMap<String, Arc<Mutex<Heard>>>>);

impl Registries for Recorder {
    fn add(&self, id: RegistryId, _expected: bool) -> RegistrySink {
        let (sink, heard) = sink(id.clone());
        self.0.lock().insert(id.to_string(), heard);
        sink
    }

    fn remove(&self, id: &RegistryId) {
        self.0.lock().remove(&*id.0);
    }
}

/// As a control plane does it.
struct Served(EngineHandle);

impl Registries for Served {
    fn add(&self, id: RegistryId, expected: bool) -> RegistrySink {
        if expected { self.0.registry_sink(id) } else { self.0.late_registry_sink(id) }
    }

    fn remove(&self, id: &RegistryId) {
        self.0.remove_registry(id).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_cluster_is_added_rotated_and_removed_while_running() {
    let work = Workdir::new("kubernetes-remote");
    let Some(kube) = Kube::start(&work).await else { return };
    put_service(&kube, "web", json!({"ports": [{"name": "http", "port": 80}]})).await;
    let recorder = Arc::new(Recorder(Mutex::default()));
    let stop = CancellationToken::new();
    let registries: Arc<dyn Registries> = Arc::<Recorder>::clone(&recorder);
    let running = tokio::spawn(remote_clusters(&kube, "here", registries).await.run(stop.clone()));
    let remote = |user: Value| kubeconfig(&kube, &kube.api_addr(), user);
    let put = |data: Value| put_secret(&kube, "east", data);
    let at = |id: &str| recorder.0.lock().get(id).cloned();
    let heard = || at("kubernetes-remote:east@here");
    let secrets = at("kubernetes-secrets:istio-system@here").unwrap();
    // What runs programs is refused, and others of the same secret are not.
    let ran = work.join("ran");
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [ran]});
    put(json!({
        "aaa": remote(json!({"exec": exec})).to_string(),
        "bbb": "not a kubeconfig",
        "east": remote(json!({"token": kube.token()})).to_string(),
    }))
    .await;
    eventually(SOON, "the cluster is added and listed", async || {
        heard().is_some_and(|heard| heard.lock().synced && heard.lock().services.contains_key(&host("web")))
    })
    .await;
    let first = heard().unwrap();
    assert_eq!(recorder.0.lock().len(), 2, "east and the secrets");
    let refused = |word: &str| secrets.lock().degraded.as_ref().is_some_and(|text| text.contains(word));
    eventually(SOON, "what was refused is said", async || refused("`exec`") && refused("cluster bbb")).await;
    assert!(!ran.exists(), "a tenant's kubeconfig has run a program");
    // Credentials that do not work keep the state.
    put(json!({"east": remote(json!({"token": "wrong-token"})).to_string()})).await;
    eventually(SOON, "refused credentials are said", async || {
        first.lock().degraded.as_ref().is_some_and(|text| text.contains("401"))
    })
    .await;
    assert!(first.lock().services.contains_key(&host("web")));
    eventually(SOON, "nothing is wrong with what the secret has now", async || secrets.lock().degraded.is_none()).await;
    put(json!({"east": remote(json!({"token": kube.token()})).to_string()})).await;
    eventually(SOON, "the new credentials work", async || first.lock().degraded.is_none()).await;
    assert!(!first.lock().log.iter().any(|(_, text)| text.starts_with('-')), "{:?}", first.lock().log);
    assert!(Arc::ptr_eq(&first, &heard().unwrap()), "it is the same registry");
    put_service(&kube, "late", json!({"ports": [{"name": "http", "port": 80}]})).await;
    eventually(SOON, "it is followed with them", async || first.lock().services.contains_key(&host("late"))).await;
    kube.delete("/api/v1/namespaces/istio-system/secrets/east").await;
    eventually(SOON, "the cluster is removed", async || heard().is_none()).await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_that_are_there_at_the_start_are_waited_for_and_later_ones_are_not() {
    let work = Workdir::new("kubernetes-remote-start");
    let Some(kube) = Kube::start(&work).await else { return };
    put_service(&kube, "web", json!({"ports": [{"name": "http", "port": 80}]})).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = kubeconfig(&kube, &silent.local_addr().unwrap().to_string(), json!({"token": "t"})).to_string();
    let engine = Engine::start(EngineOptions::default());
    let clusters = remote_clusters(&kube, "here", Arc::new(Served(engine.clone()))).await;
    put_secret(&kube, "east", json!({"east": nobody})).await;
    assert!(!engine.is_ready(), "the secrets were not listed");
    assert_eq!(engine.waiting_for(), ["registry kubernetes-secrets:istio-system@here"]);
    let stop = CancellationToken::new();
    let running = tokio::spawn(clusters.run(stop.clone()));
    let east = "registry kubernetes-remote:east@here";
    eventually(SOON, "only the remote cluster is waited for", async || engine.waiting_for() == [east]).await;
    assert!(!engine.is_ready());
    let user = json!({"token": kube.token()});
    put_secret(&kube, "east", json!({"east": kubeconfig(&kube, &kube.api_addr(), user).to_string()})).await;
    eventually(SOON, "it was listed", async || engine.is_ready()).await;
    let known = |mesh: &Mesh| mesh.services().any(|service| *service.service.key.hostname == *host("web"));
    assert!(known(&engine.mesh()), "ready means that its services are there");
    // One that comes later takes nothing away from those who are served.
    put_secret(&kube, "west", json!({"west": nobody})).await;
    let west = RegistryId("kubernetes-remote:west@here".into());
    eventually(SOON, "the later one is followed", async || engine.registries().contains_key(&west)).await;
    assert!(engine.is_ready());
    // Another cluster has told of one of the same name.
    let others = remote_clusters(&kube, "there", Arc::new(Served(engine.clone()))).await;
    let other_stop = CancellationToken::new();
    let other = tokio::spawn(others.run(other_stop.clone()));
    let theirs = RegistryId("kubernetes-remote:east@there".into());
    let ours = RegistryId("kubernetes-remote:east@here".into());
    eventually(SOON, "both are there", async || {
        let registries = engine.registries();
        registries.contains_key(&theirs) && registries.contains_key(&ours)
    })
    .await;
    for (stop, task) in [(stop, running), (other_stop, other)] {
        stop.cancel();
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_may_not_be_read_are_the_reason_of_their_registry() {
    let work = Workdir::new("kubernetes-remote-refused");
    let Some(kube) = Kube::start(&work).await else { return };
    let engine = Engine::start(EngineOptions::default());
    let settings = Settings { kubeconfig: Some(kube.token_kubeconfig("alice-token")), ..Settings::default() };
    let clusters = RemoteClusters::new(RegistryId("here".into()), settings, Arc::new(Served(engine.clone())));
    let stop = CancellationToken::new();
    let running = tokio::spawn(clusters.run(stop.clone()));
    let id = RegistryId("kubernetes-secrets:istio-system@here".into());
    eventually(SOON, "the reason is given", async || {
        let registries = engine.registries();
        let reason = registries.get(&id).and_then(|status| status.degraded.as_deref());
        reason.is_some_and(|text| text.contains("not allowed to watch secrets (403)"))
    })
    .await;
    assert!(!engine.is_ready());
    stop.cancel();
    running.await.unwrap();
}

async fn remote_clusters(kube: &Kube, holder: &str, registries: Arc<dyn Registries>) -> RemoteClusters {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}});
    kube.put_object("/api/v1/namespaces/istio-system", &namespace).await;
    let settings = Settings { kubeconfig: Some(kube.kubeconfig()), ..Settings::default() };
    RemoteClusters::new(RegistryId(holder.into()), settings, registries)
}

/// The secret has exactly this content afterwards: `stringData` would only add to what it has.
async fn put_secret(kube: &Kube, name: &str, content: Value) {
    let encoded = |(key, value): (&String, &Value)| (key.clone(), base64(value.as_str().unwrap().as_bytes()).into());
    let data: serde_json::Map<String, Value> = content.as_object().unwrap().iter().map(encoded).collect();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": "istio-system", "labels": {"istio/multiCluster": "true"}},
        "data": data});
    kube.put_object(&format!("/api/v1/namespaces/istio-system/secrets/{name}"), &secret).await;
}

fn kubeconfig(kube: &Kube, address: &str, user: Value) -> Value {
    let ca = std::fs::read_to_string(kube.ca_file()).unwrap();
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://{}", address.trim_start_matches("https://")),
            "certificate-authority-data": base64(ca.as_bytes())}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]})
}

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap().as_str().unwrap().to_owned()
}
