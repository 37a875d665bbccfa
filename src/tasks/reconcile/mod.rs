//! Compares what servers store and run with the ledger: at the start, when a server appears or comes
//! back, when asked to, and at a tick.
//!
//! What follows from a comparison is decided in `authority::reconcile`, how one is made stands in
//! [`check`]; here is when. Pushes are left to the push task. What somebody pushes is looked at in [`pushed`],
//! what we pushed in [`loading`].

pub mod check;
mod database;
pub mod ledger;
pub(super) mod loading;
mod looks;
pub(super) mod pushed;
mod suspect;
mod terms;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::check::{Findings, Memory, Thoroughness, check};
use crate::{
    authority::{Authority, Compared},
    error::Result,
    resolver::SystemResolver,
};

/// How soon to look again after a repair or when something was unclear; doubles up to the tick.
const SOON: Duration = Duration::from_millis(250);

/// How long to wait for repairs before looking whether they helped.
const REPAIR: Duration = Duration::from_secs(30);

pub(super) async fn run(
    authority: Arc<Authority>,
    resolver: Arc<SystemResolver>,
    tick: Duration,
    stop: CancellationToken,
) {
    let ledger = database::Database::new(Arc::clone(&authority));
    let mut roll = resolver.registry().roll();
    let mut state = resolver.connection().state();
    let mut memory = Memory::default();
    let mut pause = SOON;
    loop {
        // Changes from here on are looked at next.
        roll.mark_unchanged();
        let mut wait = tick;
        let connected = state.borrow_and_update().connected;
        if connected && !resolver.registry().expected().is_empty() {
            let started = Instant::now();
            let checked = check(&ledger, resolver.as_ref(), Thoroughness::default(), &mut memory).await;
            metrics::histogram!("nats_authority_reconcile_duration_seconds").record(started.elapsed());
            match checked {
                Ok(findings) => {
                    tell(&authority, &findings);
                    let acted = !findings.repairs.is_empty() || !findings.deleted.is_empty();
                    // Not sooner and sooner while a server that has just started is waited for.
                    let done = findings.agreed && !findings.again;
                    pause = if acted || done { SOON } else { (pause * 2).min(tick) };
                    if acted && let Err(error) = repaired(&authority, &findings, &stop).await {
                        tracing::warn!(%error, cause = error.internal_report(), "reconcile");
                    }
                    if findings.again {
                        wait = pause;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, cause = error.internal_report(), "reconcile");
                    pause = (pause * 2).min(tick);
                    wait = pause;
                }
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = authority.reconcile_wanted.notified() => {}
            _ = roll.changed() => {}
            _ = state.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Waits until what was marked has been pushed.
async fn repaired(authority: &Authority, findings: &Findings, stop: &CancellationToken) -> Result<()> {
    let accounts: Vec<_> = findings.repairs.iter().map(|repair| repair.account).collect();
    let end = Instant::now() + REPAIR;
    while !accounts.is_empty() && Instant::now() < end && authority.store().still_due(&accounts).await? > 0 {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(SOON / 5) => {}
        }
    }
    Ok(())
}

/// Logs and counts what was found.
fn tell(authority: &Authority, findings: &Findings) {
    for repair in findings.repairs.iter().take(100) {
        let reason = &repair.reason;
        tracing::warn!(account = %repair.account, ?reason, wrong = repair.wrong, seen = repair.seen, "repair");
    }
    if findings.repairs.len() > 100 {
        tracing::warn!(accounts = findings.repairs.len(), "repair: the first 100 were named");
    }
    for repair in &findings.repairs {
        metrics::counter!("nats_authority_repairs_total", "cause" => repair.reason.name()).increment(1);
    }
    for account in &findings.deleted {
        tracing::warn!(%account, "a deleted account had come back and was deleted again");
        metrics::counter!("nats_authority_repairs_total", "cause" => "deleted").increment(1);
    }
    let before = authority.compared();
    let mut unknown = findings.unknown.clone();
    unknown.sort_unstable();
    if unknown.is_empty() && !findings.agreed {
        // Nothing was said of them.
        unknown.clone_from(&before.unknown);
    }
    if unknown != before.unknown {
        tracing::warn!(accounts = ?unknown, "the servers store accounts that the ledger does not know; they are left alone");
    }
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("nats_authority_unknown_accounts").set(unknown.len() as f64);
    let agreed_at = if findings.agreed { Some(authority.now()) } else { before.agreed_at };
    if let Some(at) = agreed_at {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("nats_authority_agreed_timestamp_seconds").set(at.timestamp() as f64);
    }
    authority.set_compared(Compared { agreed_at, unknown });
}
