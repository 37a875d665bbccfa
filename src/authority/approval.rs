//! Four eyes: some changes need a second person. Here stands who may be that person; what is
//! approved, and when it may still be, stands with the change itself.

use super::Actor;
use crate::{
    error::{Error, Kind, Result},
    model::CallerRole,
    store::{
        Connection,
        tokens::{self, Lineage},
    },
};

/// Refuses an approval by somebody who is no security officer, who asked for the change, or who may be
/// the same person: whoever makes a token has it in hand. `requested_by` is the [`Actor::identity`] of
/// who asked.
pub(super) async fn require_second_person(
    connection: &mut Connection,
    requested_by: &str,
    approver: &Actor,
) -> Result<()> {
    let from = tokens::lineage(&mut *connection, requested_by).await?;
    let to = tokens::lineage(connection, &approver.identity()).await?;
    second_person(requested_by, &from, approver, &to)
}

fn second_person(requested_by: &str, from: &Lineage, approver: &Actor, to: &Lineage) -> Result<()> {
    if !approver.roles.contains(&CallerRole::SecurityOfficer) {
        let detail = "only a caller with the role security-officer approves this";
        return Err(Error::new(Kind::Forbidden, "approval-needs-security-officer", detail));
    }
    let identity = approver.identity();
    if identity == requested_by {
        let detail = "who asked for this cannot approve it; another security officer has to";
        return Err(Error::new(Kind::Forbidden, "approval-needs-second-person", detail));
    }
    // The token of the bundle makes everybody's first token: it makes two callers the same person only
    // where it is one of them.
    let same =
        |shared: &&String| !from.break_glass.contains(*shared) || **shared == requested_by || **shared == identity;
    if let Some(shared) = from.identities.intersection(&to.identities).find(same) {
        let detail = format!(
            "'{shared}' asked for this, or made the token that did, and holds the approver's token or made it; \
             a security officer with another origin has to approve"
        );
        return Err(Error::new(Kind::Forbidden, "approval-needs-second-person", detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(identities: &[&str]) -> Lineage {
        let break_glass = identities.iter().filter(|identity| **identity == "token:admin");
        Lineage {
            identities: identities.iter().map(ToString::to_string).collect(),
            break_glass: break_glass.map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn only_a_second_person_with_the_role_approves() {
        let officer = |issuer: Option<&str>| Actor {
            issuer: issuer.map(str::to_owned),
            ..Actor::caller("anna", [CallerRole::SecurityOfficer])
        };
        let code = |requested_by: &str, approver: &Actor| {
            let (from, to) = (lineage(&[requested_by]), lineage(&[&approver.identity()]));
            second_person(requested_by, &from, approver, &to).err().map(|error| error.code())
        };
        assert_eq!(code("bert", &officer(None)), None);
        assert_eq!(code("anna", &officer(None)), Some("approval-needs-second-person"));
        // Another issuer's anna is another person.
        assert_eq!(code("anna", &officer(Some("https://idp"))), None);
        let admin = Actor::caller("carl", [CallerRole::SovereignAdmin]);
        assert_eq!(code("bert", &admin), Some("approval-needs-security-officer"));
    }

    #[test]
    fn whoever_made_a_token_is_who_holds_it() {
        let allowed = |from: &[&str], to: &[&str]| {
            let approver = Actor::caller(to[0], [CallerRole::SecurityOfficer]);
            second_person(from[0], &lineage(from), &approver, &lineage(to)).is_ok()
        };
        // Made by who asked, directly or by a detour; made for asking; both made by a third.
        assert!(!allowed(&["token:a"], &["token:o", "token:a"]));
        assert!(!allowed(&["token:a"], &["token:o", "token:b", "token:a"]));
        assert!(!allowed(&["token:b", "token:o"], &["token:o"]));
        assert!(!allowed(&["token:b", "anna@idp"], &["token:o", "anna@idp"]));
        // The bundle's token makes the first ones of all, and is nobody's second person.
        assert!(allowed(&["token:a", "token:admin"], &["token:o", "token:admin"]));
        assert!(!allowed(&["token:admin"], &["token:o", "token:admin"]));
        assert!(!allowed(&["token:admin"], &["token:o", "token:b", "token:admin"]));
        assert!(!allowed(&["token:c", "token:a", "token:admin"], &["token:o", "token:a", "token:admin"]));
    }
}
