//! The static registry: services and instances from YAML files, for machines without a platform, for tests, and as the
//! reference for every other adapter.
//!
//! Start reading at [`format`](mod@format), which is what an operator writes; [`check`](mod@check) makes services of it;
//! `catalogue` decides what changed; [`FileRegistry`] joins them with galley's file watcher.
//!
//! Promises:
//!
//! - ALWAYS: a change of a file takes effect within a fraction of a second, also when it is replaced by a rename, when a
//!   symbolic link in its path is swapped, and when its directory was removed and came back.
//! - ALWAYS: a file with a mistake keeps its last good version live, and the mistake is reported with file, line and column;
//!   the registry counts as degraded until it is corrected.
//! - NEVER: what cannot be read removes services. It is reported as degraded, and recovers by itself.
//! - NEVER: the first listing counts as complete while something is there that cannot be read.

mod catalogue;
pub mod check;
pub mod format;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use xebec_galley::diagnostic::visible;
use xebec_galley::source::{LogWindow, read_limited};
use xebec_galley::watch::{Batch, Watcher};
use xebec_galley::yaml::{self, Limits};
use xebec_galley::{Code, Diagnostic, Severity};
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::{Registry, RegistryEvent, RegistrySink, SinkClosed};

pub use crate::check::{Checked, Entry, check};
pub use crate::format::schema;

use crate::catalogue::{Catalogue, Touched};

/// How often watching is tried again where the kernel refuses it.
const RETRY: Duration = Duration::from_secs(1);

/// A registry that reads a file, or all `.yaml`, `.yml` and `.json` files of a directory.
#[derive(Debug, Clone)]
pub struct FileRegistry {
    root: PathBuf,
    id: RegistryId,
}

/// What [`FileRegistry::load`] found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// Every service of every good file.
    pub entries: Vec<Entry>,
    /// Everything that is wrong with the others.
    pub diagnostics: Vec<Diagnostic>,
}

/// One run: the state, and where its changes are said.
struct Run {
    root: PathBuf,
    id: RegistryId,
    catalogue: Catalogue,
    /// Files that are there and cannot be read, with the reason.
    unreadable: BTreeMap<PathBuf, String>,
    /// Files whose last good version is served because the present one has a mistake, with the first one.
    mistaken: BTreeMap<Arc<str>, String>,
    sink: RegistrySink,
    log: LogWindow,
    synced: bool,
    /// Why the registry is degraded, if it is.
    degraded: Option<String>,
}

// === impl FileRegistry ===

impl FileRegistry {
    /// A registry of the file or directory `path`, which need not exist yet. Its id is `file:PATH`.
    pub fn new(path: PathBuf) -> Self {
        let id = RegistryId(format!("file:{}", path.display()).into());
        Self { root: path, id }
    }

    /// Reads everything once, without a mesh: for offline translation and validation. As when serving, a file with a mistake
    /// has no services, and of two files that say one service, the first wins.
    pub fn load(path: &Path) -> Loaded {
        let mut loaded = Loaded::default();
        let unreadable = |path: &Path, error: io::Error| {
            Diagnostic::of_file(Severity::Error, Code::Unreadable, &name_of(path), format!("cannot be read: {error}"))
                .with_help("check the path and its permissions")
        };
        let files = match xebec_galley::check::files(path) {
            Ok(files) => files,
            Err(error) => {
                loaded.diagnostics.push(unreadable(path, error));
                return loaded;
            }
        };
        let id = Self::new(path.to_owned()).id;
        let mut catalogue = Catalogue::default();
        let mut touched = Touched::default();
        for file in files {
            match read(&file, &id) {
                Ok(checked) => {
                    let name = name_of(&file);
                    loaded.diagnostics.extend(checked.diagnostics);
                    catalogue.put(&name, checked.entries.unwrap_or_default(), &mut touched);
                }
                Err(error) => loaded.diagnostics.push(unreadable(&file, error)),
            }
        }
        loaded.entries = touched.keys().filter_map(|key| catalogue.effective(key)).cloned().collect();
        loaded
    }
}

#[async_trait]
impl Registry for FileRegistry {
    fn id(&self) -> RegistryId {
        self.id.clone()
    }

