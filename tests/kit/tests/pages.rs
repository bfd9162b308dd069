//! The pages of the documentation hang together.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use xebec_testkit::doc;

const OUTSIDE: [&str; 4] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];

#[test]
fn the_summary_lists_every_page_and_every_link_leads_somewhere() {
    let root = root();
    let book = root.join("docs/src");
    let summary = std::fs::read_to_string(book.join("SUMMARY.md")).unwrap();
    let mut wrong = Vec::new();
    for page in book_pages() {
        let name = page.strip_prefix(&book).unwrap().display().to_string();
        if name != "SUMMARY.md" && !summary.contains(&format!("({name})")) {
            wrong.push(format!("SUMMARY.md does not list {name}"));
        }
    }
    for page in book_pages().into_iter().chain(OUTSIDE.map(|name| root.join(name))) {
        for link in links(&std::fs::read_to_string(&page).unwrap()) {
            let target = link.split('#').next().unwrap_or("");
            if !target.is_empty() && !target.contains("://") && !page.parent().unwrap().join(target).exists() {
                wrong.push(format!("{}: {link} leads nowhere", page.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_shell_block_is_one_that_tests_can_run() {
    let root = root();
    let mut wrong = Vec::new();
    let mut blocks = 0;
    for page in book_pages().into_iter().chain(OUTSIDE.map(|name| root.join(name))) {
        match doc::blocks(&std::fs::read_to_string(&page).unwrap()) {
            Ok(found) => blocks += found.len(),
            Err(mistake) => wrong.push(format!("{}: {mistake}", page.strip_prefix(&root).unwrap().display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(blocks > 5, "only {blocks} blocks were found");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn book_pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().join("docs/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The targets of inline links: what is between `](` and `)`.
fn links(page: &str) -> Vec<&str> {
    page.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains(' ')).collect()
}
