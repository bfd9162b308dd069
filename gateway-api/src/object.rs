//! The Kubernetes objects that are converted, typed and named.

use std::fmt;

use gateway_api::backendtlspolicies::BackendTlsPolicy;
use gateway_api::experimental::gatewayclasses::GatewayClass;
use gateway_api::experimental::gateways::Gateway;
use gateway_api::experimental::grpcroutes::GrpcRoute;
use gateway_api::experimental::httproutes::HttpRoute;
use gateway_api::experimental::listenersets::ListenerSet;
use gateway_api::experimental::referencegrants::ReferenceGrant;
use gateway_api::experimental::tcproutes::TcpRoute;
use gateway_api::experimental::tlsroutes::TlsRoute;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The kinds that are converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// `gateway.networking.k8s.io` GatewayClass
    GatewayClass,
    /// `gateway.networking.k8s.io` Gateway
    Gateway,
    /// `gateway.networking.k8s.io` ListenerSet
    ListenerSet,
    /// `gateway.networking.k8s.io` HTTPRoute
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute
    GrpcRoute,
    /// `gateway.networking.k8s.io` TLSRoute
    TlsRoute,
    /// `gateway.networking.k8s.io` TCPRoute
    TcpRoute,
    /// `gateway.networking.k8s.io` ReferenceGrant
    ReferenceGrant,
    /// `gateway.networking.k8s.io` BackendTLSPolicy
    BackendTlsPolicy,
    /// `networking.k8s.io` Ingress
    Ingress,
    /// `networking.k8s.io` IngressClass
    IngressClass,
}

/// The identity of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace; empty for kinds without one.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// An object of one of the kinds.
#[derive(Debug, Clone)]
pub enum Object {
    /// A class of Gateways.
    GatewayClass(Box<GatewayClass>),
    /// Listeners.
    Gateway(Box<Gateway>),
    /// Further listeners of a Gateway.
    ListenerSet(Box<ListenerSet>),
    /// HTTP routes.
    HttpRoute(Box<HttpRoute>),
    /// gRPC routes.
    GrpcRoute(Box<GrpcRoute>),
    /// Routes by server name.
    TlsRoute(Box<TlsRoute>),
    /// Routes of connections.
    TcpRoute(Box<TcpRoute>),
    /// Permission to refer across namespaces.
    ReferenceGrant(Box<ReferenceGrant>),
    /// TLS to a backend.
    BackendTlsPolicy(Box<BackendTlsPolicy>),
    /// HTTP routes at the edge, the older way.
    Ingress(Box<Ingress>),
    /// A class of Ingresses.
    IngressClass(Box<IngressClass>),
}

/// Why an object is not taken in. What was known of it before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not have the form of its kind.
    #[error("the {kind} is not in the form of its kind, so it is left as it was: {reason}")]
    Malformed {
        /// The kind that it was read as.
        kind: ObjectKind,
        /// What the reader says.
        reason: String,
    },
    /// It has no usable name or namespace.
    #[error("a {kind} has `{namespace}` and `{name}` as namespace and name, which are no names, so it is left out")]
    Nameless {
        /// Its kind.
        kind: ObjectKind,
        /// Its namespace as given.
        namespace: String,
        /// Its name as given.
        name: String,
    },
}

