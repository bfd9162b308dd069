//! Whole-program benchmarks: the control plane under a thousand clients that behave like Envoy, and the sidecar beside Envoy,
//! and the platforms that services come from.
//!
//! Every figure is taken from outside: latencies where a client receives, CPU and memory from the kernel's books of the
//! measured process. The measured process has one core and the load the other, where the machine has two; where a platform's own
//! programs run besides, all share all cores.
//!
//! Start reading at `control_plane`, `sidecar` and `platforms`; each scenario says what it changes and what it waits for.

mod cli;
mod client;
mod control_plane;
mod estate;
mod kernel;
mod moments;
mod platforms;
mod process;
mod report;
mod sidecar;
mod wire;

use anyhow::Result;
use clap::Parser;

use crate::cli::{Cli, Part};
use crate::report::Report;

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut report = Report::load(&cli.out)?;
    // First: the other parts keep this process, and what it starts, on one core.
    if matches!(cli.part, Part::Platforms | Part::All) {
        let rows = platforms::run(&cli)?;
        report.replace("platforms", rows);
        report.save(&cli.out)?;
    }
    if matches!(cli.part, Part::ControlPlane | Part::All) {
        let rows = control_plane::run(&cli)?;
        report.replace("control-plane", rows);
    }
    if matches!(cli.part, Part::Sidecar | Part::All) {
        let rows = sidecar::run(&cli)?;
        report.replace("sidecar", rows);
    }
    report.save(&cli.out)?;
    report.print()
}
