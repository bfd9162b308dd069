//! A test's own folder: its configuration, and what its children wrote.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// How much of a log is printed when a test fails.
const TAIL: usize = 8 * 1024;

/// A folder that lives as long as this value. When the test panics, the ends of all logs in it are printed; with
/// `XEBEC_KEEP=1` in the environment it is kept, and its path is printed.
#[derive(Debug)]
pub struct Workdir {
    name: String,
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Workdir {
    /// Makes a new, empty folder; `name` is for people who look at it.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("xebec-{name}-"))
            .tempdir()
            .unwrap_or_else(|e| panic!("cannot make a folder for {name}: {e}"));
        let path = folder.path().to_owned();
        std::fs::create_dir(path.join("logs")).unwrap_or_else(|e| panic!("cannot make {}/logs: {e}", path.display()));
        Self { name: name.to_owned(), folder: Some(folder), path }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something in it.
    pub fn join(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative)
    }

    /// Makes a folder in it, with its parents.
    pub fn create_dir(&self, relative: impl AsRef<Path>) -> PathBuf {
        let path = self.join(relative);
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        path
    }

    /// Writes a file in it, as careful editors do: whole, under another name, then renamed. Readers see the old
    /// content or the new one, never half.
    pub fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(relative);
        let parent = path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(parent).unwrap_or_else(|e| panic!("cannot make {}: {e}", parent.display()));
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(parent)
            .unwrap_or_else(|e| panic!("cannot write in {}: {e}", parent.display()));
        std::io::Write::write_all(&mut file, content.as_ref())
            .unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        file.persist(&path).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }

    /// Removes a file in it.
    pub fn remove(&self, relative: impl AsRef<Path>) {
        let path = self.join(relative);
        std::fs::remove_file(&path).unwrap_or_else(|e| panic!("cannot remove {}: {e}", path.display()));
    }

    /// The ends of all logs in it, as text for people.
    pub fn logs(&self) -> String {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(self.join("logs")).into_iter().flatten().flatten().map(|e| e.path()).collect();
        paths.sort();
        let mut text = String::new();
        for path in paths {
            let content = std::fs::read(&path).unwrap_or_default();
            if content.is_empty() {
                continue;
            }
            let tail = String::from_utf8_lossy(&content[content.len().saturating_sub(TAIL)..]).into_owned();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let _ = writeln!(text, "----- {name} ({} bytes)\n{tail}", content.len());
        }
        text
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("===== logs of {}\n{}=====", self.name, self.logs());
        }
        if std::env::var_os("XEBEC_KEEP").is_some_and(|v| !v.is_empty() && v != "0")
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept: {}", folder.keep().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_whole_and_gone_with_the_folder() {
        let work = Workdir::new("written");
        let path = work.write("a/b.yaml", "one");
        work.write("a/b.yaml", "two");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(work.join("a")).unwrap().count(), 1, "no temporary file is left");
        drop(work);
        assert!(!path.exists());
    }

    #[test]
    fn logs_name_their_files_and_end_with_the_last_lines() {
        let work = Workdir::new("logs");
        work.write("logs/serve.err", format!("{}last line\n", "x".repeat(2 * TAIL)));
        let logs = work.logs();
        assert!(logs.contains("serve.err") && logs.contains("last line"), "{logs}");
        assert!(logs.len() < 2 * TAIL);
    }
}
