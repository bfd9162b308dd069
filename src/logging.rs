//! Logs go to stderr, as text or JSON; to a file while something else is drawn on the terminal.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};
use xebec_envoy_compat::admin::LogControl;

use crate::exit::Failure;

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// Flags about logs, common to all commands.
#[derive(Debug, Clone, Args)]
pub struct LoggingFlags {
    /// How logs look.
    #[arg(long, global = true, env = "XEBEC_LOG_FORMAT", value_enum, default_value = "text", help_heading = "Logging")]
    pub log_format: LogFormat,
    /// Which logs are written: error, warn, info, debug or trace, or a list such as `info,xebec_pilot::xds=debug`.
    #[arg(long, global = true, env = "XEBEC_LOG_LEVEL", help_heading = "Logging")]
    pub log_level: Option<String>,
    /// More logs; repeat for more still.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Logging")]
    pub verbose: u8,
    /// Errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Logging")]
    pub quiet: bool,
}

/// Starts logging, at `info` without flags. A command that `draws` on the terminal will send logs [to a file](to_file): they
/// are not coloured.
///
/// # Errors
/// When `--log-level` is not a valid filter.
pub fn init(flags: &LoggingFlags, draws: bool) -> Result<(), Failure> {
    let level = match (&flags.log_level, flags.quiet, flags.verbose) {
        (Some(level), _, _) => level.clone(),
        (None, true, _) => "error".into(),
        (None, false, 0) => "info,h2=warn,hyper=warn,tower=warn".into(),
        (None, false, 1) => "debug,h2=warn,hyper=info,tower=info".into(),
        (None, false, _) => "trace".into(),
    };
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Failure::usage(format!("--log-level {level:?} is not a filter: {error}"))
            .help("use error, warn, info, debug or trace, or TARGET=LEVEL separated by commas")
    })?;
    let (filter, handle) = reload::Layer::new(filter);
    let ansi = !draws && crate::output::colour_wanted() && io::IsTerminal::is_terminal(&io::stderr());
    let layer = fmt::layer().with_writer(|| Output);
    let layer = match flags.log_format {
        LogFormat::Text => layer.with_ansi(ansi).boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).with(Problems).init();
    // Logging starts once; the first handle is the one that works.
    let _ = FILTER.set(handle);
    Ok(())
}

/// Where logs go instead of stderr.
static TO_FILE: Mutex<Option<File>> = Mutex::new(None);

/// The last problem that was logged.
static LAST: Mutex<Option<Problem>> = Mutex::new(None);

/// Writes to where logs go at the moment.
struct Output;

/// Remembers the last problem.
struct Problems;

struct Problem {
    at: Instant,
    level: Level,
    text: String,
}

/// While it lives, logs go to a file; afterwards to stderr again.
#[must_use]
pub(crate) struct InFile(());

/// Sends logs to this file, which is written anew.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn to_file(path: &Path) -> io::Result<InFile> {
    let file = File::create(path)?;
    *TO_FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    Ok(InFile(()))
}

/// The last error or warning in one line, with the place that it is about, and when it was logged.
pub(crate) fn last_problem() -> Option<(Instant, String)> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|problem| (problem.at, problem.text.clone()))
}

/// One line of a message. Of a drawn one, which points into a file: the place, what is wrong, and the help.
fn in_one_line(message: &str) -> String {
    let place = message.split_once("─[").and_then(|(_, after)| after.split_once(']')).map(|(place, _)| place);
    let starting = |starts: &[&str]| {
        message.lines().map(str::trim).find(|line| starts.iter().any(|start| line.starts_with(start)))
    };
    let drawn = place.zip(starting(&["error:", "warning:"]));
    match (drawn, starting(&["help:"])) {
        (Some((place, what)), Some(help)) => format!("{place}: {what}; {help}"),
        (Some((place, what)), None) => format!("{place}: {what}"),
        (None, _) => message.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

// === impl InFile ===

impl Drop for InFile {
    fn drop(&mut self) {
        *TO_FILE.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

// === impl Output ===

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *TO_FILE.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Problems ===

impl<S: Subscriber> tracing_subscriber::Layer<S> for Problems {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut text = Words::default();
        event.record(&mut text);
        let new = Problem { at: Instant::now(), level, text: in_one_line(&(text.message + &text.fields)) };
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|last| new.replaces(last)) {
            *last = Some(new);
        }
    }
}

impl Problem {
    /// A warning right after an error is about its consequences; the error says more.
    fn replaces(&self, last: &Self) -> bool {
        self.level <= last.level || self.at.saturating_duration_since(last.at) > Duration::from_secs(1)
    }
}

/// An event's words.
#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        }
    }
}

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Shows and changes which logs are written while the process runs.
pub(crate) fn control() -> LogControl {
    Arc::new(|wanted| {
        let handle = FILTER.get().ok_or("logging has not started")?;
        if let Some(wanted) = wanted {
            let filter = EnvFilter::try_new(wanted).map_err(|error| format!("{wanted:?} is not a filter: {error}"))?;
            handle.reload(filter).map_err(|error| error.to_string())?;
        }
        handle.with_current(ToString::to_string).map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_message_becomes_a_line_with_its_place_and_another_stays_as_it_is() {
        let drawn =
            "syntax\n\n  error: wrong here\n   ╭─[/d/rules/a.yaml:6:7]\n 5 │ x\n   ·  ^\n   ╰────\n  help: mend it\n";
        assert_eq!(in_one_line(drawn), "/d/rules/a.yaml:6:7: error: wrong here; help: mend it");
        assert_eq!(in_one_line("the server\n has stopped error=x"), "the server has stopped error=x");
    }

    #[test]
    fn a_warning_about_an_error_does_not_hide_it_and_a_later_one_does() {
        let start = Instant::now();
        let problem = |level, seconds| Problem { at: start + Duration::from_secs(seconds), level, text: String::new() };
        let error = problem(Level::ERROR, 0);
        assert!(!problem(Level::WARN, 0).replaces(&error));
        assert!(problem(Level::ERROR, 0).replaces(&error));
        assert!(problem(Level::WARN, 5).replaces(&error));
        assert!(error.replaces(&problem(Level::WARN, 0)));
    }
}
