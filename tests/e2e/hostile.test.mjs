// Callers and upstreams that mean harm: requests in requests, bodies that swell, and those who take for ever. Each has a
// documented answer, and after each the same process answers an ordinary question as if nothing had happened.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import net from "node:net";
import { once } from "node:events";
import { after, test } from "node:test";
import { createGzip, gunzipSync, gzipSync } from "node:zlib";
import { open, raw, send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
after(() => upstream.close());
const VARS = { MAX_RETRIES: "0", TIMEOUT: "2", IDLE_TIMEOUT: "2" };
const proxy = await worker({ vars: { ...VARS, OPENAI_BASE_URL: `${upstream.origin}/v1` } });
const MB = 1 << 20;

// Everything is there before the first test: at the end of those that there are, all of it is stopped.
// A gigabyte of zeros, as gzip has it: a megabyte.
async function bomb() {
  const gzip = createGzip({ level: 1 });
  const pieces = [];
  gzip.on("data", (piece) => pieces.push(piece));
  const done = once(gzip, "end");
  const zeros = Buffer.alloc(16 * MB);
  for (let n = 0; n < 64; n += 1) if (!gzip.write(zeros)) await once(gzip, "drain");
  gzip.end();
  await done;
  return Buffer.concat(pieces);
}
const BOMB = await bomb();

// An upstream that speaks bytes of its own.
async function rawUpstream(speak) {
  const sockets = new Set();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("data", () => speak(socket));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  server.unref();
  after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

let pace = ""; // what the next raw upstream says
let drip = false; // and whether it does so a byte at a time
const strange = await rawUpstream((socket) => {
  if (!drip) return socket.end(Buffer.from(pace, "latin1"));
  let at = 0;
  const clock = setInterval(() => {
    if (socket.destroyed || at >= pace.length) return clearInterval(clock);
    socket.write(pace[at]);
    at += 1;
  }, 100);
  clock.unref();
});
const estranged = await worker({ vars: { ...VARS, OPENAI_BASE_URL: `${strange}/v1` } });

const question = (content) => JSON.stringify({ model: "m", messages: [{ role: "user", content }] });
const ask = (body, to = proxy) =>
  send(to.origin, {
    path: "/proxy/chat/completions",
    headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
    body,
    mayBreak: true,
  });

let asked = 0;
let read = 0; // how much of the worker's output has been looked at
async function isWell() {
  upstream.reset();
  asked += 1;
  upstream.next({ json: { id: `ordinary answer ${asked}` } });
  for (const status of ["MISS", "HIT"]) {
    const reply = await proxy.settled(() => ask(question(`ordinary question ${asked}`)));
    assert.equal(reply.status, 200);
    assert.equal(expect.cacheStatus(reply), status);
    assert.equal(reply.body.toString(), JSON.stringify({ id: `ordinary answer ${asked}` }));
  }
  assert.equal(upstream.calls.length, 1);
  noPanic(proxy.output.slice(read));
  read = proxy.output.length;
}
const noPanic = (output) => assert.doesNotMatch(output, /panicked|RuntimeError|code had hung/i);

// One request in which another is hidden, or which two readers would end at different places. Whatever the runtime makes
// of it, the upstream never gets the hidden one, nor a header that was part of a value.
const HIDDEN = "POST /proxy/smuggled HTTP/1.1\r\nHost: x\r\nX-Smuggled: 1\r\nContent-Length: 0\r\n\r\n";
const post = (head, body) => `POST /proxy/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n${head}\r\n${body}`;
const smuggled = {
  "a length and chunks": post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", `0\r\n\r\n${HIDDEN}`),
  "chunks and a length": post(`Transfer-Encoding: chunked\r\nContent-Length: ${5 + HIDDEN.length}\r\n`, `0\r\n\r\n${HIDDEN}`),
  "two lengths": post(`Content-Length: 2\r\nContent-Length: ${2 + HIDDEN.length}\r\n`, `{}${HIDDEN}`),
  "a list of lengths": post(`Content-Length: 2, ${2 + HIDDEN.length}\r\n`, `{}${HIDDEN}`),
  "a negative length": post("Content-Length: -1\r\n", `{}${HIDDEN}`),
  "a length with a sign": post("Content-Length: +2\r\n", `{}${HIDDEN}`),
  "a length in hexadecimal digits": post("Content-Length: 0x2\r\n", `{}${HIDDEN}`),
  "a length beyond 64 bits": post(`Content-Length: ${"9".repeat(30)}\r\n`, `{}${HIDDEN}`),
  "another word for chunked": post("Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n", `{}${HIDDEN}`),
  "chunked twice": post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", `0\r\n\r\n${HIDDEN}`),
  "a space before the colon": post("Content-Length : 2\r\nTransfer-Encoding: chunked\r\n", `2\r\n{}\r\n0\r\n\r\n${HIDDEN}`),
  "a folded header": post("Content-Length: 2\r\nX-Fold: a\r\n X-Smuggled: 1\r\n", "{}"),
  "a bare line feed": post("Content-Length: 2\r\nX-Lf: a\nX-Smuggled-Not: 1\r\n", "{}"),
  "a bare carriage return": post("Content-Length: 2\r\nX-Cr: a\rX-Smuggled: 1\r\n", "{}"),
  "a NUL in a header": post("Content-Length: 2\r\nX-Nul: a\0b\r\n", "{}"),
  "a chunk of a negative size": post("Transfer-Encoding: chunked\r\n", `-2\r\n{}\r\n0\r\n\r\n${HIDDEN}`),
  "a chunk beyond 64 bits": post("Transfer-Encoding: chunked\r\n", `fffffffffffffffff\r\n{}\r\n0\r\n\r\n${HIDDEN}`),
  "a request in the path": `GET /proxy/models%20HTTP/1.1%0d%0aX-Smuggled:%201%0d%0a%0d%0a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
  "a request in the query": `GET /proxy/models?a=%0d%0aX-Smuggled:%201%0d%0a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
  "a header that names others for removal": post("Connection: close, authorization, content-length, host\r\nContent-Length: 2\r\n", "{}"),
};
for (const [name, bytes] of Object.entries(smuggled)) {
  test(`smuggling: ${name}`, async () => {
    upstream.reset();
    const before = proxy.lines.length;
    const reply = (await raw(proxy.origin, bytes, { hangUp: true })).toString("latin1");
    assert.doesNotMatch(reply, /^HTTP\/1\.1 5(?!01)/);
    assert.ok(upstream.calls.length <= 1, `${upstream.calls.length} calls`);
    for (const call of upstream.calls) {
      assert.doesNotMatch(call.url, /^\/v1\/smuggled/);
      assert.equal(call.headers["x-smuggled"], undefined);
    }
    await proxy.logged(before + upstream.calls.length);
    await isWell();
  });
}

test("a request that follows another on one connection is answered for itself", async () => {
  upstream.reset();
  const first = post("Content-Length: 7\r\n", '{"n":1}').replace("Connection: close\r\n", "");
  const second = "GET /proxy/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  const replies = (await raw(proxy.origin, first + second)).toString("latin1").match(/HTTP\/1\.1 \d+/g);
  assert.deepEqual(replies, ["HTTP/1.1 200", "HTTP/1.1 200"]);
  assert.deepEqual(upstream.calls.map(({ url }) => url), ["/v1/chat/completions", "/v1/models"]);
  await isWell();
});

test("a body of 64 MB without a length passes, unkept", async () => {
  upstream.reset();
  const chunk = Buffer.alloc(MB, " ");
  const reply = await proxy.settled(() => ask(Array.from({ length: 64 }, () => chunk)));
  assert.equal(reply.status, 200);
  assert.equal(expect.detail(reply), "too-large");
  assert.equal(upstream.last.body.length, 64 * MB);
  await isWell();
});

// The memory of the runtimes that this process has started, where the system tells.
function memory() {
  if (!existsSync("/proc/self/status")) return 0;
  const field = (pid, name) => {
    try {
      return Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1] ?? 0);
    } catch {
      return 0; // it has ended meanwhile
    }
  };
  const children = readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && field(pid, "PPid") === process.pid);
  return Math.max(0, ...children.map((pid) => field(pid, "VmHWM"))) * 1024;
}

