//! Objects in our own terms. The generated types repeat every part per kind and place; here a route is a route.

use std::collections::BTreeMap;

use xebec_galley::spec::{HeaderOperations, Headers, HttpRoute, StringMatch};

use crate::object::ObjectKey;

/// Who an object is.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Kind, namespace, name.
    pub key: ObjectKey,
    /// `metadata.creationTimestamp`, in seconds since the Unix epoch.
    pub created: u64,
    /// `metadata.generation`: what conditions say they are about.
    pub generation: Option<i64>,
}

/// A reference to what a route or a set of listeners hangs on, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParentRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub section: Option<String>,
    pub port: Option<i32>,
}

/// A route of any kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub id: Identity,
    pub parents: Vec<ParentRef>,
    /// In lower case. Empty is every name.
    pub hostnames: Vec<String>,
    pub rules: Vec<Rule>,
    /// Fields that are accepted and do nothing, as paths.
    pub without_effect: Vec<String>,
}

/// A rule of a route. Those of TCPRoute and TLSRoute have backends and nothing else.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    /// Any of which suffices; never empty for HTTP and gRPC.
    pub matches: Vec<Match>,
    /// What filters, timeouts and retries amount to, without matches and destinations.
    pub base: HttpRoute,
    /// What happens to the path.
    pub path: PathChange,
    /// Instead of forwarding.
    pub redirect: Option<Redirect>,
    pub mirrors: Vec<Mirror>,
    pub backends: Vec<BackendRef>,
    /// Why it cannot be done. Its requests are answered with an error.
    pub fault: Option<RuleFault>,
    /// A filter that refers to an object of a kind that is not known.
    pub unknown_filter: Option<String>,
}

/// Why a rule cannot be done.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleFault {
    pub reason: &'static str,
    pub message: String,
}

/// Conditions on a request, all of which must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    pub path: PathMatch,
    pub method: Option<String>,
    pub headers: BTreeMap<String, StringMatch>,
    pub query: BTreeMap<String, StringMatch>,
}

/// A condition on the path.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    Exact(String),
    /// By whole path elements, without a slash at the end; empty is every path.
    Prefix(String),
    Regex(String),
}

/// What a rule does to the path of a request that is forwarded or redirected.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum PathChange {
    #[default]
    Keep,
    /// The whole path.
    Full(String),
    /// The part that matched, without a slash at the end.
    Prefix(String),
}

/// An answer that sends the client elsewhere. The path is in [`Rule::path`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Redirect {
    pub scheme: Option<&'static str>,
    pub hostname: Option<String>,
    pub port: Option<u16>,
    pub code: u32,
}

/// A copy of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    pub to: BackendRef,
    /// Share of requests in percent; absent is all.
    pub percent: Option<f64>,
}

/// A reference to where traffic goes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BackendRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub port: Option<i32>,
    pub weight: Option<i32>,
    pub headers: Option<Headers>,
}

/// A Gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    pub id: Identity,
    pub class: String,
    pub listeners: Vec<Listener>,
    /// Which namespaces may have ListenerSets for it.
    pub sets_from: NamespaceChoice,
    /// `spec.addresses`: type and value.
    pub addresses: Vec<(Option<String>, Option<String>)>,
    /// Whether clients' certificates are asked for, on all ports or on some.
    pub validates_clients: Option<Vec<u16>>,
    pub has_parameters: bool,
    pub without_effect: Vec<String>,
}

/// A ListenerSet.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerSet {
    pub id: Identity,
    pub parent: ParentRef,
    pub listeners: Vec<Listener>,
}

/// A listener as written.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: String,
    /// In lower case; absent is every name.
    pub hostname: Option<String>,
    pub port: i32,
    pub protocol: String,
    pub tls: Option<ListenerTls>,
    /// Group and kind of the routes that may attach; absent is what the protocol allows.
    pub kinds: Option<Vec<(Option<String>, String)>>,
    pub namespaces: NamespaceChoice,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTls {
    pub passthrough: bool,
    pub certificates: Vec<CertificateRef>,
    pub has_options: bool,
}

/// A reference to a certificate or to authorities.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
}

/// Which namespaces are meant.
#[derive(Debug, Clone, PartialEq)]
pub enum NamespaceChoice {
    Nobody,
    Same,
    All,
    Selector(LabelSelector),
}

/// Kubernetes' label selector.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LabelSelector {
    pub labels: BTreeMap<String, String>,
    /// Key, operator, values.
    pub expressions: Vec<(String, String, Vec<String>)>,
}

/// A GatewayClass.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayClass {
    pub id: Identity,
    pub controller: String,
    pub has_parameters: bool,
}

/// A BackendTLSPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsPolicy {
    pub id: Identity,
    /// Group, kind, name, port name.
    pub targets: Vec<(String, String, String, Option<String>)>,
    pub hostname: String,
    /// Names that the certificate must have one of; empty is the hostname.
    pub alt_names: Vec<String>,
    /// Group, kind, name.
    pub authorities: Vec<(String, String, String)>,
    pub well_known: Option<String>,
    pub has_options: bool,
}

/// Paths, and where they lead.
pub type IngressPaths = Vec<(PathMatch, IngressBackend)>;

/// An Ingress.
#[derive(Debug, Clone, PartialEq)]
pub struct Ingress {
    pub id: Identity,
    pub class: Option<String>,
    pub default: Option<IngressBackend>,
    /// Host and paths.
    pub rules: Vec<(Option<String>, IngressPaths)>,
    /// Hosts and secret.
    pub tls: Vec<(Vec<String>, Option<String>)>,
}

/// Where an Ingress sends requests; none is a kind of backend that is not done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct IngressBackend {
    pub service: Option<(String, IngressPort)>,
}

/// A port of an Ingress's backend.
#[derive(Debug, Clone, PartialEq)]
pub enum IngressPort {
    Number(i32),
    Name(String),
}

/// An IngressClass.
#[derive(Debug, Clone, PartialEq)]
pub struct IngressClass {
    pub id: Identity,
    pub controller: String,
    pub is_default: bool,
}

// === impl NamespaceChoice ===

impl NamespaceChoice {
    /// Whether `namespace`, with these labels if it exists, is meant by an object in `own`.
    pub fn admits(
        &self,
        own: &str,
        namespace: &str,
        labels: impl FnOnce() -> Option<BTreeMap<String, String>>,
    ) -> bool {
        match self {
            Self::Nobody => false,
            Self::Same => own == namespace,
            Self::All => true,
            Self::Selector(selector) => labels().is_some_and(|mut labels| {
                labels.entry("kubernetes.io/metadata.name".to_owned()).or_insert_with(|| namespace.to_owned());
                selector.selects(&labels)
            }),
        }
    }
}

// === impl LabelSelector ===

impl LabelSelector {
    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|(key, operator, values)| {
                let value = labels.get(key);
                match operator.as_str() {
                    "In" => value.is_some_and(|value| values.contains(value)),
                    "NotIn" => value.is_none_or(|value| !values.contains(value)),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    // An operator of the future selects nothing rather than too much.
                    _ => false,
                }
            })
    }
}

/// The part of `headers` that is empty is left away.
pub fn headers(request: HeaderOperations, response: HeaderOperations) -> Option<Headers> {
    let some = |operations: HeaderOperations| (operations != HeaderOperations::default()).then_some(operations);
    let headers = Headers { request: some(request), response: some(response) };
    (headers != Headers::default()).then_some(headers)
}
