//! Loops that bring the cluster to what the ledger says. They take no input: a nudge makes them look
//! at once, a tick makes them look anyway, and any replica may run any of them at any time, for rows
//! are claimed in the database. What they decide about a row lives in pure functions beside them.

mod audit;
mod claims;
mod connect;
mod expire;
mod figures;
pub mod forecast;
mod forget;
pub mod gone;
mod items;
mod lookup;
mod platform;
mod policies;
mod provision;
mod publish_audit;
mod push;
pub mod reconcile;
mod renew;
mod restore;
mod rotate;
pub mod settle;
mod stayed;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authority::Authority,
    clock::{Clock, SystemClock},
    config::Config,
    error::Result,
    resolver::{ConnectionConfig, SystemConnection, SystemResolver, Timing, connection::Link},
};

/// How often a task looks without a nudge.
const TICK: Duration = Duration::from_secs(1);

/// The pause before listening again.
const RETRY: Duration = Duration::from_millis(500);

/// How often the servers are compared with the ledger when nothing happens.
pub const RECONCILE_TICK: Duration = Duration::from_secs(30);

/// What the tasks need to know.
#[derive(Clone, Debug)]
pub struct Setup {
    /// URLs of nats-servers.
    pub nats_urls: Vec<String>,
    /// Certificate authorities of nats-servers, PEM.
    pub tls_ca: Option<PathBuf>,
    /// How long a server may take to answer.
    pub answer_timeout: Duration,
    /// How often the servers are compared with the ledger when nothing happens.
    pub reconcile_tick: Duration,
    /// Until a server that does not answer, though others have routes to it, is not live.
    pub patience: Duration,
    /// Replicas of streams; none: by the number of servers.
    pub replicas: Option<usize>,
}

impl From<&Config> for Setup {
    fn from(config: &Config) -> Self {
        Self {
            nats_urls: config.nats_urls.clone(),
            tls_ca: config.nats_tls_ca.clone(),
            answer_timeout: config.answer_timeout,
            reconcile_tick: RECONCILE_TICK,
            patience: Timing::default().patience,
            replicas: config.replicas,
        }
    }
}

/// Starts all tasks; they end when `stop` is cancelled. Servers may come later. Returns the resolver
/// for those who ask servers directly.
pub fn start(
    authority: &Arc<Authority>,
    setup: &Setup,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Arc<SystemResolver>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut config = ConnectionConfig::new(setup.nats_urls.clone());
    config.tls_ca.clone_from(&setup.tls_ca);
    let users = Arc::new(connect::SystemUsers::new(Arc::clone(authority)));
    let mut platform = config.clone();
    platform.who = "our user of the platform account";
    tracker.spawn(renew::run(Arc::clone(authority), platform, stop.clone()));
    let connection = Arc::new(SystemConnection::start(config, users, Arc::clone(&clock))?);
    let timing = Timing { answer: setup.answer_timeout, patience: setup.patience, ..Timing::default() };
    let resolver = Arc::new(SystemResolver::start(connection, clock, timing));
    tracker.spawn(watch::run(Arc::clone(authority), Arc::clone(&resolver), stop.clone()));
    let (pushed, heard) = reconcile::loading::channel();
    tracker.spawn(push::run(Arc::clone(authority), Arc::clone(&resolver), pushed, stop.clone()));
    tracker.spawn(reconcile::loading::run(Arc::clone(authority), Arc::clone(&resolver), heard, stop.clone()));
    tracker.spawn(reconcile::run(Arc::clone(authority), Arc::clone(&resolver), setup.reconcile_tick, stop.clone()));
    tracker.spawn(reconcile::pushed::run(Arc::clone(authority), Arc::clone(&resolver), stop.clone()));
    tracker.spawn(stayed::run(Arc::clone(authority), Arc::clone(&resolver), stop.clone()));
    tracker.spawn(audit::run(Arc::clone(authority), stop.clone()));
    tracker.spawn(figures::run(Arc::clone(authority), stop.clone()));
    tracker.spawn(forget::run(Arc::clone(authority), stop.clone()));
    tracker.spawn(restore::run(Arc::clone(authority), Arc::clone(&resolver), stop.clone()));
    tracker.spawn(lookup::run(Arc::clone(authority), Arc::clone(&resolver), stop.clone()));
    tracker.spawn(expire::run(Arc::clone(authority), stop.clone()));
    tracker.spawn(policies::run(Arc::clone(authority), stop.clone()));
    tracker.spawn(platform::run(Arc::clone(authority), stop.clone()));
    let publisher = publish_audit::Publisher::new(Arc::clone(authority), Arc::clone(&resolver), setup.replicas);
    tracker.spawn(publisher.run(stop.clone()));
    tracker.spawn(rotate::run(Arc::clone(authority), stop.clone()));
    let provision = provision::Provision::new(Arc::clone(authority), Arc::clone(&resolver), setup.replicas);
    tracker.spawn(provision.run(stop.clone()));
    Ok(resolver)
}

/// Listens over the present connection to the servers, and over the next one before they close this one, until it is
/// time to stop.
async fn listen_always<F: Future<Output = Result<()>>>(
    connection: &SystemConnection,
    stop: &CancellationToken,
    listen: impl Fn(Arc<Link>) -> F,
) {
    loop {
        let mut state = connection.state();
        let listen = async {
            let Ok(link) = connection.link() else { return };
            let other = |generation| generation != link.generation();
            let replaced = async {
                let _ = state.wait_for(|state| other(state.generation)).await;
            };
            tokio::select! {
                () = replaced => {}
                ended = listen(Arc::clone(&link)) => {
                    if let Err(error) = ended {
                        tracing::debug!(cause = error.internal_report(), "what servers say is not heard: {error}");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let wait = async {
            listen.await;
            if connection.link().is_err() {
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = wait => {}
        }
    }
}

/// Waits for a nudge or a tick; false: it is time to stop.
async fn nudged(nudge: &tokio::sync::Notify, tick: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = nudge.notified() => true,
        () = tokio::time::sleep(tick) => true,
    }
}

/// How long to wait before attempt number `attempts` + 1: 50 ms doubling up to 30 s.
fn backoff(attempts: i32) -> chrono::TimeDelta {
    let exponent = u32::try_from(attempts.saturating_sub(1)).unwrap_or_default().min(10);
    chrono::TimeDelta::milliseconds((50_i64 << exponent).min(30_000))
}

#[cfg(test)]
mod tests {
    #[test]
    fn waits_grow_to_half_a_minute() {
        let millis: Vec<_> = [0, 1, 2, 5, 10, 11, 1000].map(|n| super::backoff(n).num_milliseconds()).to_vec();
        assert_eq!(millis, [50, 50, 100, 800, 25_600, 30_000, 30_000]);
    }
}
