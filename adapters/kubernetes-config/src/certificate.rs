//! The webhook's certificate: made by the control plane itself, kept in a Secret that all replicas share.
//!
//! An authority of ten years signs a serving certificate of ninety days. The authority is issued again with the same key, so
//! that a certificate of either is trusted by those who know the other. A Secret without our annotation is somebody else's
//! (cert-manager's, say): it is served as it is and never written.
//!
//! - ALWAYS: of several replicas that make one at the same time, the first is taken by all.
//! - NEVER: a private key in a log or an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use crate::access::{explain, status_code};
use crate::feed::jittered;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The API server.
    #[error("cannot read or write the Secret {name}: {text}; let the service account get, create and update it")]
    Secret {
        /// The Secret.
        name: String,
        /// What the server said.
        text: String,
    },
    /// What the Secret holds.
    #[error("the Secret {name} holds no usable {part}; delete it, and it is made anew")]
    Unusable {
        /// The Secret.
        name: String,
        /// Which entry.
        part: &'static str,
    },
    /// Making a certificate.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What the webhook serves with, and whom its clients have to trust.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) tls: Arc<ServerConfig>,
    /// PEM.
    pub(crate) authority: Arc<[u8]>,
    /// PEM, to notice changes.
    chain: Arc<[u8]>,
}

/// Keeps the Secret, and says what is in it.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) api: Api<Secret>,
    pub(crate) name: String,
    /// Names and addresses that the certificate is for.
    pub(crate) names: Vec<String>,
}

const DAY: Duration = Duration::from_secs(86_400);
const LEAF: Duration = DAY.saturating_mul(90);
const AUTHORITY: Duration = DAY.saturating_mul(3650);
/// Clocks that are late must accept a new certificate too.
const BACKDATE: Duration = Duration::from_secs(3600);
/// The Secret is looked at again after so long in any case.
const LOOK: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(2);

const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";
const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
/// Unix seconds after which a new certificate is due, and the names that it is for.
const RENEW: &str = "xebec.io/renew-after";
const RENEW_CA: &str = "xebec.io/renew-authority-after";
const NAMES: &str = "xebec.io/names";

// === impl Keeper ===

