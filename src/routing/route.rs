//! Routes a path to an upstream, its URL and its endpoint.

use crate::config::Config;
use crate::config::providers::Upstream;
use crate::routing::admin;
use crate::routing::endpoint::Endpoint;
use percent_encoding::percent_decode_str;
use std::rc::Rc;
use url::Url;

/// The route of a path.
#[derive(Debug, Clone)]
pub enum Route {
    /// `/`: name, version and routes.
    Index,
    /// `/healthz`: whether the proxy is up.
    Liveness,
    /// `/health`: whether the upstream is up.
    Readiness,
    /// The operator's endpoints.
    Admin,
    /// An upstream.
    Upstream(Target),
    /// No route.
    NotFound,
}

/// A URL at an upstream.
#[derive(Debug, Clone)]
pub struct Target {
    /// The upstream.
    pub upstream: Rc<Upstream>,
    /// The URL, with the client's query.
    pub url: String,
    /// The endpoint, if it is cacheable.
    pub endpoint: Option<Endpoint>,
    /// The prefix of this proxy's path that led here, without a trailing slash.
    pub prefix: String,
    /// The origin under which the client reaches this proxy. Empty: unknown.
    pub proxy_origin: String,
}

/// The built-in prefixes of the default upstream, each with what it puts before the rest of the path.
const PREFIXES: [(&str, &str); 3] = [("/proxy", ""), ("/v1", "v1/"), ("/api/v1", "v1/")];

/// The prefixes of all upstreams, for people.
pub fn prefixes(config: &Config) -> Vec<String> {
    let own = format!("{}/", config.routing.path_prefix);
    let mut all: Vec<String> = PREFIXES.iter().map(|(prefix, _)| format!("{prefix}/")).collect();
    if !all.contains(&own) {
        all.insert(0, own);
    }
    all.extend(config.routing.upstreams.iter().map(|upstream| format!("/{}/", upstream.name)));
    all
}

/// Routes a path (as it came, still percent-encoded) and its query.
pub fn route(config: &Config, path: &str, query: Option<&str>) -> Route {
    match path {
        "/" => return Route::Index,
        "/healthz" => return Route::Liveness,
        "/health" => return Route::Readiness,
        // First, because an upstream's prefix may be the root: an admin request must never reach an upstream.
        path if admin::is_admin_path(path) => return Route::Admin,
        _ => {}
    }
    // The longest prefix wins; the operator's wins over an equal built-in one.
    let own = (config.routing.path_prefix.as_str(), "");
    let longest = std::iter::once(own)
        .chain(PREFIXES)
        .filter_map(|(prefix, before)| Some((prefix, before, strip_prefix_segment(path, prefix)?)))
        .reduce(|best, next| if next.0.len() > best.0.len() { next } else { best });
    let named = config.routing.upstreams.iter().find_map(|upstream| {
        let rest = strip_prefix_segment(path.strip_prefix('/')?, &upstream.name)?;
        Some((upstream, rest))
    });
    // The prefix of a named upstream is longer than its name by the slash.
    let target = match (longest, named) {
        (Some((prefix, before, rest)), named) if named.is_none_or(|(u, _)| prefix.len() > u.name.len()) => {
            default_target(config, before, rest, query).map(|target| Target { prefix: prefix.to_owned(), ..target })
        }
        (_, Some((upstream, rest))) => target(config, upstream, rest, query)
            .map(|target| Target { prefix: format!("/{}", upstream.name), ..target }),
        (_, None) => None,
    };
    target.map_or(Route::NotFound, Route::Upstream)
}

/// The part of `path` below `prefix`, whole segments only.
fn strip_prefix_segment<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    if rest.is_empty() {
        return Some(rest);
    }
    rest.strip_prefix('/')
}

fn default_target(config: &Config, before: &str, rest: &str, query: Option<&str>) -> Option<Target> {
    // Ollama's native endpoints are beside its OpenAI-compatible base, not below it.
    if let Some(native) = rest.strip_prefix("api/") {
        let url = join_under_base(&config.routing.default_upstream.base, "/api", native, query)?;
        let rest = format!("api/{}", path_below(&url, "/api"));
        return Some(at(config, &config.routing.default_upstream, url, &rest));
    }
    target(config, &config.routing.default_upstream, &format!("{before}{rest}"), query)
}

