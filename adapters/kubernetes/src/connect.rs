//! How an API server is reached: from kubeconfig files, from within the cluster, or from a kubeconfig that somebody handed over.
//!
//! - ALWAYS: credentials that change on disk are used for the next request; a kubeconfig that became unreadable keeps the old client.
//! - ALWAYS: a kubeconfig that a tenant wrote runs no programs and reads no files of this machine.
//! - NEVER: a program that an operator's kubeconfig runs holds up anything but its own cluster, nor runs twice at a time.
//!
//! kube makes aws-lc-rs the process's provider of TLS when the process has chosen none; programs choose it first thing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::access::{Files, Surroundings};

/// How often files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);
/// How long a client may take to be made: a program that fetches credentials asks somebody over the network.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {place} cannot be used: {source}")]
    Kubeconfig {
        /// Where it is.
        place: String,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// No kubeconfig was named, and there is none where `kubectl` has its own.
    #[error("{why}, and there is no kubeconfig at {place}; name one with kubernetes:KUBECONFIG")]
    Nowhere {
        /// Why it is looked for there.
        why: String,
        /// Where.
        place: String,
    },
    /// This pod's service account cannot be used.
    #[error("this pod's service account cannot be used: {0}; name a kubeconfig with kubernetes:KUBECONFIG")]
    ServiceAccount(Box<kube::config::InClusterError>),
    /// The client cannot be made: a certificate, key or token file.
    #[error("the credentials of {place} cannot be used: {source}")]
    Credentials {
        /// Of what.
        place: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A program that the kubeconfig runs for credentials does not end.
    #[error("the credentials of {place} were not there after {} s; see what the program that its kubeconfig runs waits for", .after.as_secs_f32())]
    Slow {
        /// Of what.
        place: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A kubeconfig from a secret asks for what only an operator may ask for.
    #[error("the kubeconfig of {place} uses `{field}`, which is refused in secrets: it would {why}; write {instead}")]
    Refused {
        /// Of what.
        place: String,
        /// Which field.
        field: &'static str,
        /// What it would do.
        why: &'static str,
        /// What to write.
        instead: &'static str,
    },
    /// A kubeconfig from a secret is not one.
    #[error("the kubeconfig of {place} cannot be read: {source}")]
    NotKubeconfig {
        /// Of what.
        place: String,
        /// Why.
        source: Box<KubeconfigError>,
    },
}

/// Where a client's settings come from.
#[derive(Debug, Clone)]
enum From {
    InCluster,
    Files(Files),
    Text { place: String, kubeconfig: Box<Kubeconfig> },
}

/// What clients do by themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// A server that says nothing on a connection for so long is hung; without it, whoever asks knows best.
    pub silence: Option<Duration>,
    /// Whether a request is repeated when the server is busy.
    pub retries: bool,
}

/// Makes clients, and makes a new one when the credentials have changed.
#[derive(Debug)]
pub struct Connector {
    inner: Arc<Mutex<Inner>>,
    /// Held while a client is made, for as long as that takes, whoever still waits for it.
    turn: Arc<tokio::sync::Mutex<()>>,
    patience: Duration,
    manner: Manner,
    /// Counts replacements of the credentials, for those who must list again.
    generation: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    from: From,
    /// Of `from`.
    generation: u64,
    client: Option<Made>,
    /// How often it was tried to make a client.
    attempts: u64,
    /// Why the last attempt has failed.
    failed: Option<Arc<ConnectError>>,
}

struct Made {
    client: Client,
    /// The API server's URL.
    server: String,
    looked: Instant,
    /// The server has refused these credentials.
    refused: bool,
    stamps: Vec<(PathBuf, Option<(SystemTime, u64)>)>,
}

// === impl Connector ===

impl Connector {
    /// With the kubeconfig at `path`; without one, as a pod of the cluster if this is one and no context is named, else with the files
    /// that `kubectl` uses. Nothing is read yet.
    pub fn new(path: Option<PathBuf>, context: Option<String>) -> Self {
        Self::with(Files::choose(path, context, &Surroundings::here()).map_or(From::InCluster, From::Files))
    }

    /// Its clients do this by themselves.
    #[must_use]
    pub fn with_manner(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }

    /// With a kubeconfig that was checked by [`from_secret`].
    pub(crate) fn of(place: &str, kubeconfig: Kubeconfig) -> Self {
        Self::with(From::Text { place: place.to_owned(), kubeconfig: Box::new(kubeconfig) })
    }

    fn with(from: From) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner::new(from, 0))),
            turn: Arc::default(),
            patience: PATIENCE,
            manner: Manner::default(),
            generation: watch::Sender::new(0),
        }
    }

    /// Uses another kubeconfig from now on.
    pub(crate) fn replace(&self, place: &str, kubeconfig: Kubeconfig) {
        let from = From::Text { place: place.to_owned(), kubeconfig: Box::new(kubeconfig) };
        let mut inner = self.inner.lock();
        let generation = inner.generation + 1;
        *inner = Inner::new(from, generation);
        drop(inner);
        self.generation.send_replace(generation);
    }

    /// Wakes up those who hold connections that were made with other credentials.
    pub(crate) fn replaced(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The credentials were refused: they are read again, whatever the files' times say.
    pub fn refused(&self) {
        if let Some(made) = &mut self.inner.lock().client {
            made.refused = true;
        }
    }

    /// A client with the current credentials.
    ///
    /// # Errors
    /// [`ConnectError`] while there has never been any. Whether the server answers is not asked.
    pub async fn client(&self) -> Result<Client, Arc<ConnectError>> {
        if let Some(client) = self.inner.lock().current() {
            return Ok(client);
        }
        if let Ok(done) = timeout(self.patience, self.made()).await {
            return done;
        }
        // What is being made is used as soon as it is there.
        let inner = self.inner.lock();
        let error = ConnectError::Slow { place: inner.from.place(), after: self.patience };
        match &inner.client {
            Some(old) => {
                warn!("{error}; the old credentials stay in use");
                Ok(old.client.clone())
            }
            None => Err(Arc::new(error)),
        }
    }

    /// Makes a client, or waits for the one that is being made.
    async fn made(&self) -> Result<Client, Arc<ConnectError>> {
        loop {
            let seen = {
                let inner = self.inner.lock();
                (inner.generation, inner.attempts)
            };
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let (from, generation) = {
                let inner = self.inner.lock();
                if (inner.generation, inner.attempts) != seen
                    && let Some(outcome) = inner.outcome()
                {
                    return outcome;
                }
                (inner.from.clone(), inner.generation)
            };
            let (inner, manner) = (Arc::clone(&self.inner), self.manner);
            // kube runs the kubeconfig's programs and waits for them on the spot.
            let making = tokio::task::spawn_blocking(move || {
                let made = Handle::current().block_on(make(&from, manner));
                inner.lock().keep(generation, made);
                drop(turn);
            });
            match making.await {
                Ok(()) => {}
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Everything is being stopped.
                Err(_) => std::future::pending().await,
            }
            let inner = self.inner.lock();
            if inner.generation == generation
                && let Some(outcome) = inner.outcome()
            {
                return outcome;
            }
        }
    }
}

