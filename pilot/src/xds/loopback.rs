//! The server as its clients see it: over HTTP/2 on loopback, spoken to by a gRPC client that is not ours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use xebec_proto::envoy::config::core::v3::Node;
use xebec_proto::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use xebec_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use xebec_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use xebec_proto::google::rpc::Status;

use super::fixture::{delta_of, snapshot};
use super::shape::{AttachError, Shape, ShapeLease, ShapeMover, Shapes};
use super::status::Sync;
use super::{Options, XdsServer, debug};
use crate::proxy::Proxy;
use crate::resources::{Delta, Encoded, ResourceType, ShapeSnapshot};

const ID: &str = "sidecar~10.0.0.1~shop.default~default.svc.cluster.local";

/// An engine with one shape for everybody.
struct OneShape {
    shape: Arc<Shape>,
    movers: Mutex<Vec<ShapeMover>>,
    refusal: Mutex<Option<AttachError>>,
}

#[async_trait]
impl Shapes for OneShape {
    async fn attach(&self, _: Arc<Proxy>) -> Result<ShapeLease, AttachError> {
        if let Some(error) = self.refusal.lock().take() {
            return Err(error);
        }
        let (lease, mover) = ShapeLease::new(Arc::clone(&self.shape));
        self.movers.lock().push(mover);
        Ok(lease)
    }
}

/// A running server.
struct Fixture {
    engine: Arc<OneShape>,
    server: XdsServer,
    address: SocketAddr,
    stop: CancellationToken,
    now: ShapeSnapshot,
}

impl Fixture {
    async fn new(resources: &[(&str, u32)]) -> Self {
        Self::with(snapshot(resources), Options::default()).await
    }

