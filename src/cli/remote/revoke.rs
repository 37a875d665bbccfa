//! `cred revoke`: one credential by its id, or all that a selector names.

use clap::Args;
use reqwest::Method;

use super::{Failure, Outcome, client::Client, cred::details, org::servers, preview::Try};
use crate::{
    api::credentials::ChangedCredential,
    authority::requests::{Reason, Revoke},
    cli::output::{fields, note, time},
    model::{
        CredentialState,
        view::{ClientsView, Convergence, RevokedView},
    },
};

/// How long a revocation waits for the servers unless `--wait` says otherwise, seconds.
const WAIT: u64 = 10;

/// What to revoke.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Id of one credential; else name --org and what of it.
    #[arg(required_unless_present = "org", conflicts_with = "org")]
    id: Option<String>,
    /// Organization whose credentials are revoked.
    #[arg(long)]
    org: Option<String>,
    /// Those of this environment type.
    #[arg(long, requires = "org")]
    env: Option<String>,
    /// Those of this role.
    #[arg(long, requires = "org")]
    role: Option<String>,
    /// Those issued before this time, or longer ago than this duration: `30d`.
    #[arg(long, requires = "org", value_name = "TIME")]
    issued_before: Option<String>,
    /// Those that this signing key has signed. A stolen key itself leaves by `key rotate --immediately`.
    #[arg(long, requires = "org", value_name = "KEY")]
    signing_key: Option<String>,
    /// Everything of the organization.
    #[arg(long, requires = "org", conflicts_with_all = ["env", "role", "issued_before", "signing_key"])]
    all: bool,
    /// Why, for the audit log.
    #[arg(long)]
    reason: Option<String>,
    /// Do not wait for the servers, and do not ask whether the clients are gone. [default: wait 10 s]
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    #[command(flatten)]
    how: Try,
}

/// Revokes, waits for the servers, and says whether the clients are gone.
pub(super) async fn run(args: RevokeArgs, client: &Client) -> Outcome<()> {
    let client = &if args.no_wait { client.clone() } else { client.waiting(WAIT) };
    match (args.id.clone(), args.org.clone()) {
        (Some(id), _) => one(&id, args, client).await,
        (None, org) => many(&org.unwrap_or_default(), args, client).await,
    }
}

async fn one(id: &str, args: RevokeArgs, client: &Client) -> Outcome<()> {
    let body = Reason { reason: args.reason };
    let path = ["credentials", id, "revoke"];
    let Some(answer) = args.how.change(client, Method::POST, &path, &[], Some(&body)).await? else { return Ok(()) };
    client.print(&answer, |changed: &ChangedCredential| {
        details(&changed.credential) + &servers(&changed.resolver) + &told(changed.clients.as_ref())
    })?;
    let changed: ChangedCredential = answer.read()?;
    let settled =
        changed.credential.state == CredentialState::Revoked && changed.resolver.state == Convergence::Converged;
    let look = format!("nats-authority org show {}", changed.credential.org);
    client.require(settled, &changed.resolver, &look)?;
    require_gone(changed.clients.as_ref())
}

async fn many(org: &str, args: RevokeArgs, client: &Client) -> Outcome<()> {
    let body = Revoke {
        all: args.all,
        env: args.env,
        role: args.role,
        issued_before: args.issued_before,
        signing_key: args.signing_key,
        reason: args.reason,
    };
    if let Some(key) = &body.signing_key {
        note(&format!(
            "the key itself stays; if it is in the wrong hands: `nats-authority key rotate {org} --key {key} --immediately`"
        ));
    }
    let path = ["orgs", org, "revocations"];
    let Some(answer) = args.how.change(client, Method::POST, &path, &[], Some(&body)).await? else { return Ok(()) };
    client.print(&answer, |done: &RevokedView| {
        let what = fields(&[
            ("revoked", done.revoked.to_string()),
            ("entries", done.entries.to_string()),
            ("cutoff", done.cutoff.map(time).unwrap_or_default()),
            ("replaced keys", done.replaced_keys.join(", ")),
            ("account", format!("{} bytes, before {}", done.bytes_after, done.bytes_before)),
            ("needs reissue", if done.needs_reissue { "yes".to_owned() } else { String::new() }),
        ]);
        what + &servers(&done.resolver) + &told(done.clients.as_ref())
    })?;
    let done: RevokedView = answer.read()?;
    let look = format!("nats-authority org show {org}");
    client.require(done.resolver.state == Convergence::Converged, &done.resolver, &look)?;
    require_gone(done.clients.as_ref())
}

/// What the servers said of the clients, for people.
fn told(clients: Option<&ClientsView>) -> String {
    let Some(clients) = clients else { return String::new() };
    let before = clients.open_before.map_or("an unknown number of".to_owned(), |n| n.to_string());
    if clients.gone {
        return format!("\n{before} connections were open, none is left");
    }
    format!("\n{before} connections were open; {}", remaining(clients))
}

fn remaining(clients: &ClientsView) -> String {
    let left =
        clients.left.iter().map(|client| format!("{} on {} (cid {})", client.user_key, client.server, client.cid));
    let left: Vec<_> = left.collect();
    match (left.is_empty(), clients.unanswered.is_empty()) {
        (false, _) => format!("still open: {}", left.join(", ")),
        (true, false) => format!("these servers did not say: {}", clients.unanswered.join(", ")),
        (true, true) => "the servers do not all have the change, or could not be asked".to_owned(),
    }
}

fn require_gone(clients: Option<&ClientsView>) -> Outcome<()> {
    match clients {
        Some(clients) if !clients.gone => Err(Failure::NotConverged(format!("revoked, but {}", remaining(clients)))),
        _ => Ok(()),
    }
}
