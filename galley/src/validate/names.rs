//! Which texts are names: of DNS, of Kubernetes, of HTTP.

/// A DNS label as RFC 1123 has it: up to 63 lower-case letters, digits and inner hyphens.
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A DNS name of one or more labels, in any case, with an optional final dot. Underscores are tolerated, because platforms use them.
pub fn is_dns_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// `*`, `*.` and a DNS name, or a DNS name.
pub fn is_wildcard_name(text: &str) -> bool {
    text == "*" || is_dns_name(text.strip_prefix("*.").unwrap_or(text))
}

/// A Kubernetes object's name: DNS labels, lower-case, joined by dots.
pub(super) fn is_object_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A label's key: an optional DNS prefix with a slash, and up to 63 letters, digits, `-`, `_` and `.`.
pub(super) fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(is_dns_name)
}

/// A label's value: empty, or up to 63 letters, digits, and inner `-`, `_` and `.`.
pub(super) fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| inner(*b))
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

/// A token of RFC 9110, section 5.6.2: what headers and methods are named by.
pub(super) fn is_token(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(token)
}

/// Whether `name` is covered by `pattern`, which may begin with a wildcard.
pub(super) fn covers(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
    match pattern.strip_prefix('*') {
        Some(suffix) => name.strip_prefix('*').unwrap_or(&name).ends_with(suffix) && name.len() >= pattern.len(),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_other_texts() {
        assert!(is_label("a-1") && !is_label("A") && !is_label("-a") && !is_label("a.b") && !is_label(""));
        assert!(is_dns_name("Reviews.default.svc.cluster.local.") && is_dns_name("a_b.c") && is_dns_name("10.0.0.1"));
        assert!(
            !is_dns_name("a..b")
                && !is_dns_name("a b")
                && !is_dns_name("")
                && !is_dns_name("a/b")
                && !is_dns_name("*.a")
        );
        assert!(
            is_wildcard_name("*") && is_wildcard_name("*.a.b") && !is_wildcard_name("a.*.b") && !is_wildcard_name("*a")
        );
        assert!(
            is_label_key("app.kubernetes.io/name")
                && is_label_key("app")
                && !is_label_key("a/b/c")
                && !is_label_key("")
        );
        assert!(is_label_value("") && is_label_value("v1.2_3") && !is_label_value("v1 ") && !is_label_value("-v"));
        assert!(is_token("x-user") && !is_token("x user") && !is_token(":path") && !is_token(""));
    }

    #[test]
    fn a_wildcard_covers_what_lies_under_it() {
        assert!(covers("*", "a.b") && covers("*.b", "a.b") && covers("*.b", "*.a.b") && covers("A.b", "a.B"));
        assert!(!covers("*.b", "b") && !covers("a.b", "*.b") && !covers("*.a.b", "*.b"));
    }
}
