//! `audit`

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;

use super::{
    Outcome,
    client::{Client, note_more},
};
use crate::{
    api::page::List,
    authority::audit_log::{AuditVerdict, BrokenView},
    cli::{
        files::io_error,
        output::{OutputFormat, fields, note, print, table, time},
    },
    error::{Error, Result},
    model::{
        audit::{ChainCheck, ExportedLink},
        view::AuditEventView,
    },
};

/// What can be done with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List events, the newest first.
    List {
        /// Only on this organization.
        #[arg(long)]
        org: Option<String>,
        /// Only by this actor.
        #[arg(long)]
        actor: Option<String>,
        /// Only this action, such as `credential.issue`.
        #[arg(long)]
        action: Option<String>,
        /// Only from this time on, or within this duration before now: `24h`.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// How many at most.
        #[arg(long)]
        limit: Option<u32>,
        /// Go on behind this one.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Check that no event was changed, removed or reordered; exit code 1 if one was.
    Verify {
        /// What an earlier check printed: the chain still has to have this hash there.
        #[arg(long, value_name = "POSITION:HASH")]
        anchor: Option<String>,
        /// Check an export instead of the service's log; nothing is asked then.
        #[arg(long, value_name = "FILE", conflicts_with = "anchor")]
        file: Option<PathBuf>,
    },
    /// Write the log as lines of JSON, oldest first; `verify --file` checks them without the service.
    Export {
        /// Only what stands behind this position.
        #[arg(long, value_name = "POSITION")]
        after: Option<i64>,
        /// Where to; standard output when absent.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

impl AuditCommand {
    /// What needs no service.
    pub(super) fn local(&self, format: OutputFormat) -> Option<Result<u8>> {
        match self {
            Self::Verify { file: Some(file), .. } => {
                Some(verify_file(file).and_then(|verdict| report(&verdict, format)))
            }
            _ => None,
        }
    }
}

/// Runs a command; the answer is the exit code.
pub(super) async fn run(command: AuditCommand, client: &Client) -> Outcome<u8> {
    match command {
        AuditCommand::List { org, actor, action, since, limit, cursor } => {
            let query = [
                ("org", org),
                ("actor", actor),
                ("action", action),
                ("since", since),
                ("limit", limit.map(|n| n.to_string())),
                ("cursor", cursor),
            ];
            let answer = client.get(&["audit"], &query).await?;
            client.print(&answer, rows)?;
            Ok(0)
        }
        AuditCommand::Verify { anchor, .. } => {
            let answer = client.get(&["audit", "verify"], &[("anchor", anchor)]).await?;
            Ok(report(&answer.read()?, client.format)?)
        }
        AuditCommand::Export { after, out } => {
            let query = [("after", after.map(|position| position.to_string()))];
            match out {
                None => client.download(&["audit", "export"], &query, &mut std::io::stdout().lock()).await?,
                Some(path) => {
                    let file = File::create(&path).map_err(|error| io_error("write", &path, error))?;
                    let mut file = BufWriter::new(file);
                    client.download(&["audit", "export"], &query, &mut file).await?;
                    file.flush().map_err(|error| io_error("write", &path, error))?;
                    note(&format!("written to {}", path.display()));
                }
            }
            Ok(0)
        }
    }
}

/// Checks an export. It may begin anywhere: then its first line is believed.
fn verify_file(path: &Path) -> Result<AuditVerdict> {
    let file = File::open(path).map_err(|error| io_error("read", path, error))?;
    let mut check: Option<ChainCheck> = None;
    let mut broken = None;
    for (number, text) in BufReader::new(file).lines().enumerate() {
        let text = text.map_err(|error| io_error("read", path, error))?;
        let unreadable = || {
            Error::invalid("invalid-export", format!("line {} of {} is no exported event", number + 1, path.display()))
        };
        let exported: ExportedLink = serde_json::from_str(&text).map_err(|error| unreadable().with_source(error))?;
        let link = exported.into_found().ok_or_else(unreadable)?;
        match &mut check {
            None if link.position > 1 => {
                note(&format!("the export begins at position {}: its first line is believed", link.position));
                check = Some(ChainCheck::behind(link.position, link.hash));
            }
            check => {
                if let Err(wrong) = check.get_or_insert_with(|| ChainCheck::new(None)).step(&link) {
                    broken = Some(BrokenView::from(wrong));
                    break;
                }
            }
        }
    }
    let (verified, hash) = check.unwrap_or_else(|| ChainCheck::new(None)).head();
    Ok(AuditVerdict { intact: broken.is_none(), verified, hash: hash.to_string(), broken })
}

fn report(verdict: &AuditVerdict, format: OutputFormat) -> Result<u8> {
    match format {
        OutputFormat::Json => {
            let text = serde_json::to_string(verdict);
            print(&text.map_err(|error| Error::internal("the verdict is no JSON").with_source(error))?)?;
        }
        OutputFormat::Table => print(&words(verdict))?,
    }
    Ok(u8::from(!verdict.intact))
}

fn words(verdict: &AuditVerdict) -> String {
    let anchor = format!("{}:{}", verdict.verified, verdict.hash);
    let Some(broken) = &verdict.broken else {
        return fields(&[("intact", "yes".to_owned()), ("events", verdict.verified.to_string()), ("anchor", anchor)]);
    };
    fields(&[
        ("intact", "NO".to_owned()),
        ("intact up to", anchor),
        ("broken at", broken.position.map(|position| position.to_string()).unwrap_or_default()),
        ("event", broken.event.map(|event| event.to_string()).unwrap_or_default()),
        ("reason", broken.reason.clone()),
    ])
}

fn rows(list: &List<AuditEventView>) -> String {
    note_more(list.next_cursor.as_deref());
    let rows = list.items.iter().map(|event| {
        [
            time(event.at),
            event.actor.clone(),
            event.action.clone(),
            event.org.clone().unwrap_or_default(),
            target(event),
            event.request_id.clone().unwrap_or_default(),
        ]
    });
    table(["AT", "ACTOR", "ACTION", "ORGANIZATION", "TARGET", "REQUEST"], rows)
}

/// On what; of a denied attempt, also what was attempted.
fn target(event: &AuditEventView) -> String {
    match event.detail["operation"].as_str() {
        Some(operation) if event.action == "access.denied" => format!("{operation} on {}", event.target),
        _ => event.target.clone(),
    }
}
