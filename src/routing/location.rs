//! Maps references of the upstream to this proxy: `Location` (RFC 9110, section 10.2.2) and every other field that holds a URL.
//!
//! A client that follows an absolute reference to the upstream goes around the proxy and sends its proxy token there. A relative
//! one would resolve against the proxy's own URL, and lead from one provider to another.

use super::route::{Route, Target, route};
use crate::config::Config;
use crate::http::fields::{is_lossy, is_url};
use http::HeaderMap;
use percent_encoding::{CONTROLS, percent_encode};
use std::borrow::Cow;
use url::{Position, Url};

/// The fields of a response that would lead around this proxy, with their values for the client.
pub fn mapped_fields(config: &Config, target: &Target, headers: &HeaderMap) -> Vec<(Cow<'static, str>, String)> {
    let map = |name: &str| {
        let values: Vec<Cow<'_, [u8]>> = headers.get_all(name).iter().map(|value| value.as_bytes().into()).collect();
        let mapped: Vec<_> = values.iter().map(|value| map_field(config, target, name, value)).collect();
        let is_changed = mapped.iter().any(Option::is_some);
        let text = |(new, old): (Option<String>, &Cow<'_, [u8]>)| {
            new.unwrap_or_else(|| String::from_utf8_lossy(old).into_owned())
        };
        is_changed.then(|| mapped.into_iter().zip(&values).map(text).collect::<Vec<_>>().join(", "))
    };
    headers.keys().filter_map(|name| Some((name.as_str().to_owned().into(), map(name.as_str())?))).collect()
}

/// A field's value for the client. `None`: it stays as it is.
fn map_field(config: &Config, target: &Target, name: &str, value: &[u8]) -> Option<String> {
    match name {
        "location" | "content-location" => map(config, target, value),
        "link" => map_link(config, target, std::str::from_utf8(value).ok()?),
        "refresh" => {
            let text = std::str::from_utf8(value).ok()?;
            let at = text.to_ascii_lowercase().find("url=")?.saturating_add("url=".len());
            let (before, url) = text.split_at_checked(at)?;
            let url = url.trim().trim_matches(['"', '\'']);
            Some(format!("{before}{}", absolute(config, target, url)?))
        }
        _ if is_url(value) || (holds_reference(name) && value.starts_with(b"/")) => {
            absolute(config, target, std::str::from_utf8(value).ok()?)
        }
        _ => None,
    }
}

/// Whether a field holds a reference by its name: `Operation-Location`, `X-Goog-Upload-URL`, …
fn holds_reference(name: &str) -> bool {
    name == "azure-asyncoperation" || ["location", "url", "uri", "href"].iter().any(|word| name.ends_with(word))
}

/// The targets of `Link` (RFC 8288).
fn map_link(config: &Config, target: &Target, value: &str) -> Option<String> {
    let mut changed = false;
    let map = |part: &str| match part.split_once('>') {
        Some((url, rest)) => {
            let mapped = absolute(config, target, url);
            changed |= mapped.is_some();
            format!("{}>{rest}", mapped.as_deref().unwrap_or(url))
        }
        None => part.to_owned(),
    };
    let parts: Vec<String> = value.split('<').map(map).collect();
    changed.then(|| parts.join("<"))
}

/// The absolute URL of a reference in a field whose reader may not know the request's URL. `None`: it is absolute already and
/// leads elsewhere.
fn absolute(config: &Config, target: &Target, reference: &str) -> Option<String> {
    let mapped = map(config, target, reference.as_bytes())?;
    if mapped.starts_with('/') {
        return Some(format!("{}{mapped}", target.proxy_origin));
    }
    Url::parse(reference).is_err().then_some(mapped)
}

