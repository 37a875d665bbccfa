//! `--dry-run` and `--if-match`: how a change is asked for, and what a dry run prints.

use std::{
    fmt::Write,
    io::{IsTerminal, stdout},
};

use clap::Args;
use reqwest::{
    Method,
    header::{HeaderMap, HeaderValue, IF_MATCH},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    Outcome,
    client::{Answer, Client},
};
use crate::{
    cli::output::{OutputFormat, plain, print},
    model::{
        preview::{ClaimChange, ClosingByCause, PreviewView},
        size::format_size,
    },
};

/// Options of commands that change an account.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Try {
    /// Change nothing; show what would change, and whom it would disconnect.
    #[arg(long)]
    dry_run: bool,
    /// Only if the account is at this generation, which a dry run shows.
    #[arg(long, value_name = "GENERATION")]
    if_match: Option<u64>,
}

impl Try {
    /// Asks for a change. None: it was a dry run, and what it would do has been printed.
    pub(super) async fn change(
        self,
        client: &Client,
        method: Method,
        path: &[&str],
        query: &[(&str, Option<String>)],
        body: Option<&impl Serialize>,
    ) -> Outcome<Option<Answer>> {
        let mut query = query.to_vec();
        query.push(("dryRun", self.dry_run.then(|| "true".to_owned())));
        let header = self.if_match.and_then(|generation| HeaderValue::try_from(format!("\"{generation}\"")).ok());
        let headers: HeaderMap = header.map(|value| (IF_MATCH, value)).into_iter().collect();
        let answer = client.change_if(method, path, &query, body, headers).await?;
        if !self.dry_run {
            return Ok(Some(answer));
        }
        match client.format {
            OutputFormat::Json => print(answer.text())?,
            OutputFormat::Table => print(&text(&answer.read()?, stdout().is_terminal()))?,
        }
        Ok(None)
    }
}

/// What a change would do, for people.
fn text(preview: &PreviewView, colours: bool) -> String {
    let mut text = consequences(preview, colours);
    if preview.next_generation != preview.generation {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "nothing was changed; to do exactly this: --if-match {}", preview.generation);
    }
    text
}

/// What it would do to the account and those who use it.
pub(super) fn consequences(preview: &PreviewView, colours: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    if preview.next_generation == preview.generation {
        let _ = writeln!(text, "{}: the account does not change (generation {})", preview.org, preview.generation);
        return text;
    }
    let _ = writeln!(text, "{}: generation {} -> {}", preview.org, preview.generation, preview.next_generation);
    for change in &preview.changes {
        difference(&mut text, change, colours);
    }
    let bytes = preview.bytes;
    let _ = writeln!(text, "JWT          {} -> {} bytes of {}", bytes.now, bytes.next, bytes.limit);
    let closing = &preview.connections;
    let _ = writeln!(text, "connections  {} of {} open ones close", closing.closing, closing.open);
    for cause in &closing.by_cause {
        by_cause(&mut text, cause);
    }
    if closing.undetermined > 0 {
        let _ = writeln!(text, "             at least {} more by the connection limit", closing.undetermined);
    }
    if closing.examined < closing.open {
        let _ = writeln!(text, "             only {} were looked at", closing.examined);
    }
    if let Some(used) = &preview.jetstream {
        let (disk, memory) = (format_size(used.disk), format_size(used.memory));
        let _ = writeln!(text, "JetStream    {disk} on disk, {memory} in memory, {} streams", used.streams);
        for over in &used.exceeded {
            let _ =
                writeln!(text, "             {} {} is over {}: {}", over.pointer, over.used, over.limit, over.effect);
        }
    }
    for import in &preview.broken_imports {
        let _ = writeln!(text, "import       {} has no exporter and would not work", plain(import));
    }
    if !preview.unasked_servers.is_empty() {
        let _ = writeln!(text, "not asked    {}", plain(&preview.unasked_servers.join(", ")));
    }
    text
}

fn by_cause(text: &mut String, cause: &ClosingByCause) {
    let name = super::org::name_of(&cause.cause);
    let shown = cause.examples.iter().map(|connection| {
        let user = connection.user_key.as_deref().unwrap_or("unknown user");
        let name = connection.name.as_deref().map(|name| format!(" '{name}'")).unwrap_or_default();
        format!("{user}{name} on {}", connection.server)
    });
    let _ = writeln!(text, "             {} {name}", cause.count);
    for line in shown {
        let _ = writeln!(text, "               {}", plain(&line));
    }
    if cause.count > cause.examples.len() as u64 {
        let _ = writeln!(text, "               …");
    }
}

fn difference(text: &mut String, change: &ClaimChange, colours: bool) {
    let _ = writeln!(text, "  {}", plain(&change.pointer));
    for (sign, colour, value) in [('-', 31, &change.before), ('+', 32, &change.after)] {
        for line in lines(value) {
            let line = plain(&line);
            let _ = if colours {
                writeln!(text, "    \u{1b}[{colour}m{sign} {line}\u{1b}[0m")
            } else {
                writeln!(text, "    {sign} {line}")
            };
        }
    }
}

/// A value in lines; nothing for null.
fn lines(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::Object(_) | Value::Array(_) => {
            serde_json::to_string_pretty(value).unwrap_or_default().lines().map(str::to_owned).collect()
        }
        value => vec![value.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_have_signs_and_colours_only_on_a_terminal() {
        let change = ClaimChange { pointer: "/nats/limits/conn".into(), before: json!(10), after: json!({"a": 1}) };
        let shown = |colours| {
            let mut text = String::new();
            difference(&mut text, &change, colours);
            text
        };
        assert_eq!(shown(false), "  /nats/limits/conn\n    - 10\n    + {\n    +   \"a\": 1\n    + }\n");
        assert!(shown(true).contains("\u{1b}[31m- 10\u{1b}[0m"));
    }
}
