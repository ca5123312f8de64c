// Responses like those of OpenAI and of other providers, as far as their official clients look at them.

import { EVENT_STREAM, sseEvent } from "./fixtures.mjs";

const TEXT = ["Bits hum", ", and are still."];

const objects = {
  "/v1/chat/completions": ({ model }) => ({
    id: "chatcmpl-1",
    object: "chat.completion",
    created: 1700000000,
    model,
    choices: [
      {
        index: 0,
        message: { role: "assistant", content: "Bits hum, and are still.", refusal: null },
        logprobs: null,
        finish_reason: "stop",
      },
    ],
    usage: { prompt_tokens: 9, completion_tokens: 6, total_tokens: 15 },
  }),
  "/v1/completions": ({ model }) => ({
    id: "cmpl-1",
    object: "text_completion",
    created: 1700000000,
    model,
    choices: [{ index: 0, text: "once", logprobs: null, finish_reason: "stop" }],
    usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
  }),
  "/v1/embeddings": ({ model, input, encoding_format }) => ({
    object: "list",
    model,
    data: [input].flat().map((_, index) => ({
      object: "embedding",
      index,
      embedding:
        encoding_format === "base64"
          ? Buffer.from(new Float32Array([0.5, -0.25]).buffer).toString("base64")
          : [0.5, -0.25],
    })),
    usage: { prompt_tokens: 1, total_tokens: 1 },
  }),
  "/v1/moderations": () => ({
    id: "modr-1",
    model: "omni-moderation-latest",
    results: [
      {
        flagged: false,
        categories: { hate: false },
        category_scores: { hate: 0.0001 },
        category_applied_input_types: { hate: ["text"] },
      },
    ],
  }),
};

const response = ({ model }) => ({
  id: "resp_1",
  object: "response",
  created_at: 1700000000,
  status: "completed",
  error: null,
  incomplete_details: null,
  model,
  output: [
    {
      id: "msg_1",
      type: "message",
      role: "assistant",
      status: "completed",
      content: [{ type: "output_text", text: TEXT.join(""), annotations: [], logprobs: [] }],
    },
  ],
  usage: {
    input_tokens: 9,
    input_tokens_details: { cached_tokens: 0 },
    output_tokens: 6,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: 15,
  },
});
objects["/v1/responses"] = response;

const message = ({ model }) => ({
  id: "msg_1",
  type: "message",
  role: "assistant",
  model,
  content: [{ type: "text", text: TEXT.join("") }],
  stop_reason: "end_turn",
  stop_sequence: null,
  usage: { input_tokens: 9, output_tokens: 6 },
});
objects["/v1/messages"] = message;

// The same responses as streams: the data of each event.
const streams = {
  "/v1/chat/completions": (request) => {
    /** @type {any} */
    const { choices, usage, ...rest } = objects["/v1/chat/completions"](request);
    const around = { ...rest, object: "chat.completion.chunk" };
    const chunk = (delta, finish_reason = null) => ({
      ...around,
      choices: [{ index: 0, delta, logprobs: null, finish_reason }],
    });
    const chunks = [
      chunk({ role: "assistant", content: "", refusal: null }),
      ...TEXT.map((content) => chunk({ content })),
      chunk({}, choices[0].finish_reason),
    ];
    if (request.stream_options?.include_usage) chunks.push({ ...around, choices: [], usage });
    return [...chunks, "[DONE]"];
  },
  "/v1/responses": (request) => {
    const whole = response(request);
    const [item] = whole.output;
    const begun = { ...whole, status: "in_progress", output: [], usage: null };
    const at = { item_id: item.id, output_index: 0, content_index: 0 };
    const part = { type: "output_text", text: "", annotations: [], logprobs: [] };
    const events = [
      { type: "response.created", response: begun },
      { type: "response.in_progress", response: begun },
      { type: "response.output_item.added", output_index: 0, item: { ...item, status: "in_progress", content: [] } },
      { type: "response.content_part.added", ...at, part },
      ...TEXT.map((delta) => ({ type: "response.output_text.delta", ...at, delta, logprobs: [] })),
      { type: "response.output_text.done", ...at, text: TEXT.join(""), logprobs: [] },
      { type: "response.content_part.done", ...at, part: item.content[0] },
      { type: "response.output_item.done", output_index: 0, item },
      { type: "response.completed", response: whole },
    ];
    return events.map((event, sequence_number) => ({ ...event, sequence_number }));
  },
  "/v1/messages": (request) => {
    const { content, stop_reason, stop_sequence, usage, ...rest } = message(request);
    const start = {
      ...rest,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: { ...usage, output_tokens: 1 },
    };
    return [
      { type: "message_start", message: start },
      { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
      { type: "ping" },
      ...TEXT.map((text) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } })),
      { type: "content_block_stop", index: 0 },
      { type: "message_delta", delta: { stop_reason, stop_sequence }, usage: { output_tokens: usage.output_tokens } },
      { type: "message_stop" },
    ];
  },
};

