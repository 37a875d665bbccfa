//! What is found of valid credentials by their index, compared with what a look at every row says.

use chrono::{DateTime, TimeDelta, Utc};
use nats_authority::{
    authority::requests::NewCredential,
    model::CredentialState,
    store::{
        listing::Filter,
        page::Page,
        revocations::Selection,
        valid::{self, Usage},
    },
};
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    ledger::{Ledger, acme, ledger},
    support::knobs,
};

const ROLES: [&str; 3] = ["viewer", "projector", "publisher"];

/// Credentials of all ages, some of them revoked, superseded, renewed, that live differently long.
#[expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "the seed, to repeat a run")]
async fn mixed(l: &Ledger) -> PgConnection {
    let seed = knobs::seed();
    println!("seed {seed}");
    for env in ["prod", "dev"] {
        for role in ROLES {
            let one = |n| NewCredential { name: format!("c{n}"), role: role.to_owned(), ..NewCredential::default() };
            let items = (0..30).map(one).collect();
            let (org, env) = ("acme".parse().unwrap(), env.parse().unwrap());
            l.authority.issue_batch(&l.actor, &org, &env, items).await.unwrap();
        }
    }
    let mut connection = PgConnection::connect(l.database.url()).await.unwrap();
    let statements = [
        "UPDATE credentials SET issued_at = issued_at - make_interval(secs => floor(random() * 9000000)),
             expires_at = expires_at + interval '365 days'",
        "UPDATE credentials SET expires_at =
             issued_at + (ARRAY[interval '1 hour', interval '1 day', interval '90 days', interval '100 days'])[1 + floor(random() * 4)::int]",
        "UPDATE credentials SET superseded_at = issued_at, ends_at = expires_at, renewed = random() < 0.5 WHERE random() < 0.2",
        "UPDATE credentials SET revoked_at = issued_at WHERE random() < 0.2",
    ];
    sqlx::query("SELECT setseed($1)").bind((seed % 1000) as f64 / 1000.0).execute(&mut connection).await.unwrap();
    for statement in statements {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    connection
}

/// A look at every row. `$1` to `$7`: as [`Selection`], and now.
async fn looked(connection: &mut PgConnection, what: &str, selection: &Selection, now: DateTime<Utc>) -> Option<i64> {
    let sql = format!(
        "WITH c AS (
             SELECT c.*, c.expires_at > $7 AND c.revoked_at IS NULL AS valid, ($2::uuid IS NULL OR e.id = $2)
                 AND ($3::text IS NULL OR c.role = $3) AND ($4::timestamptz IS NULL OR c.issued_at <= $4)
                 AND ($5::text IS NULL OR c.issuer_key = $5) AND c.revoked_at IS NULL AND c.expires_at > $6 AS selected
             FROM credentials c JOIN environments e ON e.id = c.environment_id WHERE e.organization_id = $1)
         SELECT ({what})::bigint AS it FROM c"
    );
    let at = |unix: Option<i64>| unix.and_then(|unix| DateTime::from_timestamp(unix, 0));
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(selection.org).bind(selection.environment);
    let query = query.bind(&selection.role).bind(at(selection.issued_until));
    let query = query.bind(selection.signing_key.map(|key| key.to_string())).bind(selection.ends_after).bind(now);
    query.fetch_one(connection).await.unwrap().get("it")
}

