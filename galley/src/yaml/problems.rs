//! The problems of one text, as far as anybody reads them.

use crate::diagnostic::Diagnostic;

/// Problems of one text that are kept. A text of some megabytes can have a million.
const MOST: usize = 200;
/// Characters of a name or a text that are repeated.
const QUOTE: usize = 60;

/// Keeps the first problems of a text, and counts the others.
#[derive(Debug, Default)]
pub struct Problems {
    kept: Vec<Diagnostic>,
    /// The first that was not kept, as severe as the most severe of those, and how many they are.
    rest: Option<(Diagnostic, u64)>,
}

impl Problems {
    /// Nothing is wrong so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more.
    pub fn push(&mut self, problem: Diagnostic) {
        match &mut self.rest {
            Some((first, count)) => {
                first.severity = first.severity.max(problem.severity);
                *count += 1;
            }
            None if self.kept.len() < MOST => self.kept.push(problem),
            None => self.rest = Some((problem, 1)),
        }
    }

    /// One more, which is not made where it would not be kept. It is no more severe than the others.
    pub(crate) fn push_with(&mut self, make: impl FnOnce() -> Diagnostic) {
        match &mut self.rest {
            Some((_, count)) => *count += 1,
            None => self.push(make()),
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Those that were kept; one more at the place of the next, where there are others, says how many.
    pub fn into_vec(self) -> Vec<Diagnostic> {
        let mut all = self.kept;
        if let Some((mut first, count)) = self.rest {
            first.message =
                format!("and {count} more {} from here on", if count == 1 { "problem" } else { "problems" });
            first.help = Some("correct those above first".to_owned());
            (first.path, first.resource) = (String::new(), None);
            all.push(first);
        }
        all
    }
}

impl Extend<Diagnostic> for Problems {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, problems: I) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }
}

/// The beginning of what somebody wrote, which may be megabytes.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}
