//! Figures, as JSON for programs and as a table for people.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One line of the table: a scenario and its figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was done.
    pub scenario: String,
    /// What was measured, in the order in which it is shown.
    pub figures: Vec<Figure>,
}

/// One measured figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what: `ms`, `s`, `CPU-ms`, `KiB`, `MiB`, `1/s`, or nothing for a count.
    pub unit: String,
    /// The most (or, for rates, the least) that is promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised: Option<f64>,
}

/// All figures, by part.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The command that measured, by part.
    pub commands: BTreeMap<String, String>,
    /// How many cores the machine has.
    pub cores: usize,
    /// The rows, by part.
    pub parts: BTreeMap<String, Vec<Row>>,
}

// === impl Row ===

impl Row {
    /// A row without figures.
    pub fn new(scenario: impl Into<String>) -> Self {
        Self { scenario: scenario.into(), figures: Vec::new() }
    }

    /// Adds a figure.
    pub fn figure(mut self, name: &str, value: f64, unit: &str) -> Self {
        self.figures.push(Figure { name: name.to_owned(), value, unit: unit.to_owned(), promised: None });
        self
    }

    /// Adds a figure that is promised.
    pub fn promised(mut self, name: &str, value: f64, unit: &str, promised: f64) -> Self {
        let (name, unit) = (name.to_owned(), unit.to_owned());
        self.figures.push(Figure { name, value, unit, promised: Some(promised) });
        self
    }
}

// === impl Figure ===

impl Figure {
    fn kept(&self) -> Option<bool> {
        let rate = self.unit == "1/s" || self.unit == "times";
        self.promised.map(|limit| if rate { self.value >= limit } else { self.value <= limit })
    }
}

// === impl Report ===

impl Report {
    /// Reads an earlier report, or begins one.
    pub fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is not a report", path.display())),
            Err(_) => Ok(Self::default()),
        }
    }

    /// Replaces the figures of one part.
    pub fn replace(&mut self, part: &str, rows: Vec<Row>) {
        // Paths of this machine do not belong into a report.
        let short = |text: String| text.rsplit('/').next().unwrap_or_default().to_owned();
        let command = std::env::args().map(short).collect::<Vec<_>>().join(" ");
        self.commands.insert(part.to_owned(), command);
        self.cores = fs::read_to_string("/proc/cpuinfo").map_or(0, |text| text.matches("processor\t").count());
        self.parts.insert(part.to_owned(), rows);
    }

    /// Writes the report.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prints the report as Markdown.
    pub fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for (part, rows) in &self.parts {
            let command = self.commands.get(part).map_or("", String::as_str);
            writeln!(out, "\n### {part}\n\n`{command}` on {} cores\n", self.cores)?;
            writeln!(out, "| scenario | figure | measured | promised |\n|---|---|---|---|")?;
            for row in rows {
                for (index, figure) in row.figures.iter().enumerate() {
                    let scenario = if index == 0 { row.scenario.as_str() } else { "" };
                    let promised = match (figure.promised, figure.kept()) {
                        (Some(limit), Some(true)) => format!("{} kept", number(limit)),
                        (Some(limit), _) => format!("{} **missed**", number(limit)),
                        (None, _) => String::new(),
                    };
                    let (name, value, unit) = (&figure.name, number(figure.value), &figure.unit);
                    writeln!(out, "| {scenario} | {name} | {value} {unit} | {promised} |")?;
                }
            }
        }
        Ok(())
    }
}

/// Three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The value below which `share` of the sorted values are.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(0.0)
}

/// The middle of the values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 0.5)
}
