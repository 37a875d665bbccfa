//! `cred`. Secrets go to files that only their owner may read, and to standard output only where
//! `--out -` says so. A seed that is on this machine stays on it: the proof is made here.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{
    Outcome,
    client::{Answer, Client, note_more},
    cred_format::FormatArgs,
    cred_options::{OptionArgs, permissions, times},
    org::name_of,
    revoke::{self, RevokeArgs},
    rotate_many::{self, ManyArgs},
    secret_file::Place,
};
use crate::{
    api::{
        credentials::{IssuedBatch, IssuedView},
        page::List,
    },
    authority::{
        proof,
        requests::{NewCredential, NewCredentials, Rotate},
    },
    cli::{
        files::io_error,
        output::{OutputFormat, fields, note, print, table, time},
    },
    error::{Error, Result},
    jwt::creds,
    model::{Environment, view::CredentialView},
    nkey::{Seed, User},
};

/// What can be done with credentials.
#[derive(Debug, Subcommand)]
pub enum CredCommand {
    /// Issue a credential and write its creds file.
    Issue(Box<IssueArgs>),
    /// Issue many credentials, all or none, and write their creds files.
    IssueBatch {
        /// Organization.
        org: String,
        /// Environment type.
        env_type: String,
        /// File with `{"items": […]}` as the API takes it; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Folder for `<org>-<env>-<name>.creds`.
        #[arg(long, value_name = "DIR", default_value = ".")]
        out_dir: PathBuf,
        /// Replace files that are there.
        #[arg(long)]
        force: bool,
    },
    /// List the credentials of an organization in the order of their issue; without one, those of all
    /// organizations, the next one to end first.
    List {
        /// Organization.
        org: Option<String>,
        /// Organization, as `cred revoke` takes it.
        #[arg(long = "org", value_name = "ORG", conflicts_with = "org")]
        of: Option<String>,
        /// Only those of this environment type.
        #[arg(long)]
        env: Option<String>,
        /// Only those of this role.
        #[arg(long)]
        role: Option<String>,
        /// Only those in this state.
        #[arg(long, value_parser = ["active", "superseded", "revoked", "expired"])]
        state: Option<String>,
        /// Only those that end before this time, or within this duration from now: `14d`.
        #[arg(long, value_name = "TIME")]
        expires_before: Option<String>,
        /// How many at most.
        #[arg(long)]
        limit: Option<u32>,
        /// Go on behind this one.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show a credential, never its secret.
    Show {
        /// Its id.
        id: String,
    },
    /// Issue a credential like another one with a new key; the other one ends after a grace time. With --org, do so
    /// for all that match.
    Rotate(Box<RotateArgs>),
    /// Revoke a credential, or all that a selector names: connections are closed and no new ones let in.
    Revoke(Box<RevokeArgs>),
}

/// What to issue.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// Organization.
    org: String,
    /// Environment type.
    env_type: String,
    /// Name of the credential.
    name: String,
    /// Its role; `custom` takes the permissions from --allow-pub and its like.
    #[arg(long)]
    role: String,
    /// How long it lives, such as `90d`.
    #[arg(long)]
    ttl: Option<String>,
    /// Where the creds file goes; `-` is standard output. [default: <org>-<env>-<name>.creds]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: FormatArgs,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
    /// Public key of the user; its private key stays where it is, and the file holds the JWT alone.
    #[arg(long, requires = "proof", value_name = "KEY")]
    public_key: Option<String>,
    /// The public key's signature over the challenge, base64url.
    #[arg(long, requires = "public_key")]
    proof: Option<String>,
    /// File with the user's seed: proof and creds file are made here, the seed is not sent.
    #[arg(long, conflicts_with = "public_key", value_name = "FILE")]
    seed_file: Option<PathBuf>,
    #[command(flatten)]
    options: OptionArgs,
}

