//! Bodies on their way through: what goes upstream, and what comes back.

use super::deadline::Deadline;
use super::flags::Flags;
use super::h1;
use super::pool::StreamGuard;
use super::record::Record;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;

/// A body is kept for another attempt while it is not larger than this.
pub(super) const REPLAY_LIMIT: usize = 64 * 1024;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the client's body ended early: {0}")]
    Client(hyper::Error),
    #[error("the upstream's body ended early: {0}")]
    Upstream(String),
    #[error("the time for the response is over")]
    Timeout,
}

/// A request's body, for one attempt.
pub(super) enum RequestBody {
    Empty,
    Once { inner: Incoming, upload: Rc<Upload> },
    Replay { recorder: Rc<Recorder>, next: usize },
}

/// How far the client's body has come.
#[derive(Debug, Default)]
pub(super) struct Upload {
    pub bytes: Cell<u64>,
    /// When all of it was read.
    done_at: Cell<Option<Instant>>,
}

/// Keeps what was read from the client so that another attempt can send it again.
pub(super) struct Recorder {
    state: RefCell<Recorded>,
    upload: Rc<Upload>,
}

struct Recorded {
    inner: Incoming,
    frames: Vec<Saved>,
    kept: usize,
    overflow: bool,
    ended: bool,
}

#[derive(Clone)]
enum Saved {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// A response's body. When it is dropped or at its end, the request is over: statistics and log are written.
pub(super) struct ResponseBody {
    inner: Inner,
    record: Option<Box<Record>>,
    deadline: Option<Deadline>,
}

pub(super) enum Inner {
    Empty,
    Full(Bytes),
    H1(Box<h1::ResponseBody>),
    H2(Incoming, #[allow(dead_code, reason = "counts the stream until the body ends")] StreamGuard),
}

// === impl RequestBody ===

impl RequestBody {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Once { inner, upload } => {
                let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => upload.count(frame, inner.is_end_stream()),
                    Some(Err(_)) | None => upload.finish(),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Client)))
            }
            Self::Replay { recorder, next } => recorder.poll_frame(next, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once { inner, .. } => inner.is_end_stream(),
            Self::Replay { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once { inner, .. } => inner.size_hint(),
            Self::Replay { .. } => SizeHint::default(),
        }
    }
}

// === impl Upload ===

impl Upload {
    fn count(&self, frame: &Frame<Bytes>, last: bool) {
        if let Some(data) = frame.data_ref() {
            self.bytes.set(self.bytes.get() + data.len() as u64);
        }
        if last {
            self.finish();
        }
    }

    /// Notes the end of the body. Only the first time counts: what follows is another look at the same end.
    pub fn finish(&self) {
        if self.done_at.get().is_none() {
            self.done_at.set(Some(Instant::now()));
        }
    }

    /// When the whole body was read, if it was.
    pub fn done_at(&self) -> Option<Instant> {
        self.done_at.get()
    }
}

// === impl Recorder ===

impl Recorder {
    pub fn new(inner: Incoming, upload: Rc<Upload>) -> Rc<Self> {
        let state = Recorded { inner, frames: Vec::new(), kept: 0, overflow: false, ended: false };
        Rc::new(Self { state: RefCell::new(state), upload })
    }

    /// A body from the first byte, or `None` when it was too large to keep.
    pub fn body(self: &Rc<Self>) -> Option<RequestBody> {
        (!self.state.borrow().overflow).then(|| RequestBody::Replay { recorder: self.clone(), next: 0 })
    }

    /// Whether another attempt could send the body from its first byte.
    pub fn can_repeat(&self) -> bool {
        !self.state.borrow().overflow
    }

    /// Whether the whole body was read and kept.
    pub fn is_complete(&self) -> bool {
        let state = self.state.borrow();
        state.ended && !state.overflow
    }

    fn poll_frame(&self, next: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let state = &mut *self.state.borrow_mut();
        if !state.overflow
            && let Some(saved) = state.frames.get(*next)
        {
            *next += 1;
            return Poll::Ready(Some(Ok(match saved.clone() {
                Saved::Data(data) => Frame::data(data),
                Saved::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut state.inner).poll_frame(cx)) {
            None => {
                state.ended = true;
                self.upload.finish();
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Client(error)))),
            Some(Ok(frame)) => frame,
        };
        self.upload.count(&frame, state.inner.is_end_stream());
        let saved = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                state.kept += data.len();
                Some(Saved::Data(data.clone()))
            }
            (None, Some(trailers)) => Some(Saved::Trailers(trailers.clone())),
            (None, None) => None,
        };
        if state.kept > REPLAY_LIMIT {
            state.overflow = true;
            state.frames = Vec::new();
        } else if let Some(saved) = saved {
            state.frames.push(saved);
            *next += 1;
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    pub fn new(inner: Inner, record: Box<Record>, deadline: Option<Deadline>) -> Self {
        Self { inner, record: Some(record), deadline }
    }

    /// A body that belongs to no recorded request.
    pub fn unrecorded(text: Bytes) -> Self {
        let inner = if text.is_empty() { Inner::Empty } else { Inner::Full(text) };
        Self { inner, record: None, deadline: None }
    }

    fn fail(&mut self, flag: Flags, details: &'static str) {
        if let Some(mut record) = self.record.take() {
            record.flags.set(flag);
            record.details = details.into();
            record.broken = true;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.inner {
            Inner::Empty => return Poll::Ready(None),
            Inner::Full(data) => {
                let data = std::mem::take(data);
                this.inner = Inner::Empty;
                Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
            }
            Inner::H1(body) => body.poll_frame(cx),
            Inner::H2(body, _) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|error| BodyError::Upstream(error.to_string())))),
        };
        match polled {
            Poll::Pending => {
                let upload = this.record.as_ref().and_then(|record| record.upload.as_deref());
                if let Some(deadline) = &mut this.deadline
                    && deadline.poll_over(cx, upload).is_ready()
                {
                    this.inner = Inner::Empty;
                    this.fail(Flags::UPSTREAM_TIMEOUT, "response_timeout");
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(record) = &mut this.record {
                    if let Some(data) = frame.data_ref() {
                        record.bytes_sent += data.len() as u64;
                    } else if let Some(trailers) = frame.trailers_ref() {
                        record.see_trailers(trailers);
                    }
                }
                if this.is_end_stream() {
                    this.record = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.inner = Inner::Empty;
                this.record = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.inner = Inner::Empty;
                this.fail(Flags::UPSTREAM_CLOSED, "upstream_reset_after_response_started");
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Full(data) => data.is_empty(),
            Inner::H1(body) => body.is_end(),
            Inner::H2(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(data) => SizeHint::with_exact(data.len() as u64),
            Inner::H1(body) => body.size_hint(),
            Inner::H2(body, _) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if !self.is_end_stream() {
            self.fail(Flags::CLIENT_CLOSED, "downstream_remote_disconnect");
        }
    }
}