const coded = (body, more = {}) => (call, response) => {
  response.writeHead(200, { "content-type": "application/json", "content-encoding": "gzip", ...more });
  response.end(body);
};
for (const [name, request] of [
  ["to a question", { method: "POST", path: "/proxy/chat/completions", body: question("bomb") }],
  ["past the cache", { method: "GET", path: "/proxy/files/bomb/content" }],
]) {
  test(`a gigabyte of zeros in a megabyte ${name} passes, unkept and in bounded memory`, async () => {
    upstream.reset();
    upstream.next(coded(BOMB));
    const before = memory();
    const lines = proxy.lines.length;
    const reply = await open(proxy.origin, {
      ...request,
      headers: { "content-type": "application/json", "accept-encoding": "gzip" },
    });
    assert.equal(reply.status, 200);
    // As it came, or coded anew; the client may leave when it has had enough, and so do we.
    let length = 0;
    for (let piece; length < MB && (piece = await reply.next()) !== null; ) length += piece.length;
    reply.leave();
    await proxy.logged(lines + 1);
    assert.ok(memory() - before < 300 * MB, `${Math.round((memory() - before) / MB)} MB more`);
    await isWell();
  });
}

test("a coded answer that is too long to be kept reaches its caller whole", async () => {
  upstream.reset();
  const long = Buffer.from(JSON.stringify({ id: "x".repeat(30 * MB) }));
  upstream.next(coded(gzipSync(long, { level: 1 })));
  const reply = await proxy.settled(() =>
    send(proxy.origin, {
      path: "/proxy/chat/completions",
      headers: { "content-type": "application/json", authorization: "Bearer sk-test", "accept-encoding": "gzip" },
      body: question("long and coded"),
    }),
  );
  expect.sameBytes(gunzipSync(reply.body), long, "the answer");
  assert.equal(proxy.lines.at(-1).reason, "too-large");
  await isWell();
});

