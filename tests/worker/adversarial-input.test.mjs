// Hostile clients and upstreams: request smuggling, decompression bombs, slow peers. Each gets a documented response, and the
// same process then serves an ordinary request.

import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import net from "node:net";
import { after, test } from "node:test";
import { createGzip, gunzipSync, gzipSync } from "node:zlib";
import { assertProxyError, assertSameBytes } from "../../testkit/assertions.mjs";
import { detailOf, xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, send, sendRaw } from "../../testkit/client.mjs";
import { chatCompletion, chatEvent, chatRequest, DONE, result, resultText } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { startUpstream } from "../../testkit/upstream.mjs";
import { waitFor, withTimeout } from "../../testkit/wait.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
const VARS = { MAX_RETRIES: "0", TIMEOUT: "2", IDLE_TIMEOUT: "2" };
const proxy = await worker({ vars: { ...VARS, OPENAI_BASE_URL: `${upstream.origin}/v1` } });
const MB = 1 << 20;

// All helpers are set up before the first test: when the last of the registered tests ends, everything is stopped.
// A gigabyte of zeros, compressed to a megabyte.
async function bomb() {
  const gzip = createGzip({ level: 1 });
  const chunks = [];
  gzip.on("data", (chunk) => chunks.push(chunk));
  const done = once(gzip, "end");
  const zeros = Buffer.alloc(16 * MB);
  for (let n = 0; n < 64; n += 1) if (!gzip.write(zeros)) await once(gzip, "drain");
  gzip.end();
  await done;
  return Buffer.concat(chunks);
}
const BOMB = await bomb();

