//! Against a real Nomad agent.

use std::time::{Duration, Instant};

use crate::support::{Live, mock, seconds, settings};
use serde_json::json;
use xebec_adapter_nomad::Settings;
use xebec_pilot::model::{Address, Health};
use xebec_testkit::{Nomad, NomadMode, Workdir};

const WEB: &str = "web.default.service.nomad";

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_change_drain_and_go_as_nomad_says() {
    let work = Workdir::new("nomad-life");
    let Some(nomad) = Nomad::start(&work, NomadMode::Plain).await else { return };
    nomad.run_job_until_running(mock("web", 2, &["version=v1", "plain"]), 2).await;

    let mut live = Live::start(settings(&nomad.address()));
    live.until("synced", |live| live.synced).await;
    assert_eq!(live.of(WEB).len(), 2, "the first listing is complete: {:?}", live.log);
    let endpoint = live.of(WEB)[0].clone();
    assert_eq!(endpoint.address, Address::Ip("127.0.0.1".parse().unwrap()));
    assert!(nomad.dynamic_ports().contains(&endpoint.ports["http"]));
    assert_eq!((&*endpoint.labels["version"], &*endpoint.labels["plain"]), ("v1", ""));
    assert_eq!((&*endpoint.labels["nomad-job"], &*endpoint.labels["nomad-group"]), ("web", "g"));
    assert_eq!((&*endpoint.locality.region, &*endpoint.locality.zone), ("global", "dc1"));
    assert_eq!(endpoint.service_account.as_deref(), Some("web"));
    let service = live.service(WEB).unwrap();
    assert_eq!(service.ports.iter().map(|p| p.number).collect::<Vec<_>>(), [80]);

    nomad.run_job(mock("web", 3, &["version=v1", "plain"])).await;
    live.until("three are healthy", |live| live.healthy(WEB) == 3).await;
    nomad.run_job(mock("web", 3, &["version=v2", "mesh-port=8080", "protocol=grpc"])).await;
    live.until("all are of the new version", |live| {
        live.of(WEB).len() == 3 && live.of(WEB).iter().all(|e| e.labels.get("version").is_some_and(|v| &**v == "v2"))
    })
    .await;
    live.until("its port is the declared one", |live| live.service(WEB).unwrap().ports[0].number == 8080).await;

    let nodes = nomad.get("/v1/nodes").await;
    let node = nodes[0]["ID"].as_str().unwrap().to_owned();
    live.log.clear();
    nomad
        .put(
            &format!("/v1/node/{node}/drain"),
            json!({"DrainSpec": {"Deadline": 3_600_000_000_000_u64}, "MarkEligible": false}),
        )
        .await;
    // Nomad moves one at a time, and waits when there is no other node.
    let mut draining = false;
    live.until("one is gone and the others are the last choice", |live| {
        draining |= live.healths(WEB).contains(&Health::Draining);
        live.healths(WEB) == [Health::Degraded, Health::Degraded]
    })
    .await;
    assert!(draining, "it was drained before it went: {:?}", live.log);
    nomad.put(&format!("/v1/node/{node}/drain"), json!({"DrainSpec": null, "MarkEligible": true})).await;
    live.until("they are back", |live| live.healthy(WEB) == 3).await;

    nomad.stop_job("web").await;
    live.until("no instance is left", |live| live.of(WEB).is_empty()).await;
    assert_eq!(live.service(WEB).unwrap().ports[0].number, 8080, "a service without instances stays, with its port");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stays_empty_is_removed_and_one_of_another_name_is_another() {
    let work = Workdir::new("nomad-rename");
    let Some(nomad) = Nomad::start(&work, NomadMode::Plain).await else { return };
    nomad.run_job_until_running(mock("web", 1, &[]), 1).await;
    let mut live = Live::start(Settings { keep_empty: seconds(0.3), ..settings(&nomad.address()) });
    live.until("synced", |live| live.synced).await;
    let mut renamed = mock("web", 1, &[]);
    renamed["TaskGroups"][0]["Services"][0]["Name"] = json!("shop");
    nomad.run_job(renamed).await;
    live.until("the new name is there", |live| live.healthy("shop.default.service.nomad") == 1).await;
    live.until("the old one is gone", |live| live.service(WEB).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_check_fails_is_unhealthy_until_it_succeeds() {
    let work = Workdir::new("nomad-checks");
    let Some(nomad) = Nomad::start(&work, NomadMode::Plain).await else { return };
    let page = work.write("site/index.html", "fine");
    let mut job = mock("web", 1, &[]);
    job["TaskGroups"][0]["Services"][0]["Checks"] =
        json!([{"Type": "http", "Path": "/index.html", "Interval": 1_000_000_000_u64, "Timeout": 1_000_000_000_u64}]);
    // A limit: Nomad kills what needs more.
    job["TaskGroups"][0]["Tasks"][0] = json!({"Name": "t", "Driver": "raw_exec", "Resources": {"CPU": 20, "MemoryMB": 128},
        "Config": {"command": "python3", "args": ["-m", "http.server", "${NOMAD_PORT_http}", "--bind", "127.0.0.1",
            "--directory", work.join("site").display().to_string()]}});
    nomad.run_job_until_running(job, 1).await;
    let mut live = Live::start(settings(&nomad.address()));
    live.until("healthy", |live| live.synced && live.healthy(WEB) == 1).await;
    std::fs::remove_file(&page).unwrap();
    live.until("unhealthy", |live| live.healths(WEB) == [Health::Unhealthy]).await;
    work.write("site/index.html", "fine again");
    live.until("healthy again", |live| live.healthy(WEB) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_instances_is_seen_whole_and_its_last_state_is_right() {
    let work = Workdir::new("nomad-burst");
    let Some(nomad) = Nomad::start(&work, NomadMode::Plain).await else { return };
    let mut live = Live::start(settings(&nomad.address()));
    live.until("synced", |live| live.synced).await;
    for id in ["web", "shop", "cart"] {
        nomad.run_job(mock(id, 50, &[])).await;
    }
    live.until("150 are healthy", |live| {
        ["web", "shop", "cart"].iter().all(|id| live.healthy(&format!("{id}.default.service.nomad")) == 50)
    })
    .await;
    let [shop, cart] = ["shop.default.service.nomad", "cart.default.service.nomad"];
    nomad.run_job(mock("web", 7, &[])).await;
    nomad.run_job(mock("shop", 60, &["new"])).await;
    nomad.stop_job("cart").await;
    live.until("the last state", |live| {
        live.healthy(WEB) == 7 && live.of(WEB).len() == 7 && live.healthy(shop) == 60 && live.of(cart).is_empty()
    })
    .await;
    let listed = nomad.get("/v1/service/shop").await.as_array().unwrap().len();
    assert_eq!(listed, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_loses_nothing_and_its_return_converges_without_a_flap() {
    let work = Workdir::new("nomad-kill");
    let Some(mut nomad) = Nomad::start(&work, NomadMode::Plain).await else { return };
    let mut job = mock("web", 4, &[]);
    job["TaskGroups"][0]["Tasks"][0]["Driver"] = json!("raw_exec");
    job["TaskGroups"][0]["Tasks"][0]["Config"] = json!({"command": "/bin/sleep", "args": ["1000"]});
    nomad.run_job_until_running(job, 4).await;
    let mut live = Live::start(settings(&nomad.address()));
    live.until("all are healthy", |live| live.synced && live.healthy(WEB) == 4).await;
    live.log.clear();
    nomad.kill();
    live.until("degraded", |live| live.degraded.is_some()).await;
    assert!(live.degraded.as_ref().unwrap().contains(&nomad.address()), "{:?}", live.degraded);
    nomad.restart().await;
    live.until("recovered", |live| live.degraded.is_none()).await;
    live.during(Duration::from_secs(3)).await;
    assert_eq!(live.healthy(WEB), 4, "{:?} {:?}", live.healths(WEB), live.log);
    let flaps: Vec<_> = live.log.iter().filter(|line| line.starts_with(['+', '-', '='])).collect();
    assert!(flaps.is_empty(), "nothing changed, and so nothing is said: {:?}", live.log);
    nomad.stop_job("web").await;
    live.until("later changes are seen", |live| live.of(WEB).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_degrades_and_loses_nothing_until_its_file_has_a_good_one() {
    let work = Workdir::new("nomad-acl");
    let Some(nomad) = Nomad::start(&work, NomadMode::Acl).await else { return };
    let rules = "namespace \"*\" { policy = \"read\" }\nnode { policy = \"read\" }\n";
    nomad.put("/v1/acl/policy/mesh", json!({"Name": "mesh", "Rules": rules})).await;
    let token = json!({"Name": "mesh", "Type": "client", "Policies": ["mesh"]});
    let first = nomad.put("/v1/acl/token", token.clone()).await;
    nomad.run_job_until_running(mock("web", 2, &[]), 2).await;
    let file = work.write("token", first["SecretID"].as_str().unwrap());
    let mut live = Live::start(Settings { token_file: Some(file), ..settings(&nomad.address()) });
    live.until("all are healthy", |live| live.synced && live.healthy(WEB) == 2).await;
    live.log.clear();
    nomad.delete(&format!("/v1/acl/token/{}", first["AccessorID"].as_str().unwrap())).await;
    live.until("degraded", |live| live.degraded.is_some()).await;
    assert!(live.degraded.as_ref().unwrap().contains("token"), "{:?}", live.degraded);
    nomad.run_job_until_running(mock("web", 3, &[]), 3).await;
    assert_eq!(live.healthy(WEB), 2, "the last good state stays");
    let second = nomad.put("/v1/acl/token", token).await;
    work.write("token", second["SecretID"].as_str().unwrap());
    live.until("recovered", |live| live.degraded.is_none()).await;
    live.until("the difference is there", |live| live.healthy(WEB) == 3).await;
    assert!(!live.log.iter().any(|line| line.starts_with('-') || line.ends_with(":0")), "{:?}", live.log);

    // A policy that is narrowed hides services from lists without a word.
    let file = work.join("token");
    let some = "namespace \"other\" { policy = \"read\" }\nnode { policy = \"read\" }\n";
    nomad.put("/v1/acl/policy/mesh", json!({"Name": "mesh", "Rules": some})).await;
    live.until("degraded again", |live| live.degraded.is_some()).await;
    assert_eq!(live.of(WEB).len(), 3, "{:?}", live.log);
    drop(file);
}

#[tokio::test(flavor = "multi_thread")]
async fn chosen_namespaces_are_read_each_with_its_own_stream_and_no_others() {
    let work = Workdir::new("nomad-namespaces");
    let Some(nomad) = Nomad::start(&work, NomadMode::Acl).await else { return };
    for name in ["blue", "green", "red"] {
        nomad.put(&format!("/v1/namespace/{name}"), json!({"Name": name})).await;
    }
    let rules = "namespace \"blue\" { policy = \"read\" }\nnamespace \"green\" { policy = \"read\" }\n";
    nomad.put("/v1/acl/policy/mesh", json!({"Name": "mesh", "Rules": rules})).await;
    let token = nomad.put("/v1/acl/token", json!({"Name": "mesh", "Type": "client", "Policies": ["mesh"]})).await;
    let file = work.write("token", token["SecretID"].as_str().unwrap());
    let namespaces = vec!["blue".to_owned(), "green".to_owned()];
    let mut live = Live::start(Settings { token_file: Some(file), namespaces, ..settings(&nomad.address()) });
    live.until("synced", |live| live.synced).await;
    for name in ["red", "blue", "green"] {
        let mut job = mock("web", 1, &[]);
        job["Namespace"] = json!(name);
        nomad.run_job_until_running(job, 1).await;
    }
    for name in ["blue", "green"] {
        live.until("both are there", |live| live.healthy(&format!("web.{name}.service.nomad")) == 1).await;
    }
    assert_eq!(live.services.len(), 2);
    assert_eq!(live.service("web.blue.service.nomad").unwrap().key.namespace.as_ref(), "blue");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_from_a_submitted_job_to_the_mesh_is_measured() {
    let work = Workdir::new("nomad-latency");
    let Some(nomad) = Nomad::start(&work, NomadMode::Plain).await else { return };
    let mut live = Live::start(settings(&nomad.address()));
    live.until("synced", |live| live.synced).await;
    let (mut registered, mut healthy) = (Vec::new(), Vec::new());
    for round in 0..50 {
        let id = format!("job-{round}");
        let host = format!("{id}.default.service.nomad");
        let start = Instant::now();
        nomad.run_job(mock(&id, 1, &[])).await;
        live.until("registered", |live| live.of(&host).len() == 1).await;
        registered.push(live.last - start);
        live.until("healthy", |live| live.healthy(&host) == 1).await;
        healthy.push(live.last - start);
    }
    for (what, times) in [("submitted to registered", &mut registered), ("submitted to healthy", &mut healthy)] {
        times.sort();
        eprintln!("{what}: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
    assert!(registered[registered.len() / 2] < Duration::from_secs(1));
}
