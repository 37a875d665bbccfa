//! The official JavaScript and Python libraries judge what we sign and work with what we issue.
//! Where Node, Python or their registries are missing, this says so and passes.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nats_authority::authority::requests::Rotate;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::support::{
    http::Http,
    stack::{Stack, eventually},
};

#[path = "../../examples/renew/main.rs"]
#[expect(dead_code, reason = "its main function is not called here")]
mod example;

const FILES: &[(&str, &str)] = &[
    ("package.json", include_str!("../interop/package.json")),
    ("package-lock.json", include_str!("../interop/package-lock.json")),
    ("build.txt", include_str!("../interop/build.txt")),
    ("requirements.txt", include_str!("../interop/requirements.txt")),
    ("check-jwts.mjs", include_str!("../interop/check-jwts.mjs")),
    ("use-creds.mjs", include_str!("../interop/use-creds.mjs")),
    ("use_creds.py", include_str!("../interop/use_creds.py")),
    ("renew.mjs", include_str!("../../examples/renew/renew.mjs")),
    ("renew.py", include_str!("../../examples/renew/renew.py")),
    ("roles.mjs", include_str!("../interop/roles.mjs")),
    ("roles.py", include_str!("../interop/roles.py")),
];

/// A folder below the target folder in which `install` has succeeded once for these files; else its words.
pub fn installed(
    name: &str,
    files: &[(&str, &str)],
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).unwrap();
    // Several test processes may come here at once.
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let wanted: String = files.iter().map(|(_, text)| *text).collect();
    let stamp = dir.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(dir);
    }
    for (file, text) in files {
        fs::write(dir.join(file), text).unwrap();
    }
    install(&dir)?;
    fs::write(stamp, wanted).unwrap();
    Ok(dir)
}

/// The same, or a word that something is left out.
fn optional(name: &str, install: impl FnOnce(&Path) -> Result<(), String>) -> Option<PathBuf> {
    let found = installed(name, FILES, install);
    if let Err(why) = &found {
        // Past the capture of what tests print: that something was left out has to be seen.
        let _ = writeln!(std::io::stderr(), "skipped: {name}: {}", why.lines().next().unwrap_or_default());
    }
    found.ok()
}

/// Runs a program of the machine; its words when it fails.
pub fn run(program: impl AsRef<Path>, arguments: &[&str], dir: &Path, input: &str) -> Result<String, String> {
    let program = program.as_ref();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    // A program that does not read it closes it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{} {}: {} {}", program.display(), arguments[0], text(&output.stderr), text(&output.stdout)))
    }
}

