// Minutes of everything at once: hits, misses, streams, conversions, lifetimes, renewals, refreshes, clients that leave,
// an upstream that fails in every way, entries that rot. Every answer's bytes follow from its question, whoever gives it and
// however often, so each reply is held against what it must be. And the worker's process must not grow.
//
// Started by `npm run soak`, which sets SOAK_MINUTES.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { after, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { open, send } from "../e2e/support/client.mjs";
import { startUpstream } from "../e2e/support/upstream.mjs";
import { within } from "../e2e/support/wait.mjs";
import { worker } from "../e2e/support/worker.mjs";

const MINUTES = Number(process.env.SOAK_MINUTES ?? 3);
assert.ok(MINUTES > 0, `SOAK_MINUTES is no number of minutes: ${process.env.SOAK_MINUTES}`);
const ASKERS = 4; // at the same time
const SAMPLE_MS = 250;
// Of the last fifth over the middle one. The garbage collector is in no hurry, with the smallest of workers neither: it takes
// a minute or two of this load until the process has the size that it keeps, and that is before the middle.
const MOST_GROWTH = 1.1;

// Miniflare keeps the local KV in the same process as the worker: with ever new keys that process would grow as a store
// does, not as a leak does. So there are few questions, which are asked over and over, and entries are rewritten and expire.
const QUESTIONS = 60;

const upstream = await startUpstream();
after(() => upstream.close());

// Reproducible as far as concurrency allows.
let seed = 1;
function random() {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 32;
}
const below = (n) => Math.floor(random() * n);
const chance = (share) => random() < share;

// Bytes that only this question has, of a length that only this question has.
function text(n, of) {
  let all = "";
  const length = [40, 700, 5_000, 25_000][n % 4] + n;
  for (let block = 0; all.length < length; block += 1) {
    all += createHash("sha256").update(`${of} ${n} ${block}`).digest("base64");
  }
  return all.slice(0, length);
}

// As the converter writes them, so that an object has the same bytes whether the upstream made it or the worker did.
const CHUNK = { id: "c", object: "chat.completion.chunk", created: 1, model: "m" };
const event = (delta, finish_reason = null) =>
  `data: ${JSON.stringify({ ...CHUNK, choices: [{ index: 0, delta, logprobs: null, finish_reason }] })}\n\n`;
const stream = (pieces, first = {}) =>
  Buffer.from(
    [{ role: "assistant", content: "", ...first }, ...pieces.map((content) => ({ content }))].map((delta) => event(delta)).join("") +
      `${event({}, "stop")}data: [DONE]\n\n`,
  );

const questions = Array.from({ length: QUESTIONS }, (_, n) => {
  if (n % 6 === 5) {
    const bytes = Buffer.from(text(n, "sound"), "base64");
    return { n, path: "/audio/speech", type: "audio/mpeg", body: { model: "tts", voice: "v", input: `${n}` }, plain: bytes };
  }
  const content = text(n, "chat");
  const message = { role: "assistant", content, refusal: null };
  const object = {
    id: "c",
    created: 1,
    model: "m",
    object: "chat.completion",
    choices: [{ index: 0, message, logprobs: null, finish_reason: "stop" }],
  };
  return {
    n,
    path: "/chat/completions",
    type: "application/json",
    body: { model: "m", messages: [{ role: "user", content: `${n}` }] },
    plain: Buffer.from(JSON.stringify(object)),
    stream: stream(content.match(/.{1,500}/g)),
    converted: stream([content], { refusal: null }),
  };
});
const byQuestion = new Map(questions.map((question) => [question.body.input ?? question.body.messages[0].content, question]));
const file = (n) => Buffer.from(text(n, "file"), "base64");
const failure = (status, n) => Buffer.from(`{ "error": {"message": "${status} for ${n}"} }\n`);

// What becomes of a call, by its share of all.
const FAULTS = {
  "500": 0.03,
  "503": 0.03,
  "429": 0.03,
  "400": 0.01,
  reset: 0.03,
  cut: 0.03,
  stall: 0.005,
  silence: 0.005,
  gzip: 0.05,
  "bad gzip": 0.01,
};
function fault() {
  let at = random();
  for (const [name, share] of Object.entries(FAULTS)) if ((at -= share) < 0) return name;
  return "none";
}

const NEVER = new Promise(() => {});
const tick = () => new Promise((resolve) => setTimeout(resolve, 2));
const scripted = {};

