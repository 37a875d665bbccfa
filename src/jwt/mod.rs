//! The NATS JWT v2 wire format. Imports nothing of ours but `nkey`: what a claim *should* say is
//! decided elsewhere, here is only what one *can* say and how it is written.
//!
//! Source: nats-io/jwt v2.8 and shared vectors made with it; what servers do with the claims is
//! noted at the fields.

pub mod account;
pub mod activation;
pub mod claims;
pub mod creds;
pub mod difference;
pub mod envelope;
pub mod generic;
pub mod inspect;
pub mod limits;
pub mod lint;
pub mod operator;
pub mod permissions;
mod strict;
pub mod subject;
pub mod user;

pub use account::Account;
pub use activation::Activation;
pub use claims::{Claims, Common, Payload};
pub use envelope::{AnyDecoded, Decoded, JwtError, decode, decode_any};
pub use generic::Generic;
pub use lint::{Linted, Problem};
pub use operator::Operator;
pub use permissions::Permissions;
pub use user::User;