/** A response for the scripted upstream, in OpenAI's API or, for its path, in Anthropic's. */
export function respondLikeOpenAI(call) {
  const request = JSON.parse(call.body.toString());
  const headers = { "x-request-id": "req_1" };
  if (request.stream && streams[call.url]) {
    const body = streams[call.url](request).map(sseEvent).join("");
    return { headers: { ...headers, "content-type": "text/event-stream; charset=utf-8" }, body };
  }
  const object = objects[call.url];
  if (object) return { headers, json: object(request) };
  const error = { message: `no ${call.url} here`, type: "invalid_request_error", code: null, param: null };
  return { status: 404, json: { error } };
}

const cohere = {
  plain: () => ({
    id: "c-1",
    finish_reason: "COMPLETE",
    message: { role: "assistant", content: [{ type: "text", text: TEXT.join("") }] },
    usage: { tokens: { input_tokens: 9, output_tokens: 6 } },
  }),
  stream: () => [
    {
      type: "message-start",
      id: "c-1",
      delta: { message: { role: "assistant", content: [], tool_plan: "", tool_calls: [], citations: [] } },
    },
    { type: "content-start", index: 0, delta: { message: { content: { type: "text", text: "" } } } },
    ...TEXT.map((text) => ({ type: "content-delta", index: 0, delta: { message: { content: { text } } } })),
    { type: "content-end", index: 0 },
    {
      type: "message-end",
      delta: { finish_reason: "COMPLETE", usage: { tokens: { input_tokens: 9, output_tokens: 6 } } },
    },
  ],
};

const google = {
  plain: () => ({
    candidates: [{ content: { parts: [{ text: TEXT.join("") }], role: "model" }, finishReason: "STOP", index: 0 }],
    usageMetadata: { promptTokenCount: 9, candidatesTokenCount: 6, totalTokenCount: 15 },
    modelVersion: "gemini",
    responseId: "g-1",
  }),
  stream: () =>
    TEXT.map((text, at) => ({
      candidates: [
        { content: { parts: [{ text }], role: "model" }, index: 0, ...(at === 1 ? { finishReason: "STOP" } : {}) },
      ],
      usageMetadata: { promptTokenCount: 9, candidatesTokenCount: 6, totalTokenCount: 15 },
      modelVersion: "gemini",
      responseId: "g-1",
    })),
};

/** A response for the scripted upstream, in the API of the provider that the call names: `/{provider}/…`. */
export function respondLikeProviders(call) {
  const [, provider, rest] = /^\/([^/]+)(\/.*)$/.exec(call.url);
  const request = JSON.parse(call.body.toString());
  if (provider === "cohere") return request.stream ? events(cohere.stream()) : { json: cohere.plain() };
  if (provider === "google")
    return rest.includes(":streamGenerateContent") ? events(google.stream()) : { json: google.plain() };
  return respondLikeOpenAI({ ...call, url: rest.replace(/^\/openai\//, "/").replace(/\?.*$/, "") });
}

const events = (list) => ({ headers: EVENT_STREAM, body: list.map(sseEvent).join("") });
