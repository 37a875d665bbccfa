//! What the document says beyond what the types of requests say by themselves: the form of texts, and
//! which operation gives what another one needs. It only describes; the forms are enforced where values
//! are parsed, and `make test-api` compares the two.

use serde_json::{Map, Value, json};

use super::idempotency;
use crate::policy::MAX_AMOUNT;

/// The form of a text.
#[derive(Clone, Copy)]
enum Form {
    Slug,
    EnvType,
    ItemName,
    /// Name of a plan or a role.
    PolicyName,
    /// Of those who call this API.
    CallerRole,
    DisplayName,
    Reason,
    Duration,
    /// As a duration, where none at all is one too.
    Grace,
    /// RFC 3339, or a duration.
    Time,
    TimeOfDay,
    /// Of a stream.
    Size,
    /// Of a limit.
    Amount,
    /// A subject of at most 255 bytes.
    Filter,
    Subject,
    LiteralSubject,
    UserKey,
    AccountKey,
    Proof,
    Cidr,
    ConnectionType,
    Tag,
    Cursor,
    Generation,
    IdempotencyKey,
    Anchor,
    /// Anything that a query can carry.
    Text,
}

impl Form {
    fn pattern(self) -> &'static str {
        match self {
            Self::Slug => "^[a-z][a-z0-9-]{2,31}$",
            Self::EnvType => "^[a-z][a-z0-9]{1,15}$",
            Self::ItemName => "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$",
            Self::PolicyName => "^[a-z][a-z0-9-]{0,31}$",
            Self::CallerRole => "^(sovereign-admin|security-officer|org-admin|org-developer|org-viewer)$",
            Self::DisplayName => "^[^\\x00-\\x1f\\x7f-\\x9f]{1,200}$",
            Self::Reason => "^[^\\x00]{0,500}$",
            Self::Duration => "^[1-9][0-9]{0,5}(s|m|h|d)$",
            Self::Grace => "^(0s|[1-9][0-9]{0,5}(s|m|h|d))$",
            Self::Time => {
                "^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})|[1-9][0-9]{0,4}(s|m|h|d))$"
            }
            Self::TimeOfDay => "^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$",
            Self::Size => "^([1-9][0-9]{3,17}|[1-9][0-9]{0,5}(KiB|MiB|GiB|TiB))$",
            Self::Amount => "^(unlimited|-1|[0-9]{1,6} ?(B|KiB|MiB|GiB|TiB)?)$",
            Self::Filter | Self::Subject => {
                "^(([^\\x00-\\x20\\x7f.>]|[^\\x00-\\x20\\x7f.]{2,})\\.)*[^\\x00-\\x20\\x7f.]+$"
            }
            Self::LiteralSubject => "^[^\\x00-\\x20\\x7f.*>]+(\\.[^\\x00-\\x20\\x7f.*>]+)*$",
            Self::UserKey => "^U[A-Z2-7]{55}$",
            Self::AccountKey => "^A[A-Z2-7]{55}$",
            Self::Proof => "^[A-Za-z0-9_-]{86}$",
            Self::Cidr => "^([0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)/[0-9]{1,3}$",
            Self::ConnectionType => "^(STANDARD|WEBSOCKET|LEAFNODE|LEAFNODE_WS|MQTT|MQTT_WS|IN_PROCESS)$",
            Self::Tag => "^[!-~]{1,100}$",
            Self::Cursor => "^[A-Za-z0-9_-]{1,200}$",
            Self::Generation => "^\"[0-9]{1,18}\"$",
            Self::IdempotencyKey => "^[!-~]{1,255}$",
            Self::Anchor => "^[1-9][0-9]{0,17}:[0-9a-f]{64}$",
            Self::Text => "^[^\\x00]*$",
        }
    }

    fn lengths(self) -> Option<(u64, u64)> {
        match self {
            Self::DisplayName => Some((1, 200)),
            Self::Reason => Some((0, 500)),
            Self::Filter => Some((1, 255)),
            _ => None,
        }
    }

    /// Says it at a schema.
    fn put(self, schema: &mut Value) {
        let Some(schema) = schema.as_object_mut() else { return };
        // Of a list, each item.
        if let Some(items) = schema.get_mut("items") {
            return self.put(items);
        }
        if matches!(self, Self::Generation) {
            schema.remove("type");
            let (any, one) =
                (json!({"type": "string", "const": "*"}), json!({"type": "string", "pattern": self.pattern()}));
            schema.insert("anyOf".to_owned(), json!([one, any]));
            return;
        }
        schema.insert("pattern".to_owned(), json!(self.pattern()));
        if let Some((least, most)) = self.lengths() {
            schema.insert("minLength".to_owned(), json!(least));
            schema.insert("maxLength".to_owned(), json!(most));
        }
    }
}

