//! One kind in one namespace (or in all), listed and then watched, for ever.
//!
//! - ALWAYS: a listing is handed over whole, so that whoever keeps state can compare.
//! - NEVER: an absence that the server has not confirmed. A 404 means that a kind is not served; that its objects are gone is
//!   believed only when the server also knows no definition of it.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::access::{explain, status_code};
use crate::kinds::{Family, Watched};

/// Where objects are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Scope {
    /// The kind.
    pub watched: Watched,
    /// The namespace; absent is all.
    pub namespace: Option<String>,
}

/// What became known about a scope.
#[derive(Debug)]
pub(crate) enum News {
    /// These are all objects there are, in this version.
    Listed(&'static str, Vec<DynamicObject>),
    /// New or different.
    Applied(&'static str, Box<DynamicObject>),
    /// Gone.
    Deleted(Box<DynamicObject>),
    /// The server does not know the kind.
    Absent,
    /// It cannot be read now, because of this.
    Trouble(String),
}

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A watch is renewed after so long, which also notices a connection that died in silence. Seconds.
const WATCH_SECONDS: u32 = 240;

/// Follows a scope until nobody listens.
pub(crate) async fn follow(
    client: Client,
    scope: Scope,
    mut definitions: watch::Receiver<Definitions>,
    news: mpsc::Sender<(Scope, News)>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut problem = News::Absent;
        for version in scope.watched.versions {
            match version_of(&client, &scope, version, &news, &mut pause).await {
                Ended::NotServed => {}
                Ended::Trouble(text) => {
                    problem = News::Trouble(text);
                    break;
                }
                Ended::Closed => return,
            }
        }
        if matches!(problem, News::Absent) {
            problem = absence(&client, &scope).await;
        }
        if news.send((scope.clone(), problem)).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => pause = (pause * 2).min(LONGEST_PAUSE),
            changed = definitions.changed() => match changed {
                Ok(()) => pause = FIRST_PAUSE,
                Err(_) => tokio::time::sleep(pause).await,
            },
        }
    }
}

/// Why a version is no longer followed.
enum Ended {
    NotServed,
    Trouble(String),
    Closed,
}

async fn version_of(
    client: &Client,
    scope: &Scope,
    version: &'static str,
    news: &mpsc::Sender<(Scope, News)>,
    pause: &mut Duration,
) -> Ended {
    let resource = scope.watched.resource(version);
    let api: Api<DynamicObject> = match &scope.namespace {
        Some(namespace) if scope.watched.namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
        _ => Api::all_with(client.clone(), &resource),
    };
    let selected = watcher::Config::default().timeout(WATCH_SECONDS);
    let selected = selected.labels(scope.watched.labels).fields(scope.watched.fields);
    let mut events = match scope.watched.family {
        // What is in a Secret is not even asked for.
        Family::Certificate => {
            let api: Api<PartialObjectMeta<Secret>> = match &scope.namespace {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            watcher(api, selected).map_ok(without_data).boxed()
        }
        _ => watcher(api, selected).boxed(),
    };
    let mut listing = Vec::new();
    loop {
        let item = match events.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                listing = Vec::new();
                continue;
            }
            Ok(Some(watcher::Event::InitApply(object))) => {
                listing.push(object);
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => News::Listed(version, std::mem::take(&mut listing)),
            Ok(Some(watcher::Event::Apply(object))) => News::Applied(version, Box::new(object)),
            Ok(Some(watcher::Event::Delete(object))) => News::Deleted(Box::new(object)),
            Ok(None) => return Ended::Trouble("the watch ended".to_owned()),
            // The history is gone: the stream lists again by itself.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => continue,
            Err(error) => return judge(&error),
        };
        *pause = FIRST_PAUSE;
        if news.send((scope.clone(), item)).await.is_err() {
            return Ended::Closed;
        }
    }
}