/// The reference that the client gets in place of `location`: a path of this proxy if one leads to the same URL, else the
/// absolute URL. `None`: it stays as it is.
pub fn map(config: &Config, target: &Target, location: &[u8]) -> Option<String> {
    // A URL is ASCII (RFC 3986); other bytes are UTF-8 in browsers.
    let text = percent_encode(location, CONTROLS).to_string();
    let resolved = Url::parse(&target.url).ok()?.join(&text).ok()?;
    let path = paths(config, target, &resolved).find(|path| leads_to(config, target, path, &resolved));
    match path {
        Some(path) => {
            let after_path = resolved.as_str().get(resolved[..Position::AfterPath].len()..).unwrap_or_default();
            Some(format!("{path}{after_path}"))
        }
        // It leads to another host, and its bytes are not known.
        None if is_lossy(location) && Url::parse(&text).is_ok() => None,
        None => Some(resolved.into()),
    }
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

    fn mapped(vars: &[(&str, &str)], path: &str, location: &str) -> String {
        let config = Config::from_vars(vars).unwrap();
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

    fn fields(vars: &[(&str, &str)], path: &str, pairs: &[(&'static str, &str)]) -> Vec<String> {
        let config = Config::from_vars(vars).unwrap();
        let Route::Upstream(target) = route(&config, path, None) else { panic!("{path}") };
        let target = Target { proxy_origin: "https://proxy".to_owned(), ..target };
        let pair = |(name, value): &(&'static str, &str)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let headers: HeaderMap = pairs.iter().map(pair).collect();
        mapped_fields(&config, &target, &headers).into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn every_field_with_a_url_of_the_upstream_leads_to_this_proxy() {
        let base = [("OPENAI_BASE_URL", "https://h/v1")];
        for name in [
            "operation-location",
            "azure-asyncoperation",
            "x-goog-upload-url",
            "x-goog-upload-control-url",
            "x-ms-operation-location",
            "x-upload-uri",
            "x-next-page",
            "x-result-href",
            "x-poll",
            "x-job-status",
            "x-download-url",
            "x-stream-endpoint",
            "sourcemap",
        ] {
            let mapped = fields(&base, "/proxy/files", &[(name, "https://h/v1/files/f?a=b#c")]);
            assert_eq!(mapped, [format!("{name}: https://proxy/proxy/files/f?a=b#c")]);
        }
        for name in ["operation-location", "azure-asyncoperation", "x-goog-upload-url", "x-resource-uri", "x-href"] {
            let mapped = fields(&[], "/google/upload/v1beta/files", &[(name, "/upload/v1beta/files?upload_id=1")]);
            assert_eq!(mapped, [format!("{name}: https://proxy/google/upload/v1beta/files?upload_id=1")]);
        }
        assert_eq!(fields(&base, "/v1/files", &[("content-location", "/v1/x")]), ["content-location: /v1/x"]);
        assert_eq!(fields(&base, "/proxy/files", &[("content-location", "/v1/x")]), ["content-location: /proxy/x"]);
        assert_eq!(
            fields(&base, "/proxy/files", &[("refresh", "5; URL='/v1/x'")]),
            ["refresh: 5; URL=https://proxy/proxy/x"]
        );
        let link = "<https://h/v1/files?after=f>; rel=\"next\", </v1/files>; rel=first, <https://docs/x>; rel=help";
        assert_eq!(
            fields(&base, "/proxy/files", &[("link", link)]),
            [
                "link: <https://proxy/proxy/files?after=f>; rel=\"next\", <https://proxy/proxy/files>; rel=first, <https://docs/x>; rel=help"
            ]
        );
        let two = [("operation-location", "https://h/v1/a"), ("operation-location", "https://other/b")];
        assert_eq!(fields(&base, "/proxy/x", &two), ["operation-location: https://proxy/proxy/a, https://other/b"]);
    }

    #[test]
    fn other_fields_stay() {
        let base = [("OPENAI_BASE_URL", "https://h")];
        for pair in [
            ("access-control-allow-origin", "https://h"),
            ("timing-allow-origin", "https://h"),
            ("operation-location", "https://other/v1/x"),
            ("operation-location", "westeurope"),
            ("x-ms-location", "eu"),
            ("link", "<https://docs/x>; rel=help"),
            ("refresh", "5"),
            ("x-model", "/models/a"),
            ("content-security-policy", "default-src https://h/v1"),
            ("x-request-id", "https"),
        ] {
            assert_eq!(fields(&base, "/proxy/x", &[pair]), [""; 0], "{pair:?}");
        }
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
        let config = Config::from_vars(&base).unwrap();
        let Route::Upstream(target) = route(&config, "/proxy/models", None) else { panic!() };
        assert_eq!(map(&config, &target, b"https://[/"), None);
        assert_eq!(map(&config, &target, b"/v1/\xe9\xff").as_deref(), Some("/proxy/%E9%FF"));
        assert_eq!(map(&config, &target, b"https://evil.example/\xe9"), None);
    }
}
