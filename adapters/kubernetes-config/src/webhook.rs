//! The validating webhook: refuses what galley refuses, with the same text, before the API server stores it.
//!
//! - ALWAYS: what is not known is allowed; so are deletions, and changes that leave the faulty part as it was.
//! - NEVER: more than a bounded number of connections, bytes and seconds for anybody who calls.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kube::Api;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use xebec_galley::decode::{Outcome, decode};
use xebec_galley::{Diagnostic, Severity, yaml};

use crate::access::Access;
use crate::certificate::Keeper;
use crate::settings::WebhookSettings;
use crate::{text, webhook_configuration};

/// Why the webhook does not run.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address.
    #[error("the webhook cannot listen on {address}: {error}; choose another address with `webhook.listen`")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
}

/// The webhook of one replica.
#[derive(Debug)]
pub struct Webhook {
    access: Access,
    settings: WebhookSettings,
    leads: watch::Receiver<bool>,
    listener: TcpListener,
}

/// The API server sends no more than 3 MiB.
const LARGEST: usize = 4 * 1024 * 1024;
/// The API server waits 10 s by default, 30 s at most.
const LONGEST: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 256;
/// An idle connection is closed.
const IDLE: Duration = Duration::from_secs(300);
/// Warnings that are shown to whoever changes something, and their length: the API server cuts them at about this.
const WARNINGS: usize = 20;
const WARNING: usize = 250;

// === impl Webhook ===