upstream.otherwise(async (call, res) => {
  const body = await call.whole;
  const gone = new Promise((resolve) => res.once("close", resolve));
  const asked = call.method === "POST" ? JSON.parse(body.toString()) : undefined;
  const question = asked && byQuestion.get(asked.input ?? asked.messages[0].content);
  const n = question?.n ?? Number(call.url.split("/").at(-1));
  const bytes = question === undefined ? file(n) : asked.stream === true ? question.stream : question.plain;
  const headers = {
    "content-type": question === undefined ? "application/octet-stream" : asked.stream === true ? "text/event-stream" : question.type,
  };
  let what = fault();
  // Only what models write has a limit to its pauses past the cache.
  if (what === "stall" && question?.stream === undefined) what = "cut";
  scripted[what] = (scripted[what] ?? 0) + 1;
  const piece = (from, to) => new Promise((resolve) => res.write(bytes.subarray(from, to), resolve));
  switch (what) {
    case "500":
    case "503":
    case "429":
    case "400":
      res.writeHead(Number(what), { "content-type": "application/json", ...(chance(0.5) ? { "retry-after": "0" } : {}) });
      return res.end(failure(what, n));
    case "reset":
      return res.destroy();
    case "silence":
      return Promise.race([NEVER, gone]);
    case "cut":
    case "stall":
      res.writeHead(200, { ...headers, ...(chance(0.5) ? { "content-length": bytes.length } : {}) });
      res.flushHeaders();
      await Promise.race([piece(0, below(bytes.length)), gone]);
      return what === "cut" ? res.destroy() : Promise.race([NEVER, gone]);
    case "gzip":
      return res.writeHead(200, { ...headers, "content-encoding": "gzip" }).end(gzipSync(bytes));
    case "bad gzip":
      return res.writeHead(200, { ...headers, "content-encoding": "gzip" }).end(gzipSync(bytes).subarray(0, -9));
    default:
      if (chance(0.5)) return res.writeHead(200, { ...headers, "content-length": bytes.length }).end(bytes);
      res.writeHead(200, headers);
      for (let at = 0; at < bytes.length && !res.destroyed; at += Math.ceil(bytes.length / 6)) {
        await Promise.race([piece(at, at + Math.ceil(bytes.length / 6)), gone]);
        await tick();
      }
      res.end();
  }
});

const proxy = await worker({
  vars: {
    OPENAI_BASE_URL: `${upstream.origin}/v1`,
    MAX_RETRIES: "1",
    BASE_RETRY_DELAY: "0.01",
    RATE_LIMIT_WAIT: "0.01",
    TIMEOUT: "3",
    IDLE_TIMEOUT: "2",
    STALE_IF_ERROR: "20",
    STALE_WHILE_REVALIDATE: "1",
    CACHE_TTL: "3",
    // A store that a busy machine makes late is no finding here.
    STORE_TIMEOUT_MS: "5000",
  },
});

const seen = {};
const note = (what) => void (seen[what] = (seen[what] ?? 0) + 1);
const show = (reply) =>
  `${reply.status} ${JSON.stringify(reply.headers)} ${reply.whole ? "whole" : "broken off"}, ${reply.body.length} bytes: ${reply.body.toString("latin1", 0, 200)}`;

const CONTROLS = [{}, {}, {}, {}, {}, {}, { "x-proxy-ttl": "1" }, { "x-proxy-ttl": "1" }, { "x-proxy-ttl": "3" }, { "x-proxy-refresh": "true" }, { "cache-control": "max-age=2, stale-if-error=10" }, { "cache-control": "no-store" }, { "cache-control": "only-if-cached" }];
const OWN_ERRORS = { 502: "upstream_unreachable", 504: ["timeout", "only_if_cached"] };

