//! `xebec analyze` as scripts see it: exit codes, thresholds, suppression and formats.

use serde_json::Value;
use xebec_testkit::{Workdir, process};

const SHOP: &str = "apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: web, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: HOST
";

fn shop(host: &str) -> (Workdir, String) {
    let work = Workdir::new("analyze");
    let file = work.write("shop.yaml", SHOP.replace("HOST", host));
    (work, file.to_str().unwrap().to_owned())
}

async fn analyze(arguments: &[&str]) -> process::Output {
    let all: Vec<&str> = ["analyze"].iter().chain(arguments).copied().collect();
    process::run(process::xebec(&all)).await
}

#[tokio::test]
async fn a_missing_host_fails_and_says_where_and_what_was_meant() {
    let (_work, file) = shop("reviewz");
    let output = analyze(&[&file]).await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    for part in ["IST0101", "shop.yaml:14:15", "did you mean `reviews`?", "1 error, 0 warnings, 1 hint"] {
        assert!(output.stdout.contains(part), "{part} is not in\n{}", output.stdout);
    }
    assert!(output.stderr.contains("help:"), "{}", output.stderr);
}

#[tokio::test]
async fn the_thresholds_say_what_fails_and_what_is_shown() {
    let (_work, file) = shop("reviews");
    let fine = analyze(&[&file]).await;
    assert_eq!(fine.code, Some(0), "a port's name is a hint only\n{}", fine.stdout);
    assert!(fine.stdout.contains("IST0118"), "{}", fine.stdout);
    assert_eq!(analyze(&[&file, "--failure-threshold", "info"]).await.code, Some(1));
    assert_eq!(analyze(&[&file, "--failure-threshold", "warning"]).await.code, Some(0));
    let quiet = analyze(&[&file, "--output-threshold", "error", "--failure-threshold", "info"]).await;
    assert_eq!(quiet.code, Some(1), "what is not shown still counts");
    assert!(!quiet.stdout.contains("IST0118"), "{}", quiet.stdout);
}

#[tokio::test]
async fn suppressed_findings_neither_show_nor_fail() {
    let (work, file) = shop("reviewz");
    let code = async |suppression: &str| analyze(&[&file, "--suppress", suppression]).await.code;
    assert_eq!(code("IST0101=VirtualService reviews.default").await, Some(0));
    assert_eq!(code("IST0101=VirtualService *.shop").await, Some(1));
    assert_eq!(code("IST0101").await, Some(2), "a suppression without a resource is wrong usage");
    let annotated = SHOP.replace("HOST", "reviewz").replace(
        "{name: reviews}\nspec:\n",
        "{name: reviews, annotations: {galley.istio.io/analyze-suppress: IST0101}}\nspec:\n",
    );
    let file = work.write("annotated.yaml", &annotated);
    assert_eq!(analyze(&[file.to_str().unwrap()]).await.code, Some(0));
}

#[tokio::test]
async fn a_namespace_narrows_what_is_said_and_not_what_is_known() {
    let (_work, file) = shop("reviewz");
    assert_eq!(analyze(&[&file, "-n", "default"]).await.code, Some(1));
    assert_eq!(analyze(&[&file, "-n", "elsewhere"]).await.code, Some(0));
}

#[tokio::test]
async fn directories_files_and_standard_input_are_read_as_one_mesh() {
    let work = Workdir::new("analyze-places");
    let (service, route) = SHOP.split_once("---\n").unwrap();
    work.write("services.yaml", service);
    work.create_dir("deep");
    work.write("deep/route.yaml", route.replace("HOST", "reviewz"));
    let root = work.path().to_str().unwrap().to_owned();
    assert_eq!(analyze(&[&root]).await.code, Some(1));
    assert_eq!(analyze(&[&root, "--recursive", "false"]).await.code, Some(0));
    let route = format!("{root}/deep/route.yaml");
    assert_eq!(analyze(&[&route]).await.code, Some(0), "nothing is known of the namespace");
    assert_eq!(analyze(&[&route, "--complete"]).await.code, Some(1));
    let nothing = analyze(&["-"]).await;
    assert_eq!(nothing.code, Some(0), "{}{}", nothing.stdout, nothing.stderr);
    assert_eq!(analyze(&[]).await.code, Some(2));
    assert_eq!(analyze(&["/nowhere/at/all"]).await.code, Some(4));
}

#[tokio::test]
async fn rows_annotations_and_sarif_carry_code_level_and_place() {
    let (_work, file) = shop("reviewz");
    let json = analyze(&[&file, "-o", "json"]).await;
    assert_eq!(json.code, Some(1));
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    let rows = report["findings"].as_array().unwrap();
    let row = rows.iter().find(|row| row["code"] == "IST0101").unwrap();
    assert_eq!((report["version"].as_u64(), row["level"].as_str()), (Some(1), Some("Error")), "{report}");
    assert_eq!(row["origin"], "VirtualService default/reviews");
    assert_eq!(row["reference"], format!("{file}:14"));
    assert!(row["documentationUrl"].as_str().unwrap().ends_with("#ist0101-referencedresourcenotfound"), "{row}");
    let github = analyze(&[&file, "-o", "github"]).await;
    assert!(github.stdout.contains("::error file=") && github.stdout.contains("title=IST0101::"), "{}", github.stdout);
    let sarif = analyze(&[&file, "-o", "sarif"]).await;
    let sarif: Value = serde_json::from_str(&sarif.stdout).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert!(results.iter().any(|result| result["ruleId"] == "IST0101" && result["level"] == "error"), "{sarif}");
}

#[tokio::test]
async fn the_examples_have_no_errors() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let output = analyze(&[path.to_str().unwrap()]).await;
            assert_eq!(output.code, Some(0), "{}: {}{}", path.display(), output.stdout, output.stderr);
        }
    }
}
