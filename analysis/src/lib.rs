//! Analysis: what is wrong across resources that are each valid, with Istio's codes.
//!
//! Start reading at [`analyze`], a pure function from an [`Input`] to [`Finding`]s; [`codes`] is the table of everything that it can say.
//! [`read`](mod@read) makes an input of files, [`suppress`] leaves findings out, [`rows`](mod@rows) are the machine's form.
//!
//! - ALWAYS: a finding names its resource, its place and its code, in an order that depends on the input alone.
//! - ALWAYS: an input that is not complete makes nothing a finding only because it is somewhere else.
//! - NEVER: I/O, clocks or locks below [`analyze`].

mod analyzers;
pub mod codes;
mod finding;
pub mod input;
pub mod object;
pub mod read;
pub mod rows;
pub mod suppress;
mod view;

pub use finding::{Finding, Subject};
pub use input::Input;
pub use suppress::Suppression;

/// Everything that there is to say, by place. What resources suppress by annotation is left out.
pub fn analyze(input: &Input) -> Vec<Finding> {
    let view = view::View::new(input);
    let mut report = finding::Report::new(&input.texts);
    for analyzer in analyzers::ALL {
        analyzer(&view, &mut report);
    }
    let mut findings = analyzers::schema::without_echoes(report.findings);
    suppress::by_annotation(input, &mut findings);
    findings.sort_by(|a, b| order(a).cmp(&order(b)));
    findings.dedup();
    findings
}

fn order(finding: &Finding) -> (&xebec_galley::SourceRef, &str, &Subject, &str) {
    let diagnostic = &finding.diagnostic;
    (&diagnostic.source, finding.message.code, &finding.subject, &diagnostic.message)
}
