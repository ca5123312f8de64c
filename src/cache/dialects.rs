//! The headers of other products: what they ask for, and what their clients read in the response.
//!
//! Each row follows the product's own documentation, and its lifetimes are clamped as the product clamps them.

use super::directives::{Directives, SAMPLES, samples, seconds, single_value, unreadable, valid_utf8};
use crate::config::{Dialect, Dialects, When};
use crate::http::fields::{boolean, list};
use crate::json::JsonCursor;
use crate::json::canonical::Document;
use crate::key::ignore::KeyIgnore;
use crate::status::error::{ErrorKind, ProxyError};
use crate::status::{CacheOutcome, CacheStatus};
use http::HeaderMap;
use std::ops::RangeInclusive;

/// What a header asks for.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// Cache; any value but `true` means no.
    Enabled,
    /// Read the cache; the same.
    Read,
    /// Store the response; the same.
    Save,
    /// `true` or `false`: cache.
    Cache,
    /// `true`: do not cache.
    Skip,
    /// `true`: ask the upstream, and replace the entry.
    Refresh,
    /// What is done with the cache.
    Mode,
    /// Whether sampled responses are cached.
    When,
    /// A lifetime in seconds.
    Ttl,
    /// Directives with the lifetime as `max-age`.
    CacheControl,
    Namespace,
    Samples,
    /// Names of fields that are not part of the key.
    Ignore,
    /// A configuration as JSON.
    Config,
}

const TABLE: [(Dialect, &str, Meaning); 22] = [
    (Dialect::Helicone, "helicone-cache-enabled", Meaning::Enabled),
    (Dialect::Helicone, "helicone-cache-read", Meaning::Read),
    (Dialect::Helicone, "helicone-cache-save", Meaning::Save),
    (Dialect::Helicone, "helicone-cache-control", Meaning::CacheControl),
    (Dialect::Helicone, "helicone-cache-bucket-max-size", Meaning::Samples),
    (Dialect::Helicone, "helicone-cache-seed", Meaning::Namespace),
    (Dialect::Helicone, "helicone-cache-ignore-keys", Meaning::Ignore),
    (Dialect::Cloudflare, "cf-aig-skip-cache", Meaning::Skip),
    (Dialect::Cloudflare, "cf-skip-cache", Meaning::Skip),
    (Dialect::Cloudflare, "cf-aig-cache-ttl", Meaning::Ttl),
    (Dialect::Cloudflare, "cf-cache-ttl", Meaning::Ttl),
    (Dialect::Cloudflare, "cf-aig-cache-key", Meaning::Namespace),
    (Dialect::OpenRouter, "x-openrouter-cache", Meaning::Cache),
    (Dialect::OpenRouter, "x-openrouter-cache-ttl", Meaning::Ttl),
    (Dialect::OpenRouter, "x-openrouter-cache-clear", Meaning::Refresh),
    (Dialect::Portkey, "x-portkey-cache-force-refresh", Meaning::Refresh),
    (Dialect::Portkey, "x-portkey-cache-namespace", Meaning::Namespace),
    (Dialect::Portkey, "x-portkey-config", Meaning::Config),
    (Dialect::OpenPipe, "op-cache", Meaning::Mode),
    (Dialect::OpenPipe, "wandb-cache-mode", Meaning::Mode),
    (Dialect::Braintrust, "x-bt-use-cache", Meaning::When),
    (Dialect::Braintrust, "x-bt-cache-ttl", Meaning::Ttl),
];

impl Meaning {
    /// What the header must be.
    const fn expected(self) -> &'static str {
        match self {
            Meaning::Mode => "readWrite, readOnly, writeOnly, true or false",
            Meaning::When => "auto, always or never",
            Meaning::Ttl => "a whole number of seconds",
            Meaning::Samples => SAMPLES,
            Meaning::Namespace | Meaning::Ignore => "ASCII or UTF-8, given once",
            Meaning::Cache | Meaning::Skip | Meaning::Refresh => "true or false",
            _ => "given once",
        }
    }
}

/// The lifetimes of a product, in seconds. The least is 0 where 0 means not to cache.
fn lifetimes(dialect: Dialect) -> RangeInclusive<u64> {
    match dialect {
        Dialect::Helicone => 0..=365 * DAY,
        Dialect::Cloudflare => 60..=30 * DAY,
        Dialect::OpenRouter => 1..=DAY,
        Dialect::Portkey => 60..=90 * DAY,
        Dialect::Braintrust => 1..=7 * DAY,
        Dialect::OpenPipe | Dialect::LiteLlm => 0..=u64::MAX,
    }
}

