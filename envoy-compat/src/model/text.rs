//! String matching, as `envoy.type.matcher.v3.StringMatcher` defines it.
//!
//! Regular expressions run in linear time and match the whole value, like Envoy's RE2 full match.

use regex::{Regex, RegexBuilder};

/// Compiled programs above this size (bytes) are refused, so that a route cannot eat the proxy's memory.
const PROGRAM_LIMIT: usize = 4 << 20;

/// Why a pattern was refused.
#[derive(Debug, thiserror::Error)]
#[error("regular expression {pattern:?} is not usable: {reason}; correct the pattern or use a prefix match")]
pub struct PatternError {
    /// The pattern as written.
    pub pattern: String,
    /// The parser's explanation.
    pub reason: String,
}

/// Compiles `pattern` so that it has to match a whole value.
pub fn compile_full_match(pattern: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
        .size_limit(PROGRAM_LIMIT)
        .dot_matches_new_line(true)
        .build()
        .map_err(|error| PatternError { pattern: pattern.to_owned(), reason: error.to_string() })
}

/// One compiled string test.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    kind: Kind,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    Regex(Regex),
}

// === impl StringMatcher ===

impl StringMatcher {
    /// Matches every value.
    pub fn any() -> Self {
        Self { kind: Kind::Any, ignore_case: false }
    }

    /// Matches the value itself.
    pub fn exact(value: &str, ignore_case: bool) -> Self {
        Self { kind: Kind::Exact(fold(value, ignore_case)), ignore_case }
    }

    /// Matches values that start with `value`.
    pub fn prefix(value: &str, ignore_case: bool) -> Self {
        Self { kind: Kind::Prefix(fold(value, ignore_case)), ignore_case }
    }

    /// Matches values that end with `value`.
    pub fn suffix(value: &str, ignore_case: bool) -> Self {
        Self { kind: Kind::Suffix(fold(value, ignore_case)), ignore_case }
    }

    /// Matches values that contain `value`.
    pub fn contains(value: &str, ignore_case: bool) -> Self {
        Self { kind: Kind::Contains(fold(value, ignore_case)), ignore_case }
    }

    /// Matches values that the whole pattern matches. Envoy ignores `ignore_case` for regular expressions.
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        Ok(Self { kind: Kind::Regex(compile_full_match(pattern)?), ignore_case: false })
    }

    /// Whether `value` passes the test.
    pub fn matches(&self, value: &str) -> bool {
        if self.ignore_case {
            return self.matches_folded(value);
        }
        match &self.kind {
            Kind::Any => true,
            Kind::Exact(want) => value == &**want,
            Kind::Prefix(want) => value.starts_with(&**want),
            Kind::Suffix(want) => value.ends_with(&**want),
            Kind::Contains(want) => value.contains(&**want),
            Kind::Regex(pattern) => pattern.is_match(value),
        }
    }

    fn matches_folded(&self, value: &str) -> bool {
        let bytes = value.as_bytes();
        match &self.kind {
            Kind::Any => true,
            Kind::Exact(want) => bytes.eq_ignore_ascii_case(want.as_bytes()),
            Kind::Prefix(want) => {
                bytes.len() >= want.len() && bytes[..want.len()].eq_ignore_ascii_case(want.as_bytes())
            }
            Kind::Suffix(want) => {
                bytes.len() >= want.len() && bytes[bytes.len() - want.len()..].eq_ignore_ascii_case(want.as_bytes())
            }
            Kind::Contains(want) => {
                want.is_empty() || bytes.windows(want.len()).any(|part| part.eq_ignore_ascii_case(want.as_bytes()))
            }
            Kind::Regex(pattern) => pattern.is_match(value),
        }
    }
}

fn fold(value: &str, ignore_case: bool) -> Box<str> {
    if ignore_case { value.to_ascii_lowercase().into() } else { value.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_regular_expression_has_to_match_the_whole_value() {
        let matcher = StringMatcher::regex("a|ab").unwrap();
        assert!(matcher.matches("ab"));
        assert!(!matcher.matches("abc"));
        assert!(!matcher.matches("xa"));
    }

    #[test]
    fn a_broken_pattern_is_refused_with_its_text() {
        let error = StringMatcher::regex("a(").unwrap_err().to_string();
        assert!(error.contains("a("), "{error}");
    }

    #[test]
    fn case_is_ignored_only_when_asked() {
        assert!(StringMatcher::prefix("/API", true).matches("/api/x"));
        assert!(!StringMatcher::prefix("/API", false).matches("/api/x"));
        assert!(StringMatcher::suffix(".COM", true).matches("a.com"));
        assert!(StringMatcher::contains("mid", true).matches("aMIDb"));
        assert!(!StringMatcher::exact("a", true).matches("ab"));
    }
}
