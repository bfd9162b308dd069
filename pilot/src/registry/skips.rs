//! What an adapter does not take, and saying so without flooding the log: tenants write it, and they may write it a thousand
//! times a second.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tracing::warn;

use super::Meters;

/// How many lines a window has.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// How much of what a tenant wrote is repeated.
const QUOTE: usize = 80;

/// One thing that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Skip {
    /// One of a few fixed words, for the metric.
    pub reason: &'static str,
    /// Which instance, and what it says. What a tenant wrote is in it as [`quote`] has it.
    pub detail: String,
}

/// Counts skips (`xebec_registry_skipped_total`) and logs some of them: at most twenty lines a minute.
#[derive(Debug)]
pub struct Skips {
    meters: Meters,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    silent: u64,
}

/// The beginning of a text, in quotation marks and without anything that a terminal would act on.
pub fn quote(text: &str) -> String {
    let short: String = text.chars().take(QUOTE).collect();
    if short.len() < text.len() { format!("{short:?}...") } else { format!("{short:?}") }
}

// === impl Skips ===

impl Skips {
    /// Counts under the name of these meters.
    pub fn new(meters: Meters) -> Self {
        Self { meters, window: Mutex::new(Window { began: Instant::now(), lines: 0, silent: 0 }) }
    }

    /// Tells about what is skipped of one service, or of another thing by its name. `before` is what was skipped of it last time:
    /// that is not said again.
    pub fn tell(&self, service: &str, now: &[Skip], before: &[Skip]) {
        let mut fresh: BTreeMap<&'static str, (&Skip, usize)> = BTreeMap::new();
        // Both can be as long as what a tenant may write.
        let before: HashSet<&Skip> = before.iter().collect();
        for skip in now.iter().filter(|skip| !before.contains(skip)) {
            self.meters.skipped(skip.reason);
            fresh.entry(skip.reason).or_insert((skip, 0)).1 += 1;
        }
        for (reason, (first, count)) in fresh {
            if let Some(silent) = self.window.lock().unwrap_or_else(PoisonError::into_inner).line() {
                if silent > 0 {
                    warn!(registry = &*self.meters.registry, "{silent} more skipped things were not logged");
                }
                warn!(registry = &*self.meters.registry, service, reason, count, "skipped: {}", first.detail);
            }
        }
    }
}

// === impl Window ===

impl Window {
    /// Whether a line may be written, and how many were not since the last one.
    fn line(&mut self) -> Option<u64> {
        if self.began.elapsed() >= WINDOW {
            *self = Self { began: Instant::now(), lines: 0, silent: self.silent };
        }
        if self.lines >= LINES {
            self.silent += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_window_has_its_lines_and_counts_the_rest() {
        let mut window = Window { began: Instant::now(), lines: 0, silent: 0 };
        assert!((0..LINES).all(|_| window.line() == Some(0)));
        assert_eq!((window.line(), window.line()), (None, None));
        window.began = window.began.checked_sub(WINDOW).unwrap();
        assert_eq!(window.line(), Some(2));
        assert_eq!(window.line(), Some(0));
    }

    #[test]
    fn what_a_tenant_wrote_is_cut_and_cannot_act_on_a_terminal() {
        assert_eq!(quote("a\u{1b}[2J"), r#""a\u{1b}[2J""#);
        let long = quote(&"x".repeat(1_000_000));
        assert!(long.len() < 100 && long.ends_with("..."), "{long}");
    }
}
