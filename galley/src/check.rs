//! Validates configuration offline: every document of every file, with everything that is wrong.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::decode::{Outcome, decode};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::resource::{Config, ResourceKey, SourceRef};
use crate::source::read_limited;
use crate::watch::MOST_DIRECTORIES;
use crate::yaml::{self, Limits};

/// Directories inside of directories that are looked into.
const DEEPEST: usize = 32;

/// What is to be validated.
#[derive(Debug, Clone)]
pub enum Input {
    /// A file, a directory (with its subdirectories), or a pattern with `*`, `?` and `**`.
    Path(PathBuf),
    /// Bytes with a name, such as standard input's.
    Bytes {
        /// The name that diagnostics use.
        name: String,
        /// The content.
        bytes: Vec<u8>,
    },
}

/// What became of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is valid; there may be warnings.
    Valid,
    /// It is refused.
    Invalid,
    /// It is of a kind that is not read.
    Ignored,
}

/// One document, or one item of a list.
#[derive(Debug, Clone)]
pub struct DocumentResult {
    /// The file.
    pub file: Arc<str>,
    /// Its first line.
    pub line: u32,
    /// What became of it.
    pub verdict: Verdict,
    /// The resource, where it is valid.
    pub config: Option<Config>,
    /// Everything to say about it.
    pub diagnostics: Vec<Diagnostic>,
}

/// The result of validation.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How many files were read.
    pub files: usize,
    /// Every document, in the order of files and lines.
    pub documents: Vec<DocumentResult>,
    /// What is wrong with files as a whole.
    pub problems: Vec<Diagnostic>,
}

/// How much of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Files that were read.
    pub files: usize,
    /// Valid documents.
    pub valid: usize,
    /// Refused documents.
    pub invalid: usize,
    /// Documents of kinds that are not read.
    pub ignored: usize,
    /// Errors.
    pub errors: usize,
    /// Warnings.
    pub warnings: usize,
}

/// Validates all inputs.
pub fn check(inputs: &[Input]) -> Report {
    let mut report = Report::default();
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    let mut first: HashMap<ResourceKey, SourceRef> = HashMap::new();
    for input in inputs {
        match input {
            Input::Bytes { name, bytes } => report.bytes(name, bytes, &mut first),
            Input::Path(path) => match files(path) {
                Ok(files) if files.is_empty() => {
                    report.problem(path, "there are no configuration files here", "files end in .yaml, .yml or .json")
                }
                Ok(files) => {
                    for file in files {
                        if seen.insert(file.clone()) {
                            report.file(&file, &mut first);
                        }
                    }
                }
                Err(error) => {
                    report.problem(path, &format!("cannot be read: {error}"), "check the path and its permissions")
                }
            },
        }
    }
    report
}

// === impl Report ===

impl Report {
    /// Everything to say, in order.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.problems.iter().chain(self.documents.iter().flat_map(|document| &document.diagnostics))
    }

    /// Whether something is wrong.
    pub fn has_errors(&self) -> bool {
        self.diagnostics().any(Diagnostic::is_error)
    }

    /// The sums.
    pub fn counts(&self) -> Counts {
        let of = |verdict| self.documents.iter().filter(|document| document.verdict == verdict).count();
        let severity = |severity| self.diagnostics().filter(|diagnostic| diagnostic.severity == severity).count();
        Counts {
            files: self.files,
            valid: of(Verdict::Valid),
            invalid: of(Verdict::Invalid),
            ignored: of(Verdict::Ignored),
            errors: severity(Severity::Error),
            warnings: severity(Severity::Warning),
        }
    }

    fn problem(&mut self, path: &Path, message: &str, help: &str) {
        let name: Arc<str> = path.to_string_lossy().into();
        let message = format!("{name}: {message}");
        self.problems.push(Diagnostic::of_file(Severity::Error, Code::Unreadable, &name, message).with_help(help));
    }

    fn file(&mut self, path: &Path, first: &mut HashMap<ResourceKey, SourceRef>) {
        let name = path.to_string_lossy();
        match read_limited(path, Limits::default()) {
            Ok(Some(bytes)) => self.bytes(&name, &bytes, first),
            Ok(None) => {
                let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
                self.files += 1;
                self.problems.push(yaml::too_large(&name.as_ref().into(), size, Limits::default()));
            }
            Err(error) => self.problem(path, &format!("cannot be read: {error}"), "check its permissions"),
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8], first: &mut HashMap<ResourceKey, SourceRef>) {
        self.files += 1;
        let stream = yaml::parse(name, bytes);
        self.problems.extend(stream.problem);
        for document in &stream.documents {
            for decoded in decode(document) {
                let mut diagnostics = decoded.diagnostics;
                let (mut verdict, config) = match decoded.outcome {
                    Outcome::Accepted(config) => (Verdict::Valid, Some(config)),
                    Outcome::Refused(_) => (Verdict::Invalid, None),
                    Outcome::Ignored => (Verdict::Ignored, None),
                    Outcome::Foreign => continue,
                };
                if let Some(config) = &config {
                    let meta = config.meta();
                    if let Some(other) = first.get(&meta.key) {
                        // Files of one directory may be alternatives to each other; one file is applied as a whole.
                        let one_file = other.file == meta.source.file;
                        let severity = if one_file { Severity::Error } else { Severity::Warning };
                        let message = format!("{} is written twice; first at {other}", meta.key);
                        let mut problem = document.source().diagnostic(severity, Code::Conflict, decoded.at, message);
                        problem.resource = Some(meta.key.to_string());
                        problem.help =
                            Some("keep one of them; served together, the first file by path wins".to_owned());
                        diagnostics.push(problem);
                        if one_file {
                            verdict = Verdict::Invalid;
                        }
                    } else {
                        first.insert(meta.key.clone(), meta.source.clone());
                    }
                }
                self.documents.push(DocumentResult {
                    file: decoded.source.file,
                    line: decoded.source.line,
                    verdict,
                    config,
                    diagnostics,
                });
            }
        }
    }
}

