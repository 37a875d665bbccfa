//! Data and transitions, without I/O: names, ids, states. What is decided about them lives in
//! `authority`, how they are kept in `store`.

pub mod names;
pub mod size;

pub use names::{EnvType, Environment, NameRules, OrgSlug};
