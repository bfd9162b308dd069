//! Matching and changing headers: `HeaderMatcher`, `QueryParameterMatcher`, `HeaderValueOption`.

use super::format::Format;
use super::text::StringMatcher;
use http::header::{HeaderMap, HeaderName, InvalidHeaderName};
use std::borrow::Cow;

/// What matching may look at. Pseudo headers are separate because HTTP/1.1 has them elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:path`, with the query.
    pub path_and_query: &'a str,
    /// `:authority` or `host`.
    pub authority: &'a str,
    /// `:scheme`.
    pub scheme: &'a str,
    /// All other headers.
    pub headers: &'a HeaderMap,
}

/// A header's name, or a pseudo header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderKey {
    /// An ordinary header.
    Name(HeaderName),
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:authority`.
    Authority,
    /// `:scheme`.
    Scheme,
}

/// One condition on a header.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    /// Which header.
    pub key: HeaderKey,
    /// What it has to be.
    pub test: HeaderTest,
    /// The result is turned around, but a missing header still fails a value test (Envoy's rule).
    pub invert: bool,
    /// A missing header counts as an empty value.
    pub treat_missing_as_empty: bool,
}

/// The test of a [`HeaderMatcher`].
#[derive(Clone, Debug)]
pub enum HeaderTest {
    /// The header has to be there (`true`) or missing (`false`).
    Present(bool),
    /// The value is an integer in `start..end`.
    Range(i64, i64),
    /// The value passes; several values are joined with commas first.
    Value(StringMatcher),
}

/// One condition on a query parameter.
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    /// The parameter's name.
    pub name: Box<str>,
    /// `None`: it only has to be there.
    pub value: Option<StringMatcher>,
}

/// `HeaderValueOption.HeaderAppendAction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAction {
    /// Another value is added beside existing ones.
    AppendOrAdd,
    /// Nothing happens when the header exists.
    AddIfAbsent,
    /// Existing values are replaced.
    OverwriteOrAdd,
    /// Existing values are replaced; a missing header stays missing.
    OverwriteIfExists,
}

/// One header to write.
#[derive(Clone, Debug)]
pub struct HeaderOp {
    /// The header's name; `host` means the authority.
    pub name: HeaderName,
    /// How it meets existing values.
    pub action: AppendAction,
    /// The value, with `%...%` operators.
    pub value: Format,
    /// An empty value is written too.
    pub keep_empty: bool,
}

/// What one level of configuration does to the headers: removals first, then writes, as Envoy does.
#[derive(Clone, Debug, Default)]
pub struct HeaderOps {
    /// Headers to write, in order.
    pub write: Vec<HeaderOp>,
    /// Headers to remove.
    pub remove: Vec<HeaderName>,
}

// === impl HeaderKey ===

impl HeaderKey {
    /// Parses a header name; `host` and pseudo headers become their own variants.
    pub fn parse(name: &str) -> Result<Self, InvalidHeaderName> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            other => Self::Name(HeaderName::from_bytes(other.as_bytes())?),
        })
    }

    /// The value in `request`: `None` when missing, joined by commas when repeated.
    pub fn value<'a>(&self, request: &RequestView<'a>) -> Option<Cow<'a, str>> {
        let name = match self {
            Self::Method => return Some(request.method.into()),
            Self::Path => return Some(request.path_and_query.into()),
            Self::Authority => return Some(request.authority.into()),
            Self::Scheme => return Some(request.scheme.into()),
            Self::Name(name) => name,
        };
        let mut values = request.headers.get_all(name).iter();
        let first = String::from_utf8_lossy(values.next()?.as_bytes());
        let mut joined = first;
        for value in values {
            let text = joined.to_mut();
            text.push(',');
            text.push_str(&String::from_utf8_lossy(value.as_bytes()));
        }
        Some(joined)
    }
}

// === impl HeaderMatcher ===

impl HeaderMatcher {
    /// A matcher without inversion.
    pub fn new(key: HeaderKey, test: HeaderTest) -> Self {
        Self { key, test, invert: false, treat_missing_as_empty: false }
    }

    /// Whether `request` passes.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let value = self.key.value(request);
        let hit = match &self.test {
            HeaderTest::Present(wanted) => {
                let there = value.is_some() || self.treat_missing_as_empty;
                return (there == *wanted) != self.invert;
            }
            HeaderTest::Range(start, end) => match value {
                Some(text) => text.parse::<i64>().is_ok_and(|number| (*start..*end).contains(&number)),
                None if self.treat_missing_as_empty => false,
                None => return false,
            },
            HeaderTest::Value(matcher) => match value {
                Some(text) => matcher.matches(&text),
                None if self.treat_missing_as_empty => matcher.matches(""),
                None => return false,
            },
        };
        hit != self.invert
    }
}

// === impl QueryMatcher ===

impl QueryMatcher {
    /// Whether the query of `path_and_query` passes. Values are compared as written, without decoding, like Envoy.
    pub fn matches(&self, path_and_query: &str) -> bool {
        let Some((_, query)) = path_and_query.split_once('?') else { return false };
        let query = query.split('#').next().unwrap_or(query);
        query.split('&').any(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            name == &*self.name && self.value.as_ref().is_none_or(|matcher| matcher.matches(value))
        })
    }
}

// === impl HeaderOps ===

impl HeaderOps {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.remove.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn check(matcher: &HeaderMatcher, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let view =
            RequestView { method: "GET", path_and_query: "/a?b=1", authority: "h", scheme: "http", headers: &map };
        matcher.matches(&view)
    }

    fn on(name: &str, test: HeaderTest) -> HeaderMatcher {
        HeaderMatcher::new(HeaderKey::parse(name).unwrap(), test)
    }

    #[test]
    fn a_missing_header_fails_a_value_test_even_inverted_unless_it_counts_as_empty() {
        let mut matcher = on("x", HeaderTest::Value(StringMatcher::exact("v", false)));
        assert!(!check(&matcher, &[]));
        matcher.invert = true;
        assert!(!check(&matcher, &[]));
        matcher.treat_missing_as_empty = true;
        assert!(check(&matcher, &[]));
        assert!(!check(&matcher, &[("x", "v")]));
    }

    #[test]
    fn presence_can_be_asked_both_ways() {
        assert!(check(&on("x", HeaderTest::Present(true)), &[("x", "")]));
        assert!(check(&on("x", HeaderTest::Present(false)), &[]));
        let mut inverted = on("x", HeaderTest::Present(true));
        inverted.invert = true;
        assert!(check(&inverted, &[]));
    }

    #[test]
    fn repeated_headers_are_joined_and_ranges_exclude_the_end() {
        assert!(check(&on("x", HeaderTest::Value(StringMatcher::exact("a,b", false))), &[("x", "a"), ("x", "b")]));
        assert!(check(&on("n", HeaderTest::Range(1, 3)), &[("n", "2")]));
        assert!(!check(&on("n", HeaderTest::Range(1, 3)), &[("n", "3")]));
        assert!(check(&on(":method", HeaderTest::Value(StringMatcher::exact("GET", false))), &[]));
    }

    #[test]
    fn query_parameters_are_found_by_name() {
        let present = QueryMatcher { name: "b".into(), value: None };
        assert!(present.matches("/a?x=2&b"));
        assert!(!present.matches("/a?xb=1"));
        let exact = QueryMatcher { name: "b".into(), value: Some(StringMatcher::exact("1", false)) };
        assert!(exact.matches("/a?b=1"));
        assert!(!exact.matches("/a"));
    }
}
