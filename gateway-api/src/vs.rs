//! The resources that come out: their names and places, and the VirtualServices in the making.
//!
//! Routes of many objects meet in one VirtualService per listener and host, or per Service in the mesh: the Gateway API orders matches
//! across routes, and Istio orders them within a VirtualService only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use xebec_galley::resource::{OWN_NAMESPACE, PROXIES};
use xebec_galley::spec::{DestinationRule, Gateway, HttpRoute, TcpRoute, TlsRoute, VirtualService};
use xebec_galley::validate::is_dns_name;
use xebec_galley::{Config, Kind, Meta, Resource, ResourceKey, SourceRef};

use crate::model::Identity;
use crate::object::ObjectKey;
use crate::rule::Rank;

/// The gateway that stands for all sidecars.
pub const MESH: &str = "mesh";

/// Where a VirtualService is, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub name: String,
    /// The name of Istio's Gateway in the same namespace, or `mesh`.
    pub gateway: String,
    pub host: String,
    /// Whether other namespaces see it.
    pub exported: bool,
}

/// Where routes come from: their object, and its place among all by age.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub id: &'a Identity,
    pub order: usize,
}

/// One match's routes, and where they stand.
#[derive(Debug)]
struct Entry {
    rank: Rank,
    /// Route by age, rule, match.
    order: (usize, usize, usize),
    routes: Vec<HttpRoute>,
}

#[derive(Debug)]
struct Draft {
    place: Place,
    id: Identity,
    http: Vec<Entry>,
    tls: Vec<TlsRoute>,
    tcp: Vec<TcpRoute>,
}

/// All VirtualServices in the making.
#[derive(Debug, Default)]
pub struct Pool {
    drafts: BTreeMap<(String, String), Draft>,
}

// === impl Pool ===

impl Pool {
    fn draft(&mut self, place: Place, from: Origin<'_>) -> &mut Draft {
        // Routes come in order of age, so the first is the oldest.
        self.drafts.entry((place.namespace.clone(), place.name.clone())).or_insert_with(|| Draft {
            place,
            id: from.id.clone(),
            http: Vec::new(),
            tls: Vec::new(),
            tcp: Vec::new(),
        })
    }

    /// Adds the routes of one match.
    pub fn http(&mut self, place: Place, from: Origin<'_>, rule: usize, on: usize, rank: Rank, routes: Vec<HttpRoute>) {
        self.draft(place, from).http.push(Entry { rank, order: (from.order, rule, on), routes });
    }

    /// Adds a route by server name.
    pub fn tls(&mut self, place: Place, from: Origin<'_>, route: TlsRoute) {
        self.draft(place, from).tls.push(route);
    }

    /// Adds a route of connections.
    pub fn tcp(&mut self, place: Place, from: Origin<'_>, route: TcpRoute) {
        self.draft(place, from).tcp.push(route);
    }

    /// Whether there is anything for this place.
    pub fn has(&self, place: &Place) -> bool {
        self.drafts.contains_key(&(place.namespace.clone(), place.name.clone()))
    }

    /// The VirtualServices, by namespace and name.
    pub fn finish(self) -> impl Iterator<Item = Config> {
        // Sidecars take the oldest VirtualService of a host that they see; what a namespace says for its own clients counts more.
        let exported: BTreeMap<String, u64> = self
            .drafts
            .values()
            .filter(|draft| draft.place.gateway == MESH && draft.place.exported)
            .map(|draft| (draft.place.host.clone(), draft.id.created))
            .collect();
        self.drafts.into_values().map(move |mut draft| {
            if draft.place.gateway == MESH
                && !draft.place.exported
                && let Some(created) = exported.get(&draft.place.host)
            {
                draft.id.created = draft.id.created.min(created.saturating_sub(1));
            }
            draft.finish()
        })
    }
}

// === impl Draft ===

