// The fault table: whatever breaks, what does the client see, and what is stored afterwards?
//
// Rows are faults. Columns are a plain question and a stream, with nothing stored before a fault of the upstream's and a
// good entry before one of the store's, and `stale`: a plain question with an entry that is past its lifetime. A cell:
//
//   status, cache, detail   the client's status, its X-Cache-Status, and the detail of Cache-Status
//   body      "upstream": the upstream's bytes; "coded": those of its content coding; "entry": the stored ones;
//             { error: code }: the proxy's own error; { part: n }: the upstream's first n bytes, whole as far as HTTP can
//             tell; { broken: n }: those, and then the connection breaks off
//   calls     how often the upstream was asked (MAX_RETRIES is 1)
//   log       why the answer is not stored, as the log has it (absent: the log says the same as `detail`)
//   stored    afterwards: "new" (the upstream's answer), "entry" (what was there before) or "nothing"
//   upstream  in rows of the store's: "fails" with 500, or answers well (absent)
//
// When the fault is over, every cell ends with a good answer, stored.

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { send } from "./support/client.mjs";
import { age, decode, DIGEST_AT, VERSION_AT } from "./support/entry.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const VARS = {
  OPENAI_BASE_URL: `${upstream.origin}/v1`,
  MAX_RETRIES: "1",
  BASE_RETRY_DELAY: "0.01",
  RATE_LIMIT_WAIT: "0.01",
  TIMEOUT: "1",
  IDLE_TIMEOUT: "1",
  CACHE_TTL: "60",
  STALE_IF_ERROR: "300",
};
const NEVER = new Promise(() => {});

const chunk = (content, finish_reason = null) =>
  `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", choices: [{ index: 0, delta: { content }, finish_reason }] })}\n\n`;
const answers = {
  plain: (name) => ({ type: "application/json", bytes: Buffer.from(JSON.stringify({ id: name, choices: [] })) }),
  stream: (name) => ({
    type: "text/event-stream",
    bytes: Buffer.from(`${chunk(name)}${chunk("more")}${chunk("", "stop")}data: [DONE]\n\n`),
  }),
};
const said = ({ type, bytes }) => ({ headers: { "content-type": type }, base64: bytes.toString("base64") });

// What a row's upstream says: a function from a good answer to what becomes of it.
const HALF = 20; // bytes that come of an answer which does not come whole
const byHand = (headers, script) => (good) => async (call, res) => {
  await call.whole;
  res.writeHead(200, { "content-type": good.type, ...headers(good.bytes) });
  res.flushHeaders();
  await script(res, good.bytes);
};
const sent = (res, bytes) => new Promise((resolve) => res.write(bytes, resolve));
const counted = (bytes) => ({ "content-length": String(bytes.length) });
const chunked = () => ({});
const brokenAt = (n) => async (res, bytes) => {
  await sent(res, bytes.subarray(0, n));
  res.destroy();
};
const stalledAt = (n) => (res, bytes) => n === 0 || sent(res, bytes.subarray(0, n));
const fails = (status, headers = {}) => () => ({
  status,
  headers: { "x-request-id": "req_failed", ...headers },
  body: `{ "error": {"message": "a ${status}"} }\n`,
});
const coded = (encode) => (good) => ({
  headers: { "content-type": good.type, "content-encoding": "gzip" },
  base64: encode(good.bytes).toString("base64"),
});
const cutShort = (bytes) => gzipSync(bytes).subarray(0, -12);
const flipped = (bytes) => {
  const zipped = gzipSync(bytes);
  zipped[zipped.length - 6] ^= 0xff; // in the checksum: every byte before it is good
  return zipped;
};

