// The official clients' own accumulators: a stream's bytes in, the object that they make of it out.

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { after } from "node:test";
import { fileURLToPath } from "node:url";

const key = { apiKey: "sk-test", maxRetries: 0 };

// A client's fetch that answers everything with these bytes.
const saying = (bytes) => async () =>
  new Response(bytes, { status: 200, headers: { "content-type": "text/event-stream; charset=utf-8" } });

export async function openaiChat(bytes, params = {}) {
  const client = new OpenAI({ ...key, fetch: saying(bytes) });
  const request = { model: "m", messages: [{ role: "user", content: "Hi" }], ...params };
  return plain(await client.chat.completions.stream(request).finalChatCompletion());
}

export async function openaiResponses(bytes) {
  const client = new OpenAI({ ...key, fetch: saying(bytes) });
  return plain(await client.responses.stream({ model: "m", input: "Hi" }).finalResponse());
}

export async function anthropicMessages(bytes) {
  const client = new Anthropic({ ...key, fetch: saying(bytes) });
  const request = { model: "m", max_tokens: 9, messages: [{ role: "user", content: "Hi" }] };
  return plain(await client.messages.stream(request).finalMessage());
}

// openai-python's accumulator, in the Python that `npm test` prepares: one process for all.
let python;
after(() => python?.stdin.end());
export async function openaiPythonChat(bytes) {
  python ??= startPython();
  python.stdin.write(`${Buffer.from(bytes).toString("base64")}\n`);
  const { value, done } = await python.answers.next();
  if (done) throw new Error("Python ended; its message is above");
  const answer = JSON.parse(value);
  if (answer.failed) throw new Error(`openai-python: ${answer.failed}`);
  return plain(answer);
}

function startPython() {
  const program = process.env.REPRISE_PYTHON;
  if (!program) throw new Error("REPRISE_PYTHON is not set: run this through `npm test`");
  const script = fileURLToPath(new URL("accumulate_chat.py", import.meta.url));
  const child = spawn(program, [script], { stdio: ["pipe", "pipe", "inherit"] });
  return { stdin: child.stdin, answers: createInterface({ input: child.stdout })[Symbol.asyncIterator]() };
}

// What the clients add for their callers' comfort, and never came over the wire.
const COMFORT = ["parsed", "output_parsed", "parsed_output", "parsed_arguments", "output_text", "_request_id"];

export function plain(value) {
  return JSON.parse(JSON.stringify(value), (name, inner) => (COMFORT.includes(name) ? undefined : inner));
}
