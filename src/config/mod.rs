//! The operator's configuration, read and checked once. A value that cannot be read is an error that names its variable.

mod dialects;
mod env;
mod keep;
pub mod llm_params;
pub mod providers;
pub mod secret;
pub mod think_tags;
mod upstreams;

pub use dialects::{Dialect, Dialects};
pub use keep::{Admission, When};
pub use llm_params::{LlmParams, ModelParams};

use crate::http::fields::list;
use crate::http::retry;
use crate::key::MatchMode;
use crate::key::ignore::KeyIgnore;
use env::Vars;
use glob::Pattern;
use providers::{DEFAULT, Upstream};
use secret::{Secret, SecretDigests};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;
use think_tags::ThinkTags;
use url::Url;

/// The operator's configuration, complete and valid, by its parts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Routes.
    pub routing: RoutingConfig,
    /// Lifetimes, limits and the scope of the cache.
    pub cache: CacheConfig,
    /// The store of entries.
    pub store: StoreConfig,
    /// The memory tier.
    pub memory: MemoryConfig,
    /// Coalescing.
    pub coalesce: CoalesceConfig,
    /// What is counted, and what hits say.
    pub savings: SavingsConfig,
    /// Requests to the upstream.
    pub upstream: UpstreamConfig,
    /// Authentication.
    pub auth: AuthConfig,
    /// Changes to requests and responses.
    pub transforms: TransformConfig,
    /// `DEBUG`.
    pub debug: bool,
}

/// Routes.
#[derive(Debug, Clone)]
pub struct RoutingConfig {
    /// `OPENAI_BASE_URL`.
    pub default_upstream: Rc<Upstream>,
    /// The upstreams that a path names: the built-in ones and those of `UPSTREAMS`.
    pub upstreams: Vec<Rc<Upstream>>,
    /// `PROXY_PATH_PREFIX`, with a leading and without a trailing slash; empty for the root.
    pub path_prefix: String,
    /// `CACHE_PATHS`: further endpoints to cache.
    pub cache_paths: Vec<Pattern>,
}

/// Lifetimes, limits and the scope of the cache.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// `CACHE_TTL`, in milliseconds; `None`: never expires.
    pub ttl_ms: Option<u64>,
    /// `CACHE_MAX_TTL`, in milliseconds.
    pub max_ttl_ms: Option<u64>,
    /// `CACHE_SCOPE=shared`: all clients are one tenant.
    pub shared_scope: bool,
    /// `CACHE_MATCH`.
    pub match_mode: MatchMode,
    /// `KEY_IGNORE`: what is left out of the key.
    pub key_ignore: KeyIgnore,
    /// `CACHE_ADMISSION`.
    pub admission: Admission,
    /// `CACHE_WHEN`.
    pub when: When,
    /// `DIALECTS`.
    pub dialects: Dialects,
    /// `CACHE_MAX_BYTES`: the largest response stored and the largest request body keyed.
    pub max_bytes: usize,
    /// `RESPOND_WITH_CACHE`.
    pub respond_with_cache: bool,
    /// `STORE_CACHE`.
    pub store_cache: bool,
    /// `STALE_IF_ERROR`, in milliseconds.
    pub stale_if_error_ms: u64,
    /// `STALE_WHILE_REVALIDATE`, in milliseconds.
    pub stale_while_revalidate_ms: u64,
}

/// The store of entries.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// `UPSTASH_REDIS_REST_URL` and `UPSTASH_REDIS_REST_TOKEN`, if both are set.
    pub upstash: Option<Upstash>,
    /// `STORE_TIMEOUT_MS`: after that the store counts as a miss.
    pub timeout: Duration,
    /// `CACHE_ENCRYPTION_KEY`: the first encrypts entries, all decrypt them. Empty: entries are not encrypted.
    pub encryption_keys: Vec<Secret>,
}

/// The memory tier in front of the store, in each isolate.
#[derive(Debug, Clone)]
pub struct MemoryConfig {
    /// `MEMORY_CACHE_BYTES`; 0: there is none.
    pub bytes: usize,
    /// `MEMORY_CACHE_TTL`, in milliseconds.
    pub ttl_ms: u64,
}

