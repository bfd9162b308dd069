//! Answers that come line by line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::client::chunk;
use crate::error::ClientError;
use crate::transport::Busy;

/// An answer that comes line by line for as long as both sides want.
pub struct Lines {
    response: reqwest::Response,
    buffer: BytesMut,
    /// Up to where the buffer is known to have no line's end.
    searched: usize,
    path: Arc<str>,
    idle: Duration,
    limit: usize,
    ended: bool,
    _busy: Busy,
}

// === impl Lines ===

impl Lines {
    pub(crate) fn new(response: reqwest::Response, path: Arc<str>, idle: Duration, limit: usize, busy: Busy) -> Self {
        Self { response, buffer: BytesMut::new(), searched: 0, path, idle, limit, ended: false, _busy: busy }
    }

    /// The headers of the answer.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next line without its end, or `None` when the server has ended the stream between two lines.
    ///
    /// # Errors
    /// [`ClientError`] when the stream breaks off, is silent for too long, or has a line that is too long. Nothing follows an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let line = self.read().await;
        self.ended |= !matches!(line, Ok(Some(_)));
        line
    }

    async fn read(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                line.truncate(line.trim_ascii_end().len());
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > self.limit {
                return Err(ClientError::TooLarge { path: self.path.to_string(), limit: self.limit });
            }
            match chunk(&mut self.response, &self.path, self.idle).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.trim_ascii().is_empty() => return Ok(None),
                None => {
                    let problem = "it ended within a line".to_owned();
                    return Err(ClientError::Cut { path: self.path.to_string(), problem });
                }
            }
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("path", &self.path).finish_non_exhaustive()
    }
}
