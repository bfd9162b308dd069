//! Sidecar: what a workload's proxy sees and listens on.

use super::{ConnectionPoolSettings, Destination, Port, ServerTlsSettings, WorkloadSelector};

message! {
    /// The scope of a proxy. Envoy: which listeners, routes, clusters and endpoints it is given.
    pub struct Sidecar {
        /// Workloads of the same namespace; absent is all of them, and of all namespaces from the root namespace.
        pub workload_selector: Option<WorkloadSelector>,
        /// What is listened on for others; empty is the ports of the workload's services.
        pub ingress: Vec<IstioIngressListener>,
        /// What the workload may call; empty is everything it may see.
        pub egress: Vec<IstioEgressListener>,
        /// Limits for requests to the workload, where a listener has no own.
        pub inbound_connection_pool: Option<ConnectionPoolSettings>,
        /// What happens to calls to unknown hosts; absent is the mesh's setting.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }
}

message! {
    /// A port that others call.
    pub struct IstioIngressListener {
        /// Its number, protocol and name.
        pub port: Port,
        /// Address to listen on; empty is the workload's.
        pub bind: String,
        /// Whether connections are captured.
        pub capture_mode: CaptureMode,
        /// Where the application listens: `127.0.0.1:PORT`, `0.0.0.0:PORT`, `[::1]:PORT`, `[::]:PORT` or `unix:///PATH`.
        pub default_endpoint: String,
        /// TLS of this port.
        pub tls: Option<ServerTlsSettings>,
        /// Limits for requests to the application.
        pub connection_pool: Option<ConnectionPoolSettings>,
    }
}

message! {
    /// What the workload may call, and where it calls it.
    pub struct IstioEgressListener {
        /// Where calls are taken; absent is wherever the services are.
        pub port: Option<Port>,
        /// Address or `unix://` socket to listen on; empty is chosen by port and capture mode.
        pub bind: String,
        /// Whether connections are captured.
        pub capture_mode: CaptureMode,
        /// `namespace/host` with `*`, `.` or `~` as namespace and `*` or a wildcard as host; `~namespace/host` leaves out.
        pub hosts: Vec<String>,
    }
}

choice! {
    /// Whether connections are captured.
    pub enum CaptureMode {
        /// As the platform set it up.
        Default,
        /// By redirection in the kernel.
        Iptables,
        /// Not at all.
        None,
    }
}

message! {
    /// What happens to calls to unknown hosts.
    pub struct OutboundTrafficPolicy {
        /// Absent reads as `REGISTRY_ONLY`.
        pub mode: OutboundTrafficPolicyMode,
        /// A proxy that such calls go through.
        pub egress_proxy: Option<Destination>,
    }
}

choice! {
    /// What happens to calls to unknown hosts.
    pub enum OutboundTrafficPolicyMode {
        /// They are refused.
        RegistryOnly,
        /// They go where the client dialled.
        AllowAny,
    }
}