/// A URL below an upstream's base. A `v1/` is dropped if the base already ends in it.
fn target(config: &Config, upstream: &Rc<Upstream>, rest: &str, query: Option<&str>) -> Option<Target> {
    let base_path = upstream.base.path().trim_end_matches('/');
    let shorter = rest.strip_prefix("v1/").filter(|_| base_path.ends_with("/v1"));
    let url = join_under_base(&upstream.base, base_path, shorter.unwrap_or(rest), query)?;
    let rest = path_below(&url, base_path).to_owned();
    Some(at(config, upstream, url, &rest))
}

fn at(config: &Config, upstream: &Rc<Upstream>, url: Url, rest: &str) -> Target {
    // The endpoint follows from the URL that is sent, not from the client's spelling of the path.
    let endpoint = Endpoint::at(rest).or_else(|| custom(config, rest));
    Target {
        upstream: Rc::clone(upstream),
        url: url.into(),
        endpoint,
        prefix: String::new(),
        proxy_origin: String::new(),
    }
}

fn path_below<'a>(url: &'a Url, base_path: &str) -> &'a str {
    let rest = url.path().strip_prefix(base_path).unwrap_or_default();
    rest.strip_prefix('/').unwrap_or(rest)
}

fn custom(config: &Config, rest: &str) -> Option<Endpoint> {
    let shorter = rest.strip_prefix("v1/").unwrap_or(rest);
    config
        .routing
        .cache_paths
        .iter()
        .any(|glob| glob.matches(rest) || glob.matches(shorter))
        .then_some(Endpoint::Custom)
        .filter(|_| !Endpoint::makes_job(rest))
}

/// `base_path` + `/` + `rest` at the base's origin. `None`: the rest would escape the base path.
fn join_under_base(base: &Url, base_path: &str, rest: &str, query: Option<&str>) -> Option<Url> {
    let origin = base.origin().ascii_serialization();
    let slash = if rest.is_empty() { "" } else { "/" };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let text = format!("{origin}{base_path}{slash}{rest}{query}");
    // Parsed as the Workers runtime parses it, so that dot segments and backslashes are resolved before the check.
    let url = Url::parse(&text).ok()?;
    let inside =
        url.path() == base_path || url.path().strip_prefix(base_path).is_some_and(|rest| rest.starts_with('/'));
    (inside && url.origin() == base.origin() && !has_encoded_traversal(url.path())).then_some(url)
}

