//! Which configuration files there are, and which of them change: a directory watcher without parsing.
//!
//! [`Watcher::next`] first answers with every file, and from then on whenever files have appeared, changed or vanished, and have
//! come to rest. The kernel says what happens; nothing is polled, and a change of one file touches that file only.
//!
//! - `.yaml`, `.yml` and `.json` count, in all subdirectories; names that begin with a dot do not, nor do editors' other files.
//! - Symbolic links are followed, also when they are swapped as Kubernetes swaps a mounted ConfigMap's `..data`.
//! - ALWAYS: while a root, or anything below it, cannot be read, its files count as unchanged, the trouble is said, and reading is
//!   tried again.
//! - ALWAYS: a pipe, a socket or a device with the name of a file counts as one; reading it is refused, which is not the same as its
//!   absence. So does a directory that takes the place of a file, which is said as trouble.
//! - ALWAYS: a file that is being written is left alone until its writer closes it or pauses.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Quiet time after a file was closed, renamed or removed until it is looked at: long enough that the events of one save, which the
/// kernel reports one by one, are one batch.
const SETTLE: Duration = Duration::from_millis(2);
/// Quiet time after a write whose writer has not closed the file. Linux says when it does; elsewhere quiet has to do.
const SETTLE_OPEN: Duration = Duration::from_millis(if cfg!(target_os = "linux") { 1_000 } else { 100 });
/// Quiet time after the last removal until removals count: a directory that is being deleted loses its files first.
const SETTLE_REMOVAL: Duration = Duration::from_millis(60);
/// However busy, a change is looked at after this time.
const LONGEST: Duration = Duration::from_secs(1);
/// However busy, a file that nobody closes is looked at after this time.
const LONGEST_OPEN: Duration = Duration::from_secs(5);
/// How long a root that came back may take to fill up again before what is still missing counts as removed.
const RETURN: Duration = Duration::from_secs(1);
/// How often what cannot be read is tried again: not all that ends such trouble makes an event.
const AGAIN: Duration = Duration::from_secs(3);
/// Directories inside of directories; more is a loop of links.
const DEEPEST: usize = 32;
/// Directories that are looked into, by whatever path: links between a few directories make exponentially many paths.
pub(crate) const MOST_DIRECTORIES: usize = 4096;

/// What has happened to files since the last batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Files that are new or were written. Their content may be the same as before.
    pub changed: Vec<PathBuf>,
    /// Files that are gone.
    pub removed: Vec<PathBuf>,
    /// Everything that cannot be read at this time; replaces what earlier batches said.
    pub problems: Vec<Problem>,
}

/// A root, or something below one, that cannot be read or not be watched. Its files count as unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub path: PathBuf,
    /// Why, for an operator.
    pub message: String,
    /// Whether files may be there that nobody has seen. Otherwise all were seen, and only later changes may go unnoticed.
    pub unread: bool,
}

/// Watching is impossible.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's file events are not available: {0}")]
pub struct WatchError(#[from] notify::Error);

/// Watches some directories or files.
pub struct Watcher {
    roots: Vec<Root>,
    backend: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<notify::Result<notify::Event>>,
    /// Real directories that the kernel watches, and the inode that each had.
    watched: HashMap<PathBuf, u64>,
    files: BTreeMap<PathBuf, Stamp>,
    pending_files: HashMap<PathBuf, Pending>,
    pending_roots: HashMap<usize, Pending>,
    last_removal: Option<Instant>,
    problems: Vec<Problem>,
    started: bool,
}

struct Root {
    /// As the operator gave it; every reported path begins with it.
    path: PathBuf,
    /// Real directories below it, and the paths that lead there.
    directories: HashMap<PathBuf, Vec<PathBuf>>,
    /// Real paths outside of it whose appearance or disappearance decides whether it exists.
    hinges: HashSet<PathBuf>,
    missing: bool,
    /// Until when missing files are waited for.
    returning: Option<Instant>,
    problems: Vec<Problem>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    first: Instant,
    due: Instant,
}

/// Tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    inode: u64,
    changed: i64,
}

/// What a walk through a root found.
#[derive(Default)]
struct Listing {
    files: BTreeMap<PathBuf, Stamp>,
    directories: HashMap<PathBuf, Vec<PathBuf>>,
    problems: Vec<Problem>,
    /// How many directories were looked into, by whatever path.
    visited: usize,
}

