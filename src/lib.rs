//! The `xebec` command line: wiring of the rooms, one file per command, no logic of its own.
//!
//! Start reading at [`cli`], the contract with people's scripts.

pub mod cli;
pub mod exit;
pub mod logging;
pub mod output;
pub mod proxy_flags;
pub mod source_spec;

mod analyze;
mod completion;
mod control_plane;
mod demo;
mod envoy;
mod kubernetes;
mod proxy_config;
mod proxy_status;
mod schema;
mod serve;
mod server_api;
mod settings;
mod sidecar;
mod sources;
mod tasks;
mod translate;
mod validate;
mod version;

use std::process::ExitCode;

use clap::Parser;
use xebec_envoy_compat::node::NodeKind;

use crate::cli::{Cli, Command, EnvoyCommand};
use crate::exit::Failure;

/// Parses the arguments, runs the command, and turns its outcome into the promised exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::USAGE } else { exit::FINE };
            // Nothing sensible is left to do when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let draws = matches!(&cli.command, Command::Demo(demo) if !demo.headless) && xebec_demo::draws();
    let outcome = logging::init(&cli.logging, draws)
        .and_then(|()| tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::bug))
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(cli.command));
            // Blocking work, such as a file watcher's thread, must not hold up the exit.
            runtime.shutdown_timeout(std::time::Duration::from_millis(200));
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::from(exit::FINE),
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.code())
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Sidecar(args) => sidecar::run(args, NodeKind::Sidecar).await,
        Command::Gateway(args) => sidecar::run(args, NodeKind::Router).await,
        Command::Envoy(EnvoyCommand::Bootstrap(args)) => envoy::bootstrap(args),
        Command::Envoy(EnvoyCommand::Run(args)) => envoy::run(args),
        Command::Translate(args) => translate::run(args).await,
        Command::Validate(args) => validate::run(args),
        Command::Analyze(args) => analyze::run(args),
        Command::ProxyStatus(args) => proxy_status::run(args).await,
        Command::ProxyConfig(args) => proxy_config::run(args).await,
        Command::Version(args) => version::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::Schema(args) => schema::run(&args),
    }
}