/// Fields of bodies: pointer below the schemas, form.
const FIELDS: &[(&str, &str, Form)] = &[
    ("NewOrganization", "slug", Form::Slug),
    ("NewOrganization", "displayName", Form::DisplayName),
    ("NewOrganization", "plan", Form::PolicyName),
    ("NewOrganization", "environments", Form::EnvType),
    ("ChangeOrganization", "displayName", Form::DisplayName),
    ("ChangeOrganization", "plan", Form::PolicyName),
    ("NewConsumer", "stream", Form::ItemName),
    ("NewConsumer", "filterSubjects", Form::Filter),
    ("NewConsumer", "ackWait", Form::Duration),
    ("NewStream", "filterSubjects", Form::Filter),
    ("NewStream", "maxBytes", Form::Size),
    ("NewStream", "maxAge", Form::Duration),
    ("Reason", "reason", Form::Reason),
    ("NewCredential", "name", Form::ItemName),
    ("NewCredential", "role", Form::PolicyName),
    ("NewCredential", "ttl", Form::Duration),
    ("NewCredential", "publicKey", Form::UserKey),
    ("NewCredential", "proof", Form::Proof),
    ("NewCredential", "connectionTypes", Form::ConnectionType),
    ("NewCredential", "allowedCidrs", Form::Cidr),
    ("NewCredential", "tags", Form::Tag),
    ("NewPermission", "allow", Form::Subject),
    ("NewPermission", "deny", Form::Subject),
    ("TimeWindow", "start", Form::TimeOfDay),
    ("TimeWindow", "end", Form::TimeOfDay),
    ("Rotate", "grace", Form::Grace),
    ("Rotate", "publicKey", Form::UserKey),
    ("Rotate", "proof", Form::Proof),
    ("Revoke", "env", Form::EnvType),
    ("Revoke", "role", Form::PolicyName),
    ("Revoke", "issuedBefore", Form::Time),
    ("Revoke", "signingKey", Form::AccountKey),
    ("Revoke", "reason", Form::Reason),
    ("NewSystemCredential", "name", Form::ItemName),
    ("NewSystemCredential", "ttl", Form::Duration),
    ("RotateKeys", "envType", Form::EnvType),
    ("RotateKeys", "role", Form::PolicyName),
    ("RotateKeys", "publicKey", Form::AccountKey),
    ("RotateKeys", "grace", Form::Grace),
    ("RotateKeys", "reason", Form::Reason),
    ("NewApiToken", "name", Form::ItemName),
    ("NewApiToken", "role", Form::CallerRole),
    ("NewApiToken", "organizations", Form::Slug),
    ("NewApiToken", "ttl", Form::Duration),
    ("CanI", "org", Form::Slug),
    ("CanI", "envType", Form::EnvType),
    ("CanI", "role", Form::PolicyName),
    ("CanI", "publish", Form::LiteralSubject),
    ("CanI", "subscribe", Form::Subject),
];

/// Lists of bodies: how long they are.
const LENGTHS: &[(&str, &str, u64, u64)] = &[
    ("NewApiToken", "organizations", 0, 100),
    ("NewConsumer", "filterSubjects", 0, 32),
    ("NewStream", "filterSubjects", 0, 32),
    ("NewCredential", "tags", 0, 20),
    ("NewCredential", "times", 0, 16),
    ("NewCredentials", "items", 1, 1000),
];

/// The form of a parameter.
fn parameter(path: &str, place: &str, name: &str) -> Option<Form> {
    Some(match (place, name) {
        // Of the audit log and of servers any text may be asked for: it only finds nothing.
        ("query", "org") if path.ends_with("/audit") => Form::Text,
        ("path", _) if path.contains("/servers/") => return None,
        ("header", "If-Match") => Form::Generation,
        ("header", idempotency::HEADER) => Form::IdempotencyKey,
        ("path" | "query", "org") => Form::Slug,
        ("path", "envType") | ("query", "env") => Form::EnvType,
        ("path", "name") => Form::ItemName,
        ("path", "accountId") => Form::AccountKey,
        ("query", "cursor") => Form::Cursor,
        ("query", "since" | "expiresBefore") => Form::Time,
        ("query", "anchor") => Form::Anchor,
        ("query", _) => Form::Text,
        _ => return None,
    })
}

/// What an answer gives for the parameters of other operations: operation, status, parameters.
type Gives = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const ENVIRONMENT: &[(&str, &str)] = &[("org", "$request.path.org"), ("envType", "$request.path.envType")];
const ITEM: &[(&str, &str)] =
    &[("org", "$request.path.org"), ("envType", "$request.path.envType"), ("name", "$request.path.name")];
