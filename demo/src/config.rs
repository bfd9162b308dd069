//! The shop's configuration as ordinary files: what an operator would write, with comments that teach.
//!
//! NEVER: a file that the user may have edited is overwritten. `services.yaml`, whose ports differ per run, says at its top
//! that it is; the gateway's port is the one line of `rules/gateway.yaml` that is corrected.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::plan::{Plan, Service};

/// Where the files of a demo are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The directory of all.
    pub dir: PathBuf,
    /// The registry's file: give `file:PATH` to the control plane.
    pub services: PathBuf,
    /// The directory with Istio's resources: give it to the control plane as configuration.
    pub rules: PathBuf,
    /// Prepared variants of the rules, which nobody reads until they are copied over the rules.
    pub tries: PathBuf,
}

/// A change to try: one line to copy into a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// What it does, in a few words.
    pub title: &'static str,
    /// The prepared file, within [`Layout::tries`].
    pub from: &'static str,
    /// The rule that it replaces, within [`Layout::rules`].
    pub to: &'static str,
    /// The prepared file that undoes it.
    pub undo: &'static str,
}

/// What [`write_config`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where everything is.
    pub layout: Layout,
    /// Rules that were there already and are used as they are.
    pub kept: Vec<PathBuf>,
}

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written: {source}; choose another directory with --dir", path.display())]
pub struct ConfigError {
    path: PathBuf,
    source: io::Error,
}

/// Marks the line of `gateway.yaml` that follows the run's port.
const PORT_MARK: &str = "# the demo keeps this line in step with --port";

/// The three things to try.
pub const TRIES: [Try; 3] = [
    Try {
        title: "shift reviews to 90 % v1, 10 % v2",
        from: "reviews-90-10.yaml",
        to: "reviews.yaml",
        undo: "reviews-equal.yaml",
    },
    Try {
        title: "break half of the calls to ratings",
        from: "ratings-aborts.yaml",
        to: "ratings.yaml",
        undo: "ratings-normal.yaml",
    },
    Try {
        title: "show v3 to the customer amelia only",
        from: "reviews-amelia.yaml",
        to: "reviews.yaml",
        undo: "reviews-equal.yaml",
    },
];

// === impl Layout ===

impl Layout {
    /// The layout of a demo in `dir`.
    pub fn new(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { services: dir.join("services.yaml"), rules: dir.join("rules"), tries: dir.join("try"), dir }
    }

    /// The line that enters the directory, where the lines of a [`Try`] work.
    pub fn enter_command(&self) -> String {
        format!("cd {}", quoted(&self.dir))
    }

    /// The demo's log, while something else is on the terminal.
    pub fn log(&self) -> PathBuf {
        self.dir.join("demo.log")
    }

    /// Whether everything that an operator writes is still as [`write_config`] writes it.
    pub fn is_untouched(&self, plan: &Plan) -> bool {
        let same = |dir: &Path, files: &[(&str, String)]| {
            let alone = fs::read_dir(dir).is_ok_and(|entries| entries.count() == files.len());
            alone && files.iter().all(|(name, text)| fs::read_to_string(dir.join(name)).is_ok_and(|now| now == *text))
        };
        same(&self.rules, &rules(plan)) && same(&self.tries, &tries())
    }

    /// Does what [`Try::command`] (or, with `undo`, the line that undoes it) says.
    ///
    /// # Errors
    /// When the file cannot be copied.
    pub fn apply(&self, change: &Try, undo: bool) -> Result<(), ConfigError> {
        let from = self.tries.join(if undo { change.undo } else { change.from });
        let path = self.rules.join(change.to);
        fs::copy(from, &path).map(|_| ()).map_err(|source| ConfigError { path, source })
    }
}

// === impl Try ===

impl Try {
    /// The line that makes the change, within the demo's directory.
    pub fn command(&self) -> String {
        format!("cp try/{} rules/{}", self.from, self.to)
    }

    /// The line that undoes it.
    pub fn undo_command(&self) -> String {
        format!("cp try/{} rules/{}", self.undo, self.to)
    }
}

