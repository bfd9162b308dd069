//! Counting what passed, and saying what happens.

use std::fmt;
use std::time::Instant;

/// How many checks ended how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Held.
    pub passed: u64,
    /// Did not.
    pub failed: u64,
    /// Were not made.
    pub skipped: u64,
    /// What failed, in a word each.
    pub names: Vec<String>,
}

// === impl Report ===

impl Report {
    /// Whether nothing failed.
    pub fn is_fine(&self) -> bool {
        self.failed == 0
    }

    /// Counts one check.
    pub fn check(&mut self, name: &str, holds: bool) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.names.push(name.to_owned());
        }
    }

    /// Counts another report's checks.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.names.extend(other.names);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Says that something begins; what it returns says how long it took.
pub fn begin(what: &str) -> impl FnOnce() + use<> {
    println!("==> {what}");
    let (what, start) = (what.to_owned(), Instant::now());
    move || println!("    {what}: {:.1} s", start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_names_skipped_checks_only_when_there_are_some() {
        let mut report = Report::default();
        report.check("fmt", true);
        report.check("clippy", false);
        assert_eq!(report.to_string(), "1 passed, 1 failed");
        assert!(!report.is_fine());
        report.add(Report { passed: 2, skipped: 1, ..Report::default() });
        assert_eq!(report.to_string(), "3 passed, 1 failed, 1 skipped");
    }
}
