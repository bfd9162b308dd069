//! The Rust sidecar beside stock Envoy: the same configuration from our own xDS, one core each, access log and metrics on.
//!
//! `wrk` and an nginx that answers 32 bytes share the other core. Proxies take turns, so that the machine's mood is the same.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cli::Cli;
use crate::kernel;
use crate::process::{ControlPlane, Running, pinned, split_cores};
use crate::report::{Row, median};

const ROUNDS: usize = 3;
const CONNECTIONS: [usize; 2] = [32, 256];

/// Something that `wrk` is sent to.
struct Target {
    name: &'static str,
    address: SocketAddr,
    /// The proxy; none for the way without one.
    process: Option<Running>,
}

/// What `wrk` reported.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    rate: f64,
    p50: f64,
    p99: f64,
    errors: u64,
}

/// Compares the proxies.
pub fn run(cli: &Cli) -> Result<Vec<Row>> {
    let cores = split_cores();
    let (core, load) = (cores.map(|c| c.0), cores.map(|c| c.1));
    let folder = tempfile::tempdir()?;
    let (backend, front) = (free_port(Ipv4Addr::LOCALHOST.into())?, free_port(Ipv4Addr::LOCALHOST.into())?);
    let _nginx = nginx(folder.path(), backend, load)?;
    let config = folder.path().join("config");
    fs::create_dir(&config)?;
    fs::write(
        config.join("backend.yaml"),
        format!(
            "services:\n- host: backend.example.com\n  ports:\n  - {{name: http, number: {front}, protocol: http}}\n  instances:\n  - {{address: 127.0.0.1, ports: {{http: {backend}}}}}\n"
        ),
    )?;
    let mesh = folder.path().join("mesh.yaml");
    fs::write(&mesh, "accessLogFile: /dev/null\n")?;
    let server = ControlPlane::start(&cli.xebec, &config, load, Some(&mesh))?;
    let mut targets =
        vec![Target { name: "no proxy", address: SocketAddr::from((Ipv4Addr::LOCALHOST, backend)), process: None }];
    let ours = Ipv4Addr::new(127, 0, 0, 10);
    let mut command = pinned(&cli.xebec, core);
    command.arg("sidecar").args(proxy_flags(&server, ours, "bench-sidecar"));
    targets.push(start("xebec sidecar", &mut command, ours, front)?);
    if let Some(envoy) = &cli.envoy {
        let theirs = Ipv4Addr::new(127, 0, 0, 11);
        let mut command = pinned(&cli.xebec, core);
        command.args(["envoy", "run", "--envoy"]).arg(envoy).args(proxy_flags(&server, theirs, "bench-envoy"));
        command.args(["--", "--log-level", "error"]);
        targets.push(start("Envoy", &mut command, theirs, front)?);
    }
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        let mut samples = vec![Vec::new(); targets.len()];
        for _ in 0..ROUNDS {
            for (target, list) in targets.iter().zip(&mut samples) {
                list.push(wrk(target.address, front, connections, cli.seconds, load)?);
            }
        }
        let rate = |index: usize| median(&samples[index].iter().map(|s: &Sample| s.rate).collect::<Vec<_>>());
        let envoy = (targets.len() == 3).then(|| rate(2));
        for (index, target) in targets.iter().enumerate() {
            let of = |f: fn(&Sample) -> f64| median(&samples[index].iter().map(f).collect::<Vec<_>>());
            let mut row = Row::new(format!("{}, {connections} connections", target.name))
                .figure("requests per second", rate(index), "1/s")
                .figure("p50", of(|s| s.p50), "ms")
                .figure("p99", of(|s| s.p99), "ms")
                .figure("errors", of(|s| s.errors as f64), "");
            if let Some(process) = &target.process {
                row = row.figure("resident", kernel::resident(process.pid)? as f64 / 1e6, "MB");
            }
            if let (1, Some(envoy)) = (index, envoy) {
                row = row.promised("against Envoy", rate(index) / envoy.max(1.0), "times", 2.0);
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

fn proxy_flags(server: &ControlPlane, ip: Ipv4Addr, name: &str) -> Vec<String> {
    let server = server.xds.to_string();
    let ip = ip.to_string();
    ["--server", &server, "--name", name, "--ip", &ip, "--concurrency", "1", "--admin-addr", "127.0.0.1:0"]
        .into_iter()
        .map(ToOwned::to_owned)
        .collect()
}

/// Starts a proxy and waits until it carries traffic, on its own loopback address or the common one.
fn start(name: &'static str, command: &mut Command, ip: Ipv4Addr, port: u16) -> Result<Target> {
    let process = Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let places = [SocketAddr::from((ip, port)), SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    while Instant::now() < deadline {
        for address in places {
            if answers(address, port) {
                return Ok(Target { name, address, process: Some(process) });
            }
        }
        pause();
    }
    bail!("{name} does not carry traffic on {places:?}: {command:?}")
}

/// Between two looks at something that another process brings about. There is no runtime here that could do other work.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Whether a request through `address` comes back with 200.
fn answers(address: SocketAddr, port: u16) -> bool {
    use std::io::Read;
    let Ok(mut socket) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) else { return false };
    let _ = socket.set_read_timeout(Some(Duration::from_secs(1)));
    let request = format!("GET / HTTP/1.1\r\nhost: backend.example.com:{port}\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    socket.write_all(request.as_bytes()).is_ok()
        && socket.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

fn free_port(ip: IpAddr) -> Result<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}

/// An nginx that answers 32 bytes and logs nothing.
fn nginx(folder: &Path, port: u16, core: Option<usize>) -> Result<Running> {
    let text = format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n access_log off;\n keepalive_requests 100000000;\n\
         client_body_temp_path {folder}/t1;\n proxy_temp_path {folder}/t2;\n fastcgi_temp_path {folder}/t3;\n\
         uwsgi_temp_path {folder}/t4;\n scgi_temp_path {folder}/t5;\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 \"{body}\"; }} }}\n}}\n",
        folder = folder.display(),
        body = "0123456789abcdef0123456789abcde",
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = pinned(Path::new("nginx"), core);
    command.arg("-c").arg(&file).arg("-p").arg(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let nginx = Running::start(&mut command).context("nginx is needed as the backend: apt-get install nginx")?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            bail!("nginx does not listen: {}", fs::read_to_string(folder.join("error.log")).unwrap_or_default());
        }
        pause();
    }
    Ok(nginx)
}

/// Runs `wrk` once.
fn wrk(address: SocketAddr, port: u16, connections: usize, seconds: u64, core: Option<usize>) -> Result<Sample> {
    let mut command = pinned(Path::new("wrk"), core);
    command.args(["-t", "1", "-c", &connections.to_string(), "-d", &format!("{seconds}s"), "--latency"]);
    command.args(["-H", &format!("Host: backend.example.com:{port}"), &format!("http://{address}/")]);
    let output = command.output().context("wrk is needed as the load: apt-get install wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    read_wrk(&text).with_context(|| format!("wrk said {text} {}", String::from_utf8_lossy(&output.stderr)))
}

fn read_wrk(text: &str) -> Option<Sample> {
    let after = |word: &str| {
        let line = text.lines().map(str::trim).find(|l| l.starts_with(word))?;
        line.strip_prefix(word).map(|rest| rest.trim().to_owned())
    };
    let failed = after("Non-2xx or 3xx responses:").and_then(|n| n.parse().ok()).unwrap_or(0);
    let broken = after("Socket errors:")
        .map_or(0, |list| list.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).sum());
    Some(Sample {
        rate: after("Requests/sec:")?.parse().ok()?,
        p50: milliseconds(&after("50%")?)?,
        p99: milliseconds(&after("99%")?)?,
        errors: failed + broken,
    })
}

/// Reads `873.00us`, `1.20ms` or `1.05s`.
fn milliseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|n| n * factor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_report_of_wrk_is_read() {
        let text = "  Latency Distribution\n     50%  873.00us\n     99%    4.10ms\n  177 requests in 1.00s\n  Socket errors: connect 0, read 2, write 0, timeout 1\n  Non-2xx or 3xx responses: 4\nRequests/sec:  17812.50\n";
        assert_eq!(read_wrk(text), Some(Sample { rate: 17812.5, p50: 0.873, p99: 4.1, errors: 7 }));
        assert_eq!(read_wrk("unable to connect"), None);
    }
}