/// The lines that undo all of [`TRIES`].
pub fn undo_commands() -> Vec<String> {
    let mut lines: Vec<String> = TRIES.iter().map(Try::undo_command).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Writes the configuration of `plan` into `dir`, which is made if it does not exist. Rules that exist are kept.
///
/// # Errors
/// When a file or directory cannot be written.
pub fn write_config(plan: &Plan, dir: &Path) -> Result<Written, ConfigError> {
    let layout = Layout::new(dir);
    for path in [&layout.rules, &layout.tries] {
        fs::create_dir_all(path).map_err(|source| ConfigError { path: path.clone(), source })?;
    }
    write(&layout.services, &services(plan))?;
    for (name, text) in tries() {
        write(&layout.tries.join(name), &text)?;
    }
    let mut kept = Vec::new();
    for (name, text) in rules(plan) {
        let path = layout.rules.join(name);
        match fs::read_to_string(&path) {
            Ok(existing) if existing == text => {}
            Ok(existing) => {
                let corrected = with_port(&existing, plan.gateway.port());
                if corrected != existing {
                    write(&path, &corrected)?;
                }
                if corrected != text {
                    kept.push(path);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => write(&path, &text)?,
            Err(source) => return Err(ConfigError { path, source }),
        }
    }
    Ok(Written { layout, kept })
}

/// Beside it first, then renamed: whoever watches never sees half a file.
fn write(path: &Path, text: &str) -> Result<(), ConfigError> {
    let error = |source| ConfigError { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new~");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, text).map_err(error)?;
    fs::rename(&temporary, path).map_err(error)
}

/// Corrects the port in the marked line, if there is one.
fn with_port(text: &str, port: u16) -> String {
    let each = text.split_inclusive('\n').map(|line| match (line.contains(PORT_MARK), line.find("number:")) {
        (true, Some(at)) => {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            format!("{}number: {port} {PORT_MARK}{end}", &line[..at])
        }
        _ => line.to_owned(),
    });
    each.collect()
}

fn services(plan: &Plan) -> String {
    let mut text = String::from(
        "# What runs where: the mesh's registry, in the format of `file:` registries.
# The demo writes this file anew at each start, because its ports differ per run. The rules beside it are yours.
#
# A client dials a service's port (`number`). An instance's own `ports` are where its proxy listens for it, and `app` is
# where the application itself does.
services:
",
    );
    for service in Service::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "- host: {}\n  namespace: default\n  labels: {{app: {service}}}\n  ports:\n  - {{name: http, number: {}, protocol: http}}\n  instances:",
            service.host(),
            service.port()
        );
        for instance in plan.instances.iter().filter(|instance| instance.service == service) {
            let _ = writeln!(
                text,
                "  - address: {}\n    name: {}\n    ports: {{http: {}}}\n    app: {{http: \"{}\"}}\n    labels: {{app: {service}, version: {}}}\n    service-account: {service}",
                instance.inbound.ip(),
                instance.name(),
                instance.inbound.port(),
                instance.app,
                instance.version,
            );
        }
    }
    text
}

fn rules(plan: &Plan) -> [(&'static str, String); 4] {
    [
        ("gateway.yaml", gateway(plan)),
        ("destination-rules.yaml", DESTINATION_RULES.to_owned()),
        ("reviews.yaml", REVIEWS_EQUAL.to_owned()),
        ("ratings.yaml", RATINGS_NORMAL.to_owned()),
    ]
}

fn tries() -> [(&'static str, String); 5] {
    [
        ("reviews-90-10.yaml", REVIEWS_90_10),
        ("reviews-amelia.yaml", REVIEWS_AMELIA),
        ("reviews-equal.yaml", REVIEWS_EQUAL),
        ("ratings-aborts.yaml", RATINGS_ABORTS),
        ("ratings-normal.yaml", RATINGS_NORMAL),
    ]
    .map(|(name, text)| (name, text.to_owned()))
}

fn gateway(plan: &Plan) -> String {
    format!(
        "# The door of the mesh. A Gateway says on which port and for which hosts a proxy listens; the selector picks the
# proxies by their labels.
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: shop
  namespace: default
spec:
  selector:
    app: gateway
  servers:
  - port:
      name: http
      protocol: HTTP
      number: {port} {PORT_MARK}
    bind: 127.0.0.1 # nobody outside of this machine
    hosts: [\"*\"]
---
# What comes in goes to the front. `gateways` binds the rule to the door above; without it, a VirtualService is for calls
# between services.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: shop
  namespace: default
spec:
  hosts: [\"*\"]
  gateways: [shop]
  http:
  - name: everything
    route:
    - destination:
        host: front
        port:
          number: 9080
",
        port = plan.gateway.port()
    )
}

const DESTINATION_RULES: &str = "# A DestinationRule says what happens after a service is chosen: which instances make up which subset, and how load
# is spread over them. Subsets select instances by their labels, which services.yaml gives them.
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
  namespace: default
spec:
  host: reviews
  subsets:
  - name: v1
    labels: {version: v1}
  - name: v2
    labels: {version: v2}
  - name: v3
    labels: {version: v3}
";

const REVIEWS_EQUAL: &str =
    "# Calls to reviews are spread evenly over its three versions. Weights are relative to each other.
# v1 shows no stars, v2 black ones, v3 red ones. Change a weight, save, and watch the shares follow.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: default
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v1}
      weight: 1
    - destination: {host: reviews, subset: v2}
      weight: 1
    - destination: {host: reviews, subset: v3}
      weight: 1
";

const REVIEWS_90_10: &str = "# A canary: nine of ten calls go to v1, one to v2, and v3 gets nothing.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: default
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v1}
      weight: 90
    - destination: {host: reviews, subset: v2}
      weight: 10
";

const REVIEWS_AMELIA: &str = "# Routes are tried from top to bottom. Requests that carry the header `end-user: amelia` see v3; everybody else sees v1.
# The front passes the header on, which is all that an application has to do for this.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: default
spec:
  hosts: [reviews]
  http:
  - name: amelia
    match:
    - headers:
        end-user:
          exact: amelia
    route:
    - destination: {host: reviews, subset: v3}
  - name: everybody-else
    route:
    - destination: {host: reviews, subset: v1}
";

const RATINGS_NORMAL: &str = "# Calls to ratings, without anything special. Add a `timeout`, `retries` or a `fault` and see what the callers make of it.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: ratings
  namespace: default
spec:
  hosts: [ratings]
  http:
  - route:
    - destination: {host: ratings}
";

const RATINGS_ABORTS: &str = "# Half of the calls to ratings fail with 500, without ever reaching it: the caller's proxy answers. The reviews are still
# shown, without stars; that the shop survives this is what one tests with it.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: ratings
  namespace: default
spec:
  hosts: [ratings]
  http:
  - fault:
      abort:
        httpStatus: 500
        percentage:
          value: 50
    route:
    - destination: {host: ratings}
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn plan() -> Plan {
        Plan::pick(0).unwrap()
    }

    #[test]
    fn a_fresh_directory_gets_everything_and_nothing_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan();
        let written = write_config(&plan, &dir.path().join("shop")).unwrap();
        assert!(written.kept.is_empty());
        let mut names: Vec<_> = fs::read_dir(&written.layout.rules).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["destination-rules.yaml", "gateway.yaml", "ratings.yaml", "reviews.yaml"]);
        let services = fs::read_to_string(&written.layout.services).unwrap();
        for instance in &plan.instances {
            assert!(services.contains(&format!("name: {}\n", instance.name())));
            assert!(services.contains(&format!("{{http: {}}}", instance.inbound.port())));
            assert!(services.contains(&format!("\"{}\"", instance.app)));
        }
        assert!(
            fs::read_to_string(written.layout.rules.join("gateway.yaml"))
                .unwrap()
                .contains(&format!("number: {} #", plan.gateway.port()))
        );
    }

    #[test]
    fn edited_rules_are_kept_while_ports_follow_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (plan(), plan());
        let layout = write_config(&first, dir.path()).unwrap().layout;
        let edited = fs::read_to_string(layout.rules.join("reviews.yaml")).unwrap().replace("weight: 1", "weight: 7");
        fs::write(layout.rules.join("reviews.yaml"), &edited).unwrap();
        let gateway = fs::read_to_string(layout.rules.join("gateway.yaml")).unwrap() + "# mine\n";
        fs::write(layout.rules.join("gateway.yaml"), &gateway).unwrap();
        let written = write_config(&second, dir.path()).unwrap();
        assert_eq!(written.kept, [layout.rules.join("gateway.yaml"), layout.rules.join("reviews.yaml")]);
        assert_eq!(fs::read_to_string(layout.rules.join("reviews.yaml")).unwrap(), edited);
        let now = fs::read_to_string(layout.rules.join("gateway.yaml")).unwrap();
        assert_eq!(
            now,
            gateway
                .replace(&format!("number: {} ", first.gateway.port()), &format!("number: {} ", second.gateway.port()))
        );
        assert_eq!(fs::read_to_string(&layout.services).unwrap(), services(&second));
    }

    #[test]
    fn each_change_is_one_line_that_a_shell_runs_and_can_be_undone() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan();
        let layout = write_config(&plan, &dir.path().join("it's a shop")).unwrap().layout;
        for change in &TRIES {
            let rule = layout.rules.join(change.to);
            let normal = fs::read_to_string(&rule).unwrap();
            let run = |line: &str| {
                let line = &format!("{} && {line}", layout.enter_command());
                assert!(std::process::Command::new("sh").args(["-c", line]).status().unwrap().success(), "{line}")
            };
            assert!(layout.is_untouched(&plan));
            run(&change.command());
            let changed = fs::read_to_string(&rule).unwrap();
            assert_ne!(changed, normal);
            assert!(!layout.is_untouched(&plan));
            run(&change.undo_command());
            assert_eq!(fs::read_to_string(&rule).unwrap(), normal);
            assert!(layout.is_untouched(&plan));
            layout.apply(change, false).unwrap();
            assert_eq!(fs::read_to_string(&rule).unwrap(), changed);
            layout.apply(change, true).unwrap();
            assert_eq!(fs::read_to_string(&rule).unwrap(), normal);
        }
        fs::write(layout.rules.join("mine.yaml"), "").unwrap();
        assert!(!layout.is_untouched(&plan), "a file of the user's own is kept");
    }
}
