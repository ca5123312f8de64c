//! Recognises the cacheable endpoints by their path.

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

/// An endpoint that computes a response without changing state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// `chat/completions` in OpenAI's protocol, and Mistral's `fim/completions`, which responds in it.
    ChatCompletions,
    /// OpenAI's legacy `completions`.
    Completions,
    /// OpenAI's `responses`.
    Responses,
    /// Anthropic's `messages`.
    Messages,
    /// Google's `:generateContent`.
    GenerateContent,
    /// Google's `:streamGenerateContent`.
    StreamGenerateContent,
    /// Cohere's `chat`.
    CohereChat,
    /// Ollama's `api/chat` and `api/generate`, which stream unless told not to.
    Ollama,
    /// `audio/speech`: the response is audio.
    Speech,
    /// One that responds with JSON and never streams.
    Compute(Computation),
    /// One that `CACHE_PATHS` adds. Nothing is known about its responses.
    Custom,
}

/// The kind of computation of an endpoint that does not generate a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Computation {
    /// `embeddings`; Cohere's and Ollama's `embed`; Google's `:embedContent` and `:batchEmbedContents`.
    Embeddings,
    /// `moderations`.
    Moderations,
    /// `images/generations`.
    Images,
    /// Anthropic's `messages/count_tokens`, Google's `:countTokens`.
    TokenCount,
    /// `rerank`.
    Rerank,
    /// Cohere's `classify`.
    Classify,
    /// Mistral's `ocr`.
    Ocr,
    /// Cohere's and AI21's `generate`.
    Generate,
    /// OpenAI's legacy `edits`.
    Edits,
    /// OpenAI's legacy `answers`.
    Answers,
}

/// Collections at a provider. A POST below them changes state.
const STATEFUL: [&str; 16] = [
    "threads",
    "conversations",
    "assistants",
    "files",
    "uploads",
    "fine_tuning",
    "fine-tunes",
    "fine-tuning",
    "vector_stores",
    "containers",
    "evals",
    "organization",
    "organizations",
    "admin",
    "agents",
    "realtime",
];

impl Endpoint {
    /// The endpoint at `rest`, the path below the route's prefix, without query. `None`: none is known there.
    pub fn at(rest: &str) -> Option<Endpoint> {
        // A percent-encoded letter equals that letter (RFC 3986, section 6.2.2.2).
        let rest = percent_decode_str(rest).decode_utf8().ok()?;
        let rest = rest.trim_matches('/');
        if Self::makes_job(rest) {
            return None;
        }
        if let Some((path, method)) = rest.rsplit_once(':') {
            return if path.contains("models/") || path.contains("tunedModels/") { Self::google(method) } else { None };
        }
        let segments: Vec<&str> = rest.split('/').collect();
        if segments.iter().any(|segment| STATEFUL.contains(segment)) {
            return None;
        }
        match segments.as_slice() {
            [.., "chat" | "fim", "completions"] => Some(Endpoint::ChatCompletions),
            [.., "audio", "speech"] => Some(Endpoint::Speech),
            [.., "images", "generations"] => Some(Endpoint::Compute(Computation::Images)),
            [.., "messages", "count_tokens"] => Some(Endpoint::Compute(Computation::TokenCount)),
            [.., "images" | "audio" | "videos", _] => None,
            ["api", "chat" | "generate"] => Some(Endpoint::Ollama),
            ["api", "embed" | "embeddings"] => Some(Endpoint::Compute(Computation::Embeddings)),
            [.., "engines" | "deployments", _, name] | [.., name] => {
                let above = segments.len().checked_sub(2).and_then(|i| segments.get(i));
                let collection = segments.iter().rev().nth(2);
                let below_version = above.is_none_or(|above| is_version(above))
                    || collection.is_some_and(|n| matches!(*n, "engines" | "deployments"));
                Self::by_last_segment(name, below_version)
            }
            [] => None,
        }
    }

