//! Which refusals an operation may answer, as the document says it: a code for each, with an example. What a code
//! means stands in `docs/ERRORS.md` and is taken from there. Nothing is refused here; tests compare every refusal
//! that they meet with this list.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::problem::MEDIA_TYPE;

/// Where codes are explained.
const MEANINGS: &str = include_str!("../../docs/ERRORS.md");

/// Refusals: `STATUS code code …`, parts with `;` between them.
type Codes = &'static str;

/// Whatever lies behind authentication.
const KNOWN: Codes = "401 unauthenticated; 403 forbidden; 422 secret-in-request; 429 rate-limited too-many-at-once; \
    503 overloaded timeout database-unavailable";
/// What changes an account.
const MINT: Codes = "413 account-too-large; 503 busy operator-not-trusted";
/// What only an active organization takes.
const ACTIVE: Codes = "409 organization-suspended organization-deleting";
const BODY: Codes = "400 malformed-json invalid-utf8 unreadable-body; 408 body-too-slow; 413 body-too-large; \
    415 unsupported-media-type; 422 invalid-body unknown-field";
/// What may carry an idempotency key: with one, its body is read whatever the operation takes.
const POST: Codes = "400 unreadable-body; 408 body-too-slow; 409 idempotency-key-reused idempotency-key-in-use \
    idempotency-key-taken-over; 413 body-too-large; 422 invalid-idempotency-key";
const CONDITION: Codes = "412 generation-changed; 422 invalid-if-match";
const NO_CONDITION: Codes = "422 dry-run-unsupported if-match-unsupported";
/// What a credential may not be.
const ISSUE: Codes = "403 organization-reach-not-granted; 409 role-not-provisioned public-key-in-use not-active \
    environment-deleting; 422 invalid-duration invalid-ttl invalid-public-key proof-missing proof-without-key wrong-proof \
    organization-reach-forbidden; 503 stopping signing-key-pending";
const NEW_CREDENTIAL: Codes = "422 invalid-name unknown-env-type unknown-role role-not-allowed invalid-connection-type \
    invalid-permissions permissions-missing permissions-not-allowed bearer-not-allowed invalid-times invalid-cidr \
    invalid-tag unacceptable-claims";
const APPROVE: Codes = "403 approval-needs-security-officer approval-needs-second-person; 409 key-rotation-state";

