//! The way to the API server: the same that the registry goes, with credentials that are read again when they change.
//!
//! - ALWAYS: each request goes out with the credentials that are valid then, so that nobody has to ask for a client twice.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tower::BoxError;
use xebec_adapter_kubernetes::{ConnectError, Connector, Manner};

use crate::settings::Settings;

/// A server that says nothing for so long is hung: it sends a bookmark about once a minute on every watch.
const SILENCE: Duration = Duration::from_secs(90);
/// Pauses between attempts to read a kubeconfig.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The way to one API server. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    settings: Arc<Settings>,
    connector: Arc<Connector>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AccessError(#[from] Arc<ConnectError>);

// === impl Access ===

impl Access {
    /// The way that these settings say.
    pub fn new(settings: &Settings) -> Self {
        let connector = Connector::new(settings.kubeconfig.clone(), settings.context.clone());
        let connector = connector.with_manner(Manner { silence: Some(SILENCE), retries: true });
        Self { settings: Arc::new(settings.clone()), connector: Arc::new(connector) }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The client, or why there is none now. It follows changes of the credentials.
    ///
    /// # Errors
    /// [`AccessError`]: the kubeconfig or what it names is missing or wrong. Whether the server answers is not asked.
    pub async fn try_client(&self) -> Result<Client, AccessError> {
        let client = self.connector.client().await?;
        Ok(following(Arc::clone(&self.connector), client.default_namespace()))
    }

    /// The client, as soon as there is one.
    pub async fn client(&self) -> Client {
        let mut pause = FIRST_PAUSE;
        let mut said = String::new();
        loop {
            match self.try_client().await {
                Ok(client) => return client,
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        tracing::error!("{text}");
                        said = text;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A client that asks for the credentials at each request.
fn following(connector: Arc<Connector>, namespace: &str) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let connector = Arc::clone(&connector);
        async move {
            let answer = connector.client().await?.send(request).await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED => connector.refused(),
                StatusCode::NOT_FOUND => return Ok(as_status(answer).await?),
                _ => {}
            }
            Ok::<_, BoxError>(answer)
        }
    });
    Client::new(service, namespace)
}

/// A group that nobody has installed is answered with a line of text. The client warns of every answer that is no `Status`: it gets one.
async fn as_status(answer: Response<Body>) -> Result<Response<Body>, kube::Error> {
    let (mut head, body) = answer.into_parts();
    if head.headers.get(http::header::CONTENT_TYPE).is_none_or(|kind| !kind.as_bytes().starts_with(b"text/")) {
        return Ok(Response::from_parts(head, body));
    }
    let text = body.collect_bytes().await?;
    let message = String::from_utf8_lossy(&text);
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "reason": "NotFound", "code": 404, "message": message.trim()});
    head.headers.remove(http::header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, Body::from(status.to_string().into_bytes())))
}

/// The HTTP status of an answer that was not a success.
pub(crate) fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// An error as one sentence, without the bodies that it may quote.
pub(crate) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let text: String = status.message.lines().next().unwrap_or_default().chars().take(300).collect();
            format!("{}: {text}", status.code)
        }
        kube::Error::Service(source) => {
            let mut text = source.to_string();
            let mut next = source.source();
            while let Some(cause) = next {
                let more = cause.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                next = cause.source();
            }
            text
        }
        other => other.to_string(),
    }
}
