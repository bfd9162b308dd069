//! Envoy's `%OPERATOR(argument):length%` command language, compiled once.
//!
//! Used by access logs and by header values. What an operator yields is decided where the stream's facts are
//! (`proxy::log`); here is only the grammar, so that a wrong format is refused with its text at configuration time.

use super::header::HeaderKey;

/// Envoy's default text access log line.
const DEFAULT_LOG: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// A compiled format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// The parts, in order.
    pub segments: Vec<Segment>,
}

/// A part of a [`Format`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text as written.
    Literal(Box<str>),
    /// A value of the stream, at most `max` bytes of it.
    Value {
        /// What.
        operator: Operator,
        /// `:length` of the operator.
        max: Option<usize>,
    },
}

/// What a `%...%` stands for. The names are Envoy's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is Envoy's operator of that name")]
pub enum Operator {
    /// `START_TIME`, with an optional strftime-like format.
    StartTime(Option<Box<str>>),
    /// `REQ(first?alternative)`.
    Request(HeaderKey, Option<HeaderKey>),
    /// `RESP(first?alternative)`.
    Response(HeaderKey, Option<HeaderKey>),
    /// `TRAILER(name)`.
    Trailer(HeaderKey),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    ResponseFlags,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    ResponseDuration,
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocalAddress,
    UpstreamTransportFailureReason,
    UpstreamRequestAttemptCount,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamDirectRemoteAddress,
    DownstreamDirectRemoteAddressWithoutPort,
    RequestedServerName,
    RouteName,
    Hostname,
    /// `PATH(WQ|NQ)`; `true` keeps the query.
    Path(bool),
    /// `ENVIRONMENT(NAME)`, read when the format is compiled.
    Text(Box<str>),
    /// A known operator whose value never exists here: filter state, dynamic metadata, client certificates.
    Absent,
}

/// Why a format was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// A `%` has no partner.
    #[error("format {0:?}: '%' at byte {1} is not closed; write %% for a percent sign")]
    Unclosed(String, usize),
    /// The operator is not known.
    #[error("format operator %{0}% is not supported; remove it from the format")]
    Unknown(String),
    /// The operator's argument or length is wrong.
    #[error("format operator %{0}% has a wrong argument: {1}")]
    Argument(String, String),
}

/// The shape of a JSON access log.
#[derive(Clone, Debug, PartialEq)]
pub enum JsonFormat {
    /// A text; when it is one numeric operator only, the value stays a number.
    Text(Format),
    /// An object, keys in order.
    Object(Vec<(String, JsonFormat)>),
    /// An array.
    List(Vec<JsonFormat>),
    /// A value that is written as is.
    Constant(serde_json::Value),
}

// === impl Format ===

