//! An HTTP client that says exactly what it got, or how exactly it failed.
//!
//! Where a request goes (an address) and whom it asks for (`Host`) are two things here, as in front of a proxy.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A complete response.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status code.
    pub status: u16,
    /// Its version.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers; empty when it had none.
    pub trailers: HeaderMap,
}

/// Why there is no response.
#[derive(Debug)]
pub enum Failure {
    /// No connection.
    Connect(std::io::Error),
    /// A connection, but no response on it.
    Exchange(hyper::Error),
    /// A response that broke off after its head, with this status.
    Body(u16, hyper::Error),
    /// Nothing complete within this time.
    Timeout(Duration),
    /// The response was complete, but not what was asked for.
    Unexpected(String),
}

/// A request that is being put together.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before `send`"]
pub struct Call {
    address: SocketAddr,
    method: Method,
    host: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    version: Version,
    timeout: Duration,
}

/// One client connection, kept open between requests.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A GET, sent to `address` and asking for `host`.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Call {
    Call {
        address,
        method: Method::GET,
        host: host.to_owned(),
        path: path.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        version: Version::HTTP_11,
        timeout: Duration::from_secs(10),
    }
}

/// A POST with a body.
pub fn post(address: SocketAddr, host: &str, path: &str, body: impl Into<Bytes>) -> Call {
    get(address, host, path).method(Method::POST).body(body)
}

/// The body of a page that must answer 200.
///
/// # Errors
/// Says what went wrong.
pub async fn page(address: SocketAddr, path: &str) -> Result<String, String> {
    let host = address.to_string();
    let reply = get(address, &host, path).send().await.map_err(|e| format!("GET http://{host}{path}: {e}"))?;
    match reply.status {
        200 => Ok(reply.text()),
        status => Err(format!("GET http://{host}{path}: {status}: {}", reply.text())),
    }
}

// === impl Call ===

impl Call {
    /// Another method.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Adds a header.
    ///
    /// # Panics
    /// When it is not one.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap_or_else(|e| panic!("{name:?}: {e}"));
        let value = HeaderValue::from_str(value).unwrap_or_else(|e| panic!("{value:?}: {e}"));
        self.headers.append(name, value);
        self
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With HTTP/2 and prior knowledge.
    pub fn http2(mut self) -> Self {
        self.version = Version::HTTP_2;
        self
    }

    /// How long the whole exchange may take; 10 s unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends it on a connection of its own.
    ///
    /// # Errors
    /// See [`Failure`]. A status of any kind is a reply, not a failure.
    pub async fn send(self) -> Result<Reply, Failure> {
        let limit = self.timeout;
        let exchange = async {
            let mut connection = Connection::open(self.address, self.version).await?;
            connection.exchange(&self).await
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Failure::Timeout(limit)))
    }

    /// Asks for an upgrade of the connection to `protocol`, for example `websocket`, and returns the open stream.
    ///
    /// # Errors
    /// [`Failure::Unexpected`] when the answer is anything but 101.
    pub async fn upgrade(self, protocol: &str) -> Result<(Reply, TokioIo<Upgraded>), Failure> {
        let call = self.header(CONNECTION.as_str(), "Upgrade").header(UPGRADE.as_str(), protocol);
        let limit = call.timeout;
        let exchange = async {
            let mut connection = Connection::open(call.address, Version::HTTP_11).await?;
            let mut response = connection.send(call.request()).await.map_err(Failure::Exchange)?;
            if response.status() != 101 {
                let reply = Reply::read(response).await?;
                return Err(Failure::Unexpected(format!("{} instead of 101: {}", reply.status, reply.text())));
            }
            let upgraded = hyper::upgrade::on(&mut response).await.map_err(Failure::Exchange)?;
            Ok((Reply::head(&response), TokioIo::new(upgraded)))
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Failure::Timeout(limit)))
    }

    /// Where it goes.
    pub fn target(&self) -> SocketAddr {
        self.address
    }

    /// The version it is sent with.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How long the whole exchange may take.
    pub fn limit(&self) -> Duration {
        self.timeout
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut builder = Request::builder().method(self.method.clone()).version(self.version);
        if self.version == Version::HTTP_2 {
            builder = builder.uri(format!("http://{}{}", self.host, self.path));
        } else {
            builder = builder.uri(&self.path).header(HOST, &self.host);
        }
        let mut request = builder.body(Full::new(self.body.clone())).unwrap_or_else(|e| panic!("{self:?}: {e}"));
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        request
    }
}

// === impl Connection ===

impl Connection {
    /// Opens a connection that speaks HTTP/1.1, or HTTP/2 with prior knowledge.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open(address: SocketAddr, version: Version) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.map_err(Failure::Connect)?;
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        let io = TokioIo::new(stream);
        let (sender, task) = if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(Failure::Exchange)?;
            (Sender::Http2(sender), tokio::spawn(async move { drop(connection.await) }))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(Failure::Exchange)?;
            (Sender::Http1(sender), tokio::spawn(async move { drop(connection.with_upgrades().await) }))
        };
        Ok(Self { sender, task })
    }

    /// Whether another request can be sent on it: the server has not closed it.
    pub async fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a call on this connection, whatever address the call names.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn exchange(&mut self, call: &Call) -> Result<Reply, Failure> {
        let response = self.send(call.request()).await.map_err(Failure::Exchange)?;
        Reply::read(response).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // An upgraded connection has left its task; of any other nobody needs the rest.
        self.task.abort();
    }
}

// === impl Reply ===

impl Reply {
    fn head<B>(response: &Response<B>) -> Self {
        Self {
            status: response.status().as_u16(),
            version: response.version(),
            headers: response.headers().clone(),
            body: Bytes::new(),
            trailers: HeaderMap::new(),
        }
    }

    async fn read(response: Response<Incoming>) -> Result<Self, Failure> {
        let mut reply = Self::head(&response);
        let collected = response.into_body().collect().await.map_err(|e| Failure::Body(reply.status, e))?;
        reply.trailers = collected.trailers().cloned().unwrap_or_default();
        reply.body = collected.to_bytes();
        Ok(reply)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {} {}", self.status, self.text()))
    }

    /// A header's value, when it has it and it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The [`Backend`](crate::Backend) that answered; empty when none of them did.
    pub fn served_by(&self) -> &str {
        self.header("x-served-by").unwrap_or("")
    }
}

// === impl Failure ===

impl Failure {
    /// Whether the request was certainly never sent, so that sending it again is no retry: the server had closed
    /// the connection before.
    pub fn never_sent(&self) -> bool {
        matches!(self, Self::Exchange(error) if error.is_canceled())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no connection: {error}"),
            Self::Exchange(error) => write!(f, "no response: {}", chain(error)),
            Self::Body(status, error) => write!(f, "response {status} broke off: {}", chain(error)),
            Self::Timeout(limit) => write!(f, "nothing within {limit:?}"),
            Self::Unexpected(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
