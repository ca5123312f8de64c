//! The facts of a request body that decide whether it is cacheable and what the log names.

use crate::json::JsonCursor;
use crate::json::canonical::Document;
use crate::routing::endpoint::Endpoint;
use serde_json::Value;

/// Whether the request names state that the provider keeps, or creates a job (specification, section 2).
pub fn references_server_state(document: &Document) -> bool {
    let set = |name: &str| document.fields(name).any(|value| value != "null");
    let background = document.fields("background").any(|value| !matches!(value, "false" | "null"));
    background
        || ["conversation", "conversation_id", "previous_response_id", "container", "thread"].into_iter().any(set)
        || ["deferred", "async", "is_async"].iter().flat_map(|name| document.fields(name)).any(|value| value == "true")
        || ["webhook", "webhook_url", "webhooks", "callback", "callback_url", "notify_url"].into_iter().any(set)
        || document.fields("prompt").any(references_template)
        || document.fields("tools").any(references_container)
}

/// Whether a prompt is a template at the provider, without a version: the provider may change it at any time.
fn references_template(prompt: &str) -> bool {
    let prompt = serde_json::from_str::<Value>(prompt).unwrap_or_default();
    prompt.get("id").is_some() && prompt.get("version").is_none_or(Value::is_null)
}

/// Whether a tool, at any depth, runs in an existing container: a string names one, an object describes a new one. The text is
/// canonical, so no string inside it can look like these.
fn references_container(tools: &str) -> bool {
    tools.contains("\"container\":\"") || tools.contains("\"container_id\":\"")
}

/// Whether equal requests get equal responses, as far as the request can ask for that: the endpoint does not sample, or the
/// request names `temperature` 0 or a seed. A temperature that is not named is not 0.
pub fn is_repeatable(endpoint: Endpoint, document: &Document) -> bool {
    let objects: &[&str] = match endpoint {
        _ if !endpoint.samples() => return true,
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent => &["generationConfig", "generation_config"],
        Endpoint::Ollama => &["options"],
        _ => &[],
    };
    let parameter = |name: &'static str| -> Vec<String> {
        let own = objects.is_empty().then(|| document.fields(name).map(str::to_owned)).into_iter().flatten();
        let nested = objects.iter().flat_map(|object| document.fields(object));
        own.chain(nested.filter_map(|object| Some(JsonCursor::root(object).get(name)?.text().to_owned()))).collect()
    };
    let is_zero = |value: &String| value.parse::<f64>().is_ok_and(|number| number == 0.0);
    let temperature = parameter("temperature");
    // `random_seed` is Mistral's name.
    let mut seeds = ["seed", "random_seed"].into_iter().flat_map(parameter);
    (!temperature.is_empty() && temperature.iter().all(is_zero)) || seeds.any(|seed| seed != "null")
}

/// Whether `stream_options` requests a final usage chunk.
pub fn includes_usage(options: &str) -> bool {
    let options = serde_json::from_str::<Value>(options);
    options.is_ok_and(|options| options.get("include_usage") == Some(&true.into()))
}

/// The model's name, from the body or, for Google, from the URL.
pub fn model(document: &Document, url: &str) -> Option<String> {
    let in_body = document.fields("model").find_map(|value| serde_json::from_str::<String>(value).ok());
    in_body.or_else(|| {
        let (_, after) = url.rsplit_once("/models/")?;
        after.split([':', '/', '?']).next().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn finds_references_to_server_state() {
        for state in [
            r#"{"conversation":"c"}"#,
            r#"{"conversation":{"id":"c"}}"#,
            r#"{"conversation_id":"c"}"#,
            r#"{"previous_response_id":"r"}"#,
            r#"{"background":true}"#,
            r#"{"background":false,"background":true}"#,
            r#"{"deferred":true}"#,
            r#"{"async":true}"#,
            r#"{"webhook_url":"https://h"}"#,
            r#"{"callback_url":"https://h"}"#,
            r#"{"container":"c"}"#,
            r#"{"thread":{"type":"continue","previous_message_id":"m"}}"#,
            r#"{"tools":[{"container" : "c"}]}"#,
            r#"{"tools":[{"environment":{"\u0063ontainer_id":"c"}}]}"#,
            r#"{"prompt":{"id":"p"}}"#,
        ] {
            assert!(references_server_state(&document(state)), "{state}");
        }
        for none in [
            "{}",
            r#"{"conversation":null,"previous_response_id":null,"background":null,"container":null}"#,
            r#"{"background":false,"deferred":false,"async":false,"webhook":null}"#,
            r#"{"tools":[{"container":{"type":"auto"}}]}"#,
            r#"{"tools":[{"description":"a \"container\":\"c\""}]}"#,
            r#"{"prompt":"p"}"#,
            r#"{"prompt":{"id":"p","version":"2"}}"#,
        ] {
            assert!(!references_server_state(&document(none)), "{none}");
        }
    }

    #[test]
    fn finds_the_model() {
        assert_eq!(model(&document(r#"{"model":"m"}"#), "https://h/x").as_deref(), Some("m"));
        let google = "https://h/v1beta/models/g-1:generateContent?key=k";
        assert_eq!(model(&document("{}"), google).as_deref(), Some("g-1"));
        assert_eq!(model(&document(r#"{"model":7}"#), "https://h/x"), None);
    }
}
