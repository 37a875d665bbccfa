//! Answers servers that miss an account with what the ledger says.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::Authority,
    error::Result,
    nkey::{Account, PublicKey},
    resolver::{SystemResolver, lookup},
};

/// The pause before listening again.
const RETRY: Duration = Duration::from_millis(500);

/// The ledger as servers may see it.
struct Desired(Arc<Authority>);

impl lookup::Accounts for Desired {
    fn jwts<'a>(
        &'a self,
        accounts: &'a [PublicKey<Account>],
    ) -> BoxFuture<'a, Result<HashMap<PublicKey<Account>, String>>> {
        self.0.store().jwts_for_servers(accounts).boxed()
    }
}

pub(super) async fn run(authority: Arc<Authority>, resolver: Arc<SystemResolver>, stop: CancellationToken) {
    let desired = Desired(authority);
    let count = |name: &'static str, by: u64| {
        if by > 0 {
            metrics::counter!("nats_authority_lookups_total", "result" => name).increment(by);
        }
    };
    loop {
        let mut state = resolver.connection().state();
        let listen = async {
            let Ok(link) = resolver.connection().link() else { return };
            let other = |generation| generation != link.generation();
            // The next connection listens before the servers close this one.
            let replaced = async {
                let _ = state.wait_for(|state| other(state.generation)).await;
            };
            tokio::select! {
                () = replaced => {}
                ended = lookup::answer(&link, &desired, |yes, no| { count("answered", yes); count("ignored", no) }) => {
                    if let Err(error) = ended {
                        tracing::debug!(cause = error.internal_report(), "lookups are not answered: {error}");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let wait = async {
            listen.await;
            if resolver.connection().link().is_err() {
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
