// Streams and objects with the features that the recorded ones lack.

import { chatChunk, chatCompletion, DONE, sseEvent } from "../../../testkit/fixtures.mjs";

const sse = (...chunks) => chunks.map(sseEvent).join("") + DONE;

const RESPONSE = {
  id: "chatcmpl-1",
  created: 1700000000,
  model: "m-1",
  system_fingerprint: "fp_1",
  service_tier: "default",
};
const chat = (choices, more = {}) => chatChunk({}, null, { ...RESPONSE, choices, ...more });
const choice = (delta, finish_reason = null, more = {}) => ({
  index: 0,
  delta,
  finish_reason,
  logprobs: null,
  ...more,
});
const say = (...choices) => choices.map((one) => chat([one]));
const logprob = (token, top = []) => ({
  token,
  logprob: -0.12345678901,
  bytes: [...Buffer.from(token)],
  top_logprobs: top,
});
const usage = {
  prompt_tokens: 5,
  completion_tokens: 7,
  total_tokens: 12,
  completion_tokens_details: { reasoning_tokens: 3 },
};

export const streams = {
  chat: [
    [
      "text in chunks",
      sse(
        ...say(
          choice({ role: "assistant", content: "" }),
          choice({ content: "Hé" }),
          choice({ content: "llo\n" }),
          choice({}, "stop"),
        ),
      ),
    ],
    ["an empty response", sse(...say(choice({ role: "assistant", content: "" }), choice({}, "stop")))],
    [
      "a refusal",
      sse(
        ...say(
          choice({ role: "assistant", content: null, refusal: "" }),
          choice({ refusal: "I " }),
          choice({ refusal: "won't" }),
          choice({}, "stop"),
        ),
      ),
    ],
    [
      "parallel tool calls with interleaved fragments",
      sse(
        ...say(
          choice({
            role: "assistant",
            content: null,
            tool_calls: [{ index: 0, id: "a", type: "function", function: { name: "f", arguments: "" } }],
          }),
          choice({ tool_calls: [{ index: 1, id: "b", type: "function", function: { name: "g", arguments: "" } }] }),
          choice({
            tool_calls: [
              { index: 0, function: { arguments: '{"x"' } },
              { index: 1, function: { arguments: "{" } },
            ],
          }),
          choice({ tool_calls: [{ index: 1, function: { arguments: "}" } }] }),
          choice({ tool_calls: [{ index: 0, function: { arguments: ":1}" } }] }),
          choice({}, "tool_calls"),
        ),
      ),
    ],
    [
      "a legacy function call",
      sse(
        ...say(
          choice({ role: "assistant", content: null, function_call: { name: "f", arguments: "" } }),
          choice({ function_call: { arguments: "{}" } }),
          choice({}, "function_call"),
        ),
      ),
    ],
    [
      "several choices, interleaved",
      sse(
        chat([choice({ role: "assistant", content: "" }), { ...choice({ role: "assistant", content: "" }), index: 1 }]),
        chat([{ ...choice({ content: "b" }), index: 1 }]),
        chat([choice({ content: "a" })]),
        chat([{ ...choice({}, "stop"), index: 1 }]),
        chat([choice({}, "stop")]),
      ),
    ],
    [
      "log probabilities",
      sse(
        ...say(
          choice({ role: "assistant", content: "" }, null, { logprobs: { content: [], refusal: null } }),
          choice({ content: "a" }, null, {
            logprobs: { content: [logprob("a", [{ token: "b", logprob: -1e-9, bytes: [98] }])], refusal: null },
          }),
          choice({ content: "b" }, null, { logprobs: { content: [logprob("b")], refusal: null } }),
          choice({}, "stop"),
        ),
      ),
    ],
    [
      "reasoning and text",
      sse(
        ...say(
          choice({ role: "assistant", content: "", reasoning_content: "Hm" }),
          choice({ reasoning_content: ", yes." }),
          choice({ content: "Yes" }),
          choice({ content: "." }),
          choice({}, "stop"),
        ),
      ),
      // openai-node keeps only the last chunk of an unknown text.
      { only: "openai-python" },
    ],
    [
      "audio",
      sse(
        ...say(
          choice({ role: "assistant", content: null, audio: { id: "audio_1", transcript: "He" } }),
          choice({ audio: { data: "AAAA", transcript: "llo" } }),
          choice({ audio: { data: "BBBB" } }),
          choice({ audio: { expires_at: 4102444800 } }),
          choice({}, "stop"),
        ),
      ),
    ],
    [
      "annotations and fields of the future",
      sse(
        ...say(
          choice({ role: "assistant", content: "see" }),
          choice({
            annotations: [
              { type: "url_citation", url_citation: { url: "https://x", title: "x", start_index: 0, end_index: 3 } },
            ],
          }),
          choice({ mood: { calm: true } }),
          choice({}, "stop"),
        ),
      ),
      // openai-python joins lists by an index that annotations do not have.
      { only: "openai-node" },
    ],
    [
      "usage",
      sse(
        ...say(choice({ role: "assistant", content: "a" }), choice({}, "stop")).map((one) => ({ ...one, usage: null })),
        chat([], { usage }),
      ),
    ],
  ],
};

const completion = (message, choice = {}, fields = {}) =>
  chatCompletion(null, {
    message: { refusal: null, ...message },
    choice: { logprobs: null, ...choice },
    ...RESPONSE,
    usage,
    ...fields,
  });

export const objects = {
  chat: [
    ["text", completion({ content: "Héllo\n\u2028😀" })],
    ["an empty text", completion({ content: "" })],
    ["a refusal", completion({ refusal: "I won't" })],
    [
      "tool calls",
      completion(
        {
          tool_calls: [
            { id: "a", type: "function", function: { name: "f", arguments: '{"x":1}' } },
            { id: "b", type: "function", function: { name: "g", arguments: "" } },
          ],
        },
        { finish_reason: "tool_calls" },
      ),
    ],
    [
      "a legacy function call",
      completion({ function_call: { name: "f", arguments: "{}" } }, { finish_reason: "function_call" }),
    ],
    [
      "log probabilities",
      completion({ content: "ab" }, { logprobs: { content: [logprob("a"), logprob("b")], refusal: null } }),
    ],
    ["reasoning and text", completion({ content: "Yes.", reasoning_content: "Hm, yes." })],
    ["audio", completion({ audio: { id: "audio_1", data: "AAAABBBB", transcript: "Hello", expires_at: 4102444800 } })],
    [
      "annotations and fields of the future",
      completion(
        {
          content: "see",
          annotations: [
            { type: "url_citation", url_citation: { url: "https://x", title: "x", start_index: 0, end_index: 3 } },
          ],
          mood: { calm: true },
        },
        { verdict: ["a", 1.5] },
        { era: { since: 2030 } },
      ),
      { only: "openai-node" },
    ],
    [
      "several choices",
      completion(
        {},
        {},
        {
          choices: [0, 1, 2].map((index) => ({
            index,
            message: { role: "assistant", content: `c${index}`, refusal: null },
            logprobs: null,
            finish_reason: "stop",
          })),
        },
      ),
    ],
  ],
};
