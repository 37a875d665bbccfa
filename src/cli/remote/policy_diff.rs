//! `plan diff`: what other files of plans and roles would do, over all organizations.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    path::PathBuf,
};

use clap::Args;
use reqwest::{Method, header::HeaderMap};

use super::{Outcome, client::Client, org::name_of, preview::consequences};
use crate::{
    api::{
        policies::{HeldUp, PromiseView},
        policy_diff::{DiffTotals, PolicyDiffView, PolicyFiles},
    },
    cli::output::{OutputFormat, Progress, fields, print, table},
    model::{
        preview::{ClaimChange, PreviewView},
        size::format_size,
    },
    policy::Policies,
};

/// Which files.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The folder with `plans/` and `roles/`.
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
    /// Also show what changes in each organization, and whom it disconnects.
    #[arg(long)]
    details: bool,
}

/// Asks page by page. The exit code is 1 when the files would be refused or some organization could not follow.
pub(super) async fn run(args: DiffArgs, client: &Client) -> Outcome<u8> {
    let (plans, roles) = Policies::texts(&args.policies)?;
    let files = PolicyFiles { plans, roles };
    let progress = Progress::start("looking at every organization".to_owned());
    let mut shown = Shown::default();
    let mut cursor = None;
    loop {
        let query = [("cursor", cursor.clone())];
        let path = ["policies", "diff"];
        let answer = client.change_if(Method::POST, &path, &query, Some(&files), HeaderMap::new()).await?;
        let page: PolicyDiffView = answer.read()?;
        if client.format == OutputFormat::Json {
            // One page a line.
            print(answer.text())?;
        }
        cursor.clone_from(&page.next_cursor);
        shown.add(page, args.details);
        if cursor.is_none() {
            break;
        }
    }
    drop(progress);
    if client.format == OutputFormat::Table {
        print(&shown.text())?;
    }
    Ok(u8::from(shown.refused.is_some() || !shown.held_up.is_empty()))
}

/// What is printed in the end: of each organization a line, however many pages there were.
#[derive(Default)]
struct Shown {
    refused: Option<String>,
    details: String,
    rows: Vec<[String; 5]>,
    changes: BTreeMap<String, u64>,
    held_up: Vec<HeldUp>,
    totals: DiffTotals,
    promised: PromiseView,
    capacity: Option<PromiseView>,
}

impl Shown {
    fn add(&mut self, page: PolicyDiffView, details: bool) {
        for view in &page.items {
            self.rows.push(row(view));
            let mut places: Vec<_> = view.changes.iter().map(place).collect();
            places.sort_unstable();
            places.dedup();
            for place in places {
                *self.changes.entry(place).or_default() += 1;
            }
            if details {
                self.details += &consequences(view, stdout().is_terminal());
                self.details.push('\n');
            }
        }
        self.totals.add(&page.totals);
        self.held_up.extend(page.held_up);
        self.refused = page.refused;
        self.promised = page.promised;
        self.capacity = page.capacity;
    }

    fn text(&self) -> String {
        let mut text = self.details.clone();
        if !self.rows.is_empty() {
            text += &table(["ORGANIZATION", "GENERATION", "JWT BYTES", "CLOSES", "CAUSES"], self.rows.iter().cloned());
            text += "\n\n";
            let changes = self.changes.iter().map(|(place, count)| [place.clone(), count.to_string()]);
            text += &table(["CHANGES", "ORGANIZATIONS"], changes);
            text += "\n\n";
        }
        if !self.held_up.is_empty() {
            let rows = self.held_up.iter().map(|held_up| [held_up.org.clone(), held_up.reason.clone()]);
            text += &table(["HELD UP", "REASON"], rows);
            text += "\n\n";
        }
        text + &self.sums()
    }

    fn sums(&self) -> String {
        let totals = &self.totals;
        let promise = |now: i64, change: i64, capacity: fn(&PromiseView) -> i64| {
            let has = self.capacity.as_ref().map_or_else(|| "unknown".to_owned(), |has| format_size(capacity(has)));
            format!("{} -> {} of {has}", format_size(now), format_size(now + change))
        };
        let closing = match totals.undetermined {
            0 => totals.closing.to_string(),
            more => format!("{}, and at least {more} more by the connection limit", totals.closing),
        };
        let unasked = match totals.unasked {
            0 => String::new(),
            count => format!("some server did not answer about {count} organizations; --output json names it"),
        };
        fields(&[
            ("refused", self.refused.clone().unwrap_or_default()),
            ("examined", totals.examined.to_string()),
            ("change", totals.changed.to_string()),
            ("held up", totals.held_up.to_string()),
            ("connections closed", closing),
            ("organizations disconnected", totals.disconnecting.to_string()),
            ("promised disk", promise(self.promised.disk, totals.promise_change.disk, |has| has.disk)),
            ("promised memory", promise(self.promised.memory, totals.promise_change.memory, |has| has.memory)),
            ("not asked", unasked),
        ])
    }
}

fn row(view: &PreviewView) -> [String; 5] {
    let connections = &view.connections;
    let mut causes: Vec<_> =
        connections.by_cause.iter().map(|cause| format!("{} {}", cause.count, name_of(&cause.cause))).collect();
    if connections.undetermined > 0 {
        causes.push(format!("{} or more connection-limit", connections.undetermined));
    }
    [
        view.org.clone(),
        format!("{} -> {}", view.generation, view.next_generation),
        format!("{} -> {} of {}", view.bytes.now, view.bytes.next, view.bytes.limit),
        format!("{} of {}", connections.closing, connections.open),
        causes.join(", "),
    ]
}

/// Where something changes, whosever key it is, and to what where that is short.
fn place(change: &ClaimChange) -> String {
    const KEYS: &str = "/nats/signing_keys/";
    let pointer = match change.pointer.strip_prefix(KEYS) {
        None => change.pointer.clone(),
        Some(key) => format!("{KEYS}*{}", key.find('/').and_then(|at| key.get(at..)).unwrap_or_default()),
    };
    if change.before.is_array() || change.before.is_object() || change.after.is_array() || change.after.is_object() {
        return pointer;
    }
    format!("{pointer} {} -> {}", change.before, change.after)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_change_in_many_accounts_is_one_place() {
        let change = |pointer: &str, before, after| place(&ClaimChange { pointer: pointer.into(), before, after });
        assert_eq!(change("/nats/limits/conn", json!(100), json!(90)), "/nats/limits/conn 100 -> 90");
        for key in ["AAAA", "ABBB"] {
            let pointer = format!("/nats/signing_keys/{key}/template/pub/allow");
            assert_eq!(change(&pointer, json!(["a"]), json!([])), "/nats/signing_keys/*/template/pub/allow");
        }
        assert_eq!(change("/nats/signing_keys/AAAA", json!({}), json!(null)), "/nats/signing_keys/*");
    }
}
