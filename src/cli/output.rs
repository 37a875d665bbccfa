//! What commands print: tables for people, JSON for programs, progress for who watches a terminal.
//! Answers go to standard output, everything else to standard error.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind, IsTerminal, Write},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs: exactly what the API answers.
    Json,
}

/// Writes to standard output. A reader that has gone away, such as `head`, is no failure.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| {
        if text.is_empty() || text.ends_with('\n') {
            out.flush()
        } else {
            out.write_all(b"\n").and_then(|()| out.flush())
        }
    });
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::invalid("output", format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a line to standard error.
pub fn note(line: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A table with a header. It is not wrapped: lines are for `grep` as much as for eyes.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Names and values, one pair a line. Pairs without a value are left out.
pub fn fields(pairs: &[(&str, String)]) -> String {
    let shown = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = shown().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in shown() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:width$}  {}", plain(value));
    }
    text
}

/// A time as the API writes it, to the second.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Text that cannot play tricks on a terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Shows on a terminal that something takes its time; elsewhere nothing. Ends with the value.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Says what takes its time.
    pub fn start(words: String) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner().with_message(words);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }

    /// Shows how far something of `total` steps is.
    pub fn steps(words: String, total: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(total).with_message(words);
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} ({eta} left)") {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    /// One step more is done.
    pub fn step(&self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_fields() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned);
        assert_eq!(
            table(["SLUG", "PLAN"], [row(["acme", "m"]), row(["b\u{1b}[2J", "xl"])]),
            "SLUG   PLAN\nacme   m\nb [2J  xl"
        );
        assert_eq!(
            fields(&[("slug", "acme".to_owned()), ("no", String::new()), ("x", "1".to_owned())]),
            "slug  acme\nx     1\n"
        );
    }
}
