//! A proxy that subscribes to everything over delta xDS, acknowledges everything, and remembers every endpoint set.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use xebec_proto::envoy::config::cluster::v3::Cluster;
use xebec_proto::envoy::config::core::v3::{HealthStatus, Node, address::Address, socket_address::PortSpecifier};
use xebec_proto::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use xebec_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use xebec_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use xebec_proto::type_url;

/// Endpoints (`ADDRESS:PORT`) and the health that the proxy was told.
pub type Set = BTreeMap<String, &'static str>;

/// One endpoint set, when it was acknowledged.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// For which hostname.
    pub host: String,
    /// What.
    pub set: Set,
}

/// A connected proxy. Dropping it disconnects.
#[derive(Debug)]
pub struct Observer {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

// === impl Observer ===

impl Observer {
    /// Connects.
    pub async fn connect(server: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{server}")).unwrap().connect().await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let (requests, receiver) = mpsc::unbounded_channel();
        let node =
            Node { id: "sidecar~127.0.0.1~observer.default~default.svc.cluster.local".to_owned(), ..Node::default() };
        let first = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: type_url::CLUSTER.to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).unwrap();
        let mut answers =
            client.delta_aggregated_resources(UnboundedReceiverStream::new(receiver)).await.unwrap().into_inner();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let book = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut wanted: HashSet<String> = HashSet::new();
            while let Ok(Some(answer)) = answers.message().await {
                let mut subscribe = Vec::new();
                for resource in &answer.resources {
                    let body = resource.resource.as_ref().map(|any| any.value.clone()).unwrap_or_default();
                    if answer.type_url == type_url::CLUSTER {
                        let cluster = Cluster::decode(body.as_slice()).unwrap();
                        if cluster.eds_cluster_config.is_some() && wanted.insert(cluster.name.clone()) {
                            subscribe.push(cluster.name);
                        }
                    } else if let Some(host) = host(&resource.name) {
                        let set = endpoints(&ClusterLoadAssignment::decode(body.as_slice()).unwrap());
                        book.lock().unwrap().push(Seen { at: Instant::now(), host, set });
                    }
                }
                for name in &answer.removed_resources {
                    if answer.type_url == type_url::CLUSTER {
                        wanted.remove(name);
                    }
                    if let Some(host) = host(name) {
                        book.lock().unwrap().push(Seen { at: Instant::now(), host, set: Set::new() });
                    }
                }
                let acknowledgement = DeltaDiscoveryRequest {
                    type_url: answer.type_url.clone(),
                    response_nonce: answer.nonce.clone(),
                    ..DeltaDiscoveryRequest::default()
                };
                let _ = requests.send(acknowledgement);
                if !subscribe.is_empty() {
                    let _ = requests.send(DeltaDiscoveryRequest {
                        type_url: type_url::CLUSTER_LOAD_ASSIGNMENT.to_owned(),
                        resource_names_subscribe: subscribe,
                        ..DeltaDiscoveryRequest::default()
                    });
                }
            }
        });
        Self { seen, task }
    }

    /// What it was told last about a hostname; `None` when it never heard of it.
    pub fn now(&self, host: &str) -> Option<Set> {
        self.seen.lock().unwrap().iter().rev().find(|seen| seen.host == host).map(|seen| seen.set.clone())
    }

    /// Everything that it was told about a hostname since a moment.
    pub fn since(&self, moment: Instant, host: &str) -> Vec<Set> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.at >= moment && seen.host == host).map(|seen| seen.set.clone()).collect()
    }

    /// When it was first told, since a moment, a set with this endpoint.
    pub fn arrival(&self, since: Instant, host: &str, endpoint: &str) -> Option<Instant> {
        let seen = self.seen.lock().unwrap();
        seen.iter().find(|s| s.at >= since && s.host == host && s.set.contains_key(endpoint)).map(|s| s.at)
    }

    /// Whether its stream is still open.
    pub fn is_connected(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The hostname in `outbound|80||HOST`: the suite looks at port 80, which every platform has.
fn host(resource: &str) -> Option<String> {
    resource.strip_prefix("outbound|80||").map(str::to_owned)
}

fn endpoints(assignment: &ClusterLoadAssignment) -> Set {
    let all = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    all.filter_map(|lb| {
        let Some(HostIdentifier::Endpoint(endpoint)) = &lb.host_identifier else { return None };
        let Some(Address::SocketAddress(address)) = &endpoint.address.as_ref()?.address else { return None };
        let Some(PortSpecifier::PortValue(port)) = &address.port_specifier else { return None };
        let health = match lb.health_status() {
            HealthStatus::Unknown | HealthStatus::Healthy => "healthy",
            HealthStatus::Draining => "draining",
            HealthStatus::Degraded => "degraded",
            HealthStatus::Unhealthy | HealthStatus::Timeout => "unhealthy",
        };
        Some((format!("{}:{port}", address.address), health))
    })
    .collect()
}