/// Where the JavaScript libraries and scripts are, if they could be had.
pub fn javascript() -> Option<PathBuf> {
    optional("interop-js", |dir| {
        run("node", &["--version"], dir, "")?;
        run("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], dir, "").map(drop)
    })
}

/// The interpreter in what [`python`] installed.
pub const PYTHON: &str = "venv/bin/python";

/// As [`javascript`], for Python.
pub fn python() -> Option<PathBuf> {
    optional("interop-py", |dir| {
        run("python3", &["-m", "venv", "--clear", "venv"], dir, "")?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"];
        // Nothing is fetched without a hash: also not what builds a package that comes as source.
        for more in
            [&["--requirement", "build.txt"][..], &["--no-build-isolation", "--requirement", "requirements.txt"]]
        {
            run(dir.join(PYTHON), &[&pip[..], more].concat(), dir, "")?;
        }
        Ok(())
    })
}

/// Every kind of JWT that there is.
async fn tokens(stack: &Stack, http: &Http, acme: &Value) -> Vec<String> {
    let store = stack.authority.store();
    let account = acme["accountId"].as_str().unwrap().parse().unwrap();
    let mut tokens = vec![stack.authority.operator().jwt.clone(), stack.trust.system_account_jwt.clone()];
    tokens.push(store.account_jwt(account).await.unwrap().unwrap());
    tokens.push(store.account_jwt(stack.authority.platform().unwrap()).await.unwrap().unwrap());
    for role in ["publisher", "consumer", "projector", "viewer", "env-admin"] {
        let issued = http.issue("acme", "prod", json!({"name": role, "role": role})).await;
        tokens.push(issued["jwt"].as_str().unwrap().to_owned());
    }
    let restricted = json!({
        "name": "restricted", "role": "viewer", "ttl": "1h", "tags": ["team:a"],
        "allowedCidrs": ["127.0.0.0/8", "::1/128"], "connectionTypes": ["STANDARD"],
    });
    let restricted = http.issue("acme", "prod", restricted).await;
    tokens.push(restricted["jwt"].as_str().unwrap().to_owned());
    let (_, system) = http.post("/api/v1/operator/system-credentials", json!({"name": "tools", "ttl": "15m"})).await;
    tokens.push(nats_authority::jwt::creds::parse(system["creds"].as_str().unwrap()).unwrap().0);
    // With a revocation in it, then closed.
    let id = restricted["credential"]["id"].as_str().unwrap();
    http.post(&format!("/api/v1/credentials/{id}/revoke"), json!({})).await;
    tokens.push(store.account_jwt(account).await.unwrap().unwrap());
    http.post("/api/v1/orgs/acme/suspend", json!({})).await;
    tokens.push(store.account_jwt(account).await.unwrap().unwrap());
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_libraries_take_what_we_sign_and_issue() {
    let installing = (tokio::task::spawn_blocking(javascript), tokio::task::spawn_blocking(python));
    let stack = Stack::start(1).await;
    let http = stack.serve().await;
    let acme = http.onboard("acme", &["prod", "dev"]).await;
    let issued = http.issue("acme", "prod", json!({"name": "app", "role": "env-admin"})).await;
    let dir = crate::support::temp_dir();
    let creds = dir.path().join("app.creds");
    fs::write(&creds, issued["creds"].as_str().unwrap()).unwrap();
    let url = stack.cluster.urls().remove(0);
    let inbox = issued["credential"]["inboxPrefix"].as_str().unwrap();
    let arguments = [&url, creds.to_str().unwrap(), inbox, "acme-prod", "acme-dev"];
    let (javascript, python) = (installing.0.await.unwrap(), installing.1.await.unwrap());
    std::thread::scope(|scope| {
        if let Some(dir) = &javascript {
            let script = [&["use-creds.mjs"], &arguments[..]].concat();
            scope.spawn(move || assert_eq!(run("node", &script, dir, "").as_deref(), Ok("held")));
        }
        if let Some(dir) = &python {
            let script = [&["use_creds.py"], &arguments[..]].concat();
            scope.spawn(move || assert_eq!(run(dir.join(PYTHON), &script, dir, "").as_deref(), Ok("held")));
        }
    });
    if let Some(dir) = &javascript {
        let tokens = tokens(&stack, &http, &acme).await;
        let verdict = run("node", &["check-jwts.mjs"], dir, &tokens.join("\n"));
        assert_eq!(verdict, Ok(format!("{} tokens checked, 0 refused", tokens.len())));
    }
}

/// The examples of `examples/renew`, which know nothing of ours.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_renew_a_creds_file() {
    let installing = (tokio::task::spawn_blocking(javascript), tokio::task::spawn_blocking(python));
    let stack = Stack::start(1).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let dir = crate::support::temp_dir();
    let url = stack.cluster.urls().remove(0);
    let (javascript, python) = (installing.0.await.unwrap(), installing.1.await.unwrap());
    let issue = async |name: &str| {
        let issued = stack.issue("acme", "prod", "publisher").await;
        let file = dir.path().join(format!("{name}.creds"));
        fs::write(&file, issued.creds.as_ref().unwrap().as_str()).unwrap();
        (issued, file.to_str().unwrap().to_owned())
    };
    let age = async |issued: &nats_authority::authority::Issued| {
        let mut database = sqlx::PgConnection::connect(stack.database.url()).await.unwrap();
        let sql = "UPDATE credentials SET issued_at = issued_at - interval '1 hour' WHERE id = $1";
        sqlx::query(sql).bind(issued.credential.id).execute(&mut database).await.unwrap();
    };
    let renewed = |issued: &nats_authority::authority::Issued, file: &str| {
        let (token, seed) = nats_authority::jwt::creds::parse(&fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(seed.key_pair().public().to_string(), issued.credential.user_key);
        assert_ne!(token, issued.jwt, "{file}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    };

    let (issued, file) = issue("rust").await;
    eventually("the service answers", || async { example::renew(&url, &file).await.is_ok() }).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), issued.creds.as_ref().unwrap().as_str(), "still fresh");
    age(&issued).await;
    example::renew(&url, &file).await.unwrap();
    renewed(&issued, &file);
    // What it wrote is a creds file that the next one reads.
    example::renew(&url, &file).await.unwrap();

    let mut scripts = Vec::new();
    scripts.extend(javascript.map(|dir| (PathBuf::from("node"), "renew.mjs", dir)));
    scripts.extend(python.map(|dir| (dir.join(PYTHON), "renew.py", dir)));
    for (program, script, dir) in scripts {
        let (issued, file) = issue(script).await;
        age(&issued).await;
        run(&program, &[script, &url, &file], &dir, "").unwrap();
        renewed(&issued, &file);
        stack.authority.rotate(&stack.actor, newest(&stack, &issued).await, Rotate::default()).await.unwrap();
        let words = run(&program, &[script, &url, &file], &dir, "").unwrap_err();
        assert!(words.contains("credential-superseded: "), "{words}");
    }
}

/// The credential that a renewal made of another one.
async fn newest(stack: &Stack, issued: &nats_authority::authority::Issued) -> uuid::Uuid {
    let mut database = sqlx::PgConnection::connect(stack.database.url()).await.unwrap();
    let sql = "SELECT id FROM credentials WHERE replaces = $1";
    sqlx::query_scalar(sql).bind(issued.credential.id).fetch_one(&mut database).await.unwrap()
}
