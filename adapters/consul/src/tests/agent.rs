//! Against a real Consul agent.

use std::time::Duration;

use serde_json::{Value, json};
use xebec_galley::spec;
use xebec_pilot::model::{Health, Protocol};
use xebec_testkit::consul::{Consul, ConsulMode};
use xebec_testkit::{FaultProxy, Workdir};

use super::Live;
use crate::{Settings, Tls};

fn row(node: &str, id: &str, name: &str, address: &str, port: u16) -> Value {
    json!({
        "Node": node, "Address": "10.9.9.9", "SkipNodeUpdate": false,
        "Service": {"ID": id, "Service": name, "Address": address, "Port": port, "Tags": ["version=v1"]},
        "Check": {"Node": node, "CheckID": format!("service:{id}"), "Name": "c", "Status": "passing", "ServiceID": id},
    })
}

async fn register(consul: &Consul, body: Value) {
    consul.put("/v1/catalog/register", body).await;
}

async fn deregister(consul: &Consul, node: &str, id: &str) {
    consul.put("/v1/catalog/deregister", json!({"Node": node, "ServiceID": id})).await;
}

async fn check(consul: &Consul, node: &str, id: &str, check: &str, status: &str) {
    let check = json!({"Node": node, "CheckID": check, "Name": "c", "Status": status, "ServiceID": id});
    register(consul, json!({"Node": node, "Address": "10.9.9.9", "SkipNodeUpdate": true, "Check": check})).await;
}

fn settings(consul: &Consul, work: &Workdir) -> Settings {
    Settings {
        address: consul.address(),
        token_file: consul.token().map(|token| work.write("token", token)),
        tls: Tls {
            ca_file: consul.ca_file(),
            cert_file: consul.client_cert(),
            key_file: consul.client_key(),
            server_name: None,
        },
        ..Settings::default()
    }
}

async fn instances_come_change_and_go(mode: ConsulMode) {
    let work = Workdir::new("consul-adapter");
    let Some(consul) = Consul::start(&work, mode).await else { return };
    register(&consul, row("n1", "web-1", "web", "10.0.0.1", 8080)).await;
    register(&consul, row("n2", "web-1", "web", "", 8080)).await;
    let mut proxy = row("n1", "web-1-proxy", "web-sidecar-proxy", "10.0.0.1", 20000);
    proxy["Service"]["Kind"] = "connect-proxy".into();
    proxy["Service"]["Proxy"] = json!({"DestinationServiceName": "web"});
    register(&consul, proxy).await;
    let mut live = Live::start(Settings { keep_empty: spec::Duration::from_millis(300), ..settings(&consul, &work) });
    live.synced().await;
    assert_eq!(live.services.keys().collect::<Vec<_>>(), ["web.service.consul"]);
    let web = "web.service.consul";
    let ports: Vec<_> = live.services[web].ports.iter().map(|p| (p.number, p.protocol)).collect();
    assert_eq!(ports, [(80, Protocol::Http), (8080, Protocol::Auto)]);
    assert_eq!(live.health(web), [Health::Healthy; 2], "one id on two nodes is two instances");
    assert_eq!(&*live.endpoints[web][0].labels["version"], "v1");
    assert_eq!(&*live.endpoints[web][0].locality.region, "dc1");

    register(&consul, row("n3", "web-3", "web", "10.0.0.3", 9090)).await;
    live.until("an instance was added", |l| l.count(web) == Some(3)).await;
    assert_eq!(live.services[web].ports.len(), 1, "no port is shared any more");
    assert_eq!(live.endpoints[web].iter().map(|e| e.ports["port-80"]).collect::<Vec<_>>(), [8080, 9090, 8080]);
    for (name, status, health) in [
        ("service:web-1", "warning", Health::Degraded),
        ("service:web-1", "critical", Health::Unhealthy),
        ("service:web-1", "passing", Health::Healthy),
        ("_service_maintenance:web-1", "critical", Health::Draining),
    ] {
        check(&consul, "n1", "web-1", name, status).await;
        live.until("its health changed", |l| l.health(web)[0] == health).await;
    }
    consul.put("/v1/catalog/deregister", json!({"Node": "n1", "CheckID": "_service_maintenance:web-1"})).await;
    live.until("it is back from maintenance", |l| l.health(web)[0] == Health::Healthy).await;

    // Renamed: the old name is empty, then gone, and the new one is there.
    for (node, id) in [("n1", "web-1"), ("n2", "web-1"), ("n3", "web-3")] {
        let mut renamed = row(node, id, "shop", "10.0.0.1", 8080);
        renamed["Check"]["CheckID"] = format!("service:{id}").into();
        register(&consul, renamed).await;
    }
    live.until("the new name is there", |l| l.count("shop.service.consul").is_some_and(|n| n > 0)).await;
    live.until("the old name is empty, and kept", |l| l.said.iter().any(|s| s == "web.service.consul=0")).await;
    live.until("the old name is gone", |l| !l.services.contains_key(web)).await;
    assert_eq!(live.degraded, None);

    // It comes back under a new life.
    register(&consul, row("n7", "web-7", "web", "10.0.0.7", 1)).await;
    live.until("it is back", |l| l.count(web) == Some(1)).await;
    deregister(&consul, "n7", "web-7").await;
    live.until("it is empty again", |l| l.count(web) == Some(0)).await;
    live.end().await;
}

