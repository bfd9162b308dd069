//! Clients that behave like Envoy on one delta ADS stream each, and do not look into what they are sent.
//!
//! The order is Envoy's: clusters by wildcard, endpoints by the names of the clusters that want them, listeners by wildcard,
//! routes by the names that listeners use, virtual hosts by wildcard where a route table asks for them. Everything is
//! acknowledged. What a resource asks for is decoded once per version and remembered for all clients.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use xebec_proto::envoy::config::cluster::v3::Cluster;
use xebec_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use xebec_proto::envoy::config::core::v3::Node;
use xebec_proto::envoy::config::listener::v3::Listener;
use xebec_proto::envoy::config::listener::v3::filter::ConfigType;
use xebec_proto::envoy::config::route::v3::RouteConfiguration;
use xebec_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xebec_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use xebec_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use xebec_proto::google::protobuf::value::Kind;
use xebec_proto::google::protobuf::{Struct, Value};
use xebec_proto::type_url;

use crate::moments::Sightings;
use crate::wire::{self, TYPES};

const CLUSTER: usize = 0;
const ENDPOINT: usize = 1;
const LISTENER: usize = 2;
const ROUTE: usize = 3;
const VIRTUAL_HOST: usize = 4;

/// A name that nobody serves: its answer says that everything before it was processed.
const PROBE: &str = "a-name-that-nobody-serves";

/// What a client has: versions by name, per type.
type Holdings = [HashMap<Arc<str>, String>; 5];

/// All clients of one measurement.
pub struct Fleet {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<Holdings>>>,
    closers: Vec<Arc<Notify>>,
}

/// What the clients of a fleet share.
#[derive(Default)]
struct Shared {
    synced: AtomicUsize,
    bytes: AtomicU64,
    resources: AtomicU64,
    facts: Mutex<HashMap<String, Arc<Facts>>>,
    watch: Mutex<Option<Watch>>,
    sightings: Sightings,
    changed: Notify,
}

/// What a resource asks a client to subscribe to.
#[derive(Default)]
struct Facts {
    endpoints: bool,
    routes: Vec<String>,
    virtual_hosts: bool,
}

/// What a measurement waits for: a resource of one of the types whose name contains the text.
struct Watch {
    kinds: Vec<usize>,
    text: String,
    arrivals: HashMap<usize, Instant>,
}

/// The requests of clients that come back with equal holdings, encoded once: the load must not cost more than the server.
struct Reunion {
    requests: [Option<Vec<u8>>; 5],
}

/// A client that will come back.
pub struct Returning {
    has: Holdings,
    reunion: Arc<Reunion>,
}

/// What a fleet received since something.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Bytes of messages.
    pub bytes: u64,
    /// Resources.
    pub resources: u64,
}

struct Client {
    index: usize,
    shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<Bytes>,
    has: Holdings,
    /// Which types were subscribed on this stream.
    asked: [bool; 5],
    synced: bool,
    /// Came back with what it had.
    rejoined: bool,
}

// === impl Fleet ===

impl Fleet {
    /// Connects `count` clients, which then live on their own.
    pub fn connect(server: SocketAddr, count: usize) -> Self {
        Self::start(server, (0..count).map(|_| (Holdings::default(), None)).collect())
    }

    /// Connects clients that have what an earlier fleet had.
    pub fn reconnect(server: SocketAddr, returning: Vec<Returning>) -> Self {
        Self::start(server, returning.into_iter().map(|r| (r.has, Some(r.reunion))).collect())
    }

    fn start(server: SocketAddr, clients: Vec<(Holdings, Option<Arc<Reunion>>)>) -> Self {
        let shared = Arc::new(Shared::default());
        let mut fleet = Self { shared: Arc::clone(&shared), tasks: Vec::new(), closers: Vec::new() };
        for (index, (has, reunion)) in clients.into_iter().enumerate() {
            let (shared, closer) = (Arc::clone(&shared), Arc::new(Notify::new()));
            fleet.closers.push(Arc::clone(&closer));
            fleet.tasks.push(tokio::spawn(live(server, index, shared, has, reunion, closer)));
        }
        fleet
    }

