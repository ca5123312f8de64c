// Requests, responses and streams of the OpenAI API, for all tests.

/**
 * A chat request, for `send` and `open`. Further fields go into the body.
 *
 * @param {any} [content]
 * @param {{ headers?: Record<string, any>, key?: string | null, path?: string, [field: string]: any }} [fields]
 * @returns {import("./client.mjs").SentRequest}
 */
export const chatRequest = (
  content = "Hi",
  { headers = {}, key = "sk-test", path = "/proxy/chat/completions", ...fields } = {},
) => ({
  path,
  headers: { "content-type": "application/json", ...(key !== null && { authorization: `Bearer ${key}` }), ...headers },
  body: JSON.stringify({ model: "m", messages: [{ role: "user", content }], ...fields }),
});

/**
 * A result of each endpoint in one object, for requests whose response does not matter: others are not stored.
 *
 * @param {string} id
 */
export const result = (id) => ({
  id,
  status: "completed",
  done: true,
  choices: [{ index: 0, message: { role: "assistant", content: "hi" }, text: "hi", finish_reason: "stop" }],
  output: [{ type: "message" }],
  content: [{ type: "text", text: "hi" }],
  candidates: [{ content: { parts: [{ text: "hi" }] }, finishReason: "STOP" }],
  message: { role: "assistant", content: "hi" },
  data: [{ embedding: [0.5], b64_json: "AA==" }],
});

/** @param {string} id */
export const resultText = (id) => JSON.stringify(result(id));

/**
 * A chat completion. `choice`: fields of its only choice; `fields`: further fields around it.
 *
 * @param {any} [content]
 * @param {{ choice?: object, message?: object, [field: string]: any }} [fields]
 * @returns {any}
 */
export const chatCompletion = (content = "Hello", { choice = {}, message = {}, ...fields } = {}) => ({
  id: "c",
  object: "chat.completion",
  created: 1,
  model: "m",
  choices: [{ index: 0, message: { role: "assistant", content, ...message }, finish_reason: "stop", ...choice }],
  ...fields,
});

/**
 * The object of one chunk of a chat stream.
 *
 * @param {object} delta
 * @param {string | null} [finish_reason]
 * @param {{ choice?: object, [field: string]: any }} [fields]
 */
export const chatChunk = (delta, finish_reason = null, { choice = {}, ...fields } = {}) => ({
  id: "c",
  object: "chat.completion.chunk",
  created: 1,
  model: "m",
  choices: [{ index: 0, delta, finish_reason, ...choice }],
  ...fields,
});

export const DONE = "data: [DONE]\n\n";
export const EVENT_STREAM = { "content-type": "text/event-stream" };

/** One server-sent event, named if its data has a `type`. Text is sent as it is. */
export const sseEvent = (data) =>
  `${data.type ? `event: ${data.type}\n` : ""}data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`;

/** One chunk of a chat stream, as its event. */
export const chatEvent = (delta, finish_reason = null, fields = {}) =>
  sseEvent(chatChunk(delta, finish_reason, fields));

/** A whole chat stream of these texts. */
export const chatStream = (texts, fields = {}) =>
  texts.map((content) => chatEvent({ content }, null, fields)).join("") + chatEvent({}, "stop", fields) + DONE;

/** The text that a chat stream says. */
export const textOfStream = (stream) =>
  [...stream.matchAll(/^data: (\{.*\})$/gm)]
    .map(([, json]) => JSON.parse(json).choices[0]?.delta.content ?? "")
    .join("");
