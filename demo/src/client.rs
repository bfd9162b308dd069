//! An HTTP client that sends everything to one address: to a proxy, in absolute form, or to a server.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{future::Future, io};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// An answer that does not come within this is no answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers of the shop are small.
const MAX_BODY: usize = 1 << 20;

/// Keeps connections to one address.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pool: Pool<Fixed, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("no answer: {}", reason(.0))]
    Connection(#[from] hyper_util::client::legacy::Error),
    #[error("the answer ended early: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
}

/// The innermost cause, which says most: "Connection refused".
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Connects to `address`, whatever the request's host is.
#[derive(Debug, Clone)]
struct Fixed {
    address: SocketAddr,
    is_proxy: bool,
}

/// A connection that knows whether it leads to a proxy: requests on it are written in absolute form then.
struct Stream {
    io: TokioIo<TcpStream>,
    is_proxy: bool,
}

// === impl Client ===

impl Client {
    /// To a proxy at `address`: requests name their host themselves.
    pub fn through_proxy(address: SocketAddr) -> Self {
        Self::new(Fixed { address, is_proxy: true })
    }

    /// To a server at `address`.
    pub fn to_server(address: SocketAddr) -> Self {
        Self::new(Fixed { address, is_proxy: false })
    }

    fn new(connect: Fixed) -> Self {
        Self { pool: Pool::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(connect) }
    }

    /// GETs `uri` with `headers` and reads the whole answer.
    pub async fn get(&self, uri: &str, headers: HeaderMap) -> Result<Answer, CallError> {
        let mut request = Request::get(uri).body(Full::default())?;
        request.headers_mut().extend(headers);
        let exchange = async {
            let (parts, body) = self.pool.request(request).await?.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(CallError::Body)?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(CallError::Timeout))
    }
}

// === impl Fixed ===

impl tower::Service<Uri> for Fixed {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, is_proxy } = *self;
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Stream { io: TokioIo::new(stream), is_proxy })
        })
    }
}

// === impl Stream ===

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxy)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
