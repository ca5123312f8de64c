//! The operator's changes to a request, applied before the cache key is computed.
//!
//! In this order: `OVERRIDE_MODEL`; `LLM_PARAMS` for the model; parameters that the provider rejects are removed; base64
//! embeddings are requested as floats from a provider without base64. All bytes that no change concerns stay the same.

mod append;
mod fields;

use crate::config::providers::Upstream;
use crate::config::think_tags::ThinkTags;
use crate::config::{Config, ModelParams};
use crate::json::JsonCursor;
use crate::json::canonical::Document;
use crate::routing::endpoint::{Computation, Endpoint};
use crate::routing::route::Target;
use crate::transform::inspect;
use crate::transform::response::ResponseTransform;
use append::MessageSchema;
use fields::Fields;
use http::Method;

/// The target of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestTarget<'a> {
    /// The upstream.
    pub upstream: &'a Upstream,
    /// The upstream URL.
    pub url: &'a str,
    /// The endpoint, if it is known.
    pub endpoint: Option<Endpoint>,
    /// Fields that are for this proxy alone.
    pub dropped: &'static [&'static str],
}

/// A request after the transforms.
#[derive(Debug)]
pub struct TransformedRequest {
    /// The changed body. `None`: the client's own.
    pub body: Option<Vec<u8>>,
    /// The transform of its response.
    pub response_transform: ResponseTransform,
}

/// The transform of the response to a request whose body is not read: only what applies to every model.
pub fn response_transform_for(config: &Config, method: &Method, target: &Target) -> ResponseTransform {
    if *method == Method::GET && path(&target.url).trim_end_matches('/').ends_with("/models") {
        return ResponseTransform::models(config.transforms.llm_params.pseudo_models().map(str::to_owned).collect());
    }
    let endpoint = target.endpoint.filter(|_| *method == Method::POST);
    endpoint.map_or_else(ResponseTransform::default, |endpoint| ResponseTransform::think(endpoint, tags(config, None)))
}

/// Transforms a JSON object: `text`, parsed as `document`.
pub fn transform(config: &Config, target: RequestTarget<'_>, text: &str, document: &Document) -> TransformedRequest {
    if !needs_rewrite(config, target, document) {
        let response_transform = target
            .endpoint
            .map_or_else(ResponseTransform::default, |e| ResponseTransform::think(e, tags(config, None)));
        return TransformedRequest { body: None, response_transform };
    }
    let mut fields = Fields::read(text);
    let mut response_transform = ResponseTransform::default();
    if let Some(endpoint) = target.endpoint {
        // Google's model is in the URL, which stays as it is.
        let model_in_url = matches!(endpoint, Endpoint::GenerateContent | Endpoint::StreamGenerateContent);
        let needs_model = endpoint.is_chat() && !model_in_url;
        if let Some(model) = &config.transforms.override_model
            && (needs_model || fields.has("model"))
        {
            fields.set_text("model", model);
        }
        let set = fields.get("model").and_then(|model| JsonCursor::root(model).as_string());
        let model = set.or_else(|| inspect::model(document, target.url));
        // `model=default` is for requests that could name a model, and do not.
        let params =
            if model.is_some() || needs_model { config.transforms.llm_params.of(model.as_deref()) } else { None };
        if let Some(params) = params {
            set_params(&mut fields, params, target, endpoint);
        }
        response_transform = ResponseTransform::think(endpoint, tags(config, params));
    }
    let unsupported = target.upstream.unsupported_params.iter().map(String::as_str);
    for name in unsupported.chain(target.dropped.iter().copied()) {
        fields.remove(name);
    }
    if target.upstream.float_embeddings_only && is_embedding(target) {
        if fields.is("encoding_format", "base64") {
            response_transform = ResponseTransform::base64();
        }
        // Every client there shares the entry of floats.
        let names_none = fields.get("encoding_format").is_none_or(|format| format == "null");
        if names_none || fields.is("encoding_format", "base64") {
            fields.set_text("encoding_format", "float");
        }
    }
    TransformedRequest { body: fields.into_changed(), response_transform }
}

/// Whether a transform may apply. If not, the body is not split into members.
fn needs_rewrite(config: &Config, target: RequestTarget<'_>, document: &Document) -> bool {
    let rejected = |name: &String| document.fields(name).next().is_some();
    !target.dropped.is_empty()
        || config.transforms.override_model.is_some()
        || !config.transforms.llm_params.is_empty()
        || target.upstream.unsupported_params.iter().any(rejected)
        || (target.upstream.float_embeddings_only && is_embedding(target))
}

fn set_params(fields: &mut Fields<'_>, params: &ModelParams, target: RequestTarget<'_>, endpoint: Endpoint) {
    if let Some(model) = &params.upstream_model {
        fields.set_text("model", model);
    }
    // Token counts are of the messages: other parameters would be rejected.
    let is_token_count = path(target.url).ends_with("count_tokens") || path(target.url).ends_with(":countTokens");
    if !is_token_count {
        for (name, value) in &params.fields {
            fields.set(name, value);
        }
    }
    if let Some(text) = &params.append {
        let schema = if is_token_count { Some(MessageSchema::Messages) } else { MessageSchema::of(endpoint) };
        if let Some(schema) = schema {
            append::append(fields, schema, text);
        }
    }
}

/// The tags between which reasoning is removed. `None`: nothing is removed.
fn tags(config: &Config, params: Option<&ModelParams>) -> Option<ThinkTags> {
    let wanted = params.and_then(|params| params.filter_think).unwrap_or(config.transforms.strip_think);
    let (start, end) = params.map_or((None, None), |p| (p.think_start.as_deref(), p.think_end.as_deref()));
    wanted.then(|| config.transforms.think_tags.or(start, end))
}

fn is_embedding(target: RequestTarget<'_>) -> bool {
    target.endpoint == Some(Endpoint::Compute(Computation::Embeddings))
        && path(target.url).trim_end_matches('/').ends_with("/embeddings")
}

fn path(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}
