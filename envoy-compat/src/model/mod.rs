//! The one internal configuration of the sidecar: plain immutable values, already checked, indexed and compiled.
//!
//! Protos are taken apart once, when a resource arrives; from then on the data path reads only these types.
//! Nothing here does I/O, reads a clock or takes a lock, so everything can be tested with values.
//!
//! ALWAYS: names that tie resources together (`Arc<str>` of a route table or a cluster) are looked up in the
//! [`Snapshot`] that a request started with, so a request never sees half of a change.
//! ALWAYS: patterns, formats and indexes are compiled by the constructors, never per request.
//!
//! Start reading at [`Snapshot`], then [`Listener`], [`RouteTable`], [`Cluster`].

mod cluster;
mod filter;
mod format;
mod header;
mod listener;
mod route;
mod table;
mod text;

pub use cluster::{
    CircuitBreakers, Cluster, ClusterEntry, DNS_REFRESH, Discovery, Endpoint, EndpointAddress, Endpoints, Health,
    LbPolicy, Locality, LocalityEndpoints, OutlierDetection, UpstreamProtocol,
};
pub use filter::{CorsPolicy, Fault, FaultAbort, FaultDelay, Fraction, HttpFilter, PerRoute};
pub use format::{Format, FormatError, JsonFormat, Operator, Segment};
pub use header::{AppendAction, HeaderKey, HeaderMatcher, HeaderOp, HeaderOps, HeaderTest, QueryMatcher, RequestView};
pub use listener::{
    AccessLog, AccessLogFilter, AccessLogFormat, AccessLogSink, Codec, ConnectionFacts, FilterChain, FilterChainMatch,
    HttpConnectionManager, Listener, ListenerFilter, NetworkFilter, RouteSource, SourceType, TcpProxy,
    TrafficDirection,
};
pub use route::{
    DirectResponse, Forward, HashKey, HashPolicy, HostRewrite, Mirror, PathMatcher, PathRewrite, Redirect, RetryOn,
    RetryPolicy, Route, RouteAction, RouteMatch, Target, WeightedCluster,
};
pub use table::{RouteTable, TableError, VirtualHost};
pub use text::{PatternError, StringMatcher, compile_full_match};

use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Everything that the data path needs, at one moment.
///
/// A new configuration is a new `Snapshot` that shares every unchanged part with the one before it (same `Arc`):
/// the data path compares pointers to know what changed.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Listeners, names unique.
    pub listeners: Vec<Arc<Listener>>,
    /// Route tables by `RouteConfiguration.name`.
    pub routes: FxHashMap<Arc<str>, Arc<RouteTable>>,
    /// Clusters by name, each with its endpoints.
    pub clusters: FxHashMap<Arc<str>, ClusterEntry>,
}
