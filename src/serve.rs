//! `xebec serve`: the control plane.

use crate::cli::ServeArgs;
use crate::control_plane::{ControlPlane, Options};
use crate::exit::Failure;
use crate::output;

/// Runs the control plane until it is told to stop.
pub(crate) async fn run(args: ServeArgs) -> Result<(), Failure> {
    if args.sources.config.is_empty() && args.sources.registry.is_empty() {
        return Err(Failure::usage("there is nothing to serve")
            .help("name a directory with --config DIR, or a platform with --registry SPEC"));
    }
    let options = Options {
        sources: args.sources,
        patience: (!args.patience.is_zero()).then_some(args.patience),
        xds_addr: args.xds_addr,
        http_addr: args.http_addr,
    };
    let plane = ControlPlane::start(options).await?;
    output::line(&format!("xds {}\nhttp {}", plane.xds_addr, plane.http_addr))?;
    tokio::select! {
        () = plane.engine.wait_ready() => tracing::info!(xds = %plane.xds_addr, http = %plane.http_addr, "ready"),
        outcome = stop_signal() => {
            outcome?;
            plane.stop().await;
            return Ok(());
        }
    }
    stop_signal().await?;
    tracing::info!("stopping");
    plane.stop().await;
    Ok(())
}

/// Returns when the process is asked to stop, by Ctrl-C or by its supervisor.
pub(crate) async fn stop_signal() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::bug)?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome.map_err(Failure::bug),
        _ = terminate.recv() => Ok(()),
    }
}