// An upstream that writes raw bytes.
async function rawUpstream(respond) {
  const sockets = new Set();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("data", (data) => respond(socket, data));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  server.unref();
  after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${/** @type {import("node:net").AddressInfo} */ (server.address()).port}`;
}

// One byte at a time.
function drip(socket, bytes, intervalMs) {
  let at = 0;
  const timer = setInterval(() => {
    if (socket.destroyed || at >= bytes.length) return clearInterval(timer);
    socket.write(bytes[at]);
    at += 1;
  }, intervalMs);
  timer.unref();
}

let rawResponse = ""; // what the raw upstream sends
let dripping = false; // and whether it does so a byte at a time
const rawOrigin = await rawUpstream((socket) => {
  if (dripping) drip(socket, rawResponse, 100);
  else socket.end(Buffer.from(rawResponse, "latin1"));
});
const rawProxy = await worker({ vars: { ...VARS, OPENAI_BASE_URL: `${rawOrigin}/v1` } });

const requestBody = (content) => chatRequest(content).body;
const ask = (body, to = proxy) => send(to.origin, { ...chatRequest(), body, allowTruncation: true });

let ordinary = 0;
let checked = 0; // how much of the Worker's output has been checked
async function assertStillWorks() {
  upstream.reset();
  ordinary += 1;
  upstream.next({ json: result(`ordinary response ${ordinary}`) });
  for (const status of ["MISS", "HIT"]) {
    const reply = await proxy.settled(() => ask(requestBody(`ordinary request ${ordinary}`)));
    assert.equal(reply.status, 200);
    assert.equal(xCacheStatusOf(reply), status);
    assert.equal(reply.body.toString(), resultText(`ordinary response ${ordinary}`));
  }
  assert.equal(upstream.calls.length, 1);
  assertNoPanic(proxy.output.slice(checked));
  checked = proxy.output.length;
}
const assertNoPanic = (output) => assert.doesNotMatch(output, /panicked|RuntimeError|code had hung/i);

// A request that hides another, or whose end two readers would find at different places. However the runtime reads it, the
// upstream never gets the hidden request, nor a header that was part of a value.
const HIDDEN = "POST /proxy/smuggled HTTP/1.1\r\nHost: x\r\nX-Smuggled: 1\r\nContent-Length: 0\r\n\r\n";
const post = (head, body) =>
  `POST /proxy/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n${head}\r\n${body}`;
const smuggled = {
  "a length and chunks": post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", `0\r\n\r\n${HIDDEN}`),
  "chunks and a length": post(
    `Transfer-Encoding: chunked\r\nContent-Length: ${5 + HIDDEN.length}\r\n`,
    `0\r\n\r\n${HIDDEN}`,
  ),
  "two lengths": post(`Content-Length: 2\r\nContent-Length: ${2 + HIDDEN.length}\r\n`, `{}${HIDDEN}`),
  "a list of lengths": post(`Content-Length: 2, ${2 + HIDDEN.length}\r\n`, `{}${HIDDEN}`),
  "a negative length": post("Content-Length: -1\r\n", `{}${HIDDEN}`),
  "a length with a sign": post("Content-Length: +2\r\n", `{}${HIDDEN}`),
  "a length in hexadecimal digits": post("Content-Length: 0x2\r\n", `{}${HIDDEN}`),
  "a length beyond 64 bits": post(`Content-Length: ${"9".repeat(30)}\r\n`, `{}${HIDDEN}`),
  "another word for chunked": post("Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n", `{}${HIDDEN}`),
  "chunked twice": post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", `0\r\n\r\n${HIDDEN}`),
  "a space before the colon": post(
    "Content-Length : 2\r\nTransfer-Encoding: chunked\r\n",
    `2\r\n{}\r\n0\r\n\r\n${HIDDEN}`,
  ),
  "a folded header": post("Content-Length: 2\r\nX-Fold: a\r\n X-Smuggled: 1\r\n", "{}"),
  "a bare line feed": post("Content-Length: 2\r\nX-Lf: a\nX-Smuggled-Not: 1\r\n", "{}"),
  "a bare carriage return": post("Content-Length: 2\r\nX-Cr: a\rX-Smuggled: 1\r\n", "{}"),
  "a NUL in a header": post("Content-Length: 2\r\nX-Nul: a\0b\r\n", "{}"),
  "a chunk of a negative size": post("Transfer-Encoding: chunked\r\n", `-2\r\n{}\r\n0\r\n\r\n${HIDDEN}`),
  "a chunk beyond 64 bits": post("Transfer-Encoding: chunked\r\n", `fffffffffffffffff\r\n{}\r\n0\r\n\r\n${HIDDEN}`),
  "a request in the path": `GET /proxy/models%20HTTP/1.1%0d%0aX-Smuggled:%201%0d%0a%0d%0a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
  "a request in the query": `GET /proxy/models?a=%0d%0aX-Smuggled:%201%0d%0a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
  "a header that names others for removal": post(
    "Connection: close, authorization, content-length, host\r\nContent-Length: 2\r\n",
    "{}",
  ),
};
for (const [name, bytes] of Object.entries(smuggled)) {
  test(`smuggling: ${name}`, async () => {
    upstream.reset();
    const before = proxy.lines.length;
    const reply = (await sendRaw(proxy.origin, bytes, { endWrite: true })).toString("latin1");
    assert.doesNotMatch(reply, /^HTTP\/1\.1 5(?!01)/);
    assert.ok(upstream.calls.length <= 1, `${upstream.calls.length} calls`);
    for (const call of upstream.calls) {
      assert.doesNotMatch(call.url, /^\/v1\/smuggled/);
      assert.equal(call.headers["x-smuggled"], undefined);
    }
    await proxy.logged(before + upstream.calls.length);
    await assertStillWorks();
  });
}

test("a second request on a connection gets its own response", async () => {
  upstream.reset();
  const first = post("Content-Length: 7\r\n", '{"n":1}').replace("Connection: close\r\n", "");
  const second = "GET /proxy/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  const replies = (await sendRaw(proxy.origin, first + second)).toString("latin1").match(/HTTP\/1\.1 \d+/g);
  assert.deepEqual(replies, ["HTTP/1.1 200", "HTTP/1.1 200"]);
  assert.deepEqual(
    upstream.calls.map(({ url }) => url),
    ["/v1/chat/completions", "/v1/models"],
  );
  await assertStillWorks();
});

test("a body of 64 MB without a length is forwarded and not stored", async () => {
  upstream.reset();
  const chunk = Buffer.alloc(MB, " ");
  const reply = await proxy.settled(() => ask(Array.from({ length: 64 }, () => chunk)));
  assert.equal(reply.status, 200);
  assert.equal(detailOf(reply), "too-large");
  assert.equal(upstream.last.body.length, 64 * MB);
  await assertStillWorks();
});

// The most memory of the runtimes that this process has started, where the system has /proc.
function memory() {
  if (!existsSync("/proc/self/status")) return 0;
  const field = (pid, name) => {
    try {
      return Number(
        new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1] ?? 0,
      );
    } catch {
      return 0; // it has ended
    }
  };
  const children = readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && field(pid, "PPid") === process.pid);
  return Math.max(0, ...children.map((pid) => field(pid, "VmHWM"))) * 1024;
}

const gzipped =
  (body, more = {}) =>
  (_call, response) => {
    response.writeHead(200, { "content-type": "application/json", "content-encoding": "gzip", ...more });
    response.end(body);
  };
for (const [name, request] of /** @type {any[][]} */ ([
  ["for a cacheable request", { method: "POST", path: "/proxy/chat/completions", body: requestBody("bomb") }],
  ["for a bypassing request", { method: "GET", path: "/proxy/files/bomb/content" }],
])) {
  test(`a gigabyte of zeros in a megabyte ${name} is forwarded in bounded memory and not stored`, async () => {
    upstream.reset();
    upstream.next(gzipped(BOMB));
    const before = memory();
    const lines = proxy.lines.length;
    const reply = await open(proxy.origin, {
      ...request,
      headers: { "content-type": "application/json", "accept-encoding": "gzip" },
    });
    assert.equal(reply.status, 200);
    // As received, or compressed again. The client disconnects before the end.
    let length = 0;
    for await (const chunk of reply) {
      length += chunk.length;
      if (length >= MB) break;
    }
    reply.disconnect();
    await proxy.logged(lines + 1);
    assert.ok(memory() - before < 300 * MB, `${Math.round((memory() - before) / MB)} MB more`);
    await assertStillWorks();
  });
}

test("a compressed response that is too large to store reaches its client complete", async () => {
  upstream.reset();
  const long = Buffer.from(resultText("x".repeat(30 * MB)));
  upstream.next(gzipped(gzipSync(long, { level: 1 })));
  const reply = await proxy.settled(() =>
    send(proxy.origin, chatRequest("long and compressed", { headers: { "accept-encoding": "gzip" } })),
  );
  assertSameBytes(gunzipSync(reply.body), long, "the response");
  assert.equal(proxy.lines.at(-1).reason, "too-large");
  await assertStillWorks();
});

test("a gigabyte of zeros in a megabyte from the store is a miss", async () => {
  const upstash = await worker({
    vars: { ...VARS, OPENAI_BASE_URL: `${upstream.origin}/v1` },
    store: "upstash",
  });
  upstream.reset();
  const before = memory();
  upstash.redis.otherwise(gzipped(BOMB));
  const reply = await upstash.settled(() => ask(requestBody("bomb in the store"), upstash));
  assert.equal(reply.status, 200);
  assert.equal(detailOf(reply), "store-error");
  assert.ok(memory() - before < 300 * MB, `${Math.round((memory() - before) / MB)} MB more`);
  upstash.redis.reset();
  assertNoPanic(upstash.output);
});

const heads = {
  "does not speak HTTP": "hello\r\n\r\n",
  "closes the connection": "",
  "sends half a head": "HTTP/1.1 200 OK\r\nContent-Ty",
  "sends two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n",
  "sends a negative length": "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
  "sends a NUL in a header": "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\n{}",
  "sends a head of a megabyte": `HTTP/1.1 200 OK\r\n${`X-A: ${"a".repeat(8000)}\r\n`.repeat(128)}Content-Length: 2\r\n\r\n{}`,
  "sends 10,000 interim responses": "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000),
  "switches protocols without a request":
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
};
for (const [name, bytes] of Object.entries(heads)) {
  test(`an upstream that ${name} is a 502, or its response is forwarded`, async () => {
    [rawResponse, dripping] = [bytes, false];
    const reply = await rawProxy.settled(() => ask(requestBody(name), rawProxy));
    assert.ok([200, 502, 504].includes(reply.status), `${reply.status}`);
    if (reply.status !== 200) assertProxyError(reply, reply.status === 502 ? "upstream_unreachable" : "timeout");
    assertNoPanic(rawProxy.output);
    await assertStillWorks();
  });
}

const bodies = {
  "an invalid chunk": "zz\r\n{}\r\n0\r\n\r\n",
  "a chunk beyond 64 bits": "fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
  "a chunk that is too short": "ff\r\n{}\r\n0\r\n\r\n",
  "no last chunk": "2\r\n{}\r\n",
};
for (const [name, bytes] of Object.entries(bodies)) {
  test(`an upstream response with ${name} is truncated for the client and not stored`, async () => {
    [rawResponse, dripping] = [
      `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${bytes}`,
      false,
    ];
    for (let times = 0; times < 2; times += 1) {
      const reply = await rawProxy.settled(() => ask(requestBody(name), rawProxy));
      assert.equal(reply.complete && reply.status === 200, false, "a truncated response was sent as complete");
      assert.notEqual(xCacheStatusOf(reply), "HIT");
    }
    assertNoPanic(rawProxy.output);
    await assertStillWorks();
  });
}

test("an upstream that drips its head is aborted after TIMEOUT", async () => {
  [rawResponse, dripping] = [`HTTP/1.1 200 OK\r\nX-Slow: ${"a".repeat(1000)}\r\n\r\n`, true];
  const reply = await rawProxy.settled(() => ask(requestBody("drip"), rawProxy));
  assert.equal(reply.status, 504);
  assertProxyError(reply, "timeout");
  await assertStillWorks();
});

test("audio that ends with the connection is not stored: it may be half of the audio", async () => {
  const framings = {
    "Content-Length: 4\r\n": ["ABCD", "HIT"],
    "Transfer-Encoding: chunked\r\n": ["4\r\nABCD\r\n0\r\n\r\n", "HIT"],
    "": ["ABCD", "MISS"],
  };
  for (const [framing, [body, status]] of Object.entries(framings)) {
    const origin = await rawUpstream((socket) =>
      socket.end(`HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nConnection: close\r\n${framing}\r\n${body}`),
    );
    const rawProxy = await worker({ vars: { ...VARS, OPENAI_BASE_URL: `${origin}/v1` } });
    const request = { ...chatRequest(), path: "/proxy/audio/speech" };
    assert.equal((await rawProxy.settled(() => send(rawProxy.origin, request))).body.toString(), "ABCD");
    const again = await rawProxy.settled(() => send(rawProxy.origin, request));
    assert.equal(again.headers["x-cache-status"], status, framing);
    assert.equal(again.body.toString(), "ABCD");
  }
});

test("no body that ends with the connection is stored, unless its end is in its bytes", async () => {
  const bodies = {
    "audio/wav": "RIFF",
    "audio/opus": "Opus",
    "audio/aac": "aac",
    "audio/L16;rate=24000": "pcm",
    "application/ogg": "OggS",
    "application/octet-stream": "half",
    "binary/octet-stream": "half",
    "image/png": "PNG",
    "video/mp4": "mp4",
    "application/pdf": "%PDF",
    "text/plain": "half a sen",
    "text/csv": "a,b",
    "application/x-ndjson": '{"a":1}\n',
    "application/x-protobuf": "p",
    "application/json": JSON.stringify(chatCompletion("Hello")),
    "text/event-stream": chatEvent({ content: "a" }) + chatEvent({}, "stop") + DONE,
  };
  const stored = ["application/json", "text/event-stream"];
  const origin = await rawUpstream((socket, request) => {
    const type = /x-type: (.*)\r/i.exec(request.toString("latin1"))?.[1] ?? "";
    socket.end(`HTTP/1.1 200 OK\r\nContent-Type: ${type}\r\nConnection: close\r\n\r\n${bodies[type]}`);
  });
  const rawProxy = await worker({ vars: { ...VARS, OPENAI_BASE_URL: `${origin}/v1`, CACHE_PATHS: "custom/*" } });
  for (const [type, body] of Object.entries(bodies)) {
    const isChat = stored.includes(type);
    const paths = isChat ? ["/proxy/chat/completions"] : ["/proxy/audio/speech", "/proxy/custom/x"];
    for (const path of paths) {
      const stream = type === "text/event-stream";
      const request = chatRequest("Hi", { path, headers: { "x-type": type }, stream });
      for (const expected of ["MISS", isChat ? "HIT" : "MISS"]) {
        const reply = await rawProxy.settled(() => send(rawProxy.origin, request));
        assert.equal(reply.body.toString(), body);
        assert.equal(reply.headers["x-cache-status"], expected, `${type} ${path}`);
      }
    }
  }
});

test("an upstream that drips its body delays only its own client", async () => {
  // The head is fast. The body never pauses for IDLE_TIMEOUT, lasts longer than that, and ends only when the test lets it.
  const sockets = [];
  let released = false;
  const slow = await rawUpstream((socket) => {
    sockets.push(socket);
    socket.write(
      'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{"id":"\r\n',
    );
    let sent = 0;
    const timer = setInterval(() => {
      if (socket.destroyed) return clearInterval(timer);
      socket.write("1\r\na\r\n");
      sent += 1;
      if (!released || sent < 60) return undefined;
      clearInterval(timer);
      return socket.write('2\r\n"}\r\n0\r\n\r\n');
    }, 50);
    timer.unref();
  });
  const slowProxy = await worker({ vars: { ...VARS, OPENAI_BASE_URL: `${slow}/v1` } });
  const count = 20;
  let finished = 0;
  const replies = Array.from({ length: count }, async (_, n) => {
    const reply = await ask(requestBody(`drip ${n}`), slowProxy);
    finished += 1;
    return reply;
  });
  await waitFor(() => sockets.length === count, "all calls to the upstream");
  assert.equal((await send(slowProxy.origin, { method: "GET", path: "/healthz" })).status, 200);
  assert.equal(finished, 0, "the other request waited for the slow ones");
  released = true;
  for (const reply of await Promise.all(replies)) assert.match(JSON.parse(reply.body.toString()).id, /^a{60,}$/);
  assertNoPanic(slowProxy.output);
});

test("clients that never finish their requests delay no other", async () => {
  const { hostname, port } = new URL(proxy.origin);
  const starts = [
    "POST /proxy/chat/compl",
    "POST /proxy/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    post("Content-Length: 1000\r\n", '{"model":'),
    post("Transfer-Encoding: chunked\r\n", "3e8\r\n{"),
  ];
  const sockets = Array.from({ length: 200 }, (_, n) => {
    const socket = net.connect(Number(port), hostname);
    socket.on("error", () => {});
    socket.write(starts[n % starts.length]);
    return socket;
  });
  await withTimeout(
    Promise.all(sockets.map((socket) => (socket.connecting ? once(socket, "connect") : null))),
    "connections",
  );
  await assertStillWorks();
  for (const socket of sockets) socket.destroy();
  await assertStillWorks();
});

test("a client that reads slowly delays no other, and its response is stored", async () => {
  upstream.reset();
  const big = resultText("x".repeat(5 * MB));
  upstream.next({ body: big });
  const lines = proxy.lines.length;
  const reply = await open(proxy.origin, chatRequest("slow reader"));
  await reply.next();
  // The slow client reads nothing until the other has its response.
  const other = await ask(requestBody("quick reader"));
  assert.equal(other.status, 200);
  assert.ok(other.complete, "the other response is truncated");
  let length = 0;
  for await (const chunk of reply) length += chunk.length;
  assert.ok(length > 0);
  await proxy.logged(lines + 2);
  await assertStillWorks();
});
