// The endpoints that cases use, each with a minimal request and a minimal response. `{token}` identifies the case and the marker the
// upstream call that made the response. Both are in texts, which every gateway passes on.

const usage = { prompt_tokens: 5, completion_tokens: 3, total_tokens: 8 };
const CREATED = 1700000000;

const sse = (data) => {
  const event = data.type ? `event: ${data.type}\n` : "";
  return `${event}data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`;
};

// The text of a model: JSON, if the request requires it.
const fragments = ({ marker, request }) => {
  const formats = [
    request?.response_format,
    request?.text?.format,
    request?.output_format,
    request?.output_config?.format,
  ];
  const isJson = formats.some((format) => ["json_object", "json_schema"].includes(format?.type));
  return isJson ? ['{"it is": "', marker, '"}'] : ["It is ", marker, ", no more."];
};

const chatCompletion = (model, { marker, request }) => ({
  id: `chatcmpl-${marker}`,
  object: "chat.completion",
  created: CREATED,
  model,
  choices: [
    {
      index: 0,
      message: { role: "assistant", content: fragments({ marker, request }).join(""), refusal: null },
      logprobs: null,
      finish_reason: "stop",
    },
  ],
  usage,
});

const chatEvents = (model, { marker, request }) => {
  const around = { id: `chatcmpl-${marker}`, object: "chat.completion.chunk", created: CREATED, model };
  const chunk = (delta, finish_reason = null) => ({
    ...around,
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
  });
  /** @type {(object | string)[]} */
  const events = [
    chunk({ role: "assistant", content: "" }),
    ...fragments({ marker, request }).map((content) => chunk({ content })),
    chunk({}, "stop"),
  ];
  if (request.stream_options?.include_usage) events.push({ ...around, choices: [], usage });
  return [...events, "[DONE]"];
};

const modelResponse = (model, { marker, request }) => ({
  id: `resp_${marker}`,
  object: "response",
  created_at: CREATED,
  status: "completed",
  error: null,
  incomplete_details: null,
  instructions: null,
  metadata: {},
  model,
  parallel_tool_calls: true,
  temperature: 1,
  tool_choice: "auto",
  tools: [],
  top_p: 1,
  output: [
    {
      id: `msg_${marker}`,
      type: "message",
      role: "assistant",
      status: "completed",
      content: [{ type: "output_text", text: fragments({ marker, request }).join(""), annotations: [], logprobs: [] }],
    },
  ],
  usage: {
    input_tokens: 5,
    input_tokens_details: { cached_tokens: 0 },
    output_tokens: 3,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: 8,
  },
});

const responseEvents = (model, about) => {
  const whole = modelResponse(model, about);
  const [item] = whole.output;
  const [part] = item.content;
  const begun = { ...whole, status: "in_progress", output: [], usage: null };
  const at = { item_id: item.id, output_index: 0, content_index: 0 };
  return [
    { type: "response.created", response: begun },
    { type: "response.in_progress", response: begun },
    { type: "response.output_item.added", output_index: 0, item: { ...item, status: "in_progress", content: [] } },
    { type: "response.content_part.added", ...at, part: { ...part, text: "" } },
    ...fragments(about).map((delta) => ({
      type: "response.output_text.delta",
      ...at,
      delta,
      logprobs: [],
    })),
    { type: "response.output_text.done", ...at, text: part.text, logprobs: [] },
    { type: "response.content_part.done", ...at, part },
    { type: "response.output_item.done", output_index: 0, item },
    { type: "response.completed", response: whole },
  ].map((event, sequence_number) => ({ ...event, sequence_number }));
};

const message = (model, { marker, request }) => ({
  id: `msg_${marker}`,
  type: "message",
  role: "assistant",
  model,
  content: [{ type: "text", text: fragments({ marker, request }).join("") }],
  stop_reason: "end_turn",
  stop_sequence: null,
  usage: { input_tokens: 5, output_tokens: 3 },
});

const messageEvents = (model, about) => {
  const { content, stop_reason, stop_sequence, usage: counted, ...rest } = message(model, about);
  const started = {
    ...rest,
    content: [],
    stop_reason: null,
    stop_sequence: null,
    usage: { ...counted, output_tokens: 1 },
  };
  return [
    { type: "message_start", message: started },
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
    { type: "ping" },
    ...fragments(about).map((text) => ({
      type: "content_block_delta",
      index: 0,
      delta: { type: "text_delta", text },
    })),
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason, stop_sequence }, usage: { output_tokens: 3 } },
    { type: "message_stop" },
  ];
};

const completionEvents = (model, { marker, request }) => {
  const around = { id: `cmpl-${marker}`, object: "text_completion", created: CREATED, model };
  const chunk = (text, finish_reason = null) => ({
    ...around,
    choices: [{ index: 0, text, logprobs: null, finish_reason }],
  });
  /** @type {(object | string)[]} */
  const events = [chunk("It is "), chunk(marker), chunk(", no more.", "stop")];
  if (request.stream_options?.include_usage) events.push({ ...around, choices: [], usage });
  return [...events, "[DONE]"];
};

/** A small number that depends on a text. */
export const checksum = (text) =>
  [...String(text)].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 65521, 7);

