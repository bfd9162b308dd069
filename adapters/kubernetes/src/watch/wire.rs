//! The API server's answers, taken apart: lines of a watch, pages of a list, and what went wrong.
//!
//! - ALWAYS: an answer that ends early is an error, not an end.
//! - NEVER: an object that cannot be read makes others vanish; its name is known as long as its metadata can be read.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::{Timing, Trouble};
use crate::object::{Key, Kind, Names, Object, RawAny, RawMeta, Readable, decode};

/// The longest line or page that is taken: an object of etcd has at most some megabytes, a page has 500 objects.
const LONGEST: usize = 256 * 1024 * 1024;
/// How much of an error's text is kept.
const ERROR_TEXT: usize = 4 * 1024;

/// One line of a watch.
#[derive(Debug)]
pub(crate) enum Line {
    /// An object is there.
    Put(Key, Option<Object>),
    /// An object is gone.
    Gone(Key),
    /// Nothing has happened up to here; `end` when everything that there is has been said.
    Mark {
        /// Whether this ends the initial listing.
        end: bool,
    },
}

/// One line or item, with the version up to which the resource is known then.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) line: Line,
    pub(crate) version: String,
    /// Why the object itself cannot be read.
    pub(crate) misfit: Option<String>,
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) items: Vec<Read>,
    pub(crate) version: String,
    pub(crate) more: Option<String>,
}

/// An answer that is being read line by line.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no end of a line.
    searched: usize,
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum Written<T> {
    Added(T),
    Modified(T),
    Deleted(T),
    Bookmark(Bookmark),
    Error(Status),
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

#[derive(Deserialize)]
struct Listed<T> {
    metadata: ListMeta,
    #[serde(default = "Option::default")]
    items: Option<Vec<T>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    more: Option<String>,
}

struct Json(serde_json::Value);

impl Readable for Json {
    type Error = serde_json::Error;
    fn read<T: DeserializeOwned>(self) -> Result<T, Self::Error> {
        T::deserialize(self.0)
    }
}

/// A line of which the object is read in place, without a tree of it in between.
struct WatchLine<'a> {
    text: &'a [u8],
    /// What the line says happened, for the caller.
    what: &'a mut Option<What>,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Put,
    Gone,
    Mark(String, bool),
    Error(u16, String),
}

impl Readable for WatchLine<'_> {
    type Error = serde_json::Error;
    fn read<T: DeserializeOwned>(self) -> Result<T, Self::Error> {
        let none = || serde_json::Error::io(std::io::Error::other("no object"));
        match serde_json::from_slice::<Written<T>>(self.text)? {
            Written::Added(object) | Written::Modified(object) => {
                *self.what = Some(What::Put);
                return Ok(object);
            }
            Written::Deleted(object) => {
                *self.what = Some(What::Gone);
                return Ok(object);
            }
            Written::Bookmark(mark) => {
                let end = mark.metadata.annotations.get("k8s.io/initial-events-end").is_some_and(|v| v == "true");
                *self.what = Some(What::Mark(mark.metadata.resource_version, end));
            }
            Written::Error(status) => *self.what = Some(What::Error(status.code, status.message)),
        }
        Err(none())
    }
}

/// Sends a request and waits until an answer begins, whatever it says.
pub(crate) async fn send(client: &Client, path: &str, patience: Duration) -> Result<Response<Body>, Trouble> {
    let request = Request::get(path).header(http::header::ACCEPT, "application/json").body(Body::empty());
    let request = request.map_err(|error| Trouble::Broken { text: error.to_string() })?;
    match timeout(patience, client.send(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Trouble::Unreachable { text: chain(&error) }),
        Err(_) => {
            let text = format!("it has not answered for {} s", patience.as_secs_f32());
            Err(Trouble::Unreachable { text })
        }
    }
}

