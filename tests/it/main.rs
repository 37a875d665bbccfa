//! Everything that needs real parts: real nats-servers, a real Postgres, the official vectors.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api;
mod dev;
mod jwt_properties;
mod ledger;
mod live;
mod policy;
mod reconcile;
mod remote;
mod resolver;
mod simulation;
mod support;
mod vectors;
