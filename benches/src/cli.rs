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
}

/// A group of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The control plane
    ControlPlane,
    /// The sidecar beside Envoy
    Sidecar,
    /// Both
    All,
}
