//! The client itself: what is asked, with which token, and what counts as an answer.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::error::{ClientError, brief, reasons};
use crate::files::{TlsContents, token};
use crate::lines::Lines;
use crate::transport::{Builder, Busy, Transport};

/// How often files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How much of a refusal's text is kept.
const REFUSAL: usize = 300;

/// How much of an answer has to come within every time of patience: a server that trickles would hold its client for ever.
const LEAST: usize = 64 << 10;
/// How long a refusal's text is waited for.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// Where the platform's API is, and as whom it is asked.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// `http://HOST:PORT` or `https://HOST:PORT`, without path and without credentials.
    pub address: String,
    /// Where the token comes from.
    pub token: TokenSource,
    /// What TLS is made of; only for `https`.
    pub tls: TlsFiles,
}

/// Where a token comes from. Never the command line or the settings themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// Requests carry none.
    #[default]
    None,
    /// A file that holds it, read again when it changes. A missing or empty one fails the request.
    File(PathBuf),
}

/// PEM files of a client's TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that the server's certificate is checked against; without it the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain, for mutual TLS.
    pub cert: Option<PathBuf>,
    /// The client's private key.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must have, where it is not the address's host; also sent as SNI.
    pub server_name: Option<String>,
}

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most HTTP/2 connections at once; each carries 200 requests. Further requests share them.
    pub pool: usize,
    /// Do not offer HTTP/2.
    pub http1_only: bool,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How late an answer may begin beyond what was agreed, and how long it may pause. In every such time 64 KiB of it have to come, or
    /// its end.
    pub patience: Duration,
    /// The largest answer, and the longest line of a stream, in bytes.
    pub body_limit: usize,
}

/// A complete answer of a 2xx status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// What was asked, for error messages.
    pub path: Arc<str>,
}

/// A client of one platform's API. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    /// As the operator wrote it.
    address: String,
    /// What requests are made to: the server's name stands here where it is not the address's host.
    base: String,
    secure: bool,
    /// Where to connect, when the URL's host says something else.
    connect_to: Option<String>,
    token_header: HeaderName,
    token: TokenSource,
    tls: TlsFiles,
    options: Options,
    files: Mutex<Files>,
}

/// What was last read from files.
struct Files {
    token: Option<HeaderValue>,
    token_at: Option<Instant>,
    tls: TlsContents,
    tls_at: Instant,
    /// What was last said about files that cannot be used.
    complaint: Option<String>,
    transport: Arc<Transport>,
}

/// Reads an answer's JSON.
///
/// # Errors
/// [`ClientError::NotJson`] where it is not JSON or not of that shape.
pub fn json<T: DeserializeOwned>(answer: &Answer) -> Result<T, ClientError> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| ClientError::NotJson { path: answer.path.to_string(), problem: brief(&error.to_string()) })
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            pool: 4,
            http1_only: false,
            connect_timeout: Duration::from_secs(5),
            patience: Duration::from_secs(10),
            body_limit: 64 << 20,
        }
    }
}

// === impl Client ===

impl Client {
    /// A client that sends its token in `token_header`. Connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Settings`] for an address or certificate files that cannot be used. The token's file is read with the first request.
    pub fn new(endpoint: Endpoint, token_header: &'static str, options: Options) -> Result<Self, ClientError> {
        let settings = |problem: String| ClientError::Settings { problem };
        let token_header = HeaderName::from_bytes(token_header.as_bytes())
            .map_err(|_| settings(format!("{token_header} is no header's name")))?;
        let Parsed { base, secure, connect_to } = parse(&endpoint)?;
        let tls = TlsContents::read(&endpoint.tls)?;
        let builder = Builder { secure, connect_to: connect_to.as_deref(), options: &options };
        let transport = Arc::new(Transport::new(tls.clone(), &builder, &endpoint.tls)?);
        let files = Files { token: None, token_at: None, tls, tls_at: Instant::now(), complaint: None, transport };
        let address = endpoint.address.trim_end_matches('/').to_owned();
        let Endpoint { token, tls, .. } = endpoint;
        let files = Mutex::new(files);
        Ok(Self {
            inner: Arc::new(Inner { address, base, secure, connect_to, token_header, token, tls, options, files }),
        })
    }

    /// The address as it was given.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Whether requests go over TLS, and so, unless the options forbid it, over HTTP/2.
    pub fn is_secure(&self) -> bool {
        self.inner.secure
    }

    /// Asks for `path_and_query`; the server may keep the request for `wait` before it begins its answer.
    ///
    /// # Errors
    /// [`ClientError`] for everything but a complete answer of a 2xx status.
    pub async fn get(&self, path_and_query: &str, wait: Duration) -> Result<Answer, ClientError> {
        self.get_within(path_and_query, wait, self.inner.options.body_limit).await
    }

