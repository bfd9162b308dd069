//! A server whose every answer a test decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a path is answered.
#[derive(Debug, Clone)]
pub enum How {
    /// 200 with this body and index.
    Good(String, u64),
    /// Another status.
    Status(u16),
    /// Half of a good answer, then the connection ends.
    Truncated(String, u64),
    /// 200 with this body and index, once the lines of an event stream have all been said.
    Held(String, u64),
    /// A page, after which there is always one of these two.
    Paged(&'static str, &'static str),
    /// 200 with something that is no JSON.
    Garbage,
    /// Nothing.
    Hang,
    /// An event stream that says these lines and stays open while the version is the same.
    Stream(Vec<String>),
    /// An event stream that says this line and ends.
    Brief(String),
    /// The status line of some of Nomad's versions.
    NoVersion,
}

#[derive(Clone)]
pub struct Fake {
    pub address: String,
    answers: Arc<Mutex<HashMap<String, How>>>,
    cut: watch::Sender<u64>,
    /// Whether an event stream has said all of its lines.
    pub said: watch::Sender<bool>,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self { address, answers: Arc::default(), cut: watch::channel(0).0, said: watch::channel(false).0 };
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream));
            }
        });
        fake.healthy(&[row("a", 1000), row("b", 1001)], 10);
        fake
    }

    pub fn answer(&self, path: &str, how: How) {
        self.answers.lock().unwrap().insert(path.to_owned(), how);
    }

    /// Everything is well, and `web` has these instances.
    pub fn healthy(&self, rows: &[String], index: u64) {
        let list = if rows.is_empty() {
            "[]"
        } else {
            r#"[{"Namespace":"default","Services":[{"ServiceName":"web","Tags":[]}]}]"#
        };
        self.answer("/v1/services", How::Good(list.into(), index));
        self.answer("/v1/service/web", How::Good(format!("[{}]", rows.join(",")), index));
        self.answer("/v1/allocations", How::Good("[]".into(), 0));
        self.answer("/v1/nodes", How::Good(r#"[{"ID":"n","Name":"node","Status":"ready"}]"#.into(), 5));
        self.answer(
            "/v1/node/n",
            How::Good(r#"{"ID":"n","Name":"node","Status":"ready","Meta":{"zone":"z1","rack":"r1"}}"#.into(), 5),
        );
        self.answer("/v1/regions", How::Good(r#"["global"]"#.into(), 0));
        self.answer("/v1/event/stream", How::Stream(vec!["{}".into()]));
    }

    /// Ends all open streams.
    pub fn cut(&self) {
        self.cut.send_modify(|version| *version += 1);
    }

    async fn serve(self, stream: TcpStream) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        loop {
            let Ok(Some(request)) = lines.next_line().await else { return };
            while lines.next_line().await.ok().flatten().is_some_and(|line| !line.is_empty()) {}
            let target = request.split(' ').nth(1).unwrap_or_default();
            let path = target.split('?').next().unwrap_or_default();
            let how = self.answers.lock().unwrap().get(path).cloned().unwrap_or(How::Status(404));
            let good = |body: &str, index: u64| {
                format!(
                    "HTTP/1.1 200 OK\r\nX-Nomad-Index: {index}\r\nX-Nomad-KnownLeader: true\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            };
            match how {
                How::Good(body, index) => {
                    // A blocking query with nothing new waits for a moment.
                    if target.contains(&format!("&index={index}&wait")) {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    let _ = write.write_all(good(&body, index).as_bytes()).await;
                }
                How::Held(body, index) => {
                    let _ = self.said.subscribe().wait_for(|said| *said).await;
                    let _ = write.write_all(good(&body, index).as_bytes()).await;
                }
                How::Paged(one, other) => {
                    let next = if target.contains(&format!("next_token={one}")) { other } else { one };
                    let head = format!("X-Nomad-Index: 9\r\nX-Nomad-NextToken: {next}\r\nContent-Length: 2");
                    let _ = write.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n[]").as_bytes()).await;
                }
                How::Status(code) => {
                    let _ =
                        write.write_all(format!("HTTP/1.1 {code} No\r\nContent-Length: 2\r\n\r\nno").as_bytes()).await;
                }
                How::Truncated(body, index) => {
                    let whole = good(&body, index);
                    let _ = write.write_all(&whole.as_bytes()[..whole.len() - body.len() / 2]).await;
                    return;
                }
                How::Garbage => {
                    let _ = write.write_all(good("<html>", 10).as_bytes()).await;
                }
                How::Hang => tokio::time::sleep(Duration::from_secs(600)).await,
                How::NoVersion => {
                    let _ = write.write_all(b"HTTP/0.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}\n").await;
                    return;
                }
                How::Brief(line) => {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", line.len() + 1);
                    let _ = write.write_all(format!("{head}{line}\n").as_bytes()).await;
                }
                How::Stream(said) => {
                    let mut cut = self.cut.subscribe();
                    let _ = write.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                    for line in said {
                        let _ = write.write_all(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes()).await;
                    }
                    self.said.send_replace(true);
                    let _ = cut.changed().await;
                    let _ = write.write_all(b"0\r\n\r\n").await;
                }
            }
        }
    }
}

pub fn row(id: &str, port: u16) -> String {
    format!(
        r#"{{"ID":"{id}","ServiceName":"web","Namespace":"default","NodeID":"n","Datacenter":"dc1","JobID":"web","AllocID":"{id}","Tags":[],"Address":"10.0.0.1","Port":{port},"CreateIndex":9,"ModifyIndex":9}}"#
    )
}

pub fn event(index: u64, kind: &str, row: &str) -> String {
    format!(
        r#"{{"Index":{index},"Events":[{{"Topic":"Service","Type":"{kind}","Index":{index},"Payload":{{"Service":{row}}}}}]}}"#
    )
}
