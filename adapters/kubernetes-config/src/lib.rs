//! Configuration from a Kubernetes API server: Istio's kinds, the Gateway API and Ingress; their status; the validating webhook; leadership.
//!
//! Start reading at [`KubernetesConfig`], the source that feeds galley. The rest stands beside it and can be left out: [`Leader`]
//! elects one replica, [`StatusWriter`] writes conditions while it leads, [`Webhook`] refuses what galley refuses before it is stored.
//!
//! Invariants:
//!
//! - ALWAYS: an object goes through galley's own door: a bad one is reported, and its last good version stays in effect.
//! - ALWAYS: after a gap the server is listed again and compared, so that no change is lost and none is invented.
//! - NEVER: an outage, a refusal (401, 403), throttling or a cut answer is taken for a deletion.
//! - NEVER: a private key in a log.

mod access;
mod certificate;
mod cluster;
mod feed;
mod gateway;
mod kinds;
mod leader;
mod settings;
mod source;
mod status;
mod text;
mod webhook;
mod webhook_configuration;

pub use access::{Access, AccessError};
pub use certificate::CertificateError;
pub use leader::Leader;
pub use settings::{FailurePolicy, Settings, WebhookSettings};
pub use source::KubernetesConfig;
pub use status::{Acknowledged, NoProxies, Proxies, StatusWriter, Statuses};
pub use webhook::{Webhook, WebhookError};