/// What to rotate.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Id of the old credential.
    #[arg(required_unless_present = "org")]
    id: Option<String>,
    #[command(flatten)]
    many: ManyArgs,
    /// How long the old one works on; `0s` ends it at once. [default: 24h]
    #[arg(long, value_name = "DURATION")]
    grace: Option<String>,
    /// Where the creds file goes; `-` is standard output. [default: <org>-<env>-<name>.creds]
    #[arg(long, value_name = "FILE", conflicts_with = "org")]
    out: Option<PathBuf>,
    /// Replace the file if it is there, as the old credential's is.
    #[arg(long)]
    force: bool,
    /// New public key of the user; its private key stays where it is, and the file holds the JWT alone.
    #[arg(long, requires = "proof", conflicts_with = "org", value_name = "KEY")]
    public_key: Option<String>,
    /// The public key's signature over the challenge, base64url.
    #[arg(long, requires = "public_key")]
    proof: Option<String>,
    /// File with the user's new seed: proof and creds file are made here, the seed is not sent.
    #[arg(long, conflicts_with_all = ["public_key", "org"], value_name = "FILE")]
    seed_file: Option<PathBuf>,
}

/// Runs a command.
pub(super) async fn run(command: CredCommand, client: &Client) -> Outcome<()> {
    match command {
        CredCommand::Issue(args) => issue(*args, client).await,
        CredCommand::IssueBatch { org, env_type, file, out_dir, force } => {
            issue_batch(&org, &env_type, &file, &out_dir, force, client).await
        }
        CredCommand::List { org, of, env, role, state, expires_before, limit, cursor } => {
            let query = [
                ("env", env),
                ("role", role),
                ("state", state),
                ("expiresBefore", expires_before),
                ("limit", limit.map(|n| n.to_string())),
                ("cursor", cursor),
            ];
            let answer = match org.or(of) {
                Some(org) => client.get(&["orgs", &org, "credentials"], &query).await?,
                None => client.get(&["credentials"], &query).await?,
            };
            client.print(&answer, |list: &List<CredentialView>| {
                note_more(list.next_cursor.as_deref());
                rows(list.items.iter())
            })?;
            Ok(())
        }
        CredCommand::Show { id } => {
            let answer = client.get(&["credentials", &id], &[]).await?;
            client.print(&answer, details)?;
            Ok(())
        }
        CredCommand::Rotate(args) => rotate(*args, client).await,
        CredCommand::Revoke(args) => revoke::run(*args, client).await,
    }
}

async fn issue(args: IssueArgs, client: &Client) -> Outcome<()> {
    let seed = args.seed_file.as_deref().map(read_seed).transpose()?;
    let (public_key, proof) = match &seed {
        None => (args.public_key, args.proof),
        Some(seed) => prove(seed, &args.org, &args.env_type, &args.role)?,
    };
    // Whoever keeps the private key elsewhere gets the JWT alone.
    let kind = if public_key.is_some() && seed.is_none() { "jwt" } else { "creds" };
    args.format.check(args.out.as_deref(), kind == "creds")?;
    let kind = args.format.extension(kind);
    let default = || PathBuf::from(format!("{}-{}-{}.{kind}", args.org, args.env_type, args.name));
    let out = args.out.unwrap_or_else(default);
    let beside = args.format.reserve_beside(&out, args.force)?;
    let place = Place::reserve(&out, args.force)?;
    let body = args.options.apply(NewCredential {
        name: args.name,
        role: args.role,
        ttl: args.ttl,
        public_key,
        proof,
        ..NewCredential::default()
    })?;
    let answer = client.post(&["orgs", &args.org, "envs", &args.env_type, "credentials"], &body).await?;
    deliver(&answer, place, seed.as_ref(), (&args.format, beside), client)
}

