// The fault table: for each fault, what the client gets and what is stored afterwards.
//
// Rows are faults. The columns `plain` and `stream` have no entry before a fault of the upstream's and a fresh entry before one
// of the store's. The column `stale` is a plain request with a stale entry. A cell:
//
//   status, cache, detail   the client's status, its X-Cache-Status, and the detail of Cache-Status
//   body      "upstream": the upstream's bytes; "compressed": those of its content coding; "entry": the stored ones;
//             { error: code }: the proxy's own error; { part: n }: the upstream's first n bytes, complete as far as HTTP can
//             tell; { truncated: n }: those, and then the connection is closed
//   calls     the number of calls to the upstream (MAX_RETRIES is 1)
//   log       the logged reason why the response is not stored (absent: the same as `detail`)
//   stored    afterwards: "new" (the upstream's response), "entry" (the previous one) or "nothing"
//   upstream  in rows of the store's: "fails" with 500, or succeeds (absent)
//
// After the fault every cell ends with a good response that is stored.

import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { assertHeaders, assertProxyError, assertSameBytes } from "../../testkit/assertions.mjs";
import { detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { send } from "../../testkit/client.mjs";
import { ageEntries, DIGEST_AT, decodeEntry, VERSION_AT } from "../../testkit/entry.mjs";
import { chatRequest, chatStream, resultText } from "../../testkit/fixtures.mjs";
import { LOG } from "../../testkit/names.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());

const VARS = {
  OPENAI_BASE_URL: `${upstream.origin}/v1`,
  MAX_RETRIES: "1",
  BASE_RETRY_DELAY: "0.01",
  RATE_LIMIT_WAIT: "0.01",
  TIMEOUT: "60",
  CACHE_TTL: "60",
  STALE_IF_ERROR: "300",
};
const NEVER = new Promise(() => {});

const responses = {
  plain: (name) => ({ type: "application/json", bytes: Buffer.from(resultText(name)) }),
  stream: (name) => ({
    type: "text/event-stream",
    bytes: Buffer.from(chatStream([name, "more"])),
  }),
};
const responseOf = ({ type, bytes }) => ({ headers: { "content-type": type }, base64: bytes.toString("base64") });

// A row's upstream: a function from a good response to what is sent instead.
const HALF = 20; // bytes that are sent of a truncated response
const byHand = (headers, script) => (good) => async (call, res) => {
  await call.bodyReceived;
  res.writeHead(200, { "content-type": good.type, ...headers(good.bytes) });
  res.flushHeaders();
  await script(res, good.bytes);
};
const sent = (res, bytes) => new Promise((resolve) => res.write(bytes, resolve));
const withLength = (bytes) => ({ "content-length": String(bytes.length) });
const chunked = () => ({});
const truncatedAt = (n) => async (res, bytes) => {
  await sent(res, bytes.subarray(0, n));
  res.destroy();
};
const stalledAt = (n) => (res, bytes) => n === 0 || sent(res, bytes.subarray(0, n));
const fails =
  (status, headers = {}) =>
  () => ({
    status,
    headers: { "x-request-id": "req_failed", ...headers },
    body: `{ "error": {"message": "a ${status}"} }\n`,
  });
const compressed = (encode) => (good) => ({
  headers: { "content-type": good.type, "content-encoding": "gzip" },
  base64: encode(good.bytes).toString("base64"),
});
const truncatedGzip = (bytes) => gzipSync(bytes).subarray(0, -12);
const corruptGzip = (bytes) => {
  const zipped = gzipSync(bytes);
  zipped[zipped.length - 6] ^= 0xff; // in the checksum: every byte before it is right
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
  waits: "TIMEOUT",
  plain: { ...MISS, status: 504, detail: "upstream-timeout", body: { error: "timeout" } },
  stream: { ...MISS, status: 504, detail: "upstream-timeout", body: { error: "timeout" } },
  stale: { ...STALE, detail: "upstream-timeout", calls: 1 },
};
// A failure with a response of the upstream's: it is forwarded unless a stale entry is served.
const failure = (status, calls, headers) => ({
  plain: { ...MISS, status, log: "status", body: "upstream", calls, headers },
  stream: { ...MISS, status, log: "status", body: "upstream", calls, headers },
  stale: { ...STALE, detail: "upstream-error", calls, headers: { "retry-after": null, "x-request-id": null } },
});
// The head was good and is sent: the body is truncated, whatever is stored.
const truncated = (n, log) => ({
  waits: log === "stalled" && "IDLE_TIMEOUT",
  plain: { ...MISS, log, body: { truncated: n } },
  stream: { ...MISS, log, body: { truncated: n } },
  stale: { ...EXPIRED, log, body: { truncated: n } },
});
const GZIP = { "content-encoding": "gzip" };
// Compressed bytes are forwarded as they are. The client's decoder finds the fault, and so does ours: nothing is stored.
const undecodable = {
  plain: { ...MISS, log: "truncated", body: "compressed", headers: GZIP },
  stream: { ...MISS, log: "truncated", body: "compressed", headers: GZIP },
  stale: { ...EXPIRED, log: "truncated", body: "compressed", headers: GZIP },
};

const UPSTREAM = {
  "refuses connections": { refuse: true, ...unreachable(0) },
  "closes the connection before its head": { responds: () => (_call, res) => void res.destroy(), ...unreachable(2) },
  "closes the connection inside its head": {
    responds: () => (_call, res) => void res.socket.end("HTTP/1.1 200 OK\r\ncontent-ty"),
    ...unreachable(2),
  },
  "does not speak HTTP": {
    responds: () => (_call, res) => void res.socket.end("SSH-2.0-OpenSSH_9.6\r\n"),
    ...unreachable(2),
  },
  "stalls before its head": { responds: () => ({ hold: NEVER }), ...silent },
  "stalls inside its head": {
    responds: () => (_call, res) => void res.socket.write("HTTP/1.1 200 OK\r\ncontent-ty"),
    ...silent,
  },

  ...Object.fromEntries(
    [429, 500, 502, 503, 504, 529].flatMap((status) => [
      [`responds with ${status}`, { responds: fails(status), ...failure(status, 2, { "retry-after": null }) }],
      [
        `responds with ${status} and Retry-After`,
        {
          responds: fails(status, { "retry-after": "0" }),
          ...failure(status, 2, { "retry-after": "0", "x-request-id": "req_failed" }),
        },
      ],
      [
        `responds with ${status} and a Retry-After beyond TIMEOUT`,
        { responds: fails(status, { "retry-after": "100" }), ...failure(status, 1, { "retry-after": "100" }) },
      ],
    ]),
  ),

  "truncates a body with a length": {
    responds: byHand(withLength, truncatedAt(HALF)),
    ...truncated(HALF, "truncated"),
  },
  "truncates a chunked body": { responds: byHand(chunked, truncatedAt(HALF)), ...truncated(HALF, "truncated") },
  "closes the connection before a body with a length": {
    responds: byHand(withLength, truncatedAt(0)),
    ...truncated(0, "truncated"),
  },
  "closes the connection before a chunked body": {
    responds: byHand(chunked, truncatedAt(0)),
    ...truncated(0, "truncated"),
  },
  "truncates only the last chunk of a chunked body": {
    // Every byte was sent, but not the end.
    responds: byHand(chunked, truncatedAt(Infinity)),
    ...truncated(Infinity, "truncated"),
  },
  "stalls in a body with a length": { responds: byHand(withLength, stalledAt(HALF)), ...truncated(HALF, "stalled") },
  "stalls in a chunked body": { responds: byHand(chunked, stalledAt(HALF)), ...truncated(HALF, "stalled") },
  "stalls after its head": { responds: byHand(withLength, stalledAt(0)), ...truncated(0, "stalled") },
  "stalls before the last chunk of a chunked body": {
    responds: byHand(chunked, stalledAt(Infinity)),
    ...truncated(Infinity, "stalled"),
  },

  "sends less than its length, and closes the connection": {
    responds: byHand((bytes) => ({ "content-length": String(bytes.length + 7) }), truncatedAt(Infinity)),
    ...truncated(Infinity, "truncated"),
  },
  "sends less than its length, and stalls": {
    responds: byHand((bytes) => ({ "content-length": String(bytes.length + 7) }), stalledAt(Infinity)),
    ...truncated(Infinity, "stalled"),
  },
  "sends more than its length": {
    // HTTP ends at the length. The remaining stream or object is visibly incomplete.
    responds: byHand(
      () => ({ "content-length": String(HALF), connection: "close" }),
      (res, bytes) => void res.end(bytes),
    ),
    plain: { ...MISS, log: "response-not-json", body: { part: HALF } },
    stream: { ...MISS, log: "truncated", body: { part: HALF } },
    stale: { ...EXPIRED, log: "response-not-json", body: { part: HALF } },
  },

  "declares gzip for an uncompressed body": { responds: compressed((bytes) => bytes), ...undecodable },
  "truncates its gzip": { responds: compressed(truncatedGzip), ...undecodable },
  "has a wrong checksum in its gzip": { responds: compressed(corruptGzip), ...undecodable },
};

// Rows that wait for a timeout run with short ones, and no others: a busy machine would break them.
const SHORT = { TIMEOUT: "1", IDLE_TIMEOUT: "1", STORE_TIMEOUT_MS: "500" };
/** @param {any} row */
const proxyFor = ({ store = "kv", waits = false }) =>
  worker({ vars: { ...VARS, ...(waits && { [waits]: SHORT[waits] }) }, store });

// A failed read: the upstream is called. If it fails, too, its response is forwarded.
const unread = (detail, stored = "new") => ({
  waits: detail === "store-timeout" && "STORE_TIMEOUT_MS",
  plain: { ...MISS, detail, body: "upstream", stored },
  stream: { ...MISS, detail, body: "upstream", stored },
  stale: {
    ...MISS,
    status: 500,
    detail,
    log: "status",
    body: "upstream",
    calls: 2,
    stored: "entry",
    upstream: "fails",
  },
});
// A failed write, of a response to a request for a refresh.
const unwritten = (log, stored = "entry") => ({
  refresh: true,
  plain: { ...MISS, cache: "REFRESH", detail: "refresh", log, body: "upstream", stored },
  stream: { ...MISS, cache: "REFRESH", detail: "refresh", log, body: "upstream", stored },
  stale: { ...EXPIRED, log, body: "upstream", stored, refresh: false },
});
const damaged = (damage) => ({
  on: "both",
  async inject(proxy) {
    const [[key, bytes]] = await proxy.entries();
    await proxy.kv.put(key, damage(Buffer.from(bytes)));
  },
  ...unread("entry-corrupt"),
  stale: { ...unread("entry-corrupt").stale, stored: "damaged" },
});
// Upstash's response to some commands, in place of Redis's.
const refuses = (verbs, status, body) => (proxy) =>
  proxy.redis.otherwise(async (call) => {
    const [verb] = JSON.parse(call.body.toString());
    return verbs.includes(verb) ? { status, body } : proxy.redis.respond(call);
  });
function flip(bytes, at, bits = 1) {
  bytes[at] ^= bits;
  return bytes;
}
const QUOTA = '{"error":"ERR max daily request limit exceeded. Limit: 10000, Usage: 10000."}';

const STORE = {
  "KV fails": {
    on: "faulty-kv",
    inject(proxy) {
      proxy.gate("get", "fail");
      proxy.gate("put", "fail");
    },
    ...unread("store-error", "entry"),
  },
  "KV fails to read": { on: "faulty-kv", inject: (proxy) => void proxy.gate("get", "fail"), ...unread("store-error") },
  "KV reads slower than STORE_TIMEOUT_MS": {
    on: "faulty-kv",
    inject: (proxy) => void proxy.gate("get", NEVER),
    ...unread("store-timeout"),
  },
  "KV refuses a write once, and then accepts it": {
    on: "faulty-kv",
    inject(proxy) {
      const verdicts = ["fail"];
      proxy.gate("put", () => verdicts.shift() ?? "pass");
    },
    ...unwritten(undefined, "new"),
  },
  "KV refuses every write": {
    on: "faulty-kv",
    inject: (proxy) => void proxy.gate("put", "fail"),
    ...unwritten("store-error"),
  },

  "Redis cannot be reached": {
    on: "upstash",
    inject: (proxy) => proxy.redis.stopListening(),
    repair: (proxy) => proxy.redis.listen(),
    ...unread("store-error", "entry"),
  },
  "Redis is slower than STORE_TIMEOUT_MS": {
    on: "upstash",
    inject: (proxy) =>
      proxy.redis.otherwise(async (call) =>
        JSON.parse(call.body.toString())[0] === "GET" ? { hold: NEVER } : proxy.redis.respond(call),
      ),
    ...unread("store-timeout"),
  },
  "Redis stalls inside its response": {
    on: "upstash",
    inject: (proxy) =>
      proxy.redis.otherwise(async (call, res) => {
        await call.bodyReceived;
        if (JSON.parse(call.body.toString())[0] === "GET") {
          res.writeHead(200, { "content-length": "100" });
          return void res.write('{"result":"');
        }
        const { status = 200, json } = await proxy.redis.respond(call);
        res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(json));
      }),
    ...unread("store-timeout"),
  },
  "Redis refuses the token": {
    on: "upstash",
    inject: refuses(["GET", "SET"], 401, '{"error":"Unauthorized"}'),
    ...unread("store-error", "entry"),
  },
  "Redis sends garbage": {
    on: "upstash",
    inject: refuses(["GET", "SET"], 200, "<html>502 Bad Gateway</html>"),
    ...unread("store-error", "entry"),
  },
  "Redis has its quota exceeded": {
    on: "upstash",
    inject: refuses(["GET", "SET"], 400, QUOTA),
    ...unread("store-error", "entry"),
  },
  "Redis refuses every write": {
    on: "upstash",
    inject: refuses(["SET"], 400, '{"error":"OOM command not allowed when used memory > \'maxmemory\'."}'),
    ...unwritten("store-error"),
  },

  "the entry is garbage": damaged(() => Buffer.from('{"result":"no entry"}')),
  "the entry is empty": damaged(() => Buffer.alloc(0)),
  "the entry is of another version": damaged((bytes) => flip(bytes, VERSION_AT, 3)),
  "the entry is truncated": damaged((bytes) => bytes.subarray(0, -1)),
  "the entry is truncated in its head": damaged((bytes) => bytes.subarray(0, 60)),
  "the entry has a flipped bit in its body": damaged((bytes) => flip(bytes, bytes.length - 2)),
  "the entry has a flipped bit in its lifetime": damaged((bytes) => flip(bytes, bytes.indexOf("expires_at") + 13)),
  "the entry has a flipped bit in its digest": damaged((bytes) => flip(bytes, DIGEST_AT)),
};

