//! The cache key: the SHA-256 of everything that identifies a request and its tenant.

pub mod headers;
pub mod ignore;

use crate::json::canonical::{Document, Select};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::fmt;

/// Changes whenever the same request would get another key, so that old entries are never found.
const VERSION: &str = "reprise-key-3";
/// The same for the salt. It differs, so that a key reveals nothing about its [`EncryptionSalt`].
const SALT_VERSION: &str = "reprise-sealing-1";
/// The same for namespace tags.
const NAMESPACE_VERSION: &str = "reprise-namespace-1";
/// Length of a namespace's tag, in bytes. Among a million namespaces, two share a tag with a probability of 1 in 37 million.
const TAG_LEN: usize = 8;
/// Length of the rest of a key, in bytes.
const HASH_LEN: usize = 32 - TAG_LEN;

/// Top-level fields that choose only the response mode.
const RESPONSE_MODE_FIELDS: [&str; 2] = ["stream", "stream_options"];

/// The fields with the conversation: OpenAI, Anthropic, Google, Cohere, Ollama.
const CONVERSATION: [&str; 18] = [
    "messages",
    "system",
    "input",
    "instructions",
    "prompt",
    "contents",
    "systemInstruction",
    "system_instruction",
    "message",
    "chat_history",
    "preamble",
    "tool_results",
    "documents",
    "images",
    "context",
    "cachedContent",
    "cached_content",
    "suffix",
];

/// A cache key: 32 bytes, printed as 64 hexadecimal digits.
///
/// The first 24 bytes are a hash of the whole request, the last 8 a hash of its namespace. A key alone locates its entry, and
/// the entries of one namespace can be listed: stores sort by [`CacheKey::storage_key`], which begins with the namespace's tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

/// The beginning of all storage keys of a namespace.
pub fn storage_prefix(namespace: &[u8]) -> String {
    format!("{}:", hex::encode(namespace_tag(namespace)))
}

fn namespace_tag(namespace: &[u8]) -> [u8; TAG_LEN] {
    let mut list = List::new();
    list.push(NAMESPACE_VERSION.as_bytes());
    list.push(namespace);
    first(&list.0.finalize().into())
}

/// The first bytes of a digest.
fn first<const N: usize>(digest: &[u8; 32]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    bytes
}

/// The salt that an entry is encrypted with besides the operator's secret: a hash of the whole request and its tenant. It
/// cannot be computed from the key, and is sent only to the key's coalescer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EncryptionSalt([u8; 32]);

impl EncryptionSalt {
    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EncryptionSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionSalt(…)")
    }
}

impl Serialize for EncryptionSalt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for EncryptionSalt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EncryptionSalt, D::Error> {
        let mut bytes = [0; 32];
        let text = String::deserialize(deserializer)?;
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| serde::de::Error::custom("not a salt"))?;
        Ok(EncryptionSalt(bytes))
    }
}

impl CacheKey {
    /// Reads a printed key. `None`: the text is no key.
    pub fn from_hex(text: &str) -> Option<CacheKey> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(CacheKey(bytes))
    }

    /// The prefix of the stored names of all entries of its namespace.
    pub fn storage_prefix(&self) -> String {
        let (_, tag) = self.0.split_at(HASH_LEN);
        format!("{}:", hex::encode(tag))
    }

    /// The entry's name in a store: the namespace's tag, a colon, and the rest of the key.
    pub fn storage_key(&self) -> String {
        let (hash, tag) = self.0.split_at(HASH_LEN);
        format!("{}:{}", hex::encode(tag), hex::encode(hash))
    }
}

impl Serialize for CacheKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CacheKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CacheKey, D::Error> {
        let text = String::deserialize(deserializer)?;
        CacheKey::from_hex(&text).ok_or_else(|| serde::de::Error::custom("not a key"))
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tenant: all clients with one credential. Two tenants never share an entry.
#[derive(Clone, PartialEq, Eq)]
pub enum Tenant {
    /// All clients: `CACHE_SCOPE=shared`.
    Shared,
    /// Clients with these credentials: (field name, value), in order of name. Clients without any are one tenant.
    Credentials(Vec<(String, Vec<u8>)>),
    /// Clients with the proxy token of this SHA-256, and these further credentials.
    Token([u8; 32], Vec<(String, Vec<u8>)>),
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenant(…)")
    }
}

/// The part of the body that is keyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MatchMode {
    /// All of it.
    #[default]
    Exact,
    /// The conversation alone: model, parameters and tools are ignored.
    Chat,
}

impl MatchMode {
    /// The word for it in `CACHE_MATCH` and `X-Proxy-Match`.
    pub const fn as_str(self) -> &'static str {
        match self {
            MatchMode::Exact => "exact",
            MatchMode::Chat => "chat",
        }
    }

    /// The mode that a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        [MatchMode::Exact, MatchMode::Chat].into_iter().find(|mode| word.eq_ignore_ascii_case(mode.as_str()))
    }
}

