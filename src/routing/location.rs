//! Maps a `Location` of the upstream to a path of this proxy (RFC 9110, section 10.2.2).
//!
//! A client that follows an absolute `Location` goes around the proxy and sends its proxy token to the upstream. A relative
//! one would resolve against the proxy's own URL, and lead from one provider to another.

use super::route::{Route, Target, route};
use crate::config::Config;
use percent_encoding::{CONTROLS, percent_encode};
use url::{Position, Url};

/// The reference that the client gets in place of `location`: a path of this proxy if one leads to the same URL, else the
/// absolute URL. `None`: it cannot be resolved, and stays as it is.
pub fn map(config: &Config, target: &Target, location: &[u8]) -> Option<String> {
    // A URL is ASCII (RFC 3986); other bytes are UTF-8 in browsers.
    let location = percent_encode(location, CONTROLS).to_string();
    let resolved = Url::parse(&target.url).ok()?.join(&location).ok()?;
    let path = paths(config, target, &resolved).find(|path| leads_to(config, target, path, &resolved));
    Some(match path {
        Some(path) => {
            let after_path = resolved.as_str().get(resolved[..Position::AfterPath].len()..).unwrap_or_default();
            format!("{path}{after_path}")
        }
        None => resolved.into(),
    })
}

/// Paths that may lead to a URL at the origin of the upstream: below the client's own prefix first.
fn paths<'a>(config: &'a Config, target: &'a Target, url: &'a Url) -> impl Iterator<Item = String> + 'a {
    let base = target.upstream.base.path().trim_end_matches('/');
    let below_base = url.path().strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    // Ollama's native endpoints are beside its base.
    let native = url.path().strip_prefix("/api/").map(|_| url.path());
    let default = std::ptr::eq(&raw const *target.upstream, &raw const *config.routing.default_upstream);
    let own = default.then_some(config.routing.path_prefix.as_str());
    let prefixes = std::iter::once(target.prefix.as_str()).chain(own).chain(default.then_some("/proxy"));
    prefixes.flat_map(move |prefix| {
        let rests = [below_base.and_then(|rest| rest.strip_prefix("/v1")), below_base, native];
        rests.into_iter().flatten().map(move |rest| format!("{prefix}{rest}"))
    })
}

/// Whether a path of this proxy leads to this URL, at the same upstream.
fn leads_to(config: &Config, target: &Target, path: &str, url: &Url) -> bool {
    let Route::Upstream(other) = route(config, path, url.query()) else { return false };
    let Ok(there) = Url::parse(&other.url) else { return false };
    other.upstream.name == target.upstream.name && there[..Position::AfterQuery] == url[..Position::AfterQuery]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Config {
        let find = |name: &str| vars.iter().find(|(key, _)| *key == name);
        Config::read(|name| find(name).map(|(_, value)| (*value).to_owned())).unwrap()
    }

    fn mapped(vars: &[(&str, &str)], path: &str, location: &str) -> String {
        let config = config(vars);
        let Route::Upstream(target) = route(&config, path, Some("key=k")) else { panic!("{path}") };
        map(&config, &target, location.as_bytes()).unwrap()
    }

    #[test]
    fn a_location_below_the_base_stays_below_the_prefix() {
        let base = [("OPENAI_BASE_URL", "https://h/v1")];
        for prefix in ["/proxy", "/v1", "/api/v1"] {
            for location in
                ["https://h/v1/files/f?a=b#c", "//h/v1/files/f?a=b#c", "/v1/files/f?a=b#c", "../files/f?a=b#c"]
            {
                let path = format!("{prefix}/uploads/u");
                assert_eq!(mapped(&base, &path, location), format!("{prefix}/files/f?a=b#c"), "{location}");
            }
            assert_eq!(mapped(&base, &format!("{prefix}/uploads/u"), "v"), format!("{prefix}/uploads/v"));
            assert_eq!(mapped(&base, &format!("{prefix}/uploads/u"), "?a"), format!("{prefix}/uploads/u?a"));
        }
        assert_eq!(mapped(&[], "/groq/openai/v1/x", "/openai/v1/y"), "/groq/openai/v1/y");
        assert_eq!(mapped(&[], "/openrouter/v1/x", "https://openrouter.ai/api/v1/y"), "/openrouter/v1/y");
        assert_eq!(mapped(&[], "/anthropic/v1/x", "/v1/y"), "/anthropic/v1/y");
        assert_eq!(mapped(&[], "/cohere/x", "/"), "/cohere/");
    }

    #[test]
    fn a_prefix_that_does_not_lead_there_is_replaced() {
        let base = [("OPENAI_BASE_URL", "https://h/x")];
        assert_eq!(mapped(&base, "/v1/models", "/x/v1/y"), "/v1/y");
        assert_eq!(mapped(&base, "/v1/models", "/x/files"), "/proxy/files");
        let own = [("OPENAI_BASE_URL", "https://h/x"), ("PROXY_PATH_PREFIX", "/mine")];
        assert_eq!(mapped(&own, "/v1/models", "/x/files"), "/mine/files");
        let root = [("OPENAI_BASE_URL", "https://h/v1"), ("PROXY_PATH_PREFIX", "/")];
        assert_eq!(mapped(&root, "/models", "/v1/files"), "/files");
    }

    #[test]
    fn native_ollama_endpoints_stay_below_the_prefix() {
        let base = [("OPENAI_BASE_URL", "http://localhost:11434/v1")];
        assert_eq!(mapped(&base, "/proxy/api/tags", "/api/show"), "/proxy/api/show");
        assert_eq!(mapped(&base, "/v1/api/tags", "show"), "/v1/api/show");
    }

    #[test]
    fn what_cannot_be_mapped_is_absolute() {
        let base = [("OPENAI_BASE_URL", "https://h/v1"), ("UPSTREAMS", r#"{"other":"https://h/other"}"#)];
        for (location, absolute) in [
            ("/login", "https://h/login"),
            ("../../login", "https://h/login"),
            ("//evil.example/v1/x", "https://evil.example/v1/x"),
            ("\\\\evil.example\\v1", "https://evil.example/v1"),
            ("https://evil.example/v1/x", "https://evil.example/v1/x"),
            ("http://h/v1/x", "http://h/v1/x"),
            ("https://h:8443/v1/x", "https://h:8443/v1/x"),
            ("https://user:password@h/v1/x", "https://user:password@h/v1/x"),
            ("https://h.evil.example/v1/x", "https://h.evil.example/v1/x"),
            ("/v1beta/x", "https://h/v1beta/x"),
            ("/other/x", "https://h/other/x"),
            ("/groq/openai/v1/x", "https://h/groq/openai/v1/x"),
            ("/v1/..%2fadmin", "https://h/v1/..%2fadmin"),
            ("/admin/cache", "https://h/admin/cache"),
            ("mailto:a@h", "mailto:a@h"),
            ("javascript:alert(1)", "javascript:alert(1)"),
        ] {
            assert_eq!(mapped(&base, "/proxy/models", location), absolute, "{location}");
        }
        assert_eq!(mapped(&base, "/other/x", "/v1/y"), "https://h/v1/y");
        let config = config(&base);
        let Route::Upstream(target) = route(&config, "/proxy/models", None) else { panic!() };
        assert_eq!(map(&config, &target, b"https://[/"), None);
        assert_eq!(map(&config, &target, b"/v1/\xe9\xff").as_deref(), Some("/proxy/%E9%FF"));
    }
}
