//! `xebec serve` as it is measured here: until it is ready, what it counts, what it holds.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xebec_testkit::Workdir;

use crate::kernel;
use crate::process::{ControlPlane, pinned};

/// A running control plane.
pub struct Serve {
    /// Its process and its addresses.
    pub plane: ControlPlane,
    client: reqwest::Client,
}

/// What it counts about notifications of its platform.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Notified {
    /// Those that said something new.
    pub changed: f64,
    /// The others, such as blocking queries that ran out.
    pub unchanged: f64,
}

// === impl Serve ===

impl Serve {
    /// Starts `xebec serve` with these arguments. It waits for its platform for as long as it takes: ready means synced.
    pub fn start<I: IntoIterator<Item: Into<OsString>>>(xebec: &Path, work: &Workdir, arguments: I) -> Result<Self> {
        let mut command = pinned(xebec, None);
        command.arg("serve").args(arguments.into_iter().map(Into::into));
        command.args(["--patience", "0", "--log-level", "warn"]);
        let log = File::options().create(true).append(true).open(work.join("logs/xebec.err"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("XEBEC_")) {
            command.env_remove(name);
        }
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let plane = ControlPlane::spawn(command).with_context(|| work.logs())?;
        Ok(Self { plane, client })
    }

    /// Waits until it is ready, and says how long after its start that was.
    pub async fn ready(&self, limit: Duration) -> Result<Duration> {
        loop {
            let answer = self.client.get(format!("http://{}/ready", self.plane.http)).send().await?;
            if answer.status().is_success() {
                return Ok(self.plane.started.elapsed());
            }
            if self.plane.started.elapsed() > limit {
                bail!("not ready after {limit:?}: {}", answer.text().await?);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many notifications of the platform it has counted so far.
    pub async fn notified(&self) -> Result<Notified> {
        let answer = self.client.get(format!("http://{}/metrics", self.plane.http)).send().await?;
        let text = answer.error_for_status()?.text().await?;
        Ok(Notified { changed: notifications(&text, "true"), unchanged: notifications(&text, "false") })
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.plane.cpu()
    }

    /// Resident memory now, in MB.
    pub fn resident(&self) -> Result<f64> {
        Ok(self.plane.resident()? as f64 / 1e6)
    }

    /// The most resident memory that it has had, in MB.
    pub fn peak(&self) -> Result<f64> {
        Ok(kernel::peak_resident(self.plane.process.pid)? as f64 / 1e6)
    }

    /// Waits until it does next to nothing, at most for as long as `limit`.
    pub async fn rest(&self, limit: Duration) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(100);
        let end = Instant::now() + limit;
        let (mut quiet, mut before) = (0, self.cpu()?);
        while quiet < 5 && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            let now = self.cpu()?;
            quiet = if now - before < LOOK / 20 { quiet + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }
}

/// The sum of the samples of `xebec_registry_notifications_total` with this label.
fn notifications(text: &str, changed: &str) -> f64 {
    let label = format!("changed=\"{changed}\"");
    let samples = text.lines().filter(|line| line.starts_with("xebec_registry_notifications_total{"));
    let counts = samples.filter(|line| line.contains(&label)).filter_map(|line| line.rsplit(' ').next());
    counts.filter_map(|count| count.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn notifications_are_told_apart_and_summed_over_registries() {
        let text = "# TYPE xebec_registry_notifications_total counter\n\
            xebec_registry_notifications_total{registry=\"consul:http://127.0.0.1:1\",changed=\"true\"} 7\n\
            xebec_registry_notifications_total{registry=\"nomad:http://127.0.0.1:2\",changed=\"true\"} 5\n\
            xebec_registry_notifications_total{registry=\"consul:http://127.0.0.1:1\",changed=\"false\"} 2\n\
            xebec_registry_reconnects_total{registry=\"x\",changed=\"true\"} 9\n";
        assert_eq!((notifications(text, "true"), notifications(text, "false")), (12.0, 2.0));
    }
}