    /// Whether a request to `rest` makes a job, whose result comes later, by a word in its path.
    pub fn makes_job(rest: &str) -> bool {
        const JOBS: [&str; 10] =
            ["async", "asynchronous", "batch", "batches", "deferred", "job", "jobs", "predictions", "queue", "tasks"];
        let path = percent_decode_str(rest).decode_utf8_lossy().to_ascii_lowercase();
        // A model or a deployment may have any of these words in its name, but hardly this one.
        let is_async = |segment: &str| segment.split(['-', '_', ':', '.']).any(|word| word == "async");
        path.split('/').any(|segment| JOBS.contains(&segment) || is_async(segment))
    }

    /// The endpoint by the last segment. Words that other APIs use differently count only directly below a version or a
    /// deployment.
    fn by_last_segment(name: &str, below_version: bool) -> Option<Endpoint> {
        match name {
            "embeddings" => Some(Endpoint::Compute(Computation::Embeddings)),
            "moderations" => Some(Endpoint::Compute(Computation::Moderations)),
            "rerank" => Some(Endpoint::Compute(Computation::Rerank)),
            "responses" => Some(Endpoint::Responses),
            _ if !below_version => None,
            "completions" => Some(Endpoint::Completions),
            "messages" => Some(Endpoint::Messages),
            "chat" => Some(Endpoint::CohereChat),
            "edits" => Some(Endpoint::Compute(Computation::Edits)),
            "answers" => Some(Endpoint::Compute(Computation::Answers)),
            "generate" => Some(Endpoint::Compute(Computation::Generate)),
            "embed" => Some(Endpoint::Compute(Computation::Embeddings)),
            "classify" => Some(Endpoint::Compute(Computation::Classify)),
            "ocr" => Some(Endpoint::Compute(Computation::Ocr)),
            _ => None,
        }
    }

    fn google(method: &str) -> Option<Endpoint> {
        match method {
            "generateContent" => Some(Endpoint::GenerateContent),
            "streamGenerateContent" => Some(Endpoint::StreamGenerateContent),
            "embedContent" | "batchEmbedContents" => Some(Endpoint::Compute(Computation::Embeddings)),
            "countTokens" => Some(Endpoint::Compute(Computation::TokenCount)),
            _ => None,
        }
    }

    /// Its name in entries and in the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            Endpoint::ChatCompletions => "chat/completions",
            Endpoint::Completions => "completions",
            Endpoint::Responses => "responses",
            Endpoint::Messages => "messages",
            Endpoint::GenerateContent => "generateContent",
            Endpoint::StreamGenerateContent => "streamGenerateContent",
            Endpoint::CohereChat => "chat",
            Endpoint::Ollama => "ollama",
            Endpoint::Speech => "audio/speech",
            Endpoint::Compute(Computation::Embeddings) => "embeddings",
            Endpoint::Compute(Computation::Moderations) => "moderations",
            Endpoint::Compute(Computation::Images) => "images/generations",
            Endpoint::Compute(Computation::TokenCount) => "count_tokens",
            Endpoint::Compute(Computation::Rerank) => "rerank",
            Endpoint::Compute(Computation::Classify) => "classify",
            Endpoint::Compute(Computation::Ocr) => "ocr",
            Endpoint::Compute(Computation::Generate) => "generate",
            Endpoint::Compute(Computation::Edits) => "edits",
            Endpoint::Compute(Computation::Answers) => "answers",
            Endpoint::Custom => "custom",
        }
    }

    /// Whether requests hold a conversation, so that `chat` matching applies.
    pub fn is_chat(self) -> bool {
        !matches!(self, Endpoint::Speech | Endpoint::Compute(_) | Endpoint::Custom)
    }

    /// Whether its responses are sampled, so that equal requests get different ones. Of [`Endpoint::Custom`] nothing is known.
    pub fn samples(self) -> bool {
        use Computation::{Answers, Edits, Generate, Images};
        match self {
            Endpoint::Speech => false,
            Endpoint::Compute(computation) => matches!(computation, Answers | Edits | Generate | Images),
            _ => true,
        }
    }

    /// Whether its plain responses are JSON.
    pub fn responds_with_json(self) -> bool {
        !matches!(self, Endpoint::Speech | Endpoint::Custom)
    }

    /// Whether a request is for a stream. `stream`: the JSON values of that field.
    pub fn streams<'a>(self, mut stream: impl Iterator<Item = &'a str>) -> bool {
        // Some servers read "true" or 1 as true, so every other value counts as true.
        let on = |value: &str| !matches!(value, "false" | "null");
        match self {
            Endpoint::StreamGenerateContent => true,
            Endpoint::GenerateContent => false,
            Endpoint::Ollama => stream.next().is_none_or(|first| on(first) || stream.any(on)),
            _ => stream.any(on),
        }
    }
}

