//! The platforms that services come from: `xebec serve` reads a real one, and what it adds is told apart from what the
//! platform takes by itself.
//!
//! A latency begins before the call that makes the change. The platform's own part ends when a bare client of this process has
//! the platform's notification of the same change in its hands, unread; ours ends when an xDS client has received and
//! acknowledged the endpoint. The difference is taken change by change.
//!
//! Nothing is kept on a core here: the platform, `xebec` and this program share the machine. Platforms keep their data in the
//! system's temporary folder.

mod bare;
mod catalog;
mod consul;
mod file;
mod kubernetes;
mod nomad;
mod serve;
mod trial;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use xebec_testkit::Peer;

use crate::cli::Cli;
use crate::kernel;
use crate::report::Row;

/// How long anything here may take at most.
const LIMIT: Duration = Duration::from_secs(180);

/// Between two changes: long enough for a blocking query to be asked again, short against a run.
const PAUSE: Duration = Duration::from_millis(25);

/// Measures every platform that is here.
pub fn run(cli: &Cli) -> Result<Vec<Row>> {
    let peers = [
        (Peer::Consul, "Consul", cli.consul.as_deref()),
        (Peer::Nomad, "Nomad", cli.nomad.as_deref()),
        (Peer::Kube, "Kubernetes", cli.kube.as_deref()),
    ];
    if peers.iter().any(|(peer, _, path)| path.is_some_and(|path| peer.path().as_deref() != Some(path))) {
        return again(&peers);
    }
    kernel::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut rows = vec![file::changes(cli).await.context("files")?];
        for (peer, name, _) in peers {
            if peer.path().is_none() {
                say(&format!("{name} is left out: its program is not here"))?;
                continue;
            }
            let part = match peer {
                Peer::Consul => consul::run(cli).await,
                Peer::Nomad => nomad::changes(cli).await.map(|row| vec![row]),
                _ => kubernetes::run(cli).await,
            };
            rows.extend(part.context(name)?);
        }
        Ok(rows)
    })
}

/// Becomes this program once more, with the peers in the variables in which their starters look.
fn again(peers: &[(Peer, &str, Option<&Path>)]) -> Result<Vec<Row>> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    for (peer, name, path) in peers {
        if let Some(path) = path {
            let path: PathBuf = path.canonicalize().with_context(|| format!("{name} at {}", path.display()))?;
            command.env(peer.variable(), path);
        }
    }
    Err(command.exec()).context("starting once more with the peers in the environment")
}

/// Tells whoever waits what is going on.
fn say(what: &str) -> Result<()> {
    writeln!(std::io::stderr(), "measuring: {what}").context("standard error")
}