const DAY: u64 = 86_400;

/// What may be done with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    read: bool,
    store: bool,
}

const ON: Mode = Mode { read: true, store: true };
const OFF: Mode = Mode { read: false, store: false };
const READ: Mode = Mode { read: true, store: false };
const STORE: Mode = Mode { read: false, store: true };

/// What a request asks for in the words of other products.
#[derive(Debug, Default)]
struct Wishes {
    mode: Option<Mode>,
    ttl: Option<u64>,
    namespace: Option<String>,
    samples: Option<u32>,
    when: Option<When>,
    ignore: KeyIgnore,
    switches: Switches,
    /// The mode that `op-cache` or `wandb-cache-mode` names.
    named: Option<Mode>,
}

/// Sets what is not set yet. `None`: it is set to something else.
fn agree<T: PartialEq>(slot: &mut Option<T>, value: T) -> Option<()> {
    let agrees = slot.as_ref().is_none_or(|other| *other == value);
    slot.get_or_insert(value);
    agrees.then_some(())
}

impl Wishes {
    /// Adds a mode. One that only narrows the cache's use fits one that wants all of it.
    fn set_mode(&mut self, mode: Mode) -> Option<()> {
        match self.mode {
            Some(other) if other != mode && other != ON && mode != ON => None,
            Some(other) if (other == OFF) != (mode == OFF) => None,
            Some(other) if mode == ON => agree(&mut self.mode, other),
            _ => {
                self.mode = Some(mode);
                Some(())
            }
        }
    }

    fn set_ttl(&mut self, dialect: Dialect, ttl: u64) -> Option<()> {
        let range = lifetimes(dialect);
        // Those that begin at a minute say nothing of 0, which means off elsewhere.
        let off = ttl == 0 && *range.start() == 60;
        agree(&mut self.ttl, if off { 0 } else { ttl.clamp(*range.start(), *range.end()) })
    }

    /// Adds a header. `Some(false)`: it contradicts another one. `None`: it cannot be read.
    fn add(&mut self, dialect: Dialect, meaning: Meaning, text: &str) -> Option<bool> {
        let is_true = Some(text.eq_ignore_ascii_case("true"));
        let agreed = match meaning {
            Meaning::Enabled => {
                self.switches.enabled = is_true;
                Some(())
            }
            Meaning::Read => {
                self.switches.read = is_true;
                Some(())
            }
            Meaning::Save => {
                self.switches.save = is_true;
                Some(())
            }
            Meaning::Cache => self.set_mode(if boolean(text)? { ON } else { OFF }),
            Meaning::Skip | Meaning::Refresh => match boolean(text)? {
                true if matches!(meaning, Meaning::Skip) => self.set_mode(OFF),
                // OpenRouter clears nothing while the cache is off.
                true if dialect != Dialect::OpenRouter || self.mode != Some(OFF) => self.set_mode(STORE),
                _ => Some(()),
            },
            Meaning::Mode => {
                let mode = mode(text)?;
                // Both names of this header must agree.
                agree(&mut self.named, mode).and_then(|()| self.set_mode(mode))
            }
            Meaning::When => match use_cache(text)? {
                Some(when) => agree(&mut self.when, when),
                None => self.set_mode(OFF),
            },
            Meaning::Ttl => self.set_ttl(dialect, seconds(text)?),
            Meaning::CacheControl => max_age(text).map_or(Some(()), |ttl| self.set_ttl(dialect, ttl)),
            Meaning::Config => max_age_of_config(text).map_or(Some(()), |ttl| self.set_ttl(dialect, ttl)),
            Meaning::Namespace => agree(&mut self.namespace, valid_utf8(text)?),
            Meaning::Samples => {
                self.samples = Some(samples(text)?);
                Some(())
            }
            Meaning::Ignore => {
                self.ignore = names(&valid_utf8(text)?);
                Some(())
            }
        };
        Some(agreed.is_some())
    }

