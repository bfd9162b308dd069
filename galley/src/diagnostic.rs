//! What is wrong, where, and what to do: one shape for every problem of configuration, for terminals and for machines.
//!
//! A [`Diagnostic`] owns the few lines of source that it shows, so it can be kept and rendered long after the file has changed.
//! Colour is used only where it is asked for, and nothing is said by colour alone.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan,
    SpanContents,
};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::resource::SourceRef;
use crate::yaml::Place;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information; nothing is wrong.
    Info,
    /// The document takes effect, but not all that it says.
    Warning,
    /// The document is refused.
    Error,
}

/// What kind of problem it is. The text form is stable: scripts may match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The text is not YAML.
    Syntax,
    /// A key is written twice in one mapping.
    DuplicateKey,
    /// The file is not UTF-8.
    NotUtf8,
    /// A file, document or the expansion of its aliases is larger than is read.
    TooLarge,
    /// Values are nested deeper than is read.
    TooDeep,
    /// A file or directory cannot be read.
    Unreadable,
    /// A field that the kind does not have.
    UnknownField,
    /// A value of another type than the field's.
    WrongType,
    /// A value that is not one of those that the field can have.
    UnknownValue,
    /// A value that breaks a rule of its field.
    InvalidValue,
    /// Fields that contradict each other, or of which exactly one is needed.
    Contradiction,
    /// A field that is needed and absent.
    Missing,
    /// A document that is not a resource, or not of a known kind or version.
    UnknownKind,
    /// A document of a kind that is not read.
    IgnoredKind,
    /// The same resource is written twice.
    Conflict,
    /// A field that is accepted and has no effect yet.
    NotHonoured,
    /// A field that Istio has deprecated, or that has no effect in Istio either.
    Deprecated,
    /// A setting that works and probably does not do what was meant.
    Suspicious,
    /// A finding across resources, with its own code, such as `IST0101`.
    Analysis(&'static str),
}

/// One problem of configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of problem it is.
    pub code: Code,
    /// One sentence: what is wrong.
    pub message: String,
    /// The place of the fault itself.
    pub source: SourceRef,
    /// Its length in characters on that line; at least 1.
    pub length: u32,
    /// The field, such as `spec.http[2].route[0].weight`. Empty where the fault is not in a field.
    pub path: String,
    /// The resource, as `Kind/namespace/name`, as far as it is known.
    pub resource: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
    /// The lines around the place. `None` where there is no text to show.
    pub snippet: Option<Snippet>,
}

/// A few lines of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// Number of the first line.
    first_line: u32,
    /// The lines. Long ones are cut around the fault.
    text: String,
    /// The fault's offset in `text`, in bytes.
    offset: usize,
    /// The fault's length in `text`, in bytes.
    len: usize,
}

/// Characters of a text that are shown: names may be as long as a file.
const SHOWN: usize = 4096;

/// A text as it may be shown on one line of a terminal or a log: what would act there, or hide, is escaped, and what is too long
/// is cut. File names and keys are written by others.
pub fn visible(text: &str) -> Cow<'_, str> {
    let cut = text.char_indices().nth(SHOWN).map(|(end, _)| end);
    if cut.is_none() && !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = escape(&text[..cut.unwrap_or(text.len())], &[]);
    if cut.is_some() {
        shown.push('…');
    }
    Cow::Owned(shown)
}

/// Control characters, and those that change the order or the place of others without being seen.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn escape(text: &str, but: &[char]) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if !acts(c) || but.contains(&c) => shown.push(c),
            '\n' | '\r' | '\t' => shown.extend(c.escape_default()),
            // Writing into a text does not fail.
            c => drop(write!(shown, "{}", c.escape_unicode())),
        }
    }
    shown
}

// === impl Severity ===

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

// === impl Code ===