/// Coalescing.
#[derive(Debug, Clone)]
pub struct CoalesceConfig {
    /// `COALESCE`: whether equal requests share one upstream request, where the Durable Object is bound.
    pub enabled: bool,
    /// `COALESCE_TTL`, in milliseconds: how long the Durable Object retains a response.
    pub retain_ms: u64,
}

/// What is counted, and what hits say.
#[derive(Debug, Clone)]
pub struct SavingsConfig {
    /// `PRICES`: JSON that the ledger reads.
    pub prices: Option<String>,
    /// `USAGE_ON_HIT`: whether the counters in a hit's usage become 0.
    pub zero_usage: bool,
}

/// Requests to the upstream.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// `TIMEOUT`: to the response head, retries included.
    pub timeout: Duration,
    /// `IDLE_TIMEOUT`: the longest pause in a response.
    pub idle_timeout: Duration,
    /// `MAX_RETRIES`, `BASE_RETRY_DELAY` and `RATE_LIMIT_WAIT`.
    pub retry: retry::Policy,
}

/// Authentication.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// `PROXY_TOKENS`.
    pub proxy_tokens: Option<SecretDigests>,
    /// `ADMIN_TOKEN`.
    pub admin_token: Option<SecretDigests>,
}

/// Changes to requests and responses.
#[derive(Debug, Clone)]
pub struct TransformConfig {
    /// `OVERRIDE_MODEL`.
    pub override_model: Option<String>,
    /// `LLM_PARAMS`.
    pub llm_params: LlmParams,
    /// `STRIP_THINK`: reasoning is removed unless `LLM_PARAMS` says otherwise for the model.
    pub strip_think: bool,
    /// `THINK_TAG` and `THINK_END_TAG`.
    pub think_tags: ThinkTags,
}

/// A database at Upstash.
#[derive(Clone)]
pub struct Upstash {
    /// The base URL of its REST API.
    pub url: Url,
    /// Its token: visible ASCII.
    pub token: String,
}

impl std::fmt::Debug for Upstash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstash(…)")
    }
}

/// A variable that cannot be read. The message never repeats the value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable.
    pub variable: Cow<'static, str>,
    /// The error and its remedy, for the operator.
    pub message: String,
}

impl ConfigError {
    fn new(variable: impl Into<Cow<'static, str>>, message: impl Into<String>) -> ConfigError {
        ConfigError { variable: variable.into(), message: message.into() }
    }
}

const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";
const DEFAULT_MAX_BYTES: usize = 10 << 20;
/// As long as the official clients wait.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

