// `reprise demo`: the Worker in front of a simulated OpenAI API on this machine, without a key or the internet. Every request is
// sent twice: the second response must have the first one's bytes, from the cache.
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CommandError } from "./errors.js";
import { Folder } from "./folder.js";
import { interruption } from "./interruption.js";
import { startSimulatedApi } from "./simulated-api.js";
import { startWorker } from "./start-worker.js";

const LATENCY_MS = 400; // of the simulated API
const STORED_LIMIT_MS = 10_000;

/** @type {[string, string, object][]} */
const REQUESTS = [
  [
    "chat completion",
    "chat/completions",
    { model: "gpt-4o-mini", messages: [{ role: "user", content: "Say hello." }] },
  ],
  ["completion", "completions", { model: "gpt-3.5-turbo-instruct", prompt: "Once upon a time" }],
  ["embedding", "embeddings", { model: "text-embedding-3-small", input: "a cache" }],
  ["moderation", "moderations", { model: "omni-moderation-latest", input: "a kind word" }],
];

/** @param {string} text */
const print = (text = "") => process.stdout.write(`${text}\n`);

/** Returns the exit status; undefined: 0. */
export async function demo() {
  print("Starting a simulated OpenAI API and the Worker.");
  const interrupted = interruption();
  const at = mkdtempSync(path.join(os.tmpdir(), "reprise-demo-"));
  const api = await startSimulatedApi({ latencyMs: LATENCY_MS });
  let worker;
  try {
    const folder = await Folder.open(at);
    worker = await startWorker({
      host: "127.0.0.1",
      port: 0,
      variables: new Map([["OPENAI_BASE_URL", `${api.origin}/v1`]]),
      folder,
      onLine: () => {},
      onErrorLine: (line) => process.stderr.write(`${line}\n`),
      interrupted: interrupted.once,
    });
    if (!worker) return 130;
    const done = await Promise.race([tryOut(worker.url, api), interrupted.once.then(() => false)]);
    if (!done) return 130;
  } finally {
    interrupted.off();
    await worker?.stop();
    await api.stop();
    rmSync(at, { recursive: true, force: true });
  }
}

/**
 * Sends every request twice, and prints what happens.
 *
 * @param {string} url
 * @param {Awaited<ReturnType<typeof startSimulatedApi>>} api
 */
async function tryOut(url, api) {
  const wrong = [];
  const first = [];
  print();
  print(row("request", "try", "status", "X-Cache-Status", "ms", "upstream calls"));
  for (const [name, endpoint, body] of REQUESTS) {
    const response = await send(url, endpoint, body);
    print(row(name, 1, response.status, response.cache, response.ms, api.calls()));
    first.push(response.text);
  }
  for (const [index, [name, endpoint, body]] of REQUESTS.entries()) {
    await stored(url, name, endpoint, body);
    const response = await send(url, endpoint, body);
    print(row(name, 2, response.status, response.cache, response.ms, api.calls()));
    if (response.status !== 200 || response.cache !== "HIT") wrong.push(`${name}: the repeat was not a hit`);
    else if (response.text !== first[index]) wrong.push(`${name}: the repeat has other bytes`);
  }
  if (api.calls() !== REQUESTS.length) wrong.push(`the simulated API was called ${api.calls()} times`);
  print();
  if (wrong.length > 0) throw new CommandError(`Not as expected: ${wrong.join("; ")}`);
  print(`Every repeat had the same bytes: ${2 * REQUESTS.length} requests, ${api.calls()} upstream calls.`);
  print("`npx reprise` serves your own client in the same way.");
  return true;
}

/** @param {string} url @param {string} endpoint @param {object} body @param {Record<string, string>} [headers] */
async function send(url, endpoint, body, headers = {}) {
  const began = performance.now();
  const response = await fetch(`${url}/proxy/${endpoint}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer sk-demo", ...headers },
    body: JSON.stringify(body),
  });
  const text = await response.text();
  const ms = Math.round(performance.now() - began);
  return { status: response.status, cache: response.headers.get("x-cache-status") ?? "-", text, ms };
}

/**
 * Waits until a response is stored, which is after it is sent: `only-if-cached` is 504 until then, and never calls the API.
 *
 * @param {string} url
 * @param {string} name
 * @param {string} endpoint
 * @param {object} body
 */
async function stored(url, name, endpoint, body) {
  for (const end = Date.now() + STORED_LIMIT_MS; Date.now() < end; await sleep(10)) {
    if ((await send(url, endpoint, body, { "cache-control": "only-if-cached" })).status === 200) return;
  }
  throw new CommandError(`The ${name} was not stored in ${STORED_LIMIT_MS / 1000} seconds.`);
}

/**
 * @param {string} name
 * @param {string | number} attempt
 * @param {string | number} status
 * @param {string} cache
 * @param {string | number} ms
 * @param {string | number} calls
 */
const row = (name, attempt, status, cache, ms, calls) =>
  [
    name.padEnd(16),
    String(attempt).padEnd(3),
    String(status).padEnd(6),
    cache.padEnd(14),
    String(ms).padStart(5),
    String(calls).padStart(14),
  ].join("  ");
