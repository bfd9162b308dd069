//! Who listens where. Decided once, before anything starts, because configuration, services and proxies must agree.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::{fmt, io};

use rand::Rng as _;

/// A service of the shop. Its port is what clients dial; nobody listens there, the mesh does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// The page that a customer sees: asks the catalogue and the reviews.
    Front,
    /// What is for sale.
    Catalogue,
    /// What customers say, in three versions; two of them ask the ratings.
    Reviews,
    /// Stars.
    Ratings,
}

/// One running instance of a service, with the ports of its proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePlan {
    /// Of what.
    pub service: Service,
    /// `v1`, `v2` or `v3`.
    pub version: &'static str,
    /// Where the application listens.
    pub app: SocketAddr,
    /// Where its proxy accepts calls for it: the endpoint that the mesh knows.
    pub inbound: SocketAddr,
    /// Where its proxy takes the application's own calls, as an HTTP proxy.
    pub outbound: SocketAddr,
    /// Its proxy's admin port.
    pub admin: SocketAddr,
}

/// All instances and ports of one demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where customers come in.
    pub gateway: SocketAddr,
    /// The gateway's admin port.
    pub gateway_admin: SocketAddr,
    /// Ports for the control plane, should the caller want free ones: xDS, then metrics.
    pub control: [SocketAddr; 2],
    /// In the order that they are shown.
    pub instances: Vec<InstancePlan>,
}

/// Every instance that runs.
const INSTANCES: [(Service, &str); 6] = [
    (Service::Front, "v1"),
    (Service::Catalogue, "v1"),
    (Service::Reviews, "v1"),
    (Service::Reviews, "v2"),
    (Service::Reviews, "v3"),
    (Service::Ratings, "v1"),
];

/// Below the ports that kernels give to outgoing connections, so that none of those takes a planned port meanwhile.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

// === impl Service ===

impl Service {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Front, Self::Catalogue, Self::Reviews, Self::Ratings];

    /// Its short name, which is also its workloads' `app` label and service account.
    pub fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Catalogue => "catalogue",
            Self::Reviews => "reviews",
            Self::Ratings => "ratings",
        }
    }

    /// The port that clients dial.
    pub fn port(self) -> u16 {
        match self {
            Self::Front => 9080,
            Self::Catalogue => 9081,
            Self::Reviews => 9082,
            Self::Ratings => 9083,
        }
    }

    /// The name that the registry knows it by.
    pub fn host(self) -> String {
        format!("{}.default.svc.cluster.local", self.name())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl InstancePlan ===

impl InstancePlan {
    /// The workload's name: `reviews-v2`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.service, self.version)
    }

    /// The workload's labels.
    pub fn labels(&self) -> [(&'static str, &'static str); 2] {
        [("app", self.service.name()), ("version", self.version)]
    }
}

// === impl Plan ===

impl Plan {
    /// Picks free ports of 127.0.0.1. The gateway gets `gateway`, or a free port when that is 0.
    ///
    /// # Errors
    /// When the gateway's port is taken (the text says so), or when hardly any port is free.
    pub fn pick(gateway: u16) -> io::Result<Self> {
        let mut picker = Picker { next: rand::rng().random_range(PORTS), held: Vec::new() };
        let gateway = match gateway {
            0 => picker.pick()?,
            port => picker.exactly(port)?,
        };
        let mut instances = Vec::new();
        for (service, version) in INSTANCES {
            let (app, inbound, outbound, admin) = (picker.pick()?, picker.pick()?, picker.pick()?, picker.pick()?);
            instances.push(InstancePlan { service, version, app, inbound, outbound, admin });
        }
        Ok(Self { gateway, gateway_admin: picker.pick()?, control: [picker.pick()?, picker.pick()?], instances })
    }
}

/// Finds free ports, and holds each until the whole plan is made.
struct Picker {
    next: u16,
    held: Vec<TcpListener>,
}

// === impl Picker ===

impl Picker {
    fn pick(&mut self) -> io::Result<SocketAddr> {
        let mut last = None;
        for _ in 0..1000 {
            let port = self.next;
            self.next = if port + 1 >= PORTS.end { PORTS.start } else { port + 1 };
            match self.hold(port) {
                Ok(address) => return Ok(address),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    fn exactly(&mut self, port: u16) -> io::Result<SocketAddr> {
        self.hold(port).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "port {port} of 127.0.0.1 cannot be used for the gateway ({error}); choose another with --port"
                ),
            )
        })
    }

    fn hold(&mut self, port: u16) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        self.held.push(listener);
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_port_of_a_plan_is_free_and_used_once() {
        let plan = Plan::pick(0).unwrap();
        let instances = plan.instances.iter().flat_map(|i| [i.app, i.inbound, i.outbound, i.admin]);
        let all: Vec<_> = instances.chain([plan.gateway, plan.gateway_admin]).chain(plan.control).collect();
        assert_eq!(all.len(), all.iter().collect::<HashSet<_>>().len());
        for address in all {
            TcpListener::bind(address).unwrap();
        }
    }

    #[test]
    fn a_taken_gateway_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Plan::pick(port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port"), "{error}");
    }
}
