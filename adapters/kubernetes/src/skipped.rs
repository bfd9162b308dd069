//! What of an object is not taken. A tenant decides how much that is, so only its beginning is kept.

use xebec_pilot::registry::Skip;

/// How many are kept one by one.
const KEPT: usize = 32;

/// What was skipped of one object, or of several: the first ones, and how many there are more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    first: Vec<Skip>,
    more: usize,
}

// === impl Skipped ===

impl Skipped {
    /// Adds one. `detail` is asked only when it is kept.
    pub fn add(&mut self, reason: &'static str, detail: impl FnOnce() -> String) {
        if self.first.len() < KEPT {
            self.first.push(Skip { reason, detail: detail() });
        } else {
            self.more += 1;
        }
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: &Self) {
        let room = (KEPT - self.first.len()).min(other.first.len());
        self.first.extend_from_slice(&other.first[..room]);
        self.more += other.first.len() - room + other.more;
    }

    /// As it is told: one of them stands for those that were not kept.
    pub fn told(&self) -> Vec<Skip> {
        let rest = Skip { reason: "too_many", detail: format!("and {} more", self.more) };
        self.first.iter().cloned().chain((self.more > 0).then_some(rest)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_kept_and_the_rest_is_counted() {
        let mut one = Skipped::default();
        (0..20).for_each(|i| one.add("invalid_port", || i.to_string()));
        assert_eq!(one.told().len(), 20);
        let mut all = one.clone();
        all.extend(&one);
        all.extend(&one);
        let told = all.told();
        assert_eq!((told.len(), &*told[31].detail, &*told[32].detail), (33, "11", "and 28 more"));
    }
}
