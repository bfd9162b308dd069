//! A control plane of which the test is the brain: every stream is handed over as it opens.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use xebec_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use xebec_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

use crate::xds::Kind;

/// The longest that a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that listens until it is dropped.
pub(crate) struct Fake {
    pub address: SocketAddr,
    streams: mpsc::UnboundedReceiver<Conversation>,
    task: tokio::task::JoinHandle<()>,
}

/// One stream, from the server's side.
pub(crate) struct Conversation {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
    nonce: u64,
}

struct Service {
    streams: mpsc::UnboundedSender<Conversation>,
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Outgoing<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Outgoing<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outgoing) = mpsc::unbounded_channel();
        let conversation = Conversation { requests: request.into_inner(), responses, nonce: 0 };
        self.streams.send(conversation).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }
}

impl Fake {
    /// Listens on a free port.
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    /// Listens on a port that an earlier one had.
    pub async fn start_on(address: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::unbounded_channel();
        let service = AggregatedDiscoveryServiceServer::new(Service { streams: sender });
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.unwrap() });
        Self { address, streams, task }
    }

    /// The next stream that opens.
    pub async fn stream(&mut self) -> Conversation {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("no stream was opened").unwrap()
    }

    /// Ends as a killed process does: nothing is said.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Conversation {
    /// The next request, whatever it is.
    pub async fn request(&mut self) -> DeltaDiscoveryRequest {
        let next = tokio::time::timeout(PATIENCE, self.requests.next()).await;
        next.expect("no request came").expect("the stream ended").unwrap()
    }

    /// The next request of this type that is about names, not an answer. Acknowledgements on the way are passed over; refusals
    /// fail the test.
    pub async fn subscription(&mut self, kind: Kind) -> DeltaDiscoveryRequest {
        loop {
            let request = self.request().await;
            if let Some(error) = &request.error_detail {
                panic!("refused: {}", error.message);
            }
            if request.response_nonce.is_empty() && request.type_url == kind.type_url() {
                return request;
            }
        }
    }

    /// The next answer of this type.
    pub async fn answer(&mut self, kind: Kind) -> DeltaDiscoveryRequest {
        loop {
            let request = self.request().await;
            if !request.response_nonce.is_empty() && request.type_url == kind.type_url() {
                return request;
            }
        }
    }

    /// Sends a response.
    pub fn send(&mut self, kind: Kind, resources: Vec<Resource>, removed: &[&str]) {
        self.nonce += 1;
        let response =
            DeltaDiscoveryResponse { nonce: self.nonce.to_string(), ..super::response(kind, resources, removed) };
        self.responses.send(Ok(response)).unwrap();
    }

    /// Sends an empty response of any type.
    pub fn send_type(&mut self, type_url: &str) {
        let response = DeltaDiscoveryResponse {
            type_url: type_url.into(),
            nonce: "t".into(),
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(Ok(response)).unwrap();
    }
}