// === impl Inner ===

impl Inner {
    fn new(from: From, generation: u64) -> Self {
        Self { from, generation, client: None, attempts: 0, failed: None }
    }

    /// The client, unless it is time for another one.
    fn current(&mut self) -> Option<Client> {
        let made = self.client.as_mut()?;
        let now = Instant::now();
        if made.refused || now.duration_since(made.looked) >= LOOK {
            made.looked = now;
            if made.refused || made.stamps.iter().any(|(path, old)| stamp(path) != *old) {
                return None;
            }
        }
        Some(made.client.clone())
    }

    /// What the last attempt has led to.
    fn outcome(&self) -> Option<Result<Client, Arc<ConnectError>>> {
        match (&self.client, &self.failed) {
            (Some(made), _) => Some(Ok(made.client.clone())),
            (None, Some(error)) => Some(Err(Arc::clone(error))),
            (None, None) => None,
        }
    }

    /// Takes what was made with the credentials of that generation; with others in their place it is of no use.
    fn keep(&mut self, generation: u64, made: Result<Made, ConnectError>) {
        if self.generation != generation {
            return;
        }
        self.attempts += 1;
        match made {
            Ok(made) => {
                match &self.client {
                    None => info!("{} leads to the API server {}", self.from.place(), made.server),
                    Some(old) if old.server != made.server => {
                        warn!("{} now leads to another API server: {}", self.from.place(), made.server);
                    }
                    Some(old) if !old.refused => info!("the credentials of {} have changed", self.from.place()),
                    Some(_) => {}
                }
                (self.client, self.failed) = (Some(made), None);
            }
            Err(error) if self.client.is_some() => warn!("{error}; the old credentials stay in use"),
            Err(error) => self.failed = Some(Arc::new(error)),
        }
    }
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}