impl Keeper {
    /// Publishes what is to be served, whenever it changes, until nobody listens.
    pub(crate) async fn run(self, serving: watch::Sender<Option<Serving>>) {
        let mut said = String::new();
        loop {
            match self.settle(&serving).await {
                Ok(()) => said.clear(),
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        tracing::error!("{text}");
                        said = text;
                    }
                    tokio::select! {
                        () = serving.closed() => return,
                        () = tokio::time::sleep(jittered(PAUSE)) => continue,
                    }
                }
            }
            let mut events = watcher::watch_object(self.api.clone(), &self.name).boxed();
            // The first event is what was just read.
            let _ = events.next().await;
            tokio::select! {
                () = serving.closed() => return,
                () = tokio::time::sleep(LOOK) => {}
                _ = events.next() => tokio::time::sleep(jittered(PAUSE / 20)).await,
            }
        }
    }

    async fn settle(&self, serving: &watch::Sender<Option<Serving>>) -> Result<(), CertificateError> {
        let failed = |error: &kube::Error| CertificateError::Secret { name: self.name.clone(), text: explain(error) };
        let secret = loop {
            let found = self.api.get_opt(&self.name).await.map_err(|error| failed(&error))?;
            let now = SystemTime::now();
            let written = match found {
                None => {
                    let fresh = self.fresh(now)?;
                    self.api.create(&PostParams::default(), &fresh).await
                }
                Some(secret) if self.is_due(&secret, now) => {
                    let mut renewed = self.renewed(&secret, now)?;
                    renewed.metadata = ObjectMeta { annotations: renewed.metadata.annotations, ..secret.metadata };
                    self.api.replace(&self.name, &PostParams::default(), &renewed).await
                }
                Some(secret) => break secret,
            };
            match written {
                Ok(secret) => {
                    tracing::info!(secret = self.name, "made a certificate for the webhook");
                    break secret;
                }
                // Another replica was faster: what it made is taken.
                Err(error) if status_code(&error) == Some(409) => {}
                Err(error) => return Err(failed(&error)),
            }
        };
        let next = self.read(&secret)?;
        serving.send_if_modified(|now| {
            let same = now.as_ref().is_some_and(|now| now.chain == next.chain && now.authority == next.authority);
            if !same {
                *now = Some(next);
            }
            !same
        });
        Ok(())
    }

    /// Whether it is ours, and its certificate is old, for other names, or not usable.
    fn is_due(&self, secret: &Secret, now: SystemTime) -> bool {
        let Some(annotations) = secret.metadata.annotations.as_ref().filter(|all| all.contains_key(RENEW)) else {
            return false;
        };
        let past = |name| annotations.get(name).and_then(|text| text.parse().ok()).is_none_or(|at| unix(now) >= at);
        past(RENEW) || annotations.get(NAMES) != Some(&self.names.join(",")) || self.read(secret).is_err()
    }

    fn fresh(&self, now: SystemTime) -> Result<Secret, CertificateError> {
        self.issue(KeyPair::generate()?, None, now)
    }

    fn renewed(&self, secret: &Secret, now: SystemTime) -> Result<Secret, CertificateError> {
        let text = |entry: &str| {
            let data = secret.data.as_ref()?;
            String::from_utf8(data.get(entry)?.0.clone()).ok()
        };
        let Some(key) = text(CA_KEY).and_then(|pem| KeyPair::from_pem(&pem).ok()) else { return self.fresh(now) };
        let until = secret.metadata.annotations.as_ref().and_then(|all| all.get(RENEW_CA)?.parse::<u64>().ok());
        let valid = until.filter(|until| unix(now) < *until);
        self.issue(key, valid.and_then(|until| Some((text(CA)?, until))), now)
    }

    /// A serving certificate by the authority with this key, whose own certificate may be kept.
    fn issue(
        &self,
        key: KeyPair,
        authority: Option<(String, u64)>,
        now: SystemTime,
    ) -> Result<Secret, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "xebec webhook authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = ((now - BACKDATE).into(), (now + AUTHORITY).into());
        let key_pem = key.serialize_pem();
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        let (authority, authority_until) =
            authority.unwrap_or_else(|| (issuer.pem(), unix(now + AUTHORITY - AUTHORITY / 5)));
        let leaf_key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(self.names.clone())?;
        leaf.distinguished_name.push(DnType::CommonName, "xebec webhook");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        (leaf.not_before, leaf.not_after) = ((now - BACKDATE).into(), (now + LEAF).into());
        let leaf = leaf.signed_by(&leaf_key, &issuer)?;
        let data = [(CHAIN, leaf.pem()), (KEY, leaf_key.serialize_pem()), (CA, authority), (CA_KEY, key_pem)];
        let annotations = [
            (RENEW, unix(now + LEAF - LEAF / 3).to_string()),
            (RENEW_CA, authority_until.to_string()),
            (NAMES, self.names.join(",")),
        ];
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()),
                ..Default::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(BTreeMap::from(data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))))),
            ..Default::default()
        })
    }

    fn read(&self, secret: &Secret) -> Result<Serving, CertificateError> {
        let unusable = |part| CertificateError::Unusable { name: self.name.clone(), part };
        let entry = |name: &'static str| {
            let data = secret.data.as_ref().and_then(|data| data.get(name));
            data.map(|bytes| bytes.0.as_slice()).filter(|bytes| !bytes.is_empty()).ok_or_else(|| unusable(name))
        };
        let chain = entry(CHAIN)?;
        let certificates: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|_| unusable(CHAIN))?;
        let key = PrivateKeyDer::from_pem_slice(entry(KEY)?).map_err(|_| unusable(KEY))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| unusable(CHAIN))?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|_| unusable(KEY))?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Serving { tls: Arc::new(tls), authority: entry(CA)?.into(), chain: chain.into() })
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn keeper(names: &[&str]) -> Keeper {
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        Keeper {
            api: Api::namespaced(client, "xebec-system"),
            name: "tls".to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_in_time_by_the_same_authority_which_is_renewed_with_the_same_key() {
        let keeper = keeper(&["xebec.xebec-system.svc", "127.0.0.1"]);
        let start = SystemTime::now();
        let secret = keeper.fresh(start).unwrap();
        let entry = |secret: &Secret, name: &str| secret.data.as_ref().unwrap()[name].0.clone();
        assert!(!keeper.is_due(&secret, start + 59 * DAY));
        assert!(keeper.is_due(&secret, start + 61 * DAY));
        let next = keeper.renewed(&secret, start + 61 * DAY).unwrap();
        assert_ne!(entry(&next, CHAIN), entry(&secret, CHAIN));
        assert_eq!(entry(&next, CA), entry(&secret, CA));
        assert!(!keeper.is_due(&next, start + 61 * DAY));
        let late = keeper.renewed(&secret, start + 3000 * DAY).unwrap();
        assert_ne!(entry(&late, CA), entry(&secret, CA));
        assert_eq!(entry(&late, CA_KEY), entry(&secret, CA_KEY));
    }

    #[tokio::test]
    async fn other_names_need_another_certificate_and_a_foreign_secret_is_left_alone() {
        let mut secret = keeper(&["a.b.svc"]).fresh(SystemTime::now()).unwrap();
        let other = keeper(&["a.c.svc"]);
        assert!(other.is_due(&secret, SystemTime::now()));
        secret.metadata.annotations = None;
        assert!(!other.is_due(&secret, SystemTime::now() + 900 * DAY));
        secret.data.as_mut().unwrap().remove(KEY);
        let error = other.read(&secret).err().unwrap().to_string();
        assert!(error.contains("tls.key") && !error.contains("BEGIN"), "{error}");
    }
}
