//! The files of the documentation that the program itself prints: they are never edited, and never stale.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo;

const COMMAND_LINE: &str = "docs/src/reference/cli.md";
const REGISTRY_SCHEMA: &str = "docs/src/reference/file-registry.schema.json";

/// What to do with generated pages.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Change nothing; fail when a page is not up to date
    #[arg(long)]
    check: bool,
}

/// Writes the generated pages, or checks them. False when a check found a stale one.
///
/// # Errors
/// When `xebec` cannot be built or run, or a page cannot be written.
pub fn run(arguments: &Arguments) -> Result<bool> {
    if !cargo::succeeds(&mut cargo::command(["build", "--quiet", "--bin", "xebec"]))? {
        bail!("xebec does not build");
    }
    if arguments.check {
        return check();
    }
    for (path, content) in pages()? {
        let path = cargo::root().join(path);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(true)
}

/// Whether the generated pages are up to date with the `xebec` that was built last; says which are not.
///
/// # Errors
/// When `xebec` cannot be run.
pub fn check() -> Result<bool> {
    let mut fine = true;
    for (path, content) in pages()? {
        if std::fs::read_to_string(cargo::root().join(path)).unwrap_or_default() != content {
            println!("    {path} is stale: `cargo xtask docs` writes it anew");
            fine = false;
        }
    }
    Ok(fine)
}

fn pages() -> Result<Vec<(&'static str, String)>> {
    let xebec = cargo::target_directory()?.join("debug/xebec");
    Ok(vec![(COMMAND_LINE, command_line(&xebec)?), (REGISTRY_SCHEMA, ask(&xebec, &["schema", "file-registry"])?)])
}

/// The help of every command, in the order in which their parents list them.
fn command_line(xebec: &Path) -> Result<String> {
    let mut page = String::from(
        "# Command line\n\n<!-- Made by `cargo xtask docs` from `--help`. Change the help texts instead. -->\n\n\
         What follows is what `--help` prints. A flag can also be given as the variable beside it; a flag wins.\n",
    );
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let mut line: Vec<&str> = path.iter().map(String::as_str).collect();
        let heading = "#".repeat((line.len() + 2).min(4));
        let name = [&["xebec"], line.as_slice()].concat().join(" ");
        line.push("--help");
        let help = ask(xebec, &line)?;
        let text = help.trim_end().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        page.push_str(&format!("\n{heading} `{name}`\n\n```text\n{text}\n```\n"));
        // The last in goes out first: reversed, commands come in the order of their parent's help.
        for command in subcommands(&help).into_iter().rev() {
            open.push(path.iter().cloned().chain([command]).collect());
        }
    }
    Ok(page)
}

/// The names under `Commands:` of a help text.
fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| line.trim() != "Commands:").skip(1);
    let names = lines.take_while(|line| line.starts_with(' ')).filter(|line| !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

/// What `xebec ARGUMENTS` prints, in an environment in which it prints the same for everybody.
fn ask(xebec: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(xebec);
    command.args(arguments).env_clear().env("COLUMNS", "100").env("NO_COLOR", "1").env("TERM", "dumb");
    let output = command.output().with_context(|| format!("cannot run {}", xebec.display()))?;
    if !output.status.success() {
        bail!("xebec {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("xebec {} is not UTF-8", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_from_a_help_text_in_order_without_wrapped_lines() {
        let help = "A mesh\n\nUsage: xebec <COMMAND>\n\nCommands:\n  serve         The control plane,\n                in one process\n  \
                    proxy-status  What proxies have [aliases: ps]\n  help          Print this\n\nOptions:\n  -h, --help  Print help\n";
        assert_eq!(subcommands(help), ["serve", "proxy-status"]);
        assert!(subcommands("Usage: xebec serve\n\nOptions:\n  -h, --help\n").is_empty());
    }
}