/// Whether a file of this name is configuration.
pub fn is_configuration(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let known = path
        .extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known)));
    known && !hidden
}

// === impl Watcher ===

impl Watcher {
    /// Makes a watcher of directories or single files. Nothing is read before [`next`](Self::next); a root may be missing.
    ///
    /// # Errors
    /// [`WatchError`] where the kernel offers no file events.
    pub fn new(roots: Vec<PathBuf>) -> Result<Self, WatchError> {
        let (sender, events) = mpsc::unbounded_channel();
        let config = notify::Config::default().with_follow_symlinks(false);
        let backend = RecommendedWatcher::new(
            move |event: notify::Result<notify::Event>| {
                // Reading files makes events of its own; they would only wake this watcher up again.
                let noise = matches!(&event, Ok(event) if is_noise(event));
                if !noise {
                    // Nobody listens any more when the watcher is being dropped.
                    let _ = sender.send(event);
                }
            },
            config,
        )?;
        let mut unique = BTreeSet::new();
        let roots = roots.into_iter().filter(|root| unique.insert(root.clone())).map(Root::new).collect();
        Ok(Self {
            roots,
            backend,
            events,
            watched: HashMap::new(),
            files: BTreeMap::new(),
            pending_files: HashMap::new(),
            pending_roots: HashMap::new(),
            last_removal: None,
            problems: Vec::new(),
            started: false,
        })
    }

