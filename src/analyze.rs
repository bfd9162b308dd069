//! `xebec analyze`: what is wrong across resources.

use std::path::PathBuf;

use serde_json::json;
use xebec_analysis::read::{Options, Place, read};
use xebec_analysis::rows::{level, rows};
use xebec_analysis::{Finding, Input, Suppression, analyze, codes};
use xebec_galley::diagnostic::{Diagnostic, Severity};

use crate::cli::{AnalyzeArgs, ValidateFormat};
use crate::control_plane::mesh_config;
use crate::exit::Failure;
use crate::output;
use crate::validate::{github, input, plural, sarif};

/// Analyses what the arguments name, all of it together.
pub(crate) fn run(args: AnalyzeArgs) -> Result<(), Failure> {
    if args.list {
        return list();
    }
    let places = places(args.filename.iter().chain(&args.paths))?;
    let options = Options {
        settings: mesh_config(args.mesh_config.as_deref())?,
        recursive: args.recursive,
        complete: args.complete,
    };
    let input = read(&places, &options);
    let mut findings = analyze(&input);
    findings.retain(|finding| is_wanted(finding, &args.suppress, args.namespace.as_deref()));
    let failing = findings.iter().filter(|f| f.level() >= args.failure_threshold.severity()).count();
    let shown: Vec<Finding> = findings.into_iter().filter(|f| f.level() >= args.output_threshold.severity()).collect();
    write(args.output, &input, &shown)?;
    if failing == 0 {
        return Ok(());
    }
    let threshold = level(args.failure_threshold.severity());
    Err(Failure::finding(format!("{} at or above {threshold}", plural(failing, "finding")))
        .help("correct what is said above, or leave out what is meant so with --suppress or the annotation galley.istio.io/analyze-suppress"))
}

fn places<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<Place>, Failure> {
    use xebec_galley::check::Input as Checked;
    let places: Result<Vec<Place>, Failure> = paths
        .map(|path| {
            Ok(match input(path)? {
                Checked::Path(path) => Place::Path(path),
                Checked::Bytes { name, bytes } => Place::Bytes { name, bytes },
            })
        })
        .collect();
    let places = places?;
    if places.is_empty() {
        return Err(
            Failure::usage("there is nothing to analyse").help("name files or directories, or - for standard input")
        );
    }
    Ok(places)
}

fn is_wanted(finding: &Finding, suppressions: &[Suppression], namespace: Option<&str>) -> bool {
    let subject = &finding.subject;
    // What has no namespace concerns everybody, except a namespace itself.
    let own = if subject.kind == "Namespace" { &subject.name } else { &subject.namespace };
    namespace.is_none_or(|wanted| own.is_empty() || own == wanted)
        && !suppressions.iter().any(|suppression| suppression.covers(finding))
}

fn write(format: ValidateFormat, input: &Input, findings: &[Finding]) -> Result<(), Failure> {
    let count = |severity| findings.iter().filter(|f| f.level() == severity).count();
    let diagnostics: Vec<&Diagnostic> = findings.iter().map(|finding| &finding.diagnostic).collect();
    match format {
        ValidateFormat::Text => {
            for finding in findings {
                output::line(finding.diagnostic.render(output::colour_stdout()).trim_end())?;
            }
            output::line(&format!(
                "{}, {}: {}, {}, {}",
                plural(input.files, "file"),
                plural(input.resources(), "resource"),
                plural(count(Severity::Error), "error"),
                plural(count(Severity::Warning), "warning"),
                plural(count(Severity::Info), "hint"),
            ))
        }
        ValidateFormat::Json => output::json(&json!({
            "version": 1,
            "files": input.files,
            "resources": input.resources(),
            "findings": rows(findings),
        })),
        ValidateFormat::Github => diagnostics.iter().try_for_each(|diagnostic| output::line(&github(diagnostic))),
        ValidateFormat::Sarif => output::json(&sarif(&diagnostics)),
    }
}

fn list() -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = codes::ALL
        .iter()
        .map(|message| vec![message.code.to_owned(), level(message.level).to_owned(), message.name.to_owned()])
        .collect();
    output::table(&["CODE", "LEVEL", "NAME"], &rows)
}