impl Config {
    /// Reads the variables through `lookup`, which returns a variable's text, or `None` if it is unset.
    ///
    /// # Errors
    /// The first variable that cannot be read.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let vars = Vars(&lookup);
        let default_upstream = Rc::new(default_upstream(&vars)?);
        let config = Config {
            routing: RoutingConfig {
                upstreams: upstreams::named(&vars, &default_upstream)?,
                default_upstream,
                path_prefix: path_prefix(&vars)?,
                cache_paths: vars
                    .parse("CACHE_PATHS", "a comma-separated list of globs", patterns)?
                    .unwrap_or_default(),
            },
            cache: CacheConfig {
                ttl_ms: vars.parse("CACHE_TTL", SECONDS, milliseconds)?,
                max_ttl_ms: vars.parse("CACHE_MAX_TTL", SECONDS, milliseconds)?,
                shared_scope: vars.parse("CACHE_SCOPE", "credential or shared", scope)?.unwrap_or(false),
                match_mode: vars.parse("CACHE_MATCH", "exact or chat", MatchMode::from_word)?.unwrap_or_default(),
                key_ignore: vars.parse("KEY_IGNORE", KeyIgnore::EXPECTED, KeyIgnore::read)?.unwrap_or_default(),
                admission: vars
                    .parse("CACHE_ADMISSION", "any, complete or valid", Admission::from_word)?
                    .unwrap_or_default(),
                when: vars.parse("CACHE_WHEN", When::EXPECTED, When::from_word)?.unwrap_or_default(),
                dialects: vars.parse("DIALECTS", Dialects::EXPECTED, Dialects::read)?.unwrap_or(Dialects::DEFAULT),
                max_bytes: vars.parse("CACHE_MAX_BYTES", BYTES, |text| text.parse().ok())?.unwrap_or(DEFAULT_MAX_BYTES),
                respond_with_cache: vars.flag("RESPOND_WITH_CACHE", true)?,
                store_cache: vars.flag("STORE_CACHE", true)?,
                stale_if_error_ms: vars.parse("STALE_IF_ERROR", SECONDS, milliseconds)?.unwrap_or(0),
                stale_while_revalidate_ms: vars.parse("STALE_WHILE_REVALIDATE", SECONDS, milliseconds)?.unwrap_or(0),
            },
            store: StoreConfig {
                upstash: upstash(&vars)?,
                timeout: vars
                    .parse("STORE_TIMEOUT_MS", "a number of milliseconds, 0 or more", |text| {
                        milliseconds(text).map(Duration::from_micros)
                    })?
                    .unwrap_or(Duration::from_millis(500)),
                encryption_keys: vars
                    .parse("CACHE_ENCRYPTION_KEY", "a comma-separated list of secrets", |text| {
                        Some(list(text).map(Secret).collect::<Vec<_>>()).filter(|secrets| !secrets.is_empty())
                    })?
                    .unwrap_or_default(),
            },
            memory: MemoryConfig {
                bytes: vars.parse("MEMORY_CACHE_BYTES", BYTES, |text| text.parse().ok())?.unwrap_or(16 << 20),
                ttl_ms: vars.parse("MEMORY_CACHE_TTL", SECONDS, milliseconds)?.unwrap_or(60_000),
            },
            coalesce: CoalesceConfig {
                enabled: vars.flag("COALESCE", true)?,
                retain_ms: vars.parse("COALESCE_TTL", SECONDS, milliseconds)?.unwrap_or(60_000),
            },
            savings: SavingsConfig {
                prices: vars.parse("PRICES", PRICES, prices)?,
                zero_usage: vars.parse("USAGE_ON_HIT", USAGE_ON_HIT, zero_usage)?.unwrap_or(false),
            },
            upstream: UpstreamConfig {
                timeout: timeout(&vars, vars.alias("TIMEOUT", "API_REQUEST_TIMEOUT"), DEFAULT_TIMEOUT)?,
                idle_timeout: timeout(&vars, "IDLE_TIMEOUT", DEFAULT_IDLE_TIMEOUT)?,
                retry: retry::Policy {
                    max_retries: vars
                        .parse("MAX_RETRIES", "a whole number, 0 or more", |text| text.parse().ok())?
                        .unwrap_or(5),
                    base_delay_ms: vars.parse("BASE_RETRY_DELAY", SECONDS, milliseconds)?.unwrap_or(1_000),
                    rate_limit_wait_ms: vars.parse("RATE_LIMIT_WAIT", SECONDS, milliseconds)?.unwrap_or(30_000),
                },
            },
            auth: AuthConfig {
                proxy_tokens: vars.parse("PROXY_TOKENS", TOKENS, |text| SecretDigests::read(list(text)))?,
                admin_token: vars
                    .parse("ADMIN_TOKEN", TOKEN, |text| SecretDigests::read(std::iter::once(text.to_owned())))?,
            },
            transforms: TransformConfig {
                override_model: vars.text("OVERRIDE_MODEL"),
                llm_params: vars
                    .text("LLM_PARAMS")
                    .map_or_else(|| Ok(LlmParams::default()), |t| LlmParams::read(&t))?,
                strip_think: vars.flag("STRIP_THINK", false)?,
                think_tags: ThinkTags::new(
                    vars.untrimmed("THINK_TAG").as_deref(),
                    vars.untrimmed("THINK_END_TAG").as_deref(),
                ),
            },
            debug: vars.flag("DEBUG", false)?,
        };
        let anonymous = vars.flag("ALLOW_ANONYMOUS", false)?;
        if !anonymous && config.auth.proxy_tokens.is_none() {
            config.require_authentication()?;
        }
        Ok(config)
    }

    /// Rejects configurations that let unauthenticated clients share a cache or spend the operator's key.
    fn require_authentication(&self) -> Result<(), ConfigError> {
        if self.cache.shared_scope {
            let message = "would share every response with all clients that can reach this proxy. Set PROXY_TOKENS, or \
                           ALLOW_ANONYMOUS=true if you want that, or CACHE_SCOPE=credential.";
            return Err(ConfigError::new("CACHE_SCOPE", message));
        }
        let with_key = std::iter::once(&self.routing.default_upstream)
            .chain(&self.routing.upstreams)
            .find(|upstream| upstream.key.is_some());
        match with_key {
            Some(upstream) => {
                let message = "would be spent by all clients that can reach this proxy. Set PROXY_TOKENS, or \
                               ALLOW_ANONYMOUS=true if you want that, or unset it and let clients send their own keys.";
                Err(ConfigError::new(upstream.key_variable(), message))
            }
            None => Ok(()),
        }
    }
}

