//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures whole programs.
#[derive(Debug, Clone, Parser)]
#[command(name = "xebec-bench", version)]
pub struct Cli {
    /// What to measure
    #[arg(value_enum)]
    pub part: Part,
    /// The `xebec` to measure, built with `cargo build --profile bench`
    #[arg(long, default_value = "target/release/xebec")]
    pub xebec: PathBuf,
    /// The stock Envoy to compare with
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// The Consul agent to measure with; what needs it is left out without
    #[arg(long, env = "XEBEC_PEER_CONSUL")]
    pub consul: Option<PathBuf>,
    /// The Nomad agent to measure with
    #[arg(long, env = "XEBEC_PEER_NOMAD")]
    pub nomad: Option<PathBuf>,
    /// The Kubernetes control plane to measure with: etcd, API server and controllers in one program
    #[arg(long, env = "XEBEC_PEER_KUBE")]
    pub kube: Option<PathBuf>,
    /// Where the figures go, as JSON; figures of parts that are not measured now are kept
    #[arg(long, default_value = "performance.json")]
    pub out: PathBuf,
    /// How many clients connect
    #[arg(long, default_value_t = 1000)]
    pub clients: usize,
    /// How many services there are, of ten endpoints each
    #[arg(long, default_value_t = 1000)]
    pub services: usize,
    /// How many services there are where growth is measured
    #[arg(long, default_value_t = 5000)]
    pub many_services: usize,
    /// How often a change is repeated
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// How long each HTTP measurement takes, in seconds
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// How many services are registered in Consul
    #[arg(long, default_value_t = 5000)]
    pub consul_services: usize,
    /// How many instances each of them has
    #[arg(long, default_value_t = 15)]
    pub instances: usize,
    /// How many single changes are made, per platform and kind of change
    #[arg(long, default_value_t = 200)]
    pub changes: usize,
    /// How many changes a burst has
    #[arg(long, default_value_t = 1000)]
    pub burst: usize,
    /// How many Kubernetes Pods there are where memory is measured
    #[arg(long, default_value_t = 5000)]
    pub pods: usize,
    /// How many Kubernetes Services they belong to
    #[arg(long, default_value_t = 500)]
    pub pod_services: usize,
}

/// A group of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The control plane
    ControlPlane,
    /// The sidecar beside Envoy
    Sidecar,
    /// The platforms that services come from
    Platforms,
    /// Everything
    All,
}
