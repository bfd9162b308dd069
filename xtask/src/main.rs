//! Everything a checkout can do to itself: `cargo xtask test|lint|peers|docs|bench|fuzz`.
//!
//! Start reading at [`test`], what a newcomer and CI run; [`peers`] says how real programs get here.
// This program's output is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod cargo;
mod docs;
mod fuzz;
mod go_peers;
mod lint;
mod peers;
mod report;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that must hold: formatting, lints, and every test, with the real peers they need
    Test(test::Arguments),
    /// Formatting, lints, and what may be depended on
    Lint,
    /// Bring the real programs that tests run against, and print where they are
    Peers(peers::Arguments),
    /// Write the generated pages of the documentation anew
    Docs(docs::Arguments),
    /// Measure whole programs, and write the figures to docs/performance.json
    Bench(bench::Arguments),
    /// Run the property tests with many more cases
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool> {
    match command {
        Command::Test(arguments) => test::run(&arguments),
        Command::Lint => Ok(lint::run()?.is_fine()),
        Command::Peers(arguments) => peers::run(&arguments),
        Command::Docs(arguments) => docs::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
    }
}