async fn rotate(mut args: RotateArgs, client: &Client) -> Outcome<()> {
    if let Some(org) = args.many.org.take() {
        return rotate_many::run(org, args.many, args.grace, args.force, client).await;
    }
    let id = args.id.unwrap_or_default();
    let seed = args.seed_file.as_deref().map(read_seed).transpose()?;
    // The file's name and the proof need what the old one is.
    let old: CredentialView = client.get(&["credentials", &id], &[]).await?.read()?;
    let (public_key, proof) = match &seed {
        None => (args.public_key, args.proof),
        Some(seed) => prove(seed, &old.org, &old.env_type, &old.role)?,
    };
    let kind = if public_key.is_some() && seed.is_none() { "jwt" } else { "creds" };
    let default = || PathBuf::from(format!("{}-{}-{}.{kind}", old.org, old.env_type, old.name));
    let place = Place::reserve(&args.out.unwrap_or_else(default), args.force)?;
    let body = Rotate { grace: args.grace, public_key, proof };
    let answer = client.post(&["credentials", &id, "rotate"], &body).await?;
    deliver(&answer, place, seed.as_ref(), (&FormatArgs::default(), None), client)
}

/// The public key of a seed and the proof that it is ours.
fn prove(seed: &Seed<User>, org: &str, env_type: &str, role: &str) -> Result<(Option<String>, Option<String>)> {
    let environment = Environment::new(org.parse()?, env_type.parse()?);
    let key = seed.key_pair();
    Ok((Some(key.public().to_string()), Some(proof::prove(&environment, role, &key))))
}

/// Puts an issued credential where it belongs and says what it is.
fn deliver(
    answer: &Answer,
    place: Place,
    seed: Option<&Seed<User>>,
    (form, beside): (&FormatArgs, Option<Place>),
    client: &Client,
) -> Outcome<()> {
    let issued: IssuedView = answer.read()?;
    warn(&issued);
    let secret = match (seed, &issued.creds) {
        (Some(seed), _) => creds::write(&issued.jwt, seed),
        (None, Some(creds)) => creds.clone(),
        (None, None) => Zeroizing::new(issued.jwt.clone()),
    };
    let secret = form.wrap(secret, &issued.credential);
    match (place, client.format) {
        // Standard output was named: there the API's whole answer may stand.
        (Place::Stdout, OutputFormat::Json) => print(answer.text())?,
        (place @ Place::Stdout, OutputFormat::Table) => drop(keep(place, &secret, &issued.credential)?),
        (place, format) => {
            let path = keep(place, &secret, &issued.credential)?;
            let accompanied = path.as_deref().map(|path| form.accompany(beside, path, &issued.credential));
            match format {
                OutputFormat::Json => print(&without_secrets(&IssuedView { creds: None, ..issued })?)?,
                OutputFormat::Table => print(&details(&issued.credential))?,
            }
            say_where(path.as_deref());
            accompanied.transpose()?;
        }
    }
    Ok(())
}

async fn issue_batch(
    org: &str,
    env_type: &str,
    file: &Path,
    out_dir: &Path,
    force: bool,
    client: &Client,
) -> Outcome<()> {
    let text =
        if file == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|error| io_error("read", file, error))?;
    let body: NewCredentials = serde_json::from_str(&text)
        .map_err(|error| Error::invalid("invalid-batch", format!("{} cannot be used: {error}", file.display())))?;
    let mut places = Vec::with_capacity(body.items.len());
    for item in &body.items {
        // A name becomes a part of a path; the service would refuse it later.
        item.name.parse::<crate::model::ItemName>()?;
        let kind = if item.public_key.is_some() { "jwt" } else { "creds" };
        places.push(Place::reserve(&out_dir.join(format!("{org}-{env_type}-{}.{kind}", item.name)), force)?);
    }
    let answer = client.post(&["orgs", org, "envs", env_type, "credentials", "batch"], &body).await?;
    let mut issued: IssuedBatch = answer.read()?;
    // One that cannot be written is no reason to lose the others.
    let mut failed = Ok(());
    for (place, item) in places.into_iter().zip(&mut issued.items) {
        warn(item);
        let secret = item.creds.take().unwrap_or_else(|| Zeroizing::new(item.jwt.clone()));
        failed = failed.and(keep(place, &secret, &item.credential).map(drop));
    }
    failed?;
    match client.format {
        OutputFormat::Json => print(&without_secrets(&issued)?)?,
        OutputFormat::Table => print(&rows(issued.items.iter().map(|item| &item.credential)))?,
    }
    note(&format!("wrote {} files to {}", issued.items.len(), out_dir.display()));
    Ok(())
}

