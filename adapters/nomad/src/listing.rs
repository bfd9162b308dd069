//! Reads everything that is wanted, once.
//!
//! - ALWAYS: one service or node that cannot be read costs nothing else; it is named, with the reason.
//! - NEVER: a reading that lacks anything else is taken for one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{StreamExt as _, iter};
use serde::de::DeserializeOwned;
use tokio::time::sleep;
use xebec_adapter_client::{Answer, Backoff, Client, ClientError, json};
use xebec_pilot::registry::quote;

use crate::mirror::{Listing, Name};
use crate::settings::Settings;
use crate::wire::{Allocation, NamespaceServices, Node, Row, escape};

/// Requests at once. An agent grants 100 connections to one address.
const AT_ONCE: usize = 8;
/// Allocations per page.
const PAGE: usize = 500;
/// How often a request is made anew that the server was too busy for.
const ATTEMPTS: usize = 5;
/// The allocations that are worth listing: the others are at their end.
const ALIVE: &str = r#"ClientStatus == "running" or ClientStatus == "pending" or ClientStatus == "unknown""#;

/// Who reads, and what.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) client: Client,
    pub(crate) settings: Arc<Settings>,
}

/// What could not be read while all else could, and why.
pub(crate) type Unread = Vec<(String, ClientError)>;

/// The names of services and the state of the table they are in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) names: BTreeSet<Name>,
    pub(crate) index: u64,
}

// === impl Reader ===

