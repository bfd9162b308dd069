//! The source: what the API server holds, through galley's door.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;

use kube::core::DynamicObject;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use xebec_galley::source::{SourceUpdate, Texts};
use xebec_galley::{Code, ConfigEvent, Diagnostic, Severity};

use crate::access::{Access, AccessError};
use crate::feed::{self, Definitions, News, Scope};
use crate::gateway::Gateways;
use crate::kinds::{Family, Watched};
use crate::settings::Settings;
use crate::status::{Seen, Statuses, Verdict};
use crate::text;

/// News that are taken together before anything is published.
const BATCH: usize = 1024;

/// Istio's kinds, the Gateway API and Ingress of an API server.
///
/// Objects are named `kubernetes:KIND/NAMESPACE/NAME` in diagnostics; what is wrong with reading a kind stands under
/// `kubernetes:KIND`, and is over when a later update names that without saying anything.
#[derive(Debug)]
pub struct KubernetesConfig {
    access: Access,
    statuses: Statuses,
}

/// The state of a running source.
struct Running {
    texts: Texts,
    /// The objects of Istio's kinds in each scope, by name in diagnostics.
    held: HashMap<Scope, BTreeSet<Arc<str>>>,
    /// Scopes that were not read once yet.
    pending: BTreeSet<Scope>,
    /// Why scopes cannot be read now.
    troubles: BTreeMap<Scope, String>,
    /// Names of troubles that have something new to say.
    retold: BTreeSet<Arc<str>>,
    /// Everything was read once.
    synced: bool,
    /// Kinds that are not installed.
    absent: BTreeSet<Scope>,
    /// Those of them that nobody was told of yet.
    newly_absent: BTreeSet<Scope>,
    gateways: Gateways,
    statuses: Statuses,
}

// === impl KubernetesConfig ===

impl KubernetesConfig {
    /// A source of the server that these settings name. Nothing is asked of it yet.
    pub fn new(settings: &Settings) -> Self {
        Self::with_access(Access::new(settings))
    }

    /// The same over a client that others use too.
    pub fn with_access(access: Access) -> Self {
        Self { access, statuses: Statuses::default() }
    }

    /// What is known about each object, for a [`StatusWriter`](crate::StatusWriter).
    pub fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    /// Publishes everything once, and from then on what changes, until `stop` completes or nobody listens. An unreachable server,
    /// missing permissions and missing definitions are no errors: they are reported, and tried again.
    ///
    /// # Errors
    /// None while it runs; the type leaves room for settings that can never work.
    pub async fn run(
        self,
        updates: mpsc::Sender<SourceUpdate>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), AccessError> {
        let mut stop = std::pin::pin!(stop);
        let client = tokio::select! {
            () = &mut stop => return Ok(()),
            () = updates.closed() => return Ok(()),
            client = self.access.client() => client,
        };
        let settings = self.access.settings();
        let scopes = scopes(settings);
        let (sender, mut news) = mpsc::channel(BATCH);
        let (known, mut definitions) = watch::channel(Definitions::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(feed::definitions(client.clone(), known));
        for scope in &scopes {
            tasks.spawn(feed::follow(client.clone(), scope.clone(), definitions.clone(), sender.clone()));
        }
        drop(sender);
        let mut running = Running::new(scopes, settings, self.statuses);
        let mut first = true;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = updates.closed() => return Ok(()),
                count = news.recv_many(&mut batch, BATCH) => if count == 0 { return Ok(()) },
                Ok(()) = definitions.changed() => {
                    running.gateways.defined(definitions.borrow_and_update().gateway_api.clone());
                }
            }
            for (scope, item) in batch.drain(..) {
                running.take(scope, item);
            }
            let was_synced = running.synced;
            let update = running.settle();
            if !first && update.events.is_empty() && update.files.is_empty() && update.synced == was_synced {
                continue;
            }
            first = false;
            tokio::select! {
                () = &mut stop => return Ok(()),
                sent = updates.send(update) => if sent.is_err() { return Ok(()) },
            }
        }
    }
}

fn scopes(settings: &Settings) -> BTreeSet<Scope> {
    let mut scopes = BTreeSet::new();
    for watched in Watched::all(settings) {
        let everywhere = settings.namespaces.is_empty() || !watched.namespaced;
        let ingress = Some(settings.ingress_namespace.clone());
        match watched.family {
            Family::IngressProxy => drop(scopes.insert(Scope { watched, namespace: ingress })),
            _ if everywhere => drop(scopes.insert(Scope { watched, namespace: None })),
            family => {
                let named = settings.namespaces.iter().map(|name| Scope { watched, namespace: Some(name.clone()) });
                scopes.extend(named);
                // The Service in front of the proxies for Ingresses is there.
                if family == Family::Service {
                    scopes.insert(Scope { watched, namespace: ingress });
                }
            }
        }
    }
    scopes
}

// === impl Running ===

impl Running {
    fn new(pending: BTreeSet<Scope>, settings: &Settings, statuses: Statuses) -> Self {
        Self {
            texts: Texts::new(),
            held: HashMap::new(),
            pending,
            troubles: BTreeMap::new(),
            retold: BTreeSet::new(),
            synced: false,
            absent: BTreeSet::new(),
            newly_absent: BTreeSet::new(),
            gateways: Gateways::new(settings, statuses.clone()),
            statuses,
        }
    }

