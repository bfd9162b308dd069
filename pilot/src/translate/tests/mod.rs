//! What operators write, and what proxies are told.

mod clusters;
mod gateways;
mod grpc;
mod inbound;
mod listeners;
mod routes;
mod whole;

/// A Kubernetes service of the namespace `default`.
fn fqdn(name: &str) -> String {
    format!("{name}.default.svc.cluster.local")
}

/// The name of a service's cluster.
fn cluster(port: u16, subset: &str, name: &str) -> String {
    format!("outbound|{port}|{subset}|{}", fqdn(name))
}