// === impl ObjectKind ===

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::GatewayClass,
        Self::Gateway,
        Self::ListenerSet,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::Ingress,
        Self::IngressClass,
    ];

    /// Its name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
        }
    }

    /// Its name in URLs of the API server.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::GatewayClass => "gatewayclasses",
            Self::Gateway => "gateways",
            Self::ListenerSet => "listenersets",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TlsRoute => "tlsroutes",
            Self::TcpRoute => "tcproutes",
            Self::ReferenceGrant => "referencegrants",
            Self::BackendTlsPolicy => "backendtlspolicies",
            Self::Ingress => "ingresses",
            Self::IngressClass => "ingressclasses",
        }
    }

    /// Its API group.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Ingress | Self::IngressClass => "networking.k8s.io",
            _ => GROUP,
        }
    }

    /// The versions in which a server may have it, the preferred first. Their forms are the same as far as they are read.
    pub const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::TcpRoute => &["v1", "v1alpha2"],
            Self::TlsRoute => &["v1", "v1alpha3", "v1alpha2"],
            Self::ReferenceGrant => &["v1", "v1beta1"],
            Self::BackendTlsPolicy => &["v1", "v1alpha3"],
            _ => &["v1"],
        }
    }

    /// Whether its objects are in namespaces.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::GatewayClass | Self::IngressClass)
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The API group of the Gateway API.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl ObjectKey ===

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { write!(f, "{kind}/{name}") } else { write!(f, "{kind}/{namespace}/{name}") }
    }
}

// === impl Object ===

impl Object {
    /// Reads an object as the API server sends it.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when the JSON does not have the form of the kind. A server that checks its schemas never sends such a one.
    pub fn from_json(kind: ObjectKind, json: serde_json::Value) -> Result<Self, Error> {
        fn read<T: serde::de::DeserializeOwned>(kind: ObjectKind, json: serde_json::Value) -> Result<Box<T>, Error> {
            serde_json::from_value(json)
                .map(Box::new)
                .map_err(|error| Error::Malformed { kind, reason: error.to_string() })
        }
        Ok(match kind {
            ObjectKind::GatewayClass => Self::GatewayClass(read(kind, json)?),
            ObjectKind::Gateway => Self::Gateway(read(kind, json)?),
            ObjectKind::ListenerSet => Self::ListenerSet(read(kind, json)?),
            ObjectKind::HttpRoute => Self::HttpRoute(read(kind, json)?),
            ObjectKind::GrpcRoute => Self::GrpcRoute(read(kind, json)?),
            ObjectKind::TlsRoute => Self::TlsRoute(read(kind, json)?),
            ObjectKind::TcpRoute => Self::TcpRoute(read(kind, json)?),
            ObjectKind::ReferenceGrant => Self::ReferenceGrant(read(kind, json)?),
            ObjectKind::BackendTlsPolicy => Self::BackendTlsPolicy(read(kind, json)?),
            ObjectKind::Ingress => Self::Ingress(read(kind, json)?),
            ObjectKind::IngressClass => Self::IngressClass(read(kind, json)?),
        })
    }

    /// Its kind.
    pub const fn kind(&self) -> ObjectKind {
        match self {
            Self::GatewayClass(_) => ObjectKind::GatewayClass,
            Self::Gateway(_) => ObjectKind::Gateway,
            Self::ListenerSet(_) => ObjectKind::ListenerSet,
            Self::HttpRoute(_) => ObjectKind::HttpRoute,
            Self::GrpcRoute(_) => ObjectKind::GrpcRoute,
            Self::TlsRoute(_) => ObjectKind::TlsRoute,
            Self::TcpRoute(_) => ObjectKind::TcpRoute,
            Self::ReferenceGrant(_) => ObjectKind::ReferenceGrant,
            Self::BackendTlsPolicy(_) => ObjectKind::BackendTlsPolicy,
            Self::Ingress(_) => ObjectKind::Ingress,
            Self::IngressClass(_) => ObjectKind::IngressClass,
        }
    }

    /// Its metadata.
    pub const fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::GatewayClass(o) => &o.metadata,
            Self::Gateway(o) => &o.metadata,
            Self::ListenerSet(o) => &o.metadata,
            Self::HttpRoute(o) => &o.metadata,
            Self::GrpcRoute(o) => &o.metadata,
            Self::TlsRoute(o) => &o.metadata,
            Self::TcpRoute(o) => &o.metadata,
            Self::ReferenceGrant(o) => &o.metadata,
            Self::BackendTlsPolicy(o) => &o.metadata,
            Self::Ingress(o) => &o.metadata,
            Self::IngressClass(o) => &o.metadata,
        }
    }
}