impl From {
    fn place(&self) -> String {
        match self {
            Self::InCluster => "this pod's service account".to_owned(),
            Self::Files(files) => files.place(),
            Self::Text { place, .. } => place.clone(),
        }
    }
}

async fn make(from: &From, manner: Manner) -> Result<Made, ConnectError> {
    let place = from.place();
    let wrong = |source| ConnectError::Kubeconfig { place: place.clone(), source: Box::new(source) };
    let mut files = Vec::new();
    let mut config = match from {
        From::InCluster => Config::incluster().map_err(|error| ConnectError::ServiceAccount(Box::new(error)))?,
        From::Files(chosen) => {
            files.extend(chosen.paths.iter().cloned());
            let (kubeconfig, options) = chosen.read()?;
            files.extend(referenced(&kubeconfig));
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?;
            chosen.used(options);
            config
        }
        From::Text { kubeconfig, .. } => {
            let kubeconfig = (**kubeconfig).clone();
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
    };
    files.extend(config.auth_info.token_file.as_ref().map(PathBuf::from));
    files.extend(config.root_cert_file.clone());
    config.default_retry = manner.retries;
    config.read_timeout = manner.silence;
    config.connect_timeout = Some(Duration::from_secs(5));
    let url = &config.cluster_url;
    // Without what else a URL may hold, such as a password.
    let server = format!(
        "{}://{}{}",
        url.scheme_str().unwrap_or("https"),
        url.host().unwrap_or_default(),
        url.port().map(|port| format!(":{port}")).unwrap_or_default()
    );
    let stamps = files.into_iter().map(|path| (path.clone(), stamp(&path))).collect();
    let client =
        Client::try_from(config).map_err(|source| ConnectError::Credentials { place, source: Box::new(source) })?;
    Ok(Made { client, server, looked: Instant::now(), refused: false, stamps })
}

/// The files that a kubeconfig names. kube has made their paths absolute.
fn referenced(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let clusters = kubeconfig.clusters.iter().filter_map(|c| c.cluster.as_ref()?.certificate_authority.as_ref());
    let users = kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
    let users =
        users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file].into_iter().flatten());
    clusters.chain(users).map(PathBuf::from).collect()
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

/// Reads a kubeconfig that comes from a secret. What would run programs, read this machine's files or skip verification is refused.
///
/// # Errors
/// [`ConnectError`], with what to write instead.
pub fn from_secret(place: &str, text: &[u8]) -> Result<Kubeconfig, ConnectError> {
    let wrong = |source| ConnectError::NotKubeconfig { place: place.to_owned(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::from_yaml(&String::from_utf8_lossy(text)).map_err(wrong)?;
    let refuse = |field, why, instead| Err(ConnectError::Refused { place: place.to_owned(), field, why, instead });
    const RUN: &str = "run a program on the control plane's machine";
    const READ: &str = "read a file of the control plane's machine";
    for user in kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref()) {
        if user.exec.is_some() {
            return refuse("exec", RUN, "a `token` or a client certificate");
        }
        if user.auth_provider.is_some() {
            return refuse("auth-provider", RUN, "a `token` or a client certificate");
        }
        if user.token_file.is_some() {
            return refuse("tokenFile", READ, "`token`");
        }
        if user.client_certificate.is_some() {
            return refuse("client-certificate", READ, "`client-certificate-data`");
        }
        if user.client_key.is_some() {
            return refuse("client-key", READ, "`client-key-data`");
        }
    }
    for cluster in kubeconfig.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref()) {
        if cluster.certificate_authority.is_some() {
            return refuse("certificate-authority", READ, "`certificate-authority-data`");
        }
        if cluster.insecure_skip_tls_verify == Some(true) {
            return refuse(
                "insecure-skip-tls-verify",
                "send credentials to whoever answers",
                "`certificate-authority-data`",
            );
        }
    }
    Ok(kubeconfig)
}

#[cfg(test)]
mod tests;
