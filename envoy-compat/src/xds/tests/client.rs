//! The client on a real connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fake::{Conversation, Fake};
use super::{eds_cluster, endpoints, host, http_listener, resource, table};
use crate::node::{NodeConfig, NodeKind};
use crate::xds::Kind;
use crate::xds::client::{Client, Published, Shared};

/// A running client.
struct Running {
    shared: Arc<Shared>,
    published: watch::Receiver<Published>,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    fn start(server: std::net::SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let (sender, published) = watch::channel(Published::default());
        let node = NodeConfig::new(NodeKind::Sidecar, "test", "default").to_proto();
        let publish = Box::new(move |next| _ = sender.send(next));
        let client = Client::new(&server.into(), node, shared.clone(), publish).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(client.run(stop.clone()));
        Self { shared, published, stop }
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Published) -> bool) -> Published {
        let wait = tokio::time::timeout(Duration::from_secs(10), self.published.wait_for(condition)).await;
        wait.unwrap_or_else(|_| panic!("never came: {what}")).unwrap().clone()
    }
}

/// Gives a client one listener, one table, and one cluster with one endpoint.
async fn serve(stream: &mut Conversation) {
    stream.subscription(Kind::Cluster).await;
    stream.send(Kind::Cluster, vec![eds_cluster("a", "c1")], &[]);
    let request = stream.subscription(Kind::Endpoint).await;
    assert_eq!(request.resource_names_subscribe, ["a"]);
    stream.send(Kind::Endpoint, vec![endpoints("a", "e1", &[7])], &[]);
    stream.send(Kind::Listener, vec![http_listener("l", "l1", 0, "r")], &[]);
    let request = stream.subscription(Kind::Route).await;
    assert_eq!(request.resource_names_subscribe, ["r"]);
    stream.send(Kind::Route, vec![table("r", "r1", &[host("h", "*", "a")], false)], &[]);
}

#[tokio::test]
async fn the_node_is_said_once_and_names_are_asked_for_as_they_are_needed() {
    let mut fake = Fake::start().await;
    let mut client = Running::start(fake.address);
    let mut stream = fake.stream().await;
    let first = stream.request().await;
    assert_eq!(first.type_url, Kind::Cluster.type_url());
    assert_eq!(first.node.unwrap().id, "sidecar~127.0.0.1~test.default~default.svc.cluster.local");
    assert!(first.resource_names_subscribe.is_empty(), "everything is asked for");
    let second = stream.request().await;
    assert_eq!(second.type_url, Kind::Listener.type_url());
    assert!(second.node.is_none());
    stream.send(Kind::Cluster, vec![eds_cluster("a", "c1")], &[]);
    let answer = stream.answer(Kind::Cluster).await;
    assert_eq!((answer.response_nonce.as_str(), answer.error_detail), ("1", None));
    let request = stream.subscription(Kind::Endpoint).await;
    assert_eq!(request.resource_names_subscribe, ["a"]);
    stream.send(Kind::Endpoint, vec![endpoints("a", "e1", &[7])], &[]);
    let published = client.until("the cluster", |p| p.snapshot.clusters.contains_key("a")).await;
    assert!(!published.initialized, "listeners were not answered");
    stream.send(Kind::Listener, vec![], &[]);
    client.until("the first whole configuration", |p| p.initialized).await;
}

#[tokio::test]
async fn a_refusal_names_every_bad_resource_and_the_good_ones_apply() {
    let mut fake = Fake::start().await;
    let mut client = Running::start(fake.address);
    let mut stream = fake.stream().await;
    let bad =
        resource(Kind::Cluster, "bad", "1", serde_json::json!({ "name": "bad", "cluster_type": { "name": "own" } }));
    stream.send(Kind::Cluster, vec![bad, eds_cluster("good", "1")], &[]);
    let answer = stream.answer(Kind::Cluster).await;
    let error = answer.error_detail.unwrap();
    assert_eq!(error.code, 3);
    assert!(error.message.starts_with("bad: cluster_type: "), "{}", error.message);
    let request = stream.subscription(Kind::Endpoint).await;
    assert_eq!(request.resource_names_subscribe, ["good"]);
    stream.send(Kind::Endpoint, vec![endpoints("good", "1", &[7])], &[]);
    client.until("the good cluster", |p| p.snapshot.clusters.contains_key("good")).await;
}

