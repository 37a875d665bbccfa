//! Rules for what accounts share: imports, exports and activations.

use std::collections::{BTreeMap, BTreeSet};

use super::{NOT_A_SUBJECT, Problems, Rules, account::check_revocations, check_info, examine};
use crate::{
    jwt::{
        Activation, Claims,
        account::{Export, Import, ServiceLatency},
        envelope, subject,
    },
    nkey::{self, AnyPublicKey, PublicKey},
};

const STREAM: &str = "stream";
const SERVICE: &str = "service";

impl Rules for Activation {
    fn examine(claims: &Claims<Self>, problems: &mut Problems) {
        let kind = claims.nats.kind.as_deref().unwrap_or_default();
        check_kind(kind, "/nats/kind", problems);
        problems.add_unless(subject::is_valid(&claims.nats.subject), "/nats/subject", NOT_A_SUBJECT);
    }
}

/// The official library's question, which takes `a.>` and `*` but not `a*` for wildcards.
pub(super) fn has_wildcards(text: &str) -> bool {
    text.split('.').any(|token| token == "*" || token == ">")
}

fn check_kind(kind: &str, at: &str, problems: &mut Problems) {
    problems.add_unless([STREAM, SERVICE].contains(&kind), at, "must be stream or service");
}

pub(super) fn check_exports(exports: &[Export], problems: &mut Problems) {
    for (index, export) in exports.iter().enumerate() {
        check_export(export, &format!("/nats/exports/{index}"), problems);
        for (other, earlier) in exports.iter().enumerate().take(index) {
            if earlier.kind == export.kind && nested(&earlier.subject, &export.subject) {
                let detail = format!("overlaps with /nats/exports/{other}");
                problems.add(format!("/nats/exports/{index}/subject"), detail);
            }
        }
    }
}

fn nested(left: &str, right: &str) -> bool {
    subject::contains(left, right) || subject::contains(right, left)
}

fn check_export(export: &Export, at: &str, problems: &mut Problems) {
    let service = export.kind == SERVICE;
    check_kind(&export.kind, &format!("{at}/type"), problems);
    problems.add_unless(subject::is_valid(&export.subject), &format!("{at}/subject"), NOT_A_SUBJECT);
    let for_services = [
        ("response_type", export.response_type.is_some()),
        ("response_threshold", export.response_threshold.is_some_and(|nanoseconds| nanoseconds != 0)),
        ("service_latency", export.service_latency.is_some()),
        ("allow_trace", export.allow_trace),
    ];
    for (name, given) in for_services {
        problems.add_unless(service || !given, &format!("{at}/{name}"), "only for services");
    }
    if let Some(kind) = export.response_type.as_deref() {
        let known = ["Singleton", "Stream", "Chunked"].contains(&kind);
        problems.add_unless(known, &format!("{at}/response_type"), "must be Singleton, Stream or Chunked");
    }
    let holds = export.response_threshold.is_none_or(|nanoseconds| nanoseconds >= 0);
    problems.add_unless(holds, &format!("{at}/response_threshold"), "must not be negative");
    if let Some(latency) = &export.service_latency {
        check_latency(latency, &format!("{at}/service_latency"), problems);
    }
    if let Some(position) = export.account_token_position.filter(|position| *position != 0) {
        let token = usize::try_from(position).ok().and_then(|position| export.subject.split('.').nth(position - 1));
        let detail = "must be the place of a '*' in the subject, counted from 1";
        problems.add_unless(token == Some("*"), &format!("{at}/account_token_position"), detail);
    }
    check_revocations::<nkey::Account>(&export.revocations, &format!("{at}/revocations"), problems);
    check_info(export.description.as_deref(), export.info_url.as_deref(), at, problems);
}

fn check_latency(latency: &ServiceLatency, at: &str, problems: &mut Problems) {
    let percent = latency.sampling.as_u64().is_some_and(|percent| (1..=100).contains(&percent));
    let holds = percent || latency.sampling.as_str() == Some("headers");
    problems.add_unless(holds, &format!("{at}/sampling"), "must be a percentage, 1 to 100, or \"headers\"");
    let literal = subject::is_literal(&latency.results);
    problems.add_unless(literal, &format!("{at}/results"), "must be a subject without wildcards");
}

