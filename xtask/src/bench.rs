//! Whole-program benchmarks: builds with the profile for measuring, and runs `xebec-bench` side by side with peers.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::report::begin;
use crate::{cargo, peers};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Which part
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
    /// Where the figures go
    #[arg(long, default_value = "docs/performance.json")]
    out: PathBuf,
    /// Further arguments for xebec-bench
    #[arg(last = true)]
    rest: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Part {
    /// Pushes to a thousand clients
    ControlPlane,
    /// Requests through a proxy, beside Envoy
    Sidecar,
    /// Both
    All,
}

/// Builds and measures. False when the benchmark says that it failed.
///
/// # Errors
/// When something does not build, or a peer that it compares with is missing.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let end = begin("cargo build --profile bench");
    let mut build =
        cargo::command(["build", "--profile", "bench", "--package", "xebec", "--package", "xebec-bench", "--bins"]);
    if !cargo::succeeds(&mut build)? {
        bail!("it does not build");
    }
    end();
    let part = match arguments.part {
        Part::ControlPlane => "control-plane",
        Part::Sidecar => "sidecar",
        Part::All => "all",
    };
    // Cargo puts what the `bench` profile makes where it puts release builds.
    let folder = cargo::target_directory()?.join("release");
    let mut command = std::process::Command::new(folder.join("xebec-bench"));
    command
        .arg(part)
        .arg("--xebec")
        .arg(folder.join("xebec"))
        .arg("--out")
        .arg(&arguments.out)
        .current_dir(cargo::root());
    if !matches!(arguments.part, Part::ControlPlane) {
        let found = peers::bring(&[peers::Peer::Envoy])?;
        match found.paths.get(&peers::Peer::Envoy) {
            Some(envoy) => command.arg("--envoy").arg(envoy),
            None => bail!("Envoy, with which the sidecar is compared, is missing: {:#}", found.missing[0].1),
        };
    }
    command.args(&arguments.rest);
    cargo::succeeds(&mut command)
}