impl Code {
    /// The stable text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::DuplicateKey => "duplicate-key",
            Self::NotUtf8 => "not-utf8",
            Self::TooLarge => "too-large",
            Self::TooDeep => "too-deep",
            Self::Unreadable => "unreadable",
            Self::UnknownField => "unknown-field",
            Self::WrongType => "wrong-type",
            Self::UnknownValue => "unknown-value",
            Self::InvalidValue => "invalid-value",
            Self::Contradiction => "contradiction",
            Self::Missing => "missing",
            Self::UnknownKind => "unknown-kind",
            Self::IgnoredKind => "ignored-kind",
            Self::Conflict => "conflict",
            Self::NotHonoured => "not-honoured",
            Self::Deprecated => "deprecated",
            Self::Suspicious => "suspicious",
            Self::Analysis(code) => code,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

// === impl Diagnostic ===

impl Diagnostic {
    /// A problem of a whole file, without a place in it.
    pub fn of_file(severity: Severity, code: Code, file: &Arc<str>, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            source: SourceRef { file: file.clone(), line: 1, column: 1 },
            length: 1,
            path: String::new(),
            resource: None,
            help: None,
            snippet: None,
        }
    }

    /// The same, with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether the document it speaks of is refused.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The same, with all texts as they are shown.
    fn visible(&self) -> Self {
        let mut shown = self.clone();
        let texts = [Some(&mut shown.message), Some(&mut shown.path), shown.help.as_mut()];
        for text in texts.into_iter().flatten() {
            if let Cow::Owned(changed) = visible(text) {
                *text = changed;
            }
        }
        if let Cow::Owned(changed) = visible(&self.source.file) {
            shown.source.file = changed.into();
        }
        shown.snippet = self.snippet.as_ref().map(Snippet::visible);
        shown
    }

    /// The problem with its lines and a caret, several lines of text that end in a newline.
    pub fn render(&self, colour: bool) -> String {
        let mut theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        theme.characters.underline = '^';
        theme.characters.error = "error:".to_owned();
        theme.characters.warning = "warning:".to_owned();
        theme.characters.advice = "info:".to_owned();
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_context_lines(1)
            .with_links(false)
            .with_wrap_lines(false)
            .without_syntax_highlighting();
        let mut text = String::new();
        if handler.render_report(&mut text, &Report(&self.visible())).is_err() {
            // Only a snippet that does not fit its own span gets here; the sentence is what matters.
            return format!("{self}\n");
        }
        text
    }
}

/// One line: `file:line:column: severity[code]: message`, without anything that a terminal would act on.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.to_string();
        write!(f, "{}: {}[{}]: {}", visible(&source), self.severity, self.code, visible(&self.message))
    }
}

impl std::error::Error for Diagnostic {}

/// The machine's form: `{severity, code, message, file, line, column, endColumn, path, resource, help}`.
impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Diagnostic", 10)?;
        object.serialize_field("severity", &self.severity)?;
        object.serialize_field("code", &self.code)?;
        object.serialize_field("message", &self.message)?;
        object.serialize_field("file", &*self.source.file)?;
        object.serialize_field("line", &self.source.line)?;
        object.serialize_field("column", &self.source.column)?;
        object.serialize_field("endColumn", &self.source.column.saturating_add(self.length))?;
        object.serialize_field("path", &self.path)?;
        object.serialize_field("resource", &self.resource)?;
        object.serialize_field("help", &self.help)?;
        object.end()
    }
}

// === impl Snippet ===

/// Characters of one line that are shown on either side of the fault.
const AROUND: usize = 90;

impl Snippet {
    fn visible(&self) -> Self {
        let shown = |text: &str| text.split('\n').map(|line| escape(line, &['\t'])).collect::<Vec<_>>().join("\n");
        let (before, rest) = self.text.split_at_checked(self.offset).unwrap_or((&self.text, ""));
        let (fault, after) = rest.split_at_checked(self.len).unwrap_or((rest, ""));
        let (before, fault, after) = (shown(before), shown(fault), shown(after));
        Self {
            first_line: self.first_line,
            offset: before.len(),
            len: fault.len(),
            text: [before, fault, after].concat(),
        }
    }

