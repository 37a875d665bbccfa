//! What pushing asks of the ledger, on a real Postgres without servers.

use std::time::Duration;

use chrono::TimeDelta;
use nats_authority::{
    entropy::SystemEntropy,
    nkey::{Account, KeyPair, Operator},
    store::{
        Store,
        accounts::{self, AccountServer},
        operator_rotations,
        pushes::{DueAccount, PushReport, Reported},
    },
};
use sqlx::{Connection, PgConnection};

use crate::{
    ledger::{Ledger, ledger},
    support::stack::eventually,
};

const ACCOUNTS: usize = 3_000;

/// Accounts as if they had been minted, and three servers that have them.
async fn populate(l: &Ledger) {
    let entropy = SystemEntropy::new();
    let key = |_| KeyPair::<Account>::generate(&entropy).public().to_string();
    let keys: Vec<_> = (0..ACCOUNTS).map(key).collect();
    let mut connection = PgConnection::connect(l.database.url()).await.unwrap();
    sqlx::query(
        "INSERT INTO accounts (account_key, kind, generation, iat, content_hash, jwt, jwt_sha256, created_at)
         SELECT key, 'organization', 1, 1, sha256(''), repeat('j', 1500), sha256(''), now() FROM unnest($1::text[]) AS key",
    )
    .bind(&keys)
    .execute(&mut connection)
    .await
    .unwrap();
    sqlx::raw_sql(
        "INSERT INTO account_servers (account_key, server, server_id, stored, at)
         SELECT account_key, 'n' || n, 'N' || n, generation, now() FROM accounts, generate_series(1, 3) AS n;
         ANALYZE",
    )
    .execute(&mut connection)
    .await
    .unwrap();
}

/// Rows that were read without an index, of the tables that pushing reads.
async fn read_in_sequence(l: &Ledger) -> i64 {
    let mut connection = PgConnection::connect(l.database.url()).await.unwrap();
    let tables = "SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables
        WHERE relname IN ('accounts', 'account_servers', 'account_pushes')";
    sqlx::query_scalar(tables).fetch_one(&mut connection).await.unwrap()
}

/// Closes `store`, the only one that is open: a session that ends has handed in what it counted.
async fn closed(l: &Ledger, store: &Store) {
    store.close().await;
    eventually("all sessions have ended", || async {
        let mut connection = PgConnection::connect(l.database.url()).await.unwrap();
        let others = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        sqlx::query_scalar::<_, i64>(others).fetch_one(&mut connection).await.unwrap() == 0
    })
    .await;
}

/// To push some of many accounts, or to hear of such pushes, costs no more because of the others: no statement reads a
/// whole table.
#[tokio::test]
async fn what_is_claimed_and_reported_is_found_by_index() {
    let l = ledger().await;
    populate(&l).await;
    l.authority.store().all_due(l.authority.now(), || ()).await.unwrap();
    let mut connection = PgConnection::connect(l.database.url()).await.unwrap();
    sqlx::raw_sql("ANALYZE account_pushes").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    closed(&l, l.authority.store()).await;
    let before = read_in_sequence(&l).await;
    let store = Store::connect(&l.database.url().to_owned().into(), 2, Duration::from_secs(10)).await.unwrap();
    // More often than Postgres plans a statement anew.
    for _ in 0..10 {
        let due = store.claim_due_accounts(100, 10, l.authority.now()).await.unwrap();
        assert_eq!(due.len(), 100);
        let accounts: Vec<_> = due.iter().map(|due| due.account).collect();
        let present = store.present_among(&accounts).await.unwrap();
        assert!(present.len() == 100 && present.iter().all(|(_, present)| present.as_ref().is_some_and(|p| p.moving)));
        let servers = due.iter().flat_map(|due| {
            [1, 2, 3].map(|number| AccountServer {
                account: due.account,
                server: format!("n{number}"),
                server_id: format!("N{number}"),
                stored: due.generation,
                effective: None,
                error: None,
            })
        });
        let later = l.authority.now() + TimeDelta::hours(1);
        let report = |(number, due): (usize, &DueAccount)| PushReport {
            account: due.account,
            generation: due.generation,
            again_at: (number % 10 == 0).then_some(later),
            lease: due.lease,
            rewrite: false,
        };
        let reports: Vec<_> = due.iter().enumerate().map(report).collect();
        let reported = store.report_push(&reports, &servers.collect::<Vec<_>>(), l.authority.now()).await.unwrap();
        assert_eq!(reported, Reported { changed: false, overtaken: false, gone: false });
    }
    closed(&l, &store).await;
    assert_eq!(read_in_sequence(&l).await - before, 0);
}

/// Who mints waits for the rows that a report has locked. A report that waited for the mint would wait for ever.
#[tokio::test]
async fn a_report_does_not_wait_for_whoever_mints() {
    let l = ledger().await;
    populate(&l).await;
    let store = l.authority.store();
    store.all_due(l.authority.now(), || ()).await.unwrap();
    let due = store.claim_due_accounts(1, 60, l.authority.now()).await.unwrap().remove(0);
    // As a mint begins, and as accounts are signed by another key of the operator.
    let mut minting = PgConnection::connect(l.database.url()).await.unwrap();
    let mut change = minting.begin().await.unwrap();
    accounts::lock(&mut change, due.account).await.unwrap();
    let key = KeyPair::<Operator>::generate(&SystemEntropy::new()).public();
    operator_rotations::take_unsigned(&mut change, key, None, 10).await.unwrap();
    let (account, generation, lease) = (due.account, due.generation, due.lease);
    // Of a server that nobody has heard of before: the row is new, and refers to the account's.
    let server = [AccountServer {
        account,
        server: "n4".to_owned(),
        server_id: "N4".to_owned(),
        stored: generation,
        effective: None,
        error: None,
    }];
    let report = [PushReport { account, generation, again_at: None, lease, rewrite: false }];
    let reported = store.report_push(&report, &server, l.authority.now());
    let reported = tokio::time::timeout(Duration::from_secs(5), reported).await.expect("it waits").unwrap();
    assert_eq!(reported, Reported { changed: true, overtaken: false, gone: false });
    change.commit().await.unwrap();
}
