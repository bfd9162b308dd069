//! Findings that nobody wants to hear.

use crate::files::files;

fn service(annotation: &str) -> Vec<&'static str> {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s, annotations: {ANNOTATION}}\nspec: {ports: [{name: web, port: 80}]}";
    files().yaml(&text.replace("ANNOTATION", annotation)).codes()
}

#[test]
fn an_annotation_leaves_out_codes_of_its_resource() {
    assert_eq!(service(""), ["IST0118"]);
    assert_eq!(service("galley.istio.io/analyze-suppress: IST0118"), [] as [&str; 0]);
    assert_eq!(service("galley.istio.io/analyze-suppress: 'IST0101, IST0118'"), [] as [&str; 0]);
    assert_eq!(service("galley.istio.io/analyze-suppress: '*'"), [] as [&str; 0]);
    assert_eq!(service("galley.istio.io/analyze-suppress: IST0101"), ["IST0118"]);
}

#[test]
fn a_refused_resource_can_be_quiet_as_well() {
    let text = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, annotations: {galley.istio.io/analyze-suppress: CODE}}\nspec: {egres: []}";
    assert_eq!(files().yaml(&text.replace("CODE", "IST0106")).codes(), [] as [&str; 0]);
    assert_eq!(files().yaml(&text.replace("CODE", "IST0101")).codes(), ["IST0106"]);
}

#[test]
fn who_asks_leaves_out_codes_of_some_resources() {
    let findings = files().service("a", &["web:80"]).service("b", &["web:80"]).findings();
    let left = |text: &str| {
        let suppression: xebec_analysis::Suppression = text.parse().unwrap();
        findings.iter().filter(|finding| !suppression.covers(finding)).count()
    };
    assert_eq!(findings.len(), 2);
    assert_eq!(left("IST0118=Service a.default"), 1);
    assert_eq!(left("IST0118=Service *.default"), 0);
    assert_eq!(left("IST01*=*"), 0);
    assert_eq!(left("IST0118=Service a"), 2);
    assert_eq!(left("IST0119=*"), 2);
}
