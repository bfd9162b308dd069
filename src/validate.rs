//! `xebec validate`: checks documents offline.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use xebec_galley::check::{Input, check};
use xebec_galley::diagnostic::{Diagnostic, Severity};
use xebec_pilot::model::RegistryId;

use crate::cli::{ValidateArgs, ValidateFormat};
use crate::exit::Failure;
use crate::output;

/// Checks what the arguments name, or standard input without any.
pub(crate) fn run(args: ValidateArgs) -> Result<(), Failure> {
    let mut inputs = Vec::new();
    for path in args.filename.iter().chain(&args.paths) {
        inputs.push(input(path)?);
    }
    if inputs.is_empty() {
        return Err(
            Failure::usage("there is nothing to validate").help("name files or directories, or - for standard input")
        );
    }
    let report = check(&inputs);
    let mut findings: Vec<Diagnostic> = report.diagnostics().cloned().collect();
    // What is wrong with a file as a whole, both readers say.
    for finding in services(&inputs) {
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    let counts = report.counts();
    let errors = findings.iter().filter(|d| d.is_error()).count();
    let warnings = findings.iter().filter(|d| d.severity == Severity::Warning).count();
    let summary = format!(
        "{}, {} of configuration valid, {} invalid, {} of kinds that are not read; {}, {}",
        plural(counts.files, "file"),
        plural(counts.valid, "document"),
        counts.invalid,
        counts.ignored,
        plural(errors, "error"),
        plural(warnings, "warning")
    );
    match args.output {
        ValidateFormat::Text => {
            for finding in &findings {
                output::line(&finding.render(output::colour_stdout()))?;
            }
            output::line(&summary)?;
        }
        ValidateFormat::Json => output::json(&json!({
            "version": 1,
            "files": counts.files,
            "valid": counts.valid,
            "invalid": counts.invalid,
            "ignored": counts.ignored,
            "findings": findings.iter().map(finding_json).collect::<Vec<_>>(),
        }))?,
        ValidateFormat::Github => {
            for finding in &findings {
                output::line(&github(finding))?;
            }
        }
        ValidateFormat::Sarif => output::json(&sarif(&findings.iter().collect::<Vec<_>>()))?,
    }
    if errors == 0 {
        Ok(())
    } else {
        Err(Failure::finding(plural(errors, "error")).help("correct what is marked above"))
    }
}

/// A number with its noun.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A path, a pattern, or `-` for standard input, that is there.
pub(crate) fn input(path: &Path) -> Result<Input, Failure> {
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::not_found(format!("cannot read standard input: {error}")))?;
        return Ok(Input::Bytes { name: "<stdin>".into(), bytes });
    }
    let is_pattern = path.to_string_lossy().contains(['*', '?']);
    if !is_pattern && !path.exists() {
        return Err(Failure::not_found(format!("{}: no such file or directory", path.display()))
            .help("name a file, a directory, a pattern, or - for standard input"));
    }
    Ok(Input::Path(PathBuf::from(path)))
}

/// What is wrong with `services:` documents, which the file registry reads.
fn services(inputs: &[Input]) -> Vec<Diagnostic> {
    let id = RegistryId("validate".into());
    let of = |input: &Input| match input {
        Input::Path(path) if path.exists() => xebec_adapter_file::FileRegistry::load(path).diagnostics,
        // A pattern: what it means is known to the other reader only.
        Input::Path(_) => Vec::new(),
        Input::Bytes { name, bytes } => xebec_adapter_file::check(name, bytes, &id).diagnostics,
    };
    inputs.iter().flat_map(of).collect()
}

fn finding_json(finding: &Diagnostic) -> Value {
    json!({
        "severity": finding.severity.to_string(),
        "code": finding.code.as_str(),
        "message": finding.message,
        "file": &*finding.source.file,
        "line": finding.source.line,
        "column": finding.source.column,
        "path": finding.path,
        "resource": finding.resource,
        "help": finding.help,
    })
}

/// A workflow command: properties and data are escaped as GitHub's runner unescapes them.
pub(crate) fn github(finding: &Diagnostic) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "notice",
    };
    let help = finding.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!(
        "::{level} file={},line={},col={},title={}::{}",
        property(&finding.source.file),
        finding.source.line,
        finding.source.column,
        property(finding.code.as_str()),
        data(&format!("{}{help}", finding.message)),
    )
}

/// SARIF 2.1.0 (OASIS): one run, one result per finding.
pub(crate) fn sarif(findings: &[&Diagnostic]) -> Value {
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let level = match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Info => "note",
            };
            json!({
                "ruleId": finding.code.as_str(),
                "level": level,
                "message": {"text": finding.message},
                "locations": [{"physicalLocation": {
                    "artifactLocation": {"uri": &*finding.source.file},
                    "region": {"startLine": finding.source.line.max(1), "startColumn": finding.source.column.max(1)},
                }}],
            })
        })
        .collect();
    let mut rules: Vec<&str> = findings.iter().map(|f| f.code.as_str()).collect();
    rules.sort_unstable();
    rules.dedup();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "xebec",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(|id| json!({"id": id})).collect::<Vec<_>>(),
            }},
            "results": results,
        }],
    })
}
