//! `cred rotate --org`: rotates every active credential that a selector names, one after another. Each new creds
//! file is written before the next credential is rotated, so at most one is ever on its way; one that was lost on
//! it is found by its idempotency key and rotated once more.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use reqwest::{Method, header::HeaderMap};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Failure, Outcome,
    client::Client,
    rotate_journal::{Done, Found, Item, Job, Journal, Selector},
};
use crate::{
    api::{credentials::IssuedView, idempotency::Repeated, page::List},
    authority::requests::Rotate,
    cli::{
        files::put_secret,
        output::{OutputFormat, Progress, note, plain, print, table},
    },
    clock::SystemClock,
    entropy::SystemEntropy,
    error::{Error, Result},
    jwt::creds,
    model::{ids::new_id, view::CredentialView},
};

/// How often a request is sent again that the service had no time for, and how long between.
const PATIENCE: (u32, Duration) = (30, Duration::from_secs(1));

/// Which credentials to rotate, and how.
#[derive(Debug, Args)]
pub struct ManyArgs {
    /// Rotate all active credentials of this organization that the other options leave.
    #[arg(long, value_name = "ORG", requires = "out_dir", conflicts_with = "id")]
    pub(super) org: Option<String>,
    /// Only those of this environment type.
    #[arg(long, requires = "org")]
    env: Option<String>,
    /// Only those of this role.
    #[arg(long, requires = "org")]
    role: Option<String>,
    /// Only those whose key is older than this; a renewal does not make it younger.
    #[arg(long, requires = "org", value_name = "DURATION")]
    older_than: Option<String>,
    /// Only those that this signing key has issued.
    #[arg(long, requires = "org", value_name = "KEY")]
    signing_key: Option<String>,
    /// Existing folder for the creds files, and for the journal by which a run that was stopped goes on.
    #[arg(long, requires = "org", value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// How many a second at most.
    #[arg(long, requires = "org", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Rotate nothing; list what would be.
    #[arg(long, requires = "org")]
    dry_run: bool,
}