/// Sends a request and looks at the answer's status.
pub(crate) async fn ask(
    client: &Client,
    path: &str,
    kind: Kind,
    verb: &'static str,
    timing: Timing,
) -> Result<Body, Trouble> {
    let answer = send(client, path, timing.answer).await?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let pause = answer.headers().get(http::header::RETRY_AFTER);
    let pause = pause.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let mut text = Vec::new();
    let mut body = answer.into_body();
    while text.len() < ERROR_TEXT
        && let Ok(Some(Ok(frame))) = timeout(timing.answer, body.frame()).await
    {
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    let message = match serde_json::from_slice::<Status>(&text) {
        Ok(status) if !status.message.is_empty() => status.message,
        _ => String::from_utf8_lossy(&text).trim().chars().take(200).collect(),
    };
    Err(Trouble::of_status(status.as_u16(), message, kind, verb, pause))
}

/// Reads a whole page.
pub(crate) async fn page(
    body: Body,
    kind: Kind,
    names: &parking_lot::Mutex<Names>,
    timing: Timing,
) -> Result<Page, Trouble> {
    let mut lines = Lines::new(body);
    let text = lines.rest(timing.idle).await?;
    let listed: Listed<serde_json::Value> = serde_json::from_slice(&text)
        .map_err(|error| Trouble::Broken { text: format!("a list is not JSON: {error}") })?;
    let mut names = names.lock();
    let mut items = Vec::new();
    for item in listed.items.unwrap_or_default() {
        // Only old servers are listed by pages: their objects are taken apart twice.
        let fallback = item.clone();
        let read = match decode(kind, Json(item), &mut names) {
            Ok((meta, object)) => put(&meta, Some(object), None, &mut names)?,
            Err(error) => {
                let meta: RawAny = Json(fallback).read().map_err(unreadable)?;
                put(&meta.metadata, None, Some(error.to_string()), &mut names)?
            }
        };
        items.push(read);
    }
    let more = listed.metadata.more.filter(|token| !token.is_empty());
    if listed.metadata.resource_version.is_empty() && more.is_none() {
        return Err(Trouble::Broken { text: "a list has no resourceVersion".to_owned() });
    }
    Ok(Page { items, version: listed.metadata.resource_version, more })
}

fn put(meta: &RawMeta, object: Option<Object>, misfit: Option<String>, names: &mut Names) -> Result<Read, Trouble> {
    if meta.name.is_empty() {
        return Err(Trouble::Broken { text: "an object has no name".to_owned() });
    }
    let version = meta.resource_version.clone().unwrap_or_default();
    Ok(Read { line: Line::Put(names.key(meta), object), version, misfit })
}

#[allow(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn unreadable(error: serde_json::Error) -> Trouble {
    Trouble::Broken { text: format!("an object cannot be read: {error}") }
}

/// Reads one line of a watch.
pub(crate) fn line(text: &[u8], kind: Kind, names: &mut Names) -> Result<Read, Trouble> {
    let mut what = None;
    let decoded = decode(kind, WatchLine { text, what: &mut what }, names);
    let (meta, object, misfit) = match (decoded, &what) {
        (Ok((meta, object)), _) => (meta, Some(object), None),
        (Err(_), Some(What::Mark(version, end))) => {
            return Ok(Read { line: Line::Mark { end: *end }, version: version.clone(), misfit: None });
        }
        (Err(_), Some(What::Error(code, message))) => {
            return Err(Trouble::of_status(*code, message.clone(), kind, "watch", None));
        }
        (Err(error), _) => match (WatchLine { text, what: &mut what }).read::<RawAny>() {
            Ok(any) => (any.metadata, None, Some(error.to_string())),
            Err(error) => {
                // Some servers answer 200 and then an error without the envelope.
                if let Ok(status) = serde_json::from_slice::<Status>(text)
                    && status.code >= 400
                {
                    return Err(Trouble::of_status(status.code, status.message, kind, "watch", None));
                }
                return Err(Trouble::Broken { text: format!("a line of the watch cannot be read: {error}") });
            }
        },
    };
    let mut read = put(&meta, object, misfit, names)?;
    if read.version.is_empty() {
        return Err(Trouble::Broken { text: "an object has no resourceVersion".to_owned() });
    }
    if what == Some(What::Gone)
        && let Line::Put(key, _) = read.line
    {
        read.line = Line::Gone(key);
    }
    Ok(read)
}

