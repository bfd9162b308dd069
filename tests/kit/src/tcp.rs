//! A TCP server in the test's own process that sends back what it gets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::port;

/// A running echo server: every connection is greeted with `NAME\n`, then echoed. Dropping it closes everything.
#[derive(Debug)]
pub struct TcpEcho {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

// === impl TcpEcho ===

impl TcpEcho {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(name: &str) -> Self {
        let address = port::free();
        let listener =
            TcpListener::bind(address).await.unwrap_or_else(|e| panic!("{name} cannot listen on {address}: {e}"));
        let connections = Arc::new(AtomicU64::new(0));
        let greeting = format!("{name}\n");
        let count = Arc::clone(&connections);
        let server = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((mut stream, _)) = accepted else { continue };
                        count.fetch_add(1, Ordering::Relaxed);
                        let greeting = greeting.clone();
                        tasks.spawn(async move {
                            if stream.write_all(greeting.as_bytes()).await.is_ok() {
                                echo(stream).await;
                            }
                        });
                    }
                    Some(_) = tasks.join_next() => {}
                }
            }
        });
        Self { address, connections, server }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Connects, reads the greeting, sends `text` and reads it back. Returns the name of the server that answered.
///
/// # Errors
/// Says which step failed, for `eventually_ok`.
pub async fn say(address: SocketAddr, text: &str) -> Result<String, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.map_err(|e| format!("cannot connect to {address}: {e}"))?;
        stream.write_all(text.as_bytes()).await.map_err(|e| format!("cannot send: {e}"))?;
        let mut name = Vec::new();
        loop {
            match stream.read_u8().await {
                Ok(b'\n') => break,
                Ok(byte) => name.push(byte),
                Err(e) => return Err(format!("no greeting after {:?}: {e}", String::from_utf8_lossy(&name))),
            }
        }
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await.map_err(|e| format!("no echo: {e}"))?;
        if back != text.as_bytes() {
            return Err(format!("sent {text:?}, got {:?}", String::from_utf8_lossy(&back)));
        }
        Ok(String::from_utf8_lossy(&name).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.unwrap_or_else(|_| Err("no echo within 5s".to_owned()))
}

/// Sends back what arrives until the other side has finished.
pub(crate) async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_comes_back_with_the_servers_name() {
        let server = TcpEcho::start("mongo-1").await;
        assert_eq!(say(server.addr(), "hello\nworld").await.unwrap(), "mongo-1");
        assert_eq!(server.connections(), 1);
    }
}
