//! HTTPS by configuration: the service speaks TLS with the files that it is given, and only then.

use std::{fs, process::Command, time::Duration};

use nats_authority::dev::process::{Process, Signal};

use crate::support;

#[tokio::test(flavor = "multi_thread")]
async fn the_api_speaks_tls_with_the_configured_files() {
    let database = support::database().await;
    let dir = support::temp_dir();
    let binary = env!("CARGO_BIN_EXE_nats-authority");
    let operator = dir.path().join("operator");
    let made = Command::new(binary).args(["init", "--offline", "--dir"]).arg(&operator).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(operator.join("tls.pem"), certified.cert.pem()).unwrap();
    fs::write(operator.join("tls.key"), certified.signing_key.serialize_pem()).unwrap();
    fs::write(operator.join("database.url"), database.url()).unwrap();
    let config = operator.join("tls.toml");
    // No server is there: the service starts all the same, and is not ready.
    let text = "bundle = 'bundle.json'\nnats.urls = ['nats://127.0.0.1:1']\nsealing.key_files = ['sealing.key']\n\
                database.url_file = 'database.url'\n[http]\nlisten = '127.0.0.1:0'\nurl_file = 'api.url'\n\
                tls_certificate = 'tls.pem'\ntls_key = 'tls.key'\n";
    fs::write(&config, text).unwrap();
    let mut command = Command::new(binary);
    command.arg("serve").arg("--config").arg(&config);
    let mut service = Process::spawn("serve", command, &dir.path().join("log"), Signal::KILL).unwrap();
    let url = loop {
        service.expect_running().unwrap();
        match fs::read_to_string(operator.join("api.url")) {
            Ok(url) => break url,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let port = url.strip_prefix("https://127.0.0.1:").expect("an https URL").to_owned();
    let certificate = reqwest::Certificate::from_pem(certified.cert.pem().as_bytes()).unwrap();
    let trusting = reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap();
    let health = trusting.get(format!("https://localhost:{port}/healthz")).send().await.unwrap();
    assert!(health.status().is_success());
    let ready = trusting.get(format!("https://localhost:{port}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503, "no server answers");

    // A certificate is replaced under the running service, one file after the other.
    let renewed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let trusts = |certificate: &rcgen::Certificate| {
        let certificate = reqwest::Certificate::from_pem(certificate.pem().as_bytes()).unwrap();
        // No connection is kept, so that each request shakes hands.
        reqwest::Client::builder().tls_certs_only([certificate]).pool_max_idle_per_host(0).build().unwrap()
    };
    let (old, new) = (trusts(&certified.cert), trusts(&renewed.cert));
    let health = format!("https://localhost:{port}/healthz");
    fs::write(operator.join("tls.pem"), renewed.cert.pem()).unwrap();
    assert!(old.get(&health).send().await.is_ok() && new.get(&health).send().await.is_err());
    fs::write(operator.join("tls.key"), renewed.signing_key.serialize_pem()).unwrap();
    support::stack::eventually("the new certificate is in use", || async {
        new.get(&health).send().await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    assert!(old.get(&health).send().await.is_err(), "the old certificate is gone");

    let strangers = reqwest::Client::new();
    assert!(strangers.get(format!("https://localhost:{port}/healthz")).send().await.is_err(), "an unknown authority");
    assert!(strangers.get(format!("http://localhost:{port}/healthz")).send().await.is_err(), "no plain HTTP there");
}
