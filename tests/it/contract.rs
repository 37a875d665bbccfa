//! `schemathesis` reads the OpenAPI document and tries everything that it says against a running
//! deployment, as three callers: with the examples, at the edges, at random, and along the links from what
//! makes something to what uses it. No check is left out; what is no fault all the same stands, with its
//! reason, in `tests/api/`.

#![expect(clippy::print_stdout, reason = "shows what the service logged of a request that went wrong")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use nats_authority::dev::process::Signal;
use serde_json::json;

use crate::{
    interop::{self, PYTHON, run},
    support::{self, deployment::Deployment, http::Http, knobs, stack::eventually},
};

const FILES: &[(&str, &str)] = &[
    ("requirements.txt", include_str!("../api/requirements.txt")),
    ("schemathesis.toml", include_str!("../api/schemathesis.toml")),
    ("hooks.py", include_str!("../api/hooks.py")),
];

/// How many random requests each operation gets, besides its examples and its edges.
const CASES: u64 = 5;

/// Role, and how many of the document's operations have to have answered it with what was asked for: a run in
/// which everything is refused proves little.
const CALLERS: [(&str, usize); 3] = [("org-viewer", 15), ("org-admin", 22), ("sovereign-admin", 45)];

/// Schemathesis and what it needs, pinned with hashes. It has to be had: this is no test that may be left out.
fn installed() -> PathBuf {
    let install = |dir: &Path| {
        run("python3", &["-m", "venv", "--clear", "venv"], dir, "")?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"];
        run(dir.join(PYTHON), &[&pip[..], &["--requirement", "requirements.txt"]].concat(), dir, "").map(drop)
    };
    interop::installed("contract", FILES, install)
        .unwrap_or_else(|why| panic!("schemathesis cannot be installed (Python 3.11 or newer, PyPI): {why}"))
}

/// One of those who call.
struct Caller {
    role: &'static str,
    id: String,
    token: String,
    /// How many operations have to have answered it.
    reaches: usize,
}

impl Caller {
    /// Makes its token over the API.
    async fn make(admin: &Http, role: &'static str, reaches: usize) -> Self {
        let mut wanted = json!({"name": format!("contract-{role}"), "role": role, "ttl": "1h"});
        if role.starts_with("org-") {
            wanted["organizations"] = json!(["acme"]);
        }
        let (status, made) = admin.post("/api/v1/tokens", wanted).await;
        assert_eq!(status, 201, "{made}");
        let text = |pointer: &str| made.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        Self { role, id: text("/token/id"), token: text("/secret"), reaches }
    }
}

/// A run of schemathesis as one caller.
struct Run<'a> {
    tool: &'a Path,
    url: &'a str,
    caller: &'a Caller,
    /// The ids of all tokens that the run must not revoke.
    spared: &'a str,
    /// Where it writes each answer down.
    answers: PathBuf,
    seed: u64,
}

