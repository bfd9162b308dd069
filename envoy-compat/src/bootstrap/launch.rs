//! Finding a suitable Envoy, and becoming it.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{BootstrapOptions, envoy, whole_seconds};
use crate::node::NodeConfig;

/// The oldest Envoy that understands what the control plane sends.
pub const MINIMUM_VERSION: (u32, u32) = (1, 34);

/// The environment variable that names the program.
const VARIABLE: &str = "XEBEC_ENVOY";

/// How Envoy is started.
#[derive(Debug, Clone, Default)]
pub struct LaunchOptions {
    /// The program; `None`: the variable `XEBEC_ENVOY`, then `envoy` on `PATH`.
    pub program: Option<PathBuf>,
    /// Worker threads; `None`: Envoy's own choice.
    pub concurrency: Option<u32>,
    /// How long connections are given when listeners are drained; `None`: Envoy's own choice.
    pub drain_time: Option<Duration>,
    /// Envoy's log level; `None`: Envoy's own choice.
    pub log_level: Option<String>,
    /// Lets several proxies share a host: no hot restart, hence no shared memory between them.
    pub disable_hot_restart: bool,
    /// Further arguments, last.
    pub extra: Vec<OsString>,
}

/// Why Envoy was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is none.
    #[error(
        "no Envoy was found: neither --envoy nor {VARIABLE} is set, and PATH holds no `envoy`; \
         install Envoy 1.{minor} or later, or point {VARIABLE} at it",
        minor = MINIMUM_VERSION.1
    )]
    NotFound,
    /// It was named but is not there, or is not a program.
    #[error("{path:?} is not a program that can be started: {source}; correct --envoy or {VARIABLE}")]
    NotRunnable {
        /// What was named.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It does not say its version as Envoy does.
    #[error("{path:?} does not say a version as Envoy does, but {output:?}; correct --envoy or {VARIABLE}")]
    NotEnvoy {
        /// The program.
        path: PathBuf,
        /// What it printed.
        output: String,
    },
    /// It is too old.
    #[error("{path:?} is Envoy {major}.{minor}; install {0}.{1} or later", MINIMUM_VERSION.0, MINIMUM_VERSION.1)]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        major: u32,
        /// Its version.
        minor: u32,
    },
    /// The bootstrap could not be written.
    #[error("the bootstrap cannot be written to {path:?}: {source}; make the directory writable or set TMPDIR")]
    Write {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Finds the program: `named`, then `XEBEC_ENVOY`, then `envoy` on `PATH`.
///
/// # Errors
/// [`LaunchError::NotFound`] when there is none. A program that was named is not looked for elsewhere.
pub fn find_envoy(named: Option<&Path>) -> Result<PathBuf, LaunchError> {
    find_in(named, std::env::var_os(VARIABLE), std::env::var_os("PATH"))
}

fn find_in(named: Option<&Path>, variable: Option<OsString>, path: Option<OsString>) -> Result<PathBuf, LaunchError> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if let Some(variable) = variable.filter(|v| !v.is_empty()) {
        return Ok(variable.into());
    }
    let directories = path.unwrap_or_default();
    std::env::split_paths(&directories)
        .map(|directory| directory.join("envoy"))
        .find(|candidate| candidate.is_file())
        .ok_or(LaunchError::NotFound)
}

/// Asks the program for its version, and refuses one that is older than [`MINIMUM_VERSION`].
///
/// # Errors
/// When it cannot be started, is not Envoy, or is too old.
pub fn envoy_version(program: &Path) -> Result<(u32, u32), LaunchError> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|source| LaunchError::NotRunnable { path: program.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (major, minor) = parse_version(&text).ok_or_else(|| LaunchError::NotEnvoy {
        path: program.to_owned(),
        output: text.trim().chars().take(200).collect(),
    })?;
    if (major, minor) < MINIMUM_VERSION {
        return Err(LaunchError::TooOld { path: program.to_owned(), major, minor });
    }
    Ok((major, minor))
}

/// Reads `PROGRAM version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn parse_version(output: &str) -> Option<(u32, u32)> {
    let (_, after) = output.split_once("version:")?;
    let mut numbers = after.trim().split('/').nth(1)?.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Everything after the program's name.
fn arguments(bootstrap: &Path, launch: &LaunchOptions) -> Vec<OsString> {
    let mut out: Vec<OsString> = vec!["-c".into(), bootstrap.into()];
    if let Some(concurrency) = launch.concurrency {
        out.extend(["--concurrency".into(), concurrency.to_string().into()]);
    }
    if let Some(time) = launch.drain_time {
        let drain = whole_seconds(time);
        out.extend(["--drain-time-s".into(), drain.to_string().into()]);
        out.extend(["--parent-shutdown-time-s".into(), (drain + drain.min(15)).to_string().into()]);
    }
    if let Some(level) = &launch.log_level {
        out.extend(["--log-level".into(), level.into()]);
    }
    if launch.disable_hot_restart {
        out.push("--disable-hot-restart".into());
    }
    out.extend(launch.extra.iter().cloned());
    out
}

