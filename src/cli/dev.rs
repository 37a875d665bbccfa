//! `dev`: the embedded default. Everything is private to one folder and to loopback, and ends with
//! the command. The same folder starts the same deployment again, with its data.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use serde_json::json;

use super::{
    files::io_error,
    init::{ADMIN_TOKEN, BUNDLE, SEALING_KEY, make},
    serve::interrupted,
};
use crate::{
    authority::{present_trust, server_config::Trust},
    config::read_secret,
    dev::{
        nats::{Cluster, ClusterSpec},
        ports::Port,
        postgres::{Durability, Postgres},
        process::{Process, Signal},
    },
    error::{Error, Result},
    service::read_bundle,
    store::Store,
};

/// What to run.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Folder for data, configuration and logs.
    #[arg(long, value_name = "DIR", default_value = ".dev")]
    pub dir: PathBuf,
    /// How many nats-servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Port of the API; 0 takes a free one and keeps it for the folder.
    #[arg(long, default_value_t = 0)]
    pub api_port: u16,
    /// Log filter of the service; `info` when neither this nor the environment says more.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// What a running deployment is, for programs.
const STACK: &str = "stack.json";

/// How long the service may take to listen.
const SERVICE_START: Duration = Duration::from_secs(30);

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) async fn run(args: &DevArgs) -> Result<u8> {
    let progress = spinner();
    std::fs::create_dir_all(&args.dir).map_err(|error| io_error("make", &args.dir, error))?;
    let dir = args.dir.canonicalize().map_err(|error| io_error("find", &args.dir, error))?;
    let _lock = lock(&dir)?;
    // What an earlier start wrote is over: whoever waits for the file must not read it.
    let _ = std::fs::remove_file(dir.join(STACK));
    if !dir.join(BUNDLE).exists() {
        make(&dir, "dev", None)?;
    }
    progress.set_message("Postgres");
    let mut postgres = Postgres::start(&dir.join("postgres"), Durability::Durable).await?;
    let database_url = database(&dir, &postgres).await?;
    progress.set_message("NATS");
    let mut spec = ClusterSpec::new(dir.join("nats"), "dev", trust(&dir, &database_url).await?);
    spec.nodes = usize::from(args.nodes);
    spec.jetstream_max_file = 10 << 30;
    let mut cluster = Cluster::start(spec).await?;
    progress.set_message("nats-authority");
    let port = api_port(&dir, args.api_port)?;
    let config = write_config(&dir, &cluster, port.number())?;
    let (mut service, url) = start_service(&dir, &config, args.log.as_deref(), usize::from(args.nodes)).await?;
    write_stack(&dir, &url, &database_url, &config, &service, &postgres, &cluster)?;
    progress.finish_and_clear();
    let shown = args.dir.display();
    println!("API     {url}   (docs at {url}/docs)");
    println!("token   {shown}/{ADMIN_TOKEN}");
    println!("NATS    {}", cluster.urls().join(" "));
    println!("try     export NATS_AUTHORITY_URL={url} NATS_AUTHORITY_TOKEN_FILE={shown}/{ADMIN_TOKEN}");
    println!("        nats-authority org create acme --env prod --env dev --wait 10");
    println!("logs    {shown}/service.log; all facts in {shown}/stack.json; Ctrl-C stops everything");
    watch_over(&mut service, &mut cluster, &mut postgres).await?;
    // In the order of who needs whom. What somebody else stopped already is no failure.
    let _ = service.stop(Signal::TERM, Duration::from_secs(30)).await;
    let _ = cluster.stop().await;
    let _ = postgres.stop().await;
    Ok(0)
}

/// Keeps a second `dev` out of the folder: two would run the same data. It ends with the process.
fn lock(dir: &Path) -> Result<File> {
    let file = dir.join("dev.lock");
    let lock = File::create(&file).map_err(|error| io_error("write", &file, error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::conflict(
            "dev-in-use",
            format!("another `nats-authority dev` runs in {}; stop it, or choose another --dir", dir.display()),
        )),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &file, error)),
    }
}

/// Waits for an interrupt. A process that ends meanwhile, because somebody ended it, is named and waited
/// for, so that nothing is left of it and it can be started again from outside: a dead Postgres that
/// nobody waits for still owns its data folder. Nothing is started again here: whoever takes a part away
/// wants to see it missing.
#[expect(clippy::print_stderr, reason = "news for who sits before it")]
async fn watch_over(service: &mut Process, cluster: &mut Cluster, postgres: &mut Postgres) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut ended = signal(SignalKind::child()).map_err(|error| Error::internal("signals").with_source(error))?;
    let interrupt = interrupted();
    tokio::pin!(interrupt);
    let mut named = Vec::new();
    loop {
        // Looked at before the first wait as well: one may have ended before we listened.
        let mut fallen: Vec<String> =
            cluster.fallen()?.into_iter().map(|index| cluster.servers()[index].name().to_owned()).collect();
        if service.exited()?.is_some() {
            fallen.push("the service".to_owned());
        }
        if !postgres.is_running()? {
            fallen.push("Postgres".to_owned());
        }
        fallen.retain(|name| !named.contains(name));
        for name in &fallen {
            eprintln!("ended   {name}");
        }
        named.append(&mut fallen);
        tokio::select! {
            result = &mut interrupt => return result,
            _ = ended.recv() => {}
        }
    }
}

