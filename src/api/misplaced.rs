//! Secrets where none belongs: somebody pastes a seed in place of a public key, or a token into a name. Such a request
//! is refused before anything of it is parsed, logged or stored. Where secrets belong, in the header `Authorization`,
//! nothing is looked at here.

use axum::{extract::Request, http::HeaderMap};

use super::{idempotency, problem::Refusal};
use crate::{
    authority::bundle::TOKEN_PREFIX,
    error::{Error, Result},
    nkey::holds_seed,
};

/// Characters of a token behind its prefix: 256 bits.
const TOKEN_RANDOM: usize = 43;

/// Whether a text holds a seed or an API token.
pub(super) fn holds_secret(text: &[u8]) -> bool {
    holds_seed(text) || holds_token(text)
}

fn holds_token(text: &[u8]) -> bool {
    let prefix = TOKEN_PREFIX.as_bytes();
    text.windows(prefix.len() + TOKEN_RANDOM).any(|window| {
        let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        window.starts_with(prefix) && window[prefix.len()..].iter().all(base64)
    })
}

/// Refuses a text with a secret in it.
pub(super) fn require_none(text: &[u8]) -> Result<()> {
    if holds_secret(text) {
        let detail = "the request holds a private key or an API token where none belongs; nothing was changed, and \
                      nothing of it is stored or logged. Whoever else could read it knows it now: replace it";
        return Err(Error::invalid("secret-in-request", detail));
    }
    Ok(())
}

/// Refuses a request with a secret in its path, its query or its idempotency key. Bodies are looked at when they are read.
pub(super) fn require_none_in(request: &Request) -> std::result::Result<(), Refusal> {
    let uri = request.uri().path_and_query().map_or("", |path| path.as_str());
    require_none(uri.as_bytes())?;
    require_none(key(request.headers()))?;
    Ok(())
}

fn key(headers: &HeaderMap) -> &[u8] {
    headers.get(idempotency::HEADER).map_or(&[], |value| value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authority::bundle::new_token,
        entropy::SystemEntropy,
        nkey::{Account, Operator, Seed, User},
    };

    #[test]
    fn secrets_are_seen_wherever_they_stand() {
        let entropy = SystemEntropy::new();
        let user = Seed::<User>::generate(&entropy);
        let seeds = [
            user.expose_text(),
            Seed::<Account>::generate(&entropy).expose_text(),
            Seed::<Operator>::generate(&entropy).expose_text(),
            new_token(&entropy),
        ];
        for secret in seeds {
            for text in [secret.to_string(), format!("SSSU{}x", *secret), format!("/orgs/{}?a=1", *secret)] {
                assert!(holds_secret(text.as_bytes()), "{text}");
            }
            assert!(!holds_secret(&secret.as_bytes()[..secret.len() - 1]));
        }
        let public = user.key_pair().public().to_string();
        for text in [&public, "nauth_", "S", "", &"S".repeat(100), &format!("S{public}A")] {
            assert!(!holds_secret(text.as_bytes()), "{text}");
        }
    }
}
