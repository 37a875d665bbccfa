//! Answers the requests of users to renew their credentials, as a member of a group: of all replicas one gets
//! each request. Whether a credential is renewed, the authority decides.

use std::{sync::Arc, time::Duration};

use chrono::DateTime;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use super::TICK;
use crate::{
    authority::Authority,
    clock::{Clock, SystemClock},
    error::{Error, Kind, Result},
    jwt::{
        Permissions,
        permissions::{Permission, ResponsePermission},
    },
    model::names::RENEWAL,
    nkey::{Account, PublicKey, User},
    resolver::{
        ConnectionConfig, Credentials, SystemConnection, UserCredential,
        responder::{self, Request},
    },
};

/// The group of the replicas.
const QUEUE: &str = "nats-authority";

/// How many requests are worked on at a time: about what fills the recorders' batches.
const AT_ONCE: usize = 128;

/// How long servers may take to get the platform account before we try to connect to it anyway: those that ask
/// for accounts by URL never say that they have it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an answer may take, nanoseconds; clients give up before.
const ANSWER_WITHIN: i64 = 30_000_000_000;

/// Users of the platform account that may do nothing but answer requests for renewal. The inbox is what our
/// connection subscribes to always; in this account there is nobody else whose answers it could read.
struct PlatformUsers(Arc<Authority>);

impl Credentials for PlatformUsers {
    fn fresh(&self) -> BoxFuture<'_, Result<UserCredential>> {
        async move {
            let allow = vec![format!("{RENEWAL}.*.*"), "_INBOX.>".to_owned()];
            let permissions = Permissions {
                subscribe: Permission { allow, deny: Vec::new() },
                response: Some(ResponsePermission { max: 1, ttl: ANSWER_WITHIN }),
                ..Permissions::default()
            };
            let user = self.0.platform_user("renew", permissions).await?;
            let expires_at = DateTime::from_timestamp(user.expires_at, 0).unwrap_or_default();
            Ok(UserCredential { jwt: user.jwt, key: user.key, expires_at })
        }
        .boxed()
    }
}

pub(super) async fn run(authority: Arc<Authority>, config: ConnectionConfig, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        _ = tokio::time::timeout(PATIENCE, settled(&authority)) => {}
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let users = Arc::new(PlatformUsers(Arc::clone(&authority)));
    let connection = match SystemConnection::start(config, users, clock) {
        Ok(connection) => Arc::new(connection),
        Err(error) => {
            tracing::error!(%error, cause = error.internal_report(), "renew");
            return;
        }
    };
    let mut requests = responder::requests(connection, format!("{RENEWAL}.*.*"), QUEUE.to_owned());
    let waiting = futures::stream::poll_fn(|context| requests.poll_next(context));
    let answers = waiting.for_each_concurrent(AT_ONCE, |request| answer(&authority, request));
    tokio::select! {
        () = stop.cancelled() => {}
        () = answers => {}
    }
}

async fn settled(authority: &Authority) {
    while !matches!(authority.store().platform_is_settled().await, Ok(true)) {
        tokio::time::sleep(TICK).await;
    }
}

async fn answer(authority: &Authority, request: Request) {
    let (code, sent) = match renew(authority, &request).await {
        Ok(jwt) => ("renewed", request.answer(jwt).await),
        Err(error) => {
            if matches!(error.kind(), Kind::Internal | Kind::Unavailable) {
                tracing::warn!(%error, cause = error.internal_report(), subject = request.subject(), "renew");
            } else {
                tracing::debug!(%error, code = error.code(), subject = request.subject(), "not renewed");
            }
            (error.code(), request.refuse(error.code(), &error.to_string()).await)
        }
    };
    metrics::counter!("nats_authority_renewals_total", "result" => code).increment(1);
    if let Err(error) = sent {
        // It is recorded; whoever asks again gets it again.
        tracing::warn!(%error, cause = error.internal_report(), subject = request.subject(), "renew");
    }
}

async fn renew(authority: &Authority, request: &Request) -> Result<String> {
    let (account, user) = who(request.subject())?;
    if !matches!(request.payload(), b"" | b"{}") {
        return Err(Error::invalid("renewal-payload", "a request for renewal says nothing: send an empty message"));
    }
    Ok(authority.renew(account, user).await?.jwt)
}

/// Who asks. The servers put both keys there, and nothing else arrives: see `compose`.
fn who(subject: &str) -> Result<(PublicKey<Account>, PublicKey<User>)> {
    let unknown = || Error::not_found("no-credential", "the subject ends in no user's public key");
    let rest = subject.strip_prefix(RENEWAL).and_then(|rest| rest.strip_prefix('.')).ok_or_else(unknown)?;
    let (account, user) = rest.split_once('.').ok_or_else(unknown)?;
    Ok((account.parse().map_err(|_| unknown())?, user.parse().map_err(|_| unknown())?))
}
