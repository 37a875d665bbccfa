//! Data and transitions, without I/O: names, ids, states, and the views of them that callers get.
//! What is decided about them lives in `authority`, how they are kept in `store`.

pub mod audit;
pub mod caller;
pub mod credential;
pub mod ids;
pub mod item;
pub mod key_rotation;
pub mod names;
pub mod object;
pub mod operator_rotation;
pub mod organization;
pub mod preview;
pub mod sealing;
pub mod size;
pub mod view;

pub use caller::CallerRole;
pub use credential::{Credential, CredentialState, Reach, TimeWindow};
pub use item::{ConsumerConfig, DeliverPolicy, ItemState, Retention, StreamConfig};
pub use key_rotation::{KeyRotation, RotationState};
pub use names::{EnvType, Environment, ItemName, NameRules, OrgSlug};
pub use operator_rotation::{OperatorJwtProposal, OperatorRotation};
pub use organization::{EnvState, OrgState, Organization};