// === impl Lines ===

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line that has arrived already, without waiting.
    pub(crate) fn ready(&mut self) -> Option<Bytes> {
        let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return None;
        };
        let mut line = self.buffer.split_to(self.searched + end + 1);
        line.truncate(line.len() - 1);
        self.searched = 0;
        Some(line.freeze())
    }

    /// Waits for more. `false` at a clean end. Cancel-safe.
    pub(crate) async fn more(&mut self) -> Result<bool, Trouble> {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                if self.buffer.len() > LONGEST {
                    return Err(Trouble::Broken { text: format!("an answer is longer than {LONGEST} bytes") });
                }
                Ok(true)
            }
            Some(Err(error)) => Err(Trouble::Unreachable { text: format!("the connection broke: {}", chain(&error)) }),
            None if self.buffer.is_empty() => Ok(false),
            None => Err(Trouble::Broken { text: "an answer ended in the middle of a line".to_owned() }),
        }
    }

    async fn rest(&mut self, idle: Duration) -> Result<Bytes, Trouble> {
        loop {
            let at = Instant::now();
            match timeout(idle, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
                    if self.buffer.len() > LONGEST {
                        return Err(Trouble::Broken { text: format!("an answer is longer than {LONGEST} bytes") });
                    }
                }
                Ok(Some(Err(error))) => {
                    return Err(Trouble::Unreachable { text: format!("the connection broke: {}", chain(&error)) });
                }
                Ok(None) => return Ok(self.buffer.split().freeze()),
                Err(_) => {
                    let text = format!("an answer has stopped for {} s", at.elapsed().as_secs());
                    return Err(Trouble::Unreachable { text });
                }
            }
        }
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = Some(error);
    while let Some(error) = cause {
        // That is how it looks when a server is gone; what libraries say of it is about their own use.
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::UnexpectedEof) {
            return "it was closed in the middle of an answer".to_owned();
        }
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_watch_line_is_an_object_a_removal_a_mark_or_an_error() {
        let mut names = Names::default();
        let mut read = |text: &str| line(text.as_bytes(), Kind::Node, &mut names);
        let object = r#"{"metadata":{"name":"n","resourceVersion":"7","managedFields":[{"a":1}]}}"#;
        let put = read(&format!(r#"{{"type":"ADDED","object":{object}}}"#)).unwrap();
        assert!(matches!(&put.line, Line::Put(key, Some(Object::Node(_))) if &*key.name == "n"), "{put:?}");
        assert_eq!(put.version, "7");
        let gone = read(&format!(r#"{{"type":"DELETED","object":{object}}}"#)).unwrap();
        assert!(matches!(gone.line, Line::Gone(_)));
        let end = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert!(matches!(read(end).unwrap(), Read { line: Line::Mark { end: true }, version, .. } if version == "9"));
        let error = read(r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#).unwrap_err();
        assert!(matches!(error, Trouble::Expired { .. }), "{error}");
        assert!(matches!(read("{\"type\":\"ADDED\",\"obj"), Err(Trouble::Broken { .. })));
    }

    #[test]
    fn an_object_that_cannot_be_read_still_has_a_name() {
        let mut names = Names::default();
        let text = r#"{"type":"MODIFIED","object":{"metadata":{"name":"s","namespace":"a","resourceVersion":"7"},"spec":{"ports":5}}}"#;
        let read = line(text.as_bytes(), Kind::Service, &mut names).unwrap();
        assert!(matches!(&read.line, Line::Put(key, None) if key.to_string() == "a/s"), "{read:?}");
        assert!(read.misfit.is_some());
    }
}
