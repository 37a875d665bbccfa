//! What `serve` says when it cannot start, what it does while the servers are not its own, and what
//! `init` leaves.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use nats_authority::{
    dev::{
        nats::{Cluster, ClusterSpec},
        process::{Process, Signal},
        tools,
    },
    service::read_bundle,
};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::support::{self, TestDatabase, deployment::PROGRAM, http::Http, stack::eventually};

/// An operator made offline, with a database and no servers.
struct Operator {
    dir: TempDir,
    database: TestDatabase,
}

impl Operator {
    async fn init() -> Self {
        let dir = support::temp_dir();
        let database = support::database().await;
        assert!(init(&dir.path().join("op")).status.success());
        let operator = Self { dir, database };
        operator.write("database.url", operator.database.url());
        operator.configure(&["nats://127.0.0.1:1".to_owned()]);
        operator
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("op").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn configure(&self, servers: &[String]) {
        let config = format!(
            "bundle = 'bundle.json'\nhttp = {{ listen = '127.0.0.1:0', url_file = 'api.url' }}\n\
             database.url_file = 'database.url'\nnats.urls = {servers:?}\nsealing.key_files = ['sealing.key']\n"
        );
        self.write("authority.toml", &config);
    }

    fn serve(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--config").arg(self.path("authority.toml"));
        command
    }

    /// `serve` does not start and says why: one line with `code` and every one of `words`.
    #[track_caller]
    fn refused(&self, code: &str, words: &[&str]) {
        let started = Instant::now();
        let output = self.serve().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with(&format!("error[{code}]: ")), "{said}");
        for word in words {
            assert!(said.contains(word), "no '{word}' in: {said}");
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{code}: {:?}", started.elapsed());
    }

    async fn service(&self) -> Service {
        let _ = fs::remove_file(self.path("api.url"));
        let process = Process::spawn("serve", self.serve(), &self.path("service.log"), Signal::TERM).unwrap();
        let url = self.path("api.url");
        eventually("the service listens", || async { url.exists() }).await;
        let token = fs::read_to_string(self.path("admin.token")).unwrap();
        Service { process, http: Http::new(&fs::read_to_string(url).unwrap(), &token) }
    }

    async fn cluster(&self, name: &str) -> Cluster {
        let trust = read_bundle(&self.path("bundle.json")).unwrap().trust().unwrap();
        let mut spec = ClusterSpec::new(self.dir.path().join(name), name, trust);
        spec.nodes = 1;
        Cluster::start(spec).await.unwrap()
    }
}

struct Service {
    process: Process,
    http: Http,
}

fn init(dir: &Path) -> Output {
    Command::new(PROGRAM).args(["init", "--offline", "--dir"]).arg(dir).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_wrong_is_said_in_one_line() {
    let op = Operator::init().await;
    let config = fs::read_to_string(op.path("authority.toml")).unwrap();
    for (text, word) in [("colour = 'red'", "colour"), ("nonsense", "authority.toml")] {
        op.write("authority.toml", &format!("{text}\n{config}"));
        op.refused("invalid-configuration", &[word]);
    }
    op.write("authority.toml", &config);

    let bundle = fs::read_to_string(op.path("bundle.json")).unwrap();
    for broken in [
        "",
        "{}",
        "[1]",
        &bundle[..bundle.len() / 2],
        &bundle.replacen("\"operatorJwt\": \"eyJ", "\"operatorJwt\": \"x", 1),
    ] {
        op.write("bundle.json", broken);
        op.refused("invalid-bundle", &["nats-authority init"]);
    }
    fs::remove_file(op.path("bundle.json")).unwrap();
    op.refused("bundle-unreadable", &["bundle.json"]);
    op.write("bundle.json", &bundle);

    let sealing = fs::read_to_string(op.path("sealing.key")).unwrap();
    fs::remove_file(op.path("sealing.key")).unwrap();
    op.refused("invalid-configuration", &["sealing.key"]);
    op.write("sealing.key", "short");
    op.refused("invalid-sealing-key", &["64"]);
    // Another key than the one that sealed the bundle: before it is adopted, and after.
    op.write("sealing.key", &"7".repeat(64));
    op.refused("wrong-sealing-key", &["sealing.key_files"]);
    op.write("sealing.key", &sealing);
    let mut service = op.service().await;
    assert_eq!(service.http.get("/healthz").await.0, 200);
    service.process.stop(Signal::TERM, Duration::from_secs(30)).await.unwrap();
    op.write("sealing.key", &"7".repeat(64));
    op.refused("wrong-sealing-key", &["sealing.key_files"]);
    op.write("sealing.key", &sealing);

    // The database is another operator's now.
    let stranger = Operator::init().await;
    stranger.write("database.url", op.database.url());
    stranger.refused("foreign-operator", &["database.url_file", "bundle"]);

    op.write("database.url", "postgres://nobody:x@127.0.0.1:1/none");
    op.refused("database-unreachable", &["database.url_file", "Postgres"]);
    op.write("database.url", "mysql://x");
    op.refused("database-unreachable", &["database.url_file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_another_operator_are_named_and_nothing_is_signed() {
    let (op, stranger) = tokio::join!(Operator::init(), Operator::init());
    let (own, foreign) = tokio::join!(op.cluster("own"), stranger.cluster("foreign"));
    op.configure(&foreign.urls());
    let mut service = op.service().await;
    eventually("the reason is named", || async {
        let (status, readiness) = service.http.get("/readyz").await;
        let servers = readiness["checks"].as_array().unwrap().iter().find(|check| check["name"] == "servers").cloned();
        let reason = servers.unwrap()["reason"].as_str().unwrap_or_default().to_owned();
        status == 503 && reason.contains("trust another operator")
    })
    .await;
    let acme = json!({"slug": "acme", "environments": ["prod"]});
    let (status, refusal) = service.http.post("/api/v1/orgs", acme.clone()).await;
    assert_eq!((status, &refusal["code"]), (503, &json!("capacity-unknown")), "{refusal}");
    let mut database = PgConnection::connect(op.database.url()).await.unwrap();
    let signed =
        "SELECT count(*) FROM account_generations JOIN accounts USING (account_key) WHERE kind = 'organization'";
    assert_eq!(sqlx::query_scalar::<_, i64>(signed).fetch_one(&mut database).await.unwrap(), 0);
    assert_eq!(service.process.exited().unwrap(), None, "it stays up");
    service.process.stop(Signal::TERM, Duration::from_secs(30)).await.unwrap();

    op.configure(&own.urls());
    let mut service = op.service().await;
    eventually("ready", || async { service.http.get("/readyz").await.0 == 200 }).await;
    let view = service.http.onboard("acme", &["prod"]).await;
    assert_eq!(view["resolver"]["servers"].as_array().map(Vec::len), Some(1));
    let status = service.process.stop(Signal::TERM, Duration::from_secs(30)).await.unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn init_keeps_what_it_made_and_keeps_it_private() {
    let folder = support::temp_dir();
    let dir = folder.path().join("op");
    assert!(init(&dir).status.success());
    let read = || -> Vec<(PathBuf, u32, Vec<u8>)> {
        let files = [dir.clone(), dir.join("nats")].into_iter().flat_map(|dir| fs::read_dir(dir).unwrap().flatten());
        let mut files: Vec<_> = files
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .map(|path| {
                (path.clone(), fs::metadata(&path).unwrap().permissions().mode() & 0o777, fs::read(&path).unwrap())
            })
            .collect();
        files.sort();
        files
    };
    let made = read();
    let secret: Vec<_> = made
        .iter()
        .filter(|(_, mode, _)| *mode == 0o600)
        .map(|(path, _, _)| path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(secret, ["admin.token", "bundle.json", "operator-identity.seed", "sealing.key"]);
    assert!(made.iter().all(|(_, mode, _)| [0o600, 0o644].contains(mode)), "{made:?}");

    let again = init(&dir);
    let words = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(1), "{words}");
    assert!(words.starts_with("error[already-made]: ") && words.trim().lines().count() == 1, "{words}");
    assert!(read() == made, "it changed something");

    // The servers' part is what a nats-server accepts; its example paths are the machine's.
    let own = folder.path().display().to_string();
    for file in ["n1.conf", "operator.conf"] {
        let path = dir.join("nats").join(file);
        let text = fs::read_to_string(&path).unwrap().replace("/var/lib/nats", &own);
        fs::write(&path, text).unwrap();
    }
    let mut check = Command::new(tools::nats_server().unwrap());
    let output = check.arg("-t").arg("-c").arg(dir.join("nats/n1.conf")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn init_over_a_part_of_a_folder_overwrites_nothing() {
    // As an earlier `init` leaves it that was killed before it wrote the bundle.
    let folder = support::temp_dir();
    fs::write(folder.path().join("sealing.key"), "precious").unwrap();
    let output = init(folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(folder.path().join("sealing.key")).unwrap(), "precious");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["sealing.key"]);
}
