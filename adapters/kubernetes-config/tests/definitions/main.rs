//! The CustomResourceDefinitions under `install/kubernetes/crds` are those that follow from galley's types.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rules;
mod schema;
mod spec;

use std::path::Path;

use xebec_galley::Kind;

/// With `XEBEC_BLESS=1` in the environment the files are written instead of compared.
#[test]
fn the_shipped_definitions_follow_from_galleys_types() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let types = spec::Spec::read(&root.join("galley/src/spec"));
    let folder = root.join("install/kubernetes/crds");
    let bless = std::env::var_os("XEBEC_BLESS").is_some();
    if bless {
        std::fs::create_dir_all(&folder).unwrap();
    }
    let mut stale = Vec::new();
    for kind in schema::KINDS {
        let text = serde_saphyr::to_string(&schema::definition(&types, &kind)).unwrap();
        let text = format!(
            "# Written from galley's types: XEBEC_BLESS=1 cargo test -p xebec-adapter-kubernetes-config --test definitions\n{text}"
        );
        let path = folder.join(format!("{}.yaml", kind.plural));
        if bless {
            std::fs::write(&path, &text).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != text {
            stale.push(path);
        }
    }
    assert!(stale.is_empty(), "run this test with XEBEC_BLESS=1 and look at the difference: {stale:?}");
}

#[test]
fn every_kind_that_galley_reads_has_a_definition() {
    let mut names: Vec<&str> = schema::KINDS.iter().map(|kind| kind.name).collect();
    let mut known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known);
}
