//! Which cluster is meant, and whose credentials are used. One rule for everybody who reads or writes there:
//!
//! 1. A file that was named is the kubeconfig.
//! 2. Without one, a pod with a service account reads its own cluster.
//! 3. Everything else uses what `kubectl` uses: the files of `KUBECONFIG`, else `~/.kube/config`. So does a pod when a context was named,
//!    because only a kubeconfig has contexts.
//!
//! - ALWAYS: a context that was named is used, or it is said that it is not there.
//! - NEVER: a running process moves to another cluster because somebody chose another current context.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::connect::ConnectError;

/// Kubeconfig files, and which of their contexts.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// All of them are merged, and of one name the first counts.
    pub(crate) paths: Vec<PathBuf>,
    /// Why they are used; `None`: they were named, and have to be there.
    reason: Option<String>,
    context: Option<String>,
    /// The current context when they were first used.
    first: Arc<OnceLock<String>>,
}

/// What of a process decides when no file was named.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// There is a service account, and it is known where its API server is.
    pub(crate) pod: bool,
    /// `KUBECONFIG`
    pub(crate) kubeconfig: Option<OsString>,
    pub(crate) home: Option<PathBuf>,
}

/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

// === impl Surroundings ===

impl Surroundings {
    /// Those of this process.
    pub(crate) fn here() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let server = set("KUBERNETES_SERVICE_HOST").is_some() && set("KUBERNETES_SERVICE_PORT").is_some();
        let account = ["token", "ca.crt"].iter().all(|file| Path::new(ACCOUNT).join(file).exists());
        Self { pod: server && account, kubeconfig: set("KUBECONFIG"), home: std::env::home_dir() }
    }

    /// The files that `kubectl` would read.
    fn files(&self) -> Vec<PathBuf> {
        let listed = self.kubeconfig.iter().flat_map(std::env::split_paths);
        let listed: Vec<PathBuf> = listed.filter(|path| !path.as_os_str().is_empty()).collect();
        if listed.is_empty() { self.home.iter().map(|home| home.join(".kube/config")).collect() } else { listed }
    }
}

// === impl Files ===

impl Files {
    /// The files that are meant; `None` is the pod's service account.
    pub(crate) fn choose(path: Option<PathBuf>, context: Option<String>, around: &Surroundings) -> Option<Self> {
        let (paths, reason) = match (path, &context) {
            (Some(path), _) => (vec![path], None),
            (None, None) if around.pod => return None,
            (None, None) => (around.files(), Some("this is not a pod with a service account".to_owned())),
            (None, Some(context)) => (around.files(), Some(format!("the context {context} was asked for"))),
        };
        Some(Self { paths, reason, context, first: Arc::default() })
    }

