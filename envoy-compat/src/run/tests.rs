//! Whole sidecars in this process, against a control plane in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{Sidecar, SidecarConfig, SidecarHandle};
use crate::node::{NodeConfig, NodeKind};
use crate::xds::Kind;
use crate::xds::tests::fake::{Conversation, Fake};
use crate::xds::tests::{eds_cluster, endpoints, host, http_listener, resource, table};

const PATIENCE: Duration = Duration::from_secs(10);

fn sidecar(name: &str, server: SocketAddr) -> SidecarHandle {
    let node = NodeConfig::new(NodeKind::Sidecar, name, "default");
    let mut config = SidecarConfig::new(node, server.into());
    config.drain_time = Duration::from_secs(5);
    Sidecar::start(config).unwrap()
}

/// An application that says its name; a request to `/slow` waits until the test says so.
async fn application(name: &'static str) -> (SocketAddr, mpsc::UnboundedSender<()>) {
    let (release, held) = mpsc::unbounded_channel::<()>();
    let held = std::sync::Arc::new(tokio::sync::Mutex::new(held));
    let router = axum::Router::new().route(
        "/slow",
        axum::routing::get(move || async move {
            held.lock().await.recv().await;
            name
        }),
    );
    let router = router.fallback(move || async move { name });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, release)
}

/// One request on a connection of its own: status and body.
async fn call(method: &str, address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { dechunk(body) } else { body.to_owned() }))
}

fn dechunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        out.push_str(&rest[..size]);
        body = rest.get(size + 2..).unwrap_or("");
    }
    out
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    call("GET", address, path).await.unwrap()
}

