//! Runs the shell blocks of a page, as a reader would: one after the other, in one empty folder.
//!
//! `xebec` is on the `PATH`, and `cargo run --release -- ARGUMENTS` runs the `xebec` that the tests were built with. Blocks may leave
//! processes in the background with `&`; they live until the page ends. `install` is the checkout's folder of that name.
//! Since pages use Xebec's default ports, only one page runs at a time on a machine.
//!
//! A page that needs `kube` finds a cluster in `~/.kube/config` and `kubectl` on the `PATH`, and runs in the network of its pods.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::doc::{self, Block};
use crate::process::Process;
use crate::{Kube, Kubelet, Peer, Workdir, netns, nomad, peer};

/// What became of a page.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Names of the blocks that ran and kept their promises.
    pub ran: Vec<String>,
    /// Names of the blocks that did not run, and why.
    pub skipped: Vec<(String, String)>,
    /// The first broken promise; later blocks of the page did not run.
    pub failed: Option<String>,
}

struct Session {
    work: Workdir,
    /// Everything that blocks started: leaders of process groups, kept until the page ends.
    groups: Vec<Process>,
    /// In the order in which they end.
    cluster: Option<(Kubelet, Kube)>,
}

/// Runs all blocks of a page, given its text. Peers that are missing make its blocks, and those after them, skipped.
pub async fn run_page(path: &Path, text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let blocks = match doc::blocks(text) {
        Ok(blocks) => blocks,
        Err(mistake) => {
            outcome.failed = Some(format!("{}: {mistake}", path.display()));
            return outcome;
        }
    };
    if blocks.iter().all(|block| block.promise.skip.is_some()) {
        outcome.skipped = blocks.into_iter().map(|b| (b.name, b.promise.skip.unwrap_or_default())).collect();
        return outcome;
    }
    let _alone = one_at_a_time().await;
    let needs = |peer: Peer| blocks.iter().any(|b| b.promise.skip.is_none() && b.promise.needs.contains(&peer));
    if !needs(Peer::Kube) || Peer::Kube.path().is_none() {
        return run_blocks(path, blocks, false).await;
    }
    let (page, own) = (path.to_owned(), blocks.clone());
    let run = move || netns::inside(async move || run_blocks(&page, own, true).await);
    match tokio::task::spawn_blocking(run).await {
        Ok(Some(outcome)) => return outcome,
        Ok(None) => {
            let why = || "only root may make the network of its pods".to_owned();
            outcome.skipped = blocks.into_iter().map(|b| (b.name, why())).collect();
        }
        Err(error) => outcome.failed = Some(format!("{}: {error}", path.display())),
    }
    outcome
}

async fn run_blocks(path: &Path, blocks: Vec<Block>, cluster: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut session = Session::new(path);
    if cluster {
        session.start_cluster().await;
    }
    let mut missing: Option<Peer> = None;
    for block in blocks {
        missing = missing.or_else(|| block.promise.needs.iter().copied().find(|peer| peer.path().is_none()));
        if let Some(reason) = &block.promise.skip {
            outcome.skipped.push((block.name, reason.clone()));
        } else if let Some(peer) = missing {
            outcome.skipped.push((block.name, format!("{peer:?} is not here ({} is not set)", peer.variable())));
        } else if let Err(reason) = session.run(&block).await {
            outcome.failed = Some(format!("{}:{} ({}): {reason}", path.display(), block.line, block.name));
            break;
        } else {
            outcome.ran.push(block.name);
        }
    }
    outcome
}

// === impl Session ===

impl Session {
    fn new(page: &Path) -> Self {
        let name = page.file_stem().map_or_else(|| "page".to_owned(), |n| n.to_string_lossy().into_owned());
        let work = Workdir::new(&format!("doc-{name}"));
        for folder in ["bin", "home", "page"] {
            work.create_dir(folder);
        }
        let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install");
        std::os::unix::fs::symlink(&install, work.join("page/install"))
            .unwrap_or_else(|e| panic!("cannot link {}: {e}", install.display()));
        let xebec = peer::xebec();
        program(&work, "bin/xebec", &format!("exec {xebec:?} \"$@\"\n"));
        program(
            &work,
            "bin/cargo",
            "if [[ \"$1 $2 $3\" == 'run --release --' ]]; then shift 3; exec xebec \"$@\"; fi\n\
             echo \"cargo $*: the tests of the docs only know cargo run --release -- ARGUMENTS\" >&2\nexit 1\n",
        );
        for (name, peer) in doc::PROGRAMS {
            if let Some(path) = peer.path() {
                program(&work, &format!("bin/{name}"), &format!("exec {path:?} \"$@\"\n"));
            }
        }
        Self { work, groups: Vec::new(), cluster: None }
    }

