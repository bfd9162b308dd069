//! Names of hosts: short names, wildcards, and which of two patterns is the more specific.
//!
//! A name in a rule is either a DNS name, a wildcard (`*` or `*.suffix`), or a short name without a dot that Istio expands
//! with the namespace of the *rule*. Nothing here knows which services exist; see [`View`](super::View) for that.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

/// A host as a rule writes it, with the namespace of that rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleHost {
    /// Lower-case, as written otherwise.
    pub written: Arc<str>,
    /// The Kubernetes expansion, when the written name is a short one.
    pub expanded: Option<Arc<str>>,
}

impl RuleHost {
    /// Reads a host of a rule in `namespace`; `domain` is the cluster's, such as `cluster.local`.
    pub fn new(written: &str, namespace: &str, domain: &str) -> Self {
        let written = lower(written);
        let expanded = is_short(&written).then(|| expand(&written, namespace, domain).into());
        Self { written: written.into(), expanded }
    }

    /// Every name that this may mean: as written, then expanded.
    pub fn candidates(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.written).chain(self.expanded.as_ref())
    }

    /// Whether it is `*` or `*.suffix`.
    pub fn is_wildcard(&self) -> bool {
        is_wildcard(&self.written)
    }
}

/// Lowers a name, without a copy when it is lower already.
pub fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Whether Istio would expand the name: no dot, not a wildcard, not an address, not empty.
pub fn is_short(name: &str) -> bool {
    !name.is_empty() && !name.contains(['.', '*']) && name.parse::<IpAddr>().is_err()
}

/// `NAME.NS.svc.DOMAIN`; without a domain only `NAME.NS`.
pub fn expand(name: &str, namespace: &str, domain: &str) -> String {
    if domain.is_empty() { format!("{name}.{namespace}") } else { format!("{name}.{namespace}.svc.{domain}") }
}

/// Whether the pattern begins with `*`.
pub fn is_wildcard(pattern: &str) -> bool {
    pattern.starts_with('*')
}

/// Whether every name that `name` stands for is also matched by `pattern`: equality, or a wildcard's suffix.
/// `*.foo.com` does not match `foo.com`; `*` matches everything.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some(suffix) = pattern.strip_prefix('*') else { return pattern == name };
    match name.strip_prefix('*') {
        Some(rest) => rest.ends_with(suffix),
        None => suffix.is_empty() || (name.len() > suffix.len() && name.ends_with(suffix)),
    }
}

/// Whether the two patterns have a name in common, in whichever direction.
pub fn overlap(a: &str, b: &str) -> bool {
    matches(a, b) || matches(b, a)
}

/// Orders patterns with the more specific one first: exact names before wildcards, longer before shorter, then by alphabet.
pub fn by_specificity(a: &str, b: &str) -> Ordering {
    is_wildcard(a).cmp(&is_wildcard(b)).then(b.len().cmp(&a.len())).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("reviews", Some("reviews.shop.svc.cluster.local"))]
    #[case("Reviews", Some("reviews.shop.svc.cluster.local"))]
    #[case("reviews.prod", None)]
    #[case("*", None)]
    #[case("*.example.com", None)]
    #[case("10.0.0.1", None)]
    #[case("::1", None)]
    fn only_names_without_a_dot_are_expanded(#[case] written: &str, #[case] expanded: Option<&str>) {
        assert_eq!(RuleHost::new(written, "shop", "cluster.local").expanded.as_deref(), expanded);
    }

    #[test]
    fn without_a_domain_only_the_namespace_is_appended() {
        assert_eq!(expand("reviews", "shop", ""), "reviews.shop");
    }

    #[rstest]
    #[case("*", "a.b", true)]
    #[case("*", "*.b", true)]
    #[case("*.foo.com", "a.foo.com", true)]
    #[case("*.foo.com", "*.a.foo.com", true)]
    #[case("*.foo.com", "*.foo.com", true)]
    #[case("*.foo.com", "foo.com", false)]
    #[case("*.foo.com", "afoo.com", false)]
    #[case("a.foo.com", "*.foo.com", false)]
    #[case("a", "a", true)]
    fn a_pattern_matches_what_it_contains(#[case] pattern: &str, #[case] name: &str, #[case] expected: bool) {
        assert_eq!(matches(pattern, name), expected);
    }

    #[test]
    fn exact_names_come_before_wildcards_and_longer_before_shorter() {
        let mut all = ["*", "*.com", "*.foo.com", "b.foo.com", "a.foo.com", "long.name.foo.com"];
        all.sort_by(|a, b| by_specificity(a, b));
        assert_eq!(all, ["long.name.foo.com", "a.foo.com", "b.foo.com", "*.foo.com", "*.com", "*"]);
    }
}