/// An event about metadata as one about an object that has nothing else.
fn without_data(event: watcher::Event<PartialObjectMeta<Secret>>) -> watcher::Event<DynamicObject> {
    let object =
        |found: PartialObjectMeta<Secret>| DynamicObject { types: None, metadata: found.metadata, data: Value::Null };
    match event {
        watcher::Event::Apply(found) => watcher::Event::Apply(object(found)),
        watcher::Event::Delete(found) => watcher::Event::Delete(object(found)),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(found) => watcher::Event::InitApply(object(found)),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

fn judge(error: &watcher::Error) -> Ended {
    let source = match error {
        watcher::Error::InitialListFailed(source)
        | watcher::Error::WatchStartFailed(source)
        | watcher::Error::WatchFailed(source) => source,
        watcher::Error::WatchError(status) => return Ended::Trouble(format!("{}: {}", status.code, status.message)),
        watcher::Error::NoResourceVersion => return Ended::Trouble("a listing has no resourceVersion".to_owned()),
    };
    match status_code(source) {
        Some(404) => Ended::NotServed,
        _ => Ended::Trouble(explain(source)),
    }
}

/// No version of ours is served. Right after its start a server may not know yet what it has: its definitions decide. A kind that they
/// serve in other versions only is as good as absent: nothing of it can be read, and the rest must not wait for it.
async fn absence(client: &Client, scope: &Scope) -> News {
    if !scope.watched.custom {
        return News::Absent;
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = scope.watched.definition();
    match definitions.get_opt(&name).await {
        Ok(None) => News::Absent,
        Ok(Some(found)) => {
            let served = found.spec.versions.iter().filter(|version| version.served);
            let names: Vec<&str> = served.map(|version| version.name.as_str()).collect();
            if names.iter().any(|name| scope.watched.versions.contains(name)) {
                return News::Trouble(format!("404: {name} is defined and not served yet"));
            }
            tracing::warn!("{name} is not read: the versions {} of it are not known", names.join(", "));
            News::Absent
        }
        // Without permission to read definitions, the 404 is all there is to go by.
        Err(error) if matches!(status_code(&error), Some(401 | 403)) => News::Absent,
        Err(error) => News::Trouble(explain(&error)),
    }
}

/// What is known about definitions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Definitions {
    /// Grows with each change, so that kinds are looked for as soon as somebody installs them.
    pub count: u64,
    /// The version of the Gateway API's definitions, as they say themselves.
    pub gateway_api: Option<String>,
}

/// The definition that says the Gateway API's version, and where.
const GATEWAY_CLASSES: &str = "gatewayclasses.gateway.networking.k8s.io";
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";

/// Follows definitions.
pub(crate) async fn definitions(client: Client, known: watch::Sender<Definitions>) {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let mut pause = FIRST_PAUSE;
    loop {
        let mut events = watcher(api.clone(), watcher::Config::default().timeout(WATCH_SECONDS)).boxed();
        while let Ok(Some(event)) = events.try_next().await {
            pause = FIRST_PAUSE;
            known.send_if_modified(|known| known.take(&event));
        }
        if known.is_closed() {
            return;
        }
        // Not permitted, or an outage: kinds are then looked for at growing intervals only.
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

// === impl Definitions ===

impl Definitions {
    /// Notes an event; whether it changes anything for those who look.
    fn take(&mut self, event: &watcher::Event<PartialObjectMeta<CustomResourceDefinition>>) -> bool {
        let version = |found: &PartialObjectMeta<CustomResourceDefinition>| {
            let ours = found.metadata.name.as_deref() == Some(GATEWAY_CLASSES);
            ours.then(|| found.metadata.annotations.as_ref().and_then(|all| all.get(BUNDLE_VERSION)).cloned())
        };
        match event {
            watcher::Event::Init => return false,
            watcher::Event::InitApply(found) => {
                if let Some(version) = version(found) {
                    self.gateway_api = version;
                }
                return false;
            }
            watcher::Event::InitDone => {}
            watcher::Event::Apply(found) => {
                if let Some(version) = version(found) {
                    self.gateway_api = version;
                }
            }
            watcher::Event::Delete(found) => {
                if version(found).is_none() {
                    return false;
                }
                self.gateway_api = None;
            }
        }
        self.count += 1;
        true
    }
}

/// Half of a pause, and a random share of the other half, so that replicas and kinds do not return in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let share = RandomState::new().hash_one(pause) % 1000;
    pause / 2 + pause / 2 * u32::try_from(share).unwrap_or(0) / 1000
}