async fn admin_json(handle: &SidecarHandle, path: &str) -> Value {
    let (status, body) = get(handle.admin_addr(), path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Everything for one listener on a free port that forwards to `application`.
async fn configure(stream: &mut Conversation, application: SocketAddr) {
    stream.subscription(Kind::Cluster).await;
    stream.send(Kind::Cluster, vec![eds_cluster("app", "c1")], &[]);
    stream.subscription(Kind::Endpoint).await;
    stream.send(Kind::Endpoint, vec![endpoints("app", "e1", &[application.port()])], &[]);
    stream.send(Kind::Listener, vec![http_listener("in", "l1", 0, "80")], &[]);
    stream.subscription(Kind::Route).await;
    stream.send(Kind::Route, vec![table("80", "r1", &[host("all", "*", "app")], false)], &[]);
}

async fn ready(handle: &SidecarHandle) -> SocketAddr {
    assert!(tokio::time::timeout(PATIENCE, handle.ready()).await.expect("never ready"));
    handle.listeners()[0].1
}

#[tokio::test]
async fn a_sidecar_serves_what_it_was_told_and_keeps_serving_without_its_control_plane() {
    let (app, _) = application("hello").await;
    let mut fake = Fake::start().await;
    let handle = sidecar("one", fake.address);
    assert_eq!(get(handle.admin_addr(), "/ready").await, (503, "PRE_INITIALIZING\n".into()));
    let mut stream = fake.stream().await;
    configure(&mut stream, app).await;
    let address = ready(&handle).await;
    assert_eq!(get(handle.admin_addr(), "/ready").await, (200, "LIVE\n".into()));
    assert_eq!(get(address, "/").await, (200, "hello".into()));
    drop(stream);
    fake.kill().await;
    until("the loss is seen", || async { !handle.admin.shared.status.lock().connected }).await;
    assert_eq!(get(address, "/").await, (200, "hello".into()));
    let info = admin_json(&handle, "/server_info").await;
    assert_eq!((&info["state"], &info["control_plane"]["connected"]), (&json!("LIVE"), &json!(false)));
    assert_eq!(handle.drain_and_stop().await, 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn two_sidecars_of_one_process_do_not_know_each_other() {
    let ((one, _), (two, _)) = (application("one").await, application("two").await);
    let (mut first, mut second) = (Fake::start().await, Fake::start().await);
    let (a, b) = (sidecar("a", first.address), sidecar("b", second.address));
    configure(&mut first.stream().await, one).await;
    configure(&mut second.stream().await, two).await;
    let (at_a, at_b) = (ready(&a).await, ready(&b).await);
    assert_eq!((get(at_a, "/").await.1, get(at_b, "/").await.1), ("one".into(), "two".into()));
    a.drain_and_stop().await;
    assert_eq!(get(at_b, "/").await.1, "two");
}

#[tokio::test]
async fn a_request_in_flight_is_finished_before_the_sidecar_stops() {
    let (app, release) = application("late").await;
    let mut fake = Fake::start().await;
    let handle = sidecar("drain", fake.address);
    configure(&mut fake.stream().await, app).await;
    let address = ready(&handle).await;
    let slow = tokio::spawn(async move { get(address, "/slow").await });
    let admin = handle.admin_addr();
    until("the request is upstream", || async {
        get(admin, "/clusters").await.1.contains(&format!("app::{app}::rq_active::1"))
    })
    .await;
    let stopping = tokio::spawn(handle.drain_and_stop());
    until("nothing listens", || async { TcpStream::connect(address).await.is_err() }).await;
    release.send(()).unwrap();
    assert_eq!(slow.await.unwrap(), (200, "late".into()));
    assert_eq!(stopping.await.unwrap(), 0);
}

#[tokio::test]
async fn the_admin_interface_shows_what_is_held_refused_and_ignored() {
    let (app, _) = application("hello").await;
    let mut fake = Fake::start().await;
    let handle = sidecar("admin", fake.address);
    let mut stream = fake.stream().await;
    configure(&mut stream, app).await;
    let address = ready(&handle).await;
    let bad = resource(Kind::Cluster, "bad", "c9", json!({ "name": "bad", "cluster_type": { "name": "own" } }));
    let odd = resource(Kind::Cluster, "odd", "c2", json!({ "name": "odd", "cleanup_interval": "1s" }));
    stream.send(Kind::Cluster, vec![bad, odd], &[]);
    until("the refusal", || async { handle.admin.shared.store.lock().clusters().refused().count() == 1 }).await;
    assert_eq!(get(address, "/").await.0, 200);

    let dump = admin_json(&handle, "/config_dump?include_eds").await;
    let part = |name: &str| {
        let wanted = format!("type.googleapis.com/envoy.admin.v3.{name}ConfigDump");
        dump["configs"].as_array().unwrap().iter().find(|c| c["@type"] == wanted).unwrap().clone()
    };
    let clusters = part("Clusters");
    let names: Vec<_> =
        clusters["dynamic_active_clusters"].as_array().unwrap().iter().map(|c| c["cluster"]["name"].clone()).collect();
    assert_eq!(names, ["app", "odd"]);
    assert_eq!(clusters["dynamic_active_clusters"][0]["version_info"], "c1");
    let refused = &clusters["dynamic_warming_clusters"][0];
    assert_eq!((&refused["version_info"], &refused["cluster"]["name"]), (&json!("c9"), &json!("bad")));
    assert!(refused["error_state"]["details"].as_str().unwrap().starts_with("cluster_type: "));
    assert_eq!(part("Listeners")["dynamic_listeners"][0]["active_state"]["listener"]["name"], "in");
    assert_eq!(part("Routes")["dynamic_route_configs"][0]["route_config"]["virtual_hosts"][0]["name"], "all");
    assert_eq!(part("Endpoints")["dynamic_endpoint_configs"][0]["endpoint_config"]["cluster_name"], "app");
    let own = dump["configs"].as_array().unwrap().last().unwrap();
    assert_eq!(own["value"]["ignored_fields"]["CDS"]["odd"][0]["path"], "cleanup_interval");
    assert_eq!(own["value"]["rejected_resources"][0]["name"], "bad");
    // Strict readers take the whole of it.
    xebec_proto::json::decode::<xebec_proto::envoy::admin::v3::ConfigDump>(dump).unwrap();

    let hosts = admin_json(&handle, "/clusters?format=json").await;
    let status = hosts["cluster_statuses"].as_array().unwrap().iter().find(|c| c["name"] == "app").unwrap().clone();
    assert_eq!(status["host_statuses"][0]["address"]["socket_address"]["port_value"], app.port());
    assert_eq!(status["eds_service_name"], "app");
    assert_eq!(get(handle.admin_addr(), "/listeners").await.1, format!("in::{address}\n"));
    let stats = get(handle.admin_addr(), "/stats?filter=^cluster").await.1;
    assert!(stats.contains("cluster.app.upstream_rq_total: 1\n"), "{stats}");
    assert!(stats.contains("cluster_manager.cds.update_rejected: 1\n"), "{stats}");
    let metrics = get(handle.admin_addr(), "/stats/prometheus").await.1;
    assert!(metrics.contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"app\"} 1"), "{metrics}");
    assert!(metrics.contains("envoy_cluster_manager_cds_ignored_fields{} 1"), "{metrics}");
    assert_eq!(admin_json(&handle, "/certs").await, json!({ "certificates": [] }));
    assert_eq!(get(handle.admin_addr(), "/logging").await.0, 501);
    assert_eq!(get(handle.admin_addr(), "/stats?filter=(").await.0, 400);
}

#[tokio::test]
async fn a_listener_whose_port_is_taken_is_reported_and_listens_when_it_is_free() {
    let (app, _) = application("hello").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut fake = Fake::start().await;
    let handle = sidecar("busy", fake.address);
    let mut stream = fake.stream().await;
    configure(&mut stream, app).await;
    ready(&handle).await;
    stream.send(Kind::Listener, vec![http_listener("busy", "l1", address.port(), "80")], &[]);
    until("the failure is shown", || async {
        get(handle.admin_addr(), "/config_dump").await.1.contains(&format!("cannot listen on {address}"))
    })
    .await;
    drop(taken);
    until("it listens", || async { call("GET", address, "/").await.is_ok_and(|answer| answer.1 == "hello") }).await;
}

#[tokio::test]
async fn the_admin_interface_stops_and_drains_only_when_posted_to() {
    let (app, _) = application("hello").await;
    let mut fake = Fake::start().await;
    let handle = sidecar("quit", fake.address);
    configure(&mut fake.stream().await, app).await;
    let address = ready(&handle).await;
    assert_eq!(get(handle.admin_addr(), "/quitquitquit").await.0, 405);
    assert_eq!(call("POST", handle.admin_addr(), "/drain_listeners").await.unwrap().0, 200);
    until("nothing listens", || async { TcpStream::connect(address).await.is_err() }).await;
    assert_eq!(get(handle.admin_addr(), "/ready").await.1, "DRAINING\n");
    call("POST", handle.admin_addr(), "/quitquitquit").await.unwrap();
    tokio::time::timeout(PATIENCE, handle.asked_to_stop()).await.unwrap();
    handle.drain_and_stop().await;
}

#[tokio::test]
async fn what_cannot_work_is_said_at_once() {
    let server: crate::bootstrap::ServerAddress = "127.0.0.1:1".parse().unwrap();
    let nameless = SidecarConfig::new(NodeConfig::new(NodeKind::Sidecar, "", "default"), server.clone());
    assert!(Sidecar::start(nameless).is_err());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = SidecarConfig::new(NodeConfig::new(NodeKind::Sidecar, "a", "default"), server);
    config.admin_addr = taken.local_addr().unwrap();
    let error = Sidecar::start(config).err().unwrap().to_string();
    assert!(error.contains("--admin-addr"), "{error}");
}