impl Format {
    /// Compiles `text`.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(tail) = after.strip_prefix('%') {
                literal.push('%');
                rest = tail;
                continue;
            }
            let offset = text.len() - rest.len() + at;
            let end = operator_end(after).ok_or_else(|| FormatError::Unclosed(text.to_owned(), offset))?;
            if !literal.is_empty() {
                segments.push(Segment::Literal(std::mem::take(&mut literal).into()));
            }
            segments.push(parse_operator(&after[..end])?);
            rest = &after[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal.into()));
        }
        Ok(Self { segments })
    }

    /// A format that is only text; `%` has no meaning.
    pub fn literal(text: &str) -> Self {
        Self { segments: if text.is_empty() { Vec::new() } else { vec![Segment::Literal(text.into())] } }
    }

    /// Envoy's default access log line.
    pub fn default_access_log() -> Self {
        // The text is a constant of this file, covered by a test; an empty format would be the only other outcome.
        Self::parse(DEFAULT_LOG).unwrap_or_default()
    }

    /// The text, when no operator is involved.
    pub fn as_literal(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [] => Some(""),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// The byte where the closing `%` is; a `%` between parentheses belongs to the argument.
fn operator_end(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

fn parse_operator(text: &str) -> Result<Segment, FormatError> {
    let wrong = |why: &str| FormatError::Argument(text.to_owned(), why.to_owned());
    let (name, argument, tail) = match text.find('(') {
        Some(open) => {
            let close = text.rfind(')').filter(|close| *close > open).ok_or_else(|| wrong("no closing parenthesis"))?;
            (&text[..open], Some(&text[open + 1..close]), &text[close + 1..])
        }
        None => {
            let split = text.find(':').unwrap_or(text.len());
            (&text[..split], None, &text[split..])
        }
    };
    let max = match tail.strip_prefix(':') {
        Some(length) => Some(length.parse().map_err(|_| wrong("the length has to be a whole number"))?),
        None if tail.is_empty() => None,
        None => return Err(wrong("unexpected text after the argument")),
    };
    let key = |name: &str| HeaderKey::parse(name.trim()).map_err(|_| wrong("not a header name"));
    let pair = || {
        let argument = argument.ok_or_else(|| wrong("a header name is required"))?;
        Ok::<_, FormatError>(match argument.split_once('?') {
            Some((first, second)) => (key(first)?, Some(key(second)?)),
            None => (key(argument)?, None),
        })
    };
    let operator = match name {
        "START_TIME" => Operator::StartTime(argument.filter(|text| !text.is_empty()).map(Into::into)),
        "REQ" | "REQUEST_HEADER" => pair().map(|(first, second)| Operator::Request(first, second))?,
        "RESP" | "RESPONSE_HEADER" => pair().map(|(first, second)| Operator::Response(first, second))?,
        "TRAILER" | "RESPONSE_TRAILER" => Operator::Trailer(pair()?.0),
        "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => Operator::Trailer(key("grpc-status")?),
        "PROTOCOL" => Operator::Protocol,
        "RESPONSE_CODE" => Operator::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Operator::ConnectionTerminationDetails,
        "RESPONSE_FLAGS" => Operator::ResponseFlags,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "DURATION" => Operator::Duration,
        "REQUEST_DURATION" => Operator::RequestDuration,
        "RESPONSE_DURATION" => Operator::ResponseDuration,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Operator::UpstreamHost,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => Operator::UpstreamLocalAddress,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamTransportFailureReason,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::UpstreamRequestAttemptCount,
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::DownstreamLocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::DownstreamLocalAddressWithoutPort,
        "DOWNSTREAM_LOCAL_PORT" => Operator::DownstreamLocalPort,
        "DOWNSTREAM_REMOTE_ADDRESS" => Operator::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::DownstreamRemoteAddressWithoutPort,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Operator::DownstreamDirectRemoteAddress,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::DownstreamDirectRemoteAddressWithoutPort,
        "REQUESTED_SERVER_NAME" => Operator::RequestedServerName,
        "ROUTE_NAME" => Operator::RouteName,
        "HOSTNAME" => Operator::Hostname,
        "PATH" => Operator::Path(argument != Some("NQ")),
        "ENVIRONMENT" => {
            Operator::Text(argument.and_then(|name| std::env::var(name).ok()).unwrap_or_else(|| "-".into()).into())
        }
        "DYNAMIC_METADATA"
        | "CLUSTER_METADATA"
        | "UPSTREAM_METADATA"
        | "METADATA"
        | "FILTER_STATE"
        | "VIRTUAL_CLUSTER_NAME"
        | "UPSTREAM_FILTER_STATE"
        | "DOWNSTREAM_PEER_URI_SAN"
        | "DOWNSTREAM_LOCAL_URI_SAN"
        | "DOWNSTREAM_PEER_SUBJECT"
        | "DOWNSTREAM_PEER_ISSUER"
        | "DOWNSTREAM_PEER_FINGERPRINT_256"
        | "DOWNSTREAM_PEER_SERIAL"
        | "DOWNSTREAM_TLS_CIPHER"
        | "DOWNSTREAM_TLS_VERSION"
        | "DOWNSTREAM_TLS_SESSION_ID"
        | "DOWNSTREAM_TRANSPORT_FAILURE_REASON"
        | "STREAM_ID"
        | "CONNECTION_ID"
        | "TRACE_ID" => Operator::Absent,
        other => return Err(FormatError::Unknown(other.to_owned())),
    };
    Ok(Segment::Value { operator, max })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_default_line_compiles_to_its_fifteen_values() {
        let format = Format::default_access_log();
        assert_eq!(format.segments.iter().filter(|part| matches!(part, Segment::Value { .. })).count(), 15);
    }

    #[test]
    fn percent_signs_are_escaped_and_arguments_and_lengths_are_read() {
        let format = Format::parse("100%% %REQ(X-A?:PATH):12%!").unwrap();
        assert_eq!(
            format.segments,
            vec![
                Segment::Literal("100% ".into()),
                Segment::Value {
                    operator: Operator::Request(HeaderKey::parse("x-a").unwrap(), Some(HeaderKey::Path)),
                    max: Some(12)
                },
                Segment::Literal("!".into()),
            ]
        );
    }

    #[test]
    fn a_strftime_argument_may_contain_percent_signs() {
        let format = Format::parse("%START_TIME(%Y/%m)%").unwrap();
        assert_eq!(
            format.segments,
            vec![Segment::Value { operator: Operator::StartTime(Some("%Y/%m".into())), max: None }]
        );
    }

    #[test]
    fn wrong_formats_say_what_is_wrong() {
        assert_eq!(Format::parse("a%b"), Err(FormatError::Unclosed("a%b".into(), 1)));
        assert_eq!(Format::parse("%NOPE%"), Err(FormatError::Unknown("NOPE".into())));
        assert!(matches!(Format::parse("%REQ(x):y%"), Err(FormatError::Argument(..))));
        assert!(matches!(Format::parse("%REQ%"), Err(FormatError::Argument(..))));
    }
}