    /// The line of `place` and its neighbours; also the fault's length in characters.
    pub(crate) fn cut(text: &str, place: Place) -> (Self, u32) {
        let offset = floor_boundary(text, place.offset as usize);
        let line_start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
        // Where only the beginning is known, the first word is pointed at.
        let word = || text[offset..line_end].find([' ', ':', '\r']).unwrap_or(line_end - offset);
        let len = if place.len == 0 { word().max(1) } else { place.len as usize };
        let fault_end = floor_boundary(text, (offset + len).min(line_end));
        let fault = text[offset..fault_end].trim_end();
        let before = line_start.checked_sub(1).map(|end| &text[text[..end].rfind('\n').map_or(0, |n| n + 1)..end]);
        let after =
            text.get(line_end + 1..).map(|rest| rest.split('\n').next().unwrap_or("")).filter(|line| !line.is_empty());

        let mut lines = String::new();
        if let Some(line) = before {
            lines.push_str(crop_end(line.trim_end_matches('\r'), 2 * AROUND));
            lines.push('\n');
        }
        let left = crop_start(&text[line_start..offset], AROUND);
        let at = lines.len() + left.len();
        lines.push_str(left);
        lines.push_str(crop_end(text[offset..line_end].trim_end_matches('\r'), AROUND));
        let room = lines.len() - at;
        if let Some(line) = after {
            lines.push('\n');
            lines.push_str(crop_end(line.trim_end_matches('\r'), 2 * AROUND));
        }
        let snippet = Self {
            first_line: place.line.saturating_sub(u32::from(before.is_some())).max(1),
            text: lines,
            offset: at,
            len: fault.len().min(room),
        };
        (snippet, u32::try_from(fault.chars().count()).unwrap_or(u32::MAX).max(1))
    }
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn crop_end(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

fn crop_start(text: &str, characters: usize) -> &str {
    text.char_indices().rev().nth(characters.saturating_sub(1)).map_or(text, |(start, _)| &text[start..])
}

// === impl Report ===

/// Shows a diagnostic to the renderer, which counts lines from 0.
#[derive(Debug)]
struct Report<'a>(&'a Diagnostic);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.path.is_empty() {
            f.write_str(&self.0.message)
        } else {
            write!(f, "{}: {}", self.0.path, self.0.message)
        }
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        if self.0.snippet.is_some() {
            return Some(Box::new(self.0.code));
        }
        Some(Box::new(format!("{} ({})", self.0.code, self.0.source.file)))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.0.severity {
            Severity::Info => miette::Severity::Advice,
            Severity::Warning => miette::Severity::Warning,
            Severity::Error => miette::Severity::Error,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.snippet.as_ref().map(|_| self as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let snippet = self.0.snippet.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, snippet.offset, snippet.len))))
    }
}

impl SourceCode for Report<'_> {
    fn read_span<'a>(
        &'a self,
        _: &SourceSpan,
        before: usize,
        _: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let snippet = self.0.snippet.as_ref().ok_or(MietteError::OutOfBounds)?;
        // Without context the renderer asks for the fault's own line and column, else for the lines to show.
        let (line, column) =
            if before == 0 { (self.0.source.line, self.0.source.column) } else { (snippet.first_line, 1) };
        let lines = snippet.text.lines().count();
        Ok(Box::new(MietteSpanContents::new_named(
            self.0.source.file.to_string(),
            snippet.text.as_bytes(),
            (0, snippet.text.len()).into(),
            line.saturating_sub(1) as usize,
            column.saturating_sub(1) as usize,
            lines,
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn names_cannot_make_lines_of_their_own_or_act_on_a_terminal() {
        let name = "a\nerror: b\u{1b}[2J\u{202e}.yaml";
        let text = format!("x: 1\n\u{9b}y\tz\u{85}: {name}\n");
        let at = Place { line: 2, column: 1, offset: 5, len: "\u{9b}y".len() as u32 };
        let (snippet, length) = Snippet::cut(&text, at);
        let mut problem = Diagnostic::of_file(Severity::Error, Code::UnknownField, &name.into(), format!("no {name}"))
            .with_help(name);
        (problem.path, problem.snippet, problem.length) = (name.to_owned(), Some(snippet), length);
        let shown = r"a\nerror: b\u{1b}[2J\u{202e}.yaml";
        assert_eq!(problem.to_string(), format!("{shown}:1:1: error[unknown-field]: no {shown}"));
        let rendered = problem.render(false);
        assert!(!rendered.chars().any(|c| c != '\n' && acts(c)), "{rendered:?}");
        assert!(!rendered.lines().any(|line| line.starts_with("error: b")), "{rendered}");
        assert!(rendered.contains(&format!("{shown}: no {shown}")) && rendered.contains("\\u{9b}y"), "{rendered}");
        // The caret stays below the fault.
        assert!(rendered.contains("^^^^^^^"), "{rendered}");
        problem.snippet = None;
        assert!(problem.render(false).contains(&format!("({shown})")));
        assert!(visible(&"x".repeat(1_000_000)).len() < 5_000);
    }
}
