// The official clients' own accumulators: each turns a stream's bytes into an object.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { after } from "node:test";
import { fileURLToPath } from "node:url";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const key = { apiKey: "sk-test", maxRetries: 0 };

// A fetch that responds to everything with these bytes.
const respondWith = (bytes) => async () =>
  new Response(bytes, { status: 200, headers: { "content-type": "text/event-stream; charset=utf-8" } });

export async function openaiChat(bytes, params = {}) {
  const client = new OpenAI({ ...key, fetch: respondWith(bytes) });
  /** @type {any} */
  const request = { model: "m", messages: [{ role: "user", content: "Hi" }], ...params };
  return plain(await client.chat.completions.stream(request).finalChatCompletion());
}

export async function openaiResponses(bytes) {
  const client = new OpenAI({ ...key, fetch: respondWith(bytes) });
  return plain(await client.responses.stream({ model: "m", input: "Hi" }).finalResponse());
}

export async function anthropicMessages(bytes) {
  const client = new Anthropic({ ...key, fetch: respondWith(bytes) });
  /** @type {any} */
  const request = { model: "m", max_tokens: 9, messages: [{ role: "user", content: "Hi" }] };
  return plain(await client.messages.stream(request).finalMessage());
}

// openai-python's accumulator, in the Python that `npm test` prepares: one process for all tests.
let python;
after(() => python?.stdin.end());
export async function openaiPythonChat(bytes) {
  python ??= startPython();
  python.stdin.write(`${Buffer.from(bytes).toString("base64")}\n`);
  const { value, done } = await python.lines.next();
  if (done) throw new Error("Python ended; its message is above");
  const result = JSON.parse(value);
  if (result.failed) throw new Error(`openai-python: ${result.failed}`);
  return plain(result);
}

function startPython() {
  const program = process.env.REPRISE_PYTHON;
  if (!program) throw new Error("REPRISE_PYTHON is not set: run this through `npm test`");
  const script = fileURLToPath(new URL("accumulate_chat.py", import.meta.url));
  const child = spawn(program, [script], { stdio: ["pipe", "pipe", "inherit"] });
  return { stdin: child.stdin, lines: createInterface({ input: child.stdout })[Symbol.asyncIterator]() };
}

// Fields that the clients add and that were never on the wire.
const CLIENT_FIELDS = ["parsed", "output_parsed", "parsed_output", "parsed_arguments", "output_text", "_request_id"];

export function plain(value) {
  return JSON.parse(JSON.stringify(value), (name, inner) => (CLIENT_FIELDS.includes(name) ? undefined : inner));
}