const TOKENS: &str = "a comma-separated list of tokens in visible ASCII, without spaces";
const TOKEN: &str = "a token in visible ASCII, without spaces";
const SECONDS: &str = "a number of seconds, 0 or more";
const BYTES: &str = "a whole number of bytes";

/// The upstream of `OPENAI_BASE_URL`, with the operator's key.
fn default_upstream<F: Fn(&str) -> Option<String>>(vars: &Vars<'_, F>) -> Result<Upstream, ConfigError> {
    let variable = vars.alias("OPENAI_BASE_URL", "TARGET_BASE_URL");
    let text = vars.text(variable);
    let base =
        web_base(text.as_deref().unwrap_or(DEFAULT_BASE_URL)).map_err(|message| ConfigError::new(variable, message))?;
    let mut upstream = Upstream::new(DEFAULT, base);
    upstream.key = upstreams::key(vars, &upstream)?;
    Ok(upstream)
}

/// A base URL, or the message about its mistake.
fn web_base(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "must be an absolute URL such as https://api.openai.com/v1.")?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("must begin with http:// or https://.");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold credentials. Clients send theirs in a header.");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query or a fragment. The client's query is forwarded.");
    }
    Ok(url)
}

fn upstash<F: Fn(&str) -> Option<String>>(vars: &Vars<'_, F>) -> Result<Option<Upstash>, ConfigError> {
    let bare = |url: &Url| url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let web = |text: &str| Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && bare(url));
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.to_owned());
    let url =
        vars.parse("UPSTASH_REDIS_REST_URL", "a URL that begins with https://, without credentials or query", web)?;
    let token = vars.parse("UPSTASH_REDIS_REST_TOKEN", "the token of the database, without spaces", visible)?;
    Ok(url.zip(token).map(|(url, token)| Upstash { url, token }))
}

fn path_prefix<F: Fn(&str) -> Option<String>>(vars: &Vars<'_, F>) -> Result<String, ConfigError> {
    let prefix = vars.parse("PROXY_PATH_PREFIX", "a path that begins with a slash, such as /proxy", |text| {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%' | b'\\');
        let good = text.starts_with('/') && !text.contains("//") && text.bytes().all(plain);
        good.then(|| text.trim_end_matches('/').to_owned())
    })?;
    Ok(prefix.unwrap_or_else(|| "/proxy".to_owned()))
}

fn timeout<F>(vars: &Vars<'_, F>, variable: &'static str, default: Duration) -> Result<Duration, ConfigError>
where
    F: Fn(&str) -> Option<String>,
{
    let positive = |text: &str| milliseconds(text).filter(|ms| *ms > 0);
    let ms = vars.parse(variable, "a number of seconds above 0", positive)?;
    Ok(ms.map_or(default, Duration::from_millis))
}

/// A decimal number, in thousandths. It saturates.
fn milliseconds(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number: f64 = text.parse().ok().filter(|_| plain)?;
    // `as` saturates and cannot fail.
    Some((number * 1000.0).round() as u64)
}

fn scope(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "credential" => Some(false),
        "shared" => Some(true),
        _ => None,
    }
}

fn patterns(text: &str) -> Option<Vec<Pattern>> {
    list(text).map(|glob| Pattern::new(glob.trim_start_matches('/')).ok()).collect()
}

const PRICES: &str = r#"JSON such as {"openai/gpt-*":{"input":1.25,"output":10}}, in dollars for a million tokens"#;
/// What `USAGE_ON_HIT` and `X-Proxy-Usage` take.
pub const USAGE_ON_HIT: &str = "original or zero";

