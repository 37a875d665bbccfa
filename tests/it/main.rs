//! Everything that needs real parts: real nats-servers, a real Postgres, the official vectors.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api;
mod audit;
mod audit_stream;
mod chaos;
mod consumers;
mod dev;
mod dev_command;
mod expiry;
mod interop;
mod issue_options;
mod jwt_properties;
mod key_rotation;
mod layers;
mod ledger;
mod live;
mod load;
mod metrics;
mod overload;
mod plain_key;
mod platform;
mod policy;
mod policy_diff;
mod policy_reload;
mod policy_signal;
mod preview;
mod reconcile;
mod remote;
mod renew_command;
mod renewal;
mod resolver;
mod revocation;
mod roles;
mod rotation;
mod rotation_live;
mod secrets;
mod simulation;
mod start_up;
mod status;
mod streams;
mod support;
mod tls;
mod topologies;
mod url_resolver;
mod vectors;