// The first number of a vector is its call, because gateways rewrite embeddings and drop unknown members. The third depends on the input.
const vector = ({ n, request }, index) => {
  const numbers = [n, 0.5, checksum([request.input].flat()[index])];
  return request.encoding_format === "base64"
    ? Buffer.from(new Float32Array(numbers).buffer).toString("base64")
    : numbers;
};

export const APIS = {
  chat: {
    path: "/chat/completions",
    body: { model: "{model}", messages: [{ role: "user", content: "What is {token}?" }] },
    response: chatCompletion,
    events: chatEvents,
  },
  completions: {
    path: "/completions",
    body: { model: "{model}", prompt: "What is {token}?" },
    response: (model, { marker }) => ({
      id: `cmpl-${marker}`,
      object: "text_completion",
      created: CREATED,
      model,
      choices: [{ index: 0, text: `It is ${marker}, no more.`, logprobs: null, finish_reason: "stop" }],
      usage,
    }),
    events: completionEvents,
  },
  responses: {
    path: "/responses",
    body: { model: "{model}", input: "What is {token}?" },
    response: modelResponse,
    events: responseEvents,
  },
  messages: {
    path: "/messages",
    headers: { "anthropic-version": "2023-06-01" },
    body: { model: "{anthropic-model}", max_tokens: 64, messages: [{ role: "user", content: "What is {token}?" }] },
    response: message,
    events: messageEvents,
  },
  "count-tokens": {
    path: "/messages/count_tokens",
    headers: { "anthropic-version": "2023-06-01" },
    body: { model: "{anthropic-model}", messages: [{ role: "user", content: "What is {token}?" }] },
    response: (_, { n }) => ({ input_tokens: 1000 + n }),
    callOf: ({ input_tokens }) => input_tokens - 1000,
  },
  embeddings: {
    path: "/embeddings",
    body: { model: "{embedding-model}", input: "This is {token}." },
    response: (model, about) => ({
      object: "list",
      model,
      usage: { prompt_tokens: 4, total_tokens: 4 },
      data: [about.request.input]
        .flat()
        .map((_, index) => ({ object: "embedding", index, embedding: vector(about, index) })),
    }),
    callOf: ({ data }) => {
      const numbers = data?.[0]?.embedding;
      return typeof numbers === "string" ? Buffer.from(numbers, "base64").readFloatLE(0) : numbers?.[0];
    },
  },
  moderations: {
    path: "/moderations",
    body: { model: "{moderation-model}", input: "This is {token}." },
    response: (model, { marker }) => ({
      id: `modr-${marker}`,
      model,
      results: [{ flagged: false, categories: { hate: false }, category_scores: { hate: 0.0001 } }],
    }),
  },
  images: {
    path: "/images/generations",
    body: { model: "{image-model}", prompt: "A picture of {token}" },
    response: (_, { marker }) => ({
      created: CREATED,
      data: [{ b64_json: Buffer.from(marker).toString("base64"), revised_prompt: `A picture: ${marker}` }],
    }),
  },
  speech: {
    path: "/audio/speech",
    body: { model: "{speech-model}", voice: "alloy", input: "This is {token}." },
    type: "audio/mpeg",
    response: (_, { marker }) =>
      Buffer.concat([Buffer.from(marker), Buffer.from(Array.from({ length: 256 }, (_, i) => i))]),
  },
  rerank: {
    path: "/rerank",
    body: { model: "{rerank-model}", query: "Which is {token}?", documents: ["one", "two"] },
    response: (_, { marker }) => ({ id: `rerank-${marker}`, results: [{ index: 1, relevance_score: 0.5 }] }),
  },
  // Requests that change state, or that no cache can know.
  files: {
    path: "/files",
    body: { purpose: "batch", name: "{token}" },
    response: (_, { marker }) => ({ id: `file-${marker}` }),
  },
  batches: {
    path: "/batches",
    body: { input_file_id: "{token}" },
    response: (_, { marker }) => ({ id: `batch-${marker}` }),
  },
  unknown: { path: "/frobnicate", body: { input: "{token}" }, response: (_, { marker }) => ({ id: `frob-${marker}` }) },
  models: {
    path: "/models",
    response: (_, { marker }) => ({ object: "list", data: [{ id: `m-${marker}`, object: "model" }] }),
  },
};

/** The API of a path, whatever prefix the gateway has added; the longest match wins. */
export function apiAt(url) {
  const path = url.split("?")[0].replace(/\/+$/, "");
  const matching = Object.entries(APIS).filter(([, api]) => path.endsWith(api.path) || path.includes(`${api.path}/`));
  return matching.sort(([, a], [, b]) => b.path.length - a.path.length)[0]?.[0];
}

/** The default response to a call: { type, body }, or { type, events } with the texts of its events. */
export function goodResponse(api, about) {
  const fixture = APIS[api] ?? APIS.unknown;
  const model = about.request.model ?? "model";
  if (about.request.stream === true && fixture.events) {
    return { type: "text/event-stream; charset=utf-8", events: fixture.events(model, about).map(sse) };
  }
  const body = fixture.response(model, about);
  return {
    type: fixture.type ?? "application/json",
    body: Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body)),
  };
}

export const eventText = sse;