test("a store that answers with a gigabyte of zeros in a megabyte is a miss", async () => {
  const stored = await worker({
    vars: { ...VARS, OPENAI_BASE_URL: `${upstream.origin}/v1`, STORE_TIMEOUT_MS: "20000" },
    store: "upstash",
  });
  upstream.reset();
  const before = memory();
  stored.redis.otherwise(coded(BOMB));
  const reply = await stored.settled(() => ask(question("bomb in the store"), stored));
  assert.equal(reply.status, 200);
  assert.equal(expect.detail(reply), "store-error");
  assert.ok(memory() - before < 300 * MB, `${Math.round((memory() - before) / MB)} MB more`);
  stored.redis.reset();
  noPanic(stored.output);
});

const heads = {
  "says nothing of HTTP": "hello\r\n\r\n",
  "hangs up": "",
  "sends half a head": "HTTP/1.1 200 OK\r\nContent-Ty",
  "sends two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n",
  "sends a negative length": "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
  "sends a NUL in a header": "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\n{}",
  "sends a head of a megabyte": `HTTP/1.1 200 OK\r\n${`X-A: ${"a".repeat(8000)}\r\n`.repeat(128)}Content-Length: 2\r\n\r\n{}`,
  "goes on for ever": "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000),
  "switches protocols unasked": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
};
for (const [name, bytes] of Object.entries(heads)) {
  test(`an upstream that ${name} is answered with 502, or as it said`, async () => {
    [pace, drip] = [bytes, false];
    const reply = await estranged.settled(() => ask(question(name), estranged));
    assert.ok([200, 502, 504].includes(reply.status), `${reply.status}`);
    if (reply.status !== 200) expect.proxyError(reply, reply.status === 502 ? "upstream_unreachable" : "timeout");
    noPanic(estranged.output);
    await isWell();
  });
}

