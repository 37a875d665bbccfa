//! The only place that speaks `$SYS`: what the NATS servers are told about accounts and asked about
//! themselves.
//!
//! What lives here knows subjects, inboxes and answers; it signs nothing and decides nothing. Whether
//! a server *should* have an account is decided above, here is only whether it *has* one and how to
//! make it so. Every answer names the server that gave it, for "the cluster" is never one thing: any
//! server may be down, behind or configured differently.
//!
//! | module | what lives there |
//! |---|---|
//! | [`connection`] | one live connection as a short-lived system user |
//! | [`mux`] | many requests in flight over one subscription |
//! | [`answers`] | pure: what servers' JSON says |
//! | [`members`] | pure: which servers are live |
//! | [`kind`] | pure: which kind of resolver a server has |
//! | [`registry`] | keeps [`members`] up to date |
//! | [`gather`] | one answer from each server that is expected to give one |
//! | [`responder`] | requests to us |
//! | [`push`], [`inspect`], [`delete`] | the operations |
//! | [`lookup`] | answers servers that miss an account |
//! | [`updates`] | hears what anybody pushes |

use futures::{future::BoxFuture, stream::BoxStream};

use crate::{
    error::Result,
    nkey::{Account, PublicKey},
};

pub mod answers;
mod assets;
pub mod audit_stream;
pub mod connection;
pub mod delete;
pub mod gather;
pub mod inspect;
pub mod items;
pub mod jetstream;
pub mod kind;
pub mod lookup;
pub mod members;
pub mod mux;
pub mod push;
pub mod registry;
pub mod responder;
mod system;
pub mod updates;

pub use answers::{
    ClientConnection, Effective, JetStreamCapacity, ServerAnswer, ServerInfo, ServerRef, StoreResult, StreamUse,
    TrustedOperator,
};
pub use assets::Assets;
pub use connection::{ConnectionConfig, ConnectionState, Credentials, SystemConnection, UserCredential};
pub use delete::DeleteOutcome;
pub use inspect::{Connections, EffectiveAnswer, Listing, Loaded, Pack, Streams, xor_hash};
pub use kind::ResolverKind;
pub use members::{Known, Roll};
pub use push::{PushJob, PushOutcome};
pub use registry::Registry;
pub use system::{SystemResolver, Timing};

/// Tells the servers about accounts and asks them. Object-safe; [`SystemResolver`] speaks to real
/// servers.
pub trait Resolver: Send + Sync {
    /// Every server that answers, with what it trusts and how it is configured.
    fn discover(&self) -> BoxFuture<'_, Result<Vec<ServerInfo>>>;

    /// The servers that are known, live or not, without asking them.
    fn known(&self) -> Vec<Known>;

    /// Stores account JWTs on every live server, `in_flight` at a time. Outcomes come in the order in
    /// which they are complete. Nothing here fails as a whole: what did not arrive is in the outcome.
    fn push_many<'a>(&'a self, jobs: BoxStream<'a, PushJob>, in_flight: usize) -> BoxStream<'a, PushOutcome>;

    /// Stores one account JWT on every live server.
    fn push(&self, job: PushJob) -> BoxFuture<'_, PushOutcome>;

    /// What is stored under `account`: one entry for each full resolver that answers, `None` where
    /// there is no such account. Servers do not say who they are in these answers.
    fn lookup(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<Vec<Option<String>>>>;

    /// The accounts that each server stores.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Listing>>>;

    /// Compares `hash` (see [`xor_hash`]) with what one server stores; the servers choose which one
    /// answers, and it does not say its name.
    fn pack(&self, hash: [u8; 32]) -> BoxFuture<'_, Result<Pack>>;

    /// What each server runs for `account`, as opposed to what it stores.
    fn effective(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<Vec<EffectiveAnswer>>>;

    /// The accounts that a server without a full resolver holds, loaded or in its cache. Makes it load
    /// those of its cache, which may be older than what it would get elsewhere.
    fn held(&self, server: ServerRef) -> BoxFuture<'_, Result<Vec<PublicKey<Account>>>>;

    /// The client connections of `account` on each server.
    fn connections(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<Vec<Connections>>>;

    /// Closes one client connection. A client that reconnects is let in only if it still may.
    fn kick(&self, server: ServerRef, cid: u64) -> BoxFuture<'_, Result<()>>;

    /// What each server stores of the streams of `account`.
    fn streams(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<Vec<Streams>>>;

    /// Deletes `accounts` on every live server; `request` is the signed generic JWT that says so.
    fn delete(&self, accounts: Vec<PublicKey<Account>>, request: String) -> BoxFuture<'_, DeleteOutcome>;

    /// Deletes everything that `JetStream` stores for `account`.
    fn purge(&self, account: PublicKey<Account>) -> BoxFuture<'_, Result<()>>;
}