#[tokio::test]
async fn a_lost_control_plane_changes_nothing_and_a_new_one_is_told_what_is_held() {
    let mut fake = Fake::start().await;
    let mut client = Running::start(fake.address);
    let mut stream = fake.stream().await;
    serve(&mut stream).await;
    client.until("everything", |p| p.initialized).await;
    let bad =
        resource(Kind::Cluster, "bad", "9", serde_json::json!({ "name": "bad", "cluster_type": { "name": "own" } }));
    stream.send(Kind::Cluster, vec![bad], &[]);
    assert!(
        stream.answer(Kind::Cluster).await.error_detail.is_some() || {
            // The answer to the first clusters comes before the refusal.
            stream.answer(Kind::Cluster).await.error_detail.is_some()
        }
    );
    let address = fake.address;
    drop(stream);
    fake.kill().await;

    let mut fake = Fake::start_on(address).await;
    let mut stream = fake.stream().await;
    assert_eq!(client.published.borrow().snapshot.listeners.len(), 1, "it still serves");
    let first = stream.request().await;
    assert!(first.node.is_some());
    assert_eq!(first.initial_resource_versions, [("a".to_owned(), "c1".to_owned())].into());
    let mut rest = Vec::new();
    for _ in 0..3 {
        let request = stream.request().await;
        rest.push((request.type_url, request.resource_names_subscribe, request.initial_resource_versions));
    }
    let entry = |kind: Kind, names: &[&str], held: (&str, &str)| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        (kind.type_url().to_owned(), names, [(held.0.to_owned(), held.1.to_owned())].into())
    };
    assert_eq!(
        rest,
        [
            entry(Kind::Endpoint, &["a"], ("a", "e1")),
            entry(Kind::Listener, &[], ("l", "l1")),
            entry(Kind::Route, &["r"], ("r", "r1")),
        ]
    );
    stream.send(Kind::Cluster, vec![eds_cluster("b", "c1")], &["a"]);
    let request = stream.subscription(Kind::Endpoint).await;
    assert_eq!(request.resource_names_subscribe, ["b"]);
    assert!(client.shared.status.lock().connected);
}

#[tokio::test]
async fn a_control_plane_that_starts_later_is_found() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let client = Running::start(address);
    while client.shared.status.lock().failures == 0 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(client.shared.status.lock().last_error.as_ref().unwrap().contains("cannot reach"));
    let mut fake = Fake::start_on(address).await;
    let mut stream = fake.stream().await;
    stream.subscription(Kind::Cluster).await;
}

#[tokio::test]
async fn virtual_hosts_are_asked_for_without_names_when_a_table_discovers_them() {
    let mut fake = Fake::start().await;
    let mut client = Running::start(fake.address);
    let mut stream = fake.stream().await;
    stream.send(Kind::Cluster, vec![], &[]);
    stream.send(Kind::Listener, vec![http_listener("l", "1", 0, "80")], &[]);
    stream.subscription(Kind::Route).await;
    stream.send(Kind::Route, vec![table("80", "1", &[], true)], &[]);
    let request = stream.subscription(Kind::VirtualHost).await;
    assert!(request.resource_names_subscribe.is_empty());
    stream.send(Kind::VirtualHost, vec![resource(Kind::VirtualHost, "80/a", "1", host("a", "a.example", "x"))], &[]);
    let published = client.until("the host", |p| p.snapshot.routes.contains_key("80")).await;
    assert_eq!(published.snapshot.routes["80"].hosts()[0].domains, ["a.example"]);
    stream.send(
        Kind::VirtualHost,
        vec![resource(Kind::VirtualHost, "80/b", "1", host("b", "b.example", "x"))],
        &["80/a"],
    );
    client
        .until("the other host", |p| {
            p.snapshot.routes["80"].hosts().iter().map(|host| host.domains[0].as_str()).eq(["b.example"])
        })
        .await;
}

#[tokio::test]
async fn a_type_that_was_not_asked_for_is_refused_and_the_stream_goes_on() {
    let mut fake = Fake::start().await;
    let _client = Running::start(fake.address);
    let mut stream = fake.stream().await;
    stream.send_type("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
    loop {
        let request = stream.request().await;
        if let Some(error) = request.error_detail {
            assert!(error.message.contains("not asked for"), "{}", error.message);
            break;
        }
    }
    stream.send(Kind::Cluster, vec![], &[]);
    assert!(stream.answer(Kind::Cluster).await.error_detail.is_none());
}
