//! Where in a request body are we? Decides which objects are JSON Schemas, whose key order shapes the answer.

/// A position in the body, as far as it matters to the order of keys. Arrays do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The body itself.
    Root,
    /// Nothing below is known to be a schema by its position.
    Plain,
    /// A container whose `format` describes the output: OpenAI Responses' `text`, Anthropic's `output_config`.
    FormatHolder,
    /// A description of the output: `response_format`, `text.format`, Anthropic's `output_format`.
    Format,
    /// `json_schema` in a format: OpenAI's wrapper around `schema`, or (Cohere) the schema itself.
    FormatSchema,
    /// Google's `generationConfig`, vLLM's `structured_outputs`.
    Generation,
    /// A tool or function definition, at any depth.
    Tool,
    /// A JSON Schema and everything in it.
    Schema,
}

/// Names that mean a schema wherever they stand.
const SCHEMA_NAMES: [&[u8]; 12] = [
    b"input_schema",
    b"inputSchema",
    b"output_schema",
    b"outputSchema",
    b"responseSchema",
    b"response_schema",
    b"responseJsonSchema",
    b"response_json_schema",
    b"_responseJsonSchema",
    b"parametersJsonSchema",
    b"parameters_json_schema",
    b"guided_json",
];

impl Place {
    pub(super) const fn root() -> Self {
        Place::Root
    }

    /// Whether the keys of an object here stay in the order they came in.
    pub(super) fn keeps_order(self) -> bool {
        self == Place::Schema
    }

    /// The place of the value under `key` (in its canonical spelling) of an object here.
    pub(super) fn child(self, key: &[u8]) -> Place {
        if self == Place::Schema || SCHEMA_NAMES.contains(&key) {
            return Place::Schema;
        }
        match (self, key) {
            (Place::Root, b"response_format" | b"output_format") => Place::Format,
            (Place::Root, b"text" | b"output_config") => Place::FormatHolder,
            (Place::Root, b"generationConfig" | b"generation_config" | b"structured_outputs") => Place::Generation,
            // Ollama's `format`, llama.cpp's `json_schema`.
            (Place::Root, b"format" | b"json_schema") => Place::Schema,
            (_, b"tools" | b"functions") => Place::Tool,
            (Place::FormatHolder, b"format") => Place::Format,
            (Place::Format, b"json_schema") => Place::FormatSchema,
            (Place::Format, b"schema") => Place::Schema,
            (Place::Format | Place::FormatSchema, _) => Place::Format,
            (Place::Generation, b"json" | b"schema") => Place::Schema,
            // Google's function declarations may describe their `response`; Cohere v1 has `parameter_definitions`.
            (Place::Tool, b"parameters" | b"schema" | b"response" | b"parameter_definitions") => Place::Schema,
            (Place::Tool, _) => Place::Tool,
            _ => Place::Plain,
        }
    }

    /// The place of an object here, once its keys can be asked for.
    pub(super) fn resolve(self, has: impl Fn(&[u8]) -> bool) -> Place {
        match self {
            Place::FormatSchema if has(b"schema") => Place::Format,
            Place::FormatSchema => Place::Schema,
            other => other,
        }
    }
}
