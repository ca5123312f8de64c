//! What body do we send? The operator's changes to a request, made before the question gets its name.
//!
//! In this order: `OVERRIDE_MODEL`; what `LLM_PARAMS` says for the model; the parameters that the provider rejects;
//! embeddings as numbers for a provider that knows no base64. A body that none of them touches stays as it came, byte
//! for byte; in one that is touched everything else does.

mod append;
mod fields;

use crate::config::providers::Upstream;
use crate::config::think_tags::ThinkTags;
use crate::config::{Config, ModelParams};
use crate::json::JsonCursor;
use crate::json::canonical::Document;
use crate::routing::endpoint::Endpoint;
use crate::routing::route::Target;
use crate::transform::inspect;
use crate::transform::response::ResponseTransform;
use append::MessageSchema;
use fields::Fields;
use http::Method;

/// What is asked, and of whom.
#[derive(Debug, Clone, Copy)]
pub struct RequestTarget<'a> {
    /// The upstream.
    pub upstream: &'a Upstream,
    /// The URL.
    pub url: &'a str,
    /// What it computes, if it is known.
    pub endpoint: Option<Endpoint>,
}

/// What became of a request's body.
#[derive(Debug)]
pub struct TransformedRequest {
    /// The body to send; `None`: the caller's own.
    pub body: Option<Vec<u8>>,
    /// What its answer needs on its way to this caller.
    pub response_transform: ResponseTransform,
}

/// What the answer to a request needs whose body is not seen, by what the operator says for all.
pub fn response_transform_for(config: &Config, method: &Method, target: &Target) -> ResponseTransform {
    if *method == Method::GET && path(&target.url).trim_end_matches('/').ends_with("/models") {
        return ResponseTransform::models(config.transforms.llm_params.pseudo_models().map(str::to_owned).collect());
    }
    let endpoint = target.endpoint.filter(|_| *method == Method::POST);
    endpoint.map_or_else(ResponseTransform::default, |endpoint| ResponseTransform::think(endpoint, tags(config, None)))
}

/// Shapes a body that is a JSON object: `document`, and `text` as it came.
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
        // A model in the URL is not the body's to change.
        let in_url = matches!(endpoint, Endpoint::GenerateContent | Endpoint::StreamGenerateContent);
        let speaks = endpoint.is_chat() && !in_url;
        if let Some(model) = &config.transforms.override_model
            && (speaks || fields.has("model"))
        {
            fields.set_text("model", model);
        }
        let set = fields.get("model").and_then(|model| JsonCursor::root(model).as_string());
        let model = set.or_else(|| inspect::model(document, target.url));
        // A request that needs no model is not one that leaves it open.
        let params = if model.is_some() || speaks { config.transforms.llm_params.of(model.as_deref()) } else { None };
        if let Some(params) = params {
            set_params(&mut fields, params, target, endpoint);
        }
        response_transform = ResponseTransform::think(endpoint, tags(config, params));
    }
    for name in &target.upstream.unsupported_params {
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

/// Whether anything may have to be changed, so that the body is taken apart at all.
fn needs_rewrite(config: &Config, target: RequestTarget<'_>, document: &Document) -> bool {
    let rejected = |name: &String| document.fields(name).next().is_some();
    config.transforms.override_model.is_some()
        || !config.transforms.llm_params.is_empty()
        || target.upstream.unsupported_params.iter().any(rejected)
        || (target.upstream.float_embeddings_only && is_embedding(target))
}

fn set_params(fields: &mut Fields<'_>, params: &ModelParams, target: RequestTarget<'_>, endpoint: Endpoint) {
    if let Some(model) = &params.upstream_model {
        fields.set_text("model", model);
    }
    // A count is of the messages: parameters of the answer would be refused.
    let counts = path(target.url).ends_with("count_tokens") || path(target.url).ends_with(":countTokens");
    if !counts {
        for (name, value) in &params.fields {
            fields.set(name, value);
        }
    }
    if let Some(text) = &params.append {
        let transform = if counts { Some(MessageSchema::Messages) } else { MessageSchema::of(endpoint) };
        if let Some(transform) = transform {
            append::append(fields, transform, text);
        }
    }
}

/// The tags of this request's thoughts; `None`: they stay.
fn tags(config: &Config, params: Option<&ModelParams>) -> Option<ThinkTags> {
    let wanted = params.and_then(|params| params.filter_think).unwrap_or(config.transforms.strip_think);
    let (start, end) = params.map_or((None, None), |p| (p.think_start.as_deref(), p.think_end.as_deref()));
    wanted.then(|| config.transforms.think_tags.or(start, end))
}

fn is_embedding(target: RequestTarget<'_>) -> bool {
    target.endpoint == Some(Endpoint::Compute) && path(target.url).trim_end_matches('/').ends_with("/embeddings")
}

fn path(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}
