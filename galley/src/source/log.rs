//! Saying problems in the log without flooding it: whoever may write a text may write it a thousand times a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::diagnostic::{Diagnostic, Severity};

/// How many problems a window has.
const MOST: usize = 20;
const WINDOW: Duration = Duration::from_secs(60);

/// Logs some problems of one source: at most twenty a minute, and how many others there were. The first of every file comes
/// before the second of any.
#[derive(Debug, Default)]
pub struct LogWindow {
    began: Option<Instant>,
    said: usize,
    /// Not logged, and not yet counted in the log.
    silent: usize,
    /// Whether it was said in this window that it is full.
    full: bool,
}

impl LogWindow {
    /// Nothing has been logged yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Logs these as far as there is room.
    pub fn log(&mut self, problems: &[Diagnostic]) {
        let (chosen, silent) = self.choose(problems, Instant::now());
        for problem in chosen {
            let text = problem.render(false);
            match problem.severity {
                Severity::Error => tracing::error!("{text}"),
                Severity::Warning => tracing::warn!("{text}"),
                Severity::Info => tracing::info!("{text}"),
            }
        }
        if silent > 0 {
            tracing::warn!("{silent} more problems were not logged: {MOST} a minute are");
        }
    }

    /// Those that are to be logged, and how many are said not to be.
    fn choose<'p>(&mut self, problems: &'p [Diagnostic], now: Instant) -> (Vec<&'p Diagnostic>, usize) {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            (self.began, self.said, self.full) = (Some(now), 0, false);
        }
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut ranked: Vec<(usize, &Diagnostic)> = problems
            .iter()
            .map(|problem| {
                let count = counts.entry(&problem.source.file).or_default();
                *count += 1;
                (*count, problem)
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        let room = MOST.saturating_sub(self.said);
        self.silent += ranked.len().saturating_sub(room);
        ranked.truncate(room);
        self.said += ranked.len();
        if problems.is_empty() || (ranked.is_empty() && self.full) {
            return (Vec::new(), 0);
        }
        self.full |= self.silent > 0 && self.said >= MOST;
        (ranked.into_iter().map(|(_, problem)| problem).collect(), std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::diagnostic::Code;

    fn problems(file: &str, count: usize) -> Vec<Diagnostic> {
        let problem = |n| Diagnostic::of_file(Severity::Error, Code::Syntax, &file.into(), format!("{file}{n}"));
        (0..count).map(problem).collect()
    }

    /// What is logged, as texts, and how many are said not to be.
    fn choose(window: &mut LogWindow, problems: &[Diagnostic], now: Instant) -> (Vec<String>, usize) {
        let (chosen, silent) = window.choose(problems, now);
        (chosen.into_iter().map(|problem| problem.message.clone()).collect(), silent)
    }

    #[test]
    fn a_flood_is_cut_counted_and_over_with_its_minute() {
        let (mut window, now) = (LogWindow::new(), Instant::now());
        let (chosen, silent) = choose(&mut window, &problems("a", 1000), now);
        assert_eq!((chosen.len(), silent), (MOST, 1000 - MOST));
        for _ in 0..50 {
            assert_eq!(choose(&mut window, &problems("a", 2), now), (vec![], 0));
        }
        assert_eq!(choose(&mut window, &[], now + WINDOW), (vec![], 0));
        assert_eq!(choose(&mut window, &problems("b", 1), now + WINDOW), (vec!["b0".into()], 100));
        assert_eq!(choose(&mut window, &problems("b", 1), now + WINDOW), (vec!["b0".into()], 0));
    }

    #[test]
    fn a_window_that_is_just_full_says_once_that_there_are_more() {
        let (mut window, now) = (LogWindow::new(), Instant::now());
        assert_eq!(choose(&mut window, &problems("a", MOST), now).1, 0);
        assert_eq!(choose(&mut window, &problems("a", 3), now), (vec![], 3));
        assert_eq!(choose(&mut window, &problems("a", 3), now), (vec![], 0));
    }

    #[test]
    fn a_file_with_many_problems_does_not_hide_the_others() {
        let all: Vec<Diagnostic> = [problems("a", 100), problems("b", 2), problems("c", 1)].concat();
        let (chosen, silent) = choose(&mut LogWindow::new(), &all, Instant::now());
        assert_eq!((&chosen[..6], silent), (&["a0", "b0", "c0", "a1", "b1", "a2"].map(String::from)[..], 83));
    }
}