const ask = (proxy, stream, headers = {}) =>
  withTimeout(
    proxy.settled(() =>
      send(proxy.origin, { ...chatRequest("Hi", { headers, model: "gpt-4o", stream }), allowTruncation: true }),
    ),
    "a response, and the end of all work for it",
  );

async function stored(proxy) {
  const entries = await proxy.entries();
  assert.ok(entries.length <= 1, "more than one entry");
  return entries[0]?.[1];
}

function checkBody(reply, wanted, bytes) {
  assert.equal(reply.complete, wanted.truncated === undefined, "complete, as far as HTTP can tell");
  if (typeof wanted === "string") assertSameBytes(reply.body, bytes[wanted], "the response");
  else if (wanted.error !== undefined) assertProxyError(reply, wanted.error);
  else
    assertSameBytes(
      reply.body,
      bytes.upstream.subarray(0, wanted.truncated ?? wanted.part),
      "what was received of the response",
    );
}

async function playCell(row, column, proxy, prepared) {
  const cell = row[column];
  const mode = column === "stream" ? "stream" : "plain";
  const stream = mode === "stream";
  upstream.reset();
  proxy.openGates();
  proxy.redis?.reset();
  await proxy.clear();
  const old = responses[mode]("old");
  if (prepared || column === "stale") {
    upstream.next(responseOf(old));
    await ask(proxy, stream);
    assert.ok((await stored(proxy)) !== undefined, "the entry before the fault");
    if (column === "stale") await ageEntries(proxy, 70);
  }
  const before = await stored(proxy);
  const good = responses[mode]("new");
  const script = cell.upstream === "fails" ? fails(500)() : (row.responds?.(good) ?? responseOf(good));
  upstream.reset();
  upstream.otherwise(script);

  if (row.refuse) await upstream.stopListening();
  await row.inject?.(proxy);
  const damagedEntry = await stored(proxy);
  const refresh = (cell.refresh ?? row.refresh) ? { "x-proxy-refresh": "true" } : {};
  const reply = await ask(proxy, stream, refresh);
  const line = proxy.lines.at(-1);
  if (row.refuse) await upstream.listen();
  await row.repair?.(proxy);

  assert.equal(reply.status, cell.status, reply.body.toString("utf8", 0, 300));
  assert.equal(xCacheStatusOf(reply), cell.cache);
  assert.equal(detailOf(reply), cell.detail);
  checkBody(reply, cell.body, {
    upstream: script.body === undefined ? good.bytes : Buffer.from(script.body),
    compressed: Buffer.from(script.base64 ?? "", "base64"),
    entry: old.bytes,
  });
  if (cell.headers !== undefined) assertHeaders(reply.headers, cell.headers, "the response");
  assert.equal(upstream.calls.length, cell.calls, "calls to the upstream");
  assert.equal(
    line[LOG.notStored] ?? line.reason,
    cell.log ?? cell.detail,
    `why it is not stored: ${JSON.stringify(line)}`,
  );

  const entry = await stored(proxy);
  if (cell.stored === "nothing") assert.equal(entry, undefined, "something is stored");
  else if (cell.stored === "entry") assertSameBytes(entry, before, "the entry before the fault");
  else if (cell.stored === "damaged") assertSameBytes(entry, damagedEntry, "the damaged entry");
  else {
    assert.equal(cell.stored, "new");
    assertSameBytes(decodeEntry(entry).body, good.bytes, "the new entry");
  }

  // The fault is over: the next response is sent and stored.
  proxy.openGates();
  proxy.redis?.reset();
  upstream.reset();
  const later = responses[mode]("later");
  upstream.otherwise(responseOf(later));
  const next = await ask(proxy, stream, { "x-proxy-refresh": "true" });
  assertSameBytes(next.body, later.bytes, "the next response");
  const hit = await ask(proxy, stream);
  assert.equal(xCacheStatusOf(hit), "HIT");
  assertSameBytes(hit.body, later.bytes, "the next hit");
}

const COLUMNS = ["plain", "stream", "stale"];

for (const [name, row] of Object.entries(UPSTREAM)) {
  describe(`the upstream ${name}`, () => {
    for (const column of COLUMNS)
      test(`the upstream ${name}: ${column}`, async () => playCell(row, column, await proxyFor(row), false));
  });
}

for (const [name, row] of Object.entries(STORE)) {
  for (const store of row.on === "both" ? ["faulty-kv", "upstash"] : [row.on]) {
    describe(`${name} (${store})`, () => {
      for (const column of COLUMNS)
        test(`${name} (${store}): ${column}`, async () =>
          playCell(row, column, await proxyFor({ ...row, store }), true));
    });
  }
}

test("no cell is missing from the table", () => {
  for (const [name, row] of [...Object.entries(UPSTREAM), ...Object.entries(STORE)]) {
    for (const column of COLUMNS) assert.ok(row[column]?.body !== undefined, `${name}: ${column}`);
  }
});