/// The files behind a path, sorted.
pub fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let metadata = std::fs::metadata(path);
    let pattern = path.to_string_lossy();
    match metadata {
        Ok(metadata) if metadata.is_dir() => walk(path, &mut |file| {
            if crate::watch::is_configuration(file) {
                found.push(file.to_owned());
            }
        })?,
        // Who names a file means it, whatever it is called.
        Ok(_) => found.push(path.to_owned()),
        Err(error) if !pattern.contains(['*', '?']) => return Err(error),
        Err(_) => {
            let fixed: PathBuf =
                path.components().take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?'])).collect();
            let start = if fixed.as_os_str().is_empty() { PathBuf::from(".") } else { fixed.clone() };
            let parts: Vec<String> = path
                .strip_prefix(&fixed)
                .unwrap_or(path)
                .components()
                .map(|part| part.as_os_str().to_string_lossy().into_owned())
                .collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            walk(&start, &mut |file| {
                let relative: Vec<String> = file
                    .strip_prefix(&start)
                    .unwrap_or(file)
                    .components()
                    .map(|part| part.as_os_str().to_string_lossy().into_owned())
                    .collect();
                let relative: Vec<&str> = relative.iter().map(String::as_str).collect();
                if matches_path(&parts, &relative) {
                    found.push(if fixed.as_os_str().is_empty() {
                        file.strip_prefix(".").unwrap_or(file).to_owned()
                    } else {
                        file.to_owned()
                    });
                }
            })?;
        }
    }
    found.sort();
    Ok(found)
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) -> std::io::Result<()> {
    let (mut open, mut visited) = (vec![(directory.to_owned(), 0)], 0);
    while let Some((directory, depth)) = open.pop() {
        visited += 1;
        if visited > MOST_DIRECTORIES {
            let message = format!("there are more than {MOST_DIRECTORIES} directories: do links lead in circles?");
            return Err(std::io::Error::other(message));
        }
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() && depth + 1 < DEEPEST => open.push((path, depth + 1)),
                // A pipe or a device with the name of a file is refused when it is read, as when it is served.
                Ok(metadata) if metadata.is_file() || crate::watch::is_configuration(&path) => visit(&path),
                // What nobody meant; or a dangling link, which is the same as no file.
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(())
}

fn matches_path(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            matches_path(rest, path) || path.split_first().is_some_and(|(_, tail)| matches_path(pattern, tail))
        }
        (Some((head, rest)), Some((name, tail))) => {
            matches_name(head.as_bytes(), name.as_bytes()) && matches_path(rest, tail)
        }
        _ => false,
    }
}

/// `*` is any run of bytes, `?` any one byte.
fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while of < name.len() {
        if pattern.get(at) == Some(&b'*') {
            retry = Some((at, of));
            at += 1;
        } else if pattern.get(at).is_some_and(|p| *p == b'?' || *p == name[of]) {
            at += 1;
            of += 1;
        } else if let Some((star, start)) = retry {
            retry = Some((star, start + 1));
            at = star + 1;
            of = start + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|p| *p == b'*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const GATEWAY: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: NAME}\nspec: {servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}\n";

    fn gateway(name: &str) -> String {
        GATEWAY.replace("NAME", name)
    }

    #[test]
    fn every_document_of_files_directories_patterns_and_bytes_is_judged() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        std::fs::create_dir_all(path("sub/deep")).unwrap();
        std::fs::write(
            path("a.yaml"),
            format!("{}---\n{}", gateway("a"), gateway("b").replace("number: 80", "number: 0")),
        )
        .unwrap();
        std::fs::write(path("sub/b.yml"), gateway("a")).unwrap();
        std::fs::write(path("sub/deep/c.json"), "{\"services\": []}").unwrap();
        std::fs::write(path("sub/deep/d.yaml"), "apiVersion: v1\nkind: Secret\n").unwrap();
        std::fs::write(path(".hidden.yaml"), "broken: [").unwrap();
        std::fs::write(path("notes.txt"), "broken: [").unwrap();
        let report =
            check(&[Input::Path(home.path().into()), Input::Bytes { name: "<stdin>".into(), bytes: b"a: [".to_vec() }]);
        let counts = report.counts();
        assert_eq!(counts, Counts { files: 5, valid: 2, invalid: 2, ignored: 1, errors: 2, warnings: 1 });
        let codes: Vec<_> = report.diagnostics().map(|problem| problem.code).collect();
        assert_eq!(codes, [Code::InvalidValue, Code::Conflict, Code::IgnoredKind, Code::Syntax]);

        let pattern = check(&[Input::Path(path("**/*.y*ml"))]);
        assert_eq!(pattern.files, 3);
        assert_eq!(check(&[Input::Path(path("sub/?.yml"))]).files, 1);
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let report = check(&[Input::Path("/nowhere/at/all".into()), Input::Path("/nowhere/*.yaml".into())]);
        assert!(report.has_errors());
        assert_eq!(report.problems.len(), 2);
    }
}