impl Run<'_> {
    fn carry_out(&self) {
        let role = self.caller.role;
        let cases = knobs::number("API_CASES", CASES).to_string();
        let mut command = Command::new(self.tool.join(PYTHON));
        command.current_dir(self.tool).args(["venv/bin/schemathesis", "--no-color", "--config-file"]);
        command.args(["schemathesis.toml", "run", &format!("{}/openapi.json", self.url), "--checks", "all"]);
        command.args(["--continue-on-failure", "--generation-database", "none", "--seed", &self.seed.to_string()]);
        command.args(["--max-examples", &cases]);
        command.env("CALLER_TOKEN", &self.caller.token).env("SPARED_TOKENS", self.spared).env("ANSWERS", &self.answers);
        let output = command.output().unwrap();
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{role}: {report}{}", String::from_utf8_lossy(&output.stderr));
        // It has to have come to what it tries: nothing is left out.
        for phase in ["Examples", "Coverage", "Fuzzing", "Stateful"] {
            let passed = report.lines().any(|line| line.contains(phase) && line.contains('\u{2705}'));
            assert!(passed, "{role}: {phase}: {report}");
        }
        let figures = report.lines().filter(|line| line.contains(" generated, ") || line.contains("API Links"));
        let figures: Vec<_> = figures.map(str::trim).collect();
        self.judge(&figures.join("; "));
    }

    /// What was answered, as the hooks wrote it down: method, path of the document, status.
    fn judge(&self, figures: &str) {
        let role = self.caller.role;
        let answers = fs::read_to_string(&self.answers).unwrap();
        let answers: Vec<Vec<_>> = answers.lines().map(|line| line.split(' ').collect()).collect();
        let broken: Vec<_> = answers.iter().filter(|answer| answer[2].starts_with('5')).collect();
        assert!(broken.is_empty(), "{role}: {broken:?}");
        let done = answers.iter().filter(|answer| answer[2].starts_with('2'));
        let done: BTreeSet<_> = done.map(|answer| (answer[0], answer[1])).collect();
        // Past the capture of what tests print: a run is repeated with its seed.
        let (seed, reached, sent) = (self.seed, done.len(), answers.len());
        let words = format!("API_SEED={seed} {role}: {sent} requests, {reached} operations done; {figures}");
        let _ = writeln!(std::io::stderr(), "{words}");
        assert!(reached >= self.caller.reaches, "{words}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_true() {
    let installing = tokio::task::spawn_blocking(installed);
    let folder = support::open_dir();
    let mut dev = Deployment::start(&folder.path().join("state"), &["--nodes", "1"]).await;
    // The organization of the document's examples, and one that may be ended in its place.
    for slug in ["acme", "spare"] {
        let (status, made) =
            dev.http.post("/api/v1/orgs", json!({"slug": slug, "environments": ["prod", "dev"]})).await;
        assert_eq!(status, 201, "{made}");
    }
    let mut callers = Vec::new();
    for (role, reaches) in CALLERS {
        callers.push(Caller::make(&dev.http, role, reaches).await);
    }
    let (tool, url) = (installing.await.unwrap(), dev.text("/apiUrl").to_owned());
    let (seed, dir) = (knobs::number("API_SEED", 1), folder.path().to_owned());
    let ran = tokio::task::spawn_blocking(move || {
        let spared: Vec<_> = callers.iter().map(|caller| caller.id.as_str()).collect();
        let spared = spared.join(" ");
        // Whoever changes least comes first.
        for caller in &callers {
            let answers = dir.join(caller.role);
            Run { tool: &tool, url: &url, caller, spared: &spared, answers, seed }.carry_out();
        }
        (callers, url)
    })
    .await;
    let log = || fs::read_to_string(dev.text("/service/log")).unwrap();
    if ran.is_err() {
        let told = |line: &&str| ["\"WARN\"", "\"ERROR\"", "\"status\":50"].iter().any(|what| line.contains(what));
        println!("{}", log().lines().filter(told).collect::<Vec<_>>().join("\n"));
    }
    let (callers, url) = ran.unwrap();

    // All of it was meant: who asked is still known, the log is whole, and the servers have everything.
    for caller in callers {
        assert_eq!(Http::new(&url, &caller.token).get("/api/v1/plans").await.0, 200, "{}", caller.role);
    }
    eventually("the servers have it all", || async {
        dev.http.get("/api/v1/resolver").await.1["state"] == json!("converged")
    })
    .await;
    let (status, verified) = dev.http.get("/api/v1/audit/verify").await;
    assert_eq!((status, &verified["intact"]), (200, &json!(true)), "{verified}");
    let log = log();
    let ours = |line: &&str| line.contains("\"ERROR\"") && line.contains("\"target\":\"nats_authority");
    let errors: Vec<_> = log.lines().filter(ours).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!(dev.end(Signal::INT).await, Some(0));
}