    async fn run(self: Box<Self>, sink: RegistrySink, stop: CancellationToken) {
        let run = Run {
            id: self.id,
            catalogue: Catalogue::default(),
            unreadable: BTreeMap::new(),
            mistaken: BTreeMap::new(),
            root: self.root,
            sink,
            log: LogWindow::new(),
            synced: false,
            degraded: None,
        };
        // Either way there is nobody left to report to.
        let _ = stop.run_until_cancelled(run.forever()).await;
    }
}

fn name_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

/// What a file says now.
fn read(path: &Path, id: &RegistryId) -> io::Result<Checked> {
    let name = name_of(path);
    Ok(match read_limited(path, Limits::default())? {
        Some(bytes) => check(&name, &bytes, id),
        None => {
            let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            Checked { entries: None, diagnostics: vec![yaml::too_large(&name, size, Limits::default())] }
        }
    })
}

// === impl Run ===

impl Run {
    async fn forever(mut self) -> Result<(), SinkClosed> {
        let mut watcher = loop {
            match Watcher::new(vec![self.root.clone()]) {
                Ok(watcher) => break watcher,
                Err(error) => {
                    self.trouble(Some(format!("{error}; raise the limits of fs.inotify"))).await?;
                    sleep(RETRY).await;
                }
            }
        };
        loop {
            let batch = watcher.next().await;
            self.take(batch).await?;
            for file in self.unreadable.keys() {
                watcher.look_again(file.clone());
            }
        }
    }

    async fn take(&mut self, batch: Batch) -> Result<(), SinkClosed> {
        let mut touched = Touched::default();
        for path in &batch.removed {
            self.unreadable.remove(path);
            self.mistaken.remove(&name_of(path));
            self.catalogue.put(&name_of(path), Vec::new(), &mut touched);
        }
        for path in batch.changed {
            match read(&path, &self.id) {
                Ok(checked) => {
                    self.unreadable.remove(&path);
                    self.changed(&name_of(&path), checked, &mut touched);
                }
                // Gone meanwhile: the watcher is about to say so.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text =
                        format!("{} cannot be read: {error}; its last good content stays in effect", path.display());
                    self.unreadable.insert(path, text);
                }
            }
        }
        let mut events = self.catalogue.settle(touched);
        // What is in there is unknown, and that is not the same as knowing that there is nothing.
        let unread = !self.unreadable.is_empty() || batch.problems.iter().any(|problem| problem.unread);
        if !self.synced && !unread {
            self.synced = true;
            events.push(RegistryEvent::Synced);
        }
        if !events.is_empty() {
            self.sink.send(events).await?;
        }
        let troubles: Vec<String> = batch
            .problems
            .into_iter()
            .map(|problem| problem.message)
            .chain(self.unreadable.values().chain(self.mistaken.values()).cloned())
            .collect();
        self.trouble((!troubles.is_empty()).then(|| visible(&troubles.join("; ")).into_owned())).await
    }

    /// Takes a file that is new or was written, or keeps its last good version.
    fn changed(&mut self, name: &Arc<str>, checked: Checked, touched: &mut Touched) {
        match checked.entries {
            Some(entries) => {
                self.mistaken.remove(name);
                self.catalogue.put(name, entries, touched);
            }
            None => {
                self.log.log(&checked.diagnostics);
                // A file that never had services may be somebody else's, who says what becomes of it.
                if self.catalogue.says_something(name) {
                    let first = checked.diagnostics.iter().find(|diagnostic| diagnostic.is_error());
                    let first = first.map_or_else(|| name.to_string(), Diagnostic::to_string);
                    let text = format!(
                        "{first}; its last good services stay in effect until it is corrected; other files are not affected"
                    );
                    self.mistaken.insert(Arc::clone(name), text);
                }
            }
        }
    }

    /// Says when the registry becomes degraded, and when it recovers.
    async fn trouble(&mut self, now: Option<String>) -> Result<(), SinkClosed> {
        if self.degraded == now {
            return Ok(());
        }
        self.degraded = now.clone();
        let event = match now {
            Some(text) => {
                error!("{text}");
                RegistryEvent::Degraded(text)
            }
            None => {
                info!("{} is read again", self.root.display());
                RegistryEvent::Recovered
            }
        };
        self.sink.send(vec![event]).await
    }
}

#[cfg(test)]
mod tests;
