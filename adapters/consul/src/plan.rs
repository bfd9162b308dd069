//! Which services are watched, from the names in a catalog.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::mapping::is_label;
use crate::settings::Services;
use crate::wire::{Names, Tags};
use xebec_pilot::registry::{Skip, quote};

/// The names that are wanted, and those that cannot be.
pub(crate) fn wanted(services: &Services, names: &Names) -> (BTreeSet<Arc<str>>, Vec<Skip>) {
    let mut skips = Vec::new();
    let mut wanted = BTreeSet::new();
    for (name, Tags(tags)) in &names.0 {
        if !services.wants(name, tags) {
            continue;
        }
        if is_label(name) {
            wanted.insert(Arc::from(name.as_str()));
        } else {
            let detail = format!("{} is not a DNS label, so nobody could resolve it", quote(name));
            skips.push(Skip { reason: "invalid_name", detail });
        }
    }
    (wanted, skips)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_could_resolve_is_skipped_and_the_others_stay() {
        let long = "x".repeat(64);
        let megabyte = "x".repeat(1 << 20);
        let bad = ["under_score", "dot.ted", "-dash", "dash-", "é", "a b", "a/../b", "a?index=1", "", &long, &megabyte];
        let good = ["web", "Web2", "0", &long[1..], "consul"];
        let names = Names(bad.iter().chain(&good).map(|name| ((*name).to_owned(), Tags::default())).collect());
        let (wanted, skips) = wanted(&Services::default(), &names);
        assert_eq!(wanted.iter().map(|name| &**name).collect::<Vec<_>>(), ["0", "Web2", "web", &long[1..]]);
        assert_eq!(skips.len(), bad.len());
        assert!(skips.iter().all(|skip| skip.reason == "invalid_name" && skip.detail.len() < 200), "{skips:?}");
    }

    #[test]
    fn names_are_chosen_by_prefix_tags_and_exclusion() {
        let chosen = Services {
            prefixes: vec!["team-".into(), "shop".into()],
            tags: vec!["mesh".into()],
            exclude: vec!["team-secret*".into(), "shop-old".into()],
            ..Services::default()
        };
        let tags = |text: &str| Tags(text.split(' ').map(str::to_owned).collect());
        let names = [
            ("team-a", "mesh x"),
            ("team-b", "x"),
            ("shop", "mesh"),
            ("shop-old", "mesh"),
            ("shop-older", "mesh"),
            ("team-secret", "mesh"),
            ("team-secrets", "mesh"),
            ("other", "mesh"),
        ];
        let names = Names(names.into_iter().map(|(name, text)| (name.to_owned(), tags(text))).collect());
        let (wanted, skips) = wanted(&chosen, &names);
        assert_eq!(wanted.iter().map(|name| &**name).collect::<Vec<_>>(), ["shop", "shop-older", "team-a"]);
        assert_eq!(skips, []);
    }
}
