//! Whatever we translate, stock Envoy accepts.

use std::path::Path;

use xebec_testkit::{Peer, Workdir, process};

#[tokio::test(flavor = "multi_thread")]
async fn envoy_accepts_every_example_for_sidecars_and_gateways() {
    let Some(envoy) = Peer::Envoy.or_skip() else { return };
    let work = Workdir::new("static");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut checked = 0;
    for entry in std::fs::read_dir(&root).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        for (kind, interception) in [("sidecar", "none"), ("sidecar", "redirect"), ("router", "none")] {
            let output = process::run(process::xebec([
                "translate",
                "--config",
                folder.to_str().unwrap(),
                "--static",
                "--type",
                kind,
                "--interception",
                interception,
                "--namespace",
                "shop",
                "--name",
                "web-v1",
                "--ip",
                "10.1.1.1",
                "--label",
                if kind == "router" { "app=gateway" } else { "app=web" },
            ]))
            .await;
            assert_eq!(output.code, Some(0), "{name} {kind} {interception}: {}", output.stderr);
            let file = work.write(format!("{name}-{kind}-{interception}.json"), &output.stdout);
            let mut command = std::process::Command::new(&envoy);
            command.args(["--mode", "validate", "-c", file.to_str().unwrap(), "-l", "warning"]);
            let verdict = process::run(command).await;
            let said = format!("{}{}", verdict.stdout, verdict.stderr);
            assert_eq!(verdict.code, Some(0), "{name} {kind} {interception}: {said}\n{}", output.stdout);
            assert!(!said.to_lowercase().contains("deprecated"), "{name} {kind} {interception}: {said}");
            checked += 1;
        }
    }
    assert!(checked >= 30, "only {checked} configurations were checked");
}