// Cells that many rows share.
const MISS = { status: 200, cache: "MISS", detail: null, calls: 1, stored: "nothing" };
const EXPIRED = { status: 200, cache: "EXPIRED", detail: "expired", calls: 1, stored: "entry" };
const STALE = { status: 200, cache: "STALE", body: "entry", calls: 2, stored: "entry" };
const unreachable = (calls) => ({
  plain: { ...MISS, status: 502, detail: "upstream-unreachable", body: { error: "upstream_unreachable" }, calls },
  stream: { ...MISS, status: 502, detail: "upstream-unreachable", body: { error: "upstream_unreachable" }, calls },
  stale: { ...STALE, detail: "upstream-unreachable", calls },
});
const silent = {
  plain: { ...MISS, status: 504, detail: "upstream-timeout", body: { error: "timeout" } },
  stream: { ...MISS, status: 504, detail: "upstream-timeout", body: { error: "timeout" } },
  stale: { ...STALE, detail: "upstream-timeout", calls: 1 },
};
// A failure that is the upstream's own answer: the client's, unless an entry stands in.
const answer = (status, calls, headers) => ({
  plain: { ...MISS, status, log: "status", body: "upstream", calls, headers },
  stream: { ...MISS, status, log: "status", body: "upstream", calls, headers },
  stale: { ...STALE, detail: "upstream-error", calls, headers: { "retry-after": null, "x-request-id": null } },
});
// The head was good: what follows it cannot be taken back, whatever is stored.
const broken = (n, log) => ({
  plain: { ...MISS, log, body: { broken: n } },
  stream: { ...MISS, log, body: { broken: n } },
  stale: { ...EXPIRED, log, body: { broken: n } },
});
const CODED = { "content-encoding": "gzip" };
// Coded bytes go through as they are: it is the client's decoder that finds out, and ours, so that nothing is stored.
const undecodable = {
  plain: { ...MISS, log: "truncated", body: "coded", headers: CODED },
  stream: { ...MISS, log: "truncated", body: "coded", headers: CODED },
  stale: { ...EXPIRED, log: "truncated", body: "coded", headers: CODED },
};

const UPSTREAM = {
  "refuses connections": { refuse: true, ...unreachable(0) },
  "hangs up before its head": { says: () => (call, res) => void res.destroy(), ...unreachable(2) },
  "hangs up inside its head": {
    says: () => (call, res) => void res.socket.end("HTTP/1.1 200 OK\r\ncontent-ty"),
    ...unreachable(2),
  },
  "speaks no HTTP": { says: () => (call, res) => void res.socket.end("SSH-2.0-OpenSSH_9.6\r\n"), ...unreachable(2) },
  "stalls before its head": { says: () => ({ hold: NEVER }), ...silent },
  "stalls inside its head": {
    says: () => (call, res) => void res.socket.write("HTTP/1.1 200 OK\r\ncontent-ty"),
    ...silent,
  },

  ...Object.fromEntries(
    [429, 500, 502, 503, 504, 529].flatMap((status) => [
      [`answers ${status}`, { says: fails(status), ...answer(status, 2, { "retry-after": null }) }],
      [
        `answers ${status} with Retry-After`,
        { says: fails(status, { "retry-after": "0" }), ...answer(status, 2, { "retry-after": "0", "x-request-id": "req_failed" }) },
      ],
      [
        `answers ${status} with a Retry-After beyond TIMEOUT`,
        { says: fails(status, { "retry-after": "100" }), ...answer(status, 1, { "retry-after": "100" }) },
      ],
    ]),
  ),

  "breaks off in a counted body": { says: byHand(counted, brokenAt(HALF)), ...broken(HALF, "truncated") },
  "breaks off in a chunked body": { says: byHand(chunked, brokenAt(HALF)), ...broken(HALF, "truncated") },
  "breaks off before a counted body": { says: byHand(counted, brokenAt(0)), ...broken(0, "truncated") },
  "breaks off before a chunked body": { says: byHand(chunked, brokenAt(0)), ...broken(0, "truncated") },
  "breaks off where only the end of a chunked body is missing": {
    // Every byte was there, but nobody has said so.
    says: byHand(chunked, brokenAt(Infinity)),
    ...broken(Infinity, "truncated"),
  },
  "stalls in a counted body": { says: byHand(counted, stalledAt(HALF)), ...broken(HALF, "stalled") },
  "stalls in a chunked body": { says: byHand(chunked, stalledAt(HALF)), ...broken(HALF, "stalled") },
  "stalls after its head": { says: byHand(counted, stalledAt(0)), ...broken(0, "stalled") },
  "stalls where only the end of a chunked body is missing": {
    says: byHand(chunked, stalledAt(Infinity)),
    ...broken(Infinity, "stalled"),
  },

  "promises more than it sends, and hangs up": {
    says: byHand((bytes) => ({ "content-length": String(bytes.length + 7) }), brokenAt(Infinity)),
    ...broken(Infinity, "truncated"),
  },
  "promises more than it sends, and stays": {
    says: byHand((bytes) => ({ "content-length": String(bytes.length + 7) }), stalledAt(Infinity)),
    ...broken(Infinity, "stalled"),
  },
  "sends more than it promises": {
    // HTTP ends where the promise does. What is left of a stream or an object shows that it is not whole.
    says: byHand(
      () => ({ "content-length": String(HALF), connection: "close" }),
      (res, bytes) => void res.end(bytes),
    ),
    plain: { ...MISS, log: "answer-not-json", body: { part: HALF } },
    stream: { ...MISS, log: "truncated", body: { part: HALF } },
    stale: { ...EXPIRED, log: "answer-not-json", body: { part: HALF } },
  },

  "calls gzip what is none": { says: coded((bytes) => bytes), ...undecodable },
  "cuts its gzip short": { says: coded(cutShort), ...undecodable },
  "has a wrong checksum in its gzip": { says: coded(flipped), ...undecodable },
};

