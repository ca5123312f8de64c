// Minutes of everything at once: hits, misses, streams, conversions, lifetimes, revalidations, refreshes, disconnecting clients,
// an upstream that fails in every way, and damaged entries. The bytes of a response follow from its request, so each reply is
// compared with what it must be. The Worker's process must not grow.
//
// Started by `npm run soak`, which sets SOAK_MINUTES.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { after, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, send } from "../../testkit/client.mjs";
import { chatChunk, DONE, sseEvent } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { withTimeout } from "../../testkit/wait.mjs";

const MINUTES = Number(process.env.SOAK_MINUTES ?? 3);
assert.ok(MINUTES > 0, `SOAK_MINUTES is no number of minutes: ${process.env.SOAK_MINUTES}`);
const CLIENTS = 4; // concurrent
const SAMPLE_MS = 250;
// Of the last fifth over the middle one. The garbage collector needs a minute or two of this load until the size of the process
// is stable, even with a minimal worker. That is before the middle.
const MAX_GROWTH = 1.1;

// Miniflare keeps the local KV in the Worker's process, which would grow with ever new keys. So a few requests are repeated, and
// their entries are rewritten and expire.
const SCENARIOS = 60;

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

// Bytes and a length that no other request has.
function text(n, of) {
  let all = "";
  const length = [40, 700, 5_000, 25_000][n % 4] + n;
  for (let block = 0; all.length < length; block += 1) {
    all += createHash("sha256").update(`${of} ${n} ${block}`).digest("base64");
  }
  return all.slice(0, length);
}

// As the converter writes them: an object has the same bytes whether the upstream or the Worker made it.
const event = (delta, finish_reason = null) =>
  sseEvent({ ...chatChunk({}), choices: [{ index: 0, delta, logprobs: null, finish_reason }] });
const stream = (texts, first = {}) =>
  Buffer.from(
    `${[{ role: "assistant", content: "", ...first }, ...texts.map((content) => ({ content }))]
      .map((delta) => event(delta))
      .join("")}${event({}, "stop")}${DONE}`,
  );

