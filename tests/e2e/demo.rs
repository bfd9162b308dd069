//! The first minute of a newcomer.

use std::process::Command;
use std::time::Duration;

use rstest::rstest;
use xebec_testkit::signal::Signal;
use xebec_testkit::{DataPlane, Peer, Process, Workdir, port, process};

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_holds_its_own_expectations(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let work = Workdir::new("demo");
    let mut command = demo(&work, port::free().port());
    command.args(["--headless", "--for", "20s"]);
    if plane == DataPlane::Envoy {
        command.args(["--data-plane", "envoy", "--envoy"]).arg(Peer::Envoy.path().unwrap());
    }
    let mut demo = Process::start(&work, "demo", command);
    let status = demo.wait(Duration::from_secs(120)).await;
    assert_eq!(status.code(), Some(0), "{}{}", demo.stdout(), demo.stderr());
    assert!(work.join("shop").read_dir().unwrap().count() > 2, "the configuration is left for people to read");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_the_demo_and_everything_it_started() {
    let work = Workdir::new("demo-interrupt");
    let port = port::free();
    let mut demo = Process::start(&work, "demo", demo(&work, port.port()));
    demo.until(Duration::from_secs(30), "it serves", async || {
        xebec_testkit::client::get(port, "shop.example", "/").send().await.is_ok_and(|r| r.status == 200)
    })
    .await;
    demo.signal(Signal::Interrupt);
    let status = demo.wait(Duration::from_secs(15)).await;
    assert!(matches!(status.code(), Some(0 | 130)), "{status}");
    assert!(std::net::TcpListener::bind(port).is_ok(), "the port is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_check_has_neither_passed_nor_failed() {
    let work = Workdir::new("demo-interrupted-check");
    let port = port::free();
    let mut command = demo(&work, port.port());
    command.arg("--headless");
    let mut demo = Process::start(&work, "demo", command);
    demo.until(Duration::from_secs(30), "it serves", async || {
        xebec_testkit::client::get(port, "shop.example", "/").send().await.is_ok_and(|r| r.status == 200)
    })
    .await;
    demo.signal(Signal::Interrupt);
    let status = demo.wait(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(130), "{}{}", demo.stdout(), demo.stderr());
    assert!(!demo.stdout().contains("FAILED"), "{}", demo.stdout());
}

#[tokio::test]
async fn a_program_that_is_no_envoy_is_refused_before_anything_is_written() {
    let work = Workdir::new("demo-no-envoy");
    let mut command = demo(&work, port::free().port());
    command.args(["--data-plane", "envoy", "--envoy", "/bin/ls"]);
    let output = process::run(command).await;
    assert_eq!(output.code, Some(5), "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains("/bin/ls"), "{}", output.stderr);
    assert!(!work.join("shop").exists());
}

#[tokio::test]
async fn an_envoy_that_ends_at_once_is_named_with_its_log() {
    use std::os::unix::fs::PermissionsExt as _;
    let work = Workdir::new("demo-envoy-ends");
    let program = work.join("envoy");
    let script =
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'envoy version: 0/1.40.0/Clean/RELEASE/X' && exit\nexit 3\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = demo(&work, port::free().port());
    command.args(["--data-plane", "envoy", "--envoy"]).arg(&program);
    let output = process::run(command).await;
    assert_eq!(output.code, Some(5), "{}{}", output.stdout, output.stderr);
    let last = output.stderr.lines().find(|line| line.starts_with("error:")).unwrap_or_default();
    assert!(last.contains("exit status: 3") && last.contains("shop/envoy/"), "{}", output.stderr);
}

#[tokio::test]
async fn a_busy_port_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let work = Workdir::new("demo-busy");
    let output = process::run(demo(&work, port)).await;
    assert_eq!(output.code, Some(5), "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(&port.to_string()) && output.stderr.contains("--port"), "{}", output.stderr);
}

fn demo(work: &Workdir, port: u16) -> Command {
    let mut command = process::xebec(["demo", "--port", &port.to_string()]);
    command.arg("--dir").arg(work.join("shop"));
    command
}
