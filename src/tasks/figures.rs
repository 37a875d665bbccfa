//! Counts for the metrics. Every replica counts for itself, and all say the same; `docs/METRICS.md` says what.
//!
//! How far the servers are is counted every few seconds, by which `GET /api/v1/resolver` knows as well since when they
//! have converged. What needs all credentials is counted so rarely that it takes at most a hundredth of the time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    authority::{Authority, Standing, Whole},
    error::Result,
    identity::Doubt,
    model::{
        credential::CredentialState,
        view::{Convergence, ResolverType},
    },
};

/// How often the servers are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How often all is counted, at most.
const COUNT: Duration = Duration::from_mins(1);

/// How many times longer than a count the pause behind it is.
const SHARE: u32 = 100;

/// Counters begin at zero, so that the first event is seen as an increase.
fn begin() {
    for cause in CAUSES {
        metrics::counter!("nats_authority_repairs_total", "cause" => cause).increment(0);
    }
    metrics::counter!("nats_authority_restored_environments_total").increment(0);
    metrics::counter!("nats_authority_clients_closed_total").increment(0);
    metrics::counter!("nats_authority_http_requests_shed_total").increment(0);
    metrics::counter!("nats_authority_http_requests_rationed_total").increment(0);
    metrics::counter!("nats_authority_http_connections_refused_total").increment(0);
    for doubt in Doubt::ALL {
        metrics::counter!("nats_authority_callers_refused_total", "reason" => doubt.as_str()).increment(0);
    }
    for result in ["taken", "refused"] {
        metrics::counter!("nats_authority_policy_reloads_total", "result" => result).increment(0);
    }
}

/// The causes of repairs.
const CAUSES: [&str; 7] = ["missing", "stale", "not-running", "differs", "replayed", "foreign", "deleted"];

pub(super) async fn run(authority: Arc<Authority>, stop: CancellationToken) {
    begin();
    let mut credentials = Credentials::default();
    let mut count_at = Instant::now();
    loop {
        let standing = authority.standing();
        tell_servers(&standing);
        match authority.whole_lately().await {
            Ok(whole) => tell_whole(&whole),
            Err(error) => tracing::warn!(%error, cause = error.internal_report(), "the accounts could not be counted"),
        }
        let started = Instant::now();
        if started >= count_at {
            if let Err(error) = count(&authority, &standing, &mut credentials).await {
                tracing::warn!(%error, cause = error.internal_report(), "the credentials could not be counted");
            }
            let took = started.elapsed();
            metrics::gauge!("nats_authority_count_duration_seconds").set(took.as_secs_f64());
            count_at = Instant::now() + COUNT.max(took * SHARE);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn set(gauge: &metrics::Gauge, value: i64) {
    gauge.set(value as f64);
}

fn tell_servers(standing: &Standing) {
    let kinds = [
        ("full", Some(ResolverType::Full)),
        ("cache", Some(ResolverType::Cache)),
        ("url", Some(ResolverType::Url)),
        ("unknown", None),
    ];
    for (resolver, kind) in kinds {
        for (state, live) in [("live", true), ("gone", false)] {
            let those =
                standing.servers.iter().filter(|server| server.row.live == live && server.told.resolver == kind);
            let gauge = metrics::gauge!("nats_authority_servers", "state" => state, "resolver" => resolver);
            set(&gauge, i64::try_from(those.count()).unwrap_or(i64::MAX));
        }
    }
    let strangers = standing.live().filter(|server| server.trusts_us == Some(false)).count();
    set(&metrics::gauge!("nats_authority_servers_without_trust"), i64::try_from(strangers).unwrap_or(i64::MAX));
    set(&metrics::gauge!("nats_authority_connected"), i64::from(standing.connected.is_ok()));
}

fn tell_whole(whole: &Whole) {
    let states = [
        ("converged", Convergence::Converged),
        ("pending", Convergence::Pending),
        ("partial", Convergence::Partial),
        ("unreachable", Convergence::Unreachable),
    ];
    for (name, state) in states {
        set(&metrics::gauge!("nats_authority_accounts", "state" => name), whole.count.in_state(state));
    }
    let count = &whole.count;
    let refused = count.servers.values().map(|server| server.refused).sum();
    set(&metrics::gauge!("nats_authority_accounts_due"), count.due);
    set(&metrics::gauge!("nats_authority_accounts_refused"), refused);
    set(&metrics::gauge!("nats_authority_servers_lacking"), i64::try_from(whole.missing.len()).unwrap_or(i64::MAX));
    set(&metrics::gauge!("nats_authority_converged"), i64::from(whole.state == Convergence::Converged));
    if let Some(at) = whole.converged_at {
        set(&metrics::gauge!("nats_authority_converged_timestamp_seconds"), at.timestamp());
    }
}

/// The roles that were told of: what is there no longer has to become zero.
#[derive(Default)]
struct Credentials(BTreeSet<String>);

impl Credentials {
    /// `counted` by role and state. Roles that are in no file any more count together as `other`.
    fn tell(&mut self, known: &BTreeSet<String>, counted: &[(String, CredentialState, i64)]) {
        self.0.extend(known.iter().cloned().chain(["other".to_owned()]));
        let states = [
            ("active", CredentialState::Active),
            ("superseded", CredentialState::Superseded),
            ("revoked", CredentialState::Revoked),
            ("expired", CredentialState::Expired),
        ];
        let named = |role: &String| if known.contains(role) { role.clone() } else { "other".to_owned() };
        for role in &self.0 {
            for (name, state) in states {
                let those = counted.iter().filter(|(its, is, _)| named(its) == *role && *is == state);
                let gauge = metrics::gauge!("nats_authority_credentials", "role" => role.clone(), "state" => name);
                set(&gauge, those.map(|(_, _, n)| n).sum());
            }
        }
    }
}

async fn count(authority: &Authority, standing: &Standing, credentials: &mut Credentials) -> Result<()> {
    let (store, now) = (authority.store(), authority.now());
    let sizes = store.account_sizes(now).await?;
    let fold_above = i64::try_from(authority.settings().fold_above).unwrap_or(i64::MAX);
    let (_, entries, over) = store.largest_accounts(fold_above).await?;
    let limit = i64::try_from(standing.max_payload()).unwrap_or(i64::MAX);
    set(&metrics::gauge!("nats_authority_account_jwt_largest_bytes"), sizes.largest);
    set(&metrics::gauge!("nats_authority_account_jwt_forecast_bytes"), sizes.forecast);
    set(&metrics::gauge!("nats_authority_account_jwt_limit_bytes"), limit);
    set(&metrics::gauge!("nats_authority_accounts_not_folded"), over);
    set(&metrics::gauge!("nats_authority_revocation_entries"), sizes.entries);
    set(&metrics::gauge!("nats_authority_revocation_entries_largest"), entries);
    let roles = authority.policies().roles.keys().map(ToString::to_string).collect();
    credentials.tell(&roles, &store.count_credentials(now).await?);
    Ok(())
}
