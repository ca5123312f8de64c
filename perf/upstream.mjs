// The measurements' upstream, in a process of its own: its work must not be counted as the clients' or the Worker's.
//
// The path chooses the response: /{size}/v1 has about that many bytes, /{size},slow/v1 is delayed, /{size},think/v1 contains
// reasoning. A stream has 100 events, 10 ms apart. /calls gives the number of calls.
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { main, Stop as UserError } from "../scripts/lib.mjs";
import { chatCompletion, chatEvent, DONE } from "../testkit/fixtures.mjs";
import { startUpstream as startScriptedUpstream } from "../testkit/upstream.mjs";

export const EVENTS = 100;
export const INTERVAL_MS = 10; // between events
const DELAY_MS = 100; // of a slow response
const REASONING = [40, 50]; // events that open and close it
const STREAM = { "content-type": "text/event-stream; charset=utf-8" };
const MODEL = { id: "chatcmpl-1", model: "gpt-4o-mini" };

/** A response of about `size` bytes. */
export function completion(size, reasons = false) {
  const content = (reasons ? "<think>Let me think. </think>" : "") + "word ".repeat(Math.ceil((size - 300) / 5));
  const usage = { prompt_tokens: 10, completion_tokens: 20, total_tokens: 30 };
  return JSON.stringify(chatCompletion(content, { ...MODEL, choice: { logprobs: null }, usage }));
}

function event(n, reasons) {
  const opening = reasons && n === REASONING[0] ? "<think>word " : "word ";
  const content = reasons && n === REASONING[1] ? "word</think>" : opening;
  const isLast = n === EVENTS - 1;
  const delta = n === 0 ? { role: "assistant", content: "" } : isLast ? {} : { content };
  return chatEvent(delta, isLast ? "stop" : null, { ...MODEL, choice: { logprobs: null } });
}

const events = (reasons) =>
  Array.from({ length: EVENTS }, (_, n) => event(n, reasons) + (n === EVENTS - 1 ? DONE : ""));

/** The whole stream, as its hits have it. */
export const stream = () => events(false).join("");

/** Starts the upstream: { base, calls }. */
export async function startUpstream() {
  const child = fork(fileURLToPath(import.meta.url)); // ends when the channel to this process does
  const origin = await new Promise((resolve, reject) => {
    child.once("message", resolve);
    child.once("exit", () => reject(new UserError("The upstream did not start.")));
  });
  child.once("exit", () => {
    console.error("[reprise] The upstream has ended.");
    process.exit(1);
  });
  child.unref();
  child.channel.unref();
  return {
    base: (size, ...options) => `${origin}/${[size, ...options].join(",")}/v1`,
    calls: async () => Number(await (await fetch(`${origin}/calls`)).text()),
  };
}

// Serves until the channel to the parent closes.
async function serve() {
  const upstream = await startScriptedUpstream({ record: false });
  const cached = (make) => {
    const made = new Map();
    return (...key) => made.get(key.join()) ?? made.set(key.join(), make(...key)).get(key.join());
  };
  const bodyOf = cached((size, reasons) => Buffer.from(completion(size, reasons)));
  const eventsOf = cached((reasons) => events(reasons).map((text) => Buffer.from(text)));
  let counts = 0; // calls for /calls, which do not count
  upstream.otherwise(({ url, body }) => {
    if (url === "/calls") {
      counts += 1;
      return { body: String(upstream.count - counts) };
    }
    const [size, ...options] = url.split("/")[1].split(",");
    const reasons = options.includes("think");
    if (body.includes('"stream":true')) return { headers: STREAM, chunks: eventsOf(reasons), interval: INTERVAL_MS };
    return { body: bodyOf(Number(size), reasons), ...(options.includes("slow") && { delay: DELAY_MS }) };
  });
  process.once("disconnect", () => process.exit());
  process.send(upstream.origin);
  setInterval(() => {}, 1 << 30); // the scripted upstream alone does not keep a process alive
}

await main(import.meta, serve);
