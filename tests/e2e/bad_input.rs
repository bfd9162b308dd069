//! Bad input is said, with its place, and nothing that was good is lost.

use rstest::rstest;
use xebec_testkit::{Backend, DataPlane, Workdir, eventually, eventually_ok, process};

use crate::stage::{SOON, Stage, routes, service, services};

const PORT: u16 = 9080;

const GOOD: &str = "  - route:\n    - destination: {host: reviews}\n";

fn teapot(status: u16) -> String {
    routes("reviews", &format!("  - directResponse: {{status: {status}}}\n"))
}

#[rstest]
#[case::a_wrong_field("spec:\n  hosts: [reviews]\n  htpt: []\n", "4:3", "did you mean")]
#[case::a_wrong_type("spec:\n  hosts: 5\n", "3:10", "hosts")]
#[case::a_wrong_enum("spec:\n  hosts: [a]\n  http:\n  - redirect: {derivePort: FROM_NOWHERE}\n", "5:", "FROM_")]
#[case::a_duplicate_key("spec:\n  hosts: [a]\n  hosts: [b]\n", "4:3", "duplicate")]
#[case::bad_indentation("spec:\n  hosts: [a]\n http: []\n", "4:2", "")]
#[tokio::test]
async fn validate_says_where_and_what(#[case] spec: &str, #[case] place: &str, #[case] says: &str) {
    let work = Workdir::new("validate");
    let head = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: r}}";
    let head = &head[1..head.len() - 1].replace(", kind", "\nkind").replace(", metadata", "\nmetadata");
    let text = format!("{head}\n{spec}");
    // The head takes three lines; places are counted from its last one so that cases read well.
    let (line, column) = place.split_once(':').unwrap();
    let line = line.parse::<u32>().unwrap() + 2;
    let file = work.write("r.yaml", text);
    let output = process::run(process::xebec(["validate", "-f", file.to_str().unwrap()])).await;
    let all = format!("{}{}", output.stdout, output.stderr);
    assert_eq!(output.code, Some(1), "{all}");
    assert!(all.contains(&format!("r.yaml:{line}:{column}")), "expected {line}:{column} in\n{all}");
    assert!(all.to_lowercase().contains(&says.to_lowercase()), "{all}");
}

#[rstest]
#[case::not_utf8(vec![0xff, 0xfe, 0x00, 0x80])]
#[case::an_alias_bomb(bomb())]
#[case::ten_megabytes(vec![b'#'; 10 << 20])]
#[case::deep_nesting([b"a: ".to_vec(), vec![b'['; 100_000]].concat())]
#[case::nothing_but_tabs(b"\t\t\t- x".to_vec())]
#[tokio::test]
async fn hostile_files_are_refused_without_a_panic(#[case] content: Vec<u8>) {
    let work = Workdir::new("hostile");
    let file = work.write("h.yaml", content);
    let output = process::run(process::xebec(["validate", "-f", file.to_str().unwrap()])).await;
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(matches!(output.code, Some(0 | 1)), "{:?} {all}", output.code);
    assert!(!all.contains("panicked"), "{all}");
}