    /// All files at first, then what changes, each time something has. Cancel-safe: what was not returned is returned next time.
    pub async fn next(&mut self) -> Batch {
        if !self.started {
            self.started = true;
            return self.first();
        }
        loop {
            let due = self.pending_files.values().chain(self.pending_roots.values()).map(|pending| pending.due).min();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => {
                        self.absorb(event);
                        while let Ok(event) = self.events.try_recv() {
                            self.absorb(event);
                        }
                    }
                    // The backend lives as long as this watcher, so this is not reached.
                    None => return std::future::pending().await,
                },
                () = sleep_until(due), if due.is_some() => {
                    if let Some(batch) = self.settle(Instant::now()) {
                        return batch;
                    }
                }
            }
        }
    }

    /// Reports a file as changed again after a while: it could not be read, and nothing may tell when it can.
    pub fn look_again(&mut self, file: PathBuf) {
        let now = Instant::now();
        self.pending_files.entry(file).or_insert(Pending { first: now, due: now + AGAIN });
    }

    fn first(&mut self) -> Batch {
        let mut batch = Batch::default();
        for index in 0..self.roots.len() {
            self.rescan(index, Instant::now(), &mut batch);
        }
        self.problems = self.roots.iter().flat_map(|root| root.problems.clone()).collect();
        batch.problems = self.problems.clone();
        batch
    }

    fn absorb(&mut self, event: notify::Result<notify::Event>) {
        let now = Instant::now();
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            // Events were lost, or the backend is in trouble: look at everything.
            Ok(_) | Err(_) => {
                for index in 0..self.roots.len() {
                    self.root_changed(index, now);
                }
                return;
            }
        };
        if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
            self.last_removal = Some(now);
            for path in &event.paths {
                self.forget_directory(path, now);
            }
        }
        let open = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any));
        for path in &event.paths {
            self.path_changed(path, open, now);
        }
    }

    /// The kernel stops watching a directory that goes away, and another one of the same name, even with the same inode, may be
    /// there already. Whatever watches this path or something below it is set up anew by the roots' next look.
    fn forget_directory(&mut self, path: &Path, now: Instant) {
        let below: Vec<PathBuf> = self.watched.keys().filter(|real| real.starts_with(path)).cloned().collect();
        for real in below {
            // An error says that the kernel has forgotten it already.
            let _ = self.backend.unwatch(&real);
            self.watched.remove(&real);
            for index in 0..self.roots.len() {
                let root = &self.roots[index];
                if root.directories.contains_key(&real)
                    || root.hinges.iter().any(|hinge| hinge.parent() == Some(&*real))
                {
                    self.root_changed(index, now);
                }
            }
        }
    }

    fn path_changed(&mut self, path: &Path, open: bool, now: Instant) {
        let name = path.file_name().unwrap_or_default();
        for index in 0..self.roots.len() {
            let root = &self.roots[index];
            let troubled =
                root.problems.iter().any(|problem| path.ends_with(problem.path.file_name().unwrap_or_default()));
            if root.hinges.contains(path) || root.directories.contains_key(path) {
                self.root_changed(index, now);
                continue;
            }
            let Some(parents) = path.parent().and_then(|parent| root.directories.get(parent)) else {
                continue;
            };
            if troubled || name.as_encoded_bytes().starts_with(b"..") {
                // Kubernetes swaps `..data`, and with it every link of the directory at once.
                self.root_changed(index, now);
            } else if is_configuration(path) {
                let logical: Vec<PathBuf> = parents.iter().map(|parent| parent.join(name)).collect();
                for file in logical {
                    let (wait, longest) = if open { (SETTLE_OPEN, LONGEST_OPEN) } else { (SETTLE, LONGEST) };
                    let pending = self.pending_files.entry(file).or_insert(Pending { first: now, due: now });
                    pending.due = (now + wait).min(pending.first + longest).max(now);
                }
            } else if !name.as_encoded_bytes().starts_with(b".") && (path.is_dir() || root.lists(parents, name)) {
                self.root_changed(index, now);
            }
        }
    }

    fn root_changed(&mut self, index: usize, now: Instant) {
        let pending = self.pending_roots.entry(index).or_insert(Pending { first: now, due: now });
        // A look that was put off, to let a root fill up again, is brought forward.
        pending.first = pending.first.min(now);
        pending.due = (now + SETTLE).min(pending.first + LONGEST);
    }

    /// Looks at what has come to rest; `None` when there is nothing to say.
    fn settle(&mut self, now: Instant) -> Option<Batch> {
        let mut batch = Batch::default();
        let due_roots: Vec<usize> =
            self.pending_roots.iter().filter(|(_, p)| p.due <= now).map(|(index, _)| *index).collect();
        for index in due_roots {
            self.pending_roots.remove(&index);
            self.rescan(index, now, &mut batch);
        }
        let due_files: Vec<(PathBuf, Pending)> =
            self.pending_files.iter().filter(|(_, p)| p.due <= now).map(|(path, p)| (path.clone(), *p)).collect();
        for (path, pending) in due_files {
            self.pending_files.remove(&path);
            self.look_at(path, pending, now, &mut batch);
        }
        let problems: Vec<Problem> = self.roots.iter().flat_map(|root| root.problems.clone()).collect();
        let trouble_changed = problems != self.problems;
        self.problems = problems.clone();
        batch.problems = problems;
        batch.changed.sort();
        batch.changed.dedup();
        batch.removed.sort();
        batch.removed.dedup();
        (trouble_changed || !batch.changed.is_empty() || !batch.removed.is_empty()).then_some(batch)
    }

    fn look_at(&mut self, path: PathBuf, pending: Pending, now: Instant, batch: &mut Batch) {
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                let owners: Vec<usize> =
                    (0..self.roots.len()).filter(|&i| path.starts_with(&self.roots[i].path)).collect();
                for index in owners {
                    self.root_changed(index, now);
                }
            }
            Ok(metadata) => {
                self.files.insert(path.clone(), Stamp::of(&metadata));
                batch.changed.push(path);
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                // Whether it is there is unknown; the look at the whole root says so.
                for index in 0..self.roots.len() {
                    if path.starts_with(&self.roots[index].path) {
                        self.root_changed(index, now);
                    }
                }
            }
            Err(_) if !self.files.contains_key(&path) => {}
            Err(_) => {
                let quiet = self.last_removal.map_or(now, |last| last + SETTLE_REMOVAL);
                if now < quiet && now < pending.first + LONGEST {
                    self.pending_files.insert(path, Pending { first: pending.first, due: quiet });
                    return;
                }
                let absent = self.roots.iter().any(|root| {
                    path.starts_with(&root.path)
                        && (root.missing || root.returning.is_some() || !root.path.exists() || root.path == path)
                });
                if absent {
                    // The root itself is gone, or on its way back; its own look decides.
                    let owners: Vec<usize> =
                        (0..self.roots.len()).filter(|&i| path.starts_with(&self.roots[i].path)).collect();
                    for index in owners {
                        if self.roots[index].returning.is_none() {
                            self.root_changed(index, now);
                        }
                    }
                    return;
                }
                self.files.remove(&path);
                batch.removed.push(path);
            }
        }
    }

    /// Walks through a root and compares it with what was known.
    fn rescan(&mut self, index: usize, now: Instant, batch: &mut Batch) {
        self.watch_hinges(index);
        let path = self.roots[index].path.clone();
        let mut listing = Listing::default();
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && self.files.contains_key(&path) => listing.displaced(&path),
            Ok(metadata) if metadata.is_dir() => {
                let mut open = Vec::new();
                self.walk(&path, &mut open, &mut listing);
            }
            Ok(metadata) => {
                listing.files.insert(path.clone(), Stamp::of(&metadata));
                if let (Some(parent), Ok(real)) = (path.parent(), path.canonicalize()) {
                    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                    // The file alone counts; its neighbours belong to nobody here.
                    self.roots[index].hinges.insert(real);
                    if let (Ok(directory), Some(name)) = (parent.canonicalize(), path.file_name()) {
                        self.roots[index].hinges.insert(directory.join(name));
                        self.watch(&directory, &mut listing);
                    }
                }
            }
            Err(error) => {
                let root = &mut self.roots[index];
                root.missing = true;
                root.returning = None;
                root.directories.clear();
                let message = format!("{} cannot be read: {error}; the last good configuration stays", path.display());
                root.problems = vec![Problem { path, message, unread: true }];
                self.unwatch_all_but_needed();
                return;
            }
        }
        let root = &mut self.roots[index];
        if root.missing {
            root.missing = false;
            root.returning = self.files.keys().any(|file| file.starts_with(&path)).then_some(now + RETURN);
        }
        if root.returning.is_some_and(|until| until <= now) {
            root.returning = None;
        }
        for (file, stamp) in &listing.files {
            if self.files.get(file) != Some(stamp) {
                batch.changed.push(file.clone());
            }
        }
        let gone: Vec<PathBuf> =
            self.files
                .range(path.clone()..)
                .map(|(file, _)| file)
                .take_while(|file| file.starts_with(&path))
                .filter(|file| !listing.files.contains_key(*file))
                .filter(|file| !listing.problems.iter().any(|problem| file.starts_with(&problem.path)))
                .filter(|file| {
                    !self.roots.iter().any(|other| {
                        other.path != path && other.path.starts_with(&path) && file.starts_with(&other.path)
                    })
                })
                .cloned()
                .collect();
        let root = &mut self.roots[index];
        match root.returning {
            Some(until) if !gone.is_empty() => {
                self.pending_roots.insert(index, Pending { first: until, due: until });
            }
            _ => {
                root.returning = None;
                for file in gone {
                    self.files.remove(&file);
                    batch.removed.push(file);
                }
            }
        }
        self.files.extend(listing.files);
        root.directories = listing.directories;
        root.problems = listing.problems;
        if root.problems.iter().any(|problem| problem.unread) {
            self.pending_roots.entry(index).or_insert(Pending { first: now + AGAIN, due: now + AGAIN });
        }
        self.unwatch_all_but_needed();
    }

    fn walk(&mut self, directory: &Path, open: &mut Vec<PathBuf>, listing: &mut Listing) {
        let real = match directory.canonicalize() {
            Ok(real) => real,
            Err(error) => return listing.trouble(directory, &error),
        };
        if open.len() >= DEEPEST || open.contains(&real) {
            return;
        }
        listing.visited += 1;
        if listing.visited >= MOST_DIRECTORIES {
            if listing.visited == MOST_DIRECTORIES {
                let message = format!(
                    "more than {MOST_DIRECTORIES} directories; the others are left out: do links lead in circles?"
                );
                listing.problems.push(Problem { path: directory.to_owned(), message, unread: false });
            }
            return;
        }
        // Watched before it is listed: what appears in between makes an event.
        self.watch(&real, listing);
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return listing.trouble(directory, &error),
        };
        listing.directories.entry(real.clone()).or_default().push(directory.to_owned());
        open.push(real);
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    listing.trouble(directory, &error);
                    break;
                }
            };
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let metadata = match std::fs::metadata(&path) {
                Ok(metadata) => metadata,
                // A dangling link; it is the same as no file.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    listing.trouble(&path, &error);
                    continue;
                }
            };
            if metadata.is_dir() {
                if self.files.contains_key(&path) {
                    listing.displaced(&path);
                } else {
                    self.walk(&path, open, listing);
                }
            } else if is_configuration(&path) {
                listing.files.insert(path, Stamp::of(&metadata));
            }
        }
        open.pop();
    }

    fn watch(&mut self, real: &Path, listing: &mut Listing) {
        if let Err(error) = self.watch_directory(real) {
            let message = format!("changes in {} go unnoticed: {error}", real.display());
            listing.problems.push(Problem { path: real.to_owned(), message, unread: false });
        }
    }

    fn watch_directory(&mut self, real: &Path) -> Result<(), notify::Error> {
        let inode = std::fs::metadata(real).map(|metadata| Stamp::of(&metadata).inode).map_err(notify::Error::io)?;
        match self.watched.get(real) {
            Some(known) if *known == inode => return Ok(()),
            Some(_) => {
                // Another directory of the same name: the kernel still watches the old one, or nothing.
                let _ = self.backend.unwatch(real);
            }
            None => {}
        }
        self.backend.watch(real, RecursiveMode::NonRecursive)?;
        self.watched.insert(real.to_owned(), inode);
        Ok(())
    }

    /// Watches the nearest directories that exist above a root, and above what it links to.
    fn watch_hinges(&mut self, index: usize) {
        let mut hinges = HashSet::new();
        let mut path = self.roots[index].path.clone();
        for _ in 0..8 {
            let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
            let mut child = absolute.clone();
            for _ in 0..256 {
                let Some(parent) = child.parent().map(Path::to_owned) else { break };
                if let (Ok(real), Some(name)) = (parent.canonicalize(), child.file_name()) {
                    if self.watch_directory(&real).is_ok() {
                        hinges.insert(real.join(name));
                        // It may have appeared before the watch did; then its own parents matter too.
                        let appeared = child != absolute && child.exists();
                        if !appeared {
                            break;
                        }
                        child = absolute.clone();
                        continue;
                    }
                    break;
                }
                child = parent;
            }
            match std::fs::read_link(&absolute) {
                Ok(target) => path = absolute.parent().unwrap_or(&absolute).join(target),
                Err(_) => break,
            }
        }
        self.roots[index].hinges = hinges;
    }

    fn unwatch_all_but_needed(&mut self) {
        let roots = &self.roots;
        let unneeded: Vec<PathBuf> = self
            .watched
            .keys()
            .filter(|real| {
                !roots.iter().any(|root| {
                    root.directories.contains_key(*real)
                        || root.hinges.iter().any(|hinge| hinge.parent() == Some(real.as_path()))
                })
            })
            .cloned()
            .collect();
        for real in unneeded {
            // Gone by itself where the directory is gone.
            let _ = self.backend.unwatch(&real);
            self.watched.remove(&real);
        }
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roots: Vec<_> = self.roots.iter().map(|root| &root.path).collect();
        f.debug_struct("Watcher").field("roots", &roots).field("files", &self.files.len()).finish_non_exhaustive()
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn is_noise(event: &notify::Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => !event.need_rescan(),
        _ => false,
    }
}