    /// Starts a cluster that runs pods, and what a reader has who administers it.
    async fn start_cluster(&mut self) {
        let Some(kube) = Kube::start(&self.work).await else { return };
        let kubelet = Kubelet::start(&self.work, &kube).await;
        let config = std::fs::read(kube.kubeconfig()).expect("the kubeconfig was just written");
        self.work.write("home/.kube/config", config);
        program(&self.work, "bin/kubectl", &format!("exec {:?} kubectl \"$@\"\n", kube.program()));
        self.cluster = Some((kubelet, kube));
    }

    async fn run(&mut self, block: &Block) -> Result<(), String> {
        let number = self.groups.len();
        let script = self.work.write(format!("blocks/{number}.sh"), &block.script);
        let code = self.work.join(format!("blocks/{number}.code"));
        // The leader outlives the block: while it sleeps, the group and its id are the session's to kill.
        let leader = "bash -euo pipefail \"$1\"; echo $? > \"$2.new\"; mv \"$2.new\" \"$2\"; exec sleep infinity";
        let mut command = Command::new("bash");
        command.args(["-c", leader, "block"]).arg(&script).arg(&code).current_dir(self.work.join("page"));
        self.environment(&mut command);
        let process = Process::start(&self.work, &format!("{number}-{}", block.name), command);
        self.groups.push(process);
        let process = self.groups.last().ok_or("no process")?;
        let promise = &block.promise;
        let start = Instant::now();
        loop {
            let ended = std::fs::read_to_string(&code).ok().and_then(|c| c.trim().parse::<i32>().ok());
            let said = format!("{}{}", process.stdout(), process.stderr());
            let ready = promise.background && promise.ready.as_ref().is_none_or(|text| said.contains(text));
            match ended {
                None if ready => return Ok(()),
                None if start.elapsed() > promise.timeout => {
                    return Err(format!("not done within {:?}; it said:\n{said}", promise.timeout));
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
                Some(code) if promise.background => {
                    return Err(format!("ended with {code}, but should stay; it said:\n{said}"));
                }
                Some(code) if code != promise.exit => {
                    return Err(format!("ended with {code} instead of {}; it said:\n{said}", promise.exit));
                }
                Some(_) => {
                    return match promise.expect.iter().find(|text| !said.contains(*text)) {
                        Some(text) => Err(format!("did not say {text:?}; it said:\n{said}")),
                        None => Ok(()),
                    };
                }
            }
        }
    }

    fn environment(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("XEBEC_") {
                command.env_remove(name);
            }
        }
        let mut path = self.work.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command.env_remove("KUBECONFIG");
        command.env("PATH", path).env("HOME", self.work.join("home")).env("NO_COLOR", "1").env("TERM", "dumb");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.groups.clear();
        // The tasks of a Nomad agent are in groups of their own.
        nomad::end_below(&self.work.join("page"));
    }
}

fn program(work: &Workdir, path: &str, script: &str) {
    let path = work.write(path, format!("#!/usr/bin/env bash\n{script}"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|e| panic!("cannot make {} executable: {e}", path.display()));
}

/// Waits until no other page runs on this machine, and holds that as long as the file is open.
async fn one_at_a_time() -> File {
    let path = std::env::temp_dir().join("xebec-test-docs.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
    while file.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(page: &str) -> Outcome {
        let mut session = Session { work: Workdir::new("doc"), groups: Vec::new(), cluster: None };
        session.work.create_dir("page");
        let mut outcome = Outcome::default();
        for block in doc::blocks(page).unwrap() {
            match session.run(&block).await {
                Ok(()) => outcome.ran.push(block.name),
                Err(reason) => outcome.failed = Some(reason),
            }
        }
        outcome
    }

    #[tokio::test]
    async fn blocks_share_a_folder_and_a_background_process_lives_from_one_to_the_next() {
        let page = "<!-- test: one; background; ready: up -->\n```sh\necho $$ > pid; echo up; sleep 100\n```\n\
                    <!-- test: two; expect: alive -->\n```sh\nsleep 100 & kill -0 $(cat pid) && echo alive\n```\n";
        let outcome = outcome(page).await;
        assert_eq!((outcome.ran.as_slice(), outcome.failed), (&["one".to_owned(), "two".to_owned()][..], None));
    }

    #[tokio::test]
    async fn broken_promises_are_named() {
        for (page, what) in [
            ("```sh\nfalse\ntrue\n```\n", "ended with 1 instead of 0"),
            ("```sh\nfalse | true\n```\n", "ended with 1 instead of 0"),
            ("<!-- test: x; expect: hello -->\n```sh\necho help\n```\n", "did not say \"hello\"; it said:\nhelp"),
            ("<!-- test: x; background; ready: up -->\n```sh\necho down\n```\n", "ended with 0, but should stay"),
            ("<!-- test: x; timeout: 0 -->\n```sh\nsleep 5\n```\n", "not done within"),
        ] {
            let failed = outcome(page).await.failed.unwrap_or_default();
            assert!(failed.contains(what), "{page:?}: {failed}");
        }
        let fine = outcome("<!-- test: x; exit: 1 -->\n```sh\nfalse\n```\n").await;
        assert_eq!(fine.failed, None);
    }
}