    /// Our own headers win.
    fn apply(self, directives: &mut Directives) {
        if directives.ttl.is_none() && !directives.refresh_given {
            let Mode { read, store } = self.mode.unwrap_or(ON);
            directives.no_store |= !read && !store;
            directives.read_only |= read && !store;
            directives.refresh |= store && !read;
        }
        directives.ttl = directives.ttl.or(self.ttl);
        if directives.namespace.is_empty() {
            directives.namespace = self.namespace.unwrap_or_default().into_bytes();
        }
        if directives.sample.is_none() {
            directives.samples = directives.samples.or(self.samples);
        }
        directives.when = directives.when.or(self.when);
        directives.ignore = directives.ignore.union(&self.ignore);
    }
}

/// Helicone's three switches, which are one mode together.
#[derive(Debug, Default)]
struct Switches {
    enabled: Option<bool>,
    read: Option<bool>,
    save: Option<bool>,
}

impl Switches {
    /// `Enabled: true` is both of the others.
    fn mode(&self) -> Option<Mode> {
        let Switches { enabled, read, save } = *self;
        match enabled {
            Some(true) => Some(ON),
            Some(false) => Some(Mode { read: read == Some(true), store: save == Some(true) }),
            None if read.is_none() && save.is_none() => None,
            None => Some(Mode { read: read.unwrap_or(save != Some(true)), store: save.unwrap_or(read != Some(true)) }),
        }
    }
}

/// Obeys the headers of these products. Returns the products whose clients read our response.
///
/// # Errors
/// [`ErrorKind::InvalidHeader`], naming the header, if one cannot be read or contradicts another.
pub fn obey(products: Dialects, headers: &HeaderMap, directives: &mut Directives) -> Result<Dialects, ProxyError> {
    let mut wishes = Wishes::default();
    let mut answered = Dialects::default();
    for (dialect, name, meaning) in TABLE {
        if let Some(text) = single_value(headers, name).filter(|_| products.contains(dialect)) {
            answered.insert(dialect);
            let agrees = text.and_then(|text| wishes.add(dialect, meaning, text));
            let agrees = agrees.ok_or_else(|| unreadable(name, meaning.expected()))?;
            agrees.then_some(()).ok_or_else(|| contradiction(name))?;
        }
    }
    if let Some(mode) = wishes.switches.mode() {
        wishes.set_mode(mode).ok_or_else(|| contradiction("helicone-cache-enabled"))?;
        if mode.store {
            // Beside these headers, it is the lifetime, and not the age that the client accepts.
            let values = headers.get_all(http::header::CACHE_CONTROL).iter();
            let ttl = values.filter_map(|value| max_age(&String::from_utf8_lossy(value.as_bytes()))).min();
            if let Some(ttl) = ttl {
                directives.max_age = None;
                wishes.set_ttl(Dialect::Helicone, ttl).ok_or_else(|| contradiction("cache-control"))?;
            }
        }
    }
    wishes.apply(directives);
    Ok(answered)
}

/// The headers that are obeyed.
pub fn header_names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(_, name, _)| *name)
}

/// Whether a header of these products is not sent upstream. `built_in`: the upstream is a built-in provider, which knows no
/// product's headers.
pub fn is_dropped(products: Dialects, header: &str, built_in: bool) -> bool {
    let is_obeyed = |dialect| TABLE.iter().any(|(of, name, _)| *of == dialect && *name == header);
    products.own(header).is_some_and(|dialect| {
        built_in || matches!(dialect, Dialect::Helicone | Dialect::Cloudflare) || is_obeyed(dialect)
    })
}

/// Obeys LiteLLM's `cache` object in the body. `None`: there is none.
pub fn obey_body(document: &Document, directives: &mut Directives) -> Option<()> {
    let cache = document.fields("cache").map(JsonCursor::root).last().filter(|cache| cache.is_object())?;
    let is = |name: &str| cache.get(name).is_some_and(|value| value.text() == "true");
    let number = |name: &str| cache.get(name)?.text().split('.').next()?.parse::<u64>().ok();
    let mode = Mode { read: !is("no-cache"), store: !is("no-store") };
    let namespace = cache.get("namespace").and_then(JsonCursor::as_string);
    Wishes { mode: Some(mode), ttl: number("ttl"), namespace, ..Wishes::default() }.apply(directives);
    let most = number("s-maxage");
    directives.max_age = directives.max_age.into_iter().chain(most).min();
    Some(())
}

fn contradiction(name: &str) -> ProxyError {
    let message = format!("The header {name} contradicts another one. Send only one of them.");
    ProxyError::new(ErrorKind::InvalidHeader, message)
}

