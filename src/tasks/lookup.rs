//! Answers servers that miss an account with what the ledger says.

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use super::listen_always;
use crate::{
    authority::Authority,
    error::Result,
    nkey::{Account, PublicKey},
    resolver::{SystemResolver, lookup},
};

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
    listen_always(resolver.connection(), &stop, |link| {
        let (desired, count) = (&desired, &count);
        async move {
            let answered = |yes, no| {
                count("answered", yes);
                count("ignored", no);
            };
            lookup::answer(&link, desired, answered).await
        }
    })
    .await;
}
