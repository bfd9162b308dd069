//! Directories of YAML and JSON files, live.
//!
//! The kernel says which files change; only those are read again, and only what they changed is published. What this promises about
//! faulty, half-written, swapped and vanished files is written in [`watch`](crate::watch) and in the ledger beside this file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata, OpenOptions};
use std::future::Future;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::SourceUpdate;
use super::ledger::{Changes, Ledger};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::watch::{Batch, WatchError, Watcher};
use crate::yaml::{self, Limits};

/// Reads directories or single files, and keeps reading what changes.
#[derive(Debug)]
pub struct DirectorySource {
    roots: Vec<PathBuf>,
}

/// The state of a running source.
#[derive(Debug, Default)]
struct Running {
    ledger: Ledger,
    /// What was said about directories, by path, so that its end can be said too.
    troubles: BTreeMap<Arc<str>, String>,
    /// Files that are there and cannot be read.
    unread: BTreeSet<PathBuf>,
    /// Everything that is there was read once.
    synced: bool,
}

// === impl DirectorySource ===

impl DirectorySource {
    /// A source of these directories or files, in any order; they may be missing at first.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots }
    }

    /// Publishes everything once, and from then on what changes, until `stop` completes or nobody listens. Updates say something:
    /// events, another state of a file's problems, or `synced`, which waits until nothing is there that cannot be read. A file with a
    /// mistake can be read.
    ///
    /// # Errors
    /// [`WatchError`] where the kernel offers no file events. Faulty files and missing directories are no errors; they are reported.
    pub async fn run(
        self,
        updates: mpsc::Sender<SourceUpdate>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), WatchError> {
        let mut watcher = Watcher::new(self.roots)?;
        let mut running = Running::default();
        let mut first = true;
        let mut stop = std::pin::pin!(stop);
        loop {
            let batch = tokio::select! {
                () = &mut stop => return Ok(()),
                () = updates.closed() => return Ok(()),
                batch = watcher.next() => batch,
            };
            let synced = running.synced;
            let update = running.apply(&batch);
            for file in &running.unread {
                watcher.look_again(file.clone());
            }
            if !first && update.events.is_empty() && update.files.is_empty() && update.synced == synced {
                continue;
            }
            first = false;
            tokio::select! {
                () = &mut stop => return Ok(()),
                sent = updates.send(update) => if sent.is_err() { return Ok(()) },
            }
        }
    }

    /// Reads everything once, without watching. For offline commands.
    ///
    /// # Errors
    /// [`WatchError`] where the kernel offers no file events.
    pub async fn read_once(self) -> Result<SourceUpdate, WatchError> {
        let mut watcher = Watcher::new(self.roots)?;
        let batch = watcher.next().await;
        Ok(Running::default().apply(&batch))
    }
}

// === impl Running ===

impl Running {
    fn apply(&mut self, batch: &Batch) -> SourceUpdate {
        let mut changes = Changes::default();
        for path in &batch.removed {
            self.unread.remove(path);
            self.ledger.remove(&name_of(path), &mut changes);
        }
        for path in &batch.changed {
            let name = name_of(path);
            let content = read_limited(path, Limits::default());
            if content.is_ok() {
                self.unread.remove(path);
            }
            match content {
                Ok(Some(bytes)) => self.ledger.put(&name, &bytes, &mut changes),
                Ok(None) => {
                    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
                    self.ledger.fault(&name, yaml::too_large(&name, size, Limits::default()), &mut changes);
                }
                // Gone between its event and now: the watcher is about to say so.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let problem = Diagnostic::of_file(
                        Severity::Error,
                        Code::Unreadable,
                        &name,
                        format!("the file cannot be read: {error}"),
                    )
                    .with_help("its last good content stays in effect until it can be read");
                    self.ledger.fault(&name, problem, &mut changes);
                    self.unread.insert(path.clone());
                }
            }
        }
        let (events, mut files, mut diagnostics) = self.ledger.settle(changes);
        let troubles: BTreeMap<Arc<str>, String> =
            batch.problems.iter().map(|problem| (name_of(&problem.path), problem.message.clone())).collect();
        if troubles != self.troubles {
            for name in self.troubles.keys().chain(troubles.keys()) {
                if !files.contains(name) {
                    files.push(name.clone());
                }
            }
            for (name, message) in &troubles {
                diagnostics.push(Diagnostic::of_file(Severity::Error, Code::Unreadable, name, message.clone()));
            }
            self.troubles = troubles;
        }
        // Without what cannot be read, an incomplete list would pass for the whole.
        self.synced |= self.unread.is_empty() && !batch.problems.iter().any(|problem| problem.unread);
        SourceUpdate { events, files, diagnostics, synced: self.synced }
    }
}

fn name_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

/// The content of a file; `None` where it is larger than is read. Never waits for anybody.
///
/// # Errors
/// What the system says; [`ErrorKind::InvalidInput`] where it is a pipe, a socket, a device or a directory.
pub fn read_limited(path: &Path, limits: Limits) -> std::io::Result<Option<Vec<u8>>> {
    // Opening alone does something to a pipe or a device, so that those are not opened where it is known.
    regular(&std::fs::metadata(path)?)?;
    let file = open_at_once(path)?;
    // Another thing may have taken the name since.
    regular(&file.metadata()?)?;
    let mut bytes = Vec::new();
    let limit = limits.file_bytes as u64;
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

fn regular(metadata: &Metadata) -> std::io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Opens whatever has this name without waiting, for example until somebody writes into a pipe.
fn open_at_once(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_and_nobody_waits_for_its_writer() {
        let home = tempfile::tempdir().unwrap();
        let pipe = home.path().join("pipe.yaml");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (sender, opened) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Also where a pipe takes the name after the first look at it.
            let late = open_at_once(&pipe).and_then(|file| regular(&file.metadata()?));
            sender.send((late, read_limited(&pipe, Limits::default()))).unwrap();
        });
        let (late, read) = opened.recv_timeout(std::time::Duration::from_secs(10)).expect("it does not wait");
        assert_eq!(late.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(read.unwrap_err().to_string().contains("not a regular file"));
    }
}
