// What only the wire shows of providers and transforms: paths as nobody's URL library would send them, sockets, and when
// the bytes of a filtered answer come.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import net from "node:net";
import { after, beforeEach, describe, test } from "node:test";
import { open, raw, send } from "./support/client.mjs";
import * as expect from "./support/expect.mjs";
import { commandedStream, startUpstream } from "./support/upstream.mjs";
import { within } from "./support/wait.mjs";
import { worker } from "./support/worker.mjs";

const upstream = await startUpstream();
const elsewhere = await startUpstream();
after(() => Promise.all([upstream.close(), elsewhere.close()]));
beforeEach(() => {
  upstream.reset();
  elsewhere.reset();
});

const VARS = {
  OPENAI_BASE_URL: `${upstream.origin}/base/v1`,
  UPSTREAMS: JSON.stringify({ mine: `${upstream.origin}/base/v1`, groq: upstream.origin }),
};
const FILTER = { ...VARS, STRIP_THINK: "true" };
const QUESTION = { model: "m", messages: [{ role: "user", content: "Hi" }] };
const post = (path, json) => ({
  path,
  headers: { "content-type": "application/json", authorization: "Bearer sk-test" },
  body: JSON.stringify(json),
});
const event = (delta, finish_reason = null) =>
  `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index: 0, delta, finish_reason }] })}\n\n`;

describe("no path leads to another host or out of the base", () => {
  const host = elsewhere.origin.slice("http://".length);
  const tricks = [
    "/PREFIX/../../secret",
    "/PREFIX/..\\..\\secret",
    "/PREFIX/%2e%2e/%2e%2e/secret",
    "/PREFIX/.%2e/.%2E/secret",
    "/PREFIX/..%2f..%2fsecret",
    "/PREFIX/%2e%2e%2f%2e%2e%2fsecret",
    "/PREFIX/%252e%252e%252fsecret",
    "/PREFIX/..%5c..%5csecret",
    "/PREFIX/..;/..;/secret",
    `/PREFIX//${host}/secret`,
    `/PREFIX/\\\\${host}\\secret`,
    `/PREFIX/@${host}/secret`,
    `/PREFIX/x:y@${host}/secret`,
    `/PREFIX/%2f%2f${host}/secret`,
    `/PREFIX/http://${host}/secret`,
    `/PREFIX?x=http://${host}/secret`,
    `/PREFIX#@${host}/secret`,
    `//${host}/PREFIX/secret`,
    `/@${host}/secret`,
    `http://${host}/PREFIX/secret`,
    `http://PREFIX@${host}/mine/secret`,
  ];
  for (const prefix of ["proxy", "mine", "v1"]) {
    for (const trick of tricks) {
      test(trick.replace("PREFIX", prefix), async () => {
        const proxy = await worker({ vars: VARS });
        const target = trick.replace("PREFIX", prefix);
        await raw(proxy.origin, `GET ${target} HTTP/1.1\r\nHost: ${new URL(proxy.origin).host}\r\nConnection: close\r\n\r\n`);
        assert.equal(elsewhere.calls.length, 0, "another host was asked");
        for (const { url } of upstream.calls) {
          assert.match(url, /^\/base\/v1([/?]|$)/);
          assert.doesNotMatch(decodeURIComponent(decodeURIComponent(url)), /(^|[/\\])\.\.([/\\;]|$)/);
        }
      });
    }
  }
});

