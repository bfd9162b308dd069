//! JSON over HTTP to a platform's own API, from the test's side: not through any code under test.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, Identity, Method};
use serde_json::Value;

use crate::authority::Pair;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server's API and who asks it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    header: Option<(&'static str, String)>,
    client: Client,
}

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The status code; `None` when there was no complete answer at all.
    pub status: Option<u16>,
    /// What was asked, and what was said.
    pub text: String,
}

// === impl Api ===

impl Api {
    /// The API at `base` (`http://127.0.0.1:PORT`), asked with this header.
    ///
    /// # Panics
    /// When no client can be made.
    pub fn new(base: &str, header: Option<(&'static str, String)>) -> Self {
        Self::with(base, header, Client::builder())
    }

    /// The same over TLS, trusting these certificates (PEM) and no others.
    ///
    /// # Panics
    /// When they are not certificates.
    pub fn tls(base: &str, header: Option<(&'static str, String)>, trusted: &[u8]) -> Self {
        let trusted = Certificate::from_pem_bundle(trusted).expect("certificates in PEM");
        Self::with(base, header, Client::builder().tls_certs_only(trusted))
    }

    /// The same, with a certificate of our own: the server asks for one.
    ///
    /// # Panics
    /// When the files are not what they should be.
    pub fn mutual_tls(base: &str, trusted: &Path, own: &Pair) -> Self {
        let read = |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let trusted = Certificate::from_pem_bundle(&read(trusted)).expect("certificates in PEM");
        let identity =
            Identity::from_pem(&[read(&own.cert), read(&own.key)].concat()).expect("a certificate and a key");
        Self::with(base, None, Client::builder().tls_certs_only(trusted).identity(identity))
    }

    fn with(base: &str, header: Option<(&'static str, String)>, builder: reqwest::ClientBuilder) -> Self {
        let client = builder.no_proxy().timeout(PATIENCE).build().expect("a client");
        Self { base: base.to_owned(), header, client }
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same API, asked with another header (a token of somebody else), or with none.
    #[must_use]
    pub fn header(&self, header: Option<(&'static str, String)>) -> Self {
        Self { header, ..self.clone() }
    }

    /// Sends a request, with a body of this content type when there is one. An empty answer is `null`; one that is not
    /// JSON is a string.
    ///
    /// # Errors
    /// When there is no complete answer, or one whose status is not 2xx.
    pub async fn send(&self, method: &str, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<Value, Refused> {
        let what = format!("{method} {}{path}", self.base);
        let none = |text: String| Refused { status: None, text: format!("{what}: {text}") };
        let method = Method::from_bytes(method.as_bytes()).map_err(|e| none(e.to_string()))?;
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        if let Some((kind, body)) = body {
            request = request.header("content-type", kind).body(body);
        }
        let answer = request.send().await.map_err(|e| none(format!("{e:?}")))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|e| none(format!("{status}, then {e:?}")))?;
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            let text = format!("{what}: {status}: {}", text.trim());
            return Err(Refused { status: Some(status.as_u16()), text });
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(text.into_owned())))
    }

    /// Sends JSON, when there is some.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let body = body.map(|value| ("application/json", value.to_string().into_bytes()));
        self.send(method, path, body).await
    }

    /// GET, of which only success is expected.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn get(&self, path: &str) -> Value {
        expected(self.json("GET", path, None).await)
    }

    /// PUT, of which only success is expected.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        expected(self.json("PUT", path, Some(&body)).await)
    }

    /// POST, of which only success is expected.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        expected(self.json("POST", path, Some(&body)).await)
    }

    /// DELETE, of which only success is expected.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, path: &str) -> Value {
        expected(self.json("DELETE", path, None).await)
    }
}

fn expected(answer: Result<Value, Refused>) -> Value {
    answer.unwrap_or_else(|refused| panic!("{refused}"))
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