#[tokio::test]
async fn instances_come_change_and_go_over_plain_http() {
    instances_come_change_and_go(ConsulMode::Plain).await;
}

#[tokio::test]
async fn instances_come_change_and_go_over_mutual_tls_with_a_token() {
    instances_come_change_and_go(ConsulMode::AclTls).await;
}

#[tokio::test]
async fn an_agent_that_dies_and_returns_loses_and_invents_nothing() {
    let work = Workdir::new("consul-adapter-kill");
    let Some(mut consul) = Consul::start(&work, ConsulMode::Tls).await else { return };
    for at in 0..20 {
        register(&consul, row("n1", &format!("s{at}"), &format!("s{at}"), &format!("10.0.0.{}", at + 1), 80)).await;
    }
    let mut live = Live::start(settings(&consul, &work));
    live.synced().await;
    assert_eq!(live.services.len(), 20);
    let before = live.endpoints.clone();
    live.said.clear();
    consul.kill();
    live.until("it is degraded", |l| l.degraded.is_some()).await;
    assert!(live.degraded.as_ref().unwrap().contains("cannot connect to https://127.0.0.1"), "{:?}", live.degraded);
    consul.restart().await;
    live.until("it has recovered", |l| l.degraded.is_none()).await;
    register(&consul, row("n2", "s0-2", "s0", "10.0.1.1", 80)).await;
    live.until("changes are seen again", |l| l.count("s0.service.consul") == Some(2)).await;
    let changes: Vec<&String> = live.said.iter().filter(|s| !s.starts_with("degraded") && *s != "recovered").collect();
    assert_eq!(changes, ["s0.service.consul=2"], "nothing else was said");
    for (name, endpoints) in &before {
        assert!(endpoints.iter().all(|e| live.endpoints[name].contains(e)), "{name}");
    }
    live.end().await;
}

#[tokio::test]
async fn a_token_that_loses_its_rights_empties_nothing_and_is_reported() {
    let work = Workdir::new("consul-adapter-acl");
    let Some(consul) = Consul::start(&work, ConsulMode::Acl).await else { return };
    register(&consul, row("n1", "web-1", "web", "10.0.0.1", 80)).await;
    let rules = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }";
    let policy = consul.put("/v1/acl/policy", json!({"Name": "xebec", "Rules": rules})).await;
    let token = consul.put("/v1/acl/token", json!({"Policies": [{"Name": "xebec"}]})).await;
    let good = token["SecretID"].as_str().unwrap().to_owned();
    let file = work.write("mesh-token", &good);
    let settings = Settings { token_file: Some(file), ..settings(&consul, &work) };
    let mut live = Live::start(settings.clone());
    live.synced().await;

    let id = policy["ID"].as_str().unwrap();
    consul
        .put(
            &format!("/v1/acl/policy/{id}"),
            json!({"ID": id, "Name": "xebec", "Rules": "key \"x\" { policy = \"read\" }"}),
        )
        .await;
    register(&consul, row("n1", "other", "other", "10.0.0.2", 80)).await;
    live.until("it is degraded", |l| l.degraded.as_ref().is_some_and(|d| d.contains("service_prefix"))).await;
    deregister(&consul, "n1", "other").await;
    consul.put(&format!("/v1/acl/policy/{id}"), json!({"ID": id, "Name": "xebec", "Rules": rules})).await;
    live.until("it has recovered", |l| l.degraded.is_none()).await;
    assert_eq!(live.count("web.service.consul"), Some(1));

    // Revoked, and replaced by another one in the same file.
    let accessor = token["AccessorID"].as_str().unwrap();
    consul.delete(&format!("/v1/acl/token/{accessor}")).await;
    register(&consul, row("n2", "web-2", "web", "10.0.0.2", 80)).await;
    live.until("it is degraded", |l| l.degraded.as_ref().is_some_and(|d| d.contains("403"))).await;
    assert_eq!(live.count("web.service.consul"), Some(1));
    let token = consul.put("/v1/acl/token", json!({"Policies": [{"Name": "xebec"}]})).await;
    work.write("mesh-token", token["SecretID"].as_str().unwrap());
    live.until("it has recovered", |l| l.degraded.is_none()).await;
    live.until("what was missed is said", |l| l.count("web.service.consul") == Some(2)).await;
    assert!(!live.said.iter().any(|s| s == "web.service.consul=0" || s.starts_with('-')), "{:#?}", live.said);
    assert!(!live.said.iter().any(|s| s.contains(&good)), "no token is said");
    live.end().await;

    // Without any token everything is answered, and empty.
    let mut stranger = Live::start(Settings { token_file: None, ..settings });
    stranger.until("it is degraded", |l| l.degraded.is_some()).await;
    assert!(!stranger.synced && stranger.services.is_empty(), "{:?}", stranger.said);
    stranger.end().await;
}

