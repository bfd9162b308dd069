//! Consul's key-value store as a source of configuration: every key below a prefix is one text of YAML or JSON documents.
//!
//! - ALWAYS: a text with a mistake keeps its last good version live.
//! - NEVER: a key counts as deleted because of an error, an answer without a leader, or because the token may not see it. Where ACLs are on,
//!   each missing key is asked for by itself: Consul leaves out of a list what may not be seen, and refuses it only when it is named.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use xebec_adapter_client::{Answer, Backoff, Client, ClientError, json};
use xebec_galley::source::{SourceUpdate, Texts};
use xebec_galley::{Code, Diagnostic, Severity};

use crate::answer::{Head, Polled, Verdict};
use crate::settings::Settings;
use crate::wire::Pair;

/// Configuration below a prefix of Consul's key-value store, live.
#[derive(Debug)]
pub struct KvSource {
    store: KvStore,
    settings: Settings,
    prefix: String,
}

/// Reads and writes single keys.
#[derive(Debug, Clone)]
pub struct KvStore {
    client: Client,
}

/// A key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The text.
    pub value: Vec<u8>,
    /// Its version, for the next compare-and-set.
    pub index: u64,
}

/// The state of a running source.
struct Running {
    source: KvSource,
    /// What the prefix is called in diagnostics.
    name: Arc<str>,
    texts: Texts,
    polled: Polled,
    synced: bool,
    /// What was last published about the prefix itself.
    told: Option<String>,
    /// What is to be published about it.
    trouble: Option<String>,
}

/// What a list says.
enum Listed {
    Same,
    Whole(Vec<Pair>),
    /// These keys are there; others may be, for this reason.
    Part(Vec<Pair>, String),
}

// === impl KvStore ===

