//! `init`: makes an operator and everything that servers need to trust it. Needs no database and no
//! network; with a database it adopts the operator at once.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use secrecy::SecretString;

use super::files::{io_error, write_new_public, write_new_secret};
use crate::{
    authority::{
        bundle,
        server_config::{ResolverKind, Trust, example_node, operator_section},
    },
    clock::SystemClock,
    config::read_secret,
    entropy::SystemEntropy,
    error::{Error, Result},
    signer::{SealingKey, SealingKeys, Signer},
    store::Store,
};

/// What to make.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder for what is made.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the operator, for people.
    #[arg(long, default_value = "nats-authority")]
    pub name: String,
    /// Without a database: `serve` adopts the bundle later.
    #[arg(long, required_unless_present = "database_url_file")]
    pub offline: bool,
    /// File that holds the postgres:// URL of the database that adopts the operator at once.
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    pub database_url_file: Option<PathBuf>,
    /// An existing sealing key; otherwise one is made.
    #[arg(long, value_name = "FILE")]
    pub sealing_key: Option<PathBuf>,
}

/// The names of the files in the folder.
pub(super) const SEALING_KEY: &str = "sealing.key";
pub(super) const ADMIN_TOKEN: &str = "admin.token";
pub(super) const BUNDLE: &str = "bundle.json";
pub(super) const IDENTITY_SEED: &str = "operator-identity.seed";

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) async fn run(args: &InitArgs) -> Result<u8> {
    let made = make(&args.dir, &args.name, args.sealing_key.as_deref())?;
    write_examples(&args.dir, &made.bundle.trust()?, args)?;
    if let Some(file) = &args.database_url_file {
        let store = Store::connect(&SecretString::from(read_secret(file)?), 2, Duration::from_secs(10)).await?;
        store.migrate().await?;
        made.bundle.adopt(&store, &made.signer, &SystemClock, &SystemEntropy::new()).await?;
    }
    let dir = args.dir.display();
    println!("Made the operator '{}' in {dir}/", args.name);
    println!();
    println!("  {IDENTITY_SEED:<24} the operator's identity. The service does not need it: take it offline now");
    if args.sealing_key.is_none() {
        println!(
            "  {SEALING_KEY:<24} opens the signing keys in the bundle and in the database. Only the service needs it"
        );
    }
    println!("  {ADMIN_TOKEN:<24} the first administrator's token for the API");
    println!("  {BUNDLE:<24} what the service adopts; nothing in it signs without the sealing key");
    println!("  {:<24} for every server: include operator.conf and restart", "nats/");
    println!("  {:<24} a configuration to start from", "authority.toml");
    println!();
    println!(
        "Next: put nats/operator.conf on every server, then run `nats-authority serve --config {dir}/authority.toml`"
    );
    Ok(0)
}

/// A new operator whose files are written.
pub(super) struct Made {
    pub bundle: bundle::Bundle,
    pub signer: Arc<Signer>,
}

/// Makes an operator and writes its secrets and its bundle into `dir`.
pub(super) fn make(dir: &Path, name: &str, sealing_key: Option<&Path>) -> Result<Made> {
    if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err(Error::field("invalid-name", "--name", "an operator's name has 1 to 100 characters"));
    }
    if dir.join(BUNDLE).exists() {
        return Err(Error::conflict(
            "already-made",
            format!(
                "{} already holds an operator; its keys cannot be made again, so nothing was changed",
                dir.display()
            ),
        ));
    }
    std::fs::create_dir_all(dir).map_err(|error| io_error("make", dir, error))?;
    let entropy = Arc::new(SystemEntropy::new());
    let sealing = match sealing_key {
        Some(file) => zeroize::Zeroizing::new(read_secret(file)?),
        None => SealingKey::generate(entropy.as_ref()),
    };
    let signer = Arc::new(Signer::new(SealingKeys::new(vec![SealingKey::parse(&sealing)?])?, entropy.clone()));
    let new = bundle::create(name, &signer, &SystemClock, entropy.as_ref())?;
    if sealing_key.is_none() {
        write_new_secret(&dir.join(SEALING_KEY), &format!("{}\n", *sealing))?;
    }
    write_new_secret(&dir.join(IDENTITY_SEED), &format!("{}\n", *new.identity_seed))?;
    write_new_secret(&dir.join(ADMIN_TOKEN), &format!("{}\n", *new.admin_token))?;
    // Last: a folder with a bundle is whole.
    write_new_secret(&dir.join(BUNDLE), &new.bundle.to_text()?)?;
    Ok(Made { bundle: new.bundle, signer })
}

fn write_examples(dir: &Path, trust: &Trust, args: &InitArgs) -> Result<()> {
    let nats = dir.join("nats");
    std::fs::create_dir_all(&nats).map_err(|error| io_error("make", &nats, error))?;
    let section = operator_section(trust, &ResolverKind::Full, Path::new("/var/lib/nats/jwt"));
    write_new_public(&nats.join("operator.conf"), &section)?;
    let names = ["n1", "n2", "n3"];
    let routes = names.map(|name| format!("nats-route://{name}:6222"));
    for name in names {
        write_new_public(&nats.join(format!("{name}.conf")), &example_node(name, "nats", &routes))?;
    }
    // The configuration's relative paths are taken from its own folder.
    let path_of = |file: Option<&PathBuf>, own: &str| -> Result<String> {
        file.map_or_else(
            || Ok(own.to_owned()),
            |file| {
                let file = std::path::absolute(file).map_err(|error| io_error("find", file, error))?;
                Ok(file.display().to_string())
            },
        )
    };
    let database = path_of(args.database_url_file.as_ref(), "database.url")?;
    let sealing = path_of(args.sealing_key.as_ref(), SEALING_KEY)?;
    write_new_public(
        &dir.join("authority.toml"),
        &format!(
            "# Most keys can be given as an environment variable as well: NATS_AUTHORITY__HTTP__LISTEN and so on.\n\
             bundle = \"{BUNDLE}\"\n\n\
             [http]\nlisten = \"127.0.0.1:8080\"\n\n\
             [database]\n# A file that holds postgres://user:password@host/database\nurl_file = \"{database}\"\n\n\
             [nats]\nurls = [\"nats://127.0.0.1:4222\"]\n\n\
             [sealing]\nkey_files = [\"{sealing}\"]\n"
        ),
    )
}
