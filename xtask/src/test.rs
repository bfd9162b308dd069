//! Every test, with the real peers that they need.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::report::{Report, begin};
use crate::{cargo, docs, lint, peers};

/// What to test.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only tests whose name contains this; formatting and lints are left out
    filter: Option<String>,
    /// Arguments for the test programs themselves, such as --test-threads=1
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs everything and ends with the sum on a line of its own. False when something failed.
///
/// # Errors
/// When Cargo cannot be run at all.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let mut report = Report::default();
    if arguments.filter.is_none() {
        report.add(lint::run()?);
    }
    let end = begin("peers");
    let found = peers::bring(&peers::Peer::ALL)?;
    let ci = std::env::var("CI").as_deref() == Ok("true");
    for (peer, error) in &found.missing {
        println!(
            "    {} is missing, so tests that need it are {}: {error:#}",
            peer.name(),
            if ci { "failed" } else { "SKIPPED" }
        );
        if ci {
            report.check(peer.name(), false);
        }
    }
    end();
    report.add(tests(arguments, &found)?);
    if arguments.filter.is_none() {
        let end = begin("generated pages");
        // A page that cannot be made is as wrong as a stale one: the sum must come in any case.
        let fresh = docs::check().unwrap_or_else(|error| {
            println!("    {error:#}");
            false
        });
        report.check("generated pages", fresh);
        end();
    }
    for name in &report.names {
        println!("FAILED {name}");
    }
    println!("{report}");
    Ok(report.is_fine())
}

fn tests(arguments: &Arguments, found: &peers::Found) -> Result<Report> {
    let mut line = vec!["test", "--workspace", "--no-fail-fast"];
    line.extend(arguments.filter.as_deref());
    if !arguments.rest.is_empty() {
        line.push("--");
        line.extend(arguments.rest.iter().map(String::as_str));
    }
    let end = begin(&format!("cargo {}", line.join(" ")));
    let skips = Skips::new()?;
    let mut command = cargo::command(&line);
    command.envs(found.variables()).env("XEBEC_SKIPS", &skips.path).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut report = Report::default();
    let output = child.stdout.take().context("no output of cargo test")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what cargo test says")?;
        // Quiet about what is as it should be: a thousand lines of "ok" hide the one that is not.
        if !(line.starts_with("test ") && line.ends_with("... ok")) {
            println!("{line}");
        }
        report.add(count(&line));
    }
    std::io::stdout().flush()?;
    let fine = child.wait().context("cannot wait for cargo test")?.success();
    // What the tests reported as skipped is "ok" for the test program.
    for line in skips.lines() {
        println!("SKIPPED {line}");
        report.passed = report.passed.saturating_sub(1);
        report.skipped += 1;
    }
    if !fine && report.is_fine() {
        report.check("cargo test (it did not come to an end, or did not compile)", false);
    }
    end();
    Ok(report)
}

/// Reads a line of a test program: its summary, or the name of a test that failed.
fn count(line: &str) -> Report {
    let mut report = Report::default();
    if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
        report.names.push(name.to_owned());
    }
    if let Some(summary) = line.strip_prefix("test result: ") {
        for part in summary.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match what {
                "passed" => report.passed = number,
                "failed" => report.failed = number,
                "ignored" => report.skipped = number,
                _ => {}
            }
        }
    }
    report
}

/// The file into which tests write that they skipped themselves.
struct Skips {
    path: PathBuf,
}

// === impl Skips ===

impl Skips {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("xebec-skips-{}", std::process::id()));
        std::fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path })
    }

    fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.path).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Skips {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_programs_summary_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.31s";
        assert_eq!(count(line), Report { passed: 12, failed: 3, skipped: 1, names: vec![] });
        let line = "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.31s";
        assert_eq!(count(line), Report { passed: 5, ..Report::default() });
    }

    #[test]
    fn a_failed_test_is_named_and_counted_once() {
        let report = count("test xds::tests::a_nack_is_kept ... FAILED");
        assert_eq!((report.failed, report.names), (0, vec!["xds::tests::a_nack_is_kept".to_owned()]));
        assert_eq!(count("test xds::tests::a_nack_is_kept ... ok"), Report::default());
        assert_eq!(count("testing 12 passed"), Report::default());
    }
}
