//! `renew`: asks the authority over NATS for a fresh JWT for the key in a creds file, and puts it there. The
//! private key signs the server's nonce and goes nowhere else.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use zeroize::Zeroizing;

use super::{
    files::{io_error, replace_secret},
    output::{note, plain, print, time},
    serve::interrupted,
};
use crate::{
    clock::{Clock, SystemClock},
    entropy::{Entropy, SystemEntropy},
    error::{Error, Kind, Result},
    jwt::{self, Claims, creds, envelope},
    model::names::renewal_subject,
    nkey::{PublicKey, Seed, User},
    resolver::{ConnectionConfig, UserCredential, connection::connect_with},
};

/// What to renew, and where.
#[derive(Debug, Args)]
pub struct RenewArgs {
    /// The creds file; it is replaced as a whole, with mode 0600.
    #[arg(long, value_name = "FILE")]
    creds: PathBuf,
    /// A NATS server, `nats://` or `tls://`; may be repeated.
    #[arg(long = "server", short = 's', value_name = "URL", env = "NATS_URL", value_delimiter = ',', required = true)]
    servers: Vec<String>,
    /// Certificates (PEM) of the authorities that vouch for the servers, instead of the machine's.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Stay, and renew at about two thirds of each life, until interrupted or refused for good.
    #[arg(long)]
    watch: bool,
}

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The longest pause after failed attempts.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How often `--watch` looks at the file while nothing is due: somebody else may have replaced it.
const LOOK: Duration = Duration::from_secs(30);

/// 0: renewed, or still fresh; 1: refused; 3: nobody answered.
pub(super) async fn run(args: &RenewArgs) -> Result<u8> {
    if !args.watch {
        return match once(args).await {
            Ok(()) => Ok(0),
            Err(error) if error.kind() == Kind::Unavailable => {
                note(&format!("error[{}]: {error}", error.code()));
                Ok(3)
            }
            Err(error) => Err(error),
        };
    }
    tokio::select! {
        interrupted = interrupted() => interrupted.map(|()| 0),
        ended = watch(args) => ended,
    }
}