/// What `--output json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    rotated: Vec<Rotated>,
    /// Their owners hold the keys.
    skipped: Vec<Left>,
    failed: Vec<Left>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotated {
    old: Uuid,
    new: Uuid,
    file: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Left {
    id: Uuid,
    env_type: String,
    name: String,
    why: String,
}

/// What a rotation answers: the new credential, or that it was made before and its secret shown then.
enum Answered {
    Now(Box<IssuedView>),
    Before(Repeated),
}

/// Runs the command.
pub(super) async fn run(
    org: String,
    args: ManyArgs,
    grace: Option<String>,
    force: bool,
    client: &Client,
) -> Outcome<()> {
    let dir = args.out_dir.unwrap_or_else(|| PathBuf::from("."));
    let ManyArgs { env, role, older_than, signing_key, .. } = args;
    let selector = Selector { org, env, role, older_than, signing_key, grace };
    if args.dry_run {
        return would_rotate(&items(&selector, &dir, force, client).await?, client);
    }
    let mut journal = match Journal::find(&dir)? {
        Found::Unfinished(journal) if journal.job.selector == selector => {
            note(&format!(
                "going on with a run that was stopped: {} of {} are done",
                journal.done.len(),
                journal.job.items.len()
            ));
            *journal
        }
        Found::Unfinished(_) => {
            let detail = format!(
                "another rotation in {} was stopped before its end; run it again as it was, or choose another --out-dir",
                dir.display()
            );
            return Err(Error::conflict("other-job", detail).into());
        }
        Found::Free(lock) => {
            let items = items(&selector, &dir, force, client).await?;
            Journal::begin(&dir, lock, Job { id: new_id(&SystemClock, &SystemEntropy::new()), selector, items })?
        }
    };
    rotate_all(&mut journal, &dir, args.rate, client).await?;
    journal.end()?;
    report(&journal, &dir, client)
}

/// The active credentials that are selected now, each with the name of its file.
async fn items(selector: &Selector, dir: &Path, force: bool, client: &Client) -> Outcome<Vec<Item>> {
    let mut found: Vec<CredentialView> = Vec::new();
    let mut cursor = None;
    loop {
        let query = [
            ("state", Some("active".to_owned())),
            ("env", selector.env.clone()),
            ("role", selector.role.clone()),
            ("firstIssuedBefore", selector.older_than.clone()),
            ("signingKey", selector.signing_key.clone()),
            ("limit", Some("1000".to_owned())),
            ("cursor", cursor),
        ];
        let page: List<CredentialView> = client.get(&["orgs", &selector.org, "credentials"], &query).await?.read()?;
        found.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let stem = |one: &CredentialView| format!("{}-{}-{}", one.org, one.env_type, one.name);
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for one in &found {
        *named.entry(stem(one)).or_default() += 1;
    }
    let mut items = Vec::with_capacity(found.len());
    for one in found {
        // Names are labels: several credentials may have the same.
        let alone = named.get(&stem(&one)) == Some(&1);
        let file = if alone { format!("{}.creds", stem(&one)) } else { format!("{}-{}.creds", stem(&one), one.id) };
        if !force && !one.own_key && dir.join(&file).exists() {
            let detail =
                format!("{} is there already; choose another --out-dir, or --force", dir.join(&file).display());
            return Err(Error::invalid("file-exists", detail).into());
        }
        let CredentialView { id, env_type, name, role, own_key, .. } = one;
        items.push(Item { id, env_type, name, role, file: (!own_key).then_some(file) });
    }
    Ok(items)
}

/// What `--dry-run` prints.
fn would_rotate(items: &[Item], client: &Client) -> Outcome<()> {
    let (due, own): (Vec<_>, Vec<_>) = items.iter().partition(|item| item.file.is_some());
    match client.format {
        OutputFormat::Json => print(&json(&due)?)?,
        OutputFormat::Table => {
            let row = |item: &&Item| {
                let file = item.file.clone().unwrap_or_default();
                [item.id.to_string(), item.env_type.clone(), item.role.clone(), item.name.clone(), file]
            };
            print(&table(["ID", "ENVIRONMENT", "ROLE", "NAME", "FILE"], due.iter().map(row)))?;
        }
    }
    note(&format!("nothing was rotated; {} would be, of {} the owners hold the keys", due.len(), own.len()));
    Ok(())
}

async fn rotate_all(journal: &mut Journal, dir: &Path, rate: u32, client: &Client) -> Outcome<()> {
    let job = journal.job.clone();
    let due: Vec<_> =
        job.items.iter().filter(|item| item.file.is_some() && !journal.done.contains_key(&item.id)).collect();
    let progress = Progress::steps("rotating".to_owned(), u64::try_from(due.len()).unwrap_or(u64::MAX));
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for item in due {
        tick.tick().await;
        let done = match rotate(&job, item, dir, client).await {
            Ok(new) => Done::Rotated(new),
            // This one cannot be rotated; the others can.
            Err(Failure::Refused(problem)) if matches!(problem.status, 404 | 409 | 422) => {
                Done::Failed(format!("{}: {}", problem.code, problem.detail))
            }
            Err(failure) => {
                note("stopped; the same command goes on where it was");
                return Err(failure);
            }
        };
        journal.record(item.id, done)?;
        progress.step();
    }
    Ok(())
}

/// Rotates one and writes its file; the new one's id.
async fn rotate(job: &Job, item: &Item, dir: &Path, client: &Client) -> Outcome<Uuid> {
    let path = dir.join(item.file.as_deref().unwrap_or_default());
    let (mut target, mut grace) = (item.id, job.selector.grace.clone());
    loop {
        let issued = match ask(job.id, target, grace, client).await? {
            Answered::Now(issued) => *issued,
            Answered::Before(repeated) => {
                let made = repeated.credentials.into_iter().next();
                let made = made.ok_or_else(|| Error::internal("a rotation that issued nothing"))?;
                if holds(&path, &made) {
                    return Ok(made.id);
                }
                // Nobody has it: its secret was in the answer that did not arrive. So nobody needs a grace time.
                (target, grace) = (made.id, Some("0s".to_owned()));
                continue;
            }
        };
        issued.warnings.iter().for_each(|warning| note(&plain(&format!("warning: {}: {warning}", item.name))));
        let secret = issued.creds.as_ref().ok_or_else(|| Error::internal("an answer without a creds file"))?;
        put_secret(&path, secret).map_err(|error| {
            let what = format!("{error}; the same command goes on with a new one");
            Error::invalid(error.code(), what).with_source(error)
        })?;
        return Ok(issued.credential.id);
    }
}

/// Whether the file is that of this credential already: then we were killed behind writing it.
fn holds(path: &Path, credential: &CredentialView) -> bool {
    let Ok(text) = std::fs::read_to_string(path).map(zeroize::Zeroizing::new) else { return false };
    creds::parse(&text)
        .is_ok_and(|(jwt, _)| data_encoding::HEXLOWER.encode(&Sha256::digest(jwt.as_bytes())) == credential.jwt_sha256)
}

/// The same request under the same key, whoever sends it again.
async fn ask(job: Uuid, target: Uuid, grace: Option<String>, client: &Client) -> Outcome<Answered> {
    let body = Rotate { grace, public_key: None, proof: None };
    let id = target.to_string();
    let key = format!("rotate-{job}-{target}");
    let mut tries = 0;
    loop {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", key.parse().map_err(|_| Error::internal("idempotency key"))?);
        match client.change_if(Method::POST, &["credentials", &id, "rotate"], &[], Some(&body), headers).await {
            Err(Failure::Refused(problem)) if may_pass(problem.status, &problem.code) && tries < PATIENCE.0 => {
                tries += 1;
                tokio::time::sleep(PATIENCE.1).await;
            }
            answer => {
                let answer = answer?;
                return Ok(match answer.read::<IssuedView>() {
                    Ok(issued) => Answered::Now(Box::new(issued)),
                    Err(_) => Answered::Before(answer.read()?),
                });
            }
        }
    }
}

/// Too many requests, a signing key that is being replaced, a database that is away.
fn may_pass(status: u16, code: &str) -> bool {
    matches!(status, 429 | 503) || code == "idempotency-key-in-use"
}

fn report(journal: &Journal, dir: &Path, client: &Client) -> Outcome<()> {
    let mut summary = Summary { rotated: Vec::new(), skipped: Vec::new(), failed: Vec::new() };
    for item in &journal.job.items {
        let left = |why: &str| Left {
            id: item.id,
            env_type: item.env_type.clone(),
            name: item.name.clone(),
            why: why.to_owned(),
        };
        match (&item.file, journal.done.get(&item.id)) {
            (Some(file), Some(Done::Rotated(new))) => {
                summary.rotated.push(Rotated { old: item.id, new: *new, file: dir.join(file) });
            }
            (Some(_), Some(Done::Failed(why))) => summary.failed.push(left(why)),
            _ => summary.skipped.push(left("its owner holds the key, and renews it or brings a new one")),
        }
    }
    match client.format {
        OutputFormat::Json => print(&json(&summary)?)?,
        OutputFormat::Table => {
            let row = |one: &Left| [one.id.to_string(), one.env_type.clone(), one.name.clone(), one.why.clone()];
            let rows: Vec<_> = summary.failed.iter().chain(&summary.skipped).map(row).collect();
            if !rows.is_empty() {
                print(&table(["NOT ROTATED", "ENVIRONMENT", "NAME", "WHY"], rows))?;
            }
            let [rotated, skipped, failed] =
                [summary.rotated.len(), summary.skipped.len(), summary.failed.len()].map(|n| n.to_string());
            print(&table(["ROTATED", "SKIPPED", "FAILED"], [[rotated, skipped, failed]]))?;
        }
    }
    note(&format!("the new creds files are in {}", dir.display()));
    match summary.failed.len() {
        0 => Ok(()),
        n => Err(Error::conflict("not-all-rotated", format!("{n} credentials could not be rotated")).into()),
    }
}

fn json(summary: &impl Serialize) -> Result<String> {
    serde_json::to_string(summary).map_err(|error| Error::internal("summary").with_source(error))
}