const bodies = {
  "a chunk that is none": "zz\r\n{}\r\n0\r\n\r\n",
  "a chunk beyond 64 bits": "fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
  "a chunk that is too short": "ff\r\n{}\r\n0\r\n\r\n",
  "no last chunk": "2\r\n{}\r\n",
};
for (const [name, bytes] of Object.entries(bodies)) {
  test(`an upstream's answer with ${name} breaks off for the client and is not kept`, async () => {
    [pace, drip] = [`HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n${bytes}`, false];
    for (let times = 0; times < 2; times += 1) {
      const reply = await estranged.settled(() => ask(question(name), estranged));
      assert.equal(reply.whole && reply.status === 200, false, "a broken answer was given as whole");
      assert.notEqual(expect.cacheStatus(reply), "HIT");
    }
    noPanic(estranged.output);
    await isWell();
  });
}

test("an upstream that drips its head is given up after TIMEOUT", async () => {
  [pace, drip] = [`HTTP/1.1 200 OK\r\nX-Slow: ${"a".repeat(1000)}\r\n\r\n`, true];
  const reply = await estranged.settled(() => ask(question("drip"), estranged));
  assert.equal(reply.status, 504);
  expect.proxyError(reply, "timeout");
  await isWell();
});

test("an upstream that drips its answer keeps only its own caller waiting", async () => {
  [pace, drip] = [`HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{"id":"${"a".repeat(51)}"}`, true];
  // The head is fast enough; the body, six seconds long, never pauses for IDLE_TIMEOUT.
  const head = pace.indexOf("{");
  const slow = await rawUpstream((socket) => {
    socket.write(pace.slice(0, head));
    let at = head;
    const clock = setInterval(() => {
      if (socket.destroyed || at >= pace.length) return clearInterval(clock);
      socket.write(pace[at]);
      at += 1;
    }, 50);
    clock.unref();
  });
  const dripping = await worker({ vars: { ...VARS, OPENAI_BASE_URL: `${slow}/v1` } });
  const late = Array.from({ length: 20 }, (_, n) => ask(question(`drip ${n}`), dripping));
  const started = performance.now();
  assert.equal((await send(dripping.origin, { method: "GET", path: "/healthz" })).status, 200);
  assert.ok(performance.now() - started < 2000, "others wait");
  for (const reply of await Promise.all(late)) assert.equal(reply.body.length, 60);
  noPanic(dripping.output);
});

test("callers who never finish their requests keep nobody waiting", async () => {
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
  await within(Promise.all(sockets.map((socket) => (socket.connecting ? once(socket, "connect") : null))), "connections");
  await isWell();
  for (const socket of sockets) socket.destroy();
  await isWell();
});

test("a caller who reads slowly keeps nobody waiting, and its answer is kept", async () => {
  upstream.reset();
  const big = JSON.stringify({ id: "x".repeat(5 * MB) });
  upstream.next({ body: big });
  const lines = proxy.lines.length;
  const reply = await open(proxy.origin, {
    path: "/proxy/chat/completions",
    headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
    body: question("slow reader"),
  });
  await reply.next();
  const started = performance.now();
  const other = await ask(question("quick reader"));
  assert.equal(other.status, 200);
  assert.ok(performance.now() - started < 2000);
  let length = 0;
  for (let piece; (piece = await reply.next()) !== null; ) length += piece.length;
  assert.ok(length > 0);
  await proxy.logged(lines + 2);
  await isWell();
});