const upstreamProxy = await worker({ vars: VARS });
const gated = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "100" }, store: "gated" });
const upstash = await worker({ vars: { ...VARS, STORE_TIMEOUT_MS: "100" }, store: "upstash" });

// A fault of what was read: the upstream is asked, and where it fails too, that is the client's answer.
const unread = (detail, stored = "new") => ({
  plain: { ...MISS, detail, body: "upstream", stored },
  stream: { ...MISS, detail, body: "upstream", stored },
  stale: { ...MISS, status: 500, detail, log: "status", body: "upstream", calls: 2, stored: "entry", upstream: "fails" },
});
// A fault while the new answer is written, to a question that asks for one.
const unwritten = (log, stored = "entry") => ({
  refresh: true,
  plain: { ...MISS, cache: "REFRESH", detail: "refresh", log, body: "upstream", stored },
  stream: { ...MISS, cache: "REFRESH", detail: "refresh", log, body: "upstream", stored },
  stale: { ...EXPIRED, log, body: "upstream", stored, refresh: false },
});
const damaged = (damage) => ({
  on: "both",
  async breaks(proxy) {
    const [[key, bytes]] = await proxy.entries();
    await proxy.kv.put(key, damage(Buffer.from(bytes)));
  },
  ...unread("entry-corrupt"),
  stale: { ...unread("entry-corrupt").stale, stored: "damaged" },
});
// Upstash's own answer to some commands, in place of Redis's.
const refuses = (verbs, status, body) => (proxy) =>
  proxy.redis.otherwise(async (call) => {
    const [verb] = JSON.parse(call.body.toString());
    return verbs.includes(verb) ? { status, body } : proxy.redis.serve(call);
  });
const QUOTA = '{"error":"ERR max daily request limit exceeded. Limit: 10000, Usage: 10000."}';