async function exchange() {
  const passing = chance(0.1);
  const question = questions[below(QUESTIONS)];
  const streamed = question.stream !== undefined && chance(0.5);
  const n = below(20);
  const request = passing
    ? { method: "GET", path: `/proxy/files/${n}`, headers: { authorization: "Bearer sk-soak" } }
    : {
        path: `/proxy${question.path}`,
        headers: { "content-type": "application/json", authorization: "Bearer sk-soak", ...CONTROLS[below(CONTROLS.length)] },
        body: JSON.stringify(streamed ? { ...question.body, stream: true } : question.body),
      };
  const good = passing ? [file(n)] : streamed ? [question.stream, question.converted] : [question.plain];

  if (chance(0.05)) {
    note("left");
    const reply = await open(proxy.origin, request);
    if (chance(0.5)) await reply.next().catch(() => {});
    return reply.leave();
  }

  const reply = await send(proxy.origin, { ...request, mayBreak: true });
  const cache = reply.headers["x-cache-status"];
  const wrong = (why) => assert.fail(`${why}\nasked: ${request.path} ${JSON.stringify(request.headers)} ${request.body?.slice(0, 200)}\ngot: ${show(reply)}`);
  note(cache);
  if (cache === "HIT" && streamed && reply.body.equals(question.converted)) note("converted");
  if (reply.status !== 200) {
    note(`status ${reply.status}`);
    if (!reply.whole) wrong("an error broke off");
    const own = OWN_ERRORS[reply.status];
    const same = own === undefined ? reply.body.equals(failure(reply.status, passing ? n : question.n)) : own.includes(JSON.parse(reply.body).error.code);
    return same || reply.body.equals(failure(reply.status, passing ? n : question.n)) || wrong("an error that nobody gave");
  }
  let { body } = reply;
  if (reply.headers["content-encoding"] === "gzip") {
    note("coded");
    // What the upstream has coded badly arrives as it was sent.
    if (good.some((bytes) => body.equals(gzipSync(bytes).subarray(0, -9)))) return note("coded badly");
    body = gunzipSync(body);
  }
  if (!reply.whole) {
    note("broken off");
    if (["HIT", "STALE", "UPDATING"].includes(cache)) wrong("a stored answer broke off");
    return good.some((bytes) => body.equals(bytes.subarray(0, body.length))) || wrong("wrong bytes before the break");
  }
  return good.some((bytes) => body.equals(bytes)) || wrong("wrong bytes");
}

// Entries rot: one of them, now and then.
async function rot() {
  const entries = await proxy.entries();
  if (entries.length === 0) return;
  const [key, bytes] = entries[below(entries.length)];
  if (chance(0.5)) bytes[below(bytes.length)] ^= 1 << below(8);
  await proxy.kv.put(key, chance(0.5) ? bytes.subarray(0, below(bytes.length)) : bytes);
  note("rotten entries");
}

// The process that the worker runs in, in megabytes: a child of this one.
function residentMegabytes() {
  const rows = execFileSync("ps", ["-A", "-o", "ppid=,rss=,comm="]).toString().trim().split("\n");
  const mine = rows.map((row) => row.trim().split(/\s+/)).filter(([parent, , name]) => Number(parent) === process.pid && /workerd/.test(name));
  assert.equal(mine.length, 1, "the workerd of this test");
  return Number(mine[0][1]) / 1024;
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

test(`${MINUTES} minutes of everything`, async (t) => {
  const end = performance.now() + MINUTES * 60_000;
  const samples = [];
  let over = false;
  const until = (work) => async () => {
    while (!over && performance.now() < end) await work();
  };
  const every = (ms, work) => until(async () => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    await work();
  });
  const workers = [
    ...Array.from({ length: ASKERS }, () => until(exchange)),
    every(SAMPLE_MS, () => void samples.push(residentMegabytes())),
    every(1500, rot),
    // What the tests remember of every call and line is theirs, and of no use here.
    every(1000, () => {
      upstream.calls.length = proxy.lines.length = 0;
      proxy.output = "";
    }),
  ];
  try {
    await within(Promise.all(workers.map((work) => work())), "all askers to end", MINUTES * 60_000 + 60_000);
  } finally {
    over = true;
    const list = (counts) => Object.entries(counts).sort().map(([name, count]) => `${name} ${count}`).join(", ");
    t.diagnostic(`replies: ${list(seen)}`);
    t.diagnostic(`the upstream's behaviour: ${list(scripted)}`);
    const fifth = Math.floor(samples.length / 5);
    t.diagnostic(`megabytes, median of each fifth: ${[0, 1, 2, 3, 4].map((n) => Math.round(median(samples.slice(n * fifth, (n + 1) * fifth)))).join(", ")}`);
  }
  for (const what of ["HIT", "MISS", "EXPIRED", "REFRESH", "BYPASS", "STALE", "UPDATING", "converted", "coded", "broken off", "left", "rotten entries", "status 502"]) {
    assert.ok(seen[what] > 0, `never once: ${what}`);
  }
  const fifth = Math.floor(samples.length / 5);
  const [middle, last] = [2, 4].map((n) => median(samples.slice(n * fifth, (n + 1) * fifth)));
  assert.ok(last <= middle * MOST_GROWTH, `the process has grown from ${middle.toFixed(1)} to ${last.toFixed(1)} MB`);
});
