// Reads the text of a response, streamed or not.

import { parseJson } from "../../testkit/json.mjs";

/** The data of an event stream's events, in order. */
export function events(text) {
  return text
    .replace(/\r\n?/g, "\n")
    .split("\n\n")
    .map((frame) =>
      frame
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart())
        .join("\n"),
    )
    .filter((data) => data !== "");
}

export const isStream = (reply) => /^text\/event-stream\b/.test(reply.headers["content-type"] ?? "");

/** { text, ended, usage } of a chat, completion, response or message; undefined for anything else. */
export function parseResponse(reply) {
  const text = reply.body.toString();
  return isStream(reply) ? fromStream(events(text)) : fromObject(parseJson(text));
}

function fromObject(object) {
  if (object === undefined) return undefined;
  const { choices, output, content, usage } = object;
  const complete = { ended: true, usage: Boolean(usage) };
  if (choices)
    return { ...complete, text: choices.map((choice) => choice.message?.content ?? choice.text ?? "").join("") };
  if (output)
    return {
      ...complete,
      text: output
        .flatMap((item) => item.content ?? [])
        .map((part) => part.text ?? "")
        .join(""),
    };
  if (Array.isArray(content)) return { ...complete, text: content.map((part) => part.text ?? "").join("") };
  return undefined;
}

function fromStream(frames) {
  let text = "";
  let ended = false;
  let usage = false;
  for (const data of frames) {
    if (data === "[DONE]") {
      ended = true;
      continue;
    }
    const event = parseJson(data);
    if (event === undefined) return undefined;
    if (event.usage || event.response?.usage) usage = true;
    if (event.type === "message_stop" || event.type === "response.completed") ended = true;
    if (event.type === "response.output_text.delta") text += event.delta;
    if (event.type === "content_block_delta") text += event.delta.text ?? "";
    for (const choice of event.choices ?? []) text += choice.delta?.content ?? choice.text ?? "";
  }
  return { text, ended, usage };
}