const STORE = {
  "KV fails": {
    on: "gated",
    breaks: (proxy) => ["get", "put"].forEach((operation) => proxy.gate(operation, "fail")),
    ...unread("store-error", "entry"),
  },
  "KV fails to read": { on: "gated", breaks: (proxy) => void proxy.gate("get", "fail"), ...unread("store-error") },
  "KV reads slower than STORE_TIMEOUT_MS": {
    on: "gated",
    breaks: (proxy) => void proxy.gate("get", NEVER),
    ...unread("store-timeout"),
  },
  "KV refuses a write once, and takes it then": {
    on: "gated",
    breaks(proxy) {
      let writes = 0;
      proxy.gate("put", () => ((writes += 1) === 1 ? "fail" : "pass"));
    },
    ...unwritten(undefined, "new"),
  },
  "KV refuses every write": {
    on: "gated",
    breaks: (proxy) => void proxy.gate("put", "fail"),
    ...unwritten("store-error"),
  },

  "Redis cannot be reached": {
    on: "upstash",
    breaks: (proxy) => proxy.redis.refuse(),
    mends: (proxy) => proxy.redis.listen(),
    ...unread("store-error", "entry"),
  },
  "Redis is slower than STORE_TIMEOUT_MS": {
    on: "upstash",
    breaks: (proxy) =>
      proxy.redis.otherwise(async (call) =>
        JSON.parse(call.body.toString())[0] === "GET" ? { hold: NEVER } : proxy.redis.serve(call),
      ),
    ...unread("store-timeout"),
  },
  "Redis begins to answer and stalls": {
    on: "upstash",
    breaks: (proxy) =>
      proxy.redis.otherwise(async (call, res) => {
        await call.whole;
        if (JSON.parse(call.body.toString())[0] === "GET") {
          res.writeHead(200, { "content-length": "100" });
          return void res.write('{"result":"');
        }
        const { status = 200, json } = await proxy.redis.serve(call);
        res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(json));
      }),
    ...unread("store-timeout"),
  },
  "Redis refuses the token": {
    on: "upstash",
    breaks: refuses(["GET", "SET"], 401, '{"error":"Unauthorized"}'),
    ...unread("store-error", "entry"),
  },
  "Redis answers garbage": {
    on: "upstash",
    breaks: refuses(["GET", "SET"], 200, "<html>502 Bad Gateway</html>"),
    ...unread("store-error", "entry"),
  },
  "Redis has its quota exceeded": {
    on: "upstash",
    breaks: refuses(["GET", "SET"], 400, QUOTA),
    ...unread("store-error", "entry"),
  },
  "Redis refuses every write": {
    on: "upstash",
    breaks: refuses(["SET"], 400, '{"error":"OOM command not allowed when used memory > \'maxmemory\'."}'),
    ...unwritten("store-error"),
  },

  "the entry is garbage": damaged(() => Buffer.from('{"result":"no entry"}')),
  "the entry is empty": damaged(() => Buffer.alloc(0)),
  "the entry is of another version": damaged((bytes) => ((bytes[VERSION_AT] += 1), bytes)),
  "the entry is truncated": damaged((bytes) => bytes.subarray(0, -1)),
  "the entry is truncated in its head": damaged((bytes) => bytes.subarray(0, 60)),
  "the entry has a flipped bit in its body": damaged((bytes) => ((bytes[bytes.length - 2] ^= 1), bytes)),
  "the entry has a flipped bit in its lifetime": damaged((bytes) => {
    bytes[bytes.indexOf("expires_at") + 13] ^= 1;
    return bytes;
  }),
  "the entry has a flipped bit in its digest": damaged((bytes) => ((bytes[DIGEST_AT] ^= 1), bytes)),
};

const ask = (proxy, stream, headers = {}) =>
  within(
    proxy.settled(() =>
      send(proxy.origin, {
        path: "/proxy/chat/completions",
        headers: { "content-type": "application/json", authorization: "Bearer sk-test", ...headers },
        body: JSON.stringify({ model: "gpt-4o", stream, messages: [{ role: "user", content: "Hi" }] }),
        mayBreak: true,
      }),
    ),
    "a question to be answered, and all its work to be done",
  );

async function stored(proxy) {
  const entries = await proxy.entries();
  assert.ok(entries.length <= 1, "more than one entry");
  return entries[0]?.[1];
}

function checkBody(reply, wanted, bytes) {
  assert.equal(reply.whole, wanted.broken === undefined, "whole, as far as HTTP can tell");
  if (typeof wanted === "string") expect.sameBytes(reply.body, bytes[wanted], "the answer");
  else if (wanted.error !== undefined) expect.proxyError(reply, wanted.error);
  else expect.sameBytes(reply.body, bytes.upstream.subarray(0, wanted.broken ?? wanted.part), "what came of the answer");
}