/// The text of `PRICES`, if it can be read: for each pattern of provider and model, an object of prices.
fn prices(text: &str) -> Option<String> {
    const NAMES: [&str; 4] = ["input", "output", "cached_input", "cache_write"];
    let prices: Map<String, Value> = serde_json::from_str(text).ok()?;
    let is_price = |(name, price): (&String, &Value)| {
        NAMES.contains(&name.as_str()) && price.as_f64().is_some_and(|price| price >= 0.0)
    };
    let are_valid = prices.values().all(|value| value.as_object().is_some_and(|value| value.iter().all(is_price)));
    are_valid.then(|| text.to_owned())
}

/// Reads `original` or `zero`, also of `X-Proxy-Usage`: whether the counters in a hit's usage become 0.
pub fn zero_usage(text: &str) -> Option<bool> {
    match text {
        "original" => Some(false),
        "zero" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
impl Config {
    /// Reads the configuration from a list of variables.
    pub fn from_vars(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_is_required() {
        let config = Config::from_vars(&[]).unwrap();
        assert_eq!(config.routing.default_upstream.base.as_str(), "https://api.openai.com/v1");
        assert_eq!(config.routing.path_prefix, "/proxy");
        assert_eq!(config.cache.max_bytes, 10 * 1024 * 1024);
        assert_eq!(config.store.timeout, Duration::from_millis(500));
        assert_eq!(config.upstream.timeout, Duration::from_secs(600));
        assert_eq!(config.upstream.idle_timeout, Duration::from_secs(300));
        assert!(
            config.cache.respond_with_cache && config.cache.store_cache && !config.cache.shared_scope && !config.debug
        );
    }

    #[test]
    fn an_error_names_its_variable_and_never_repeats_the_value() {
        for (variable, value) in [
            ("OPENAI_BASE_URL", "api.openai.com/v1"),
            ("OPENAI_BASE_URL", "ftp://x/v1"),
            ("OPENAI_BASE_URL", "https://user:geheim@x/v1"),
            ("OPENAI_BASE_URL", "https://x/v1?key=geheim"),
            ("TARGET_BASE_URL", "geheim"),
            ("PROXY_PATH_PREFIX", "proxy"),
            ("PROXY_PATH_PREFIX", "/a?b"),
            ("CACHE_TTL", "-1"),
            ("CACHE_TTL", "1e3"),
            ("CACHE_TTL", "soon"),
            ("CACHE_MAX_TTL", "inf"),
            ("CACHE_SCOPE", "all"),
            ("CACHE_MATCH", "fuzzy"),
            ("CACHE_PATHS", "a[b"),
            ("KEY_IGNORE", "@geheim"),
            ("KEY_IGNORE", "header:x-geheim-token"),
            ("CACHE_MAX_BYTES", "10MB"),
            ("RESPOND_WITH_CACHE", "maybe"),
            ("STORE_CACHE", "2"),
            ("STORE_TIMEOUT_MS", "x"),
            ("TIMEOUT", "0"),
            ("API_REQUEST_TIMEOUT", "x"),
            ("IDLE_TIMEOUT", "0"),
            ("MAX_RETRIES", "-1"),
            ("MAX_RETRIES", "2.5"),
            ("BASE_RETRY_DELAY", "x"),
            ("RATE_LIMIT_WAIT", "x"),
            ("MEMORY_CACHE_BYTES", "16MB"),
            ("MEMORY_CACHE_TTL", "x"),
            ("COALESCE", "perhaps"),
            ("COALESCE_TTL", "x"),
            ("STALE_IF_ERROR", "x"),
            ("STALE_WHILE_REVALIDATE", "-1"),
            ("DEBUG", "x"),
            ("USAGE_ON_HIT", "none"),
            ("PRICES", "geheim"),
            ("PRICES", r#"{"a/b":1}"#),
            ("PRICES", r#"{"a/b":{"input":"1"}}"#),
            ("PRICES", r#"{"a/b":{"input":-1}}"#),
            ("PRICES", r#"{"a/b":{"inputs":1}}"#),
            ("UPSTASH_REDIS_REST_URL", "geheim"),
            ("UPSTASH_REDIS_REST_URL", "https://x?_token=geheim"),
            ("UPSTASH_REDIS_REST_TOKEN", "ge heim"),
            ("ALLOW_ANONYMOUS", "x"),
            ("PROXY_TOKENS", "ge heim"),
            ("PROXY_TOKENS", "a,geheim\u{e9}"),
            ("PROXY_TOKENS", ","),
            ("ADMIN_TOKEN", "ge heim"),
            ("CACHE_ENCRYPTION_KEY", ", ,"),
            ("OPENAI_API_KEY", "geheim"),
            ("OPENAI_API_KEY", "ge heim"),
            ("GROQ_API_KEY", "geheim"),
            ("UPSTREAMS", "geheim"),
            ("LLM_PARAMS", "geheim"),
            ("STRIP_THINK", "geheim"),
        ] {
            let error = Config::from_vars(&[(variable, value)]).unwrap_err();
            assert_eq!(error.variable, variable, "{value}");
            assert!(!error.message.contains("geheim"), "{variable}");
        }
    }

    #[test]
    fn durations_may_be_fractions() {
        let config =
            Config::from_vars(&[("CACHE_TTL", "1.5"), ("TIMEOUT", "0.25"), ("STORE_TIMEOUT_MS", "0.5")]).unwrap();
        assert_eq!(config.cache.ttl_ms, Some(1500));
        assert_eq!(config.upstream.timeout, Duration::from_millis(250));
        assert_eq!(config.store.timeout, Duration::from_micros(500));
    }

    #[test]
    fn a_shared_cache_needs_authentication_or_consent() {
        assert_eq!(Config::from_vars(&[("CACHE_SCOPE", "shared")]).unwrap_err().variable, "CACHE_SCOPE");
        let both = [("CACHE_SCOPE", "shared"), ("ALLOW_ANONYMOUS", "true")];
        assert!(Config::from_vars(&both).unwrap().cache.shared_scope);
        let tokens = [("CACHE_SCOPE", "shared"), ("PROXY_TOKENS", "a,b")];
        assert!(Config::from_vars(&tokens).unwrap().cache.shared_scope);
    }

    #[test]
    fn secrets_do_not_print() {
        let secrets =
            [("PROXY_TOKENS", "geheim,geheim2"), ("ADMIN_TOKEN", "geheim"), ("CACHE_ENCRYPTION_KEY", "geheim")];
        let printed = format!("{:?}", Config::from_vars(&secrets).unwrap());
        assert!(!printed.contains("geheim") && !printed.contains("103, 101"), "{printed}");
    }

    #[test]
    fn an_operator_key_needs_authentication_or_consent() {
        let keys = [("UPSTREAMS", r#"{"my-llm":"http://h"}"#), ("MY_LLM_API_KEY", "k")];
        assert_eq!(Config::from_vars(&keys).unwrap_err().variable, "MY_LLM_API_KEY");
        let config =
            Config::from_vars(&[keys[0], keys[1], ("ALLOW_ANONYMOUS", "true"), ("OPENAI_API_KEY", "o")]).unwrap();
        let has_key = |name: &str| config.routing.upstreams.iter().any(|u| u.name == name && u.key.is_some());
        assert!(
            has_key("my-llm") && has_key("openai") && !has_key("groq") && config.routing.default_upstream.key.is_some()
        );
    }

    #[test]
    fn a_key_for_another_default_upstream_is_not_sent_to_openai() {
        let vars = [("OPENAI_BASE_URL", "http://h"), ("OPENAI_API_KEY", "k"), ("ALLOW_ANONYMOUS", "true")];
        let config = Config::from_vars(&vars).unwrap();
        assert!(config.routing.default_upstream.key.is_some());
        assert!(config.routing.upstreams.iter().all(|upstream| upstream.key.is_none()));
    }

    #[test]
    fn the_first_name_wins_over_its_alias() {
        let config =
            Config::from_vars(&[("OPENAI_BASE_URL", "http://a/v1"), ("TARGET_BASE_URL", "http://b/v1")]).unwrap();
        assert_eq!(config.routing.default_upstream.base.as_str(), "http://a/v1");
        let config = Config::from_vars(&[("TARGET_BASE_URL", "http://b/v1/")]).unwrap();
        assert_eq!(config.routing.default_upstream.base.as_str(), "http://b/v1/");
    }
}
