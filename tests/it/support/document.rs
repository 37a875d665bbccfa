//! The OpenAPI document as tests hold answers against it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use jsonschema::Validator;
use nats_authority::api;
use serde_json::Value;

/// The document, as it is served.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(api::document)
}

/// Each operation with its method and its path.
pub fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    let paths = document()["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(|(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}

/// The operation that a request is for; one with fewer parameters comes first.
pub fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap();
    let fits = |template: &str| {
        let (wanted, given): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        let same = |(wanted, given): (&&str, &&str)| wanted == given || wanted.starts_with('{') && !given.is_empty();
        wanted.len() == given.len() && wanted.iter().zip(&given).all(same)
    };
    let found = operations().filter(|(of, template, _)| of.eq_ignore_ascii_case(method) && fits(template));
    found.min_by_key(|(_, template, _)| template.matches('{').count()).map(|(.., operation)| operation)
}

/// Fails for a refusal that the document does not name at its operation.
#[track_caller]
pub fn names_refusal(method: &str, path: &str, status: u16, code: &str) {
    // What no operation answers, and defects of ours.
    if matches!(code, "no-route" | "method-not-allowed" | "internal") {
        return;
    }
    let Some(operation) = operation(method, path) else { return };
    let examples = operation.pointer(&format!("/responses/{status}/content/application~1problem+json/examples"));
    let named = examples.is_some_and(|examples| examples.get(code).is_some());
    assert!(named, "the document does not say that {} answers {status} {code}", operation["operationId"]);
}

/// Fails unless `value` is what `content` of an answer or a request says.
#[track_caller]
pub fn fits(content: &Value, value: &Value, what: &str) {
    let validator = validator(&content["schema"]);
    let faults: Vec<_> =
        validator.iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    assert!(faults.is_empty(), "{what}: {faults:#?} {value:#}");
}

/// Made once for each schema: each holds the whole document, for references lead into it.
fn validator(schema: &Value) -> Arc<Validator> {
    static VALIDATORS: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());
    let made = || {
        let mut schema = schema.clone();
        schema["components"] = document()["components"].clone();
        Arc::new(jsonschema::draft202012::new(&schema).unwrap())
    };
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(validators.entry(schema.to_string()).or_insert_with(made))
}
