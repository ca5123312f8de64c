//! The built-in providers: their base URLs and their particularities.

use super::secret::HeaderSecret;
use http::{HeaderName, HeaderValue};
use std::borrow::Cow;
use url::Url;

/// The header field in which a provider takes its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthStyle {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `x-api-key`, but a bearer at Anthropic's OpenAI-compatible endpoint.
    Anthropic,
    /// `x-goog-api-key`, but a bearer below Google's `…/openai/`.
    Google,
}

impl AuthStyle {
    /// The field with `key` for this URL. `None`: the key is no valid field value; [`HeaderSecret::new`] rules that out.
    pub fn header(self, key: &HeaderSecret, url: &str) -> Option<(HeaderName, HeaderValue)> {
        let path = url.split('?').next().unwrap_or_default();
        let name = match self {
            AuthStyle::Anthropic if !path.ends_with("/chat/completions") => Some("x-api-key"),
            AuthStyle::Google if !path.contains("/openai/") => Some("x-goog-api-key"),
            _ => None,
        };
        let (name, text) = match name {
            Some(name) => (HeaderName::from_static(name), key.0.clone()),
            None => (http::header::AUTHORIZATION, format!("Bearer {}", key.0)),
        };
        Some((name, HeaderValue::from_str(&text).ok()?))
    }
}

/// A built-in provider.
struct BuiltIn {
    name: &'static str,
    base: &'static str,
    auth_style: AuthStyle,
    /// Parameters that it rejects.
    unsupported_params: &'static [&'static str],
    /// It has no base64 embeddings.
    float_embeddings_only: bool,
}

const fn plain(name: &'static str, base: &'static str) -> BuiltIn {
    BuiltIn { name, base, auth_style: AuthStyle::Bearer, unsupported_params: &[], float_embeddings_only: false }
}

const BUILT_IN: [BuiltIn; 14] = [
    plain("openai", "https://api.openai.com"),
    plain("openrouter", "https://openrouter.ai/api"),
    BuiltIn { auth_style: AuthStyle::Anthropic, ..plain("anthropic", "https://api.anthropic.com") },
    plain("groq", "https://api.groq.com"),
    BuiltIn { unsupported_params: &["stream_options"], ..plain("mistral", "https://api.mistral.ai") },
    plain("cohere", "https://api.cohere.com"),
    plain("ai21", "https://api.ai21.com/studio"),
    BuiltIn { auth_style: AuthStyle::Google, ..plain("google", "https://generativelanguage.googleapis.com") },
    plain("together", "https://api.together.xyz"),
    plain("huggingface", "https://router.huggingface.co"),
    BuiltIn {
        unsupported_params: &["prompt_cache_key", "logprobs", "top_logprobs"],
        float_embeddings_only: true,
        ..plain("venice", "https://api.venice.ai/api")
    },
    plain("deepseek", "https://api.deepseek.com"),
    plain("xai", "https://api.x.ai"),
    plain("ollama", "http://localhost:11434"),
];

/// An upstream.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its name: the first segment of its route, or `default`.
    pub name: String,
    /// The provider: that of the built-in upstream of this name or origin, otherwise its own name.
    pub provider: Cow<'static, str>,
    /// Its base URL: `http` or `https`, without credentials, query or fragment.
    pub base: Url,
    /// Top-level fields that it rejects. They are removed from every JSON body.
    pub unsupported_params: Vec<String>,
    /// Whether it has no base64 embeddings.
    pub float_embeddings_only: bool,
    /// The header that carries its key.
    pub auth_style: AuthStyle,
    /// The operator's key, for clients without a credential.
    pub key: Option<HeaderSecret>,
}

