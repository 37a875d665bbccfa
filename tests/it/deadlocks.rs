//! Whoever changes the same organization waits for its turn; nobody waits for somebody who waits for him.

use futures::future::{join, join_all};
use nats_authority::{authority::Proposal, model::OrgSlug};
use sqlx::{Connection, PgConnection};

use crate::ledger::{Ledger, acme, ledger};

/// How often Postgres had to end one that waited for another one that waited for it.
async fn deadlocks(ledger: &Ledger) -> i64 {
    let mut connection = PgConnection::connect(ledger.database.url()).await.unwrap();
    // Backends report what they counted within a second, or when they end.
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut connection).await.unwrap();
    let count = sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
    count.fetch_one(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_ends_while_others_ask_for_it() {
    let l = ledger().await;
    let slug: OrgSlug = "acme".parse().unwrap();
    for _ in 0..40 {
        let (view, _) = l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
        l.authority.delete(&l.actor, &slug, false).await.unwrap();
        let ending = l.authority.finish_deletion(&slug, view.account_id.parse().unwrap());
        let asking = join_all((0..4).map(|_| l.authority.preview(&l.actor, Proposal::Delete(&slug))));
        let (ended, asked) = join(ending, asking).await;
        ended.unwrap();
        for answer in asked {
            let code = answer.err().map(|error| error.code());
            assert!(matches!(code, None | Some("no-organization")), "{code:?}");
        }
    }
    assert_eq!(deadlocks(&l).await, 0);
}
