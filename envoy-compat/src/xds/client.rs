//! The connection to the control plane.
//!
//! [`run`] keeps one aggregated delta stream alive for as long as the sidecar lives. Without a control plane it waits, a little
//! longer each time and never in step with its siblings; what was received stays in use meanwhile.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use xebec_proto::envoy::config::core::v3::Node;
use xebec_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};

use super::Kind;
use super::session::Session;
use super::store::{Now, Store};
use crate::bootstrap::ServerAddress;
use crate::model::Snapshot;

/// The largest response that is taken; a whole mesh in one message has to fit.
const LARGEST_RESPONSE: usize = 512 * 1024 * 1024;
/// The first wait after a lost connection, doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait: a control plane that comes back has everybody back within seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// How the client does, for the admin interface.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Whether a stream is open and has been answered on.
    pub connected: bool,
    /// Streams that were opened.
    pub streams: u64,
    /// Streams that could not be opened, or ended.
    pub failures: u64,
    /// Why the last one ended.
    pub last_error: Option<String>,
    /// When the last response came.
    pub last_response: Option<SystemTime>,
}

/// What the client and the admin interface share.
#[derive(Debug, Default)]
pub struct Shared {
    /// What was received.
    pub store: Mutex<Store>,
    /// How the client does.
    pub status: Mutex<Status>,
}

/// What is to be in use.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// Whether it is a whole one: clusters and listeners were answered, and nothing of the first answer warms any more.
    pub initialized: bool,
}