    fn take(&mut self, scope: Scope, news: News) {
        match news {
            News::Listed(version, objects) => {
                self.over(&scope);
                self.absent.remove(&scope);
                self.newly_absent.remove(&scope);
                self.listed(&scope, version, objects);
                self.pending.remove(&scope);
            }
            News::Applied(version, object) => {
                self.over(&scope);
                self.applied(&scope, version, *object);
            }
            News::Deleted(object) => {
                self.over(&scope);
                self.deleted(&scope, &object);
            }
            News::Absent => {
                self.over(&scope);
                if self.absent.insert(scope.clone()) {
                    self.newly_absent.insert(scope.clone());
                }
                self.listed(&scope, "", Vec::new());
                self.pending.remove(&scope);
            }
            News::Trouble(text) => self.trouble(scope, text),
        }
    }

    fn trouble(&mut self, scope: Scope, text: String) {
        if self.troubles.get(&scope) != Some(&text) {
            tracing::warn!(kind = scope.watched.kind, namespace = scope.namespace, "cannot be read: {text}");
            self.retold.insert(trouble_name(&scope));
            self.troubles.insert(scope, text);
        }
    }

    fn over(&mut self, scope: &Scope) {
        if self.troubles.remove(scope).is_some() {
            tracing::info!(kind = scope.watched.kind, namespace = scope.namespace, "can be read again");
            self.retold.insert(trouble_name(scope));
        }
    }

    fn listed(&mut self, scope: &Scope, version: &'static str, objects: Vec<DynamicObject>) {
        match scope.watched.family {
            Family::Istio(_) => {
                let before = self.held.remove(scope).unwrap_or_default();
                for object in objects {
                    self.applied(scope, version, object);
                }
                let now = self.held.entry(scope.clone()).or_default();
                for gone in before.difference(now) {
                    self.texts.remove(gone);
                    self.statuses.forget(gone);
                }
            }
            _ => self.gateways.list(scope, version, objects),
        }
    }

    fn applied(&mut self, scope: &Scope, version: &'static str, object: DynamicObject) {
        match scope.watched.family {
            Family::Istio(kind) => {
                let name = name_of(kind.as_str(), &object);
                let api_version = format!("{}/{version}", scope.watched.group);
                let document = text::of_object(&object, &api_version, scope.watched.kind);
                self.texts.put(&name, document.as_bytes());
                self.statuses.saw(&name, Seen::of(&scope.watched, version, &object));
                self.held.entry(scope.clone()).or_default().insert(name);
            }
            _ => self.gateways.put(scope, version, object),
        }
    }

    fn deleted(&mut self, scope: &Scope, object: &DynamicObject) {
        match scope.watched.family {
            Family::Istio(kind) => {
                let name = name_of(kind.as_str(), object);
                self.texts.remove(&name);
                self.statuses.forget(&name);
                if let Some(held) = self.held.get_mut(scope) {
                    held.remove(&name);
                }
            }
            _ => self.gateways.remove(scope, object),
        }
    }

    fn settle(&mut self) -> SourceUpdate {
        if self.pending.is_empty() {
            self.texts.synced();
            self.synced = true;
            self.tell_absent();
        }
        let mut update = self.texts.settle();
        self.judge(&update);
        self.gateways.settle(self.synced, &mut update);
        for name in std::mem::take(&mut self.retold) {
            let told = self.troubles.iter().filter(|(scope, _)| trouble_name(scope) == name);
            for (_, text) in told {
                let problem = Diagnostic::of_file(
                    Severity::Error,
                    Code::Unreadable,
                    &name,
                    format!("the API server's resources of this kind cannot be read: {text}"),
                );
                update.diagnostics.push(problem.with_help(advice(text)));
            }
            update.files.push(name);
        }
        update
    }

    /// Says in one line what is not installed.
    fn tell_absent(&mut self) {
        let names = |scope: Scope| format!("{}.{}", scope.watched.kind, scope.watched.group);
        let names: BTreeSet<String> = std::mem::take(&mut self.newly_absent).into_iter().map(names).collect();
        if !names.is_empty() {
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            tracing::info!("the API server does not know {names}; they are looked for again when definitions change");
        }
    }

    /// Tells the status of each object that there is something new to say about.
    fn judge(&self, update: &SourceUpdate) {
        for event in &update.events {
            if let ConfigEvent::Upsert(config) = event {
                self.statuses.accepted(config);
            }
        }
        let mut about: HashMap<&str, Vec<&Diagnostic>> = HashMap::new();
        for diagnostic in &update.diagnostics {
            about.entry(&diagnostic.source.file).or_default().push(diagnostic);
        }
        for name in &update.files {
            let diagnostics = about.get(&**name).map_or(&[] as &[&Diagnostic], Vec::as_slice);
            self.statuses.judge(name, Verdict::of(diagnostics));
        }
    }
}

fn advice(text: &str) -> &'static str {
    const STAYS: &str = "what was last read stays in effect";
    const REFUSED: &str = "what was last read stays in effect; let the service account get, list and watch this kind (see install/kubernetes)";
    if text.starts_with("403") || text.starts_with("401") { REFUSED } else { STAYS }
}

fn trouble_name(scope: &Scope) -> Arc<str> {
    format!("kubernetes:{}.{}", scope.watched.kind, scope.watched.group).into()
}

/// The name of an object in diagnostics.
fn name_of(kind: &str, object: &DynamicObject) -> Arc<str> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    format!("kubernetes:{kind}/{namespace}/{name}").into()
}
