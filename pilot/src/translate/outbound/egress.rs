//! Where a client reaches one port of a service: which listener, and which route table.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use xebec_galley::spec::{CaptureMode, IstioEgressListener};

use super::super::View;
use super::listeners::Bind;
use crate::mesh::{EgressHost, EgressListener, MeshService};
use crate::proxy::Interception;

/// Where a listener is, and whether it opens a socket of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address, when the Sidecar resource or the absence of interception fixes one. `None` is wherever Istio listens:
    /// `0.0.0.0`, or the service's virtual address.
    pub bind: Option<Bind>,
    /// The protocol that the Sidecar resource declares for the port, which then counts instead of the service's.
    pub protocol: Option<crate::model::Protocol>,
}

/// Where this client reaches `port` of the service. `None` when its Sidecar resource does not import it: such a service may have
/// clusters, as a destination of a rule, but no name of its own.
pub fn place(view: &View<'_>, service: &MeshService, port: u16) -> Option<Place> {
    let key = &service.service.key;
    let unbound = || Place { bind: explicit(view), protocol: None };
    let Some(sidecar) = view.scope.sidecar.as_ref().filter(|s| !s.spec.egress.is_empty()) else {
        return Some(unbound());
    };
    let imports = |listener: &IstioEgressListener| {
        let own = &*sidecar.meta.key.namespace;
        let hosts = listener.hosts.iter().filter_map(|h| EgressHost::parse(h, own)).collect();
        EgressListener { port: None, hosts }.imports(&key.namespace, &key.hostname)
    };
    let own = sidecar.spec.egress.iter().find(|l| l.port.as_ref().is_some_and(|p| p.number == port));
    if let Some(listener) = own {
        return imports(listener).then(|| Place {
            bind: declared(view, listener),
            protocol: listener.port.as_ref().and_then(|p| crate::model::Protocol::parse(&p.protocol)),
        });
    }
    sidecar.spec.egress.iter().filter(|l| l.port.is_none()).any(imports).then(unbound)
}

/// Where listeners bind by themselves when traffic is not intercepted.
pub fn explicit(view: &View<'_>) -> Option<Bind> {
    (view.shape.interception == Interception::None).then(|| Bind::Ip(explicit_ip(view)))
}

/// The address of [`explicit`].
pub fn explicit_ip(view: &View<'_>) -> IpAddr {
    view.shape.bind.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn declared(view: &View<'_>, listener: &IstioEgressListener) -> Option<Bind> {
    let captured = listener.capture_mode != CaptureMode::None && view.shape.interception != Interception::None;
    if let Some(path) = listener.bind.strip_prefix("unix://") {
        return Some(Bind::Unix(Arc::from(path)));
    }
    match listener.bind.parse::<IpAddr>() {
        Ok(ip) => Some(if captured { Bind::Captured(ip) } else { Bind::Ip(ip) }),
        Err(_) if captured => None,
        Err(_) => Some(Bind::Ip(explicit_ip(view))),
    }
}