#[tokio::test]
async fn a_thousand_changes_in_a_burst_are_all_seen_and_the_last_state_is_right() {
    burst(ConsulMode::Tls).await;
}

#[tokio::test]
async fn more_services_than_plain_connections_are_followed_in_turns() {
    burst(ConsulMode::Plain).await;
}

async fn burst(mode: ConsulMode) {
    let work = Workdir::new("consul-adapter-burst");
    let Some(consul) = Consul::start(&work, mode).await else { return };
    let port = |round: u16| 8000 + round;
    for at in 0..250 {
        register(&consul, row("n1", &format!("s{at}"), &format!("s{at}"), "10.0.0.1", port(0))).await;
    }
    let mut live = Live::start(settings(&consul, &work));
    live.synced().await;
    assert_eq!(live.services.len(), 250);
    for round in 1..=4 {
        for at in 0..250 {
            register(&consul, row("n1", &format!("s{at}"), &format!("s{at}"), "10.0.0.1", port(round))).await;
        }
    }
    // A change of health alone, which the list of names does not tell.
    check(&consul, "n1", "s249", "service:s249", "critical").await;
    live.until("the last state is there", |l| {
        l.endpoints.len() == 250
            && l.endpoints.values().all(|e| e.len() == 1 && e[0].ports["port-80"] == port(4))
            && l.health("s249.service.consul") == [Health::Unhealthy]
    })
    .await;
    assert!(!live.said.iter().any(|s| s.ends_with("=0") || s.starts_with('-') || s.starts_with("degraded")));
    live.end().await;
}

#[tokio::test]
async fn an_agent_that_hangs_is_degraded_and_recovers() {
    let work = Workdir::new("consul-adapter-hang");
    let Some(mut consul) = Consul::start(&work, ConsulMode::Plain).await else { return };
    register(&consul, row("n1", "web-1", "web", "10.0.0.1", 80)).await;
    let mut live = Live::start(Settings { wait: spec::Duration::from_secs(1), ..settings(&consul, &work) });
    live.synced().await;
    consul.freeze();
    live.until("it is degraded", |l| l.degraded.as_ref().is_some_and(|d| d.contains("no answer for 11 s"))).await;
    consul.thaw();
    live.until("it has recovered", |l| l.degraded.is_none()).await;
    tokio::time::timeout(Duration::from_secs(1), live.until("never", |_| false)).await.unwrap_err();
    assert_eq!(live.count("web.service.consul"), Some(1));
    assert!(!live.said.iter().any(|s| s.ends_with("=0")), "{:?}", live.said);
    live.end().await;
}

#[tokio::test]
async fn wanted_services_are_chosen_by_prefix_tag_meta_and_exclusion_and_bad_names_are_skipped() {
    let work = Workdir::new("consul-adapter-filter");
    let Some(consul) = Consul::start(&work, ConsulMode::Plain).await else { return };
    for (name, tags, team) in [
        ("team-a", json!(["mesh"]), "x"),
        ("team-b", json!(["mesh"]), "y"),
        ("team-c", json!(["other"]), "x"),
        ("team-secret", json!(["mesh"]), "x"),
        ("foreign", json!(["mesh"]), "x"),
        ("team_under.dot", json!(["mesh"]), "x"),
    ] {
        let mut body = row("n1", name, name, "10.0.0.1", 80);
        body["Service"]["Tags"] = tags;
        body["Service"]["Meta"] = json!({"team": team});
        register(&consul, body).await;
    }
    let mut chosen = settings(&consul, &work);
    chosen.services.prefixes = vec!["team".into()];
    chosen.services.tags = vec!["mesh".into()];
    chosen.services.meta = [("team".to_owned(), "x".to_owned())].into();
    chosen.services.exclude = vec!["team-sec*".into()];
    // The agent's own datacenter by its name is the agent's own.
    chosen.datacenters = vec!["dc1".into()];
    let mut live = Live::start(chosen);
    live.synced().await;
    assert_eq!(live.services.keys().collect::<Vec<_>>(), ["team-a.service.consul"]);
    live.end().await;
}

#[tokio::test]
async fn a_change_takes_one_answer_of_each_poll_that_it_concerns() {
    let work = Workdir::new("consul-adapter-answers");
    let Some(consul) = Consul::start(&work, ConsulMode::Plain).await else { return };
    let proxy = FaultProxy::start(&consul.http(), None).await;
    register(&consul, row("n1", "web-0", "web", "10.0.0.1", 80)).await;
    let mut live = Live::start(Settings { address: proxy.url(), ..settings(&consul, &work) });
    live.synced().await;
    for at in 1..=10_u16 {
        register(&consul, row("n1", &format!("web-{at}"), "web", "10.0.0.1", 80 + at)).await;
        live.until("it is there", |l| l.count("web.service.consul") == Some(usize::from(at) + 1)).await;
    }
    // Names and the service were read once, and each change ends both polls.
    let most = 2 + 2 + 2 * 10;
    assert!(proxy.requests() <= most, "{} requests instead of {most}", proxy.requests());
    assert!(live.said.iter().all(|s| !s.starts_with("degraded")), "{:?}", live.said);
    live.end().await;
}
