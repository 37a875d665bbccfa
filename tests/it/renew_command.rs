//! The command that keeps a creds file fresh, as the binary, against a real cluster.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use async_nats::{ConnectOptions, connection::State};
use nats_authority::{
    authority::{
        Issued,
        requests::{NewCredential, Rotate},
    },
    dev::process::{Process, Signal},
    jwt::{self, creds, envelope},
};

use crate::support::{
    self,
    deployment::PROGRAM,
    stack::{Stack, eventually},
};

async fn issue(stack: &Stack, ttl: &str) -> Issued {
    let request = NewCredential {
        name: "app".to_owned(),
        role: "publisher".to_owned(),
        ttl: Some(ttl.to_owned()),
        ..NewCredential::default()
    };
    stack.authority.issue(&stack.actor, &"acme".parse().unwrap(), &"prod".parse().unwrap(), request).await.unwrap()
}

fn iat(path: &Path) -> i64 {
    let (token, _) = creds::parse(&fs::read_to_string(path).unwrap()).unwrap();
    envelope::decode::<jwt::User>(&token).unwrap().claims.issued_at.unwrap()
}

/// Runs `renew` once: exit code, standard output, standard error.
fn renew(creds: &Path, server: &str) -> (i32, String, String) {
    let output = Command::new(PROGRAM).args(["renew", "--server", server, "--creds"]).arg(creds).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_kept_fresh_and_its_client_goes_on_behind_the_end_of_the_first_jwt() {
    let stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let dir = support::temp_dir();
    let file = dir.path().join("real.creds");
    let issued = issue(&stack, "9s").await;
    let seed = issued.creds.as_ref().unwrap().lines().find(|line| line.starts_with("SU")).unwrap().to_owned();
    fs::write(&file, issued.creds.as_ref().unwrap()).unwrap();
    // As secrets are mounted: the name is a link.
    let link = dir.path().join("app.creds");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let first = iat(&file);

    let url = stack.cluster.servers()[0].url();
    let log = dir.path().join("renew.log");
    let mut command = Command::new(PROGRAM);
    command.args(["renew", "--watch", "--server", &stack.cluster.urls().join(","), "--creds"]).arg(&link);
    let mut process = Process::spawn("renew", command, &log, Signal::TERM).unwrap();
    // A client that reads the file at each connection, as official clients do.
    let read = file.clone();
    let client = ConnectOptions::with_auth_callback(move |nonce| {
        // Gone when the test ends while it reconnects.
        let text = fs::read_to_string(&read).map_err(async_nats::AuthError::new);
        async move {
            let (token, seed) = creds::parse(&text?).unwrap();
            let mut auth = async_nats::Auth::new();
            auth.signature = Some(seed.key_pair().sign(&nonce).to_vec());
            auth.jwt = Some(token);
            Ok(auth)
        }
    })
    .custom_inbox_prefix(issued.credential.inbox_prefix.clone())
    .connect(url)
    .await
    .unwrap();
    let connected = client.statistics();
    let js = async_nats::jetstream::new(client.clone());
    js.publish("ws.acme-prod.a", "x".into()).await.unwrap().await.unwrap();

    eventually("renewed twice", || async { iat(&file) >= first + 9 }).await;
    eventually("the client came back with the new JWT", || async {
        connected.connects.load(std::sync::atomic::Ordering::Relaxed) >= 2
            && client.connection_state() == State::Connected
    })
    .await;
    js.publish("ws.acme-prod.a", "y".into()).await.unwrap().await.unwrap();
    process.expect_running().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let status = process.stop(Signal::TERM, std::time::Duration::from_secs(10)).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.lines().filter(|line| line.starts_with("app renewed, until ")).count() >= 2, "{said}");
    assert!(!said.contains(&seed) && !said.contains("eyJ"), "nothing of the file is said");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_says_what_it_did_and_ends_accordingly() {
    let stack = Stack::start(1).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let dir = support::temp_dir();
    let file = dir.path().join("app.creds");
    let issued = issue(&stack, "1h").await;
    fs::write(&file, issued.creds.as_ref().unwrap()).unwrap();
    let url = stack.cluster.servers()[0].url();
    eventually("the service answers", || async { renew(&file, &url).0 == 0 }).await;
    let (code, said, _) = renew(&file, &url);
    assert_eq!(code, 0);
    assert!(said.starts_with("app is fresh, until "), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), **issued.creds.as_ref().unwrap(), "nothing to write");

    stack.authority.rotate(&stack.actor, issued.credential.id, Rotate::default()).await.unwrap();
    let (code, _, words) = renew(&file, &url);
    assert_eq!(code, 1);
    assert!(words.starts_with("error[credential-superseded]: "), "{words}");

    let (code, _, words) = renew(&file, "nats://127.0.0.1:1");
    assert_eq!(code, 3, "{words}");
    assert!(words.starts_with("error[nats-connect]: "), "{words}");
    fs::write(&file, "nothing").unwrap();
    let (code, _, words) = renew(&file, &url);
    assert!(code == 1 && words.starts_with("error[invalid-creds]: "), "{words}");
    let short = issue(&stack, "1s").await;
    fs::write(&file, short.creds.as_ref().unwrap()).unwrap();
    eventually("its end", || async { renew(&file, &url).2.starts_with("error[credential-expired]: ") }).await;
}
