//! An example of each request and of each answer, as the document shows them. They stand in `examples.json` by
//! operation: the requests are written there by hand, the answers are what a deployment answered to them
//! (`tests/it/examples.rs` sends them, and writes the answers anew).

use serde_json::Value;

const EXAMPLES: &str = include_str!("examples.json");

/// Adds them to the document.
pub(super) fn put(document: &mut Value) {
    let examples: Value = serde_json::from_str(EXAMPLES).unwrap_or_default();
    let items = document.get_mut("paths").and_then(Value::as_object_mut).into_iter().flatten();
    for operation in items.flat_map(|(_, item)| item.as_object_mut().into_iter().flatten().map(|(_, it)| it)) {
        let of_it = &examples[operation["operationId"].as_str().unwrap_or_default()];
        let status = of_it["status"].as_str().unwrap_or_default().to_owned();
        let answer = (format!("/responses/{status}/content"), &of_it["answer"]);
        for (place, example) in [("/requestBody/content".to_owned(), &of_it["request"]), answer] {
            let content = operation.pointer_mut(&place).and_then(Value::as_object_mut);
            for (_, of_type) in content.into_iter().flatten().filter(|_| !example.is_null()) {
                of_type["example"] = example.clone();
            }
        }
    }
}
