//! Every shell block in the README and the docs does what the page says.

use std::path::{Path, PathBuf};

use xebec_testkit::doc_session;

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shell_block_keeps_its_promise() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("examples/README.md")];
    pages(&root.join("docs/src"), &mut all);
    all.sort();
    // For whoever writes a page: `XEBEC_PAGE=four-platforms` runs the pages with that in their path, and no others.
    let only = std::env::var("XEBEC_PAGE").unwrap_or_default();
    all.retain(|page| page.to_string_lossy().contains(&only));
    let (mut ran, mut failures) = (0, Vec::new());
    for page in all {
        let text = std::fs::read_to_string(&page).unwrap();
        let outcome = doc_session::run_page(&page, &text).await;
        ran += outcome.ran.len();
        for (block, reason) in outcome.skipped {
            eprintln!("not run: {} ({block}): {reason}", page.display());
        }
        failures.extend(outcome.failed);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(ran >= 5 || !only.is_empty(), "only {ran} blocks ran: are they fenced as `sh`?");
}
