//! The `nats-authority` binary.

fn main() {}
