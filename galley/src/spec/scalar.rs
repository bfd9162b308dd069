//! Values that several kinds share: durations, percentages, text matches, label maps.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Labels as they are written, sorted by key.
pub type LabelMap = BTreeMap<String, String>;

/// A length of time of at least zero, written as `1.5s`, `250ms`, `5m` or `1h10m`.
///
/// Reads what Go's `time.ParseDuration` and proto3 JSON accept, except for negative lengths. Written back in seconds, as proto3
/// JSON does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(pub std::time::Duration);

/// A text that is not a [`Duration`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number with a unit.
    #[error("`{0}` is not a duration: write a number with a unit, such as `5s`, `250ms`, `1.5s` or `1h10m`")]
    Syntax(String),
    /// Below zero.
    #[error("the duration `{0}` is negative")]
    Negative(String),
    /// Longer than can be represented.
    #[error("the duration `{0}` is too long: at most 315576000000s (10,000 years)")]
    TooLong(String),
}

/// A share in percent, from 0 to 100, with fractions: `{ value: 0.1 }`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Percent {
    /// Percent, 0 to 100.
    pub value: f64,
}

/// How a text is compared. In YAML: `exact: a`, `prefix: a`, `regex: a`, or `{}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "StringMatchForm", into = "StringMatchForm")]
pub enum StringMatch {
    /// `{}`: whatever is present. Envoy: `present_match`.
    #[default]
    Present,
    /// The whole text, case-sensitive.
    Exact(String),
    /// The beginning of the text, case-sensitive.
    Prefix(String),
    /// The whole text, as an RE2 expression.
    Regex(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename = "StringMatch")]
#[derive(Default)]
struct StringMatchForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
}

message! {
    /// Chooses workloads of the resource's own namespace (or of all, for a resource in the root namespace).
    pub struct WorkloadSelector {
        /// All of these labels must be on the workload. Empty chooses every workload.
        pub labels: LabelMap,
    }
}

message! {
    /// A port, of a gateway's server or a Sidecar's listener.
    pub struct Port {
        /// 1 to 65535.
        pub number: u16,
        /// What it speaks: HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS and so on, in any case.
        pub protocol: String,
        /// A label of the port, unique among its neighbours.
        pub name: String,
        /// Deprecated and without effect.
        pub target_port: Option<u16>,
    }
}

// === impl Duration ===

/// What proto3's `google.protobuf.Duration` can hold.
const LONGEST_SECONDS: u64 = 315_576_000_000;

impl Duration {
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// A duration of milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }

