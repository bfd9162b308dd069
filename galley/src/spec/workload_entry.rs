//! WorkloadEntry: an instance that no platform registers.

use std::collections::BTreeMap;

use super::LabelMap;

message! {
    /// An instance: a resource of its own, or one of a ServiceEntry's endpoints. Envoy: an endpoint.
    pub struct WorkloadEntry {
        /// IP address, DNS name (where the resolution is by DNS) or `unix://` socket. May be empty where `network` is given.
        pub address: String,
        /// Its own port for each of the service's ports, by name. Missing is the service's target port.
        pub ports: BTreeMap<String, u16>,
        /// Its labels, which subsets and selectors choose by.
        pub labels: LabelMap,
        /// The network it is on; instances of one network reach each other directly.
        pub network: String,
        /// `region/zone/subzone`; empty is that of the platform.
        pub locality: String,
        /// Share relative to the others of its locality; absent or zero is 1.
        pub weight: Option<u32>,
        /// The service account of its identity.
        pub service_account: String,
    }
}