    async fn with(now: ShapeSnapshot, options: Options) -> Self {
        let shape = Shape::new(now.clone());
        let engine = Arc::new(OneShape { shape, movers: Mutex::default(), refusal: Mutex::default() });
        let shapes: Arc<dyn Shapes> = Arc::clone(&engine) as _;
        let server = XdsServer::new(shapes, options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (running, token) = (server.clone(), stop.clone());
        tokio::spawn(async move { running.serve(listener, token).await });
        Self { engine, server, address, stop, now }
    }

    fn publish(&mut self, next: ShapeSnapshot) {
        self.engine.shape.publish(next.clone(), &delta_of(&self.now, &next));
        self.now = next;
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn delta(&self) -> DeltaClient {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel().await);
        let (requests, receiver) = mpsc::channel(8);
        let answers = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        DeltaClient { requests, answers }
    }

    fn syncz(&self) -> Value {
        debug::syncz(&self.server.streams())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct DeltaClient {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl DeltaClient {
    async fn ask(&self, kind: ResourceType, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            node: Some(node()),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn answer(&mut self) -> DeltaDiscoveryResponse {
        let answer = tokio::time::timeout(Duration::from_secs(10), self.answers.message()).await;
        answer.expect("an answer in time").unwrap().expect("an open stream")
    }

    async fn acknowledge(&self, answer: &DeltaDiscoveryResponse, error: Option<&str>) {
        let request = DeltaDiscoveryRequest {
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            error_detail: error.map(|message| Status { code: 13, message: message.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn end(&mut self) -> tonic::Status {
        let answer = tokio::time::timeout(Duration::from_secs(10), self.answers.message()).await;
        answer.expect("an end in time").expect_err("a status")
    }
}

fn node() -> Node {
    Node { id: ID.to_owned(), ..Default::default() }
}

fn names(answer: &DeltaDiscoveryResponse) -> Vec<&str> {
    answer.resources.iter().map(|r| r.name.as_str()).collect()
}

/// Waits until something holds that another task brings about.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} never came true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_delta_client_is_sent_everything_and_then_what_changes() {
    let mut fixture = Fixture::new(&[("c/a", 1), ("c/b", 1)]).await;
    let mut client = fixture.delta().await;
    client.ask(ResourceType::Cluster, &[]).await;
    let first = client.answer().await;
    assert_eq!(names(&first), ["a", "b"]);
    client.acknowledge(&first, None).await;
    fixture.publish(snapshot(&[("c/a", 1), ("c/b", 2)]));
    let second = client.answer().await;
    assert_eq!(names(&second), ["b"]);
    assert_eq!(second.resources[0].resource.as_ref().unwrap().value, b"b#2");
    client.acknowledge(&second, None).await;
    until("the acknowledgement", || fixture.syncz()[0]["types"][0]["status"] == "SYNCED").await;
    let entry = &fixture.syncz()[0];
    assert_eq!(
        (&entry["proxy"], &entry["cluster_sent"], &entry["cluster_acked"]),
        (&"shop.default".into(), &"2".into(), &"2".into())
    );
    assert_eq!((&entry["listener_sent"], &entry["types"][2]["status"]), (&"".into(), &"NOT SENT".into()));
}

#[tokio::test]
async fn a_refusal_is_shown_with_text_resource_and_origin() {
    let fixture = Fixture::new(&[("l/a", 1), ("l/b", 12)]).await;
    let mut client = fixture.delta().await;
    client.ask(ResourceType::Listener, &[]).await;
    let answer = client.answer().await;
    until("being sent", || fixture.syncz()[0]["types"][2]["status"] == "STALE").await;
    client.acknowledge(&answer, Some("Error adding/updating listener(s) b: wrong")).await;
    until("the refusal", || fixture.syncz()[0]["types"][2]["status"] == "ERROR").await;
    let error = &fixture.syncz()[0]["types"][2]["error"];
    assert_eq!(error["message"], "Error adding/updating listener(s) b: wrong");
    assert_eq!(error["resources"][0]["name"], "b");
    assert_eq!(error["resources"][0]["origins"][0], "b.yaml:12:1");
    let streams = fixture.server.streams().list();
    let dump = tokio::task::spawn_blocking(move || debug::config_dump(&streams)).await.unwrap();
    assert_eq!(dump["configs"][1]["dynamic_listeners"][1]["error_state"]["origins"][0], "b.yaml:12:1");
}

#[tokio::test]
async fn a_state_of_the_world_client_of_one_type_is_served() {
    let fixture = Fixture::new(&[("c/a", 1), ("e/a", 1)]).await;
    let mut client = ClusterDiscoveryServiceClient::new(fixture.channel().await);
    let (requests, receiver) = mpsc::channel(8);
    requests.send(DiscoveryRequest { node: Some(node()), ..Default::default() }).await.unwrap();
    let mut answers = client.stream_clusters(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let answer: DiscoveryResponse = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.type_url, ResourceType::Cluster.type_url());
    assert_eq!(answer.resources[0].value, b"a#1");
    let wrong = DiscoveryRequest { type_url: ResourceType::Route.type_url().into(), ..Default::default() };
    requests.send(wrong).await.unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_that_does_not_say_who_it_is_is_refused() {
    let fixture = Fixture::new(&[]).await;
    let mut client = fixture.delta().await;
    let anonymous = DeltaDiscoveryRequest { type_url: ResourceType::Cluster.type_url().into(), ..Default::default() };
    client.requests.send(anonymous).await.unwrap();
    let status = client.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("node"), "{status}");
    let mut client = fixture.delta().await;
    let odd = Node { id: "who".into(), ..Default::default() };
    client.requests.send(DeltaDiscoveryRequest { node: Some(odd), ..Default::default() }).await.unwrap();
    assert_eq!(client.end().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_proxy_without_a_shape_is_told_why() {
    let fixture = Fixture::new(&[]).await;
    *fixture.engine.refusal.lock() = Some(AttachError::Stopping);
    let mut client = fixture.delta().await;
    client.ask(ResourceType::Cluster, &[]).await;
    let status = client.end().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("stopping"), "{status}");
}

#[tokio::test]
async fn a_client_that_leaves_leaves_nothing_behind() {
    let fixture = Fixture::new(&[("c/a", 1)]).await;
    let mut client = fixture.delta().await;
    client.ask(ResourceType::Cluster, &[]).await;
    client.answer().await;
    assert_eq!((fixture.server.streams().len(), fixture.engine.shape.streams()), (1, 1));
    drop(client);
    until("the stream's end", || fixture.server.streams().is_empty() && fixture.engine.shape.streams() == 0).await;
    assert!(fixture.engine.movers.lock().iter().all(|m| !m.is_connected()));
}

#[tokio::test]
async fn a_proxy_is_moved_to_another_shape_while_connected() {
    let fixture = Fixture::new(&[("c/a", 1), ("c/b", 1)]).await;
    let mut client = fixture.delta().await;
    client.ask(ResourceType::Cluster, &[]).await;
    let first = client.answer().await;
    client.acknowledge(&first, None).await;
    let mover = fixture.engine.movers.lock()[0].clone();
    assert!(mover.move_to(Shape::new(snapshot(&[("c/a", 1), ("c/b", 9)]))));
    let second = client.answer().await;
    assert_eq!(names(&second), ["b"]);
}

#[tokio::test]
async fn a_stopping_server_sends_its_clients_elsewhere() {
    let fixture = Fixture::new(&[("c/a", 1)]).await;
    let mut client = fixture.delta().await;
    client.ask(ResourceType::Cluster, &[]).await;
    client.answer().await;
    fixture.stop.cancel();
    assert_eq!(client.end().await.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_request_beyond_the_limit_ends_its_stream_only() {
    let options = Options { max_request_bytes: 1000, ..Options::default() };
    let fixture = Fixture::with(snapshot(&[("c/a", 1)]), options).await;
    let mut greedy = fixture.delta().await;
    greedy.ask(ResourceType::Endpoint, &["x".repeat(2000).as_str()]).await;
    assert_eq!(greedy.end().await.code(), Code::ResourceExhausted);
    let mut modest = fixture.delta().await;
    modest.ask(ResourceType::Cluster, &[]).await;
    assert_eq!(names(&modest.answer().await), ["a"]);
}

#[tokio::test]
async fn fetching_once_is_declined_with_advice() {
    let fixture = Fixture::new(&[]).await;
    let mut client = ClusterDiscoveryServiceClient::new(fixture.channel().await);
    let status = client.fetch_clusters(DiscoveryRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("streaming"), "{status}");
}

#[tokio::test]
async fn a_stalled_client_is_not_computed_for_and_hurts_nobody() {
    fn large(revision: u8) -> ShapeSnapshot {
        let mut now = ShapeSnapshot::default();
        for index in 0..64 {
            let mut body = vec![index; 100_000];
            body[0] = revision;
            let one = Arc::new(Encoded::new(format!("r{index}").into(), Bytes::from(body), Arc::default()));
            now.sets[ResourceType::Route as usize].insert(Arc::clone(&one.name), one);
        }
        now
    }
    let mut fixture = Fixture::with(large(0), Options::default()).await;
    // It asks for 6.4 MB and never reads.
    let stalled = fixture.delta().await;
    stalled.ask(ResourceType::Route, &["*"]).await;
    let mut healthy = fixture.delta().await;
    healthy.ask(ResourceType::Route, &["r1"]).await;
    let streams = fixture.server.streams();
    let nonces = || -> Vec<_> {
        streams.list().iter().map(|s| s.of(ResourceType::Route).and_then(|t| t.sent).map_or(0, |m| m.nonce)).collect()
    };
    until("the first answers", || nonces() == [1, 1]).await;
    for revision in 1..=20 {
        let answer = healthy.answer().await;
        assert_eq!(answer.resources[0].resource.as_ref().unwrap().value[0], revision - 1);
        healthy.acknowledge(&answer, None).await;
        let next = large(revision);
        fixture.publish(next);
    }
    healthy.answer().await;
    assert_eq!(nonces(), [1, 21], "the stalled stream was sent one answer, the other one all");
    let slow = &streams.list()[0];
    assert_eq!(slow.of(ResourceType::Route).unwrap().sync(), Sync::Stale);
    drop(stalled);
    until("the stalled stream's end", || streams.len() == 1).await;
}

#[tokio::test]
async fn the_services_join_a_tonic_server() {
    let fixture = Fixture::new(&[("c/a", 1)]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let routes = fixture.server.routes();
    tokio::spawn(tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let (requests, receiver) = mpsc::channel(8);
    let answers = AggregatedDiscoveryServiceClient::new(channel)
        .delta_aggregated_resources(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut client = DeltaClient { requests, answers };
    client.ask(ResourceType::Cluster, &[]).await;
    assert_eq!(names(&client.answer().await), ["a"]);
}

#[tokio::test]
async fn a_publication_that_concerns_nobody_wakes_nobody() {
    let fixture = Fixture::new(&[("e/a", 1), ("e/b", 1)]).await;
    let mut client = fixture.delta().await;
    client.ask(ResourceType::Endpoint, &["a"]).await;
    let first = client.answer().await;
    client.acknowledge(&first, None).await;
    let mut fixture = fixture;
    fixture.publish(snapshot(&[("e/a", 1), ("e/b", 2)]));
    fixture.engine.shape.publish(snapshot(&[("e/a", 1), ("e/b", 2)]), &Delta::default());
    fixture.publish(snapshot(&[("e/a", 2), ("e/b", 2)]));
    let second = client.answer().await;
    assert_eq!((names(&second), second.nonce.as_str()), (vec!["a"], "2"));
}