    /// Whether it is zero.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<std::time::Duration> for Duration {
    fn from(value: std::time::Duration) -> Self {
        Self(value)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(value: Duration) -> Self {
        value.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let syntax = || DurationError::Syntax(text.to_owned());
        let too_long = || DurationError::TooLong(text.to_owned());
        let (negative, body) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if body == "0" {
            return Ok(Self::default());
        }
        if body.is_empty() {
            return Err(syntax());
        }
        let mut total: u128 = 0;
        let mut rest = body;
        while !rest.is_empty() {
            let number_end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(syntax)?;
            let (number, tail) = rest.split_at(number_end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let nanos_per_unit: u128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60 * 1_000_000_000,
                "h" => 3_600 * 1_000_000_000,
                _ => return Err(syntax()),
            };
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(syntax());
            }
            let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
            let mut part = whole.checked_mul(nanos_per_unit).ok_or_else(too_long)?;
            let mut scale = nanos_per_unit;
            for digit in fraction.bytes() {
                scale /= 10;
                part += scale * u128::from(digit - b'0');
            }
            total = total.checked_add(part).ok_or_else(too_long)?;
            rest = tail;
        }
        if negative && total > 0 {
            return Err(DurationError::Negative(text.to_owned()));
        }
        let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| too_long())?;
        if seconds > LONGEST_SECONDS {
            return Err(too_long());
        }
        Ok(Self(std::time::Duration::new(seconds, (total % 1_000_000_000) as u32)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        if nanos == 0 {
            return write!(f, "{}s", self.0.as_secs());
        }
        let fraction = format!("{nanos:09}");
        write!(f, "{}.{}s", self.0.as_secs(), fraction.trim_end_matches('0'))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with a unit, such as `5s` or `250ms`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

// === impl Percent ===

impl From<f64> for Percent {
    fn from(value: f64) -> Self {
        Self { value }
    }
}

// === impl StringMatch ===

/// More than one of the ways to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("give only one of `exact`, `prefix` and `regex`")]
struct AmbiguousMatch;

impl TryFrom<StringMatchForm> for StringMatch {
    type Error = AmbiguousMatch;

    fn try_from(form: StringMatchForm) -> Result<Self, AmbiguousMatch> {
        match (form.exact, form.prefix, form.regex) {
            (None, None, None) => Ok(Self::Present),
            (Some(text), None, None) => Ok(Self::Exact(text)),
            (None, Some(text), None) => Ok(Self::Prefix(text)),
            (None, None, Some(text)) => Ok(Self::Regex(text)),
            _ => Err(AmbiguousMatch),
        }
    }
}

impl From<StringMatch> for StringMatchForm {
    fn from(value: StringMatch) -> Self {
        let mut form = Self::default();
        match value {
            StringMatch::Present => {}
            StringMatch::Exact(text) => form.exact = Some(text),
            StringMatch::Prefix(text) => form.prefix = Some(text),
            StringMatch::Regex(text) => form.regex = Some(text),
        }
        form
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[rstest::rstest]
    #[case("5s", 5_000)]
    #[case("1.5s", 1_500)]
    #[case("250ms", 250)]
    #[case("5m", 300_000)]
    #[case("1h10m", 4_200_000)]
    #[case("0", 0)]
    #[case("0s", 0)]
    #[case(".5s", 500)]
    #[case("1m0.25s", 60_250)]
    fn a_duration_is_read_in_go_and_proto_form(#[case] text: &str, #[case] milliseconds: u64) {
        assert_eq!(text.parse(), Ok(Duration::from_millis(milliseconds)));
    }

    #[rstest::rstest]
    #[case("5")]
    #[case("")]
    #[case("s")]
    #[case("5 s")]
    #[case("5sec")]
    #[case("1.2.3s")]
    #[case("five")]
    #[case(".s")]
    fn a_text_without_number_or_unit_is_no_duration(#[case] text: &str) {
        assert_eq!(text.parse::<Duration>(), Err(DurationError::Syntax(text.to_owned())));
    }

    #[test]
    fn a_duration_may_be_neither_negative_nor_longer_than_proto_holds() {
        assert_eq!("-1s".parse::<Duration>(), Err(DurationError::Negative("-1s".to_owned())));
        let eternal = "99999999999999999999999999999999999999999999h";
        assert_eq!(eternal.parse::<Duration>(), Err(DurationError::TooLong(eternal.to_owned())));
        assert_eq!("999999999999s".parse::<Duration>(), Err(DurationError::TooLong("999999999999s".to_owned())));
    }

    #[test]
    fn a_duration_is_written_in_seconds() {
        assert_eq!(Duration::from_millis(1_500).to_string(), "1.5s");
        assert_eq!(Duration::from_secs(60).to_string(), "60s");
        assert_eq!("1ns".parse::<Duration>().unwrap().to_string(), "0.000000001s");
    }

    #[test]
    fn a_match_is_written_as_it_was_read() {
        for text in [r#"{"exact":"a"}"#, r#"{"prefix":"/"}"#, r#"{"regex":".*"}"#, "{}"] {
            let value: StringMatch = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
        assert!(serde_json::from_str::<StringMatch>(r#"{"exact":"a","prefix":"b"}"#).is_err());
        assert!(serde_json::from_str::<StringMatch>(r#"{"exactly":"a"}"#).is_err());
    }
}
