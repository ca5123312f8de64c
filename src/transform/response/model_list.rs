//! Adds the operator's pseudo-models to a list of models: OpenAI's, Anthropic's, or a bare array (Together).

use crate::json::{JsonCursor, TextEdits, to_json_string};

/// The edits that add these models to a list. `None`: the list has an unknown form, or this is not its last page.
pub(super) fn added(root: JsonCursor<'_>, names: &[String]) -> Option<TextEdits> {
    let list = if root.is_array() { root } else { root.get("data").filter(|data| data.is_array())? };
    let has_more = root.get("has_more").is_some_and(|more| more.text() == "true");
    if has_more {
        return None;
    }
    let first = list.items().next();
    let like_anthropic = first.is_some_and(|model| model.get("type").is_some_and(|kind| kind.eq_str("model")));
    let is_new = |name: &&String| !list.items().any(|model| model.get("id").is_some_and(|id| id.eq_str(name)));
    let mut added = Vec::new();
    let mut needs_comma = first.is_some();
    for name in names.iter().filter(is_new) {
        if std::mem::replace(&mut needs_comma, true) {
            added.push(b',');
        }
        let name = to_json_string(name.as_bytes());
        let model: [&[u8]; 5] = if like_anthropic {
            let begin = br#"{"type":"model","id":"#;
            [begin, &name, br#","display_name":"#, &name, br#","created_at":"1970-01-01T00:00:00Z"}"#]
        } else {
            [br#"{"id":"#, &name, br#","object":"model","created":0,"owned_by":"reprise"}"#, b"", b""]
        };
        added.extend(model.concat());
    }
    let mut edits = TextEdits::default();
    if !added.is_empty() {
        edits.insert(list.end_bracket(), added);
    }
    Some(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_models_that_are_not_listed() {
        let names = ["a".to_owned(), "b".to_owned()];
        let with = |text: &str| {
            added(JsonCursor::root(text), &names).map(|edits| String::from_utf8(edits.apply(text)).unwrap())
        };
        let b = r#"{"id":"b","object":"model","created":0,"owned_by":"reprise"}"#;
        assert_eq!(
            with(r#"{"object":"list","data":[{"id":"a","x":1.0}]}"#),
            Some(format!(r#"{{"object":"list","data":[{{"id":"a","x":1.0}},{b}]}}"#))
        );
        assert_eq!(with(r#"[{"id":"a"} ]"#), Some(format!(r#"[{{"id":"a"}} ,{b}]"#)));
        assert_eq!(with(r#"{"data":[]}"#).unwrap().matches("\"id\"").count(), 2);
        assert!(
            with(r#"{"data":[{"type":"model","id":"a"}],"has_more":false}"#)
                .unwrap()
                .contains(r#"{"type":"model","id":"b""#)
        );
        assert_eq!(with(r#"{"data":[{"type":"model","id":"a"}],"has_more":true}"#), None);
        assert_eq!(with(r#"{"models":[]}"#), None);
    }
}