/// Of single operations, beside what follows from what they take.
const OPERATIONS: &[(&str, &[Codes])] = &[
    (
        "onboard_organization",
        &[
            MINT,
            "409 organization-exists capacity-exceeded; 422 invalid-slug reserved-slug invalid-env-type unknown-env-type \
             unknown-plan invalid-display-name; 503 capacity-unknown",
        ],
    ),
    (
        "change_organization",
        &[
            MINT,
            ACTIVE,
            "409 capacity-exceeded; 422 invalid-display-name unknown-plan invalid-limits invalid-limit; 503 capacity-unknown",
        ],
    ),
    ("suspend_organization", &[MINT, "409 organization-deleting; 422 invalid-reason"]),
    ("resume_organization", &[MINT, "409 organization-deleting; 422 invalid-reason"]),
    ("delete_organization", &[MINT]),
    ("put_environment", &[MINT, ACTIVE, "409 environment-deleting; 422 unknown-env-type"]),
    ("delete_environment", &[MINT, ACTIVE]),
    (
        "put_consumer",
        &[
            ACTIVE,
            "409 consumer-exists consumer-deleting environment-deleting stream-deleting; \
             422 unknown-env-type invalid-filter invalid-duration invalid-count no-stream",
        ],
    ),
    ("show_consumer", &["404 no-consumer"]),
    ("delete_consumer", &[ACTIVE, "404 no-consumer"]),
    (
        "put_stream",
        &[
            ACTIVE,
            "409 stream-exists stream-deleting environment-deleting; 422 unknown-env-type reserved-name invalid-filter \
             invalid-size invalid-duration invalid-count",
        ],
    ),
    ("show_stream", &["404 no-stream"]),
    ("delete_stream", &[ACTIVE, "404 no-stream; 409 stream-in-use"]),
    ("issue_credential", &[ACTIVE, ISSUE, NEW_CREDENTIAL]),
    ("issue_credentials", &[ACTIVE, ISSUE, NEW_CREDENTIAL, "422 invalid-batch public-key-in-use"]),
    ("list_credentials", &["422 invalid-env-type invalid-public-key"]),
    ("list_endings", &["404 no-organization; 422 invalid-slug invalid-env-type"]),
    ("show_credential", &["404 no-credential"]),
    (
        "rotate_credential",
        &[
            ACTIVE,
            ISSUE,
            "404 no-credential; 409 credential-superseded credential-revoked credential-expired; 422 public-key-unchanged",
        ],
    ),
    ("revoke_credential", &[MINT, "404 no-credential; 422 invalid-reason"]),
    (
        "revoke_credentials",
        &[
            MINT,
            "404 no-environment; 409 organization-deleting; 422 invalid-env-type unknown-role invalid-time \
             invalid-public-key unknown-signing-key empty-selector all-and-selector invalid-reason",
        ],
    ),
    (
        "rotate_organization_keys",
        &[
            ACTIVE,
            "409 key-not-active key-rotation-open; 422 invalid-env-type unknown-role invalid-public-key invalid-duration \
             invalid-selector no-key invalid-reason",
        ],
    ),
    ("list_key_rotations", &["422 invalid-slug"]),
    ("show_key_rotation", &["404 no-key-rotation"]),
    ("approve_key_rotation", &[MINT, APPROVE, "404 no-key-rotation; 409 organization-deleting"]),
    ("hasten_key_rotation", &[MINT, APPROVE, "404 no-key-rotation; 409 organization-deleting; 422 invalid-reason"]),
    ("cancel_key_rotation", &[MINT, "404 no-key-rotation; 409 key-rotation-state; 422 invalid-reason"]),
    ("rotate_operator_key", &["409 key-rotation-open; 422 invalid-reason"]),
    ("show_operator_rotation", &["404 no-key-rotation"]),
    ("approve_operator_rotation", &[APPROVE, "404 no-key-rotation"]),
    ("cancel_operator_rotation", &["404 no-key-rotation; 409 key-rotation-state; 422 invalid-reason"]),
    ("set_operator_jwt", &["422 invalid-operator-jwt"]),
    ("reseal", &["409 sealing-key-not-first; 503 wrong-sealing-key"]),
    ("issue_system_credential", &["422 invalid-name invalid-duration ttl-too-long"]),
    ("diff_policies", &["422 invalid-policy"]),
    ("forget_server", &["404 no-server; 409 server-live"]),
    (
        "create_token",
        &[
            "409 token-name-taken; 422 invalid-name unknown-caller-role invalid-token-scope invalid-slug no-organization \
             invalid-duration invalid-ttl",
        ],
    ),
    ("revoke_token", &["404 no-token"]),
    (
        "ask_can_i",
        &[
            "404 no-organization no-environment no-credential; 422 invalid-slug invalid-env-type unknown-env-type unknown-role \
             invalid-question invalid-subject wrong-environment",
        ],
    ),
    ("verify_audit_log", &["422 invalid-anchor"]),
    ("show_account_jwt", &["404 no-account"]),
];

/// Parameters that may be refused: their place, their name.
const PARAMETERS: &[(&str, &str, Codes)] = &[
    ("path", "org", "404 no-organization; 422 invalid-slug"),
    ("path", "envType", "404 no-environment; 422 invalid-env-type"),
    ("query", "cursor", "422 invalid-cursor"),
    ("query", "since", "422 invalid-time"),
    ("query", "expiresBefore", "422 invalid-time"),
    ("query", "firstIssuedBefore", "422 invalid-time"),
    ("header", "If-Match", CONDITION),
];

/// Adds them to the document.
pub(super) fn put(document: &mut Value) {
    let meanings = meanings();
    let mut examples = Map::new();
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            for (status, codes) in of_operation(path, method, operation) {
                let answer = &mut operation["responses"][status];
                if answer.is_null() {
                    *answer = json!({"description": description(status)});
                }
                let content = &mut answer["content"][MEDIA_TYPE];
                content["schema"] = json!({"$ref": "#/components/schemas/Problem"});
                for code in codes {
                    let name = format!("{code}-{status}");
                    content["examples"][code] = json!({"$ref": format!("#/components/examples/{name}")});
                    let meaning = meanings.get(code).copied().unwrap_or_default();
                    examples.entry(name).or_insert_with(|| example(code, status, meaning));
                }
            }
        }
    }
    document["components"]["examples"] = examples.into();
}

