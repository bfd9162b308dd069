//! ReferenceGrants: which references may leave their namespace.

use std::collections::{HashMap, HashSet};

/// A thing of a kind that refers, or is referred to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KindName {
    /// Its API group; empty is the core group.
    pub group: String,
    /// Its kind.
    pub kind: String,
}

/// One ReferenceGrant.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// Who may refer: kind and namespace.
    pub from: Vec<(KindName, String)>,
    /// To what, in the grant's own namespace: kind, and name where it is one object only.
    pub to: Vec<(KindName, Option<String>)>,
}

/// A reference that leaves its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    from: KindName,
    from_namespace: String,
    to: KindName,
    to_namespace: String,
}

/// All grants, for lookup.
#[derive(Debug, Default)]
pub struct Grants {
    any: HashSet<Way>,
    named: HashMap<Way, HashSet<String>>,
}

// === impl KindName ===

impl KindName {
    /// A kind of a group.
    pub fn new(group: &str, kind: &str) -> Self {
        Self { group: group.to_owned(), kind: kind.to_owned() }
    }
}

// === impl Grants ===

impl Grants {
    /// Collects grants with the namespaces that they are in.
    pub fn new<'a>(grants: impl Iterator<Item = (&'a str, &'a Grant)>) -> Self {
        let mut found = Self::default();
        for (namespace, grant) in grants {
            for (from, from_namespace) in &grant.from {
                for (to, name) in &grant.to {
                    let way = Way {
                        from: from.clone(),
                        from_namespace: from_namespace.clone(),
                        to: to.clone(),
                        to_namespace: namespace.to_owned(),
                    };
                    match name {
                        Some(name) => {
                            found.named.entry(way).or_default().insert(name.clone());
                        }
                        None => {
                            found.any.insert(way);
                        }
                    }
                }
            }
        }
        found
    }

    /// Whether an object of kind `from` in `from_namespace` may refer to the object `name` of kind `to` in `to_namespace`.
    pub fn allow(&self, from: &KindName, from_namespace: &str, to: &KindName, to_namespace: &str, name: &str) -> bool {
        if from_namespace == to_namespace {
            return true;
        }
        let way = Way {
            from: from.clone(),
            from_namespace: from_namespace.to_owned(),
            to: to.clone(),
            to_namespace: to_namespace.to_owned(),
        };
        self.any.contains(&way) || self.named.get(&way).is_some_and(|names| names.contains(name))
    }
}
