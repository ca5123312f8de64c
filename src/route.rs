//! Which upstream, which URL, which endpoint?

use crate::admin;
use crate::config::Config;
use crate::endpoint::Endpoint;
use url::Url;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/`: what this is.
    Index,
    /// `/healthz`: the proxy itself is up.
    Alive,
    /// `/health`: the upstream is up.
    Health,
    /// To the operator's own endpoints.
    Operator,
    /// To an upstream.
    Upstream(Target),
    /// Nowhere.
    NotFound,
}

/// A place at an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The provider's name, for the log.
    pub provider: &'static str,
    /// The URL to ask, with the caller's query.
    pub url: String,
    /// What the path below the prefix computes, if it is cached.
    pub endpoint: Option<Endpoint>,
}

/// Prefixes of the default upstream besides the operator's own, each with what it puts before the rest.
const PREFIXES: [(&str, &str); 3] = [("/proxy", ""), ("/v1", "v1/"), ("/api/v1", "v1/")];

/// The prefixes that lead to an upstream, for a reader.
pub fn prefixes(config: &Config) -> Vec<String> {
    let own = format!("{}/", config.path_prefix);
    let mut all: Vec<String> = PREFIXES.iter().map(|(prefix, _)| format!("{prefix}/")).collect();
    if !all.contains(&own) {
        all.insert(0, own);
    }
    all
}

/// Routes a path (as it came, still percent-encoded) and its query.
pub fn route(config: &Config, path: &str, query: Option<&str>) -> Route {
    match path {
        "/" => return Route::Index,
        "/healthz" => return Route::Alive,
        "/health" => return Route::Health,
        // Also where an upstream's prefix is the root: what is meant for us must never reach it.
        path if admin::is_operators(path) => return Route::Operator,
        _ => {}
    }
    // The longest prefix counts; the operator's own wins over a built-in one of the same name.
    let own = (config.path_prefix.as_str(), "");
    let longest = std::iter::once(own)
        .chain(PREFIXES)
        .filter_map(|(prefix, before)| Some((prefix, before, below(path, prefix)?)))
        .reduce(|best, next| if next.0.len() > best.0.len() { next } else { best });
    longest
        .and_then(|(_, before, rest)| default_target(config, before, rest, query))
        .map_or(Route::NotFound, Route::Upstream)
}

/// The part of `path` below `prefix`, whole segments only.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    if rest.is_empty() {
        return Some(rest);
    }
    rest.strip_prefix('/')
}

fn default_target(config: &Config, before: &str, rest: &str, query: Option<&str>) -> Option<Target> {
    let base = &config.base_url;
    let base_path = base.path().trim_end_matches('/');
    // Ollama's native endpoints stand beside its OpenAI-compatible base, not below it.
    let (base_path, below) = if let Some(native) = rest.strip_prefix("api/") {
        return Some(Target {
            provider: "default",
            url: join(base, "/api", native, query)?,
            endpoint: Endpoint::at(rest).or_else(|| custom(config, rest)),
        });
    } else {
        let below = format!("{before}{rest}");
        let repeated = base_path.ends_with("/v1");
        match below.strip_prefix("v1/").filter(|_| repeated) {
            Some(shorter) => (base_path, shorter.to_owned()),
            None => (base_path, below),
        }
    };
    Some(Target {
        provider: "default",
        url: join(base, base_path, &below, query)?,
        endpoint: Endpoint::at(&below).or_else(|| custom(config, &below)),
    })
}

fn custom(config: &Config, rest: &str) -> Option<Endpoint> {
    let shorter = rest.strip_prefix("v1/").unwrap_or(rest);
    config.cache_paths.iter().any(|glob| glob.matches(rest) || glob.matches(shorter)).then_some(Endpoint::Custom)
}

/// `base_path` + `/` + `rest` at the base's origin. `None` where the rest would climb out of the base path.
fn join(base: &Url, base_path: &str, rest: &str, query: Option<&str>) -> Option<String> {
    let origin = base.origin().ascii_serialization();
    let slash = if rest.is_empty() { "" } else { "/" };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let text = format!("{origin}{base_path}{slash}{rest}{query}");
    // Parsed as the platform will parse it: dot segments and backslashes are resolved here, not behind our back.
    let url = Url::parse(&text).ok()?;
    let inside =
        url.path() == base_path || url.path().strip_prefix(base_path).is_some_and(|below| below.starts_with('/'));
    (inside && url.origin() == base.origin()).then(|| url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Config {
        let find = |name: &str| vars.iter().find(|(key, _)| *key == name);
        Config::read(|name| find(name).map(|(_, value)| (*value).to_owned())).unwrap()
    }

    fn url(vars: &[(&str, &str)], path: &str) -> Option<String> {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        match route(&config(vars), path, query) {
            Route::Upstream(target) => Some(target.url),
            _ => None,
        }
    }

    #[test]
    fn the_default_upstream_has_three_prefixes_and_the_operators_own() {
        let base = [("OPENAI_BASE_URL", "https://h/v1")];
        for path in ["/proxy/models", "/proxy/v1/models", "/v1/models", "/api/v1/models"] {
            assert_eq!(url(&base, path).as_deref(), Some("https://h/v1/models"), "{path}");
        }
        let base = [("OPENAI_BASE_URL", "https://h/x/")];
        assert_eq!(url(&base, "/proxy/models?a=%20b&c").as_deref(), Some("https://h/x/models?a=%20b&c"));
        assert_eq!(url(&base, "/v1/models").as_deref(), Some("https://h/x/v1/models"));
        assert_eq!(url(&base, "/proxy").as_deref(), Some("https://h/x"));
        let own = [("OPENAI_BASE_URL", "https://h/x"), ("PROXY_PATH_PREFIX", "/api/v1")];
        assert_eq!(url(&own, "/api/v1/models").as_deref(), Some("https://h/x/models"));
        assert_eq!(url(&own, "/proxy/models").as_deref(), Some("https://h/x/models"));
        let root = [("OPENAI_BASE_URL", "https://h/v1"), ("PROXY_PATH_PREFIX", "/")];
        assert_eq!(url(&root, "/models").as_deref(), Some("https://h/v1/models"));
        assert_eq!(url(&root, "/v1/models").as_deref(), Some("https://h/v1/models"));
    }

    #[test]
    fn native_ollama_paths_go_to_the_origin() {
        let base = [("OPENAI_BASE_URL", "http://localhost:11434/v1")];
        for path in ["/api/v1/api/tags", "/v1/api/tags", "/proxy/api/tags"] {
            assert_eq!(url(&base, path).as_deref(), Some("http://localhost:11434/api/tags"), "{path}");
        }
    }

    #[test]
    fn no_path_leaves_the_base() {
        let base = [("OPENAI_BASE_URL", "https://h/a/v1")];
        for path in [
            "/proxy/../x",
            "/proxy/..%2f../x/../../../y",
            "/proxy/%2e%2e/x",
            "/proxy/a/../../x",
            "/proxy/..\\x",
            "/v1/.%2E/b",
        ] {
            let url = url(&base, path);
            assert!(url.as_deref().is_none_or(|u| u.starts_with("https://h/a/v1/")), "{path}: {url:?}");
        }
        assert_eq!(url(&base, "/proxy//evil.example/x").as_deref(), Some("https://h/a/v1//evil.example/x"));
        assert_eq!(url(&base, "/proxy/@evil.example").as_deref(), Some("https://h/a/v1/@evil.example"));
        assert_eq!(url(&base, "/proxy/https://evil.example/").as_deref(), Some("https://h/a/v1/https://evil.example/"));
    }

    #[test]
    fn other_paths_lead_nowhere() {
        for path in ["/proxyx", "/nope", "/v2/chat", "", "/health/x", "/metricsx"] {
            assert_eq!(route(&config(&[]), path, None), Route::NotFound, "{path}");
        }
    }

    #[test]
    fn operators_paths_lead_to_no_upstream() {
        for path in ["/admin", "/admin/cache", "/admin/x", "/metrics", "/dashboard"] {
            let root = config(&[("PROXY_PATH_PREFIX", "/")]);
            assert_eq!(route(&root, path, None), Route::Operator, "{path}");
        }
    }

    #[test]
    fn cache_paths_add_endpoints() {
        let vars = [("CACHE_PATHS", "v1/tokenize, x/**")];
        let endpoint = |path: &str| match route(&config(&vars), path, None) {
            Route::Upstream(target) => target.endpoint,
            _ => None,
        };
        assert_eq!(endpoint("/proxy/x/y/z"), Some(Endpoint::Custom));
        assert_eq!(endpoint("/proxy/y"), None);
        let vars = [("CACHE_PATHS", "tokenize"), ("OPENAI_BASE_URL", "https://h")];
        let target = route(&config(&vars), "/v1/tokenize", None);
        assert!(matches!(target, Route::Upstream(t) if t.endpoint == Some(Endpoint::Custom)));
    }
}
