//! Everything that needs real parts: real nats-servers, a real Postgres, the official vectors.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod api;
mod dev;
mod jwt_properties;
mod ledger;
mod live;
mod policy;
mod remote;
mod resolver;
mod support;
mod tls;
mod vectors;
