//! Exit codes: promises to people's scripts. The table is in `docs/src/reference/exit-codes.md`.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

/// All went well.
pub const FINE: u8 = 0;
/// A finding: an invalid document, a refused resource, an expectation that did not hold.
pub const FINDING: u8 = 1;
/// The command was called wrongly.
pub const USAGE: u8 = 2;
/// The server cannot be reached, or refused us.
pub const UNREACHABLE: u8 = 3;
/// Not found, or ambiguous.
pub const NOT_FOUND: u8 = 4;
/// Rejected, or in conflict with what is there (a busy port).
pub const CONFLICT: u8 = 5;
/// It took too long.
pub const TIMED_OUT: u8 = 6;
/// A bug of ours.
pub const BUG: u8 = 70;
/// Interrupted by the user.
pub const INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked: what happened, what to do about it, and the exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    help: Option<String>,
}

// === impl Failure ===

impl Failure {
    fn new(code: u8, message: impl Display) -> Self {
        Self { code, message: message.to_string(), help: None }
    }

    /// A finding whose details are already on stdout or stderr; the message is the summary.
    pub fn finding(message: impl Display) -> Self {
        Self::new(FINDING, message)
    }

    /// The arguments make no sense together.
    pub fn usage(message: impl Display) -> Self {
        Self::new(USAGE, message)
    }

    /// The server cannot be reached.
    pub fn unreachable(message: impl Display) -> Self {
        Self::new(UNREACHABLE, message)
    }

    /// Nothing, or more than one thing, has that name.
    pub fn not_found(message: impl Display) -> Self {
        Self::new(NOT_FOUND, message)
    }

    /// Something else holds what we need.
    pub fn conflict(message: impl Display) -> Self {
        Self::new(CONFLICT, message)
    }

    /// It took too long.
    pub fn timed_out(message: impl Display) -> Self {
        Self::new(TIMED_OUT, message)
    }

    /// Something that cannot happen did.
    pub fn bug(message: impl Display) -> Self {
        Self::new(BUG, message).help("this is a bug of xebec; please report it with the command that you ran")
    }

    /// The user pressed Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new(INTERRUPTED, "interrupted")
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Display) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Writes it to stderr.
    pub fn report(&self) {
        let mut err = std::io::stderr().lock();
        let colour = err.is_terminal() && crate::output::colour_wanted();
        let (red, bold, reset) = if colour { ("\x1b[31;1m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        // Nothing sensible is left to do when stderr is gone.
        let _ = writeln!(err, "{red}error:{reset} {}", self.message);
        if let Some(help) = &self.help {
            let _ = writeln!(err, "  {bold}help:{reset} {help}");
        }
    }
}
