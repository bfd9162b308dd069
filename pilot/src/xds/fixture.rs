//! Snapshots for tests, from pairs such as `("c/reviews", 1)`: a type's letter, a name and a revision.

use std::sync::Arc;

use bytes::Bytes;
use xebec_galley::SourceRef;

use crate::resources::{Delta, Encoded, ResourceType, ShapeSnapshot};

/// The type behind a letter: Cluster, Endpoint, Listener, Route, Virtual host.
pub(crate) fn kind_of(letter: &str) -> ResourceType {
    match letter {
        "c" => ResourceType::Cluster,
        "e" => ResourceType::Endpoint,
        "l" => ResourceType::Listener,
        "r" => ResourceType::Route,
        _ => ResourceType::VirtualHost,
    }
}

/// One resource whose content is its revision, and whose origin is `NAME.yaml:REVISION:1`.
pub(crate) fn resource(name: &str, revision: u32) -> Arc<Encoded> {
    let origin = SourceRef { file: format!("{name}.yaml").into(), line: revision, column: 1 };
    let body = Bytes::from(format!("{name}#{revision}"));
    Arc::new(Encoded::new(name.into(), body, Arc::from(vec![origin])))
}

/// A snapshot of the listed resources.
pub(crate) fn snapshot(resources: &[(&str, u32)]) -> ShapeSnapshot {
    let mut snapshot = ShapeSnapshot::default();
    for (path, revision) in resources {
        let (letter, name) = path.split_once('/').unwrap_or(("v", path));
        let encoded = resource(name, *revision);
        snapshot.sets[kind_of(letter) as usize].insert(Arc::clone(&encoded.name), encoded);
    }
    snapshot
}

/// What differs between two snapshots.
pub(crate) fn delta_of(before: &ShapeSnapshot, after: &ShapeSnapshot) -> Delta {
    let mut delta = Delta::default();
    for kind in ResourceType::ALL {
        let (old, new) = (before.set(kind), after.set(kind));
        let differs = |name: &Arc<str>| old.get(name).map(|r| r.version) != new.get(name).map(|r| r.version);
        let mut names: Vec<_> = old.keys().chain(new.keys()).filter(|n| differs(n)).cloned().collect();
        names.sort();
        names.dedup();
        delta.names[kind as usize] = names;
    }
    delta
}
