//! The endpoints of a cluster.

use std::collections::HashSet;

use xebec_proto::envoy::config::core::v3::HealthStatus;
use xebec_proto::envoy::config::endpoint::v3::{
    self as endpoint, cluster_load_assignment, lb_endpoint::HostIdentifier, locality_lb_endpoints,
};

use super::place::{Outcome, Place, ignored, inert, refused};
use super::value::{self, Host};
use crate::model::{Endpoint, EndpointAddress, Endpoints, Health, Locality, LocalityEndpoints};

/// Whether endpoints may be names: only where the cluster resolves them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Resolved,
    Refused,
}

/// All endpoints of a cluster.
pub(super) fn assignment(at: Place<'_>, value: &endpoint::ClusterLoadAssignment, names: Names) -> Outcome<Endpoints> {
    let endpoint::ClusterLoadAssignment { cluster_name, endpoints, named_endpoints, policy } = value;
    inert!(cluster_name);
    refused!(at, "named endpoints are not supported; list them inline"; named_endpoints);
    let localities = at.field("endpoints").each(endpoints, |at, group| locality(at, group, names))?;
    let mut overprovisioning = 140;
    if let Some(policy) = policy {
        let at = at.field("policy");
        let cluster_load_assignment::Policy {
            drop_overloads,
            overprovisioning_factor,
            endpoint_stale_after,
            weighted_priority_health,
        } = policy;
        ignored!(at; drop_overloads, endpoint_stale_after, weighted_priority_health);
        overprovisioning = value::number(overprovisioning_factor.as_ref()).unwrap_or(140);
    }
    let priorities: HashSet<u32> = localities.iter().map(|group| group.priority).collect();
    if let Some(gap) = (0..priorities.len() as u32).find(|priority| !priorities.contains(priority)) {
        return Err(at.field("endpoints").refuse(format_args!("priorities have to be without gaps; {gap} is missing")));
    }
    Ok(Endpoints { localities, overprovisioning })
}

fn locality(at: Place<'_>, value: &endpoint::LocalityLbEndpoints, names: Names) -> Outcome<LocalityEndpoints> {
    let endpoint::LocalityLbEndpoints {
        locality,
        metadata,
        lb_endpoints,
        load_balancing_weight,
        priority,
        proximity,
        lb_config,
    } = value;
    inert!(metadata);
    ignored!(at; proximity);
    let lb_endpoints = match lb_config {
        None => lb_endpoints,
        Some(locality_lb_endpoints::LbConfig::LoadBalancerEndpoints(list)) => &list.lb_endpoints,
        Some(locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(_)) => {
            return Err(at
                .field("leds_cluster_locality_config")
                .refuse("discovery of endpoint lists is not supported"));
        }
    };
    let endpoints = at.field("lb_endpoints").each(lb_endpoints, |at, endpoint| lb_endpoint(at, endpoint, names))?;
    let locality = locality.as_ref().map_or_else(Locality::default, |locality| Locality {
        region: locality.region.as_str().into(),
        zone: locality.zone.as_str().into(),
        sub_zone: locality.sub_zone.as_str().into(),
    });
    Ok(LocalityEndpoints {
        locality,
        priority: *priority,
        // Under locality weighting, a locality without a weight takes no traffic; elsewhere the number is not read.
        weight: value::number(load_balancing_weight.as_ref()).unwrap_or(0),
        endpoints,
    })
}

fn lb_endpoint(at: Place<'_>, value: &endpoint::LbEndpoint, names: Names) -> Outcome<Endpoint> {
    let endpoint::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = value;
    inert!(metadata);
    let inner = match host_identifier {
        Some(HostIdentifier::Endpoint(inner)) => inner,
        Some(HostIdentifier::EndpointName(_)) => {
            return Err(at.field("endpoint_name").refuse("named endpoints are not supported"));
        }
        None => return Err(at.field("endpoint").refuse("an endpoint is required")),
    };
    let inner_at = at.field("endpoint");
    let endpoint::Endpoint { address, health_check_config, hostname, additional_addresses, observability_name } = inner;
    inert!(health_check_config, observability_name, hostname);
    ignored!(inner_at; additional_addresses);
    let address_at = inner_at.field("address");
    let address = match value::host(address_at, address.as_ref())? {
        Host::Socket(socket) => EndpointAddress::Socket(socket),
        Host::Name(host, port) if names == Names::Resolved => EndpointAddress::Name { host: host.into(), port },
        Host::Name(host, _) => {
            return Err(address_at.refuse(format_args!("{host:?} is a name, and this cluster does not resolve names")));
        }
    };
    let health = match HealthStatus::try_from(*health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => Health::Unhealthy,
        Err(_) => return Err(at.field("health_status").refuse("not a known status")),
    };
    let weight = value::number(load_balancing_weight.as_ref()).unwrap_or(1);
    if weight == 0 {
        return Err(at.field("load_balancing_weight").refuse("a weight is at least 1"));
    }
    Ok(Endpoint { address, weight, health })
}
