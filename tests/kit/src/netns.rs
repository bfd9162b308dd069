//! A network of a test's own, in which any address of 10.244.0.0/16 can be listened on and reached: Kubernetes refuses loopback
//! addresses for pods, and the machine's own network is nobody's to change.
//!
//! [`inside`] runs a test's body on threads of that network. What it starts, tasks and child processes, is in there too. Nothing
//! of it is left when the body ends, and nothing gets out: the network has a loopback interface and no other.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Process, Workdir, peer};

const SET_UP: &str =
    "ip link set lo up && ip route add local 10.244.0.0/16 dev lo && echo ready && exec sleep infinity";

/// Runs `body` in a network of its own, on a runtime of its own, to its end:
/// `#[test] fn a_test() { netns::inside(async || { ... }); }`. `None`: this user may not make networks, and the test is skipped.
///
/// # Panics
/// When the network cannot be made, or the body panics.
pub fn inside<T: Send>(body: impl AsyncFnOnce() -> T + Send) -> Option<T> {
    if std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
        peer::skip("only root may make a network of its own");
        return None;
    }
    // Children and what is printed when a test fails are known by the thread's name.
    let name = std::thread::current().name().unwrap_or("a test in a network of its own").to_owned();
    let ended = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, || {
            enter();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(body())
        });
        thread.expect("a thread").join()
    });
    match ended {
        Ok(value) => Some(value),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Moves this thread, and all that it will start, into a new network.
fn enter() {
    let work = Workdir::new("network");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", SET_UP]);
    let mut holder = Process::start(&work, "network", command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(holder.line_with("ready", Duration::from_secs(10)));
    let path = format!("/proc/{}/ns/net", holder.pid());
    let network = File::open(&path).unwrap_or_else(|e| panic!("cannot open {path}: {e}"));
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|e| panic!("cannot enter {path}: {e}"));
    // The network lives as long as this thread and its children are in it; the holder has done its part.
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn pod_addresses_are_reached_within_by_tasks_and_children_and_from_nowhere_else() {
        let seen = inside(async || {
            let listener = tokio::net::TcpListener::bind("10.244.3.4:9080").await.expect("any pod address");
            let task = tokio::spawn(async move { listener.accept().await.map(|(_, from)| from.ip().to_string()) });
            let mut command = Command::new("bash");
            command.args(["-c", "exec 3<>/dev/tcp/10.244.3.4/9080"]);
            assert_eq!(process::run(command).await.code, Some(0), "a child reaches it");
            task.await.expect("accepted").expect("accepted")
        });
        let Some(from) = seen else { return };
        assert!(from.starts_with("10.244."), "{from}");
        assert!(std::net::TcpListener::bind("10.244.3.4:9080").is_err(), "this network has no such address");
    }

    #[test]
    #[should_panic(expected = "the body's own words")]
    fn a_body_that_fails_fails_the_test() {
        if inside(async || panic!("the body's own words")).is_none() {
            panic!("the body's own words: skipped");
        }
    }
}
