//! Long runs of the property tests: random input, shrunk when it breaks something.

use anyhow::Result;

use crate::cargo;
use crate::report::begin;

/// How long, and what.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Random inputs per property
    #[arg(long, default_value_t = 100_000)]
    cases: u32,
}

/// Runs them. False when one found something.
///
/// # Errors
/// When Cargo cannot be run.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let mut line = vec!["test", "--workspace", "--lib"];
    line.extend(arguments.filter.as_deref());
    let end = begin(&format!("PROPTEST_CASES={} cargo {}", arguments.cases, line.join(" ")));
    let fine = cargo::succeeds(cargo::command(&line).env("PROPTEST_CASES", arguments.cases.to_string()))?;
    end();
    Ok(fine)
}
