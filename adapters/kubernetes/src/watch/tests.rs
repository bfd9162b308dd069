//! Answers that a real server gives only in trouble.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::{Registry as _, RegistryEvent, RegistrySink};

use super::*;
use crate::registry::{KubernetesRegistry, Settings};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Good,
    /// As servers before 1.27: no streamed listing.
    Old,
    Status(u16),
    /// Lists, and has forgotten every place of a watch.
    Forgetful,
    Truncated,
    Hanging,
    EmptyOk,
}

/// Answers every request by its mode; a change of mode cuts all connections.
async fn fake(mode: watch::Receiver<Mode>, heard: Arc<Mutex<Heard>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut mode = mode.clone();
            let now = *mode.borrow_and_update();
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                }
                let request = String::from_utf8(request).unwrap();
                let object = |kind: &str| {
                    match kind {
                    _ if request.contains("/services?") => r#"{"metadata":{"name":"a","namespace":"n","resourceVersion":"5"},"spec":{"ports":[{"name":"http","port":80}]}}"#.to_owned(),
                    _ => String::new(),
                }
                };
                let service = object("");
                let ok = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n";
                let added = if service.is_empty() {
                    String::new()
                } else {
                    format!("{{\"type\":\"ADDED\",\"object\":{service}}}\n")
                };
                let end = "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";
                let streamed = request.contains("sendInitialEvents");
                if streamed && request.contains("/services?") {
                    heard.lock().listings += 1;
                }
                let (text, hold) = match now {
                    Mode::Forgetful if !streamed => ("HTTP/1.1 410 Gone\r\nconnection: close\r\n\r\ntoo old".to_owned(), false),
                    Mode::Good | Mode::Forgetful if streamed => (format!("{ok}{added}{end}"), true),
                    Mode::Old if streamed => ("HTTP/1.1 422 No\r\nconnection: close\r\n\r\n{\"code\":422,\"message\":\"sendInitialEvents is forbidden\"}".to_owned(), false),
                    Mode::Old if !request.contains("watch=1") => (format!("{ok}{{\"metadata\":{{\"resourceVersion\":\"9\"}},\"items\":[{service}]}}"), false),
                    Mode::Good | Mode::Old | Mode::Forgetful => (ok.to_owned(), true),
                    Mode::Status(429) => ("HTTP/1.1 429 Busy\r\nretry-after: 0\r\nconnection: close\r\n\r\nbusy".to_owned(), false),
                    Mode::Status(code) => (format!("HTTP/1.1 {code} No\r\nconnection: close\r\n\r\nfor a reason"), false),
                    Mode::Truncated => (format!("{ok}{{\"type\":\"ADD"), false),
                    Mode::EmptyOk => (ok.to_owned(), false),
                    Mode::Hanging => (String::new(), true),
                };
                let _ = socket.write_all(text.as_bytes()).await;
                if hold {
                    let _ = mode.changed().await;
                }
                let _ = socket.shutdown().await;
            });
        }
    });
    address
}

#[derive(Default)]
struct Heard {
    /// How often the services were listed.
    listings: usize,
    log: Vec<RegistryEvent>,
}

impl Heard {
    fn degraded(&self) -> Option<&str> {
        self.log.iter().rev().find_map(|event| match event {
            RegistryEvent::Degraded(text) => Some(Some(text.as_str())),
            RegistryEvent::Recovered => Some(None),
            _ => None,
        })?
    }
}

async fn start(mode: watch::Receiver<Mode>) -> (Arc<Mutex<Heard>>, CancellationToken, tempfile::TempDir) {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let address = fake(mode, Arc::clone(&heard)).await;
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: \"http://{address}\"}}}}], users: [{{name: u, user: {{token: t}}}}], contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let timing = Timing {
        answer: Duration::from_millis(300),
        idle: Duration::from_millis(300),
        silence: Duration::from_secs(60),
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(50),
        caught_up: Duration::from_millis(100),
        quiet: Duration::from_millis(200),
        sign_of_life: Duration::from_millis(300),
        longest_absence: Duration::from_millis(50),
    };
    let id = RegistryId("kubernetes".into());
    let connector = Arc::new(Connector::new(Some(kubeconfig), None));
    let registry = KubernetesRegistry::connected(id.clone(), Settings::default(), connector, timing);
    let (sender, mut receiver) = mpsc::channel(64);
    let into = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Some((_, events)) = receiver.recv().await {
            into.lock().log.extend(events);
        }
    });
    let stop = CancellationToken::new();
    tokio::spawn(Box::new(registry).run(RegistrySink::new(id, sender), stop.clone()));
    (heard, stop, folder)
}