/// The URL in the cache key. Google's method and `alt=sse` choose only the response mode, as `stream` does elsewhere, so both
/// modes have one URL. A stream in another framing, or with an unusual spelling, keeps its own.
pub fn key_url(endpoint: Endpoint, url: &str) -> String {
    let without_mode = || {
        let (path, query) = url.split_once('?')?;
        let path = path.strip_suffix(":streamGenerateContent")?;
        let (response_mode, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| *pair == "alt=sse");
        let other_alt =
            |pair: &str| pair.split('=').next().is_some_and(|name| name.ends_with("alt") || name.contains('%'));
        if response_mode.len() != 1 || others.iter().any(|pair| other_alt(pair)) {
            return None;
        }
        let mark = if others.is_empty() { "" } else { "?" };
        Some(format!("{path}:generateContent{mark}{}", others.join("&")))
    };
    let plain = if endpoint == Endpoint::StreamGenerateContent { without_mode() } else { None };
    plain.unwrap_or_else(|| url.to_owned())
}

/// `v1`, `v1beta`, `v2alpha3`, …, and `openai`, below which some providers have OpenAI's API.
fn is_version(segment: &str) -> bool {
    let number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    segment == "openai" || segment.strip_prefix('v').is_some_and(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cacheable_endpoints_are_recognised() {
        for (rest, endpoint) in [
            ("chat/completions", Endpoint::ChatCompletions),
            ("v1/chat/completions", Endpoint::ChatCompletions),
            ("openai/v1/chat/completions", Endpoint::ChatCompletions),
            ("api/paas/v4/chat/completions", Endpoint::ChatCompletions),
            ("openai/deployments/d/chat/completions", Endpoint::ChatCompletions),
            ("v1/fim/completions", Endpoint::ChatCompletions),
            ("completions", Endpoint::Completions),
            ("v1/engines/davinci/completions", Endpoint::Completions),
            ("responses", Endpoint::Responses),
            ("v1/embeddings", Endpoint::Compute(Computation::Embeddings)),
            ("embeddings/", Endpoint::Compute(Computation::Embeddings)),
            ("moderations", Endpoint::Compute(Computation::Moderations)),
            ("edits", Endpoint::Compute(Computation::Edits)),
            ("answers", Endpoint::Compute(Computation::Answers)),
            ("images/generations", Endpoint::Compute(Computation::Images)),
            ("audio/speech", Endpoint::Speech),
            ("v1/messages", Endpoint::Messages),
            ("v1/messages/count_tokens", Endpoint::Compute(Computation::TokenCount)),
            ("v1beta/models/m:generateContent", Endpoint::GenerateContent),
            ("v1beta/models/m:streamGenerateContent", Endpoint::StreamGenerateContent),
            ("v1beta/models/m:batchEmbedContents", Endpoint::Compute(Computation::Embeddings)),
            ("v1beta/models/m:countTokens", Endpoint::Compute(Computation::TokenCount)),
            ("v2/chat", Endpoint::CohereChat),
            ("v2/rerank", Endpoint::Compute(Computation::Rerank)),
            ("v1/classify", Endpoint::Compute(Computation::Classify)),
            ("v1/ocr", Endpoint::Compute(Computation::Ocr)),
            ("api/chat", Endpoint::Ollama),
            ("api/generate", Endpoint::Ollama),
            ("api/embed", Endpoint::Compute(Computation::Embeddings)),
        ] {
            assert_eq!(Endpoint::at(rest), Some(endpoint), "{rest}");
        }
    }

    #[test]
    fn other_endpoints_are_not_cacheable() {
        for rest in [
            "",
            "files",
            "async/chat/completions",
            "api/paas/v4/async/chat/completions",
            "Async/chat/completions",
            "async-inference/chat/completions",
            "chat_async/completions/embeddings",
            "v1/batch/embeddings",
            "api/v3/batch/chat/completions",
            "v1/jobs/chat/completions",
            "queue/images/generations",
            "v1/predictions/embeddings",
            "deferred/chat/completions",
            "tasks/rerank",
            "%61sync/embeddings",
            "v1/threads/t/messages",
            "threads/t/runs",
            "batches",
            "images/edits",
            "images/variations",
            "audio/transcriptions",
            "responses/compact",
            "responses/r/cancel",
            "v1/conversations",
            "conversations/c/items",
            "fine_tuning/jobs",
            "vector_stores/v/files",
            "foo/messages",
            "foo/chat",
            "v1/tokenize",
            "v1beta/models/m:batchGenerateContent",
            "v1beta/cachedContents",
            "api/pull",
            "chat",
            "v1/models",
            "v1/agents/completions",
            "upload/v1beta/x:uploadToFileSearchStore",
            "assistants",
        ] {
            let expected = if rest == "chat" { Some(Endpoint::CohereChat) } else { None };
            assert_eq!(Endpoint::at(rest), expected, "{rest}");
        }
    }

    #[test]
    fn requests_for_a_stream_are_recognised() {
        let streams = |endpoint: Endpoint, values: &[&'static str]| endpoint.streams(values.iter().copied());
        assert!(streams(Endpoint::ChatCompletions, &["true"]));
        assert!(!streams(Endpoint::ChatCompletions, &["false"]));
        assert!(!streams(Endpoint::ChatCompletions, &["null"]));
        assert!(!streams(Endpoint::ChatCompletions, &[]));
        assert!(streams(Endpoint::ChatCompletions, &["false", "true"]));
        assert!(streams(Endpoint::Ollama, &[]));
        assert!(!streams(Endpoint::Ollama, &["false"]));
        assert!(streams(Endpoint::StreamGenerateContent, &[]));
    }

    #[test]
    fn both_modes_of_google_have_one_url_in_the_key() {
        let at = |url: &str| key_url(Endpoint::StreamGenerateContent, url);
        for (stream, plain) in [
            ("https://h/m:streamGenerateContent?alt=sse", "https://h/m:generateContent"),
            ("https://h/m:streamGenerateContent?key=k&alt=sse", "https://h/m:generateContent?key=k"),
            ("https://h/m:streamGenerateContent?alt=sse&a=1&key=k", "https://h/m:generateContent?a=1&key=k"),
        ] {
            assert_eq!(at(stream), plain);
            assert_eq!(key_url(Endpoint::GenerateContent, plain), plain);
        }
        for other in [
            "https://h/m:streamGenerateContent",
            "https://h/m:streamGenerateContent?key=k",
            "https://h/m:streamGenerateContent?alt=json",
            "https://h/m:streamGenerateContent?alt=sse&alt=json",
            "https://h/m:streamGenerateContent?alt=sse&$alt=json",
            "https://h/m:streamGenerateContent?alt=sse&%61lt=json",
            "https://h/m:streamGenerateContent/?alt=sse",
        ] {
            assert_eq!(at(other), other);
        }
        let plain = "https://h/m:generateContent?alt=sse";
        assert_eq!(key_url(Endpoint::GenerateContent, plain), plain);
        assert!(!Endpoint::GenerateContent.streams(["true"].into_iter()));
    }
}