async function play(row, column, proxy, prepared) {
  const cell = row[column];
  const carriage = column === "stream" ? "stream" : "plain";
  const stream = carriage === "stream";
  upstream.reset();
  proxy.openGates();
  proxy.redis?.reset();
  await proxy.clear();
  const old = answers[carriage]("old");
  if (prepared || column === "stale") {
    upstream.next(said(old));
    await ask(proxy, stream);
    assert.ok((await stored(proxy)) !== undefined, "the entry that the cell begins with");
    if (column === "stale") await age(proxy, 70);
  }
  const before = await stored(proxy);
  const good = answers[carriage]("new");
  const script = cell.upstream === "fails" ? fails(500)() : (row.says?.(good) ?? said(good));
  upstream.reset();
  upstream.otherwise(script);

  if (row.refuse) await upstream.refuse();
  await row.breaks?.(proxy);
  const damagedEntry = await stored(proxy);
  const refresh = (cell.refresh ?? row.refresh) ? { "x-proxy-refresh": "true" } : {};
  const reply = await ask(proxy, stream, refresh);
  const line = proxy.lines.at(-1);
  if (row.refuse) await upstream.listen();
  await row.mends?.(proxy);

  assert.equal(reply.status, cell.status, reply.body.toString("utf8", 0, 300));
  assert.equal(expect.cacheStatus(reply), cell.cache);
  assert.equal(expect.detail(reply), cell.detail);
  checkBody(reply, cell.body, {
    upstream: script.body === undefined ? good.bytes : Buffer.from(script.body),
    coded: Buffer.from(script.base64 ?? "", "base64"),
    entry: old.bytes,
  });
  if (cell.headers !== undefined) expect.headers(reply.headers, cell.headers, "the answer");
  assert.equal(upstream.calls.length, cell.calls, "calls to the upstream");
  assert.equal(line.not_stored ?? line.reason, cell.log ?? cell.detail, `why it is not stored: ${JSON.stringify(line)}`);

  const kept = await stored(proxy);
  if (cell.stored === "nothing") assert.equal(kept, undefined, "something is stored");
  else if (cell.stored === "entry") expect.sameBytes(kept, before, "the entry that was there before");
  else if (cell.stored === "damaged") expect.sameBytes(kept, damagedEntry, "the damaged entry");
  else {
    assert.equal(cell.stored, "new");
    expect.sameBytes(decode(kept).body, good.bytes, "the new entry");
  }

  // It is over: the next good answer is the client's, and is stored.
  proxy.openGates();
  proxy.redis?.reset();
  upstream.reset();
  const later = answers[carriage]("later");
  upstream.otherwise(said(later));
  const next = await ask(proxy, stream, { "x-proxy-refresh": "true" });
  expect.sameBytes(next.body, later.bytes, "the next answer");
  const hit = await ask(proxy, stream);
  assert.equal(expect.cacheStatus(hit), "HIT");
  expect.sameBytes(hit.body, later.bytes, "the next hit");
}

const COLUMNS = ["plain", "stream", "stale"];

for (const [name, row] of Object.entries(UPSTREAM)) {
  describe(`the upstream ${name}`, () => {
    for (const column of COLUMNS) test(column, () => play(row, column, upstreamProxy, false));
  });
}

for (const [name, row] of Object.entries(STORE)) {
  const on = row.on === "both" ? { KV: gated, Redis: upstash } : { [row.on]: row.on === "gated" ? gated : upstash };
  for (const [where, proxy] of Object.entries(on)) {
    describe(row.on === "both" ? `${name}, in ${where}` : name, () => {
      for (const column of COLUMNS) test(column, () => play(row, column, proxy, true));
    });
  }
}

test("no cell is missing", () => {
  for (const [name, row] of [...Object.entries(UPSTREAM), ...Object.entries(STORE)]) {
    for (const column of COLUMNS) assert.ok(row[column]?.body !== undefined, `${name}: ${column}`);
  }
});
