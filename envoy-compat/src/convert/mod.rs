//! From Envoy's API to the sidecar's own model.
//!
//! Every message is taken apart with all of its fields named, so that a field which a newer API brings fails the build until
//! somebody decides about it. There are three decisions: *honoured*; *ignored*, which is reported with the field's path; and
//! *refused*, when serving without it would weaken security or send traffic to the wrong place. A refusal rejects the one
//! resource that holds it, and names the field.
//!
//! Everything here is a pure function of one resource. What resources mean to each other is the
//! [`store`](crate::xds::store)'s matter.

// Deprecated fields are still on the wire: what older control planes say is honoured or reported like everything else.
#![allow(deprecated)]

mod access_log;
mod action;
mod balancing;
mod cluster;
mod endpoint;
mod filter;
mod hcm;
mod listener;
mod matcher;
mod place;
mod protocol;
mod route;
mod value;

#[cfg(test)]
mod tests;

pub use place::{Converted, Ignored, Refusal};

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use xebec_proto::envoy::config::{
    cluster::v3 as clusters, endpoint::v3 as endpoints, listener::v3 as listeners, route::v3 as routes,
};

use crate::model::{Cluster, Endpoints, Listener, NetworkFilter, RouteSource, RouteTable, VirtualHost};
use place::convert;

/// What a cluster resource becomes.
#[derive(Debug, Clone)]
pub struct ClusterParts {
    /// The policy.
    pub cluster: Arc<Cluster>,
    /// For a cluster of type EDS: the name of its endpoints, and how long they are waited for (`None`: without limit).
    pub eds: Option<(Arc<str>, Option<Duration>)>,
    /// Endpoints that came with the cluster.
    pub inline: Option<Arc<Endpoints>>,
}

/// What a route configuration becomes.
#[derive(Debug, Clone)]
pub struct TableParts {
    /// The table with the virtual hosts that came with it.
    pub table: Arc<RouteTable>,
    /// Those virtual hosts.
    pub hosts: Vec<HostParts>,
    /// Further virtual hosts are discovered on their own; the inner value is how long they are waited for (`None`: without limit).
    pub discovered: Option<Option<Duration>>,
}

/// What a virtual host becomes.
#[derive(Debug, Clone)]
pub struct HostParts {
    /// The host with its routes.
    pub host: Arc<VirtualHost>,
    /// Every cluster that the routes name.
    pub clusters: Arc<[Arc<str>]>,
}

/// What a listener becomes.
#[derive(Debug, Clone)]
pub struct ListenerParts {
    /// The listener.
    pub listener: Arc<Listener>,
    /// Every route configuration that it names.
    pub routes: Arc<[Arc<str>]>,
    /// How long those are waited for.
    pub wait: Wait,
    /// Every cluster that it names itself.
    pub clusters: Arc<[Arc<str>]>,
}

/// How long something is waited for; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(pub Option<Duration>);

impl Wait {
    /// Not at all.
    pub const NONE: Self = Self(Some(Duration::ZERO));

    fn longer(self, other: Self) -> Self {
        Self(self.0.zip(other.0).map(|(one, two)| one.max(two)))
    }
}

/// Converts a cluster.
///
/// # Errors
/// When it is refused.
pub fn cluster(value: &clusters::Cluster) -> Result<Converted<ClusterParts>, Refusal> {
    convert(|at| cluster::cluster(at, value))
}

/// Converts the endpoints of a cluster of type EDS.
///
/// # Errors
/// When they are refused.
pub fn endpoints(value: &endpoints::ClusterLoadAssignment) -> Result<Converted<Arc<Endpoints>>, Refusal> {
    convert(|at| endpoint::assignment(at, value, endpoint::Names::Refused).map(Arc::new))
}

/// Converts a route configuration.
///
/// # Errors
/// When it is refused.
pub fn routes(value: &routes::RouteConfiguration) -> Result<Converted<TableParts>, Refusal> {
    convert(|at| route::table(at, value))
}

/// Converts a virtual host that was discovered on its own.
///
/// # Errors
/// When it is refused.
pub fn virtual_host(value: &routes::VirtualHost) -> Result<Converted<HostParts>, Refusal> {
    convert(|at| {
        let parts = route::host(at, value)?;
        // A malformed or repeated domain is this resource's own fault; a clash with another one is not.
        RouteTable::new("", vec![parts.host.clone()]).map_err(|error| at.field("domains").refuse(error))?;
        Ok(parts)
    })
}

/// Converts a listener.
///
/// # Errors
/// When it is refused.
pub fn listener(value: &listeners::Listener) -> Result<Converted<ListenerParts>, Refusal> {
    convert(|at| {
        let (listener, wait) = listener::listener(at, value)?;
        let (mut routes, mut clusters) = (Vec::new(), Vec::new());
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            match &chain.filter {
                NetworkFilter::Tcp(tcp) => clusters.extend(tcp.clusters.iter().map(|choice| choice.cluster.clone())),
                NetworkFilter::Http(manager) => match &manager.routes {
                    RouteSource::Rds(name) => routes.push(name.clone()),
                    RouteSource::Inline(table) => {
                        table.hosts().iter().for_each(|host| clusters.extend(action::clusters_of(host)));
                    }
                },
            }
        }
        for names in [&mut routes, &mut clusters] {
            names.sort_unstable();
            names.dedup();
        }
        Ok(ListenerParts { listener: Arc::new(listener), routes: routes.into(), wait, clusters: clusters.into() })
    })
}

/// The table with further virtual hosts. A host whose domain another one has already is left out, and the clash is returned.
pub fn with_hosts(parts: &TableParts, more: &[&HostParts]) -> (RouteTable, Vec<String>) {
    let mut clashes = Vec::new();
    let mut taken: HashSet<String> = HashSet::new();
    let mut hosts: Vec<Arc<VirtualHost>> = Vec::with_capacity(parts.hosts.len() + more.len());
    for parts in parts.hosts.iter().chain(more.iter().copied()) {
        let host = &parts.host;
        let domains: Vec<String> = host.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        if let Some(domain) = domains.iter().find(|domain| taken.contains(*domain)) {
            clashes.push(format!("virtual host {:?} repeats domain {domain:?} of another one", host.name));
            continue;
        }
        taken.extend(domains);
        hosts.push(host.clone());
    }
    let base = &parts.table;
    match RouteTable::new(&base.name, hosts) {
        Ok(mut table) => {
            table.request_headers = base.request_headers.clone();
            table.response_headers = base.response_headers.clone();
            table.per_route = base.per_route.clone();
            table.most_specific_wins = base.most_specific_wins;
            table.ignore_port = base.ignore_port;
            (table, clashes)
        }
        Err(error) => {
            clashes.push(error.to_string());
            (RouteTable::clone(base), clashes)
        }
    }
}

/// The clusters that the routes of a host name.
#[cfg(test)]
pub(crate) fn clusters_for_test(host: &VirtualHost) -> Vec<String> {
    action::clusters_of(host).iter().map(ToString::to_string).collect()
}