/// Says what whoever gets a credential should know.
fn warn(issued: &IssuedView) {
    for warning in &issued.warnings {
        note(&format!("warning: {}: {warning}", issued.credential.name));
    }
}

/// Writes an issued credential where it belongs. It is issued whatever happens here.
fn keep(place: Place, secret: &str, credential: &CredentialView) -> Result<Option<PathBuf>> {
    place.write(secret).map_err(|error| {
        let id = credential.id;
        let what = format!("{error}; the credential is issued but lost: `nats-authority cred revoke {id}`");
        Error::invalid(error.code(), what).with_source(error)
    })
}

/// Says which file was written.
pub(super) fn say_where(path: Option<&Path>) {
    if let Some(path) = path {
        note(&format!("wrote {}", path.display()));
    }
}

fn without_secrets(answer: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(answer).map_err(|error| Error::internal("answer").with_source(error))
}

/// A seed as `nk -gen user` writes it, or as it stands in a creds file.
fn read_seed(path: &Path) -> Result<Seed<User>> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| io_error("read", path, error))?;
    let seed = Seed::parse(text.trim()).or_else(|wrong| creds::parse(&text).map(|(_, seed)| seed).map_err(|_| wrong));
    seed.map_err(|error| Error::invalid("seed-file", format!("{} holds no seed of a user: {error}", path.display())))
}

fn rows<'a>(credentials: impl Iterator<Item = &'a CredentialView>) -> String {
    let rows = credentials.map(|credential| {
        [
            credential.id.to_string(),
            format!("{}-{}", credential.org, credential.env_type),
            credential.name.clone(),
            credential.role.clone(),
            name_of(&credential.state),
            time(credential.expires_at),
        ]
    });
    table(["ID", "ENVIRONMENT", "NAME", "ROLE", "STATE", "EXPIRES"], rows)
}

pub(super) fn details(credential: &CredentialView) -> String {
    fields(&[
        ("id", credential.id.to_string()),
        ("environment", format!("{}-{}", credential.org, credential.env_type)),
        ("name", credential.name.clone()),
        ("role", credential.role.clone()),
        ("state", name_of(&credential.state)),
        ("user", credential.user_key.clone()),
        ("issuer", credential.issuer_key.clone()),
        ("inbox prefix", credential.inbox_prefix.clone()),
        ("reach", credential.reach.as_ref().map(name_of).unwrap_or_default()),
        ("publish", permissions(&credential.permissions.publish)),
        ("subscribe", permissions(&credential.permissions.subscribe)),
        ("connection types", credential.connection_types.join(", ")),
        ("networks", credential.allowed_cidrs.join(", ")),
        ("times", times(credential)),
        ("bearer", if credential.bearer { "yes" } else { "" }.to_owned()),
        ("tags", credential.tags.join(", ")),
        ("issued", time(credential.issued_at)),
        ("issued by", credential.issued_by.clone()),
        ("expires", time(credential.expires_at)),
        ("replaces", credential.replaces.map(|id| id.to_string()).unwrap_or_default()),
        ("ends", credential.ends_at.map(time).unwrap_or_default()),
        ("revoked", credential.revoked_at.map(time).unwrap_or_default()),
        ("reason", credential.revocation_reason.clone().unwrap_or_default()),
    ])
}
