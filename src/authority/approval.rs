//! Four eyes: some changes need a second person. Here stands who may be that person; what is
//! approved, and when it may still be, stands with the change itself.

use super::Actor;
use crate::{
    error::{Error, Kind, Result},
    model::CallerRole,
};

/// Refuses an approval by somebody who is no security officer, or who asked for the change.
/// `requested_by` is the [`Actor::identity`] of who asked.
pub(super) fn require_second_person(requested_by: &str, approver: &Actor) -> Result<()> {
    if !approver.roles.contains(&CallerRole::SecurityOfficer) {
        let detail = "only a caller with the role security-officer approves this";
        return Err(Error::new(Kind::Forbidden, "approval-needs-security-officer", detail));
    }
    if approver.identity() == requested_by {
        let detail = "who asked for this cannot approve it; another security officer has to";
        return Err(Error::new(Kind::Forbidden, "approval-needs-second-person", detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_second_person_with_the_role_approves() {
        let officer = |issuer: Option<&str>| Actor {
            issuer: issuer.map(str::to_owned),
            ..Actor::caller("anna", [CallerRole::SecurityOfficer])
        };
        let code = |result: Result<()>| result.err().map(|error| error.code());
        assert_eq!(code(require_second_person("bert", &officer(None))), None);
        assert_eq!(code(require_second_person("anna", &officer(None))), Some("approval-needs-second-person"));
        // Another issuer's anna is another person.
        assert_eq!(code(require_second_person("anna", &officer(Some("https://idp")))), None);
        let admin = Actor::caller("carl", [CallerRole::SovereignAdmin]);
        assert_eq!(code(require_second_person("bert", &admin)), Some("approval-needs-security-officer"));
    }
}
