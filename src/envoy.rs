//! `xebec envoy bootstrap|run`: joins a stock Envoy to the mesh.

use xebec_envoy_compat::bootstrap::{self, BootstrapOptions, LaunchError, LaunchOptions, ServerAddress};
use xebec_envoy_compat::node::NodeKind;

use crate::cli::{EnvoyBootstrapArgs, EnvoyRunArgs};
use crate::exit::Failure;
use crate::output;
use crate::proxy_flags::ProxyFlags;

/// Prints a bootstrap.
pub(crate) fn bootstrap(args: EnvoyBootstrapArgs) -> Result<(), Failure> {
    let node = args.proxy.node(NodeKind::Sidecar)?;
    output::json(&bootstrap::envoy(&node, &options(&args.proxy)?))
}

/// Becomes Envoy; returns only when that fails.
pub(crate) fn run(args: EnvoyRunArgs) -> Result<(), Failure> {
    let node = args.proxy.node(NodeKind::Sidecar)?;
    let launch = LaunchOptions {
        program: args.envoy,
        concurrency: args.proxy.identity.concurrency.map(u32::from),
        drain_time: Some(args.proxy.identity.drain_time),
        log_level: None,
        disable_hot_restart: true,
        extra: args.envoy_args.into_iter().map(Into::into).collect(),
    };
    let error = bootstrap::run(&node, &options(&args.proxy)?, &launch);
    Err(match error {
        LaunchError::NotFound | LaunchError::NotRunnable { .. } => Failure::not_found(error),
        _ => Failure::conflict(error),
    })
}

fn options(flags: &ProxyFlags) -> Result<BootstrapOptions, Failure> {
    let server: ServerAddress = flags.identity.server.parse().map_err(Failure::usage)?;
    Ok(BootstrapOptions { admin: flags.identity.admin_addr, ..BootstrapOptions::new(server) })
}
