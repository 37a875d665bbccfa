//! The end of credentials: who is warned before it and when an account is pruned after it.

use nats_authority::{
    authority::requests::{NewCredential, Reason, Rotate},
    model::{EnvType, OrgSlug, view::CredentialView},
    store::{audit, listing::Filter, page::Page},
};

use crate::ledger::{Ledger, acme, ledger};

const DAY: i64 = 86_400;

async fn issue(l: &Ledger, name: &str, ttl: &str) -> CredentialView {
    let (slug, env): (OrgSlug, EnvType) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    let request = NewCredential {
        name: name.to_owned(),
        role: "viewer".to_owned(),
        ttl: Some(ttl.to_owned()),
        ..NewCredential::default()
    };
    l.authority.issue(&l.actor, &slug, &env, request).await.unwrap().credential
}

/// What was warned of, the oldest first.
async fn warned(l: &Ledger) -> Vec<String> {
    let filter = audit::Filter { action: Some("credential.expiring".to_owned()), ..audit::Filter::default() };
    let (events, _) = l.authority.store().audit_events(&filter, &Page { limit: 1000, after: None }).await.unwrap();
    events.iter().rev().map(|event| event.detail["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn each_is_warned_of_once_and_only_what_will_end_by_itself() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    issue(&l, "ten", "10d").await;
    issue(&l, "short", "7d").await;
    let revoked = issue(&l, "revoked", "10d").await;
    let rotated = issue(&l, "rotated", "10d").await;
    l.authority.revoke(&l.actor, revoked.id, Reason::default()).await.unwrap();
    l.authority.rotate(&l.actor, rotated.id, Rotate::default()).await.unwrap();
    assert_eq!(l.authority.warn_of_endings().await.unwrap(), 0);
    l.clock.advance(3 * DAY - 1);
    assert_eq!(l.authority.warn_of_endings().await.unwrap(), 0, "seven days and a second before");
    issue(&l, "eight", "8d").await;
    l.clock.advance(1);
    assert_eq!(l.authority.warn_of_endings().await.unwrap(), 2);
    // The rotated one's successor lives as long.
    let mut names = warned(&l).await;
    names.sort_unstable();
    assert_eq!(names, ["rotated", "ten"]);
    let replica = l.reopen().await;
    assert_eq!((l.authority.warn_of_endings().await.unwrap(), replica.warn_of_endings().await.unwrap()), (0, 0));
    l.clock.advance(DAY);
    let both = tokio::join!(l.authority.warn_of_endings(), replica.warn_of_endings());
    assert_eq!(both.0.unwrap() + both.1.unwrap(), 1);
    assert_eq!(warned(&l).await.last().unwrap(), "eight");
    let (log, _) = l
        .authority
        .store()
        .audit_events(
            &audit::Filter { action: Some("credential.expiring".to_owned()), ..audit::Filter::default() },
            &Page { limit: 1, after: None },
        )
        .await
        .unwrap();
    assert_eq!((log[0].actor.as_str(), log[0].org.as_deref()), ("task:expire", Some("acme")));
}

#[tokio::test]
async fn more_than_fit_into_one_transaction_are_all_warned_of() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let items = (0..501)
        .map(|n| NewCredential {
            name: format!("c{n}"),
            role: "viewer".to_owned(),
            ttl: Some("8d".to_owned()),
            ..NewCredential::default()
        })
        .collect();
    let (slug, env): (OrgSlug, EnvType) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    l.authority.issue_batch(&l.actor, &slug, &env, items).await.unwrap();
    // They all end in one second.
    l.clock.advance(DAY);
    assert_eq!(l.authority.warn_of_endings().await.unwrap(), 501);
    let names: std::collections::BTreeSet<_> = warned(&l).await.into_iter().collect();
    assert_eq!(names.len(), 501);
    assert_eq!(l.authority.warn_of_endings().await.unwrap(), 0);
}

#[tokio::test]
async fn what_ends_next_comes_first_whosever_it_is() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let other = nats_authority::authority::requests::NewOrganization { slug: "globex".to_owned(), ..acme(&["prod"]) };
    l.authority.onboard(&l.actor, other).await.unwrap();
    for (name, ttl) in [("c", "3d"), ("a", "1d"), ("d", "30d")] {
        issue(&l, name, ttl).await;
    }
    let globex: OrgSlug = "globex".parse().unwrap();
    let request = NewCredential {
        name: "b".to_owned(),
        role: "viewer".to_owned(),
        ttl: Some("2d".to_owned()),
        ..NewCredential::default()
    };
    l.authority.issue(&l.actor, &globex, &"prod".parse().unwrap(), request).await.unwrap();
    let before = l.authority.now() + chrono::TimeDelta::days(14);
    let filter = Filter { expires_before: Some(before), ..Filter::default() };
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let (page, more) = l.authority.endings(None, &filter, &Page { limit: 1, after }).await.unwrap();
        names.extend(page.iter().map(|credential| credential.name.clone()));
        after = page.last().map(|last| (last.expires_at, last.id));
        if !more {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
    let whole = Page { limit: 10, after: None };
    assert_eq!(l.authority.endings(Some(&globex), &filter, &whole).await.unwrap().0[0].name, "b");
    let nobody = l.authority.endings(Some(&"nobody".parse().unwrap()), &filter, &whole).await.unwrap_err();
    assert_eq!(nobody.code(), "no-organization");
}

#[tokio::test]
async fn an_account_is_pruned_when_enough_has_ended_and_by_one_of_two_replicas() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let slug: OrgSlug = "acme".parse().unwrap();
    for n in 0..3 {
        let credential = issue(&l, &format!("c{n}"), &format!("{}d", n + 1)).await;
        l.authority.revoke(&l.actor, credential.id, Reason::default()).await.unwrap();
    }
    let before = l.authority.revocations(&slug).await.unwrap();
    let at = before.prune_at.unwrap();
    assert_eq!((before.entries, at - l.authority.now()), (3, chrono::TimeDelta::days(3) + chrono::TimeDelta::hours(1)));
    let replica = l.reopen().await;
    l.clock.advance((at - l.authority.now()).num_seconds() - 1);
    assert_eq!(l.authority.prune().await.unwrap(), 0, "a second too early");
    l.clock.advance(1);
    let both = tokio::join!(l.authority.prune(), replica.prune());
    assert_eq!(both.0.unwrap() + both.1.unwrap(), 1);
    let after = l.authority.revocations(&slug).await.unwrap();
    assert_eq!((after.entries, after.prune_at), (0, None));
    assert!(after.bytes < before.bytes);
    let filter = audit::Filter { action: Some("account.prune".to_owned()), ..audit::Filter::default() };
    let (events, _) = l.authority.store().audit_events(&filter, &Page { limit: 10, after: None }).await.unwrap();
    assert_eq!((events.len(), events[0].actor.as_str()), (1, "task:prune"));
    assert_eq!(events[0].detail["entries"], 3);
}
