//! The next operator JWT: what is proposed, signing it with the identity, and whether one that comes back is what
//! was proposed. Pure; nothing here reads the ledger, and only whoever holds the identity seed signs.

use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    jwt::{self, Claims, Decoded},
    model::OperatorJwtProposal,
    nkey::{Operator, PublicKey, Seed},
    signer,
};

/// An operator JWT that was signed with the operator's identity.
pub struct SignedOperator {
    /// The JWT. Public.
    pub token: String,
    /// The operator's name.
    pub name: String,
    /// Public key of its identity.
    pub identity: PublicKey<Operator>,
}

/// Reads an operator JWT of ours.
pub fn read(token: &str) -> Result<Claims<jwt::Operator>> {
    let decoded: Decoded<jwt::Operator> =
        jwt::decode(token).map_err(|error| Error::internal("the operator JWT cannot be read").with_source(error))?;
    Ok(decoded.claims)
}

/// What the next JWT is to be, so that it lists `wanted`. Those that stay keep their place.
pub fn propose(present: &str, wanted: &[PublicKey<Operator>]) -> Result<OperatorJwtProposal> {
    let listed = read(present)?.nats.signing_keys;
    let stay = listed.iter().filter(|key| wanted.contains(key));
    let add: Vec<_> = wanted.iter().filter(|key| !listed.contains(key)).collect();
    let text = |key: &PublicKey<Operator>| key.to_string();
    Ok(OperatorJwtProposal {
        operator_jwt: present.to_owned(),
        signing_keys: stay.chain(add.iter().copied()).map(text).collect(),
        add: add.into_iter().map(text).collect(),
        remove: listed.iter().filter(|key| !wanted.contains(key)).map(text).collect(),
        rotation: None,
    })
}

/// The claims that the proposal asks for. What it says is not believed: the present JWT has to carry the
/// operator's own signature, and all but the signing keys is taken from it.
fn next(present: &Claims<jwt::Operator>, keys: &[PublicKey<Operator>], issued_at: i64) -> Claims<jwt::Operator> {
    let mut claims = present.clone();
    claims.id = None;
    claims.issued_at = Some(issued_at);
    claims.issuer = claims.subject;
    claims.nats.signing_keys = keys.to_vec();
    claims
}

/// Signs what is proposed with the operator's identity. `now`: Unix seconds; the JWT is younger than the present
/// one even if this machine's clock is not.
pub fn sign(proposal: &OperatorJwtProposal, seed: &Zeroizing<String>, now: i64) -> Result<SignedOperator> {
    let unreadable = |what: String| Error::invalid("invalid-proposal", format!("the proposal cannot be used: {what}"));
    let seed = Seed::<Operator>::parse(seed.trim()).map_err(|error| {
        Error::invalid("invalid-seed", format!("the identity file holds no operator seed: {error}"))
    })?;
    let present: Decoded<jwt::Operator> =
        jwt::decode(&proposal.operator_jwt).map_err(|error| unreadable(error.to_string()))?;
    let present = present.claims;
    let pair = seed.key_pair();
    let identity = pair.public();
    if present.subject != identity.any() || present.issuer != identity.any() {
        let detail = format!(
            "the seed is that of {identity}, the operator JWT that of {}, signed by {}",
            present.subject, present.issuer
        );
        return Err(Error::invalid("another-operator", detail));
    }
    let keys = proposal.signing_keys.iter().map(|key| key.parse().map_err(|_| unreadable(format!("{key} is no key"))));
    let keys: Vec<PublicKey<Operator>> = keys.collect::<Result<_>>()?;
    let again = propose(&proposal.operator_jwt, &keys)?;
    if (&again.add, &again.remove) != (&proposal.add, &proposal.remove) {
        return Err(unreadable("what it adds and removes is not what its list of keys comes to".to_owned()));
    }
    if again.is_empty() {
        return Err(Error::conflict(
            "nothing-to-sign",
            "the operator JWT lists the right keys; there is nothing to sign",
        ));
    }
    let issued_at = now.max(present.issued_at.unwrap_or_default() + 1);
    let linted = signer::lint(next(&present, &keys, issued_at))?;
    let signed = signer::sign_as_identity(&pair, linted)?;
    Ok(SignedOperator { token: release_to_owner(&signed), name: present.name.unwrap_or_default(), identity })
}

/// It was signed with the owner's own seed and is the owner's: the ledger records it when it is set.
fn release_to_owner(signed: &jwt::envelope::Signed<jwt::Operator>) -> String {
    signed.token().to_owned()
}

