//! Parts that die, hang and come back while callers work: what was answered stays true, and the
//! servers end up running what the database says.
//!
//! In `make test` each does little; `make chaos` (`CHAOS_FULL=1`) does all of it. `CHAOS_SEED` repeats the
//! random choices of a run; it is printed.

#![expect(clippy::print_stdout, reason = "figures and seeds of the runs")]

pub mod audit;
mod cluster;
mod load;
mod nodes;
mod postgres;
mod replicas;
mod resign;
mod service;