/// The codes of an operation by status, from what it takes and from what it does.
fn of_operation(path: &str, method: &str, operation: &Value) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut all: Vec<Codes> = Vec::new();
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |place: &str, name: &str| parameters.iter().any(|it| it["in"] == place && it["name"] == name);
    if operation["security"].is_null() {
        all.push(KNOWN);
        all.extend(path.contains('{').then_some("400 malformed-path"));
        all.extend(parameters.iter().any(|it| it["in"] == "query").then_some("422 invalid-parameter"));
        all.extend((method == "post").then_some(POST));
        all.extend((method != "get" && !has("header", "If-Match")).then_some(NO_CONDITION));
        all.extend(operation.get("requestBody").map(|_| BODY));
        let asked = PARAMETERS.iter().filter(|(place, name, _)| has(place, name));
        all.extend(asked.map(|(.., codes)| codes));
        let item = path.contains("/consumers/{name}") || path.contains("/streams/{name}");
        all.extend(item.then_some("422 invalid-name"));
    }
    let own = OPERATIONS.iter().filter(|(id, _)| operation["operationId"] == *id);
    all.extend(own.flat_map(|(_, codes)| codes.iter()));
    let mut codes = BTreeMap::<_, Vec<_>>::new();
    for part in all.iter().flat_map(|codes| codes.split("; ")) {
        let mut words = part.split_ascii_whitespace();
        let of_status = codes.entry(words.next().unwrap_or_default()).or_default();
        for code in words {
            if !of_status.contains(&code) {
                of_status.push(code);
            }
        }
    }
    codes
}

fn description(status: &str) -> &'static str {
    match status {
        "400" => "The request cannot be read",
        "408" => "The body took too long",
        "409" => "The request contradicts the present state",
        "412" => "The account is at another generation than `If-Match` names",
        "413" => "More than there is room for",
        "422" => "A field or parameter is refused; `errors` names it",
        "429" => "More than this caller may ask for; try again after `Retry-After`",
        _ => "Refused; `code` says why",
    }
}

fn example(code: &str, status: &str, meaning: &str) -> Value {
    let number = status.parse().ok().and_then(|number| axum::http::StatusCode::from_u16(number).ok());
    let problem = json!({
        "type": format!("urn:nats-authority:problem:{code}"),
        "title": number.and_then(|status| status.canonical_reason()),
        "status": number.map(|status| status.as_u16()),
        "detail": meaning,
        "code": code,
        "requestId": "0199c1d2-7a4e-7b1f-9c55-1d0f6f6d2a11",
    });
    json!({"summary": meaning, "value": problem})
}

/// What codes mean, from the tables: rows of `code, status, means, do` or of `code, means, do`.
fn meanings() -> BTreeMap<&'static str, &'static str> {
    let mut meanings = BTreeMap::new();
    let mut column = 0;
    for row in MEANINGS.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<_> = row.split(" | ").collect();
        if cells[0] == "code" {
            column = cells.iter().position(|cell| *cell == "means").unwrap_or_default();
        }
        for code in cells[0].split('`').skip(1).step_by(2) {
            meanings.entry(code).or_insert_with(|| cells.get(column).copied().unwrap_or_default());
        }
    }
    meanings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained() {
        let meanings = meanings();
        let own = OPERATIONS.iter().flat_map(|(_, codes)| codes.iter().copied());
        let groups = [KNOWN, BODY, POST, CONDITION, NO_CONDITION].into_iter().chain(own);
        let mut checked = 0;
        for part in groups.chain(PARAMETERS.iter().map(|(.., codes)| *codes)).flat_map(|codes| codes.split("; ")) {
            for code in part.split_ascii_whitespace().skip(1) {
                assert!(meanings.get(code).is_some_and(|meaning| !meaning.is_empty()), "{code} is not in ERRORS.md");
                checked += 1;
            }
        }
        assert!(checked > 150, "{checked}");
    }

    #[test]
    fn every_operation_of_the_table_is_there() {
        let document = serde_json::to_value(super::super::openapi()).unwrap();
        let items = document["paths"].as_object().unwrap().values();
        let ids: Vec<_> =
            items.flat_map(|item| item.as_object().unwrap().values()).map(|op| &op["operationId"]).collect();
        for (id, _) in OPERATIONS {
            assert!(ids.iter().any(|found| *found == id), "there is no operation {id}");
        }
    }
}