/// Everything that is keyed.
#[derive(Debug)]
pub struct KeyInput<'a> {
    /// `X-Proxy-Namespace`; empty without one.
    pub namespace: &'a [u8],
    /// The tenant.
    pub tenant: &'a Tenant,
    /// The method, upper case.
    pub method: &'a str,
    /// The upstream URL with its query, without what chooses only the response mode.
    pub url: &'a str,
    /// The keyed request fields: (name, value), in order of name.
    pub key_headers: &'a [(String, Vec<u8>)],
    /// The part of the body that is keyed.
    pub mode: MatchMode,
    /// The names that the operator or the client leaves out, sorted. They are keyed: a client that ignores a field accepts
    /// responses that other clients must never get.
    pub ignored: &'a [String],
    /// The body that is sent, as bytes …
    pub body: &'a [u8],
    /// … and as JSON.
    pub document: &'a Document,
}

impl KeyInput<'_> {
    /// The cache key.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn key(&self) -> CacheKey {
        self.key_and_salt().0
    }

    /// The cache key, and the salt of its entry.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn key_and_salt(&self) -> (CacheKey, EncryptionSalt) {
        self.samples().key_and_salt(0)
    }

    /// The keys of all samples.
    pub fn samples(&self) -> SampleKeys {
        let body = self.body_digest();
        SampleKeys {
            key: self.hash(VERSION, body),
            salt: self.hash(SALT_VERSION, body),
            tag: namespace_tag(self.namespace),
        }
    }

    fn hash(&self, version: &str, (form, body): (&[u8], [u8; 32])) -> List {
        let mut list = List::new();
        list.push(version.as_bytes());
        list.push(self.namespace);
        match self.tenant {
            Tenant::Shared => list.push(b"shared"),
            Tenant::Credentials(credentials) => {
                list.push(b"credentials");
                list.push_pairs(credentials);
            }
            Tenant::Token(token, credentials) => {
                list.push(b"token");
                list.push(token);
                list.push_pairs(credentials);
            }
        }
        list.push(self.method.as_bytes());
        list.push(self.url.as_bytes());
        list.push_pairs(self.key_headers);
        list.push(self.mode.as_str().as_bytes());
        list.push(&count(self.ignored.len()));
        for name in self.ignored {
            list.push(name.as_bytes());
        }
        list.push(form);
        list.push(&body);
        list
    }

    /// The body's form and digest: of its canonical bytes, or of the raw bytes if a repeated object key makes the body
    /// ambiguous.
    fn body_digest(&self) -> (&'static [u8], [u8; 32]) {
        let excluded: Vec<&str>;
        let included: Vec<&str>;
        let ignored = self.ignored.iter().map(String::as_str);
        let select = if self.mode == MatchMode::Chat && self.has_conversation() {
            included =
                CONVERSATION.into_iter().filter(|name| !self.ignored.iter().any(|ignored| ignored == name)).collect();
            Select::Only(&included)
        } else {
            excluded = RESPONSE_MODE_FIELDS.into_iter().chain(ignored).collect();
            Select::Except(&excluded)
        };
        let mut hasher = Sha256::new();
        let written = self.document.write_canonical(select, &mut |piece| hasher.update(piece));
        match written {
            Ok(()) => (b"canonical", hasher.finalize().into()),
            Err(_) => (b"raw", Sha256::digest(self.body).into()),
        }
    }

    fn has_conversation(&self) -> bool {
        CONVERSATION.iter().any(|name| self.document.fields(name).next().is_some())
    }
}

/// The cache keys of a request's samples.
#[derive(Clone)]
pub struct SampleKeys {
    key: List,
    salt: List,
    tag: [u8; TAG_LEN],
}

impl SampleKeys {
    /// A sample's cache key, and the salt of its entry. Sample 0 is the request that names none.
    pub fn key_and_salt(&self, sample: u32) -> (CacheKey, EncryptionSalt) {
        let finish = |list: &List| -> [u8; 32] {
            let mut list = list.clone();
            if sample > 0 {
                list.push(b"sample");
                list.push(&sample.to_be_bytes());
            }
            list.0.finalize().into()
        };
        let hash = first::<HASH_LEN>(&finish(&self.key));
        let mut key = [0; 32];
        key.iter_mut().zip(hash.iter().chain(&self.tag)).for_each(|(to, from)| *to = *from);
        (CacheKey(key), EncryptionSalt(finish(&self.salt)))
    }
}

impl fmt::Debug for SampleKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SampleKeys(…)")
    }
}

/// A hash over a list. Each item is preceded by its length, so that two lists never have the same bytes.
#[derive(Clone)]
struct List(Sha256);

impl List {
    fn new() -> Self {
        List(Sha256::new())
    }

    fn push(&mut self, item: &[u8]) {
        self.0.update(count(item.len()));
        self.0.update(item);
    }

    fn push_pairs(&mut self, pairs: &[(String, Vec<u8>)]) {
        self.push(&count(pairs.len()));
        for (name, value) in pairs {
            self.push(name.as_bytes());
            self.push(value);
        }
    }
}

fn count(n: usize) -> [u8; 8] {
    (n as u64).to_be_bytes()
}
