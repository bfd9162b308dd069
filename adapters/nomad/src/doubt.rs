//! Which list of services can be believed. No I/O, no clocks.
//!
//! A server that has just started says, with all signs of success, what it has read of its log so far; one that lost its data says that
//! there is nothing.
//!
//! - ALWAYS: a list with an older index than the last one, and after an interruption one that lacks most of what was there, is looked at
//!   again, until two in a row agree.
//! - NEVER: a list that lacks little is held back; that services go is everyday life.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::listing::Names;
use crate::mirror::Name;

/// What lists are compared with.
#[derive(Debug)]
pub(crate) struct Doubt {
    /// The services that had instances.
    populated: BTreeSet<Name>,
    /// The index of the last list that was believed.
    index: u64,
    /// Whether something may have been missed since.
    interrupted: bool,
    /// What the last doubtful list lacked, and its index.
    last: Option<(BTreeSet<Name>, u64)>,
}

/// What to think of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing speaks against it.
    Plausible,
    /// It lacks exactly what the one before it lacked. It is true if the platform is alive otherwise.
    Repeated,
    /// Another look is needed.
    Doubtful,
}

/// What is strange about a list.
#[derive(Debug)]
pub(crate) struct Lack {
    missing: usize,
    populated: usize,
    index: u64,
    before: u64,
}

// === impl Doubt ===

impl Doubt {
    pub(crate) fn new(populated: BTreeSet<Name>, index: u64, interrupted: bool) -> Self {
        Self { populated, index, interrupted, last: None }
    }

    /// Takes a list, and says what to think of it after those before.
    pub(crate) fn look(&mut self, names: &Names) -> Verdict {
        let missing = self.missing(names);
        let most = missing.len() * 2 > self.populated.len();
        if names.index >= self.index && !(self.interrupted && most) {
            return Verdict::Plausible;
        }
        let repeated = self.last.as_ref().is_some_and(|(lacked, index)| names.index >= *index && missing == *lacked);
        self.last = Some((missing, names.index));
        if repeated { Verdict::Repeated } else { Verdict::Doubtful }
    }

    /// The namespaces of which nothing is left in a list.
    pub(crate) fn vanished_namespaces(&self, names: &Names) -> BTreeSet<Arc<str>> {
        let left: BTreeSet<&Arc<str>> = names.names.iter().map(|(space, _)| space).collect();
        self.populated.iter().map(|(space, _)| space).filter(|space| !left.contains(space)).cloned().collect()
    }

    /// What is strange about a list, for an operator.
    pub(crate) fn lack(&self, names: &Names) -> Lack {
        let (missing, populated) = (self.missing(names).len(), self.populated.len());
        Lack { missing, populated, index: names.index, before: self.index }
    }

    fn missing(&self, names: &Names) -> BTreeSet<Name> {
        self.populated.difference(&names.names).cloned().collect()
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing, populated, index, before } = self;
        write!(f, "lists {missing} of {populated} services no longer")?;
        if index < before {
            write!(f, ", with the older index {index} after {before}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[(&str, &str)], index: u64) -> Names {
        Names { names: list.iter().map(|(space, name)| ((*space).into(), (*name).into())).collect(), index }
    }

    const ALL: [(&str, &str); 4] = [("default", "a"), ("default", "b"), ("default", "c"), ("shop", "d")];

    fn doubt(interrupted: bool) -> Doubt {
        Doubt::new(names(&ALL, 0).names, 100, interrupted)
    }

    #[test]
    fn a_list_that_lacks_little_or_comes_without_an_interruption_is_plausible() {
        assert_eq!(doubt(true).look(&names(&ALL, 100)), Verdict::Plausible);
        assert_eq!(doubt(true).look(&names(&ALL[..2], 101)), Verdict::Plausible, "half of it is left");
        assert_eq!(doubt(false).look(&names(&[], 101)), Verdict::Plausible, "the stream said so all along");
        assert_eq!(Doubt::new(BTreeSet::new(), 0, true).look(&names(&[], 1)), Verdict::Plausible, "nothing to lose");
    }

    #[test]
    fn a_list_that_lacks_most_after_an_interruption_must_be_said_twice() {
        let mut doubt = doubt(true);
        assert_eq!(doubt.look(&names(&[], 101)), Verdict::Doubtful);
        assert_eq!(doubt.look(&names(&ALL[..1], 102)), Verdict::Doubtful, "the log is still being read");
        assert_eq!(doubt.look(&names(&ALL[..1], 102)), Verdict::Repeated);
        assert_eq!(doubt.look(&names(&ALL[..1], 102)), Verdict::Repeated, "and again, when no node was ready");
        assert_eq!(doubt.look(&names(&ALL, 103)), Verdict::Plausible, "all is back");
    }

    #[test]
    fn an_index_that_goes_back_is_doubted_even_when_nothing_is_missing() {
        let mut doubt = doubt(false);
        assert_eq!(doubt.look(&names(&ALL, 99)), Verdict::Doubtful);
        assert_eq!(doubt.look(&names(&ALL, 98)), Verdict::Doubtful, "further back: another state again");
        assert_eq!(doubt.look(&names(&ALL, 98)), Verdict::Repeated);
    }

    #[test]
    fn only_namespaces_without_any_service_left_are_asked_for_by_name() {
        let doubt = doubt(true);
        assert_eq!(doubt.vanished_namespaces(&names(&ALL[..1], 101)), BTreeSet::from(["shop".into()]));
        assert!(doubt.vanished_namespaces(&names(&[ALL[0], ALL[3]], 101)).is_empty());
    }

    #[test]
    fn what_is_strange_is_said_in_numbers() {
        let said = |list: &[_], index| doubt(true).lack(&names(list, index)).to_string();
        assert_eq!(said(&ALL[..1], 100), "lists 3 of 4 services no longer");
        assert_eq!(said(&ALL, 7), "lists 0 of 4 services no longer, with the older index 7 after 100");
    }
}
