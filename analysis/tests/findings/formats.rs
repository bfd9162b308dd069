//! What is written: promises to scripts.

use crate::files::{Files, files};

fn shop() -> Files {
    files()
        .service("reviews", &["http:9080", "web:9081"])
        .istio("VirtualService", "reviews", "\n  hosts: [reviews]\n  http:\n  - route:\n    - destination:\n        host: reviewz\n  - route:\n    - destination:\n        host: reviews\n        port: {number: 9080}")
}

#[test]
fn a_row_has_the_names_of_istios_analysis() {
    insta::assert_json_snapshot!(xebec_analysis::rows::rows(&shop().findings()));
}

#[test]
fn a_finding_is_shown_with_its_line_and_what_to_do() {
    let text: String = shop().findings().iter().map(|finding| finding.diagnostic.render(false)).collect();
    insta::assert_snapshot!(text);
}

#[test]
fn findings_come_in_the_order_of_files_and_lines() {
    let findings = shop().findings();
    let lines: Vec<u32> = findings.iter().map(|finding| finding.diagnostic.source.line).collect();
    assert!(lines.is_sorted(), "{lines:?}");
    assert_eq!(findings, shop().findings());
}