test("a WebSocket upgrade passes to a provider, with the operator's settings on", async () => {
  const proxy = await worker({ vars: FILTER });
  const { hostname, port } = new URL(proxy.origin);
  const socket = net.connect(Number(port), hostname);
  const key = randomBytes(16).toString("base64");
  socket.write(
    `GET /groq/v1/realtime?model=m HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
  );
  let text = "";
  const heard = (pattern) =>
    within(
      new Promise((resolve) => {
        const look = () => pattern.test(text) && resolve();
        socket.on("data", look);
        look();
      }),
      `${pattern} in ${text}`,
    );
  socket.on("data", (data) => (text += data.toString("latin1")));
  await heard(/^HTTP\/1\.1 101/);
  socket.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69])); // "hi", masked with zeros
  await heard(/\x81\x02hi/);
  socket.destroy();
  assert.equal(upstream.last.url, "/v1/realtime?model=m");
});

test("UPSTREAMS may be a table of wrangler.toml", async () => {
  const proxy = await worker({ vars: { UPSTREAMS: { mine: { base_url: `${upstream.origin}/x`, drop_params: ["seed"] } } } });
  await proxy.clear();
  const reply = await send(proxy.origin, post("/mine/v1/chat/completions", { seed: 1, ...QUESTION }));
  assert.equal(reply.status, 200);
  assert.equal(upstream.last.url, "/x/v1/chat/completions");
  assert.deepEqual(JSON.parse(upstream.last.body.toString()), QUESTION);
});

describe("a filtered stream", () => {
  test("every piece comes as soon as it cannot be a tag, and what is held at the end", async () => {
    const proxy = await worker({ vars: FILTER });
    await proxy.clear();
    const stream = commandedStream();
    upstream.next(stream.answer);
    const reply = await open(proxy.origin, post("/groq/v1/chat/completions", { ...QUESTION, stream: true }));
    assert.equal(reply.headers["content-length"], undefined);
    const next = async () => (await reply.next())?.toString();
    await stream.send(event({ content: "a <" }));
    assert.equal(await next(), event({ content: "a " }));
    await stream.send(": still here\n\n");
    assert.equal(await next(), ": still here\n\n");
    await stream.send(event({ content: "think>x" }));
    assert.equal(await next(), event({ content: "" }));
    const half = event({ content: "y</think>b<t" });
    await stream.send(half.slice(0, 40));
    await stream.send(half.slice(40));
    assert.equal(await next(), event({ content: "b" }));
    await stream.send(`${event({}, "stop")}data: [DONE]\n\n`);
    await stream.end();
    let rest = "";
    for (let piece; (piece = await next()) !== undefined; ) rest += piece;
    assert.equal(rest, `${event({ content: "<t" })}${event({}, "stop")}data: [DONE]\n\n`);
    await proxy.logged(proxy.lines.length || 1);
    // Another caller of the same question gets the same, from the bytes that the upstream sent.
    const again = await send(proxy.origin, post("/groq/v1/chat/completions", { ...QUESTION, stream: true }));
    assert.equal(expect.cacheStatus(again), "HIT");
    assert.doesNotMatch(again.body.toString(), /think/);
    const [[, entry]] = await proxy.entries();
    assert.match(entry.toString(), /"think>x"/);
  });

  test("a break of the upstream is the client's, and a client that leaves does not spoil the entry", async () => {
    const proxy = await worker({ vars: FILTER });
    await proxy.clear();
    const cut = event({ content: "<think>x" });
    upstream.next({ headers: { "content-type": "text/event-stream" }, body: `${cut}${cut}`, cut: cut.length + 5 });
    const ask = () => send(proxy.origin, { ...post("/groq/v1/chat/completions", { ...QUESTION, stream: true }), mayBreak: true });
    const broken = await proxy.settled(ask);
    assert.equal(broken.whole, false);
    const stream = commandedStream();
    upstream.next(stream.answer);
    const before = proxy.lines.length;
    const left = await open(proxy.origin, post("/groq/v1/chat/completions", { ...QUESTION, stream: true }));
    await stream.send(event({ content: "a" }));
    await left.next();
    left.leave();
    await stream.send(`${event({ content: "<think>b</think>" })}${event({}, "stop")}data: [DONE]\n\n`);
    await stream.end();
    await proxy.logged(before + 1);
    const hit = await proxy.settled(ask);
    assert.equal(expect.cacheStatus(hit), "HIT");
    assert.equal(hit.body.toString(), `${event({ content: "a" })}${event({ content: "" })}${event({}, "stop")}data: [DONE]\n\n`);
  });
});

test("a compressed answer is filtered, too, and its head tells the truth about it", async () => {
  const { gzipSync } = await import("node:zlib");
  const proxy = await worker({ vars: FILTER });
  await proxy.clear();
  const answer = { choices: [{ index: 0, message: { role: "assistant", content: "<think>x</think>y" }, finish_reason: "stop" }] };
  upstream.next({
    headers: { "content-encoding": "gzip", etag: '"x"' },
    base64: gzipSync(JSON.stringify(answer)).toString("base64"),
  });
  const reply = await proxy.settled(() => send(proxy.origin, post("/groq/v1/chat/completions", QUESTION)));
  answer.choices[0].message.content = "y";
  assert.deepEqual(JSON.parse(reply.body.toString()), answer);
  for (const name of ["content-encoding", "etag"]) assert.equal(reply.headers[name], undefined);
  const hit = await proxy.settled(() => send(proxy.origin, post("/groq/v1/chat/completions", QUESTION)));
  assert.equal(hit.headers["content-length"], String(hit.body.length));
  expect.sameBytes(hit.body, reply.body, "the hit");
});
