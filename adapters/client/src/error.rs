//! Why there is no answer, in words that tell an operator what to do.

use std::error::Error;
use std::time::Duration;

use http::HeaderMap;

/// The longest pause that a server can ask for.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(120);
/// How many characters of a text that may hold a server's words are kept.
const SERVERS_WORDS: usize = 300;

/// Why a request has no complete answer. None of these says anything about what the platform has.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The settings cannot be used.
    #[error("{problem}")]
    Settings {
        /// What is wrong, and with which file or value.
        problem: String,
    },
    /// The token's file cannot be used.
    #[error("the token file {path} {problem}")]
    Token {
        /// The file.
        path: String,
        /// What is wrong with it. Never its content.
        problem: String,
    },
    /// No connection.
    #[error("cannot connect to {address}: {problem}")]
    Connect {
        /// Where to.
        address: String,
        /// The reasons, outermost first.
        problem: String,
    },
    /// The server did not answer, or stopped or trickled within an answer, for this long.
    #[error("{path}: no answer for {} s", after.as_secs())]
    TimedOut {
        /// What was asked.
        path: String,
        /// How long was waited.
        after: Duration,
    },
    /// The server refused.
    #[error("{path}: {}", status_text(*code, body_start))]
    Status {
        /// Its status code.
        code: u16,
        /// How its text begins.
        body_start: String,
        /// What was asked.
        path: String,
        /// Its headers.
        headers: Box<HeaderMap>,
    },
    /// The answer ended before it was complete.
    #[error("{path}: the answer broke off: {problem}")]
    Cut {
        /// What was asked.
        path: String,
        /// The reasons, outermost first.
        problem: String,
    },
    /// The answer is larger than is read.
    #[error("{path}: the answer is larger than {limit} bytes and was not read")]
    TooLarge {
        /// What was asked.
        path: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The answer is not what was expected.
    #[error("{path}: the answer cannot be understood: {problem}; is this the right address?")]
    NotJson {
        /// What was asked.
        path: String,
        /// Where it is wrong.
        problem: String,
    },
    /// The request failed between a connection and an answer.
    #[error("{path}: {problem}")]
    Protocol {
        /// What was asked.
        path: String,
        /// The reasons, outermost first.
        problem: String,
    },
}

fn status_text(code: u16, body_start: &str) -> String {
    let meaning = match code {
        401 | 403 => "the token's permissions do not suffice",
        404 => "there is no such thing",
        429 => "the server limits requests",
        500..=599 => "the server has a problem",
        _ => "the server refused",
    };
    if body_start.is_empty() {
        format!("{meaning} (HTTP {code})")
    } else {
        format!("{meaning} (HTTP {code}: {body_start})")
    }
}

/// An error's reasons without its own words, which for `reqwest` hold nothing but the URL.
pub(crate) fn reasons(error: &dyn Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(reason) = next {
        let text = reason.to_string();
        if !texts.last().is_some_and(|last| last.contains(&text)) {
            texts.push(text);
        }
        next = reason.source();
    }
    brief(&if texts.is_empty() { error.to_string() } else { texts.join(": ") })
}

/// The beginning of a text that may hold a server's words, without anything that a terminal would act on.
pub(crate) fn brief(text: &str) -> String {
    let mut brief = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == SERVERS_WORDS {
            brief.push_str("...");
            break;
        }
        if c.is_control() { brief.extend(c.escape_default()) } else { brief.push(c) }
    }
    brief
}

// === impl ClientError ===

impl ClientError {
    /// Whether the server says that the token may not do this (401, 403).
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Status { code: 401 | 403, .. })
    }

    /// Whether the server limits requests (429).
    pub fn is_throttled(&self) -> bool {
        matches!(self, Self::Status { code: 429, .. })
    }

    /// Whether the server knows no such thing (404). Of a platform's list, that too is no deletion.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// Whether there was no connection, or it ended: the next answer comes over another one.
    pub fn is_disconnect(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::TimedOut { .. } | Self::Cut { .. } | Self::Protocol { .. })
    }

    /// The headers of a refusal.
    pub fn headers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Status { headers, .. } => Some(headers),
            _ => None,
        }
    }

    /// How long the server asks to wait (`Retry-After` in seconds, RFC 9110 section 10.2.3), at most two minutes.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers()?.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds).min(MOST_RETRY_AFTER))
    }
}
