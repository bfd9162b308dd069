//! What operators write, and what proxies are told.

mod claims;
mod clusters;
mod connections;
mod distribution;
mod gateways;
mod grpc;
mod inbound;
mod listeners;
mod proxies;
mod routes;
mod settings;
mod whole;

/// A Kubernetes service of the namespace `default`.
fn fqdn(name: &str) -> String {
    format!("{name}.default.svc.cluster.local")
}

/// The name of a service's cluster.
fn cluster(port: u16, subset: &str, name: &str) -> String {
    format!("outbound|{port}|{subset}|{}", fqdn(name))
}