// === impl Root ===

impl Root {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            directories: HashMap::new(),
            hinges: HashSet::new(),
            missing: false,
            returning: None,
            problems: Vec::new(),
        }
    }

    /// Whether one of these directories had a directory of this name, which may have been a link.
    fn lists(&self, parents: &[PathBuf], name: &OsStr) -> bool {
        let known = |path: PathBuf| self.directories.values().flatten().any(|directory| *directory == path);
        parents.iter().any(|parent| known(parent.join(name)))
    }
}

// === impl Listing ===

impl Listing {
    fn displaced(&mut self, path: &Path) {
        let message = format!("{} is a directory where a file was; the last good configuration stays", path.display());
        self.problems.push(Problem { path: path.to_owned(), message, unread: true });
    }

    fn trouble(&mut self, path: &Path, error: &std::io::Error) {
        let message = format!("{} cannot be read: {error}; its last good configuration stays", path.display());
        self.problems.push(Problem { path: path.to_owned(), message, unread: true });
    }
}

// === impl Stamp ===

impl Stamp {
    #[cfg(unix)]
    fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
            inode: metadata.ino() ^ metadata.dev().rotate_left(32),
            changed: metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec()),
        }
    }

    #[cfg(not(unix))]
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok(), inode: 0, changed: 0 }
    }
}
