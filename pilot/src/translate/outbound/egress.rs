//! Where a client reaches one port of a service: which listener, and which route table. Where its HTTP proxies are.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use xebec_galley::spec::{CaptureMode, IstioEgressListener};

use super::super::{View, names, protocol_of};
use super::listeners::{Bind, ListenerKey};
use crate::mesh::{EgressHost, EgressListener, MeshService};
use crate::model::{Port, Protocol};
use crate::proxy::{Interception, ProxyKind};

/// Where a listener is, and whether it opens a socket of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address, when the Sidecar resource or the absence of interception fixes one. `None` is wherever Istio listens:
    /// `0.0.0.0`, or the service's virtual address.
    pub bind: Option<Bind>,
    /// The protocol that the Sidecar resource declares for the port, which then counts instead of the service's.
    pub protocol: Option<Protocol>,
}

/// Where this client reaches `port` of the service. `None` when its Sidecar resource does not import it: such a service may have
/// clusters, as a destination of a rule, but no name of its own.
pub fn place(view: &View<'_>, service: &MeshService, port: u16) -> Option<Place> {
    let key = &service.service.key;
    let unbound = || Place { bind: explicit(view), protocol: None };
    let Some(sidecar) = view.scope.sidecar.as_ref().filter(|s| !s.spec.egress.is_empty()) else {
        return Some(unbound());
    };
    let imports = |l: &IstioEgressListener| imports(l, &sidecar.meta.key.namespace, &key.namespace, &key.hostname);
    let own = sidecar.spec.egress.iter().find(|l| l.port.as_ref().is_some_and(|p| p.number == port));
    if let Some(listener) = own {
        if is_http_proxy(listener) {
            return None;
        }
        return imports(listener).then(|| Place {
            bind: declared(view, listener),
            protocol: listener.port.as_ref().and_then(|p| Protocol::parse(&p.protocol)),
        });
    }
    sidecar.spec.egress.iter().filter(|l| l.port.is_none()).any(imports).then(unbound)
}

/// The addresses on which this client has an HTTP proxy, and the route table of each: those that its Sidecar resource declares with the
/// protocol `HTTP_PROXY`, whose tables are named after their ports as Istio's are, and the one of its own settings.
pub fn http_proxies(view: &View<'_>) -> Vec<(ListenerKey, Arc<str>)> {
    if view.shape.kind != ProxyKind::Sidecar {
        return Vec::new();
    }
    let mut found: Vec<(ListenerKey, Arc<str>)> = declared_proxies(view)
        .map(|listener| {
            let port = listener.port.as_ref().map_or(0, |p| p.number);
            let bind = declared(view, listener).unwrap_or(Bind::Captured(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
            (ListenerKey { bind, port }, table_of(listener))
        })
        .collect();
    if let Some(port) = view.shape.http_proxy_port {
        let key = ListenerKey { bind: Bind::Ip(explicit_ip(view)), port };
        found.push((key, names::HTTP_PROXY_ROUTE.into()));
    }
    found
}

/// Whether a route table is that of an HTTP proxy: its hosts are told apart by name and port.
pub fn is_proxy_table(view: &View<'_>, table: &str) -> bool {
    table == names::HTTP_PROXY_ROUTE || declared_proxies(view).any(|l| *table_of(l) == *table)
}

/// Whether the HTTP proxy that a Sidecar resource declares with this route table imports a host. `None` when it declares no such proxy.
pub fn proxy_imports(view: &View<'_>, table: &str, namespace: &str, host: &str) -> Option<bool> {
    let own = &view.scope.sidecar.as_ref()?.meta.key.namespace;
    let mut meant = declared_proxies(view).filter(|l| *table_of(l) == *table).peekable();
    meant.peek()?;
    Some(meant.any(|l| imports(l, own, namespace, host)))
}

/// Whether an HTTP proxy carries requests to this port. What a listener of the Sidecar resource for that very port says of its protocol
/// is about that listener only.
pub fn is_proxied(port: &Port) -> bool {
    let protocol = protocol_of(port);
    protocol.is_http() || protocol == Protocol::Auto
}

fn declared_proxies<'a>(view: &View<'a>) -> impl Iterator<Item = &'a IstioEgressListener> + use<'a> {
    let sidecar = view.scope.sidecar.as_ref();
    sidecar.into_iter().flat_map(|s| &s.spec.egress).filter(|l| is_http_proxy(l))
}

fn is_http_proxy(listener: &IstioEgressListener) -> bool {
    listener.port.as_ref().is_some_and(|p| p.protocol.eq_ignore_ascii_case("HTTP_PROXY"))
}

fn table_of(listener: &IstioEgressListener) -> Arc<str> {
    match listener.bind.strip_prefix("unix://") {
        // A slash ends a table's name in those of its virtual hosts.
        Some(path) => format!("{}{}", names::HTTP_PROXY_ROUTE, path.replace('/', "_")).into(),
        None => listener.port.as_ref().map_or(0, |p| p.number).to_string().into(),
    }
}

/// Whether a listener of a Sidecar resource in namespace `own` imports the host of a namespace.
fn imports(listener: &IstioEgressListener, own: &str, namespace: &str, host: &str) -> bool {
    let hosts = listener.hosts.iter().filter_map(|h| EgressHost::parse(h, own)).collect();
    EgressListener { port: None, hosts }.imports(namespace, host)
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
