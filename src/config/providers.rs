//! Who are the providers, where do they live, and what is particular about each?

use super::secret::HeaderSecret;
use http::{HeaderName, HeaderValue};
use url::Url;

/// In which header a provider takes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStyle {
    /// `Authorization: Bearer …`.
    Bearer,
    /// `x-api-key`, but a bearer at Anthropic's OpenAI-compatible endpoint.
    Anthropic,
    /// `x-goog-api-key`, but a bearer below Google's `…/openai/`.
    Google,
}

impl KeyStyle {
    /// The header that carries `key` to this URL. `None`: the key is no header value, which its reading has ruled out.
    pub fn header(self, key: &HeaderSecret, url: &str) -> Option<(HeaderName, HeaderValue)> {
        let path = url.split('?').next().unwrap_or_default();
        let name = match self {
            KeyStyle::Anthropic if !path.ends_with("/chat/completions") => Some("x-api-key"),
            KeyStyle::Google if !path.contains("/openai/") => Some("x-goog-api-key"),
            _ => None,
        };
        let (name, text) = match name {
            Some(name) => (HeaderName::from_static(name), key.0.clone()),
            None => (http::header::AUTHORIZATION, format!("Bearer {}", key.0)),
        };
        Some((name, HeaderValue::from_str(&text).ok()?))
    }
}

/// A provider that is known by name.
struct BuiltIn {
    name: &'static str,
    base: &'static str,
    style: KeyStyle,
    /// Parameters that it rejects.
    drops: &'static [&'static str],
    /// Its embeddings come as numbers only.
    floats_only: bool,
}

const fn plain(name: &'static str, base: &'static str) -> BuiltIn {
    BuiltIn { name, base, style: KeyStyle::Bearer, drops: &[], floats_only: false }
}

const BUILT_IN: [BuiltIn; 14] = [
    plain("openai", "https://api.openai.com"),
    plain("openrouter", "https://openrouter.ai/api"),
    BuiltIn { style: KeyStyle::Anthropic, ..plain("anthropic", "https://api.anthropic.com") },
    plain("groq", "https://api.groq.com"),
    BuiltIn { drops: &["stream_options"], ..plain("mistral", "https://api.mistral.ai") },
    plain("cohere", "https://api.cohere.com"),
    plain("ai21", "https://api.ai21.com/studio"),
    BuiltIn { style: KeyStyle::Google, ..plain("google", "https://generativelanguage.googleapis.com") },
    plain("together", "https://api.together.xyz"),
    plain("huggingface", "https://router.huggingface.co"),
    BuiltIn {
        drops: &["prompt_cache_key", "logprobs", "top_logprobs"],
        floats_only: true,
        ..plain("venice", "https://api.venice.ai/api")
    },
    plain("deepseek", "https://api.deepseek.com"),
    plain("xai", "https://api.x.ai"),
    plain("ollama", "http://localhost:11434"),
];

/// Whom requests are sent to.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its name: the first segment of its route, `default` for the one that has routes of its own.
    pub name: String,
    /// Its base URL: `http` or `https`, without credentials, query or fragment.
    pub base: Url,
    /// Top-level fields that it rejects, left out of every JSON body.
    pub drop_params: Vec<String>,
    /// Whether its embeddings come as numbers only.
    pub floats_only: bool,
    /// How it takes a key.
    pub style: KeyStyle,
    /// The operator's key for callers who bring none.
    pub key: Option<HeaderSecret>,
}

impl Upstream {
    /// An upstream at this base, with what is known of the provider that lives there.
    pub fn new(name: &str, base: Url) -> Upstream {
        let known = BUILT_IN.iter().find(|known| known.name == name);
        let known = known.or_else(|| BUILT_IN.iter().find(|known| lives_at(known, &base)));
        Upstream {
            name: name.to_owned(),
            base,
            drop_params: known.into_iter().flat_map(|known| known.drops).map(ToString::to_string).collect(),
            floats_only: known.is_some_and(|known| known.floats_only),
            style: known.map_or(KeyStyle::Bearer, |known| known.style),
            key: None,
        }
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

fn lives_at(known: &BuiltIn, base: &Url) -> bool {
    // Whatever runs on this machine need not be Ollama.
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
    fn the_table_is_whole() {
        let all = built_in();
        assert_eq!(all.len(), BUILT_IN.len());
        for (upstream, known) in all.iter().zip(&BUILT_IN) {
            assert_eq!(upstream.name, known.name);
            assert_eq!(upstream.base.as_str().trim_end_matches('/'), known.base);
        }
    }

    #[test]
    fn who_lives_at_a_known_address_is_known() {
        let at = |name: &str, base: &str| Upstream::new(name, Url::parse(base).unwrap());
        assert_eq!(at("default", "https://api.venice.ai/api/v1").drop_params.len(), 3);
        assert_eq!(at("claude", "https://api.anthropic.com/v1").style, KeyStyle::Anthropic);
        assert_eq!(at("mistral", "http://localhost:1").drop_params, ["stream_options"]);
        assert!(at("default", "http://localhost:1").drop_params.is_empty());
    }

    #[test]
    fn each_takes_a_key_in_its_own_way() {
        let key = HeaderSecret::new("k").unwrap();
        let header = |style: KeyStyle, url: &str| {
            let (name, value) = style.header(&key, url).unwrap();
            format!("{name}: {}", value.to_str().unwrap())
        };
        assert_eq!(header(KeyStyle::Bearer, "https://h/v1/x"), "authorization: Bearer k");
        assert_eq!(header(KeyStyle::Anthropic, "https://h/v1/messages?a=/chat/completions"), "x-api-key: k");
        assert_eq!(header(KeyStyle::Anthropic, "https://h/v1/chat/completions"), "authorization: Bearer k");
        assert_eq!(header(KeyStyle::Google, "https://h/v1beta/models"), "x-goog-api-key: k");
        assert_eq!(header(KeyStyle::Google, "https://h/v1beta/openai/models"), "authorization: Bearer k");
        assert_eq!(format!("{key:?}"), "HeaderSecret(…)");
        assert_eq!(HeaderSecret::new("a b"), None);
    }
}
