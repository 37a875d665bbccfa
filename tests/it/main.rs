//! Everything that needs real parts: real nats-servers, a real Postgres, the official vectors.

mod dev;
mod jwt_properties;
mod policy;
mod resolver;
mod support;
mod vectors;
