//! ServiceEntry: services that no platform registers.

use super::{WorkloadEntry, WorkloadSelector};

message! {
    /// A service, written by hand. Envoy: clusters, endpoints and listeners.
    pub struct ServiceEntry {
        /// Names of the service; each becomes a service of its own.
        pub hosts: Vec<String>,
        /// Virtual addresses or networks; networks only for the resolutions `NONE` and `STATIC`.
        pub addresses: Vec<String>,
        /// Its ports.
        pub ports: Vec<ServicePort>,
        /// Whether it is part of the mesh.
        pub location: Location,
        /// How instances are found.
        pub resolution: Resolution,
        /// Its instances; not together with `workloadSelector`.
        pub endpoints: Vec<WorkloadEntry>,
        /// Workloads of the same namespace that are its instances.
        pub workload_selector: Option<WorkloadSelector>,
        /// Namespaces that see this resource: `*`, `.`, `~` or a name. Empty is the mesh's default.
        pub export_to: Vec<String>,
        /// Names that the servers' certificates must have one of.
        pub subject_alt_names: Vec<String>,
    }
}

message! {
    /// A port of a service.
    pub struct ServicePort {
        /// The port that clients dial, 1 to 65535.
        pub number: u16,
        /// What it speaks; empty is told from the first bytes of each connection.
        pub protocol: String,
        /// Unique within the service; instances refer to it.
        pub name: String,
        /// The instances' port; absent is `number`.
        pub target_port: Option<u16>,
    }
}

choice! {
    /// Whether a service is part of the mesh.
    pub enum Location {
        /// No: mesh identity is never used with it.
        MeshExternal,
        /// Yes.
        MeshInternal,
    }
}

choice! {
    /// How instances are found.
    pub enum Resolution {
        /// The address that the client dialled. Envoy: `ORIGINAL_DST`.
        None,
        /// The endpoints that are listed. Envoy: `EDS`.
        Static,
        /// All addresses that DNS answers. Envoy: `STRICT_DNS`.
        Dns,
        /// One address at a time that DNS answers. Envoy: `LOGICAL_DNS`.
        DnsRoundRobin,
        /// The name that each request asks for. Envoy: `dynamic_forward_proxy`.
        DynamicDns,
    }
}