    /// How they are written on the command line.
    pub(crate) fn place(&self) -> String {
        let mut place = match &*self.paths {
            [] => "~/.kube/config".to_owned(),
            paths => paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":"),
        };
        if let Some(context) = self.context.as_ref().or(self.first.get()) {
            place.push('#');
            place.push_str(context);
        }
        place
    }

    /// Reads them, as they are now.
    ///
    /// # Errors
    /// [`ConnectError`]: there is none, or one is none.
    pub(crate) fn read(&self) -> Result<(Kubeconfig, KubeConfigOptions), ConnectError> {
        let mut present = self.paths.iter().filter(|path| self.reason.is_none() || path.exists()).peekable();
        if let (Some(why), None) = (&self.reason, present.peek()) {
            return Err(ConnectError::Nowhere { why: why.clone(), place: self.place() });
        }
        let merged = present.try_fold(Kubeconfig::default(), |all, path| all.merge(Kubeconfig::read_from(path)?));
        let kubeconfig =
            merged.map_err(|source| ConnectError::Kubeconfig { place: self.place(), source: Box::new(source) })?;
        let context = self.context.as_ref().or(self.first.get()).or(kubeconfig.current_context.as_ref()).cloned();
        Ok((kubeconfig, KubeConfigOptions { context, ..KubeConfigOptions::default() }))
    }

    /// These options led to a server: from now on it is their context.
    pub(crate) fn used(&self, options: KubeConfigOptions) {
        if let Some(context) = options.context {
            self.first.get_or_init(|| context);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// What is chosen, as on the command line.
    fn chosen(path: &str, context: &str, around: &Surroundings) -> String {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let files = Files::choose(some(path).map(PathBuf::from), some(context), around);
        files.map_or_else(|| "service account".to_owned(), |files| files.place())
    }

    #[test]
    fn a_named_file_comes_first_then_the_pods_account_then_what_kubectl_uses() {
        let user = Surroundings { pod: false, kubeconfig: None, home: Some("/home/a".into()) };
        let listed = Surroundings { kubeconfig: Some("/one::/two".into()), ..user.clone() };
        let pod = Surroundings { pod: true, ..listed.clone() };
        for around in [&user, &listed, &pod] {
            assert_eq!(chosen("/k", "", around), "/k");
            assert_eq!(chosen("/k", "prod", around), "/k#prod");
        }
        assert_eq!(chosen("", "", &pod), "service account");
        assert_eq!(chosen("", "prod", &pod), "/one:/two#prod", "only a kubeconfig has contexts");
        assert_eq!(chosen("", "", &listed), "/one:/two");
        assert_eq!(chosen("", "", &user), "/home/a/.kube/config");
        assert_eq!(chosen("", "prod", &user), "/home/a/.kube/config#prod");
        assert_eq!(chosen("", "", &Surroundings::default()), "~/.kube/config");
    }

    fn write(path: &Path, current: &str, names: &[&str]) {
        let each = |entry: &dyn Fn(&str) -> String| names.iter().map(|name| entry(name)).collect::<Vec<_>>().join(", ");
        let contexts = each(&|name| format!("{{name: {name}, context: {{cluster: {name}, user: u}}}}"));
        let clusters = each(&|name| format!("{{name: {name}, cluster: {{server: 'https://{name}'}}}}"));
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: {current}, contexts: [{contexts}], clusters: [{clusters}]}}"
        );
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn files_of_kubectl_are_merged_where_they_are_there_and_a_missing_named_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two, none) = (folder.path().join("one"), folder.path().join("two"), folder.path().join("none"));
        write(&one, "a", &["a"]);
        write(&two, "b", &["b"]);
        let kubeconfig = Some(std::env::join_paths([&none, &one, &two]).unwrap());
        let around = Surroundings { kubeconfig, ..Surroundings::default() };
        let (merged, options) = Files::choose(None, None, &around).unwrap().read().unwrap();
        assert_eq!((merged.contexts.len(), options.context.as_deref()), (2, Some("a")));
        let (_, options) = Files::choose(None, Some("b".to_owned()), &around).unwrap().read().unwrap();
        assert_eq!(options.context.as_deref(), Some("b"));
        let error = Files::choose(Some(none.clone()), None, &around).unwrap().read().err().unwrap().to_string();
        assert!(error.contains(&none.display().to_string()), "{error}");
        let around = Surroundings { kubeconfig: Some(none.into()), ..around };
        let error = Files::choose(None, None, &around).unwrap().read().err().unwrap().to_string();
        assert!(error.contains("not a pod") && error.contains("kubernetes:KUBECONFIG"), "{error}");
    }

    #[test]
    fn another_current_context_moves_nobody_who_already_uses_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        write(&path, "a", &["a", "b"]);
        let files = Files::choose(Some(path.clone()), None, &Surroundings::default()).unwrap();
        let (_, options) = files.read().unwrap();
        files.clone().used(options);
        write(&path, "b", &["a", "b"]);
        let (_, options) = files.read().unwrap();
        assert_eq!(options.context.as_deref(), Some("a"));
        assert!(files.place().ends_with("config#a"), "{}", files.place());
    }
}
