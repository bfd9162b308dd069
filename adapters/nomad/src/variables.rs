//! Nomad Variables as a store of configuration: every item of every variable below a path is one text of documents.
//!
//! - ALWAYS: one blocking query waits for all of them; only variables that changed are read.
//! - ALWAYS: a variable that is no longer listed is asked for by name before what it said goes out of effect: lists leave out, without a
//!   word, what a token may not see.
//! - ALWAYS: one variable that cannot be read holds back no other one.
//! - NEVER: a refusal, an error or silence removes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{error, info};
use xebec_adapter_client::{Backoff, Client, ClientError, json};
use xebec_galley::source::{SourceUpdate, Texts};
use xebec_galley::{Code, Diagnostic, Severity};

use crate::listing;
use crate::settings::Settings;
use crate::wire::escape;

/// Pauses between attempts to reach the agent.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Reads and writes variables.
#[derive(Debug, Clone)]
pub struct Variables {
    client: Client,
    settings: Arc<Settings>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The variable now has this index (`ModifyIndex`), which the next write may name.
    Done(u64),
    /// Somebody else wrote it since; nothing was changed. Read it again.
    Conflict,
}

/// Configuration from variables.
#[derive(Debug)]
pub struct VariablesSource {
    variables: Variables,
    prefix: String,
}

/// A variable's entry in a list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Stub {
    namespace: String,
    path: String,
    modify_index: u64,
}

/// A whole variable.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Variable {
    namespace: String,
    path: String,
    items: BTreeMap<String, String>,
    modify_index: u64,
}

/// A variable's place: its namespace and its path.
type Place = (String, String);

/// What is in effect of one variable.
#[derive(Debug, Default)]
struct Held {
    index: u64,
    names: BTreeSet<Arc<str>>,
}

/// One run of the source.
struct Run {
    variables: Variables,
    prefix: String,
    texts: Texts,
    held: BTreeMap<Place, Held>,
    /// The index of the last list, by scope.
    indexes: Vec<u64>,
    /// Not everything could be read, or nothing was yet: nothing is waited for.
    at_once: bool,
    /// Stands for the store in diagnostics.
    store: Arc<str>,
    trouble: Option<String>,
    /// Since the last good reading the agent could not be read, or its index went back.
    interrupted: bool,
    synced: bool,
}

// === impl Variables ===

