//! Galley's spec types, read from their source: `message!` and `choice!` are regular enough to be a description.

use std::collections::BTreeMap;
use std::path::Path;

/// A struct.
#[derive(Debug, Default, Clone)]
pub struct Message {
    pub docs: String,
    pub fields: Vec<Field>,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub struct Field {
    pub docs: String,
    /// As it is written in YAML.
    pub name: String,
    /// As it is written in Rust, without the module.
    pub of: String,
}

/// An enum of words.
#[derive(Debug, Default, Clone)]
pub struct Choice {
    pub values: Vec<String>,
}

/// Everything that the files declare.
#[derive(Debug, Default)]
pub struct Spec {
    pub messages: BTreeMap<String, Message>,
    pub choices: BTreeMap<String, Choice>,
}

enum In {
    Nothing,
    Message(String, Message),
    Choice(String, Choice),
}

const FILES: [&str; 7] = [
    "scalar.rs",
    "virtual_service.rs",
    "destination_rule.rs",
    "gateway.rs",
    "service_entry.rs",
    "workload_entry.rs",
    "sidecar.rs",
];

// === impl Spec ===

impl Spec {
    /// Reads the files in this folder.
    pub fn read(folder: &Path) -> Self {
        let mut spec = Self::default();
        for file in FILES {
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            // Tests and implementations stand below.
            spec.take(text.split("\n// === impl").next().unwrap_or_default());
        }
        spec
    }

    fn take(&mut self, text: &str) {
        let (mut docs, mut rename, mut inside) = (String::new(), None::<String>, In::Nothing);
        for line in text.lines().map(str::trim) {
            if let Some(doc) = line.strip_prefix("///") {
                docs.push_str(if docs.is_empty() { doc.trim() } else { doc });
            } else if let Some(rest) = line.strip_prefix("#[serde(") {
                let given = rest.split("rename = \"").nth(1).and_then(|rest| rest.split('"').next());
                rename = given.map(str::to_owned).or(rename);
            } else if let Some(name) = between(line, "pub struct ", " {") {
                inside = In::Message(name, Message { docs: std::mem::take(&mut docs), fields: Vec::new() });
            } else if let Some(name) = between(line, "pub enum ", " {") {
                inside = In::Choice(name, Choice::default());
                docs.clear();
            } else if line == "}" {
                match std::mem::replace(&mut inside, In::Nothing) {
                    In::Message(name, message) => drop(self.messages.insert(name, message)),
                    In::Choice(name, choice) => drop(self.choices.insert(name, choice)),
                    In::Nothing => {}
                }
            } else if let In::Message(_, message) = &mut inside
                && let Some((name, of)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": "))
            {
                let name = rename.take().unwrap_or_else(|| camel(name));
                let of = of.trim_end_matches(',').replace("super::", "");
                message.fields.push(Field { docs: std::mem::take(&mut docs), name, of });
            } else if let In::Choice(_, choice) = &mut inside
                && line.ends_with(',')
                && line.starts_with(|c: char| c.is_ascii_uppercase())
            {
                let value = rename.take().unwrap_or_else(|| screaming(line.trim_end_matches(',')));
                choice.values.push(value);
                docs.clear();
            } else if !line.starts_with("#[") {
                docs.clear();
                rename = None;
            }
        }
    }
}

fn between(line: &str, start: &str, end: &str) -> Option<String> {
    line.strip_prefix(start)?.strip_suffix(end).map(str::to_owned)
}

/// `min_ring_size` to `minRingSize`, as serde does.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.extend(part.chars().take(1).flat_map(char::to_uppercase));
        text.extend(part.chars().skip(1));
    }
    text
}

/// `LeastConn` to `LEAST_CONN`, as serde does.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}