/// Whether a path has dot segments for a server that decodes it more than once: `..%2f`, `%252e%252e/`.
fn has_encoded_traversal(path: &str) -> bool {
    let mut path = path.to_owned();
    // Servers on the way may decode several times.
    for _ in 0..4 {
        let Ok(decoded) = percent_decode_str(&path).decode_utf8() else {
            break;
        };
        if decoded.split(['/', '\\']).any(|segment| segment.split(';').next() == Some("..")) {
            return true;
        }
        if decoded == path {
            break;
        }
        path = decoded.into_owned();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(vars: &[(&str, &str)], path: &str) -> Option<String> {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        match route(&Config::from_vars(vars).unwrap(), path, query) {
            Route::Upstream(target) => Some(target.url),
            _ => None,
        }
    }

    #[test]
    fn the_default_upstream_has_three_prefixes_and_a_configured_one() {
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
    fn native_ollama_paths_are_routed_to_the_origin() {
        let base = [("OPENAI_BASE_URL", "http://localhost:11434/v1")];
        for path in ["/api/v1/api/tags", "/v1/api/tags", "/proxy/api/tags"] {
            assert_eq!(url(&base, path).as_deref(), Some("http://localhost:11434/api/tags"), "{path}");
        }
    }

    #[test]
    fn every_provider_has_a_prefix() {
        for (path, expected) in [
            ("/openai/v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
            ("/openrouter/v1/models?a=b", "https://openrouter.ai/api/v1/models?a=b"),
            ("/groq/openai/v1/models", "https://api.groq.com/openai/v1/models"),
            (
                "/google/v1beta/models/g:generateContent",
                "https://generativelanguage.googleapis.com/v1beta/models/g:generateContent",
            ),
            ("/ai21/v1/chat/completions", "https://api.ai21.com/studio/v1/chat/completions"),
            ("/venice/v1/models", "https://api.venice.ai/api/v1/models"),
            ("/ollama/api/chat", "http://localhost:11434/api/chat"),
            ("/cohere/v2/chat", "https://api.cohere.com/v2/chat"),
            ("/cohere", "https://api.cohere.com/"),
        ] {
            assert_eq!(url(&[], path).as_deref(), Some(expected), "{path}");
        }
        let own = [("UPSTREAMS", r#"{"mine":"http://h/x/v1","groq":"http://g"}"#), ("PROXY_PATH_PREFIX", "/mistral")];
        assert_eq!(url(&own, "/mine/v1/models").as_deref(), Some("http://h/x/v1/models"));
        assert_eq!(url(&own, "/groq/v1/models").as_deref(), Some("http://g/v1/models"));
        assert_eq!(url(&own, "/mistral/models").as_deref(), Some("https://api.openai.com/v1/models"));
        let longer = [("PROXY_PATH_PREFIX", "/groq/openai")];
        assert_eq!(url(&longer, "/groq/openai/models").as_deref(), Some("https://api.openai.com/v1/models"));
        assert_eq!(url(&longer, "/groq/v1").as_deref(), Some("https://api.groq.com/v1"));
    }

    #[test]
    fn no_path_escapes_the_base() {
        let vars = [("OPENAI_BASE_URL", "https://h/a/v1"), ("UPSTREAMS", r#"{"mine":"https://h/a/v1"}"#)];
        for prefix in ["proxy", "v1", "api/v1", "mine"] {
            for rest in [
                "../x",
                "..%2f../x/../../../y",
                "%2e%2e/x",
                "a/../../x",
                "..\\x",
                ".%2E/b",
                "..%2fx",
                "%2e%2e%2fx",
                "a/%2e%2e%5c..%5cx",
                "%252e%252e/x",
                "%252e%252e%252fx",
                "..;/x",
                "/../../x",
                "\\..\\..\\x",
            ] {
                let path = format!("/{prefix}/{rest}");
                let url = url(&vars, &path);
                assert!(url.as_deref().is_none_or(|u| u.starts_with("https://h/a/v1/")), "{path}: {url:?}");
                assert!(url.as_deref().is_none_or(|u| !u.contains("..") && !u.contains("2e")), "{path}: {url:?}");
            }
        }
        for (rest, expected) in [
            ("/evil.example/x", "https://h/a/v1//evil.example/x"),
            ("\\\\evil.example\\x", "https://h/a/v1///evil.example/x"),
            ("@evil.example", "https://h/a/v1/@evil.example"),
            (":80@evil.example", "https://h/a/v1/:80@evil.example"),
            ("https://evil.example/", "https://h/a/v1/https://evil.example/"),
            ("%2f%2fevil.example", "https://h/a/v1/%2f%2fevil.example"),
            ("a..b/...", "https://h/a/v1/a..b/..."),
        ] {
            assert_eq!(url(&vars, &format!("/mine/{rest}")).as_deref(), Some(expected));
            assert_eq!(url(&vars, &format!("/proxy/{rest}")).as_deref(), Some(expected));
        }
        let bare = [("UPSTREAMS", r#"{"mine":"https://h"}"#)];
        assert_eq!(url(&bare, "/mine/@evil.example").as_deref(), Some("https://h/@evil.example"));
        assert_eq!(url(&bare, "/mine//evil.example").as_deref(), Some("https://h//evil.example"));
        assert_eq!(url(&bare, "https://evil.example/mine/x"), None);
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in ["/proxyx", "/nope", "/v2/chat", "", "/health/x", "/metricsx", "/groqx/v1", "/GROQ/v1"] {
            assert!(matches!(route(&Config::from_vars(&[]).unwrap(), path, None), Route::NotFound), "{path}");
        }
    }

    #[test]
    fn admin_paths_never_reach_an_upstream() {
        for path in ["/admin", "/admin/cache", "/admin/x", "/metrics", "/dashboard"] {
            let root = Config::from_vars(&[("PROXY_PATH_PREFIX", "/")]).unwrap();
            assert!(matches!(route(&root, path, None), Route::Admin), "{path}");
        }
    }

    #[test]
    fn cache_paths_add_endpoints() {
        let vars = [("CACHE_PATHS", "v1/tokenize, x/**")];
        let endpoint = |path: &str| match route(&Config::from_vars(&vars).unwrap(), path, None) {
            Route::Upstream(target) => target.endpoint,
            _ => None,
        };
        assert_eq!(endpoint("/proxy/x/y/z"), Some(Endpoint::Custom));
        assert_eq!(endpoint("/proxy/x/async/z"), None);
        assert_eq!(endpoint("/proxy/y"), None);
        let vars = [("CACHE_PATHS", "tokenize"), ("OPENAI_BASE_URL", "https://h")];
        let target = route(&Config::from_vars(&vars).unwrap(), "/v1/tokenize", None);
        assert!(matches!(target, Route::Upstream(t) if t.endpoint == Some(Endpoint::Custom)));
    }
}
