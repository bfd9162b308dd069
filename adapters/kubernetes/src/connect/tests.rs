#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;

fn written(cluster: &str, user: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: 'https://a'{cluster}}}}}], \
         users: [{{name: u, user: {{{user}}}}}], contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}"
    )
}

#[test]
fn a_secrets_kubeconfig_that_runs_or_reads_or_trusts_anything_is_refused_with_what_to_write() {
    for (cluster, user, field, instead) in [
        ("", "exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}", "`exec`", "`token`"),
        ("", "auth-provider: {name: gcp, config: {}}", "`auth-provider`", "`token`"),
        ("", "tokenFile: /etc/shadow", "`tokenFile`", "`token`"),
        ("", "client-certificate: /a", "`client-certificate`", "`client-certificate-data`"),
        ("", "client-key: /a", "`client-key`", "`client-key-data`"),
        (", certificate-authority: /a", "token: t", "`certificate-authority`", "`certificate-authority-data`"),
        (", insecure-skip-tls-verify: true", "token: t", "`insecure-skip-tls-verify`", "`certificate-authority-data`"),
    ] {
        let refused = from_secret("the cluster east", written(cluster, user).as_bytes()).unwrap_err().to_string();
        assert!(refused.contains(field) && refused.contains(instead), "{refused}");
        assert!(refused.contains("the cluster east"), "{refused}");
    }
    assert!(from_secret("east", written("", "token: t").as_bytes()).is_ok());
    assert!(matches!(from_secret("east", b"[1]"), Err(ConnectError::NotKubeconfig { .. })));
}

#[tokio::test]
async fn a_kubeconfig_is_read_again_when_it_or_a_file_that_it_names_has_changed_and_a_bad_one_keeps_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let (path, token) = (folder.path().join("kubeconfig"), folder.path().join("token"));
    let connector = Connector::new(Some(path.clone()), None);
    let none = connector.client().await.err().unwrap();
    assert!(matches!(&*none, ConnectError::Kubeconfig { .. }), "there is none yet");
    std::fs::write(&token, "one").unwrap();
    std::fs::write(&path, written("", &format!("tokenFile: {}", token.display()))).unwrap();
    connector.client().await.unwrap();
    let stamps = |connector: &Connector| connector.inner.lock().client.as_ref().unwrap().stamps.clone();
    let first = stamps(&connector);
    assert!(first.iter().any(|(file, stamp)| *file == token && stamp.is_some()), "{first:?}");
    std::fs::write(&token, "another").unwrap();
    connector.refused();
    connector.client().await.unwrap();
    let second = stamps(&connector);
    assert_ne!(first, second, "the token was read again");
    std::fs::write(&path, "not a kubeconfig").unwrap();
    connector.refused();
    connector.client().await.unwrap();
    assert_eq!(second, stamps(&connector), "the old client stays");
}

#[tokio::test]
async fn a_context_that_is_not_there_and_no_cluster_around_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, written("", "token: t")).unwrap();
    let error = Connector::new(Some(path.clone()), Some("prod".to_owned())).client().await.err().unwrap();
    let text = error.to_string();
    assert!(text.contains("prod") && text.contains(&path.display().to_string()), "{text}");
    let nowhere = Surroundings { home: Some(folder.path().to_owned()), ..Surroundings::default() };
    let connector = Connector::with(From::Files(Files::choose(None, None, &nowhere).unwrap()));
    let text = connector.client().await.err().unwrap().to_string();
    assert!(text.contains("not a pod") && text.contains("kubernetes:KUBECONFIG"), "{text}");
}

/// A kubeconfig with a program that notes that it has begun, and gives credentials when somebody has opened the gate.
struct Program {
    folder: tempfile::TempDir,
    connector: Arc<Connector>,
}

impl Program {
    fn new(patience: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let script = format!(
            "#!/bin/sh\nmkdir {at}/running || echo >> {at}/twice\necho >> {at}/runs\n\
             while ! test -e {at}/gate; do test -d {at} || exit 1; sleep 0.02; done\nrmdir {at}/running\n\
             echo '{{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": {{\"token\": \"t\"}}}}'\n"
        );
        std::fs::write(folder.path().join("script"), script).unwrap();
        let exec = format!(
            "exec: {{apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, args: ['{at}/script']}}"
        );
        std::fs::write(folder.path().join("kubeconfig"), written("", &exec)).unwrap();
        let mut connector = Connector::new(Some(folder.path().join("kubeconfig")), None);
        connector.patience = patience;
        Self { folder, connector: Arc::new(connector) }
    }

    fn ask(&self) -> tokio::task::JoinHandle<Result<Client, Arc<ConnectError>>> {
        let connector = Arc::clone(&self.connector);
        tokio::spawn(async move { connector.client().await })
    }

    fn has(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default().lines().count()
    }

    fn open(&self) {
        std::fs::write(self.folder.path().join("gate"), "").unwrap();
    }
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_program_for_credentials_runs_once_for_all_who_ask_and_holds_up_nobody_else() {
    let program = Program::new(LONG);
    let asking: Vec<_> = (0..5).map(|_| program.ask()).collect();
    // This thread is the only one: it goes on while the program waits.
    xebec_testkit::eventually(LONG, "the program runs", async || program.has("running")).await;
    program.open();
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
    let together = program.runs();
    let alone = Program::new(LONG);
    alone.open();
    alone.ask().await.unwrap().unwrap();
    assert_eq!(together, alone.runs(), "as often as for one");
    assert!(!program.has("twice"));
}

#[tokio::test]
async fn a_program_that_does_not_end_is_said_and_its_credentials_are_used_when_they_come() {
    let program = Program::new(Duration::from_millis(200));
    for _ in 0..3 {
        let error = program.ask().await.unwrap().err().unwrap();
        assert!(matches!(&*error, ConnectError::Slow { .. }), "{error}");
    }
    assert!(!program.has("twice"), "it is not started again while it runs");
    program.open();
    xebec_testkit::eventually(LONG, "the credentials are used", async || {
        program.connector.inner.lock().client.is_some()
    })
    .await;
    program.ask().await.unwrap().unwrap();
}

#[tokio::test]
async fn credentials_that_were_replaced_while_a_client_was_made_do_not_come_back() {
    let program = Program::new(LONG);
    let asked = program.ask();
    xebec_testkit::eventually(LONG, "the program runs", async || program.has("running")).await;
    program.connector.replace("another", from_secret("another", written("", "token: t").as_bytes()).unwrap());
    program.open();
    asked.await.unwrap().unwrap();
    let inner = program.connector.inner.lock();
    assert_eq!(inner.from.place(), "another");
    assert!(inner.client.as_ref().unwrap().stamps.is_empty(), "the client is that of the new credentials");
}
