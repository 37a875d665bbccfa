//! `/docs` in a real browser that reaches no other host: what a person sees there, and that a request which is
//! tried there reaches the service.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use nats_authority::dev::process::Signal;
use serde_json::{Value, json};

use crate::{
    interop::{self, run},
    support::{self, deployment::Deployment},
};

const FILES: &[(&str, &str)] = &[
    ("package.json", include_str!("../docs/package.json")),
    ("package-lock.json", include_str!("../docs/package-lock.json")),
    ("page.mjs", include_str!("../docs/page.mjs")),
];

/// The browser, pinned with hashes, unpacked and started once. It has to be had: this is no test that may be left out.
fn installed() -> PathBuf {
    let install = |dir: &Path| {
        run("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], dir, "")?;
        run("node", &["page.mjs"], dir, "").map(drop)
    };
    interop::installed("docs", FILES, install)
        .unwrap_or_else(|why| panic!("there is no browser (Node 20 or newer, npm's registry; or CHROMIUM=…): {why}"))
}

/// What the script saw.
fn visit(browser: &Path, port: u16, token: &str) -> Value {
    let mut command = Command::new("node");
    command.current_dir(browser).arg("page.mjs").arg(port.to_string()).env("TOKEN", token);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_can_read_and_try_the_api_in_a_browser() {
    let installing = tokio::task::spawn_blocking(installed);
    let folder = support::open_dir();
    let mut dev = Deployment::start(&folder.path().join("state"), &["--nodes", "1"]).await;
    let token = std::fs::read_to_string(dev.text("/tokenFile")).unwrap();
    let port = url::Url::parse(dev.text("/apiUrl")).unwrap().port().unwrap();
    let (_, document) = dev.http.get("/openapi.json").await;
    let browser = installing.await.unwrap();
    let seen = tokio::task::spawn_blocking(move || visit(&browser, port, token.trim())).await.unwrap();

    let requests: Vec<_> = seen["requests"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    let own = format!("http://authority.example:{port}/");
    assert!(requests.len() > 5 && requests.iter().all(|url| url.starts_with(&own)), "{requests:#?}");
    // The browser says so where it was refused; it has nothing else to complain of.
    let messages = seen["messages"].as_array().unwrap();
    assert!(messages.len() == 1 && messages[0].as_str().unwrap().contains("401"), "{messages:#?}");

    assert_eq!(seen["title"], "nats-authority");
    let listed: BTreeSet<_> = seen["operations"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let paths = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    assert_eq!(listed, paths.map(|operation| operation["operationId"].as_str().unwrap()).collect());

    let answer = |name: &str| (seen[name]["status"].as_u64().unwrap(), seen[name]["body"].as_str().unwrap());
    let (status, body) = answer("refused");
    assert!(status == 401 && body.contains("unauthenticated"), "{body}");
    let (status, body) = answer("listed");
    assert!(status == 200 && body.contains("nextCursor"), "{body}");
    // What the page proposes is taken as it stands, and done.
    let (status, body) = answer("onboarded");
    let (_, acme) = dev.http.get("/api/v1/orgs/acme").await;
    assert!(status == 201 && body.contains(acme["accountId"].as_str().unwrap()), "{status} {body}");
    let environments = acme["environments"].as_array().unwrap();
    assert_eq!(environments.iter().map(|env| &env["envType"]).collect::<Vec<_>>(), [&json!("dev"), &json!("prod")]);
    assert_eq!(dev.end(Signal::INT).await, Some(0));
}
