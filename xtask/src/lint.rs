//! What a compiler alone does not insist on.

use std::process::Stdio;

use anyhow::Result;

use crate::cargo;
use crate::report::{Report, begin};

/// Formatting, lints with warnings as errors, and what may be depended on.
///
/// # Errors
/// When Cargo cannot be run.
pub fn run() -> Result<Report> {
    let mut report = Report::default();
    step(&mut report, "fmt", &["fmt", "--all", "--check"])?;
    step(&mut report, "clippy", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    let installed = cargo::command(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if installed.is_ok_and(|status| status.success()) {
        step(&mut report, "deny", &["deny", "--log-level", "error", "check"])?;
    } else {
        println!("==> cargo deny check: skipped, cargo-deny is not installed (`cargo install --locked cargo-deny`)");
    }
    Ok(report)
}

fn step(report: &mut Report, name: &str, arguments: &[&str]) -> Result<()> {
    let end = begin(&format!("cargo {}", arguments.join(" ")));
    report.check(name, cargo::succeeds(&mut cargo::command(arguments))?);
    end();
    Ok(())
}
