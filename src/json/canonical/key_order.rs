//! Decides which objects of a request body have their keys sorted.
//!
//! The order of keys inside a JSON Schema, a tool's input or a document reaches the model and shapes the response. So keys are
//! sorted only where every enclosing position is known to be a parameter: the tables below name these positions. Everything
//! else keeps its order, at worst for a miss.

/// A position in the body. Arrays do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// The body itself.
    Root,
    /// A parameter, and everything in it.
    Parameter,
    /// An object of parameters whose values keep their order.
    Flat,
    /// A message or an input item.
    Message,
    /// A content part.
    Part,
    /// A tool or function definition.
    Tool,
    /// A container whose `format` describes the output: OpenAI Responses' `text`, Anthropic's `output_config`.
    FormatHolder,
    /// A description of the output: `response_format`, `text.format`, Anthropic's `output_format`.
    Format,
    /// `json_schema` in a format: OpenAI's wrapper around `schema`, or (Cohere) the schema itself.
    FormatSchema,
    /// Google's `generationConfig`.
    Generation,
    /// JSON that the model may see, and everything in it.
    Content,
}

use Position::{Content, Flat, Format, FormatHolder, FormatSchema, Generation, Message, Parameter, Part, Root, Tool};

type Table = &'static [(&'static str, Position)];

/// Top-level members with objects that are no content. A member that is not named here is [`Content`].
const ROOT: Table = &[
    ("audio", Flat),
    ("cache_control", Flat),
    ("chat_history", Message),
    ("citation_options", Flat),
    ("content", Message),
    ("contents", Message),
    ("context_management", Flat),
    ("functions", Tool),
    ("function_call", Flat),
    ("generationConfig", Generation),
    ("generation_config", Generation),
    ("input", Message),
    ("labels", Parameter),
    ("logit_bias", Parameter),
    ("messages", Message),
    ("metadata", Parameter),
    ("options", Flat),
    ("output_config", FormatHolder),
    ("output_format", Format),
    ("prediction", Part),
    ("provider", Parameter),
    ("reasoning", Flat),
    ("response_format", Format),
    ("safetySettings", Flat),
    ("safety_settings", Flat),
    ("stream_options", Flat),
    ("structured_outputs", Flat),
    ("system", Part),
    ("systemInstruction", Message),
    ("system_instruction", Message),
    ("text", FormatHolder),
    ("thinking", Flat),
    ("toolConfig", Parameter),
    ("tool_choice", Parameter),
    ("tool_config", Parameter),
    ("tools", Tool),
    ("usage", Flat),
    ("voice_settings", Flat),
    ("web_search_options", Parameter),
];

/// The members of messages and of Responses' input items.
const MESSAGE: Table = &[
    ("annotations", Content),
    ("arguments", Content),
    ("audio", Flat),
    ("cache_control", Flat),
    ("call_id", Content),
    ("content", Part),
    ("encrypted_content", Content),
    ("function_call", Flat),
    ("id", Content),
    ("images", Content),
    ("message", Content),
    ("name", Content),
    ("namespace", Content),
    ("output", Content),
    ("partial", Content),
    ("parts", Part),
    ("phase", Content),
    ("prefix", Content),
    ("reasoning", Content),
    ("reasoning_content", Content),
    ("reasoning_details", Content),
    ("refusal", Content),
    ("role", Content),
    ("status", Content),
    ("summary", Content),
    ("thinking", Content),
    ("tool_call_id", Content),
    ("tool_calls", Tool),
    ("tool_name", Content),
    ("tool_plan", Content),
    ("type", Content),
];

/// The members of content parts: of typed ones, and of Google's.
const PART: Table = &[
    ("arguments", Content),
    ("cache_control", Flat),
    ("caller", Flat),
    ("citations", Content),
    ("content", Part),
    ("context", Content),
    ("data", Content),
    ("detail", Content),
    ("document", Content),
    ("document_url", Content),
    ("encrypted_content", Content),
    ("file", Flat),
    ("fileData", Flat),
    ("file_data", Flat),
    ("file_id", Content),
    ("file_url", Content),
    ("filename", Content),
    ("functionCall", Flat),
    ("functionResponse", Flat),
    ("function_call", Flat),
    ("function_response", Flat),
    ("id", Content),
    ("image_url", Flat),
    ("inlineData", Flat),
    ("inline_data", Flat),
    ("input", Content),
    ("input_audio", Flat),
    ("is_error", Content),
    ("media_type", Content),
    ("name", Content),
    ("refusal", Content),
    ("signature", Content),
    ("source", Part),
    ("text", Content),
    ("thinking", Content),
    ("thought", Content),
    ("thoughtSignature", Content),
    ("thought_signature", Content),
    ("title", Content),
    ("tool_use_id", Content),
    ("type", Content),
    ("url", Content),
    ("videoMetadata", Flat),
    ("video_metadata", Flat),
    ("video_url", Flat),
];

