//! The figures, each measured beside its limit in the same run: what the machine could do at best
//! with the same cryptography, the same database and the same servers. Prints a table and writes
//! `target/bench/report.json`. Nothing fails because a machine is slow.

#![expect(clippy::print_stdout, reason = "a report")]

mod bulk;
mod cpu;
mod deployment;
mod http;
mod issue;
mod latency;
mod ledger;
mod mint;
mod push;
mod report;
mod scale;

use anyhow::Result;
use deployment::Deployment;
use report::Report;

/// `cargo bench --bench figures -- mint issue` measures only those: `mint`, `onboard`, `revoke`, `issue` (of it `batch`
/// alone), `scale` (up to 10,000 organizations; of it `push` alone), `ledger` (up to a million credentials); `scale` and
/// `ledger` together also the memory. Numbers, as in `-- push 100 1000`, are the sizes of `scale` and `push`.
fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let (sizes, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|word| word.parse::<usize>().is_ok());
    let sizes: Vec<usize> = sizes.iter().filter_map(|word| word.parse().ok()).collect();
    let sizes = if sizes.is_empty() { scale::SIZES.to_vec() } else { sizes };
    let wants = |figure: &str| wanted.is_empty() || wanted.iter().any(|word| word == figure);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut report = Report::default();
    if wants("mint") {
        mint::run(&mut report)?;
    }
    if !["onboard", "revoke", "issue", "batch", "scale", "push", "ledger"].into_iter().any(wants) {
        println!("\n{}", report.table());
        return report.write();
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let deployment = Deployment::start().await?;
        if wants("onboard") {
            latency::onboard(&mut report, &deployment, 100, "").await?;
        }
        if wants("revoke") {
            latency::revoke(&mut report, &deployment).await?;
            bulk::revoke(&mut report, &deployment).await?;
        }
        if wants("issue") {
            issue::single(&mut report, &deployment).await?;
        }
        if wants("issue") || wants("batch") {
            issue::batch(&mut report, &deployment).await?;
        }
        if wants("scale") {
            scale::run(&mut report, &deployment, &sizes).await?;
        } else if wants("push") {
            scale::push(&mut report, &deployment, &sizes).await?;
        }
        if wants("ledger") {
            ledger::run(&mut report, &deployment).await?;
        }
        if wants("scale") && wants("ledger") {
            scale::memory(&mut report, &deployment).await?;
        }
        deployment.stop().await
    })?;
    println!("\n{}", report.table());
    report.write()
}
