//! `xebec sidecar` and `xebec gateway`: the Rust data plane.

use xebec_envoy_compat::bootstrap::ServerAddress;
use xebec_envoy_compat::node::NodeKind;
use xebec_envoy_compat::run::StartError;
use xebec_envoy_compat::{Sidecar, SidecarConfig};

use crate::cli::SidecarArgs;
use crate::exit::Failure;
use crate::serve::stop_signal;
use crate::{logging, output};

/// Runs a proxy until it is told to stop, then lets its connections finish.
pub(crate) async fn run(args: SidecarArgs, default: NodeKind) -> Result<(), Failure> {
    let flags = &args.proxy.identity;
    let server: ServerAddress = flags.server.parse().map_err(Failure::usage)?;
    let config = SidecarConfig {
        admin_addr: flags.admin_addr,
        concurrency: flags.workers(),
        drain_time: flags.drain_time,
        log: Some(logging::control()),
        ..SidecarConfig::new(args.proxy.node(default)?, server)
    };
    let sidecar = Sidecar::start(config).map_err(|error| match error {
        StartError::Node(_) | StartError::Server(_) => Failure::usage(error),
        StartError::Admin { .. } => Failure::conflict(error).help("port 0 picks a free one"),
        StartError::Workers(_) => Failure::conflict(error),
    })?;
    output::line(&format!("admin {}", sidecar.admin_addr()))?;
    tokio::select! {
        outcome = stop_signal() => outcome?,
        () = sidecar.asked_to_stop() => {}
    }
    tracing::info!("draining");
    // A second signal means now.
    tokio::select! {
        cut = sidecar.drain_and_stop() => tracing::info!(cut, "stopped"),
        outcome = stop_signal() => outcome?,
    }
    Ok(())
}
