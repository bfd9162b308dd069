//! One stream's half of the delta protocol.
//!
//! A [`Session`] remembers what this stream has been told, and says what it has to be told next. It does no I/O.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use xebec_proto::envoy::config::core::v3::Node;
use xebec_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use xebec_proto::google::rpc::Status;

use super::Kind;
use super::store::Store;

/// gRPC's code for an argument that is not accepted.
const INVALID_ARGUMENT: i32 = 3;
/// A refusal longer than this is cut: it travels in one message and is shown to people.
const LONGEST_REASON: usize = 16 * 1024;

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    node: Option<Node>,
    /// What is subscribed on this stream; a type that is absent was never asked for.
    subscribed: HashMap<Kind, BTreeSet<Arc<str>>>,
}

// === impl Session ===

impl Session {
    /// A stream on which nothing was sent.
    pub fn new(node: Node) -> Self {
        Self { node: Some(node), subscribed: HashMap::new() }
    }

    /// The requests that bring the stream's subscriptions to what `store` wants. The first request of a type says which versions
    /// are held.
    pub fn subscribe(&mut self, store: &Store) -> Vec<DeltaDiscoveryRequest> {
        let wanted = store.wanted();
        let mut out = Vec::new();
        for kind in Kind::ALL {
            // A first request without names asks for everything, which is meant for some types and must not happen to others.
            let names = match kind {
                Kind::Cluster | Kind::Listener => BTreeSet::new(),
                Kind::Endpoint => wanted.endpoints.clone(),
                Kind::Route => wanted.routes.clone(),
                Kind::VirtualHost if wanted.hosts => BTreeSet::new(),
                Kind::VirtualHost => continue,
            };
            let by_name = matches!(kind, Kind::Endpoint | Kind::Route);
            match self.subscribed.get_mut(&kind) {
                None if by_name && names.is_empty() => {}
                None => {
                    out.push(DeltaDiscoveryRequest {
                        node: self.node.take(),
                        type_url: kind.type_url().to_owned(),
                        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
                        initial_resource_versions: store.versions(kind),
                        ..DeltaDiscoveryRequest::default()
                    });
                    self.subscribed.insert(kind, names);
                }
                Some(known) if *known == names => {}
                Some(known) => {
                    let added = names.difference(known).map(ToString::to_string).collect();
                    let removed = known.difference(&names).map(ToString::to_string).collect();
                    out.push(DeltaDiscoveryRequest {
                        type_url: kind.type_url().to_owned(),
                        resource_names_subscribe: added,
                        resource_names_unsubscribe: removed,
                        ..DeltaDiscoveryRequest::default()
                    });
                    *known = names;
                }
            }
        }
        out
    }

    /// The answer to a response: an acknowledgement, or a refusal with its reason.
    pub fn answer(&self, type_url: &str, nonce: &str, outcome: &Result<(), String>) -> DeltaDiscoveryRequest {
        let error_detail = outcome.as_ref().err().map(|reason| {
            let mut message = reason.clone();
            if message.len() > LONGEST_REASON {
                let end = (0..=LONGEST_REASON).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
                message.truncate(end);
                message.push('…');
            }
            Status { code: INVALID_ARGUMENT, message, details: Vec::new() }
        });
        DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        }
    }
}