/// The members of tools and of tool calls.
const TOOL: Table = &[
    ("allowed_callers", Content),
    ("allowed_domains", Content),
    ("allowed_tools", Parameter),
    ("arguments", Content),
    ("blocked_domains", Content),
    ("cache_control", Flat),
    ("codeExecution", Flat),
    ("custom", Tool),
    ("defer_loading", Content),
    ("description", Content),
    ("display_height_px", Content),
    ("display_width_px", Content),
    ("function", Tool),
    ("functionDeclarations", Tool),
    ("function_declarations", Tool),
    ("googleSearch", Flat),
    ("google_search", Flat),
    ("id", Content),
    ("index", Content),
    ("input_examples", Content),
    ("input_schema", Content),
    ("max_uses", Content),
    ("name", Content),
    ("parameterDefinitions", Content),
    ("parameter_definitions", Content),
    ("parameters", Content),
    ("require_approval", Parameter),
    ("response", Content),
    ("search_context_size", Content),
    ("server_label", Content),
    ("server_url", Content),
    ("strict", Content),
    ("type", Content),
    ("urlContext", Flat),
    ("user_location", Flat),
    ("vector_store_ids", Content),
];

const FORMAT_HOLDER: Table = &[("effort", Content), ("format", Format), ("verbosity", Content)];

/// The members of formats, beside those of the wrapper around a schema.
const FORMAT: Table = &[
    ("description", Content),
    ("grammar", Content),
    ("json_schema", FormatSchema),
    ("name", Content),
    ("schema", Content),
    ("strict", Content),
    ("type", Content),
    ("value", Content),
];

const GENERATION: Table =
    &[("imageConfig", Flat), ("speechConfig", Parameter), ("speech_config", Parameter), ("thinkingConfig", Flat)];

impl Position {
    /// Whether the keys of an object here stay in the order they came in.
    pub(super) fn keeps_order(self) -> bool {
        self == Content
    }

    /// The position of the value under `key` (in its canonical spelling) of an object here.
    pub(super) fn child(self, key: &[u8]) -> Position {
        if self == Parameter {
            return Parameter;
        }
        self.table().iter().find(|(name, _)| name.as_bytes() == key).map_or(Content, |(_, position)| *position)
    }

    /// The position of an object here, now that its keys are known. An object with a member that the tables do not name is
    /// content.
    pub(super) fn resolve<'a>(self, mut keys: impl Iterator<Item = &'a [u8]> + Clone) -> Position {
        let is_member = |key: &[u8]| self.table().iter().any(|(name, _)| name.as_bytes() == key);
        let has = |names: &[&str]| keys.clone().any(|key| names.iter().any(|name| name.as_bytes() == key));
        let typed = match self {
            Root | Parameter | Flat | Generation | Content => return self,
            Message => has(&["role", "type", "parts"]),
            Part => has(&["type"]) || keys.clone().all(is_google_part),
            Tool | FormatHolder | Format => true,
            FormatSchema => has(&["schema"]),
        };
        if typed && keys.all(is_member) { self } else { Content }
    }

    fn table(self) -> Table {
        match self {
            Root => ROOT,
            Message => MESSAGE,
            Part => PART,
            Tool => TOOL,
            FormatHolder => FORMAT_HOLDER,
            Format => FORMAT,
            Generation => GENERATION,
            // Their values are content.
            FormatSchema => &[("description", Content), ("name", Content), ("schema", Content), ("strict", Content)],
            Parameter | Flat | Content => &[],
        }
    }
}

/// Google's parts have no `type`.
fn is_google_part(key: &[u8]) -> bool {
    const MEMBERS: [&str; 13] = [
        "fileData",
        "file_data",
        "functionCall",
        "functionResponse",
        "function_call",
        "function_response",
        "inlineData",
        "inline_data",
        "text",
        "thought",
        "thoughtSignature",
        "thought_signature",
        "videoMetadata",
    ];
    MEMBERS.iter().any(|name| name.as_bytes() == key)
}