impl Variables {
    /// Of the Nomad that these settings describe.
    ///
    /// # Errors
    /// [`ClientError::Settings`] for an address or certificates that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, ClientError> {
        Ok(Self { client: settings.client()?, settings: Arc::new(settings) })
    }

    /// The items of a variable and its index (`ModifyIndex`); `None` when there is none.
    ///
    /// # Errors
    /// [`ClientError`] when that cannot be found out.
    pub async fn read(
        &self,
        namespace: &str,
        path: &str,
    ) -> Result<Option<(BTreeMap<String, String>, u64)>, ClientError> {
        match self.client.get(&self.place(namespace, path, ""), Duration::ZERO).await {
            Ok(answer) => {
                let variable: Variable = json(&answer)?;
                Ok(Some((variable.items, variable.modify_index)))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a variable whole, only if its index is still `expected`; 0 means that there must be none yet.
    ///
    /// # Errors
    /// [`ClientError`]. When there was no answer, whether it was written is unknown.
    pub async fn write(
        &self,
        namespace: &str,
        path: &str,
        items: BTreeMap<String, String>,
        expected: u64,
    ) -> Result<Written, ClientError> {
        let variable = Variable { namespace: namespace.to_owned(), path: path.to_owned(), items, modify_index: 0 };
        let body =
            serde_json::to_vec(&variable).map_err(|error| ClientError::Settings { problem: error.to_string() })?;
        match self.client.put(&self.place(namespace, path, &format!("&cas={expected}")), body).await {
            Ok(answer) => Ok(Written::Done(json::<Variable>(&answer)?.modify_index)),
            Err(ClientError::Status { code: 409, .. }) => Ok(Written::Conflict),
            Err(error) => Err(error),
        }
    }

    fn place(&self, namespace: &str, path: &str, more: &str) -> String {
        let path: Vec<String> = path.split('/').map(escape).collect();
        format!("/v1/var/{}?namespace={}{more}{}", path.join("/"), escape(namespace), self.settings.region_query())
    }

    /// The variables below a prefix, once the table is newer than `after`.
    async fn list(
        &self,
        scope: &str,
        prefix: &str,
        after: u64,
        wait: Duration,
    ) -> Result<(Vec<Stub>, u64), ClientError> {
        let waiting = if after > 0 { format!("&index={after}&wait={}s", wait.as_secs().max(1)) } else { String::new() };
        let path = format!(
            "/v1/vars?namespace={}&prefix={}{waiting}{}",
            escape(scope),
            escape(prefix),
            self.settings.region_query()
        );
        let answer = self.client.get(&path, if after > 0 { wait } else { Duration::ZERO }).await?;
        let index = listing::index(&answer)?;
        if listing::header(&answer, "x-nomad-knownleader") == Some("false") {
            let problem = "it comes from a server that knows no leader".to_owned();
            return Err(ClientError::NotJson { path: answer.path.to_string(), problem });
        }
        let mut stubs: Vec<Stub> = json(&answer)?;
        // The server's prefix is one of characters, not of path segments.
        stubs.retain(|stub| {
            stub.path == prefix || stub.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
        });
        Ok((stubs, index))
    }
}

// === impl VariablesSource ===

impl VariablesSource {
    /// The variables at the path `prefix` and below it.
    ///
    /// # Errors
    /// [`ClientError::Settings`] for settings that cannot be used, or an empty prefix.
    pub fn new(settings: Settings, prefix: &str) -> Result<Self, ClientError> {
        let prefix = prefix.trim_matches('/').to_owned();
        if prefix.is_empty() {
            return Err(ClientError::Settings {
                problem: "a path of Nomad Variables is needed, as in nomad:ADDRESS/xebec".to_owned(),
            });
        }
        Ok(Self { variables: Variables::new(settings)?, prefix })
    }

    /// Publishes what is there, then every change, until `stop` is over or nobody listens.
    pub async fn run(self, updates: mpsc::Sender<SourceUpdate>, stop: impl Future<Output = ()>) {
        let Self { variables, prefix } = self;
        let store = format!("nomad:{}/{prefix}", variables.client.address()).into();
        let indexes = vec![0; variables.settings.scopes().len()];
        let run = Run {
            variables,
            prefix,
            texts: Texts::new(),
            held: BTreeMap::new(),
            indexes,
            at_once: true,
            store,
            trouble: None,
            interrupted: false,
            synced: false,
        };
        tokio::select! {
            () = run.forever(updates) => {}
            () = stop => {}
        }
    }
}

// === impl Run ===

impl Run {
    async fn forever(mut self, updates: mpsc::Sender<SourceUpdate>) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let looked = self.look().await;
            self.interrupted = looked.is_err();
            let problem = looked.unwrap_or_else(Some);
            self.at_once = problem.is_some();
            let pause = match problem {
                None => {
                    backoff.reset();
                    if self.trouble.take().is_some() {
                        info!("{} is read again", self.store);
                        self.texts.remove(&self.store);
                    }
                    None
                }
                Some(problem) => {
                    self.report(problem.to_string());
                    Some(problem.retry_after().unwrap_or_default().max(backoff.next()))
                }
            };
            let update = self.texts.settle();
            let news = !update.events.is_empty() || !update.files.is_empty() || (update.synced && !self.synced);
            self.synced = update.synced;
            if news && updates.send(update).await.is_err() {
                return;
            }
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
    }

    fn report(&mut self, text: String) {
        if self.trouble.as_ref() != Some(&text) {
            error!("{}: {text}; what it last said stays in effect", self.store);
            let diagnostic =
                Diagnostic::of_file(Severity::Error, Code::Unreadable, &self.store, format!("cannot be read: {text}"))
                    .with_help("what it last said stays in effect");
            self.texts.fault(&self.store, diagnostic);
            self.trouble = Some(text);
        }
    }

    /// Waits until something may have changed in one of the scopes, and takes it. Returns why something could not be read, where all
    /// the rest was.
    async fn look(&mut self) -> Result<Option<ClientError>, ClientError> {
        let scopes = self.variables.settings.scopes();
        let wait = self.variables.settings.wait.0;
        if self.at_once {
            // Every scope is known before any of them is waited for.
            let (mut part, mut failed) = (None, None);
            for (number, scope) in scopes.iter().enumerate() {
                let taken = match self.variables.list(scope, &self.prefix, 0, wait).await {
                    Ok(found) => self.take(number, scope, found).await,
                    Err(error) => Err(error),
                };
                match taken {
                    Ok(problem) => part = part.or(problem),
                    Err(error) if of_all(&error) => return Err(error),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if part.is_none() {
                self.texts.synced();
            }
            return Ok(part);
        }
        let queries = scopes.iter().enumerate().map(|(number, scope)| {
            let (variables, prefix) = (&self.variables, &self.prefix);
            let after = self.indexes.get(number).copied().unwrap_or(0);
            Box::pin(async move { (number, variables.list(scope, prefix, after, wait).await) })
        });
        let ((number, found), ..) = futures_util::future::select_all(queries).await;
        let Some(scope) = scopes.get(number) else { return Ok(None) };
        self.take(number, scope, found?).await
    }

    /// Takes a list. Returns the first reason why a variable could not be read, if there is one; what such a variable last said stays.
    async fn take(
        &mut self,
        number: usize,
        scope: &str,
        (stubs, index): (Vec<Stub>, u64),
    ) -> Result<Option<ClientError>, ClientError> {
        let known = self.indexes.get(number).copied().unwrap_or(0);
        if index < known {
            // Another state: of a restored server, or of one that has not read its log to the end.
            self.interrupted = true;
        }
        let listed: BTreeMap<Place, u64> =
            stubs.into_iter().map(|stub| ((stub.namespace, stub.path), stub.modify_index)).collect();
        let mine = |place: &&Place| scope == "*" || place.0 == scope;
        let missing: Vec<Place> =
            self.held.keys().filter(mine).filter(|place| !listed.contains_key(*place)).cloned().collect();
        if !missing.is_empty() && self.interrupted {
            self.confirm(scope, &listed, missing.len()).await?;
        }
        let mut problem = None;
        for (place, modified) in &listed {
            if self.held.get(place).is_some_and(|held| held.index == *modified) {
                continue;
            }
            match self.variables.read(&place.0, &place.1).await {
                Ok(Some((items, at))) => self.put(place.clone(), items, at),
                // Gone between the list and this: the next list says so.
                Ok(None) => {}
                Err(error) if of_all(&error) => return Err(error),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        for place in missing {
            match self.variables.read(&place.0, &place.1).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let held = self.held.remove(&place).unwrap_or_default();
                    held.names.iter().for_each(|name| self.texts.remove(name));
                }
                Err(error) if of_all(&error) => return Err(error),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        if let Some(slot) = self.indexes.get_mut(number) {
            *slot = index.max(1);
        }
        Ok(problem)
    }

    /// One list after an interruption is not enough to remove anything: another must agree.
    async fn confirm(&mut self, scope: &str, listed: &BTreeMap<Place, u64>, missing: usize) -> Result<(), ClientError> {
        // Where something is wrong already, that is what there is to say.
        if self.trouble.is_none() {
            self.report(format!(
                "{missing} variables are no longer there after an interruption; a second look must agree"
            ));
        }
        sleep(self.variables.settings.confirm_after.0).await;
        let (again, _) = self.variables.list(scope, &self.prefix, 0, Duration::ZERO).await?;
        let again: BTreeSet<Place> = again.into_iter().map(|stub| (stub.namespace, stub.path)).collect();
        if again.iter().eq(listed.keys()) {
            return Ok(());
        }
        Err(ClientError::NotJson {
            path: "/v1/vars".to_owned(),
            problem: "two lists after an interruption do not agree yet".to_owned(),
        })
    }

    fn put(&mut self, place: Place, items: BTreeMap<String, String>, index: u64) {
        let mut names = BTreeSet::new();
        for (item, text) in &items {
            let name = self.name(&place, item);
            self.texts.put(&name, text.as_bytes());
            names.insert(name);
        }
        let held = self.held.entry(place).or_default();
        held.names.difference(&names).for_each(|name| self.texts.remove(name));
        *held = Held { index, names };
    }

    /// `nomad:ADDRESS/PATH#ITEM`, and the namespace where it is another than `default`.
    fn name(&self, (namespace, path): &Place, item: &str) -> Arc<str> {
        let space = if namespace == "default" { String::new() } else { format!("?namespace={namespace}") };
        format!("nomad:{}/{path}{space}#{item}", self.variables.client.address()).into()
    }
}

/// Whether the next request is as likely to fail: then nothing more is asked.
fn of_all(error: &ClientError) -> bool {
    error.is_disconnect() || error.is_throttled()
}