fn mode(word: &str) -> Option<Mode> {
    match word.to_ascii_lowercase().as_str() {
        "readwrite" | "true" => Some(ON),
        "readonly" => Some(READ),
        "writeonly" => Some(STORE),
        "false" => Some(OFF),
        _ => None,
    }
}

/// Braintrust's words. `Some(None)`: not at all.
fn use_cache(word: &str) -> Option<Option<When>> {
    match word.to_ascii_lowercase().as_str() {
        "auto" => Some(Some(When::Repeatable)),
        "always" => Some(Some(When::Always)),
        "never" => Some(None),
        _ => None,
    }
}

/// The lifetime in `Cache-Control` directives: `s-maxage`, or else `max-age`.
fn max_age(text: &str) -> Option<u64> {
    let value = |wanted: &str| {
        list(text).find_map(|directive| {
            let (name, value) = directive.split_once('=')?;
            name.trim().eq_ignore_ascii_case(wanted).then(|| seconds(value.trim().trim_matches('"')))?
        })
    };
    value("s-maxage").or_else(|| value("max-age"))
}

/// `cache.max_age` of a configuration. The id of a stored one is not JSON.
fn max_age_of_config(text: &str) -> Option<u64> {
    Document::parse(text.as_bytes()).ok()?;
    JsonCursor::root(text).at(&["cache", "max_age"])?.index()
}

/// Names of fields: a JSON array, or separated by commas.
fn names(text: &str) -> KeyIgnore {
    let items = match Document::parse(text.as_bytes()) {
        Ok(document) if document.array().is_some() => {
            JsonCursor::root(text).items().filter_map(JsonCursor::as_string).collect()
        }
        _ => list(text).collect::<Vec<_>>(),
    };
    KeyIgnore::fields(items)
}

/// What a response says to the client besides `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplyFields {
    /// The products whose headers were obeyed. They are answered in kind.
    pub products: Dialects,
    /// Which of how many samples the response is, from 1.
    pub sample: Option<(u32, u32)>,
}

impl ReplyFields {
    /// The header fields. `age`: seconds since the response was stored, if it was.
    pub fn headers(&self, status: &CacheStatus, age: Option<u64>) -> Vec<(&'static str, String)> {
        let mut fields: Vec<(&'static str, String)> = Vec::new();
        let mut push = |name: &'static str, value: String| fields.push((name, value));
        if let Some((sample, samples)) = self.sample {
            push("x-cache-sample", format!("{sample}/{samples}"));
        }
        let outcome = status.outcome;
        let bypass = outcome == CacheOutcome::Bypass;
        let is_hit = matches!(outcome, CacheOutcome::Hit | CacheOutcome::Stale | CacheOutcome::Updating);
        let word = if is_hit { "HIT" } else { "MISS" };
        let answers = |dialect: Dialect| self.products.contains(dialect);
        if answers(Dialect::Helicone) && !bypass {
            push("helicone-cache", word.to_owned());
            let slot = self.sample.map_or(0, |(sample, _)| sample.saturating_sub(1));
            if is_hit || self.sample.is_some() {
                push("helicone-cache-bucket-idx", slot.to_string());
            }
        }
        if answers(Dialect::Cloudflare) {
            push("cf-aig-cache-status", word.to_owned());
        }
        if answers(Dialect::OpenRouter) && !bypass {
            push("x-openrouter-cache-status", word.to_owned());
            if let Some(age) = age.filter(|_| is_hit) {
                push("x-openrouter-cache-age", age.to_string());
            }
            if let Some(ttl) = status.ttl {
                push("x-openrouter-cache-ttl", ttl.max(0).to_string());
            }
        }
        if answers(Dialect::Portkey) {
            let word = match outcome {
                CacheOutcome::Bypass => "DISABLED",
                CacheOutcome::Refresh => "REFRESH",
                _ => word,
            };
            push("x-portkey-cache-status", word.to_owned());
        }
        // Only where the cache is read.
        if answers(Dialect::OpenPipe) && !bypass && outcome != CacheOutcome::Refresh {
            for name in ["wandb-cache-status", "x-wandb-cache"] {
                push(name, word.to_ascii_lowercase());
            }
        }
        if answers(Dialect::Braintrust) {
            push("x-bt-cached", word.to_owned());
        }
        if let Some(key) = status.key.filter(|_| answers(Dialect::LiteLlm) && is_hit) {
            push("x-litellm-cache-key", key.to_string());
        }
        fields
    }
}