const CREDENTIAL: &[(&str, &str)] = &[("id", "$response.body#/credential/id")];
const TOKEN: &[(&str, &str)] = &[("id", "$response.body#/token/id")];

const GIVES: &[Gives] = &[
    ("onboard_organization", "201", &[("org", "$response.body#/slug")]),
    ("put_environment", "201", ENVIRONMENT),
    ("put_consumer", "201", ITEM),
    ("put_stream", "201", ITEM),
    ("issue_credential", "201", CREDENTIAL),
    ("rotate_credential", "201", CREDENTIAL),
    ("rotate_organization_keys", "202", &[("id", "$response.body#/items/0/id")]),
    ("rotate_operator_key", "202", &[("id", "$response.body#/id")]),
    ("create_token", "201", TOKEN),
];

/// The document with all of it, as it is served.
pub(super) fn described(document: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    describe(&mut document);
    document
}

fn describe(document: &mut Value) {
    if let Some(schemas) = document.pointer_mut("/components/schemas") {
        for (schema, field, form) in FIELDS {
            if let Some(field) = schemas.pointer_mut(&format!("/{schema}/properties/{field}")) {
                form.put(field);
            }
        }
        if let Some(number) = schemas.pointer_mut("/Amount/oneOf/0") {
            number["minimum"] = json!(-1);
            number["maximum"] = json!(MAX_AMOUNT);
        }
        if let Some(text) = schemas.pointer_mut("/Amount/oneOf/1") {
            Form::Amount.put(text);
        }
        for (schema, field, least, most) in LENGTHS {
            let field = schemas.pointer_mut(&format!("/{schema}/properties/{field}"));
            if let Some(field) = field.and_then(Value::as_object_mut) {
                field.insert("minItems".to_owned(), json!(least));
                field.insert("maxItems".to_owned(), json!(most));
            }
        }
    }
    let targets: Vec<Target> = operations(document).map(|(path, operation)| Target::of(path, operation)).collect();
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    let operations = paths.iter_mut().filter_map(|(path, item)| Some((path, item.as_object_mut()?)));
    for (path, operation) in operations.flat_map(|(path, item)| item.values_mut().map(move |op| (path, op))) {
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            describe_parameter(path, parameter);
        }
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        for (_, status, given) in GIVES.iter().filter(|(of, ..)| id == *of) {
            let links: Map<String, Value> = targets
                .iter()
                .filter(|target| target.id != id && target.takes(given))
                .map(|target| (target.id.clone(), link(&target.id, given)))
                .collect();
            if let Some(answer) = operation.pointer_mut(&format!("/responses/{status}")).and_then(Value::as_object_mut)
            {
                answer.insert("links".to_owned(), links.into());
            }
        }
    }
}

fn describe_parameter(path: &str, parameter: &mut Value) {
    let [place, name] = ["in", "name"].map(|key| parameter[key].as_str().unwrap_or_default().to_owned());
    let schema = &mut parameter["schema"];
    // A parameter that is there holds something: null is how Rust's types say that it may be absent.
    if schema["type"] == json!(["string", "null"]) {
        schema["type"] = json!("string");
    }
    if schema["type"] == "string"
        && schema.get("format").is_none()
        && let Some(form) = self::parameter(path, &place, &name)
    {
        form.put(schema);
    }
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
    paths.flat_map(|(path, item)| item.as_object().into_iter().flat_map(Map::values).map(move |op| (path.as_str(), op)))
}

/// An operation that can be called with what another one gave.
struct Target {
    id: String,
    path: String,
    tag: String,
}

impl Target {
    fn of(path: &str, operation: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self { id: text(&operation["operationId"]), path: path.to_owned(), tag: text(&operation["tags"][0]) }
    }

    /// Everything that its path needs is given, and nothing else.
    fn takes(&self, given: &[(&str, &str)]) -> bool {
        let same = self.path.matches('{').count() == given.len()
            && given.iter().all(|(name, _)| self.path.contains(&format!("{{{name}}}")));
        same && match given {
            CREDENTIAL => self.tag == "credentials",
            TOKEN => self.tag == "tokens",
            [("id", "$response.body#/id")] => self.tag == "operator",
            [("id", _)] => self.tag == "keys",
            _ => true,
        }
    }
}

fn link(id: &str, given: &[(&str, &str)]) -> Value {
    let parameters: Map<String, Value> = given.iter().map(|(name, from)| ((*name).to_owned(), json!(from))).collect();
    json!({"operationId": id, "parameters": parameters})
}
