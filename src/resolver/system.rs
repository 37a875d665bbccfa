//! [`Resolver`] over a system account's connection.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};

use super::{
    Resolver,
    answers::{ServerInfo, ServerRef, StoreResult},
    assets::{self, Assets},
    connection::{Link, SystemConnection},
    delete::{self, DeleteOutcome},
    gather::Asker,
    inspect::{self, Connections, EffectiveAnswer, Listing, Loaded, Pack, Streams},
    members::Known,
    push::{self, PushJob, PushOutcome},
    registry::Registry,
};
use crate::{
    clock::Clock,
    error::Result,
    nkey::{Account, PublicKey},
};

/// How long to wait for servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For the answers to one request, at most.
    pub answer: Duration,
    /// The same for requests that keep servers busy.
    pub slow_answer: Duration,
    /// For more answers after the last one, where it is not known how many will come.
    pub idle: Duration,
    /// Until when an account JWT is sent again after a reconnect. Later somebody else may have sent a newer one, and
    /// servers keep whatever comes last.
    pub resend: Duration,
    /// Until a server that does not answer is pinged.
    pub doubt: Duration,
    /// Between the rounds of pings.
    pub ping: Duration,
    /// For the answers to a ping.
    pub ping_window: Duration,
    /// Until a server that does not answer, though others have routes to it, is not live.
    pub patience: Duration,
    /// Until a server that is not live is forgotten.
    pub forget: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(5),
            slow_answer: Duration::from_mins(1),
            idle: Duration::from_millis(500),
            resend: Duration::from_secs(1),
            doubt: Duration::from_millis(250),
            ping: Duration::from_secs(2),
            ping_window: Duration::from_millis(250),
            patience: Duration::from_secs(10),
            forget: Duration::from_hours(1),
        }
    }
}

/// Speaks to real servers.
pub struct SystemResolver {
    connection: Arc<SystemConnection>,
    registry: Registry,
    timing: Timing,
}

impl SystemResolver {
    /// Begins to watch the servers over `connection`.
    pub fn start(connection: Arc<SystemConnection>, clock: Arc<dyn Clock>, timing: Timing) -> Self {
        let registry = Registry::start(connection.clone(), clock, timing);
        Self { connection, registry, timing }
    }

    /// The connection.
    pub fn connection(&self) -> &SystemConnection {
        &self.connection
    }

    /// The servers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Which accounts each server has loaded: what a push of many has to be checked for.
    pub async fn loaded(&self) -> Result<Vec<Loaded>> {
        let link = self.connection.link()?;
        inspect::loaded(&self.asker(&link)).await
    }

    /// What JetStream has, of all accounts.
    pub async fn assets(&self) -> Result<Assets> {
        let link = self.connection.link()?;
        assets::assets(&self.asker(&link)).await
    }

    fn asker<'a>(&'a self, link: &'a Link) -> Asker<'a> {
        Asker { link, registry: &self.registry, timing: self.timing, skip: Vec::new(), resend: Duration::MAX }
    }
}

/// Runs an operation over the present connection, which stays open until it is done.
macro_rules! ask {
    ($self:ident, $operation:path $(, $argument:expr)*) => {
        async move {
            let link = $self.connection.link()?;
            $operation(&$self.asker(&link) $(, $argument)*).await
        }
        .boxed()
    };
}

impl Resolver for SystemResolver {
    fn discover(&self) -> BoxFuture<'_, Result<Vec<ServerInfo>>> {
        ask!(self, inspect::discover)
    }

    fn known(&self) -> Vec<Known> {
        self.registry.known()
    }

    fn push_many<'a>(&'a self, jobs: BoxStream<'a, PushJob>, in_flight: usize) -> BoxStream<'a, PushOutcome> {
        jobs.map(move |job| self.push(job)).buffer_unordered(in_flight.max(1)).boxed()
    }

    fn push(&self, job: PushJob) -> BoxFuture<'_, PushOutcome> {
        async move {
            match self.connection.link() {
                Ok(link) => push::push(&self.asker(&link), job).await,
                Err(_) => PushOutcome {
                    account: job.account,
                    per_server: push::everyone(&self.registry, &StoreResult::NoAnswer),
                },
            }
        }
        .boxed()
    }

    fn lookup(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<Vec<Option<String>>>> {
        ask!(self, inspect::lookup, account)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Listing>>> {
        ask!(self, inspect::list)
    }

    fn pack(&self, hash: [u8; 32]) -> BoxFuture<'_, Result<Pack>> {
        ask!(self, inspect::pack, hash)
    }

    fn effective(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<Vec<EffectiveAnswer>>> {
        ask!(self, inspect::effective, account)
    }

    fn held(&self, server: ServerRef) -> BoxFuture<'_, Result<Vec<PublicKey<Account>>>> {
        ask!(self, inspect::held, server)
    }

    fn connections(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<Vec<Connections>>> {
        ask!(self, inspect::connections, account)
    }

    fn kick(&self, server: ServerRef, cid: u64) -> BoxFuture<'_, Result<()>> {
        ask!(self, inspect::kick, server, cid)
    }

    fn streams(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<Vec<Streams>>> {
        ask!(self, inspect::streams, account)
    }

    fn delete(&self, accounts: Vec<PublicKey<Account>>, request: String) -> BoxFuture<'_, DeleteOutcome> {
        async move {
            match self.connection.link() {
                Ok(link) => delete::delete(&self.asker(&link), accounts, request).await,
                Err(_) => {
                    DeleteOutcome { accounts, per_server: push::everyone(&self.registry, &StoreResult::NoAnswer) }
                }
            }
        }
        .boxed()
    }

    fn purge(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<()>> {
        ask!(self, delete::purge, account)
    }
}