impl Upstream {
    /// An upstream at this base, with the particularities of the built-in provider of this name or origin.
    pub fn new(name: &str, base: Url) -> Upstream {
        let known = BUILT_IN.iter().find(|known| known.name == name);
        let known = known.or_else(|| BUILT_IN.iter().find(|known| matches_origin(known, &base)));
        Upstream {
            name: name.to_owned(),
            provider: known.map_or_else(|| name.to_owned().into(), |known| known.name.into()),
            base,
            unsupported_params: known
                .into_iter()
                .flat_map(|known| known.unsupported_params)
                .map(ToString::to_string)
                .collect(),
            float_embeddings_only: known.is_some_and(|known| known.float_embeddings_only),
            auth_style: known.map_or(AuthStyle::Bearer, |known| known.auth_style),
            key: None,
        }
    }

    /// Whether it is a built-in provider's own service.
    pub fn is_built_in(&self) -> bool {
        BUILT_IN.iter().any(|known| matches_origin(known, &self.base))
    }

    /// The variable that holds the operator's key for it.
    pub fn key_variable(&self) -> String {
        if self.name == DEFAULT {
            return "OPENAI_API_KEY".to_owned();
        }
        let name: String = self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        format!("{}_API_KEY", name.to_ascii_uppercase())
    }
}

/// The name of the upstream that `OPENAI_BASE_URL` sets.
pub const DEFAULT: &str = "default";

fn matches_origin(known: &BuiltIn, base: &Url) -> bool {
    // Another server at localhost need not be Ollama.
    known.name != "ollama" && Url::parse(known.base).is_ok_and(|at| at.origin() == base.origin())
}

/// The built-in providers.
pub fn built_in() -> Vec<Upstream> {
    let upstream = |known: &BuiltIn| Some(Upstream::new(known.name, Url::parse(known.base).ok()?));
    BUILT_IN.iter().filter_map(upstream).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_its_name_or_origin() {
        for (name, base, provider) in [
            (DEFAULT, "https://api.openai.com/v1", "openai"),
            (DEFAULT, "https://api.groq.com/openai/v1", "groq"),
            (DEFAULT, "http://localhost:11434/v1", "default"),
            ("anthropic", "https://gateway.example", "anthropic"),
            ("work", "https://llm.example", "work"),
        ] {
            assert_eq!(Upstream::new(name, Url::parse(base).unwrap()).provider, provider, "{name} {base}");
        }
    }

    #[test]
    fn the_table_is_complete() {
        let all = built_in();
        assert_eq!(all.len(), BUILT_IN.len());
        for (upstream, known) in all.iter().zip(&BUILT_IN) {
            assert_eq!(upstream.name, known.name);
            assert_eq!(upstream.base.as_str().trim_end_matches('/'), known.base);
        }
    }

    #[test]
    fn a_provider_is_recognised_by_its_origin() {
        let at = |name: &str, base: &str| Upstream::new(name, Url::parse(base).unwrap());
        assert_eq!(at("default", "https://api.venice.ai/api/v1").unsupported_params.len(), 3);
        assert_eq!(at("claude", "https://api.anthropic.com/v1").auth_style, AuthStyle::Anthropic);
        assert_eq!(at("mistral", "http://localhost:1").unsupported_params, ["stream_options"]);
        assert!(at("default", "http://localhost:1").unsupported_params.is_empty());
    }

    #[test]
    fn every_provider_gets_its_key_in_its_own_field() {
        let key = HeaderSecret::new("k").unwrap();
        let header = |auth_style: AuthStyle, url: &str| {
            let (name, value) = auth_style.header(&key, url).unwrap();
            format!("{name}: {}", value.to_str().unwrap())
        };
        assert_eq!(header(AuthStyle::Bearer, "https://h/v1/x"), "authorization: Bearer k");
        assert_eq!(header(AuthStyle::Anthropic, "https://h/v1/messages?a=/chat/completions"), "x-api-key: k");
        assert_eq!(header(AuthStyle::Anthropic, "https://h/v1/chat/completions"), "authorization: Bearer k");
        assert_eq!(header(AuthStyle::Google, "https://h/v1beta/models"), "x-goog-api-key: k");
        assert_eq!(header(AuthStyle::Google, "https://h/v1beta/openai/models"), "authorization: Bearer k");
        assert_eq!(format!("{key:?}"), "HeaderSecret(…)");
        assert_eq!(HeaderSecret::new("a b"), None);
    }
}
