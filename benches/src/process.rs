//! Children that are measured: pinned to a core, and ended with us.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kernel;

/// A running child. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Its process id.
    pub pid: u32,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// Its process.
    pub process: Running,
    /// Where it serves xDS.
    pub xds: SocketAddr,
    /// Where it serves its pages.
    pub http: SocketAddr,
    /// When it was started.
    pub started: Instant,
}

/// The core for what is measured, and the one for the load.
pub fn split_cores() -> Option<(usize, usize)> {
    let pinned = kernel::cores() > 1 && Command::new("taskset").arg("--version").output().is_ok();
    pinned.then_some((0, 1))
}

/// A command that will be kept on a core, where the machine has more than one.
pub fn pinned(program: &Path, core: Option<usize>) -> Command {
    match core {
        None => Command::new(program),
        Some(core) => {
            // `taskset` becomes the program: the process id stays.
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
    }
}

// === impl Running ===

impl Running {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let pid = child.id();
        Ok(Self { child, pid })
    }

    /// The first lines of its standard output that begin with each of `words`, without the word.
    fn announced(&mut self, words: &[&str]) -> Result<Vec<String>> {
        let output = self.child.stdout.take().context("its output is not captured")?;
        let mut found = vec![None; words.len()];
        let mut lines = BufReader::new(output).lines();
        while found.iter().any(Option::is_none) {
            let Some(line) = lines.next() else { bail!("it ended before it said {words:?}") };
            let line = line?;
            for (place, word) in found.iter_mut().zip(words) {
                if let Some(rest) = line.strip_prefix(word) {
                    *place = Some(rest.trim().to_owned());
                }
            }
        }
        // Whatever it says later must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(found.into_iter().flatten().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Starts `xebec serve` on free ports.
    pub fn start(xebec: &Path, config: &Path, core: Option<usize>, mesh_config: Option<&Path>) -> Result<Self> {
        let mut command = pinned(xebec, core);
        command.arg("serve").arg("--config").arg(config).args(["--log-level", "error"]);
        if let Some(path) = mesh_config {
            command.arg("--mesh-config").arg(path);
        }
        Self::spawn(command)
    }

    /// Starts a command that is `xebec serve` with all but the addresses.
    pub fn spawn(mut command: Command) -> Result<Self> {
        command.args(["--xds-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
        let started = Instant::now();
        let mut process = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let said = process.announced(&["xds ", "http "])?;
        let [xds, http] = said.as_slice() else { bail!("`xebec serve` announced {said:?}") };
        Ok(Self { xds: xds.parse()?, http: http.parse()?, process, started })
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Result<Duration> {
        kernel::cpu_time(self.process.pid)
    }

    /// Resident memory now.
    pub fn resident(&self) -> Result<u64> {
        kernel::resident(self.process.pid)
    }
}