/// Puts a configuration into use.
pub type Publish = Box<dyn FnMut(Published) + Send>;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("cannot reach the control plane: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("the control plane ended the stream: {0}")]
    Stream(#[from] Box<tonic::Status>),
    #[error("the control plane closed the stream")]
    Closed,
}

/// A control plane's address that cannot be dialled.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be dialled: {source}; correct --server")]
pub struct AddressError {
    address: ServerAddress,
    source: tonic::transport::Error,
}

/// The client, before it runs.
pub struct Client {
    endpoint: Endpoint,
    node: Node,
    shared: Arc<Shared>,
    publish: Publish,
    wake: Option<std::time::Instant>,
    initialized: bool,
}

// === impl Client ===

impl Client {
    /// A client of the control plane at `server`, which says it is `node`.
    ///
    /// # Errors
    /// When `server` cannot be dialled, whatever the network says.
    pub fn new(
        server: &ServerAddress,
        node: Node,
        shared: Arc<Shared>,
        publish: Publish,
    ) -> Result<Self, AddressError> {
        let endpoint = Endpoint::from_shared(format!("http://{server}"))
            .map_err(|source| AddressError { address: server.clone(), source })?
            .connect_timeout(Duration::from_secs(3))
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(60)))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            // A whole configuration arrives in one message: the default window would make it a slow one.
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024);
        Ok(Self { endpoint, node, shared, publish, wake: None, initialized: false })
    }

    /// Stays connected until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0u32;
        loop {
            let answered = tokio::select! {
                () = stop.cancelled() => return,
                (answered, lost) = self.stream() => {
                    self.note(&lost, failures == 0 || answered);
                    answered
                }
            };
            failures = if answered { 1 } else { failures.saturating_add(1) };
            let wait = tokio::time::sleep(pause(failures, rand::random()));
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = &mut wait => break,
                    () = until(self.wake) => self.settle(),
                }
            }
        }
    }

    fn note(&self, lost: &Lost, worth_a_line: bool) {
        let mut status = self.shared.status.lock();
        status.connected = false;
        status.failures += 1;
        let text = describe(lost);
        if worth_a_line {
            tracing::warn!(server = %self.endpoint.uri(), "{text}; what was received stays in use, trying again");
        } else {
            tracing::debug!(server = %self.endpoint.uri(), "{text}");
        }
        status.last_error = Some(text);
    }

    /// Runs one stream to its end. Says whether it was answered on, and why it ended.
    async fn stream(&mut self) -> (bool, Lost) {
        let mut answered = false;
        let lost = match self.exchange(&mut answered).await {
            Ok(()) => Lost::Closed,
            Err(lost) => lost,
        };
        (answered, lost)
    }

    async fn exchange(&mut self, answered: &mut bool) -> Result<(), Lost> {
        let channel = self.endpoint.connect().await?;
        let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST_RESPONSE);
        // Bounded by the protocol: one answer per response, and subscriptions that differ.
        let (requests, outgoing) = mpsc::unbounded_channel::<DeltaDiscoveryRequest>();
        let mut session = Session::new(self.node.clone());
        let send = |batch: Vec<DeltaDiscoveryRequest>| {
            for request in batch {
                // A stream that is gone is seen when it is read from.
                let _ = requests.send(request);
            }
        };
        send(session.subscribe(&self.shared.store.lock()));
        let opening = service.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing));
        let mut incoming = self.while_settling(opening).await.map_err(Box::new)?.into_inner();
        self.shared.status.lock().streams += 1;
        while let Some(message) = self.while_settling(incoming.next()).await {
            let response = message.map_err(Box::new)?;
            if !*answered {
                *answered = true;
                self.shared.status.lock().connected = true;
                tracing::info!(server = %self.endpoint.uri(), "connected to the control plane");
            }
            let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
            let outcome = self.receive(response);
            send(vec![session.answer(&type_url, &nonce, &outcome)]);
            // Names that are new are asked for before anything settles, so that waiting for them starts now.
            send(session.subscribe(&self.shared.store.lock()));
            self.settle();
            send(session.subscribe(&self.shared.store.lock()));
        }
        Ok(())
    }

    /// Waits for `future`; meanwhile, waits that run out take effect.
    async fn while_settling<F: Future>(&mut self, future: F) -> F::Output {
        tokio::pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return output,
                () = until(self.wake) => self.settle(),
            }
        }
    }

    fn receive(&self, response: DeltaDiscoveryResponse) -> Result<(), String> {
        let now = Now::read();
        self.shared.status.lock().last_response = Some(now.wall);
        let Some(kind) = Kind::from_type_url(&response.type_url) else {
            return Err(format!("resources of type {:?} were not asked for", response.type_url));
        };
        let (resources, removed) = (response.resources.len(), response.removed_resources.len());
        let outcome = self.shared.store.lock().receive(kind, response, now);
        match &outcome {
            Ok(()) => tracing::debug!(kind = %kind, resources, removed, "accepted"),
            Err(reason) => tracing::warn!(kind = %kind, resources, removed, "refused: {reason}"),
        }
        outcome
    }

    fn settle(&mut self) {
        let (settled, published) = {
            let mut store = self.shared.store.lock();
            let settled = store.settle(Now::read());
            let published = Published { snapshot: store.snapshot().clone(), initialized: store.is_initialized() };
            (settled, published)
        };
        self.wake = settled.wake;
        if settled.snapshot.is_some() || published.initialized != self.initialized {
            self.initialized = published.initialized;
            (self.publish)(published);
        }
    }
}

/// The wait before attempt number `failures` + 1: doubled each time, and anywhere between half and all of it, so that proxies
/// which lost the same control plane do not come back at once. `draw` is any number.
fn pause(failures: u32, draw: u64) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_WAIT);
    let share = 0.5 + 0.5 * (draw as f64 / u64::MAX as f64);
    whole.mul_f64(share)
}

async fn until(moment: Option<std::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// The error with its causes: the outermost one alone says nothing.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ_between_proxies() {
        assert_eq!(pause(1, u64::MAX), FIRST_WAIT);
        assert_eq!(pause(1, 0), FIRST_WAIT / 2);
        assert_eq!(pause(3, u64::MAX), FIRST_WAIT * 4);
        assert_eq!(pause(u32::MAX, u64::MAX), LONGEST_WAIT);
        assert!(pause(9, u64::MAX / 3) < pause(9, u64::MAX / 2));
    }
}
