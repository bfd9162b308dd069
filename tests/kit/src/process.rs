//! Child processes: output into the test's folder, readiness by what they say, an end by id.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::signal::{self, Signal};
use crate::{Workdir, wait};

/// A running child in a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Where this process's output begins in the log files, which earlier processes of that name share.
    begins: (u64, u64),
    status: Option<ExitStatus>,
}

/// What a command that has ended said.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// A command for the `xebec` program under test, without any `XEBEC_*` variable of the caller's environment.
pub fn xebec<I: IntoIterator<Item: AsRef<OsStr>>>(arguments: I) -> Command {
    let mut command = Command::new(crate::peer::xebec());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("XEBEC_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").args(arguments);
    command
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started, or has not ended within a minute.
pub async fn run(mut command: Command) -> Output {
    let what = format!("{command:?}");
    let stdout = tempfile::NamedTempFile::new().expect("a temporary file");
    let stderr = tempfile::NamedTempFile::new().expect("a temporary file");
    command.stdin(Stdio::null()).process_group(0);
    command.stdout(stdout.reopen().expect("reopened")).stderr(stderr.reopen().expect("reopened"));
    let child = command.spawn().unwrap_or_else(|e| panic!("cannot run {what}: {e}"));
    let mut process = Process {
        name: what,
        child,
        stdout: stdout.path().to_owned(),
        stderr: stderr.path().to_owned(),
        begins: (0, 0),
        status: None,
    };
    let status = process.wait(Duration::from_secs(60)).await;
    Output { code: status.code(), stdout: process.stdout(), stderr: process.stderr() }
}

// === impl Process ===

impl Process {
    /// Starts a command; its output goes to `logs/NAME.out` and `logs/NAME.err` in the test's folder.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(work: &Workdir, name: &str, command: Command) -> Self {
        Self::start_in(work.path(), name, command)
    }

    /// The same, for those who keep the path of the test's folder: peers that start their program again.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_in(folder: &Path, name: &str, mut command: Command) -> Self {
        let stdout = folder.join(format!("logs/{name}.out"));
        let stderr = folder.join(format!("logs/{name}.err"));
        let begins = (length(&stdout), length(&stderr));
        command.stdin(Stdio::null()).stdout(append(&stdout)).stderr(append(&stderr)).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        Self { name: name.to_owned(), child, stdout, stderr, begins, status: None }
    }

    /// What it was called when it was started.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read_from(&self.stdout, self.begins.0)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read_from(&self.stderr, self.begins.1)
    }

    /// Its exit status, once it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name));
        }
        self.status
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.status().is_none()
    }

    /// Waits until it has written `text`, on either stream, and returns the line.
    ///
    /// # Panics
    /// When it ends without, or has not within `timeout`.
    pub async fn line_with(&mut self, text: &str, timeout: Duration) -> String {
        let start = Instant::now();
        loop {
            let ended = self.status();
            for output in [self.stdout(), self.stderr()] {
                if let Some(line) = output.lines().find(|line| line.contains(text)) {
                    return line.to_owned();
                }
            }
            if let Some(status) = ended {
                panic!("{} ended ({status}) before it said {text:?}:\n{}{}", self.name, self.stdout(), self.stderr());
            }
            assert!(
                start.elapsed() < timeout,
                "{} did not say {text:?} within {timeout:?}:\n{}{}",
                self.name,
                self.stdout(),
                self.stderr()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for something else than a line while the process runs, such as an answer of its admin endpoint.
    ///
    /// # Panics
    /// When the process ends, or the condition does not hold within `timeout`.
    pub async fn until(&mut self, timeout: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let name = self.name.clone();
        wait::eventually(timeout, &format!("{name}: {what}"), async || {
            let ended = self.status();
            if condition().await {
                return true;
            }
            if let Some(status) = ended {
                panic!("{name} ended ({status}) before {what}:\n{}{}", self.stdout(), self.stderr());
            }
            false
        })
        .await;
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// When it has not within `timeout`.
    pub async fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::eventually(timeout, &what, async || self.status().is_some()).await;
        self.status.expect("just seen")
    }

    /// Sends it a signal; nothing happens when it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            signal::send(self.pid(), signal);
        }
    }

    /// Kills it and everything it started, now, as a power cut would, and waits until it is gone.
    pub fn kill(&mut self) {
        // The leader is reaped last: until then its group id cannot be somebody else's.
        if self.status.is_none() {
            signal::send_group(self.pid(), Signal::Kill);
            self.status = self.child.wait().ok();
        }
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// When it has not ended within `timeout`.
    pub async fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        self.signal(Signal::Terminate);
        self.wait(timeout).await
    }

    /// Its resident memory in bytes, as the kernel counts it; `None` where there is no `/proc`, or when it has ended.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_some() {
            return;
        }
        self.kill();
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

fn read_from(path: &Path, begin: u64) -> String {
    let content = std::fs::read(path).unwrap_or_default();
    let begin = usize::try_from(begin).unwrap_or(usize::MAX).min(content.len());
    String::from_utf8_lossy(&content[begin..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bash(script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_child_is_ready_when_it_says_so_and_its_group_is_gone_when_it_is_dropped() {
        let work = Workdir::new("child");
        let mut process = Process::start(&work, "child", bash("sleep 100 & echo grandchild $!; wait"));
        let line = process.line_with("grandchild", Duration::from_secs(10)).await;
        let grandchild: u32 = line.trim_start_matches("grandchild ").parse().unwrap();
        assert!(running(grandchild));
        drop(process);
        wait::eventually(Duration::from_secs(10), "the grandchild is gone", async || !running(grandchild)).await;
    }

    #[tokio::test]
    async fn a_second_child_of_that_name_is_not_taken_for_ready_by_the_first_ones_words() {
        let work = Workdir::new("second");
        let mut first = Process::start(&work, "serve", bash("echo ready one"));
        assert_eq!(first.line_with("ready", Duration::from_secs(10)).await, "ready one");
        let mut second = Process::start(&work, "serve", bash("echo ready two"));
        assert_eq!(second.line_with("ready", Duration::from_secs(10)).await, "ready two");
    }

    #[tokio::test]
    async fn output_and_exit_code_of_a_command_are_kept_apart() {
        let output = run(bash("echo data; echo log >&2; exit 3")).await;
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(3), "data\n", "log\n"));
    }

    #[tokio::test]
    #[should_panic(expected = "ended (exit status: 7) before it said \"ready\":\nbad flag")]
    async fn a_child_that_ends_before_it_is_ready_is_named_with_its_words() {
        let work = Workdir::new("ends");
        Process::start(&work, "serve", bash("echo bad flag; exit 7")).line_with("ready", Duration::from_secs(10)).await;
    }

    fn running(pid: u32) -> bool {
        // A zombie that nobody reaps (its parent was killed, and there is no init) has ended all the same.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
    }
}