async fn until(heard: &Mutex<Heard>, what: &str, condition: impl Fn(&Heard) -> bool) {
    xebec_testkit::eventually(Duration::from_secs(15), what, async || condition(&heard.lock())).await;
}

#[tokio::test]
async fn no_refusal_and_no_broken_answer_is_taken_for_a_deletion() {
    let (sender, mode) = watch::channel(Mode::Good);
    let (heard, stop, _folder) = start(mode).await;
    until(&heard, "it is synced", |heard| heard.log.contains(&RegistryEvent::Synced)).await;
    for (trouble, text) in [
        (Mode::Status(403), "not allowed to watch services (403)"),
        (Mode::Status(401), "401"),
        (Mode::Status(404), "404"),
        (Mode::Status(429), "busy (429)"),
        (Mode::Status(500), "500"),
        (Mode::Truncated, "middle of a line"),
        (Mode::Hanging, "has not answered"),
    ] {
        let _ = sender.send(trouble);
        until(&heard, &format!("{trouble:?} is said"), |heard| {
            heard.degraded().is_some_and(|said| said.contains(text))
        })
        .await;
        let _ = sender.send(Mode::Good);
        until(&heard, &format!("it recovers from {trouble:?}"), |heard| heard.degraded().is_none()).await;
    }
    // A place of the watch that is gone is listed again, and nobody needs to know.
    let listings = heard.lock().listings;
    let said = heard.lock().log.len();
    let _ = sender.send(Mode::Forgetful);
    until(&heard, "it is listed again", |heard| heard.listings > listings).await;
    // What follows a change of the mode is said after what the listing said.
    let _ = sender.send(Mode::Status(403));
    until(&heard, "the next trouble is said", |heard| heard.degraded().is_some()).await;
    let heard = heard.lock();
    let between = heard.log.get(said..).unwrap_or_default();
    assert!(matches!(between, [RegistryEvent::Degraded(text), ..] if text.contains("403")), "{between:?}");
    let removed = heard.log.iter().filter(|event| matches!(event, RegistryEvent::RemoveService(_))).count();
    let services = heard.log.iter().filter(|event| matches!(event, RegistryEvent::UpsertService(_))).count();
    assert_eq!((removed, services), (0, 1), "{:?}", heard.log);
    stop.cancel();
}

#[tokio::test]
async fn a_server_that_does_not_stream_listings_is_listed_by_pages() {
    let (_sender, mode) = watch::channel(Mode::Old);
    let (heard, stop, _folder) = start(mode).await;
    until(&heard, "it is synced", |heard| heard.log.contains(&RegistryEvent::Synced)).await;
    assert!(heard.lock().degraded().is_none());
    assert!(heard.lock().log.iter().any(|event| matches!(event, RegistryEvent::UpsertService(_))));
    stop.cancel();
}

#[tokio::test]
async fn a_server_in_trouble_from_the_start_is_said_and_not_synced() {
    let (sender, mode) = watch::channel(Mode::EmptyOk);
    let (heard, stop, _folder) = start(mode).await;
    until(&heard, "an empty answer is no listing", |heard| heard.degraded().is_some()).await;
    assert!(!heard.lock().log.contains(&RegistryEvent::Synced));
    let _ = sender.send(Mode::Good);
    until(&heard, "it is synced in the end", |heard| {
        heard.log.contains(&RegistryEvent::Synced) && heard.degraded().is_none()
    })
    .await;
    stop.cancel();
}

#[tokio::test]
async fn a_server_that_falls_silent_on_a_watch_that_stays_open_is_noticed() {
    let (sender, mode) = watch::channel(Mode::Good);
    let (heard, stop, _folder) = start(mode).await;
    until(&heard, "it is synced", |heard| heard.log.contains(&RegistryEvent::Synced)).await;
    let before = heard.lock().log.len();
    // The watches stay as they are: nothing tells them.
    sender.send_if_modified(|mode| {
        *mode = Mode::Hanging;
        false
    });
    until(&heard, "the silence is said", |heard| {
        heard.degraded().is_some_and(|said| said.contains("has not answered"))
    })
    .await;
    let _ = sender.send(Mode::Good);
    until(&heard, "it recovers", |heard| heard.degraded().is_none()).await;
    let heard = heard.lock();
    let others = heard.log[before..]
        .iter()
        .filter(|event| !matches!(event, RegistryEvent::Degraded(_) | RegistryEvent::Recovered));
    assert_eq!(others.count(), 0, "{:?}", heard.log);
    stop.cancel();
}
