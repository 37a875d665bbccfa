//! The authority behind NATS operator mode.
//!
//! Data flows one way: `api | cli | tasks -> authority -> { policy, store, signer }` and
//! `tasks -> { store, resolver }`. A module may use what stands below it in this list, never what
//! stands above:
//!
//! | module | what lives there |
//! |---|---|
//! | [`cli`] | the commands: local ones and thin clients of the REST API |
//! | [`dev`] | a private Postgres and NATS cluster for `dev`, the demo, tests and benches |
//! | [`service`] | the running service: its parts put together |
//! | [`api`] | HTTP: routes, callers, problems, the OpenAPI document |
//! | [`tasks`] | loops without input that converge: push, provision, connect, expire |
//! | [`authority`] | the domain service: what is decided, composed, issued |
//! | [`resolver`] | the only place that speaks `$SYS` and JetStream |
//! | [`store`] | the only place that speaks SQL |
//! | [`signer`] | the only place that holds private keys |
//! | [`identity`] | callers that somebody else vouches for: OIDC, Kubernetes, certificates |
//! | [`policy`] | plans and roles: files into limits and permissions |
//! | [`jwt`] | the NATS JWT v2 wire format |
//! | [`model`] | names, ids and states, without I/O |
//! | [`nkey`], [`error`], [`clock`], [`entropy`], [`config`], [`telemetry`] | what everything uses |

pub mod api;
pub mod authority;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dev;
pub mod entropy;
pub mod error;
pub mod identity;
pub mod jwt;
pub mod model;
pub mod nkey;
pub mod policy;
pub mod resolver;
pub mod service;
pub mod signer;
pub mod store;
pub mod tasks;
pub mod telemetry;