fn bomb() -> Vec<u8> {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let before = format!("*a{}", i - 1);
        text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![before; 10].join(",")));
    }
    text.into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_version_of_a_bad_file_stays_live_and_others_still_change() {
    let backend = Backend::start("v1").await;
    let files = [
        services(&[
            service("reviews", PORT, "http", &[("v1", &backend)]),
            service("other", PORT, "http", &[("v1", &backend)]),
        ]),
        ("reviews.yaml", teapot(418)),
    ];
    let stage = Stage::start(DataPlane::Sidecar, "last-good", &files).await;
    stage.until_status("reviews", PORT, "/", 418).await;

    let faulty = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec: {hosts: [reviews], htpt: []}\n";
    for (status, bad) in [(420, "kind: VirtualService\nspec: ["), (421, "\u{0}"), (422, faulty)] {
        stage.write("reviews.yaml", bad);
        stage.write("other.yaml", &routes("other", &format!("  - directResponse: {{status: {status}}}\n")));
        stage.until_status("other", PORT, "/", status).await;
        assert_eq!(stage.get("reviews", PORT, "/").send().await.unwrap().status, 418, "after {bad:?}");
    }
    let logs = stage.work.logs();
    assert!(logs.contains("reviews.yaml:"), "the log names the place: {logs}");
    stage.write("reviews.yaml", &routes("reviews", GOOD));
    stage.until_served_by("reviews", PORT, "/", "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_directory_changes_nothing_and_is_read_again_when_it_is_back() {
    let backend = Backend::start("v1").await;
    let files = [services(&[service("reviews", PORT, "http", &[("v1", &backend)])]), ("reviews.yaml", teapot(418))];
    let stage = Stage::start(DataPlane::Sidecar, "deleted-directory", &files).await;
    stage.until_status("reviews", PORT, "/", 418).await;
    let (here, away) = (stage.work.join("config"), stage.work.join("config.away"));
    std::fs::rename(&here, &away).unwrap();
    eventually(SOON, "the log says so", async || stage.work.logs().contains("config")).await;
    assert_eq!(stage.get("reviews", PORT, "/").send().await.unwrap().status, 418);
    std::fs::write(away.join("reviews.yaml"), teapot(419)).unwrap();
    std::fs::rename(&away, &here).unwrap();
    stage.until_status("reviews", PORT, "/", 419).await;
    stage.write("reviews.yaml", &teapot(421));
    stage.until_status("reviews", PORT, "/", 421).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_resource_is_shown_with_the_file_that_caused_it() {
    let Some(plane) = DataPlane::Envoy.or_skip() else { return };
    let backend = Backend::start("v1").await;
    let files = [services(&[
        service("reviews", PORT, "http", &[("v1", &backend)]),
        service("other", 7777, "http", &[("v1", &backend)]),
    ])];
    let mut stage = Stage::start(plane, "refused", &files).await;
    stage.refusal_expected = true;
    stage.until_status("reviews", PORT, "/", 200).await;
    // Something that our checks accept and Envoy does not: a listener on an address that this machine does not have.
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: own}\nspec:\n  egress:\n  - port: {number: 7777, protocol: HTTP, name: e}\n    bind: 203.0.113.7\n    hosts: ['./other']\n  - hosts: ['./reviews']\n";
    stage.write("sidecar.yaml", sidecar);
    let output = eventually_ok(SOON, "proxy-status names the file", async || {
        let address = stage.mesh.http_addr().to_string();
        let output = stage.mesh.xebec(&["proxy-status", "-s", &address, "-o", "json"]).await;
        if output.stdout.contains("sidecar.yaml:") { Ok(output) } else { Err(output.stdout + &output.stderr) }
    })
    .await;
    assert_eq!(output.code, Some(1), "a refused resource is a finding");
    assert_eq!(stage.get("reviews", PORT, "/").send().await.unwrap().status, 200, "the proxy keeps what it had");
    assert!(stage.mesh.process().is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_and_circles_of_links_hold_nobody_up() {
    let backend = Backend::start("v1").await;
    let files = [services(&[service("reviews", PORT, "http", &[("v1", &backend)])]), ("reviews.yaml", teapot(418))];
    let stage = Stage::start(DataPlane::Sidecar, "pipes", &files).await;
    stage.until_status("reviews", PORT, "/", 418).await;
    let config = stage.work.join("config");
    assert!(std::process::Command::new("mkfifo").arg(config.join("pipe.yaml")).status().unwrap().success());
    for directory in 0..6 {
        stage.work.create_dir(format!("config/d{directory}"));
    }
    for from in 0..6 {
        for to in (0..6).filter(|to| *to != from) {
            let link = config.join(format!("d{from}/to{to}"));
            std::os::unix::fs::symlink(config.join(format!("d{to}")), link).unwrap();
        }
    }
    stage.write("reviews.yaml", &teapot(419));
    stage.until_status("reviews", PORT, "/", 419).await;
    assert!(stage.mesh.page("/ready").await.is_ok());
    let output = process::run(process::xebec(["validate", config.to_str().unwrap()])).await;
    assert!(matches!(output.code, Some(0 | 1)), "{:?} {}", output.code, output.stderr);
}
