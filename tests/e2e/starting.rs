//! What is said and served when a platform is not as it should be from the start.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};
use xebec_testkit::client::page;
use xebec_testkit::{Consul, ConsulMode, ControlPlane, Fault, FaultProxy, Workdir, eventually_ok, process};

const SOON: Duration = Duration::from_secs(30);

async fn line(mesh: &ControlPlane, id: &str) -> Result<Value, String> {
    let lines = mesh.json("/debug/clusterz").await?;
    lines.as_array().into_iter().flatten().find(|line| line["id"] == id).cloned().ok_or(lines.to_string())
}

async fn endpoints(mesh: &ControlPlane, host: &str) -> Result<Vec<String>, String> {
    let page = mesh.json("/debug/endpointz").await?;
    let row = page.as_array().into_iter().flatten().find(|row| row["svc"] == host).ok_or(page.to_string())?;
    let mut addresses: Vec<String> =
        row["ep"].as_array().into_iter().flatten().map(|e| e["Address"].as_str().unwrap_or("").to_owned()).collect();
    addresses.sort();
    Ok(addresses)
}

async fn register(consul: &Consul, id: &str, address: &str, meta: Value) {
    let body = json!({
        "Node": "machine-1", "Address": "127.0.0.1", "SkipNodeUpdate": true,
        "Service": {"ID": id, "Service": id, "Address": address, "Port": 8080, "Meta": meta},
    });
    consul.put("/v1/catalog/register", body).await;
}

/// Not waiting for it any longer, the mesh is what the others say; what it says later joins in, also where a ServiceEntry
/// selects instances of several registries.
#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_away_at_the_start_is_said_and_joins_when_it_comes() {
    let work = Workdir::new("away-at-the-start");
    let Some(consul) = Consul::start(&work, ConsulMode::Plain).await else { return };
    let search = json!({"tier": "search", "protocol": "http"});
    register(&consul, "solr", "127.0.0.2", search).await;
    let proxy = FaultProxy::start(&consul.http(), None).await;
    proxy.set(Fault::Refuse);
    work.write(
        "config/services.yaml",
        "services:\n- host: elastic\n  ports: [{name: http, number: 80, protocol: http}]\n  instances:\n  - {address: 127.0.0.1, ports: {http: 8080}, labels: {tier: search}}\n",
    );
    work.write(
        "config/search.yaml",
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: search, namespace: default}\nspec:\n  hosts: [search.example]\n  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]\n  resolution: STATIC\n  workloadSelector: {labels: {tier: search}}\n",
    );
    let id = format!("consul:{}", proxy.url());
    let spec = ControlPlane::spec(&work).config("config").argument("--registry").argument(&id);
    let mesh = spec.argument("--patience").argument("2s").start().await;
    let away = line(&mesh, &id).await.unwrap();
    assert_eq!((&away["syncStatus"], &away["synced"]), (&"degraded".into(), &false.into()), "{away}");
    assert!(away["reason"].as_str().unwrap().contains(proxy.url().trim_start_matches("http://")), "{away}");
    assert_eq!(endpoints(&mesh, "elastic").await.unwrap(), ["127.0.0.1"]);
    assert_eq!(endpoints(&mesh, "search.example").await.unwrap(), ["127.0.0.1"]);
    proxy.set(Fault::None);
    eventually_ok(SOON, "Consul has joined", async || {
        let now = line(&mesh, &id).await?;
        if now["syncStatus"] == "synced" { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    assert_eq!(endpoints(&mesh, "solr.service.consul").await.unwrap(), ["127.0.0.2"]);
    eventually_ok(SOON, "the entry selects instances of both", async || {
        let now = endpoints(&mesh, "search.example").await?;
        if now == ["127.0.0.1", "127.0.0.2"] { Ok(()) } else { Err(now.join(" ")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_said_and_never_an_empty_mesh() {
    let work = Workdir::new("wrong-token");
    let Some(consul) = Consul::start(&work, ConsulMode::Acl).await else { return };
    register(&consul, "web", "127.0.0.2", json!({})).await;
    let token = work.write("token", "00000000-0000-0000-0000-000000000000\n");
    let settings = format!("consul:\n- address: {}\n  tokenFile: {}\n", consul.address(), token.display());
    let settings = work.write("settings.yaml", settings).display().to_string();
    let id = format!("consul:{}", consul.address());
    let spec = ControlPlane::spec(&work).argument("--registry").argument(&id);
    let mesh = spec.argument("--settings").argument(settings).argument("--patience").argument("1s").start().await;
    let wrong = line(&mesh, &id).await.unwrap();
    assert_eq!((&wrong["syncStatus"], &wrong["synced"]), (&"degraded".into(), &false.into()), "{wrong}");
    assert!(wrong["reason"].as_str().unwrap().contains("token"), "{wrong}");
    // Corrected while everything runs.
    work.write("token", consul.token().unwrap());
    eventually_ok(SOON, "the right token is taken", async || {
        let now = line(&mesh, &id).await?;
        if now["syncStatus"] == "synced" { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    assert_eq!(endpoints(&mesh, "web.service.consul").await.unwrap(), ["127.0.0.2"]);
    let metrics = page(mesh.http_addr(), "/metrics").await.unwrap();
    let synced = format!("xebec_registry_synced{{registry=\"{id}\"}} 1");
    assert!(metrics.contains(&synced), "{synced} is missing in\n{metrics}");
}

#[rstest]
#[case::an_unknown_platform("zookeeper:127.0.0.1", "consul")]
#[case::no_url("consul:localhost", "http://")]
#[case::another_scheme("nomad:ftp://127.0.0.1", "http")]
#[case::no_such_kubeconfig("kubernetes:/nowhere/config", "/nowhere/config")]
#[tokio::test]
async fn a_wrong_spec_says_what_to_write(#[case] spec: &str, #[case] says: &str) {
    let output = process::run(process::xebec(["serve", "--registry", spec])).await;
    let all = format!("{}{}", output.stdout, output.stderr);
    // What is written wrongly is 2; a file that is not there is 4.
    assert_eq!(output.code, Some(if spec.contains("nowhere") { 4 } else { 2 }), "{all}");
    assert!(all.contains(spec.split(':').next_back().unwrap()) || all.contains(spec), "{all}");
    assert!(all.contains(says), "{all}");
}
