//! Strings, headers and query parameters: what has to match, and what is written.

use http::HeaderName;
use regex::Regex;
use xebec_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction};
use xebec_proto::envoy::config::route::v3::{
    self as route, header_matcher::HeaderMatchSpecifier, query_parameter_matcher::QueryParameterMatchSpecifier,
};
use xebec_proto::envoy::r#type::matcher::v3 as matcher;
use xebec_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::place::{Outcome, Place, inert};
use crate::model::{
    AppendAction, Format, HeaderKey, HeaderMatcher, HeaderOp, HeaderOps, HeaderTest, QueryMatcher, StringMatcher,
    compile_full_match,
};

/// A test of a whole string.
pub(super) fn string(at: Place<'_>, value: &matcher::StringMatcher) -> Outcome<StringMatcher> {
    let matcher::StringMatcher { ignore_case, match_pattern } = value;
    let fold = *ignore_case;
    match match_pattern {
        Some(MatchPattern::Exact(text)) => Ok(StringMatcher::exact(text, fold)),
        Some(MatchPattern::Prefix(text)) => Ok(StringMatcher::prefix(text, fold)),
        Some(MatchPattern::Suffix(text)) => Ok(StringMatcher::suffix(text, fold)),
        Some(MatchPattern::Contains(text)) => Ok(StringMatcher::contains(text, fold)),
        Some(MatchPattern::SafeRegex(regex)) => string_regex(at.field("safe_regex"), regex),
        Some(MatchPattern::Custom(_)) => Err(at.field("custom").refuse("custom matchers are not supported")),
        None => Err(at.refuse("a pattern is required")),
    }
}

fn string_regex(at: Place<'_>, value: &matcher::RegexMatcher) -> Outcome<StringMatcher> {
    StringMatcher::regex(pattern_of(value)).map_err(|error| at.field("regex").refuse(error))
}

/// The pattern; which engine was asked for makes no difference, because all of them are RE2.
fn pattern_of(value: &matcher::RegexMatcher) -> &str {
    let matcher::RegexMatcher { regex, engine_type } = value;
    inert!(engine_type);
    regex
}

/// A pattern that has to match a whole value.
pub(super) fn full_regex(at: Place<'_>, value: &matcher::RegexMatcher) -> Outcome<Regex> {
    compile_full_match(pattern_of(value)).map_err(|error| at.field("regex").refuse(error))
}

/// A pattern to search for, and what replaces it.
pub(super) fn substitution<'v>(
    at: Place<'_>,
    value: &'v matcher::RegexMatchAndSubstitute,
) -> Outcome<(Regex, &'v str)> {
    let matcher::RegexMatchAndSubstitute { pattern, substitution } = value;
    let pattern_at = at.field("pattern");
    let pattern = pattern.as_ref().ok_or_else(|| pattern_at.refuse("a pattern is required"))?;
    let regex = regex::RegexBuilder::new(pattern_of(pattern))
        .size_limit(4 << 20)
        .build()
        .map_err(|error| pattern_at.field("regex").refuse(error))?;
    Ok((regex, substitution))
}

/// A condition on a header.
pub(super) fn header(at: Place<'_>, value: &route::HeaderMatcher) -> Outcome<HeaderMatcher> {
    let route::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } = value;
    let key = HeaderKey::parse(name).map_err(|_| at.field("name").refuse(format_args!("{name:?} is not a header")))?;
    let test = match header_match_specifier {
        None => HeaderTest::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => HeaderTest::Present(*present),
        Some(HeaderMatchSpecifier::RangeMatch(range)) => HeaderTest::Range(range.start, range.end),
        Some(HeaderMatchSpecifier::StringMatch(value)) => HeaderTest::Value(string(at.field("string_match"), value)?),
        Some(HeaderMatchSpecifier::ExactMatch(text)) => HeaderTest::Value(StringMatcher::exact(text, false)),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => HeaderTest::Value(StringMatcher::prefix(text, false)),
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => HeaderTest::Value(StringMatcher::suffix(text, false)),
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => HeaderTest::Value(StringMatcher::contains(text, false)),
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => {
            HeaderTest::Value(string_regex(at.field("safe_regex_match"), regex)?)
        }
    };
    let mut out = HeaderMatcher::new(key, test);
    out.invert = *invert_match;
    out.treat_missing_as_empty = *treat_missing_header_as_empty;
    Ok(out)
}

/// A condition on a query parameter.
pub(super) fn query(at: Place<'_>, value: &route::QueryParameterMatcher) -> Outcome<QueryMatcher> {
    let route::QueryParameterMatcher { name, query_parameter_match_specifier } = value;
    let value = match query_parameter_match_specifier {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => None,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(at.field("present_match").refuse("matching on a missing parameter is not supported"));
        }
        Some(QueryParameterMatchSpecifier::StringMatch(value)) => Some(string(at.field("string_match"), value)?),
    };
    Ok(QueryMatcher { name: name.as_str().into(), value })
}

/// Headers to write and to remove, of one level; `prefix` is `request` or `response`.
pub(super) fn header_ops(
    at: Place<'_>,
    fields: (&str, &str),
    add: &[HeaderValueOption],
    remove: &[String],
) -> Outcome<HeaderOps> {
    let write = at.field(fields.0).each(add, header_op)?;
    let remove = at.field(fields.1).each(remove, |at, name| modifiable(at, name))?;
    Ok(HeaderOps { write, remove })
}

/// The names of the fields that [`header_ops`] reads, for requests.
pub(super) const REQUEST: (&str, &str) = ("request_headers_to_add", "request_headers_to_remove");
/// The names of the fields that [`header_ops`] reads, for responses.
pub(super) const RESPONSE: (&str, &str) = ("response_headers_to_add", "response_headers_to_remove");

fn modifiable(at: Place<'_>, name: &str) -> Outcome<HeaderName> {
    if name.starts_with(':') {
        return Err(at.refuse(format_args!("{name:?} cannot be changed; use a rewrite")));
    }
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| at.refuse(format_args!("{name:?} is not a header")))
}

fn header_op(at: Place<'_>, value: &HeaderValueOption) -> Outcome<HeaderOp> {
    let HeaderValueOption { header, append, append_action, keep_empty_value } = value;
    let header_at = at.field("header");
    let HeaderValue { key, value, raw_value } =
        header.as_ref().ok_or_else(|| header_at.refuse("a header is required"))?;
    let action = match (append, HeaderAppendAction::try_from(*append_action)) {
        (Some(append), _) if append.value => AppendAction::AppendOrAdd,
        (Some(_), _) => AppendAction::OverwriteOrAdd,
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => AppendAction::AppendOrAdd,
        (None, Ok(HeaderAppendAction::AddIfAbsent)) => AppendAction::AddIfAbsent,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => AppendAction::OverwriteOrAdd,
        (None, Ok(HeaderAppendAction::OverwriteIfExists)) => AppendAction::OverwriteIfExists,
        (None, Err(_)) => return Err(at.field("append_action").refuse("not a known action")),
    };
    let value_at = header_at.field("value");
    let text = if raw_value.is_empty() {
        value.as_str()
    } else {
        std::str::from_utf8(raw_value).map_err(|_| header_at.field("raw_value").refuse("not UTF-8"))?
    };
    Ok(HeaderOp {
        name: modifiable(header_at.field("key"), key)?,
        action,
        value: Format::parse(text).map_err(|error| value_at.refuse(error))?,
        keep_empty: *keep_empty_value,
    })
}
