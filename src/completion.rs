//! `xebec completion SHELL`.

use clap::CommandFactory;

use crate::cli::{Cli, CompletionArgs};
use crate::exit::Failure;
use crate::output;

/// Prints a completion script.
pub(crate) fn run(args: &CompletionArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "xebec", &mut script);
    output::write(&String::from_utf8_lossy(&script))
}