/// Becomes Envoy: finds it, checks its version, writes the bootstrap to a file that only this user reads, and replaces this
/// process. Returns only when that failed.
pub fn run(node: &NodeConfig, options: &BootstrapOptions, launch: &LaunchOptions) -> LaunchError {
    match prepare(node, options, launch) {
        Ok((program, arguments)) => become_program(&program, &arguments),
        Err(error) => error,
    }
}

/// The program and its arguments, with the bootstrap written.
fn prepare(
    node: &NodeConfig,
    options: &BootstrapOptions,
    launch: &LaunchOptions,
) -> Result<(PathBuf, Vec<OsString>), LaunchError> {
    let program = find_envoy(launch.program.as_deref())?;
    let (major, minor) = envoy_version(&program)?;
    // Named by the process, which exec keeps, so that each running Envoy has one file and none is left behind twice.
    let path = std::env::temp_dir().join(format!("xebec-envoy-{}.json", std::process::id()));
    write_private(&path, &envoy(node, options)).map_err(|source| LaunchError::Write { path: path.clone(), source })?;
    tracing::info!(program = %program.display(), version = %format_args!("{major}.{minor}"), bootstrap = %path.display(), "starting Envoy");
    Ok((program, arguments(&path, launch)))
}

fn write_private(path: &Path, bootstrap: &serde_json::Value) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // A leftover of an earlier process with the same number, or somebody's link: never written through.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    serde_json::to_writer_pretty(&mut file, bootstrap)?;
    file.flush()
}

fn become_program(program: &Path, arguments: &[OsString]) -> LaunchError {
    use std::os::unix::process::CommandExt as _;
    let source = Command::new(program).args(arguments).exec();
    LaunchError::NotRunnable { path: program.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::node::NodeKind;

    #[test]
    fn envoys_version_line_is_read() {
        let line = "\nenvoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(parse_version(line), Some((1, 40)));
        assert_eq!(parse_version("envoy version: abc/1.41.0-dev/Modified/DEBUG/BoringSSL"), Some((1, 41)));
        assert_eq!(parse_version("GNU bash, version 5.2"), None);
    }

    fn script(directory: &Path, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = directory.join("envoy");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn an_old_envoy_is_refused_with_what_to_install() {
        let directory = tempfile::tempdir().unwrap();
        let old = script(directory.path(), "echo 'envoy version: abc/1.20.1/Clean/RELEASE/BoringSSL'");
        let error = envoy_version(&old).unwrap_err().to_string();
        assert!(error.contains("1.20") && error.contains("1.34 or later"), "{error}");
        let other = script(directory.path(), "echo hello");
        assert!(matches!(envoy_version(&other), Err(LaunchError::NotEnvoy { .. })));
    }

    #[test]
    fn the_program_is_looked_for_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let there = script(directory.path(), "");
        let path = Some(directory.path().as_os_str().to_owned());
        assert_eq!(find_in(Some(Path::new("/named")), Some("/var".into()), path.clone()).unwrap(), Path::new("/named"));
        assert_eq!(find_in(None, Some("/var".into()), path.clone()).unwrap(), Path::new("/var"));
        assert_eq!(find_in(None, Some("".into()), path).unwrap(), there);
        assert!(matches!(find_in(None, None, None), Err(LaunchError::NotFound)));
    }

    #[test]
    fn arguments_are_envoys_and_the_bootstrap_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "echo 'envoy version: abc/1.40.0/Clean/RELEASE/BoringSSL'");
        let launch = LaunchOptions {
            program: Some(program.clone()),
            concurrency: Some(2),
            drain_time: Some(Duration::from_secs(45)),
            extra: vec!["--base-id".into(), "7".into()],
            ..LaunchOptions::default()
        };
        let node = NodeConfig::new(NodeKind::Router, "edge", "default");
        let options = BootstrapOptions::new("127.0.0.1:15010".parse().unwrap());
        let (found, arguments) = prepare(&node, &options, &launch).unwrap();
        assert_eq!(found, program);
        let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
        let file = PathBuf::from(&words[1]);
        let wanted = "--concurrency 2 --drain-time-s 45 --parent-shutdown-time-s 60 --base-id 7";
        assert_eq!(words[2..].join(" "), wanted);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(written["node"]["id"], node.id());
        std::fs::remove_file(file).unwrap();
    }
}
