//! Rows of figures.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

#[derive(Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    figure: String,
    measured: String,
    limit: String,
    ratio: Option<f64>,
    reach: String,
    reached: bool,
}

impl Report {
    /// A figure beside its limit. `ratio` is ours over the limit's, in the unit of `measured`.
    pub fn row(
        &mut self,
        figure: &str,
        measured: String,
        limit: String,
        ratio: Option<f64>,
        reach: &str,
        reached: bool,
    ) {
        println!("{figure}: {measured} (limit {limit})");
        self.rows.push(Row { figure: figure.to_owned(), measured, limit, ratio, reach: reach.to_owned(), reached });
    }

    pub fn table(&self) -> String {
        let mut text =
            "| figure | measured | limit in this run | ratio | to reach | reached |\n|---|---|---|---|---|---|\n"
                .to_owned();
        for row in &self.rows {
            let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let reached = if row.reached { "yes" } else { "NO" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {ratio} | {} | {reached} |",
                row.figure, row.measured, row.limit, row.reach
            );
        }
        text
    }

    pub fn write(&self) -> Result<()> {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("report.json"), serde_json::to_string_pretty(self)?)?;
        Ok(())
    }
}

/// The value below which `share` of the sorted values lie.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or_default()
}