impl Webhook {
    /// Listens. Nothing is answered before [`run`](Self::run) has a certificate.
    ///
    /// # Errors
    /// [`WebhookError::Listen`].
    pub async fn bind(
        access: Access,
        settings: WebhookSettings,
        leads: watch::Receiver<bool>,
    ) -> Result<Self, WebhookError> {
        let address = settings.listen;
        let listener = TcpListener::bind(address).await.map_err(|error| WebhookError::Listen { address, error })?;
        Ok(Self { access, settings, leads, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.settings.listen)
    }

    /// Answers, keeps the certificate, and while this replica leads the ValidatingWebhookConfiguration, until `stop` completes.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.work() => {}
        }
    }

    async fn work(self) {
        let client = self.access.client().await;
        let namespace = self.access.settings().own_namespace();
        let (sender, serving) = watch::channel(None);
        let keeper = Keeper {
            api: Api::namespaced(client.clone(), &namespace),
            name: self.settings.secret.clone(),
            names: names(&self.settings, &namespace),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run(sender));
        tasks.spawn(webhook_configuration::keep(client, self.settings.clone(), self.leads, serving.clone()));
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let router = router();
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let tls = serving.borrow().as_ref().map(|serving| serving.tls.clone());
                    // Without a certificate there is nothing to say: the connection is closed, and the caller tries again.
                    if let Some(tls) = tls {
                        tasks.spawn(connection(stream, TlsAcceptor::from(tls), router.clone(), permit));
                    }
                }
                Err(error) => {
                    tracing::warn!("the webhook cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while tasks.try_join_next().is_some() {}
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, router: Router, _permit: OwnedSemaphorePermit) {
    let Ok(Ok(stream)) = tokio::time::timeout(LONGEST, tls.accept(stream)).await else { return };
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(LONGEST);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(IDLE / 5).max_concurrent_streams(64);
    let service = TowerToHyperService::new(router);
    // A caller that never ends its connection is sent away: it opens another.
    let _ = tokio::time::timeout(IDLE, builder.serve_connection(TokioIo::new(stream), service)).await;
}

fn router() -> Router {
    Router::new()
        .route("/validate", post(validate))
        .route("/ready", get(async || "ready\n"))
        .layer(DefaultBodyLimit::max(LARGEST))
        .layer(axum::middleware::from_fn(async |request, next: axum::middleware::Next| {
            match tokio::time::timeout(LONGEST, next.run(request)).await {
                Ok(response) => response,
                Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
            }
        }))
}

/// The names by which the API server calls.
fn names(settings: &WebhookSettings, namespace: &str) -> Vec<String> {
    let service = &settings.service;
    let mut names = vec![
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
        format!("{service}.{namespace}"),
    ];
    let authority = settings.url.as_deref().and_then(|url| url.parse::<http::Uri>().ok());
    if let Some(host) = authority.as_ref().and_then(http::Uri::host) {
        names.push(host.trim_start_matches('[').trim_end_matches(']').to_owned());
    }
    names
}

/// An AdmissionReview of `admission.k8s.io/v1`, as far as it matters.
#[derive(Deserialize)]
struct Review {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Request {
    uid: String,
    operation: String,
    sub_resource: Option<String>,
    namespace: Option<String>,
    object: Option<Value>,
    old_object: Option<Value>,
}

async fn validate(body: axum::body::Bytes) -> Response {
    let Ok(review) = serde_json::from_slice::<Review>(&body) else {
        return (StatusCode::BAD_REQUEST, "the body is not an AdmissionReview\n").into_response();
    };
    let Some(request) = review.request else {
        return (StatusCode::BAD_REQUEST, "the AdmissionReview has no request\n").into_response();
    };
    let uid = request.uid.clone();
    let answer = judge(request);
    let outcome = if answer.refusal.is_some() { "refused" } else { "allowed" };
    metrics::counter!("xebec_webhook_reviews_total", "outcome" => outcome).increment(1);
    let mut response = json!({ "uid": uid, "allowed": answer.refusal.is_none() });
    if let Some(fields) = response.as_object_mut() {
        if let Some(text) = answer.refusal {
            let status = json!({ "status": "Failure", "code": 422, "reason": "Invalid", "message": text });
            fields.insert("status".to_owned(), status);
        }
        if !answer.warnings.is_empty() {
            fields.insert("warnings".to_owned(), answer.warnings.into());
        }
    }
    let version = if review.api_version.is_empty() { "admission.k8s.io/v1".to_owned() } else { review.api_version };
    axum::Json(json!({ "apiVersion": version, "kind": "AdmissionReview", "response": response })).into_response()
}

/// What is said to a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// Why it is refused.
    refusal: Option<String>,
    warnings: Vec<String>,
}

fn judge(request: Request) -> Answer {
    let writes = matches!(request.operation.as_str(), "CREATE" | "UPDATE");
    let of_status = request.sub_resource.as_deref().is_some_and(|name| !name.is_empty());
    let Some(mut object) = request.object.filter(|_| writes && !of_status) else { return Answer::default() };
    let metadata = |object: &Value, field: &str| {
        object
            .pointer(&format!("/metadata/{field}"))
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    // What is on its way out must not be held up by what is wrong with it.
    if metadata(&object, "deletionTimestamp").is_some() {
        return Answer::default();
    }
    let unchanged = request.old_object.as_ref().is_some_and(|old| old.get("spec") == object.get("spec"));
    if let Some(fields) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let named = fields.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        if !named && let Some(prefix) = fields.get("generateName").and_then(Value::as_str) {
            // The server adds five letters after this.
            let name = format!("{prefix}xxxxx");
            fields.insert("name".to_owned(), name.into());
        }
        if let Some(namespace) = request.namespace.filter(|name| !name.is_empty()) {
            fields.entry("namespace").or_insert_with(|| namespace.into());
        }
    }
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = format!(
        "kubernetes:{kind}/{}/{}",
        metadata(&object, "namespace").unwrap_or_default(),
        metadata(&object, "name").unwrap_or_default()
    );
    let document = text::of_json(object);
    let stream = yaml::parse(&name, document.as_bytes());
    let mut refused = stream.problem.is_some();
    let mut diagnostics: Vec<Diagnostic> = stream.problem.into_iter().collect();
    for decoded in stream.documents.iter().flat_map(decode) {
        match decoded.outcome {
            // Not our kind, so not ours to judge.
            Outcome::Ignored | Outcome::Foreign => continue,
            Outcome::Refused(_) => refused = true,
            Outcome::Accepted(_) => {}
        }
        diagnostics.extend(decoded.diagnostics);
    }
    let errors: Vec<&Diagnostic> = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).collect();
    let warnings = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning);
    let mut warnings: Vec<String> = warnings.map(text::sentence).collect();
    let mut refusal = None;
    if refused && unchanged {
        // It was stored before: a change of its labels or finalizers does not make it worse.
        warnings.splice(0..0, errors.iter().map(|error| text::sentence(error)));
    } else if refused {
        let lines: String = errors.iter().map(|error| error.render(false)).collect();
        refusal = Some(lines.trim_end().to_owned());
    }
    warnings.truncate(WARNINGS);
    for warning in &mut warnings {
        if let Some((end, _)) = warning.char_indices().nth(WARNING) {
            warning.truncate(end);
        }
    }
    Answer { refusal, warnings }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn rule(metadata: Value, spec: Value) -> Value {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata, "spec": spec})
    }

    fn request(operation: &str, object: Value) -> Request {
        Request { operation: operation.into(), object: Some(object), ..Default::default() }
    }

    #[test]
    fn a_faulty_object_is_refused_with_the_text_of_the_command_line() {
        let object = rule(json!({"name": "a", "namespace": "b"}), json!({"hots": "reviews"}));
        let refusal = judge(request("CREATE", object)).refusal.unwrap();
        assert!(
            refusal.contains("there is no field `hots`") && refusal.contains("kubernetes:DestinationRule/b/a"),
            "{refusal}"
        );
    }

    #[test]
    fn an_object_whose_name_the_server_makes_is_judged_by_its_content() {
        let object = rule(json!({"generateName": "a-"}), json!({"host": "reviews"}));
        assert_eq!(judge(request("CREATE", object)), Answer::default());
    }

    #[test]
    fn deletions_other_kinds_status_and_what_is_on_its_way_out_are_allowed() {
        let bad = || rule(json!({"name": "a"}), json!({"host": 1}));
        assert!(judge(request("UPDATE", bad())).refusal.is_some());
        assert_eq!(judge(request("DELETE", bad())), Answer::default());
        let status = Request { sub_resource: Some("status".into()), ..request("UPDATE", bad()) };
        assert_eq!(judge(status), Answer::default());
        let foreign =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"a": 1}});
        assert_eq!(judge(request("CREATE", foreign)), Answer::default());
        let leaving = rule(json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({"host": 1}));
        assert_eq!(judge(request("UPDATE", leaving)), Answer::default());
    }

    #[test]
    fn a_change_that_leaves_the_faulty_part_as_it_was_is_allowed_with_a_warning() {
        let bad = rule(json!({"name": "a"}), json!({"host": 1}));
        let answer = judge(Request { old_object: Some(bad.clone()), ..request("UPDATE", bad) });
        assert_eq!(answer.refusal, None);
        assert!(answer.warnings[0].contains("spec.host"), "{answer:?}");
    }

    #[test]
    fn what_galley_only_warns_of_is_allowed_with_the_warning() {
        let spec = json!({"host": "a", "trafficPolicy": {"loadBalancer": {"simple": "LEAST_CONN"}}});
        let answer = judge(request("UPDATE", rule(json!({"name": "a"}), spec)));
        assert!(answer.refusal.is_none() && answer.warnings[0].contains("deprecated name of"), "{answer:?}");
    }
}