    /// As [`Client::get`], with a limit of its own for the answer's size, in bytes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_within(&self, path_and_query: &str, wait: Duration, limit: usize) -> Result<Answer, ClientError> {
        let (response, path, _busy) = self.send(Method::GET, path_and_query, wait, None).await?;
        self.whole(response, path, limit).await
    }

    /// Writes `body` to `path_and_query`.
    ///
    /// # Errors
    /// As [`Client::get`]. When the answer is missing, whether the server did it is unknown.
    pub async fn put(&self, path_and_query: &str, body: Vec<u8>) -> Result<Answer, ClientError> {
        let (response, path, _busy) = self.send(Method::PUT, path_and_query, Duration::ZERO, Some(body)).await?;
        self.whole(response, path, self.inner.options.body_limit).await
    }

    /// Opens a stream of lines. Silence longer than `idle` ends it with an error.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn lines(&self, path_and_query: &str, idle: Duration) -> Result<Lines, ClientError> {
        let (response, path, busy) = self.send(Method::GET, path_and_query, idle, None).await?;
        Ok(Lines::new(response, path, idle, self.inner.options.body_limit, busy))
    }

    async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        wait: Duration,
        body: Option<Vec<u8>>,
    ) -> Result<(reqwest::Response, Arc<str>, Busy), ClientError> {
        let inner = &self.inner;
        let path: Arc<str> = path_and_query.split('?').next().unwrap_or_default().into();
        let (token, transport) = inner.look()?;
        let (client, busy) = transport.take(&inner.builder())?;
        let mut request = client.request(method, format!("{}{path_and_query}", inner.base));
        if let Some(token) = token {
            request = request.header(inner.token_header.clone(), token);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        // Servers add up to a sixteenth to what they were asked to wait, so that their clients do not return together.
        let patience = wait + wait / 16 + inner.options.patience;
        let sent = timeout(patience, request.send()).await;
        let response = match sent {
            Err(_) => return Err(ClientError::TimedOut { path: path.to_string(), after: patience }),
            Ok(Err(error)) => return Err(inner.failed(&error, &path, patience)),
            Ok(Ok(response)) => response,
        };
        if response.status().is_success() {
            return Ok((response, path, busy));
        }
        let code = response.status().as_u16();
        if matches!(code, 401 | 403) {
            // The next request reads the token's file, whenever it was last read.
            inner.files().token_at = None;
        }
        let headers = Box::new(response.headers().clone());
        let body_start = refusal(response).await;
        Err(ClientError::Status { code, body_start, path: path.to_string(), headers })
    }

    async fn whole(
        &self,
        mut response: reqwest::Response,
        path: Arc<str>,
        limit: usize,
    ) -> Result<Answer, ClientError> {
        let too_large = || ClientError::TooLarge { path: path.to_string(), limit };
        let declared = response.content_length().unwrap_or(0);
        if declared > limit as u64 {
            return Err(too_large());
        }
        let headers = std::mem::take(response.headers_mut());
        // What a server declares it need not send: memory is taken for what arrives.
        let mut body = BytesMut::with_capacity(usize::try_from(declared).unwrap_or(0).min(1 << 20));
        let patience = self.inner.options.patience;
        let began = Instant::now();
        let (mut end, mut due) = (began + patience, LEAST);
        while let Some(chunk) = chunk(&mut response, &path, patience).await? {
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
            let now = Instant::now();
            if now >= end {
                if body.len() < due {
                    return Err(ClientError::TimedOut { path: path.to_string(), after: now - began });
                }
                (end, due) = (now + patience, body.len() + LEAST);
            }
        }
        Ok(Answer { headers, body: body.freeze(), path })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

pub(crate) async fn chunk(
    response: &mut reqwest::Response,
    path: &Arc<str>,
    patience: Duration,
) -> Result<Option<Bytes>, ClientError> {
    match timeout(patience, response.chunk()).await {
        Err(_) => Err(ClientError::TimedOut { path: path.to_string(), after: patience }),
        Ok(Err(error)) => Err(ClientError::Cut { path: path.to_string(), problem: reasons(&error) }),
        Ok(Ok(chunk)) => Ok(chunk),
    }
}

/// How a refusal's text begins, as one line.
async fn refusal(mut response: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(REFUSAL_PATIENCE, async {
        while bytes.len() < REFUSAL
            && let Ok(Some(chunk)) = response.chunk().await
        {
            bytes.extend_from_slice(&chunk[..chunk.len().min(REFUSAL)]);
        }
    })
    .await;
    bytes.truncate(REFUSAL);
    let text: String = String::from_utf8_lossy(&bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().to_owned()
}

struct Parsed {
    base: String,
    secure: bool,
    connect_to: Option<String>,
}

fn parse(endpoint: &Endpoint) -> Result<Parsed, ClientError> {
    // A wrong address may hold a password: it is not repeated.
    let wrong = |why: &str| ClientError::Settings {
        problem: format!("the address {why}; write http://HOST:PORT or https://HOST:PORT"),
    };
    let url = reqwest::Url::parse(&endpoint.address).map_err(|error| wrong(&format!("is no URL ({error})")))?;
    let secure = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err(wrong("is neither http nor https")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("holds credentials, which belong into a token file"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has something after the port"));
    }
    let host = url.host_str().ok_or_else(|| wrong("has no host"))?;
    let tls = &endpoint.tls;
    if !secure && *tls != TlsFiles::default() {
        return Err(wrong("is http, and TLS files are set, which only https uses"));
    }
    let scheme = url.scheme();
    let port = url.port_or_known_default().ok_or_else(|| wrong("has no port"))?;
    let Some(name) = tls.server_name.as_deref().filter(|name| *name != host) else {
        return Ok(Parsed { base: format!("{scheme}://{host}:{port}"), secure, connect_to: None });
    };
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if name.is_empty() || !plain || name.parse::<IpAddr>().is_ok() {
        return Err(ClientError::Settings {
            problem: format!("{name:?} cannot be a server's name in TLS; it is a DNS name"),
        });
    }
    let connect_to = Some(host.trim_matches(['[', ']']).to_owned());
    Ok(Parsed { base: format!("{scheme}://{name}:{port}"), secure, connect_to })
}

// === impl Inner ===

impl Inner {
    fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn builder(&self) -> Builder<'_> {
        Builder { secure: self.secure, connect_to: self.connect_to.as_deref(), options: &self.options }
    }

    /// The token and the connections to use now.
    fn look(&self) -> Result<(Option<HeaderValue>, Arc<Transport>), ClientError> {
        let mut files = self.files();
        if let TokenSource::File(path) = &self.token
            && files.token_at.is_none_or(|at| at.elapsed() >= LOOK_AGAIN)
        {
            // An unreadable file is looked at again with the next request.
            files.token_at = None;
            files.token = Some(token(path)?);
            files.token_at = Some(Instant::now());
        }
        if self.secure && files.tls_at.elapsed() >= LOOK_AGAIN {
            files.tls_at = Instant::now();
            self.renew(&mut files);
        }
        Ok((files.token.clone(), Arc::clone(&files.transport)))
    }

    /// Takes certificates that changed. Requests under way keep the connections that they have.
    fn renew(&self, files: &mut Files) {
        let renewed = TlsContents::read(&self.tls).and_then(|tls| {
            if tls == files.tls {
                return Ok(None);
            }
            Transport::new(tls.clone(), &self.builder(), &self.tls).map(|transport| Some((tls, transport)))
        });
        match renewed {
            Ok(None) => files.complaint = None,
            Ok(Some((tls, transport))) => {
                info!(address = %self.address, "certificates were read again; new connections use them");
                files.complaint = None;
                files.tls = tls;
                files.transport = Arc::new(transport);
            }
            Err(error) => {
                let complaint = error.to_string();
                if files.complaint.as_ref() != Some(&complaint) {
                    warn!(address = %self.address, "the last good certificates stay in use: {complaint}");
                    files.complaint = Some(complaint);
                }
            }
        }
    }

    fn failed(&self, error: &reqwest::Error, path: &str, patience: Duration) -> ClientError {
        let problem = reasons(error);
        if error.is_connect() {
            ClientError::Connect { address: self.address.clone(), problem }
        } else if error.is_timeout() {
            ClientError::TimedOut { path: path.to_owned(), after: patience }
        } else if error.is_builder() {
            ClientError::Settings { problem: format!("{path} cannot be asked for: {problem}") }
        } else if ended(error) {
            // One sentence for the many ways in which a connection ends: who repeats an attempt says the same again.
            ClientError::Protocol {
                path: path.to_owned(),
                problem: format!("{} closed the connection before it answered", self.address),
            }
        } else {
            ClientError::Protocol { path: path.to_owned(), problem }
        }
    }
}

/// Whether the connection ended, whatever the reason.
fn ended(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(reason) = next {
        if let Some(io) = reason.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            if matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) {
                return true;
            }
        }
        // The HTTP library's own words for it.
        if reason.to_string().starts_with("connection closed before message completed") {
            return true;
        }
        next = reason.source();
    }
    false
}