impl Draft {
    fn finish(mut self) -> Config {
        self.http.sort_by(|a, b| a.rank.cmp(&b.rank).then(a.order.cmp(&b.order)));
        let Place { namespace, name, gateway, host, exported } = self.place;
        let spec = VirtualService {
            hosts: vec![host],
            gateways: vec![if gateway == MESH { gateway } else { format!("{namespace}/{gateway}") }],
            http: self.http.into_iter().flat_map(|entry| entry.routes).collect(),
            tls: self.tls,
            tcp: self.tcp,
            export_to: vec![if exported { "*" } else { "." }.to_owned()],
        };
        let meta = meta(Kind::VirtualService, &namespace, &name, &self.id);
        Config::VirtualService(Arc::new(Resource { meta, spec }))
    }
}

/// A name for a generated resource, from the names that make it what it is, joined by dots, as DNS wants it.
///
/// Only the last part may have dots without making two things look the same; otherwise, and where DNS does not take the name, a
/// number that is computed from the parts makes it unique.
pub fn resource_name(parts: &[&str], marked: bool, suffix: &str) -> String {
    let mut name: String = parts.join(".").replace('*', "any");
    let dotted = parts.split_last().is_some_and(|(_, first)| first.iter().any(|part| part.contains('.')));
    let starred = parts.iter().any(|part| part.starts_with("any"));
    let fits = name.len() + suffix.len() < 253
        && is_dns_name(&name)
        && !name.ends_with('.')
        && name.bytes().all(|b| !b.is_ascii_uppercase() && b != b'_');
    if marked || dotted || starred || !fits {
        // FNV-1a, 64 bits.
        let mut number = 0xcbf2_9ce4_8422_2325_u64;
        for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
            number = (number ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if !fits {
            name = parts
                .first()
                .map(|first| first.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).take(40).collect())
                .unwrap_or_default();
            if name.is_empty() {
                name.push('x');
            }
        }
        let _ = write!(name, ".{number:016x}");
    }
    name.push('.');
    name.push_str(suffix);
    name
}

/// The name of an object in diagnostics. Istio has a Gateway too, so this one's kind is qualified.
fn origin(key: &ObjectKey) -> String {
    format!("kubernetes:{}.{}/{}/{}", key.kind.as_str(), key.kind.group(), key.namespace, key.name)
}

fn meta(kind: Kind, namespace: &str, name: &str, from: &Identity) -> Meta {
    Meta {
        key: ResourceKey { kind, namespace: namespace.into(), name: name.into() },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: from.created,
        source: SourceRef { file: origin(&from.key).into(), line: 1, column: 1 },
    }
}

/// Istio's Gateway, made from an object. Proxies of other namespaces may carry its labels: they get nothing of it.
pub fn gateway_config(namespace: &str, name: &str, from: &Identity, spec: Gateway) -> Config {
    let mut meta = meta(Kind::Gateway, namespace, name, from);
    meta.annotations.insert(PROXIES.into(), OWN_NAMESPACE.into());
    Config::Gateway(Arc::new(Resource { meta, spec }))
}

/// Istio's DestinationRule, made from an object.
pub fn rule_config(namespace: &str, name: &str, from: &Identity, spec: DestinationRule) -> Config {
    Config::DestinationRule(Arc::new(Resource { meta: meta(Kind::DestinationRule, namespace, name, from), spec }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_names_and_never_meet() {
        let long = "x".repeat(250);
        let parts: [&[&str]; 9] = [
            &["a", "b.c"],
            &["a.b", "c"],
            &["a", "b", "*.c"],
            &["a", "b", "any.c"],
            &["a", ""],
            &["a", "b", "*"],
            &["a", "b", "any"],
            &[&long, "b"],
            &[&long, "c"],
        ];
        let names: std::collections::BTreeSet<String> =
            parts.iter().map(|parts| resource_name(parts, false, "xebec-autogenerated-k8s-gateway")).collect();
        assert_eq!(names.len(), parts.len());
        for name in &names {
            assert!(is_dns_name(name) && name.len() <= 253, "{name}");
        }
        assert!(names.contains("a.b.c.xebec-autogenerated-k8s-gateway"));
        assert!(names.contains("a.b.any.c.xebec-autogenerated-k8s-gateway"));
    }
}
