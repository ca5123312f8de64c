// What the providers would say in grammars of their own, as far as their official clients look at it; the rest is as
// OpenAI says it.

import { likeOpenAI } from "./upstream.mjs";

const TEXT = ["Bits hum", ", and are still."];

const cohere = {
  plain: () => ({
    id: "c-1",
    finish_reason: "COMPLETE",
    message: { role: "assistant", content: [{ type: "text", text: TEXT.join("") }] },
    usage: { tokens: { input_tokens: 9, output_tokens: 6 } },
  }),
  stream: () => [
    { type: "message-start", id: "c-1", delta: { message: { role: "assistant", content: [], tool_plan: "", tool_calls: [], citations: [] } } },
    { type: "content-start", index: 0, delta: { message: { content: { type: "text", text: "" } } } },
    ...TEXT.map((text) => ({ type: "content-delta", index: 0, delta: { message: { content: { text } } } })),
    { type: "content-end", index: 0 },
    { type: "message-end", delta: { finish_reason: "COMPLETE", usage: { tokens: { input_tokens: 9, output_tokens: 6 } } } },
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
      candidates: [{ content: { parts: [{ text }], role: "model" }, index: 0, ...(at === 1 ? { finishReason: "STOP" } : {}) }],
      usageMetadata: { promptTokenCount: 9, candidatesTokenCount: 6, totalTokenCount: 15 },
      modelVersion: "gemini",
      responseId: "g-1",
    })),
};

// An answer for the scripted upstream, from what it was asked below `/{provider}`.
export function likeProviders(call) {
  const [, provider, rest] = /^\/([^/]+)(\/.*)$/.exec(call.url);
  const asked = JSON.parse(call.body.toString());
  if (provider === "cohere") return asked.stream ? events(cohere.stream()) : { json: cohere.plain() };
  if (provider === "google") return rest.includes(":streamGenerateContent") ? events(google.stream()) : { json: google.plain() };
  return likeOpenAI({ ...call, url: rest.replace(/^\/openai\//, "/").replace(/\?.*$/, "") });
}

function events(list) {
  const body = list.map((data) => `${data.type ? `event: ${data.type}\n` : ""}data: ${JSON.stringify(data)}\n\n`).join("");
  return { headers: { "content-type": "text/event-stream" }, body };
}