/// The database of the folder, made at the first start.
async fn database(dir: &Path, postgres: &Postgres) -> Result<String> {
    let marker = dir.join("database.made");
    let url = if marker.exists() {
        postgres.database_url(DATABASE)
    } else {
        let url = match postgres.create_database(DATABASE, None).await {
            Ok(url) => url,
            // Made by an earlier start that ended before it could say so.
            Err(_) => postgres.database_url(DATABASE),
        };
        std::fs::write(&marker, "").map_err(|error| io_error("write", &marker, error))?;
        url
    };
    write_private(&dir.join("database.url"), &url)?;
    Ok(url)
}

const DATABASE: &str = "nats_authority";

/// What the servers have to trust: the bundle's operator as the database has it now, for its keys may have been
/// rotated since.
async fn trust(dir: &Path, database_url: &str) -> Result<Trust> {
    let bundle = read_bundle(&dir.join(BUNDLE))?.trust()?;
    let url = SecretString::from(database_url.to_owned());
    let store = Store::connect(&url, 1, Duration::from_secs(10)).await?;
    store.migrate().await?;
    let present = present_trust(&store).await?;
    store.close().await;
    Ok(present.unwrap_or(bundle))
}

fn api_port(dir: &Path, wanted: u16) -> Result<Port> {
    let file = dir.join("api.port");
    let kept = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    let port = Port::claim(if wanted == 0 { kept } else { Some(wanted) })?;
    std::fs::write(&file, port.number().to_string()).map_err(|error| io_error("write", &file, error))?;
    Ok(port)
}

fn write_config(dir: &Path, cluster: &Cluster, port: u16) -> Result<PathBuf> {
    let file = dir.join("authority.toml");
    let urls: Vec<_> = cluster.urls().iter().map(|url| format!("\"{url}\"")).collect();
    let text = format!(
        "# Written by `nats-authority dev` at each start.\n\
         bundle = \"{BUNDLE}\"\n\n\
         [http]\nlisten = \"127.0.0.1:{port}\"\nurl_file = \"api.url\"\n\n\
         [database]\nurl_file = \"database.url\"\n\n\
         [nats]\nurls = [{}]\n\n\
         [sealing]\nkey_files = [\"{SEALING_KEY}\"]\n",
        urls.join(", ")
    );
    write_private(&file, &text)?;
    Ok(file)
}

async fn start_service(dir: &Path, config: &Path, log: Option<&str>, nodes: usize) -> Result<(Process, String)> {
    let token = read_secret(&dir.join(ADMIN_TOKEN))?;
    let url_file = dir.join("api.url");
    let _ = std::fs::remove_file(&url_file);
    let program = std::env::current_exe().map_err(|error| Error::internal("current_exe").with_source(error))?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(config);
    if let Some(filter) = log {
        command.arg("--log").arg(filter);
    }
    let mut service = Process::spawn("nats-authority", command, &dir.join("service.log"), Signal::TERM)?;
    let end = tokio::time::Instant::now() + SERVICE_START;
    loop {
        service.expect_running()?;
        if let Ok(url) = std::fs::read_to_string(&url_file) {
            await_ready(&mut service, &url, &token, nodes, end).await?;
            return Ok((service, url));
        }
        pause(end, "the service did not listen").await?;
    }
}

/// Ready: the database and the keys are there, and every server has described itself, so that the
/// first request finds the capacity of all of them.
async fn await_ready(
    service: &mut Process,
    url: &str,
    token: &str,
    nodes: usize,
    end: tokio::time::Instant,
) -> Result<()> {
    let client = reqwest::Client::new();
    let ask = async || {
        client.get(format!("{url}/readyz")).send().await?.error_for_status()?;
        let answer = client.get(format!("{url}/api/v1/resolver")).bearer_auth(token).send().await?;
        answer.error_for_status()?.json::<serde_json::Value>().await
    };
    loop {
        service.expect_running()?;
        if let Ok(status) = ask().await {
            let trusting = |server: &&serde_json::Value| server["live"] == true && server["trustsOperator"] == true;
            if status["servers"].as_array().is_some_and(|servers| servers.iter().filter(trusting).count() >= nodes) {
                return Ok(());
            }
        }
        pause(end, "the service did not become ready").await?;
    }
}

async fn pause(end: tokio::time::Instant, what: &str) -> Result<()> {
    if tokio::time::Instant::now() >= end {
        return Err(Error::unavailable(
            "dev-timeout",
            format!("{what} within {} s; see service.log", SERVICE_START.as_secs()),
        ));
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

fn write_stack(
    dir: &Path,
    url: &str,
    database_url: &str,
    config: &Path,
    service: &Process,
    postgres: &Postgres,
    cluster: &Cluster,
) -> Result<()> {
    let servers: Vec<_> = cluster
        .servers()
        .iter()
        .map(|server| json!({"name": server.name(), "pid": server.pid(), "url": server.url(), "config": server.config(), "log": server.log()}))
        .collect();
    let stack = json!({
        "apiUrl": url,
        "tokenFile": dir.join(ADMIN_TOKEN),
        "databaseUrl": database_url,
        "natsUrls": cluster.urls(),
        "service": {"pid": service.pid(), "config": config, "log": dir.join("service.log")},
        "postgres": {"pid": postgres.pid(), "log": postgres.log()},
        "servers": servers,
    });
    let text = serde_json::to_string_pretty(&stack).map_err(|error| Error::internal("stack").with_source(error))?;
    let new = dir.join("stack.json.new");
    write_private(&new, &text)?;
    let file = dir.join(STACK);
    std::fs::rename(&new, &file).map_err(|error| io_error("write", &file, error))
}

/// Replaces a file that only its owner may read.
fn write_private(file: &Path, text: &str) -> Result<()> {
    let _ = std::fs::remove_file(file);
    super::files::write_new_secret(file, text)
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} starting {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