impl Reader {
    async fn get(&self, path_and_query: &str, wait: Duration) -> Result<Answer, ClientError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for _ in 1..ATTEMPTS {
            match self.client.get(path_and_query, wait).await {
                Err(error) if error.is_throttled() => {
                    sleep(error.retry_after().unwrap_or_else(|| backoff.next())).await
                }
                other => return other,
            }
        }
        self.client.get(path_and_query, wait).await
    }

    /// A list, and the index of its table.
    async fn table<T: DeserializeOwned>(
        &self,
        path_and_query: &str,
        wait: Duration,
    ) -> Result<(T, u64, Answer), ClientError> {
        let answer = self.get(path_and_query, wait).await?;
        let index = index(&answer)?;
        if header(&answer, "x-nomad-knownleader") == Some("false") {
            return Err(not_from_nomad(&answer, "it comes from a server that knows no leader"));
        }
        // Go writes an empty list as `null` in places.
        let list: Option<T> = json(&answer)?;
        let Some(list) = list else { return Err(not_from_nomad(&answer, "it is null")) };
        Ok((list, index, answer))
    }

    /// The names of all wanted services. With `after`, waits until the table is newer or `wait` is over.
    pub(crate) async fn names(&self, scope: &str, after: Option<u64>, wait: Duration) -> Result<Names, ClientError> {
        let mut path = format!("/v1/services?namespace={}{}", escape(scope), self.settings.region_query());
        if let Some(after) = after {
            path.push_str(&format!("&index={after}&wait={}s", wait.as_secs().max(1)));
        }
        let (list, index, _) =
            self.table::<Vec<NamespaceServices>>(&path, if after.is_some() { wait } else { Duration::ZERO }).await?;
        let mut names = BTreeSet::new();
        for space in list {
            let wanted = space.services.into_iter().filter(|stub| self.settings.services.takes(&stub.service_name));
            names.extend(wanted.map(|stub| (Arc::clone(&space.namespace), stub.service_name)));
        }
        Ok(Names { names, index })
    }

    /// The names in all scopes; the index is the lowest.
    pub(crate) async fn all_names(&self) -> Result<Names, ClientError> {
        let mut all = Names { names: BTreeSet::new(), index: u64::MAX };
        for scope in self.settings.scopes() {
            let Names { names, index } = self.names(&scope, None, Duration::ZERO).await?;
            all.names.extend(names);
            all.index = all.index.min(index);
        }
        Ok(all)
    }

    /// Whether nodes may be seen.
    pub(crate) async fn sees_nodes(&self) -> Result<bool, ClientError> {
        match self.get(&format!("/v1/nodes?per_page=1{}", self.settings.region_query()), Duration::ZERO).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_permission() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The region that all answers are about, where that can be known.
    pub(crate) async fn region(&self) -> Result<Option<String>, ClientError> {
        if let Some(region) = &self.settings.region {
            return Ok(Some(region.clone()));
        }
        let regions: Vec<String> = json(&self.get("/v1/regions", Duration::ZERO).await?)?;
        Ok(<[String; 1]>::try_from(regions).ok().map(|[only]| only))
    }

    /// Reads all of it, as far as it can be read. Nodes that are in `known` and have not changed are not asked for again.
    pub(crate) async fn list(
        &self,
        names: Names,
        nodes: bool,
        known: &HashMap<Arc<str>, Node>,
    ) -> Result<(Listing, Unread), ClientError> {
        let (allocations, allocations_index) = self.allocations().await?;
        let mut failures = Unread::new();
        let (mut services, mut unread) = (BTreeMap::new(), BTreeSet::new());
        let mut readings = iter(names.names)
            .map(|name| async move {
                let rows = self.rows(&name).await;
                (name, rows)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((name, rows)) = readings.next().await {
            match rows {
                Ok(rows) => {
                    services.insert(name, rows);
                }
                Err(error) => {
                    let what = format!("the service {} of the namespace {}", quote(&name.1), quote(&name.0));
                    set_aside(&mut failures, what, error)?;
                    unread.insert(name);
                }
            }
        }
        let nodes = if nodes { Some(self.nodes(&services, known, &mut failures).await?) } else { None };
        failures.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok((Listing { services, unread, index: names.index, allocations, allocations_index, nodes }, failures))
    }

    async fn rows(&self, (namespace, name): &Name) -> Result<(Vec<Row>, u64), ClientError> {
        let region = self.settings.region_query();
        let path = format!("/v1/service/{}?namespace={}{region}", escape(name), escape(namespace));
        let (rows, index, _) = self.table(&path, Duration::ZERO).await?;
        Ok((rows, index))
    }

    async fn allocations(&self) -> Result<(Vec<Allocation>, u64), ClientError> {
        let (mut all, mut lowest) = (Vec::new(), u64::MAX);
        for scope in self.settings.scopes() {
            let (mut token, mut seen) = (String::new(), BTreeSet::new());
            loop {
                let next = if token.is_empty() { String::new() } else { format!("&next_token={}", escape(&token)) };
                let path = format!(
                    "/v1/allocations?namespace={}&per_page={PAGE}&filter={}{next}{}",
                    escape(&scope),
                    escape(ALIVE),
                    self.settings.region_query()
                );
                let (page, index, answer) = self.table::<Vec<Allocation>>(&path, Duration::ZERO).await?;
                all.extend(page);
                lowest = lowest.min(index);
                match header(&answer, "x-nomad-nexttoken") {
                    Some(next) if !next.is_empty() => next.clone_into(&mut token),
                    _ => break,
                }
                if !seen.insert(token.clone()) {
                    let problem = format!("the page {} follows twice: the pages never end", quote(&token));
                    return Err(not_from_nomad(&answer, &problem));
                }
            }
        }
        Ok((all, lowest))
    }

    async fn nodes(
        &self,
        services: &BTreeMap<Name, (Vec<Row>, u64)>,
        known: &HashMap<Arc<str>, Node>,
        failures: &mut Unread,
    ) -> Result<Vec<Node>, ClientError> {
        let region = self.settings.region_query();
        let (list, ..): (Vec<Node>, _, _) =
            self.table(&format!("/v1/nodes?{}", region.trim_start_matches('&')), Duration::ZERO).await?;
        let used: BTreeSet<&Arc<str>> = services.values().flat_map(|(rows, _)| rows).map(|row| &row.node_id).collect();
        // Which nodes the instances of an unread service are on is not said: all that were asked for before may be.
        let all_known = !failures.is_empty();
        let region = &region;
        let mut nodes = Vec::with_capacity(list.len());
        let mut readings = iter(list)
            .map(|stub| {
                let before = known.get(&stub.id).filter(|known| known.meta.is_some());
                let used = used.contains(&stub.id) || (all_known && before.is_some());
                async move {
                    match before.filter(|known| known.modify_index == stub.modify_index) {
                        Some(known) => Ok(known.clone()),
                        None if !used => Ok(stub),
                        None => {
                            let path = format!("/v1/node/{}?{}", escape(&stub.id), region.trim_start_matches('&'));
                            match self.get(&path, Duration::ZERO).await.and_then(|answer| json(&answer)) {
                                Ok(node) => Ok(node),
                                // Purged between the list and this.
                                Err(error) if error.is_not_found() => Ok(stub),
                                Err(error) => Err((stub, before, error)),
                            }
                        }
                    }
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(node) = readings.next().await {
            nodes.push(match node {
                Ok(node) => node,
                Err((stub, before, error)) => {
                    set_aside(failures, format!("the node {}", quote(&stub.id)), error)?;
                    match before.cloned() {
                        // With the index it had, it is asked for again.
                        Some(Node { meta, attributes, modify_index, .. }) => {
                            Node { meta, attributes, modify_index, ..stub }
                        }
                        None => stub,
                    }
                }
            });
        }
        Ok(nodes)
    }

    /// Whether any node takes tasks.
    pub(crate) async fn has_ready_node(&self) -> Result<bool, ClientError> {
        let region = self.settings.region_query();
        let (list, ..): (Vec<Node>, _, _) =
            self.table(&format!("/v1/nodes?{}", region.trim_start_matches('&')), Duration::ZERO).await?;
        Ok(list.iter().any(|node| &*node.status == "ready"))
    }
}

/// Takes note of one thing that cannot be read, unless it is the server that fails: then the whole reading does.
fn set_aside(failures: &mut Unread, what: String, error: ClientError) -> Result<(), ClientError> {
    let silences = || failures.iter().filter(|(_, error)| error.is_disconnect()).count();
    let server = matches!(error, ClientError::Connect { .. }) || error.is_throttled();
    if server || (error.is_disconnect() && silences() >= AT_ONCE) {
        return Err(error);
    }
    failures.push((what, error));
    Ok(())
}

/// The index of the table that an answer was read from (`X-Nomad-Index`).
pub(crate) fn index(answer: &Answer) -> Result<u64, ClientError> {
    let index = header(answer, "x-nomad-index").and_then(|text| text.parse().ok());
    index.ok_or_else(|| not_from_nomad(answer, "it has no X-Nomad-Index"))
}

pub(crate) fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
}

fn not_from_nomad(answer: &Answer, problem: &str) -> ClientError {
    ClientError::NotJson { path: answer.path.to_string(), problem: problem.to_owned() }
}