    /// Waits until every client has everything.
    pub async fn synced(&self, limit: Duration) -> Result<()> {
        let all = self.tasks.len();
        self.wait(limit, || self.shared.synced.load(Ordering::Relaxed) == all)
            .await
            .with_context(|| format!("{} of {all} clients are in sync", self.shared.synced.load(Ordering::Relaxed)))
    }

    async fn wait(&self, limit: Duration, holds: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !holds() {
            if self.tasks.iter().any(JoinHandle::is_finished) {
                bail!("a client lost its stream");
            }
            if Instant::now() > deadline {
                bail!("waited {limit:?} in vain");
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), self.shared.changed.notified()).await;
        }
        Ok(())
    }

    /// Notes from now on when each client receives a resource of one of the types whose name contains `text`.
    pub fn watch(&self, kinds: &[usize], text: &str) {
        let watch = Watch { kinds: kinds.to_vec(), text: text.to_owned(), arrivals: HashMap::new() };
        *lock(&self.shared.watch) = Some(watch);
    }

    /// Waits until every client has received what is watched, and says when each did.
    pub async fn arrivals(&self, limit: Duration) -> Result<Vec<Instant>> {
        let all = self.tasks.len();
        let count = || lock(&self.shared.watch).as_ref().map_or(0, |w| w.arrivals.len());
        self.wait(limit, || count() >= all)
            .await
            .with_context(|| format!("{} of {all} clients received it", count()))?;
        Ok(lock(&self.shared.watch).take().map(|w| w.arrivals.into_values().collect()).unwrap_or_default())
    }

    /// Which endpoints the clients were told of.
    pub fn sightings(&self) -> &Sightings {
        &self.shared.sightings
    }

    /// What was received so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            resources: self.shared.resources.load(Ordering::Relaxed),
        }
    }

    /// Disconnects all, and prepares their return with what each had.
    pub async fn disconnect(self) -> Result<Vec<Returning>> {
        for closer in &self.closers {
            closer.notify_one();
        }
        let mut all: Vec<Returning> = Vec::new();
        for task in self.tasks {
            let has = task.await??;
            let reunion = match all.last() {
                Some(last) if last.has == has => Arc::clone(&last.reunion),
                _ => Arc::new(Reunion::new(&has)),
            };
            all.push(Returning { has, reunion });
        }
        Ok(all)
    }
}

/// The types that say where a host is routed: a route table, or its virtual hosts.
pub fn routing() -> [usize; 2] {
    [ROUTE, VIRTUAL_HOST]
}

/// The type of endpoints.
pub fn endpoints() -> [usize; 1] {
    [ENDPOINT]
}