/// Refuses an operator JWT that is not what the present one comes to with the signing keys `wanted`.
pub fn check(present: &str, wanted: &[PublicKey<Operator>], token: &str) -> Result<()> {
    let refuse = |detail: String| Err(Error::field("invalid-operator-jwt", "/jwt", detail));
    let present = read(present)?;
    let claims = match jwt::decode::<jwt::Operator>(token) {
        Ok(decoded) => decoded.claims,
        Err(error) => return refuse(format!("it is no operator JWT: {error}")),
    };
    if claims.subject != present.subject {
        return refuse(format!("it is of another operator: {} instead of {}", claims.subject, present.subject));
    }
    if claims.issuer != present.subject {
        return refuse("it is not signed with the operator's identity".to_owned());
    }
    let missing: Vec<_> = wanted.iter().filter(|key| !claims.nats.signing_keys.contains(key)).collect();
    let other: Vec<_> = claims.nats.signing_keys.iter().filter(|key| !wanted.contains(key)).collect();
    if !missing.is_empty() || !other.is_empty() {
        let list = |keys: &[&PublicKey<Operator>]| {
            if keys.is_empty() {
                "none".to_owned()
            } else {
                keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
        };
        return refuse(format!(
            "it does not list exactly the signing keys that are due; missing: {}; too many: {}; sign what `nats-authority operator jwt proposal` says",
            list(&missing),
            list(&other)
        ));
    }
    if claims.issued_at < present.issued_at {
        return refuse("it is older than the present one".to_owned());
    }
    let due = next(&present, &claims.nats.signing_keys, claims.issued_at.unwrap_or_default());
    if (Claims { id: None, ..claims }) != due {
        return refuse(
            "it differs from the present one in more than the signing keys; sign what `nats-authority operator jwt proposal` says".to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entropy::SeededEntropy,
        jwt::claims::Common,
        nkey::{Account, KeyPair},
    };

    struct Case {
        seed: Zeroizing<String>,
        keys: [PublicKey<Operator>; 2],
        token: String,
    }

    fn claims(identity: PublicKey<Operator>, keys: &[PublicKey<Operator>]) -> Claims<jwt::Operator> {
        Claims {
            audience: None,
            expires: None,
            id: None,
            issued_at: Some(1_000),
            issuer: identity.into(),
            name: Some("test".to_owned()),
            not_before: None,
            subject: identity.into(),
            nats: jwt::Operator {
                signing_keys: keys.to_vec(),
                account_server_url: None,
                operator_service_urls: Vec::new(),
                system_account: Some(KeyPair::<Account>::generate(&SeededEntropy::new(9)).public()),
                assert_server_version: None,
                strict_signing_key_usage: true,
                common: Common::of::<jwt::Operator>(),
            },
        }
    }

    fn signed(seed: &str, change: impl FnOnce(&mut Claims<jwt::Operator>), keys: &[PublicKey<Operator>]) -> String {
        let pair = Seed::<Operator>::parse(seed).unwrap().key_pair();
        let mut claims = claims(pair.public(), keys);
        change(&mut claims);
        release_to_owner(&signer::sign_as_identity(&pair, signer::lint(claims).unwrap()).unwrap())
    }

    fn case() -> Case {
        let entropy = SeededEntropy::new(1);
        let seed = Seed::<Operator>::generate(&entropy).expose_text();
        let keys = [0, 1].map(|_| KeyPair::<Operator>::generate(&entropy).public());
        let token = signed(&seed, |_| {}, &keys[..1]);
        Case { seed, keys, token }
    }

    #[test]
    fn what_is_proposed_and_signed_is_taken() {
        let Case { seed, keys, token } = case();
        let proposal = propose(&token, &keys).unwrap();
        assert_eq!((&proposal.add, &proposal.remove), (&vec![keys[1].to_string()], &vec![]));
        let both = sign(&proposal, &seed, 5).unwrap();
        check(&token, &keys, &both.token).unwrap();
        assert_eq!(read(&both.token).unwrap().issued_at, Some(1_001), "younger, whatever the clock says");
        let without = propose(&both.token, &keys[1..]).unwrap();
        assert_eq!(without.remove, [keys[0].to_string()]);
        check(&both.token, &keys[1..], &sign(&without, &seed, 2_000).unwrap().token).unwrap();
        let code = sign(&propose(&token, &keys[..1]).unwrap(), &seed, 5).err().unwrap().code();
        assert_eq!(code, "nothing-to-sign");
    }

    #[test]
    fn a_proposal_is_not_believed() {
        let Case { seed, keys, token } = case();
        let stranger = Seed::<Operator>::generate(&SeededEntropy::new(7)).expose_text();
        let honest = propose(&token, &keys).unwrap();
        let code =
            |proposal: &OperatorJwtProposal, seed: &Zeroizing<String>| sign(proposal, seed, 5).err().unwrap().code();
        assert_eq!(code(&honest, &stranger), "another-operator");
        // It says that nothing is added.
        assert_eq!(code(&OperatorJwtProposal { add: Vec::new(), ..honest.clone() }, &seed), "invalid-proposal");
        let forged = signed(&stranger, |_| {}, &keys[..1]);
        assert_eq!(code(&OperatorJwtProposal { operator_jwt: forged, ..honest.clone() }, &seed), "another-operator");
        assert_eq!(code(&honest, &Zeroizing::new("SU".to_owned())), "invalid-seed");
    }

    #[test]
    fn another_jwt_is_refused_with_the_reason() {
        let Case { seed, keys, token } = case();
        let stranger = Seed::<Operator>::generate(&SeededEntropy::new(7)).expose_text();
        let table = [
            ("x".to_owned(), "it is no operator JWT"),
            (signed(&stranger, |_| {}, &keys), "it is of another operator"),
            (signed(&seed, |_| {}, &keys[..1]), "missing: O"),
            (signed(&seed, |claims| claims.issued_at = Some(999), &keys), "it is older"),
            (signed(&seed, |claims| claims.nats.strict_signing_key_usage = false, &keys), "in more than"),
            (signed(&seed, |claims| claims.expires = Some(5_000), &keys), "in more than"),
            (signed(&seed, |claims| claims.name = None, &keys), "in more than"),
            (signed(&seed, |claims| claims.nats.system_account = None, &keys), "in more than"),
        ];
        for (other, reason) in table {
            let error = check(&token, &keys, &other).unwrap_err();
            assert_eq!(error.code(), "invalid-operator-jwt");
            assert!(error.to_string().contains(reason), "{reason}: {error}");
        }
        assert!(
            check(&token, &keys[..1], &signed(&seed, |_| {}, &keys)).unwrap_err().to_string().contains("too many: O")
        );
    }
}
