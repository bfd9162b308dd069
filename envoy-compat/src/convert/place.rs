//! Where in a resource something is, and what was decided about it.
//!
//! Every conversion takes a [`Place`], so that a refusal or a note names the exact field (`filter_chains[0].filters[1].…`)
//! without any cost while nothing is to be said.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::BuildHasher;

/// A resource, or a part of one, that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Refusal {
    /// The field, from the resource's root; `resource` for the whole of it.
    pub path: String,
    /// Why, and what would be accepted.
    pub reason: String,
}

/// A field that is set and has no effect here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Ignored {
    /// The field, from the resource's root.
    pub path: String,
    /// What that means for traffic; empty when the field's name says it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub note: &'static str,
}

/// A resource in our own form, with what was left out of it.
#[derive(Debug, Clone)]
pub struct Converted<T> {
    /// The value.
    pub value: T,
    /// Fields that are set and have no effect.
    pub ignored: Vec<Ignored>,
}

/// Collects notes while one resource is converted.
#[derive(Debug, Default)]
pub(crate) struct Notes(RefCell<Vec<Ignored>>);

/// A position within a resource.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
    notes: &'a Notes,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

/// What every conversion returns.
pub(crate) type Outcome<T> = Result<T, Refusal>;

/// Runs one conversion from the root of a resource.
pub(crate) fn convert<T>(with: impl FnOnce(Place<'_>) -> Outcome<T>) -> Outcome<Converted<T>> {
    let notes = Notes::default();
    let value = with(Place { parent: None, step: Step::Root, notes: &notes })?;
    let mut ignored = notes.0.into_inner();
    ignored.sort_unstable();
    ignored.dedup();
    Ok(Converted { value, ignored })
}

// === impl Place ===

impl<'a> Place<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(name), notes: self.notes }
    }

    pub(crate) fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index), notes: self.notes }
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key), notes: self.notes }
    }

    /// This place is not accepted.
    pub(crate) fn refuse(&self, reason: impl fmt::Display) -> Refusal {
        Refusal { path: self.to_string(), reason: reason.to_string() }
    }

    /// This place has no effect.
    pub(crate) fn ignored(&self, note: &'static str) {
        self.notes.0.borrow_mut().push(Ignored { path: self.to_string(), note });
    }

    /// Converts each item of a list, at its own index.
    pub(crate) fn each<I, T>(
        &self,
        items: impl IntoIterator<Item = I>,
        mut with: impl FnMut(Place<'_>, I) -> Outcome<T>,
    ) -> Outcome<Vec<T>> {
        items.into_iter().enumerate().map(|(index, item)| with(self.index(index), item)).collect()
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut at = Some(self);
        while let Some(place) = at {
            steps.push(place.step);
            at = place.parent;
        }
        let mut text = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => write!(text, ".{name}")?,
                Step::Index(index) => write!(text, "[{index}]")?,
                Step::Key(key) => write!(text, "[{key:?}]")?,
            }
        }
        f.write_str(if text.is_empty() { "resource" } else { &text })
    }
}

/// Whether a protobuf field says anything.
pub(crate) trait Said {
    fn is_said(&self) -> bool;
}

impl<T> Said for Option<T> {
    fn is_said(&self) -> bool {
        self.is_some()
    }
}

impl<T> Said for Vec<T> {
    fn is_said(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V, S: BuildHasher> Said for HashMap<K, V, S> {
    fn is_said(&self) -> bool {
        !self.is_empty()
    }
}

impl Said for String {
    fn is_said(&self) -> bool {
        !self.is_empty()
    }
}

impl Said for bool {
    fn is_said(&self) -> bool {
        *self
    }
}

impl Said for i32 {
    fn is_said(&self) -> bool {
        *self != 0
    }
}

impl Said for u32 {
    fn is_said(&self) -> bool {
        *self != 0
    }
}

impl Said for i64 {
    fn is_said(&self) -> bool {
        *self != 0
    }
}

/// Reports each of these fields of a destructured message, if it is set, as having no effect.
macro_rules! ignored {
    ($at:expr; $($field:ident),* $(,)?) => {
        $( if $crate::convert::place::Said::is_said($field) { $at.field(stringify!($field)).ignored(""); } )*
    };
}

/// Refuses the message if one of these fields is set.
macro_rules! refused {
    ($at:expr, $reason:expr; $($field:ident),* $(,)?) => {
        $( if $crate::convert::place::Said::is_said($field) {
            return Err($at.field(stringify!($field)).refuse($reason));
        } )*
    };
}

/// These fields describe something, and have no effect on traffic in any proxy of this kind.
macro_rules! inert {
    ($($field:ident),* $(,)?) => { $( let _ = $field; )* };
}

pub(crate) use {ignored, inert, refused};