async fn watch(args: &RenewArgs) -> Result<u8> {
    let mut failures = 0;
    // One draw for each life, so that those who were issued together do not ask together for ever.
    let mut planned: Option<(i64, DateTime<Utc>)> = None;
    loop {
        let file = File::read(&args.creds)?;
        file.require_unexpired()?;
        let due = match planned {
            Some((iat, due)) if iat == file.issued_at() => due,
            _ => due(&file.claims, random()),
        };
        planned = Some((file.issued_at(), due));
        let wait = (due - SystemClock.now()).to_std().unwrap_or_default();
        if !wait.is_zero() {
            tokio::time::sleep(wait.min(LOOK)).await;
            continue;
        }
        match once(args).await {
            Ok(()) => failures = 0,
            Err(error) if is_final(error.code()) => return Err(error),
            Err(error) => {
                let pause = pause(failures, random());
                failures += 1;
                note(&format!("{error}; trying again in {:.1} s", pause.as_secs_f64()));
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Asks once and keeps the answer.
async fn once(args: &RenewArgs) -> Result<()> {
    let file = File::read(&args.creds)?;
    file.require_unexpired()?;
    let token = tokio::time::timeout(ATTEMPT, ask(args, &file)).await.map_err(|_| {
        Error::unavailable("nats-no-answer", "the authority did not answer in time; is it running, and connected?")
    })??;
    if token == file.token {
        return print(&format!("{} is fresh, until {}", plain(&file.name()), until(&file.claims)));
    }
    let claims = file.accept(&token)?;
    replace_secret(&args.creds, &creds::write(&token, &file.seed))?;
    print(&format!("{} renewed, until {}", plain(&file.name()), until(&claims)))
}

async fn ask(args: &RenewArgs, file: &File) -> Result<String> {
    let mut config = ConnectionConfig::new(args.servers.clone());
    config.tls_ca.clone_from(&args.tls_ca);
    "nats-authority renew".clone_into(&mut config.name);
    let key = file.seed.key_pair();
    let expires_at = file.expires_at();
    let credential = UserCredential { jwt: file.token.clone(), key, expires_at };
    let client = connect_with(&config, credential).await?;
    let answer = client.request(renewal_subject(file.user), "".into()).await.map_err(|error| {
        let words = "nobody renews here now: the authority is not running, or the account does not import its service";
        Error::unavailable("nats-no-answer", words).with_source(error)
    })?;
    let text = String::from_utf8_lossy(&answer.payload).into_owned();
    let code = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
    match code {
        None => Ok(text),
        Some(code) => Err(refusal(code.as_str(), &text)),
    }
}

/// The authority's refusals by code; this program need not know all that a newer one says.
const FINAL: [&str; 8] = [
    "no-credential",
    "no-environment",
    "credential-revoked",
    "credential-expired",
    "credential-superseded",
    "renewal-exhausted",
    "organization-deleting",
    "organization-deleted",
];

fn is_final(code: &str) -> bool {
    FINAL.contains(&code) || ["invalid-answer", "file", "invalid-creds"].contains(&code)
}

fn refusal(code: &str, text: &str) -> Error {
    let words = plain(text.strip_prefix(code).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text));
    match FINAL.iter().find(|known| **known == code) {
        Some(code) => Error::conflict(code, words),
        None => Error::unavailable("not-renewed", format!("{words} ({})", plain(code))),
    }
}

/// A creds file as read.
struct File {
    token: String,
    seed: Seed<User>,
    claims: Claims<jwt::User>,
    user: PublicKey<User>,
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| io_error("read", path, error))?);
        let wrong = |why: String| Error::invalid("invalid-creds", format!("{}: {why}", path.display()));
        let (token, seed) = creds::parse(&text).map_err(|error| wrong(error.to_string()))?;
        let claims = envelope::decode::<jwt::User>(&token).map_err(|error| wrong(error.to_string()))?.claims;
        let user = seed.key_pair().public();
        if claims.subject != user.into() {
            return Err(wrong("the JWT and the key do not belong together".to_owned()));
        }
        Ok(Self { token, seed, claims, user })
    }

    fn issued_at(&self) -> i64 {
        self.claims.issued_at.unwrap_or_default()
    }

    fn expires_at(&self) -> DateTime<Utc> {
        self.claims.expires.and_then(|at| DateTime::from_timestamp(at, 0)).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn name(&self) -> String {
        self.claims.name.clone().unwrap_or_else(|| self.user.to_string())
    }

    fn require_unexpired(&self) -> Result<()> {
        if self.expires_at() > SystemClock.now() {
            return Ok(());
        }
        let words = format!("{} has expired at {}: issue a new credential", plain(&self.name()), until(&self.claims));
        Err(Error::conflict("credential-expired", words))
    }

    /// Takes an answer only where it is a newer JWT of the same user in the same account.
    fn accept(&self, token: &str) -> Result<Claims<jwt::User>> {
        let wrong = |why: &str| Error::invalid("invalid-answer", format!("the answer is not kept: {why}"));
        let claims = envelope::decode::<jwt::User>(token).map_err(|error| wrong(&error.to_string()))?.claims;
        if claims.subject != self.claims.subject || claims.nats.issuer_account != self.claims.nats.issuer_account {
            return Err(wrong("it is for another user or account"));
        }
        if claims.issued_at < self.claims.issued_at || claims.expires.is_some_and(|at| at <= SystemClock.unix()) {
            return Err(wrong("it is older than the JWT in the file"));
        }
        Ok(claims)
    }
}

fn until(claims: &Claims<jwt::User>) -> String {
    claims.expires.and_then(|at| DateTime::from_timestamp(at, 0)).map_or_else(|| "ever".to_owned(), time)
}

/// At two thirds of a life, up to a tenth of it earlier. `random`: 0 to 1.
fn due(claims: &Claims<jwt::User>, random: f64) -> DateTime<Utc> {
    let Some((from, to)) = claims.issued_at.zip(claims.expires) else { return DateTime::<Utc>::MAX_UTC };
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "milliseconds of a life")]
    let after = ((to - from).max(0) as f64 * 1000.0 * (2.0 / 3.0 - random / 10.0)) as i64;
    DateTime::from_timestamp(from, 0).unwrap_or_default() + TimeDelta::milliseconds(after)
}

/// 1 s, doubling up to a minute, half of it by chance.
fn pause(failures: u32, random: f64) -> Duration {
    let longest = Duration::from_secs(1 << failures.min(6)).min(LONGEST_PAUSE);
    longest.mul_f64(0.5 + random / 2.0)
}

fn random() -> f64 {
    let mut bytes = [0; 2];
    SystemEntropy::new().fill(&mut bytes);
    f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nkey::{Account, KeyPair};

    #[test]
    fn due_before_two_thirds_and_pauses_that_grow() {
        let entropy = crate::entropy::SeededEntropy::new(1);
        let account = KeyPair::<Account>::generate(&entropy).public();
        let claims = Claims {
            audience: None,
            expires: Some(4000),
            id: None,
            issued_at: Some(1000),
            issuer: account.into(),
            name: None,
            not_before: None,
            subject: KeyPair::<User>::generate(&entropy).public().into(),
            nats: jwt::User::scoped(account),
        };
        assert_eq!(due(&claims, 0.0).timestamp(), 3000);
        assert_eq!(due(&claims, 1.0).timestamp(), 2700);
        let pauses: Vec<_> = [0, 1, 5, 6, 100].map(|n| pause(n, 1.0).as_secs()).to_vec();
        assert_eq!(pauses, [1, 2, 32, 60, 60]);
        assert_eq!(pause(0, 0.0), Duration::from_millis(500));
    }

    #[test]
    fn refusals_keep_their_code_where_it_says_that_trying_again_is_in_vain() {
        let error = refusal("credential-revoked", "credential-revoked: the credential is revoked");
        assert_eq!((error.code(), error.to_string().as_str()), ("credential-revoked", "the credential is revoked"));
        assert!(is_final(error.code()));
        let error = refusal("something-new", "something-new: wait");
        assert_eq!((error.code(), error.kind()), ("not-renewed", Kind::Unavailable));
        assert!(!is_final(error.code()) && error.to_string().contains("something-new"));
    }
}
