// Providers and transforms as seen on the wire: paths that no URL library would send, WebSockets, and when the bytes of a
// filtered response arrive.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, beforeEach, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { WebSocket } from "ws";
import { assertSameBytes } from "../../testkit/assertions.mjs";
import { xCacheStatusOf } from "../../testkit/cache-status.mjs";
import { open, readRest, send, sendRaw } from "../../testkit/client.mjs";
import { chatEvent, chatRequest, DONE, EVENT_STREAM } from "../../testkit/fixtures.mjs";
import { worker } from "../../testkit/test-worker.mjs";
import { controlledStream, startUpstream } from "../../testkit/upstream.mjs";
import { withTimeout } from "../../testkit/wait.mjs";

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
const groqChat = (fields) => chatRequest("Hi", { path: "/groq/v1/chat/completions", ...fields });

describe("no path reaches another host or leaves the base path", () => {
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
        await sendRaw(
          proxy.origin,
          `GET ${target} HTTP/1.1\r\nHost: ${new URL(proxy.origin).host}\r\nConnection: close\r\n\r\n`,
        );
        assert.equal(elsewhere.calls.length, 0, "another host was called");
        for (const { url } of upstream.calls) {
          assert.match(url, /^\/base\/v1([/?]|$)/);
          assert.doesNotMatch(decodeURIComponent(decodeURIComponent(url)), /(^|[/\\])\.\.([/\\;]|$)/);
        }
      });
    }
  }
});

test("a WebSocket reaches a provider, with the operator's configuration on", async () => {
  const proxy = await worker({ vars: FILTER });
  const url = `${proxy.origin.replace("http:", "ws:")}/groq/v1/realtime?model=m`;
  const socket = new WebSocket(url, { perMessageDeflate: false });
  await withTimeout(once(socket, "open"), "the upgrade");
  socket.send("hi");
  const [data, isBinary] = await withTimeout(once(socket, "message"), "the echo");
  assert.deepEqual([data.toString(), isBinary], ["hi", false]);
  socket.terminate();
  assert.equal(upstream.last.url, "/v1/realtime?model=m");
});

test("UPSTREAMS may be a table in wrangler.toml", async () => {
  const proxy = await worker({
    vars: { UPSTREAMS: { mine: { base_url: `${upstream.origin}/x`, drop_params: ["seed"] } } },
  });
  await proxy.clear();
  const reply = await send(proxy.origin, chatRequest("Hi", { path: "/mine/v1/chat/completions", seed: 1 }));
  assert.equal(reply.status, 200);
  assert.equal(upstream.last.url, "/x/v1/chat/completions");
  assert.deepEqual(JSON.parse(upstream.last.body.toString()), JSON.parse(chatRequest("Hi").body));
});

describe("a filtered stream", () => {
  test("each text is sent as soon as it cannot be a tag, and held text at the end", async () => {
    const proxy = await worker({ vars: FILTER });
    await proxy.clear();
    const stream = controlledStream();
    upstream.next(stream.respond);
    const reply = await open(proxy.origin, groqChat({ stream: true }));
    assert.equal(reply.headers["content-length"], undefined);
    const next = async () => (await reply.next())?.toString();
    await stream.send(chatEvent({ content: "a <" }));
    assert.equal(await next(), chatEvent({ content: "a " }));
    await stream.send(": still here\n\n");
    assert.equal(await next(), ": still here\n\n");
    await stream.send(chatEvent({ content: "think>x" }));
    assert.equal(await next(), chatEvent({ content: "" }));
    const half = chatEvent({ content: "y</think>b<t" });
    await stream.send(half.slice(0, 40));
    await stream.send(half.slice(40));
    assert.equal(await next(), chatEvent({ content: "b" }));
    await stream.send(`${chatEvent({}, "stop")}${DONE}`);
    await stream.end();
    const rest = (await readRest(reply)).toString();
    assert.equal(rest, `${chatEvent({ content: "<t" })}${chatEvent({}, "stop")}${DONE}`);
    await proxy.logged(proxy.lines.length || 1);
    // A repeat gets the same text, from the bytes that the upstream sent.
    const again = await send(proxy.origin, groqChat({ stream: true }));
    assert.equal(xCacheStatusOf(again), "HIT");
    assert.doesNotMatch(again.body.toString(), /think/);
    const [[, entry]] = await proxy.entries();
    assert.match(entry.toString(), /"think>x"/);
  });

  test("a truncation reaches the client, and a disconnected client's response is still stored", async () => {
    const proxy = await worker({ vars: FILTER });
    await proxy.clear();
    const event = chatEvent({ content: "<think>x" });
    upstream.next({ headers: EVENT_STREAM, body: `${event}${event}`, truncate: event.length + 5 });
    const ask = () => send(proxy.origin, { ...groqChat({ stream: true }), allowTruncation: true });
    const truncated = await proxy.settled(ask);
    assert.equal(truncated.complete, false);
    const stream = controlledStream();
    upstream.next(stream.respond);
    const before = proxy.lines.length;
    const reply = await open(proxy.origin, groqChat({ stream: true }));
    await stream.send(chatEvent({ content: "a" }));
    await reply.next();
    reply.disconnect();
    await stream.send(`${chatEvent({ content: "<think>b</think>" })}${chatEvent({}, "stop")}${DONE}`);
    await stream.end();
    await proxy.logged(before + 1);
    const hit = await proxy.settled(ask);
    assert.equal(xCacheStatusOf(hit), "HIT");
    assert.equal(
      hit.body.toString(),
      `${chatEvent({ content: "a" })}${chatEvent({ content: "" })}${chatEvent({}, "stop")}${DONE}`,
    );
  });
});

test("a compressed response is filtered, and its headers match the new body", async () => {
  const proxy = await worker({ vars: FILTER });
  await proxy.clear();
  const completion = {
    choices: [{ index: 0, message: { role: "assistant", content: "<think>x</think>y" }, finish_reason: "stop" }],
  };
  upstream.next({
    headers: { "content-encoding": "gzip", etag: '"x"' },
    base64: gzipSync(JSON.stringify(completion)).toString("base64"),
  });
  const reply = await proxy.settled(() => send(proxy.origin, groqChat()));
  completion.choices[0].message.content = "y";
  assert.deepEqual(JSON.parse(reply.body.toString()), completion);
  for (const name of ["content-encoding", "etag"]) assert.equal(reply.headers[name], undefined);
  const hit = await proxy.settled(() => send(proxy.origin, groqChat()));
  assert.equal(hit.headers["content-length"], String(hit.body.length));
  assertSameBytes(hit.body, reply.body, "the hit");
});