#[tokio::test]
async fn the_index_finds_what_a_look_at_every_row_finds() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let mut connection = mixed(&l).await;
    let now = l.authority.now();
    let org: Uuid = sqlx::query_scalar("SELECT id FROM organizations").fetch_one(&mut connection).await.unwrap();
    let environments: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM environments ORDER BY id").fetch_all(&mut connection).await.unwrap();
    let key: String =
        sqlx::query_scalar("SELECT issuer_key FROM credentials LIMIT 1").fetch_one(&mut connection).await.unwrap();
    let all = Selection {
        org,
        environment: None,
        role: None,
        issued_until: None,
        signing_key: None,
        ends_after: now - TimeDelta::hours(1),
    };
    let until = Some((now - TimeDelta::days(40)).timestamp());
    let selections = [
        all.clone(),
        Selection { environment: Some(environments[0]), ..all.clone() },
        Selection { role: Some("viewer".to_owned()), ..all.clone() },
        Selection { role: Some("nobody".to_owned()), ..all.clone() },
        Selection { issued_until: until, ..all.clone() },
        Selection { environment: Some(environments[1]), issued_until: until, ..all.clone() },
        Selection { signing_key: Some(key.parse().unwrap()), ..all.clone() },
    ];
    let seconds = "extract(epoch FROM min(issued_at)";
    let oldest = looked(&mut connection, &format!("{seconds} FILTER (WHERE valid))"), &all, now).await;
    assert_eq!(valid::oldest(&mut connection, org, now).await.unwrap().map(|(at, _)| at), oldest);
    let latest = looked(&mut connection, "extract(epoch FROM max(issued_at) FILTER (WHERE valid))", &all, now).await;
    assert_eq!(valid::latest(&mut connection, org, now).await.unwrap(), latest);
    assert!(oldest.is_some() && oldest < latest);
    for selection in &selections {
        let count = looked(&mut connection, "count(*) FILTER (WHERE selected)", selection, now).await;
        let found = valid::count(&mut connection, selection).await.unwrap();
        assert_eq!(i64::try_from(found).ok(), count, "{selection:?}");
        let other = format!("{seconds} FILTER (WHERE valid AND NOT selected))");
        let other = looked(&mut connection, &other, selection, now).await;
        assert_eq!(valid::earliest_other(&mut connection, selection, now).await.unwrap(), other, "{selection:?}");
        for (cutoff, free) in [(None, None), (until, None), (None, until), (until, Some(now.timestamp() - 86_400))] {
            let usage = valid::usage(&mut connection, selection, now, cutoff, free).await.unwrap();
            let Some(Usage { key, selected, others, standing, late }) = usage.first() else { continue };
            let of_key = |condition: &str| format!("count(*) FILTER (WHERE issuer_key = '{key}' AND ({condition}))");
            let time =
                |unix: Option<i64>| unix.map_or("'-infinity'".to_owned(), |unix| format!("to_timestamp({unix})"));
            let stands = format!("revoked_at IS NOT NULL AND expires_at > $6 AND issued_at > {}", time(cutoff));
            let late_ones = format!("(selected OR {stands}) AND issued_at > {}", time(free));
            for (found, condition) in [(selected, "selected"), (standing, &*stands), (late, &*late_ones)] {
                let looked = looked(&mut connection, &of_key(condition), selection, now).await;
                assert_eq!(Some(*found), looked, "{condition}: {selection:?}");
            }
            let more = looked(&mut connection, &of_key("valid AND NOT selected"), selection, now).await;
            assert_eq!(*others, more > Some(0), "{selection:?}");
        }
    }
}

#[tokio::test]
async fn what_ends_next_is_listed_page_by_page_whole_and_in_order() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let mut connection = mixed(&l).await;
    let (now, slug) = (l.authority.now(), "acme".parse().unwrap());
    let before = Some(now + TimeDelta::days(30));
    for (state, condition) in [(CredentialState::Active, "IS NULL"), (CredentialState::Superseded, "IS NOT NULL")] {
        for (role, expires_before) in [(None, None), (Some("projector".to_owned()), before)] {
            let wanted: Vec<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
                "SELECT id FROM credentials WHERE revoked_at IS NULL AND superseded_at {condition} AND expires_at > $1
                     AND ($2::text IS NULL OR role = $2) AND ($3::timestamptz IS NULL OR expires_at < $3)
                 ORDER BY expires_at, id"
            )))
            .bind(now)
            .bind(&role)
            .bind(expires_before)
            .fetch_all(&mut connection)
            .await
            .unwrap();
            let filter = Filter { state: Some(state), role: role.clone(), expires_before, ..Filter::default() };
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = Page { limit: 7, after };
                let (rows, more) = l.authority.store().endings(Some(&slug), &filter, now, &page).await.unwrap();
                after = rows.last().map(|row| (row.expires_at, row.id));
                listed.extend(rows.iter().map(|row| row.id));
                if !more {
                    break;
                }
            }
            assert_eq!(listed, wanted, "{state:?} {role:?}");
        }
    }
}