impl KvStore {
    /// The store of the Consul that the settings name.
    ///
    /// # Errors
    /// [`ClientError::Settings`] for settings that cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        Ok(Self { client: settings.client()? })
    }

    /// A key's value from the leader; `None` where there is no such key.
    ///
    /// # Errors
    /// [`ClientError`], also when the token may not read the key (403).
    pub async fn get(&self, key: &str) -> Result<Option<Stored>, ClientError> {
        let answer = match self.client.get(&format!("/v1/kv/{}?consistent", encode(key)), Duration::ZERO).await {
            Ok(answer) => answer,
            // Something else that answers 404 is no Consul.
            Err(error) if error.is_not_found() && error.headers().is_some_and(|h| Head::read(h).index.is_some()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let pairs: Vec<Pair> = json(&answer)?;
        let Some(pair) = pairs.into_iter().next() else { return Ok(None) };
        let index = pair.modify_index;
        Ok(Some(Stored { value: decode(&answer, pair)?, index }))
    }

    /// Writes a key, if nobody else did since: `index` is that of [`Stored`], or 0 for a key that must not be there yet. False when
    /// somebody did, and nothing was written.
    ///
    /// # Errors
    /// [`ClientError`], also when the token may not write the key (403). When the answer is missing, whether it was written is unknown.
    pub async fn put(&self, key: &str, value: &[u8], index: u64) -> Result<bool, ClientError> {
        let answer = self.client.put(&format!("/v1/kv/{}?cas={index}", encode(key)), value.to_vec()).await?;
        json(&answer)
    }
}

/// A key as part of a path.
fn encode(key: &str) -> String {
    let mut path = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~') {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    // A client would take these for steps in a path, and a key may be called so.
    path.split('/')
        .map(|part| match part {
            "." => "%2E",
            ".." => "%2E%2E",
            part => part,
        })
        .collect::<Vec<_>>()
        .join("/")
}

fn decode(answer: &Answer, pair: Pair) -> Result<Vec<u8>, ClientError> {
    STANDARD.decode(pair.value.unwrap_or_default()).map_err(|error| ClientError::NotJson {
        path: answer.path.to_string(),
        problem: format!("the value of {} is not Base64: {error}", pair.key),
    })
}

// === impl KvSource ===

impl KvSource {
    /// The keys below `prefix`, which needs no slash at its end.
    ///
    /// # Errors
    /// [`ClientError::Settings`] for settings that cannot be used, and for an empty prefix.
    pub fn new(settings: Settings, prefix: &str) -> Result<Self, ClientError> {
        let prefix = prefix.trim_matches('/').to_owned();
        if prefix.is_empty() {
            let problem = "consul: configuration needs a prefix of keys, such as xebec".to_owned();
            return Err(ClientError::Settings { problem });
        }
        Ok(Self { store: KvStore::new(&settings)?, settings, prefix })
    }

    /// Publishes everything once, and from then on what changes, until `stop` completes or nobody listens. Trouble is published as a
    /// diagnostic about `consul:ADDRESS/PREFIX`, and taken back when it is over.
    pub async fn run(self, updates: mpsc::Sender<SourceUpdate>, stop: impl Future<Output = ()>) {
        let name = format!("consul:{}/{}", self.settings.address.trim_end_matches('/'), self.prefix);
        let running = Running {
            source: self,
            name: name.into(),
            texts: Texts::new(),
            polled: Polled::default(),
            synced: false,
            told: None,
            trouble: None,
        };
        let mut stop = std::pin::pin!(stop);
        tokio::select! {
            () = &mut stop => {}
            () = updates.closed() => {}
            () = running.forever(&updates) => {}
        }
    }
}

// === impl Running ===

impl Running {
    async fn forever(mut self, updates: &mpsc::Sender<SourceUpdate>) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        let mut first = true;
        loop {
            let pause = match self.step().await {
                Ok(true) => {
                    backoff.reset();
                    self.polled.pause()
                }
                Ok(false) => {
                    self.polled.doubt();
                    backoff.next()
                }
                Err(error) => {
                    let after = error.retry_after().unwrap_or_default();
                    self.trouble = Some(format!("{error}; the last good configuration stays in effect"));
                    backoff.next().max(after)
                }
            };
            let synced = self.synced;
            let update = self.settle();
            let says = !update.events.is_empty() || !update.files.is_empty() || (first && synced);
            first &= !synced;
            if says && updates.send(update).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
    }

    /// One poll; false where the answer is not whole.
    async fn step(&mut self) -> Result<bool, ClientError> {
        let (pairs, missing) = match self.list().await? {
            Listed::Same => {
                self.trouble = None;
                return Ok(true);
            }
            Listed::Whole(pairs) => (pairs, None),
            Listed::Part(pairs, why) => (pairs, Some(why)),
        };
        let mut there = BTreeSet::new();
        for pair in pairs.into_iter().filter(|pair| !pair.key.ends_with('/')) {
            let name = self.name_of(&pair.key);
            match STANDARD.decode(pair.value.unwrap_or_default()) {
                Ok(text) => self.texts.put(&name, &text),
                Err(error) => {
                    let problem = format!("the value is not Base64: {error}");
                    self.texts.fault(&name, Diagnostic::of_file(Severity::Error, Code::Unreadable, &name, problem));
                }
            }
            there.insert(name);
        }
        if let Some(why) = missing {
            self.trouble = Some(why);
            return Ok(false);
        }
        let gone: Vec<Arc<str>> = self.texts.names().filter(|name| !there.contains(*name)).cloned().collect();
        for name in gone {
            self.texts.remove(&name);
        }
        if !self.synced {
            self.synced = true;
            self.texts.synced();
        }
        self.trouble = None;
        Ok(true)
    }

    /// The keys, as far as they are believed.
    async fn list(&mut self) -> Result<Listed, ClientError> {
        let settings = &self.source.settings;
        let path = format!("/v1/kv/{}/?recurse", encode(&self.source.prefix));
        let mode = match settings.stale {
            _ if !self.polled.is_known() => "&consistent",
            true => "&stale",
            false => "",
        };
        let mut asked = format!("{path}{mode}");
        let mut wait = Duration::ZERO;
        // What was in trouble is read at once: a poll that waits would say that all is well only with the next change.
        if let Some(index) = self.polled.index.filter(|_| self.trouble.is_none()) {
            wait = settings.wait();
            let _ = write!(asked, "&index={index}&wait={}ms", wait.as_millis());
        }
        let began = Instant::now();
        let (mut head, mut answer) = self.ask(&asked, wait).await?;
        let body = |answer: &Option<Answer>| answer.as_ref().map(|answer| answer.body.clone()).unwrap_or_default();
        let mut verdict = self.polled.judge(head, &body(&answer), began.elapsed(), false);
        if verdict == Verdict::WentBack {
            (head, answer) = self.ask(&format!("{path}&consistent"), Duration::ZERO).await?;
            verdict = self.polled.judge(head, &body(&answer), began.elapsed(), true);
        }
        match verdict {
            Verdict::Same => return Ok(Listed::Same),
            Verdict::Changed => {}
            Verdict::NoLeader | Verdict::WentBack => {
                let problem = "the server that answered knows no leader".to_owned();
                return Err(ClientError::Protocol { path: format!("/v1/kv/{}", self.source.prefix), problem });
            }
        }
        let pairs: Vec<Pair> = match &answer {
            Some(answer) => json(answer).inspect_err(|_| self.polled.doubt())?,
            None => Vec::new(),
        };
        match self.hidden(head, &pairs).await {
            Ok(None) => Ok(Listed::Whole(pairs)),
            Ok(Some(why)) => Ok(Listed::Part(pairs, why)),
            Err(error) => {
                self.polled.doubt();
                Err(error)
            }
        }
    }

    /// An answer, or none where Consul itself says that there is nothing below the prefix.
    async fn ask(&self, path: &str, wait: Duration) -> Result<(Head, Option<Answer>), ClientError> {
        match self.source.store.client.get(path, wait).await {
            Ok(answer) => Ok((Head::of(&answer), Some(answer))),
            Err(error) if error.is_not_found() => match error.headers().map(Head::read) {
                Some(head) if head.index.is_some() => Ok((head, None)),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Why keys may be there that the list does not have, if so.
    async fn hidden(&self, head: Head, pairs: &[Pair]) -> Result<Option<String>, ClientError> {
        let prefix = &self.source.prefix;
        let why = format!(
            "Consul leaves out keys that the token may not see: give it key_prefix \"{prefix}/\" read; the last good configuration \
             stays in effect"
        );
        if head.filtered {
            return Ok(Some(why));
        }
        if !head.denies {
            return Ok(None);
        }
        let listed: BTreeSet<Arc<str>> = pairs.iter().map(|pair| self.name_of(&pair.key)).collect();
        let scheme = self.name_of("");
        let mut doubtful: Vec<String> = self
            .texts
            .names()
            .filter(|name| !listed.contains(*name))
            .filter_map(|name| name.strip_prefix(&*scheme).map(str::to_owned))
            .collect();
        if pairs.is_empty() {
            doubtful.push(format!("{prefix}/may-this-token-read-here"));
        }
        for key in doubtful {
            match self.source.store.get(&key).await {
                Ok(None) => {}
                // Written again since the list.
                Ok(Some(_)) => return Ok(Some(format!("{key} is not in the list of keys, and can be read"))),
                Err(error) if error.is_permission() => return Ok(Some(why)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn name_of(&self, key: &str) -> Arc<str> {
        format!("consul:{}/{key}", self.source.settings.address.trim_end_matches('/')).into()
    }

    /// What changed, with what is to be said about the prefix itself.
    fn settle(&mut self) -> SourceUpdate {
        let mut update = self.texts.settle();
        if self.told != self.trouble {
            match &self.trouble {
                Some(text) => {
                    warn!("{}: {text}", self.name);
                    update.diagnostics.push(Diagnostic::of_file(
                        Severity::Error,
                        Code::Unreadable,
                        &self.name,
                        text.clone(),
                    ));
                }
                None => info!("{} is read again", self.name),
            }
            update.files.push(Arc::clone(&self.name));
            self.told = self.trouble.clone();
        }
        update
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_path_whatever_is_in_it() {
        assert_eq!(encode("xebec/reviews.yaml"), "xebec/reviews.yaml");
        assert_eq!(encode("a b?c#d%/../é"), "a%20b%3Fc%23d%25/%2E%2E/%C3%A9");
    }
}