pub(super) fn check_imports(imports: &[Import], importer: AnyPublicKey, problems: &mut Problems) {
    // Two services of one exporter must not be in the way of each other.
    let mut services: BTreeMap<_, Vec<(usize, String)>> = BTreeMap::new();
    for (index, import) in imports.iter().enumerate() {
        let at = format!("/nats/imports/{index}");
        check_import(import, importer, &at, problems);
        if import.kind != SERVICE {
            continue;
        }
        let place = place_of(import);
        let others = services.entry(import.account).or_default();
        for (other, earlier) in others.iter() {
            if nested(earlier, &place) {
                problems.add(at.clone(), format!("overlaps with /nats/imports/{other}"));
            }
        }
        others.push((index, place));
    }
}

/// The subject that an import takes in the importing account, references as wildcards.
fn place_of(import: &Import) -> String {
    let token = |token: &str| if reference(token).is_some() { "*".to_owned() } else { token.to_owned() };
    match (filled(import.to.as_deref()), filled(import.local_subject.as_deref())) {
        (Some(to), _) => to.to_owned(),
        (None, Some(local)) => local.split('.').map(token).collect::<Vec<_>>().join("."),
        (None, None) => import.subject.clone(),
    }
}

fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn check_import(import: &Import, importer: AnyPublicKey, at: &str, problems: &mut Problems) {
    let service = import.kind == SERVICE;
    check_kind(&import.kind, &format!("{at}/type"), problems);
    problems.add_unless(subject::is_valid(&import.subject), &format!("{at}/subject"), NOT_A_SUBJECT);
    problems.add_unless(!import.share || service, &format!("{at}/share"), "only for services");
    problems.add_unless(!import.allow_trace || !service, &format!("{at}/allow_trace"), "only for streams");
    if let Some(local) = filled(import.local_subject.as_deref()) {
        let at = format!("{at}/local_subject");
        if let Err(detail) = check_renaming(&import.subject, local) {
            problems.add(at.clone(), detail);
        }
        problems.add_unless(filled(import.to.as_deref()).is_none(), &at, "replaces 'to': leave that out");
    }
    let Some(exporter) = import.account else {
        problems.add(format!("{at}/account"), "the exporting account is missing");
        return;
    };
    if let Some(token) = filled(import.token.as_deref())
        && let Err(detail) = check_activation(import, token, exporter, importer)
    {
        problems.add(format!("{at}/token"), detail);
    }
}

/// `local` names each wildcard of `subject` once, as `*` or as `$1`, `$2` and so on.
fn check_renaming(subject: &str, local: &str) -> Result<(), &'static str> {
    if !subject::is_valid(local) {
        return Err(NOT_A_SUBJECT);
    }
    let open = |text: &str| text.split('.').next_back() == Some(">");
    if open(subject) != open(local) {
        return Err("both subjects end in '>', or neither does");
    }
    let wildcards = subject.split('.').filter(|token| *token == "*").count();
    let references: Vec<_> = local.split('.').filter_map(reference).collect();
    if references.iter().any(|number| !(1..=wildcards).contains(number)) {
        return Err("refers to a wildcard that the subject does not have");
    }
    let distinct: BTreeSet<_> = references.iter().collect();
    let kept = local.split('.').filter(|token| *token == "*").count();
    if distinct.len() != references.len() || distinct.len() + kept != wildcards {
        return Err("must name each wildcard of the subject once, as '*' or as $1, $2 and so on");
    }
    Ok(())
}

/// The number of `$1`.
fn reference(token: &str) -> Option<usize> {
    token.strip_prefix('$').and_then(|number| number.parse().ok())
}

fn check_activation(
    import: &Import,
    token: &str,
    exporter: PublicKey<nkey::Account>,
    importer: AnyPublicKey,
) -> Result<(), String> {
    let claims = envelope::decode::<Activation>(token).map_err(|error| error.to_string())?.claims;
    let activation = &claims.nats;
    if claims.issuer != exporter.any() && activation.issuer_account != Some(exporter) {
        return Err("another account than the exporting one has issued this activation".to_owned());
    }
    if claims.subject != importer {
        return Err("this activation is for another account".to_owned());
    }
    if activation.kind.as_deref() != Some(import.kind.as_str()) {
        return Err("this activation is for another type of import".to_owned());
    }
    let wanted = match filled(import.to.as_deref()) {
        Some(to) if import.kind == SERVICE => to,
        _ => &import.subject,
    };
    if !subject::contains(&activation.subject, wanted) {
        return Err("this activation does not cover the subject".to_owned());
    }
    examine(&claims).into_vec().first().map_or(Ok(()), |problem| Err(problem.to_string()))
}
