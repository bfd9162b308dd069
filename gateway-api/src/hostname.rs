//! Hostnames with an optional wildcard as first label, in lower case. `*` stands for every name.

/// Every name.
pub const ANY: &str = "*";

/// Whether every name that `name` stands for is also one of `pattern`. `*.foo.com` does not cover `foo.com`.
pub fn covers(pattern: &str, name: &str) -> bool {
    let Some(suffix) = pattern.strip_prefix('*') else { return pattern == name };
    match name.strip_prefix('*') {
        Some(rest) => rest.ends_with(suffix),
        None => suffix.is_empty() || (name.len() > suffix.len() && name.ends_with(suffix)),
    }
}

/// The names that both stand for: always the narrower of the two, or none.
pub fn intersect<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

/// The name itself, then ever wider wildcards that cover it, up to `*`.
pub fn widening(host: &str) -> impl Iterator<Item = String> + '_ {
    let labels = host.strip_prefix("*.").unwrap_or(if host == ANY { "" } else { host });
    let own = if host == ANY { None } else { Some(host.to_owned()) };
    let wider = labels
        .match_indices('.')
        .map(|(at, _)| &labels[at + 1..])
        .chain([""])
        .map(|rest| if rest.is_empty() { ANY.to_owned() } else { format!("*.{rest}") });
    own.into_iter().chain(wider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intersection_is_the_narrower_name() {
        assert_eq!(intersect("*", "a.b"), Some("a.b"));
        assert_eq!(intersect("a.b", "*.b"), Some("a.b"));
        assert_eq!(intersect("*.a.b", "*.b"), Some("*.a.b"));
        assert_eq!(intersect("*.b", "b"), None);
        assert_eq!(intersect("a.b", "c.b"), None);
    }

    #[test]
    fn names_widen_label_by_label() {
        assert_eq!(widening("a.b.c").collect::<Vec<_>>(), ["a.b.c", "*.b.c", "*.c", "*"]);
        assert_eq!(widening("*.b.c").collect::<Vec<_>>(), ["*.b.c", "*.c", "*"]);
        assert_eq!(widening("a").collect::<Vec<_>>(), ["a", "*"]);
        assert_eq!(widening("*").collect::<Vec<_>>(), ["*"]);
    }
}