const scenarios = Array.from({ length: SCENARIOS }, (_, n) => {
  if (n % 6 === 5) {
    const bytes = Buffer.from(text(n, "sound"), "base64");
    return {
      n,
      path: "/audio/speech",
      type: "audio/mpeg",
      body: { model: "tts", voice: "v", input: `${n}` },
      plain: bytes,
    };
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
const byContent = new Map(
  scenarios.map((scenario) => [scenario.body.input ?? scenario.body.messages[0].content, scenario]),
);
const file = (n) => Buffer.from(text(n, "file"), "base64");
const failure = (status, n) => Buffer.from(`{ "error": {"message": "${status} for ${n}"} }\n`);

// The faults of a call, by their share of all calls.
const FAULTS = {
  500: 0.03,
  503: 0.03,
  429: 0.03,
  400: 0.01,
  reset: 0.03,
  truncate: 0.03,
  stall: 0.005,
  silence: 0.005,
  gzip: 0.05,
  "corrupt gzip": 0.01,
};
function fault() {
  let at = random();
  for (const [name, share] of Object.entries(FAULTS)) if ((at -= share) < 0) return name;
  return "none";
}

const NEVER = new Promise(() => {});
const tick = () => new Promise((resolve) => setTimeout(resolve, 2));
const faults = {};

upstream.otherwise(async (call, res) => {
  const body = await call.bodyReceived;
  const closed = new Promise((resolve) => res.once("close", resolve));
  const request = call.method === "POST" ? JSON.parse(body.toString()) : undefined;
  const scenario = request && byContent.get(request.input ?? request.messages[0].content);
  const n = scenario?.n ?? Number(call.url.split("/").at(-1));
  const bytes = scenario === undefined ? file(n) : request.stream === true ? scenario.stream : scenario.plain;
  const headers = {
    "content-type":
      scenario === undefined
        ? "application/octet-stream"
        : request.stream === true
          ? "text/event-stream"
          : scenario.type,
  };
  let what = fault();
  // A bypassing response has an IDLE_TIMEOUT only if a model writes it.
  if (what === "stall" && scenario?.stream === undefined) what = "truncate";
  faults[what] = (faults[what] ?? 0) + 1;
  const write = (from, to) => new Promise((resolve) => res.write(bytes.subarray(from, to), resolve));
  switch (what) {
    case "500":
    case "503":
    case "429":
    case "400":
      res.writeHead(Number(what), {
        "content-type": "application/json",
        ...(chance(0.5) ? { "retry-after": "0" } : {}),
      });
      return res.end(failure(what, n));
    case "reset":
      return res.destroy();
    case "silence":
      return Promise.race([NEVER, closed]);
    case "truncate":
    case "stall":
      res.writeHead(200, { ...headers, ...(chance(0.5) ? { "content-length": bytes.length } : {}) });
      res.flushHeaders();
      await Promise.race([write(0, below(bytes.length)), closed]);
      return what === "truncate" ? res.destroy() : Promise.race([NEVER, closed]);
    case "gzip":
      return res.writeHead(200, { ...headers, "content-encoding": "gzip" }).end(gzipSync(bytes));
    case "corrupt gzip":
      return res.writeHead(200, { ...headers, "content-encoding": "gzip" }).end(gzipSync(bytes).subarray(0, -9));
    default:
      if (chance(0.5)) return res.writeHead(200, { ...headers, "content-length": bytes.length }).end(bytes);
      res.writeHead(200, headers);
      for (let at = 0; at < bytes.length && !res.destroyed; at += Math.ceil(bytes.length / 6)) {
        await Promise.race([write(at, at + Math.ceil(bytes.length / 6)), closed]);
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
    // A store that is late on a busy machine is not a fault.
    STORE_TIMEOUT_MS: "5000",
  },
});

const seen = {};
const note = (what) => void (seen[what] = (seen[what] ?? 0) + 1);
const show = (reply) =>
  `${reply.status} ${JSON.stringify(reply.headers)} ${reply.complete ? "complete" : "truncated"}, ${reply.body.length} bytes: ${reply.body.toString("latin1", 0, 200)}`;

const CONTROLS = [
  {},
  {},
  {},
  {},
  {},
  {},
  { "x-proxy-ttl": "1" },
  { "x-proxy-ttl": "1" },
  { "x-proxy-ttl": "3" },
  { "x-proxy-refresh": "true" },
  { "cache-control": "max-age=2, stale-if-error=10" },
  { "cache-control": "no-store" },
  { "cache-control": "only-if-cached" },
];
const OWN_ERRORS = { 502: "upstream_unreachable", 504: ["timeout", "only_if_cached"] };

async function exchange() {
  const passing = chance(0.1);
  const scenario = scenarios[below(SCENARIOS)];
  const streamed = scenario.stream !== undefined && chance(0.5);
  const n = below(20);
  const request = passing
    ? { method: "GET", path: `/proxy/files/${n}`, headers: { authorization: "Bearer sk-soak" } }
    : {
        path: `/proxy${scenario.path}`,
        headers: {
          "content-type": "application/json",
          authorization: "Bearer sk-soak",
          ...CONTROLS[below(CONTROLS.length)],
        },
        body: JSON.stringify(streamed ? { ...scenario.body, stream: true } : scenario.body),
      };
  const good = passing ? [file(n)] : streamed ? [scenario.stream, scenario.converted] : [scenario.plain];

  if (chance(0.05)) {
    note("disconnected");
    const reply = await open(proxy.origin, request);
    if (chance(0.5)) await reply.next().catch(() => {});
    return reply.disconnect();
  }

  const reply = await send(proxy.origin, { ...request, allowTruncation: true });
  const cache = xCacheStatusOf(reply);
  const wrong = (why) =>
    assert.fail(
      `${why}\nrequest: ${request.path} ${JSON.stringify(request.headers)} ${request.body?.slice(0, 200)}\ngot: ${show(reply)}`,
    );
  note(cache);
  if (cache === "HIT" && streamed && reply.body.equals(scenario.converted)) note("converted");
  if (reply.status !== 200) {
    note(`status ${reply.status}`);
    if (!reply.complete) wrong("a truncated error");
    const own = OWN_ERRORS[reply.status];
    const same =
      own === undefined
        ? reply.body.equals(failure(reply.status, passing ? n : scenario.n))
        : own.includes(JSON.parse(reply.body.toString()).error.code);
    return (
      same || reply.body.equals(failure(reply.status, passing ? n : scenario.n)) || wrong("an error that nobody sent")
    );
  }
  let { body } = reply;
  if (reply.headers["content-encoding"] === "gzip") {
    note("compressed");
    // A corrupt body arrives as it was sent.
    if (good.some((bytes) => body.equals(gzipSync(bytes).subarray(0, -9)))) return note("corrupt gzip");
    body = gunzipSync(body);
  }
  if (!reply.complete) {
    note("truncated");
    if (["HIT", "STALE", "UPDATING"].includes(cache)) wrong("a stored response was truncated");
    return (
      good.some((bytes) => body.equals(bytes.subarray(0, body.length))) || wrong("wrong bytes before the truncation")
    );
  }
  return good.some((bytes) => body.equals(bytes)) || wrong("wrong bytes");
}

// Damages an entry.
async function damageEntry() {
  const entries = await proxy.entries();
  if (entries.length === 0) return;
  const [key, bytes] = entries[below(entries.length)];
  if (chance(0.5)) bytes[below(bytes.length)] ^= 1 << below(8);
  await proxy.kv.put(key, chance(0.5) ? bytes.subarray(0, below(bytes.length)) : bytes);
  note("damaged entries");
}

// The resident memory of the Worker's process, a child of this one.
function residentMegabytes() {
  const rows = execFileSync("ps", ["-A", "-o", "ppid=,rss=,comm="]).toString().trim().split("\n");
  const mine = rows
    .map((row) => row.trim().split(/\s+/))
    .filter(([parent, , name]) => Number(parent) === process.pid && /workerd/.test(name));
  assert.equal(mine.length, 1, "the workerd of this test");
  return Number(mine[0][1]) / 1024;
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

test(`${MINUTES} minutes of mixed load give right responses and no memory growth`, async (t) => {
  const end = performance.now() + MINUTES * 60_000;
  const samples = [];
  let over = false;
  const until = (work) => async () => {
    while (!over && performance.now() < end) await work();
  };
  const every = (ms, work) =>
    until(async () => {
      await new Promise((resolve) => setTimeout(resolve, ms));
      await work();
    });
  const workers = [
    ...Array.from({ length: CLIENTS }, () => until(exchange)),
    every(SAMPLE_MS, () => void samples.push(residentMegabytes())),
    every(1500, damageEntry),
    // The records of calls and lines would grow in this process.
    every(1000, () => {
      upstream.calls.length = proxy.lines.length = 0;
      proxy.output = "";
    }),
  ];
  try {
    await withTimeout(Promise.all(workers.map((work) => work())), "all clients to end", MINUTES * 60_000 + 60_000);
  } finally {
    over = true;
    const list = (counts) =>
      Object.entries(counts)
        .sort()
        .map(([name, count]) => `${name} ${count}`)
        .join(", ");
    t.diagnostic(`replies: ${list(seen)}`);
    t.diagnostic(`faults of the upstream: ${list(faults)}`);
    const fifth = Math.floor(samples.length / 5);
    t.diagnostic(
      `megabytes, median of each fifth: ${[0, 1, 2, 3, 4].map((n) => Math.round(median(samples.slice(n * fifth, (n + 1) * fifth)))).join(", ")}`,
    );
  }
  for (const what of [
    "HIT",
    "MISS",
    "EXPIRED",
    "REFRESH",
    "BYPASS",
    "STALE",
    "UPDATING",
    "converted",
    "compressed",
    "truncated",
    "disconnected",
    "damaged entries",
    "status 502",
  ]) {
    assert.ok(seen[what] > 0, `never seen: ${what}`);
  }
  const fifth = Math.floor(samples.length / 5);
  const [middle, last] = [2, 4].map((n) => median(samples.slice(n * fifth, (n + 1) * fifth)));
  assert.ok(last <= middle * MAX_GROWTH, `the process has grown from ${middle.toFixed(1)} to ${last.toFixed(1)} MB`);
});
