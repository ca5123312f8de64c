//! Where in a request body are we? Decides which objects are JSON Schemas, whose key order shapes the answer.

/// A position in the body, as far as it matters to the order of keys. Arrays do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SchemaContext {
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

impl SchemaContext {
    pub(super) const fn root() -> Self {
        SchemaContext::Root
    }

    /// Whether the keys of an object here stay in the order they came in.
    pub(super) fn keeps_order(self) -> bool {
        self == SchemaContext::Schema
    }

    /// The place of the value under `key` (in its canonical spelling) of an object here.
    pub(super) fn child(self, key: &[u8]) -> SchemaContext {
        if self == SchemaContext::Schema || SCHEMA_NAMES.contains(&key) {
            return SchemaContext::Schema;
        }
        match (self, key) {
            (SchemaContext::Root, b"response_format" | b"output_format") => SchemaContext::Format,
            (SchemaContext::Root, b"text" | b"output_config") => SchemaContext::FormatHolder,
            (SchemaContext::Root, b"generationConfig" | b"generation_config" | b"structured_outputs") => {
                SchemaContext::Generation
            }
            // Ollama's `format`, llama.cpp's `json_schema`.
            (SchemaContext::Root, b"format" | b"json_schema") => SchemaContext::Schema,
            (_, b"tools" | b"functions") => SchemaContext::Tool,
            (SchemaContext::FormatHolder, b"format") => SchemaContext::Format,
            (SchemaContext::Format, b"json_schema") => SchemaContext::FormatSchema,
            (SchemaContext::Format, b"schema") => SchemaContext::Schema,
            (SchemaContext::Format | SchemaContext::FormatSchema, _) => SchemaContext::Format,
            (SchemaContext::Generation, b"json" | b"schema") => SchemaContext::Schema,
            // Google's function declarations may describe their `response`; Cohere v1 has `parameter_definitions`.
            (SchemaContext::Tool, b"parameters" | b"schema" | b"response" | b"parameter_definitions") => {
                SchemaContext::Schema
            }
            (SchemaContext::Tool, _) => SchemaContext::Tool,
            _ => SchemaContext::Plain,
        }
    }

    /// The place of an object here, once its keys can be asked for.
    pub(super) fn resolve(self, has: impl Fn(&[u8]) -> bool) -> SchemaContext {
        match self {
            SchemaContext::FormatSchema if has(b"schema") => SchemaContext::Format,
            SchemaContext::FormatSchema => SchemaContext::Schema,
            other => other,
        }
    }
}