/// The life of one client.
async fn live(
    server: SocketAddr,
    index: usize,
    shared: Arc<Shared>,
    has: Holdings,
    reunion: Option<Arc<Reunion>>,
    closer: Arc<Notify>,
) -> Result<Holdings> {
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        // As Envoy: windows that a first answer fits into.
        .initial_stream_window_size(16 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .handshake(TokioIo::new(socket))
        .await?;
    let driver = tokio::spawn(connection);
    let (requests, receiver) = mpsc::unbounded_channel();
    let body = StreamBody::new(UnboundedReceiverStream::new(receiver).map(|b| Ok::<_, Infallible>(Frame::data(b))));
    let request = http::Request::post(format!(
        "http://{server}/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .body(body)?;
    let rejoined = reunion.is_some();
    let mut client = Client { index, shared, requests, has, asked: [false; 5], synced: false, rejoined };
    client.begin(reunion.as_deref())?;
    drop(reunion);
    let response = sender.send_request(request).await?;
    if let Some(status) = response.headers().get("grpc-status") {
        bail!("refused: {status:?} {:?}", response.headers().get("grpc-message"));
    }
    let mut body = response.into_body();
    let mut buffer = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = closer.notified() => break,
        };
        let frame = frame.context("the stream has ended")??;
        if let Some(trailers) = frame.trailers_ref() {
            bail!("the stream has ended: {trailers:?}");
        }
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(message) = take_message(&mut buffer) {
            client.receive(&message)?;
        }
    }
    driver.abort();
    Ok(client.has)
}

fn take_message(buffer: &mut BytesMut) -> Option<Bytes> {
    let prefix = buffer.first_chunk::<5>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if buffer.len() < 5 + length {
        buffer.reserve(5 + length - buffer.len());
        return None;
    }
    buffer.advance(5);
    let message = buffer.split_to(length).freeze();
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
    Some(message)
}

// === impl Reunion ===

impl Reunion {
    fn new(has: &Holdings) -> Self {
        let requests = std::array::from_fn(|kind| {
            let named = kind == ENDPOINT || kind == ROUTE;
            (kind == CLUSTER || !has[kind].is_empty()).then(|| {
                DeltaDiscoveryRequest {
                    type_url: TYPES[kind].to_owned(),
                    resource_names_subscribe: has[kind].keys().filter(|_| named).map(ToString::to_string).collect(),
                    initial_resource_versions: has[kind].iter().map(|(n, v)| (n.to_string(), v.clone())).collect(),
                    ..Default::default()
                }
                .encode_to_vec()
            })
        });
        Self { requests }
    }
}

// === impl Client ===

impl Client {
    fn begin(&mut self, reunion: Option<&Reunion>) -> Result<()> {
        let Some(reunion) = reunion else { return self.subscribe(CLUSTER, Vec::new()) };
        // Everything at once, as Envoy does when it has its configuration already.
        for (kind, request) in reunion.requests.iter().enumerate() {
            let Some(request) = request else { continue };
            self.asked[kind] = true;
            let own = DeltaDiscoveryRequest {
                node: (kind == CLUSTER).then(|| node(self.index)),
                ..DeltaDiscoveryRequest::default()
            };
            // Encoded messages that follow each other are one message.
            let bytes = wire::framed_parts(&[&own.encode_to_vec(), request]);
            self.requests.send(bytes).map_err(|_| anyhow!("the stream has ended"))?;
        }
        self.subscribe(ENDPOINT, vec![PROBE.to_owned()])
    }

    fn subscribe(&mut self, kind: usize, names: Vec<String>) -> Result<()> {
        let first = !std::mem::replace(&mut self.asked[kind], true);
        let mut request = DeltaDiscoveryRequest {
            type_url: TYPES[kind].to_owned(),
            resource_names_subscribe: names,
            ..Default::default()
        };
        if first && kind == CLUSTER {
            request.node = Some(node(self.index));
        }
        if first && self.rejoined {
            request.initial_resource_versions =
                self.has[kind].iter().map(|(n, v)| (n.to_string(), v.clone())).collect();
        }
        self.send(&request)
    }

    fn send(&self, request: &DeltaDiscoveryRequest) -> Result<()> {
        self.requests.send(wire::framed(request)).map_err(|_| anyhow!("the stream has ended"))
    }

    fn receive(&mut self, message: &[u8]) -> Result<()> {
        let now = Instant::now();
        let answer = wire::answer(message)?;
        self.shared.bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        self.shared.resources.fetch_add(answer.resources.len() as u64, Ordering::Relaxed);
        self.note_arrival(&answer, now);
        let mut names = Vec::new();
        let mut virtual_hosts = false;
        for resource in &answer.resources {
            let new = match self.has[answer.kind].get_mut(resource.name) {
                Some(version) => {
                    resource.version.clone_into(version);
                    false
                }
                None => {
                    self.has[answer.kind].insert(resource.name.into(), resource.version.to_owned());
                    true
                }
            };
            let facts = self.facts(answer.kind, resource)?;
            match answer.kind {
                CLUSTER if new && facts.endpoints => names.push(resource.name.to_owned()),
                LISTENER => {
                    names.extend(facts.routes.iter().filter(|r| !self.has[ROUTE].contains_key(r.as_str())).cloned())
                }
                ROUTE => virtual_hosts |= facts.virtual_hosts,
                _ => {}
            }
        }
        for removed in &answer.removed {
            self.has[answer.kind].remove(*removed);
        }
        let probed = answer.removed.contains(&PROBE);
        names.sort();
        names.dedup();
        // What follows from an answer is asked for before the answer is acknowledged, as Envoy does.
        match answer.kind {
            CLUSTER if !names.is_empty() => self.subscribe(ENDPOINT, names)?,
            LISTENER if !names.is_empty() => self.subscribe(ROUTE, names)?,
            ROUTE if virtual_hosts && !self.asked[VIRTUAL_HOST] => self.subscribe(VIRTUAL_HOST, Vec::new())?,
            _ => {}
        }
        self.send(&DeltaDiscoveryRequest {
            type_url: TYPES[answer.kind].to_owned(),
            response_nonce: answer.nonce.to_owned(),
            ..Default::default()
        })?;
        if answer.kind == ENDPOINT {
            self.shared.sightings.look(&answer, Instant::now())?;
        }
        self.go_on(answer.kind, virtual_hosts, probed)
    }

    /// The next step of a start, and its end.
    fn go_on(&mut self, kind: usize, virtual_hosts: bool, probed: bool) -> Result<()> {
        if self.synced {
            return Ok(());
        }
        let done = match kind {
            _ if self.rejoined => probed,
            CLUSTER if !self.asked[ENDPOINT] && !self.asked[LISTENER] => {
                self.subscribe(LISTENER, Vec::new())?;
                false
            }
            ENDPOINT if !self.asked[LISTENER] => {
                self.subscribe(LISTENER, Vec::new())?;
                false
            }
            LISTENER => !self.asked[ROUTE],
            ROUTE => !virtual_hosts,
            VIRTUAL_HOST => true,
            _ => false,
        };
        if done {
            self.synced = true;
            self.shared.synced.fetch_add(1, Ordering::Relaxed);
            self.shared.changed.notify_waiters();
        }
        Ok(())
    }

    fn note_arrival(&self, answer: &wire::Answer<'_>, now: Instant) {
        let mut watch = lock(&self.shared.watch);
        let Some(watch) = watch.as_mut() else { return };
        // A whole route table holds every host.
        let concerns = |r: &wire::Resource<'_>| answer.kind == ROUTE || r.name.contains(&watch.text);
        if watch.kinds.contains(&answer.kind) && answer.resources.iter().any(concerns) {
            watch.arrivals.entry(self.index).or_insert(now);
            self.shared.changed.notify_waiters();
        }
    }

    fn facts(&self, kind: usize, resource: &wire::Resource<'_>) -> Result<Arc<Facts>> {
        if kind == ENDPOINT || kind == VIRTUAL_HOST {
            return Ok(Arc::default());
        }
        if let Some(facts) = lock(&self.shared.facts).get(resource.version) {
            return Ok(Arc::clone(facts));
        }
        let facts = Arc::new(match kind {
            CLUSTER => Facts { endpoints: wants_endpoints(resource.body)?, ..Facts::default() },
            LISTENER => Facts { routes: route_names(resource.body)?, ..Facts::default() },
            _ => {
                let virtual_hosts = RouteConfiguration::decode(resource.body)?.vhds.is_some();
                Facts { virtual_hosts, ..Facts::default() }
            }
        });
        lock(&self.shared.facts).insert(resource.version.to_owned(), Arc::clone(&facts));
        Ok(facts)
    }
}

fn wants_endpoints(body: &[u8]) -> Result<bool> {
    let cluster = Cluster::decode(body)?;
    Ok(cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)))
}

fn route_names(body: &[u8]) -> Result<Vec<String>> {
    let listener = Listener::decode(body)?;
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let mut names = Vec::new();
    for filter in chains.flat_map(|c| &c.filters) {
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
        if any.type_url != type_url::HTTP_CONNECTION_MANAGER {
            continue;
        }
        if let Some(RouteSpecifier::Rds(rds)) = HttpConnectionManager::decode(&*any.value)?.route_specifier {
            names.push(rds.route_config_name);
        }
    }
    Ok(names)
}

fn node(index: usize) -> Node {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 1)) + index as u32);
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields = [("NAMESPACE", "default"), ("INTERCEPTION_MODE", "REDIRECT"), ("ISTIO_VERSION", "1.29.0")];
    Node {
        id: format!("sidecar~{ip}~client-{index}.default~default.svc.cluster.local"),
        cluster: "client.default".to_owned(),
        metadata: Some(Struct { fields: fields.iter().map(|(k, v)| ((*k).to_owned(), text(v))).collect() }),
        ..Default::default()
    }
}

/// A lock that a panic elsewhere does not spoil: the values behind it are plain.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
